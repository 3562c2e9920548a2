//! The head of a page's free list, as one word that is changed by compare-and-swap.
//!
//! No memory is touched here and the file forbids `unsafe`.
#![forbid(unsafe_code)]

/// The index that stands for the end of a list. Pages have far fewer blocks.
pub(crate) const END: u16 = u16::MAX;

/// The first free block of a page, how many are free, and a tag that every change moves on.
///
/// From the low bits up: 16 of index, 16 of count, 32 of tag. Two words with the same tag are the
/// same word, until a page has changed 2^32 times: what a compare-and-swap finds unchanged has not
/// changed and changed back, unless its thread slept for exactly such a number of changes of this
/// one page (minutes at the speed of a loop that does nothing else) and the list then began with
/// the same block and was as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head(u64);

impl Head {
    /// A list of `count` blocks that begins with `first`, before any change.
    pub(crate) const fn new(first: u16, count: u16) -> Self {
        Self(first as u64 | (count as u64) << 16)
    }

    #[inline]
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline]
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// The first free block, or [`END`].
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
    pub(crate) const fn first(self) -> u16 {
        self.0 as u16
    }

    /// How many blocks are free.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "these bits are what is wanted")]
    pub(crate) const fn count(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// How often the list has changed, modulo 2^32.
    #[inline]
    pub(crate) const fn tag(self) -> u64 {
        self.0 >> 32
    }

    /// The list without its first block, whose link is `next`.
    #[inline]
    pub(crate) const fn popped(self, next: u16) -> Self {
        debug_assert!(self.first() != END && self.count() > 0);
        Self((self.moved_on() - (1 << 16)) | next as u64)
    }

    /// The list with `block` before its first.
    #[inline]
    pub(crate) const fn pushed(self, block: u16) -> Self {
        debug_assert!(block != END);
        Self((self.moved_on() + (1 << 16)) | block as u64)
    }

    /// The next tag, the same count, and no index.
    #[inline]
    const fn moved_on(self) -> u64 {
        (self.0 & !0xFFFF).wrapping_add(1 << 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushing_and_popping_move_the_tag_on_and_keep_the_count() {
        let start = Head::new(7, 3);
        assert_eq!((start.first(), start.count(), start.tag()), (7, 3, 0));
        let popped = start.popped(END);
        assert_eq!((popped.first(), popped.count(), popped.tag()), (END, 2, 1));
        let back = popped.pushed(7);
        assert_eq!((back.first(), back.count(), back.tag()), (7, 3, 2));
        assert_ne!(back, start);
        assert_eq!(Head::from_bits(back.bits()), back);
    }

    #[test]
    fn the_tag_wraps_without_touching_the_rest() {
        let last = Head::from_bits(u64::from(u32::MAX) << 32 | 5 << 16 | 9);
        let popped = last.popped(4);
        assert_eq!((popped.first(), popped.count(), popped.tag()), (4, 4, 0));
        let pushed = last.pushed(4);
        assert_eq!((pushed.first(), pushed.count(), pushed.tag()), (4, 6, 0));
    }
}
