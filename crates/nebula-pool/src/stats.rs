//! What a pool tells about itself.

use std::fmt;

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
    /// Objects that are lent now, or on their way out or back.
    pub lent: usize,
    /// Objects that wait to be lent.
    pub idle: usize,
    /// Objects made and charged.
    pub created: u64,
    /// Objects dropped by the pool, for whatever reason; the next five say for which.
    pub destroyed: u64,
    /// Of these: their `is_valid` said no.
    pub invalidated: u64,
    /// Of these: their `reset`, `is_valid` or `heap_size` panicked.
    pub quarantined: u64,
    /// Of these: they came back larger than [`retained_size`](crate::PoolConfig::retained_size).
    pub oversized: u64,
    /// Of these: they came back larger than before, and the account refused the growth.
    pub unaffordable: u64,
    /// Of these: they were idle, and their memory was wanted.
    pub reclaimed: u64,
    /// Objects that left the pool by `detach`.
    pub detached: u64,
    /// Objects lent.
    pub gets: u64,
    /// Of these: served by an object that had been made before.
    pub reuses: u64,
    /// Gets that found nothing and stood in line, whatever came of it.
    pub waited: u64,
    /// The most objects that were lent at one time, if
    /// [`track_peak`](crate::PoolConfig::track_peak) is on.
    pub peak_lent: Option<usize>,
}

impl PoolStats {
    /// The part of the gets that was served without making an object; zero before the first get.
    #[must_use]
    pub fn reuse_rate(&self) -> f64 {
        if self.gets == 0 { 0.0 } else { self.reuses as f64 / self.gets as f64 }
    }
}

impl fmt::Display for PoolStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lent and {} idle of {}", self.lent, self.idle, self.capacity)?;
        if let Some(peak) = self.peak_lent {
            write!(f, " (peak {peak} lent)")?;
        }
        write!(
            f,
            "; {} gets, {:.1} % reused, {} waited; {} created, {} destroyed, {} detached",
            self.gets,
            self.reuse_rate() * 100.0,
            self.waited,
            self.created,
            self.destroyed,
            self.detached,
        )?;
        let causes = [
            (self.invalidated, "invalid"),
            (self.quarantined, "quarantined"),
            (self.oversized, "oversized"),
            (self.unaffordable, "unaffordable"),
            (self.reclaimed, "reclaimed"),
        ];
        let mut separator = "; destroyed: ";
        for (count, cause) in causes.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{count} {cause}")?;
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
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
            peak_lent: Some(5),
            ..stats
        };
        assert_eq!(
            stats.to_string(),
            "2 lent and 1 idle of 8 (peak 5 lent); 10 gets, 90.0 % reused, 0 waited; \
             4 created, 3 destroyed, 0 detached; destroyed: 1 oversized, 2 reclaimed"
        );
    }
}
