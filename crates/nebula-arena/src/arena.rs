//! The arena itself: a cursor in the current chunk, and the slow path behind it.

use std::{alloc::Layout, cell::Cell, fmt, ptr::NonNull};

use nebula_memory_core::{
    Align, Allocator, Global, MemoryError, MemoryUsage, Resettable,
    layout::{is_aligned, padding_for},
};

use crate::{
    ArenaConfig, Growth, asan,
    bumping::{bump_up, next_smaller, smallest_chunk},
    chunk::{CHUNK_ALIGN, Chunk, Chunks, HEADER},
};

/// What [`Arena::reset_keeping`] keeps for the next use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Keep {
    /// The chunk that was filled last, usually the largest.
    #[default]
    Last,
    /// Nothing: every byte goes back to the allocator.
    Nothing,
}

/// A bump arena: values of all types, allocated by moving a cursor, freed all at once.
///
/// Chunks come from any [`Allocator`]: from the heap by default, or, through
/// [`new_in`](Self::new_in), from a budget's allocator, so that the arena is charged by the chunk
/// and its fast path does not know that budgets exist.
///
/// Values are not dropped. A type that needs dropping is refused at compile time; put it in a
/// `Box` of the arena ([`TypedAllocator`](nebula_memory_core::TypedAllocator), for `&Arena`), which
/// drops it, or say [`alloc_without_drop`](Self::alloc_without_drop).
///
/// `&Arena` is an allocator: `allocator_api2` vectors and `hashbrown` maps live in it.
///
/// ```
/// use nebula_arena::Arena;
/// use nebula_memory_core::allocator_api2::vec::Vec;
///
/// let arena = Arena::new();
/// let point = arena.alloc((1.5, 2.5));
/// point.0 += 1.0;
/// let name = arena.alloc_str("nebula");
/// let mut list = Vec::new_in(&arena);
/// list.extend([1, 2, 3]);
/// assert_eq!((point.0, &*name, list.len()), (2.5, "nebula", 3));
/// ```
///
/// A type with a `Drop` of its own does not compile:
/// ```compile_fail,E0080
/// nebula_arena::Arena::new().alloc(String::from("would leak"));
/// ```
///
/// What was allocated cannot outlive a reset:
/// ```compile_fail,E0502
/// let mut arena = nebula_arena::Arena::new();
/// let one = arena.alloc(1);
/// arena.reset();
/// *one += 1;
/// ```
pub struct Arena<A: Allocator = Global> {
    /// Where the next block may start. Between the current chunk's start and end, or, before there
    /// is a chunk, equal to `end` and pointing nowhere.
    cursor: Cell<NonNull<u8>>,
    /// The end of the current chunk.
    end: Cell<NonNull<u8>>,
    /// The address of the current chunk's first usable byte. Cursor, end and base always belong to
    /// one chunk, also while an allocator's code runs that might come back to this arena.
    base: Cell<usize>,
    /// Bytes in use in the chunks that are not current.
    used_elsewhere: Cell<usize>,
    /// The size of the next ordinary chunk, in bytes.
    next_chunk: Cell<usize>,
    chunks: Chunks<A>,
    config: ArenaConfig,
}

// SAFETY: the pointers lead to chunks that the arena owns; nothing is shared with another thread
// (blocks borrow the arena, so that it cannot move while one is alive), and the allocator moves
// along, which its own `Send` allows.
unsafe impl<A: Allocator + Send> Send for Arena<A> {}

/// Points nowhere, aligned as a chunk's end is. Cursor and end of an arena without chunks.
const NOWHERE: NonNull<u8> = NonNull::<crate::chunk::Header>::dangling().cast();

impl Arena {
    /// An arena on the heap with the default settings. Takes no memory until the first allocation.
    #[must_use]
    pub fn new() -> Self {
        Self::new_in(Global)
    }

    /// An arena on the heap with `config`.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`].
    pub fn with_config(config: ArenaConfig) -> Result<Self, MemoryError> {
        Self::with_config_in(config, Global)
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Allocator> Arena<A> {
    /// An arena with the default settings whose chunks come from `allocator`. Takes no memory until
    /// the first allocation.
    #[must_use]
    pub fn new_in(allocator: A) -> Self {
        Self::unchecked(ArenaConfig::default(), allocator)
    }

    /// An arena with `config` whose chunks come from `allocator`.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`].
    pub fn with_config_in(config: ArenaConfig, allocator: A) -> Result<Self, MemoryError> {
        config.validate()?;
        Ok(Self::unchecked(config, allocator))
    }

    fn unchecked(config: ArenaConfig, allocator: A) -> Self {
        Self {
            cursor: Cell::new(NOWHERE),
            end: Cell::new(NOWHERE),
            base: Cell::new(NOWHERE.addr().get()),
            used_elsewhere: Cell::new(0),
            next_chunk: Cell::new(first_chunk(&config)),
            chunks: Chunks::new(allocator),
            config,
        }
    }

    /// The allocator that chunks come from.
    pub const fn allocator(&self) -> &A {
        self.chunks.allocator()
    }

    /// The arena's settings.
    pub const fn config(&self) -> &ArenaConfig {
        &self.config
    }

    /// The number of chunks.
    pub fn chunk_count(&self) -> usize {
        self.chunks.count()
    }

    /// Bytes taken from the allocator: all chunks, headers and unused room included. This is what
    /// an account behind the allocator is charged.
    pub fn allocated_bytes(&self) -> usize {
        self.chunks.bytes()
    }

    /// A block of `layout`. Zero-sized ones take no room.
    ///
    /// # Errors
    /// The allocator's refusal, or [`MemoryError::CapacityExceeded`] from the arena's own capacity.
    #[inline(always)]
    pub(crate) fn block(&self, layout: Layout) -> Result<NonNull<u8>, MemoryError> {
        let cursor = self.cursor.get();
        let (at, end) = (cursor.addr().get(), self.end.get().addr().get());
        match bump_up(at, end, layout.size(), layout.align()) {
            Some(padding) => Ok(self.advance(cursor, padding, layout.size())),
            None => self.block_elsewhere(layout),
        }
    }

    /// Moves the cursor, which is at `cursor`, past `padding` and `size` bytes; returns the start
    /// of the latter. Both together fit before the end.
    #[inline(always)]
    fn advance(&self, cursor: NonNull<u8>, padding: usize, size: usize) -> NonNull<u8> {
        // SAFETY: `bump_up` found that `padding + size` bytes lie between cursor and end, in one
        // chunk (or that both are zero).
        let start = unsafe { cursor.add(padding) };
        // SAFETY: as above.
        let next = unsafe { start.add(size) };
        self.cursor.set(next);
        asan::allow(start.as_ptr(), size);
        start
    }

    /// The slow path: the block does not fit in the current chunk.
    #[cold]
    #[inline(never)]
    fn block_elsewhere(&self, layout: Layout) -> Result<NonNull<u8>, MemoryError> {
        if layout.size() == 0 {
            return Ok(nowhere_aligned(layout));
        }
        let Some(smallest) = smallest_chunk(HEADER, layout) else {
            return Err(no_capacity(layout, 0));
        };
        let left = match self.config.capacity {
            Some(capacity) => capacity.get().saturating_sub(self.chunks.bytes()),
            None => usize::MAX,
        };
        if smallest > left {
            return Err(no_capacity(layout, left.saturating_sub(HEADER.size())));
        }
        let next = self.next_chunk.get();
        if smallest > next {
            // A chunk of its own, which the series of sizes does not notice; the current chunk goes
            // on being filled.
            let chunk = self.chunks.push_aside(smallest)?;
            return self.fill_aside(chunk, layout);
        }
        let mut size = next.min(left & !(CHUNK_ALIGN - 1)).max(smallest);
        let chunk = loop {
            match self.chunks.push(size) {
                Ok(chunk) => break chunk,
                // Less will do, down to what is needed; the last refusal is the one to report.
                Err(error) => match next_smaller(size, smallest, CHUNK_ALIGN) {
                    Some(smaller) => size = smaller,
                    None => return Err(error),
                },
            }
        };
        if self.config.growth == Growth::Doubling {
            let doubled = next.saturating_mul(2).min(self.config.max_chunk_size.get());
            self.next_chunk.set(doubled & !(CHUNK_ALIGN - 1));
        }
        self.fill(chunk);
        // The chunk was made large enough for any padding, so that this ends here.
        self.block(layout)
    }

    /// From now on, blocks come from `chunk`, which is empty.
    fn fill(&self, chunk: Chunk) {
        self.used_elsewhere.set(self.used());
        self.set_current(Some(chunk));
    }

    fn set_current(&self, chunk: Option<Chunk>) {
        let (start, end) = chunk.map_or((NOWHERE, NOWHERE), |chunk| (chunk.start(), chunk.end()));
        self.cursor.set(start);
        self.end.set(end);
        self.base.set(start.addr().get());
    }

    /// A block of `layout` in a chunk that was made for it.
    fn fill_aside(&self, chunk: Chunk, layout: Layout) -> Result<NonNull<u8>, MemoryError> {
        if self.chunks.is_current(chunk) {
            // The very first chunk: there is no other to go on with.
            self.fill(chunk);
            return self.block(layout);
        }
        let start = chunk.start();
        let padding = padding_for(start.addr().get(), layout.align());
        // SAFETY: the chunk was made with room for the block behind any padding.
        let block = unsafe { start.add(padding) };
        asan::allow(block.as_ptr(), layout.size());
        self.used_elsewhere.set(self.used_elsewhere.get() + padding + layout.size());
        Ok(block)
    }

    /// Bytes between the start of the current chunk and the cursor.
    fn used_in_current(&self) -> usize {
        self.cursor.get().addr().get() - self.base.get()
    }

    /// Whether the `size` bytes at `block`, which this arena gave out, are the latest.
    #[inline]
    fn is_last(&self, block: NonNull<u8>, size: usize) -> bool {
        // A block that ends at the cursor lies in the current chunk: the byte before the cursor is
        // this chunk's or, where nothing was allocated in it, its header's.
        size != 0 && block.addr().get() + size == self.cursor.get().addr().get()
    }

    /// Takes back a block of `size` bytes if it was the latest.
    ///
    /// # Safety
    /// The block came from this arena, has this size, and is not used any more.
    #[inline]
    pub(crate) unsafe fn free(&self, block: NonNull<u8>, size: usize) {
        if self.is_last(block, size) {
            self.cursor.set(block);
        }
        asan::forbid(block.as_ptr(), size);
    }

    /// Gives a block of `old` bytes the layout `new` where it lies; `false` if it cannot grow there
    /// or is not aligned well enough. Shrinking always works.
    ///
    /// # Safety
    /// The block came from this arena with `old` bytes.
    #[inline]
    pub(crate) unsafe fn resize(&self, block: NonNull<u8>, old: usize, new: Layout) -> bool {
        if !is_aligned(block.addr().get(), new.align()) {
            return false;
        }
        let new = new.size();
        if self.is_last(block, old) {
            let room = self.end.get().addr().get() - block.addr().get();
            if new > room {
                return false;
            }
            // SAFETY: `new` bytes from the block on lie before the end of its chunk.
            self.cursor.set(unsafe { block.add(new) });
        } else if new > old {
            return false;
        }
        asan::forbid(block.as_ptr(), old);
        asan::allow(block.as_ptr(), new);
        true
    }

    /// Frees everything at once and keeps the chunk that was filled last for the next use.
    ///
    /// O(1) where there is one chunk, otherwise O(n) in the number of chunks.
    pub fn reset(&mut self) {
        self.reset_keeping(Keep::Last);
    }

    /// Frees everything at once; `keep` says what stays for the next use.
    pub fn reset_keeping(&mut self, keep: Keep) {
        match keep {
            Keep::Last => self.chunks.keep_current(),
            Keep::Nothing => {
                self.chunks.release();
                self.next_chunk.set(first_chunk(&self.config));
            }
        }
        self.used_elsewhere.set(0);
        self.set_current(self.chunks.current());
    }
}

#[cold]
fn no_capacity(layout: Layout, available: usize) -> MemoryError {
    let align = Align::new(layout.align());
    MemoryError::CapacityExceeded { requested: layout.size(), available, align }
}

/// The size of an arena's first chunk: the configured one, rounded down to a chunk's alignment.
fn first_chunk(config: &ArenaConfig) -> usize {
    config.chunk_size.get() & !(CHUNK_ALIGN - 1)
}

/// An address for a block without bytes.
fn nowhere_aligned(layout: Layout) -> NonNull<u8> {
    // An alignment is a power of two, and so not zero.
    NonNull::new(std::ptr::without_provenance_mut(layout.align())).unwrap_or(NOWHERE)
}

impl<A: Allocator> MemoryUsage for Arena<A> {
    /// Bytes of all blocks, and the padding between them.
    fn used(&self) -> usize {
        self.used_elsewhere.get() + self.used_in_current()
    }

    /// The configured capacity. It counts chunks, not blocks: [`Arena::allocated_bytes`].
    fn capacity(&self) -> Option<usize> {
        self.config.capacity.map(usize::from)
    }

    /// What the arena may still take from its allocator, and what is free in the current chunk.
    fn available(&self) -> Option<usize> {
        let left = self.capacity()?.saturating_sub(self.chunks.bytes());
        Some(left + (self.end.get().addr().get() - self.cursor.get().addr().get()))
    }
}

impl<A: Allocator> Resettable for Arena<A> {
    fn reset(&mut self) {
        Arena::reset(self);
    }
}

impl<A: Allocator> fmt::Debug for Arena<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("used", &self.used())
            .field("allocated", &self.allocated_bytes())
            .field("chunks", &self.chunk_count())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}
