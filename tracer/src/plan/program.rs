//! From the arguments that the user named to the operations that the eBPF program runs.
