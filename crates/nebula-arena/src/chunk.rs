//! A chunk: a block from an allocator, with a header at its start.

use std::{alloc::Layout, cell::Cell, num::NonZero, ptr::NonNull};

use nebula_memory_core::{Allocator, MemoryError};

use crate::{asan, bumping::HIGHEST};

/// The alignment of chunks; blocks aligned to at most this need no padding at a chunk's start.
pub(crate) const CHUNK_ALIGN: usize = 16;

/// The smallest chunk, in bytes: room for the header and something to use it for.
pub(crate) const MIN_CHUNK: usize = 256;

/// What stands at the start of every chunk.
#[repr(C, align(16))]
pub(crate) struct Header {
    /// The neighbours in the list that the chunk is in.
    pub(crate) prev: Cell<Option<Chunk>>,
    pub(crate) next: Cell<Option<Chunk>>,
    /// Bytes in use: written when the chunk is left; of the current one, the cursor knows.
    pub(crate) used: Cell<usize>,
    /// Bytes in use in all chunks before this one in its list.
    pub(crate) used_before: Cell<usize>,
    /// The size of all chunks before this one in its list, in bytes.
    pub(crate) size_before: Cell<usize>,
    /// The size of the whole block, this header included. A multiple of [`CHUNK_ALIGN`].
    size: usize,
}

pub(crate) const HEADER: Layout = Layout::new::<Header>();

/// The layout with which a chunk of `size` bytes is allocated. `size` comes from the arithmetic in
/// `bumping` or from a validated configuration, and fits.
fn layout(size: usize) -> Result<Layout, MemoryError> {
    nebula_memory_core::layout::layout(size, CHUNK_ALIGN)
}

/// A chunk of some list. A copyable name for it, not its owner: the list is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk(NonNull<Header>);

impl Chunk {
    /// Takes a chunk of `size` bytes from `allocator`, in no list yet.
    pub(crate) fn take(allocator: &impl Allocator, size: usize) -> Result<Self, MemoryError> {
        let layout = layout(size)?;
        let block = allocator.try_allocate(layout)?;
        if block.addr().get() > HIGHEST - HEADER.size() {
            // SAFETY: the block was just allocated with this layout.
            unsafe { allocator.deallocate(block.cast(), layout) };
            return Err(MemoryError::out_of_memory(layout));
        }
        let header = block.cast::<Header>();
        let fresh = Header {
            prev: Cell::new(None),
            next: Cell::new(None),
            used: Cell::new(0),
            used_before: Cell::new(0),
            size_before: Cell::new(0),
            size,
        };
        // SAFETY: the block is fresh, aligned to `CHUNK_ALIGN` and at least as long as a header;
        // nobody else knows it.
        unsafe { header.write(fresh) };
        let chunk = Self(header);
        chunk.forbid();
        Ok(chunk)
    }

    /// Gives the chunk back to `allocator`.
    ///
    /// # Safety
    /// The chunk came from this allocator, is in no list, and nobody uses it or what lay in it.
    pub(crate) unsafe fn give_back(self, allocator: &impl Allocator) {
        let size = self.size();
        asan::allow(self.start(), size - HEADER.size());
        // The layout was valid when the chunk was taken; if it weren't, leaking would be safe.
        if let Ok(layout) = layout(size) {
            // SAFETY: the block came from this allocator with this layout; nobody uses it.
            unsafe { allocator.deallocate(self.0.cast(), layout) };
        }
    }

    pub(crate) fn header(&self) -> &Header {
        // SAFETY: a `Chunk` is only made for a block that holds an initialised header, and no
        // `Chunk` is used past the block's end; headers are only ever borrowed shared.
        unsafe { self.0.as_ref() }
    }

    /// The address of the block.
    pub(crate) fn addr(self) -> NonZero<usize> {
        self.0.addr()
    }

    /// The size of the block, header included, in bytes.
    pub(crate) fn size(self) -> usize {
        self.header().size
    }

    /// The first byte behind the header.
    pub(crate) fn start(self) -> *mut u8 {
        self.0.as_ptr().cast::<u8>().wrapping_add(HEADER.size())
    }

    /// The end of the usable part. Aligned to [`CHUNK_ALIGN`].
    pub(crate) fn end(self) -> *mut u8 {
        let base = self.0.as_ptr().cast::<u8>();
        // Never beyond the highest usable address, which lies behind the header.
        base.wrapping_add(self.size().min(HIGHEST - base.addr()))
    }

    /// Bytes between the header and the end.
    pub(crate) fn room(self) -> usize {
        self.end().addr() - self.start().addr()
    }

    /// Forbids access to what lies behind the header (under a sanitizer), until blocks are made.
    pub(crate) fn forbid(self) {
        asan::forbid(self.start(), self.size() - HEADER.size());
    }
}
