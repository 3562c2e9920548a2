//! A stretch of memory that is handed out from its beginning to its end: what a bump allocator and
//! its scopes are made of.
//!
//! Where blocks go is decided in `bumping`, how the cursor moves in `cursor`; here are the pointers.
//! With an atomic cursor, whatever a move down gives up is poisoned and no longer touched before
//! it, and whatever a move up gains is unpoisoned and touched after it.

use std::{
    alloc::Layout,
    ptr::{self, NonNull},
};

use nebula_memory_core::{
    Align, MemoryError,
    layout::{align_down, is_aligned, padding_for},
};

use crate::{
    Mode, Shared,
    bumping::{self, Place},
    cursor::Cursor,
    placing::{Placing, empty},
    poison::{self, GRANULE},
};

/// The stretch and its cursor.
pub(crate) struct Region<M: Mode> {
    /// The first byte; the provenance covers the stretch.
    start: NonNull<u8>,
    /// The address of the first free byte: `start <= cursor <= end`.
    cursor: M::Cursor,
    /// The address after the last byte.
    end: usize,
}

// SAFETY: the stretch belongs to this value alone and the cursor moves with it.
unsafe impl<M: Mode> Send for Region<M> {}

// SAFETY: through `&self`, blocks are placed and given back by moving an atomic cursor; each of
// two threads that move it gets bytes that the other one has not, or a refusal.
unsafe impl Sync for Region<Shared> {}

/// Poisons bytes that nobody has. Where several threads do so at once, only the granules that are
/// nobody else's: the sanitizer keeps one note for each, without a lock.
#[inline]
fn poison<M: Mode>(start: NonNull<u8>, bytes: usize) {
    if cfg!(nebula_asan) && M::THREAD_SAFE {
        let before = padding_for(start.addr().get(), GRANULE).min(bytes);
        let whole = align_down(bytes - before, GRANULE);
        // SAFETY: what goes before is at most the bytes.
        poison::poison(unsafe { start.add(before) }, whole);
    } else {
        poison::poison(start, bytes);
    }
}

impl<M: Mode> Region<M> {
    /// A stretch of `size` bytes at `start` (less if they end at the end of the address space).
    ///
    /// # Safety
    /// The bytes are valid for reads and writes, and nobody else touches them for as long as this
    /// or a block from it is used.
    pub(crate) unsafe fn new(start: NonNull<u8>, size: usize) -> Self {
        poison::<M>(start, size);
        let address = start.addr().get();
        Self { start, cursor: M::Cursor::new(address), end: bumping::usable_end(address, size) }
    }

    /// The first byte.
    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes of the stretch.
    pub(crate) fn size(&self) -> usize {
        self.end - self.start.addr().get()
    }

    /// Bytes before the cursor.
    pub(crate) fn used(&self) -> usize {
        self.cursor.get() - self.start.addr().get()
    }

    /// The address of the first free byte.
    pub(crate) fn top(&self) -> usize {
        self.cursor.get()
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

    /// Unpoisons the bytes of a block. Where several threads do so at once, whole granules.
    #[inline]
    fn unpoison(&self, start: NonNull<u8>, bytes: usize) {
        if cfg!(nebula_asan) && M::THREAD_SAFE {
            let (first, last) = (start.addr().get(), start.addr().get() + bytes);
            let from = align_down(first, GRANULE).max(self.start.addr().get());
            let to = (last + padding_for(last, GRANULE)).min(self.end);
            // SAFETY: it is not before the start of the stretch.
            poison::unpoison(unsafe { self.at(from) }, to - from);
        } else {
            poison::unpoison(start, bytes);
        }
    }

    /// Takes everything back.
    pub(crate) fn reset(&mut self) {
        self.cursor.set(self.start.addr().get());
        poison::<M>(self.start, self.size());
    }

    /// Takes back everything from `address` on.
    pub(crate) fn restore(&mut self, address: usize) -> Result<(), MemoryError> {
        let top = self.cursor.get();
        if address > top || address < self.start.addr().get() {
            return Err(MemoryError::NotTopOfStack { distance: address.abs_diff(top) });
        }
        self.cursor.set(address);
        // SAFETY: the address is in the stretch.
        poison::<M>(unsafe { self.at(address) }, top - address);
        Ok(())
    }

    /// A stretch made of everything after the cursor. It is placed like a block, and has to be
    /// [returned](Self::return_rest) like one.
    pub(crate) fn lend_rest(&self) -> Self {
        let all = |cursor| Some(Place { start: cursor, end: self.end });
        let start = self.cursor.advance(all).map_or(self.end, |place| place.start);
        // SAFETY: the cursor was in the stretch.
        let pointer = unsafe { self.at(start) };
        // SAFETY: the cursor moved past these bytes, so that nobody has them.
        unsafe { Self::new(pointer, self.end - start) }
    }

    /// Takes back what [`lend_rest`](Self::lend_rest) lent.
    ///
    /// # Safety
    /// `rest` comes from this stretch, is given back once, and nobody uses it or a block from it.
    pub(crate) unsafe fn return_rest(&self, rest: &Self) {
        if rest.size() != 0 {
            poison::<M>(rest.start, rest.size());
            self.cursor.replace(rest.end, rest.start.addr().get());
        }
    }

    /// Whether the block is the last, as things are. Empty blocks have no bytes.
    #[inline]
    fn is_last(&self, ptr: NonNull<u8>, layout: Layout) -> bool {
        layout.size() != 0 && bumping::is_last(ptr.addr().get(), layout.size(), self.cursor.get())
    }

    /// Moves the first `keep` bytes of the block at `ptr` to `place`, which begins in it or after
    /// it, and makes that a block of `size` bytes.
    ///
    /// # Safety
    /// The block and the place are the caller's to use, both of at least `keep` bytes, and lie in
    /// the stretch.
    #[inline]
    unsafe fn shift(
        &self,
        ptr: NonNull<u8>,
        place: Place,
        size: usize,
        keep: usize,
    ) -> NonNull<[u8]> {
        // SAFETY: the place lies in the stretch.
        let block = unsafe { self.at(place.start) };
        self.unpoison(block, size);
        if block != ptr {
            // SAFETY: `keep` bytes are readable in the old block and writable in the new one, and
            // the two may overlap. Nobody else uses either.
            unsafe { ptr.copy_to(block, keep) };
            poison::<M>(ptr, place.start - ptr.addr().get());
        }
        NonNull::slice_from_raw_parts(block, size)
    }

    /// Places a block of `new` elsewhere and copies `keep` bytes to it; the old block is lost to
    /// the stretch until it is reset. On `None` nothing has changed.
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
        poison::<M>(ptr, old.size());
        Some(block)
    }
}

// SAFETY: a block is placed at or after the cursor, the cursor moves past it, and moves back only
// over a block that its owner gave up and that nothing follows.
unsafe impl<M: Mode> Placing for Region<M> {
    #[inline]
    fn place(&self, layout: Layout) -> Option<NonNull<[u8]>> {
        if layout.size() == 0 {
            return Some(empty(layout));
        }
        let place = self.cursor.advance(|cursor| bumping::place(cursor, self.end, layout))?;
        // SAFETY: a place lies between the cursor and the end.
        let block = unsafe { self.at(place.start) };
        self.unpoison(block, layout.size());
        Some(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    #[cold]
    #[inline(never)]
    fn refusal(&self, layout: Layout) -> MemoryError {
        MemoryError::CapacityExceeded {
            requested: layout.size(),
            available: bumping::room(self.cursor.get(), self.end, layout.align()),
            align: Align::new(layout.align()),
        }
    }

    #[inline]
    unsafe fn free(&self, ptr: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            poison::<M>(ptr, layout.size());
            let start = ptr.addr().get();
            self.cursor.replace(start + layout.size(), start);
        }
    }

    #[inline]
    unsafe fn grow(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
        if self.is_last(ptr, old) {
            let start = ptr.addr().get();
            // What has no place here has none elsewhere.
            let place = bumping::place(start, self.end, new)?;
            if self.cursor.replace(start + old.size(), place.end) {
                // SAFETY: everything from the block to the end of the place is this call's, and the
                // old size is at most the new one.
                return Some(unsafe { self.shift(ptr, place, new.size(), old.size()) });
            }
        }
        // SAFETY: `old` fits the live block, and its size is at most the new one.
        unsafe { self.relocate(ptr, old, new, old.size()) }
    }

    #[inline]
    unsafe fn shrink(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>> {
        let start = ptr.addr().get();
        if self.is_last(ptr, old) {
            let old_end = start + old.size();
            if new.size() == 0 {
                poison::<M>(ptr, old.size());
                self.cursor.replace(old_end, start);
                return Some(empty(new));
            }
            let place = bumping::place(start, self.end, new)?;
            // A larger alignment may take it beyond its old end, which has to be had first.
            if place.end <= old_end || self.cursor.replace(old_end, place.end) {
                // SAFETY: everything from the block to the end of the place is this call's, and the
                // new size is at most the old one.
                let block = unsafe { self.shift(ptr, place, new.size(), new.size()) };
                if place.end < old_end {
                    // SAFETY: the end of a place lies in the stretch.
                    poison::<M>(unsafe { self.at(place.end) }, old_end - place.end);
                    // If another thread has placed a block behind it meanwhile, they are lost until
                    // the reset.
                    self.cursor.replace(old_end, place.end);
                }
                return Some(block);
            }
        }
        if is_aligned(start, new.align()) {
            // SAFETY: the new size is at most the old one, so that the sum lies in the block.
            poison::<M>(unsafe { ptr.add(new.size()) }, old.size() - new.size());
            return Some(NonNull::slice_from_raw_parts(ptr, new.size()));
        }
        // SAFETY: `old` fits the live block, and the new size is at most its size.
        unsafe { self.relocate(ptr, old, new, new.size()) }
    }
}
