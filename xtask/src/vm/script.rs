//! The shell script that runs the tests: the same one on the machine itself and in a guest.
//!
//! It prints the output of the test programs, and between it lines of its own that begin with
//! [`MARK`]. `results` reads both.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::workspace;

/// Begins each line of the script's own.
pub(crate) const MARK: &str = "vm: ";

/// A program of tests.
#[derive(Debug, Clone)]
pub(crate) struct TestProgram {
    pub(crate) name: String,
    pub(crate) file: PathBuf,
}

/// What is to be run.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) programs: Vec<TestProgram>,
    /// Given to each program: names of tests.
    pub(crate) args: Vec<String>,
    /// Variables to set.
    pub(crate) environment: Vec<(String, String)>,
}

/// Tests that say nothing about the kernel, skipped on this machine too: those that disassemble
/// libraries or probe all of their functions take minutes in an emulated machine; of the overhead
/// budget, those that look at shares of a machine's time; and those of the daemon.
const NOT_IN_GUESTS: [&str; 6] = [
    "another_decoder_agrees",
    "the_same_calls_of_real_programs",
    "duty_cycle_estimates",
    "budget_of_ten_thousand",
    "the_daemon_",
    "daemon_stuck::",
];

/// Where the output goes in the guest; the kernel's messages and standard error go to the first line.
const SECOND_SERIAL_LINE: &str = "/dev/ttyS1";

/// Ends a guest: asks the kernel to power off and waits, because the first process must not end.
const POWER_OFF: &str = "echo o > /proc/sysrq-trigger\nwhile :; do sleep 60; done\n";

/// Runs the work as the first process of a guest.
pub(crate) fn in_guest(work: &Work) -> String {
    let mut script = guest_environment(work);
    let _ = writeln!(script, "exec > {SECOND_SERIAL_LINE}");
    // Or the terminal would add line ends of its own.
    script += "stty -opost\n";
    script += &body(work);
    script + POWER_OFF
}

/// Gives a person the guest's shell, on the first line.
pub(crate) fn shell(work: &Work) -> String {
    let mut script = guest_environment(work);
    script += "echo 'the tests are'\n";
    for program in &work.programs {
        let _ = writeln!(script, "echo {}", quoted(&format!("  {}", program.file.display())));
    }
    script += "setsid -c \"$(command -v bash || echo sh)\" < /dev/ttyS0 > /dev/ttyS0 2>&1\n";
    script + POWER_OFF
}

/// Runs the work on this machine.
pub(crate) fn on_host(work: &Work) -> String {
    environment(work) + &body(work)
}

fn guest_environment(work: &Work) -> String {
    let mut script =
        String::from("export HOME=/root TERM=linux LC_ALL=C.UTF-8 FAULTLINE_EMULATED=1\n");
    // The kernel's own limits are far below a machine's.
    script += "ulimit -n 1048576\n";
    let path = std::env::var("PATH").unwrap_or_default();
    let _ = writeln!(script, "export PATH={}", quoted(&path));
    script + &environment(work)
}

fn environment(work: &Work) -> String {
    let mut script = String::new();
    for (name, value) in &work.environment {
        let _ = writeln!(script, "export {name}={}", quoted(value));
    }
    // As cargo has it.
    let folder = workspace::root().join("tracer");
    let _ = writeln!(script, "cd {}", quoted(&folder.display().to_string()));
    script
}

fn body(work: &Work) -> String {
    let mut script = format!("echo \"{MARK}up $(cut -d' ' -f1 /proc/uptime) $(uname -r)\"\n");
    script += "FAULTLINE_SKIPS=$(mktemp) && export FAULTLINE_SKIPS\n";
    let args: Vec<String> = work.args.iter().map(|arg| quoted(arg)).collect();
    let skips = NOT_IN_GUESTS.map(|test| format!("--skip={test}"));
    for TestProgram { name, file } in &work.programs {
        let _ = writeln!(script, "echo '{MARK}begin {name}'");
        let file = quoted(&file.display().to_string());
        let _ = writeln!(
            script,
            "{file} --test-threads=2 --color=never {} {} < /dev/null",
            skips.join(" "),
            args.join(" ")
        );
        let _ = writeln!(script, "echo \"{MARK}end $?\"");
        let _ = writeln!(script, "sed 's/^/{MARK}skip /' \"$FAULTLINE_SKIPS\"");
        script += "> \"$FAULTLINE_SKIPS\"\n";
    }
    script += "rm \"$FAULTLINE_SKIPS\"\n";
    let _ = writeln!(script, "echo '{MARK}done'");
    script
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{quiet, user_command};

    /// Check that a shell runs the script, and that it prints what `results` reads.
    #[test]
    fn script_runs() {
        let program = TestProgram { name: "one".to_owned(), file: PathBuf::from("echo") };
        let work = Work {
            programs: vec![program],
            args: vec!["it's".to_owned()],
            environment: vec![("A".to_owned(), "$B".to_owned())],
        };
        let output = quiet(user_command("sh").arg("-c").arg(on_host(&work))).unwrap();
        let lines: Vec<&str> = output.lines().collect();
        assert!(lines[0].starts_with("vm: up "), "{output}");
        assert_eq!([lines[1], lines[3], lines[4]], ["vm: begin one", "vm: end 0", "vm: done"]);
        assert!(lines[2].starts_with("--test-threads=2 ") && lines[2].ends_with(" it's"));
    }
}
