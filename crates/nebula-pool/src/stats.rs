//! What a pool tells about itself.

use std::{fmt, time::Duration};

/// The figures of a pool at one moment.
///
/// They are exact once no get, return or reclaim is in flight; then
/// `created == lent + idle + destroyed + detached`. Totals count from the making of the pool.
///
/// ```
/// use nebula_pool::{PoolConfig, ThreadSafePool};
///
/// let pool = ThreadSafePool::new(&PoolConfig::default(), String::new)?;
/// drop(pool.try_get()?);
/// drop(pool.try_get()?);
/// let stats = pool.stats();
/// assert_eq!((stats.created, stats.idle, stats.gets, stats.reuses), (1, 1, 2, 1));
/// assert_eq!(stats.reuse_rate(), 0.5);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PoolStats {
    /// The most objects that can be lent at once.
    pub capacity: usize,
    /// Places for objects that are allocated; fewer than `capacity` where the pool
    /// [grows](crate::PoolConfig::growth).
    pub places: usize,
    /// Objects that are lent now, or on their way out or back.
    pub lent: usize,
    /// Objects that wait to be lent.
    pub idle: usize,
    /// Objects made and charged.
    pub created: u64,
    /// Objects dropped by the pool, for whatever reason; the next eight say for which.
    pub destroyed: u64,
    /// Of these: their `is_valid` said no.
    pub invalidated: u64,
    /// Of these: their `reset`, `is_valid` or `heap_size` panicked.
    pub quarantined: u64,
    /// Of these: they came back larger than [`retained_size`](crate::PoolConfig::retained_size).
    pub oversized: u64,
    /// Of these: they came back larger than before, and the account refused the growth.
    pub unaffordable: u64,
    /// Of these: they were idle, and their memory was wanted (by a reclaim or a trim).
    pub reclaimed: u64,
    /// Of these: they were idle, and `maintain` found them to be more than are needed.
    pub surplus: u64,
    /// Of these: they were too old, or idle for too long.
    pub expired: u64,
    /// Of these: their [`try_reset`](crate::Poolable::try_reset) said no.
    pub spoiled: u64,
    /// Objects that left the pool by `detach`.
    pub detached: u64,
    /// Objects that came from another level of a [tree](crate::HierarchicalPool) of pools.
    pub borrowed: u64,
    /// Objects that went to another level of a tree of pools.
    pub passed: u64,
    /// Objects lent.
    pub gets: u64,
    /// Of these: served by an object that had been made before.
    pub reuses: u64,
    /// Gets that found nothing and stood in line, whatever came of it.
    pub waited: u64,
    /// How long those stood there together who do no more. Of the first 64 that is exact; of the
    /// others one in eight is timed, and stands for eight.
    pub wait_time: Duration,
    /// The most objects that were lent at one time, if
    /// [`track_peak`](crate::PoolConfig::track_peak) is on.
    pub peak_lent: Option<usize>,
    /// The longest that an object was lent, of those that came back, if
    /// [`track_holders`](crate::PoolConfig::track_holders) is on.
    pub longest_hold: Option<Duration>,
}

impl PoolStats {
    /// The part of the gets that was served without making an object; zero before the first get.
    #[must_use]
    pub fn reuse_rate(&self) -> f64 {
        if self.gets == 0 { 0.0 } else { self.reuses as f64 / self.gets as f64 }
    }

    /// How long those who waited did so on average; zero if nobody has.
    #[must_use]
    pub fn mean_wait(&self) -> Duration {
        let nanos = self.wait_time.as_nanos().checked_div(u128::from(self.waited)).unwrap_or(0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The sums of both, for pools that belong together; of peaks, too (an upper bound), but for
    /// the longest hold, which is the longer one.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let either = |a: Option<usize>, b: Option<usize>| match (a, b) {
            (Some(a), Some(b)) => Some(a.saturating_add(b)),
            _ => a.or(b),
        };
        Self {
            capacity: self.capacity.saturating_add(other.capacity),
            places: self.places.saturating_add(other.places),
            lent: self.lent.saturating_add(other.lent),
            idle: self.idle.saturating_add(other.idle),
            created: self.created.wrapping_add(other.created),
            destroyed: self.destroyed.wrapping_add(other.destroyed),
            invalidated: self.invalidated.wrapping_add(other.invalidated),
            quarantined: self.quarantined.wrapping_add(other.quarantined),
            oversized: self.oversized.wrapping_add(other.oversized),
            unaffordable: self.unaffordable.wrapping_add(other.unaffordable),
            reclaimed: self.reclaimed.wrapping_add(other.reclaimed),
            surplus: self.surplus.wrapping_add(other.surplus),
            expired: self.expired.wrapping_add(other.expired),
            spoiled: self.spoiled.wrapping_add(other.spoiled),
            detached: self.detached.wrapping_add(other.detached),
            borrowed: self.borrowed.wrapping_add(other.borrowed),
            passed: self.passed.wrapping_add(other.passed),
            gets: self.gets.wrapping_add(other.gets),
            reuses: self.reuses.wrapping_add(other.reuses),
            waited: self.waited.wrapping_add(other.waited),
            wait_time: self.wait_time.saturating_add(other.wait_time),
            peak_lent: either(self.peak_lent, other.peak_lent),
            longest_hold: self.longest_hold.max(other.longest_hold),
        }
    }
}

impl fmt::Display for PoolStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lent and {} idle of {}", self.lent, self.idle, self.capacity)?;
        if let Some(peak) = self.peak_lent {
            write!(f, " (peak {peak} lent)")?;
        }
        write!(f, "; {} gets, {:.1} % reused", self.gets, self.reuse_rate() * 100.0)?;
        write!(f, ", {} waited", self.waited)?;
        if self.waited > 0 {
            write!(f, " for {:?}", self.mean_wait())?;
        }
        let (created, destroyed, detached) = (self.created, self.destroyed, self.detached);
        write!(f, "; {created} created, {destroyed} destroyed, {detached} detached")?;
        if self.borrowed + self.passed > 0 {
            write!(f, ", {} borrowed, {} passed on", self.borrowed, self.passed)?;
        }
        let causes = [
            (self.invalidated, "invalid"),
            (self.quarantined, "quarantined"),
            (self.oversized, "oversized"),
            (self.unaffordable, "unaffordable"),
            (self.reclaimed, "reclaimed"),
            (self.surplus, "surplus"),
            (self.expired, "expired"),
            (self.spoiled, "spoiled"),
        ];
        let mut separator = "; destroyed: ";
        for (count, cause) in causes.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{count} {cause}")?;
            separator = ", ";
        }
        if let Some(hold) = self.longest_hold {
            write!(f, "; held for {hold:?} at most")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::PoolStats;

    #[test]
    fn the_text_names_what_happened_and_nothing_else() {
        let mut stats =
            PoolStats { capacity: 8, lent: 2, idle: 1, created: 4, ..Default::default() };
        assert_eq!(
            stats.to_string(),
            "2 lent and 1 idle of 8; 0 gets, 0.0 % reused, 0 waited; \
             4 created, 0 destroyed, 0 detached"
        );
        stats = PoolStats {
            gets: 10,
            reuses: 9,
            destroyed: 3,
            oversized: 1,
            reclaimed: 2,
            waited: 2,
            wait_time: Duration::from_millis(6),
            peak_lent: Some(5),
            longest_hold: Some(Duration::from_secs(2)),
            ..stats
        };
        assert_eq!(
            stats.to_string(),
            "2 lent and 1 idle of 8 (peak 5 lent); 10 gets, 90.0 % reused, 2 waited for 3ms; \
             4 created, 3 destroyed, 0 detached; destroyed: 1 oversized, 2 reclaimed; \
             held for 2s at most"
        );
    }

    #[test]
    fn sums_add_everything_but_the_longest_hold() {
        let one = PoolStats {
            capacity: 1,
            expired: 2,
            peak_lent: Some(3),
            longest_hold: Some(Duration::from_secs(1)),
            ..Default::default()
        };
        let sum = one.plus(&one).plus(&PoolStats::default());
        assert_eq!((sum.capacity, sum.expired, sum.peak_lent), (2, 4, Some(6)));
        assert_eq!(sum.longest_hold, Some(Duration::from_secs(1)));
    }
}
