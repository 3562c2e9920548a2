//! The allocator suite fails for allocators that break the contract, and says why.

use std::{
    alloc::Layout,
    cell::{Cell, RefCell, UnsafeCell},
    ptr::NonNull,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use allocator_api2::alloc::{AllocError, Allocator as Api2};
use nebula_memory_core::{Allocator, MemoryError};
use nebula_testing::{
    CountingAllocator, FailingAllocator, OverReturning, catch,
    conformance::{
        AllocatorOptions, Reuse, allocator_conformance, allocator_conformance_with,
        shared_allocator_conformance,
    },
};

const PAGE: usize = 4096;
const PAGES: usize = 64;

#[repr(C, align(4096))]
struct Page(UnsafeCell<[u8; PAGE]>);

/// Memory with an owner, dirty from the start.
struct Region(Box<[Page]>);

// SAFETY: the region hands out pointers only; who writes through them is the allocators' matter.
unsafe impl Sync for Region {}

impl Region {
    fn new() -> Self {
        Self((0..PAGES).map(|_| Page(UnsafeCell::new([0xFF; PAGE]))).collect())
    }

    const fn size() -> usize {
        PAGES * PAGE
    }

    /// The byte at `offset`, with the whole region behind it.
    fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= Self::size());
        let base = NonNull::from(&*self.0).cast::<u8>();
        // SAFETY: within the region.
        unsafe { base.add(offset) }
    }
}

fn slice(ptr: NonNull<u8>, len: usize) -> NonNull<[u8]> {
    NonNull::slice_from_raw_parts(ptr, len)
}

fn copy(from: NonNull<u8>, to: NonNull<u8>, len: usize) {
    // SAFETY: both are blocks of a region, at least `len` bytes long; `copy` allows overlap.
    unsafe { from.copy_to(to, len) }
}

fn fill(ptr: NonNull<u8>, byte: u8, len: usize) {
    // SAFETY: a block of a region, at least `len` bytes long.
    unsafe { ptr.write_bytes(byte, len) }
}

/// A block that is leaked on purpose, or may be.
struct Leaked(#[expect(dead_code, reason = "it only has to be there")] NonNull<[u8]>);

// SAFETY: nobody follows the pointer.
unsafe impl Send for Leaked {}

/// Keeps `block` where leak checkers see it: they are to find the leaks that nobody planned.
fn in_sight(block: NonNull<[u8]>) -> NonNull<[u8]> {
    static LEAKED: Mutex<Vec<Leaked>> = Mutex::new(Vec::new());
    LEAKED.lock().unwrap().push(Leaked(block));
    block
}

macro_rules! nebula_allocator {
    ($name:ident) => {
        // SAFETY: none; the tests show that the suite notices.
        unsafe impl Allocator for $name {
            fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
                self.allocate(layout).map_err(|AllocError| MemoryError::out_of_memory(layout))
            }
        }
    };
}

/// What is wrong with a [`Bump`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    Excess,
    Short,
    Misaligned,
    Overlap,
    NotZeroed,
    GrownPartNotZeroed,
    GrowthLosesTheEnd,
    GrowthCopiesNothing,
    ShrinkingLosesTheEnd,
    FailedGrowthWrites,
    ServesHuge,
    PanicsOnHuge,
    RefusesTooEarly,
    WritesToNeighbours,
    StartsOverWhenFull,
    ServesAfterRefusing,
}

/// A bump allocator that never reuses memory, with one fault.
struct Bump {
    wrong: Wrong,
    cursor: Cell<usize>,
    refused: Cell<bool>,
    region: Region,
}

impl Bump {
    fn new(wrong: Wrong) -> Self {
        let (cursor, refused) = (Cell::new(8), Cell::new(false));
        Self { wrong, cursor, refused, region: Region::new() }
    }

    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == wrong
    }
}

// SAFETY: none where `wrong` says so; every pointer stays within the region.
unsafe impl Api2 for Bump {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let (size, mut align) = (layout.size(), layout.align());
        if self.is(Wrong::Misaligned) {
            align = align.min(8);
        }
        if size > Region::size() {
            assert!(!self.is(Wrong::PanicsOnHuge), "overflow");
            if self.is(Wrong::ServesHuge) {
                return Ok(slice(self.region.at(0), size));
            }
            return Err(AllocError);
        }
        if align > PAGE {
            return Err(AllocError);
        }
        let mut start = self.cursor.get().next_multiple_of(align);
        if self.is(Wrong::Overlap) && size != 0 && align == 1 {
            start -= 1;
        }
        let end = start + size;
        if end + 8 > Region::size() {
            if self.is(Wrong::StartsOverWhenFull) {
                self.cursor.set(PAGE);
                return self.allocate(layout);
            }
            if self.is(Wrong::ServesAfterRefusing) && self.refused.replace(true) {
                self.cursor.set(PAGE);
                return self.allocate(layout);
            }
            return Err(AllocError);
        }
        if self.is(Wrong::RefusesTooEarly) && end > Region::size() / 4 {
            return Err(AllocError);
        }
        self.cursor.set(end);
        let ptr = self.region.at(start);
        if self.is(Wrong::WritesToNeighbours) && start > 0 {
            fill(self.region.at(start - 1), 0xEE, 1);
        }
        Ok(match self.wrong {
            Wrong::Excess => slice(ptr, size + 1),
            Wrong::Short => slice(ptr, size.saturating_sub(1)),
            _ => slice(ptr, size),
        })
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let block = self.allocate(layout)?;
        if !self.is(Wrong::NotZeroed) && layout.size() <= Region::size() {
            fill(block.cast(), 0, layout.size());
        }
        Ok(block)
    }

    unsafe fn deallocate(&self, _ptr: NonNull<u8>, _layout: Layout) {}

    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let Ok(block) = self.allocate(new) else {
            if self.is(Wrong::FailedGrowthWrites) {
                fill(ptr, 0, old.size());
            }
            return Err(AllocError);
        };
        let kept = match self.wrong {
            Wrong::GrowthLosesTheEnd => old.size().saturating_sub(1),
            Wrong::GrowthCopiesNothing => 0,
            _ => old.size(),
        };
        copy(ptr, block.cast(), kept);
        Ok(block)
    }

    unsafe fn grow_zeroed(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promises are the callee's.
        let block = unsafe { self.grow(ptr, old, new) }?;
        if !self.is(Wrong::GrownPartNotZeroed) {
            // SAFETY: `old.size()` is at most the size of the new block.
            fill(unsafe { block.cast::<u8>().add(old.size()) }, 0, new.size() - old.size());
        }
        Ok(block)
    }

    unsafe fn shrink(
        &self,
        ptr: NonNull<u8>,
        _old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let block = self.allocate(new)?;
        let lost = usize::from(self.is(Wrong::ShrinkingLosesTheEnd));
        copy(ptr, block.cast(), new.size().saturating_sub(lost));
        Ok(block)
    }
}
nebula_allocator!(Bump);

fn bump_suite(wrong: Wrong) -> Result<(), String> {
    // Some room is lost at the start and the end.
    let options = AllocatorOptions::fixed(Region::size() - PAGE, Reuse::Never);
    catch(|| allocator_conformance_with(options, || Bump::new(wrong), |_| ()))
}

#[track_caller]
fn assert_fails(result: Result<(), String>, why: &str) {
    let message = result.expect_err("the suite passed");
    assert!(message.contains(why), "failed with `{message}`, expected `{why}`");
}

#[test]
fn a_correct_bump_allocator_passes() {
    assert_eq!(bump_suite(Wrong::Nothing), Ok(()));
}

#[test]
fn broken_bump_allocators_fail() {
    for (wrong, why) in [
        (Wrong::Excess, "exactly"),
        (Wrong::Short, "exactly"),
        (Wrong::Misaligned, "misaligned"),
        (Wrong::Overlap, "overlaps"),
        (Wrong::NotZeroed, "not zeroed by allocate_zeroed"),
        (Wrong::GrownPartNotZeroed, "not zeroed by grow_zeroed"),
        (Wrong::GrowthLosesTheEnd, "contents lost by grow"),
        (Wrong::GrowthCopiesNothing, "contents lost by grow"),
        (Wrong::ShrinkingLosesTheEnd, "contents lost by shrink"),
        (Wrong::FailedGrowthWrites, "contents lost by a grow that failed"),
        (Wrong::ServesHuge, "claims to have served"),
        (Wrong::PanicsOnHuge, "overflow"),
        (Wrong::RefusesTooEarly, "was refused"),
        (Wrong::WritesToNeighbours, "contents lost"),
        (Wrong::StartsOverWhenFull, "overlaps"),
        (Wrong::ServesAfterRefusing, "was refused, then served"),
    ] {
        let result = bump_suite(wrong);
        assert!(result.is_err(), "the suite passed with {wrong:?}");
        assert_fails(result, why);
    }
}

/// What is wrong with a [`Slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotFault {
    Nothing,
    /// A free of zero bytes frees a slot.
    FreesEmptyBlocks,
    /// Every eighth free is forgotten.
    LosesFreedSlots,
    /// A freed slot is put on the list twice.
    ListsTwice,
}

/// A pool of pages that are reused, with one fault.
struct Slots {
    fault: SlotFault,
    free: RefCell<Vec<usize>>,
    frees: Cell<usize>,
    region: Region,
}

impl Slots {
    fn new(fault: SlotFault) -> Self {
        let free = RefCell::new((0..PAGES).collect());
        Self { fault, free, frees: Cell::new(0), region: Region::new() }
    }
}

// SAFETY: none where `fault` says so; every pointer stays within the region.
unsafe impl Api2 for Slots {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 && self.fault != SlotFault::FreesEmptyBlocks {
            let end = NonNull::new(std::ptr::without_provenance_mut(layout.align()));
            return Ok(slice(end.ok_or(AllocError)?, 0));
        }
        if layout.size() > PAGE || layout.align() > PAGE {
            return Err(AllocError);
        }
        let slot = self.free.borrow_mut().pop().ok_or(AllocError)?;
        Ok(slice(self.region.at(slot * PAGE), layout.size()))
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        if layout.size() == 0 && self.fault != SlotFault::FreesEmptyBlocks {
            return;
        }
        self.frees.set(self.frees.get() + 1);
        if self.fault == SlotFault::LosesFreedSlots && self.frees.get() % 8 == 0 {
            return;
        }
        let offset = ptr.addr().get().wrapping_sub(self.region.at(0).addr().get());
        let slot = (offset / PAGE).min(PAGES - 1);
        self.free.borrow_mut().push(slot);
        if self.fault == SlotFault::ListsTwice {
            self.free.borrow_mut().push(slot);
        }
    }
}
nebula_allocator!(Slots);

fn slots_suite(fault: SlotFault) -> Result<(), String> {
    let options = AllocatorOptions::slots(PAGES, 128, PAGE);
    catch(|| allocator_conformance_with(options, || Slots::new(fault), |_| ()))
}

#[test]
fn a_correct_slot_allocator_passes() {
    assert_eq!(slots_suite(SlotFault::Nothing), Ok(()));
}

#[test]
fn broken_slot_allocators_fail() {
    assert_fails(slots_suite(SlotFault::FreesEmptyBlocks), "overlaps");
    assert_fails(slots_suite(SlotFault::LosesFreedSlots), "was refused");
    assert_fails(slots_suite(SlotFault::ListsTwice), "overlaps");
}

/// Over counted memory, with a block lost on every failed growth.
struct Leaky(FailingAllocator<CountingAllocator>);

// SAFETY: blocks are those of the counting allocator.
unsafe impl Api2 for Leaky {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.0.allocate(layout)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.0.deallocate(ptr, layout) }
    }

    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let spare = in_sight(self.0.get_ref().allocate(Layout::new::<u64>())?);
        // SAFETY: the caller's promises are the callee's.
        let block = unsafe { self.0.grow(ptr, old, new) }?;
        // SAFETY: allocated above.
        unsafe { self.0.deallocate(spare.cast(), Layout::new::<u64>()) };
        Ok(block)
    }
}
nebula_allocator!(Leaky);

#[test]
fn a_leak_on_an_error_path_fails() {
    let make = || {
        let failing = FailingAllocator::new(CountingAllocator::new());
        failing.refuse_above(Some(1 << 30));
        Leaky(failing)
    };
    let options = AllocatorOptions::default();
    assert_eq!(catch(|| allocator_conformance(make)), Ok(()));
    let settled = |leaky: &Leaky| leaky.0.get_ref().assert_clean();
    let result = catch(|| allocator_conformance_with(options, make, settled));
    assert_fails(result, "never freed");
}

/// An over-returning allocator that claims to be one of ours.
struct Untrimmed(OverReturning);

// SAFETY: none: more is returned than was asked for.
unsafe impl Api2 for Untrimmed {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.0.allocate(layout).map(in_sight)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.0.deallocate(ptr, layout) }
    }
}
nebula_allocator!(Untrimmed);

#[test]
fn excess_fails() {
    let result = catch(|| allocator_conformance(|| Untrimmed(OverReturning::new())));
    assert_fails(result, "exactly");
}

/// A bump allocator for threads whose cursor is read and written in two steps.
struct Racy {
    cursor: AtomicUsize,
    atomic: bool,
    region: Region,
}

// SAFETY: none if not `atomic`; every pointer stays within the region.
unsafe impl Api2 for Racy {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        loop {
            let cursor = self.cursor.load(SeqCst);
            let start = cursor.next_multiple_of(layout.align());
            let end = start.saturating_add(layout.size());
            if end > Region::size() {
                return Err(AllocError);
            }
            thread::yield_now();
            if !self.atomic {
                self.cursor.store(end, SeqCst);
            } else if self.cursor.compare_exchange(cursor, end, SeqCst, SeqCst).is_err() {
                continue;
            }
            return Ok(slice(self.region.at(start), layout.size()));
        }
    }

    unsafe fn deallocate(&self, _ptr: NonNull<u8>, _layout: Layout) {}
}
nebula_allocator!(Racy);

/// What the shared suite says of one that races, or does not.
fn shared_suite(atomic: bool) -> Result<(), String> {
    let options = AllocatorOptions::fixed(Region::size(), Reuse::Never);
    let make = || Racy { cursor: AtomicUsize::new(0), atomic, region: Region::new() };
    catch(|| shared_allocator_conformance(options, make, |_| ()))
}

#[test]
fn the_shared_suite_passes_without_a_race() {
    assert_eq!(shared_suite(true), Ok(()));
}

#[test]
#[cfg_attr(nebula_tsan, ignore = "it races on purpose, and ThreadSanitizer would tell")]
fn the_shared_suite_notices_a_race() {
    // The race is not certain to happen in one run; in all of fifty it is.
    assert!((0..50).any(|_| shared_suite(false).is_err()), "the race was never noticed");
}
