//! The choices that a configuration consists of.

/// How a pool's places for objects come about.
///
/// Places are allocated in segments, and charged, and stay where they are. Whatever the growth, there
/// are never more than [`capacity`](crate::PoolConfig::capacity).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Growth {
    /// All places are there from the beginning.
    #[default]
    None,
    /// That many places more each time that all are taken, from the beginning on; above zero.
    Fixed(usize),
    /// That many places in the beginning, above zero, and each time as many more as there are.
    Doubling(usize),
}

impl Growth {
    /// How many segments make up `capacity`, if none is larger than `most`: the number of
    /// [`segments`](Self::segments), which may be too many to go through.
    pub(crate) fn count(self, capacity: usize, most: usize) -> usize {
        match self {
            Self::None => capacity.div_ceil(most),
            Self::Fixed(step) => capacity.div_ceil(step.min(most).max(1)),
            Self::Doubling(first) => {
                let (mut count, mut there) = (0, 0);
                while there < capacity {
                    let size = there.max(first).min(most).max(1);
                    if size == most {
                        return count + (capacity - there).div_ceil(most);
                    }
                    there = there.saturating_add(size);
                    count += 1;
                }
                count
            }
        }
    }

    /// The sizes of the segments that make up `capacity`, none larger than `most`.
    pub(crate) fn segments(self, capacity: usize, most: usize) -> impl Iterator<Item = usize> {
        let mut left = capacity;
        std::iter::from_fn(move || {
            let there = capacity - left;
            let wanted = match self {
                Self::None => left,
                Self::Fixed(step) => step,
                Self::Doubling(first) => there.max(first),
            };
            let size = wanted.min(left).min(most);
            left -= size;
            (size > 0).then_some(size)
        })
    }
}

/// Which idle objects `maintain` drops, beyond those above
/// [`max_idle`](crate::PoolConfig::max_idle).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Shrink {
    /// None: idle objects stay until they are trimmed or reclaimed.
    #[default]
    Never,
    /// Those that were not lent since the last `maintain`.
    Unused,
    /// Half of those, rounded up: a pool that was large once becomes small over some calls.
    HalfOfUnused,
}

impl Shrink {
    /// How many of `unused` objects are to go.
    pub(crate) const fn share(self, unused: usize) -> usize {
        match self {
            Self::Never => 0,
            Self::Unused => unused,
            Self::HalfOfUnused => unused.div_ceil(2),
        }
    }
}

/// Which idle object is lent next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Order {
    /// The one that came back last, which is still in the processor's caches. Pools with
    /// thread-affine slots lend a thread the one that this thread had last.
    #[default]
    Lifo,
    /// The one that has been idle for longest: all are used equally. For `ObjectPool` and
    /// `HierarchicalPool`; the others refuse it.
    Fifo,
}

/// What happens to an object that comes back larger than
/// [`retained_size`](crate::PoolConfig::retained_size).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Oversized {
    /// It is dropped.
    #[default]
    Drop,
    /// It is asked to [shrink](crate::Poolable::shrink_to), and dropped if it is still larger.
    Trim,
}

#[cfg(test)]
mod tests {
    use super::{Growth, Shrink};

    fn sizes(growth: Growth, capacity: usize, most: usize) -> Vec<usize> {
        growth.segments(capacity, most).collect()
    }

    #[test]
    fn segments_add_up_to_the_capacity() {
        let most = usize::MAX;
        assert_eq!(sizes(Growth::None, 10, most), [10]);
        assert_eq!(sizes(Growth::None, 10, 4), [4, 4, 2]);
        assert_eq!(sizes(Growth::Fixed(4), 10, most), [4, 4, 2]);
        assert_eq!(sizes(Growth::Fixed(20), 10, most), [10]);
        assert_eq!(sizes(Growth::Doubling(2), 13, most), [2, 2, 4, 5]);
        assert_eq!(sizes(Growth::Doubling(1), 8, most), [1, 1, 2, 4]);
    }

    #[test]
    fn segments_are_counted_without_going_through_them() {
        for growth in [Growth::None, Growth::Fixed(3), Growth::Doubling(1), Growth::Doubling(5)] {
            for capacity in 1..40 {
                for most in [1, 2, 4, 7, usize::MAX] {
                    let there = sizes(growth, capacity, most).len();
                    assert_eq!(growth.count(capacity, most), there, "{growth:?} {capacity} {most}");
                }
            }
        }
        assert_eq!(Growth::Fixed(1).count(usize::MAX, usize::MAX), usize::MAX);
        assert_eq!(Growth::Doubling(1).count(usize::MAX, usize::MAX), 65);
    }

    #[test]
    fn shares_of_the_unused() {
        assert_eq!(
            [Shrink::Never, Shrink::Unused, Shrink::HalfOfUnused].map(|s| s.share(5)),
            [0, 5, 3]
        );
    }
}
