//! Placing an entry: charge, make room, insert.
//!
//! No account is asked while a lock is held. So an entry is placed in steps, each one hold of its
//! shard's lock, and what a step finds missing (memory for the store, room in the capacity that
//! other shards hold) is provided between steps. Everything taken on the way is given back on any
//! way out.

use std::{
    hash::{BuildHasher, Hash},
    sync::atomic::Ordering::Relaxed,
};

use nebula_memory_core::{
    Account, Align, MemoryError, Refused, is_reclaiming, sync::thread::yield_now,
};

use crate::{
    ConcurrentComputeCache, Weigher,
    bag::{Bag, Credit},
    concurrent::{KeptOf, ShardOf, low},
    policy::S3Fifo,
    room::Room,
    shard::Held,
    store::{Entry, Growth, Plan, inline_weight},
    weigher::{Kept, sealed},
};

type HeldOf<'s, K, V, W> = Held<'s, K, V, KeptOf<K, V, W>, S3Fifo>;
type GrowthOf<K, V, W> = Growth<K, V, KeptOf<K, V, W>, S3Fifo>;

/// An entry on its way into a shard, with what has been taken for it.
struct Job<'c, K, V, A: Account, W: Weigher<K, V>> {
    hash: u64,
    /// `None` once placed.
    pending: Option<(K, V)>,
    /// The value that was cached under the key before.
    replaced: Option<V>,
    kept: KeptOf<K, V, W>,
    weight: usize,
    room: Room<'c>,
    charge: Credit<'c, A>,
    /// No memory is to be had for the store: it evicts for a slot instead of growing.
    recycle: bool,
}

/// Memory for a store, charged; credited for whatever is left in it when it is dropped.
struct Charged<'c, K, V, A: Account, W: Weigher<K, V>> {
    memory: GrowthOf<K, V, W>,
    credit: Credit<'c, A>,
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

impl<K, V, A, W, S> ConcurrentComputeCache<K, V, A, W, S>
where
    K: Hash + Eq,
    A: Account,
    W: Weigher<K, V>,
    S: BuildHasher,
{
    /// Places an entry whose key hashes to `hash`; returns the value that was there.
    pub(crate) fn place(&self, hash: u64, key: K, value: V) -> Result<Option<V>, Refused<(K, V)>> {
        let owned = sealed::Weigher::owned(&self.weigher, &key, &value);
        let kept = KeptOf::<K, V, W>::keep(owned);
        let weight = inline_weight::<K, V>().checked_add(kept.owned());
        let Some(weight) = weight.filter(|&weight| weight <= self.capacity()) else {
            let requested = weight.unwrap_or(usize::MAX);
            return Err(self.reject((key, value), too_large(requested, self.capacity())));
        };
        let charge = match self.charge(kept.owned()) {
            Ok(charge) => charge,
            Err(error) => return Err(self.reject((key, value), error)),
        };
        let mut job = Job {
            hash,
            pending: Some((key, value)),
            replaced: None,
            kept,
            weight,
            room: Room::none(&self.total),
            charge,
            recycle: false,
        };
        match self.run(&mut job) {
            Ok(()) => Ok(job.replaced.take()),
            Err(error) => match job.pending.take() {
                Some(entry) => Err(self.reject(entry, error)),
                None => unreachable!("an entry that was placed is not refused"),
            },
        }
    }

    fn reject(&self, entry: (K, V), error: MemoryError) -> Refused<(K, V)> {
        self.counters.rejected.fetch_add(1, Relaxed);
        Refused::new(entry, error)
    }

    /// Charges `bytes`, if need be after evicting as many.
    fn charge(&self, bytes: usize) -> Result<Credit<'_, A>, MemoryError> {
        if bytes != 0 && self.account.try_charge(bytes).is_err() {
            self.give_back(bytes, true);
            if let Err(error) = self.account.try_charge(bytes) {
                return Err(self.account.explain(error));
            }
        }
        Ok(Credit::of(&self.account, bytes))
    }

    #[inline]
    fn run(&self, job: &mut Job<'_, K, V, A, W>) -> Result<(), MemoryError> {
        let shard = self.shard(job.hash);
        match self.hold(shard, job, None) {
            Step::Done => Ok(()),
            step => self.run_on(shard, job, step),
        }
    }

    /// Provides what `step` found missing, and goes on until the entry is placed.
    #[cold]
    fn run_on(
        &self,
        shard: &ShardOf<K, V, W>,
        job: &mut Job<'_, K, V, A, W>,
        mut step: Step,
    ) -> Result<(), MemoryError> {
        loop {
            let mut growth = None;
            match step {
                Step::Done => return Ok(()),
                Step::Again => {}
                Step::Room => self.make_room(job)?,
                Step::Grow => growth = self.grow(shard, job)?,
            }
            step = self.hold(shard, job, growth.as_mut());
        }
    }

    /// Holds the lock for a step; what leaves the store on the way is dropped after it.
    #[inline]
    fn hold(
        &self,
        shard: &ShardOf<K, V, W>,
        job: &mut Job<'_, K, V, A, W>,
        growth: Option<&mut Charged<'_, K, V, A, W>>,
    ) -> Step {
        let mut bag = Bag::new(&self.account);
        let mut store = shard.write();
        if let Some(growth) = growth {
            store.adopt(&mut growth.memory);
            growth.credit.bytes = growth.memory.bytes();
        }
        let step = self.step(&mut store, job, &mut bag);
        drop(store);
        drop(bag);
        step
    }

    /// One hold of the lock. The only user code in it is `Eq`, before anything is changed.
    fn step(
        &self,
        store: &mut HeldOf<'_, K, V, W>,
        job: &mut Job<'_, K, V, A, W>,
        bag: &mut Bag<'_, K, V, A>,
    ) -> Step {
        let Some((key, _)) = &job.pending else { return Step::Done };
        let mut present = store.find(low(job.hash), |other| other == key);
        loop {
            // The room of an earlier value is the new one's.
            let there = present.map_or(0, |token| store.entry(token).weight());
            let covered = job.room.cover(job.weight.saturating_sub(there));
            if covered && (present.is_some() || !store.lacks()) {
                break;
            }
            if covered && !job.recycle {
                // Nobody should wait for this room while the account is asked.
                job.room.give_up();
                return Step::Grow;
            }
            // A shard that has lent most of its share to others does not pay for them.
            if !covered && self.shards.len() > 1 && store.weight() < self.fair / 2 {
                return Step::Room;
            }
            if bag.is_full() {
                return Step::Again;
            }
            let Some((token, entry)) = store.evict() else {
                return if covered { Step::Grow } else { Step::Room };
            };
            store.count_eviction();
            job.room.take_over(entry.weight());
            if present == Some(token) {
                present = None;
                bag.credit.bytes += entry.owned();
                bag.key = Some(entry.key);
                job.replaced = Some(entry.value);
            } else {
                bag.put(entry);
            }
        }
        let Some((key, value)) = job.pending.take() else { return Step::Done };
        if let Some(token) = present {
            job.room.take_over(store.entry(token).weight());
            let (old, owned) = store.replace(token, value, job.kept);
            bag.credit.bytes += owned;
            bag.key = Some(key);
            job.replaced = Some(old);
        } else {
            store.insert(Entry::new(key, value, job.kept, low(job.hash)));
        }
        store.count_insert();
        // Both belong to the entry now.
        job.room.settle(job.weight);
        job.charge.bytes = 0;
        Step::Done
    }

    /// Gets memory for the store, or has it do without.
    #[cold]
    fn grow(
        &self,
        shard: &ShardOf<K, V, W>,
        job: &mut Job<'_, K, V, A, W>,
    ) -> Result<Option<Charged<'_, K, V, A, W>>, MemoryError> {
        let plan = {
            let store = shard.read();
            if !store.lacks() {
                // Somebody else has seen to it.
                return Ok(None);
            }
            store.plan()
        };
        let refused = match plan.and_then(|plan| self.allocate(&plan)) {
            Ok(growth) => return Ok(Some(growth)),
            Err(error) => error,
        };
        if !job.recycle && shard.gauges().len() > 0 {
            job.recycle = true;
            return Ok(None);
        }
        // The shard has nothing to evict: its first memory has to come from the others.
        let plan = shard.read().plan()?;
        if plan.bytes == 0 {
            return Ok(None);
        }
        if self.give_back(plan.bytes, true) == 0 {
            return Err(self.account.explain(refused));
        }
        match self.allocate(&plan) {
            Ok(growth) => Ok(Some(growth)),
            Err(error) => Err(self.account.explain(error)),
        }
    }

    /// Charges and allocates what `plan` says.
    fn allocate(&self, plan: &Plan) -> Result<Charged<'_, K, V, A, W>, MemoryError> {
        self.account.try_charge(plan.bytes)?;
        let mut credit = Credit::of(&self.account, plan.bytes);
        let memory = plan.allocate()?;
        credit.bytes = memory.bytes();
        Ok(Charged { memory, credit })
    }

    /// Takes room for the whole entry, from wherever it is to be had: first from shards that hold
    /// more than their share.
    #[cold]
    fn make_room(&self, job: &mut Job<'_, K, V, A, W>) -> Result<(), MemoryError> {
        let (before, after) = self.shards.split_at(self.shard_index(job.hash) + 1);
        loop {
            let mut evicted = false;
            for least in [self.fair.max(1), 1] {
                for shard in after.iter().chain(before) {
                    if job.room.cover(job.weight) {
                        return Ok(());
                    }
                    if shard.gauges().weight() < least {
                        continue;
                    }
                    let mut bag = Bag::new(&self.account);
                    {
                        let mut store = shard.write();
                        while !bag.is_full() && !job.room.cover(job.weight) {
                            let Some((_, entry)) = store.evict() else { break };
                            store.count_eviction();
                            job.room.take_over(entry.weight());
                            bag.put(entry);
                        }
                    }
                    evicted |= !bag.is_empty();
                }
            }
            if job.room.cover(job.weight) {
                return Ok(());
            }
            if !evicted {
                // All that is left belongs to entries that others are about to place. They may
                // need what this one holds; then there will be something to evict.
                job.room.give_up();
                if is_reclaiming() {
                    // What it would wait for may be waiting for this reclaim.
                    return Err(too_large(job.weight, self.capacity() - self.weight()));
                }
                yield_now();
            }
        }
    }
}

#[cold]
fn too_large(requested: usize, available: usize) -> MemoryError {
    MemoryError::CapacityExceeded { requested, available, align: Align::ONE }
}
