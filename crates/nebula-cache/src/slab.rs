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

/// Declares chunks of some numbers of slots, and lists of them.
macro_rules! chunks {
    ($($list:ident $kind:ident $slots:literal),* $(,)?) => {
        /// One allocation of slots: as many as the size of a slot says, which are known where this
        /// is compiled, so that finding one takes no look at the length of its chunk.
        #[derive(Debug)]
        pub(crate) enum Chunk<E> {
            $($kind(Box<[Slot<E>; $slots]>),)*
        }

        /// The list of chunks, itself an allocation. Of all these, one is in use.
        #[derive(Debug)]
        pub(crate) struct Spine<E> {
            $($list: Vec<Box<[Slot<E>; $slots]>>,)*
        }

        impl<E> Chunk<E> {
            /// Free slots.
            fn allocate(slots: usize) -> Result<Self, TryReserveError> {
                match slots {
                    $($slots => Ok(Self::$kind(vacant_slots()?)),)*
                    _ => unreachable!("chunks have other numbers of slots"),
                }
            }

            fn slots_mut(&mut self) -> &mut [Slot<E>] {
                match self {
                    $(Self::$kind(slots) => &mut slots[..],)*
                }
            }
        }

        impl<E> Spine<E> {
            pub(crate) const fn new() -> Self {
                Self { $($list: Vec::new(),)* }
            }

            fn push(&mut self, chunk: Chunk<E>) {
                match chunk {
                    $(Chunk::$kind(slots) => self.$list.push(slots),)*
                }
            }

            /// Moves all chunks of `other` here.
            fn append(&mut self, other: &mut Self) {
                $(self.$list.append(&mut other.$list);)*
            }
        }

        // The choice is made where this is compiled.
        impl<E> Spine<E> {
            pub(crate) fn capacity(&self) -> usize {
                match Slab::<E>::chunk_slots() {
                    $($slots => self.$list.capacity(),)*
                    _ => 0,
                }
            }

            fn len(&self) -> usize {
                match Slab::<E>::chunk_slots() {
                    $($slots => self.$list.len(),)*
                    _ => 0,
                }
            }

            #[inline(always)]
            fn slot(&self, chunk: usize, index: usize) -> &Slot<E> {
                match Slab::<E>::chunk_slots() {
                    $($slots => &self.$list[chunk][index],)*
                    _ => vacant(),
                }
            }

            #[inline(always)]
            fn slot_mut(&mut self, chunk: usize, index: usize) -> &mut Slot<E> {
                match Slab::<E>::chunk_slots() {
                    $($slots => &mut self.$list[chunk][index],)*
                    _ => vacant(),
                }
            }

            fn try_reserve_exact(&mut self, more: usize) -> Result<(), TryReserveError> {
                match Slab::<E>::chunk_slots() {
                    $($slots => self.$list.try_reserve_exact(more),)*
                    _ => Ok(()),
                }
            }

            fn truncate(&mut self, chunks: usize) {
                match Slab::<E>::chunk_slots() {
                    $($slots => self.$list.truncate(chunks),)*
                    _ => {}
                }
            }
        }
    };
}

chunks! {
    hundreds Hundreds 128,
    dozens Dozens 64,
    many Many 32,
    several Several 16,
    few Few 4,
}

/// How far a slab has got with shrinking.
#[derive(Debug)]
pub(crate) struct Shrinking {
    /// Slots that stay.
    keep: usize,
    /// No slot before this one is free.
    hole: u32,
    /// Every slot that goes before this one has been moved.
    from: u32,
}

#[derive(Debug)]
pub(crate) struct Slab<E> {
    spine: Spine<E>,
    /// Head of the list of free slots, or [`NONE`].
    free: u32,
    len: usize,
}

impl<E> Slab<E> {
    pub(crate) const SLOT_BYTES: usize = size_of::<Slot<E>>();

    /// A chunk has `1 << SHIFT` slots: at most four kilobytes of them, but not less than four.
    const SHIFT: u32 = match Self::SLOT_BYTES {
        0..=32 => 7,
        33..=64 => 6,
        65..=128 => 5,
        129..=256 => 4,
        _ => 2,
    };

    /// An empty slab, nothing allocated.
    pub(crate) const fn new() -> Self {
        Self { spine: Spine::new(), free: NONE, len: 0 }
    }

    pub(crate) const fn chunk_slots() -> usize {
        1 << Self::SHIFT
    }

    pub(crate) const fn chunk_bytes() -> usize {
        Self::chunk_slots() * size_of::<Slot<E>>()
    }

    pub(crate) const fn spine_bytes(capacity: usize) -> usize {
        capacity * size_of::<Box<[Slot<E>; 4]>>()
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Slots in all chunks.
    pub(crate) fn slots(&self) -> usize {
        self.spine.len() << Self::SHIFT
    }

    pub(crate) fn vacant(&self) -> usize {
        self.slots() - self.len
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.free == NONE
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        self.spine.len() * Self::chunk_bytes() + Self::spine_bytes(self.spine.capacity())
    }

    /// The capacity that the spine needs before a chunk can be added, if it has no room.
    pub(crate) fn wanted_spine(&self) -> Option<usize> {
        let full = self.spine.len() == self.spine.capacity();
        full.then(|| (self.spine.capacity() * 2).max(4))
    }

    /// Whether another chunk would have tokens.
    pub(crate) fn has_tokens(&self) -> bool {
        self.slots() + Self::chunk_slots() < 1 << crate::table::MOST_BITS
    }

    #[inline]
    const fn place(token: u32) -> (usize, usize) {
        ((token >> Self::SHIFT) as usize, (token & ((1 << Self::SHIFT) - 1)) as usize)
    }

    #[inline]
    fn slot(&self, token: u32) -> &Slot<E> {
        let (chunk, index) = Self::place(token);
        self.spine.slot(chunk, index)
    }

    #[inline]
    fn slot_mut(&mut self, token: u32) -> &mut Slot<E> {
        let (chunk, index) = Self::place(token);
        self.spine.slot_mut(chunk, index)
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

    /// Puts `entry` in the place of the one of `token`, which must be taken.
    #[inline(always)]
    pub(crate) fn replace(&mut self, token: u32, entry: E) -> E {
        std::mem::replace(self.get_mut(token), entry)
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
    pub(crate) fn allocate_chunk() -> Result<Chunk<E>, TryReserveError> {
        Chunk::allocate(Self::chunk_slots())
    }

    /// Memory for a spine of `capacity` chunks.
    pub(crate) fn allocate_spine(capacity: usize) -> Result<Spine<E>, TryReserveError> {
        let mut spine = Spine::new();
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
        for (index, slot) in chunk.slots_mut().iter_mut().enumerate().rev() {
            *slot = Slot::Vacant(next);
            next = token_of(first + index);
        }
        self.free = next;
        self.spine.push(chunk);
        None
    }

    /// How many chunks there are.
    pub(crate) fn chunks(&self) -> usize {
        self.spine.len()
    }

    /// How many chunks could be freed if entries moved together.
    pub(crate) fn spare_chunks(&self) -> usize {
        self.vacant() >> Self::SHIFT
    }

    /// Begins to free the last `chunks` chunks, of which every entry has to be moved out first:
    /// [`shrink_step`](Self::shrink_step) until it says that it is done, then
    /// [`end_shrink`](Self::end_shrink), with nothing else between. Takes O(slots).
    pub(crate) fn begin_shrink(&self, chunks: usize) -> Shrinking {
        let keep = (self.spine.len() - chunks) << Self::SHIFT;
        Shrinking { keep, hole: 0, from: token_of(keep) }
    }

    /// Moves one entry, from the first token to the second.
    pub(crate) fn shrink_step(&mut self, shrinking: &mut Shrinking) -> Option<(u32, u32)> {
        let from = self.next_occupied(shrinking.from)?;
        while matches!(self.slot(shrinking.hole), Slot::Occupied(_)) {
            shrinking.hole += 1;
        }
        let to = shrinking.hole;
        let entry = std::mem::replace(self.slot_mut(from), Slot::Vacant(NONE));
        *self.slot_mut(to) = entry;
        shrinking.from = from + 1;
        Some((from, to))
    }

    /// Frees the chunks that are empty now.
    pub(crate) fn end_shrink(&mut self, shrinking: &Shrinking) {
        let keep = shrinking.keep;
        self.spine.truncate(keep >> Self::SHIFT);
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
        let (mut occupied, mut from) = (0, 0);
        while let Some(token) = self.next_occupied(from) {
            occupied += 1;
            from = token + 1;
        }
        if occupied != self.len {
            return Err(format!("{occupied} slots are taken, but {} are counted", self.len));
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

/// Memory for `N` slots, all of them free.
fn vacant_slots<E, const N: usize>() -> Result<Box<[Slot<E>; N]>, TryReserveError> {
    let mut slots = Vec::new();
    slots.try_reserve_exact(N)?;
    slots.extend((0..N).map(|_| Slot::Vacant(NONE)));
    match slots.into_boxed_slice().try_into() {
        Ok(slots) => Ok(slots),
        Err(_) => unreachable!("there are as many as were made"),
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

    fn grown(chunks: usize) -> Slab<[u64; 100]> {
        let mut slab = Slab::new();
        for _ in 0..chunks {
            while !slab.is_full() {
                slab.insert([0; 100]);
            }
            if let Some(capacity) = slab.wanted_spine() {
                slab.adopt_spine(&mut Slab::<[u64; 100]>::allocate_spine(capacity).unwrap());
            }
            assert!(slab.adopt_chunk(Slab::<[u64; 100]>::allocate_chunk().unwrap()).is_none());
        }
        slab
    }

    #[test]
    fn slots_are_reused_and_chunks_added_only_when_full() {
        let mut slab = grown(1);
        let tokens: Vec<u32> = (0..4).map(|i| slab.insert([i; 100])).collect();
        assert!(slab.is_full());
        assert_eq!(slab.remove(tokens[2]), [2; 100]);
        assert!(slab.adopt_chunk(Slab::<[u64; 100]>::allocate_chunk().unwrap()).is_some());
        assert_eq!(slab.insert([9; 100]), tokens[2]);
        slab.validate().unwrap();
    }

    #[test]
    fn shrinking_moves_entries_out_of_the_last_chunks() {
        let mut slab = grown(5);
        while !slab.is_full() {
            slab.insert([0; 100]);
        }
        for token in 0..20_u32 {
            *slab.get_mut(token) = [u64::from(token); 100];
        }
        let mut place: Vec<u32> = (0..20).collect();
        for token in (0..20).filter(|t| t % 3 != 0) {
            slab.remove(token);
        }
        assert_eq!(slab.spare_chunks(), 3);
        let before = slab.bytes();
        let mut shrinking = slab.begin_shrink(3);
        while let Some((from, to)) = slab.shrink_step(&mut shrinking) {
            place[from as usize] = to;
        }
        slab.end_shrink(&shrinking);
        assert_eq!(slab.bytes(), before - 3 * Slab::<[u64; 100]>::chunk_bytes());
        assert_eq!((slab.len(), slab.slots()), (7, 8));
        for key in (0..20_u32).filter(|t| t % 3 == 0) {
            assert_eq!(*slab.get(place[key as usize]), [u64::from(key); 100]);
        }
        slab.validate().unwrap();
    }
}
