//! Figures for a large program.

use std::time::Instant;

use super::*;

/// Prints what node (100 MB, 80,000 functions) costs: run it with `--release -- --ignored`.
#[test]
#[ignore = "a measurement, not a check"]
fn node_timings() {
    const NODE: &str = "/usr/bin/node";
    let report = |what: &str, resolver: &mut Resolver, function: FunctionPattern| {
        let start = Instant::now();
        let result = resolver.resolve(&spec(NODE, function));
        let probes = result.map_or(0, |resolution| resolution.probes.len());
        println!("{what}: {probes} probes in {:?}", start.elapsed());
    };
    report("exact raw name, cold", &mut host(), name("SSL_write"));
    report("exact demangled name, cold", &mut host(), name("node::Start"));
    report("glob, cold", &mut host(), glob("SSL_*"));
    report("glob of demangled names, cold", &mut host(), glob("node::crypto::*"));
    report("everything, cold", &mut host(), glob("*"));
    report("wrong name, cold", &mut host(), name("SSL_wirte"));
    let mut warm = host();
    report("exact raw name, cold", &mut warm, name("SSL_write"));
    report("exact raw name, warm", &mut warm, name("SSL_read"));
    report("glob, second", &mut warm, glob("SSL_*"));
    report("glob, warm", &mut warm, glob("SSL_*"));
    report("exact demangled name, warm", &mut warm, name("node::Start"));
    let start = Instant::now();
    let listed = warm.list(NODE, None).unwrap().functions.len();
    println!("list: {listed} functions in {:?}", start.elapsed());
    let status = fs::read_to_string("/proc/self/status").unwrap();
    print!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
}
