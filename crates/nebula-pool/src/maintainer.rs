//! A thread that maintains a pool.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nebula_memory_core::{
    Account, MemoryError,
    panics::quietly,
    sync::{Arc, Condvar, Mutex},
};

use crate::{Poolable, TtlPool};

/// A thread that calls [`maintain`](TtlPool::maintain) of a pool from time to time; dropping this
/// ends it, and so does the end of the pool.
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

impl Maintainer {
    /// How often the pool has been maintained, failures included.
    pub fn rounds(&self) -> u64 {
        self.shared.rounds.load(Relaxed)
    }

    /// How often that failed, because an object could not be made; it is tried again the next time.
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Relaxed)
    }
}

impl Drop for Maintainer {
    fn drop(&mut self) {
        *self.shared.stop.lock() = true;
        self.shared.stopped.notify_all();
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
    /// Starts a thread that [maintains](Self::maintain) the pool at once and then every `interval`.
    /// It does not keep the pool alive.
    ///
    /// # Errors
    /// [`MemoryError::SourceUnavailable`] if the system starts no thread.
    pub fn maintain_every(self: &Arc<Self>, interval: Duration) -> Result<Maintainer, MemoryError> {
        let shared = Arc::new(Shared::default());
        let (pool, control) = (Arc::downgrade(self), Arc::clone(&shared));
        let run = move || {
            loop {
                let Some(pool) = pool.upgrade() else { return };
                // The pool may end here, with what its objects do then.
                let done = quietly(move || pool.maintain().is_ok());
                if done != Some(true) {
                    control.failures.fetch_add(1, Relaxed);
                }
                control.rounds.fetch_add(1, Relaxed);
                if !control.sleep(interval) {
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
