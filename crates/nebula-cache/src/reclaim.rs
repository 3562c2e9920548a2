//! Giving memory back: by request, under pressure, before an insertion is refused, and when the
//! capacity is made smaller.

use std::sync::atomic::Ordering::Relaxed;

use nebula_memory_core::{MemoryError, PressureLevel, Reclaim};

use crate::{
    Capacity, Kit, RemovalCause,
    bag::Credit,
    engine::{Engine, expected, unit},
    mode::Mode,
    room::Room,
    shard::Shard,
    times::sealed::Times,
};

impl<K, V, O: Kit, M: Mode> Engine<K, V, O, M> {
    /// Each shard gives its part, in turns, beginning where the last call ended. No more entries leave
    /// than there are when it begins, so that who puts them back does not keep it busy for ever.
    pub(crate) fn give_back(&self, wanted: usize, wait: bool) -> usize {
        let shards = self.shards.len();
        let share = wanted.div_ceil(shards);
        let (mut given, mut left) = (0, self.len());
        loop {
            let before = given;
            for _ in 0..shards {
                if given >= wanted {
                    return given;
                }
                let turn = self.next.fetch_add(1, Relaxed) & (shards - 1);
                let part = share.min(wanted - given);
                let more = self.give_back_from(&self.shards[turn], part, wait, &mut left);
                given = more.saturating_add(given);
            }
            if given == before {
                return given;
            }
        }
    }

    /// Evicts until `wanted` bytes have been given back, but no more entries than there are, and than
    /// are `left`, which is counted down.
    fn give_back_from(
        &self,
        shard: &Shard<K, V, O, M>,
        wanted: usize,
        wait: bool,
        left: &mut usize,
    ) -> usize {
        let now = self.now();
        let (mut given, mut here) = (0, shard.gauges().len().min(*left));
        loop {
            let mut bag = self.bag();
            let mut emptied = None;
            let (freed, enough);
            {
                let held = if wait { Some(shard.write()) } else { shard.try_write() };
                let Some(mut store) = held else { return given };
                let (before, bytes) = (store.held(), store.bytes());
                let mut done;
                loop {
                    let spare = store.spare_bytes();
                    let all = bag.credit.bytes.saturating_add(given).saturating_add(spare);
                    done = all >= wanted || here == 0;
                    if done || bag.is_full() {
                        break;
                    }
                    let Some(entry) = store.evict(None) else {
                        done = true;
                        break;
                    };
                    let cause = Self::cause_of(&entry, now, RemovalCause::Reclaimed);
                    store.count_removals(cause, 1);
                    bag.put(entry, cause);
                    (here, *left) = (here - 1, *left - 1);
                }
                if done && store.len() == 0 {
                    // With the last entry goes all the rest: the table, and the policy's memory.
                    let empty = store.anew();
                    emptied = Some(std::mem::replace(&mut *store, empty));
                } else if done {
                    store.compact();
                }
                freed = bytes - store.bytes();
                bag.room.take_over(before - store.held());
                enough = done;
            }
            given = bag.credit.bytes.saturating_add(given).saturating_add(freed);
            let credit = Credit::of(&self.account, freed);
            drop(emptied);
            drop(credit);
            self.let_go(bag);
            if enough {
                return given;
            }
        }
    }

    /// Does what others have asked for, if anybody has and the cache can only do it here: on a
    /// thread that uses it.
    #[inline]
    pub(crate) fn serve_request(&self) {
        if self.request.is_waiting() {
            self.serve();
        }
    }

    #[cold]
    fn serve(&self) {
        if let Some(order) = self.request.take() {
            self.give_back(self.portion(order.bytes, order.urgency), true);
        }
    }

    /// How much of `wanted` is given at this level: at `Normal` and `Elevated` at most a quarter of
    /// what the cache holds, at `High` half, at `Critical` everything.
    fn portion(&self, wanted: usize, urgency: PressureLevel) -> usize {
        let held = self.reclaimable();
        let most = match urgency {
            PressureLevel::Normal | PressureLevel::Elevated => held / 4,
            PressureLevel::High => held / 2,
            PressureLevel::Critical => held,
        };
        wanted.min(most)
    }

    /// Bytes that could be given back.
    pub(crate) fn reclaimable(&self) -> usize {
        let bytes = self.shards.iter().map(|shard| shard.gauges().bytes());
        bytes.fold(0, usize::saturating_add)
    }

    /// Reclaims at once, or, if there is a listener to be told, asks for it to be done at the next
    /// call.
    pub(crate) fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        if self.hooks.has_listener() {
            return self.request.reclaim(wanted, urgency);
        }
        self.give_back(self.portion(wanted, urgency), false)
    }

    /// Changes how much the cache holds; evicts what is too much.
    pub(crate) fn set_capacity(&self, capacity: Capacity) -> Result<(), MemoryError> {
        if unit(capacity) != self.unit {
            let rule = "a cache counts entries or bytes, as it was built to, for its life";
            return Err(MemoryError::invalid_config("capacity", capacity, rule));
        }
        if self.tenancy.is_some() {
            let rule = "a partition's share is set by the cache that it is a partition of";
            return Err(MemoryError::invalid_config("capacity", capacity, rule));
        }
        if capacity.get() <= self.fixed_room() {
            let rule = "must be above zero, and more than the cache itself takes";
            return Err(MemoryError::invalid_config("capacity", capacity, rule));
        }
        self.total.set_capacity(capacity.get());
        let expected = expected(capacity, self.shards.len());
        for shard in &self.shards {
            shard.write().expect(expected);
        }
        self.fit();
        Ok(())
    }

    /// Evicts what is more than the capacity, which was lowered.
    #[cold]
    pub(crate) fn fit(&self) {
        while self.total.excess() > 0 {
            if !self.shrink_by_some() && !self.expire_pinned() {
                // What is left is pinned, or on its way in and will make room itself.
                break;
            }
        }
    }

    /// As [`fit`](Self::fit), after something that may have been in its way was removed, unpinned or
    /// placed.
    #[cold]
    pub(crate) fn fit_again(&self) {
        // Who is told of what is evicted here may have removed that, and is told of what leaves for it
        // in turn; but then the others are left to who is evicting, or this would go on and on.
        if self.times_inside() > 1 {
            return;
        }
        while self.total.excess() > 0 && self.shrink_by_some() {}
    }

    /// Gives up what was made room for if the capacity was lowered, and still more is taken.
    pub(crate) fn pay_excess(&self, room: &mut Room<'_, M>) {
        if self.total.excess() > 0 {
            room.give_up();
        }
    }

    /// Removes pinned entries whose time is over, and their pins with it: the policy does not come by
    /// those. Whether there were any. Takes O(slots) if there are pinned ones.
    #[cold]
    pub(crate) fn expire_pinned(&self) -> bool {
        if !O::Times::KEPT || self.pinned() == 0 {
            return false;
        }
        let now = self.now();
        self.remove_where(RemovalCause::Expired, |entry| {
            entry.is_pinned() && entry.kept.times.is_expired(now)
        }) > 0
    }

    /// Evicts a few entries from every shard that holds more than its share, or else from any.
    fn shrink_by_some(&self) -> bool {
        let now = self.now();
        let mut shrunk = false;
        for least in [self.fair() + 1, 1] {
            for shard in &self.shards {
                let excess = self.total.excess();
                if excess == 0 {
                    return true;
                }
                if shard.gauges().held() < least {
                    continue;
                }
                let mut bag = self.bag();
                let mut emptied = None;
                {
                    let mut store = shard.write();
                    let before = store.held();
                    while !bag.is_full() && before - store.held() < excess {
                        let Some(entry) = store.evict(None) else { break };
                        let cause = Self::cause_of(&entry, now, RemovalCause::Capacity);
                        store.count_removals(cause, 1);
                        bag.put(entry, cause);
                    }
                    let bytes = store.bytes();
                    if store.len() == 0 && bytes > 0 {
                        let empty = store.anew();
                        emptied = Some(std::mem::replace(&mut *store, empty));
                    } else if store.is_sparse() {
                        store.compact();
                    }
                    bag.credit.bytes += bytes - store.bytes();
                    bag.room.take_over(before - store.held());
                    shrunk |= before > store.held() || !bag.is_empty();
                }
                drop(emptied);
                self.let_go(bag);
            }
            if shrunk {
                return true;
            }
        }
        shrunk
    }
}
