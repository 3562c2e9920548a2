//! What a stream reports.

use std::fmt;

use nebula_memory_core::ByteSize;

/// The figures of a [`StreamingArena`](crate::StreamingArena).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct StreamStats {
    /// How many buffers there are.
    pub buffers: usize,
    /// How many of them are lent as batches.
    pub in_flight: usize,
    /// How many callers wait for one.
    pub waiting: usize,
    /// How many batches there were.
    pub batches: u64,
    /// How often a caller had to wait.
    pub waits: u64,
    /// How often a caller who would not wait was refused, because all buffers were in flight.
    pub refused: u64,
    /// What idle buffers have taken from the allocator, in bytes.
    pub idle_bytes: usize,
    /// What those in flight had taken when they were lent, in bytes. What they have taken since is
    /// for the batches to say.
    pub lent_bytes: usize,
    /// What the table of buffers takes from the allocator, in bytes.
    pub overhead: usize,
}

impl StreamStats {
    /// Bytes taken from the allocator, as far as it is known: exact while no batch is in flight.
    #[must_use]
    pub const fn allocated(&self) -> usize {
        self.idle_bytes + self.lent_bytes + self.overhead
    }
}

impl fmt::Display for StreamStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} buffers in flight, {} waiting; {} batches, {} waits, {} refused; {} allocated",
            self.in_flight,
            self.buffers,
            self.waiting,
            self.batches,
            self.waits,
            self.refused,
            ByteSize::new(self.allocated()),
        )
    }
}
