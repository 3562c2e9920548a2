//! What a bump's bytes are spent on. Nothing is counted per block: cursors and chunks know.

use super::Bump;
use crate::{Direction, chunk::Chunk};

impl<D: Direction, const MIN_ALIGN: usize> Bump<D, MIN_ALIGN> {
    /// Bytes taken from the allocator.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    pub(crate) fn count(&self) -> usize {
        self.count.get()
    }

    /// Bytes that blocks and the padding between them take.
    pub(crate) fn used(&self) -> usize {
        self.used_in_list() + self.used_aside()
    }

    pub(super) fn used_in_list(&self) -> usize {
        let before = self.current.get().map_or(0, |current| current.header().used_before.get());
        before + self.used_in_current()
    }

    pub(super) fn used_aside(&self) -> usize {
        self.asides.get().map_or(0, |latest| {
            let header = latest.header();
            header.used_before.get() + header.used.get()
        })
    }

    /// Bytes between the edge of the current chunk and the cursor.
    #[inline]
    pub(crate) fn used_in_current(&self) -> usize {
        let Some(current) = self.current.get() else { return 0 };
        let (edge, cursor) = (Self::edges(current).0.addr(), self.cursor.get().addr());
        if D::UPWARDS { cursor - edge } else { edge - cursor }
    }

    /// Bytes left in the current chunk.
    pub(crate) fn room(&self) -> usize {
        self.limit.get().addr().abs_diff(self.cursor.get().addr())
    }

    pub(super) fn note_high_water(&self) -> usize {
        let high = self.high_water.get().max(self.used());
        self.high_water.set(high);
        high
    }

    /// The most bytes in use that were seen: now, or when a chunk was left or blocks were given
    /// back together.
    pub(crate) fn high_water(&self) -> usize {
        self.note_high_water()
    }

    /// The bytes in use in every chunk that has been used since the last reset, in that order; the
    /// ones aside come last, the latest of them first.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (Chunk, usize)> + '_ {
        let current = self.current.get();
        let first = if current.is_some() { self.first.get() } else { None };
        let list = std::iter::successors(first, move |&chunk| {
            if Some(chunk) == current { None } else { chunk.header().next.get() }
        });
        let used = move |chunk: Chunk| {
            if Some(chunk) == current { self.used_in_current() } else { chunk.header().used.get() }
        };
        let asides = std::iter::successors(self.asides.get(), |chunk| chunk.header().prev.get());
        list.map(move |chunk| (chunk, used(chunk)))
            .chain(asides.map(|chunk| (chunk, chunk.header().used.get())))
    }

    /// Bytes in chunks that are not in use.
    pub(crate) fn spare_bytes(&self) -> usize {
        self.bytes.get() - self.size_in_list() - self.asides.get().map_or(0, Self::size_up_to)
    }

    /// Bytes of the chunks in the list up to the current one.
    pub(super) fn size_in_list(&self) -> usize {
        self.current.get().map_or(0, Self::size_up_to)
    }

    pub(super) fn size_up_to(chunk: Chunk) -> usize {
        chunk.header().size_before.get() + chunk.size()
    }

    /// Bytes that could be given back at once: the spare chunks, and the current one if nothing is
    /// in use.
    pub(crate) fn reclaimable_bytes(&self) -> usize {
        if self.is_empty() { self.bytes.get() } else { self.spare_bytes() }
    }
}
