//! Reports which processes execute a program or fork.

use std::fmt;

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, RingBuf},
    programs::RawTracePoint,
};

use super::{
    KernelError,
    programs::{load_error, map_error, object},
};
use faultline_resolve::Pid;

/// Room for a few thousand notices. A reader that falls behind still finds processes by scanning all of
/// them.
const BUFFER_BYTES: u32 = 64 * 1024;

/// Notices of new processes.
pub struct ProcessNotices {
    notices: RingBuf<MapData>,
    /// Keeps the programs attached.
    _ebpf: Ebpf,
}

impl ProcessNotices {
    /// Attaches to the kernel's own tracepoints. Needs the same privileges as uprobes and nothing more.
    ///
    /// # Errors
    ///
    /// As [`Programs::load`](super::Programs::load).
    pub fn start() -> Result<Self, KernelError> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("NOTICES", BUFFER_BYTES)
            .load(object())
            .map_err(|source| KernelError::Maps(Box::new(source)))?;
        for (name, tracepoint) in
            [("process_executed", "sched_process_exec"), ("process_forked", "sched_process_fork")]
        {
            let program: &mut RawTracePoint = ebpf
                .program_mut(name)
                .ok_or(KernelError::Missing { kind: "program", name })?
                .try_into()
                .map_err(|_| KernelError::Missing { kind: "raw tracepoint", name })?;
            program.load().map_err(load_error(name))?;
            program.attach(tracepoint).map_err(load_error(name))?;
        }
        let map = ebpf
            .take_map("NOTICES")
            .ok_or(KernelError::Missing { kind: "map", name: "NOTICES" })?;
        let notices = RingBuf::try_from(map).map_err(map_error("map", "NOTICES"))?;
        Ok(Self { notices, _ebpf: ebpf })
    }

    /// Passes on the processes of the notices received so far: those that executed a program, and those
    /// that forked or started a thread.
    pub fn drain(&mut self, mut take: impl FnMut(Pid)) {
        while let Some(notice) = self.notices.next() {
            let pid = notice.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
            if let Some(pid) = pid.and_then(Pid::new) {
                take(pid);
            }
        }
    }
}

impl fmt::Debug for ProcessNotices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessNotices").finish_non_exhaustive()
    }
}
