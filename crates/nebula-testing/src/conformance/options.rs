//! What the allocator suite may ask of an allocator.

use std::alloc::Layout;

/// What becomes of a freed block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Nothing: it is lost until the allocator is reset.
    Never,
    /// It is used again if blocks are freed in the reverse order of their allocation.
    LastInFirstOut,
    /// It is used again, whatever the order.
    Any,
}

/// What an allocator can do, so that the suite asks no more of it.
///
/// ```
/// use nebula_testing::conformance::{AllocatorOptions, Reuse};
/// // A bump allocator over 64 KiB.
/// let options = AllocatorOptions::fixed(64 << 10, Reuse::Never);
/// assert_eq!(options.capacity, Some(64 << 10));
/// // A hundred slots of 64 bytes.
/// let options = AllocatorOptions::slots(100, 64, 16);
/// assert_eq!((options.capacity, options.blocks), (None, Some(100)));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct AllocatorOptions {
    /// Bytes that a fresh allocator hands out for certain (each block counted with its size and
    /// its alignment) before it may refuse; `None` for one that is limited by the system alone.
    /// At least 8 KiB, so that the suite has something to do.
    pub capacity: Option<usize>,
    /// Live blocks that a fresh allocator serves for certain, for one that is made of slots; in one
    /// that reuses nothing, blocks in all. At least 16.
    pub blocks: Option<usize>,
    /// The largest block that it serves; larger ones must be refused or served properly.
    pub max_size: usize,
    /// The largest alignment that it serves; larger ones must be refused or served properly.
    pub max_align: usize,
    /// What becomes of freed blocks.
    pub reuse: Reuse,
}

impl Default for AllocatorOptions {
    /// A general allocator: no limits, blocks reused in any order.
    fn default() -> Self {
        let (max_size, max_align, reuse) = (1 << 20, 4096, Reuse::Any);
        Self { capacity: None, blocks: None, max_size, max_align, reuse }
    }
}

impl AllocatorOptions {
    /// An allocator with a fixed capacity in bytes.
    #[must_use]
    pub fn fixed(capacity: usize, reuse: Reuse) -> Self {
        Self { capacity: Some(capacity), max_size: capacity, reuse, ..Self::default() }
    }

    /// An allocator of `blocks` slots, reused in any order, for blocks of at most `max_size` bytes
    /// and `max_align` alignment.
    #[must_use]
    pub fn slots(blocks: usize, max_size: usize, max_align: usize) -> Self {
        Self { blocks: Some(blocks), max_size, max_align, ..Self::default() }
    }

    pub(super) fn check(&self) {
        assert!(self.capacity.is_none_or(|c| c >= 8 << 10), "the capacity is too small to test");
        assert!(self.blocks.is_none_or(|b| b >= 16), "there are too few blocks to test");
    }

    /// Whether the allocator has to serve `layout` if there is room.
    pub(super) const fn serves(&self, layout: Layout) -> bool {
        layout.size() <= self.max_size && layout.align() <= self.max_align
    }

    /// A size for a case that would like `wanted` bytes.
    pub(super) fn size(&self, wanted: usize) -> usize {
        wanted.min(self.max_size)
    }
}

/// A layout that is known to be valid.
pub(super) fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("the suite asks for valid layouts")
}
