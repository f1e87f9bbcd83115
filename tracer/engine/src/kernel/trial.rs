//! Finds out what this kernel can do by doing it, never by its version: traces a function of our
//! own, with an argument on a page that is not resident, and looks at what arrives.

use std::{ffi::c_char, fs::File, hint::black_box, os::fd::AsRawFd as _, thread, time::Duration};

use tracer_common::{
    Action,
    counter::Counter,
    program::{FLAG_REGISTERS_ONLY, FLAG_TRACK_RETURN, ReadKind},
};

use super::{
    DetachReport, Features, Links, LoadOptions, Programs, Progress, missing_privilege, own_code,
};
use faultline_plan::{AttachPlan, PlannedValue, ProbeId};
use faultline_resolve::Pid;
use faultline_spec::{ValueType, types::Str};

/// A feature, whether it works, and what that means for the user.
#[derive(Debug, Clone)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// The result.
    pub finding: Finding,
    /// What that means for the user.
    pub means: String,
}

/// The result of trying a feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It works.
    Works,
    /// It does not work; tracing is possible without it.
    Degraded,
    /// It does not work, and tracing is impossible without it.
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
    let offered = Features::probe()?;
    let options =
        LoadOptions { pids: vec![Pid::own()], ..LoadOptions::new(Action::Events, offered) };
    let mut programs = Programs::load(&plan, &options)?;
    let works = |name, ok: bool, yes: &str, no: &str, otherwise| Feature {
        name,
        finding: if ok { Finding::Works } else { otherwise },
        means: if ok { yes.to_owned() } else { no.to_owned() },
    };
    features.push(works(
        "sleepable uprobe programs",
        offered.sleepable,
        "the kernel accepts the programs; an argument on an absent page can be faulted in",
        "the kernel accepts the programs, but not ones that fault pages in (needs Linux 6.0)",
        Finding::Degraded,
    ));
    let progress = Progress::default();
    let (links, report) = Links::attach_plan(&programs, &plan, Some(Pid::own()), &progress)?;
    if let Some(refused) = report.refused.first() {
        anyhow::bail!("uprobe links: {}", refused.reason);
    }
    let counters = programs.counters(plan.probes.len())?;
    let mut records = programs.take_records()?;
    programs.enable(true);
    let page = absent_page()?;
    // Called from a different thread than the one that attached, because some kernels compare threads.
    let text = page.text() as usize;
    let call = move || {
        let traced: extern "C" fn(*const c_char) -> i32 = traced_by_doctor;
        black_box(traced)(text as *const c_char);
    };
    thread::spawn(call).join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    programs.enable(false);
    let detached = links.detach(&progress);
    features.push(links_feature(offered, report.took, detached));

    let count = |counter| counters.sum(ProbeId(0), counter);
    let only_it = offered.notes(true, false).len() == offered.notes(false, false).len();
    features.push(match (counters.hits(ProbeId(0)) == 2, only_it) {
        (true, true) => works(
            "probes of one process",
            true,
            "-p and -c trace the process they name, at the cost of that process alone (and of children \
             that it forks, until their breakpoints are removed within about a second)",
            "",
            Finding::Fails,
        ),
        (true, false) => works(
            "probes of one process",
            false,
            "",
            "-p and -c trace the process they name, but every process that runs the code pays for \
             the breakpoints (Linux 6.10 can limit them to the process)",
            Finding::Degraded,
        ),
        (false, _) => works(
            "probes of one process",
            false,
            "",
            "a probe limited to one process gets no hits there: -p and -c do not work on this kernel",
            Finding::Fails,
        ),
    });
    features.push(works(
        "arguments on absent pages",
        count(Counter::ReadFaulted) == 1,
        "a page that is not resident is faulted in, and the argument is read",
        if offered.sleepable && !offered.faults_in(false) {
            "an argument on a page that is not resident is shown as null with EAGAIN, because all \
             probes on the CPU would wait for the page (use `--force` to fault it in; fixed in Linux 6.6)"
        } else {
            "an argument on a page that is not resident is shown as null with EAGAIN"
        },
        Finding::Degraded,
    ));
    features.push(works(
        "return probes",
        count(Counter::CallsReturned) == 1,
        "`-> TYPE` gives the return value and the duration",
        "`-> TYPE` shows no returns on this kernel",
        Finding::Degraded,
    ));
    let arrived = records.drain(16, |_| ());
    features.push(works(
        "ring buffer",
        arrived as u64 + count(Counter::RingFull) == counters.hits(ProbeId(0)) && arrived == 2,
        "every counted event arrived",
        "events do not arrive",
        Finding::Fails,
    ));
    Ok(())
}

fn links_feature(offered: Features, attach: Duration, detached: DetachReport) -> Feature {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let grace = ms(detached.grace.unwrap_or(detached.took));
    if offered.batches() {
        Feature {
            name: "multi-uprobe links",
            finding: Finding::Works,
            means: format!(
                "any number of probes of a file attach and detach at once (an entry and a return: \
                 {:.0} ms and {:.0} ms, of which {grace:.0} ms are the kernel's grace period)",
                ms(attach),
                ms(detached.took),
            ),
        }
    } else {
        Feature {
            name: "multi-uprobe links",
            finding: Finding::Degraded,
            means: format!(
                "each probe needs a link and an open file, and takes about {grace:.0} ms to detach: \
                 100 probes take {:.0} s (Linux 6.6 detaches them together)",
                grace / 10.0,
            ),
        }
    }
}

/// A plan with one probe: our own function, its string, its return.
fn own_plan() -> anyhow::Result<AttachPlan> {
    let address = (traced_by_doctor as extern "C" fn(*const c_char) -> i32) as usize;
    let mut probe = own_code::probe("faultline:traced_by_doctor", address)?;
    let program = &mut probe.program;
    program.entry_len = 1;
    program.entry_slots = 1;
    program.flags = FLAG_TRACK_RETURN;
    program.return_flags = FLAG_REGISTERS_ONLY;
    program.return_len = 1;
    program.entry[0].kind = ReadKind::Str as u8;
    program.entry[0].max_bytes = 64;
    probe.args =
        vec![PlannedValue { name: "text".into(), ty: ValueType::Str(Str { max: Some(64) }) }];
    probe.ret = Some(ValueType::I32);
    own_code::plan(vec![probe])
}

/// A page that is mapped but not resident in this process.
struct AbsentPage(*mut libc::c_void);

const PAGE_BYTES: usize = 4096;

/// Maps the first page of our own file, which begins with a string (`\x7fELF…`), into a new mapping: it has
/// not been touched, so it has no page-table entry.
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
