//! A thread that maintains a pool.

use std::{
    fmt,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nebula_memory_core::{
    Account, MemoryError,
    panics::quietly,
    sync::{Arc, Condvar, Mutex, Weak},
};

use crate::{Poolable, TtlPool};

/// A thread that calls [`maintain`](TtlPool::maintain) of a pool from time to time; dropping this
/// ends it, and so does the end of the pool.
///
/// In between it keeps the pool's time: it reads the machine's clock sixteen times in the shorter one of
/// the pool's times, so that gets need not; unless that would be more than once in a millisecond.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use nebula_pool::{PoolConfig, TtlPool};
///
/// let config = PoolConfig::builder().min_idle(2).idle_time(Duration::from_secs(60)).build()?;
/// let pool = Arc::new(TtlPool::new(&config, String::new)?);
/// let maintainer = pool.maintain_every(Duration::from_millis(1))?;
/// while maintainer.rounds() == 0 {
///     std::thread::yield_now();
/// }
/// assert_eq!(pool.stats().idle, 2);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[must_use = "dropping a maintainer ends its thread"]
pub struct Maintainer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: Mutex<bool>,
    stopped: Condvar,
    rounds: AtomicU64,
    failures: AtomicU64,
}

impl Shared {
    /// Tells the thread to end.
    fn end(&self) {
        *self.stop.lock() = true;
        self.stopped.notify_all();
    }

    /// Waits for that long. `false` if the thread has to end.
    fn sleep(&self, time: Duration) -> bool {
        // A time too long for the clock ends with the maintainer.
        let end = Instant::now().checked_add(time);
        let mut stop = self.stop.lock();
        while !*stop {
            stop = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                None => self.stopped.wait(stop),
                Some(Duration::ZERO) => return true,
                Some(left) => self.stopped.wait_timeout(stop, left),
            };
        }
        false
    }
}

/// The threads that keep a pool's time.
#[derive(Debug)]
pub(crate) struct Keepers {
    /// How many of them are at it. While one maintains the pool, he is not.
    at_it: AtomicUsize,
    /// How often they read the clock; `None` if gets do so themselves.
    beat: Option<Duration>,
    /// The same in nanoseconds.
    late: u64,
    all: Mutex<Vec<Weak<Shared>>>,
}

impl Keepers {
    pub(crate) fn new(beat: Option<Duration>) -> Self {
        let beat = beat.filter(|beat| *beat >= Duration::from_millis(1));
        let late = beat.map_or(0, |beat| u64::try_from(beat.as_nanos()).unwrap_or(u64::MAX));
        Self { at_it: AtomicUsize::new(0), beat, late, all: Mutex::new(Vec::new()) }
    }

    /// By how many nanoseconds the pool's time may be late, if somebody keeps it.
    #[inline]
    pub(crate) fn late_by(&self) -> Option<u64> {
        (self.at_it.load(Relaxed) > 0).then_some(self.late)
    }

    fn add(&self, thread: &Arc<Shared>) {
        let mut all = self.all.lock();
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(thread));
    }

    /// The pool ends, and so do they.
    pub(crate) fn end(&self) {
        let all = std::mem::take(&mut *self.all.lock());
        all.iter().filter_map(Weak::upgrade).for_each(|thread| thread.end());
    }
}

/// Somebody keeps a pool's time until this is dropped.
struct AtIt<'k>(&'k Keepers);

impl<'k> AtIt<'k> {
    fn new(keepers: &'k Keepers) -> Self {
        keepers.at_it.fetch_add(1, Relaxed);
        Self(keepers)
    }
}

impl Drop for AtIt<'_> {
    fn drop(&mut self) {
        self.0.at_it.fetch_sub(1, Relaxed);
    }
}

impl Maintainer {
    /// How often the pool has been maintained, failures included.
    pub fn rounds(&self) -> u64 {
        self.shared.rounds.load(Relaxed)
    }

    /// Whether the thread has ended, because the pool has.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// How often that failed, because an object could not be made; it is tried again the next time.
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Relaxed)
    }
}

impl Drop for Maintainer {
    fn drop(&mut self) {
        self.shared.end();
        if let Some(thread) = self.thread.take() {
            // An object's drop may drop this on the thread itself, which then ends alone.
            if thread.thread().id() != thread::current().id() {
                // It runs no code of others that could panic outside of `quietly`.
                let _ = thread.join();
            }
        }
    }
}

impl fmt::Debug for Maintainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maintainer")
            .field("rounds", &self.rounds())
            .field("failures", &self.failures())
            .finish_non_exhaustive()
    }
}

impl<T, A> TtlPool<T, A>
where
    T: Poolable + Send + 'static,
    A: Account + Send + Sync + 'static,
{
    /// Starts a thread that [maintains](Self::maintain) the pool at once and then every `interval`,
    /// which is above zero. It does not keep the pool alive.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if the interval is zero; [`MemoryError::SourceUnavailable`] if
    /// the system starts no thread.
    pub fn maintain_every(self: &Arc<Self>, interval: Duration) -> Result<Maintainer, MemoryError> {
        if interval.is_zero() {
            return Err(MemoryError::invalid_config("interval", "0s", "must be above zero"));
        }
        let shared = Arc::new(Shared::default());
        let keepers = Arc::clone(&self.mode.keepers);
        keepers.add(&shared);
        let (pool, control) = (Arc::downgrade(self), Arc::clone(&shared));
        // The pool may end in any of these calls, with what its objects do then.
        let run = move || {
            loop {
                let Some(pool_now) = pool.upgrade() else { return };
                let done = quietly(move || pool_now.maintain().is_ok());
                if done != Some(true) {
                    control.failures.fetch_add(1, Relaxed);
                }
                let tick = || match pool.upgrade() {
                    Some(pool) => quietly(move || pool.tick()).is_some(),
                    None => false,
                };
                if !keep_time(&keepers, &control, interval, tick) {
                    return;
                }
            }
        };
        match thread::Builder::new().name("nebula-pool".to_owned()).spawn(run) {
            Ok(thread) => Ok(Maintainer { shared, thread: Some(thread) }),
            Err(error) => Err(MemoryError::source_unavailable("maintenance thread", error)),
        }
    }
}

/// Reads the clock for a pool, by `tick`, for so long. `false` if the thread has to end.
fn keep_time(
    keepers: &Keepers,
    control: &Shared,
    interval: Duration,
    tick: impl Fn() -> bool,
) -> bool {
    let end = Instant::now().checked_add(interval);
    if !tick() {
        return false;
    }
    let _at_it = keepers.beat.map(|_| AtIt::new(keepers));
    control.rounds.fetch_add(1, Relaxed);
    loop {
        let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return true;
        }
        let beat = keepers.beat.unwrap_or(Duration::MAX);
        if !control.sleep(left.min(beat)) || !tick() {
            return false;
        }
    }
}

#[cfg(all(test, not(nebula_loom)))]
mod tests {
    use std::time::Duration;

    use super::{AtIt, Keepers};

    #[test]
    fn time_is_kept_only_if_it_is_kept_well_enough() {
        let late_by = |beat: Option<u64>| {
            let keepers = Keepers::new(beat.map(Duration::from_micros));
            assert_eq!(keepers.late_by(), None, "nobody is at it");
            let _at_it = keepers.beat.map(|_| AtIt::new(&keepers));
            keepers.late_by()
        };
        assert_eq!(late_by(Some(1000)), Some(1_000_000));
        assert_eq!(late_by(Some(999)), None);
        assert_eq!(late_by(None), None);
    }
}
