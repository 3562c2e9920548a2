//! What both faces ask of level one.

use std::{
    hash::{BuildHasher, Hash},
    time::Duration,
};

use crate::{ConcurrentComputeCache, EntryOptions, Kit, times::sealed::Times};

impl<K, V, O> ConcurrentComputeCache<K, V, O>
where
    K: Hash + Eq,
    O: Kit,
    O::Hasher: BuildHasher,
{
    /// Places what was found below, for as long as it has to live.
    pub(super) fn place_until(&self, hash: u64, key: K, value: V, until: Option<Duration>) {
        let mut options = EntryOptions::new();
        if let Some(until) = until {
            let hooks = &self.engine.hooks;
            let left = until.saturating_sub(hooks.clock.now());
            if left.is_zero() || !O::Times::KEPT {
                // Level one would not know when to let go of it.
                return;
            }
            options = options.ttl(hooks.ttl.map_or(left, |ttl| ttl.min(left)));
        }
        // What level one refuses has been counted there.
        drop(self.engine.place(hash, key, value, Some(&options)));
    }

    /// Until when an entry lives that is inserted now.
    pub(super) fn until(&self, options: Option<&EntryOptions>) -> Option<Duration> {
        if !O::Times::KEPT {
            return None;
        }
        let hooks = &self.engine.hooks;
        let ttl = options.and_then(|options| options.ttl).or(hooks.ttl)?;
        Some(hooks.clock.now().saturating_add(ttl))
    }
}

/// What a cache of several levels says of its first one, word for word the same for threads and for
/// tasks.
macro_rules! of_level_one {
    ($cache:ident) => {
        impl<K, V, O: $crate::Kit> $cache<K, V, O> {
            /// How many entries level one holds. Takes O(shards).
            #[must_use]
            pub fn len(&self) -> usize {
                self.first.len()
            }

            /// Whether level one is empty. Takes O(shards).
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.first.is_empty()
            }

            /// How much of level one's capacity is taken.
            #[must_use]
            pub fn weight(&self) -> usize {
                self.first.weight()
            }

            /// The most that level one holds.
            #[must_use]
            pub fn capacity(&self) -> $crate::Capacity {
                self.first.capacity()
            }

            /// Bytes charged to level one's account: by level one alone. Takes O(shards).
            #[must_use]
            pub fn charged(&self) -> usize {
                self.first.charged()
            }

            /// The account that level one charges.
            #[must_use]
            pub const fn account(&self) -> &O::Account {
                self.first.account()
            }

            /// Checks level one inside against itself, and that nothing is under way.
            #[doc(hidden)]
            pub fn validate(&self) -> Result<(), String> {
                self.first.validate()?;
                if self.lower.flights.is_idle() {
                    Ok(())
                } else {
                    Err("flights are listed".to_owned())
                }
            }
        }

        /// Of level one.
        impl<K, V, O> nebula_memory_core::Reclaim for $cache<K, V, O>
        where
            O: $crate::Kit,
            $crate::ConcurrentComputeCache<K, V, O>: nebula_memory_core::Reclaim,
            Self: Send + Sync,
        {
            fn reclaimable(&self) -> usize {
                self.first.reclaimable()
            }

            /// As [`ConcurrentComputeCache`]; if what is evicted goes to another level, as one with a
            /// listener.
            fn reclaim(&self, wanted: usize, urgency: nebula_memory_core::PressureLevel) -> usize {
                self.first.reclaim(wanted, urgency)
            }
        }

        /// Of level one.
        impl<K, V, O: $crate::Kit> nebula_memory_core::MemoryUsage for $cache<K, V, O> {
            fn used(&self) -> usize {
                self.first.used()
            }

            fn capacity(&self) -> Option<usize> {
                nebula_memory_core::MemoryUsage::capacity(&self.first)
            }
        }

        impl<K, V, O: $crate::Kit> std::fmt::Debug for $cache<K, V, O> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($cache))
                    .field("first", &self.first)
                    .field("levels", &self.lower.tiers.len())
                    .finish_non_exhaustive()
            }
        }
    };
}

pub(super) use of_level_one;
