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

    /// The values of the objects that go next: those above `floor`, up to the one that this returns.
    /// `None` if no object has such a value. The objects, of which this is told the values and the
    /// bytes, are to go in order of value.
    ///
    /// All objects up to that value may go, or else it is the least value of all.
    pub(crate) fn ceiling(
        &self,
        floor: Option<u64>,
        objects: impl Iterator<Item = (u64, usize)>,
    ) -> Option<u64> {
        if self.objects == usize::MAX && self.bytes == usize::MAX {
            return floor.is_none().then_some(u64::MAX);
        }
        let mut least = Least { values: [OfValue::default(); AT_ONCE], len: 0 };
        objects
            .filter(|(value, _)| Some(*value) > floor)
            .for_each(|(v, bytes)| least.note(v, bytes));
        let mut quota = *self;
        let mut ceiling = None;
        for of_value in &least.values[..least.len] {
            quota.objects = quota.objects.saturating_sub(of_value.objects);
            quota.given = quota.given.saturating_add(of_value.bytes);
            if ceiling.is_some() && quota.is_met() {
                break;
            }
            ceiling = Some(of_value.value);
        }
        ceiling
    }
}

/// How many values are looked at in one go.
const AT_ONCE: usize = 32;

/// What there is of objects of one value.
#[derive(Clone, Copy, Debug, Default)]
struct OfValue {
    value: u64,
    objects: usize,
    bytes: usize,
}

/// The least values that there are, in their order, and what there is of each.
struct Least {
    values: [OfValue; AT_ONCE],
    len: usize,
}

impl Least {
    fn note(&mut self, value: u64, bytes: usize) {
        let at = self.values[..self.len].partition_point(|other| other.value < value);
        let Some(there) = self.values.get_mut(at) else { return };
        if at < self.len && there.value == value {
            there.objects += 1;
            there.bytes = there.bytes.saturating_add(bytes);
            return;
        }
        // The largest makes room, if need be.
        self.len = (self.len + 1).min(AT_ONCE);
        self.values[at..self.len].rotate_right(1);
        self.values[at] = OfValue { value, objects: 1, bytes };
    }
}

#[cfg(test)]
mod tests {
    use super::{AT_ONCE, Keeping, PressureLevel, Quota};
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
    fn values_go_together_as_long_as_all_of_them_may() {
        let objects = || [(5, 10), (3, 10), (9, 10), (3, 10)].into_iter();
        let ceiling = |quota: Quota, floor| quota.ceiling(floor, objects());
        assert_eq!(ceiling(Quota::ALL, None), Some(u64::MAX));
        assert_eq!(ceiling(Quota::ALL, Some(u64::MAX)), None);
        assert_eq!(ceiling(Quota::objects(1), None), Some(3), "one of two");
        assert_eq!(ceiling(Quota::objects(3), None), Some(3), "the next one would end it");
        assert_eq!(ceiling(Quota::objects(5), None), Some(9));
        assert_eq!(ceiling(Quota::new(9, 31), None), Some(5));
        assert_eq!(ceiling(Quota::new(9, 31), Some(3)), Some(9));
        assert_eq!(ceiling(Quota::new(9, 31), Some(9)), None);
    }

    #[test]
    fn of_many_values_the_least_go_first() {
        let values = || (0..1000_u64).rev().map(|n| (n * 7 % 1000, 1));
        let first = Quota::objects(2000).ceiling(None, values()).unwrap();
        assert_eq!(first, AT_ONCE as u64 - 1);
        assert_eq!(Quota::objects(2000).ceiling(Some(first), values()), Some(2 * first + 1));
        assert_eq!(Quota::objects(2000).ceiling(Some(998), values()), Some(999));
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
