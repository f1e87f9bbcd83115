//! The layering rules of the design, as a table: which stage of `tracer/src` may import which.
//!
//! Data flows one way. A stage that needs something from a later one, or from one further back than
//! it may see, is a sign that a type lives in the wrong place. `main.rs`, `lib.rs`, `cli` and
//! `daemon` put the stages together and may import all of them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::command::note;
use crate::rust_paths::{NamedPath, paths};
use crate::workspace;

/// A folder of `tracer/src`.
struct Stage {
    name: &'static str,
    /// Other stages that it may name.
    imports: Imports,
    /// Does no I/O and knows nothing about this machine.
    pure: bool,
}

enum Imports {
    Any,
    Only(&'static [&'static str]),
}

use Imports::{Any, Only};

/// `plan` is what the later stages talk about: a `ProbeId`, what each probe reads. So they all may
/// name it. What a value is (`ValueType`) and how a duration reads (`units`) is the vocabulary of
/// `spec`, which those that turn bytes into values and values into text share; a `Pid` and the
/// mappings of a process are that of `resolve`.
const STAGES: &[Stage] = &[
    Stage { name: "spec", imports: Only(&[]), pure: true },
    Stage { name: "resolve", imports: Only(&["spec"]), pure: false },
    Stage { name: "plan", imports: Only(&["spec", "resolve"]), pure: true },
    Stage { name: "kernel", imports: Only(&["spec", "resolve", "plan"]), pure: false },
    Stage { name: "drain", imports: Only(&["kernel"]), pure: false },
    Stage { name: "decode", imports: Only(&["spec", "plan"]), pure: false },
    Stage { name: "aggregate", imports: Only(&["plan", "kernel"]), pure: false },
    Stage {
        name: "sink",
        imports: Only(&["spec", "plan", "drain", "decode", "aggregate"]),
        pure: false,
    },
    Stage { name: "metrics", imports: Only(&["plan", "kernel", "sink"]), pure: false },
    Stage { name: "guard", imports: Only(&["resolve", "plan", "kernel"]), pure: false },
    Stage { name: "cli", imports: Any, pure: false },
    Stage { name: "daemon", imports: Any, pure: false },
];

/// Crates and names through which one reaches the bpf(2) system call.
const BPF: &[&str] = &["aya", "aya_log", "aya_obj", "SYS_bpf", "SYS_perf_event_open"];

/// What a pure stage may not name: a module of std, or a whole crate.
const IMPURE_STD: &[&str] = &["env", "fs", "net", "process", "thread"];
const IMPURE_CRATES: &[&str] = &["libc", "nix", "tokio"];

/// Lines at which a file wants a look, and at which it wants a split.
const LONG_FILE_LINES: [usize; 2] = [400, 600];

/// Checks all of `tracer/src`, and notes long files of the whole project.
///
/// # Errors
/// One line a violation: `FILE:LINE: what and why`.
pub(crate) fn check() -> Result<()> {
    let root = workspace::root();
    let mut violations = Vec::new();
    for package in ["tracer", "tracer-ebpf", "tracer-common", "xtask"] {
        for file in rust_files(&root.join(package))? {
            let text = fs::read_to_string(&file)
                .with_context(|| format!("failed to read {}", file.display()))?;
            let name = file.strip_prefix(&root).unwrap_or(&file);
            note_length(name, text.lines().count());
            if let Ok(inside) = name.strip_prefix("tracer/src") {
                let found = check_source(inside, &text);
                violations.extend(found.iter().map(|found| format!("{}:{found}", name.display())));
            }
        }
    }
    if !violations.is_empty() {
        bail!("a stage imports what it must not (xtask/src/layers.rs):\n{}", violations.join("\n"));
    }
    Ok(())
}

fn note_length(file: &Path, lines: usize) {
    let [look, split] = LONG_FILE_LINES;
    if lines > look {
        let wants = if lines > split { "a split" } else { "a look" };
        note("check", &format!("{} has {lines} lines and wants {wants}", file.display()));
    }
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("failed to list {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(context)? {
        let path = entry.with_context(context)?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Checks one file, given by its path in `tracer/src`. Each violation is `LINE: what and why`.
fn check_source(file: &Path, text: &str) -> Vec<String> {
    let module = module(file);
    let module: Vec<&str> = module.iter().map(String::as_str).collect();
    let Some(stage_name) = module.first() else { return Vec::new() };
    let Some(stage) = STAGES.iter().find(|stage| stage.name == *stage_name) else {
        return vec![format!("1: `{stage_name}` is no stage (a new one goes into the table)")];
    };
    paths(text, &module)
        .iter()
        .filter_map(|path| {
            stage.objection(path).map(|objection| format!("{}: {objection}", path.line))
        })
        .collect()
}

/// `spec/parse.rs` is `["spec", "parse"]`, `spec/mod.rs` is `["spec"]`, `main.rs` is the root.
fn module(file: &Path) -> Vec<String> {
    let without_extension = file.with_extension("");
    let mut module: Vec<String> =
        without_extension.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let is_named_by_its_folder = module.last().is_some_and(|last| last == "mod");
    let is_root = module.len() == 1 && (module[0] == "main" || module[0] == "lib");
    if is_named_by_its_folder || is_root {
        module.pop();
    }
    module
}

impl Stage {
    fn objection(&self, path: &NamedPath) -> Option<String> {
        let (root, next) = (path.root.as_str(), path.next.as_deref());
        let name = self.name;
        if root == "crate" {
            let other = STAGES.iter().find(|stage| Some(stage.name) == next)?;
            return match self.imports {
                Only(allowed) if other.name != name && !allowed.contains(&other.name) => {
                    Some(format!("`{name}` must not import `{}`", other.name))
                }
                _ => None,
            };
        }
        let named = [Some(root), next];
        if let Some(bpf) = BPF.iter().find(|bpf| named.contains(&Some(**bpf))) {
            return (name != "kernel").then(|| format!("only `kernel` names `{bpf}`"));
        }
        let is_impure = IMPURE_CRATES.contains(&root)
            || root == "std" && next.is_some_and(|next| IMPURE_STD.contains(&next));
        (self.pure && is_impure).then(|| {
            let path = next.map_or(root.to_owned(), |next| format!("{root}::{next}"));
            format!("`{name}` is pure and must not name `{path}`")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objections(file: &str, text: &str) -> Vec<String> {
        check_source(Path::new(file), text)
    }

    /// Check that imports against the flow, or further back than one stage, are refused.
    #[test]
    fn imports_between_stages() {
        assert_eq!(
            objections("spec/parse.rs", "use crate::{\n    spec,\n    resolve::Target,\n};"),
            ["3: `spec` must not import `resolve`"]
        );
        assert_eq!(
            objections("sink/text.rs", "\nfn f(link: &crate::kernel::Link) {}"),
            ["2: `sink` must not import `kernel`"]
        );
        assert_eq!(
            objections("kernel/mod.rs", "use super::sink::Sink;"),
            ["1: `kernel` must not import `sink`"]
        );
        assert_eq!(objections("plan/mod.rs", "use crate::resolve::R; use crate::spec;"), [""; 0]);
        assert_eq!(objections("cli/trace.rs", "use crate::{kernel, sink, spec};"), [""; 0]);
    }

    /// Check that only the kernel stage reaches bpf(2), also not through another crate's constant.
    #[test]
    fn only_kernel_names_bpf() {
        assert_eq!(objections("drain/mod.rs", "use aya::maps;"), ["1: only `kernel` names `aya`"]);
        assert_eq!(objections("cli/mod.rs", "aya_log::x();"), ["1: only `kernel` names `aya_log`"]);
        assert_eq!(
            objections("resolve/mod.rs", "libc::syscall(libc::SYS_bpf)"),
            ["1: only `kernel` names `SYS_bpf`"]
        );
        assert_eq!(objections("kernel/load.rs", "use aya::Ebpf; use libc::SYS_bpf;"), [""; 0]);
    }

    /// Check that I/O is refused in pure stages and nowhere else.
    #[test]
    fn pure_stages_do_no_io() {
        assert_eq!(
            objections("plan/mod.rs", "use std::{fmt, fs::File};"),
            ["1: `plan` is pure and must not name `std::fs`"]
        );
        assert_eq!(
            objections("spec/mod.rs", "fn pid() -> i32 { libc::getpid() }"),
            ["1: `spec` is pure and must not name `libc::getpid`"]
        );
        assert_eq!(objections("resolve/mod.rs", "use std::fs; // crate::sink"), [""; 0]);
    }

    /// Check that a folder that the table does not know is refused, and the crate's root is free.
    #[test]
    fn unknown_stages_are_named() {
        assert_eq!(objections("helpers/mod.rs", "").len(), 1);
        assert_eq!(objections("main.rs", "use crate::kernel; aya::x()"), [""; 0]);
    }
}
