//! Where entries live: slots in chunks of one size, addressed by 4-byte tokens.
//!
//! Chunks never move and never double, so that the slab's memory is charged chunk by chunk and a
//! growth copies no entries. Nothing here knows what an entry is; memory is allocated by the caller,
//! outside its locks, and handed in.

use std::collections::TryReserveError;

/// The token of no slot.
pub(crate) const NONE: u32 = u32::MAX;

/// A slot is as large as its entry where the entry has a niche (policies tag their queues with
/// enums, which leaves one).
#[derive(Debug)]
pub(crate) enum Slot<E> {
    /// Free; the next free slot, or [`NONE`].
    Vacant(u32),
    Occupied(E),
}

/// One allocation of slots.
pub(crate) type Chunk<E> = Box<[Slot<E>]>;

/// The list of chunks, itself an allocation.
pub(crate) type Spine<E> = Vec<Chunk<E>>;

#[derive(Debug)]
pub(crate) struct Slab<E> {
    spine: Spine<E>,
    /// A chunk has `1 << shift` slots.
    shift: u32,
    /// Head of the list of free slots, or [`NONE`].
    free: u32,
    len: usize,
}

impl<E> Slab<E> {
    /// An empty slab, nothing allocated, whose chunks will have `1 << shift` slots.
    pub(crate) const fn new(shift: u32) -> Self {
        Self { spine: Vec::new(), shift, free: NONE, len: 0 }
    }

    pub(crate) const fn shift(&self) -> u32 {
        self.shift
    }

    pub(crate) const fn chunk_slots(&self) -> usize {
        1 << self.shift
    }

    pub(crate) const fn chunk_bytes(&self) -> usize {
        self.chunk_slots() * size_of::<Slot<E>>()
    }

    pub(crate) const fn spine_bytes(capacity: usize) -> usize {
        capacity * size_of::<Chunk<E>>()
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Slots in all chunks.
    pub(crate) fn slots(&self) -> usize {
        self.spine.len() << self.shift
    }

    pub(crate) fn vacant(&self) -> usize {
        self.slots() - self.len
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.free == NONE
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        self.spine.len() * self.chunk_bytes() + Self::spine_bytes(self.spine.capacity())
    }

    /// The capacity that the spine needs before a chunk can be added, if it has no room.
    pub(crate) fn wanted_spine(&self) -> Option<usize> {
        let full = self.spine.len() == self.spine.capacity();
        full.then(|| (self.spine.capacity() * 2).max(4))
    }

    /// Whether another chunk would have tokens.
    pub(crate) fn has_tokens(&self) -> bool {
        self.slots() + self.chunk_slots() <= NONE as usize
    }

    #[inline]
    const fn place(&self, token: u32) -> (usize, usize) {
        ((token >> self.shift) as usize, (token & ((1 << self.shift) - 1)) as usize)
    }

    #[inline]
    fn slot(&self, token: u32) -> &Slot<E> {
        let (chunk, index) = self.place(token);
        &self.spine[chunk][index]
    }

    #[inline]
    fn slot_mut(&mut self, token: u32) -> &mut Slot<E> {
        let (chunk, index) = self.place(token);
        &mut self.spine[chunk][index]
    }

    /// The entry of `token`, if that slot exists and is taken.
    pub(crate) fn try_get(&self, token: u32) -> Option<&E> {
        let (chunk, index) = self.place(token);
        match self.spine.get(chunk)?.get(index)? {
            Slot::Occupied(entry) => Some(entry),
            Slot::Vacant(_) => None,
        }
    }

    /// The entry of `token`, which must be taken.
    #[inline]
    pub(crate) fn get(&self, token: u32) -> &E {
        match self.slot(token) {
            Slot::Occupied(entry) => entry,
            Slot::Vacant(_) => vacant(),
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, token: u32) -> &mut E {
        match self.slot_mut(token) {
            Slot::Occupied(entry) => entry,
            Slot::Vacant(_) => vacant(),
        }
    }

    /// Puts `entry` into a free slot.
    ///
    /// The slab must not be full.
    #[inline]
    pub(crate) fn insert(&mut self, entry: E) -> u32 {
        let token = self.free;
        let slot = self.slot_mut(token);
        let Slot::Vacant(next) = *slot else { vacant() };
        *slot = Slot::Occupied(entry);
        self.free = next;
        self.len += 1;
        token
    }

    /// Takes the entry of `token`, which must be taken, and frees its slot.
    #[inline]
    pub(crate) fn remove(&mut self, token: u32) -> E {
        let free = self.free;
        match std::mem::replace(self.slot_mut(token), Slot::Vacant(free)) {
            Slot::Occupied(entry) => {
                self.free = token;
                self.len -= 1;
                entry
            }
            Slot::Vacant(_) => vacant(),
        }
    }

    /// The first token from `from` on that is taken.
    pub(crate) fn next_occupied(&self, from: u32) -> Option<u32> {
        let mut token = from;
        while (token as usize) < self.slots() {
            if matches!(self.slot(token), Slot::Occupied(_)) {
                return Some(token);
            }
            token += 1;
        }
        None
    }

    /// Memory for one chunk.
    pub(crate) fn allocate_chunk(shift: u32) -> Result<Chunk<E>, TryReserveError> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(1 << shift)?;
        slots.extend((0..1 << shift).map(|_| Slot::Vacant(NONE)));
        Ok(slots.into_boxed_slice())
    }

    /// Memory for a spine of `capacity` chunks.
    pub(crate) fn allocate_spine(capacity: usize) -> Result<Spine<E>, TryReserveError> {
        let mut spine = Vec::new();
        spine.try_reserve_exact(capacity)?;
        Ok(spine)
    }

    /// Moves the chunks into `spine` if that has more room; leaves the spine that is not used.
    pub(crate) fn adopt_spine(&mut self, spine: &mut Spine<E>) {
        if spine.capacity() > self.spine.capacity() {
            spine.append(&mut self.spine);
            std::mem::swap(spine, &mut self.spine);
        }
    }

    /// Adds `chunk`; handed back if there is no room in the spine or no need for it.
    pub(crate) fn adopt_chunk(&mut self, mut chunk: Chunk<E>) -> Option<Chunk<E>> {
        if !self.is_full() || self.wanted_spine().is_some() || !self.has_tokens() {
            return Some(chunk);
        }
        let first = self.slots();
        let mut next = self.free;
        for (index, slot) in chunk.iter_mut().enumerate().rev() {
            *slot = Slot::Vacant(next);
            next = token_of(first + index);
        }
        self.free = next;
        self.spine.push(chunk);
        None
    }

    /// How many chunks could be freed if entries moved together.
    pub(crate) fn spare_chunks(&self) -> usize {
        self.vacant() >> self.shift
    }

    /// Frees the last `chunks` chunks, of which every entry has to be moved out first: calls
    /// `moved(slab, from, to)` after each move. Takes O(slots).
    pub(crate) fn shrink(&mut self, chunks: usize, mut moved: impl FnMut(&mut Self, u32, u32)) {
        let keep = (self.spine.len() - chunks) << self.shift;
        let mut hole = 0;
        let mut from = token_of(keep);
        while let Some(token) = self.next_occupied(from) {
            while matches!(self.slot(hole), Slot::Occupied(_)) {
                hole += 1;
            }
            let entry = std::mem::replace(self.slot_mut(token), Slot::Vacant(NONE));
            *self.slot_mut(hole) = entry;
            moved(self, token, hole);
            from = token + 1;
        }
        self.spine.truncate(keep >> self.shift);
        self.free = NONE;
        for index in (0..keep).rev() {
            let token = token_of(index);
            let free = self.free;
            if let slot @ Slot::Vacant(_) = self.slot_mut(token) {
                *slot = Slot::Vacant(free);
                self.free = token;
            }
        }
    }

    /// Checks the list of free slots against the slots themselves.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let occupied = self.spine.iter().flat_map(|chunk| chunk.iter());
        let occupied = occupied.filter(|slot| matches!(slot, Slot::Occupied(_))).count();
        if occupied != self.len {
            return Err(format!("{occupied} slots are taken, but {} are counted", self.len));
        }
        if self.spine.iter().any(|chunk| chunk.len() != self.chunk_slots()) {
            return Err("a chunk has another size".to_owned());
        }
        let (mut free, mut token) = (0, self.free);
        while token != NONE {
            let Slot::Vacant(next) = *self.slot(token) else {
                return Err(format!("slot {token} is taken and on the free list"));
            };
            free += 1;
            if free > self.vacant() {
                return Err("the free list is longer than the free slots are many".to_owned());
            }
            token = next;
        }
        if free == self.vacant() {
            Ok(())
        } else {
            Err(format!("{free} of {} free slots are on the list", self.vacant()))
        }
    }
}

/// The token of slot `index`; chunks are only added while this fits.
#[allow(clippy::cast_possible_truncation, reason = "`has_tokens` keeps indices below `NONE`")]
const fn token_of(index: usize) -> u32 {
    debug_assert!(index <= NONE as usize);
    index as u32
}

#[cold]
#[inline(never)]
fn vacant() -> ! {
    unreachable!("a token of the cache's own table names a slot in the wrong state")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(chunks: usize) -> Slab<u64> {
        let mut slab = Slab::new(2);
        for _ in 0..chunks {
            while !slab.is_full() {
                slab.insert(0);
            }
            if let Some(capacity) = slab.wanted_spine() {
                slab.adopt_spine(&mut Slab::<u64>::allocate_spine(capacity).unwrap());
            }
            assert!(slab.adopt_chunk(Slab::<u64>::allocate_chunk(2).unwrap()).is_none());
        }
        slab
    }

    #[test]
    fn slots_are_reused_and_chunks_added_only_when_full() {
        let mut slab = grown(1);
        let tokens: Vec<u32> = (0..4).map(|i| slab.insert(i)).collect();
        assert!(slab.is_full());
        assert_eq!(slab.remove(tokens[2]), 2);
        assert!(slab.adopt_chunk(Slab::<u64>::allocate_chunk(2).unwrap()).is_some());
        assert_eq!(slab.insert(9), tokens[2]);
        slab.validate().unwrap();
    }

    #[test]
    fn shrinking_moves_entries_out_of_the_last_chunks() {
        let mut slab = grown(5);
        while !slab.is_full() {
            slab.insert(0);
        }
        for token in 0..20_u32 {
            *slab.get_mut(token) = u64::from(token);
        }
        let mut place: Vec<u32> = (0..20).collect();
        for token in (0..20).filter(|t| t % 3 != 0) {
            slab.remove(token);
        }
        assert_eq!(slab.spare_chunks(), 3);
        let before = slab.bytes();
        slab.shrink(3, |_, from, to| place[from as usize] = to);
        assert_eq!(slab.bytes(), before - 3 * slab.chunk_bytes());
        assert_eq!((slab.len(), slab.slots()), (7, 8));
        for key in (0..20_u32).filter(|t| t % 3 == 0) {
            assert_eq!(*slab.get(place[key as usize]), u64::from(key));
        }
        slab.validate().unwrap();
    }
}
