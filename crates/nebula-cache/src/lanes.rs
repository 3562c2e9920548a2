//! Sixteen bytes compared at once: in two instructions where the processor always has them, in
//! eight-byte words elsewhere.
//!
//! The crate's only `unsafe` code: the instructions read and write no memory, and up to Rust 1.86
//! are `unsafe` to call all the same.

#![allow(unsafe_code, reason = "see above")]

/// A bit for each of `bytes` that is `byte`, the first one lowest.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[inline(always)]
#[allow(unused_unsafe, reason = "not from Rust 1.87 on")]
#[allow(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "bits are what is meant")]
pub(crate) fn equal(bytes: [u8; 16], byte: u8) -> u32 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set1_epi8};
    let bytes = vector(bytes);
    // SAFETY: works on values alone, and the processor has SSE2, which the target says.
    let wanted = unsafe { _mm_set1_epi8(byte as i8) };
    // SAFETY: as above.
    let equal = unsafe { _mm_cmpeq_epi8(bytes, wanted) };
    // SAFETY: as above.
    unsafe { _mm_movemask_epi8(equal) as u32 }
}

/// The highest bit of each of `bytes`, the first one lowest.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[inline(always)]
#[allow(unused_unsafe, reason = "not from Rust 1.87 on")]
#[allow(clippy::cast_sign_loss, reason = "bits are what is meant")]
pub(crate) fn highest(bytes: [u8; 16]) -> u32 {
    // SAFETY: works on a value alone, and the processor has SSE2, which the target says.
    unsafe { std::arch::x86_64::_mm_movemask_epi8(vector(bytes)) as u32 }
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[inline(always)]
#[allow(unused_unsafe, reason = "not from Rust 1.87 on")]
fn vector(bytes: [u8; 16]) -> std::arch::x86_64::__m128i {
    #[allow(clippy::cast_possible_wrap, reason = "bits are what is meant")]
    let [low, high] = halves(bytes).map(|half| half as i64);
    // SAFETY: works on values alone, and the processor has SSE2, which the target says.
    unsafe { std::arch::x86_64::_mm_set_epi64x(high, low) }
}

/// A bit for each of `bytes` that is `byte`, the first one lowest.
#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
pub(crate) use in_words::equal;
/// The highest bit of each of `bytes`, the first one lowest.
#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
pub(crate) use in_words::highest;

#[inline(always)]
fn halves(bytes: [u8; 16]) -> [u64; 2] {
    let number = u128::from_le_bytes(bytes);
    #[allow(clippy::cast_possible_truncation, reason = "two halves")]
    [number as u64, (number >> 64) as u64]
}

#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
mod in_words {
    use super::halves;

    /// One in each byte.
    const ONES: u64 = 0x0101_0101_0101_0101;

    #[inline]
    pub(crate) fn equal(bytes: [u8; 16], byte: u8) -> u32 {
        let wanted = u64::from(byte) * ONES;
        gather(halves(bytes).map(|half| {
            let other = half ^ wanted;
            // The highest bit of each byte that is zero: nothing carries from byte to byte.
            !(((other & (0x7F * ONES)) + 0x7F * ONES) | other)
        }))
    }

    #[inline]
    pub(crate) fn highest(bytes: [u8; 16]) -> u32 {
        gather(halves(bytes))
    }

    /// Puts the highest bits of all bytes side by side.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "eight bits are left of each half")]
    fn gather(halves: [u64; 2]) -> u32 {
        // Each bit is moved to a place of its own in the highest byte.
        let [low, high] = halves
            .map(|half| (((half >> 7) & ONES).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32);
        low | (high << 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::cast_possible_truncation, reason = "any byte will do")]
    fn each_byte_has_its_bit() {
        let mut state = 1_u64;
        for round in 0..20_000_u32 {
            let bytes: [u8; 16] = std::array::from_fn(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Few different ones, so that some are equal, those among them that differ in one
                // bit or would carry.
                [0, 1, 0x7F, 0x80, 0x81, 0xFF, 0xFE, (state >> 40) as u8]
                    [(state >> 60) as usize & 7]
            });
            let byte = if round % 2 == 0 { bytes[round as usize / 2 % 16] } else { round as u8 };
            let bit = |wanted: bool, lane: usize| u32::from(wanted) << lane;
            let same = (0..16).fold(0, |bits, i| bits | bit(bytes[i] == byte, i));
            let high = (0..16).fold(0, |bits, i| bits | bit(bytes[i] >= 0x80, i));
            assert_eq!((equal(bytes, byte), in_words::equal(bytes, byte)), (same, same));
            assert_eq!((highest(bytes), in_words::highest(bytes)), (high, high));
        }
    }
}
