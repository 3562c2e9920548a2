//! Places in a bump: marks that scopes go back to, and addresses that are checked before.

use std::num::NonZero;

use nebula_memory_core::Allocator;

use super::{Bump, NOWHERE};
use crate::{Direction, asan, chunk::Chunk};

/// A place in a [`Bump`] to come back to.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    /// `None`: the start, whichever chunk is the first then.
    current: Option<Chunk>,
    cursor: *mut u8,
    asides: Option<Chunk>,
}

/// What a [`Mark`] says, as numbers: nothing can be reached by it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    current: Option<NonZero<usize>>,
    /// Bytes in use in the current chunk.
    used: usize,
    aside: Option<NonZero<usize>>,
}

impl<D: Direction, const MIN_ALIGN: usize> Bump<D, MIN_ALIGN> {
    /// The present place.
    #[inline]
    pub(crate) fn mark(&self) -> Mark {
        let (current, asides) = (self.current.get(), self.asides.get());
        // An empty bump's first chunk may be given back before the mark is used.
        let current = current.filter(|_| !self.is_empty());
        Mark { current, cursor: self.cursor.get(), asides }
    }

    /// The present place, in numbers.
    pub(crate) fn address(&self) -> Address {
        let mark = self.mark();
        Address {
            current: mark.current.map(Chunk::addr),
            used: if mark.current.is_some() { self.used_in_current() } else { 0 },
            aside: mark.asides.map(Chunk::addr),
        }
    }

    /// The place at `address`, if it is at or before the present one. O(n) in the number of chunks
    /// that were used since.
    pub(crate) fn find(&self, address: Address) -> Option<Mark> {
        let older = |latest: Option<Chunk>, address: NonZero<usize>| {
            std::iter::successors(latest, |chunk| chunk.header().prev.get())
                .find(|chunk| chunk.addr() == address)
        };
        let asides = match address.aside {
            Some(address) => Some(older(self.asides.get(), address)?),
            None => None,
        };
        let Some(current) = address.current else {
            return Some(Mark { current: None, cursor: NOWHERE, asides });
        };
        let current = older(self.current.get(), current)?;
        let used = if self.current.get() == Some(current) {
            self.used_in_current()
        } else {
            current.header().used.get()
        };
        // The chunk may be another one than the place was taken in: whatever its address was then,
        // the cursor stays in it, and as aligned as it has to be.
        let fits = address.used <= used && address.used % MIN_ALIGN == 0;
        let cursor = Self::cursor_at(current, address.used);
        fits.then_some(Mark { current: Some(current), cursor, asides })
    }

    /// Goes back to `mark`. Chunks that were entered since become spare; those aside go back to the
    /// allocator.
    ///
    /// # Safety
    /// `mark` is a place of this bump at or before the present one, no block
    /// that was made since is used any more, and the allocator is the one of this bump's chunks.
    #[inline]
    pub(crate) unsafe fn rewind(&self, allocator: &impl Allocator, mark: Mark) {
        let current = self.current.get();
        let cursor = match mark.current {
            Some(_) if mark.current == current => mark.cursor,
            None if current.is_some() && current == self.first.get() => Self::start_of(current),
            // SAFETY: the caller's promises are the callee's.
            _ => return unsafe { self.rewind_far(allocator, mark) },
        };
        if self.asides.get() != mark.asides || cfg!(nebula_asan) {
            // SAFETY: as above.
            return unsafe { self.rewind_far(allocator, mark) };
        }
        self.note_high_water();
        self.cursor.set(cursor);
    }

    /// Where the cursor starts.
    #[inline]
    pub(super) fn start_of(chunk: Option<Chunk>) -> *mut u8 {
        chunk.map_or(NOWHERE, |chunk| Self::edges(chunk).0)
    }

    /// As [`rewind`](Self::rewind), across chunks.
    ///
    /// # Safety
    /// The same.
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn rewind_far(&self, allocator: &impl Allocator, mark: Mark) {
        self.note_high_water();
        if cfg!(nebula_asan) {
            self.forbid_from(mark);
        }
        match mark.current {
            Some(_) => {
                self.set_current(mark.current);
                self.cursor.set(mark.cursor);
            }
            None => self.start_over(),
        }
        while self.asides.get() != mark.asides {
            let Some(chunk) = self.asides.get() else { break };
            self.asides.set(chunk.header().prev.get());
            // SAFETY: the chunk has left the stack; its block is not used, as the caller promises.
            unsafe { self.give_back(allocator, chunk) };
        }
    }

    /// Forbids access to all that was made since `mark`.
    pub(super) fn forbid_from(&self, mark: Mark) {
        let mut chunk = self.current.get();
        while let Some(newer) = chunk.filter(|&newer| Some(newer) != mark.current) {
            newer.forbid();
            chunk = newer.header().prev.get();
        }
        if let Some(chunk) = mark.current {
            let (from, to) =
                if D::UPWARDS { (mark.cursor, chunk.end()) } else { (chunk.start(), mark.cursor) };
            asan::forbid(from, to.addr() - from.addr());
        }
    }

    /// The cursor in `chunk` when `used` bytes of it are in use.
    pub(super) fn cursor_at(chunk: Chunk, used: usize) -> *mut u8 {
        let (edge, _) = Self::edges(chunk);
        if D::UPWARDS { edge.wrapping_add(used) } else { edge.wrapping_sub(used) }
    }
}
