//! Puts the plan together.
