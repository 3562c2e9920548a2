//! A buffer of a stream while it is in use.

use std::{
    fmt,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{self, NonNull},
};

use nebula_memory_core::{Allocator, Global, MemoryError, Refused, sync::Arc};

use crate::{
    Arena, CrossThreadArena, Family, Scope, StreamingArena,
    owner::{ArenaOwner, Sealed},
    ring::Ring,
};

/// An arena that a [`StreamingArena`] has lent: allocate in it, send it on, and drop it, in any
/// order with others. All that lies in it is freed then, and its memory is used for another batch.
///
/// It derefs to its [`Arena`]. What is allocated borrows the batch; to send a batch together with
/// what was made in it, [`build`](Self::build) it.
///
/// ```
/// let stream = nebula_arena::StreamingArena::new(2)?;
/// let mut batch = stream.batch()?;
/// let numbers = batch.alloc_slice_with(100, |i| i * i);
/// assert_eq!(numbers[9], 81);
/// batch.scope(|scratch| {
///     scratch.alloc_str("given back at the end of the scope");
/// });
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// What was allocated does not outlive the batch:
/// ```compile_fail,E0505
/// let stream = nebula_arena::StreamingArena::new(2).unwrap();
/// let batch = stream.batch().unwrap();
/// let one = batch.alloc(1);
/// drop(batch);
/// *one += 1;
/// ```
/// An arena is for one thread at a time:
/// ```compile_fail,E0277
/// let stream = nebula_arena::StreamingArena::new(2).unwrap();
/// let batch = stream.batch().unwrap();
/// std::thread::scope(|s| {
///     s.spawn(|| batch.alloc(1));
/// });
/// ```
#[must_use = "dropping a batch retires it"]
pub struct Batch<A: Allocator = Global> {
    ring: Arc<Ring<A>>,
    index: u32,
    /// Of the buffer; it stays there as long as the ring.
    arena: NonNull<Arena<A>>,
    /// What the buffer held when it was lent, in bytes.
    lent: usize,
    /// As `Send` as the arena, and no more `Sync`.
    owns: PhantomData<Arena<A>>,
}

// SAFETY: the arena is the batch's alone, and the ring may be sent and shared.
unsafe impl<A: Allocator + Send> Send for Batch<A> {}

/// A batch with a root that borrows from it, as one value: [`Batch::build`].
pub type SealedBatch<F, A = Global> = CrossThreadArena<F, A, Batch<A>>;

impl<A: Allocator> Batch<A> {
    /// A batch of a buffer.
    ///
    /// # Safety
    /// The buffer is the caller's, who gives it up; the arena is its.
    pub(crate) unsafe fn lend(
        ring: Arc<Ring<A>>,
        index: u32,
        arena: NonNull<Arena<A>>,
        lent: usize,
    ) -> Self {
        Self { ring, index, arena, lent, owns: PhantomData }
    }

    /// The buffer, which is the caller's then, and what it held when it was lent.
    pub(crate) fn forget(self) -> (u32, usize) {
        let this = ManuallyDrop::new(self);
        // SAFETY: the handle is read once: the batch is forgotten.
        drop(unsafe { ptr::read(&raw const this.ring) });
        (this.index, this.lent)
    }

    fn arena_mut(&mut self) -> &mut Arena<A> {
        // SAFETY: the buffer lives as long as the ring, and is lent to this batch alone, which is
        // borrowed uniquely.
        unsafe { self.arena.as_mut() }
    }

    /// Frees all that was allocated in the batch; its chunks are kept as the configuration says.
    pub fn reset(&mut self) {
        self.arena_mut().reset();
    }

    /// The arena as a scope, for values that are to live while scopes inside are opened:
    /// [`Arena::as_scope`].
    pub fn as_scope(&mut self) -> Scope<'_, A> {
        self.arena_mut().as_scope()
    }

    /// Runs `body` with a scope whose values are given back at its end: [`Arena::scope`].
    pub fn scope<R>(&mut self, body: impl FnOnce(&mut Scope<'_, A>) -> R) -> R {
        self.arena_mut().scope(body)
    }

    /// The stream that the batch is one of.
    pub fn stream(&self) -> StreamingArena<A> {
        StreamingArena::of(Arc::clone(&self.ring))
    }

    /// Makes a root in the batch: both together can be sent to another thread, or frozen and shared.
    /// The batch retires when they are dropped. Takes no memory but from the batch.
    ///
    /// # Errors
    /// The batch is handed back if there is no room for the root; `build` is not called then.
    ///
    /// # Panics
    /// If `build` does; the batch retires then.
    ///
    /// ```
    /// use std::{sync::mpsc, thread};
    /// use nebula_arena::{Family, SealedBatch, StreamingArena};
    /// use nebula_memory_core::MemoryError;
    ///
    /// struct Words;
    /// impl Family for Words {
    ///     type Of<'a> = &'a [&'a str];
    /// }
    /// let stream = StreamingArena::new(2)?;
    /// let (sender, receiver) = mpsc::sync_channel::<SealedBatch<Words>>(2);
    /// let consumer = thread::spawn(move || {
    ///     receiver.iter().map(|batch| batch.with(|words| words.len())).sum::<usize>()
    /// });
    /// for line in ["to be or not", "to be", "that is the question"] {
    ///     let batch = stream.batch()?.build::<Words>(|arena| {
    ///         arena.alloc_slice_from_iter(line.split(' ').map(|word| &*arena.alloc_str(word)))
    ///     })?;
    ///     sender.send(batch).unwrap();
    /// }
    /// drop(sender);
    /// assert_eq!(consumer.join().unwrap(), 10);
    /// # Ok::<(), MemoryError>(())
    /// ```
    pub fn build<F: Family>(
        self,
        build: impl for<'a> FnOnce(&'a Arena<A>) -> F::Of<'a>,
    ) -> Result<SealedBatch<F, A>, Refused<Self>> {
        CrossThreadArena::try_seat(self, |arena| Ok(build(arena)))
            .map_err(|(batch, error)| Refused::new(batch, error))
    }

    /// As [`build`](Self::build), for a root that may fail to be made.
    ///
    /// # Errors
    /// What `build` returns, or the arena's refusal; the batch retires then.
    pub fn try_build<F: Family, E: From<MemoryError>>(
        self,
        build: impl for<'a> FnOnce(&'a Arena<A>) -> Result<F::Of<'a>, E>,
    ) -> Result<SealedBatch<F, A>, E> {
        CrossThreadArena::try_seat(self, build).map_err(|(_, error)| error)
    }
}

impl<F: Family, A: Allocator> CrossThreadArena<F, A, Batch<A>> {
    /// Drops the root, and returns the batch: to be reset, and used again.
    pub fn into_batch(self) -> Batch<A> {
        self.into_owner()
    }
}

impl<A: Allocator> Deref for Batch<A> {
    type Target = Arena<A>;

    #[inline(always)]
    fn deref(&self) -> &Arena<A> {
        // SAFETY: the buffer lives as long as the ring, and is lent to this batch alone.
        unsafe { self.arena.as_ref() }
    }
}

impl<A: Allocator> Sealed for Batch<A> {}

// SAFETY: a ring's buffers stay where they are; this one is the batch's until that is dropped, and
// it is reset through `&mut` alone.
unsafe impl<A: Allocator> ArenaOwner<A> for Batch<A> {
    fn arena(&self) -> &Arena<A> {
        self
    }
}

/// Gives a buffer back when it is dropped: also if cleaning it panicked.
struct Returning<'b, A: Allocator>(&'b Batch<A>);

impl<A: Allocator> Drop for Returning<'_, A> {
    fn drop(&mut self) {
        let batch = self.0;
        // SAFETY: the buffer was lent to the batch, which is being dropped.
        unsafe { batch.ring.come_back(batch.index, batch.lent) };
    }
}

impl<A: Allocator> Drop for Batch<A> {
    fn drop(&mut self) {
        let returning = Returning(self);
        // SAFETY: the buffer is lent to this batch, and nothing borrows it any more.
        unsafe { returning.0.ring.clean(returning.0.index) };
    }
}

impl<A: Allocator> fmt::Debug for Batch<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("buffer", &self.index)
            .field("arena", &**self)
            .finish_non_exhaustive()
    }
}
