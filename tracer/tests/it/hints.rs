//! What a user is told about probes that saw fewer calls than expected, none, or those of others.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::support::{
    Finished, Target, faultline,
    live::{private_copy, probes_of, wait_counting},
    number, target,
};

/// Counts functions of a program in a run of its own.
fn count(program: &Path, functions: &[&str], json: bool) -> Finished {
    let command = format!("{} 7", program.display());
    let args = ["count", "-c", &command].map(str::to_owned);
    let json = json.then(|| "--json".to_owned());
    faultline(args.into_iter().chain(json).chain(probes_of(program, functions))).run().succeeded()
}

/// The lines of the summary that say something about the hits.
fn hints(finished: &Finished) -> Vec<&str> {
    let about = |line: &&str| line.starts_with("  no hits at ") || line.starts_with("  hints");
    finished.stderr.lines().filter(about).map(str::trim).collect()
}

/// The caveats of a summary in JSON.
fn caveats(finished: &Finished) -> Value {
    finished.json().last().unwrap()["caveats"].clone()
}

const COPY: &str = "hints: the compiler made a copy of it, whose calls are not seen: \
                    `step.constprop.0` (probe it too)";

/// Check that a function whose calls mostly go to the compiler's copy of it comes with a note, before the
/// run and in its summary, and that a pattern that takes the copy needs none. It once counted one call of
/// thirteen and said nothing.
#[test]
fn copies_of_a_function_are_told() {
    let program = target("hints.c", &[]);
    let text = COPY.replacen("hints", "hints:step", 1);
    let finished = count(&program, &["step"], false);
    assert!(finished.stderr.contains(&format!("note: {text}\n")), "{}", finished.stderr);
    assert_eq!(hints(&finished), [text.as_str()]);
    let finished = count(&program, &["step"], true);
    assert_eq!(caveats(&finished)[0]["cause"], "copies");
    assert_eq!(caveats(&finished)[0]["probes"], json!(["hints:step"]));
    assert_eq!(caveats(&finished)[0]["names"], json!(["step.constprop.0"]));
    let probe = format!("{}:step", program.display());
    for args in [&["list", &probe][..], &["count", "--dry-run", &probe]] {
        let finished = faultline(args).run().succeeded();
        assert!(finished.stderr.contains(&format!("note: {text}\n")), "{}", finished.stderr);
    }
    let all = count(&program, &["step*"], true);
    assert_eq!(caveats(&all), Value::Null);
    assert_eq!(number(all.json().last().unwrap(), "hits"), 8);
}

/// Check that a function that shares its code with another one is told to count the other's calls.
#[test]
fn functions_with_the_same_code_are_told() {
    let program = target("hints.c", &[]);
    let finished = count(&program, &["tax_fr"], false);
    let text = "hints:tax_fr: `tax_de` is the same code, so its calls count here";
    assert_eq!(hints(&finished), [text]);
    assert!(finished.stderr.contains(&format!("note: {text}\n")), "{}", finished.stderr);
    let finished = count(&program, &["tax_fr"], true);
    assert_eq!(number(&finished.json()[0], "hits"), 14);
    assert_eq!(caveats(&finished)[0]["names"], json!(["tax_de"]));
}

/// Check that no hits of a function whose calls are inlined are explained, and that the places are counted.
#[test]
fn inlined_calls_are_told() {
    let program = target("hints.c", &[]);
    let finished = count(&program, &["shared", "once"], false);
    let text = "no hits at hints:shared: the compiler inlined it in 2 places, where its calls cannot be \
                seen (probe what calls it)";
    assert_eq!(hints(&finished), [text]);
    let caveats = caveats(&count(&program, &["shared"], true));
    assert_eq!((&caveats[0]["cause"], number(&caveats[0], "places")), (&json!("inlined"), 2));
}

/// Check that a name that is in the debug information alone is said to be inlined, instead of being
/// unknown.
#[test]
fn names_of_inlined_functions_are_known() {
    let program = target("throws.cc", &[]);
    let command = program.display().to_string();
    let finished = faultline(["count", "-c", &command, &format!("{command}:no_such_name")]).run();
    assert_eq!(finished.status.code(), Some(1));
    assert!(!finished.stderr.contains("inlined"), "{}", finished.stderr);
}

/// Check that a function that was not called is said not to have been, once for all of them, and that one
/// of many that a pattern selects is not worth a word.
#[test]
fn functions_that_were_not_called() {
    let program = target("hints.c", &[]);
    let text = "as far as can be told, there was no call";
    let finished = count(&program, &["never"], false);
    assert_eq!(hints(&finished), [format!("no hits at hints:never: {text}")]);
    assert_eq!(caveats(&count(&program, &["never"], true))[0]["cause"], "not_called");
    assert!(hints(&count(&program, &["[no]*e*"], false)).is_empty());
}

/// Check that with -p the calls before attaching are mentioned.
#[test]
fn calls_before_attaching_are_told() {
    let program = target("hints.c", &[]);
    let mut running = Target::start(&program, &["3", "wait"]);
    let probe = format!("{}:once", program.display());
    let finished = faultline(["count", "-p", &running.pid(), "--duration", "50ms", &probe]).run();
    let text = "no hits at hints:once: as far as can be told, there was no call after the probe was \
                attached; calls before that are not seen";
    assert_eq!(hints(&finished.succeeded()), [text]);
    running.send("");
    running.finish();
}

/// Check that a statically linked program is named as the reason why a library had no hits.
#[test]
fn static_programs_use_no_library() {
    let program = target("hints.c", &["-static"]);
    let command = format!("{} 3", program.display());
    let finished = faultline(["count", "-c", &command, "libc:puts", "libc:printf"]).run();
    let path = program.display();
    let text = format!(
        "no hits at libc.so.6:puts, libc.so.6:printf: `{path}` is statically linked and has its own \
         copy (probe `{path}:FUNCTION`)"
    );
    assert_eq!(hints(&finished.succeeded()), [text]);
}

/// Check that a library that a program does not use is named as the reason.
#[test]
fn libraries_that_are_not_linked() {
    let program = target("hints.c", &[]);
    let command = format!("{} 3", program.display());
    let finished = faultline(["count", "-c", &command, "libstdc++.so.6:__cxa_throw"]).run();
    let text = format!(
        "no hits at libstdc++.so.6:__cxa_throw: `{}` is not linked with the file; it would have to load \
         it while it runs",
        program.display()
    );
    assert_eq!(hints(&finished.succeeded()), [text]);
}

/// Check that a process that runs an older version of a file is told, and one that runs another file of
/// that name.
#[test]
fn replaced_and_other_files() {
    let program = private_copy(&target("hints.c", &[]), "hints_replaced");
    let mut running = Target::start(&program, &["3", "wait"]);
    let pid = running.pid();
    let newer = program.with_extension("new");
    fs::copy(&program, &newer).unwrap();
    fs::rename(&newer, &program).unwrap();
    let name = program.file_name().unwrap().to_str().unwrap();
    let count = |path: &Path| {
        let probe = format!("{}:tax_de", path.display());
        let finished = faultline(["count", "-p", &pid, "--duration", "50ms", &probe]).run();
        let finished = finished.succeeded();
        let hints = finished.stderr.lines().filter(|line| line.starts_with("  no hits at "));
        hints.map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    let replaced = format!(
        "no hits at {name}:tax_de: process {pid} runs an older version of the file, which was replaced \
         (restart it, or probe `/proc/{pid}/exe` if it is the program itself)"
    );
    assert_eq!(count(&program), [replaced]);
    let folder = program.with_extension("elsewhere");
    fs::create_dir_all(&folder).unwrap();
    let other = folder.join(name);
    fs::copy(&program, &other).unwrap();
    let path = program.display();
    let other_file = format!(
        "no hits at {name}:tax_de: process {pid} uses another file of that name, `{path}` (use -p {pid})"
    );
    assert_eq!(count(&other), [other_file]);
    running.send("");
    running.finish();
}

/// Check that a function whose code was copied to another memory after attaching is said to have been.
#[test]
fn code_that_was_moved_is_told() {
    let program = target("hints.c", &[]);
    let mut running = Target::start(&program, &["3", "move"]);
    let pid = running.pid();
    let probe = format!("{}:moved", program.display());
    let counting = faultline(["count", "-p", &pid, &probe]).start();
    wait_counting(counting.pid());
    running.send("");
    assert_eq!(running.line(), "moved");
    counting.signal(libc::SIGINT);
    let text = format!(
        "no hits at hints:moved: process {pid} does not run this code from the file: it was copied, as \
         for huge pages, or unmapped"
    );
    assert_eq!(hints(&counting.finish().succeeded()), [text]);
    running.send("");
    running.finish();
}

/// Check that calls of a command's own children are said not to be seen.
#[test]
fn children_are_told() {
    let program = target("hints.c", &[]);
    let path = program.display();
    let command = format!("sh -c '{path} 3; true'");
    let finished = faultline(["count", "-c", &command, &format!("{path}:once")]).run();
    let finished = finished.succeeded();
    let [hint] = &hints(&finished)[..] else { panic!("{}", finished.stderr) };
    assert!(hint.starts_with("no hits at hints:once: process "), "{hint}");
    let args = ["count", "-f", "-c", &command, &format!("{path}:once")];
    assert!(hints(&faultline(args).run().succeeded()).is_empty(), "the child is traced");
    assert!(
        hint.ends_with(" started other processes, whose calls are not seen (use -f)"),
        "{hint}"
    );
}
