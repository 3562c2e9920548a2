//! The list of chunks that every arena is made of: taking them from an allocator, and giving them
//! back. Cursors within a chunk are the arenas' business.

use std::{alloc::Layout, cell::Cell, ptr::NonNull};

use nebula_memory_core::{Allocator, MemoryError};

use crate::asan;

/// The alignment of chunks; blocks aligned to at most this need no padding at a chunk's start.
pub(crate) const CHUNK_ALIGN: usize = 16;

/// The smallest chunk, in bytes: room for the header and something to use it for.
pub(crate) const MIN_CHUNK: usize = 256;

/// What stands at the start of every chunk.
#[repr(C, align(16))]
pub(crate) struct Header {
    /// The chunk behind this one in the list.
    next: Cell<Option<NonNull<Header>>>,
    /// The size of the whole block, this header included. A multiple of [`CHUNK_ALIGN`].
    size: usize,
}

pub(crate) const HEADER: Layout = Layout::new::<Header>();

impl Header {
    /// The layout with which a chunk of `size` bytes is allocated. `size` comes from the arithmetic
    /// in `bumping` or from a validated configuration, and fits.
    fn layout(size: usize) -> Result<Layout, MemoryError> {
        nebula_memory_core::layout::layout(size, CHUNK_ALIGN)
    }
}

/// A chunk of some list. A copyable name for it, not its owner: [`Chunks`] is.
#[derive(Clone, Copy)]
pub(crate) struct Chunk(NonNull<Header>);

impl Chunk {
    fn header(&self) -> &Header {
        // SAFETY: a `Chunk` is only made for a block that holds an initialised header, and no
        // `Chunk` is kept past the block's end; headers are only ever borrowed shared.
        unsafe { self.0.as_ref() }
    }

    /// The size of the block, header included, in bytes.
    pub(crate) fn size(self) -> usize {
        self.header().size
    }

    /// The first byte behind the header.
    pub(crate) fn start(self) -> NonNull<u8> {
        // SAFETY: the block is at least as long as its header.
        unsafe { self.0.cast::<u8>().add(HEADER.size()) }
    }

    /// The first byte behind the block. Aligned to [`CHUNK_ALIGN`].
    pub(crate) fn end(self) -> NonNull<u8> {
        // SAFETY: the block is `size` bytes long.
        unsafe { self.0.cast::<u8>().add(self.size()) }
    }
}

/// A list of chunks from one allocator, the current one first. Frees them when dropped.
pub(crate) struct Chunks<A: Allocator> {
    first: Cell<Option<NonNull<Header>>>,
    /// Bytes of all chunks together.
    bytes: Cell<usize>,
    count: Cell<usize>,
    allocator: A,
}

impl<A: Allocator> Chunks<A> {
    pub(crate) const fn new(allocator: A) -> Self {
        Self { first: Cell::new(None), bytes: Cell::new(0), count: Cell::new(0), allocator }
    }

    pub(crate) const fn allocator(&self) -> &A {
        &self.allocator
    }

    /// Bytes taken from the allocator.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    pub(crate) fn count(&self) -> usize {
        self.count.get()
    }

    /// The chunk that is filled at present.
    pub(crate) fn current(&self) -> Option<Chunk> {
        self.first.get().map(Chunk)
    }

    /// Whether `chunk` is the one that is filled at present.
    pub(crate) fn is_current(&self, chunk: Chunk) -> bool {
        self.first.get() == Some(chunk.0)
    }

    /// Takes a chunk of `size` bytes from the allocator, in no list yet.
    fn take(&self, size: usize) -> Result<Chunk, MemoryError> {
        let block = self.allocator.try_allocate(Header::layout(size)?)?;
        let header = block.cast::<Header>();
        // SAFETY: the block is fresh, aligned to `CHUNK_ALIGN` and at least `MIN_CHUNK` long, so
        // that a header fits; nobody else knows it.
        unsafe { header.write(Header { next: Cell::new(None), size }) };
        let chunk = Chunk(header);
        asan::forbid(chunk.start().as_ptr(), size - HEADER.size());
        self.bytes.set(self.bytes.get() + size);
        self.count.set(self.count.get() + 1);
        Ok(chunk)
    }

    /// Takes a chunk of `size` bytes and makes it the current one.
    pub(crate) fn push(&self, size: usize) -> Result<Chunk, MemoryError> {
        let chunk = self.take(size)?;
        chunk.header().next.set(self.first.get());
        self.first.set(Some(chunk.0));
        Ok(chunk)
    }

    /// Takes a chunk of `size` bytes and files it behind the current one, which stays current.
    pub(crate) fn push_aside(&self, size: usize) -> Result<Chunk, MemoryError> {
        let Some(current) = self.current() else { return self.push(size) };
        let chunk = self.take(size)?;
        chunk.header().next.set(current.header().next.get());
        current.header().next.set(Some(chunk.0));
        Ok(chunk)
    }

    /// Gives the current chunk back to the allocator, if there is one. What lives in it is gone.
    fn pop(&mut self) -> bool {
        let Some(chunk) = self.current() else { return false };
        self.first.set(chunk.header().next.get());
        let size = chunk.size();
        self.bytes.set(self.bytes.get() - size);
        self.count.set(self.count.get() - 1);
        asan::allow(chunk.start().as_ptr(), size - HEADER.size());
        // The layout was valid when the chunk was taken; if it weren't, leaking would be safe.
        if let Ok(layout) = Header::layout(size) {
            // SAFETY: the block came from this allocator with this layout, and it left the list, so
            // that it is freed once; `&mut self` ends every borrow of what it held.
            unsafe { self.allocator.deallocate(chunk.0.cast(), layout) };
        }
        true
    }

    /// Gives all chunks but the current one back.
    pub(crate) fn keep_current(&mut self) {
        let Some(current) = self.current() else { return };
        let rest = current.header().next.take();
        self.first.set(rest);
        while self.pop() {}
        self.first.set(Some(current.0));
        asan::forbid(current.start().as_ptr(), current.size() - HEADER.size());
    }

    /// Gives all chunks back.
    pub(crate) fn release(&mut self) {
        while self.pop() {}
    }
}

impl<A: Allocator> Drop for Chunks<A> {
    fn drop(&mut self) {
        self.release();
    }
}
