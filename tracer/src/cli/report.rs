//! temporary
use super::*;
pub(super) fn dry_run(_s: &selection::Selected, _j: bool) -> Result<(), Failure> { Ok(()) }
pub(super) fn attached(r: &crate::kernel::AttachReport) { eprintln!("{r:?}"); }
pub(super) fn summary(e: &session::Ended, t: &crate::drain::Tally) -> String {
    let mut s = crate::kernel::CounterSnapshot::default();
    let mut d = 0;
    for p in 0..e.plan.probes.len() { for c in 0..e.counters.cpus() { s.add(&e.counters.read(c, crate::plan::ProbeId(p as u32))); } d += t.of_probe(crate::plan::ProbeId(p as u32), crate::drain::Outcome::Delivered); }
    format!("{} detach {:?} delivered {d} {s:?}", e.reason, e.detach)
}
pub(super) fn print(s: &String, _: bool, _: Option<&std::path::Path>) -> Result<(), Failure> { eprintln!("{s}"); Ok(()) }
