//! The figures as JSON, one object a line.

use serde::Serialize;

use super::{
    Results,
    advice::{Advice, Figures},
};
use faultline_engine::kernel::bench::{
    Batches, Check, Faulting, HitCost, Host, Spread, Throughput,
};
use faultline_output::json_text;

#[derive(Serialize)]
struct Hit {
    r#type: &'static str,
    instruction: &'static str,
    program: &'static str,
    ns: Spread,
    #[serde(flatten)]
    check: Checked,
}

/// The comparison of calls and hits, where there is one.
#[derive(Serialize)]
struct Checked {
    #[serde(skip_serializing_if = "Option::is_none")]
    checked: Option<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<bool>,
}

impl Checked {
    fn new(check: Option<Check>) -> Self {
        Self { checked: check, ok: check.map(Check::holds) }
    }
}

#[derive(Serialize)]
struct Threads {
    r#type: &'static str,
    program: &'static str,
    instruction: &'static str,
    functions: &'static str,
    mmap_beside: bool,
    threads: usize,
    calls_per_s: Spread,
    ns: Spread,
    cpu_ns: Spread,
    on_cpu: Spread,
    scaling: Spread,
    cpu_scaling: Spread,
    #[serde(skip_serializing_if = "Option::is_none")]
    mappings_per_s: Option<f64>,
    #[serde(flatten)]
    check: Checked,
}

#[derive(Serialize)]
struct BatchLine {
    r#type: &'static str,
    probes: usize,
    links: usize,
    beside_faults: bool,
    attach_ms: Spread,
    detach_ms: Spread,
    grace_ms: Spread,
    #[serde(flatten)]
    check: Checked,
}

#[derive(Serialize)]
struct FaultingLine {
    r#type: &'static str,
    faults: u64,
    mean_wait_ns: u64,
    #[serde(flatten)]
    check: Checked,
}

#[derive(Serialize)]
struct Summary<'a> {
    r#type: &'static str,
    complete: bool,
    host: &'a Host,
    figures: Figures,
    advice: &'a [Advice],
    cases_checked: usize,
    cases_failed: usize,
}

fn lines<T: Serialize>(values: impl IntoIterator<Item = T>) -> anyhow::Result<String> {
    let mut out = String::new();
    for value in values {
        out.push_str(&json_text(&value)?);
    }
    Ok(out)
}

pub(super) fn hits(hits: &[HitCost]) -> anyhow::Result<String> {
    lines(hits.iter().map(|hit| Hit {
        r#type: "hit",
        instruction: hit.instruction.id,
        program: hit.work.id(),
        ns: hit.ns,
        check: Checked::new(hit.check),
    }))
}

pub(super) fn throughput(found: &[Throughput]) -> anyhow::Result<String> {
    lines(found.iter().map(|found| Threads {
        r#type: "throughput",
        program: found.load.work.id(),
        instruction: found.load.entry.id(),
        functions: found.load.functions.id(),
        mmap_beside: found.load.mapping,
        threads: found.load.threads,
        calls_per_s: found.calls_per_s,
        ns: found.ns,
        cpu_ns: found.cpu_ns,
        on_cpu: found.on_cpu,
        scaling: found.scaling,
        cpu_scaling: found.cpu_scaling,
        mappings_per_s: found.mappings_per_s,
        check: Checked::new(found.check),
    }))
}

pub(super) fn batches(found: &Batches) -> anyhow::Result<String> {
    let batches = lines(found.batches.iter().map(|batch| BatchLine {
        r#type: "batch",
        probes: batch.probes,
        links: batch.links,
        beside_faults: batch.beside_faults,
        attach_ms: batch.attach_ms,
        detach_ms: batch.detach_ms,
        grace_ms: batch.grace_ms,
        check: Checked::new(Some(batch.check)),
    }))?;
    let faulting = lines(found.faulting.map(|Faulting { faults, wait_ns, check }| FaultingLine {
        r#type: "faulting",
        faults,
        mean_wait_ns: wait_ns,
        check: Checked::new(Some(check)),
    }))?;
    Ok(batches + &faulting)
}

pub(super) fn summary(results: &Results, advice: &[Advice]) -> anyhow::Result<String> {
    lines([Summary {
        r#type: "summary",
        complete: results.is_complete(),
        host: &results.host,
        figures: Figures::of(results),
        advice,
        cases_checked: results.checks().count(),
        cases_failed: results.checks().filter(|check| !check.holds()).count(),
    }])
}
