//! What all arenas are made of: a cursor in a chunk, and the list of chunks around it.
//!
//! A [`Bump`] has no allocator of its own. Whoever owns one passes the same allocator to every
//! call, and calls [`Bump::release`] before it goes.

mod figures;
mod keeping;
mod places;

use std::{alloc::Layout, cell::Cell, marker::PhantomData, ptr::NonNull};

use nebula_memory_core::{Align, Allocator, MemoryError, layout::is_aligned};

use crate::{
    ArenaConfig, Direction, asan,
    bumping::{Request, end_up, next_chunk, next_smaller, smallest_chunk, step},
    chunk::{CHUNK_ALIGN, Chunk, HEADER},
};

pub(crate) use places::{Address, Mark};

/// A cursor, and chunks.
///
/// The chunks form a list in order of use: those that are full, the current one, and spare ones
/// behind it. A request that is too large for the series of sizes has a chunk of its own on a
/// stack aside.
///
/// Every allocator's call may come back to this very bump: the state is whole before each, and is
/// read again after it.
pub(crate) struct Bump<D: Direction, const MIN_ALIGN: usize> {
    /// Where the next block may start (upwards) or the last one starts (downwards). In the current
    /// chunk, with a provenance that spans it.
    cursor: Cell<*mut u8>,
    /// How far the cursor may move: the end of the current chunk, or its start.
    limit: Cell<*mut u8>,
    current: Cell<Option<Chunk>>,
    first: Cell<Option<Chunk>>,
    last: Cell<Option<Chunk>>,
    /// The latest of the chunks that hold one large block each, linked by `prev`.
    asides: Cell<Option<Chunk>>,
    /// Bytes of all chunks, in the list or aside.
    bytes: Cell<usize>,
    count: Cell<usize>,
    /// The size of the next chunk in the series, in bytes; zero before the first.
    next_size: Cell<usize>,
    /// The most bytes in use that were seen.
    high_water: Cell<usize>,
    direction: PhantomData<D>,
}

/// Where the cursor points while there is no chunk: nowhere, aligned as a chunk's ends are. The
/// limit is the same, so that only blocks without bytes fit.
const NOWHERE: *mut u8 = std::ptr::without_provenance_mut(CHUNK_ALIGN);

impl<D: Direction, const MIN_ALIGN: usize> Bump<D, MIN_ALIGN> {
    const MIN_ALIGN_IS_VALID: () = assert!(
        MIN_ALIGN.is_power_of_two() && MIN_ALIGN <= CHUNK_ALIGN,
        "an arena's minimum alignment is 1, 2, 4, 8 or 16"
    );

    pub(crate) const fn new() -> Self {
        const { Self::MIN_ALIGN_IS_VALID };
        Self {
            cursor: Cell::new(NOWHERE),
            limit: Cell::new(NOWHERE),
            current: Cell::new(None),
            first: Cell::new(None),
            last: Cell::new(None),
            asides: Cell::new(None),
            bytes: Cell::new(0),
            count: Cell::new(0),
            next_size: Cell::new(0),
            high_water: Cell::new(0),
            direction: PhantomData,
        }
    }

    /// Room in the current chunk, if it has it.
    #[inline(always)]
    pub(crate) fn place(&self, request: Request) -> Option<NonNull<u8>> {
        let cursor = self.cursor.get();
        let place = D::place(cursor.addr(), self.limit.get().addr(), request, MIN_ALIGN)?;
        self.cursor.set(cursor.with_addr(place.cursor));
        let block = cursor.with_addr(place.start);
        asan::allow(block, request.size());
        // SAFETY: the place lies between cursor and limit, neither of which is ever null, or, where
        // a block without bytes is aligned beyond them, is at least its alignment.
        Some(unsafe { NonNull::new_unchecked(block) })
    }

    /// Room for a block that does not fit in the current chunk. `aside`: a block that is too large
    /// for the series of sizes gets a chunk of its own, and the current one goes on being filled.
    #[cold]
    #[inline(never)]
    pub(crate) fn place_elsewhere(
        &self,
        allocator: &impl Allocator,
        config: &ArenaConfig,
        layout: Layout,
        aside: bool,
    ) -> Result<NonNull<u8>, MemoryError> {
        if layout.size() == 0 {
            return Ok(nowhere_aligned(layout));
        }
        let Some(smallest) = smallest_chunk(HEADER, layout) else {
            return Err(no_capacity(layout, 0));
        };
        let series = self.series(config);
        if aside && smallest > series {
            let chunk = match self.take_spare(smallest) {
                Some(spare) => spare,
                None => self.take_chunk(allocator, config, layout, smallest, smallest)?,
            };
            return self.place_aside(chunk, layout);
        }
        let chunk = match self.take_spare(smallest) {
            Some(spare) => spare,
            None => {
                let chunk = self.take_chunk(allocator, config, layout, series, smallest)?;
                if smallest <= series {
                    self.next_size.set(next_chunk(
                        config.growth,
                        first_chunk(config),
                        series,
                        config.max_chunk_size.get(),
                        CHUNK_ALIGN,
                    ));
                }
                chunk
            }
        };
        self.enter(chunk);
        // The chunk is large enough for any padding, unless it lies where no memory is.
        self.place(Request::any(layout)).ok_or_else(|| MemoryError::out_of_memory(layout))
    }

    /// The size of the next chunk in the series.
    fn series(&self, config: &ArenaConfig) -> usize {
        match self.next_size.get() {
            0 => first_chunk(config),
            size => size,
        }
    }

    /// Takes a chunk of `wanted` bytes from the allocator, or of less, down to `smallest`. It is in
    /// no list yet. Before a refusal is reported, spare chunks (which are too small) go back.
    fn take_chunk(
        &self,
        allocator: &impl Allocator,
        config: &ArenaConfig,
        layout: Layout,
        wanted: usize,
        smallest: usize,
    ) -> Result<Chunk, MemoryError> {
        loop {
            match self.try_take_chunk(allocator, config, layout, wanted, smallest) {
                Err(_) if self.first_spare().is_some() => {
                    // SAFETY: the allocator is the one of this bump's chunks, as with every call.
                    unsafe { self.shrink_to(allocator, 0) };
                }
                result => return result,
            }
        }
    }

    fn try_take_chunk(
        &self,
        allocator: &impl Allocator,
        config: &ArenaConfig,
        layout: Layout,
        wanted: usize,
        smallest: usize,
    ) -> Result<Chunk, MemoryError> {
        let left = match config.capacity {
            Some(capacity) => capacity.get().saturating_sub(self.bytes.get()),
            None => usize::MAX,
        };
        if smallest > left {
            return Err(no_capacity(layout, left.saturating_sub(HEADER.size())));
        }
        let mut size = wanted.min(left & !(CHUNK_ALIGN - 1)).max(smallest);
        loop {
            match Chunk::take(allocator, size) {
                Ok(chunk) => {
                    self.bytes.set(self.bytes.get() + size);
                    self.count.set(self.count.get() + 1);
                    // The allocator may have come back here, and used up what was left.
                    if config.capacity.is_some_and(|capacity| self.bytes.get() > capacity.get()) {
                        // SAFETY: the chunk is in no list and nobody uses it.
                        unsafe { self.give_back(allocator, chunk) };
                        return Err(no_capacity(layout, 0));
                    }
                    return Ok(chunk);
                }
                // Less will do, down to what is needed; the last refusal is the one to report.
                Err(error) => match next_smaller(size, smallest, CHUNK_ALIGN) {
                    Some(smaller) => size = smaller,
                    None => return Err(error),
                },
            }
        }
    }

    /// The first and the last chunk in use of the list.
    pub(crate) fn ends(&self) -> Option<(Chunk, Chunk)> {
        self.first.get().zip(self.current.get())
    }

    fn first_spare(&self) -> Option<Chunk> {
        match self.current.get() {
            Some(current) => current.header().next.get(),
            None => self.first.get(),
        }
    }

    /// Takes `chunk` out of the list.
    fn unlink(&self, chunk: Chunk) {
        let (prev, next) = (chunk.header().prev.take(), chunk.header().next.take());
        match prev {
            Some(prev) => prev.header().next.set(next),
            None => self.first.set(next),
        }
        match next {
            Some(next) => next.header().prev.set(prev),
            None => self.last.set(prev),
        }
    }

    /// Puts `chunk`, which is in no list, behind `prev`, or first.
    fn link(&self, chunk: Chunk, prev: Option<Chunk>) {
        let next = match prev {
            Some(prev) => prev.header().next.replace(Some(chunk)),
            None => self.first.replace(Some(chunk)),
        };
        chunk.header().prev.set(prev);
        chunk.header().next.set(next);
        match next {
            Some(next) => next.header().prev.set(Some(chunk)),
            None => self.last.set(Some(chunk)),
        }
    }

    /// From now on, blocks come from `chunk`, which is empty and in no list.
    fn enter(&self, chunk: Chunk) {
        let before = self.used_in_list();
        if let Some(current) = self.current.get() {
            current.header().used.set(self.used_in_current());
        }
        self.link(chunk, self.current.get());
        chunk.header().used_before.set(before);
        chunk.header().size_before.set(self.size_in_list());
        self.set_current(Some(chunk));
        self.note_high_water();
    }

    /// Makes `chunk` the current one, as if it were empty.
    fn set_current(&self, chunk: Option<Chunk>) {
        let (cursor, limit) = chunk.map_or((NOWHERE, NOWHERE), Self::edges);
        self.current.set(chunk);
        self.cursor.set(cursor);
        self.limit.set(limit);
    }

    /// Whether nothing is in use, and the cursor where it starts.
    #[inline]
    fn is_empty(&self) -> bool {
        self.asides.get().is_none()
            && self.current.get().is_none_or(|current| {
                Some(current) == self.first.get() && self.cursor.get() == Self::edges(current).0
            })
    }

    /// Where the cursor starts in `chunk`, and how far it may move.
    fn edges(chunk: Chunk) -> (*mut u8, *mut u8) {
        if D::UPWARDS { (chunk.start(), chunk.end()) } else { (chunk.end(), chunk.start()) }
    }

    /// A block of `layout` in `chunk`, which is large enough for it, and in no list.
    fn place_aside(&self, chunk: Chunk, layout: Layout) -> Result<NonNull<u8>, MemoryError> {
        let before = self.used_aside();
        let latest = self.asides.replace(Some(chunk));
        let header = chunk.header();
        header.prev.set(latest);
        header.used_before.set(before);
        header.size_before.set(latest.map_or(0, Self::size_up_to));
        let (edge, limit) = Self::edges(chunk);
        let place = D::place(edge.addr(), limit.addr(), Request::any(layout), MIN_ALIGN);
        let Some(place) = place else {
            // It lies where no memory is. It stays aside, unused.
            header.used.set(0);
            return Err(MemoryError::out_of_memory(layout));
        };
        header.used.set(edge.addr().abs_diff(place.cursor));
        self.note_high_water();
        let block = chunk.start().with_addr(place.start);
        asan::allow(block, layout.size());
        // SAFETY: it lies in the chunk.
        Ok(unsafe { NonNull::new_unchecked(block) })
    }

    /// Whether the `size` bytes at `block`, which this bump gave out, are the latest.
    #[inline(always)]
    fn is_last(&self, block: NonNull<u8>, size: usize) -> bool {
        let (block, cursor) = (block.addr().get(), self.cursor.get().addr());
        // A block that ends at the cursor lies in the current chunk: the byte before the cursor is
        // this chunk's or, where nothing was allocated in it, its header's. So does one that starts
        // at the cursor: behind this chunk's end, another one has its header.
        if D::UPWARDS { block + step(size, MIN_ALIGN) == cursor } else { block == cursor }
    }

    /// Takes back a block of `size` bytes if it was the latest.
    ///
    /// # Safety
    /// The block came from this bump (or from another one: it is not the latest here then), has
    /// this size, and is not used any more. Or the size is zero.
    #[inline(always)]
    pub(crate) unsafe fn free(&self, block: NonNull<u8>, size: usize) {
        if size != 0 {
            if self.is_last(block, size) {
                let start = block.addr().get();
                let cursor = if D::UPWARDS { start } else { start + step(size, MIN_ALIGN) };
                self.cursor.set(self.cursor.get().with_addr(cursor));
            }
            asan::forbid(block.as_ptr(), size);
        }
    }

    /// Gives a block of `old` the layout `new` without a fresh block: where it lies or, downwards,
    /// moved along the cursor. `None` if that cannot be; nothing has changed then.
    ///
    /// # Safety
    /// The block came from this bump (or from another one) with the layout `old`, and the caller is
    /// its only user. Or the old size is zero.
    #[inline(always)]
    pub(crate) unsafe fn resize(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<NonNull<u8>> {
        let start = block.addr().get();
        // The first is what the compiler knows of collections.
        if new.align() > old.align() && !is_aligned(start, new.align()) {
            return None;
        }
        let old = old.size();
        let last = old != 0 && self.is_last(block, old);
        if D::UPWARDS && last {
            let end = end_up(start, new.size(), self.limit.get().addr(), MIN_ALIGN)?;
            let cursor = self.cursor.get();
            self.cursor.set(cursor.with_addr(end));
            asan::forbid(block.as_ptr(), old);
            asan::allow(block.as_ptr(), new.size());
            // With a provenance that spans what it has grown by, which the caller's may not.
            // SAFETY: the block's address is not null.
            return Some(unsafe { NonNull::new_unchecked(cursor.with_addr(start)) });
        }
        if !D::UPWARDS && last {
            // SAFETY: the caller's promises.
            return unsafe { self.resize_down(block, old, new) };
        }
        if new.size() > old {
            return None;
        }
        asan::forbid(block.as_ptr(), old);
        asan::allow(block.as_ptr(), new.size());
        Some(block)
    }

    /// Moves the latest block along the cursor, to what fits below its end.
    ///
    /// # Safety
    /// As [`resize`](Self::resize), and the block is the latest.
    #[inline]
    unsafe fn resize_down(
        &self,
        block: NonNull<u8>,
        old: usize,
        new: Layout,
    ) -> Option<NonNull<u8>> {
        if new.size() <= old && new.size() > old / 2 {
            // Moving more than is gained.
            asan::forbid(block.as_ptr(), old);
            asan::allow(block.as_ptr(), new.size());
            return Some(block);
        }
        let end = block.addr().get() + step(old, MIN_ALIGN);
        let request = Request::any(new);
        let place = D::place(end, self.limit.get().addr(), request, MIN_ALIGN)?;
        let cursor = self.cursor.get();
        let moved = cursor.with_addr(place.start);
        asan::allow(moved, new.size());
        // SAFETY: the old block is valid for reads of `old` bytes, by the cursor's provenance, too;
        // the new one lies between limit and its end, for nobody else; `copy` allows an overlap.
        unsafe { cursor.with_addr(block.addr().get()).copy_to(moved, old.min(new.size())) };
        self.cursor.set(cursor.with_addr(place.cursor));
        asan::forbid(block.as_ptr(), old);
        asan::allow(moved, new.size());
        // SAFETY: it lies in the chunk.
        Some(unsafe { NonNull::new_unchecked(moved) })
    }
}

/// The size of an arena's first chunk: the configured one, rounded down to a chunk's alignment.
fn first_chunk(config: &ArenaConfig) -> usize {
    config.chunk_size.get() & !(CHUNK_ALIGN - 1)
}

#[cold]
fn no_capacity(layout: Layout, available: usize) -> MemoryError {
    let align = Align::new(layout.align());
    MemoryError::CapacityExceeded { requested: layout.size(), available, align }
}

/// An address for a block without bytes.
pub(crate) fn nowhere_aligned(layout: Layout) -> NonNull<u8> {
    let nowhere = std::ptr::without_provenance_mut(layout.align());
    // SAFETY: an alignment is a power of two, and so not zero.
    unsafe { NonNull::new_unchecked(nowhere) }
}
