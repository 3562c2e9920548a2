//! Layout arithmetic: rounding, padding and array sizes, every step checked.
//!
//! Nothing here touches memory, and the file forbids `unsafe`: the allocators of the other crates
//! take their sizes and offsets from here (or from a file like this one) and keep only the pointer
//! work to themselves. Alignments are powers of two, as [`Layout`] guarantees.
#![forbid(unsafe_code)]

use std::alloc::Layout;

use crate::MemoryError;

/// The largest size that a [`Layout`] can have, in bytes.
pub const MAX_SIZE: usize = isize::MAX as usize;

/// `value` rounded up to a multiple of `align`, or `None` on overflow.
///
/// `align` must be a power of two.
///
/// ```
/// use nebula_memory_core::layout::align_up;
/// assert_eq!(align_up(13, 8), Some(16));
/// assert_eq!(align_up(16, 8), Some(16));
/// assert_eq!(align_up(usize::MAX, 2), None);
/// ```
#[inline]
#[must_use]
pub const fn align_up(value: usize, align: usize) -> Option<usize> {
    debug_assert!(align.is_power_of_two());
    match value.checked_add(align - 1) {
        Some(sum) => Some(sum & !(align - 1)),
        None => None,
    }
}

/// `value` rounded down to a multiple of `align`, a power of two.
///
/// ```
/// use nebula_memory_core::layout::align_down;
/// assert_eq!(align_down(13, 8), 8);
/// ```
#[inline]
#[must_use]
pub const fn align_down(value: usize, align: usize) -> usize {
    debug_assert!(align.is_power_of_two());
    value & !(align - 1)
}

/// Bytes from `address` to the next multiple of `align`, a power of two; zero if it is one.
///
/// ```
/// use nebula_memory_core::layout::padding_for;
/// assert_eq!(padding_for(0x1001, 16), 15);
/// assert_eq!(padding_for(0x1010, 16), 0);
/// ```
#[inline]
#[must_use]
pub const fn padding_for(address: usize, align: usize) -> usize {
    debug_assert!(align.is_power_of_two());
    address.wrapping_neg() & (align - 1)
}

/// Whether `address` is a multiple of `align`, a power of two.
#[inline]
#[must_use]
pub const fn is_aligned(address: usize, align: usize) -> bool {
    padding_for(address, align) == 0
}

/// The layout of `size` bytes at `align`.
///
/// # Errors
/// [`MemoryError::InvalidLayout`] if `align` is not a power of two, or if `size` rounded up to it
/// exceeds [`MAX_SIZE`].
///
/// ```
/// use nebula_memory_core::layout::layout;
/// assert_eq!(layout(24, 8)?.size(), 24);
/// assert!(layout(24, 3).is_err());
/// assert!(layout(isize::MAX as usize, 16).is_err());
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[inline]
pub fn layout(size: usize, align: usize) -> Result<Layout, MemoryError> {
    Layout::from_size_align(size, align).map_err(|_| MemoryError::InvalidLayout { size, align })
}

/// The layout of an array of `len` values of type `T`.
///
/// # Errors
/// [`MemoryError::InvalidLayout`] if the array would be larger than [`MAX_SIZE`]; `size` saturates.
///
/// ```
/// use nebula_memory_core::layout::array_layout;
/// assert_eq!(array_layout::<u32>(10)?.size(), 40);
/// assert!(array_layout::<u32>(usize::MAX).is_err());
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[inline]
pub fn array_layout<T>(len: usize) -> Result<Layout, MemoryError> {
    Layout::array::<T>(len).map_err(|_| MemoryError::InvalidLayout {
        size: size_of::<T>().saturating_mul(len),
        align: align_of::<T>(),
    })
}

/// The layout of a header followed by `payload`, and the payload's offset from the start.
///
/// # Errors
/// [`MemoryError::InvalidLayout`] if the two together would be larger than [`MAX_SIZE`].
///
/// ```
/// use std::alloc::Layout;
/// use nebula_memory_core::layout::with_header;
/// let (whole, offset) = with_header(Layout::new::<u64>(), Layout::from_size_align(100, 32).unwrap())?;
/// assert_eq!((whole.size(), whole.align(), offset), (132, 32, 32));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub fn with_header(header: Layout, payload: Layout) -> Result<(Layout, usize), MemoryError> {
    header.extend(payload).map_err(|_| MemoryError::InvalidLayout {
        size: header.size().saturating_add(payload.size()),
        align: header.align().max(payload.align()),
    })
}
