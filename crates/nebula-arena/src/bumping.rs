//! The arena's arithmetic: where the next block goes, and how large the next chunk is.
//!
//! Plain numbers in, plain numbers out. Addresses are `usize`, alignments powers of two, and sizes
//! those of a valid `Layout` (at most `isize::MAX` once rounded up to the alignment), which is what
//! keeps the sums below from overflowing.
#![forbid(unsafe_code)]

use std::alloc::Layout;

use nebula_memory_core::layout::{MAX_SIZE, align_up, padding_for};

/// Bytes to skip from `cursor` so that a block of `size` bytes at `align` fits before `end`, or
/// `None` if it does not fit. `cursor <= end`.
#[inline(always)]
pub(crate) const fn bump_up(cursor: usize, end: usize, size: usize, align: usize) -> Option<usize> {
    let padding = padding_for(cursor, align);
    // Neither summand exceeds `isize::MAX`.
    if padding + size <= end - cursor { Some(padding) } else { None }
}

/// What a chunk must hold beside the requested block: its header, and the padding that the block
/// may need behind it. `None` if no chunk can be that large.
pub(crate) fn smallest_chunk(header: Layout, block: Layout) -> Option<usize> {
    let padding = block.align().saturating_sub(header.align());
    let sum = header.size().checked_add(padding)?.checked_add(block.size())?;
    let rounded = align_up(sum, header.align())?;
    if rounded <= MAX_SIZE - (header.align() - 1) { Some(rounded) } else { None }
}

/// The next smaller size to try after a chunk of `refused` bytes was refused, or `None` if
/// `smallest` was the one.
pub(crate) fn next_smaller(refused: usize, smallest: usize, align: usize) -> Option<usize> {
    if refused <= smallest {
        return None;
    }
    // Rounded up to the alignment, which `smallest` is a multiple of, it stays below `refused`.
    let half = align_up(refused / 2, align)?;
    Some(half.max(smallest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Large, and far from overflow: 2^40, or 2^24 where a pointer has 32 bits.
    const LARGE: usize = 1 << (usize::BITS / 2 + 8);

    fn layout() -> impl Strategy<Value = Layout> {
        (0_u32..=20, 0_usize..=LARGE)
            .prop_map(|(align, size)| Layout::from_size_align(size, 1 << align).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_block_lies_aligned_between_cursor_and_end(
            cursor in 1_usize..=usize::MAX >> 1,
            room in 0..=LARGE * 2,
            block in layout(),
        ) {
            let end = cursor + room;
            let exact = {
                // The same in numbers that cannot overflow.
                let start = (cursor as u128).next_multiple_of(block.align() as u128);
                start + block.size() as u128 <= end as u128
            };
            match bump_up(cursor, end, block.size(), block.align()) {
                Some(padding) => {
                    prop_assert!(exact);
                    prop_assert!(padding < block.align());
                    prop_assert_eq!((cursor + padding) % block.align(), 0);
                    prop_assert!(cursor + padding + block.size() <= end);
                }
                None => prop_assert!(!exact),
            }
        }

        #[test]
        fn the_smallest_chunk_holds_the_block_wherever_it_lies(
            base in 1..LARGE,
            block in layout(),
        ) {
            let header = Layout::from_size_align(48, 16).unwrap();
            let base = base * header.align();
            let chunk = smallest_chunk(header, block).unwrap();
            let (data, end) = (base + header.size(), base + chunk);
            prop_assert!(bump_up(data, end, block.size(), block.align()).is_some());
        }

        #[test]
        fn smaller_sizes_end_at_the_smallest(start in 1..LARGE, smallest in 1..LARGE >> 10) {
            let smallest = smallest * 16;
            let mut size = (start * 16).max(smallest);
            let mut steps = 0;
            while let Some(next) = next_smaller(size, smallest, 16) {
                prop_assert!(next < size && next >= smallest && next % 16 == 0);
                size = next;
                steps += 1;
            }
            prop_assert_eq!(size, smallest);
            prop_assert!(steps <= 64);
        }
    }

    #[test]
    fn extremes_neither_overflow_nor_fit() {
        let huge = Layout::from_size_align(MAX_SIZE, 1).unwrap();
        let header = Layout::from_size_align(48, 16).unwrap();
        assert_eq!(smallest_chunk(header, huge), None);
        assert_eq!(bump_up(16, 16, MAX_SIZE, 1), None);
        assert_eq!(bump_up(usize::MAX - 15, usize::MAX, 0, LARGE), None);
        assert_eq!(bump_up(16, 16, 0, 1), Some(0));
    }
}
