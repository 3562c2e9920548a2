//! The pool whose objects grow old.
//!
//! An object's end is a point in time that is known when it is idle: its last return and the idle
//! time, or its birth and the lifetime, whichever is first. A get compares that with the time, which
//! it reads, unless a [`Maintainer`](crate::Maintainer) keeps the pool's own time up to date. A return
//! reads no clock: the idle time begins at the latest time that the pool knew of then, so that it is
//! never too long.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use nebula_memory_core::{Account, Clock, MemoryError, MonotonicClock, Unlimited, sync::Arc};

use crate::{
    PoolConfig, Poolable,
    alike::constructors,
    coarse,
    config::Abilities,
    maintainer::Keepers,
    slots::{SlotPool, mode::Mode},
};

/// A [`ThreadSafePool`](crate::ThreadSafePool) whose objects are dropped when they have been idle
/// for too long ([`idle_time`](PoolConfig::idle_time)), or are too old
/// ([`lifetime`](PoolConfig::lifetime)): connections that the other side closes, buffers of a busy
/// hour.
///
/// Both times are staggered: each object gets between seven eighths and the whole of them, so that
/// what was made together does not end together (and a sixteenth less of it while a
/// [`Maintainer`](crate::Maintainer) runs). An object that is over its time is not lent any
/// more, and [`maintain`](Self::maintain) drops it; who is lent an object keeps it for as long as he
/// likes.
///
/// # How time passes
/// Every get reads the clock. By default that is one that is late by some milliseconds where the
/// system has such a clock and the times are a second or more, because it costs a fifth of the exact
/// one. While a [`Maintainer`](crate::Maintainer) runs, gets go by the time that its thread
/// keeps, and read no clock at all, if the times are 16 milliseconds or more and by the machine's
/// clock. (If that thread is held up, so is the pool's time.)
///
/// Returns never read a clock. An idle time begins at the last time that anybody read it before the
/// object came back. Objects that are lent for long from a pool that nobody else uses or
/// [maintains](Self::maintain) are thus replaced too early, and never too late.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use nebula_memory_core::{ManualClock, Unlimited};
/// use nebula_pool::{PoolConfig, TtlPool};
///
/// let config = PoolConfig::builder().lifetime(Duration::from_secs(60)).build()?;
/// let clock = Arc::new(ManualClock::new());
/// let pool = TtlPool::with_clock(&config, Unlimited, clock.clone(), || Ok(String::new()))?;
///
/// drop(pool.try_get()?);
/// clock.advance(Duration::from_secs(61));
/// drop(pool.try_get()?); // another one
/// assert_eq!((pool.stats().created, pool.stats().expired), (2, 1));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub type TtlPool<T, A = Unlimited> = SlotPool<T, A, Expiring>;

/// Where the time comes from.
enum Time {
    Coarse,
    Given(Arc<dyn Clock>),
}

impl Time {
    /// The machine's clock for times of which that is the shortest.
    fn of_machine(shortest: u64) -> Self {
        const SECOND: u64 = 1_000_000_000;
        if coarse::AVAILABLE && shortest >= SECOND {
            Self::Coarse
        } else {
            Self::Given(Arc::new(MonotonicClock::new()))
        }
    }
}

/// A time that never ends (73 years), and the largest that is reckoned with: sums of a few have room
/// in a number.
const NEVER: u64 = 1 << 61;

/// Objects that grow old. All times are in nanoseconds.
pub struct Expiring {
    time: Time,
    /// The latest time that is known, or one that is at most `grain` behind it.
    known: AtomicU64,
    grain: u64,
    /// How long an object may be idle, and how old it may become.
    idle_time: u64,
    lifetime: u64,
    /// Farther away than any end, as long as the clock is right.
    farthest: u64,
    /// How many objects were made, to stagger their times.
    births: AtomicU64,
    pub(crate) keepers: Arc<Keepers>,
}

/// When an object ends. Written by the slot's owner.
#[derive(Debug, Default)]
pub struct Ends {
    /// If it is never idle for too long.
    last: AtomicU64,
    /// As things are, if it is idle from now on.
    next: AtomicU64,
    /// How long it may be idle.
    idle: AtomicU64,
}

fn to_nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What is left of `time` when it is staggered.
fn staggered(time: u64, stagger: u64) -> u64 {
    let less = (u128::from(time / 8) * u128::from(stagger)) >> u64::BITS;
    // Less than an eighth of it, so that it is a number again.
    time - u64::try_from(less).unwrap_or(0)
}

impl Expiring {
    fn new(config: &PoolConfig, clock: Option<Arc<dyn Clock>>) -> Self {
        let nanos = |time: Option<Duration>| time.map_or(NEVER, |time| to_nanos(time).min(NEVER));
        let (idle_time, lifetime) = (nanos(config.idle_time), nanos(config.lifetime));
        let shortest = idle_time.min(lifetime);
        // A clock of somebody else may go as it likes between two looks.
        let beat = clock.is_none().then(|| Duration::from_nanos(shortest / 16));
        let keepers = Arc::new(Keepers::new(beat));
        let mode = Self {
            time: clock.map_or_else(|| Time::of_machine(shortest), Time::Given),
            known: AtomicU64::new(0),
            grain: (shortest / 1024).max(1),
            idle_time,
            lifetime,
            farthest: 2 * shortest,
            births: AtomicU64::new(0),
            keepers,
        };
        mode.read();
        mode
    }

    /// The time, for a get that has to read it. A function of its own, so that gets that need not
    /// stay small.
    #[inline(never)]
    fn look(&self) -> u64 {
        let now = self.clock();
        // Seldom, so that threads share it. A clock that has gone back is far from what was known.
        if now.wrapping_sub(self.known.load(Relaxed)) >= self.grain {
            self.known.store(now, Relaxed);
        }
        now
    }

    #[inline]
    fn clock(&self) -> u64 {
        match &self.time {
            Time::Coarse => coarse::now(),
            Time::Given(clock) => to_nanos(clock.now()).min(NEVER),
        }
    }
}

impl Mode for Expiring {
    const NAME: &'static str = "TtlPool";
    type Stamp = Ends;

    fn born(&self, ends: &Ends) {
        let now = self.read();
        // Fibonacci hashing: the n-th object's number lies far from those of its neighbours.
        let number = self.births.fetch_add(1, Relaxed);
        let stagger = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ends.last.store(now.saturating_add(staggered(self.lifetime, stagger)), Relaxed);
        ends.idle.store(staggered(self.idle_time, stagger), Relaxed);
        self.come_back(ends);
    }

    #[inline]
    fn come_back(&self, ends: &Ends) {
        // No sum of times is too large: see `NEVER`.
        let idle = self.known.load(Relaxed).wrapping_add(ends.idle.load(Relaxed));
        ends.next.store(ends.last.load(Relaxed).min(idle), Relaxed);
    }

    fn read(&self) -> u64 {
        let now = self.clock();
        self.known.store(now, Relaxed);
        now
    }

    #[inline]
    fn now(&self) -> u64 {
        if let Some(late) = self.keepers.late_by() {
            return self.known.load(Relaxed).wrapping_add(late);
        }
        self.look()
    }

    /// Whether that time has come; or whether the end is so far away that the clock has been turned
    /// back since.
    #[inline]
    fn is_stale(&self, ends: &Ends, now: u64) -> bool {
        let left = ends.next.load(Relaxed).wrapping_sub(now);
        left.wrapping_sub(1) >= self.farthest
    }
}

impl Drop for Expiring {
    fn drop(&mut self) {
        self.keepers.end();
    }
}

impl fmt::Debug for Expiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expiring").field("known", &self.known).finish_non_exhaustive()
    }
}

constructors!(TtlPool, [Send + Sync + 'static] -> Self);

impl<T: Poolable, A: Account> TtlPool<T, A> {
    /// A pool whose objects are made by `factory`, which can fail, and charged to `account`.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if `config` is not valid for this pool; the refusal of the
    /// account (or of the system) if there is no room for the table of slots, the factory, or the
    /// objects of the warm-up; the error of the factory. Then nothing stays charged.
    pub fn try_new_in<F>(config: &PoolConfig, account: A, factory: F) -> Result<Self, MemoryError>
    where
        F: Fn() -> Result<T, MemoryError> + Send + Sync + 'static,
    {
        Self::make_with(config, account, None, factory)
    }

    /// As [`try_new_in`](Self::try_new_in), with objects that grow old by `clock`.
    ///
    /// # Errors
    /// Those of [`try_new_in`](Self::try_new_in).
    pub fn with_clock<F>(
        config: &PoolConfig,
        account: A,
        clock: Arc<dyn Clock>,
        factory: F,
    ) -> Result<Self, MemoryError>
    where
        F: Fn() -> Result<T, MemoryError> + Send + Sync + 'static,
    {
        Self::make_with(config, account, Some(clock), factory)
    }

    fn make_with<F>(
        config: &PoolConfig,
        account: A,
        clock: Option<Arc<dyn Clock>>,
        factory: F,
    ) -> Result<Self, MemoryError>
    where
        F: Fn() -> Result<T, MemoryError> + Send + Sync + 'static,
    {
        let mode = Expiring::new(config, clock);
        Self::make_pool(config, account, Abilities { fifo: false, ttl: true }, mode, factory)
    }

    /// Reads the clock, for those who don't: idle times of what comes back from now on begin now.
    pub fn tick(&self) {
        self.mode.read();
    }
}
