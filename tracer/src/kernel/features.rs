//! Finds out what this kernel can do by doing it, never by its version: traces a function of our
//! own, with an argument on a page that is not resident, and looks at what arrives.

use std::{
    ffi::c_char, fs::File, hint::black_box, os::fd::AsRawFd as _, sync::Arc, time::Duration,
};

use tracer_common::{
    counter::Counter,
    program::{FLAG_REGISTERS_ONLY, FLAG_TRACK_RETURN, ProbeProgram, ReadKind},
};

use super::{Links, LoadOptions, Programs, Scope, missing_privilege};
use crate::{
    plan::{AttachPlan, PlannedFile, PlannedProbe, PlannedValue, ProbeId},
    resolve::{FileOffset, Pid, Resolver, View, process},
    spec::{IntFormat, ValueType},
};

/// A feature, what was found of it, and what that means for the user.
#[derive(Debug, Clone)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// What was found.
    pub finding: Finding,
    /// What it means to have it, or not to have it.
    pub means: String,
}

/// What was found of a feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It works.
    Works,
    /// It does not, and tracing goes on without it.
    Degraded,
    /// It does not, and tracing cannot.
    Fails,
}

/// The function that is traced.
#[inline(never)]
extern "C" fn traced_by_doctor(text: *const c_char) -> i32 {
    // The argument must be in its register at entry, and its page must stay untouched.
    black_box(text);
    black_box(7)
}

/// Tries everything that tracing needs.
pub fn probe_features() -> Vec<Feature> {
    let mut features = Vec::new();
    features.push(privileges());
    match try_tracing(&mut features) {
        Ok(()) => {}
        Err(error) => features.push(Feature {
            name: "tracing",
            finding: Finding::Fails,
            means: format!("{error:#}"),
        }),
    }
    features.push(jit());
    features
}

fn privileges() -> Feature {
    match missing_privilege() {
        None => Feature {
            name: "privileges",
            finding: Finding::Works,
            means: "eBPF programs may be loaded and attached".to_owned(),
        },
        Some(missing) => Feature {
            name: "privileges",
            finding: Finding::Fails,
            means: format!("{missing} (run it with sudo)"),
        },
    }
}

fn jit() -> Feature {
    // Without the file, the JIT compiler is always on.
    let off = std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable")
        .is_ok_and(|value| value.trim() == "0");
    Feature {
        name: "BPF JIT",
        finding: if off { Finding::Degraded } else { Finding::Works },
        means: if off {
            "the kernel interprets eBPF: each hit costs several times more \
             (sysctl net.core.bpf_jit_enable=1)"
                .to_owned()
        } else {
            "eBPF programs run as machine code".to_owned()
        },
    }
}

fn try_tracing(features: &mut Vec<Feature>) -> anyhow::Result<()> {
    let plan = own_plan()?;
    let options = LoadOptions {
        buffer_bytes: 256 * 1024,
        pids: vec![Pid::own()],
        begin_at_exec: false,
        diagnostics: false,
    };
    let mut programs = Programs::load(&plan, &options)?;
    features.push(Feature {
        name: "sleepable uprobe programs",
        finding: Finding::Works,
        means: "the kernel accepts the programs; an argument on an absent page can be faulted in"
            .to_owned(),
    });
    let scope = Scope::Processes(vec![Pid::own()]);
    let (links, report) = Links::attach(&mut programs, &plan, &scope)?;
    if let Some(refused) = report.refused.first() {
        anyhow::bail!("multi-uprobe links: {}", refused.obstacle);
    }
    let counters = programs.counters(plan.probes.len())?;
    let mut records = programs.take_records()?;
    programs.enable(true);
    let page = absent_page()?;
    black_box(traced_by_doctor as extern "C" fn(*const c_char) -> i32)(page.text());
    programs.enable(false);
    let detach = links.detach();
    features.push(multi_links(report.took, detach));

    let count = |counter| counters.sum(ProbeId(0), counter);
    let works = |name, ok: bool, yes: &str, no: &str, otherwise| Feature {
        name,
        finding: if ok { Finding::Works } else { otherwise },
        means: if ok { yes.to_owned() } else { no.to_owned() },
    };
    features.push(works(
        "probes of one process",
        count(Counter::Hits) == 2,
        "-p and -c trace the process they name, at the cost of that process alone",
        "a probe that is limited to one process is not hit in it: -p and -c do not work here",
        Finding::Fails,
    ));
    features.push(works(
        "arguments on absent pages",
        count(Counter::ReadFaulted) == 1,
        "a page that is not resident is faulted in, and the argument is read",
        "an argument on a page that is not resident is shown as null with EAGAIN",
        Finding::Degraded,
    ));
    features.push(works(
        "return probes",
        count(Counter::CallsReturned) == 1,
        "`-> TYPE` gives the return value and the duration",
        "`-> TYPE` shows no returns here",
        Finding::Degraded,
    ));
    let arrived = records.drain(16, |_| ());
    features.push(works(
        "ring buffer",
        arrived as u64 + count(Counter::RingFull) == count(Counter::Hits) && arrived == 2,
        "every event that was counted has arrived",
        "events do not arrive",
        Finding::Fails,
    ));
    Ok(())
}

fn multi_links(attach: Duration, detach: Duration) -> Feature {
    Feature {
        name: "multi-uprobe links",
        finding: Finding::Works,
        means: format!(
            "any number of probes of a file attach and detach at once (2 probes: {:.0} ms and \
             {:.0} ms, nearly all of it the kernel's grace period)",
            attach.as_secs_f64() * 1e3,
            detach.as_secs_f64() * 1e3,
        ),
    }
}

/// A plan with one probe: our own function, its string, its return.
fn own_plan() -> anyhow::Result<AttachPlan> {
    let address = (traced_by_doctor as extern "C" fn(*const c_char) -> i32) as usize as u64;
    let mapping = process::maps(Pid::own())?
        .into_iter()
        .find(|mapping| (mapping.start.0..mapping.end.0).contains(&address))
        .ok_or_else(|| anyhow::anyhow!("our own code is not mapped"))?;
    let mut program = ProbeProgram {
        entry_len: 1,
        entry_slots: 1,
        flags: FLAG_TRACK_RETURN,
        return_flags: FLAG_REGISTERS_ONLY,
        return_len: 1,
        ..ProbeProgram::default()
    };
    program.entry[0].kind = ReadKind::Str as u8;
    program.entry[0].max_bytes = 64;
    let probe = PlannedProbe {
        label: "faultline:traced_by_doctor".into(),
        doubtful: false,
        offset: FileOffset(address - mapping.start.0 + mapping.offset.0),
        args: vec![PlannedValue { name: "text".into(), ty: ValueType::Str { max: Some(64) } }],
        ret: Some(ValueType::Int { width_bytes: 4, format: IntFormat::Signed }),
        program,
    };
    let file = Resolver::new(View::Host).target("/proc/self/exe")?;
    Ok(AttachPlan {
        probes: vec![probe],
        files: vec![PlannedFile { file: Arc::clone(&file), probes: vec![ProbeId(0)] }],
        skipped: Vec::new(),
    })
}

/// A page that is mapped and not resident in this process.
struct AbsentPage(*mut libc::c_void);

const PAGE_BYTES: usize = 4096;

/// Maps the first page of our own file, which begins with a string (`\x7fELF…`), afresh: nobody
/// has touched it, so it has no page-table entry.
fn absent_page() -> std::io::Result<AbsentPage> {
    let file = File::open("/proc/self/exe")?;
    // SAFETY: a fresh private mapping of a file that we hold open.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            PAGE_BYTES,
            libc::PROT_READ,
            libc::MAP_PRIVATE,
            file.as_raw_fd(),
            0,
        )
    };
    if page == libc::MAP_FAILED {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(AbsentPage(page))
    }
}

impl AbsentPage {
    fn text(&self) -> *const c_char {
        self.0.cast()
    }
}

impl Drop for AbsentPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it.
        unsafe { libc::munmap(self.0, PAGE_BYTES) };
    }
}
