//! The eBPF programs' own diagnostics, through aya-log to `tracing`.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::{KernelError, programs::map_error};

/// Messages of the eBPF programs; empty unless requested when they were loaded.
pub struct Diagnostics(EbpfLogger<&'static dyn log::Log>);

impl Diagnostics {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let logger = EbpfLogger::init(ebpf)
            .map_err(|error| map_error("open", "AYA_LOGS")(io::Error::other(error.to_string())))?;
        Ok(Self(logger))
    }

    /// Passes the messages received so far to the log.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

impl std::fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Diagnostics").finish_non_exhaustive()
    }
}
