//! The levels below level one, and the order in which they are told things.
//!
//! Everything that concerns one key and goes beyond level one happens within a flight of that key
//! (see `flight.rs`): lookups below, computations, insertions, removals, entries that level one
//! evicted. So for one key there is one thing at a time, none of which another can undo, and callers
//! who look for the same key share one lookup. No lock is held meanwhile.

use std::{
    hash::Hash,
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire},
    },
    time::Duration,
};

use nebula_memory_core::{Clock, panics::quietly, sync::Arc};

use super::{
    Demotion, Hit, Level, WhenFull,
    limbo::Limbo,
    queue::{Op, Queue},
    rules::Promoter,
    stats::count,
    tier::{Look, Tier},
};
use crate::{flight::Flights, hooks::Demote, times::NEVER};

/// `L` is what the levels are called by.
pub(crate) struct Lower<K, V, L: ?Sized = dyn Level<K, V>> {
    pub(crate) tiers: Box<[Tier<K, L>]>,
    pub(crate) flights: Flights<K, V>,
    pub(crate) limbo: Limbo,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) promoter: Promoter,
    pub(crate) demotion: Demotion,
    pub(crate) queue: Option<Queue<K, V>>,
    pub(crate) when_full: WhenFull,
    /// How often clearing everything has begun, and ended.
    clears: [AtomicU64; 2],
}

/// What was found below level one.
#[derive(Debug)]
pub(crate) struct Found<V> {
    pub(crate) value: V,
    /// On the clock: until when it lives.
    pub(crate) until: Option<Duration>,
    /// How many levels are between level one and it.
    pub(crate) above: usize,
}

/// A hash as flights and the queue use it.
pub(crate) const fn spread(hash: u32) -> u64 {
    // (A cast: this has to be const.)
    (hash as u64) << 32 | hash as u64
}

impl<K: Hash + Eq + Clone, V: Clone, L: ?Sized> Lower<K, V, L> {
    pub(crate) fn new(
        tiers: Box<[Tier<K, L>]>,
        stripes: usize,
        clock: Arc<dyn Clock>,
        promoter: Promoter,
        demotion: Demotion,
        queue: Option<(usize, WhenFull)>,
    ) -> Self {
        Self {
            tiers,
            flights: Flights::new(stripes),
            limbo: Limbo::new(),
            clock,
            promoter,
            demotion,
            queue: queue.map(|(capacity, _)| Queue::new(capacity)),
            when_full: queue.map(|(_, when_full)| when_full).unwrap_or_default(),
            clears: [const { AtomicU64::new(0) }; 2],
        }
    }

    /// How often everything has been cleared; `None` while it is being cleared.
    pub(crate) fn clears(&self) -> Option<u64> {
        let [begun, ended] = &self.clears;
        let ended = ended.load(Acquire);
        (begun.load(Acquire) == ended).then_some(ended)
    }

    /// Whether nothing was being cleared then, nor has been since: what was found then is right.
    pub(crate) fn is_as_it_was(&self, clears: Option<u64>) -> bool {
        clears == Some(self.clears[0].load(Acquire))
    }

    /// Has no level be asked for anything of what it holds until it has forgotten it all, and nothing
    /// that waits be written.
    pub(super) fn forget_all(&self) {
        // What level one has evicted and is on its way is not to arrive: neither what sees this, nor
        // what has been looked at before and then sees that there was a clear.
        self.limbo.touch_all();
        let [begun, ended] = &self.clears;
        begun.fetch_add(1, AcqRel);
        if let Some(queue) = &self.queue {
            queue.clear();
        }
        self.tiers.iter().for_each(Tier::doubt_all);
        ended.fetch_add(1, AcqRel);
    }

    /// What is queued for `key`: `Some(None)` if it is a removal, or a value that has expired.
    #[allow(clippy::option_option, reason = "nothing known, and nothing there")]
    pub(crate) fn find_queued(&self, hash: u32, key: &K) -> Option<Option<Found<V>>> {
        let queue = self.queue.as_ref()?;
        match queue.find(spread(hash), key)? {
            Op::Put { value, until, .. } => {
                if until.is_some_and(|until| until <= self.clock.now()) {
                    return Some(None);
                }
                queue.count_hit();
                Some(Some(Found { value: V::clone(&value), until, above: 0 }))
            }
            Op::Remove => Some(None),
        }
    }

    /// Queues what [`put`](Lower::put) is to do, or drops it; `false` if the caller has to do it.
    pub(crate) fn queue_put(
        &self,
        hash: u32,
        key: &K,
        value: &V,
        until: Option<Duration>,
        levels: usize,
        fresh: bool,
    ) -> bool {
        let Some(queue) = &self.queue else { return false };
        let op = Op::Put { value: Arc::new(value.clone()), until, levels, cleared: false };
        if queue.push(spread(hash), key, op).is_err() {
            if self.when_full == WhenFull::Write {
                count(&queue.written);
                return false;
            }
            count(&queue.dropped);
            for tier in &self.tiers[..levels] {
                count(&tier.counts.dropped);
                if fresh {
                    tier.doubt(key);
                }
            }
        }
        true
    }

    /// Queues a removal, or drops it; `false` if the caller has to do it.
    pub(crate) fn queue_removal(&self, hash: u32, key: &K) -> bool {
        let Some(queue) = &self.queue else { return false };
        if queue.push(spread(hash), key, Op::Remove).is_err() {
            if self.when_full == WhenFull::Write {
                count(&queue.written);
                return false;
            }
            count(&queue.dropped);
            self.tiers.iter().for_each(|tier| tier.doubt(key));
        }
        true
    }

    /// No level is to be asked about `key` until it has been told to remove it. For when
    /// what they were to be told is cut short, or wrong; does not panic itself.
    #[cold]
    pub(crate) fn doubt(&self, hash: u32, key: &K) {
        if let Some(queue) = &self.queue {
            let _ = quietly(|| queue.cancel(spread(hash), key));
        }
        for tier in &self.tiers {
            if quietly(|| tier.doubt(key)).is_none() {
                // Not even the key can be cloned.
                let _ = quietly(|| tier.doubt_all());
            }
        }
    }

    /// Takes over an entry that level one evicted, which `put` writes to the next level.
    pub(super) fn demote(
        &self,
        hash: u32,
        key: &K,
        value: &V,
        deadline: u64,
        put: impl FnOnce(Option<Duration>),
    ) {
        let until = (deadline != NEVER).then(|| Duration::from_nanos(deadline));
        if until.is_some_and(|until| until <= self.clock.now()) {
            return;
        }
        let clears = self.clears();
        // Whoever is at it with the key is later than this.
        let lead = self.flights.try_lead(spread(hash), key);
        match lead.filter(|_| self.limbo.is_current(hash)) {
            Some(lead) => {
                put(until);
                if self.is_as_it_was(clears) {
                    lead.land(|| value.clone());
                } else {
                    // It may have come in after the level was cleared.
                    self.doubt(hash, key);
                }
            }
            None => count(&self.tiers[0].counts.dropped),
        }
    }

    /// What was found in a level.
    pub(crate) fn found(&self, hit: Hit<V>, above: usize) -> Found<V> {
        let until = hit.ttl.map(|ttl| self.clock.now().saturating_add(ttl));
        Found { value: hit.value, until, above }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Lower<K, V> {
    /// Looks for `key` in each level, in their order. Within its flight.
    pub(crate) fn find(&self, hash: u32, key: &K) -> Option<Found<V>> {
        if let Some(queued) = self.find_queued(hash, key) {
            return queued;
        }
        for (above, tier) in self.tiers.iter().enumerate() {
            if let Look::Found(hit) = tier.get(key) {
                return Some(self.found(hit, above));
            }
        }
        None
    }

    /// Has the first `levels` levels hold `value`, now or soon. Within the key's flight. A value that
    /// is `fresh` makes what they hold wrong; others may be dropped without harm.
    pub(crate) fn put(
        &self,
        hash: u32,
        key: &K,
        value: &V,
        until: Option<Duration>,
        levels: usize,
        fresh: bool,
    ) {
        if !self.queue_put(hash, key, value, until, levels, fresh) {
            self.put_now(key, value, until, levels);
        }
    }

    /// Has no level hold anything under `key`, now or soon. Within its flight.
    pub(crate) fn remove(&self, hash: u32, key: &K) {
        if !self.queue_removal(hash, key) {
            self.remove_now(key);
        }
    }

    fn put_now(&self, key: &K, value: &V, until: Option<Duration>, levels: usize) {
        for tier in &self.tiers[..levels] {
            match until.map(|until| until.saturating_sub(self.clock.now())) {
                // Too late for it; but what is there is older still.
                Some(Duration::ZERO) => tier.remove(key),
                ttl => tier.put(key, value, ttl),
            }
        }
    }

    fn remove_now(&self, key: &K) {
        self.tiers.iter().for_each(|tier| tier.remove(key));
    }

    /// Has nothing that waits be written, and all levels forget what they hold, as soon as they can.
    pub(crate) fn clear(&self) {
        self.forget_all();
        self.tiers.iter().for_each(|tier| tier.pay(1));
    }

    /// What the thread does that writes behind.
    pub(crate) fn serve(&self) {
        let Some(queue) = &self.queue else { return };
        while let Some(mut job) = queue.next() {
            loop {
                // (Levels are guarded; this is for `Hash` and `Clone` of keys.)
                let _ = quietly(|| match &job.op {
                    Op::Put { value, until, levels, cleared } => {
                        self.put_now(&job.key, value, *until, *levels);
                        if *cleared {
                            self.tiers[*levels..].iter().for_each(|tier| tier.remove(&job.key));
                        }
                    }
                    Op::Remove => self.remove_now(&job.key),
                });
                match queue.finish(job) {
                    Some(next) => job = next,
                    None => break,
                }
            }
        }
    }
}

/// Hands what level one evicts to the levels below.
pub(crate) struct Demoter<K, V, L: ?Sized = dyn Level<K, V>>(pub(crate) Arc<Lower<K, V, L>>);

impl<K: Hash + Eq + Clone, V: Clone> Demote<K, V> for Demoter<K, V> {
    fn leaving(&self, hash: u32) {
        self.0.limbo.enter(hash);
    }

    fn left(&self, hash: u32, key: &K, value: &V, deadline: u64) {
        let put = |until| self.0.put(hash, key, value, until, 1, false);
        // If `Clone` panics, the value is lost to the levels below, and to nobody else.
        let _ = quietly(|| self.0.demote(hash, key, value, deadline, put));
        self.0.limbo.exit(hash);
    }
}
