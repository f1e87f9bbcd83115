//! Where events go: standard output or a file that is rotated, and to whoever listens.
//!
//! Nothing here may hold up those who drain for long, or stop for good: what cannot be written is
//! counted as lost, and tried again.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{config, tail::Tails};
use faultline_engine::collect::drain::Patience;
use faultline_output::{Output, prometheus::OwnMetrics};

/// How long to wait for a standard output that accepts nothing, before events are lost.
const STDOUT_PATIENCE: Duration = Duration::from_millis(500);
/// How often a failed output is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The output of all events.
#[derive(Debug)]
pub(super) struct EventLog {
    place: Mutex<Place>,
    /// The listeners.
    pub(super) tails: Tails,
    own: OwnMetrics,
}

#[derive(Debug)]
struct Place {
    target: Target,
    /// Set while it fails.
    failing: Option<Failing>,
}

#[derive(Debug)]
enum Target {
    Stdout {
        output: Output,
        /// The rest of a line that was partly written.
        rest: Vec<u8>,
    },
    File(RotatedFile),
}

#[derive(Debug)]
struct Failing {
    retry_at: Instant,
    lost: usize,
}

#[derive(Debug)]
struct RotatedFile {
    file: File,
    path: PathBuf,
    bytes: u64,
    rotate_at: u64,
    keep: u32,
    /// A rotation that failed is not tried with every write.
    rotate_after: Instant,
}

impl EventLog {
    /// Opens the output.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, or standard output is closed.
    pub(super) fn open(events: &config::Events, own: OwnMetrics) -> io::Result<Self> {
        let place = Mutex::new(Place { target: Target::open(events)?, failing: None });
        Ok(Self { place, tails: Tails::new(own.tail_dropped.clone()), own })
    }

    /// Whether the output could be opened.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub(super) fn check(events: &config::Events) -> io::Result<()> {
        Target::open(events).map(drop)
    }

    /// Reopens the output, so that a file that an operator or logrotate moved away is not written to.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); the old output is kept then.
    pub(super) fn reopen(&self, events: &config::Events) -> io::Result<()> {
        let target = Target::open(events)?;
        self.place.lock().unwrap_or_else(PoisonError::into_inner).target = target;
        Ok(())
    }

    /// Writes whole lines, which end at `ends`; returns how many were written.
    pub(super) fn write(&self, lines: &[u8], ends: &[usize]) -> usize {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(failing) = &mut place.failing
            && now < failing.retry_at
        {
            failing.lost += ends.len();
            return 0;
        }
        let (written, result) = match &mut place.target {
            Target::Stdout { output, rest } => write_stdout(output, rest, lines, ends),
            Target::File(file) => file.write(lines, ends),
        };
        let lost = ends.len() - written;
        match (result, &mut place.failing) {
            (Ok(()), None) => {}
            (Ok(()), failing @ Some(_)) => {
                if let Some(Failing { lost, .. }) = failing.take() {
                    tracing::info!("events are written again; {lost} were lost in between");
                }
            }
            (Err(error), None) => {
                tracing::error!(
                    "failed to write events to {}: {error} (events are counted as lost until writing works again)",
                    place.target.name()
                );
                self.own.output_failures.inc();
                place.failing = Some(Failing { retry_at: now + RETRY_AFTER, lost });
            }
            (Err(_), Some(failing)) => {
                failing.retry_at = now + RETRY_AFTER;
                failing.lost += lost;
            }
        }
        written
    }
}

impl Target {
    fn open(events: &config::Events) -> io::Result<Self> {
        match &events.file {
            None => Ok(Self::Stdout { output: Output::stdout()?, rest: Vec::new() }),
            Some(path) => Ok(Self::File(RotatedFile::open(events, path)?)),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Stdout { .. } => "standard output".to_owned(),
            Self::File(file) => file.path.display().to_string(),
        }
    }
}

/// Events may hold confidential data of traced programs: only root and the group may read them.
fn open_to_append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // A pipe that nobody reads must be an error, not a wait.
    options.append(true).create(true).mode(0o640).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO) => not_regular(),
        _ => error,
    })?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_char_device() {
        return Err(not_regular());
    }
    Ok(file)
}

fn not_regular() -> io::Error {
    io::Error::other("not a regular file")
}

/// How many lines end within `bytes`.
fn whole_lines(ends: &[usize], bytes: usize) -> usize {
    ends.partition_point(|end| *end <= bytes)
}

fn write_stdout(
    output: &mut Output,
    rest: &mut Vec<u8>,
    lines: &[u8],
    ends: &[usize],
) -> (usize, io::Result<()>) {
    let patience = Patience::of(STDOUT_PATIENCE);
    if !rest.is_empty() {
        let (written, result) = output.write(rest, &patience);
        rest.drain(..written);
        if result.is_err() {
            return (0, result);
        }
    }
    let (written, result) = output.write(lines, &patience);
    let mut whole = whole_lines(ends, written);
    let begun = whole.checked_sub(1).map_or(0, |last| ends[last]);
    if written > begun
        && let Some(end) = ends.get(whole)
    {
        // The reader has the beginning of this line and will get the rest.
        rest.extend_from_slice(&lines[written..*end]);
        whole += 1;
    }
    (whole, result)
}

impl RotatedFile {
    fn open(events: &config::Events, path: &Path) -> io::Result<Self> {
        let file = open_to_append(path)?;
        let metadata = file.metadata()?;
        Ok(Self {
            bytes: metadata.size(),
            file,
            path: path.to_owned(),
            // `/dev/null` must not be rotated.
            rotate_at: if metadata.is_file() { events.rotate_at } else { u64::MAX },
            keep: events.keep,
            rotate_after: Instant::now(),
        })
    }

    fn write(&mut self, lines: &[u8], ends: &[usize]) -> (usize, io::Result<()>) {
        if let Err(error) = self.recreate_if_deleted() {
            return (0, Err(error));
        }
        let now = Instant::now();
        if self.bytes != 0
            && self.bytes + lines.len() as u64 > self.rotate_at
            && now >= self.rotate_after
            && let Err(error) = self.rotate()
        {
            tracing::warn!("failed to rotate {}: {error}", self.path.display());
            self.rotate_after = now + Duration::from_secs(10);
        }
        let mut written = 0;
        let result = loop {
            match self.file.write(&lines[written..]) {
                Ok(0) if written < lines.len() => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    written += count;
                    if written == lines.len() {
                        break Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        let whole = whole_lines(ends, written);
        let kept = whole.checked_sub(1).map_or(0, |last| ends[last]);
        // Half a line would corrupt the next one.
        if kept != written && self.file.set_len(self.bytes + kept as u64).is_err() {
            let _ = self.file.write_all(b"\n");
        }
        self.bytes += kept as u64;
        (whole, result)
    }

    /// What is written to a deleted file is lost. A file that was only moved is written to until a
    /// reload, as logrotate expects.
    fn recreate_if_deleted(&mut self) -> io::Result<()> {
        if self.file.metadata()?.nlink() == 0 {
            self.recreate()?;
            tracing::warn!("{} was deleted; a new one is written", self.path.display());
        }
        Ok(())
    }

    fn recreate(&mut self) -> io::Result<()> {
        self.file = open_to_append(&self.path)?;
        self.bytes = self.file.metadata()?.size();
        Ok(())
    }

    /// Whether the file still has the name it was opened with.
    fn has_its_name(&self) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        match std::fs::metadata(&self.path) {
            Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        if !self.has_its_name()? {
            // Somebody else has rotated it.
            return self.recreate();
        }
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        if self.keep == 0 {
            self.file.set_len(0)?;
            self.bytes = 0;
            return Ok(());
        }
        for number in (1..self.keep).rev() {
            match std::fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, numbered(1))?;
        // If this fails, events go to the rotated file: nothing is lost.
        self.recreate()
    }
}

#[cfg(test)]
mod tests;
