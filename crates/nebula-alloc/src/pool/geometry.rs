//! The arithmetic of the block pool: how blocks lie in a page, and which block lies where.
//!
//! Plain numbers in, plain numbers out; no memory is touched and the file forbids `unsafe`, so that
//! whatever it answers can be tested by itself.
//!
//! A page begins with a header, then come the side entries (one a block, if the pool keeps any),
//! then the blocks, side by side. It is aligned to a power of two that is no less than its size:
//! the address of any byte of it, with the low bits cleared, is the address of the page.
#![forbid(unsafe_code)]

use std::alloc::Layout;

use nebula_memory_core::{
    MemoryError,
    layout::{align_up, layout},
};

/// The size that a page of small blocks comes close to: what fits between two multiples of 64 KiB
/// together with what the system's heap keeps beside each block.
const TARGET: usize = (64 << 10) - size_of::<usize>();

/// Blocks that a page of large blocks has at least.
const FEWEST: usize = 4;

/// What a free block has to have room for, in the form that links free blocks through themselves.
const LINK: Layout = Layout::new::<usize>();

/// How blocks lie in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a block; a multiple of `align`, so that it is the distance between blocks, too.
    pub(crate) size: usize,
    /// The alignment of every block.
    pub(crate) align: usize,
    /// Where the first block begins.
    pub(crate) first: usize,
    /// How many blocks a page has.
    pub(crate) blocks: usize,
    /// What clears the low bits of an address of a page.
    pub(crate) mask: usize,
    /// `2^64 / size`, rounded up.
    reciprocal: u64,
}

impl Geometry {
    /// Pages for blocks of `block`, of which there will never be more than `most`, with `side`
    /// bytes for each behind the `header`.
    pub(crate) fn new(
        block: Layout,
        header: Layout,
        side: usize,
        most: usize,
    ) -> Result<Self, MemoryError> {
        let invalid = || MemoryError::InvalidLayout { size: block.size(), align: block.align() };
        let align = block.align().max(LINK.align());
        let size = align_up(block.size().max(LINK.size()), align).ok_or_else(invalid)?;
        let each = size.checked_add(side).ok_or_else(invalid)?;
        let first =
            |blocks: usize| align_up(blocks.checked_mul(side)?.checked_add(header.size())?, align);
        let bytes = |blocks: usize| first(blocks)?.checked_add(blocks.checked_mul(size)?);
        // At most two steps: the side entries and the padding before the first block.
        let fitting = |room: usize| {
            let mut blocks = room.saturating_sub(header.size()) / each;
            while blocks > 0 && bytes(blocks).is_none_or(|bytes| bytes > room) {
                blocks -= 1;
            }
            blocks
        };
        let fewest = FEWEST.min(most);
        let mut blocks = fitting(TARGET);
        if blocks < fewest {
            let room = bytes(fewest).and_then(usize::checked_next_power_of_two);
            blocks = fitting(room.ok_or_else(invalid)?);
        }
        let blocks = blocks.min(most);
        let page = bytes(blocks).ok_or_else(invalid)?;
        let page_align = page.checked_next_power_of_two().ok_or_else(invalid)?;
        layout(page, page_align).map_err(|_| invalid())?;
        Ok(Self {
            size,
            align,
            first: first(blocks).ok_or_else(invalid)?,
            blocks,
            mask: !(page_align - 1),
            reciprocal: u64::MAX / size as u64 + 1,
        })
    }

    /// The layout of a page.
    pub(crate) fn page(&self) -> Layout {
        let bytes = self.first + self.blocks * self.size;
        match Layout::from_size_align(bytes, self.page_align()) {
            Ok(layout) => layout,
            // `new` has made this very layout.
            Err(_) => unreachable!("the layout of a page was valid"),
        }
    }

    /// The alignment of a page; no less than its size.
    pub(crate) const fn page_align(&self) -> usize {
        self.mask.wrapping_neg()
    }

    /// The address of the page that an address belongs to, and how far into it that is.
    #[inline]
    pub(crate) const fn split(&self, address: usize) -> (usize, usize) {
        (address & self.mask, address & !self.mask)
    }

    /// Where the block with this index begins in its page.
    #[inline]
    pub(crate) const fn offset(&self, index: usize) -> usize {
        self.first + index * self.size
    }

    /// The index of the block that begins at `offset`.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "no more than the offset")]
    pub(crate) const fn index(&self, offset: usize) -> usize {
        // The reciprocal is `(2^64 + e) / size` with `e < size`. Times `index * size` that is
        // `2^64 * index + index * e`, whose high half is `index`, because `index * e` is less than
        // `index * size`, an offset.
        let product = (offset - self.first) as u128 * self.reciprocal as u128;
        (product >> 64) as usize
    }

    /// Whether a block of a page with `blocks` of them begins at `offset`.
    pub(crate) const fn is_block(&self, offset: usize, blocks: usize) -> bool {
        self.contains(offset, blocks) && self.offset(self.index(offset)) == offset
    }

    /// Whether `offset` lies in a block of a page with `blocks` of them.
    pub(crate) const fn contains(&self, offset: usize, blocks: usize) -> bool {
        self.first <= offset && offset < self.offset(blocks)
    }

    /// Whether a block serves `layout`, which is not of zero size.
    #[inline]
    pub(crate) const fn serves(&self, layout: Layout) -> bool {
        layout.size() <= self.size && layout.align() <= self.align
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_layout() -> impl Strategy<Value = Layout> {
        let size = prop_oneof![1..300_usize, 1..100_000_usize, any::<usize>()];
        (size, 0..usize::BITS - 1).prop_map(|(size, shift)| {
            let align = 1_usize << shift;
            let largest = isize::MAX.unsigned_abs() - (align - 1);
            Layout::from_size_align(size.clamp(1, largest), align).unwrap()
        })
    }

    fn cases() -> impl Strategy<Value = (Layout, Layout, usize, usize)> {
        let header = (1..9_usize).prop_map(|words| Layout::array::<usize>(words).unwrap());
        let most = prop_oneof![1..10_usize, 1..5000_usize, Just(usize::MAX)];
        (any_layout(), header, 0..3_usize, most)
    }

    proptest! {
        #[test]
        fn blocks_lie_side_by_side_behind_header_and_side((block, header, side, most) in cases()) {
            let Ok(geometry) = Geometry::new(block, header, side, most) else { return Ok(()) };
            let Geometry { size, align, first, blocks, .. } = geometry;
            prop_assert!(size >= block.size().max(LINK.size()) && size - block.size() < 2 * align);
            prop_assert!(align >= block.align() && size % align == 0 && first % align == 0);
            prop_assert!(geometry.serves(block));
            prop_assert!(first >= header.size() + side * blocks);
            prop_assert!(1 <= blocks && blocks <= most && blocks < usize::from(u16::MAX) - 1);
            let page = geometry.page();
            prop_assert!(page.size() <= page.align() && page.align() >= header.align());
            prop_assert_eq!(page.size(), geometry.offset(blocks));
            prop_assert_eq!(page.align(), geometry.page_align());
            // Either the page is near what is wanted, or it has few blocks, or as many as may be.
            prop_assert!(blocks == most.min(blocks + 1) || page.size() + 2 * size > TARGET);
            prop_assert!(blocks >= FEWEST.min(most));
        }

        #[test]
        fn a_block_is_found_from_its_address(
            (block, header, side, most) in cases(), at in any::<usize>(), within in any::<usize>(),
        ) {
            let Ok(geometry) = Geometry::new(block, header, side, most) else { return Ok(()) };
            let index = at % geometry.blocks;
            let offset = geometry.offset(index);
            prop_assert_eq!(geometry.index(offset), index);
            prop_assert!(geometry.is_block(offset, geometry.blocks));
            prop_assert!(!geometry.is_block(offset, index));
            let within = within % geometry.size;
            prop_assert_eq!(geometry.is_block(offset + within, geometry.blocks), within == 0);
            prop_assert!(geometry.contains(offset + within, geometry.blocks));
            prop_assert!(!geometry.contains(geometry.page().size(), geometry.blocks));
            prop_assert!(!geometry.contains(geometry.first - 1, geometry.blocks));
            // Wherever the page lies.
            let page = geometry.page_align();
            prop_assert_eq!(geometry.split(page + offset + within), (page, offset + within));
        }

        #[test]
        fn layouts_of_any_size_are_answered_without_overflow(
            block in any_layout(), side in 0..3_usize, most in prop_oneof![Just(1), Just(usize::MAX)],
        ) {
            let header = Layout::new::<[usize; 4]>();
            match Geometry::new(block, header, side, most) {
                Ok(geometry) => prop_assert!(geometry.page().size() > block.size()),
                Err(error) => prop_assert_eq!(error.code(), "invalid_layout"),
            }
        }
    }

    #[test]
    fn a_page_is_as_large_as_its_blocks() {
        let header = Layout::new::<[usize; 7]>();
        let of = |size, most| {
            let block = Layout::from_size_align(size, 8).unwrap();
            Geometry::new(block, header, 0, most).unwrap()
        };
        assert_eq!((of(64, usize::MAX).blocks, of(64, usize::MAX).page_align()), (1023, 64 << 10));
        let first = header.size().next_multiple_of(8);
        let ten = of(64, 10);
        assert_eq!((ten.page().size(), ten.page_align()), (first + 640, 1024));
        let large = of(1 << 20, usize::MAX);
        assert_eq!((large.blocks, large.page().size()), (7, (7 << 20) + first));
        assert_eq!(of(1 << 20, 1).page().size(), (1 << 20) + first);
    }
}
