//! A stretch of memory that is handed out last in, first out: what a stack and its frames are made
//! of.
//!
//! Where blocks go is decided in `stacking`; here are the pointers, and the notes about blocks that
//! were freed while others lay above them. Such blocks are joined to runs as long as possible, so
//! that no two runs touch and none touches the cursor. The last bytes of a run say where it begins
//! and where the next lower run ends; `top_run` is the end of the topmost one.

use std::{
    alloc::Layout,
    cell::Cell,
    ptr::{self, NonNull},
};

use nebula_memory_core::{Align, MemoryError, layout::is_aligned};

use crate::{
    placing::{Placing, empty},
    poison::{poison, unpoison},
    stacking::{self, GRAIN},
};

/// A note about a run of freed bytes, in its last grain.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Where the run begins.
    start: usize,
    /// Where the next lower run ends, or zero.
    below: usize,
}

const _: () = assert!(size_of::<Run>() <= GRAIN && align_of::<Run>() <= GRAIN);

/// The stretch, its cursor, and what is free below the cursor.
pub(crate) struct Lifo {
    /// The first byte; the provenance covers the stretch. A multiple of the grain.
    start: NonNull<u8>,
    /// The address of the first byte above the top block: `start <= cursor <= end`.
    cursor: Cell<usize>,
    /// The address after the last byte.
    end: usize,
    /// Where the topmost run of freed bytes ends, below the cursor; or zero.
    top_run: Cell<usize>,
    /// Blocks that were given up while others lay above them.
    out_of_order: Cell<u64>,
}

impl Lifo {
    /// A stretch of `size` bytes at `start`, of which the whole grains are used.
    ///
    /// # Safety
    /// The bytes are valid for reads and writes, nobody else touches them for as long as this or a
    /// block from it is used, and `start` is a multiple of the grain.
    pub(crate) unsafe fn new(start: NonNull<u8>, size: usize) -> Self {
        debug_assert!(is_aligned(start.addr().get(), GRAIN));
        poison(start, size);
        let address = start.addr().get();
        Self {
            start,
            cursor: Cell::new(address),
            end: stacking::usable_end(address, size),
            top_run: Cell::new(0),
            out_of_order: Cell::new(0),
        }
    }

    /// The first byte.
    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes of the stretch.
    pub(crate) fn size(&self) -> usize {
        self.end - self.start.addr().get()
    }

    /// Bytes below the cursor.
    pub(crate) fn used(&self) -> usize {
        self.cursor.get() - self.start.addr().get()
    }

    /// The address of the first byte above the top block.
    pub(crate) fn top(&self) -> usize {
        self.cursor.get()
    }

    /// Blocks that were given up while others lay above them.
    pub(crate) fn out_of_order(&self) -> u64 {
        self.out_of_order.get()
    }

    /// The pointer to an address of the stretch.
    ///
    /// # Safety
    /// `start <= address <= end`.
    #[inline]
    unsafe fn at(&self, address: usize) -> NonNull<u8> {
        debug_assert!(self.start.addr().get() <= address && address <= self.end);
        let pointer = self.start.as_ptr().with_addr(address);
        // SAFETY: the address is not below that of `start`, which is not null.
        unsafe { NonNull::new_unchecked(pointer) }
    }

    /// The last grain before `address`, where notes are.
    ///
    /// # Safety
    /// `address` is a multiple of the grain, in the stretch, and not its start.
    #[inline]
    unsafe fn grain_before(&self, address: usize) -> NonNull<u8> {
        // SAFETY: the stretch begins at a multiple of the grain, so that there is a whole one.
        unsafe { self.at(address - GRAIN) }
    }

    /// The note of the run that ends at `end`.
    ///
    /// # Safety
    /// There is one.
    unsafe fn run(&self, end: usize) -> Run {
        // SAFETY: runs lie in the stretch, in whole grains.
        let note = unsafe { self.grain_before(end) }.cast::<Run>();
        // SAFETY: the note was written when the run was noted, and the run is nobody's since.
        unsafe { note.read() }
    }

    /// Writes the note of the run that ends at `end`.
    ///
    /// # Safety
    /// `run.start..end` is free: whole grains of the stretch, at least one, and nobody's.
    unsafe fn note(&self, end: usize, run: Run) {
        // SAFETY: runs lie in the stretch, in whole grains.
        let note = unsafe { self.grain_before(end) };
        unpoison(note, GRAIN);
        // SAFETY: the grain is nobody's, large enough and aligned for a note.
        unsafe { note.cast().write(run) };
    }

    /// Reads the note of the run that ends at `end`, which is one no longer.
    ///
    /// # Safety
    /// There is one.
    unsafe fn take_run(&self, end: usize) -> Run {
        // SAFETY: the caller's promise is the callee's.
        let run = unsafe { self.run(end) };
        // SAFETY: as in `run`.
        poison(unsafe { self.grain_before(end) }, GRAIN);
        run
    }

    /// Where the block at `start` begins, its header and padding included.
    ///
    /// # Safety
    /// There is a live block at `ptr` that was placed with this alignment.
    #[inline]
    unsafe fn beginning(&self, ptr: NonNull<u8>, align: usize) -> usize {
        if !stacking::has_header(align) {
            return ptr.addr().get();
        }
        // SAFETY: the block has a header before it, in the stretch.
        let header = unsafe { self.grain_before(ptr.addr().get()) };
        // SAFETY: it was written when the block was placed, and is nobody else's.
        unsafe { header.cast::<usize>().read() }
    }

    /// Notes before a block at `start` that it begins at `beginning`, if its alignment asks for it.
    ///
    /// # Safety
    /// The bytes between the two are part of what the block takes up, and nobody uses them.
    #[inline]
    unsafe fn set_beginning(&self, start: usize, align: usize, beginning: usize) {
        if stacking::has_header(align) {
            // SAFETY: a block that has a header begins at least a grain before its first byte.
            let header = unsafe { self.grain_before(start) };
            unpoison(header, GRAIN);
            // SAFETY: the grain is the block's, large enough and aligned for an address.
            unsafe { header.cast().write(beginning) };
        }
    }

    /// The address after the block's last grain.
    #[inline]
    fn end_of(ptr: NonNull<u8>, layout: Layout) -> usize {
        ptr.addr().get() + stacking::grains(layout.size())
    }

    /// Gives back `start..end`: a block or a frame, from its beginning to its end.
    ///
    /// # Safety
    /// They are whole grains that were placed, at least one, and nobody uses them.
    #[inline]
    pub(crate) unsafe fn give_back(&self, start: usize, end: usize) {
        if end != self.cursor.get() {
            // SAFETY: the caller's promises are the callee's.
            unsafe { self.bury(start, end) };
            self.out_of_order.set(self.out_of_order.get() + 1);
            return;
        }
        self.cursor.set(start);
        if start == self.top_run.get() {
            self.uncover();
        }
    }

    /// Gives back the run that the cursor has come down to.
    #[cold]
    fn uncover(&self) {
        // SAFETY: `top_run` is not zero, because the cursor is not, and says that there is a run.
        let run = unsafe { self.take_run(self.top_run.get()) };
        self.cursor.set(run.start);
        self.top_run.set(run.below);
    }

    /// Notes that `start..end` is free though not at the top. Takes O(runs above it).
    ///
    /// # Safety
    /// As [`give_back`](Self::give_back).
    #[cold]
    #[inline(never)]
    unsafe fn bury(&self, start: usize, end: usize) {
        debug_assert!(
            self.start.addr().get() <= start && start < end && end < self.cursor.get(),
            "what is freed is not a block of this stack"
        );
        // The lowest run above, and the highest below: they end at `above` and `below`, or are none.
        let (mut above, mut below) = (0, self.top_run.get());
        while below > start {
            above = below;
            // SAFETY: it is the end of a run, from the list.
            below = unsafe { self.run(below) }.below;
        }
        let mut run = Run { start, below };
        if below == start {
            // SAFETY: as above; it becomes part of the new run.
            run = unsafe { self.take_run(below) };
        }
        if above == 0 {
            // SAFETY: both parts of the new run are free.
            unsafe { self.note(end, run) };
            self.top_run.set(end);
            return;
        }
        // SAFETY: as above.
        let mut upper = unsafe { self.run(above) };
        debug_assert!(upper.start >= end, "a block is freed a second time");
        if upper.start == end {
            upper = run;
        } else {
            // SAFETY: both parts of the new run are free.
            unsafe { self.note(end, run) };
            upper.below = end;
        }
        // SAFETY: the run above is free, and so is the new one where it becomes part of it.
        unsafe { self.note(above, upper) };
    }

    /// Takes back everything from `address` on, and the run that reaches or touches it.
    pub(crate) fn release_to(&mut self, address: usize) -> Result<(), MemoryError> {
        let top = self.cursor.get();
        if address > top || address < self.start.addr().get() {
            return Err(MemoryError::NotTopOfStack { distance: address.abs_diff(top) });
        }
        let (mut to, mut run) = (address, self.top_run.get());
        while run >= to {
            // SAFETY: `to` is not zero, and so `run` is the end of a run.
            let note = unsafe { self.take_run(run) };
            to = to.min(note.start);
            run = note.below;
        }
        self.top_run.set(run);
        self.cursor.set(to);
        // SAFETY: it is at most the address, which is in the stretch.
        poison(unsafe { self.at(to) }, top - to);
        Ok(())
    }

    /// Takes back everything.
    pub(crate) fn reset(&mut self) {
        self.top_run.set(0);
        self.cursor.set(self.start.addr().get());
        poison(self.start, self.size());
    }

    /// Frees a block if it is at the top.
    ///
    /// # Safety
    /// As `Allocator::deallocate`.
    #[inline]
    pub(crate) unsafe fn try_free(
        &self,
        ptr: NonNull<u8>,
        layout: Layout,
    ) -> Result<(), MemoryError> {
        if layout.size() != 0 {
            let (top, end) = (self.cursor.get(), Self::end_of(ptr, layout));
            if end != top {
                return Err(MemoryError::NotTopOfStack { distance: top.wrapping_sub(end) });
            }
        }
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.free(ptr, layout) };
        Ok(())
    }

    /// A stretch made of everything above the cursor. It is placed like a block, and has to be
    /// [returned](Self::return_rest) like one.
    pub(crate) fn lend_rest(&self) -> Self {
        let start = self.cursor.replace(self.end);
        // SAFETY: the cursor is in the stretch.
        let pointer = unsafe { self.at(start) };
        // SAFETY: the bytes are above the cursor, which has moved past them: nobody has them. The
        // cursor is a multiple of the grain.
        unsafe { Self::new(pointer, self.end - start) }
    }

    /// Takes back what [`lend_rest`](Self::lend_rest) lent.
    ///
    /// # Safety
    /// `rest` comes from this stretch, is given back once, and nobody uses it or a block from it.
    pub(crate) unsafe fn return_rest(&self, rest: &Self) {
        self.out_of_order.set(self.out_of_order.get() + rest.out_of_order.get());
        let (start, size) = (rest.start.addr().get(), rest.size());
        if size != 0 {
            poison(rest.start, size);
            // SAFETY: the rest was placed by moving the cursor past it, and nobody uses it.
            unsafe { self.give_back(start, rest.end) };
        }
    }

    /// Frees the top block and places one of `new` there; the first `keep` bytes are kept. On
    /// `None` nothing has changed.
    ///
    /// # Safety
    /// `ptr` is the top block, `old` fits it, and `keep` is at most either size.
    #[inline]
    unsafe fn replace_top(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
        keep: usize,
    ) -> Option<NonNull<[u8]>> {
        // SAFETY: `old` fits the live block.
        let beginning = unsafe { self.beginning(ptr, old.align()) };
        let old_end = self.cursor.get();
        if new.size() == 0 {
            // SAFETY: the beginning of a block is in the stretch.
            poison(unsafe { self.at(beginning) }, old_end - beginning);
            // SAFETY: this is the block, from its beginning to its end, and its owner gave it up.
            unsafe { self.give_back(beginning, old_end) };
            return Some(empty(new));
        }
        let place = stacking::place(beginning, self.end, new)?;
        self.cursor.set(place.end);
        // SAFETY: a place lies in the stretch.
        let block = unsafe { self.at(place.start) };
        unpoison(block, new.size());
        if block != ptr {
            // SAFETY: `keep` bytes are readable in the old block and writable in the new one, and
            // the two may overlap. Nobody else uses either: the caller gave up the old block.
            unsafe { ptr.copy_to(block, keep) };
        }
        // After the bytes have moved, because the header may lie where they were.
        // SAFETY: the beginning of a block is in the stretch.
        poison(unsafe { self.at(beginning) }, place.start - beginning);
        // SAFETY: the block takes up everything from its beginning on.
        unsafe { self.set_beginning(place.start, new.align(), beginning) };
        let (block_end, highest) = (place.start + new.size(), old_end.max(place.end));
        // SAFETY: the end of a block is in the stretch.
        poison(unsafe { self.at(block_end) }, highest - block_end);
        Some(NonNull::slice_from_raw_parts(block, new.size()))
    }

    /// Places a block of `new` at the top, copies `keep` bytes to it and frees the old one, which
    /// is not at the top. On `None` nothing has changed.
    ///
    /// # Safety
    /// `old` fits the live block at `ptr`, and `keep` is at most either size.
    #[inline]
    unsafe fn relocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
        keep: usize,
    ) -> Option<NonNull<[u8]>> {
        let block = self.place(new)?;
        // SAFETY: `keep` bytes are readable in the old block and writable in the new one; two live
        // blocks do not overlap.
        unsafe { ptr::copy_nonoverlapping(ptr.as_ptr(), block.cast().as_ptr(), keep) };
        // SAFETY: the caller gave up the old block, which `old` fits.
        unsafe { self.free(ptr, old) };
        Some(block)
    }

    /// Whether a block at `ptr` may have either layout's alignment where it is: aligned, and with a
    /// header under both or none.
    #[inline]
    fn same_shape(ptr: NonNull<u8>, old: Layout, new: Layout) -> bool {
        stacking::has_header(old.align()) == stacking::has_header(new.align())
            && is_aligned(ptr.addr().get(), new.align())
    }

    /// Whether the block is the top one, so that the bytes from its beginning on are this call's to
    /// give. Empty blocks have no bytes.
    #[inline]
    fn is_top(&self, ptr: NonNull<u8>, layout: Layout) -> bool {
        layout.size() != 0 && Self::end_of(ptr, layout) == self.cursor.get()
    }
}

// SAFETY: a block is placed at or after the cursor, the cursor moves past it, and comes back only
// over what was given up and what lies in runs, which were given up before. Notes are written only
// into runs, headers only before a block, into what it takes up.
unsafe impl Placing for Lifo {
    #[inline]
    fn place(&self, layout: Layout) -> Option<NonNull<[u8]>> {
        if layout.size() == 0 {
            return Some(empty(layout));
        }
        let cursor = self.cursor.get();
        let place = stacking::place(cursor, self.end, layout)?;
        self.cursor.set(place.end);
        // SAFETY: what lies between the cursor and the place is the block's.
        unsafe { self.set_beginning(place.start, layout.align(), cursor) };
        // SAFETY: a place lies between the cursor and the end.
        let block = unsafe { self.at(place.start) };
        unpoison(block, layout.size());
        Some(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    #[cold]
    #[inline(never)]
    fn refusal(&self, layout: Layout) -> MemoryError {
        MemoryError::CapacityExceeded {
            requested: layout.size(),
            available: stacking::room(self.cursor.get(), self.end, layout.align()),
            align: Align::new(layout.align()),
        }
    }

    #[inline]
    unsafe fn free(&self, ptr: NonNull<u8>, layout: Layout) {
        if layout.size() == 0 {
            return;
        }
        // SAFETY: `layout` fits the live block.
        let beginning = unsafe { self.beginning(ptr, layout.align()) };
        if cfg!(nebula_asan) {
            // SAFETY: the beginning of a block is in the stretch.
            let start = unsafe { self.at(beginning) };
            poison(start, Self::end_of(ptr, layout) - beginning);
        }
        // SAFETY: this is the block, from its beginning to its end, and its owner gave it up.
        unsafe { self.give_back(beginning, Self::end_of(ptr, layout)) };
    }

    #[inline]
    unsafe fn grow(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
        if self.is_top(ptr, old) {
            // SAFETY: it is the top block, `old` fits it as the caller promises, and the old size
            // is at most the new one.
            unsafe { self.replace_top(ptr, old, new, old.size()) }
        } else if stacking::grains(old.size()) == stacking::grains(new.size())
            && Self::same_shape(ptr, old, new)
        {
            unpoison(ptr, new.size());
            // The caller's pointer may reach no further than the old size; the region's does.
            let ptr = match new.size() {
                0 => ptr,
                // SAFETY: a block that has bytes lies in the region.
                _ => unsafe { self.at(ptr.addr().get()) },
            };
            Some(NonNull::slice_from_raw_parts(ptr, new.size()))
        } else {
            // SAFETY: `old` fits the live block, and its size is at most the new one.
            unsafe { self.relocate(ptr, old, new, old.size()) }
        }
    }

    #[inline]
    unsafe fn shrink(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
        if self.is_top(ptr, old) {
            // SAFETY: it is the top block, `old` fits it as the caller promises, and the new size
            // is at most the old one.
            return unsafe { self.replace_top(ptr, old, new, new.size()) };
        }
        if new.size() == 0 || !Self::same_shape(ptr, old, new) {
            // SAFETY: `old` fits the live block, and the new size is at most its size.
            return unsafe { self.relocate(ptr, old, new, new.size()) };
        }
        let (end, old_end) = (Self::end_of(ptr, new), Self::end_of(ptr, old));
        // SAFETY: the new size is at most the old one, so that the sum lies in the block.
        poison(unsafe { ptr.add(new.size()) }, old.size() - new.size());
        if end != old_end {
            // SAFETY: the grains after the new end are whole, were the block's, and are given up.
            unsafe { self.bury(end, old_end) };
        }
        Some(NonNull::slice_from_raw_parts(ptr, new.size()))
    }
}
