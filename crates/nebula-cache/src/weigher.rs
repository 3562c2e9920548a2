//! How much an entry weighs.

use std::fmt::Debug;

/// Tells how many bytes an entry owns outside the cache: the heap memory of its key and value.
///
/// An entry weighs `size_of::<K>() + size_of::<V>()` plus what its weigher says. The weight counts
/// against the cache's capacity. What the weigher says is charged to the account; the key and the
/// value themselves lie in the cache's own memory, which is charged as it is allocated.
///
/// Every `Fn(&K, &V) -> usize` is a weigher, and [`SizeOf`] is one for entries that own nothing. A
/// weigher is called once for each value that is inserted, with no lock held; what it said then is
/// kept with the entry.
///
/// ```
/// use nebula_cache::{CacheConfig, ConcurrentComputeCache};
/// use nebula_memory_core::ByteSize;
///
/// let config = CacheConfig::builder().capacity(ByteSize::kib(64)).build()?;
/// let cache = ConcurrentComputeCache::<u64, String>::builder(config)
///     .with_weigher(|_key, value| value.capacity())
///     .build()?;
/// cache.insert(1, "x".repeat(1000))?;
/// assert_eq!(cache.weight(), size_of::<u64>() + size_of::<String>() + 1000);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub trait Weigher<K, V>: sealed::Weigher<K, V> {}

/// The weigher of entries that own nothing outside themselves: they weigh
/// `size_of::<K>() + size_of::<V>()`, and keep no weight of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SizeOf;

impl<K, V, W: sealed::Weigher<K, V>> Weigher<K, V> for W {}

/// What an entry keeps of what its weigher said.
pub trait Kept: Copy + Debug {
    /// Whether nothing is kept, so that no entry has to be asked.
    const NOTHING: bool;

    /// Keeps `owned` bytes.
    fn keep(owned: usize) -> Self;

    /// The bytes kept.
    fn owned(self) -> usize;
}

impl Kept for usize {
    const NOTHING: bool = false;

    #[inline]
    fn keep(owned: usize) -> Self {
        owned
    }

    #[inline]
    fn owned(self) -> usize {
        self
    }
}

impl Kept for () {
    const NOTHING: bool = true;

    #[inline]
    fn keep(_owned: usize) -> Self {}

    #[inline]
    fn owned(self) -> usize {
        0
    }
}

pub(crate) mod sealed {
    use super::{Kept, SizeOf};

    pub trait Weigher<K, V> {
        type Kept: Kept;
        fn owned(&self, key: &K, value: &V) -> usize;
    }

    impl<K, V> Weigher<K, V> for SizeOf {
        type Kept = ();

        #[inline]
        fn owned(&self, _key: &K, _value: &V) -> usize {
            0
        }
    }

    impl<K, V, F: Fn(&K, &V) -> usize> Weigher<K, V> for F {
        type Kept = usize;

        #[inline]
        fn owned(&self, key: &K, value: &V) -> usize {
            self(key, value)
        }
    }
}
