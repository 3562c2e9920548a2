//! Base allocators for tests: one with exact books, one that fails on demand, one that returns more
//! than it was asked for.

use std::{
    alloc::Layout,
    collections::HashMap,
    ptr::NonNull,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use allocator_api2::alloc::{AllocError, Allocator as Api2, Global};
use nebula_memory_core::{Allocator, MemoryError};

use crate::account::Trip;

/// What fresh memory is filled with, so that "zeroed by luck" is told from zeroed.
const FRESH: u8 = 0xA5;
/// What freed memory is filled with, so that a use after free reads nonsense.
const FREED: u8 = 0x5A;

/// A pointer for a zero-size block: aligned, and never the address of real memory.
fn dangling(layout: Layout) -> NonNull<[u8]> {
    let ptr = NonNull::new(std::ptr::without_provenance_mut(layout.align()));
    NonNull::slice_from_raw_parts(ptr.expect("an alignment is not zero"), 0)
}

#[derive(Debug, Default)]
struct Books {
    /// Layout of every live block by its address.
    live: HashMap<usize, Layout>,
    bytes: usize,
    peak: usize,
    allocations: usize,
    deallocations: usize,
    faults: Vec<String>,
}

/// An allocator over the global heap that knows every live block: what tests compare books with.
///
/// A free that does not match a live block in address, size and alignment (a double free, a wrong
/// layout) is noted and panics; the memory is then left alone. Fresh memory is filled with `0xA5`
/// and freed memory with `0x5A`; growing and shrinking always move. Blocks of zero size take no
/// memory and are not tracked: containers free such blocks without having allocated them.
///
/// Clones share the books and may be used from any thread. Memory that nobody freed is leaked.
///
/// ```
/// use allocator_api2::vec::Vec;
/// use nebula_testing::CountingAllocator;
///
/// let base = CountingAllocator::new();
/// let mut numbers = Vec::with_capacity_in(10, &base);
/// numbers.push(1_u64);
/// assert_eq!((base.live_bytes(), base.live_blocks()), (80, 1));
/// drop(numbers);
/// base.assert_clean();
/// ```
#[derive(Clone, Debug, Default)]
pub struct CountingAllocator(Arc<Mutex<Books>>);

impl CountingAllocator {
    /// An allocator with nothing allocated.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in live blocks.
    #[must_use]
    pub fn live_bytes(&self) -> usize {
        self.books().bytes
    }

    /// Live blocks, those of zero size left out.
    #[must_use]
    pub fn live_blocks(&self) -> usize {
        self.books().live.len()
    }

    /// The most bytes that were live at one time.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.books().peak
    }

    /// Blocks ever allocated; growing or shrinking a block counts as one, because it moves.
    #[must_use]
    pub fn allocations(&self) -> usize {
        self.books().allocations
    }

    /// Blocks ever freed, moved ones included.
    #[must_use]
    pub fn deallocations(&self) -> usize {
        self.books().deallocations
    }

    /// What was done wrong so far, in words.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        self.books().faults.clone()
    }

    /// Checks that nothing is live and nothing was done wrong.
    ///
    /// # Panics
    /// If not, with a list of what is live (at most ten blocks).
    #[track_caller]
    pub fn assert_clean(&self) {
        let (faults, blocks, bytes) = {
            let books = self.books();
            let blocks: Vec<Layout> = books.live.values().take(10).copied().collect();
            (books.faults.clone(), blocks, books.bytes)
        };
        assert!(faults.is_empty(), "the allocator was misused: {faults:?}");
        assert!(blocks.is_empty(), "{bytes} bytes were never freed, among them {blocks:?}");
    }

    /// Notes a fault and panics; the lock is not held.
    fn fault(&self, what: &str) {
        self.books().faults.push(what.to_owned());
        assert!(thread::panicking(), "{what}");
    }

    /// Takes a block out of the books. `false`, after noting the fault, if it is not in them.
    fn forget(&self, ptr: NonNull<u8>, layout: Layout) -> bool {
        let address = ptr.addr().get();
        let found = {
            let mut books = self.books();
            let found = books.live.get(&address).copied();
            if found == Some(layout) {
                books.live.remove(&address);
                books.bytes -= layout.size();
                books.deallocations += 1;
            }
            found
        };
        match found {
            Some(known) if known == layout => return true,
            Some(known) => self.fault(&format!(
                "the block at {address:#x} was allocated as {known:?} and is freed as {layout:?}"
            )),
            None => self.fault(&format!("{layout:?} at {address:#x} is freed, but is not live")),
        }
        false
    }
}

// SAFETY: live blocks come from `Global` and are given back to it once, with the layout they were
// allocated with; moving the allocator or cloning it does not touch them.
unsafe impl Api2 for CountingAllocator {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(dangling(layout));
        }
        let block: NonNull<u8> = Global.allocate(layout)?.cast();
        // SAFETY: the block is fresh and `layout.size()` bytes long.
        unsafe { block.write_bytes(FRESH, layout.size()) };
        {
            let mut books = self.books();
            books.live.insert(block.addr().get(), layout);
            books.bytes += layout.size();
            books.peak = books.peak.max(books.bytes);
            books.allocations += 1;
        }
        Ok(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        if layout.size() == 0 || !self.forget(ptr, layout) {
            return;
        }
        // SAFETY: the books had this block as live with this layout, so that it is
        // `layout.size()` bytes long; the caller gives it up.
        unsafe { ptr.write_bytes(FREED, layout.size()) };
        // SAFETY: as above, and it came from `Global`.
        unsafe { Global.deallocate(ptr, layout) };
    }

    // `grow`, `grow_zeroed` and `shrink` are the trait's: they allocate, copy and free.
}

// SAFETY: slices are `layout.size()` bytes long, and blocks of zero size hold nothing.
unsafe impl Allocator for CountingAllocator {
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        self.allocate(layout).map_err(|AllocError| MemoryError::out_of_memory(layout))
    }
}

/// An allocator that fails at a chosen request, around another one. Clones count together.
///
/// Allocations and growths are requests; shrinking is not (containers abort when that fails).
///
/// ```
/// use nebula_memory_core::{Global, TypedAllocator};
/// use nebula_testing::FailingAllocator;
///
/// let failing = FailingAllocator::new(Global);
/// failing.fail_at(1);
/// assert!(failing.try_new(1).is_ok());
/// assert!(failing.try_new(2).is_err());
/// assert!(failing.try_new(3).is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct FailingAllocator<A> {
    inner: A,
    trip: Arc<Trip>,
    largest: Arc<AtomicUsize>,
}

impl<A> FailingAllocator<A> {
    /// Fails at nothing until told to.
    pub fn new(inner: A) -> Self {
        Self { inner, trip: Arc::default(), largest: Arc::new(AtomicUsize::new(usize::MAX)) }
    }

    /// The allocator around which this is.
    pub const fn get_ref(&self) -> &A {
        &self.inner
    }

    /// Counts requests from zero again and fails number `n` (the first is zero) from now.
    pub fn fail_at(&self, n: usize) {
        self.trip.arm(n, n);
    }

    /// Counts requests from zero again and fails number `n` and all after it.
    pub fn fail_from(&self, n: usize) {
        self.trip.arm(n, usize::MAX);
    }

    /// Fails no request by its number from now on, and counts from zero.
    pub fn fail_never(&self) {
        self.trip.arm(usize::MAX, 0);
    }

    /// Refuses every request for more than `bytes` bytes; `None` lifts that again.
    pub fn refuse_above(&self, bytes: Option<usize>) {
        self.largest.store(bytes.unwrap_or(usize::MAX), SeqCst);
    }

    /// Requests since it was made or told when to fail.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.trip.calls()
    }

    /// Whether a request failed by its number since then. A loop over `n` ends when none did.
    #[must_use]
    pub fn tripped(&self) -> bool {
        self.trip.tripped()
    }

    fn admit(&self, layout: Layout) -> Result<(), AllocError> {
        let tripped = self.trip.call();
        if tripped || layout.size() > self.largest.load(SeqCst) { Err(AllocError) } else { Ok(()) }
    }
}

// SAFETY: blocks come from `A` and go back to it unchanged; clones are clones of `A`.
unsafe impl<A: Api2> Api2 for FailingAllocator<A> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.admit(layout)?;
        self.inner.allocate(layout)
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.admit(layout)?;
        self.inner.allocate_zeroed(layout)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.inner.deallocate(ptr, layout) }
    }

    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        self.admit(new)?;
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.inner.grow(ptr, old, new) }
    }

    unsafe fn grow_zeroed(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        self.admit(new)?;
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.inner.grow_zeroed(ptr, old, new) }
    }

    unsafe fn shrink(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.inner.shrink(ptr, old, new) }
    }
}

// SAFETY: what `A` returns is passed on.
unsafe impl<A: Allocator> Allocator for FailingAllocator<A> {
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        match self.admit(layout) {
            Ok(()) => self.inner.try_allocate(layout),
            Err(AllocError) => Err(MemoryError::out_of_memory(layout)),
        }
    }
}

/// An allocator that returns longer slices than it was asked for, by an amount that changes from
/// call to call; a block of another crate's making, to be adapted by `Foreign`. Clones share.
///
/// Freeing with any size from the requested to the returned one is right, as the ecosystem's trait
/// has it; anything else panics. Its books count the bytes really allocated.
///
/// ```
/// use allocator_api2::alloc::Allocator;
/// use nebula_testing::OverReturning;
///
/// let base = OverReturning::new();
/// let layout = std::alloc::Layout::new::<u64>();
/// let block = base.allocate(layout).unwrap();
/// assert!(block.len() > 8);
/// // SAFETY: allocated with this layout, and not used again.
/// unsafe { base.deallocate(block.cast(), layout) };
/// base.assert_clean();
/// ```
#[derive(Clone, Debug, Default)]
pub struct OverReturning {
    base: CountingAllocator,
    /// What was asked for, by the block's address.
    asked: Arc<Mutex<HashMap<usize, Given>>>,
    calls: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Debug)]
struct Given {
    asked: Layout,
    returned: Layout,
}

impl OverReturning {
    /// An allocator with nothing allocated.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes in live blocks, excess included.
    #[must_use]
    pub fn live_bytes(&self) -> usize {
        self.base.live_bytes()
    }

    /// Live blocks.
    #[must_use]
    pub fn live_blocks(&self) -> usize {
        self.base.live_blocks()
    }

    /// Checks that nothing is live and nothing was done wrong.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_clean(&self) {
        self.base.assert_clean();
    }

    fn given(&self) -> MutexGuard<'_, HashMap<usize, Given>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: blocks come from the counting allocator and are given back to it with the layout they
// were allocated with, whatever fitting layout the caller names.
unsafe impl Api2 for OverReturning {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // Large enough now and then for a hash table to find room for twice the buckets.
        let excess = match self.calls.fetch_add(1, SeqCst) % 4 {
            0 => 1,
            1 => layout.size() / 2 + 8,
            2 => 40,
            _ => layout.size().saturating_mul(2).saturating_add(64),
        };
        let size = layout.size().checked_add(excess).ok_or(AllocError)?;
        let returned = Layout::from_size_align(size, layout.align()).map_err(|_| AllocError)?;
        let block = self.base.allocate(returned)?;
        let address = block.cast::<u8>().addr().get();
        self.given().insert(address, Given { asked: layout, returned });
        Ok(block)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        let address = ptr.addr().get();
        let given = self.given().get(&address).copied();
        let Some(Given { asked, returned }) = given else {
            return self
                .base
                .fault(&format!("{layout:?} at {address:#x} is freed, but is not live"));
        };
        let fits = (asked.size()..=returned.size()).contains(&layout.size());
        if !fits || layout.align() != asked.align() {
            return self.base.fault(&format!(
                "{asked:?} was given {} bytes at {address:#x} and is freed as {layout:?}",
                returned.size()
            ));
        }
        self.given().remove(&address);
        // SAFETY: the block was allocated with `returned`, and the caller gives it up.
        unsafe { self.base.deallocate(ptr, returned) };
    }
}
