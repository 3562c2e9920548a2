//! What all handles and batches of a stream share: the buffers, who has which, and the line.

use std::ptr::NonNull;

use nebula_memory_core::{
    Allocator, MemoryError, PressureLevel, Reclaim, TrimRequest, WaitQueue,
    allocator_api2::vec::Vec,
    last_refusal,
    panics::quietly,
    sync::{
        Arc, Mutex, UnsafeCell,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{Arena, ArenaConfig, Batch, Keep, StreamStats, chunk::Chunk};

/// The name under which a closed stream reports itself.
const WHAT: &str = "streaming arena";

/// How many of the largest chunks an idle buffer keeps, unless told otherwise.
const KEPT_CHUNKS: usize = 4;

/// The buffers of a stream.
///
/// A buffer is idle (its index is in the books, and who holds the lock may touch it) or lent (a
/// [`Batch`] has it, and nobody else touches it).
pub(crate) struct Ring<A: Allocator> {
    buffers: Vec<Buffer<A>, A>,
    books: Mutex<Books<A>>,
    line: WaitQueue<Batch<A>>,
    /// What others wanted back and no idle buffer had: for those that come back.
    request: TrimRequest,
    closed: AtomicBool,
    /// The most bytes that an idle buffer keeps.
    keep: AtomicUsize,
    /// As in the books, for who must not wait for them.
    idle_bytes: AtomicUsize,
    batches: AtomicU64,
    waits: AtomicU64,
    refused: AtomicU64,
    /// The same allocator as that of the buffers, to free what was taken from idle ones.
    freeing: Mutex<A>,
    capacity: Option<usize>,
}

// SAFETY: an arena is touched by one thread at a time: by who has the batch, or holds the lock of
// the books while it is idle. So it only has to be `Send`, for which its allocator does.
unsafe impl<A: Allocator + Send> Send for Ring<A> {}
// SAFETY: as above.
unsafe impl<A: Allocator + Send> Sync for Ring<A> {}

struct Buffer<A: Allocator>(UnsafeCell<Arena<A>>);

struct Books<A: Allocator> {
    /// Indices of idle buffers: the one that came back last is lent first. As large as it gets from
    /// the start.
    idle: Vec<u32, A>,
    /// What idle buffers hold.
    idle_bytes: usize,
    /// What the others held when they were lent.
    lent_bytes: usize,
}

impl<A: Allocator + Clone> Ring<A> {
    /// `config` is valid.
    pub(crate) fn new(
        buffers: usize,
        config: &ArenaConfig,
        allocator: &A,
    ) -> Result<Self, MemoryError> {
        let count = u32::try_from(buffers).ok().filter(|&count| count > 0).ok_or_else(|| {
            MemoryError::invalid_config("buffers", buffers, "must be from 1 to 2^32 - 1")
        })?;
        let mut list = table(buffers, allocator)?;
        list.extend(
            (0..count).map(|_| {
                Buffer(UnsafeCell::new(Arena::unchecked(config.clone(), allocator.clone())))
            }),
        );
        let mut idle = table(buffers, allocator)?;
        // The first one is lent first.
        idle.extend((0..count).rev());
        let keep = config.max_chunk_size.get().saturating_mul(KEPT_CHUNKS);
        Ok(Self {
            buffers: list,
            books: Mutex::new(Books { idle, idle_bytes: 0, lent_bytes: 0 }),
            line: WaitQueue::new(),
            request: TrimRequest::new(),
            closed: AtomicBool::new(false),
            keep: AtomicUsize::new(keep),
            idle_bytes: AtomicUsize::new(0),
            batches: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            freeing: Mutex::new(allocator.clone()),
            capacity: config.capacity.map(|bytes| bytes.get().saturating_mul(buffers)),
        })
    }
}

/// An empty vector with room for exactly `len` values.
fn table<T, A: Allocator + Clone>(len: usize, allocator: &A) -> Result<Vec<T, A>, MemoryError> {
    let mut table = Vec::new_in(allocator.clone());
    table.try_reserve_exact(len).map_err(|_| {
        last_refusal().unwrap_or(MemoryError::InvalidLayout {
            size: size_of::<T>().saturating_mul(len),
            align: align_of::<T>(),
        })
    })?;
    Ok(table)
}

impl<A: Allocator> Ring<A> {
    /// Calls `f` with the arena of buffer `index`.
    ///
    /// # Safety
    /// The buffer is lent to the caller, or idle while the caller holds the lock of the books.
    unsafe fn with_arena<R>(&self, index: u32, f: impl FnOnce(&mut Arena<A>) -> R) -> R {
        self.buffers[index as usize].0.with_mut(|arena| {
            // SAFETY: the pointer is to a live arena, and nobody else touches it.
            f(unsafe { &mut *arena })
        })
    }

    /// The arena of a buffer.
    fn arena(&self, index: u32) -> NonNull<Arena<A>> {
        self.buffers[index as usize].0.with_mut(|arena| {
            // SAFETY: the address of a cell in a vector is not null.
            unsafe { NonNull::new_unchecked(arena) }
        })
    }

    /// Lends an idle buffer, if there is one.
    fn take(self: &Arc<Self>) -> Result<Option<Batch<A>>, MemoryError> {
        let mut books = self.books.lock();
        self.check_open()?;
        let Some(index) = books.idle.pop() else { return Ok(None) };
        // SAFETY: it was idle until now, and is ours.
        let bytes = unsafe { self.with_arena(index, |arena| arena.allocated_bytes()) };
        books.idle_bytes -= bytes;
        books.lent_bytes += bytes;
        self.idle_bytes.store(books.idle_bytes, Relaxed);
        drop(books);
        // SAFETY: the buffer is not idle any more, and was lent to nobody.
        Ok(Some(unsafe { Batch::lend(Arc::clone(self), index, self.arena(index), bytes) }))
    }

    fn check_open(&self) -> Result<(), MemoryError> {
        if self.closed.load(Relaxed) {
            return Err(MemoryError::Closed { what: WHAT });
        }
        Ok(())
    }

    /// Lends an idle buffer to who asks now, but not before those who wait.
    pub(crate) fn try_lend(self: &Arc<Self>) -> Result<Option<Batch<A>>, MemoryError> {
        if !self.line.is_empty() {
            self.serve();
        }
        let batch = self.take()?;
        if batch.is_some() {
            self.batches.fetch_add(1, Relaxed);
        }
        Ok(batch)
    }

    pub(crate) fn exhausted(&self) -> MemoryError {
        self.refused.fetch_add(1, Relaxed);
        let capacity = self.buffers.len();
        MemoryError::PoolExhausted { in_use: capacity, capacity }
    }

    /// Takes a place in line. What became idle meanwhile goes to who stands first.
    pub(crate) fn join(self: &Arc<Self>) -> nebula_memory_core::Waiter<'_, Batch<A>> {
        let waiter = self.line.join(0);
        self.waits.fetch_add(1, Relaxed);
        self.serve();
        waiter
    }

    /// Counts a batch that was waited for.
    pub(crate) fn note_served(&self) {
        self.batches.fetch_add(1, Relaxed);
    }

    /// Hands idle buffers to those who wait.
    fn serve(self: &Arc<Self>) {
        while self.line.has_waiters() {
            let Ok(Some(batch)) = self.take() else { return };
            // A waker that panics has been served all the same; the others are still in line.
            if let Some(Err(batch)) = quietly(|| self.line.hand(batch)) {
                let (index, lent) = batch.forget();
                self.put_back(index, lent);
            }
        }
    }

    /// Empties a lent buffer, and keeps of its memory what is to be kept.
    ///
    /// # Safety
    /// The buffer is lent to the caller, and nothing in it is used any more.
    pub(crate) unsafe fn clean(&self, index: u32) {
        let keep = if self.closed.load(Relaxed) { 0 } else { self.keep.load(Relaxed) };
        let wanted = self.request.take().map_or(0, |order| order.bytes);
        // SAFETY: the caller's promise.
        unsafe {
            self.with_arena(index, |arena| {
                arena.reset();
                arena.shrink_to(keep.min(arena.allocated_bytes().saturating_sub(wanted)));
            });
        }
    }

    /// A clean buffer comes back that held `lent` bytes when it was lent: it goes to who stands
    /// first in line, or is idle.
    ///
    /// # Safety
    /// It was lent to the caller, who gives it up.
    pub(crate) unsafe fn come_back(self: &Arc<Self>, index: u32, lent: usize) {
        if self.line.has_waiters() {
            // SAFETY: the buffer is the caller's until it is given up here.
            let batch = unsafe { Batch::lend(Arc::clone(self), index, self.arena(index), lent) };
            match quietly(|| self.line.hand(batch)) {
                // A waker that panics has been served all the same.
                Some(Ok(())) | None => return,
                // Nobody waits any more.
                Some(Err(batch)) => _ = batch.forget(),
            }
        }
        self.put_back(index, lent);
        self.serve();
    }

    /// Makes a lent buffer idle.
    fn put_back(&self, index: u32, lent: usize) {
        loop {
            // SAFETY: the buffer is lent to the caller, who gives it up.
            let bytes = unsafe { self.with_arena(index, |arena| arena.allocated_bytes()) };
            let mut books = self.books.lock();
            if bytes == 0 || !self.closed.load(Relaxed) {
                books.lent_bytes -= lent;
                books.idle_bytes += bytes;
                self.idle_bytes.store(books.idle_bytes, Relaxed);
                // There is room for all.
                books.idle.push(index);
                return;
            }
            drop(books);
            // Closed meanwhile. Nothing in it is used.
            // SAFETY: as above.
            unsafe { self.with_arena(index, |arena| arena.reset_keeping(Keep::Nothing)) };
        }
    }

    /// Ends it: no batch is lent any more, and idle buffers are emptied.
    pub(crate) fn close(&self) {
        {
            // Under the lock, so that what is put back sees it, or is seen here.
            let _books = self.books.lock();
            self.closed.store(true, Relaxed);
        }
        quietly(|| self.line.close(WHAT));
        // Nobody takes idle buffers from now on: they can be emptied one after the other, without
        // the lock, and by their own allocators.
        for _ in 0..self.buffers.len() {
            let mut books = self.books.lock();
            // SAFETY: idle, and the lock is held.
            let holds = |&index: &u32| unsafe {
                self.with_arena(index, |arena| arena.allocated_bytes()) != 0
            };
            let Some(at) = books.idle.iter().position(holds) else { break };
            let index = books.idle.swap_remove(at);
            // SAFETY: it is ours now.
            let bytes = unsafe { self.with_arena(index, |arena| arena.allocated_bytes()) };
            books.idle_bytes -= bytes;
            books.lent_bytes += bytes;
            self.idle_bytes.store(books.idle_bytes, Relaxed);
            drop(books);
            self.put_back(index, bytes);
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    pub(crate) fn len(&self) -> usize {
        self.buffers.len()
    }

    pub(crate) const fn capacity(&self) -> Option<usize> {
        self.capacity
    }

    pub(crate) fn set_keep(&self, bytes: usize) {
        self.keep.store(bytes, Relaxed);
    }

    pub(crate) fn stats(&self) -> StreamStats {
        let (idle, idle_bytes, lent_bytes) = {
            let books = self.books.lock();
            (books.idle.len(), books.idle_bytes, books.lent_bytes)
        };
        StreamStats {
            buffers: self.buffers.len(),
            in_flight: self.buffers.len() - idle,
            waiting: self.line.len(),
            batches: self.batches.load(Relaxed),
            waits: self.waits.load(Relaxed),
            refused: self.refused.load(Relaxed),
            idle_bytes,
            lent_bytes,
            overhead: self.buffers.capacity() * size_of::<Buffer<A>>()
                + self.buffers.len() * size_of::<u32>(),
        }
    }
}

impl<A: Allocator + Send> Reclaim for Ring<A> {
    fn reclaimable(&self) -> usize {
        self.idle_bytes.load(Relaxed)
    }

    /// Gives back chunks of idle buffers, those first that were not used for longest. They stay
    /// idle, and can be lent, all the while. What is missing is asked of those that come back next.
    fn reclaim(&self, wanted: usize, _urgency: PressureLevel) -> usize {
        // One at a time; so the allocator is used by one thread at a time.
        let Some(freeing) = self.freeing.try_lock() else { return 0 };
        let mut given = 0;
        while given < wanted {
            let Some(chunks) = self.take_idle_chunks(wanted - given) else { break };
            for chunk in chunks {
                given += chunk.size();
                // SAFETY: the chunk came from a clone of this allocator, which is the same
                // allocator; it is in no list, and held nothing that was used.
                unsafe { chunk.give_back(&*freeing) };
            }
        }
        drop(freeing);
        if given < wanted {
            self.request.reclaim(wanted - given, PressureLevel::Normal);
        }
        given
    }
}

/// Chunks in no list, linked by `next`.
struct Chunks(Option<Chunk>);

impl Iterator for Chunks {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        let chunk = self.0?;
        self.0 = chunk.header().next.take();
        Some(chunk)
    }
}

impl<A: Allocator> Ring<A> {
    /// Takes at least `wanted` bytes out of the idle buffer that was not used for longest and has
    /// any, or all that it has. `None` if no idle buffer has any, or somebody else holds the lock.
    fn take_idle_chunks(&self, wanted: usize) -> Option<Chunks> {
        let mut books = self.books.try_lock()?;
        let mut chunks = Chunks(None);
        let mut taken = 0;
        for at in 0..books.idle.len() {
            let index = books.idle[at];
            // SAFETY: idle, and the lock is held.
            unsafe {
                self.with_arena(index, |arena| {
                    while taken < wanted {
                        let Some(chunk) = arena.bump().disown() else { break };
                        taken += chunk.size();
                        chunk.header().next.set(chunks.0.replace(chunk));
                    }
                });
            }
            if taken > 0 {
                break;
            }
        }
        books.idle_bytes -= taken;
        self.idle_bytes.store(books.idle_bytes, Relaxed);
        (taken > 0).then_some(chunks)
    }
}
