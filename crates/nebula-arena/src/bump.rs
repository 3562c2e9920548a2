//! What all arenas are made of: a cursor in a chunk, and the list of chunks around it.
//!
//! A [`Bump`] has no allocator of its own. Whoever owns one passes the same allocator to every
//! call, and calls [`Bump::release`] before it goes.

use std::{alloc::Layout, cell::Cell, marker::PhantomData, num::NonZero, ptr::NonNull};

use nebula_memory_core::{Align, Allocator, MemoryError, layout::is_aligned};

use crate::{
    ArenaConfig, Direction, Keep, asan,
    bumping::{Request, end_up, next_chunk, next_smaller, smallest_chunk, step},
    chunk::{CHUNK_ALIGN, Chunk, HEADER},
};

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

/// A place in a [`Bump`] to come back to.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    /// `None`: the start, whichever chunk is the first then.
    current: Option<Chunk>,
    cursor: *mut u8,
    asides: Option<Chunk>,
}

/// What a [`Mark`] says, as numbers: nothing can be reached by it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    current: Option<NonZero<usize>>,
    /// Bytes in use in the current chunk.
    used: usize,
    aside: Option<NonZero<usize>>,
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

    /// The first spare chunk of at least `smallest` bytes, taken out of the list.
    fn take_spare(&self, smallest: usize) -> Option<Chunk> {
        let mut next = self.first_spare();
        while let Some(chunk) = next {
            if chunk.size() >= smallest {
                self.unlink(chunk);
                return Some(chunk);
            }
            next = chunk.header().next.get();
        }
        None
    }

    /// Takes in a chunk that is in no list, as a spare one. It came from the allocator of this
    /// bump's chunks.
    pub(crate) fn adopt(&self, chunk: Chunk) {
        self.bytes.set(self.bytes.get() + chunk.size());
        self.count.set(self.count.get() + 1);
        self.link(chunk, self.last.get());
    }

    /// Lets a spare chunk go, which is in no list then.
    pub(crate) fn disown(&self) -> Option<Chunk> {
        self.let_go_of_what_is_empty();
        let chunk = self.first_spare()?;
        self.unlink(chunk);
        self.bytes.set(self.bytes.get() - chunk.size());
        self.count.set(self.count.get() - 1);
        Some(chunk)
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

    /// Goes to the start of the first chunk, if there is one: nothing is in use then. The last one
    /// of the series, most often the largest, comes first from now on.
    fn start_over(&self) {
        if let (Some(first), Some(last)) = (self.first.get(), self.last.get()) {
            // One that was made for a large block stays for such.
            if first.size() < last.size() && last.size() <= self.next_size.get() {
                self.unlink(last);
                self.link(last, None);
            }
        }
        let first = self.first.get();
        if let Some(first) = first {
            first.header().used_before.set(0);
            first.header().size_before.set(0);
        }
        self.set_current(first);
    }

    /// Makes the current chunk a spare one if nothing is in use. (No mark leads there: those of an
    /// empty bump name no chunk.)
    fn let_go_of_what_is_empty(&self) {
        if self.current.get().is_some() && self.is_empty() {
            self.set_current(None);
        }
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

    /// The cursor in `chunk` when `used` bytes of it are in use.
    fn cursor_at(chunk: Chunk, used: usize) -> *mut u8 {
        let (edge, _) = Self::edges(chunk);
        if D::UPWARDS { edge.wrapping_add(used) } else { edge.wrapping_sub(used) }
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

    /// Bytes taken from the allocator.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    pub(crate) fn count(&self) -> usize {
        self.count.get()
    }

    /// Bytes that blocks and the padding between them take.
    pub(crate) fn used(&self) -> usize {
        self.used_in_list() + self.used_aside()
    }

    fn used_in_list(&self) -> usize {
        let before = self.current.get().map_or(0, |current| current.header().used_before.get());
        before + self.used_in_current()
    }

    fn used_aside(&self) -> usize {
        self.asides.get().map_or(0, |latest| {
            let header = latest.header();
            header.used_before.get() + header.used.get()
        })
    }

    /// Bytes between the edge of the current chunk and the cursor.
    #[inline]
    pub(crate) fn used_in_current(&self) -> usize {
        let Some(current) = self.current.get() else { return 0 };
        let (edge, cursor) = (Self::edges(current).0.addr(), self.cursor.get().addr());
        if D::UPWARDS { cursor - edge } else { edge - cursor }
    }

    /// Bytes left in the current chunk.
    pub(crate) fn room(&self) -> usize {
        self.limit.get().addr().abs_diff(self.cursor.get().addr())
    }

    fn note_high_water(&self) -> usize {
        let high = self.high_water.get().max(self.used());
        self.high_water.set(high);
        high
    }

    /// The most bytes in use that were seen: now, or when a chunk was left or blocks were given
    /// back together.
    pub(crate) fn high_water(&self) -> usize {
        self.note_high_water()
    }

    /// The bytes in use in every chunk that has been used since the last reset, in that order; the
    /// ones aside come last, the latest of them first.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (Chunk, usize)> + '_ {
        let current = self.current.get();
        let first = if current.is_some() { self.first.get() } else { None };
        let list = std::iter::successors(first, move |&chunk| {
            if Some(chunk) == current { None } else { chunk.header().next.get() }
        });
        let used = move |chunk: Chunk| {
            if Some(chunk) == current { self.used_in_current() } else { chunk.header().used.get() }
        };
        let asides = std::iter::successors(self.asides.get(), |chunk| chunk.header().prev.get());
        list.map(move |chunk| (chunk, used(chunk)))
            .chain(asides.map(|chunk| (chunk, chunk.header().used.get())))
    }

    /// Bytes in chunks that are not in use.
    pub(crate) fn spare_bytes(&self) -> usize {
        self.bytes.get() - self.size_in_list() - self.asides.get().map_or(0, Self::size_up_to)
    }

    /// Bytes of the chunks in the list up to the current one.
    fn size_in_list(&self) -> usize {
        self.current.get().map_or(0, Self::size_up_to)
    }

    fn size_up_to(chunk: Chunk) -> usize {
        chunk.header().size_before.get() + chunk.size()
    }

    /// Bytes that could be given back at once: the spare chunks, and the current one if nothing is
    /// in use.
    pub(crate) fn reclaimable_bytes(&self) -> usize {
        if self.is_empty() { self.bytes.get() } else { self.spare_bytes() }
    }

    /// The present place.
    #[inline]
    pub(crate) fn mark(&self) -> Mark {
        let (current, asides) = (self.current.get(), self.asides.get());
        // An empty bump's first chunk may be given back before the mark is used.
        let current = current.filter(|_| !self.is_empty());
        Mark { current, cursor: self.cursor.get(), asides }
    }

    /// The present place, in numbers.
    pub(crate) fn address(&self) -> Address {
        let mark = self.mark();
        Address {
            current: mark.current.map(Chunk::addr),
            used: if mark.current.is_some() { self.used_in_current() } else { 0 },
            aside: mark.asides.map(Chunk::addr),
        }
    }

    /// The place at `address`, if it is at or before the present one. O(n) in the number of chunks
    /// that were used since.
    pub(crate) fn find(&self, address: Address) -> Option<Mark> {
        let older = |latest: Option<Chunk>, address: NonZero<usize>| {
            std::iter::successors(latest, |chunk| chunk.header().prev.get())
                .find(|chunk| chunk.addr() == address)
        };
        let asides = match address.aside {
            Some(address) => Some(older(self.asides.get(), address)?),
            None => None,
        };
        let Some(current) = address.current else {
            return Some(Mark { current: None, cursor: NOWHERE, asides });
        };
        let current = older(self.current.get(), current)?;
        let used = if self.current.get() == Some(current) {
            self.used_in_current()
        } else {
            current.header().used.get()
        };
        // The chunk may be another one than the place was taken in: whatever its address was then,
        // the cursor stays in it, and as aligned as it has to be.
        let fits = address.used <= used && address.used % MIN_ALIGN == 0;
        let cursor = Self::cursor_at(current, address.used);
        fits.then_some(Mark { current: Some(current), cursor, asides })
    }

    /// Goes back to `mark`. Chunks that were entered since become spare; those aside go back to the
    /// allocator.
    ///
    /// # Safety
    /// `mark` is a place of this bump at or before the present one, no block
    /// that was made since is used any more, and the allocator is the one of this bump's chunks.
    #[inline]
    pub(crate) unsafe fn rewind(&self, allocator: &impl Allocator, mark: Mark) {
        let current = self.current.get();
        let cursor = match mark.current {
            Some(_) if mark.current == current => mark.cursor,
            None if current.is_some() && current == self.first.get() => Self::start_of(current),
            // SAFETY: the caller's promises are the callee's.
            _ => return unsafe { self.rewind_far(allocator, mark) },
        };
        if self.asides.get() != mark.asides || cfg!(nebula_asan) {
            // SAFETY: as above.
            return unsafe { self.rewind_far(allocator, mark) };
        }
        self.note_high_water();
        self.cursor.set(cursor);
    }

    /// Where the cursor starts.
    #[inline]
    fn start_of(chunk: Option<Chunk>) -> *mut u8 {
        chunk.map_or(NOWHERE, |chunk| Self::edges(chunk).0)
    }

    /// As [`rewind`](Self::rewind), across chunks.
    ///
    /// # Safety
    /// The same.
    #[cold]
    #[inline(never)]
    unsafe fn rewind_far(&self, allocator: &impl Allocator, mark: Mark) {
        self.note_high_water();
        if cfg!(nebula_asan) {
            self.forbid_from(mark);
        }
        match mark.current {
            Some(_) => {
                self.set_current(mark.current);
                self.cursor.set(mark.cursor);
            }
            None => self.start_over(),
        }
        while self.asides.get() != mark.asides {
            let Some(chunk) = self.asides.get() else { break };
            self.asides.set(chunk.header().prev.get());
            // SAFETY: the chunk has left the stack; its block is not used, as the caller promises.
            unsafe { self.give_back(allocator, chunk) };
        }
    }

    /// Forbids access to all that was made since `mark`.
    fn forbid_from(&self, mark: Mark) {
        let mut chunk = self.current.get();
        while let Some(newer) = chunk.filter(|&newer| Some(newer) != mark.current) {
            newer.forbid();
            chunk = newer.header().prev.get();
        }
        if let Some(chunk) = mark.current {
            let (from, to) =
                if D::UPWARDS { (mark.cursor, chunk.end()) } else { (chunk.start(), mark.cursor) };
            asan::forbid(from, to.addr() - from.addr());
        }
    }

    /// Gives a chunk back that is in no list.
    ///
    /// # Safety
    /// The chunk came from this allocator, and nobody uses it or what lay in it.
    unsafe fn give_back(&self, allocator: &impl Allocator, chunk: Chunk) {
        self.bytes.set(self.bytes.get() - chunk.size());
        self.count.set(self.count.get() - 1);
        // SAFETY: the caller's promises are the callee's; the chunk is in no list.
        unsafe { chunk.give_back(allocator) };
    }

    /// Gives spare chunks back until no more than `bytes` are held, or none is left that could go.
    ///
    /// # Safety
    /// The allocator is the one of this bump's chunks.
    pub(crate) unsafe fn shrink_to(&self, allocator: &impl Allocator, bytes: usize) {
        while self.bytes.get() > bytes {
            self.let_go_of_what_is_empty();
            // The largest is at one of the ends, most often.
            let Some((first, last)) = self.first_spare().zip(self.last.get()) else { break };
            let chunk = if first.size() > last.size() { first } else { last };
            self.unlink(chunk);
            // SAFETY: a spare chunk holds nothing that is used.
            unsafe { self.give_back(allocator, chunk) };
        }
        if self.current.get().is_none() {
            self.start_over();
        }
    }

    /// Frees all blocks at once; `keep` says which chunks stay.
    ///
    /// # Safety
    /// No block is used any more, and the allocator is the one of this bump's chunks.
    pub(crate) unsafe fn reset(&mut self, allocator: &impl Allocator, keep: Keep) {
        self.note_high_water();
        let last = self.current.get().or(self.asides.get());
        self.all_are_spare();
        if let (Keep::Last, Some(last)) = (keep, last) {
            // The first, and the current one: all others are spare.
            self.unlink(last);
            self.link(last, None);
            self.set_current(Some(last));
            while let Some(chunk) = self.first_spare() {
                self.unlink(chunk);
                // SAFETY: nothing is used, as the caller promises; the chunk is in no list.
                unsafe { self.give_back(allocator, chunk) };
            }
        }
        if keep == Keep::Nothing {
            self.next_size.set(0);
            // SAFETY: as above.
            unsafe { self.shrink_to(allocator, 0) };
        }
        self.start_over();
    }

    /// Makes all chunks spare, those aside behind the others.
    fn all_are_spare(&mut self) {
        self.set_current(None);
        if cfg!(nebula_asan) {
            let mut next = self.first.get();
            while let Some(chunk) = next {
                chunk.forbid();
                next = chunk.header().next.get();
            }
        }
        while let Some(chunk) = self.asides.get() {
            self.asides.set(chunk.header().prev.get());
            chunk.forbid();
            self.link(chunk, self.last.get());
        }
    }

    /// Gives all chunks back.
    ///
    /// # Safety
    /// As [`reset`](Self::reset).
    pub(crate) unsafe fn release(&mut self, allocator: &impl Allocator) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.reset(allocator, Keep::Nothing) };
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
