//! How many idle objects a pool keeps, and the count of what it gives away.

use nebula_memory_core::PressureLevel;

use crate::{PoolConfig, PoolStats, Shrink};

/// What [`maintain`](crate::ThreadSafePool::maintain) has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Maintained {
    /// Objects dropped, because they were more than are needed, or too old.
    pub dropped: u64,
    /// Objects made, because there were too few idle ones.
    pub made: u64,
}

impl Maintained {
    /// What happened between two looks at the books. While others use the pool, that contains what
    /// they did.
    pub(crate) fn between(before: &PoolStats, after: &PoolStats) -> Self {
        let gone = |stats: &PoolStats| stats.surplus.wrapping_add(stats.expired);
        Self {
            dropped: gone(after).wrapping_sub(gone(before)),
            made: after.created.wrapping_sub(before.created),
        }
    }
}

/// The settings about idle objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeping {
    pub(crate) min_idle: usize,
    max_idle: usize,
    shrink: Shrink,
}

impl Keeping {
    pub(crate) fn new(config: &PoolConfig) -> Self {
        Self {
            min_idle: config.min_idle,
            max_idle: config.max_idle.unwrap_or(usize::MAX),
            shrink: config.shrink,
        }
    }

    /// What a reclaim of that urgency may take at most, of `idle` objects.
    pub(crate) fn spare(&self, idle: usize, urgency: PressureLevel) -> usize {
        let kept = if urgency == PressureLevel::Critical { 0 } else { self.min_idle };
        idle.saturating_sub(kept)
    }

    /// About how many bytes a reclaim that is not critical would be given: of idle objects that are
    /// charged so much each.
    pub(crate) fn reclaimable(&self, charges: impl Iterator<Item = usize>) -> usize {
        let add = |(idle, bytes): (usize, usize), more| (idle + 1, bytes.saturating_add(more));
        let (idle, bytes) = charges.fold((0, 0), add);
        match idle.checked_sub(self.min_idle) {
            None | Some(0) => 0,
            Some(spare) => {
                let share = bytes as u128 * spare as u128 / idle as u128;
                usize::try_from(share).unwrap_or(usize::MAX)
            }
        }
    }

    /// How many of the `unused` objects have to go, and then how many others, of `idle` ones.
    pub(crate) fn surplus(&self, idle: usize, unused: usize) -> (usize, usize) {
        let spare = idle.saturating_sub(self.min_idle);
        let stale = self.shrink.share(unused).min(spare);
        (stale, (idle - stale).saturating_sub(self.max_idle))
    }
}

/// How many objects may go, and how many bytes are wanted: whichever is reached first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quota {
    objects: usize,
    bytes: usize,
    given: usize,
}

impl Quota {
    /// Whatever there is.
    pub(crate) const ALL: Self = Self::new(usize::MAX, usize::MAX);

    pub(crate) const fn new(objects: usize, bytes: usize) -> Self {
        Self { objects, bytes, given: 0 }
    }

    pub(crate) const fn objects(objects: usize) -> Self {
        Self::new(objects, usize::MAX)
    }

    pub(crate) const fn is_met(&self) -> bool {
        self.objects == 0 || self.given >= self.bytes
    }

    /// One object of `bytes` bytes goes.
    pub(crate) const fn give(&mut self, bytes: usize) {
        self.objects -= 1;
        self.given = self.given.saturating_add(bytes);
    }

    pub(crate) const fn bytes_given(&self) -> usize {
        self.given
    }
}

#[cfg(test)]
mod tests {
    use super::{Keeping, PressureLevel, Quota};
    use crate::{PoolConfig, Shrink};

    #[test]
    fn the_minimum_stays_and_the_maximum_is_kept() {
        let keeping = |shrink| {
            let config = PoolConfig::builder().min_idle(2).max_idle(5).shrink(shrink);
            Keeping::new(&config.build().unwrap())
        };
        assert_eq!(keeping(Shrink::Never).surplus(8, 8), (0, 3));
        assert_eq!(keeping(Shrink::Unused).surplus(8, 8), (6, 0));
        assert_eq!(keeping(Shrink::Unused).surplus(8, 1), (1, 2));
        assert_eq!(keeping(Shrink::HalfOfUnused).surplus(8, 3), (2, 1));
        assert_eq!(keeping(Shrink::Unused).surplus(1, 1), (0, 0));
    }

    #[test]
    fn what_is_kept_is_not_reclaimable() {
        let config = PoolConfig::builder().min_idle(2).build().unwrap();
        let keeping = Keeping::new(&config);
        assert_eq!(keeping.reclaimable([100; 3].into_iter()), 100);
        assert_eq!(keeping.reclaimable([100; 2].into_iter()), 0);
        assert_eq!(keeping.reclaimable([100; 1].into_iter()), 0);
        assert_eq!(keeping.spare(3, PressureLevel::High), 1);
        assert_eq!(keeping.spare(3, PressureLevel::Critical), 3);
    }

    #[test]
    fn a_quota_is_met_by_objects_or_by_bytes() {
        let mut quota = Quota::new(3, 100);
        quota.give(99);
        assert!(!quota.is_met());
        quota.give(1);
        assert!(quota.is_met() && quota.bytes_given() == 100);
        let mut quota = Quota::objects(1);
        quota.give(0);
        assert!(quota.is_met());
        assert!(!Quota::ALL.is_met());
    }
}
