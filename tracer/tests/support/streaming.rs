//! A run whose output is examined while it runs.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Faultline, Finished, HUNG_AFTER, live::wait_counting, send_signal, spawn};

/// A line, and when it arrived.
#[derive(Debug, Clone)]
pub struct Line {
    pub at: Instant,
    pub text: String,
}

/// The lines of one output so far.
pub struct Stream {
    lines: Arc<Mutex<Vec<Line>>>,
    reader: JoinHandle<()>,
}

/// A run of faultline whose outputs can be read while it runs.
pub struct Streaming {
    pub child: Child,
    pub stdout: Stream,
    pub stderr: Stream,
}

impl Stream {
    fn of(source: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let filled = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            for line in BufReader::new(source).lines() {
                let text = line.expect("all output is UTF-8");
                filled.lock().unwrap().push(Line { at: Instant::now(), text });
            }
        });
        Self { lines, reader }
    }

    /// What has arrived.
    pub fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits until this many of the lines satisfy `wanted`, and returns them.
    #[track_caller]
    pub fn wait_for(&self, count: usize, wanted: impl Fn(&str) -> bool) -> Vec<Line> {
        let started = Instant::now();
        loop {
            // Checked first, so that lines from before the end are still seen.
            let ended = self.reader.is_finished();
            let mut found = self.lines();
            found.retain(|line| wanted(&line.text));
            if found.len() >= count {
                return found;
            }
            assert!(
                !ended && started.elapsed() < HUNG_AFTER,
                "only {} of {count} lines came{}; all: {:?}",
                found.len(),
                if ended { " before the end" } else { "" },
                self.lines(),
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    fn text(self) -> String {
        self.reader.join().unwrap();
        self.lines.lock().unwrap().iter().map(|line| line.text.clone() + "\n").collect()
    }
}

impl Faultline {
    /// Starts it.
    pub fn stream(mut self) -> Streaming {
        let mut child = spawn(self.command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let stdout = Stream::of(child.stdout.take().unwrap());
        let stderr = Stream::of(child.stderr.take().unwrap());
        Streaming { child, stdout, stderr }
    }

    /// Starts it, and waits until hits count.
    pub fn stream_attached(self) -> Streaming {
        let running = self.stream();
        wait_counting(running.pid());
        running
    }
}

impl Streaming {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        send_signal(&self.child, signal);
    }

    /// Waits for the end; a run that does not end is killed, and the test fails.
    pub fn finish(mut self) -> Finished {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > HUNG_AFTER {
                let _ = self.child.kill();
                panic!("faultline did not end; stderr: {:?}", self.stderr.lines());
            }
            thread::sleep(Duration::from_millis(5));
        };
        Finished { status, stdout: self.stdout.text(), stderr: self.stderr.text() }
    }
}
