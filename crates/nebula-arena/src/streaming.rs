//! A bounded ring of arenas for streams of batches.

use std::{fmt, time::Duration};

use nebula_memory_core::{
    Allocator, ByteSize, Global, MemoryError, MemoryUsage, PressureLevel, Reclaim, sync::Arc,
};

use crate::{ArenaConfig, Batch, Keep, StreamStats, ring::Ring};

/// A bounded ring of arenas: allocate in a batch, retire batches in any order, and their memory is
/// used again. While all buffers are in flight, who wants another is refused, blocks, or awaits:
/// that is the back-pressure.
///
/// A cheap handle; clones share the ring, and may be used from any thread. Those who wait are served
/// as they came: a batch that retires is handed to who waits longest, and no newcomer takes it away.
///
/// Once the buffers have grown as the batches need it, a batch takes nothing from the allocator and
/// nothing from the heap. (Who has to wait takes a place in line on the heap.)
///
/// ```
/// use nebula_arena::StreamingArena;
/// use nebula_memory_core::MemoryError;
///
/// let stream = StreamingArena::new(2)?;
/// let (one, two) = (stream.try_batch()?, stream.try_batch()?);
/// let text = one.alloc_str("in the first batch");
/// assert!(matches!(stream.try_batch(), Err(MemoryError::PoolExhausted { .. })));
/// drop(two); // before the first
/// let three = stream.try_batch()?;
/// assert_eq!((text.len(), stream.stats().batches), (18, 3));
/// # drop((one, three));
/// # Ok::<(), MemoryError>(())
/// ```
///
/// # Memory
/// Chunks come from clones of one allocator, and so does the table of buffers; only the handles'
/// common head (a few hundred bytes) is on the heap. A buffer that comes back keeps chunks for its
/// next batch as [`ArenaConfig::keep`] says, and of those no more than [`set_keep`](Self::set_keep)
/// allows.
pub struct StreamingArena<A: Allocator = Global> {
    ring: Arc<Ring<A>>,
}

impl StreamingArena {
    /// A ring of `buffers` arenas on the heap, with default settings but for [`Keep::All`]. Takes no
    /// memory for chunks until it is needed.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if `buffers` is zero or above 2^32 - 1, or the heap's refusal
    /// of the table.
    pub fn new(buffers: usize) -> Result<Self, MemoryError> {
        let config = ArenaConfig { keep: Keep::All, ..ArenaConfig::default() };
        Self::with_config(buffers, &config)
    }

    /// A ring of `buffers` arenas with `config` on the heap.
    ///
    /// # Errors
    /// As [`new`](Self::new), and for a `config` that is not valid.
    ///
    /// ```
    /// use nebula_arena::{ArenaConfig, Keep, StreamingArena};
    /// use nebula_memory_core::ByteSize;
    ///
    /// let config = ArenaConfig::builder().chunk_size(ByteSize::kib(64)).keep(Keep::All).build()?;
    /// let stream = StreamingArena::with_config(4, &config)?;
    /// assert_eq!(stream.stats().buffers, 4);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn with_config(buffers: usize, config: &ArenaConfig) -> Result<Self, MemoryError> {
        Self::with_config_in(buffers, config, &Global)
    }
}

impl<A: Allocator + Clone> StreamingArena<A> {
    /// A ring of `buffers` arenas with `config`, whose chunks and table come from clones of
    /// `allocator`.
    ///
    /// # Errors
    /// As [`with_config`](StreamingArena::with_config), and the allocator's refusal of the table.
    pub fn with_config_in(
        buffers: usize,
        config: &ArenaConfig,
        allocator: &A,
    ) -> Result<Self, MemoryError> {
        config.validate()?;
        Ok(Self { ring: Arc::new(Ring::new(buffers, config, allocator)?) })
    }
}

impl<A: Allocator> StreamingArena<A> {
    pub(crate) fn of(ring: Arc<Ring<A>>) -> Self {
        Self { ring }
    }

    /// A batch, if a buffer is idle that nobody waits for.
    ///
    /// # Errors
    /// [`MemoryError::PoolExhausted`] if all are in flight, [`MemoryError::Closed`].
    pub fn try_batch(&self) -> Result<Batch<A>, MemoryError> {
        self.ring.try_lend()?.ok_or_else(|| self.ring.exhausted())
    }

    /// A batch; blocks until there is one.
    ///
    /// # Errors
    /// [`MemoryError::Closed`], also if the stream is closed while this waits.
    pub fn batch(&self) -> Result<Batch<A>, MemoryError> {
        if let Some(batch) = self.ring.try_lend()? {
            return Ok(batch);
        }
        self.served(self.ring.join().wait())
    }

    /// A batch; blocks for `timeout` at most.
    ///
    /// # Errors
    /// [`MemoryError::Timeout`], [`MemoryError::Closed`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use nebula_arena::StreamingArena;
    ///
    /// let stream = StreamingArena::new(1)?;
    /// let first = stream.batch()?;
    /// assert_eq!(stream.batch_timeout(Duration::from_millis(1)).unwrap_err().code(), "timeout");
    /// drop(first);
    /// assert!(stream.batch_timeout(Duration::from_millis(1)).is_ok());
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn batch_timeout(&self, timeout: Duration) -> Result<Batch<A>, MemoryError> {
        if let Some(batch) = self.ring.try_lend()? {
            return Ok(batch);
        }
        self.served(self.ring.join().wait_timeout(timeout))
    }

    /// A batch, awaited with any runtime. The place in line is taken when the future is first
    /// polled, and given up when it is dropped; a batch that was handed to it by then goes to the
    /// next.
    ///
    /// # Errors
    /// [`MemoryError::Closed`].
    pub async fn batch_async(&self) -> Result<Batch<A>, MemoryError> {
        if let Some(batch) = self.ring.try_lend()? {
            return Ok(batch);
        }
        self.served(self.ring.join().await)
    }

    fn served(&self, outcome: Result<Batch<A>, MemoryError>) -> Result<Batch<A>, MemoryError> {
        if outcome.is_ok() {
            self.ring.note_served();
        }
        outcome
    }

    /// Ends the stream: who waits, and who asks from now on, gets [`MemoryError::Closed`]. Idle
    /// buffers give their memory back now, others when they retire.
    ///
    /// ```
    /// let stream = nebula_arena::StreamingArena::new(2)?;
    /// let batch = stream.batch()?;
    /// stream.close();
    /// assert_eq!(stream.try_batch().unwrap_err().code(), "closed");
    /// batch.alloc(1); // goes on
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn close(&self) {
        self.ring.close();
    }

    /// Whether the stream was closed.
    pub fn is_closed(&self) -> bool {
        self.ring.is_closed()
    }

    /// Sets the most bytes that a buffer keeps for its next batch; four of the largest chunks
    /// ([`ArenaConfig::max_chunk_size`]) by default. Applies to buffers that come back from now on.
    ///
    /// Below what batches need, every batch takes from the allocator what is missing.
    pub fn set_keep(&self, bytes: ByteSize) {
        self.ring.set_keep(bytes.get());
    }

    /// The stream's figures.
    pub fn stats(&self) -> StreamStats {
        self.ring.stats()
    }
}

impl<A: Allocator + Send + 'static> StreamingArena<A> {
    /// Who gives back the memory of idle buffers, for a reclaim registry (which holds it weakly:
    /// it lasts as long as the stream).
    ///
    /// ```
    /// use std::sync::Arc;
    /// use nebula_arena::StreamingArena;
    /// use nebula_memory_core::{PressureLevel, ReclaimRegistry};
    ///
    /// let stream = StreamingArena::new(2)?;
    /// stream.batch()?.alloc([0_u8; 1000]);
    /// let registry = ReclaimRegistry::new();
    /// let _registration = registry.register("stream", 0, Arc::downgrade(&stream.reclaimer()));
    /// assert_eq!(registry.reclaim(1, PressureLevel::High).given, 4096);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn reclaimer(&self) -> Arc<dyn Reclaim> {
        Arc::clone(&self.ring) as Arc<dyn Reclaim>
    }
}

impl<A: Allocator + Send> Reclaim for StreamingArena<A> {
    /// What idle buffers hold.
    fn reclaimable(&self) -> usize {
        self.ring.reclaimable()
    }

    /// Gives back chunks of idle buffers, those first that were not used for longest; they can be
    /// lent all the while. What is missing is asked of buffers that retire later.
    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        self.ring.reclaim(wanted, urgency)
    }
}

impl<A: Allocator> MemoryUsage for StreamingArena<A> {
    /// [`StreamStats::allocated`].
    fn used(&self) -> usize {
        self.stats().allocated()
    }

    /// The configured capacity of all buffers.
    fn capacity(&self) -> Option<usize> {
        self.ring.capacity()
    }
}

impl<A: Allocator> Clone for StreamingArena<A> {
    fn clone(&self) -> Self {
        Self { ring: Arc::clone(&self.ring) }
    }
}

impl<A: Allocator> fmt::Debug for StreamingArena<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamingArena")
            .field("buffers", &self.ring.len())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
