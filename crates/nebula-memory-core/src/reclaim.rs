//! Who gives memory back when it runs short, and the order in which they are asked.
//!
//! Rules that keep this free of deadlock, for everybody who implements or calls it:
//! - Nobody charges an account while holding a lock.
//! - A reclaimer takes its locks with `try_lock` and skips what it cannot have: it may run on any
//!   thread, even inside a charge that its own owner is making.
//! - A charge made inside a reclaim is refused without reclaiming again
//!   (see [`is_reclaiming`]).
//! - Nobody waits for a running reclaimer: one that runs already is skipped.

use std::{cell::Cell, fmt, ops::RangeInclusive};

use crate::{
    PressureLevel,
    panics::quietly,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
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
    order: Order,
    running: AtomicBool,
    /// The latest spread round in which it had less than was asked for.
    spent: AtomicU64,
    target: Weak<dyn Reclaim>,
}

/// Place in the order of asking: lower priority first, then whoever registered first.
type Order = (u8, u64);

impl Entry {
    fn is_live(&self) -> bool {
        self.target.strong_count() > 0
    }

    /// What it says it could give; nothing if it is gone, or panics.
    fn estimate(&self) -> usize {
        // The target is dropped in there, too: it may be the last handle by now.
        let target = self.target.upgrade();
        target.and_then(|target| quietly(move || target.reclaimable())).unwrap_or(0)
    }

    /// Asks for `wanted` bytes, adds to `report` what came of it, and returns how much was given.
    fn ask(&self, wanted: usize, urgency: PressureLevel, report: &mut ReclaimReport) -> usize {
        if self.running.swap(true, Ordering::Acquire) {
            report.skipped += 1;
            return 0;
        }
        let Some(target) = self.target.upgrade() else {
            self.running.store(false, Ordering::Release);
            return 0;
        };
        // The reclaimer's own state is its own matter; ours is not touched by its code.
        // `target` is dropped in there, too: it may be the last handle by now.
        let given = quietly(move || target.reclaim(wanted, urgency));
        self.running.store(false, Ordering::Release);
        report.asked += 1;
        report.panicked += usize::from(given.is_none());
        let given = given.unwrap_or(0);
        report.given = report.given.saturating_add(given);
        given
    }
}

struct Entries {
    /// How many registrations there have ever been.
    next: u64,
    /// Sorted. Memory is neither allocated nor freed under the lock: where the global allocator
    /// charges an account, that could lead to a reclaim, and back here.
    list: Vec<Arc<Entry>>,
}

/// The reclaimers of a process, or of one subtree of budgets. A cheap handle; clones share.
///
/// Lower priorities are asked first: give what is cheapest to lose (idle objects, spare chunks) a
/// low one and what costs to make again (cached results) a higher one. Among equals, whoever
/// registered first is asked first; or, by [`reclaim_spread`](Self::reclaim_spread), each in
/// proportion to what it has.
///
/// Registering and unregistering take O(n) in the number of registrations; a round of asking takes
/// O(log n) for each reclaimer, and neither it nor unregistering allocates.
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
        Self { entries: Arc::new(Mutex::new(Entries { next: 0, list: Vec::new() })) }
    }

    /// Adds `target`, called `name` in reports, until the registration is dropped or `target` is.
    pub fn register(
        &self,
        name: impl Into<Box<str>>,
        priority: u8,
        target: Weak<dyn Reclaim>,
    ) -> Registration {
        let order = {
            let mut entries = self.entries.lock();
            entries.next += 1;
            (priority, entries.next - 1)
        };
        let running = AtomicBool::new(false);
        let spent = AtomicU64::new(0);
        let entry = Arc::new(Entry { name: name.into(), order, running, spent, target });
        let mut list = Vec::new();
        loop {
            let mut entries = self.entries.lock();
            if list.capacity() > entries.list.len() {
                let live = entries.list.iter().filter(|e| e.is_live());
                list.extend(live.cloned());
                let at = list.partition_point(|e| e.order < order);
                list.insert(at, Arc::clone(&entry));
                std::mem::swap(&mut list, &mut entries.list);
                break;
            }
            let needed = entries.list.len() + 1;
            drop(entries);
            list = Vec::with_capacity(needed);
        }
        // The old list is dropped here, without the lock, and with it the last traces of reclaimers
        // that are gone.
        Registration { registry: Some(self.clone()), entry }
    }

    /// The entries in the order of asking, those registered before this call, found one by one:
    /// no lock is held in between.
    fn iter(&self) -> impl Iterator<Item = Arc<Entry>> + '_ {
        let end = self.entries.lock().next;
        let mut last = None;
        std::iter::from_fn(move || {
            let entries = self.entries.lock();
            let from = entries.list.partition_point(|e| Some(e.order) <= last);
            let next = entries.list[from..].iter().find(|e| e.order.1 < end).cloned();
            drop(entries);
            last = next.as_ref().map(|e| e.order).or(last);
            next
        })
    }

    /// The lowest priority, `from` or higher, at which a live reclaimer is registered.
    #[must_use]
    pub fn next_priority(&self, from: u8) -> Option<u8> {
        let entries = self.entries.lock();
        let at = entries.list.partition_point(|e| e.order.0 < from);
        entries.list[at..].iter().find(|e| e.is_live()).map(|e| e.order.0)
    }

    /// How many live reclaimers are registered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.lock().list.iter().filter(|e| e.is_live()).count()
    }

    /// Whether there is nobody to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names, priorities and estimates of all live reclaimers, in the order of asking. One that
    /// panics has nothing.
    #[must_use]
    pub fn list(&self) -> Vec<(String, u8, usize)> {
        let line = |e: Arc<Entry>| (e.name.to_string(), e.order.0, e.estimate());
        self.iter().filter(|e| e.is_live()).map(line).collect()
    }

    /// The sum of the reclaimers' estimates, in bytes.
    #[must_use]
    pub fn reclaimable(&self) -> usize {
        self.iter().map(|e| e.estimate()).fold(0, usize::saturating_add)
    }

    /// Asks the reclaimers in order until `wanted` bytes have been given back.
    ///
    /// Those that are registered while it runs are asked the next time.
    ///
    /// Called from inside a reclaim, it does nothing. A reclaimer that panics is counted and passed
    /// over: its panic is not the asker's.
    pub fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> ReclaimReport {
        self.reclaim_among(0..=u8::MAX, wanted, urgency)
    }

    /// As [`reclaim`](Self::reclaim), but asks those of the given priorities only: for whoever has
    /// several registries and wants the idle of all before the hot of any.
    pub fn reclaim_among(
        &self,
        priorities: RangeInclusive<u8>,
        wanted: usize,
        urgency: PressureLevel,
    ) -> ReclaimReport {
        let mut report = ReclaimReport::default();
        let Some(_reclaiming) = Reclaiming::enter() else { return report };
        for entry in self.iter().filter(|e| priorities.contains(&e.order.0)) {
            if report.given >= wanted {
                break;
            }
            entry.ask(wanted - report.given, urgency, &mut report);
        }
        report
    }

    /// Asks the reclaimers of several registries (of tenants, for example) as if they were one,
    /// until `wanted` bytes have been given back: the lowest priority of all first, which is what is
    /// idle, and within one priority each in proportion to what it says it could give. What some had
    /// less than they said, the others of that priority are asked for before the next one is.
    ///
    /// Everything else is as in [`reclaim`](Self::reclaim). Allocates nothing; each reclaimer is
    /// asked twice at most.
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
    /// let spares = [300, 100].map(|bytes| Arc::new(Spare(AtomicUsize::new(bytes))));
    /// let registries = [ReclaimRegistry::new(), ReclaimRegistry::new()];
    /// for (registry, spare) in registries.iter().zip(&spares) {
    ///     registry.register("spare", 0, Arc::downgrade(spare) as Weak<dyn Reclaim>).detach();
    /// }
    /// let report = ReclaimRegistry::reclaim_spread(&registries, 40, PressureLevel::High);
    /// assert_eq!(report.given, 40);
    /// assert_eq!(spares.map(|spare| spare.reclaimable()), [270, 90]);
    /// ```
    pub fn reclaim_spread(
        registries: &[Self],
        wanted: usize,
        urgency: PressureLevel,
    ) -> ReclaimReport {
        let mut report = ReclaimReport::default();
        let Some(_reclaiming) = Reclaiming::enter() else { return report };
        let round = ROUND.fetch_add(1, Ordering::Relaxed);
        let mut from = Some(0);
        while let Some(lowest) = from.filter(|_| report.given < wanted) {
            let next = |registry: &Self| registry.next_priority(lowest);
            let Some(priority) = registries.iter().filter_map(next).min() else { break };
            Self::spread_once(registries, priority, wanted, urgency, round, &mut report);
            from = priority.checked_add(1);
        }
        report
    }

    /// A round of [`reclaim_spread`](Self::reclaim_spread) among those of one priority.
    fn spread_once(
        registries: &[Self],
        priority: u8,
        wanted: usize,
        urgency: PressureLevel,
        round: u64,
        report: &mut ReclaimReport,
    ) {
        let all = || registries.iter().flat_map(Self::iter).filter(|e| e.order.0 == priority);
        let total = all().fold(0_u128, |sum, entry| sum + entry.estimate() as u128).max(1);
        let missing = wanted - report.given;
        for entry in all() {
            let left = wanted.saturating_sub(report.given);
            let share = (missing as u128 * entry.estimate() as u128).div_ceil(total);
            let share = usize::try_from(share).unwrap_or(left).min(left);
            if share > 0 && entry.ask(share, urgency, report) < share {
                entry.spent.store(round, Ordering::Relaxed);
            }
        }
        // The rest comes from those who gave their share, or said that they had nothing.
        for entry in all().filter(|entry| entry.spent.load(Ordering::Relaxed) != round) {
            if report.given >= wanted {
                break;
            }
            entry.ask(wanted - report.given, urgency, report);
        }
    }
}

/// Tells rounds of [`ReclaimRegistry::reclaim_spread`] apart; zero is none of them.
static ROUND: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

impl fmt::Debug for ReclaimRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        self.iter().for_each(|e| {
            list.entry(&e.name);
        });
        list.finish()
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
            .field("priority", &self.entry.order.0)
            .finish_non_exhaustive()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(registry) = &self.registry else { return };
        let mut entries = registry.entries.lock();
        // It may have been swept up with its target. Removing frees nothing under the lock: the
        // registration holds the entry until after it.
        if let Ok(at) = entries.list.binary_search_by_key(&self.entry.order, |e| e.order) {
            entries.list.remove(at);
        }
    }
}
