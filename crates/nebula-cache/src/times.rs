//! What entries keep of time: until when they live, and when they were last used.

use std::{fmt::Debug, time::Duration};

use nebula_memory_core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What an entry keeps of time: [`Untimed`], [`Timed`] or [`TimedAndIdle`].
pub trait Times: sealed::Times {}

impl<T: sealed::Times> Times for T {}

/// Entries do not expire, and the cache looks at no clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Untimed;

/// Entries may have a time to live. Takes 8 bytes in each entry, and each lookup reads the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timed {
    /// Nanoseconds on the cache's clock.
    until: u64,
}

/// Entries may have a time to live, and a time that they may lie idle. Takes 24 bytes in each entry,
/// and each lookup reads the clock.
#[derive(Debug, Default)]
pub struct TimedAndIdle {
    until: u64,
    idle: u64,
    used: AtomicU64,
}

/// The moment that never comes.
pub(crate) const NEVER: u64 = u64::MAX;

/// Nanoseconds of a duration, at most [`NEVER`].
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER)
}

pub(crate) mod sealed {
    use super::{AtomicU64, Debug, NEVER, Relaxed, Timed, TimedAndIdle, Untimed};

    pub trait Times: Default + Debug + Send + Sync + 'static {
        /// Whether anything is kept, so that the clock has to be read.
        const KEPT: bool;

        /// Whether idle time is kept.
        const IDLE: bool;

        /// What an entry keeps that is placed at `now`; [`NEVER`] is no limit.
        fn new(now: u64, live: u64, idle: u64) -> Self;

        /// Whether the entry is no longer to be had at `now`.
        fn is_expired(&self, now: u64) -> bool;

        /// Notes that the entry is used at `now`.
        fn touch(&self, now: u64);

        /// When the entry expires, if nobody uses it any more; [`NEVER`] is possible.
        fn deadline(&self) -> u64;
    }

    impl Times for Untimed {
        const KEPT: bool = false;
        const IDLE: bool = false;

        fn new(_now: u64, _live: u64, _idle: u64) -> Self {
            Self
        }

        #[inline]
        fn is_expired(&self, _now: u64) -> bool {
            false
        }

        #[inline]
        fn touch(&self, _now: u64) {}

        fn deadline(&self) -> u64 {
            NEVER
        }
    }

    impl Times for Timed {
        const KEPT: bool = true;
        const IDLE: bool = false;

        fn new(now: u64, live: u64, _idle: u64) -> Self {
            Self { until: now.saturating_add(live) }
        }

        #[inline]
        fn is_expired(&self, now: u64) -> bool {
            self.until <= now && self.until != NEVER
        }

        #[inline]
        fn touch(&self, _now: u64) {}

        fn deadline(&self) -> u64 {
            self.until
        }
    }

    impl Times for TimedAndIdle {
        const KEPT: bool = true;
        const IDLE: bool = true;

        fn new(now: u64, live: u64, idle: u64) -> Self {
            Self { until: now.saturating_add(live), idle, used: AtomicU64::new(now) }
        }

        #[inline]
        fn is_expired(&self, now: u64) -> bool {
            let deadline = self.deadline();
            deadline <= now && deadline != NEVER
        }

        #[inline]
        fn touch(&self, now: u64) {
            // Two threads may have read the clock in the other order, which costs the difference.
            self.used.store(now, Relaxed);
        }

        #[inline]
        fn deadline(&self) -> u64 {
            self.until.min(self.used.load(Relaxed).saturating_add(self.idle))
        }
    }
}
