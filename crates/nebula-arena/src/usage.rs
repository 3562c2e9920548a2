//! How an arena's bytes are spent.

use std::fmt;

use nebula_memory_core::ByteSize;

use crate::{Direction, bump::Bump, chunk::HEADER};

/// How an arena's bytes are spent; all figures are bytes but `chunks`.
///
/// `allocated` is the sum of `used`, `free`, `wasted`, `spare` and `overhead`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ArenaUsage {
    /// Blocks, and the padding between them.
    pub used: usize,
    /// Room left in the current chunk.
    pub free: usize,
    /// Room left at the ends of chunks that are full.
    pub wasted: usize,
    /// Chunks kept for later, with their headers.
    pub spare: usize,
    /// Headers of the chunks in use.
    pub overhead: usize,
    /// Taken from the allocator.
    pub allocated: usize,
    /// How many chunks were taken from the allocator.
    pub chunks: usize,
    /// The most that blocks took, as far as it was seen: [`Arena::high_water`].
    ///
    /// [`Arena::high_water`]: crate::Arena::high_water
    pub high_water: usize,
}

impl ArenaUsage {
    /// How one bump's bytes are spent.
    pub(crate) fn of<D: Direction, const MIN_ALIGN: usize>(bump: &Bump<D, MIN_ALIGN>) -> Self {
        let (mut used, mut chunks, mut full_room) = (0, 0, 0);
        for (chunk, used_in_chunk) in bump.chunks() {
            used += used_in_chunk;
            chunks += 1;
            full_room += chunk.room();
        }
        let free = bump.room();
        Self {
            used,
            free,
            wasted: full_room - used - free,
            spare: bump.spare_bytes(),
            overhead: chunks * HEADER.size(),
            allocated: bump.bytes(),
            chunks: bump.count(),
            high_water: bump.high_water(),
        }
    }

    /// The two together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            used: self.used + other.used,
            free: self.free + other.free,
            wasted: self.wasted + other.wasted,
            spare: self.spare + other.spare,
            overhead: self.overhead + other.overhead,
            allocated: self.allocated + other.allocated,
            chunks: self.chunks + other.chunks,
            high_water: self.high_water + other.high_water,
        }
    }
}

impl fmt::Display for ArenaUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = ByteSize::new;
        write!(
            f,
            "{} used of {} in {} chunks ({} free, {} wasted, {} spare), at most {} used",
            size(self.used),
            size(self.allocated),
            self.chunks,
            size(self.free),
            size(self.wasted),
            size(self.spare),
            size(self.high_water),
        )
    }
}
