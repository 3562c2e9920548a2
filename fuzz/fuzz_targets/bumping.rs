//! The arena's arithmetic against the same in numbers that cannot overflow.

#![no_main]
#![allow(dead_code, reason = "the file is the arena's")]

use std::alloc::Layout;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

/// The arena's, which the file asks for by this name.
#[derive(Clone, Copy)]
enum Growth {
    Fixed,
    Linear,
    Doubling,
}

#[path = "../../crates/nebula-arena/src/bumping.rs"]
mod bumping;

use bumping::{
    HIGHEST, Request, end_up, next_chunk, next_smaller, place_down, place_up, smallest_chunk,
};

#[derive(Arbitrary, Debug)]
struct Input {
    start: usize,
    room: usize,
    used: usize,
    size: usize,
    align: u8,
    min_align: u8,
    chunk: usize,
    growth: u8,
}

/// A layout of any kind that there is: small sizes and alignments more often than others.
fn layout(size: usize, align: u8) -> Option<Layout> {
    Layout::from_size_align(size >> (size % 64), 1 << (align % 63)).ok()
}

fuzz_target!(|input: Input| {
    let Some(layout) = layout(input.size, input.align) else { return };
    let min = 1_usize << (input.min_align % 5);
    // A chunk of at most 2^40 bytes that ends where it may.
    let start = (input.start % HIGHEST) & !15;
    let room = (input.room >> (input.room % 64)) % (1 << 40);
    let end = (start + room).min(HIGHEST) & !15;
    if start == 0 || end < start {
        return;
    }
    let cursor = (start + input.used % (end - start + 1)) & !(min - 1);
    let (size, align) = (layout.size() as i128, layout.align() as i128);

    let up = {
        let start = (cursor as i128 + align - 1) & -align;
        (start + size <= end as i128).then_some(start)
    };
    let placed = place_up(cursor, end, Request::any(layout), min);
    assert_eq!(placed.map(|place| place.start as i128), up);
    if let Some(place) = placed {
        assert!(place.cursor <= end && place.cursor % min == 0);
        assert!(place.cursor - place.start >= layout.size());
        assert!(place.cursor - place.start < layout.size() + min);
        // It can grow up to the end, and no further.
        let all = end - place.start;
        assert_eq!(end_up(place.start, all, end, min), Some(end));
        assert_eq!(end_up(place.start, all + 1, end, min), None);
    }

    let down = {
        let step = (size + min as i128 - 1) & -(min as i128);
        let lowest = (cursor as i128 - step) & -align.max(min as i128);
        (lowest >= start as i128).then_some(lowest)
    };
    let placed = place_down(cursor, start, Request::any(layout), min);
    assert_eq!(placed.map(|place| place.start as i128), down);
    assert!(placed.is_none_or(|place| place.start == place.cursor));

    let header = Layout::from_size_align(48, 16).expect("small");
    if let Some(smallest) = smallest_chunk(header, layout) {
        assert!(smallest % 16 == 0 && smallest >= 48 + layout.size());
        let base = (input.start % (HIGHEST / 2)) & !15;
        if base > 0 && base.checked_add(smallest).is_some_and(|end| end <= HIGHEST) {
            let (data, end) = (base + 48, base + smallest);
            assert!(place_up(data, end, Request::any(layout), min).is_some());
            assert!(place_down(end, data, Request::any(layout), min).is_some());
        }
        let mut size = smallest.max(input.chunk & !15 & (usize::MAX >> 2));
        let mut steps = 0;
        while let Some(next) = next_smaller(size, smallest, 16) {
            assert!(next < size && next >= smallest);
            size = next;
            steps += 1;
        }
        assert!(size == smallest && steps <= 64);
    }

    let growth = [Growth::Fixed, Growth::Linear, Growth::Doubling][usize::from(input.growth % 3)];
    let (first, largest) = ((input.used % 1_000_000) & !15, isize::MAX as usize / 2);
    let next = next_chunk(growth, first, input.chunk & !15 & largest, largest, 16);
    assert!(next % 16 == 0 && next <= largest);
});
