//! Who gives memory back when it runs short, and the order in which they are asked.
//!
//! Rules that keep this free of deadlock, for everybody who implements or calls it:
//! - Nobody charges an account while holding a lock.
//! - A reclaimer takes its locks with `try_lock` and skips what it cannot have: it may run on any
//!   thread, even inside a charge that its own owner is making.
//! - A charge made inside a reclaim is refused without reclaiming again
//!   (see [`is_reclaiming`]).
//! - Nobody waits for a running reclaimer: one that runs already is skipped.

use std::{
    cell::Cell,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    PressureLevel,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

/// Something that can give memory back when asked: a cache, a pool with idle objects, a store of
/// spare chunks.
pub trait Reclaim: Send + Sync {
    /// An estimate of the bytes that [`reclaim`](Self::reclaim) could give back. Cheap; never
    /// blocks.
    fn reclaimable(&self) -> usize;

    /// Gives back `wanted` bytes or more, least valuable first, and returns the bytes really given
    /// back (zero if none could be). How much it hurts itself depends on `urgency`.
    ///
    /// It runs on a stranger's thread, inside that thread's allocation: it must not block, and what
    /// it charges is refused.
    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize;
}

/// What a round of reclaiming brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ReclaimReport {
    /// Bytes given back.
    pub given: usize,
    /// Reclaimers that were asked.
    pub asked: usize,
    /// Reclaimers that were skipped because they were running already.
    pub skipped: usize,
    /// Reclaimers that panicked; they count as having given nothing.
    pub panicked: usize,
}

impl ReclaimReport {
    /// The sums of both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            given: self.given.saturating_add(other.given),
            asked: self.asked + other.asked,
            skipped: self.skipped + other.skipped,
            panicked: self.panicked + other.panicked,
        }
    }
}

crate::nebula_thread_local! {
    static RECLAIMING: Cell<bool> = Cell::new(false)
}

/// Whether this thread is inside a reclaim. Budgets refuse charges then, without reclaiming again.
#[must_use]
pub fn is_reclaiming() -> bool {
    RECLAIMING.with(Cell::get)
}

/// Marks this thread as reclaiming until dropped.
struct Reclaiming;

impl Reclaiming {
    fn enter() -> Option<Self> {
        RECLAIMING.with(|flag| if flag.replace(true) { None } else { Some(Self) })
    }
}

impl Drop for Reclaiming {
    fn drop(&mut self) {
        RECLAIMING.with(|flag| flag.set(false));
    }
}

struct Entry {
    name: Box<str>,
    priority: u8,
    running: AtomicBool,
    target: Weak<dyn Reclaim>,
}

/// Copied on write, so that a reclaim iterates without a lock and without allocating.
type Entries = Arc<[Arc<Entry>]>;

/// The reclaimers of a process, or of one subtree of budgets. A cheap handle; clones share.
///
/// Lower priorities are asked first: give what is cheapest to lose (idle objects, spare chunks) a
/// low one and what costs to make again (cached results) a higher one. Among equals, whoever
/// registered first is asked first.
///
/// Registering and unregistering take O(n) in the number of registrations.
///
/// ```
/// use std::sync::{Arc, Weak, atomic::{AtomicUsize, Ordering}};
/// use nebula_memory_core::{PressureLevel, Reclaim, ReclaimRegistry};
///
/// struct Spare(AtomicUsize);
/// impl Reclaim for Spare {
///     fn reclaimable(&self) -> usize { self.0.load(Ordering::Relaxed) }
///     fn reclaim(&self, wanted: usize, _urgency: PressureLevel) -> usize {
///         let given = wanted.min(self.reclaimable());
///         self.0.fetch_sub(given, Ordering::Relaxed);
///         given
///     }
/// }
///
/// let registry = ReclaimRegistry::new();
/// let spare = Arc::new(Spare(AtomicUsize::new(100)));
/// let weak: Weak<dyn Reclaim> = Arc::downgrade(&spare) as _;
/// let registration = registry.register("spare", 0, weak);
/// assert_eq!(registry.reclaim(30, PressureLevel::High).given, 30);
/// drop(registration);
/// assert_eq!(registry.reclaim(30, PressureLevel::High).given, 0);
/// ```
#[derive(Clone)]
pub struct ReclaimRegistry {
    entries: Arc<Mutex<Entries>>,
}

impl Default for ReclaimRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl ReclaimRegistry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: Arc::new(Mutex::new(Arc::new([]))) }
    }

    /// Adds `target`, called `name` in reports, until the registration is dropped or `target` is.
    pub fn register(
        &self,
        name: impl Into<Box<str>>,
        priority: u8,
        target: Weak<dyn Reclaim>,
    ) -> Registration {
        let running = AtomicBool::new(false);
        let entry = Arc::new(Entry { name: name.into(), priority, running, target });
        self.replace(|entries| {
            let live = entries.iter().filter(|e| e.target.strong_count() > 0);
            let mut list: Vec<_> = live.cloned().collect();
            let at = list.partition_point(|e| e.priority <= priority);
            list.insert(at, Arc::clone(&entry));
            list.into()
        });
        Registration { registry: Some(self.clone()), entry }
    }

    /// Replaces the list under the lock and drops the old one (and with it, perhaps, the last
    /// traces of a reclaimer) after it.
    fn replace(&self, change: impl FnOnce(&Entries) -> Entries) {
        let old = {
            let mut entries = self.entries.lock();
            let new = change(&entries);
            std::mem::replace(&mut *entries, new)
        };
        drop(old);
    }

    fn entries(&self) -> Entries {
        Arc::clone(&self.entries.lock())
    }

    /// How many live reclaimers are registered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries().iter().filter(|e| e.target.strong_count() > 0).count()
    }

    /// Whether there is nobody to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names, priorities and estimates of all live reclaimers, in the order of asking.
    #[must_use]
    pub fn list(&self) -> Vec<(String, u8, usize)> {
        let live = |e: &Arc<Entry>| {
            let target = e.target.upgrade()?;
            Some((e.name.to_string(), e.priority, target.reclaimable()))
        };
        self.entries().iter().filter_map(live).collect()
    }

    /// The sum of the reclaimers' estimates, in bytes.
    #[must_use]
    pub fn reclaimable(&self) -> usize {
        let estimate = |e: &Arc<Entry>| e.target.upgrade().map_or(0, |t| t.reclaimable());
        self.entries().iter().map(estimate).fold(0, usize::saturating_add)
    }

    /// Asks the reclaimers in order until `wanted` bytes have been given back.
    ///
    /// Called from inside a reclaim, it does nothing. A reclaimer that panics is counted and passed
    /// over: its panic is not the asker's.
    pub fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> ReclaimReport {
        let mut report = ReclaimReport::default();
        let Some(_reclaiming) = Reclaiming::enter() else { return report };
        for entry in self.entries().iter() {
            if report.given >= wanted {
                break;
            }
            let Some(target) = entry.target.upgrade() else { continue };
            if entry.running.swap(true, Ordering::Acquire) {
                report.skipped += 1;
                continue;
            }
            let missing = wanted - report.given;
            // The reclaimer's own state is its own matter; ours is not touched by its code.
            // `target` is dropped in there, too: it may be the last handle by now.
            let given = catch_unwind(AssertUnwindSafe(move || target.reclaim(missing, urgency)));
            entry.running.store(false, Ordering::Release);
            report.asked += 1;
            match given {
                Ok(given) => report.given = report.given.saturating_add(given),
                Err(_) => report.panicked += 1,
            }
        }
        report
    }
}

impl fmt::Debug for ReclaimRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries().iter().map(|e| &e.name)).finish()
    }
}

/// Keeps a reclaimer registered; dropping it unregisters.
#[must_use = "dropping a registration ends it"]
pub struct Registration {
    /// `None` once detached.
    registry: Option<ReclaimRegistry>,
    entry: Arc<Entry>,
}

impl Registration {
    /// The name under which the reclaimer is registered.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// Keeps the reclaimer registered until it is dropped itself.
    pub fn detach(mut self) {
        self.registry = None;
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("name", &self.entry.name)
            .field("priority", &self.entry.priority)
            .finish_non_exhaustive()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(registry) = &self.registry else { return };
        registry.replace(|entries| {
            let others = entries.iter().filter(|e| !Arc::ptr_eq(e, &self.entry));
            others.cloned().collect()
        });
    }
}
