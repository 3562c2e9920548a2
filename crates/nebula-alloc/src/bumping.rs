//! The address arithmetic of the bump allocator: where a block goes, and whether it is the last.
//!
//! Plain numbers in, plain numbers out; no memory is touched and the file forbids `unsafe`, so that
//! whatever it answers can be tested by itself. Addresses belong to one region of at most
//! `isize::MAX` bytes that ends at or below [`HIGHEST`].
#![forbid(unsafe_code)]

use std::alloc::Layout;

use nebula_memory_core::layout::{align_down, padding_for};

/// Up to this size and alignment, a block's end is computed before it is compared with that of the
/// region; that takes fewer instructions than what is right for all layouts.
pub(crate) const SMALL: usize = 1 << 10;

/// The highest address at which a region may end, so that a [`SMALL`] block's end, its padding and
/// a header included, can be computed from any address in it. (No system has memory for programs up
/// there.)
pub(crate) const HIGHEST: usize = align_down(usize::MAX - 3 * SMALL, SMALL);

/// The end of what is used of a region of `size` bytes at `start`; nothing is if it lies above
/// [`HIGHEST`].
#[inline]
pub(crate) const fn usable_end(start: usize, size: usize) -> usize {
    let end = start + size;
    match (start > HIGHEST, end > HIGHEST) {
        (true, _) => start,
        (false, true) => HIGHEST,
        (false, false) => end,
    }
}

/// Where a block lies: `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first address; a multiple of the block's alignment.
    pub start: usize,
    /// The address after the last; the cursor once the block is placed.
    pub end: usize,
}

/// The lowest place for a block of `layout` in the free stretch `cursor..end`.
#[inline]
pub(crate) const fn place(cursor: usize, end: usize, layout: Layout) -> Option<Place> {
    debug_assert!(cursor <= end && end <= HIGHEST);
    if layout.size() <= SMALL && layout.align() <= SMALL {
        let start = align_down(cursor + (layout.align() - 1), layout.align());
        let after = start + layout.size();
        return if after > end { None } else { Some(Place { start, end: after }) };
    }
    // Cannot overflow: the padding is less than the alignment, and a layout's size rounded up to
    // its alignment is at most `isize::MAX`.
    let padding = padding_for(cursor, layout.align());
    let needed = padding + layout.size();
    if needed > end - cursor {
        return None;
    }
    Some(Place { start: cursor + padding, end: cursor + needed })
}

/// The size of the largest block at alignment `align` that `cursor..end` has room for.
#[inline]
pub(crate) const fn room(cursor: usize, end: usize, align: usize) -> usize {
    (end - cursor).saturating_sub(padding_for(cursor, align))
}

/// Whether the block of `size` bytes at `start` is the one that ends at the cursor.
///
/// An empty block at the cursor counts, and freeing it moves nothing.
#[inline]
pub(crate) const fn is_last(start: usize, size: usize, cursor: usize) -> bool {
    start.wrapping_add(size) == cursor
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A free stretch anywhere in the address space, and a layout.
    fn cases() -> impl Strategy<Value = (usize, usize, Layout)> {
        let near_top = HIGHEST - 10_000..HIGHEST;
        let cursor = prop_oneof![1..20_000_usize, near_top, 1..HIGHEST];
        let room = prop_oneof![0..300_usize, 0..20_000_usize, Just(isize::MAX.unsigned_abs())];
        let size = prop_oneof![0..300_usize, 0..20_000_usize, any::<usize>()];
        (cursor, room, size, 0..usize::BITS - 1).prop_map(|(cursor, room, size, shift)| {
            let align = 1_usize << shift;
            let largest = isize::MAX.unsigned_abs() - (align - 1);
            let layout = Layout::from_size_align(size.min(largest), align).unwrap();
            (cursor, usable_end(cursor, room.min(usize::MAX - cursor)), layout)
        })
    }

    proptest! {
        #[test]
        fn a_place_is_aligned_inside_and_of_the_right_size((cursor, end, layout) in cases()) {
            if let Some(place) = place(cursor, end, layout) {
                prop_assert_eq!(place.start % layout.align(), 0);
                prop_assert_eq!(place.end - place.start, layout.size());
                prop_assert!(cursor <= place.start && place.end <= end);
                // The lowest one: there is no aligned address between.
                prop_assert!(place.start - cursor < layout.align());
                prop_assert!(is_last(place.start, layout.size(), place.end));
            }
        }

        #[test]
        fn no_place_means_that_it_would_not_fit((cursor, end, layout) in cases()) {
            let aligned = (cursor as u128).next_multiple_of(layout.align() as u128);
            let fits = aligned + layout.size() as u128 <= end as u128;
            prop_assert_eq!(place(cursor, end, layout).is_some(), fits);
        }

        #[test]
        fn room_is_the_largest_size_that_has_a_place((cursor, end, layout) in cases()) {
            let align = layout.align();
            let room = room(cursor, end, align);
            if let Ok(largest) = Layout::from_size_align(room, align) {
                prop_assert!(room == 0 || place(cursor, end, largest).is_some());
            }
            if let Ok(larger) = Layout::from_size_align(room.saturating_add(1), align) {
                prop_assert_eq!(place(cursor, end, larger), None);
            }
        }

        #[test]
        fn only_the_block_that_ends_at_the_cursor_is_last(
            start in 1..10_000_usize, size in 0..10_000_usize, after in 0..100_usize,
        ) {
            prop_assert_eq!(is_last(start, size, start + size + after), after == 0);
        }
    }

    #[test]
    fn the_largest_layouts_are_refused_without_overflow() {
        let top = HIGHEST;
        for shift in 0..usize::BITS - 1 {
            let align = 1_usize << shift;
            let size = isize::MAX.unsigned_abs() - (align - 1);
            let layout = Layout::from_size_align(size, align).unwrap();
            assert_eq!(place(1, 4096, layout), None);
            assert_eq!(place(top - 64, top, layout), None);
        }
    }

    #[test]
    fn the_highest_addresses_are_left_alone() {
        assert_eq!(usable_end(4096, 1000), 5096);
        assert_eq!(usable_end(usize::MAX - 5000, 4999), HIGHEST);
        assert_eq!(usable_end(HIGHEST + 16, 100), HIGHEST + 16);
        assert!(HIGHEST.checked_add(2 * SMALL + 64).is_some());
    }
}
