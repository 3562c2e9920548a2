//! Layout arithmetic against the same in 128 bits, where nothing overflows.

#![no_main]

use std::alloc::Layout;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use nebula_memory_core::layout::{
    MAX_SIZE, align_down, align_up, array_layout, is_aligned, layout, padding_for, with_header,
};

#[derive(Arbitrary, Debug)]
struct Input {
    value: usize,
    /// The alignment's logarithm, after a remainder.
    shift: u8,
    size: usize,
    align: usize,
    header: (usize, u8),
}

fn up(value: usize, align: usize) -> u128 {
    (value as u128).next_multiple_of(align as u128)
}

/// What [`Layout`] asks of size and alignment.
fn valid(size: usize, align: usize) -> bool {
    align.is_power_of_two() && up(size, align) <= MAX_SIZE as u128
}

fuzz_target!(|input: Input| {
    let align = 1_usize << (u32::from(input.shift) % usize::BITS);
    let value = input.value;

    let rounded = align_up(value, align);
    assert_eq!(rounded, usize::try_from(up(value, align)).ok());
    assert_eq!(align_down(value, align), value / align * align);
    let padding = padding_for(value, align);
    assert!(padding < align);
    assert_eq!((value as u128 + padding as u128) % align as u128, 0);
    assert_eq!(is_aligned(value, align), value % align == 0);

    let made = layout(input.size, input.align);
    assert_eq!(made.is_ok(), valid(input.size, input.align));
    if let Ok(made) = made {
        assert_eq!((made.size(), made.align()), (input.size, input.align));
    }

    assert_eq!(array_layout::<()>(value).ok().map(|l| l.size()), Some(0));
    assert_eq!(array_layout::<[u32; 3]>(value).is_ok(), value as u128 * 12 <= MAX_SIZE as u128 - 3);
    if let Ok(array) = array_layout::<[u32; 3]>(value) {
        assert_eq!((array.size(), array.align()), (value * 12, 4));
    }

    let header_align = 1 << (u32::from(input.header.1) % 24);
    let header = Layout::from_size_align(input.header.0, header_align);
    let payload = Layout::from_size_align(input.size, align);
    if let (Ok(header), Ok(payload)) = (header, payload) {
        let offset = up(header.size(), payload.align());
        let size = offset + payload.size() as u128;
        let align = header.align().max(payload.align());
        match with_header(header, payload) {
            Ok((whole, at)) => {
                assert_eq!(
                    (at as u128, whole.size() as u128, whole.align()),
                    (offset, size, align)
                );
            }
            Err(_) => assert!(size.next_multiple_of(align as u128) > MAX_SIZE as u128),
        }
    }
});
