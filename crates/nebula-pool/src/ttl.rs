//! The pool whose objects grow old.
//!
//! Nobody reads a clock on the way of a get that finds its thread's object, or of a return. The pool
//! has a time of its own, which stands still until somebody reads the clock for it: `maintain`,
//! `tick`, and gets that had to look around anyway. A return notes nothing but that the object has
//! not been seen idle yet; the next `maintain` that sees it so starts its idle time. Idle times are
//! therefore never cut short, and at most one interval of maintenance too long.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use nebula_memory_core::{
    Account, Clock, MemoryError, MonotonicClock, Unlimited, WaitQueue, sync::Arc,
};

use crate::{
    PoolConfig, Poolable,
    config::Abilities,
    slots::{SlotPool, mode::Mode},
};

/// A [`ThreadSafePool`](crate::ThreadSafePool) whose objects are dropped when they have been idle
/// for too long ([`idle_time`](PoolConfig::idle_time)), or are too old
/// ([`lifetime`](PoolConfig::lifetime)): connections that the other side closes, buffers of a busy
/// hour.
///
/// Both times are staggered: each object gets between seven eighths and the whole of them, so that
/// what was made together does not end together. An object that is over its time is not lent any
/// more, and [`maintain`](Self::maintain) drops it; who is lent an object keeps it for as long as he
/// likes.
///
/// Time passes for the pool when somebody tells it: [`maintain`](Self::maintain), which should be
/// called at least several times per `idle_time` (by hand, or by the thread of
/// [`maintain_every`](Self::maintain_every)), [`tick`](Self::tick), and gets that do not find what
/// their thread had last. Gets that do, and returns, read no clock.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use nebula_memory_core::{ManualClock, Unlimited};
/// use nebula_pool::{PoolConfig, TtlPool};
///
/// let config = PoolConfig::builder().lifetime(Duration::from_secs(60)).build()?;
/// let clock = Arc::new(ManualClock::new());
/// let pool = TtlPool::try_new_in(&config, Unlimited, clock.clone(), || Ok(String::new()))?;
///
/// drop(pool.try_get()?);
/// clock.advance(Duration::from_secs(61));
/// pool.tick();
/// drop(pool.try_get()?); // another one
/// assert_eq!((pool.stats().created, pool.stats().expired), (2, 1));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub type TtlPool<T, A = Unlimited> = SlotPool<T, A, Expiring>;

/// Objects that grow old.
pub struct Expiring {
    clock: Arc<dyn Clock>,
    /// The pool's time in nanoseconds. It never goes backwards.
    now: AtomicU64,
    /// How long an object may be idle; `u64::MAX` if that does not matter.
    idle_time: u64,
    /// How old an object may become; `u64::MAX` if that does not matter.
    lifetime: u64,
    /// How many objects were made, to stagger their times.
    births: AtomicU64,
}

/// When an object ends. Written by the slot's owner, except that `maintain` starts idle times; it
/// may do so for an object that has come back in the meantime, which does no harm.
#[derive(Debug, Default)]
pub struct Ends {
    /// If it is never idle for too long.
    last: AtomicU64,
    /// As things are: `last` while it has not been seen idle.
    next: AtomicU64,
    /// What the times are staggered by.
    stagger: AtomicU64,
}

impl Expiring {
    fn new(config: &PoolConfig, clock: Arc<dyn Clock>) -> Self {
        let nanos = |time: Option<Duration>| time.map_or(u64::MAX, to_nanos);
        let mode = Self {
            clock,
            now: AtomicU64::new(0),
            idle_time: nanos(config.idle_time),
            lifetime: nanos(config.lifetime),
            births: AtomicU64::new(0),
        };
        mode.tick();
        mode
    }

    /// The end of a time that begins now.
    fn end(&self, time: u64, stagger: u64) -> u64 {
        if time == u64::MAX {
            return time;
        }
        let less = (u128::from(time / 8) * u128::from(stagger)) >> u64::BITS;
        // Less than an eighth of it, so that it is a number again.
        let less = u64::try_from(less).unwrap_or(0);
        self.now.load(Relaxed).saturating_add(time - less)
    }
}

fn to_nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX - 1)
}

impl Mode for Expiring {
    const NAME: &'static str = "TtlPool";
    type Stamp = Ends;
    type Line<V> = WaitQueue<V>;

    fn line<V>(&self) -> WaitQueue<V> {
        WaitQueue::new()
    }

    fn born(&self, ends: &Ends) {
        self.tick();
        // Fibonacci hashing: the n-th object's number lies far from those of its neighbours.
        let number = self.births.fetch_add(1, Relaxed);
        let stagger = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ends.stagger.store(stagger, Relaxed);
        ends.last.store(self.end(self.lifetime, stagger), Relaxed);
        self.come_back(ends);
    }

    #[inline]
    fn come_back(&self, ends: &Ends) {
        ends.next.store(ends.last.load(Relaxed), Relaxed);
    }

    #[inline]
    fn is_stale(&self, ends: &Ends) -> bool {
        self.now.load(Relaxed) >= ends.next.load(Relaxed)
    }

    fn tick(&self) {
        self.now.fetch_max(to_nanos(self.clock.now()), Relaxed);
    }

    fn see_idle(&self, ends: &Ends) {
        let last = ends.last.load(Relaxed);
        let end = self.end(self.idle_time, ends.stagger.load(Relaxed)).min(last);
        // Unless it has been seen before, or is another object's by now.
        let _ = ends.next.compare_exchange(last, end, Relaxed, Relaxed);
    }
}

impl fmt::Debug for Expiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expiring").field("now", &self.now).finish_non_exhaustive()
    }
}

impl<T: Poolable> TtlPool<T> {
    /// A pool whose objects are made by `factory` and charged to nobody, by the machine's clock.
    ///
    /// # Errors
    /// Those of [`try_new_in`](Self::try_new_in).
    pub fn new<F>(config: &PoolConfig, factory: F) -> Result<Self, MemoryError>
    where
        F: Fn() -> T + Send + Sync + 'static,
    {
        Self::try_new(config, move || Ok(factory()))
    }

    /// A pool whose objects are made by `factory`, which can fail, and charged to nobody, by the
    /// machine's clock.
    ///
    /// # Errors
    /// Those of [`try_new_in`](Self::try_new_in).
    pub fn try_new<F>(config: &PoolConfig, factory: F) -> Result<Self, MemoryError>
    where
        F: Fn() -> Result<T, MemoryError> + Send + Sync + 'static,
    {
        Self::try_new_in(config, Unlimited, Arc::new(MonotonicClock::new()), factory)
    }
}

impl<T: Poolable, A: Account> TtlPool<T, A> {
    /// A pool whose objects are made by `factory`, which can fail, and charged to `account`, and
    /// grow old by `clock`.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if `config` is not valid for this pool; the refusal of the account (or of the system) if there is no room for
    /// the table of slots, the factory, or the objects of the warm-up; the error of the factory.
    /// Then nothing stays charged.
    pub fn try_new_in<F>(
        config: &PoolConfig,
        account: A,
        clock: Arc<dyn Clock>,
        factory: F,
    ) -> Result<Self, MemoryError>
    where
        F: Fn() -> Result<T, MemoryError> + Send + Sync + 'static,
    {
        let mode = Expiring::new(config, clock);
        Self::make_pool(config, account, Abilities { fifo: false, ttl: true }, mode, factory)
    }

    /// Reads the clock: what is over its time from now on is not lent any more.
    pub fn tick(&self) {
        self.mode.tick();
    }
}
