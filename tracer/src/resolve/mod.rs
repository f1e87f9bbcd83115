//! From a [`crate::spec::ProbeSpec`] to the functions that it names on this machine.
