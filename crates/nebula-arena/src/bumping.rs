//! The arena's arithmetic: where the next block goes, and how large the next chunk is.
//!
//! Plain numbers in, plain numbers out. Addresses are `usize`, alignments powers of two, and sizes
//! those of a valid `Layout` (at most `isize::MAX` once rounded up to the alignment), which is what
//! keeps the sums below from overflowing. A chunk's usable end is a multiple of 16 and at most
//! [`HIGHEST`]; cursors are multiples of the minimum alignment, which is at most 16.
#![forbid(unsafe_code)]

use std::alloc::Layout;

use nebula_memory_core::layout::{MAX_SIZE, align_down, align_up};

use crate::Growth;

/// Up to this size and alignment, a block's end is computed before it is compared with that of the
/// chunk, which takes fewer instructions than what is right for all layouts.
const SMALL: usize = 1 << 10;

/// Whether that can be done for every layout: addresses have 64 bits, of which no system gives
/// programs the upper half.
const WIDE: bool = usize::BITS == 64;

/// The highest address that a chunk's usable part may end at, so that the padding and the end of a
/// [`SMALL`] block, or if addresses are [`WIDE`] of any, can be computed from any address in it. (No
/// system has memory for programs up there.)
pub(crate) const HIGHEST: usize =
    if WIDE { 1 << (usize::BITS - 2) } else { align_down(usize::MAX - 2 * SMALL, SMALL) };

/// What is asked of an arena, and what the compiler knows of it: much of the arithmetic folds then.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    layout: Layout,
    size: usize,
    align: usize,
    /// Size and alignment are constants where the request is made.
    is_constant: bool,
    /// The alignment is a constant, and the size a multiple of it.
    is_array: bool,
}

impl Request {
    /// Room for a `T`.
    #[inline(always)]
    pub(crate) const fn value<T>() -> Self {
        Self {
            layout: Layout::new::<T>(),
            size: size_of::<T>(),
            align: align_of::<T>(),
            is_constant: true,
            is_array: true,
        }
    }

    /// Room for an array of `T`, which takes `layout`.
    #[inline(always)]
    pub(crate) const fn array<T>(layout: Layout) -> Self {
        debug_assert!(layout.align() == align_of::<T>());
        let size = layout.size();
        Self { layout, size, align: align_of::<T>(), is_constant: false, is_array: true }
    }

    /// Room for anything.
    #[inline(always)]
    pub(crate) const fn any(layout: Layout) -> Self {
        let (size, align) = (layout.size(), layout.align());
        Self { layout, size, align, is_constant: false, is_array: false }
    }

    /// The size in bytes.
    #[inline(always)]
    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    /// Size and alignment.
    #[inline(always)]
    pub(crate) const fn layout(&self) -> Layout {
        self.layout
    }

    /// Whether an address that is a multiple of `min_align` is known to be aligned well enough.
    #[inline(always)]
    const fn is_aligned_by(&self, min_align: usize) -> bool {
        // Of anything, asking takes more than it saves, unless there is a chance.
        (self.is_array || min_align > 1) && self.align <= min_align
    }

    /// Whether the block's end can be computed from any address of a chunk.
    #[inline(always)]
    const fn cannot_overflow(&self) -> bool {
        WIDE || (self.is_constant && self.size <= SMALL && self.align <= SMALL)
    }

    /// How far the cursor moves, so that it stays a multiple of `min_align`.
    #[inline(always)]
    const fn step(&self, min_align: usize) -> usize {
        if self.is_array && self.align >= min_align {
            self.size
        } else {
            step(self.size, min_align)
        }
    }
}

/// `size` rounded up to a multiple of `min_align`. Cannot overflow: a layout's size is at most
/// `isize::MAX`.
#[inline(always)]
pub(crate) const fn step(size: usize, min_align: usize) -> usize {
    (size + (min_align - 1)) & !(min_align - 1)
}

/// Where a block goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The block's first address.
    pub start: usize,
    /// Where the cursor goes.
    pub cursor: usize,
}

/// The lowest place in the free stretch `cursor..limit`, if there is one.
#[inline(always)]
pub(crate) const fn place_up(
    cursor: usize,
    limit: usize,
    request: Request,
    min_align: usize,
) -> Option<Place> {
    let Request { size, align, .. } = request;
    let start = if request.is_aligned_by(min_align) {
        cursor
    } else {
        // Wraps only for alignments beyond half of the address space, to an address from where on
        // nothing fits, as below.
        cursor.wrapping_add(align - 1) & !(align - 1)
    };
    if request.cannot_overflow() {
        let next = start + request.step(min_align);
        return if next > limit { None } else { Some(Place { start, cursor: next }) };
    }
    // The start may lie behind the limit. The difference is between `-isize::MAX` and `isize::MAX`,
    // because padding and size together are at most a layout's size.
    if signed(limit.wrapping_sub(start)) < signed(size) {
        return None;
    }
    // `limit` is a multiple of the minimum alignment: where the size fits, its step does.
    Some(Place { start, cursor: start + request.step(min_align) })
}

/// The highest place in the free stretch `limit..cursor`, if there is one.
#[inline(always)]
pub(crate) const fn place_down(
    cursor: usize,
    limit: usize,
    request: Request,
    min_align: usize,
) -> Option<Place> {
    let Request { size, align, .. } = request;
    let lowered = cursor.wrapping_sub(request.step(min_align));
    let start = if request.is_aligned_by(min_align) { lowered } else { lowered & !(align - 1) };
    // As above: padding and size are at most a layout's size, the step adds less than 16.
    if WIDE {
        // From an address below 2^62, less than 2^63 + 16 was subtracted: what has wrapped around
        // is negative.
        if signed(start) < signed(limit) {
            return None;
        }
    } else if size > MAX_SIZE - 16 || signed(start.wrapping_sub(limit)) < 0 {
        return None;
    }
    Some(Place { start, cursor: start })
}

/// Where the cursor goes if the block at `start`, which lies before `limit`, has `size` bytes; `None`
/// if they don't fit. Upwards.
#[inline(always)]
pub(crate) const fn end_up(
    start: usize,
    size: usize,
    limit: usize,
    min_align: usize,
) -> Option<usize> {
    if !WIDE && size > limit - start {
        return None;
    }
    let end = start + step(size, min_align);
    if WIDE && end > limit { None } else { Some(end) }
}

#[inline(always)]
#[allow(clippy::cast_possible_wrap, reason = "the sign is what is asked for")]
const fn signed(difference: usize) -> isize {
    difference as isize
}

/// What a chunk must hold beside the requested block: its header, and the padding that the block
/// may need. `None` if no chunk can be that large. Right for both directions.
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

/// The size of the chunk after one of `size` bytes, at most `largest`. The first has `first`; all
/// are multiples of `align`.
pub(crate) fn next_chunk(
    growth: Growth,
    first: usize,
    size: usize,
    largest: usize,
    align: usize,
) -> usize {
    let next = match growth {
        Growth::Fixed => size,
        Growth::Linear => size.saturating_add(first),
        Growth::Doubling => size.saturating_mul(2),
    };
    align_down(next.min(largest), align)
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

    /// Any layout that there is.
    fn extreme() -> impl Strategy<Value = Layout> {
        (0_u32..usize::BITS, any::<usize>()).prop_map(|(align, size)| {
            let align = 1_usize << align;
            Layout::from_size_align(size % (MAX_SIZE + 2 - align), align).unwrap()
        })
    }

    /// A stretch of addresses as chunks have them: its start and its end.
    fn stretch() -> impl Strategy<Value = (usize, usize)> {
        (1_usize..=HIGHEST / 16, 0..=LARGE / 8).prop_map(|(start, room)| {
            let end = (start * 16).saturating_add(room * 16).min(HIGHEST);
            (start * 16, end)
        })
    }

    /// What must hold of a block, in numbers that cannot overflow.
    fn fits_up(cursor: usize, limit: usize, layout: Layout) -> bool {
        let start = (cursor as u128).next_multiple_of(layout.align() as u128);
        start + layout.size() as u128 <= limit as u128
    }

    fn fits_down(cursor: usize, limit: usize, layout: Layout, min_align: usize) -> bool {
        let step = (layout.size() as i128 + min_align as i128 - 1) & -(min_align as i128);
        let start = (cursor as i128 - step) & -(layout.align().max(min_align) as i128);
        start >= limit as i128
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn upwards_a_block_lies_aligned_between_cursor_and_limit(
            (start, limit) in stretch(),
            used in any::<usize>(),
            min in 0_u32..=4,
            layout in prop_oneof![layout(), extreme()],
        ) {
            let min = 1 << min;
            let cursor = align_down(start + used % (limit - start + 1), min);
            let request = Request::any(layout);
            match place_up(cursor, limit, request, min) {
                Some(place) => {
                    prop_assert!(fits_up(cursor, limit, layout));
                    prop_assert!(place.start >= cursor && place.cursor <= limit);
                    prop_assert!(place.start - cursor < layout.align());
                    prop_assert_eq!(place.start % layout.align(), 0);
                    prop_assert_eq!(place.cursor % min, 0);
                    prop_assert!(place.cursor - place.start >= layout.size());
                    prop_assert!(place.cursor - place.start < layout.size() + min);
                }
                None => prop_assert!(!fits_up(cursor, limit, layout)),
            }
        }

        #[test]
        fn downwards_a_block_lies_aligned_between_limit_and_cursor(
            (start, end) in stretch(),
            used in any::<usize>(),
            min in 0_u32..=4,
            layout in prop_oneof![layout(), extreme()],
        ) {
            let min = 1 << min;
            let cursor = align_down(start + used % (end - start + 1), min);
            match place_down(cursor, start, Request::any(layout), min) {
                Some(place) => {
                    prop_assert!(fits_down(cursor, start, layout, min));
                    prop_assert_eq!(place.start, place.cursor);
                    prop_assert!(place.start >= start);
                    prop_assert!(place.start + layout.size() <= cursor);
                    prop_assert_eq!(place.start % layout.align(), 0);
                    prop_assert_eq!(place.cursor % min, 0);
                }
                None => prop_assert!(!fits_down(cursor, start, layout, min)),
            }
        }

        #[test]
        fn what_the_compiler_knows_changes_nothing(
            (start, end) in stretch(),
            used in any::<usize>(),
            min in 0_u32..=4,
            len in 0_usize..5000,
        ) {
            let min = 1 << min;
            let cursor = align_down(start + used % (end - start + 1), min);
            macro_rules! same {
                ($($type:ty),*) => { $({
                    let known = Request::value::<$type>();
                    let unknown = Request::any(Layout::new::<$type>());
                    let array = Layout::array::<$type>(len).unwrap();
                    let sides: [(fn(_, _, _, _) -> _, _); 2] = [(place_up, end), (place_down, start)];
                    for (place, limit) in sides {
                        prop_assert_eq!(place(cursor, limit, known, min), place(cursor, limit, unknown, min));
                        prop_assert_eq!(
                            place(cursor, limit, Request::array::<$type>(array), min),
                            place(cursor, limit, Request::any(array), min)
                        );
                    }
                })* };
            }
            same!((), u8, u16, [u8; 3], u64, u128, [u64; 8], [u64; 0], [u8; 1024], [u8; 1025], Aligned);
        }

        #[test]
        fn the_smallest_chunk_holds_the_block_wherever_it_lies(
            base in 1..LARGE,
            block in layout(),
            min in 0_u32..=4,
        ) {
            let header = Layout::from_size_align(48, 16).unwrap();
            let base = base * header.align();
            let chunk = smallest_chunk(header, block).unwrap();
            let (data, end) = (base + header.size(), base + chunk);
            prop_assert!(place_up(data, end, Request::any(block), 1 << min).is_some());
            prop_assert!(place_down(end, data, Request::any(block), 1 << min).is_some());
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

    #[repr(align(2048))]
    struct Aligned;

    #[test]
    fn extremes_neither_overflow_nor_fit() {
        let huge = Layout::from_size_align(MAX_SIZE, 1).unwrap();
        let header = Layout::from_size_align(48, 16).unwrap();
        assert_eq!(smallest_chunk(header, huge), None);
        let empty = Layout::from_size_align(0, 1).unwrap();
        for min in [1, 16] {
            assert_eq!(place_up(16, 16, Request::any(huge), min), None);
            assert_eq!(place_up(HIGHEST, HIGHEST, Request::any(huge), min), None);
            assert_eq!(place_down(16, 16, Request::any(huge), min), None);
            assert_eq!(place_down(HIGHEST, HIGHEST, Request::any(huge), min), None);
            let nowhere = Some(Place { start: 16, cursor: 16 });
            assert_eq!(place_up(16, 16, Request::any(empty), min), nowhere);
            assert_eq!(place_down(16, 16, Request::any(empty), min), nowhere);
        }
    }

    #[test]
    fn a_block_grows_up_to_the_limit() {
        for min in [1, 8, 16] {
            let fits = |size| end_up(1024, size, 2048, min);
            assert_eq!((fits(0), fits(1)), (Some(1024), Some(1024 + min)));
            assert_eq!((fits(1024), fits(1025), fits(MAX_SIZE)), (Some(2048), None, None));
            assert_eq!(end_up(HIGHEST - 16, MAX_SIZE, HIGHEST, min), None);
        }
    }

    #[test]
    fn growth_follows_its_strategy_up_to_the_largest() {
        let sizes = |growth| {
            let step = |&size: &usize| Some(next_chunk(growth, 512, size, 2008, 16));
            std::iter::successors(Some(512), step).take(5).collect::<Vec<_>>()
        };
        assert_eq!(sizes(Growth::Fixed), [512; 5]);
        assert_eq!(sizes(Growth::Linear), [512, 1024, 1536, 2000, 2000]);
        assert_eq!(sizes(Growth::Doubling), [512, 1024, 2000, 2000, 2000]);
        assert_eq!(next_chunk(Growth::Doubling, 16, MAX_SIZE, MAX_SIZE / 2, 16) % 16, 0);
    }
}
