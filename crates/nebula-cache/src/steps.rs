//! Placing an entry in steps, where it takes more than one hold of a lock.
//!
//! What a step finds missing (memory for the store, room in the capacity that other shards hold) is
//! provided between steps, while no lock is held. Everything taken on the way is given back on any way
//! out.

use std::sync::atomic::Ordering::Relaxed;

use nebula_memory_core::{
    Account, MemoryError, is_reclaiming,
    sync::{hint::spin_loop, thread::yield_now},
};

use crate::{
    Kit, RemovalCause,
    bag::Credit,
    engine::{BagOf, Engine, high},
    mode::Mode,
    place::{Placed, too_large},
    policy::{Newcomer, drive::Policy},
    room::Room,
    shard::{Held, Shard},
    store::{Arrival, Entry, Growth, Kept, Plan, Store, Unit},
    weight::sealed::Weight,
};

/// How often an entry on its way asks for memory or room before that is an error: a handful of
/// times, if there is room for both it and its slot.
const STEPS: usize = 10_000;

/// How often room is looked for in all shards, without finding anything to evict, while entries are
/// pinned, before that is an error. Who holds room without having placed an entry does so for a
/// moment only.
const PASSES: usize = 1000;

/// The same for passes one after the other in which nobody seemed to hold such room. (The figures are
/// not of one moment, so that it is more than one.)
const LONE_PASSES: usize = 8;

/// An entry on its way into a shard, with what has been taken for it.
pub(crate) struct Job<'c, K, V, O: Kit, M: Mode> {
    /// (First: given back before anything of the user's is dropped.)
    pub(crate) room: Room<'c, M>,
    pub(crate) hash: u64,
    pub(crate) now: u64,
    /// `None` once placed.
    pub(crate) pending: Option<(K, V, Kept<O>)>,
    /// What the policy remembers of the key.
    pub(crate) newcomer: Option<Newcomer>,
    /// Where the entry is, once placed.
    pub(crate) token: u32,
    /// The value that was cached under the key before.
    pub(crate) replaced: Option<V>,
    /// How much of the capacity it takes.
    pub(crate) weight: usize,
    pub(crate) pinned: bool,
    pub(crate) charge: Credit<'c, O::Account>,
    /// No memory is to be had for the store: it evicts for a slot instead of growing.
    pub(crate) recycle: bool,
}

/// Memory for a store, charged; credited for whatever is left in it when it is dropped.
struct Charged<'c, K, V, O: Kit, M: Mode> {
    memory: Growth<K, V, O>,
    credit: Credit<'c, O::Account>,
    room: Room<'c, M>,
}

/// How far a hold of the lock got.
enum Step {
    Done,
    /// The store needs memory.
    Grow,
    /// Room must be made elsewhere.
    Room,
    /// The bag is full.
    Again,
}

impl<K, V, O: Kit, M: Mode> Engine<K, V, O, M> {
    /// Places an entry in as many holds of the lock as it takes.
    #[inline(never)]
    pub(crate) fn place_in_steps<'c>(
        &'c self,
        shard: &Shard<K, V, O, M>,
        mut job: Job<'c, K, V, O, M>,
    ) -> Placed<K, V>
    where
        K: Eq,
    {
        match self.run(shard, &mut job) {
            Ok(()) => Ok((job.token, job.replaced.take())),
            Err(error) => match job.pending.take() {
                Some((key, value, _)) => Err(self.reject((key, value), error)),
                None => unreachable!("an entry that was placed is not refused"),
            },
        }
    }

    /// Provides what each step finds missing, and goes on until the entry is placed.
    fn run<'c>(
        &'c self,
        shard: &Shard<K, V, O, M>,
        job: &mut Job<'c, K, V, O, M>,
    ) -> Result<(), MemoryError>
    where
        K: Eq,
    {
        let mut step = self.hold(shard, job, None);
        let mut asked = 0;
        while asked < STEPS {
            // (What is left in it is freed before anything else is asked for.)
            let mut growth = None;
            match step {
                Step::Done => return Ok(()),
                Step::Again => {}
                Step::Room => {
                    self.make_room(job.hash, &mut job.room, job.weight)?;
                    asked += 1;
                }
                Step::Grow => {
                    growth = self.grow(shard, job)?;
                    asked += 1;
                }
            }
            step = self.hold(shard, job, growth.as_mut());
        }
        // There is room for the entry, and there is room for a slot, but not for both.
        Err(too_large(job.weight, self.total.free()))
    }

    /// Holds the lock for a step; what leaves the store on the way is shown to the listener and
    /// dropped after it.
    #[inline]
    fn hold(
        &self,
        shard: &Shard<K, V, O, M>,
        job: &mut Job<'_, K, V, O, M>,
        growth: Option<&mut Charged<'_, K, V, O, M>>,
    ) -> Step
    where
        K: Eq,
    {
        // (Ends after the bag.)
        let mut _inside = None;
        let mut bag = self.bag();
        let mut store = shard.write();
        if let Some(growth) = growth {
            let before = store.held();
            store.adopt(&mut growth.memory);
            growth.credit.bytes = growth.memory.bytes();
            // In entries, memory takes no room.
            growth.room.settle(store.held() - before);
        }
        let step = self.step(&mut store, job, &mut bag);
        drop(store);
        if !bag.is_empty() || bag.replaced.is_some() {
            _inside = self.enter();
        }
        self.hooks.show_all(&bag);
        if let Some((key, value, cause)) = bag.replaced.take() {
            drop(key);
            if cause != RemovalCause::Expired {
                job.replaced = Some(value);
            }
        }
        drop(bag);
        step
    }

    /// One hold of the lock. The only user code in it is `Eq`, before anything is changed.
    #[inline]
    fn step(
        &self,
        store: &mut Held<'_, K, V, O, M>,
        job: &mut Job<'_, K, V, O, M>,
        bag: &mut BagOf<'_, K, V, O, M>,
    ) -> Step
    where
        K: Eq,
    {
        let Some((key, _, _)) = &job.pending else { return Step::Done };
        let mut present = store.find(high(job.hash), |other| other == key);
        if present.is_none() && job.newcomer.is_none() {
            job.newcomer = Some(store.admit(high(job.hash)));
        }
        // An entry that the policy has let go of, whose slot the new one gets.
        let mut victim = None;
        loop {
            self.pay_excess(&mut job.room);
            // The room of an earlier value is the new one's.
            let there = present.map_or(0, |token| self.weight_of(store.entry(token)));
            let missing = job.weight.saturating_sub(there);
            let covered = (present.is_some() && missing == 0) || job.room.cover(missing);
            if covered && (present.is_some() || victim.is_some() || !store.lacks()) {
                break;
            }
            if let Some(victim) = victim.take() {
                // More has to go than one.
                let entry = store.detach(victim);
                let cause = Self::cause_of(&entry, job.now, RemovalCause::Capacity);
                store.count_removals(cause, 1);
                bag.put(entry, cause);
                continue;
            }
            if covered && !job.recycle && self.may_grow(store) {
                // Nobody should wait for this room while the account is asked.
                job.room.give_up();
                return Step::Grow;
            }
            if !covered {
                if self.unit == Unit::Bytes && store.is_sparse() {
                    let before = store.held();
                    store.compact();
                    bag.credit.bytes += before - store.held();
                    job.room.take_over(before - store.held());
                    // Entries have other tokens now.
                    return Step::Again;
                }
                if self.lends(store.held()) || self.may_borrow() {
                    return Step::Room;
                }
            }
            if bag.is_full() {
                return Step::Again;
            }
            let newcomer = job.newcomer.as_ref().filter(|_| present.is_none());
            let Some(token) = store.choose(newcomer) else {
                return if covered { Step::Grow } else { Step::Room };
            };
            job.room.take_over(self.weight_of(store.entry(token)));
            if present == Some(token) {
                present = None;
                job.newcomer.get_or_insert_with(|| store.admit(high(job.hash)));
                let entry = store.detach(token);
                // Nothing has taken its place yet, and perhaps nothing will.
                let cause = Self::cause_of(&entry, job.now, RemovalCause::Capacity);
                store.count_removals(cause, 1);
                bag.credit.bytes = bag.credit.bytes.wrapping_add(entry.charge());
                bag.replaced = Some((entry.key, entry.value, cause));
            } else {
                victim = Some(token);
            }
        }
        let Some((key, value, kept)) = job.pending.take() else { return Step::Done };
        let token = if let Some(token) = present {
            if let Some(victim) = victim {
                let entry = store.detach(victim);
                let cause = Self::cause_of(&entry, job.now, RemovalCause::Capacity);
                store.count_removals(cause, 1);
                bag.put(entry, cause);
            }
            let cause = Self::cause_of(store.entry(token), job.now, RemovalCause::Replaced);
            job.room.take_over(self.weight_of(store.entry(token)));
            let (old, old_kept) = store.replace(token, value, kept);
            store.count_removals(cause, 1);
            bag.credit.bytes = bag.credit.bytes.wrapping_add(old_kept.weight.charge());
            bag.replaced = Some((key, old, cause));
            if cause == RemovalCause::Expired {
                // A pin ends with its entry's time.
                store.pin(token, false);
            }
            token
        } else {
            let newcomer = job.newcomer.unwrap_or_default();
            let entry = Entry::new(key, value, kept, high(job.hash));
            if let Some(victim) = victim {
                let entry = store.supplant(victim, Arrival { entry, newcomer, node: None });
                let cause = Self::cause_of(&entry, job.now, RemovalCause::Capacity);
                store.count_removals(cause, 1);
                bag.put(entry, cause);
                victim
            } else {
                store.insert(entry, newcomer)
            }
        };
        if job.pinned {
            store.pin(token, true);
        }
        job.token = token;
        store.count_insert();
        // Both belong to the entry now.
        job.room.settle(job.weight);
        job.charge.bytes = 0;
        Step::Done
    }

    /// Whether the store should grow, rather than evict for a slot.
    #[inline]
    fn may_grow(&self, store: &mut Held<'_, K, V, O, M>) -> bool {
        let has_room =
            self.unit == Unit::Entries || self.total.free() >= store.wants() || self.may_borrow();
        has_room && !store.restrains()
    }

    /// Gets memory for the store, or has it do without.
    #[cold]
    fn grow<'c>(
        &'c self,
        shard: &Shard<K, V, O, M>,
        job: &mut Job<'c, K, V, O, M>,
    ) -> Result<Option<Charged<'c, K, V, O, M>>, MemoryError> {
        let plan = {
            let store = shard.read();
            if !store.lacks() {
                // Somebody else has seen to it.
                return Ok(None);
            }
            store.plan()
        };
        let weight = job.weight;
        let refused = match plan.and_then(|plan| self.allocate_if_free(&plan, weight)) {
            Ok(growth) => return Ok(Some(growth)),
            Err(error) => error,
        };
        let gauges = shard.gauges();
        if !job.recycle && gauges.len() > gauges.pinned() {
            job.recycle = true;
            shard.write().restrain();
            return Ok(None);
        }
        // The shard has nothing to evict: its first memory has to come from the others.
        if self.unit == Unit::Bytes {
            return self.grow_anew(shard, job).map(Some);
        }
        let plan = shard.read().plan()?;
        if plan.bytes == 0 {
            return Ok(None);
        }
        if self.give_back(plan.bytes, true) == 0 {
            return Err(self.account.explain(refused));
        }
        match self.allocate(&plan, Room::none(&self.total)) {
            Ok(growth) => Ok(Some(growth)),
            Err(error) => Err(self.account.explain(error)),
        }
    }

    /// Gets memory for a store in which there is nothing to evict, and room for the entry with it,
    /// at once: who held the one while asking for the other could wait for somebody who does the
    /// same.
    fn grow_anew<'c>(
        &'c self,
        shard: &Shard<K, V, O, M>,
        job: &mut Job<'c, K, V, O, M>,
    ) -> Result<Charged<'c, K, V, O, M>, MemoryError> {
        job.room.give_up();
        let mut bag = self.bag();
        let mut emptied = None;
        let plan = {
            let mut store = shard.write();
            if store.len() == 0 && store.bytes() > 0 {
                // What it has is not what it needs.
                let (held, empty) = (store.held(), store.anew());
                emptied = Some(std::mem::replace(&mut *store, empty));
                bag.credit.bytes = held - store.held();
                bag.room.take_over(held - store.held());
            }
            store.plan()
        };
        drop(emptied);
        drop(bag);
        let plan = plan?;
        let both = job.weight.saturating_add(plan.bytes);
        let most = self.most();
        if both > most {
            return Err(too_large(both, most));
        }
        self.make_room(job.hash, &mut job.room, both)?;
        let room = job.room.split(plan.bytes);
        match self.allocate(&plan, room) {
            Ok(growth) => Ok(growth),
            Err(_) => {
                // The account refuses. Others' entries can be charged less.
                self.give_back(plan.bytes, true);
                let mut room = Room::none(&self.total);
                if !room.cover(plan.bytes) {
                    job.room.give_up();
                    self.make_room(job.hash, &mut job.room, both)?;
                    room = job.room.split(plan.bytes);
                }
                self.allocate(&plan, room).map_err(|error| self.account.explain(error))
            }
        }
    }

    /// As [`allocate`](Self::allocate), if there is room, for an entry that weighs `weight` too,
    /// without evicting anything here.
    fn allocate_if_free<'c>(
        &'c self,
        plan: &Plan,
        weight: usize,
    ) -> Result<Charged<'c, K, V, O, M>, MemoryError> {
        let mut room = Room::none(&self.total);
        if self.unit == Unit::Bytes {
            // Memory without room for the entry would be given back at once.
            let both = plan.bytes.saturating_add(weight);
            if self.total.free() < both {
                self.borrow(both, false);
            }
            let free = self.total.free();
            if free < both || !room.cover(plan.bytes) {
                return Err(too_large(both, free));
            }
        }
        self.allocate(plan, room)
    }

    /// Charges and allocates what `plan` says, for which `room` is held where it takes any.
    fn allocate<'c>(
        &'c self,
        plan: &Plan,
        room: Room<'c, M>,
    ) -> Result<Charged<'c, K, V, O, M>, MemoryError> {
        self.account.try_charge(plan.bytes)?;
        let mut credit = Credit::of(&self.account, plan.bytes);
        let memory = Store::allocate(plan, |bytes| self.probe.allocate(bytes))?;
        credit.bytes = memory.bytes();
        Ok(Charged { memory, credit, room })
    }

    /// Has `room` hold `weight`, from wherever it is to be had: first from shards that hold more
    /// than their share, and last from the one of `hash`.
    #[cold]
    fn make_room(
        &self,
        hash: u64,
        room: &mut Room<'_, M>,
        weight: usize,
    ) -> Result<(), MemoryError> {
        let now = self.now();
        let (before, after) = self.shards.split_at(self.shard_index(hash) + 1);
        let (mut vain, mut lone) = (0, 0);
        if !room.cover(weight) {
            self.borrow(weight.saturating_sub(room.held()), weight > self.granted_most());
        }
        while weight <= self.granted_most() {
            let mut evicted = false;
            for least in [self.fair().max(1), 1] {
                for shard in after.iter().chain(before) {
                    loop {
                        if room.cover(weight) {
                            return Ok(());
                        }
                        if shard.gauges().held() < least {
                            break;
                        }
                        let freed = self.make_room_in(shard, room, weight, now);
                        self.pay_excess(room);
                        evicted |= freed;
                        if !freed {
                            break;
                        }
                    }
                }
            }
            if room.cover(weight) {
                return Ok(());
            }
            if !evicted {
                // All that is left belongs to entries that others are about to place (they may
                // need what this one holds; then there will be something to evict), or is pinned.
                room.give_up();
                vain += 1;
                if vain == 1 && self.expire_pinned() {
                    continue;
                }
                lone = if self.is_room_on_its_way() { 0 } else { lone + 1 };
                let has_waited = vain > PASSES || lone > LONE_PASSES;
                if is_reclaiming() || self.is_inside() || (has_waited && self.pinned() > 0) {
                    // What it would wait for may be waiting for this reclaim, or be held by this very
                    // thread for an entry within whose eviction this one is placed, or never come.
                    break;
                }
                // The first looks are not worth a turn of others if nobody seems to be there.
                if lone == 0 || lone > LONE_PASSES { yield_now() } else { spin_loop() }
            }
        }
        Err(too_large(weight, self.total.free()))
    }

    /// Whether somebody holds room for what is not placed yet, or has not given it back yet.
    fn is_room_on_its_way(&self) -> bool {
        let held = self.shards.iter().map(|shard| shard.gauges().held());
        self.total.taken() > held.fold(self.fixed_room(), usize::saturating_add)
    }

    /// Takes up to `most` out of the capacity, evicting as much as that takes; returns how much it
    /// was.
    pub(crate) fn yield_up(&self, most: usize) -> usize {
        let now = self.now();
        let mut room = Room::none(&self.total);
        loop {
            let mut evicted = false;
            for _ in 0..self.shards.len() {
                if room.cover(most) {
                    return room.take_out(most);
                }
                let turn = self.next.fetch_add(1, Relaxed) & (self.shards.len() - 1);
                evicted |= self.make_room_in(&self.shards[turn], &mut room, most, now);
            }
            if !evicted {
                // What is left is pinned, or on its way in, or what the cache itself takes.
                room.cover_some(most);
                return room.take_out(most);
            }
        }
    }

    /// Evicts a few entries of a shard for `room`; whether anything left.
    fn make_room_in(
        &self,
        shard: &Shard<K, V, O, M>,
        room: &mut Room<'_, M>,
        weight: usize,
        now: u64,
    ) -> bool {
        let mut bag = self.bag();
        let mut emptied = None;
        let freed = {
            let mut store = shard.write();
            let before = store.held();
            while !bag.is_full() && !room.cover(weight) {
                let held = store.held();
                let Some(entry) = store.evict(None) else { break };
                room.take_over(held - store.held());
                let cause = Self::cause_of(&entry, now, RemovalCause::Capacity);
                store.count_removals(cause, 1);
                bag.put(entry, cause);
            }
            if self.unit == Unit::Bytes && !room.cover(weight) {
                let held = store.held();
                if store.len() == 0 && store.bytes() > 0 {
                    let empty = store.anew();
                    emptied = Some(std::mem::replace(&mut *store, empty));
                } else if store.is_sparse() {
                    store.compact();
                }
                bag.credit.bytes += held - store.held();
                room.take_over(held - store.held());
            }
            before > store.held() || !bag.is_empty()
        };
        drop(emptied);
        self.let_go(bag);
        freed
    }
}
