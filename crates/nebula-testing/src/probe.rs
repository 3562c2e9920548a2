//! Probes: values that report when they are dropped, and code that panics on demand.

use std::{
    cmp::Ordering,
    collections::HashSet,
    hash::{Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// Marks a live probe, and one that was dropped.
const ALIVE: u64 = 0x616c_6976_6521_2121;
const DEAD: u64 = 0x6465_6164_2121_2121;

#[derive(Debug, Default)]
struct Births {
    next_id: u64,
    live: HashSet<u64>,
    order: Vec<u64>,
    double_drops: usize,
}

/// Counters are never freed (they stay reachable from here), so that a probe that is dropped a
/// second time still finds its own.
static ALL: Mutex<Vec<&'static Mutex<Births>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes [`DropProbe`]s and counts them: how many live, how many were dropped, in what order.
/// Clones count together.
///
/// ```
/// use nebula_testing::DropCounter;
/// let counter = DropCounter::new();
/// let (a, b) = (counter.probe(1), counter.probe(2));
/// drop(b);
/// assert_eq!((counter.live(), counter.dropped()), (1, vec![2]));
/// drop(a);
/// counter.assert_all_dropped();
/// ```
#[derive(Clone, Copy, Debug)]
pub struct DropCounter(&'static Mutex<Births>);

impl Default for DropCounter {
    fn default() -> Self {
        Self::new()
    }
}

impl DropCounter {
    /// A counter of its own.
    #[must_use]
    pub fn new() -> Self {
        let births: &'static Mutex<Births> = Box::leak(Box::default());
        lock(&ALL).push(births);
        Self(births)
    }

    /// A new probe with `tag`, by which it compares, hashes and is reported.
    #[must_use]
    pub fn probe(&self, tag: u64) -> DropProbe {
        let mut births = lock(self.0);
        let id = births.next_id;
        births.next_id += 1;
        births.live.insert(id);
        DropProbe { counter: *self, mark: ALIVE, id, tag }
    }

    /// Probes that were made, clones included.
    #[must_use]
    pub fn made(&self) -> usize {
        usize::try_from(lock(self.0).next_id).unwrap_or(usize::MAX)
    }

    /// Probes that were not dropped yet.
    #[must_use]
    pub fn live(&self) -> usize {
        lock(self.0).live.len()
    }

    /// How many drops there were.
    #[must_use]
    pub fn drops(&self) -> usize {
        lock(self.0).order.len()
    }

    /// The tags of dropped probes, in the order of the drops.
    #[must_use]
    pub fn dropped(&self) -> Vec<u64> {
        lock(self.0).order.clone()
    }

    /// Checks that every probe was dropped, and once.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_all_dropped(&self) {
        let births = lock(self.0);
        let (live, twice) = (births.live.len(), births.double_drops);
        drop(births);
        assert_eq!(twice, 0, "{twice} probes were dropped twice");
        assert_eq!(live, 0, "{live} probes were never dropped");
    }

    /// Checks that `live` probes live and none was dropped twice.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_live(&self, live: usize) {
        let births = lock(self.0);
        let (found, twice) = (births.live.len(), births.double_drops);
        drop(births);
        assert_eq!(twice, 0, "{twice} probes were dropped twice");
        assert_eq!(found, live, "{found} probes live, expected {live}");
    }
}

/// A value that tells its [`DropCounter`] when it is dropped; a second drop is noted and panics.
///
/// Equality, order and hash are those of the tag. A clone is a new probe with the same tag.
#[derive(Debug)]
pub struct DropProbe {
    counter: DropCounter,
    mark: u64,
    id: u64,
    tag: u64,
}

impl DropProbe {
    /// What the probe was made with.
    #[must_use]
    pub const fn tag(&self) -> u64 {
        self.tag
    }
}

impl Clone for DropProbe {
    fn clone(&self) -> Self {
        self.counter.probe(self.tag)
    }
}

impl PartialEq for DropProbe {
    fn eq(&self, other: &Self) -> bool {
        self.tag == other.tag
    }
}

impl Eq for DropProbe {}

impl PartialOrd for DropProbe {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DropProbe {
    fn cmp(&self, other: &Self) -> Ordering {
        self.tag.cmp(&other.tag)
    }
}

impl Hash for DropProbe {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.tag.hash(state);
    }
}

impl Drop for DropProbe {
    fn drop(&mut self) {
        let mark = std::mem::replace(&mut self.mark, DEAD);
        assert!(mark == ALIVE || mark == DEAD, "a probe's memory was overwritten before its drop");
        let mut births = lock(self.counter.0);
        if births.live.remove(&self.id) {
            births.order.push(self.tag);
            return;
        }
        births.double_drops += 1;
        drop(births);
        assert!(thread::panicking(), "probe {} was dropped twice", self.tag);
    }
}

/// What an injected panic carries. It is raised without the panic hook, so that tests stay quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InjectedPanic;

/// Panics at one chosen call and is silent at all others. Clones count together.
///
/// ```
/// use nebula_testing::{PanicOn, catch};
/// let on = PanicOn::nth(1);
/// let results: Vec<_> = (0..3).map(|_| catch(|| on.tick()).is_err()).collect();
/// assert_eq!(results, [false, true, false]);
/// assert!(on.fired());
/// ```
#[derive(Clone, Debug)]
pub struct PanicOn {
    calls: Arc<AtomicUsize>,
    nth: Arc<AtomicUsize>,
}

impl PanicOn {
    /// Panics at call `n`; the first call is number zero.
    #[must_use]
    pub fn nth(n: usize) -> Self {
        Self { calls: Arc::default(), nth: Arc::new(AtomicUsize::new(n)) }
    }

    /// Panics at no call.
    #[must_use]
    pub fn never() -> Self {
        Self::nth(usize::MAX)
    }

    /// Counts from zero again and panics at call `n` from now.
    pub fn arm(&self, n: usize) {
        self.calls.store(0, SeqCst);
        self.nth.store(n, SeqCst);
    }

    /// One call.
    ///
    /// # Panics
    /// If it is the chosen one, with an [`InjectedPanic`].
    pub fn tick(&self) {
        if self.calls.fetch_add(1, SeqCst) == self.nth.load(SeqCst) {
            resume_unwind(Box::new(InjectedPanic));
        }
    }

    /// Calls since it was made or armed.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    /// Whether the chosen call has happened.
    #[must_use]
    pub fn fired(&self) -> bool {
        self.calls() > self.nth.load(SeqCst)
    }
}

/// A value whose `Clone` calls [`PanicOn::tick`].
#[derive(Debug)]
pub struct ClonePanics<T> {
    /// The value.
    pub value: T,
    /// When cloning panics.
    pub on: PanicOn,
}

impl<T: Clone> Clone for ClonePanics<T> {
    fn clone(&self) -> Self {
        self.on.tick();
        Self { value: self.value.clone(), on: self.on.clone() }
    }
}

/// A value whose `Drop` calls [`PanicOn::tick`]; the value inside is dropped all the same.
#[derive(Debug)]
pub struct DropPanics<T> {
    /// The value.
    pub value: T,
    /// When dropping panics.
    pub on: PanicOn,
}

impl<T> Drop for DropPanics<T> {
    fn drop(&mut self) {
        // A second panic would abort the process and hide what the test is about.
        if !thread::panicking() {
            self.on.tick();
        }
    }
}

/// Runs `body` and returns its panic as a text (that of an [`InjectedPanic`] is `injected`).
///
/// # Errors
/// The message of the panic.
pub fn catch<R>(body: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| {
        if panic.is::<InjectedPanic>() {
            "injected".to_owned()
        } else if let Some(text) = panic.downcast_ref::<&str>() {
            (*text).to_owned()
        } else if let Some(text) = panic.downcast_ref::<String>() {
            text.clone()
        } else {
            "a panic without a message".to_owned()
        }
    })
}
