//! Which processes are traced.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    Ticking,
    support::{
        faultline, kernel_batches,
        live::{Puppet, copy_program, wait_counting},
        number, target,
    },
    tick, values_by_task,
};

/// Check that `-p` traces its process with all its threads, but neither its children nor other processes of
/// the same program.
#[test]
fn only_the_process_and_its_threads() {
    let Ticking { mut puppet, running } = Ticking::start(&[]);
    let mut other = Puppet::start();
    puppet.step(10);
    other.step(1000);
    assert_eq!(puppet.tell("thread 20"), "stepped");
    assert_eq!(puppet.tell("fork 3000"), "stepped");
    assert_eq!(other.tell("thread 4000"), "stepped");
    puppet.step(5);
    running.signal(libc::SIGINT);
    let finished = running.finish().succeeded();
    assert_eq!(number(&finished.summary(), "hits"), 35);
    let pid: u64 = puppet.pid().parse().unwrap();
    assert!(finished.events().iter().all(|event| event["pid"] == pid));
    assert_eq!(values_by_task(&finished.stdout).len(), 2);
    puppet.ends_well();
    other.ends_well();
}

/// Check that several processes are traced together, until the last one ends.
#[test]
fn two_processes() {
    let (mut one, mut two) = (Puppet::start(), Puppet::start());
    let mut other = Puppet::start();
    let (first, second) = (one.pid(), two.pid());
    let running = faultline(["trace", "--json", "-p", &first, "-p", &second, &tick()]).start();
    wait_counting(running.pid());
    one.step(5);
    two.step(7);
    other.step(100);
    one.ends_well();
    // The watch looks every 100 ms: if the end of one process ended the run, these calls would not be seen.
    std::thread::sleep(Duration::from_millis(500));
    two.step(2);
    two.ends_well();
    let finished = running.finish().succeeded();
    // 10 more of each at its end.
    assert_eq!(number(&finished.summary(), "hits"), 15 + 19);
    let of = |pid: &str| {
        let pid: u64 = pid.parse().unwrap();
        finished.events().iter().filter(|event| event["pid"] == pid).count()
    };
    assert_eq!((of(&first), of(&second)), (15, 19));
    other.ends_well();
}

/// Check that a process that executes its program again is still traced.
#[test]
fn target_execs() {
    let Ticking { mut puppet, running } = Ticking::start(&[]);
    puppet.step(4);
    assert_eq!(puppet.tell("exec"), "ready");
    puppet.step(6);
    running.signal(libc::SIGINT);
    let finished = running.finish().succeeded();
    assert_eq!(number(&finished.summary(), "hits"), 10);
    puppet.ends_well();
}

/// Check that a pid without a process is reported as such, and that a thread is not taken for a process.
#[test]
fn processes_that_cannot_be() {
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let gone = gone.id().to_string();
    let mut puppet = Puppet::start();
    puppet.go(1);
    let pid = puppet.pid();
    let thread = fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .map(|task| task.unwrap().file_name().into_string().unwrap())
        .find(|task| *task != pid)
        .unwrap();
    let of_thread = format!("{thread} is a thread of process {pid} (use `-p {pid}`)");
    for (given, code, said) in [
        (&*gone, 1, &*format!("no process {gone}")),
        (&*thread, 2, &*of_thread),
        ("0", 2, "'0' for '--pid <PID>'"),
        ("-1", 2, "-1"),
        ("4294967296", 2, "'4294967296' for '--pid <PID>'"),
        ("cat", 2, "'cat' for '--pid <PID>'"),
    ] {
        let finished = faultline(["trace", "--json", "-p", given, &tick()]).run();
        assert_eq!(finished.status.code(), Some(code), "-p {given}: {}", finished.stderr);
        assert!(finished.stderr.contains(said), "-p {given}: {}", finished.stderr);
    }
    puppet.ends_well();
}

/// Check that of two libraries of one name that a process has loaded from two folders both are traced, each
/// with a name of its own: one was, and nothing said so.
#[test]
fn two_libraries_of_one_name() {
    let libraries = ["one", "two"].map(|folder| {
        let build = if folder == "one" { "-DBUILD=1" } else { "-DBUILD=2" };
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("namesakes").join(folder);
        fs::create_dir_all(&folder).unwrap();
        let library = folder.join("libnamesake.so");
        copy_program(&target("namesakes.c", &["-shared", "-fPIC", build]), &library);
        library
    });
    let mut program = Command::new(target("namesakes.c", &["-ldl"]))
        .args(&libraries)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(program.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "ready");
    let pid = program.id().to_string();

    let list = faultline(["list", "-p", &pid, "libnamesake:answer"]).run().succeeded();
    assert!(list.stderr.contains("note: the process also maps"), "{}", list.stderr);

    let running = faultline(["count", "--json", "-p", &pid, "libnamesake:answer"]).start();
    wait_counting(running.pid());
    let mut stdin = program.stdin.take().unwrap();
    stdin.write_all(b"\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), (6 + 20).to_string());
    running.signal(libc::SIGINT);
    let finished = running.finish().succeeded();
    drop(stdin);
    assert!(program.wait().unwrap().success());

    let all = finished.json();
    let counted = all.iter().filter(|line| line["type"] == "count");
    let mut counted: Vec<_> =
        counted.map(|line| (line["probe"].as_str().unwrap(), number(line, "hits"))).collect();
    counted.sort_unstable();
    let expected = [("one/libnamesake.so:answer", 3), ("two/libnamesake.so:answer", 5)];
    assert_eq!(counted, expected, "{}", finished.stderr);
    let summary = all.last().unwrap();
    assert_eq!((number(summary, "hits"), number(summary, "delivered")), (8, 8), "{summary}");
    assert_eq!(number(&summary["attach"], "probes"), 2);
}

/// Check that a process which ends at any moment while it is attached to ends the run, and nothing worse.
#[test]
fn ends_while_it_is_attached_to() {
    if !kernel_batches() {
        return;
    }
    for delay_ms in (0..200).step_by(10) {
        let mut puppet = Puppet::start();
        let pid = puppet.pid();
        let run = faultline(["count", "--json", "-p", &pid, &tick()]).start();
        std::thread::sleep(Duration::from_millis(delay_ms));
        puppet.target.send("exit 0");
        assert!(puppet.take().finish().0.success());
        let finished = run.finish();
        match finished.status.code() {
            Some(0) => {
                let summary = finished.json().pop().unwrap();
                assert_eq!(number(&summary, "hits"), 0);
                assert_eq!(summary["stopped_by"], "the traced process ended");
            }
            Some(1) => {
                let said = &finished.stderr;
                let is_why = ["a process to trace", "process", "no such process"];
                assert!(is_why.iter().any(|why| said.to_lowercase().contains(why)), "{said}");
                assert!(!said.contains("panicked"), "{said}");
            }
            other => panic!("{other:?}: {finished:?}"),
        }
    }
}
