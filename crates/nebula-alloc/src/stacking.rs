//! The address arithmetic of the stack allocator: where a block goes, and where it begins and ends.
//!
//! Plain numbers in, plain numbers out; no memory is touched and the file forbids `unsafe`.
//! Everything is counted in whole grains, so that the cursor is always a multiple of [`GRAIN`] and
//! a freed block has room for what has to be noted about it. Where an alignment is larger than
//! that, the block has a header of one grain before it, which holds where the cursor was: freeing
//! the block gives back the padding, too.
#![forbid(unsafe_code)]

use std::alloc::Layout;

use nebula_memory_core::layout::{MAX_SIZE, align_down, padding_for};

use crate::bumping::{self, Place, SMALL};

/// What sizes are rounded up to, and the largest alignment that needs no header.
pub(crate) const GRAIN: usize = 16;

/// `size` in whole grains; at most [`MAX_SIZE`] is asked for, so that it cannot overflow.
#[inline]
pub(crate) const fn grains(size: usize) -> usize {
    debug_assert!(size <= MAX_SIZE);
    (size + (GRAIN - 1)) & !(GRAIN - 1)
}

/// The end of what is used of a region of `size` bytes at `start`, a multiple of [`GRAIN`].
#[inline]
pub(crate) const fn usable_end(start: usize, size: usize) -> usize {
    align_down(bumping::usable_end(start, size), GRAIN)
}

/// Whether a block at alignment `align` has a header before it.
#[inline]
pub(crate) const fn has_header(align: usize) -> bool {
    align > GRAIN
}

/// Bytes between the cursor and a block at alignment `align`: its header and padding.
#[inline]
const fn before(cursor: usize, align: usize) -> usize {
    if has_header(align) { GRAIN + padding_for(cursor.wrapping_add(GRAIN), align) } else { 0 }
}

/// The place for a block of `layout` (not an empty one) in the free stretch `cursor..end`, its end
/// rounded up to the grain.
#[inline]
pub(crate) const fn place(cursor: usize, end: usize, layout: Layout) -> Option<Place> {
    debug_assert!(cursor % GRAIN == 0 && end % GRAIN == 0);
    debug_assert!(cursor <= end && end <= bumping::HIGHEST);
    let (size, align) = (grains(layout.size()), layout.align());
    if size <= SMALL && align <= SMALL {
        let start = if has_header(align) {
            align_down(cursor + (GRAIN + align - 1), align)
        } else {
            cursor
        };
        let after = start + size;
        return if after > end { None } else { Some(Place { start, end: after }) };
    }
    // Cannot overflow: what goes before is at most the alignment, and a layout's size rounded up to
    // its alignment is at most `isize::MAX`.
    let before = before(cursor, align);
    let needed = before + size;
    if needed > end - cursor {
        return None;
    }
    Some(Place { start: cursor + before, end: cursor + needed })
}

/// The size of the largest block at alignment `align` that `cursor..end` has room for.
#[inline]
pub(crate) const fn room(cursor: usize, end: usize, align: usize) -> usize {
    (end - cursor).saturating_sub(before(cursor, align))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bumping::HIGHEST;

    /// A free stretch anywhere in the address space, and a layout that is not empty.
    fn cases() -> impl Strategy<Value = (usize, usize, Layout)> {
        let near_top = HIGHEST - 10_000..HIGHEST;
        let cursor = prop_oneof![16..20_000_usize, near_top, 16..HIGHEST];
        let room = prop_oneof![0..300_usize, 0..20_000_usize, Just(MAX_SIZE)];
        let size = prop_oneof![1..300_usize, 1..20_000_usize, 1..usize::MAX];
        (cursor, room, size, 0..usize::BITS - 1).prop_map(|(cursor, room, size, shift)| {
            let align = 1_usize << shift;
            let layout = Layout::from_size_align(size.min(MAX_SIZE - (align - 1)), align).unwrap();
            let cursor = align_down(cursor, GRAIN);
            (cursor, usable_end(cursor, room.min(usize::MAX - cursor)), layout)
        })
    }

    proptest! {
        #[test]
        fn a_place_is_aligned_inside_and_in_whole_grains((cursor, end, layout) in cases()) {
            if let Some(place) = place(cursor, end, layout) {
                prop_assert_eq!(place.start % layout.align().max(GRAIN), 0);
                prop_assert_eq!(place.end % GRAIN, 0);
                prop_assert!(place.end - place.start >= layout.size());
                prop_assert!(place.end - place.start < layout.size() + GRAIN);
                prop_assert!(cursor <= place.start && place.end <= end);
                if has_header(layout.align()) {
                    // There is room for the header, and no aligned address between.
                    prop_assert!(place.start - cursor >= GRAIN);
                    prop_assert!(place.start - cursor <= layout.align());
                } else {
                    prop_assert_eq!(place.start, cursor);
                }
            }
        }

        #[test]
        fn no_place_means_that_it_would_not_fit((cursor, end, layout) in cases()) {
            let mut start = cursor as u128;
            if has_header(layout.align()) {
                start = (start + GRAIN as u128).next_multiple_of(layout.align() as u128);
            }
            let fits = start + grains(layout.size()) as u128 <= end as u128;
            prop_assert_eq!(place(cursor, end, layout).is_some(), fits);
        }

        #[test]
        fn room_is_the_largest_size_that_has_a_place((cursor, end, layout) in cases()) {
            let room = room(cursor, end, layout.align());
            if let Ok(largest) = Layout::from_size_align(room, layout.align()) {
                prop_assert!(room == 0 || place(cursor, end, largest).is_some());
            }
            if let Ok(larger) = Layout::from_size_align(room.saturating_add(1), layout.align()) {
                prop_assert_eq!(place(cursor, end, larger), None);
            }
        }
    }

    #[test]
    fn the_largest_layouts_are_refused_without_overflow() {
        for shift in 0..usize::BITS - 1 {
            let align = 1_usize << shift;
            let layout = Layout::from_size_align(MAX_SIZE - (align - 1), align).unwrap();
            assert_eq!(place(16, 4096, layout), None);
            assert_eq!(place(HIGHEST - 64, HIGHEST, layout), None);
        }
    }

    #[test]
    fn the_highest_addresses_are_left_alone() {
        assert_eq!(usable_end(4096, 1000), 4096 + 992);
        assert_eq!(usable_end(usize::MAX - 8191, 8191), HIGHEST);
    }
}
