//! Walks over all entries: a slot at a time, so that no lock is held for long and no user code runs
//! under one.

use std::sync::atomic::Ordering::Relaxed;

use crate::{
    Kit, RemovalCause, engine::Engine, mode::Mode, shard::Shard, store::Entry, tags::sealed::Tags,
    times::sealed::Times,
};

/// Slots that a walk looks at in one hold of a lock.
const STRIDE: u32 = 64;

/// Where a walk over all entries is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Walk {
    shard: usize,
    from: u32,
    moves: Option<u32>,
}

impl<K, V, O: Kit, M: Mode> Engine<K, V, O, M> {
    /// The next entry that is not expired, as `read` sees it.
    ///
    /// An entry that is there all the while is met at least once: if entries change slots
    /// meanwhile, the walk begins anew in their shard.
    pub(crate) fn next_entry<R>(
        &self,
        walk: &mut Walk,
        mut read: impl FnMut(&Entry<K, V, O>) -> R,
    ) -> Option<R> {
        let now = self.now();
        while let Some(shard) = self.shards.get(walk.shard) {
            let store = shard.read();
            if walk.moves != Some(store.moves()) {
                (walk.from, walk.moves) = (0, Some(store.moves()));
            }
            while let Some(slot) = store.next_from(walk.from) {
                walk.from = slot + 1;
                let entry = store.entry(slot);
                if !entry.kept.times.is_expired(now) {
                    return Some(read(entry));
                }
            }
            *walk = Walk { shard: walk.shard + 1, ..Walk::default() };
        }
        None
    }

    /// Removes the entries for which `wanted` holds, which is not user code. Returns how many.
    pub(crate) fn remove_where(
        &self,
        cause: RemovalCause,
        wanted: impl Fn(&Entry<K, V, O>) -> bool,
    ) -> usize {
        let mut removed = 0;
        for shard in 0..self.shards.len() {
            let (mut from, mut moves) = (0, None);
            while let Some(next) = self.sweep(shard, from, STRIDE, &mut moves, cause, &wanted) {
                (from, removed) = (next.0, removed + next.1);
            }
        }
        removed
    }

    /// Looks at the slots from `from` on, `stride` of them at most, and takes out those wanted.
    /// Returns the slot to go on from and how many were taken out; `None` at the end.
    fn sweep(
        &self,
        shard: usize,
        from: u32,
        stride: u32,
        moves: &mut Option<u32>,
        cause: RemovalCause,
        wanted: impl Fn(&Entry<K, V, O>) -> bool,
    ) -> Option<(u32, usize)> {
        let mut bag = self.bag();
        let (from, removed) = {
            let mut store = self.shards[shard].write();
            let from = if *moves == Some(store.moves()) { from } else { 0 };
            *moves = Some(store.moves());
            let before = store.held();
            let (mut at, mut removed) = (store.next_from(from)?, 0);
            let end = at.saturating_add(stride);
            loop {
                if wanted(store.entry(at)) {
                    let entry = store.remove(at);
                    store.count_removals(cause, 1);
                    bag.put(entry, cause);
                    removed += 1;
                }
                at += 1;
                if bag.is_full() {
                    break;
                }
                match store.next_from(at) {
                    Some(next) if next < end => at = next,
                    _ => break,
                }
            }
            bag.room.take_over(before - store.held());
            (at, removed)
        };
        self.let_go(bag);
        Some((from, removed))
    }

    /// Removes the entries that have this tag.
    pub(crate) fn invalidate_tag(&self, tag: u32) -> usize {
        self.remove_where(RemovalCause::Removed, |entry| entry.kept.tags.has(tag))
    }

    /// Looks at `slots` slots at most, where the last call ended, and removes what is expired.
    /// Returns how many.
    pub(crate) fn maintain(&self, slots: usize) -> usize {
        self.serve_request();
        if !O::Times::KEPT {
            return 0;
        }
        let now = self.now();
        let (mut left, mut removed, mut ends) = (slots, 0, 0);
        // Two sweeps at once may look at the same slots, which does no harm.
        let swept = self.swept.load(Relaxed);
        let (mut shard, mut from) = split(swept);
        shard %= self.shards.len();
        while left > 0 && ends <= self.shards.len() {
            let stride = STRIDE.min(u32::try_from(left).unwrap_or(STRIDE));
            let mut moves = Some(self.shards[shard].read().moves());
            let due = |entry: &Entry<K, V, O>| entry.kept.times.is_expired(now);
            match self.sweep(shard, from, stride, &mut moves, RemovalCause::Expired, due) {
                Some((next, taken)) => {
                    left = left.saturating_sub(next.saturating_sub(from).max(1) as usize);
                    (from, removed) = (next, removed + taken);
                }
                None => {
                    (shard, from) = ((shard + 1) % self.shards.len(), 0);
                    ends += 1;
                }
            }
        }
        self.swept.store((shard as u64) << 32 | u64::from(from), Relaxed);
        removed
    }

    /// Removes what is due, as far as a look at `most` scheduled entries goes: how many were expired,
    /// and how many are left of `most`.
    pub(crate) fn expire_due(&self, most: usize) -> (usize, usize) {
        let now = self.now();
        let (mut expired, mut left) = (0, most);
        for shard in &self.shards {
            let mut done = false;
            while !done {
                let mut bag = self.bag();
                {
                    let mut store = shard.write();
                    let before = store.held();
                    while !bag.is_full() {
                        let Some(entry) = store.take_due(now, &mut left) else {
                            done = true;
                            break;
                        };
                        store.count_removals(RemovalCause::Expired, 1);
                        bag.put(entry, RemovalCause::Expired);
                        expired += 1;
                    }
                    let changed = !bag.is_empty();
                    bag.room.take_over(before - store.held());
                    store.let_go(changed);
                }
                self.let_go(bag);
            }
        }
        (expired, left)
    }

    /// Removes every entry, and frees the memory that held them.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            if self.hooks.has_listener() {
                self.clear_shown(shard);
            } else {
                self.clear_at_once(shard);
            }
        }
    }

    fn clear_at_once(&self, shard: &Shard<K, V, O, M>) {
        // Dropped in the other order: first what was in it, then its charge and its room.
        let mut bag = self.bag();
        let old = {
            let mut store = shard.write();
            store.count_removals(RemovalCause::Removed, store.len());
            let (before, empty) = (store.held(), store.anew());
            let old = std::mem::replace(&mut *store, empty);
            bag.room.take_over(before - store.held());
            bag.credit.bytes = old.charge().wrapping_add(old.bytes());
            old
        };
        let _inside = self.enter();
        drop(old);
        drop(bag);
    }

    /// Takes out entries a few at a time, to show them to the listener: as many as there are when it
    /// begins, so that who puts them back does not keep it busy for ever. What has been put in
    /// meanwhile stays.
    fn clear_shown(&self, shard: &Shard<K, V, O, M>) {
        let (mut from, mut moves) = (0, None);
        let mut left = shard.gauges().len();
        loop {
            let mut bag = self.bag();
            let mut emptied = None;
            {
                let mut store = shard.write();
                if moves != Some(store.moves()) {
                    (from, moves) = (0, Some(store.moves()));
                }
                let before = store.held();
                while !bag.is_full() && left > 0 {
                    let Some(slot) = store.next_from(from) else { break };
                    let entry = store.remove(slot);
                    store.count_removals(RemovalCause::Removed, 1);
                    bag.put(entry, RemovalCause::Removed);
                    (from, left) = (slot + 1, left - 1);
                }
                if bag.is_empty() && store.len() == 0 {
                    let bytes = store.bytes();
                    let empty = store.anew();
                    emptied = Some(std::mem::replace(&mut *store, empty));
                    bag.credit.bytes += bytes - store.bytes();
                }
                bag.room.take_over(before - store.held());
            }
            drop(emptied);
            let done = bag.is_empty();
            self.let_go(bag);
            if done {
                return;
            }
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the two halves are what was put together")]
const fn split(swept: u64) -> (usize, u32) {
    ((swept >> 32) as usize, swept as u32)
}
