//! Where functions return, confirmed by another decoder: every exit that faultline would watch in real libraries is
//! a `ret` or a jump, and no `ret` is missing.

use std::collections::{HashMap, HashSet};

use crate::{
    placement::disassembly,
    support::{faultline, kernel_batches, number},
};

/// How many functions are watched at their exits, and how many of their `ret`s are not among these.
fn check(target: &str) -> (usize, usize, Vec<u64>) {
    let all = format!("{target}:*");
    let planned = faultline(["latency", "--returns", "ret", "--dry-run", "--json", &all]).run();
    let planned = planned.succeeded().json();
    let planned: Vec<_> = planned.iter().filter(|line| line["type"] == "planned").collect();
    let listed = faultline(["list", "--json", target]).run().succeeded().json();
    let sizes: HashMap<u64, u64> = listed
        .iter()
        .filter_map(|line| Some((line["offset"].as_u64()?, line["size_bytes"].as_u64()?)))
        .collect();
    let file = planned[0]["file"].as_str().unwrap();
    let (instructions, _) = disassembly(file);
    let (mut rets, mut missing) = (0, Vec::new());
    for line in &planned {
        assert_eq!(line["returns"], "ret", "{line}");
        let exits = line["exits"].as_array().map(Vec::as_slice).unwrap_or_default();
        let place = number(line, "offset");
        let exits: HashSet<u64> = exits.iter().map(|exit| exit.as_u64().unwrap()).collect();
        assert!(!exits.contains(&place), "{file}: it is entered where it ends: {line}");
        for exit in &exits {
            let shown = instructions.get(exit);
            let shown = shown.unwrap_or_else(|| panic!("{file}: no instruction at {exit:#x}"));
            let is_exit = shown.mnemonic.starts_with("ret") || shown.mnemonic == "jmp";
            assert!(is_exit, "{file}: {exit:#x} is {shown:?}: {line}");
        }
        let entry = number(line, "offset") - number(line, "moved_bytes");
        let end = entry + sizes.get(&entry).copied().unwrap_or(0);
        let own =
            instructions.range(entry..end).filter(|(_, shown)| shown.mnemonic.starts_with("ret"));
        let own: Vec<_> = own.map(|(at, _)| *at).collect();
        rets += own.len();
        missing.extend(own.into_iter().filter(|ret| !exits.contains(ret)));
    }
    (planned.len(), rets, missing)
}

/// Check with another decoder that every exit of libc, libstdc++ and libcrypto is one, and that they are all.
#[test]
#[cfg(target_arch = "x86_64")]
fn another_decoder_finds_the_same_exits() {
    for target in ["libc", "libstdc++.so.6", "libcrypto"] {
        let (functions, rets, missing) = check(target);
        assert!(functions > 1000, "{target}: only {functions} functions");
        // Hand-written code has a few that nothing leads to.
        assert!(missing.len() * 1000 <= rets, "{target}: {missing:x?} of {rets} are missing");
    }
}

/// How often each function of libc returned in a run of a real program.
fn returned(way: &[&str]) -> HashMap<String, u64> {
    let command = format!("sort {}", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let mut run = faultline(["latency", "--json", "-c", &command, "libc:*"]);
    run.command().args(way);
    let lines = run.run().succeeded().json();
    let latencies = lines.iter().filter(|line| line["type"] == "latency");
    latencies
        .map(|line| (line["probe"].as_str().unwrap().to_owned(), number(line, "count")))
        .collect()
}

/// Check that a real program's calls return as often at their exits as through the kernel's return probe.
#[test]
fn the_same_returns_both_ways() {
    if !kernel_batches() {
        return;
    }
    let at_exits = returned(&["--returns", "ret"]);
    let by_kernel = returned(&["--returns", "uretprobe", "--force"]);
    let both: Vec<_> = at_exits.iter().filter(|(name, _)| by_kernel.contains_key(*name)).collect();
    assert!(both.len() > 50, "only {} functions were called", both.len());
    for (name, returns) in both {
        assert_eq!(*returns, by_kernel[name], "{name}");
    }
}

/// Check that `list --returns` says how each return would be traced, why, and at what cost, or why not.
#[test]
#[cfg(target_arch = "x86_64")]
fn list_says_how_returns_are_traced() {
    let listed = |function: &str| {
        let target = format!("libc:{function}");
        let lines = faultline(["list", "--returns", "--json", &target]).run().succeeded().json();
        lines[0].clone()
    };
    let read = &listed("read")["return"];
    assert_eq!(
        (&read["returns"], &read["because"]),
        (&"ret".into(), &"calls-back".into()),
        "{read}"
    );
    assert!(number(read, "ns_a_call") > 0, "{read}");
    assert_eq!(listed("malloc")["return"]["returns"], "uretprobe");
    let jumps = listed("__longjmp");
    assert!(
        jumps["return"]["untraceable"].as_str().unwrap().contains("return addresses"),
        "{jumps}"
    );
    // Without the option it is quick, and says nothing about returns.
    let plain = faultline(["list", "--json", "libc:read"]).run().succeeded().json();
    assert!(plain[0].get("return").is_none());
}
