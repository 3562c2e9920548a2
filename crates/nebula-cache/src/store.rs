//! One store: a hash table of 4-byte words, a slab of entries, and one policy that drives it.
//!
//! Every cache is one or more of these with a face. A store knows nothing about locks, accounts,
//! clocks or capacity. It never allocates: what it lacks before it can take another entry it says
//! in a [`Plan`], and is handed as a [`Growth`], so that its face can charge and allocate where no
//! lock is held. No user code runs in here but `Eq` of keys in [`Store::find`], at a time when
//! nothing has been changed.

use std::collections::TryReserveError;

use nebula_memory_core::{Align, MemoryError};

use crate::{
    Kit,
    policy::{Newcomer, Node, Nodes, Place, drive::Policy},
    slab::{Chunk, Slab, Spine},
    table::{Buckets, Elsewhere, Table},
    times::sealed::Times,
    weight::sealed::Weight,
    wheel::{Links, Schedule, Timers},
};

/// A key, its value, and what the cache keeps with them.
#[derive(Debug)]
pub(crate) struct Entry<K, V, O: Kit> {
    pub(crate) key: K,
    pub(crate) value: V,
    pub(crate) kept: Kept<O>,
    /// What the table places it by.
    hash: u32,
    pub(crate) node: Node,
}

/// What an entry keeps that came in with its value.
#[derive(Debug)]
pub(crate) struct Kept<O: Kit> {
    pub(crate) weight: O::Weight,
    pub(crate) times: O::Times,
    pub(crate) tags: O::Tags,
}

impl<K, V, O: Kit> Entry<K, V, O> {
    pub(crate) fn new(key: K, value: V, kept: Kept<O>, hash: u32) -> Self {
        Self { key, value, kept, hash, node: Node::default() }
    }

    /// What is charged for it, its slot aside.
    #[inline]
    pub(crate) fn charge(&self) -> usize {
        self.kept.weight.charge()
    }

    /// What the table places it by.
    pub(crate) const fn hash(&self) -> u32 {
        self.hash
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.node.place == Place::Pinned
    }
}

/// An entry on its way in.
pub(crate) struct Arrival<K, V, O: Kit> {
    pub(crate) entry: Entry<K, V, O>,
    /// What the policy remembers of its key.
    pub(crate) newcomer: Newcomer,
    /// Its node, if the policy has [taken it in](Store::exchange).
    pub(crate) node: Option<Node>,
}

/// What limits a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// How many entries there are.
    Entries,
    /// What entries own, and all that the store has allocated.
    Bytes,
}

/// The entries, as the policy sees them.
#[derive(Debug)]
struct Entries<K, V, O: Kit> {
    slab: Slab<Entry<K, V, O>>,
    unit: Unit,
}

impl<K, V, O: Kit> Nodes for Entries<K, V, O> {
    #[inline]
    fn node(&self, token: u32) -> &Node {
        &self.slab.get(token).node
    }

    #[inline]
    fn node_mut(&mut self, token: u32) -> &mut Node {
        &mut self.slab.get_mut(token).node
    }

    #[inline]
    fn node_and_hash(&mut self, token: u32) -> (&mut Node, u32) {
        let entry = self.slab.get_mut(token);
        (&mut entry.node, entry.hash)
    }

    #[inline]
    fn weight(&self, token: u32) -> usize {
        if !O::Weight::KEPT || self.unit == Unit::Entries {
            return 1;
        }
        Slab::<Entry<K, V, O>>::SLOT_BYTES.saturating_add(self.slab.get(token).kept.weight.weight())
    }

    #[inline]
    fn hash(&self, token: u32) -> u32 {
        self.slab.get(token).hash
    }
}

/// What a store keeps of its entries' deadlines.
type ScheduleOf<O> = <<O as crate::kit::sealed::Kit>::Times as Times>::Schedule;

impl<K, V, O: Kit> Timers for Entries<K, V, O> {
    #[inline]
    fn deadline(&self, token: u32) -> u64 {
        self.slab.get(token).kept.times.deadline()
    }

    #[inline]
    fn links(&self, token: u32) -> Links {
        self.slab.get(token).kept.times.links()
    }

    #[inline]
    fn links_mut(&mut self, token: u32) -> &mut Links {
        self.slab.get_mut(token).kept.times.links_mut()
    }
}

#[derive(Debug)]
pub(crate) struct Store<K, V, O: Kit> {
    table: Table,
    entries: Entries<K, V, O>,
    policy: O::Policy,
    /// When they expire, as far as anybody comes to remove them then.
    schedule: ScheduleOf<O>,
    /// How many entries there will probably be at most, which the table is made for.
    expected: usize,
    /// What all entries weigh beside their slots. (These sums wrap: a weigher may say anything, and
    /// an account may refuse nothing.)
    weight: usize,
    /// What is charged for all entries beside their slots.
    charge: usize,
    /// Bytes that the store itself has allocated.
    allocated: usize,
    /// Bytes of what it would allocate next.
    wants: usize,
    pinned: usize,
    /// Changes whenever entries change slots, so that a walk over slots can tell.
    moves: u32,
    /// Insertions to come that do without growth, because the last attempt was refused.
    restraint: u32,
}

/// What a store is made by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) unit: Unit,
    /// How many entries there will probably be at most.
    pub(crate) expected: usize,
}

/// What a store lacks for another entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    chunk: bool,
    /// Capacity of a larger spine, or zero.
    spine: usize,
    /// Buckets of a larger table, or zero.
    buckets: usize,
    /// Bits of its tokens.
    bits: u32,
    /// Bytes of more memory for the policy, or zero.
    policy: usize,
    /// Bytes of all of these.
    pub(crate) bytes: usize,
}

/// Memory for a store: allocated and not in use yet, or no longer in use.
pub(crate) struct Growth<K, V, O: Kit> {
    chunk: Option<Chunk<Entry<K, V, O>>>,
    spine: Spine<Entry<K, V, O>>,
    table: Buckets,
    policy: Option<<O::Policy as Policy>::Memory>,
}

impl<K, V, O: Kit> Growth<K, V, O> {
    pub(crate) fn bytes(&self) -> usize {
        let chunk = if self.chunk.is_some() { Slab::<Entry<K, V, O>>::chunk_bytes() } else { 0 };
        let spine = Slab::<Entry<K, V, O>>::spine_bytes(self.spine.capacity());
        let policy = self.policy.as_ref().map_or(0, O::Policy::bytes_of);
        chunk + spine + self.table.bytes() + policy
    }
}

impl<K, V, O: Kit> Store<K, V, O> {
    /// An empty store, nothing allocated.
    pub(crate) fn new(shape: Shape, policy: O::Policy) -> Self {
        let Shape { unit, expected } = shape;
        let mut store = Self {
            table: Table::new(),
            entries: Entries { slab: Slab::new(), unit },
            policy,
            schedule: ScheduleOf::<O>::default(),
            expected,
            weight: 0,
            charge: 0,
            allocated: 0,
            wants: 0,
            pinned: 0,
            moves: 0,
            restraint: 0,
        };
        store.recount();
        store
    }

    /// An empty store to take the place of this one.
    pub(crate) fn anew(&self) -> Self {
        let shape = Shape { unit: self.entries.unit, expected: self.expected };
        Self::new(shape, self.policy.fork(self.policy.leads()))
    }

    /// Changes how many entries are expected.
    pub(crate) const fn expect(&mut self, expected: usize) {
        self.expected = expected;
    }

    pub(crate) const fn len(&self) -> usize {
        self.entries.slab.len()
    }

    /// How much of the capacity it takes up.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        match self.entries.unit {
            Unit::Entries => self.len(),
            Unit::Bytes => self.weight.wrapping_add(self.allocated),
        }
    }

    /// What is charged for the entries, their slots aside.
    pub(crate) const fn charge(&self) -> usize {
        self.charge
    }

    /// Changes when entries change slots.
    pub(crate) const fn moves(&self) -> u32 {
        self.moves
    }

    /// Bytes that the store itself has allocated.
    pub(crate) const fn bytes(&self) -> usize {
        self.allocated
    }

    pub(crate) const fn pinned(&self) -> usize {
        self.pinned
    }

    pub(crate) const fn policy(&self) -> &O::Policy {
        &self.policy
    }

    /// What has been allocated, asked of those who did.
    fn count_bytes(&self) -> usize {
        self.table.bytes() + self.entries.slab.bytes() + self.policy.bytes()
    }

    /// After memory came or went.
    fn recount(&mut self) {
        self.allocated = self.count_bytes();
        self.wants = self.plan_for(true, false).map_or(0, |plan| plan.bytes);
    }

    /// The token of the entry with this hash for whose key `eq` holds.
    #[inline(always)]
    pub(crate) fn find(&self, hash: u32, eq: impl FnMut(&K) -> bool) -> Option<u32> {
        self.get(hash, eq).map(|(token, _)| token)
    }

    /// The entry with this hash for whose key `eq` holds, and its token.
    #[inline(always)]
    pub(crate) fn get(
        &self,
        hash: u32,
        mut eq: impl FnMut(&K) -> bool,
    ) -> Option<(u32, &Entry<K, V, O>)> {
        let slab = &self.entries.slab;
        self.table.find(hash, |token| {
            let entry = slab.get(token);
            eq(&entry.key).then_some((token, entry))
        })
    }

    /// As [`get`](Self::get), if it is not where nearly all are.
    #[inline(always)]
    pub(crate) fn get_elsewhere(
        &self,
        hash: u32,
        mut eq: impl FnMut(&K) -> bool,
    ) -> Option<&Entry<K, V, O>> {
        let slab = &self.entries.slab;
        self.table.find_on(hash, &mut |token| {
            let entry = slab.get(token);
            eq(&entry.key).then_some(entry)
        })
    }

    /// As [`get`](Self::get), if it is where nearly all are.
    #[inline(always)]
    pub(crate) fn get_at_home(
        &self,
        hash: u32,
        mut eq: impl FnMut(&K) -> bool,
    ) -> Result<&Entry<K, V, O>, Elsewhere> {
        let slab = &self.entries.slab;
        self.table.find_at_home(hash, |token| {
            let entry = slab.get(token);
            eq(&entry.key).then_some(entry)
        })
    }

    /// The entry of `token`, which is of this store.
    #[inline]
    pub(crate) fn entry(&self, token: u32) -> &Entry<K, V, O> {
        self.entries.slab.get(token)
    }

    /// Tells the policy that the entry was read, under the exclusive lock.
    #[inline]
    pub(crate) fn touch(&mut self, token: u32) {
        if self.entry(token).node.place != Place::Pinned {
            self.policy.touch(&mut self.entries, token);
        }
    }

    /// Tells the policy of a hit that was [not counted](Node::hit), under the shared lock.
    #[cold]
    #[inline(never)]
    pub(crate) fn note(&self, entry: &Entry<K, V, O>) {
        self.policy.note(&entry.node, entry.hash);
    }

    /// What has to be allocated before another entry fits.
    #[inline]
    pub(crate) const fn lacks(&self) -> bool {
        self.entries.slab.is_full() || self.table.is_full()
    }

    /// Bytes of what would be allocated next: of at least what [`plan`](Self::plan) will say, if
    /// the store lacks anything.
    #[inline]
    pub(crate) const fn wants(&self) -> usize {
        self.wants
    }

    /// Whether it should rather do without growth for now.
    #[inline]
    pub(crate) const fn restrains(&mut self) -> bool {
        if self.restraint == 0 {
            return false;
        }
        self.restraint -= 1;
        true
    }

    /// Growth was refused: the next insertions do without, so that not each one asks.
    pub(crate) fn restrain(&mut self) {
        self.restraint =
            u32::try_from(Slab::<Entry<K, V, O>>::chunk_slots()).unwrap_or(u32::MAX).min(256);
    }

    /// What to allocate if the store [lacks](Self::lacks) room.
    ///
    /// # Errors
    /// If there are no tokens for more entries.
    #[cold]
    pub(crate) fn plan(&self) -> Result<Plan, MemoryError> {
        self.plan_for(self.entries.slab.is_full(), self.table.is_full())
    }

    fn plan_for(&self, chunk: bool, table: bool) -> Result<Plan, MemoryError> {
        let slab = &self.entries.slab;
        let mut plan = Plan::default();
        let mut slots = slab.slots();
        if chunk {
            if !slab.has_tokens() {
                return Err(MemoryError::CapacityExceeded {
                    requested: 1,
                    available: 0,
                    align: Align::ONE,
                });
            }
            plan.chunk = true;
            slots += Slab::<Entry<K, V, O>>::chunk_slots();
            plan.spine = slab.wanted_spine().unwrap_or(0);
            plan.policy = self.policy.wanted(slots);
            plan.bytes = Slab::<Entry<K, V, O>>::chunk_bytes()
                + Slab::<Entry<K, V, O>>::spine_bytes(plan.spine)
                + plan.policy;
        }
        if table
            || Buckets::wanted(self.len() + 1) > self.table.buckets()
            || !self.table.has_bits_for(slots)
        {
            // Twice as large, but not larger than is expected to be of use.
            let len = self.len() + 1;
            let tokens = (len * 2)
                .min(self.expected.max(len + len / 8))
                .max(Slab::<Entry<K, V, O>>::chunk_slots());
            plan.buckets = Buckets::wanted(tokens).max(self.table.buckets());
            plan.bits = Table::bits_for(slots);
            plan.bytes += Buckets::bytes_of(plan.buckets, plan.bits);
        }
        Ok(plan)
    }

    /// Allocates what `plan` says, `plan.bytes` bytes.
    pub(crate) fn allocate(
        plan: &Plan,
        policy: impl FnOnce(usize) -> Result<<O::Policy as Policy>::Memory, TryReserveError>,
    ) -> Result<Growth<K, V, O>, MemoryError> {
        let bytes = plan.bytes;
        let failed = |_| MemoryError::OutOfMemory { requested: bytes, align: Align::ONE };
        let mut growth =
            Growth { chunk: None, spine: Spine::new(), table: Buckets::none(), policy: None };
        if plan.chunk {
            growth.chunk = Some(Slab::allocate_chunk().map_err(failed)?);
        }
        if plan.spine > 0 {
            growth.spine = Slab::<Entry<K, V, O>>::allocate_spine(plan.spine).map_err(failed)?;
        }
        if plan.buckets > 0 {
            growth.table = Buckets::allocate(plan.buckets, plan.bits).map_err(failed)?;
        }
        if plan.policy > 0 {
            growth.policy = Some(policy(plan.policy).map_err(failed)?);
        }
        debug_assert_eq!(growth.bytes(), bytes, "what was charged is what is allocated");
        Ok(growth)
    }

    /// Takes over what it has a use for; what is in `growth` afterwards is to be freed.
    pub(crate) fn adopt(&mut self, growth: &mut Growth<K, V, O>) {
        let slab = &mut self.entries.slab;
        if let Some(chunk) = growth.chunk.take() {
            // A chunk whose tokens the table can't tell apart would be of no use.
            let slots = slab.slots() + Slab::<Entry<K, V, O>>::chunk_slots();
            let fits = self.table.has_bits_for(slots) || growth.table.has_bits_for(slots);
            slab.adopt_spine(&mut growth.spine);
            growth.chunk = if fits { slab.adopt_chunk(chunk) } else { Some(chunk) };
        }
        if let Some(memory) = growth.policy.take() {
            growth.policy = Some(self.policy.adopt(memory));
        }
        let slots = self.entries.slab.slots();
        let better = growth.table.len() > self.table.buckets()
            || (growth.table.len() == self.table.buckets() && !self.table.has_bits_for(slots));
        if better && growth.table.has_bits_for(slots) {
            let memory = std::mem::replace(&mut growth.table, Buckets::none());
            growth.table = self.table.replace(memory);
            let mut from = 0;
            while let Some(token) = self.entries.slab.next_occupied(from) {
                self.table.insert(self.entries.slab.get(token).hash, token);
                from = token + 1;
            }
        }
        self.recount();
    }

    /// Asks the policy what it remembers of a key that is about to come in.
    #[inline]
    pub(crate) fn admit(&mut self, hash: u32) -> Newcomer {
        self.policy.admit(hash)
    }

    /// Adds an entry whose key is not in the store, which must not [lack](Self::lacks) room.
    #[inline]
    pub(crate) fn insert(&mut self, entry: Entry<K, V, O>, newcomer: Newcomer) -> u32 {
        self.weight = self.weight.wrapping_add(entry.kept.weight.weight());
        self.charge = self.charge.wrapping_add(entry.charge());
        let (hash, deadline) = (entry.hash, entry.kept.times.deadline());
        let token = self.entries.slab.insert(entry);
        self.table.insert(hash, token);
        self.policy.insert(&mut self.entries, token, newcomer);
        self.schedule.link(&mut self.entries, token, deadline);
        token
    }

    /// Puts a value in the place of another; a replacement counts as a hit. Returns the old value,
    /// and what was kept with it.
    pub(crate) fn replace(&mut self, token: u32, value: V, mut kept: Kept<O>) -> (V, Kept<O>) {
        let old_weight = self.entries.weight(token);
        let deadline = kept.times.deadline();
        let links = self.schedule.succeed(&mut self.entries, token, deadline);
        if let Some(links) = links {
            *kept.times.links_mut() = links;
        }
        self.weight = self.weight.wrapping_add(kept.weight.weight());
        self.charge = self.charge.wrapping_add(kept.weight.charge());
        let entry = self.entries.slab.get_mut(token);
        let old = std::mem::replace(&mut entry.value, value);
        let old_kept = std::mem::replace(&mut entry.kept, kept);
        self.weight = self.weight.wrapping_sub(old_kept.weight.weight());
        self.charge = self.charge.wrapping_sub(old_kept.weight.charge());
        if links.is_none() {
            self.schedule.link(&mut self.entries, token, deadline);
        }
        if self.entry(token).node.place != Place::Pinned {
            self.policy.reweigh(&self.entries, token, old_weight);
            self.policy.touch(&mut self.entries, token);
        }
        (old, old_kept)
    }

    /// Takes the entry of `token` out.
    pub(crate) fn remove(&mut self, token: u32) -> Entry<K, V, O> {
        if self.entry(token).node.place == Place::Pinned {
            self.pinned -= 1;
        } else {
            self.policy.remove(&mut self.entries, token);
        }
        self.detach(token)
    }

    /// Takes out an entry that is due at `now`, as far as it is kept when entries are, after looking
    /// at `left` of them at most, and counts those.
    pub(crate) fn take_due(&mut self, now: u64, left: &mut usize) -> Option<Entry<K, V, O>> {
        let token = self.schedule.pop(&mut self.entries, now, left)?;
        Some(self.remove(token))
    }

    /// Takes out the entry that the policy chooses.
    pub(crate) fn evict(&mut self, newcomer: Option<&Newcomer>) -> Option<Entry<K, V, O>> {
        let victim = self.choose(newcomer)?;
        Some(self.detach(victim))
    }

    /// Has the policy choose an entry to evict and let go of it: it has to be
    /// [detached](Self::detach) or [supplanted](Self::supplant) next.
    #[inline(always)]
    pub(crate) fn choose(&mut self, newcomer: Option<&Newcomer>) -> Option<u32> {
        self.policy.evict(&mut self.entries, newcomer)
    }

    /// Has the policy choose an entry whose slot a new one gets that weighs as much, and whose place
    /// it gets as well if a node is returned: it has to be [supplanted](Self::supplant) next.
    #[inline(always)]
    pub(crate) fn exchange(&mut self, newcomer: Newcomer) -> Option<(u32, Option<Node>)> {
        self.policy.exchange(&mut self.entries, newcomer)
    }

    /// Puts a new entry, whose key is not in the store, in the slot of one that the policy has let
    /// go of.
    #[inline(always)]
    pub(crate) fn supplant(&mut self, victim: u32, arrival: Arrival<K, V, O>) -> Entry<K, V, O> {
        let Arrival { mut entry, newcomer, node } = arrival;
        self.weight = self.weight.wrapping_add(entry.kept.weight.weight());
        self.charge = self.charge.wrapping_add(entry.charge());
        let (hash, deadline) = (entry.hash, entry.kept.times.deadline());
        let links = self.schedule.succeed(&mut self.entries, victim, deadline);
        if let Some(links) = links {
            *entry.kept.times.links_mut() = links;
        }
        let is_known = node.is_some();
        if let Some(node) = node {
            entry.node = node;
        }
        let old = self.entries.slab.replace(victim, entry);
        self.table.exchange(old.hash, hash, victim);
        self.weight = self.weight.wrapping_sub(old.kept.weight.weight());
        self.charge = self.charge.wrapping_sub(old.charge());
        if !is_known {
            self.policy.insert(&mut self.entries, victim, newcomer);
        }
        if links.is_none() {
            self.schedule.link(&mut self.entries, victim, deadline);
        }
        old
    }

    /// As [`supplant`](Self::supplant), for who has a use for the entry that leaves.
    #[inline(never)]
    pub(crate) fn supplant_and_keep(
        &mut self,
        victim: u32,
        arrival: Arrival<K, V, O>,
    ) -> Entry<K, V, O> {
        self.supplant(victim, arrival)
    }

    /// Takes out an entry that the policy has let go of.
    #[inline]
    pub(crate) fn detach(&mut self, token: u32) -> Entry<K, V, O> {
        self.schedule.unlink(&mut self.entries, token);
        let entry = self.entries.slab.remove(token);
        self.table.remove(entry.hash, token);
        self.weight = self.weight.wrapping_sub(entry.kept.weight.weight());
        self.charge = self.charge.wrapping_sub(entry.charge());
        entry
    }

    /// Keeps the policy from evicting an entry, or lets it again. Whether that changed anything.
    pub(crate) fn pin(&mut self, token: u32, pinned: bool) -> bool {
        if self.entry(token).is_pinned() == pinned {
            return false;
        }
        if pinned {
            self.policy.remove(&mut self.entries, token);
            self.entries.node_mut(token).place = Place::Pinned;
            self.pinned += 1;
        } else {
            self.pinned -= 1;
            self.entries.node_mut(token).place = Place::First;
            self.policy.restore(&mut self.entries, token);
        }
        true
    }

    /// Bytes that [`compact`](Self::compact) would free. O(1).
    pub(crate) fn spare_bytes(&self) -> usize {
        self.entries.slab.spare_chunks() * Slab::<Entry<K, V, O>>::chunk_bytes()
    }

    /// Whether so much could be freed by [`compact`](Self::compact) that it is worth the while: an
    /// eighth of the chunks.
    #[inline]
    pub(crate) fn is_sparse(&self) -> bool {
        let spare = self.entries.slab.spare_chunks();
        spare > 0 && spare * 8 >= self.entries.slab.chunks()
    }

    /// Moves entries together and frees the chunks left over. O(slots) if there are any.
    pub(crate) fn compact(&mut self) {
        let chunks = self.entries.slab.spare_chunks();
        if chunks == 0 {
            return;
        }
        self.moves = self.moves.wrapping_add(1);
        let (entries, table, policy) = (&mut self.entries, &mut self.table, &mut self.policy);
        let mut cursor = entries.slab.begin_shrink(chunks);
        while let Some((from, to)) = entries.slab.shrink_step(&mut cursor) {
            table.rename(entries.hash(to), from, to);
            self.schedule.relocate(entries, to);
            if entries.node(to).place != Place::Pinned {
                policy.relocate(entries, from, to);
            }
        }
        entries.slab.end_shrink(&cursor);
        self.recount();
    }

    /// Calls `each` with the slots of all entries, coldest first as far as the policy knows; pinned
    /// ones last.
    #[cfg(feature = "codec")]
    pub(crate) fn coldest_first(&self, mut each: impl FnMut(u32)) {
        self.policy.coldest_first(&self.entries, &mut each);
        let mut from = 0;
        while let Some(slot) = self.next_from(from).filter(|_| self.pinned > 0) {
            if self.entry(slot).is_pinned() {
                each(slot);
            }
            from = slot + 1;
        }
    }

    /// The first slot from `from` on that holds an entry.
    pub(crate) fn next_from(&self, from: u32) -> Option<u32> {
        self.entries.slab.next_occupied(from)
    }

    /// Checks table, slab, policy and sums against each other.
    pub(crate) fn validate(&self) -> Result<(), String> {
        self.entries.slab.validate()?;
        let (mut weight, mut charge, mut from) = (0_usize, 0_usize, 0);
        let (mut pinned, mut known) = (0, 0);
        let mut tokens = Vec::new();
        while let Some(token) = self.next_from(from) {
            let entry = self.entry(token);
            tokens.push((entry.hash, token));
            weight = entry.kept.weight.weight().wrapping_add(weight);
            charge = entry.charge().wrapping_add(charge);
            if entry.is_pinned() {
                pinned += 1;
            } else {
                known += self.entries.weight(token);
            }
            from = token + 1;
        }
        let expiring = tokens.iter().map(|&(_, token)| token);
        self.schedule.validate(&self.entries, expiring)?;
        self.table.validate(tokens.into_iter())?;
        if self.count_bytes() != self.allocated {
            let (real, counted) = (self.count_bytes(), self.allocated);
            return Err(format!("{real} bytes are allocated, {counted} counted"));
        }
        if (weight, charge, pinned) != (self.weight, self.charge, self.pinned) {
            return Err(format!(
                "entries weigh {weight} and are charged {charge}, {pinned} are pinned; not {}, {} \
                 and {}",
                self.weight, self.charge, self.pinned
            ));
        }
        self.policy.validate(&self.entries, self.len() - pinned, known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counted, PolicyKind, S3Fifo, Timed, Untimed, Weighed, With, slab::Slot};

    type Plain = With<S3Fifo>;

    #[test]
    fn a_slot_of_two_words_takes_two_more() {
        assert_eq!(size_of::<Slot<Entry<u64, u64, Plain>>>(), 32);
    }

    #[test]
    fn what_is_not_kept_takes_no_bytes() {
        const WORD: usize = size_of::<usize>();
        assert_eq!(size_of::<Slot<Entry<u64, u64, With<S3Fifo, Weighed>>>>(), 32 + WORD);
        assert_eq!(size_of::<Slot<Entry<u64, u64, With<S3Fifo, Counted, Timed>>>>(), 40);
        assert_eq!(size_of::<Slot<Entry<u64, u64, With<S3Fifo, Counted, Untimed>>>>(), 32);
    }

    fn hash_of(key: u32) -> u32 {
        key.wrapping_mul(0x9E37_79B9)
    }

    fn store(expected: usize) -> Store<u32, (), Plain> {
        let shape = Shape { unit: Unit::Entries, expected };
        Store::new(shape, Policy::new(PolicyKind::default()))
    }

    fn put(store: &mut Store<u32, (), Plain>, key: u32) {
        while store.lacks() {
            let plan = store.plan().unwrap();
            assert!(plan.bytes <= store.wants() || !store.entries.slab.is_full());
            let mut growth = Store::allocate(&plan, |bytes| store.policy.allocate(bytes)).unwrap();
            store.adopt(&mut growth);
        }
        let hash = hash_of(key);
        let newcomer = store.admit(hash);
        let kept = Kept { weight: Counted, times: Untimed, tags: crate::Untagged };
        store.insert(Entry::new(key, (), kept, hash), newcomer);
    }

    #[test]
    fn steady_traffic_needs_no_more_memory() {
        let mut store = store(40);
        let (mut bytes, mut oldest) = (0, 0);
        for key in 0..20_000_u32 {
            if store.len() == 40 {
                let token = store.find(hash_of(oldest), |&other| other == oldest).unwrap();
                assert_eq!(store.remove(token).key, oldest);
                oldest += 1;
            }
            put(&mut store, key);
            if key == 100 {
                bytes = store.bytes();
            }
        }
        assert_eq!(store.bytes(), bytes);
        store.validate().unwrap();
    }

    #[test]
    fn a_store_compacts_and_keeps_what_it_has() {
        let mut store = store(2000);
        (0..2000).for_each(|key| put(&mut store, key));
        let full = store.bytes();
        for key in (0..2000).filter(|key| key % 10 != 0) {
            let token = store.find(hash_of(key), |&other| other == key).unwrap();
            store.remove(token);
        }
        assert!(store.is_sparse());
        let pinned = store.find(hash_of(1990), |&other| other == 1990).unwrap();
        assert!(store.pin(pinned, true));
        let spare = store.spare_bytes();
        store.compact();
        assert_eq!(store.bytes(), full - spare);
        store.validate().unwrap();
        for key in (0..2000).step_by(10) {
            assert!(store.find(hash_of(key), |&other| other == key).is_some());
        }
    }
}
