//! A store of spare chunks that many arenas share.

use std::{alloc::Layout, fmt, ptr::NonNull};

use nebula_memory_core::{
    Allocator, ByteSize, Global, MemoryError, MemoryUsage, PressureLevel, Reclaim,
    allocator_api2::alloc::{AllocError, Allocator as Api2},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::bins::{Bins, Shed, StoreStats};

/// An allocator for arenas that keeps the chunks that they give back, up to a total, for the next
/// arena: so that short-lived arenas do not take from the allocator underneath, and give back, the
/// same chunks again and again.
///
/// A cheap handle; clones share the store, which may be used from any thread. Both a clone and a
/// reference are allocators for arenas. Blocks are found again by their exact size: arenas with the
/// same settings ask for the same sizes. What is kept stays charged where `A` charges it, and is
/// given back on request ([`Reclaim`]), when `A` refuses something, and when the total is exceeded,
/// the oldest block first.
///
/// ```
/// use nebula_arena::{Arena, ChunkStore};
/// use nebula_memory_core::ByteSize;
///
/// let store = ChunkStore::new(ByteSize::mib(1));
/// for _ in 0..100 {
///     let arena = Arena::new_in(&store);
///     arena.alloc_str("a request's scratch");
/// }
/// let stats = store.stats();
/// assert_eq!((stats.missed, stats.served, stats.bytes), (1, 99, 4096));
/// ```
///
/// Blocks of less than some dozen bytes, or hardly aligned, are not kept: it is a store for chunks.
/// Its lock is held for a few instructions, never while the allocator underneath is called.
pub struct ChunkStore<A: Allocator = Global> {
    store: Arc<Store<A>>,
}

struct Store<A: Allocator> {
    bins: Mutex<Bins>,
    /// As the bins have it, for who must not wait for them.
    bytes: AtomicUsize,
    cap: AtomicUsize,
    allocator: A,
}

impl ChunkStore {
    /// A store that keeps up to `cap` bytes, over the heap.
    #[must_use]
    pub fn new(cap: ByteSize) -> Self {
        Self::new_in(cap, Global)
    }
}

impl<A: Allocator> ChunkStore<A> {
    /// A store that keeps up to `cap` bytes, over `allocator`.
    #[must_use]
    pub fn new_in(cap: ByteSize, allocator: A) -> Self {
        let (bytes, cap) = (AtomicUsize::new(0), AtomicUsize::new(cap.get()));
        Self { store: Arc::new(Store { bins: Mutex::new(Bins::new()), bytes, cap, allocator }) }
    }

    /// The allocator underneath.
    pub fn allocator(&self) -> &A {
        &self.store.allocator
    }

    /// Sets the most bytes that are kept, and gives back what is above.
    pub fn set_cap(&self, bytes: ByteSize) {
        self.store.cap.store(bytes.get(), Relaxed);
        self.store.shed_to(bytes.get());
    }

    /// Gives back all that is kept; returns how many bytes that were.
    ///
    /// ```
    /// use nebula_arena::{Arena, ChunkStore};
    /// use nebula_memory_core::ByteSize;
    ///
    /// let store = ChunkStore::new(ByteSize::mib(1));
    /// Arena::new_in(store.clone()).alloc(1);
    /// assert_eq!(store.trim(), 4096);
    /// ```
    pub fn trim(&self) -> usize {
        self.store.shed_to(0)
    }

    /// The store's figures.
    pub fn stats(&self) -> StoreStats {
        self.store.bins.lock().stats()
    }
}

impl<A: Allocator + Send + Sync + 'static> ChunkStore<A> {
    /// Who gives back what is kept, for a reclaim registry (which holds it weakly: it lasts as long
    /// as the store).
    ///
    /// ```
    /// use std::sync::Arc;
    /// use nebula_arena::{Arena, ChunkStore};
    /// use nebula_memory_core::{ByteSize, PressureLevel, ReclaimRegistry};
    ///
    /// let store = ChunkStore::new(ByteSize::mib(1));
    /// Arena::new_in(&store).alloc(1);
    /// let registry = ReclaimRegistry::new();
    /// let _registration = registry.register("chunks", 0, Arc::downgrade(&store.reclaimer()));
    /// assert_eq!(registry.reclaim(1, PressureLevel::High).given, 4096);
    /// ```
    pub fn reclaimer(&self) -> Arc<dyn Reclaim> {
        Arc::clone(&self.store) as Arc<dyn Reclaim>
    }
}

impl<A: Allocator> Store<A> {
    /// A kept block of `layout`.
    fn take(&self, layout: Layout) -> Option<NonNull<[u8]>> {
        if !Bins::can_keep(layout) {
            return None;
        }
        let mut bins = self.bins.lock();
        let block = bins.take(layout)?;
        self.bytes.store(bins.bytes(), Relaxed);
        Some(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    /// Calls the allocator; if it refuses, what is kept is given back, and it is called again.
    fn or_else_shed<E>(
        &self,
        allocate: impl Fn(&A) -> Result<NonNull<[u8]>, E>,
    ) -> Result<NonNull<[u8]>, E> {
        match allocate(&self.allocator) {
            Err(_) if self.shed_to(0) > 0 => allocate(&self.allocator),
            result => result,
        }
    }

    /// Frees blocks that were given up; the lock is not held. Returns their bytes.
    fn free(&self, shed: Shed) -> usize {
        shed.map(|(block, layout)| {
            // SAFETY: the block came from this allocator with this layout, and nobody uses it.
            unsafe { self.allocator.deallocate(block, layout) };
            layout.size()
        })
        .sum()
    }

    fn shed_to(&self, bytes: usize) -> usize {
        let shed = {
            let mut bins = self.bins.lock();
            let shed = bins.shed(bytes);
            self.bytes.store(bins.bytes(), Relaxed);
            shed
        };
        self.free(shed)
    }
}

// SAFETY: blocks come from `A`, with the layout asked for, and go back to it with that; meanwhile
// they are in the hands of one caller, or kept. They live as long as `A` does, which is in the store
// that all clones share. Growing and shrinking are the trait's: they allocate, copy and free.
unsafe impl<A: Allocator> Api2 for ChunkStore<A> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        match self.store.take(layout) {
            Some(block) => Ok(block),
            None => self.store.or_else_shed(|allocator| allocator.allocate(layout)),
        }
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        let cap = self.store.cap.load(Relaxed);
        if !Bins::can_keep(layout) || layout.size() > cap {
            // SAFETY: the caller's promises are the callee's.
            return unsafe { self.store.allocator.deallocate(ptr, layout) };
        }
        let shed = {
            let mut bins = self.store.bins.lock();
            // SAFETY: the block has this layout, and the caller gives it up.
            unsafe { bins.put(ptr, layout) };
            let shed = bins.shed(cap);
            self.store.bytes.store(bins.bytes(), Relaxed);
            shed
        };
        self.store.free(shed);
    }
}

// SAFETY: slices are `layout.size()` bytes long, by `A`'s promise or as they were kept; blocks of
// zero size are passed on to `A`.
unsafe impl<A: Allocator> Allocator for ChunkStore<A> {
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        match self.store.take(layout) {
            Some(block) => Ok(block),
            None => self.store.or_else_shed(|allocator| allocator.try_allocate(layout)),
        }
    }
}

impl<A: Allocator + Send + Sync> Reclaim for Store<A> {
    fn reclaimable(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    fn reclaim(&self, wanted: usize, _urgency: PressureLevel) -> usize {
        let shed = {
            let Some(mut bins) = self.bins.try_lock() else { return 0 };
            let keep = bins.bytes().saturating_sub(wanted);
            let shed = bins.shed(keep);
            self.bytes.store(bins.bytes(), Relaxed);
            shed
        };
        self.free(shed)
    }
}

impl<A: Allocator + Send + Sync> Reclaim for ChunkStore<A> {
    fn reclaimable(&self) -> usize {
        self.store.reclaimable()
    }

    /// Gives back the oldest blocks.
    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        self.store.reclaim(wanted, urgency)
    }
}

impl<A: Allocator> MemoryUsage for ChunkStore<A> {
    /// Bytes that are kept. What arenas hold is for them to say.
    fn used(&self) -> usize {
        self.store.bytes.load(Relaxed)
    }

    /// The most bytes that are kept.
    fn capacity(&self) -> Option<usize> {
        Some(self.store.cap.load(Relaxed))
    }
}

impl<A: Allocator> Clone for ChunkStore<A> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store) }
    }
}

impl<A: Allocator> fmt::Debug for ChunkStore<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkStore")
            .field("used", &self.used())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

impl<A: Allocator> Drop for Store<A> {
    fn drop(&mut self) {
        self.shed_to(0);
    }
}
