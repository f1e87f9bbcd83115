//! Probe syntax: text in, [`ProbeSpec`] out. Pure: no I/O, nothing about this machine.
//!
//! `TARGET:FUNCTION[+OFFSET][(ARGS)][ -> TYPE]`

mod text;
mod types;
pub mod units;

pub use types::{
    ArgSpec, BytesLen, FunctionPattern, IntFormat, MAX_ARGS, MAX_READ_BYTES, ProbeSpec, ValueType,
};
