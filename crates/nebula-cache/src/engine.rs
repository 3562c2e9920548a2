//! What every cache of this crate is: stores behind locks, one total, an account and hooks. Here are
//! lookups, removals and figures; placing entries is in `place.rs` and `steps.rs`, giving back in
//! `reclaim.rs`, walks over all entries in `sweep.rs`.

use std::{
    hash::{BuildHasher, Hash},
    sync::atomic::Ordering::Relaxed,
};

use crossbeam_utils::CachePadded;
use equivalent::Equivalent;
use nebula_memory_core::{
    Account, MemoryError, TrimRequest,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
};

use crate::{
    CacheConfig, CacheStats, Capacity, Kit, PolicyKind, RemovalCause,
    bag::{Bag, Credit},
    hooks::Hooks,
    inside::Inside,
    mode::{Counter, Mode},
    place::too_large,
    policy::drive::Policy,
    room::Total,
    shard::{ReadOf, Shard},
    shares::Tenancy,
    slab::{Slab, Slot},
    stats::Counters,
    store::{Entry, Shape, Store, Unit},
    table::Elsewhere,
    times::sealed::Times,
};

pub(crate) type ShardOf<K, V, O, M> = CachePadded<Shard<K, V, O, M>>;
pub(crate) type BagOf<'c, K, V, O, M> = Bag<'c, K, V, <O as crate::kit::sealed::Kit>::Account, M>;

pub(crate) struct Engine<K, V, O: Kit, M: Mode> {
    pub(crate) shards: Box<[ShardOf<K, V, O, M>]>,
    pub(crate) total: CachePadded<Total<M>>,
    pub(crate) unit: Unit,
    /// Bytes that it allocates before it holds anything, all charged.
    fixed: usize,
    /// One less than there are shards.
    mask: usize,
    /// The policy, to allocate its memory by where no lock is held.
    pub(crate) probe: O::Policy,
    /// The shard at which giving back begins next.
    pub(crate) next: AtomicUsize,
    /// Where the sweep for expired entries goes on: shard and slot.
    pub(crate) swept: AtomicU64,
    pub(crate) counters: Box<Counters<M>>,
    pub(crate) hasher: O::Hasher,
    pub(crate) hooks: Hooks<K, V, M>,
    /// What others want back of a cache that only its owner may touch, or whose listener only its
    /// owner's threads may call.
    pub(crate) request: Arc<TrimRequest>,
    pub(crate) account: O::Account,
    /// With whom it shares its capacity, if with anybody.
    pub(crate) tenancy: Option<Tenancy>,
}

/// A hash as the shards use it. One multiplication, so that a hash function whose bits are not all
/// good ones (the identity, for example) does no harm.
#[inline]
pub(crate) const fn mix(hash: u64) -> u64 {
    hash.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// What of a mixed hash places an entry within its shard.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "it is the high half that is wanted")]
pub(crate) const fn high(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// A lookup that has the lock.
struct Begun<S> {
    store: S,
    now: u64,
    /// Whether the entry may be in the bucket that its hash chooses.
    at_home: bool,
}

impl<K, V, O: Kit, M: Mode> Engine<K, V, O, M> {
    /// An empty cache, `more` bytes of whose face are charged with its own.
    pub(crate) fn new(
        config: &CacheConfig,
        more: impl FnOnce(usize) -> usize,
        hooks: Hooks<K, V, M>,
        account: O::Account,
        hasher: O::Hasher,
        tenancy: Option<Tenancy>,
    ) -> Result<Self, MemoryError> {
        config.validate()?;
        check_kinds::<O>(config)?;
        let slot = size_of::<Slot<Entry<K, V, O>>>();
        let shards = if M::SHARED { config.shards_for(slot) } else { 1 };
        let probe = O::Policy::new(config.policy.unwrap_or_default());
        let fixed = shards * size_of::<ShardOf<K, V, O, M>>()
            + size_of::<Counters<M>>()
            + shared_bytes::<TrimRequest>()
            + hooks.bytes()
            + probe.shared_bytes()
            + more(shards);
        let unit = unit(config.capacity);
        let most = tenancy.as_ref().map_or(config.capacity.get(), Tenancy::most);
        let taken = if unit == Unit::Bytes { fixed } else { 0 };
        let shape = Shape { unit, expected: expected(config.capacity, shards) };
        if taken + Slab::<Entry<K, V, O>>::chunk_bytes() > most && unit == Unit::Bytes {
            return Err(MemoryError::invalid_config(
                "capacity",
                config.capacity,
                "must be larger than what the cache itself takes: a few kilobytes, or four entries",
            ));
        }
        if let Err(error) = account.try_charge(fixed) {
            return Err(account.explain(error));
        }
        let credit = Credit::of(&account, fixed);
        let total = match &tenancy {
            None => Total::new(config.capacity.get(), taken),
            Some(tenancy) => {
                let total = Total::new(0, 0);
                tenancy.need(taken)?;
                tenancy.claim(taken, |more| total.grow(more));
                if !total.try_take(taken) {
                    return Err(too_large(taken, total.free()));
                }
                total
            }
        };
        credit.hand_over();
        let store = |shard| Store::new(shape, probe.fork(shard == 0));
        Ok(Self {
            shards: (0..shards).map(|shard| CachePadded::new(Shard::new(store(shard)))).collect(),
            total: CachePadded::new(total),
            unit,
            fixed,
            mask: shards - 1,
            probe,
            next: AtomicUsize::new(0),
            swept: AtomicU64::new(0),
            counters: Box::default(),
            hasher,
            hooks,
            request: Arc::default(),
            account,
            tenancy,
        })
    }

    /// Whether a hit can be noted while others read.
    #[inline]
    pub(crate) fn shares_hits(&self) -> bool {
        self.probe.shares_hits()
    }

    /// What of the capacity the cache takes before it holds anything.
    pub(crate) fn fixed_room(&self) -> usize {
        if self.unit == Unit::Bytes { self.fixed } else { 0 }
    }

    /// The most that entries can ever take.
    #[inline]
    pub(crate) fn most(&self) -> usize {
        let most = match &self.tenancy {
            Some(tenancy) => tenancy.most(),
            None => self.total.capacity(),
        };
        most.saturating_sub(self.fixed_room())
    }

    /// The most that entries can take of what the cache has now.
    pub(crate) fn granted_most(&self) -> usize {
        self.total.capacity().saturating_sub(self.fixed_room())
    }

    /// Whether the cache shares its capacity, and others may have some to lend.
    #[inline]
    pub(crate) fn may_borrow(&self) -> bool {
        self.tenancy.as_ref().is_some_and(Tenancy::is_worth_asking)
    }

    /// Borrows what is missing to have `need` free, as far as it is to be had; `must` says that there is
    /// no other way to get it. No lock may be held.
    pub(crate) fn borrow(&self, need: usize, must: bool) {
        if let Some(tenancy) = &self.tenancy {
            let missing = need.saturating_sub(self.total.free());
            // (Who is told of what is evicted for somebody may have more evicted for himself, of which
            // he is told as well; but then he makes do with what his own cache has, or this would go on
            // and on.)
            if missing > 0 && !tenancy.is_claiming_within() && (must || tenancy.is_worth_asking()) {
                let _inside = self.enter();
                tenancy.claim(missing, |more| self.total.grow(more));
            }
        }
    }

    /// Notes that user code is about to run, from within which nobody should wait for room that this
    /// thread holds.
    pub(crate) fn enter(&self) -> Option<Inside> {
        // (Nobody gets at a cache that its owner is using.)
        M::SHARED.then(|| Inside::enter(self.id()))
    }

    /// Whether this thread runs user code of the cache.
    pub(crate) fn is_inside(&self) -> bool {
        self.times_inside() > 0
    }

    /// How often within each other this thread runs user code of the cache.
    pub(crate) fn times_inside(&self) -> usize {
        if M::SHARED { Inside::times_noted(self.id()) } else { 0 }
    }

    /// Its address.
    fn id(&self) -> usize {
        std::ptr::from_ref(&*self.total).addr()
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.gauges().len()).sum()
    }

    pub(crate) fn pinned(&self) -> usize {
        self.shards.iter().map(|shard| shard.gauges().pinned()).sum()
    }

    pub(crate) fn capacity(&self) -> Capacity {
        let capacity = self.total.capacity();
        match self.unit {
            Unit::Entries => Capacity::Entries(capacity),
            Unit::Bytes => Capacity::Bytes(capacity.into()),
        }
    }

    /// What a shard holds if all hold the same.
    #[inline]
    pub(crate) fn fair(&self) -> usize {
        // As many as a power of two.
        self.total.capacity() >> self.shards.len().trailing_zeros()
    }

    pub(crate) fn charged(&self) -> usize {
        let bytes = self.shards.iter().map(|shard| shard.gauges().bytes());
        bytes.fold(self.fixed, usize::wrapping_add)
    }

    pub(crate) fn policy(&self) -> PolicyKind {
        self.shards[0].read().policy().kind()
    }

    pub(crate) fn stats(&self) -> CacheStats {
        let counters = &*self.counters;
        let gauges = || self.shards.iter().map(|shard| shard.gauges());
        let removals = |cause| gauges().map(|gauges| gauges.removals(cause)).sum();
        CacheStats {
            hits: counters.hits.sum(),
            misses: counters.misses.sum(),
            inserts: gauges().map(super::shard::Gauges::inserts).sum(),
            evicted: removals(RemovalCause::Capacity),
            reclaimed: removals(RemovalCause::Reclaimed),
            expired: removals(RemovalCause::Expired),
            replaced: removals(RemovalCause::Replaced),
            removed: removals(RemovalCause::Removed),
            rejected: counters.rejected.load(Relaxed),
            computes: counters.computes.load(Relaxed),
            failures: counters.failures.load(Relaxed),
            waits: counters.waits.load(Relaxed),
            compute_nanos: counters.compute_nanos.load(Relaxed),
            entries: self.len() as u64,
            weight: self.total.taken() as u64,
        }
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "only some of the bits are used")]
    pub(crate) fn shard_index(&self, hash: u64) -> usize {
        // Not the bits that place the entry within the shard.
        (hash >> 16) as usize & self.mask
    }

    #[inline]
    pub(crate) fn shard(&self, hash: u64) -> &Shard<K, V, O, M> {
        &self.shards[self.shard_index(hash)]
    }

    /// The time on the cache's clock, if entries know of time.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        if O::Times::KEPT { self.hooks.now() } else { 0 }
    }

    #[inline]
    pub(crate) fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u64
    where
        O::Hasher: BuildHasher,
    {
        mix(self.hasher.hash_one(key))
    }

    /// Calls `read` with the entry of `key`, if it is there; a hit or a miss.
    #[inline]
    pub(crate) fn look_up<Q, R>(
        &self,
        hash: u64,
        key: &Q,
        read: impl FnOnce(&Entry<K, V, O>, u64) -> R,
    ) -> Option<R>
    where
        Q: Equivalent<K> + ?Sized,
    {
        self.look_up_or(hash, key, |entry, now| Some(read(entry, now)), |_| None)
    }

    /// How many entries have been placed in the shard of `hash`.
    #[inline]
    pub(crate) fn date(&self, hash: u64) -> u64 {
        self.shard(hash).gauges().inserts()
    }

    /// As [`look_up`](Self::look_up); where the entry is not there, calls `miss` with the
    /// [`date`](Self::date) at that moment: it is not there as long as the date is the same.
    #[inline]
    pub(crate) fn look_up_or<Q, R>(
        &self,
        hash: u64,
        key: &Q,
        read: impl FnOnce(&Entry<K, V, O>, u64) -> R,
        miss: impl FnOnce(u64) -> R,
    ) -> R
    where
        Q: Equivalent<K> + ?Sized,
    {
        if !self.shares_hits() {
            return self.look_up_alone(hash, key, read, miss);
        }
        // Nearly always the lock is to be had, and the entry is where it should be. What is not done
        // here is done elsewhere, so that nothing has to be kept for it.
        let now = self.now();
        let shard = self.shard(hash);
        let Some(store) = shard.try_read() else {
            return self.look_up_on(None, hash, key, read, miss);
        };
        let at_home = match store.get_at_home(high(hash), |other| key.equivalent(other)) {
            Ok(entry) if !entry.kept.times.is_expired(now) && entry.node.hit() => {
                entry.kept.times.touch(now);
                let found = read(entry, now);
                drop(store);
                self.counters.hits.add(1);
                return found;
            }
            Err(Elsewhere::Nowhere) => {
                let date = shard.gauges().inserts();
                drop(store);
                self.missed();
                return miss(date);
            }
            at_home => at_home.is_ok(),
        };
        self.look_up_on(Some(Begun { store, now, at_home }), hash, key, read, miss)
    }

    /// As above, whatever it takes; from the beginning, or from where the entry was not to be found at
    /// home, or had something about it.
    #[inline(never)]
    fn look_up_on<'c, Q, R>(
        &'c self,
        begun: Option<Begun<ReadOf<'c, K, V, O, M>>>,
        hash: u64,
        key: &Q,
        read: impl FnOnce(&Entry<K, V, O>, u64) -> R,
        miss: impl FnOnce(u64) -> R,
    ) -> R
    where
        Q: Equivalent<K> + ?Sized,
    {
        let is_it = |other: &K| key.equivalent(other);
        let Begun { store, now, at_home } = begun.unwrap_or_else(|| {
            // (The time after any waiting.)
            let store = self.shard(hash).read();
            Begun { store, now: self.now(), at_home: true }
        });
        let entry = if at_home {
            store.get(high(hash), is_it).map(|(_, entry)| entry)
        } else {
            store.get_elsewhere(high(hash), is_it)
        };
        let mut expired = false;
        if let Some(entry) = entry {
            expired = entry.kept.times.is_expired(now);
            if !expired {
                if !entry.node.hit() {
                    store.note(entry);
                }
                entry.kept.times.touch(now);
                let found = read(entry, now);
                drop(store);
                self.counters.hits.add(1);
                return found;
            }
        }
        let date = self.date(hash);
        drop(store);
        if expired {
            self.expire(hash, key);
        }
        self.missed();
        miss(date)
    }

    /// For policies that move entries at each hit.
    #[inline(never)]
    fn look_up_alone<Q, R>(
        &self,
        hash: u64,
        key: &Q,
        read: impl FnOnce(&Entry<K, V, O>, u64) -> R,
        miss: impl FnOnce(u64) -> R,
    ) -> R
    where
        Q: Equivalent<K> + ?Sized,
    {
        let mut expired = false;
        let date;
        {
            let mut store = self.shard(hash).write();
            // (The time after any waiting.)
            let now = self.now();
            if let Some(token) = store.find(high(hash), |other| key.equivalent(other)) {
                let times = &store.entry(token).kept.times;
                expired = times.is_expired(now);
                if !expired {
                    times.touch(now);
                    store.touch(token);
                    let found = read(store.entry(token), now);
                    // A hit changes nothing that the gauges show.
                    store.let_go(false);
                    self.counters.hits.add(1);
                    return found;
                }
            }
            date = self.date(hash);
            store.let_go(false);
        }
        if expired {
            self.expire(hash, key);
        }
        self.missed();
        miss(date)
    }

    /// Counts a miss.
    #[inline]
    pub(crate) fn missed(&self) {
        self.counters.misses.add(1);
        self.serve_request();
    }

    /// Calls `read` with the entry of `key`, if it is there, without anybody's notice.
    pub(crate) fn peek<Q, R>(
        &self,
        hash: u64,
        key: &Q,
        read: impl FnOnce(&Entry<K, V, O>) -> R,
    ) -> Option<R>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let now = self.now();
        let store = self.shard(hash).read();
        let (_, entry) = store.get(high(hash), |other| key.equivalent(other))?;
        (!entry.kept.times.is_expired(now)).then(|| read(entry))
    }

    /// Removes the entry of `key` if it is expired.
    #[cold]
    pub(crate) fn expire<Q>(&self, hash: u64, key: &Q)
    where
        Q: Equivalent<K> + ?Sized,
    {
        let now = self.now();
        let is_due = |entry: &Entry<K, V, O>| entry.kept.times.is_expired(now);
        drop(self.take_if(hash, key, RemovalCause::Expired, is_due));
    }

    /// Takes the entry of `key` out, if there is one for which `wanted` holds.
    pub(crate) fn take_if<Q>(
        &self,
        hash: u64,
        key: &Q,
        cause: RemovalCause,
        wanted: impl FnOnce(&Entry<K, V, O>) -> bool,
    ) -> Option<(K, V)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let shard = self.shard(hash);
        let (entry, freed) = {
            let mut store = shard.write();
            let token = store.find(high(hash), |other| key.equivalent(other))?;
            if !wanted(store.entry(token)) {
                return None;
            }
            let before = store.held();
            let entry = store.remove(token);
            store.count_removals(cause, 1);
            (entry, before - store.held())
        };
        self.total.give_back(freed);
        let _credit = Credit::of(&self.account, entry.charge());
        self.hooks.show(&entry.key, &entry.value, cause);
        if self.total.excess() > 0 {
            // Its slot may be of use to nobody else.
            self.fit_again();
        }
        Some((entry.key, entry.value))
    }

    /// Takes out the entry of a slot of the first shard, for who is alone.
    pub(crate) fn take_slot(&self, slot: u32) {
        let mut bag = self.bag();
        {
            let mut store = self.shards[0].write();
            let before = store.held();
            let entry = store.remove(slot);
            store.count_removals(RemovalCause::Removed, 1);
            bag.room.take_over(before - store.held());
            bag.put(entry, RemovalCause::Removed);
        }
        self.let_go(bag);
    }

    /// Takes the entry of `key` out. `None` if it was expired.
    pub(crate) fn remove<Q>(&self, hash: u64, key: &Q) -> Option<(K, V)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let now = self.now();
        let is_live = |entry: &Entry<K, V, O>| !entry.kept.times.is_expired(now);
        if let Some(removed) = self.take_if(hash, key, RemovalCause::Removed, is_live) {
            return Some(removed);
        }
        if O::Times::KEPT {
            self.expire(hash, key);
        }
        None
    }

    /// Pins or unpins the entry of `key`; `None` if there is none.
    pub(crate) fn pin<Q>(&self, hash: u64, key: &Q, pinned: bool) -> Option<bool>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let now = self.now();
        let changed = {
            let mut store = self.shard(hash).write();
            let token = store.find(high(hash), |other| key.equivalent(other))?;
            if store.entry(token).kept.times.is_expired(now) {
                return None;
            }
            store.pin(token, pinned)
        };
        if changed && !pinned && self.total.excess() > 0 {
            // The capacity was lowered meanwhile, beneath what was pinned.
            self.fit_again();
        }
        Some(changed)
    }

    /// A bag for what leaves a store.
    #[inline]
    pub(crate) fn bag(&self) -> BagOf<'_, K, V, O, M> {
        Bag::new(&self.account, &self.total, self.hooks.evictions.as_deref())
    }

    /// Gives back the room of what is in the bag, shows it to the listener, and drops it.
    pub(crate) fn let_go(&self, mut bag: BagOf<'_, K, V, O, M>) {
        // Before, so that who is told, or dropped, can put something in its place.
        bag.room.give_up();
        let _inside = if bag.is_empty() { None } else { self.enter() };
        self.hooks.show_all(&bag);
        drop(bag);
    }

    /// Checks the structure inside against itself, and, if no other thread is using the cache, the
    /// sums too.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let mut held = self.fixed_room();
        for (index, shard) in self.shards.iter().enumerate() {
            let store = shard.read();
            store.validate().map_err(|error| format!("shard {index}: {error}"))?;
            let gauges = shard.gauges();
            let shown = (gauges.len(), gauges.held(), gauges.bytes(), gauges.pinned());
            let bytes = store.charge().wrapping_add(store.bytes());
            let real = (store.len(), store.held(), bytes, store.pinned());
            if shown != real {
                return Err(format!("shard {index} shows {shown:?}, but has {real:?}"));
            }
            held += store.held();
        }
        if self.total.taken() == held {
            Ok(())
        } else {
            Err(format!("{} are taken of the capacity, {held} in use", self.total.taken()))
        }
    }
}

impl<K, V, O: Kit, M: Mode> Drop for Engine<K, V, O, M> {
    fn drop(&mut self) {
        let mut bytes = self.fixed;
        for shard in &mut self.shards {
            let store = shard.get_mut();
            bytes = bytes.wrapping_add(store.charge()).wrapping_add(store.bytes());
        }
        // Credited last, and also if the drop of a value panics.
        let _credit = Credit::of(&self.account, bytes);
        self.shards = Box::new([]);
    }
}

/// Bytes that an [`Arc`] of `T` allocates: two counts beside the value.
pub(crate) const fn shared_bytes<T>() -> usize {
    2 * size_of::<usize>() + size_of::<T>()
}

/// What a capacity is counted in.
pub(crate) const fn unit(capacity: Capacity) -> Unit {
    match capacity {
        Capacity::Entries(_) => Unit::Entries,
        Capacity::Bytes(_) => Unit::Bytes,
    }
}

/// How many entries a shard will have at most, most of the time.
pub(crate) const fn expected(capacity: Capacity, shards: usize) -> usize {
    match capacity {
        // Keys do not fall evenly: three deviations more than the mean. Where there is one shard, the
        // table has room to spare all the same: fewer entries are in another bucket than they should.
        Capacity::Entries(entries) => {
            let mean = entries.div_ceil(shards);
            mean.saturating_add(if shards == 1 { mean / 32 } else { 3 * mean.isqrt() })
        }
        Capacity::Bytes(_) => usize::MAX / 4,
    }
}

/// Checks that what `config` asks for is kept by a cache of this type.
fn check_kinds<O: Kit>(config: &CacheConfig) -> Result<(), MemoryError> {
    if let Some(kind) = config.policy {
        let fixed = O::Policy::new(kind).kind();
        if fixed != kind {
            let rule = "the type of this cache has another policy; leave it out, or build the cache \
                        without `with_policy`";
            return Err(MemoryError::invalid_config("policy", format_args!("{kind:?}"), rule));
        }
    }
    if config.ttl.is_some() && !O::Times::KEPT {
        let rule = "entries of this cache do not expire; build it `with_expiry()`";
        return Err(MemoryError::invalid_config("ttl", "set", rule));
    }
    if config.idle.is_some() && !O::Times::IDLE {
        let rule = "entries of this cache know no idle time; build it `with_idle_expiry()`";
        return Err(MemoryError::invalid_config("idle", "set", rule));
    }
    Ok(())
}
