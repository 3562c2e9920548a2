//! What is watched only if it is wanted: the peak of lent objects, and who holds which since when.

use std::{
    collections::HashMap,
    fmt,
    panic::Location,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    thread::{self, Thread, ThreadId},
    time::{Duration, Instant},
};

use nebula_memory_core::sync::Mutex;

use crate::{PoolConfig, PoolStats};

/// Where in the code an object was taken.
pub(crate) type Site = &'static Location<'static>;

/// Who holds an object, as [`track_holders`](PoolConfig::track_holders) notes it.
///
/// ```
/// use nebula_pool::{PoolConfig, ThreadSafePool};
///
/// let config = PoolConfig::builder().track_holders(true).build()?;
/// let pool = ThreadSafePool::new(&config, String::new)?;
/// let held = pool.try_get()?;
/// let holders = pool.holders();
/// assert_eq!((holders.len(), holders[0].location.line()), (1, line!() - 2));
/// println!("{}", holders[0]); // #0 lent at src/main.rs:6 by thread `main`, 1.2µs ago
/// # drop(held);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Holder {
    /// Which get it was, of all that were tracked in this pool: the same number in two reports is the
    /// same hold.
    pub number: u64,
    /// Where in the code it was taken.
    pub location: &'static Location<'static>,
    /// For how long it has been held.
    pub held_for: Duration,
    /// The thread that took it.
    pub thread_id: ThreadId,
    /// Its name, if it has one.
    pub thread: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} lent at {}:{}", self.number, self.location.file(), self.location.line())?;
        match &self.thread {
            Some(thread) => write!(f, " by thread `{thread}`")?,
            None => write!(f, " by {:?}", self.thread_id)?,
        }
        write!(f, ", {:?} ago", self.held_for)
    }
}

/// One lent object.
struct Held {
    number: u64,
    site: Site,
    since: Instant,
    thread: Thread,
}

struct Holders {
    /// By the address of the slot. Nothing is allocated under the lock.
    held: Mutex<HashMap<usize, Held>>,
    longest_nanos: AtomicU64,
    next_number: AtomicU64,
}

impl Holders {
    fn insert(&self, slot: usize, new: Held) {
        // Room for more; what it replaces is freed at the end, without the lock.
        let mut room = HashMap::new();
        let mut held = self.held.lock();
        while held.len() == held.capacity() {
            if room.capacity() > held.len() {
                room.extend(held.drain());
                std::mem::swap(&mut room, &mut held);
            } else {
                let needed = (2 * held.len()).max(16);
                drop(held);
                room.reserve(needed);
                held = self.held.lock();
            }
        }
        let older = held.insert(slot, new);
        drop(held);
        drop(older);
    }
}

#[derive(Default)]
struct Lent {
    now: AtomicUsize,
    peak: AtomicUsize,
}

/// What a pool watches, if anything.
pub(crate) struct Watch {
    lent: Option<Lent>,
    holders: Option<Holders>,
}

impl Watch {
    pub(crate) fn new(config: &PoolConfig) -> Option<Box<Self>> {
        let holders = || Holders {
            held: Mutex::new(HashMap::new()),
            longest_nanos: AtomicU64::new(0),
            next_number: AtomicU64::new(0),
        };
        let watch = Self {
            lent: config.track_peak.then(Lent::default),
            holders: config.track_holders.then(holders),
        };
        (config.track_peak || config.track_holders).then(|| Box::new(watch))
    }

    /// The object in the slot at `slot` has been lent.
    #[cold]
    #[inline(never)]
    pub(crate) fn lend(&self, slot: usize, site: Site) {
        if let Some(lent) = &self.lent {
            let now = lent.now.fetch_add(1, Relaxed) + 1;
            if now > lent.peak.load(Relaxed) {
                lent.peak.fetch_max(now, Relaxed);
            }
        }
        if let Some(holders) = &self.holders {
            let number = holders.next_number.fetch_add(1, Relaxed);
            let held = Held { number, site, since: Instant::now(), thread: thread::current() };
            holders.insert(slot, held);
        }
    }

    /// The object in the slot at `slot` has come back.
    #[cold]
    #[inline(never)]
    pub(crate) fn come_back(&self, slot: usize) {
        if let Some(lent) = &self.lent {
            lent.now.fetch_sub(1, Relaxed);
        }
        if let Some(holders) = &self.holders {
            let held = holders.held.lock().remove(&slot);
            if let Some(held) = held {
                let nanos = u64::try_from(held.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
                holders.longest_nanos.fetch_max(nanos, Relaxed);
            }
        }
    }

    /// Who holds what, those who have held theirs for longest first.
    pub(crate) fn holders(&self) -> Vec<Holder> {
        let Some(holders) = &self.holders else { return Vec::new() };
        let mut list = Vec::new();
        loop {
            let held = holders.held.lock();
            if list.capacity() >= held.len() {
                let copy = |held: &Held| Held { thread: held.thread.clone(), ..*held };
                list.extend(held.values().map(copy));
                break;
            }
            let needed = held.len();
            drop(held);
            list = Vec::with_capacity(needed);
        }
        list.sort_by_key(|held| (held.since, held.number));
        // One moment for all, so that who took his earlier has held it longer.
        let now = Instant::now();
        let holder = |held: Held| Holder {
            number: held.number,
            location: held.site,
            held_for: now.saturating_duration_since(held.since),
            thread_id: held.thread.id(),
            thread: held.thread.name().map(str::to_owned),
        };
        list.into_iter().map(holder).collect()
    }

    /// Adds what is watched.
    pub(crate) fn complete(&self, stats: &mut PoolStats) {
        stats.peak_lent = self.lent.as_ref().map(|lent| lent.peak.load(Relaxed));
        let longest = |h: &Holders| Duration::from_nanos(h.longest_nanos.load(Relaxed));
        stats.longest_hold = self.holders.as_ref().map(longest);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("peak", &self.lent.is_some())
            .field("holders", &self.holders.is_some())
            .finish()
    }
}
