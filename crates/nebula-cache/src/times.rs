//! What entries keep of time: until when they live, and when they were last used.

use std::{fmt::Debug, time::Duration};

use nebula_memory_core::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Relaxed},
};

use crate::wheel::{Links, Wheel};

/// What an entry keeps of time: [`Untimed`], [`Timed`], [`TimedAndIdle`], or one of these
/// [`Scheduled`].
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

/// Entries of a [`ScheduledCache`](crate::ScheduledCache): they keep what `T` keeps, are found when
/// they expire, and know whether their value is being refreshed. Takes 16 bytes more in each entry.
#[derive(Debug, Default)]
pub struct Scheduled<T> {
    times: T,
    links: Links,
    /// From when on a new value may be asked for; [`NEVER`] while somebody is getting one.
    refresh: AtomicU64,
}

/// The moment that never comes.
pub(crate) const NEVER: u64 = u64::MAX;

/// Nanoseconds of a duration, at most [`NEVER`].
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER)
}

pub(crate) mod sealed {
    use super::{
        AcqRel, AtomicU64, Debug, Links, NEVER, Relaxed, Scheduled, Timed, TimedAndIdle, Untimed,
        Wheel,
    };
    use crate::wheel::Schedule;

    pub trait Times: Default + Debug + Send + Sync + 'static {
        /// Whether anything is kept, so that the clock has to be read.
        const KEPT: bool;

        /// Whether idle time is kept.
        const IDLE: bool;

        /// What a store keeps, so that entries are found when they expire.
        type Schedule: Schedule;

        /// What an entry keeps that is placed at `now`; [`NEVER`] is no limit.
        fn new(now: u64, live: u64, idle: u64) -> Self;

        /// Whether the entry is no longer to be had at `now`.
        fn is_expired(&self, now: u64) -> bool;

        /// Notes that the entry is used at `now`.
        fn touch(&self, now: u64);

        /// When the entry expires, if nobody uses it any more; [`NEVER`] is possible.
        fn deadline(&self) -> u64;

        /// When the entry expires, used or not; [`NEVER`] is possible.
        fn until(&self) -> u64 {
            NEVER
        }

        /// Whether it is the caller who has to get a new value: the entry expires within `lead` of
        /// `now`, and nobody else is at it.
        #[inline]
        fn claim_refresh(&self, _now: u64, _lead: u64) -> bool {
            false
        }

        /// Whether somebody has claimed to get a new value of this very entry.
        fn is_refreshing(&self) -> bool {
            false
        }

        /// No new value was had; if it was to be, it may be asked for again from then on.
        fn end_refresh(&self, _again: u64) {}

        /// The entry's place in its store's schedule, if there is one.
        fn links(&self) -> Links {
            Links::default()
        }

        fn links_mut(&mut self) -> &mut Links {
            unreachable!("only scheduled entries are linked")
        }
    }

    impl Times for Untimed {
        const KEPT: bool = false;
        const IDLE: bool = false;
        type Schedule = ();

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
        type Schedule = ();

        fn new(now: u64, live: u64, _idle: u64) -> Self {
            Self { until: now.saturating_add(live) }
        }

        #[inline]
        fn is_expired(&self, now: u64) -> bool {
            self.until <= now && self.until != NEVER
        }

        #[inline]
        fn touch(&self, _now: u64) {}

        #[inline]
        fn until(&self) -> u64 {
            self.until
        }

        fn deadline(&self) -> u64 {
            self.until
        }
    }

    impl Times for TimedAndIdle {
        const KEPT: bool = true;
        const IDLE: bool = true;
        type Schedule = ();

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
        fn until(&self) -> u64 {
            self.until
        }

        #[inline]
        fn deadline(&self) -> u64 {
            self.until.min(self.used.load(Relaxed).saturating_add(self.idle))
        }
    }
    impl<T: Times> Times for Scheduled<T> {
        const KEPT: bool = T::KEPT;
        const IDLE: bool = T::IDLE;
        type Schedule = Wheel;

        fn new(now: u64, live: u64, idle: u64) -> Self {
            Self {
                times: T::new(now, live, idle),
                links: Links::default(),
                refresh: AtomicU64::new(0),
            }
        }

        #[inline]
        fn is_expired(&self, now: u64) -> bool {
            self.times.is_expired(now)
        }

        #[inline]
        fn touch(&self, now: u64) {
            self.times.touch(now);
        }

        #[inline]
        fn deadline(&self) -> u64 {
            self.times.deadline()
        }

        #[inline]
        fn until(&self) -> u64 {
            self.times.until()
        }

        #[inline]
        fn claim_refresh(&self, now: u64, lead: u64) -> bool {
            let until = self.until();
            if until.saturating_sub(lead) > now || until == NEVER {
                return false;
            }
            let from = self.refresh.load(Relaxed);
            from <= now && self.refresh.compare_exchange(from, NEVER, AcqRel, Relaxed).is_ok()
        }

        fn is_refreshing(&self) -> bool {
            self.refresh.load(Relaxed) == NEVER
        }

        fn end_refresh(&self, again: u64) {
            // (An entry that has taken the place of the one it was claimed for is left alone.)
            let _ = self.refresh.compare_exchange(NEVER, again, Relaxed, Relaxed);
        }

        #[inline]
        fn links(&self) -> Links {
            self.links
        }

        #[inline]
        fn links_mut(&mut self) -> &mut Links {
            &mut self.links
        }
    }
}
