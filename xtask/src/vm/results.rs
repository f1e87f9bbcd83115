//! Results of the tests on one kernel, read from what [`script`](super::script) prints.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::script::MARK;

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    /// Failed at first, and passed when it was run again by itself.
    SecondTry,
    /// Skipped, for this reason.
    Skipped(String),
}

/// Results of one test program.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) tests: BTreeMap<String, Outcome>,
    /// How many tests the program said that it would run.
    announced: usize,
    /// Its exit status.
    status: Option<i32>,
    started: Option<Instant>,
    pub(crate) took: Duration,
}

/// Results of all tests on one kernel.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) groups: Vec<Group>,
    /// Seconds since the kernel's start when the tests began.
    pub(crate) up_s: Option<f64>,
    /// What `uname -r` says.
    pub(crate) release: String,
    pub(crate) is_done: bool,
    /// What went wrong apart from tests.
    pub(crate) problems: Vec<String>,
}

impl Run {
    /// Takes a line of the output.
    pub(crate) fn line(&mut self, line: &str) {
        let line = line.trim_end();
        // A program that is killed may leave a line without an end.
        if let Some((_, mark)) = line.rsplit_once(MARK) {
            let (word, rest) = mark.split_once(' ').unwrap_or((mark, ""));
            self.mark(word, rest);
        } else if let Some(group) = self.groups.last_mut() {
            group.line(line);
        }
    }

    fn mark(&mut self, word: &str, rest: &str) {
        match (word, self.groups.last_mut()) {
            ("up", _) => {
                let (seconds, release) = rest.split_once(' ').unwrap_or((rest, ""));
                self.up_s = seconds.parse().ok();
                self.release = release.to_owned();
            }
            ("begin", _) => self.groups.push(Group {
                name: rest.to_owned(),
                started: Some(Instant::now()),
                ..Group::default()
            }),
            ("end", Some(group)) => {
                group.status = rest.parse().ok();
                group.took = group.started.map_or(Duration::ZERO, |started| started.elapsed());
            }
            ("skip", Some(group)) => {
                let Some((test, reason)) = rest.split_once(": ") else { return };
                let outcome = group.tests.entry(test.to_owned()).or_insert(Outcome::Passed);
                // A test may fail because it skips.
                if *outcome == Outcome::Passed {
                    *outcome = Outcome::Skipped(reason.to_owned());
                }
            }
            ("done", _) => self.is_done = true,
            _ => {}
        }
    }

    /// Adds the results of another program on the same kernel.
    pub(crate) fn add(&mut self, other: Self) {
        self.groups.extend(other.groups);
        self.problems.extend(other.problems);
        self.is_done &= other.is_done;
        // A guest that did not boot must be seen.
        self.up_s = self.up_s.zip(other.up_s).map(|(one, other)| one.max(other));
    }

    /// The tests that failed, by name; empty if anything else is wrong too.
    pub(crate) fn worth_another_try(&self) -> Vec<String> {
        if !self.is_done || !self.problems.is_empty() {
            return Vec::new();
        }
        let whole = self.groups.iter().all(|group| group.problem().is_none());
        let tests = self.groups.iter().flat_map(|group| &group.tests);
        let failed = tests.filter(|(_, outcome)| whole && **outcome == Outcome::Failed);
        failed.map(|(test, _)| test.clone()).collect()
    }

    /// Takes the results of the tests that were run again.
    pub(crate) fn tried_again(&mut self, again: &Self) {
        self.problems.extend(again.problems.iter().cloned());
        for group in &mut self.groups {
            let Some(other) = again.groups.iter().find(|other| other.name == group.name) else {
                continue;
            };
            for (test, outcome) in &mut group.tests {
                if *outcome == Outcome::Failed && other.tests.get(test) == Some(&Outcome::Passed) {
                    *outcome = Outcome::SecondTry;
                }
            }
            if group.count(|outcome| *outcome == Outcome::Failed) == 0 {
                group.status = other.status;
            }
        }
    }

    /// Looks for problems in the kernel's own messages.
    pub(crate) fn kernel_log(&mut self, log: &str) {
        const BAD: &[&str] =
            &["BUG: ", "Oops: ", "WARNING: ", "Kernel panic", "general protection fault"];
        // The first says the most.
        if let Some(line) = log.lines().find(|line| BAD.iter().any(|bad| line.contains(bad))) {
            self.problems.push(format!("kernel log: {}", line.trim()));
        }
    }

    /// Everything that went wrong, one line each.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut failures = self.problems.clone();
        for group in &self.groups {
            for (test, outcome) in &group.tests {
                if *outcome == Outcome::Failed {
                    failures.push(format!("{}::{test} failed", group.name));
                }
            }
            failures.extend(group.problem());
        }
        failures
    }
}

impl Group {
    fn line(&mut self, line: &str) {
        if let Some(count) = line
            .strip_prefix("running ")
            .and_then(|rest| rest.split_once(" test"))
            .and_then(|(count, _)| count.parse().ok())
        {
            self.announced = count;
        }
        let Some((test, result)) =
            line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        else {
            return;
        };
        let outcome = match result.split_once(',').map_or(result, |(word, _)| word) {
            "ok" => Outcome::Passed,
            "FAILED" => Outcome::Failed,
            // For people to run by hand, on no kernel.
            "ignored" => {
                self.announced = self.announced.saturating_sub(1);
                return;
            }
            _ => return,
        };
        self.tests.insert(test.to_owned(), outcome);
    }

    pub(crate) fn count(&self, wanted: impl Fn(&Outcome) -> bool) -> usize {
        self.tests.values().filter(|outcome| wanted(outcome)).count()
    }

    /// What is wrong with the program rather than with one of its tests.
    pub(crate) fn problem(&self) -> Option<String> {
        let name = &self.name;
        let missing = self.announced.saturating_sub(self.tests.len());
        let failed = self.count(|outcome| *outcome == Outcome::Failed);
        match self.status {
            None => Some(format!("{name} did not end")),
            Some(_) if missing > 0 => Some(format!("{name}: {missing} tests gave no result")),
            Some(status) if status != 0 && failed == 0 => {
                Some(format!("{name} ended with status {status}"))
            }
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(output: &str) -> Run {
        let mut run = Run::default();
        output.lines().for_each(|line| run.line(line));
        run
    }

    /// Check that results, reasons and the end are read, line ends of a terminal left out.
    #[test]
    fn results_are_read() {
        let run = run("\
vm: up 4.81 6.12.107+deb13-amd64\r
vm: begin memory\r
running 4 tests\r
test a_b ... ok\r
test c ... FAILED\r
test d ... ok\r
test e ... ignored, takes hours\r
vm: end 101\r
vm: skip d: uprobe_multi links, since Linux 6.6\r
vm: skip c: nothing, since Linux 6.6\r
vm: done\r
");
        assert_eq!((run.up_s, &*run.release), (Some(4.81), "6.12.107+deb13-amd64"));
        assert!(run.is_done);
        let tests = &run.groups[0].tests;
        assert_eq!(tests["a_b"], Outcome::Passed);
        assert_eq!(tests["c"], Outcome::Failed);
        assert_eq!(tests["d"], Outcome::Skipped("uprobe_multi links, since Linux 6.6".to_owned()));
        assert_eq!(run.failures(), ["memory::c failed"]);
    }

    /// Check that a program that was cut off is a failure, however it shows.
    #[test]
    fn cut_off_programs() {
        let begin = "vm: begin a\nrunning 2 tests\ntest one ... ok\n";
        assert_eq!(run(begin).failures(), ["a did not end"]);
        let killed = format!("{begin}test two ... vm: end 137\n");
        assert_eq!(run(&killed).failures(), ["a: 1 tests gave no result"]);
        let late = format!("{begin}test two ... ok\nvm: end 139\n");
        assert_eq!(run(&late).failures(), ["a ended with status 139"]);
        assert!(run(&late.replace("139", "0")).failures().is_empty());
    }

    /// Check that a test that passes alone is told from one that passes at once, and that one that fails
    /// again is a failure, as is a program that was cut off.
    #[test]
    fn second_tries() {
        let first = "vm: begin a\nrunning 3 tests\ntest one ... FAILED\ntest two ... FAILED\n\
                     test three ... ok\nvm: end 101\nvm: done\n";
        let again = |two: &str, status: u8| {
            run(&format!(
                "vm: begin a\nrunning 2 tests\ntest one ... ok\ntest two ... {two}\n\
                 vm: end {status}\nvm: done\n"
            ))
        };
        let mut passed = run(first);
        assert_eq!(passed.worth_another_try(), ["one", "two"]);
        passed.tried_again(&again("ok", 0));
        assert!(passed.failures().is_empty());
        assert_eq!(passed.groups[0].tests["one"], Outcome::SecondTry);
        assert_eq!(passed.groups[0].tests["three"], Outcome::Passed);
        let mut failed = run(first);
        failed.tried_again(&again("FAILED", 101));
        assert_eq!(failed.failures(), ["a::two failed"]);
        assert!(run(first.trim_end_matches("vm: done\n")).worth_another_try().is_empty());
    }

    /// Check that a kernel's complaint is a failure.
    #[test]
    fn kernel_log() {
        let mut run = Run::default();
        run.kernel_log("[    1.0] fine\n");
        assert!(run.failures().is_empty());
        run.kernel_log("[    1.0] fine\n[    2.0] WARNING: CPU: 1 at kernel/x.c:1\nBUG: more\n");
        assert_eq!(run.failures(), ["kernel log: [    2.0] WARNING: CPU: 1 at kernel/x.c:1"]);
    }
}
