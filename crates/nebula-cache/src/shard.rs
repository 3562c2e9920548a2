//! A store behind its lock, with the figures that others read without it.

use std::ops::{Deref, DerefMut};

use nebula_memory_core::sync::{
    RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use crate::{policy::Policy, store::Store, weigher::Kept};

#[derive(Debug)]
pub(crate) struct Shard<K, V, W: Kept, P: Policy> {
    store: RwLock<Store<K, V, W, P>>,
    gauges: Gauges,
}

/// Written under the lock, with plain stores; read by anybody.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    len: AtomicUsize,
    weight: AtomicUsize,
    /// What the entries own and what the store has allocated.
    bytes: AtomicUsize,
    inserts: AtomicU64,
    evictions: AtomicU64,
}

impl Gauges {
    pub(crate) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    pub(crate) fn weight(&self) -> usize {
        self.weight.load(Relaxed)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    pub(crate) fn inserts(&self) -> u64 {
        self.inserts.load(Relaxed)
    }

    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.load(Relaxed)
    }
}

fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

impl<K, V, W: Kept, P: Policy> Shard<K, V, W, P> {
    pub(crate) fn new(store: Store<K, V, W, P>) -> Self {
        Self { store: RwLock::new(store), gauges: Gauges::default() }
    }

    pub(crate) const fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    #[inline]
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Store<K, V, W, P>> {
        self.store.read()
    }

    #[inline]
    pub(crate) fn write(&self) -> Held<'_, K, V, W, P> {
        Held { store: self.store.write(), gauges: &self.gauges }
    }

    pub(crate) fn try_write(&self) -> Option<Held<'_, K, V, W, P>> {
        Some(Held { store: self.store.try_write()?, gauges: &self.gauges })
    }

    pub(crate) fn get_mut(&mut self) -> &mut Store<K, V, W, P> {
        self.store.get_mut()
    }
}

/// A store held exclusively; the gauges are set when it is let go of.
pub(crate) struct Held<'s, K, V, W: Kept, P: Policy> {
    store: RwLockWriteGuard<'s, Store<K, V, W, P>>,
    gauges: &'s Gauges,
}

impl<K, V, W: Kept, P: Policy> Held<'_, K, V, W, P> {
    pub(crate) fn count_insert(&self) {
        bump(&self.gauges.inserts);
    }

    pub(crate) fn count_eviction(&self) {
        bump(&self.gauges.evictions);
    }
}

impl<K, V, W: Kept, P: Policy> Deref for Held<'_, K, V, W, P> {
    type Target = Store<K, V, W, P>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.store
    }
}

impl<K, V, W: Kept, P: Policy> DerefMut for Held<'_, K, V, W, P> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.store
    }
}

impl<K, V, W: Kept, P: Policy> Drop for Held<'_, K, V, W, P> {
    #[inline]
    fn drop(&mut self) {
        self.gauges.len.store(self.store.len(), Relaxed);
        self.gauges.weight.store(self.store.weight(), Relaxed);
        self.gauges.bytes.store(self.store.owned() + self.store.bytes(), Relaxed);
    }
}
