//! The user's functions, and the clock.

use std::time::Duration;

use nebula_memory_core::{Account, Clock, MonotonicClock, sync::Arc};

use crate::{
    Kit, RemovalCause,
    bag::Bag,
    engine::shared_bytes,
    mode::Mode,
    store::Entry,
    times::{nanos, sealed::Times},
    weight::sealed::Weight,
};

/// Takes over entries that are evicted.
pub(crate) trait Demote<K, V> {
    /// An entry whose key has this hash is on its way out. Called under the lock of its shard.
    fn leaving(&self, hash: u32);

    /// It has left, and would have lived until `deadline`. Called once for each
    /// [`leaving`](Self::leaving), with no lock held. Must not panic.
    fn left(&self, hash: u32, key: &K, value: &V, deadline: u64);
}

pub(crate) type Evictions<K, V> = dyn Demote<K, V> + Send + Sync;

pub(crate) struct Hooks<K, V, M: Mode> {
    pub(crate) weigher: Option<Box<M::Weigher<K, V>>>,
    pub(crate) charger: Option<Box<M::Weigher<K, V>>>,
    pub(crate) listener: Option<Box<M::Listener<K, V>>>,
    pub(crate) evictions: Option<Box<Evictions<K, V>>>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Whether the clock is the cache's own, rather than one that was given to it.
    own_clock: bool,
    /// How long entries live if nothing else is said.
    pub(crate) ttl: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    /// How many nanoseconds longer they are kept, to be had while a new value is got.
    pub(crate) stale: u64,
    pub(crate) time_computations: bool,
}

impl<K, V, M: Mode> Hooks<K, V, M> {
    pub(crate) fn none() -> Self {
        Self {
            weigher: None,
            charger: None,
            listener: None,
            evictions: None,
            clock: Arc::new(MonotonicClock::new()),
            own_clock: true,
            ttl: None,
            idle: None,
            stale: 0,
            time_computations: false,
        }
    }

    pub(crate) fn set_clock(&mut self, clock: Arc<dyn Clock>) {
        (self.clock, self.own_clock) = (clock, false);
    }

    /// Bytes that are allocated for it.
    pub(crate) fn bytes(&self) -> usize {
        let clock = if self.own_clock { shared_bytes::<MonotonicClock>() } else { 0 };
        let functions = [
            self.weigher.as_ref().map(|weigher| size_of_val(&**weigher)),
            self.charger.as_ref().map(|charger| size_of_val(&**charger)),
            self.listener.as_ref().map(|listener| size_of_val(&**listener)),
            self.evictions.as_ref().map(|evictions| size_of_val(&**evictions)),
        ];
        clock + functions.into_iter().flatten().sum::<usize>()
    }

    pub(crate) fn now(&self) -> u64 {
        nanos(self.clock.now())
    }

    /// The figures of an entry.
    #[inline]
    pub(crate) fn weigh<W: Weight>(&self, key: &K, value: &V) -> W {
        if !W::KEPT {
            return W::default();
        }
        let weight = self.weigher.as_ref().map_or(0, |weigher| weigher(key, value));
        let charge = self.charger.as_ref().map_or(weight, |charger| charger(key, value));
        W::new(weight, charge)
    }

    /// Whether anybody has to be told of entries that leave.
    #[inline]
    pub(crate) const fn has_listener(&self) -> bool {
        self.listener.is_some() || self.evictions.is_some()
    }

    /// Says, under the lock, that an entry is being evicted, if it is.
    #[inline]
    pub(crate) fn leaving(&self, hash: u32, cause: RemovalCause) {
        if let Some(evictions) = &self.evictions {
            if cause.is_eviction() {
                evictions.leaving(hash);
            }
        }
    }

    /// Tells of one entry for which [`leaving`](Self::leaving) was called. No lock may be held.
    #[inline]
    pub(crate) fn show_entry<O: Kit>(&self, entry: &Entry<K, V, O>, cause: RemovalCause) {
        if let Some(evictions) = &self.evictions {
            if cause.is_eviction() {
                let deadline = entry.kept.times.deadline();
                evictions.left(entry.hash(), &entry.key, &entry.value, deadline);
            }
        }
        self.show(&entry.key, &entry.value, cause);
    }

    /// Tells the listener of one entry. No lock may be held.
    #[inline]
    pub(crate) fn show(&self, key: &K, value: &V, cause: RemovalCause) {
        if let Some(listener) = &self.listener {
            listener(key, value, cause);
        }
    }

    /// Tells the listener of all that is in the bag. No lock may be held.
    #[inline]
    pub(crate) fn show_all<A: Account>(&self, bag: &Bag<'_, K, V, A, M>) {
        bag.hand_on();
        if let Some(listener) = &self.listener {
            bag.show(&**listener);
        }
    }
}
