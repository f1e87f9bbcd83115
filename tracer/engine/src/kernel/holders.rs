//! Threads that keep links in their own descriptor tables.
//!
//! A process that is killed closes its descriptors one after another, and each link waits for a grace
//! period of the kernel. With 5,000 links this took 267 s, during which the dead process could not be
//! replaced. Threads die in parallel, so links in the descriptor tables of many threads
//! (`unshare(CLONE_FILES)`) are released in parallel. A thread ends with the last of its links.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    DetachReport, Links, Progress,
    links::{Link, LinkKind, MULTI_AT_ONCE},
};

/// Links per thread, until the maximum number of threads is reached: this many are released one after
/// another when we are killed.
const LINKS_A_HOLDER: usize = 8;
/// Maximum number of threads. They only sleep.
const MAX_HOLDERS: usize = 256;
/// A holder's stack.
const STACK_BYTES: usize = 256 * 1024;

/// Holds links: in this process, or in threads of it with their own tables.
#[derive(Debug)]
pub struct LinkHolders {
    holding: Holding,
    all: BTreeMap<u64, Holder>,
    /// Names this process to its holders.
    process: Option<OwnedFd>,
    /// Keys of holders and of what they hold; never reused.
    next_key: u64,
    /// This kernel or sandbox does not allow it: links stay where they are.
    refused: bool,
    /// A child of ours may release links.
    helper: bool,
}

/// Where to keep links.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Holding {
    /// In this process's own table: for few links, or for runs that a user waits for.
    #[default]
    Here,
    /// In the tables of many threads, so that thousands are released quickly when we are killed.
    InThreads,
}

#[derive(Debug)]
struct Holder {
    /// The thread ends when all of these are gone.
    orders: mpsc::Sender<Order>,
    links: Arc<AtomicUsize>,
    /// It is closing links and may be blocked.
    busy: Arc<AtomicBool>,
}

/// Links that a thread holds. Dropping this releases them without waiting.
#[derive(Debug)]
pub struct HeldLinks {
    held: Held,
    /// The number of each.
    numbers: Box<[u32]>,
}

#[derive(Debug)]
enum Held {
    By(Ticket),
    Here(Links),
}

/// Identifies links within a holder.
#[derive(Debug)]
struct Ticket {
    holder: u64,
    key: u64,
    links: usize,
    /// Links of the holder.
    all_links: Arc<AtomicUsize>,
    orders: mpsc::Sender<Order>,
    used: bool,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.all_links.fetch_sub(self.links, Ordering::Relaxed);
        if !self.used {
            let (done, _) = mpsc::channel();
            let _ = self.orders.send(Order::Release { keys: vec![self.key], at_once: 1, done });
        }
    }
}

#[derive(Debug)]
enum Order {
    Hold { key: u64, links: Vec<(RawFd, usize, LinkKind)>, done: mpsc::Sender<io::Result<()>> },
    Release { keys: Vec<u64>, at_once: usize, done: mpsc::Sender<DetachReport> },
    HandOver { keys: Vec<u64>, done: mpsc::Sender<DetachReport> },
}

/// A release in progress.
#[derive(Debug)]
pub struct Releasing {
    here: Vec<Links>,
    tell: mpsc::Sender<DetachReport>,
    done: mpsc::Receiver<DetachReport>,
    /// Reports that are still to come.
    parts: usize,
    started: Instant,
    progress: Arc<Progress>,
}

impl LinkHolders {
    /// Holds nothing yet.
    #[must_use]
    pub fn new(holding: Holding, helper: bool) -> Self {
        Self { holding, all: BTreeMap::new(), process: None, next_key: 0, refused: false, helper }
    }

    /// Where links are kept.
    #[must_use]
    pub fn holding(&self) -> Holding {
        self.holding
    }

    /// Puts these links into holders, in the order given.
    pub fn hold(&mut self, all: Vec<Links>) -> Vec<HeldLinks> {
        if self.holding == Holding::Here {
            return all.into_iter().map(HeldLinks::here).collect();
        }
        let mut held = Vec::with_capacity(all.len());
        let (tell, done) = mpsc::channel();
        let mut asked = 0;
        for links in &all {
            let ticket = if links.is_empty() { None } else { self.ask(links, &tell) };
            asked += usize::from(ticket.is_some());
            held.push(ticket);
        }
        drop(tell);
        let results: Vec<_> = done.iter().collect();
        let failed = results.iter().any(Result::is_err) || results.len() != asked;
        if failed {
            // Whatever the holder did take is released with its ticket; our table keeps the links.
            self.refused = true;
            return all.into_iter().map(HeldLinks::here).collect();
        }
        // Our descriptors are no longer the last ones, so closing them does not block.
        held.into_iter()
            .zip(all)
            .map(|(held, links)| match held {
                Some(ticket) => {
                    HeldLinks { numbers: links.numbers().collect(), held: Held::By(ticket) }
                }
                None => HeldLinks::here(links),
            })
            .collect()
    }

    /// Asks a holder to take links.
    fn ask(&mut self, links: &Links, tell: &mpsc::Sender<io::Result<()>>) -> Option<Ticket> {
        let count = links.len();
        let id = self.place_for(count)?;
        let key = self.new_key();
        let holder = self.all.get(&id)?;
        let descriptors = links
            .iter()
            .map(|link| (link.descriptor.as_raw_fd(), link.points, link.kind))
            .collect();
        let order = Order::Hold { key, links: descriptors, done: tell.clone() };
        holder.orders.send(order).ok()?;
        holder.links.fetch_add(count, Ordering::Relaxed);
        Some(Ticket {
            holder: id,
            key,
            links: count,
            all_links: Arc::clone(&holder.links),
            orders: holder.orders.clone(),
            used: false,
        })
    }

    fn new_key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    /// Starts to release links. With `hand_over` a child does it, for when a task is stuck inside a
    /// handler: a process that closes a link then blocks and cannot be killed.
    pub fn release(
        &mut self,
        links: Vec<HeldLinks>,
        hand_over: bool,
        progress: &Arc<Progress>,
    ) -> Releasing {
        let hand_over = hand_over && self.helper;
        let mut here = Vec::new();
        let mut keys: HashMap<u64, Vec<u64>> = HashMap::new();
        for HeldLinks { held, .. } in links {
            match held {
                Held::Here(links) => here.push(links),
                Held::By(mut ticket) => {
                    ticket.used = true;
                    keys.entry(ticket.holder).or_default().push(ticket.key);
                }
            }
        }
        let mut releasing = self.begin(keys, hand_over, progress);
        if hand_over && !here.is_empty() {
            let links = Links::join(std::mem::take(&mut here));
            self::hand_over(links, releasing.tell.clone(), Arc::clone(progress));
            releasing.parts += 1;
        }
        releasing.here = here;
        releasing
    }

    fn begin(
        &mut self,
        by_holder: HashMap<u64, Vec<u64>>,
        hand_over: bool,
        progress: &Arc<Progress>,
    ) -> Releasing {
        let (tell, done) = mpsc::channel();
        let mut parts = 0;
        // All holders together.
        let at_once = (MULTI_AT_ONCE / by_holder.len().max(1)).clamp(1, LINKS_A_HOLDER);
        for (id, keys) in by_holder {
            let Some(holder) = self.all.get(&id) else { continue };
            holder.busy.store(true, Ordering::Release);
            let done = tell.clone();
            let order = if hand_over {
                Order::HandOver { keys, done }
            } else {
                Order::Release { keys, at_once, done }
            };
            parts += usize::from(holder.orders.send(order).is_ok());
        }
        self.dismiss_idle();
        let progress = Arc::clone(progress);
        Releasing { here: Vec::new(), tell, done, parts, started: Instant::now(), progress }
    }

    /// Dismisses holders with no links left: each ends once it has carried out its orders.
    fn dismiss_idle(&mut self) {
        self.all.retain(|_, holder| holder.links.load(Ordering::Relaxed) != 0);
    }

    /// A holder that has room and is not blocked.
    fn place_for(&mut self, links: usize) -> Option<u64> {
        if self.refused {
            return None;
        }
        let idle = |holder: &Holder| !holder.busy.load(Ordering::Acquire);
        let emptiest = self
            .all
            .iter()
            .filter(|(_, holder)| idle(holder))
            .map(|(id, holder)| (holder.links.load(Ordering::Relaxed), *id))
            .min();
        if let Some((held, id)) = emptiest
            && (held + links <= LINKS_A_HOLDER || self.all.len() >= MAX_HOLDERS)
        {
            return Some(id);
        }
        if self.all.len() >= MAX_HOLDERS {
            return None;
        }
        match self.process().and_then(Holder::start) {
            Ok(holder) => {
                let id = self.new_key();
                self.all.insert(id, holder);
                Some(id)
            }
            Err(error) => {
                tracing::debug!("cannot hold links in separate threads: {error}");
                // If a thread just cannot be started at the moment, there may be one the next time.
                self.refused = error.kind() != io::ErrorKind::WouldBlock;
                None
            }
        }
    }

    /// The descriptor that names this process, under the number that it has in every table.
    fn process(&mut self) -> io::Result<RawFd> {
        if let Some(process) = &self.process {
            return Ok(process.as_raw_fd());
        }
        let own = std::process::id();
        // SAFETY: the call takes no pointer.
        let number = descriptor(unsafe { libc::syscall(libc::SYS_pidfd_open, own, 0) })?;
        // SAFETY: the kernel has just made it (close-on-exec), and nothing else owns it.
        self.process = Some(unsafe { OwnedFd::from_raw_fd(number) });
        Ok(number)
    }
}

impl HeldLinks {
    fn here(links: Links) -> Self {
        Self { numbers: links.numbers().collect(), held: Held::Here(links) }
    }

    /// Number of links.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The number of each, by which it can be retired.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.numbers.iter().copied()
    }
}

impl Releasing {
    /// Waits until all are released, but only this long for those that were handed over: they will be
    /// released anyway.
    pub fn wait_within(self, patience: Duration) {
        if !self.here.is_empty() {
            Links::detach_all(self.here, &self.progress);
        }
        drop(self.tell);
        let deadline = self.started + patience;
        for _ in 0..self.parts {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.done.recv_timeout(left).is_err() {
                return;
            }
        }
    }

    /// Waits until all are released.
    ///
    /// Blocks while a task is inside a handler.
    pub fn wait(self) -> DetachReport {
        let mut grace = None::<Duration>;
        let mut add = |other: Option<Duration>| {
            grace = match (grace, other) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
        };
        if !self.here.is_empty() {
            add(Links::detach_all(self.here, &self.progress).grace);
        }
        drop(self.tell);
        for report in self.done.iter().take(self.parts) {
            add(report.grace);
        }
        DetachReport { took: self.started.elapsed(), grace }
    }
}

impl Holder {
    fn start(process: RawFd) -> io::Result<Self> {
        let (orders, receive) = mpsc::channel();
        let busy = Arc::new(AtomicBool::new(false));
        let own = Arc::clone(&busy);
        let (tell, told) = mpsc::channel();
        let work = move || match own_table(process) {
            Ok(()) => {
                let _ = tell.send(Ok(()));
                hold(&receive, process, &own);
            }
            Err(error) => drop(tell.send(Err(error))),
        };
        let builder = thread::Builder::new().name("holder".to_owned()).stack_size(STACK_BYTES);
        without_signals(|| builder.spawn(work))?;
        told.recv().map_err(|_| io::Error::other("a thread ended early"))??;
        Ok(Self { orders, links: Arc::default(), busy })
    }
}

/// Starts a thread that handles no signals, nor does any that it starts.
///
/// A signal for the process is handled by any thread that looks for signals first, which a new one does when it
/// starts. A waiter is woken through a pipe that a holder's own table lacks: a SIGTERM that a holder handled was
/// lost, and the daemon kept running.
fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: the call fills the set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: both sets are large enough, and the first is filled. It fails only for an unknown `how`.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    let started = start();
    // SAFETY: the call above has filled the set.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    started
}

/// Gives the thread its own descriptor table, which contains only the standard streams and `kept`.
fn own_table(kept: RawFd) -> io::Result<()> {
    // SAFETY: the call takes no pointer, and this thread has not opened anything yet.
    if unsafe { libc::unshare(libc::CLONE_FILES) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let kept = kept.cast_unsigned();
    for (first, last) in [(3, kept - 1), (kept + 1, u32::MAX)] {
        if first <= last {
            // SAFETY: the table is this thread's own, and it uses no descriptor in the range.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
    Ok(())
}

fn descriptor(number: libc::c_long) -> io::Result<RawFd> {
    match RawFd::try_from(number) {
        Ok(number) if number >= 0 => Ok(number),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes over and releases links as ordered; ends when no more orders can come.
fn hold(orders: &mpsc::Receiver<Order>, process: RawFd, busy: &AtomicBool) {
    let mut held: HashMap<u64, Links> = HashMap::new();
    for order in orders {
        match order {
            Order::Hold { key, links, done } => {
                let taken: io::Result<Vec<Link>> =
                    links.into_iter().map(|link| take(process, link)).collect();
                let result = taken.map(|links| drop(held.insert(key, Links::new(links))));
                let _ = done.send(result);
            }
            Order::Release { keys, at_once, done } => {
                let all = keys.iter().filter_map(|key| held.remove(key));
                let report = Links::join(all).detach_few_at_once(at_once);
                busy.store(false, Ordering::Release);
                let _ = done.send(report);
            }
            Order::HandOver { keys, done } => {
                let all = keys.iter().filter_map(|key| held.remove(key));
                hand_over(Links::join(all), done, Arc::default());
                busy.store(false, Ordering::Release);
            }
        }
    }
}

/// Makes a child release the links, and reports when it has. If we exit first, the child continues.
fn hand_over(links: Links, done: mpsc::Sender<DetachReport>, progress: Arc<Progress>) {
    let wait = move || {
        let report = match links.hand_over() {
            Ok(releaser) => releaser.release(&progress),
            Err((links, error)) => {
                tracing::warn!("failed to start a process that releases the links: {error}");
                links.detach(&progress)
            }
        };
        let _ = done.send(report);
    };
    // If no thread can be started, the links are released by what is dropped here.
    drop(thread::Builder::new().name("handed over".to_owned()).spawn(wait));
}

/// Copies a link's descriptor out of the process's table into this thread's.
fn take(process: RawFd, link: (RawFd, usize, LinkKind)) -> io::Result<Link> {
    let (from, points, kind) = link;
    // SAFETY: the call takes no pointer.
    let taken = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, from, 0) };
    let taken = descriptor(taken)?;
    // SAFETY: the kernel has just made it (close-on-exec), and nothing else owns it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(taken) };
    // Whoever asked has the link's number.
    Ok(Link { descriptor, points, kind, number: 0 })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The signals that a thread of this process blocks, as bits.
    fn blocked(thread: i32) -> u64 {
        let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap()
    }

    fn own_number() -> i32 {
        // SAFETY: the call has no preconditions.
        unsafe { libc::gettid() }
    }

    /// Check that a holder, and a thread that it starts, leave every signal to others, and that whoever starts
    /// one does not.
    #[test]
    fn holders_handle_no_signals() {
        let bits = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD, libc::SIGUSR1];
        let all = bits.iter().fold(0, |mask, signal| mask | 1u64 << (signal - 1));
        let before = blocked(own_number());
        let holder = without_signals(|| {
            thread::spawn(|| {
                let inner = thread::spawn(|| blocked(own_number()));
                (blocked(own_number()), inner.join().unwrap())
            })
        });
        let (own, inner) = holder.join().unwrap();
        assert_eq!((own & all, inner & all), (all, all));
        assert_eq!(blocked(own_number()), before);
        let mut holders = LinkHolders::new(Holding::InThreads, false);
        let process = holders.process().unwrap();
        let _holder = Holder::start(process).unwrap();
        let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
        let named = threads.filter(|thread| {
            fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name == "holder\n")
        });
        let masks: Vec<u64> = named
            .map(|thread| blocked(thread.file_name().to_str().unwrap().parse().unwrap()))
            .collect();
        assert!(!masks.is_empty() && masks.iter().all(|mask| mask & all == all), "{masks:x?}");
    }
}
