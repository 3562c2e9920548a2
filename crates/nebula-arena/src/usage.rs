//! How an arena's bytes are spent.

use std::fmt;

use nebula_memory_core::ByteSize;

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
