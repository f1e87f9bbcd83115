//! The ABI between faultline's eBPF programs and its user space.
#![no_std]
