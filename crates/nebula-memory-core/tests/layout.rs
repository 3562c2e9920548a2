//! Layout arithmetic, against the same in 128 bits.

use std::alloc::Layout;

use nebula_memory_core::layout::{
    MAX_SIZE, align_down, align_up, array_layout, is_aligned, layout, padding_for, with_header,
};
use proptest::prelude::*;

/// Powers of two that a `usize` can hold.
fn any_align() -> impl Strategy<Value = usize> {
    (0..usize::BITS).prop_map(|shift| 1 << shift)
}

/// Sizes of every magnitude, and those next to where something overflows.
fn any_size() -> impl Strategy<Value = usize> {
    prop_oneof![
        (0..usize::BITS, any::<usize>()).prop_map(|(shift, value)| value >> shift),
        (0_usize..70).prop_map(|below| usize::MAX - below),
        (0_usize..70).prop_map(|below| MAX_SIZE - below),
        (0_usize..70).prop_map(|above| MAX_SIZE + above),
    ]
}

/// Whether `Layout` allows it: the definition in the standard library's documentation.
fn is_valid(size: u128, align: u128) -> bool {
    align.is_power_of_two() && size.next_multiple_of(align) <= MAX_SIZE as u128
}

proptest! {
    #[test]
    fn rounding_up_is_exact_or_none(value in any_size(), align in any_align()) {
        let exact = (value as u128).next_multiple_of(align as u128);
        prop_assert_eq!(align_up(value, align), usize::try_from(exact).ok());
    }

    #[test]
    fn rounding_down_is_exact(value in any_size(), align in any_align()) {
        prop_assert_eq!(align_down(value, align), value / align * align);
    }

    #[test]
    fn padding_leads_to_the_next_multiple(value in any_size(), align in any_align()) {
        let next = (value as u128).next_multiple_of(align as u128);
        prop_assert_eq!(padding_for(value, align) as u128, next - value as u128);
        prop_assert_eq!(is_aligned(value, align), value % align == 0);
    }

    #[test]
    fn layouts_are_those_that_the_library_allows(
        size in any_size(),
        align in prop_oneof![any_align(), any::<usize>(), 0_usize..100],
    ) {
        match layout(size, align) {
            Ok(layout) => {
                prop_assert!(is_valid(size as u128, align as u128));
                prop_assert_eq!((layout.size(), layout.align()), (size, align));
            }
            Err(error) => {
                prop_assert!(!is_valid(size as u128, align as u128));
                prop_assert_eq!(error.code(), "invalid_layout");
                prop_assert!(error.to_string().contains(&size.to_string()));
            }
        }
    }

    #[test]
    fn arrays_have_the_exact_size_or_none(len in any_size()) {
        fn check<T>(len: usize) -> Result<(), TestCaseError> {
            let exact = size_of::<T>() as u128 * len as u128;
            match array_layout::<T>(len) {
                Ok(layout) => {
                    prop_assert_eq!(layout.size() as u128, exact);
                    prop_assert_eq!(layout.align(), align_of::<T>());
                }
                Err(_) => prop_assert!(!is_valid(exact, align_of::<T>() as u128)),
            }
            Ok(())
        }
        check::<()>(len)?;
        check::<u8>(len)?;
        check::<u64>(len)?;
        check::<[u16; 33]>(len)?;
    }

    #[test]
    fn a_header_and_its_payload_do_not_overlap(
        header in (any_size(), any_align()),
        payload in (any_size(), any_align()),
    ) {
        let valid = |(size, align)| Layout::from_size_align(size, align).ok();
        let (Some(header), Some(payload)) = (valid(header), valid(payload)) else {
            return Ok(());
        };
        let align = header.align().max(payload.align());
        let offset = (header.size() as u128).next_multiple_of(payload.align() as u128);
        let size = offset + payload.size() as u128;
        match with_header(header, payload) {
            Ok((whole, at)) => {
                prop_assert_eq!((whole.size() as u128, at as u128), (size, offset));
                prop_assert_eq!(whole.align(), align);
            }
            Err(_) => prop_assert!(!is_valid(size, align as u128)),
        }
    }
}

#[test]
fn an_alignment_that_is_no_power_of_two_is_named_in_the_error() {
    let error = layout(24, 3).unwrap_err();
    assert!(error.to_string().contains("alignment 3"), "{error}");
}
