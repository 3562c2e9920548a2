//! Chunks that no thread uses at the moment, for whichever needs one next.

use nebula_memory_core::{
    Allocator,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::chunk::Chunk;

/// A stack of chunks, linked by `next`.
struct Stack(Option<Chunk>);

// SAFETY: the chunks in the stack are its own: nobody else uses them, and they may be used and
// given back by any thread that their allocator may be used by.
unsafe impl Send for Stack {}

/// Spare chunks that all threads share.
pub(crate) struct Spares {
    stack: Mutex<Stack>,
    /// Their bytes. Written under the lock; read without it, as an estimate.
    bytes: AtomicUsize,
}

impl Spares {
    pub(crate) fn new() -> Self {
        Self { stack: Mutex::new(Stack(None)), bytes: AtomicUsize::new(0) }
    }

    /// The sum of their sizes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// How many there are.
    pub(crate) fn count(&mut self) -> usize {
        let next = |chunk: &Chunk| chunk.header().next.get();
        std::iter::successors(self.stack.get_mut().0, next).count()
    }

    /// Puts a chunk here that is in no list and holds nothing.
    pub(crate) fn push(&self, chunk: Chunk) {
        let mut stack = self.stack.lock();
        chunk.header().next.set(stack.0.replace(chunk));
        self.bytes.store(self.bytes() + chunk.size(), Relaxed);
    }

    /// Takes the first chunk of at least `smallest` bytes. O(n) in the number of chunks, where the
    /// first ones are too small.
    pub(crate) fn take(&self, smallest: usize) -> Option<Chunk> {
        if self.bytes() == 0 {
            return None;
        }
        self.take_from(&mut self.stack.lock(), smallest)
    }

    fn take_from(&self, stack: &mut Stack, smallest: usize) -> Option<Chunk> {
        let mut before: Option<Chunk> = None;
        let mut next = stack.0;
        while let Some(chunk) = next {
            let behind = chunk.header().next.get();
            if chunk.size() >= smallest {
                match before {
                    Some(before) => before.header().next.set(behind),
                    None => stack.0 = behind,
                }
                chunk.header().next.set(None);
                self.bytes.store(self.bytes() - chunk.size(), Relaxed);
                return Some(chunk);
            }
            before = next;
            next = behind;
        }
        None
    }

    /// Takes any chunk, unless another thread holds the lock.
    fn try_take(&self) -> Option<Chunk> {
        self.take_from(&mut *self.stack.try_lock()?, 0)
    }

    /// Gives chunks back until that is at least `wanted` bytes, or none is left; or, if that is not
    /// to `wait`, where another thread holds the lock. Returns how many bytes they were. No lock is
    /// held meanwhile.
    ///
    /// # Safety
    /// The allocator is the one of all chunks here.
    pub(crate) unsafe fn give_back(
        &self,
        allocator: &impl Allocator,
        wanted: usize,
        wait: bool,
    ) -> usize {
        let mut given = 0;
        while given < wanted {
            let taken = if wait { self.take(0) } else { self.try_take() };
            let Some(chunk) = taken else { break };
            given += chunk.size();
            // SAFETY: the chunk came from this allocator, as the caller promises; it is in no list
            // any more, and holds nothing.
            unsafe { chunk.give_back(allocator) };
        }
        given
    }
}
