//! Chunks that are not in use: which are kept for later, which are given back, and when.

use nebula_memory_core::Allocator;

use super::Bump;
use crate::{Direction, Keep, chunk::Chunk};

impl<D: Direction, const MIN_ALIGN: usize> Bump<D, MIN_ALIGN> {
    /// The first spare chunk of at least `smallest` bytes, taken out of the list.
    pub(super) fn take_spare(&self, smallest: usize) -> Option<Chunk> {
        let mut next = self.first_spare();
        while let Some(chunk) = next {
            if chunk.size() >= smallest {
                self.unlink(chunk);
                return Some(chunk);
            }
            next = chunk.header().next.get();
        }
        None
    }

    /// Takes in a chunk that is in no list, as a spare one. It came from the allocator of this
    /// bump's chunks.
    pub(crate) fn adopt(&self, chunk: Chunk) {
        self.bytes.set(self.bytes.get() + chunk.size());
        self.count.set(self.count.get() + 1);
        self.link(chunk, self.last.get());
    }

    /// Lets a spare chunk go, which is in no list then.
    pub(crate) fn disown(&self) -> Option<Chunk> {
        self.let_go_of_what_is_empty();
        let chunk = self.first_spare()?;
        self.unlink(chunk);
        self.bytes.set(self.bytes.get() - chunk.size());
        self.count.set(self.count.get() - 1);
        Some(chunk)
    }

    /// Goes to the start of the first chunk, if there is one: nothing is in use then. The last one
    /// of the series, most often the largest, comes first from now on.
    pub(super) fn start_over(&self) {
        if let (Some(first), Some(last)) = (self.first.get(), self.last.get()) {
            // One that was made for a large block stays for such.
            if first.size() < last.size() && last.size() <= self.next_size.get() {
                self.unlink(last);
                self.link(last, None);
            }
        }
        let first = self.first.get();
        if let Some(first) = first {
            first.header().used_before.set(0);
            first.header().size_before.set(0);
        }
        self.set_current(first);
    }

    /// Makes the current chunk a spare one if nothing is in use. (No mark leads there: those of an
    /// empty bump name no chunk.)
    pub(super) fn let_go_of_what_is_empty(&self) {
        if self.current.get().is_some() && self.is_empty() {
            self.set_current(None);
        }
    }

    /// Gives a chunk back that is in no list.
    ///
    /// # Safety
    /// The chunk came from this allocator, and nobody uses it or what lay in it.
    pub(super) unsafe fn give_back(&self, allocator: &impl Allocator, chunk: Chunk) {
        self.bytes.set(self.bytes.get() - chunk.size());
        self.count.set(self.count.get() - 1);
        // SAFETY: the caller's promises are the callee's; the chunk is in no list.
        unsafe { chunk.give_back(allocator) };
    }

    /// Gives spare chunks back until no more than `bytes` are held, or none is left that could go.
    ///
    /// # Safety
    /// The allocator is the one of this bump's chunks.
    pub(crate) unsafe fn shrink_to(&self, allocator: &impl Allocator, bytes: usize) {
        while self.bytes.get() > bytes {
            self.let_go_of_what_is_empty();
            // The largest is at one of the ends, most often.
            let Some((first, last)) = self.first_spare().zip(self.last.get()) else { break };
            let chunk = if first.size() > last.size() { first } else { last };
            self.unlink(chunk);
            // SAFETY: a spare chunk holds nothing that is used.
            unsafe { self.give_back(allocator, chunk) };
        }
        if self.current.get().is_none() {
            self.start_over();
        }
    }

    /// Frees all blocks at once; `keep` says which chunks stay.
    ///
    /// # Safety
    /// No block is used any more, and the allocator is the one of this bump's chunks.
    pub(crate) unsafe fn reset(&mut self, allocator: &impl Allocator, keep: Keep) {
        self.clear(keep);
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.settle(allocator, keep) };
    }

    /// Frees all blocks at once, and calls nobody: all chunks are spare, the one to keep first.
    pub(crate) fn clear(&mut self, keep: Keep) {
        self.note_high_water();
        let last = self.current.get().or(self.asides.get());
        self.all_are_spare();
        if let (Keep::Last, Some(last)) = (keep, last) {
            self.unlink(last);
            self.link(last, None);
        }
    }

    /// Gives back, after [`clear`](Self::clear), the chunks that are not to be kept.
    ///
    /// # Safety
    /// The allocator is the one of this bump's chunks.
    pub(crate) unsafe fn settle(&mut self, allocator: &impl Allocator, keep: Keep) {
        if let (Keep::Last, Some(first)) = (keep, self.first.get()) {
            while let Some(chunk) = first.header().next.get() {
                self.unlink(chunk);
                // SAFETY: a spare chunk holds nothing that is used; it is in no list.
                unsafe { self.give_back(allocator, chunk) };
            }
        }
        if keep == Keep::Nothing {
            self.next_size.set(0);
            // SAFETY: the caller's promise.
            unsafe { self.shrink_to(allocator, 0) };
        }
        self.start_over();
    }

    /// Makes all chunks spare, those aside behind the others.
    pub(super) fn all_are_spare(&mut self) {
        self.set_current(None);
        if cfg!(nebula_asan) {
            let mut next = self.first.get();
            while let Some(chunk) = next {
                chunk.forbid();
                next = chunk.header().next.get();
            }
        }
        while let Some(chunk) = self.asides.get() {
            self.asides.set(chunk.header().prev.get());
            chunk.forbid();
            self.link(chunk, self.last.get());
        }
    }

    /// Gives all chunks back.
    ///
    /// # Safety
    /// As [`reset`](Self::reset).
    pub(crate) unsafe fn release(&mut self, allocator: &impl Allocator) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.reset(allocator, Keep::Nothing) };
    }
}
