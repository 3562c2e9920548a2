//! This thread's store of spare chunks.

use std::{
    alloc::Layout,
    cell::{Cell, OnceCell, RefCell},
    ptr::NonNull,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use nebula_memory_core::{
    Allocator, Global, MemoryError, PressureLevel, Reclaim, ReclaimRegistry, Registration,
    TrimRequest,
    allocator_api2::alloc::{AllocError, Allocator as Api2},
    nebula_thread_local,
    sync::{Arc, Weak},
};

use crate::{
    asan,
    bins::{Bins, Shed, StoreStats},
};

/// The most bytes that a thread keeps, unless it was told otherwise.
const KEEP: usize = 1 << 20;

/// How often the threads were asked to give back what they keep. Std's atomic: it orders nothing,
/// and is no part of any model.
static REQUESTS: AtomicUsize = AtomicUsize::new(0);

/// Where threads publish what they keep. It is only ever summed up, never asked: a thread's
/// memory is for that thread to give back.
static THREADS: OnceLock<ReclaimRegistry> = OnceLock::new();

fn threads() -> &'static ReclaimRegistry {
    THREADS.get_or_init(ReclaimRegistry::new)
}

/// The heap, through this thread's spare chunks: what scopes of a
/// [`LocalArena`](crate::LocalArena) take their chunks from.
///
/// All blocks are the heap's. A block that is freed on another thread is kept there, and while a
/// thread ends, blocks go straight to the heap.
///
/// ```
/// use nebula_arena::{Arena, LocalArena, LocalChunks};
///
/// let arena = Arena::new_in(LocalChunks);
/// arena.alloc(1);
/// drop(arena);
/// assert_eq!(LocalArena::kept(), 4096);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalChunks;

struct LocalStore {
    /// The block that was kept last, if it has not been taken again: what scopes in a row hand from
    /// one to the next.
    latest: Cell<Option<(NonNull<u8>, Layout)>>,
    /// How often it was taken.
    handed: Cell<u64>,
    bins: RefCell<Bins>,
    keep: Cell<usize>,
    /// Made when the first block is kept.
    published: OnceCell<Published>,
}

struct Published {
    cell: Arc<TrimRequest>,
    /// Ends with the thread.
    _registration: Registration,
}

impl Published {
    fn new() -> Self {
        let cell = Arc::new(TrimRequest::new());
        let weak: Weak<dyn Reclaim> = Arc::downgrade(&cell) as _;
        Self { cell, _registration: threads().register("thread", 0, weak) }
    }
}

nebula_thread_local! {
    static STORE: LocalStore = LocalStore::new()
}

nebula_thread_local! {
    /// The number of requests that this thread has answered.
    static ANSWERED: Cell<usize> = Cell::new(0)
}

/// Frees blocks that were given up, and returns their bytes. Nothing is borrowed: the heap may lead
/// back here.
fn free(shed: Shed) -> usize {
    shed.map(|(block, layout)| {
        // SAFETY: the block came from `Global` with this layout, and nobody uses it.
        unsafe { Global.deallocate(block, layout) };
        layout.size()
    })
    .sum()
}

impl LocalStore {
    const fn new() -> Self {
        Self {
            latest: Cell::new(None),
            handed: Cell::new(0),
            bins: RefCell::new(Bins::new()),
            keep: Cell::new(KEEP),
            published: OnceCell::new(),
        }
    }

    fn bytes(&self) -> usize {
        let latest = self.latest.get().map_or(0, |(_, layout)| layout.size());
        self.bins.borrow().bytes() + latest
    }

    #[inline]
    fn publish(&self) {
        if let Some(published) = self.published.get() {
            published.cell.publish(self.bytes());
        }
    }

    #[inline]
    fn take(&self, layout: Layout) -> Option<NonNull<u8>> {
        let block = match self.latest.get() {
            Some((block, latest)) if latest == layout => {
                self.latest.set(None);
                self.handed.set(self.handed.get() + 1);
                asan::allow(block.as_ptr(), layout.size());
                Some(block)
            }
            _ => self.bins.borrow_mut().take(layout),
        };
        self.publish();
        block
    }

    /// Keeps a block; `false` if it is too large.
    ///
    /// # Safety
    /// The block is `Global`'s, has this layout, which [`Bins::can_keep`], and the caller gives it
    /// up if it is kept.
    #[inline]
    unsafe fn put(&self, block: NonNull<u8>, layout: Layout) -> bool {
        if self.latest.get().is_none()
            && self.bins.borrow().bytes() + layout.size() <= self.keep.get()
        {
            if let Some(published) = self.published.get() {
                asan::forbid(block.as_ptr(), layout.size());
                self.latest.set(Some((block, layout)));
                published.cell.publish(self.bytes());
                return true;
            }
        }
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.put_among_others(block, layout) }
    }

    /// # Safety
    /// As [`put`](Self::put).
    #[inline(never)]
    unsafe fn put_among_others(&self, block: NonNull<u8>, layout: Layout) -> bool {
        let keep = self.keep.get();
        if layout.size() > keep {
            return false;
        }
        if self.published.get().is_none() {
            // The heap may lead back here, in which case one of the two is dropped.
            drop(self.published.set(Published::new()));
            // Earlier requests are none of its business.
            answered(REQUESTS.load(Relaxed));
        }
        self.put_latest_aside();
        asan::forbid(block.as_ptr(), layout.size());
        self.latest.set(Some((block, layout)));
        let shed = self.bins.borrow_mut().shed(keep - layout.size());
        self.publish();
        free(shed);
        true
    }

    /// Puts the latest block among the others.
    fn put_latest_aside(&self) {
        let Some((block, layout)) = self.latest.take() else { return };
        asan::allow(block.as_ptr(), layout.size());
        // SAFETY: the block was given up with this layout, and nobody took it.
        unsafe { self.bins.borrow_mut().put(block, layout) };
    }

    fn shed_to(&self, bytes: usize) -> usize {
        // Never borrowed while others' code runs; but better nothing than a panic.
        if self.bins.try_borrow_mut().is_err() {
            return 0;
        }
        self.put_latest_aside();
        let shed = self.bins.borrow_mut().shed(bytes);
        self.publish();
        free(shed)
    }

    fn stats(&self) -> StoreStats {
        let mut stats = self.bins.borrow().stats();
        stats.bytes = self.bytes();
        stats.blocks += usize::from(self.latest.get().is_some());
        stats.served += self.handed.get();
        stats
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        self.put_latest_aside();
        free(self.bins.get_mut().shed(0));
    }
}

/// Gives back all that this thread keeps.
pub(crate) fn trim() -> usize {
    STORE.try_with(|store| store.shed_to(0)).unwrap_or(0)
}

/// Sets the most bytes that this thread keeps, and gives back what is above.
pub(crate) fn set_keep(bytes: usize) {
    // While the thread ends, nothing is kept anyway.
    _ = STORE.try_with(|store| {
        store.keep.set(bytes);
        store.shed_to(bytes);
    });
}

pub(crate) fn stats() -> StoreStats {
    STORE.try_with(LocalStore::stats).unwrap_or_default()
}

/// Gives back what this thread keeps if somebody has asked for it since the last time.
#[inline]
pub(crate) fn answer() {
    let requests = REQUESTS.load(Relaxed);
    if ANSWERED.with(Cell::get) != requests {
        answer_now(requests);
    }
}

#[cold]
fn answer_now(requests: usize) {
    answered(requests);
    trim();
}

fn answered(requests: usize) {
    ANSWERED.with(|answered| answered.set(requests));
}

/// The one reclaimer of all threads' stores.
struct AllThreads;

impl Reclaim for AllThreads {
    fn reclaimable(&self) -> usize {
        threads().reclaimable()
    }

    /// This thread gives back what it keeps at once, and the others at the end of their next scopes.
    fn reclaim(&self, _wanted: usize, _urgency: PressureLevel) -> usize {
        answered(REQUESTS.fetch_add(1, Relaxed).wrapping_add(1));
        trim()
    }
}

pub(crate) fn reclaimer() -> Arc<dyn Reclaim> {
    static ALL: OnceLock<Arc<AllThreads>> = OnceLock::new();
    Arc::clone(ALL.get_or_init(|| Arc::new(AllThreads))) as Arc<dyn Reclaim>
}

impl LocalChunks {
    #[inline]
    fn take(layout: Layout) -> Option<NonNull<[u8]>> {
        if !Bins::can_keep(layout) {
            return None;
        }
        let block = STORE.try_with(|store| store.take(layout)).ok()??;
        Some(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    /// Asks the heap; if it refuses, gives it what is kept, and asks again.
    fn or_else_trim<E>(
        allocate: impl Fn() -> Result<NonNull<[u8]>, E>,
    ) -> Result<NonNull<[u8]>, E> {
        match allocate() {
            Err(_) if trim() > 0 => allocate(),
            result => result,
        }
    }
}

// SAFETY: all blocks are `Global`'s, with the layouts asked for, and so valid on every thread until
// they are given up; what is kept is nobody's. All values of this type are the same allocator.
// Growing and shrinking are the trait's: they allocate, copy and free.
unsafe impl Api2 for LocalChunks {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        match Self::take(layout) {
            Some(block) => Ok(block),
            None => Self::or_else_trim(|| Global.allocate(layout)),
        }
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        let kept = Bins::can_keep(layout)
            // SAFETY: the block is `Global`'s with this layout, and the caller gives it up.
            && STORE.try_with(|store| unsafe { store.put(ptr, layout) }).is_ok_and(|kept| kept);
        if !kept {
            // SAFETY: as above.
            unsafe { Global.deallocate(ptr, layout) };
        }
    }
}

// SAFETY: slices are `layout.size()` bytes long, and blocks of zero size are passed on to `Global`.
unsafe impl Allocator for LocalChunks {
    #[inline]
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        match Self::take(layout) {
            Some(block) => Ok(block),
            None => Self::or_else_trim(|| Global.try_allocate(layout)),
        }
    }
}
