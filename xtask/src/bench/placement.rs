//! `bench placement`: what a hit costs on whole programs and libraries whose functions begin with
//! `endbr64`, under faultline with its breakpoints where they are cheap, with them at the entries, and
//! under bpftrace.
//!
//! A workload is a command of fixed work. What a call costs is what the command takes longer with
//! probes on all functions than without, by the number of calls, within a round.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::cases::Tool;
use super::measure::{Bench, wait_attached, wait_end};
use super::process::{self, Guarded};
use super::sample::Sample;
use super::{folder, target};
use crate::command::{note, quiet, user_command};
use crate::{debian, workspace};

/// Iterations of the key derivation that libcrypto does.
const ITERATIONS: &str = "20000";
/// Calls of each of the 200 functions.
const ROUNDS_OF_CALLS: &str = "1000";

/// Fixed work, and the functions that are probed meanwhile.
struct Workload {
    name: &'static str,
    file: PathBuf,
    /// Globs of functions: faultline's and bpftrace's.
    functions: [&'static str; 2],
    command: Vec<String>,
}

/// Who traces, and how.
#[derive(Clone, Copy)]
enum Tracer {
    Faultline(&'static str),
    Bpftrace,
}

const TRACERS: [(&str, Tracer); 3] = [
    ("faultline", Tracer::Faultline("auto")),
    ("faultline --placement entry", Tracer::Faultline("entry")),
    ("bpftrace", Tracer::Bpftrace),
];

/// Measures and prints.
pub(super) fn run(bench: &Bench, rounds: usize) -> Result<()> {
    for workload in &workloads()? {
        let mut plain_ms = Vec::new();
        let mut hit_ns = [const { Vec::new() }; TRACERS.len()];
        let mut hits = [0; TRACERS.len()];
        for round in 0..rounds {
            note("bench", &format!("{}: round {} of {rounds}", workload.name, round + 1));
            let plain = workload.ms()?;
            plain_ms.push(plain);
            for (index, (_, tracer)) in TRACERS.iter().enumerate() {
                let (ms, counted) = traced(bench, workload, *tracer)?;
                hits[index] = counted;
                // By the calls as faultline, which is the first, counts them: bpftrace counts each
                // twice where a function stands in both tables of symbols.
                hit_ns[index].push((ms - plain) * 1e6 / hits[0].max(1) as f64);
            }
        }
        let calls = workload.command.join(" ");
        println!("{}: {} ({})", workload.name, workload.functions[0], workload.file.display());
        println!("  {calls}: {} ms without probes", Sample::of(plain_ms).text(0));
        for (index, (name, _)) in TRACERS.iter().enumerate() {
            let ns = Sample::of(hit_ns[index].iter().copied());
            let ratio = Sample::of_ratios(&hit_ns[TRACERS.len() - 1], &hit_ns[index]);
            println!(
                "  {name:<28} {:>9} hits, {} ns a call; bpftrace costs {} times as much",
                hits[index],
                ns.text(0),
                ratio.text(1)
            );
        }
    }
    Ok(())
}

/// Compiles what is measured, and fetches Debian sid's openssl.
pub(super) fn prepare() -> Result<()> {
    let source = workspace::root().join("xtask/bench/cet.cc");
    let folder = folder();
    let compile = |args: &[&str], output: &str| {
        let mut cc = user_command("c++");
        cc.args(["-std=c++17", "-O2", "-Wall", "-fcf-protection=full"]).args(args);
        quiet(cc.arg("-o").arg(target(output)).arg(&source)).map(drop)
    };
    compile(&[], "cet")?;
    compile(&["-DLIBRARY_ONLY", "-shared", "-fPIC"], "libcet.so")?;
    let library = target("libcet.so");
    let mut cc = user_command("c++");
    cc.args(["-std=c++17", "-O2", "-Wall", "-fcf-protection=full", "-DMAIN_ONLY", "-o"]);
    cc.arg(target("cetlib")).arg(&source).arg(library);
    quiet(cc.arg(format!("-Wl,-rpath,{}", folder.display())))?;
    let openssl = target("sid-openssl");
    if !openssl.exists() {
        debian::unpack_with_dependencies("sid", "openssl", &openssl)?;
    }
    Ok(())
}

fn workloads() -> Result<Vec<Workload>> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let libraries = target("sid-openssl").join("usr/lib/x86_64-linux-gnu");
    let loader = libraries.join("ld-linux-x86-64.so.2");
    let input = target("input");
    fs::write(&input, "to be encrypted").context("failed to write the input of openssl")?;
    let work = ["work*", "*work*"];
    Ok(vec![
        Workload {
            name: "a C++ program with -fcf-protection",
            file: target("cet"),
            functions: work,
            command: vec![text(target("cet")), ROUNDS_OF_CALLS.to_owned()],
        },
        Workload {
            name: "a C++ library with -fcf-protection",
            file: target("libcet.so"),
            functions: work,
            command: vec![text(target("cetlib")), ROUNDS_OF_CALLS.to_owned()],
        },
        Workload {
            name: "libcrypto of Debian sid",
            file: libraries.join("libcrypto.so.3"),
            functions: ["*", "*"],
            command: [
                &*text(loader),
                "--library-path",
                &*text(libraries.clone()),
                &*text(target("sid-openssl").join("usr/bin/openssl")),
                "enc",
                "-aes-256-cbc",
                "-pbkdf2",
                "-iter",
                ITERATIONS,
                "-S",
                "0102030405060708",
                "-k",
                "secret",
                "-in",
                &*text(input),
                "-out",
                "/dev/null",
            ]
            .map(str::to_owned)
            .to_vec(),
        },
    ])
}

impl Workload {
    /// Does the work once.
    fn ms(&self) -> Result<f64> {
        let [program, args @ ..] = &self.command[..] else { bail!("an empty command") };
        let begin = Instant::now();
        let status = user_command(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .with_context(|| format!("failed to run {program}"))?;
        let ms = begin.elapsed().as_secs_f64() * 1e3;
        if !status.success() {
            bail!("{} ended with {status}", self.command.join(" "));
        }
        Ok(ms)
    }
}

/// Does the work under a tracer; how long it took, and the hits that the tracer counted.
fn traced(bench: &Bench, workload: &Workload, tracer: Tracer) -> Result<(f64, u64)> {
    let (out, err) = (bench.folder.join("out"), bench.folder.join("err"));
    let file = workload.file.display();
    let [ours, theirs] = workload.functions;
    let tool = match tracer {
        Tracer::Faultline(_) => Tool::Faultline("count"),
        Tracer::Bpftrace => Tool::Bpftrace,
    };
    let mut command = bench.tool(tool);
    match tracer {
        Tracer::Faultline(placement) => {
            command.args(["count", "--placement", placement, "--top", "0"]);
            command.arg(format!("{file}:{ours}"))
        }
        Tracer::Bpftrace => {
            command.arg("-e").arg(format!("uprobe:{file}:{theirs} {{ @hits = count(); }}"))
        }
    };
    let create = |path| fs::File::create(path).context("failed to create a file");
    command.stdin(Stdio::null()).stdout(create(&out)?).stderr(create(&err)?);
    let mut process = Guarded(command.spawn().context("failed to start the tracer")?);
    wait_attached(&mut process, tool, 1, &err)?;
    std::thread::sleep(super::measure::SETTLE);
    let ms = workload.ms()?;
    process::interrupt(process.id())?;
    wait_end(&mut process)?;
    let said = fs::read_to_string(&out).unwrap_or_default()
        + &fs::read_to_string(&err).unwrap_or_default();
    Ok((ms, hits(&said).with_context(|| format!("the tracer said no hits:\n{said}"))?))
}

/// The number in `N hits, …` of faultline's summary, or in bpftrace's `@hits: N`.
fn hits(said: &str) -> Option<u64> {
    said.lines().find_map(|line| match line.strip_prefix("@hits: ") {
        Some(number) => number.trim().parse().ok(),
        None => line.split_once(" hits, ")?.0.parse().ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that both tools' counts are found.
    #[test]
    fn hits_are_found() {
        assert_eq!(hits("Attached\n\n@hits: 1234\n"), Some(1234));
        assert_eq!(hits("tracing 2\n77 hits, all delivered in 1s (SIGINT)\n"), Some(77));
        assert_eq!(hits("nothing"), None);
    }
}
