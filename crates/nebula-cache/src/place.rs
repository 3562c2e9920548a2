//! Placing an entry: charge, make room, insert.
//!
//! No account is asked while a lock is held. Nearly always one hold of the lock of its shard is enough
//! to place an entry all the same; where it isn't, that is done in steps (`steps.rs`).

use std::{mem::needs_drop, sync::atomic::Ordering::Relaxed};

use nebula_memory_core::{Account, Align, MemoryError, Refused};

use crate::{
    EntryOptions, Kit, RemovalCause,
    bag::Credit,
    engine::{Engine, high},
    mode::Mode,
    policy::{Newcomer, Node},
    room::Room,
    shard::Held,
    slab::NONE,
    steps::Job,
    store::{Arrival, Entry, Kept, Unit},
    tags::sealed::Tags,
    times::{NEVER, nanos, sealed::Times},
    weight::sealed::Weight,
};

/// The token of an entry and the value that it took the place of, or the entry handed back.
pub(crate) type Placed<K, V> = Result<(u32, Option<V>), Refused<(K, V)>>;

/// How an entry can be placed in one hold of the lock.
enum Way {
    /// Under a key that is not there, in a slot that is free, with room taken for it.
    Insert(Newcomer),
    /// In the place of an entry of another key, which the policy has let go of; the node of the new
    /// one, if the policy has taken it in.
    Supplant(u32, Option<Node>, Newcomer),
    /// In the place of a value of the same key.
    Replace(u32),
    /// In steps.
    General,
}

impl<K, V, O: Kit, M: Mode> Engine<K, V, O, M> {
    /// Places an entry whose key hashes to `hash`; returns the value that was there.
    #[inline]
    pub(crate) fn place(
        &self,
        hash: u64,
        key: K,
        value: V,
        options: Option<&EntryOptions>,
    ) -> Result<Option<V>, Refused<(K, V)>>
    where
        K: Eq,
    {
        self.place_at(hash, key, value, options).map(|(_, replaced)| replaced)
    }

    /// As above; returns the token of the entry as well, which is of use to who is alone.
    #[inline]
    pub(crate) fn place_at(
        &self,
        hash: u64,
        key: K,
        value: V,
        options: Option<&EntryOptions>,
    ) -> Placed<K, V>
    where
        K: Eq,
    {
        self.serve_request();
        let now = self.now();
        if O::Times::KEPT && self.total.excess() > 0 {
            // Nothing takes the place of what is pinned and over, and not pinned any more then.
            self.expire(hash, &key);
        }
        let kept = match self.keep(&key, &value, options, now) {
            Ok(kept) => kept,
            Err(error) => return Err(self.reject((key, value), error)),
        };
        let weight = match self.take_in(kept.weight) {
            Ok(weight) => weight,
            Err(error) => return Err(self.reject((key, value), error)),
        };
        let charge = match self.charge(kept.weight.charge()) {
            Ok(charge) => charge,
            Err(error) => return Err(self.reject((key, value), error)),
        };
        let shard = self.shard(hash);
        let pinned = options.is_some_and(|options| options.pinned);
        let mut newcomer = None;
        if self.unit == Unit::Entries && !pinned {
            let mut store = shard.write();
            match self.choose_way(&mut store, hash, &key, &mut newcomer) {
                Way::General => {}
                Way::Insert(newcomer) => {
                    let token = store.insert(Entry::new(key, value, kept, high(hash)), newcomer);
                    store.count_insert();
                    charge.hand_over();
                    return Ok((token, None));
                }
                Way::Supplant(token, node, newcomer) => {
                    let entry = Entry::new(key, value, kept, high(hash));
                    let arrival = Arrival { entry, newcomer, node };
                    // (It is placed before any of the user's code runs.)
                    charge.hand_over();
                    // (Dropped last, by a panic as well.)
                    let mut credit = Credit::of(&self.account, 0);
                    let mut cause = RemovalCause::Capacity;
                    if O::Weight::KEPT || O::Times::KEPT {
                        let old = store.entry(token);
                        credit.bytes = old.charge();
                        cause = Self::cause_of(old, now, cause);
                    }
                    store.count_removals(cause, 1);
                    store.count_insert();
                    let mut left = None;
                    if needs_drop::<(K, V)>() || self.hooks.has_listener() {
                        self.hooks.leaving(store.entry(token).hash(), cause);
                        left = Some(store.supplant_and_keep(token, arrival));
                    } else {
                        // Nobody has any use for who left.
                        store.supplant(token, arrival);
                    }
                    store.let_go(O::Weight::KEPT);
                    if let Some(left) = &left {
                        self.hooks.show_entry(left, cause);
                    }
                    return Ok((token, None));
                }
                Way::Replace(token) => {
                    let cause = Self::cause_of(store.entry(token), now, RemovalCause::Replaced);
                    let mut credit = Credit::of(&self.account, 0);
                    let (old, old_kept) = store.replace(token, value, kept);
                    credit.bytes = old_kept.weight.charge();
                    store.count_removals(cause, 1);
                    if cause == RemovalCause::Expired {
                        // A pin ends with its entry's time.
                        store.pin(token, false);
                    }
                    store.count_insert();
                    store.let_go(O::Weight::KEPT || cause == RemovalCause::Expired);
                    charge.hand_over();
                    self.hooks.show(&key, &old, cause);
                    drop(key);
                    return Ok((token, (cause != RemovalCause::Expired).then_some(old)));
                }
            }
        }
        let pending = Some((key, value, kept));
        let room = Room::none(&self.total);
        let (token, replaced, recycle) = (NONE, None, false);
        self.place_in_steps(
            shard,
            Job {
                room,
                hash,
                now,
                pending,
                newcomer,
                token,
                replaced,
                weight,
                pinned,
                charge,
                recycle,
            },
        )
    }

    /// How an entry can be placed at once, where entries are counted.
    #[inline]
    fn choose_way(
        &self,
        store: &mut Held<'_, K, V, O, M>,
        hash: u64,
        key: &K,
        admitted: &mut Option<Newcomer>,
    ) -> Way
    where
        K: Eq,
    {
        if let Some(token) = store.find(high(hash), |other| other == key) {
            return Way::Replace(token);
        }
        let newcomer = store.admit(high(hash));
        let left = self.total.left();
        if left <= 0 {
            // (Less than nothing: the capacity was lowered.)
            if left < 0 || self.lends(store.len()) || self.may_borrow() {
                *admitted = Some(newcomer);
                return Way::General;
            }
            if let Some((victim, node)) = store.exchange(newcomer) {
                return Way::Supplant(victim, node, newcomer);
            }
        } else if !store.lacks() {
            let mut room = Room::none(&self.total);
            if room.cover(1) {
                room.settle(1);
                return Way::Insert(newcomer);
            }
        }
        *admitted = Some(newcomer);
        Way::General
    }

    /// Whether a shard that holds that much has lent most of its share to others; it does not pay for
    /// them then.
    #[inline]
    pub(crate) fn lends(&self, held: usize) -> bool {
        self.shards.len() > 1 && held < self.fair() / 2
    }

    /// How much of the capacity an entry takes beside its slot.
    #[inline]
    fn take_in(&self, weight: O::Weight) -> Result<usize, MemoryError> {
        match self.unit {
            Unit::Entries => Ok(1),
            Unit::Bytes => self.take_in_bytes(weight.weight()),
        }
    }

    fn take_in_bytes(&self, weight: usize) -> Result<usize, MemoryError> {
        let most = self.most();
        if weight > most {
            return Err(too_large(weight, most));
        }
        if self.tenancy.is_some() && weight > self.granted_most() {
            // Rather than evict all there is here, and find that it isn't enough.
            self.borrow(weight, true);
            let most = self.granted_most();
            if weight > most {
                return Err(too_large(weight, most));
            }
        }
        Ok(weight)
    }

    /// What is kept with an entry.
    #[inline]
    fn keep(
        &self,
        key: &K,
        value: &V,
        options: Option<&EntryOptions>,
        now: u64,
    ) -> Result<Kept<O>, MemoryError> {
        let weight = self.hooks.weigh(key, value);
        let (mut live, mut idle) = (NEVER, NEVER);
        if O::Times::KEPT {
            live = self.hooks.ttl.map_or(NEVER, nanos);
            idle = self.hooks.idle.map_or(NEVER, nanos);
        }
        let mut tags = O::Tags::default();
        if let Some(options) = options {
            options.check::<O>()?;
            live = options.ttl.map_or(live, nanos);
            idle = options.idle.map_or(idle, nanos);
            tags = O::Tags::new(&options.tags)?;
        }
        live = live.saturating_add(self.hooks.stale);
        Ok(Kept { weight, times: O::Times::new(now, live, idle), tags })
    }

    #[cold]
    pub(crate) fn reject(&self, entry: (K, V), error: MemoryError) -> Refused<(K, V)> {
        self.counters.rejected.fetch_add(1, Relaxed);
        Refused::new(entry, error)
    }

    /// Charges `bytes`, if need be after evicting as many.
    #[inline]
    fn charge(&self, bytes: usize) -> Result<Credit<'_, O::Account>, MemoryError> {
        if bytes != 0 && self.account.try_charge(bytes).is_err() {
            self.charge_again(bytes)?;
        }
        Ok(Credit::of(&self.account, bytes))
    }

    #[cold]
    fn charge_again(&self, bytes: usize) -> Result<(), MemoryError> {
        self.give_back(bytes, true);
        self.account.try_charge(bytes).map_err(|error| self.account.explain(error))
    }

    /// What an entry takes of the capacity, beside its slot.
    #[inline]
    pub(crate) fn weight_of(&self, entry: &Entry<K, V, O>) -> usize {
        match self.unit {
            Unit::Entries => 1,
            Unit::Bytes => entry.kept.weight.weight(),
        }
    }

    #[inline]
    pub(crate) fn cause_of(entry: &Entry<K, V, O>, now: u64, cause: RemovalCause) -> RemovalCause {
        if entry.kept.times.is_expired(now) { RemovalCause::Expired } else { cause }
    }
}

#[cold]
pub(crate) fn too_large(requested: usize, available: usize) -> MemoryError {
    MemoryError::CapacityExceeded { requested, available, align: Align::ONE }
}
