//! One store: a hash table of 4-byte tokens, a slab of entries, and one policy that drives it.
//!
//! Every cache is one or more of these with a face. A store knows nothing about locks, accounts or
//! capacity. It never allocates: what it lacks before it can take another entry it says in a
//! [`Plan`], and is handed as a [`Growth`], so that its face can charge and allocate where no lock
//! is held. No user code runs in here but `Eq` of keys in [`Store::find`], at a time when nothing
//! has been changed.

use std::collections::TryReserveError;

use hashbrown::HashTable;
use nebula_memory_core::{Align, MemoryError};

use crate::{
    policy::{Nodes, Policy},
    slab::{Chunk, Slab, Spine},
    weigher::Kept,
};

/// A key, its value, and what the cache keeps with them.
#[derive(Debug)]
pub(crate) struct Entry<K, V, W, N> {
    pub(crate) key: K,
    pub(crate) value: V,
    kept: W,
    /// The low half of the key's hash: what the table places it by.
    hash: u32,
    pub(crate) node: N,
}

impl<K, V, W: Kept, N: Default> Entry<K, V, W, N> {
    pub(crate) fn new(key: K, value: V, owned: W, hash: u32) -> Self {
        Self { key, value, kept: owned, hash, node: N::default() }
    }
}

impl<K, V, W: Kept, N> Entry<K, V, W, N> {
    pub(crate) fn owned(&self) -> usize {
        self.kept.owned()
    }

    #[inline]
    pub(crate) fn weight(&self) -> usize {
        inline_weight::<K, V>() + self.kept.owned()
    }
}

/// What an entry weighs without what it owns. Not zero, or nothing would limit how many there are.
#[inline]
pub(crate) const fn inline_weight<K, V>() -> usize {
    let bytes = size_of::<K>() + size_of::<V>();
    if bytes == 0 { 1 } else { bytes }
}

/// An entry with what its policy keeps in it.
pub(crate) type EntryOf<K, V, W, P> = Entry<K, V, W, <P as Policy>::Node>;
type Entries<K, V, W, P> = Slab<EntryOf<K, V, W, P>>;
type ChunkOf<K, V, W, P> = Chunk<EntryOf<K, V, W, P>>;

#[derive(Debug)]
pub(crate) struct Store<K, V, W, P: Policy> {
    table: HashTable<u32>,
    slab: Entries<K, V, W, P>,
    policy: P,
    /// The weight of all entries.
    weight: usize,
    /// What all entries own outside.
    owned: usize,
    /// Bytes that the store itself has allocated.
    allocated: usize,
    /// Changes whenever entries change slots, so that a walk over slots can tell.
    moves: u32,
}

/// What a store lacks for another entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Chunks of `1 << shift` slots.
    shift: u32,
    chunk: bool,
    /// Capacity of a larger spine, or zero.
    spine: usize,
    /// Buckets of a larger table, or zero.
    buckets: usize,
    /// Bytes of more memory for the policy, or zero.
    policy: usize,
    /// Bytes of all of these.
    pub(crate) bytes: usize,
}

/// Memory for a store: allocated and not in use yet, or no longer in use.
#[derive(Debug)]
pub(crate) struct Growth<K, V, W, P: Policy> {
    chunk: Option<ChunkOf<K, V, W, P>>,
    spine: Spine<EntryOf<K, V, W, P>>,
    table: HashTable<u32>,
    policy: Option<P::Memory>,
}

/// The hash by which the table places an entry. The table takes the place from the low bits and a
/// tag from the highest ones.
#[inline]
const fn spread(hash: u32) -> u64 {
    (hash as u64) << 32 | hash as u64
}

/// Buckets of a table; an empty one that never allocated has none.
fn buckets(table: &HashTable<u32>) -> usize {
    if table.allocation_size() == 0 { 0 } else { table.num_buckets() }
}

/// How many tokens fit into a table of so many buckets: seven eighths.
const fn fitting(buckets: usize) -> usize {
    buckets / 8 * 7
}

/// Bytes that a table of so many buckets will allocate: a token and a byte each, and one group of
/// bytes more, whose width depends on the target and is read off a small table.
fn table_bytes(buckets: usize) -> usize {
    const EACH: usize = size_of::<u32>() + 1;
    let small = HashTable::<u32>::with_capacity(fitting(8));
    let group = small.allocation_size() - 8 * EACH;
    buckets * EACH + group
}

fn out_of_memory(bytes: usize) -> impl FnOnce(TryReserveError) -> MemoryError {
    move |_| MemoryError::OutOfMemory { requested: bytes, align: Align::ONE }
}

impl Plan {
    /// Allocates it all.
    pub(crate) fn allocate<K, V, W, P: Policy>(&self) -> Result<Growth<K, V, W, P>, MemoryError> {
        let failed = || out_of_memory(self.bytes);
        let mut growth = Growth::none();
        if self.chunk {
            growth.chunk = Some(Slab::allocate_chunk(self.shift).map_err(failed())?);
        }
        if self.spine > 0 {
            growth.spine = Entries::<K, V, W, P>::allocate_spine(self.spine).map_err(failed())?;
        }
        if self.buckets > 0 {
            let reserved = growth.table.try_reserve(fitting(self.buckets), |_| 0);
            reserved.map_err(|_| MemoryError::OutOfMemory {
                requested: self.bytes,
                align: Align::ONE,
            })?;
        }
        if self.policy > 0 {
            growth.policy = Some(P::allocate(self.policy).map_err(failed())?);
        }
        debug_assert_eq!(growth.bytes(), self.bytes, "what was charged is what is allocated");
        Ok(growth)
    }
}

impl<K, V, W, P: Policy> Growth<K, V, W, P> {
    pub(crate) fn none() -> Self {
        Self { chunk: None, spine: Vec::new(), table: HashTable::new(), policy: None }
    }

    pub(crate) fn bytes(&self) -> usize {
        let chunk = self.chunk.as_ref().map_or(0, |chunk| size_of_val(&**chunk));
        let spine = Entries::<K, V, W, P>::spine_bytes(self.spine.capacity());
        let policy = self.policy.as_ref().map_or(0, P::bytes_of);
        chunk + spine + self.table.allocation_size() + policy
    }
}

impl<K, V, W: Kept, N> Nodes<N> for Slab<Entry<K, V, W, N>> {
    #[inline]
    fn node(&self, token: u32) -> &N {
        &self.get(token).node
    }

    #[inline]
    fn node_mut(&mut self, token: u32) -> &mut N {
        &mut self.get_mut(token).node
    }

    #[inline]
    fn weight(&self, token: u32) -> usize {
        if W::NOTHING { inline_weight::<K, V>() } else { self.get(token).weight() }
    }

    #[inline]
    fn hash(&self, token: u32) -> u32 {
        self.get(token).hash
    }
}

impl<K, V, W: Kept, P: Policy> Store<K, V, W, P> {
    /// An empty store, nothing allocated, whose slab will grow by `1 << shift` slots at a time.
    pub(crate) fn new(shift: u32) -> Self {
        Self {
            table: HashTable::new(),
            slab: Slab::new(shift),
            policy: P::default(),
            weight: 0,
            owned: 0,
            allocated: 0,
            moves: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.slab.len()
    }

    /// What [`new`](Self::new) was told.
    pub(crate) const fn chunk_shift(&self) -> u32 {
        self.slab.shift()
    }

    pub(crate) const fn weight(&self) -> usize {
        self.weight
    }

    pub(crate) const fn owned(&self) -> usize {
        self.owned
    }

    /// Changes when entries change slots.
    pub(crate) const fn moves(&self) -> u32 {
        self.moves
    }

    /// Bytes that the store itself has allocated.
    pub(crate) const fn bytes(&self) -> usize {
        self.allocated
    }

    /// What has been allocated, asked of those who did.
    fn count_bytes(&self) -> usize {
        self.table.allocation_size() + self.slab.bytes() + self.policy.bytes()
    }

    /// The token of the entry with this hash for whose key `eq` holds.
    #[inline]
    pub(crate) fn find(&self, hash: u32, mut eq: impl FnMut(&K) -> bool) -> Option<u32> {
        let slab = &self.slab;
        self.table
            .find(spread(hash), |&token| {
                let entry = slab.get(token);
                entry.hash == hash && eq(&entry.key)
            })
            .copied()
    }

    /// The entry with this hash for whose key `eq` holds.
    #[inline]
    pub(crate) fn get(
        &self,
        hash: u32,
        mut eq: impl FnMut(&K) -> bool,
    ) -> Option<&EntryOf<K, V, W, P>> {
        let mut found = None;
        let slab = &self.slab;
        self.table.find(spread(hash), |&token| {
            let entry = slab.get(token);
            let equal = entry.hash == hash && eq(&entry.key);
            if equal {
                found = Some(entry);
            }
            equal
        });
        found
    }

    /// The entry of `token`, which is of this store.
    #[inline]
    pub(crate) fn entry(&self, token: u32) -> &EntryOf<K, V, W, P> {
        self.slab.get(token)
    }

    /// Whether the table would have to be larger to take another token.
    ///
    /// Removals leave marks in a table that use its room up, so that one that is full of marks
    /// rather than tokens is swept, which allocates nothing.
    fn table_is_full(&self) -> bool {
        let len = self.table.len();
        len == self.table.capacity() && len >= fitting(buckets(&self.table)) / 4 * 3
    }

    /// What has to be allocated before another entry fits.
    #[inline]
    pub(crate) fn lacks(&self) -> bool {
        self.slab.is_full() || self.table_is_full()
    }

    /// What to allocate if the store [lacks](Self::lacks) room.
    ///
    /// # Errors
    /// If there are no tokens for more entries.
    #[cold]
    pub(crate) fn plan(&self) -> Result<Plan, MemoryError> {
        let mut plan = Plan { shift: self.slab.shift(), ..Plan::default() };
        let mut slots = self.slab.slots();
        if self.slab.is_full() {
            if !self.slab.has_tokens() {
                return Err(MemoryError::CapacityExceeded {
                    requested: inline_weight::<K, V>(),
                    available: 0,
                    align: Align::ONE,
                });
            }
            plan.chunk = true;
            slots += self.slab.chunk_slots();
            plan.spine = self.slab.wanted_spine().unwrap_or(0);
            plan.policy = self.policy.wanted(slots);
            plan.bytes = self.slab.chunk_bytes()
                + Entries::<K, V, W, P>::spine_bytes(plan.spine)
                + plan.policy;
        }
        if self.table_is_full() {
            // At first as large as the first chunk needs it; afterwards twice as large.
            let least = (self.slab.chunk_slots() * 8).div_ceil(7).next_power_of_two();
            plan.buckets = (buckets(&self.table) * 2).max(least).max(8);
            plan.bytes += table_bytes(plan.buckets);
        }
        Ok(plan)
    }

    /// Takes over what it has a use for; what is in `growth` afterwards is to be freed.
    pub(crate) fn adopt(&mut self, growth: &mut Growth<K, V, W, P>) {
        if let Some(chunk) = growth.chunk.take() {
            self.slab.adopt_spine(&mut growth.spine);
            growth.chunk = self.slab.adopt_chunk(chunk);
        }
        if let Some(memory) = growth.policy.take() {
            growth.policy = Some(self.policy.adopt(memory));
        }
        if buckets(&growth.table) > buckets(&self.table) {
            std::mem::swap(&mut self.table, &mut growth.table);
            self.fill_table();
        }
        self.allocated = self.count_bytes();
    }

    /// Enters every token into the empty table, which has room for them.
    fn fill_table(&mut self) {
        let slab = &self.slab;
        let mut from = 0;
        while let Some(token) = slab.next_occupied(from) {
            let hasher = |&token: &u32| spread(slab.get(token).hash);
            self.table.insert_unique(hasher(&token), token, hasher);
            from = token + 1;
        }
    }

    /// Frees the table of the marks of removed tokens, in place.
    #[cold]
    fn sweep_table(&mut self) {
        self.table.clear();
        self.fill_table();
    }

    /// Adds an entry whose key is not in the store, which must not [lack](Self::lacks) room.
    pub(crate) fn insert(&mut self, entry: EntryOf<K, V, W, P>) {
        // With few tokens, the table sweeps itself in place.
        if self.table.len() == self.table.capacity()
            && self.table.len() >= fitting(buckets(&self.table)) / 2
        {
            self.sweep_table();
        }
        self.weight += entry.weight();
        self.owned += entry.owned();
        let hash = entry.hash;
        let token = self.slab.insert(entry);
        let slab = &self.slab;
        self.table.insert_unique(spread(hash), token, |&token| spread(slab.get(token).hash));
        self.policy.insert(&mut self.slab, token);
    }

    /// Puts a value in the place of another; a replacement counts as a hit. Returns the old value,
    /// and what it owned.
    pub(crate) fn replace(&mut self, token: u32, value: V, kept: W) -> (V, usize) {
        let entry = self.slab.get_mut(token);
        let (old_weight, old_owned) = (entry.weight(), entry.owned());
        let old = std::mem::replace(&mut entry.value, value);
        entry.kept = kept;
        let (weight, owned) = (entry.weight(), entry.owned());
        P::hit(&entry.node);
        self.weight = self.weight - old_weight + weight;
        self.owned = self.owned - old_owned + owned;
        self.policy.reweigh(&self.slab, token, old_weight);
        (old, old_owned)
    }

    /// Takes the entry of `token` out.
    pub(crate) fn remove(&mut self, token: u32) -> EntryOf<K, V, W, P> {
        self.policy.remove(&mut self.slab, token);
        self.detach(token)
    }

    /// Takes out the entry that the policy chooses, with the token it had.
    #[inline]
    pub(crate) fn evict(&mut self) -> Option<(u32, EntryOf<K, V, W, P>)> {
        let token = self.policy.evict(&mut self.slab)?;
        Some((token, self.detach(token)))
    }

    /// Takes out an entry that the policy has let go of.
    fn detach(&mut self, token: u32) -> EntryOf<K, V, W, P> {
        let entry = self.slab.remove(token);
        match self.table.find_entry(spread(entry.hash), |&other| other == token) {
            Ok(found) => drop(found.remove()),
            Err(_) => unreachable!("an entry in the slab has its token in the table"),
        }
        self.weight -= entry.weight();
        self.owned -= entry.owned();
        entry
    }

    /// Bytes that [`compact`](Self::compact) would free. O(1).
    pub(crate) fn spare_bytes(&self) -> usize {
        self.slab.spare_chunks() * self.slab.chunk_bytes()
    }

    /// Moves entries together and frees the chunks left over. O(slots) if there are any.
    pub(crate) fn compact(&mut self) {
        let chunks = self.slab.spare_chunks();
        if chunks == 0 {
            return;
        }
        self.moves = self.moves.wrapping_add(1);
        let (table, policy) = (&mut self.table, &mut self.policy);
        self.slab.shrink(chunks, |slab, from, to| {
            let hash = slab.get(to).hash;
            match table.find_mut(spread(hash), |&token| token == from) {
                Some(token) => *token = to,
                None => unreachable!("an entry in the slab has its token in the table"),
            }
            policy.relocate(slab, from, to);
        });
        self.allocated = self.count_bytes();
    }

    /// The first slot from `from` on that holds an entry.
    pub(crate) fn next_from(&self, from: u32) -> Option<u32> {
        self.slab.next_occupied(from)
    }

    /// Checks table, slab, policy and sums against each other.
    pub(crate) fn validate(&self) -> Result<(), String> {
        self.slab.validate()?;
        if self.table.len() != self.slab.len() {
            let (tokens, entries) = (self.table.len(), self.slab.len());
            return Err(format!("{tokens} tokens for {entries} entries"));
        }
        let (mut weight, mut owned, mut from) = (0, 0, 0);
        while let Some(token) = self.next_from(from) {
            let entry = self.entry(token);
            // As many tokens as entries, and one found for each: so there are no others.
            if self.table.find(spread(entry.hash), |&other| other == token).is_none() {
                return Err(format!("entry {token} is not in the table"));
            }
            weight += entry.weight();
            owned += entry.owned();
            from = token + 1;
        }
        if self.table.iter().any(|&token| self.slab.try_get(token).is_none()) {
            return Err("a token of the table names a free slot".to_owned());
        }
        if self.count_bytes() != self.allocated {
            let (real, counted) = (self.count_bytes(), self.allocated);
            return Err(format!("{real} bytes are allocated, {counted} counted"));
        }
        if (weight, owned) != (self.weight, self.owned) {
            return Err(format!(
                "entries weigh {weight} and own {owned}, not {} and {}",
                self.weight, self.owned
            ));
        }
        self.policy.validate(&self.slab, self.len(), self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{policy::S3Fifo, slab::Slot};

    #[test]
    fn a_slot_of_two_words_takes_two_more() {
        assert_eq!(size_of::<Slot<EntryOf<u64, u64, (), S3Fifo>>>(), 32);
        assert_eq!(size_of::<Slot<EntryOf<u64, u64, usize, S3Fifo>>>(), 32 + size_of::<usize>());
    }

    #[test]
    fn the_size_of_a_table_is_known_before_it_is_allocated() {
        for shift in 3..20 {
            let mut table = HashTable::<u32>::new();
            table.try_reserve(fitting(1 << shift), |_| 0).unwrap();
            assert_eq!(buckets(&table), 1 << shift);
            assert_eq!(table.allocation_size(), table_bytes(1 << shift));
        }
    }

    #[test]
    fn a_table_full_of_marks_is_swept_and_does_not_grow() {
        let mut store = Store::<u32, (), (), S3Fifo>::new(6);
        let (mut bytes, mut oldest) = (0, 0);
        for key in 0..20_000_u32 {
            // From the start on, 40 entries of the 64 that fit.
            if store.len() == 40 {
                let hash = hash_of(oldest);
                let token = store.find(hash, |&other| other == oldest).unwrap();
                assert_eq!(store.remove(token).key, oldest);
                oldest += 1;
            }
            while store.lacks() {
                let mut growth = store.plan().unwrap().allocate().unwrap();
                store.adopt(&mut growth);
            }
            store.insert(Entry::new(key, (), (), hash_of(key)));
            if key == 100 {
                bytes = store.bytes();
            }
        }
        assert_eq!(store.bytes(), bytes);
        store.validate().unwrap();
    }

    fn hash_of(key: u32) -> u32 {
        key.wrapping_mul(0x9E37_79B9)
    }
}
