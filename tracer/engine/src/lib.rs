//! The tracing engine.

pub mod aggregate;
pub mod decode;
pub mod drain;
pub mod guard;
pub mod kernel;
