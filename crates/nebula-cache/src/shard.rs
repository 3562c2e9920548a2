//! A store behind its lock, with the figures that others read without it.

use std::ops::{Deref, DerefMut};

use nebula_memory_core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::{
    Kit, RemovalCause,
    mode::{Lock, Mode},
    store::Store,
};

/// The lock of a store.
type LockOf<K, V, O, M> = <M as Mode>::Lock<Store<K, V, O>>;

/// Exclusive access to a store.
type WriteOf<'s, K, V, O, M> = <LockOf<K, V, O, M> as Lock<Store<K, V, O>>>::Write<'s>;

/// Shared access to a store.
pub(crate) type ReadOf<'s, K, V, O, M> = <LockOf<K, V, O, M> as Lock<Store<K, V, O>>>::Read<'s>;

/// (The lock lies first: a lookup needs the store alone.)
#[repr(C)]
pub(crate) struct Shard<K, V, O: Kit, M: Mode> {
    store: M::Lock<Store<K, V, O>>,
    gauges: Gauges,
}

/// Written under the lock, with plain stores; read by anybody.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    len: AtomicUsize,
    pinned: AtomicUsize,
    held: AtomicUsize,
    /// What is charged for the entries and what the store has allocated.
    bytes: AtomicUsize,
    inserts: AtomicU64,
    removals: [AtomicU64; RemovalCause::COUNT],
}

impl Gauges {
    pub(crate) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    pub(crate) fn pinned(&self) -> usize {
        self.pinned.load(Relaxed)
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    pub(crate) fn inserts(&self) -> u64 {
        self.inserts.load(Relaxed)
    }

    pub(crate) fn removals(&self, cause: RemovalCause) -> u64 {
        self.removals[cause as usize].load(Relaxed)
    }

    fn set<K, V, O: Kit>(&self, store: &Store<K, V, O>) {
        self.len.store(store.len(), Relaxed);
        self.pinned.store(store.pinned(), Relaxed);
        self.held.store(store.held(), Relaxed);
        self.bytes.store(store.charge().wrapping_add(store.bytes()), Relaxed);
    }
}

#[inline]
fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

impl<K, V, O: Kit, M: Mode> Shard<K, V, O, M> {
    pub(crate) fn new(store: Store<K, V, O>) -> Self {
        let gauges = Gauges::default();
        gauges.set(&store);
        Self { store: M::Lock::new(store), gauges }
    }

    pub(crate) const fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    #[inline]
    pub(crate) fn read(&self) -> ReadOf<'_, K, V, O, M> {
        self.store.read()
    }

    #[inline]
    pub(crate) fn try_read(&self) -> Option<ReadOf<'_, K, V, O, M>> {
        self.store.try_read()
    }

    #[inline]
    pub(crate) fn write(&self) -> Held<'_, K, V, O, M> {
        Held { store: self.store.write(), gauges: &self.gauges, changed: true }
    }

    pub(crate) fn try_write(&self) -> Option<Held<'_, K, V, O, M>> {
        Some(Held { store: self.store.try_write()?, gauges: &self.gauges, changed: true })
    }

    /// The store, for looking at it: changes that move the gauges are made through
    /// [`write`](Self::write).
    #[inline]
    pub(crate) fn get_mut(&mut self) -> &mut Store<K, V, O> {
        self.store.get_mut()
    }
}

/// A store held exclusively; the gauges are set when it is let go of.
pub(crate) struct Held<'s, K, V, O: Kit, M: Mode>
where
    M::Lock<Store<K, V, O>>: 's,
{
    store: WriteOf<'s, K, V, O, M>,
    gauges: &'s Gauges,
    /// Whether anything may have changed that the gauges show.
    changed: bool,
}

impl<'s, K, V, O: Kit, M: Mode> Held<'s, K, V, O, M>
where
    M::Lock<Store<K, V, O>>: 's,
{
    /// Releases the lock; `changed` says whether anything has that the gauges show.
    #[inline]
    pub(crate) fn let_go(mut self, changed: bool) {
        self.changed = changed;
    }

    #[inline]
    pub(crate) fn count_insert(&self) {
        add(&self.gauges.inserts, 1);
    }

    #[inline]
    pub(crate) fn count_removals(&self, cause: RemovalCause, by: usize) {
        add(&self.gauges.removals[cause as usize], by as u64);
    }
}

impl<'s, K, V, O: Kit, M: Mode> Deref for Held<'s, K, V, O, M>
where
    M::Lock<Store<K, V, O>>: 's,
{
    type Target = Store<K, V, O>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.store
    }
}

impl<'s, K, V, O: Kit, M: Mode> DerefMut for Held<'s, K, V, O, M>
where
    M::Lock<Store<K, V, O>>: 's,
{
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.store
    }
}

impl<'s, K, V, O: Kit, M: Mode> Drop for Held<'s, K, V, O, M>
where
    M::Lock<Store<K, V, O>>: 's,
{
    #[inline]
    fn drop(&mut self) {
        if self.changed {
            self.gauges.set(&self.store);
        }
    }
}
