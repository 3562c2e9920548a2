//! Sequences of operations, read from bytes, run through a cache and a plain map side by side. The
//! map is told of every entry that leaves (by the listener, if there is one), so that it always knows
//! what the cache holds; and after every step the inside of the cache has to be in order, and its
//! books exact.
//!
//! [`run`] takes any bytes, so that it can be driven by a property test and by a fuzzer.

use std::{
    collections::{HashMap, HashSet},
    mem::take,
    panic::resume_unwind,
    time::Duration,
};

use nebula_cache::{
    Arc, Capacity, ComputeError, EntryOptions, Fifo, Lfu, Lru, RemovalCause, S3Fifo, Sieve, Steady,
    WTinyLfu,
};
use nebula_memory_core::{ByteSize, Clock, PressureLevel, Refused};
use nebula_testing::{InjectedPanic, catch};

use super::{
    KINDS,
    faces::{Async, Concurrent, Face, Local, Log, Spec, Timer, Value, value},
    hashes::Hashes,
};

/// The bytes that decide what happens; zeros when they are used up.
pub(crate) struct Bytes<'b>(&'b [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.next()) % bound
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }
}

/// One operation.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Insert {
        key: u64,
        size: usize,
        options: Options,
    },
    Get(u64),
    Remove(u64),
    /// Computes.
    Compute(u64, Made, Way),
    /// Puts a value in place of what is there, or nothing.
    Update(u64, Made),
    Pin(u64),
    Unpin(u64),
    /// Removes what is divisible, and panics at that call.
    Retain(u64, usize),
    InvalidateTag(u64),
    Clear,
    Evict(usize),
    AskBack(usize, PressureLevel),
    Maintain(usize),
    RunDue,
    SetCapacity(usize),
    /// Sets a capacity that the cache cannot have: it stays as it is.
    SetMisfit(Capacity),
    Wait(u64),
    /// The account refuses charges from this one on, so many of them.
    Refuse(usize, usize),
    /// The account holds no more than it does now and so many bytes, or whatever there is.
    Limit(Option<usize>),
}

/// What user code makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// A value of that size.
    Value(usize),
    Nothing,
    Panic,
}

/// By which method something is computed.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// By the one for computations that do not fail, if this does not.
    Surely,
    Perhaps,
    With(Options),
}

/// Options of an insertion, in ticks of the test.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    ttl: Option<u64>,
    idle: Option<u64>,
    tags: Vec<u64>,
    pinned: bool,
}

/// So many ticks that it is for ever.
const EVER: u64 = 15;

/// A time, which may be longer than any clock's.
fn time(ticks: u64, tick: u64) -> Duration {
    if ticks == EVER { Duration::MAX } else { Duration::from_nanos(ticks * tick) }
}

/// Nanoseconds on the clock; for ever is its last moment.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Options {
    fn real(&self, tick: u64) -> EntryOptions {
        let mut options = EntryOptions::new();
        if let Some(ttl) = self.ttl {
            options = options.ttl(time(ttl, tick));
        }
        if let Some(idle) = self.idle {
            options = options.idle(time(idle, tick));
        }
        for tag in &self.tags {
            options = options.tag(*tag);
        }
        if self.pinned { options.pinned() } else { options }
    }
}

fn options(bytes: &mut Bytes<'_>) -> Options {
    let some = |bytes: &mut Bytes<'_>| bytes.one_in(2).then(|| u64::from(bytes.next() % 16));
    if !bytes.one_in(3) {
        return Options::default();
    }
    Options {
        ttl: some(bytes),
        idle: some(bytes),
        tags: (0..bytes.below(5)).map(|_| u64::from(bytes.next() % 4)).collect(),
        pinned: bytes.one_in(4),
    }
}

fn size(bytes: &mut Bytes<'_>) -> usize {
    bytes.below(32) * [1, 7, 40][bytes.below(3)]
}

fn made(bytes: &mut Bytes<'_>) -> Made {
    match bytes.below(8) {
        0..5 => Made::Value(size(bytes)),
        5..7 => Made::Nothing,
        _ => Made::Panic,
    }
}

fn way(bytes: &mut Bytes<'_>) -> Way {
    match bytes.below(4) {
        0 => Way::Perhaps,
        1 => Way::Surely,
        _ => Way::With(options(bytes)),
    }
}

/// The next operation, on one of so many keys.
fn op(bytes: &mut Bytes<'_>, keys: u64) -> Op {
    let kind = bytes.below(64);
    let key = u64::from(bytes.next()) % keys;
    match kind {
        0..24 => Op::Insert { key, size: size(bytes), options: options(bytes) },
        24..36 => Op::Get(key),
        36..39 => Op::Remove(key),
        39..43 => Op::Compute(key, made(bytes), way(bytes)),
        43..46 => Op::Update(key, made(bytes)),
        46..48 => Op::Pin(key),
        48..51 => Op::Unpin(key),
        51 => Op::Retain(2 + key % 7, if bytes.one_in(4) { bytes.below(16) } else { usize::MAX }),
        52 => Op::InvalidateTag(key % 4),
        53 if bytes.one_in(4) => Op::Clear,
        53..55 => Op::Evict(bytes.below(256) * 16),
        55 => Op::AskBack(bytes.below(256) * 16, PressureLevel::ALL[bytes.below(4)]),
        56..58 => Op::Maintain(if bytes.one_in(4) { usize::MAX } else { bytes.below(40) }),
        58 if bytes.one_in(8) => Op::SetMisfit(
            [
                Capacity::Entries(0),
                Capacity::Entries(bytes.below(3)),
                Capacity::Bytes(ByteSize::new(0)),
                Capacity::Bytes(ByteSize::new(bytes.below(3))),
            ][bytes.below(4)],
        ),
        58 => Op::SetCapacity(bytes.below(16)),
        59..61 => {
            let ticks = u64::from(bytes.next() % 4);
            Op::Wait(if bytes.one_in(16) { ticks * 1000 } else { ticks })
        }
        61 => Op::RunDue,
        62 => Op::Limit(bytes.one_in(2).then(|| bytes.below(64) * 64)),
        _ => Op::Refuse(bytes.below(8), bytes.below(3)),
    }
}

impl Made {
    /// Returns `fresh`, or panics.
    fn user_code(self, fresh: Option<&Value>) -> Option<Value> {
        if self == Self::Panic {
            resume_unwind(Box::new(InjectedPanic));
        }
        fresh.cloned()
    }
}

/// What is known of an entry.
#[derive(Clone, Debug)]
struct Known {
    value: Value,
    until: u64,
    idle: u64,
    used: u64,
    tags: Vec<u64>,
    pinned: bool,
}

impl Known {
    fn is_live(&self, now: u64) -> bool {
        // The end of time never comes.
        let deadline = self.until.min(self.used.saturating_add(self.idle));
        deadline > now || deadline == u64::MAX
    }
}

struct Test<F> {
    cache: F,
    spec: Spec,
    log: Option<Log>,
    map: HashMap<u64, Known>,
    /// Nanoseconds.
    tick: u64,
    /// Capacities that [`Op::SetCapacity`] can choose.
    capacities: Vec<Capacity>,
    /// What all values weighed together before the step.
    weight: usize,
    /// Distinguishes values.
    tag: u8,
    /// How many entries were shown to the listener, by cause.
    shown: [u64; 5],
}

/// Runs what `bytes` say.
///
/// # Panics
/// If the cache is wrong.
pub(crate) fn run(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    // The policy by configuration twice as often as any by type.
    let policy = bytes.below(10);
    match bytes.below(3) {
        0 => match policy {
            0 => run_on::<Local<Fifo>>(bytes),
            1 => run_on::<Local<Lru>>(bytes),
            2 => run_on::<Local<Lfu>>(bytes),
            3 => run_on::<Local<Arc>>(bytes),
            4 => run_on::<Local<S3Fifo>>(bytes),
            5 => run_on::<Local<Sieve>>(bytes),
            6 => run_on::<Local<Steady>>(bytes),
            7 => run_on::<Local<WTinyLfu>>(bytes),
            _ => run_on::<Local>(bytes),
        },
        1 => match policy {
            0 => run_on::<Concurrent<Fifo>>(bytes),
            1 => run_on::<Concurrent<Lru>>(bytes),
            2 => run_on::<Concurrent<Lfu>>(bytes),
            3 => run_on::<Concurrent<Arc>>(bytes),
            4 => run_on::<Concurrent<S3Fifo>>(bytes),
            5 => run_on::<Concurrent<Sieve>>(bytes),
            6 => run_on::<Concurrent<Steady>>(bytes),
            7 => run_on::<Concurrent<WTinyLfu>>(bytes),
            8 => run_on::<Async>(bytes),
            _ => run_on::<Concurrent>(bytes),
        },
        _ => match policy {
            0..5 => run_on::<Timer>(bytes),
            5 => run_on::<Timer<Lru>>(bytes),
            6 => run_on::<Timer<Steady>>(bytes),
            _ => run_on::<Async>(bytes),
        },
    }
}

fn run_on<F: Face>(mut bytes: Bytes<'_>) {
    let shards = 1 << bytes.below(3);
    let keys = [12, 48, 256][bytes.below(3)];
    // What so many keys could do with, or a part of it.
    let room = 1 + usize::from(bytes.next()) * usize::try_from(keys).unwrap() / 48;
    let mut spec = if bytes.one_in(2) {
        Spec::sharded_bytes::<F>(4000 + room * 40, shards)
    } else {
        Spec::entries(1 + room / 4).shards(shards)
    };
    let kind = KINDS[bytes.below(KINDS.len())];
    if F::build(&spec.clone().policy(kind)).is_ok() {
        // Not of a type that has another policy.
        spec = spec.policy(kind);
    }
    // Those that know what is due know it to the millisecond.
    let tick = 1 << [0, 19, 21, 40][bytes.below(4)];
    spec.config.ttl = bytes.one_in(3).then(|| Duration::from_nanos(20 * tick));
    spec.config.idle = bytes.one_in(3).then(|| Duration::from_nanos(12 * tick));
    spec.hashes = match bytes.below(8) {
        0..4 => Hashes::Even,
        4 => Hashes::Few(1),
        5 => Hashes::Few(3),
        6 => Hashes::Crowded(1),
        _ => Hashes::Crowded(3),
    };
    match bytes.below(8) {
        0..4 => {}
        4..6 => spec.charge = |_, _| 0,
        6 => spec.weigh = |key, value| 3 * value.capacity() + usize::try_from(*key).unwrap(),
        _ => {
            // Some weigh more than there is.
            let weigh = |key: &u64, value: &Value| match value.capacity() {
                1200.. => usize::MAX / (1 + usize::try_from(key % 4).unwrap()),
                small => small,
            };
            (spec.weigh, spec.charge) = (weigh, weigh);
        }
    }
    let log = bytes.one_in(2).then(|| {
        let (logged, log) = spec.clone().logged();
        spec = logged;
        log
    });
    let empty = match F::build(&spec) {
        Ok(cache) => cache.weight(),
        Err(_) => return,
    };
    let eighths = 1..17;
    let capacities = match spec.config.capacity {
        Capacity::Entries(entries) => {
            let part = |eighth: usize| Capacity::Entries((entries * eighth).div_ceil(8));
            eighths.map(part).collect()
        }
        Capacity::Bytes(bytes) => {
            let room = bytes.get() - empty;
            let part = |eighth: usize| Capacity::Bytes(ByteSize::new(empty + room * eighth / 8));
            eighths.map(part).collect()
        }
    };
    let cache = F::build(&spec).unwrap();
    let map = HashMap::new();
    let weight = cache.weight();
    let mut test = Test { cache, spec, log, map, tick, capacities, weight, tag: 0, shown: [0; 5] };
    for step in 0.. {
        if bytes.0.is_empty() {
            break;
        }
        let op = op(&mut bytes, keys);
        let fault = match catch(|| test.step(&op)) {
            Ok(()) => continue,
            Err(fault) => fault,
        };
        panic!("step {step}, {op:?}, of {:?}: {fault}", test.cache);
    }
    let Test { cache, spec, .. } = test;
    drop(cache);
    spec.books().assert_settled();
}

impl<F: Face> Test<F> {
    fn now(&self) -> u64 {
        nanos(self.spec.clock.now())
    }

    fn live(&self, key: u64) -> Option<Value> {
        let now = self.now();
        self.map.get(&key).filter(|known| known.is_live(now)).map(|known| known.value.clone())
    }

    fn fresh(&mut self, size: usize) -> Value {
        self.tag = self.tag.wrapping_add(1);
        value(self.tag, size)
    }

    fn fresh_of(&mut self, made: Made) -> Option<Value> {
        match made {
            Made::Value(size) => Some(self.fresh(size)),
            Made::Nothing | Made::Panic => None,
        }
    }

    /// The options of an entry that is computed.
    fn options_of(way: &Way) -> Options {
        match way {
            Way::With(options) => options.clone(),
            _ => Options::default(),
        }
    }

    /// What the map knows of `value` if it is inserted now.
    fn known(&self, value: &Value, options: &Options) -> Known {
        let now = self.now();
        let in_nanos = |ticks: Option<u64>, default: Option<Duration>| {
            ticks.map(|ticks| time(ticks, self.tick)).or(default).map_or(u64::MAX, nanos)
        };
        let ttl = in_nanos(options.ttl, self.spec.config.ttl);
        let idle = in_nanos(options.idle, self.spec.config.idle);
        Known {
            value: value.clone(),
            until: now.saturating_add(ttl),
            idle,
            used: now,
            tags: options.tags.clone(),
            pinned: options.pinned,
        }
    }

    fn step(&mut self, op: &Op) {
        self.weight = self.cache.weight();
        let placed = self.act(op);
        self.note_shown();
        if let Some((key, known)) = placed {
            self.map.insert(key, known);
        }
        self.compare();
    }

    /// Does it; returns what was placed.
    #[allow(clippy::too_many_lines, reason = "a list of operations, each a few lines")]
    fn act(&mut self, op: &Op) -> Option<(u64, Known)> {
        let now = self.now();
        match *op {
            Op::Insert { key, size, ref options } => {
                let value = self.fresh(size);
                let (before, known) = (self.live(key), self.known(&value, options));
                let evictions = self.cache.stats().evictions();
                match self.cache.insert_with(key, value.clone(), options.real(self.tick)) {
                    Ok(old) => {
                        let may_have_gone = self.cache.stats().evictions() > evictions;
                        assert!(old == before || (old.is_none() && may_have_gone));
                        return self.placed(key, self.still_pinned(key, known));
                    }
                    Err(Refused { value: handed_back, .. }) => {
                        assert_eq!(handed_back, (key, value));
                        self.refused(key);
                    }
                }
            }
            Op::Get(key) => {
                let (before, live) = (self.cache.stats(), self.live(key));
                assert_eq!(self.cache.get(key), live);
                let after = self.cache.stats();
                let counted = (after.hits - before.hits, after.misses - before.misses);
                assert_eq!(counted, if live.is_some() { (1, 0) } else { (0, 1) });
                self.touch(key);
            }
            Op::Remove(key) => {
                assert_eq!(self.cache.remove(key), self.live(key));
                self.map.remove(&key);
            }
            Op::Compute(key, made, ref way) => {
                let before = self.live(key);
                let (fresh, options) = (self.fresh_of(made), Self::options_of(way));
                let (real, inserts) = (options.real(self.tick), self.cache.stats().inserts);
                let cache = &mut self.cache;
                let computed = catch(|| {
                    let compute = || made.user_code(fresh.as_ref());
                    match way {
                        Way::Surely if made != Made::Nothing => {
                            cache.compute(key, || compute().unwrap()).map_err(ComputeError::from)
                        }
                        Way::With(_) => cache.try_compute_with(key, real, || compute().ok_or(())),
                        _ => cache.try_compute(key, || compute().ok_or(())),
                    }
                });
                if before.is_some() {
                    assert_eq!(computed.unwrap().ok(), before);
                    self.touch(key);
                } else if let Some(value) = fresh {
                    let computed = computed.unwrap();
                    if F::RETURNS_REFUSED || computed.is_ok() {
                        assert_eq!(computed.unwrap(), value);
                    }
                    if self.cache.stats().inserts > inserts {
                        return self.placed(key, self.known(&value, &options));
                    }
                    self.refused(key);
                } else if made == Made::Panic {
                    assert_eq!(computed.err().as_deref(), Some("injected"));
                } else {
                    assert!(matches!(computed, Ok(Err(ComputeError::Compute(())))));
                }
            }
            Op::Update(key, made) => {
                let before = self.live(key);
                let fresh = self.fresh_of(made);
                let cache = &mut self.cache;
                let updated = catch(|| {
                    cache.update(key, |value| {
                        assert_eq!(value, before);
                        made.user_code(fresh.as_ref())
                    })
                });
                match (updated, fresh) {
                    (Ok(Ok(())), Some(value)) => {
                        let known = self.known(&value, &Options::default());
                        return self.placed(key, self.still_pinned(key, known));
                    }
                    (Ok(Ok(())), None) => drop(self.map.remove(&key)),
                    (Ok(Err(refused)), fresh) => {
                        assert_eq!(Some(refused.value), fresh);
                        self.refused(key);
                    }
                    (Err(fault), _) => {
                        assert_eq!((fault.as_str(), made), ("injected", Made::Panic));
                        assert_eq!(self.live(key), before);
                    }
                }
            }
            Op::Pin(key) => {
                let live = self.live(key).is_some();
                assert_eq!(self.cache.pin(key), live);
                if live {
                    self.map.entry(key).and_modify(|known| known.pinned = true);
                }
            }
            Op::Unpin(key) => {
                let known = self.map.get_mut(&key).filter(|known| known.is_live(now));
                let pinned = known.is_some_and(|known| take(&mut known.pinned));
                assert_eq!(self.cache.unpin(key), pinned);
            }
            Op::Retain(n, panics_at) => {
                let (mut asked, map) = (HashSet::new(), &self.map);
                let cache = &mut self.cache;
                let retained = catch(|| {
                    cache.retain(|key, value| {
                        assert!(map[key].is_live(now), "an expired entry was shown");
                        assert_eq!(map[key].value, *value);
                        if asked.len() == panics_at {
                            resume_unwind(Box::new(InjectedPanic));
                        }
                        assert!(asked.insert(*key), "{key} was shown twice");
                        key % n != 0
                    });
                });
                match retained {
                    Ok(()) => {
                        let live = self.map.iter().filter(|(_, known)| known.is_live(now));
                        assert!(live.map(|(key, _)| key).eq_unordered(&asked));
                        self.map.retain(|key, known| !known.is_live(now) || key % n != 0);
                    }
                    Err(fault) => {
                        assert_eq!((fault.as_str(), asked.len()), ("injected", panics_at));
                        // Of those that were to go some may have gone.
                        for (key, known) in self.map.iter().filter(|(_, known)| known.is_live(now))
                        {
                            let may_go = asked.contains(key) && key % n == 0;
                            let there = self.cache.peek(*key);
                            assert!(
                                may_go || there.as_ref() == Some(&known.value),
                                "{key} has gone"
                            );
                        }
                        let cache = &self.cache;
                        self.map.retain(|key, known| !known.is_live(now) || cache.contains(*key));
                    }
                }
            }
            Op::InvalidateTag(tag) => {
                // Those that are expired may be gone.
                let tagged = |known: &Known| known.tags.contains(&tag);
                let most = self.map.values().filter(|known| tagged(known)).count();
                let live = |known: &&Known| tagged(known) && known.is_live(now);
                let least = self.map.values().filter(live).count();
                let removed = self.cache.invalidate_tag(tag);
                assert!((least..=most).contains(&removed), "{removed} of {least} to {most}");
                self.map.retain(|_, known| !tagged(known));
            }
            Op::Clear => {
                self.cache.clear();
                self.map.clear();
                assert!(self.cache.is_empty());
            }
            Op::Evict(bytes) => {
                let charged = self.cache.charged();
                let given = self.cache.evict(bytes);
                assert_eq!(given, charged - self.cache.charged());
                assert!(given >= bytes || self.cache.len() == self.cache.pinned());
            }
            Op::AskBack(bytes, urgency) => {
                let charged = self.cache.charged();
                let given = self.cache.ask_back(bytes, urgency);
                assert_eq!(given, charged - self.cache.charged());
            }
            Op::Maintain(slots) => {
                let removed = self.cache.maintain(slots);
                if slots == usize::MAX {
                    let expired = self.map.values().filter(|known| !known.is_live(now)).count();
                    assert!(removed <= expired);
                    self.map.retain(|_, known| known.is_live(now));
                }
            }
            Op::RunDue => while self.cache.run_due() {},
            Op::SetMisfit(capacity) => {
                let before = self.cache.room();
                if self.cache.set_capacity(capacity).is_err() {
                    assert_eq!(self.cache.room(), before);
                } else {
                    assert_eq!(self.cache.room(), capacity);
                }
            }
            Op::SetCapacity(choice) => {
                let capacity = self.capacities[choice];
                self.cache.set_capacity(capacity).unwrap();
                assert_eq!(self.cache.room(), capacity);
            }
            Op::Wait(ticks) => self.spec.clock.advance(Duration::from_nanos(ticks * self.tick)),
            Op::Refuse(from, count) => match count {
                0 => self.spec.account.refuse_never(),
                1 => self.spec.account.refuse_at(from),
                _ => self.spec.account.refuse_from(from),
            },
            Op::Limit(more) => {
                let limit =
                    more.map_or(usize::MAX, |more| self.cache.charged().saturating_add(more));
                self.spec.books().set_limit(limit);
            }
        }
        None
    }

    /// A pinned entry whose value is replaced stays pinned, unless its time was over.
    fn still_pinned(&self, key: u64, known: Known) -> Known {
        let now = self.now();
        let before = self.map.get(&key).is_some_and(|old| old.pinned && old.is_live(now));
        Known { pinned: known.pinned || before, ..known }
    }

    #[allow(clippy::unnecessary_wraps, reason = "it is what `act` returns")]
    fn placed(&self, key: u64, known: Known) -> Option<(u64, Known)> {
        let there = self.cache.contains(key);
        assert_eq!(there, known.is_live(self.now()), "what was placed is there until it expires");
        Some((key, known))
    }

    /// The value of `key` was refused: an earlier one stays, unless it was evicted.
    fn refused(&self, key: u64) {
        assert!(self.live(key).is_some() || !self.cache.contains(key));
    }

    fn touch(&mut self, key: u64) {
        let now = self.now();
        if let Some(known) = self.map.get_mut(&key).filter(|known| known.is_live(now)) {
            known.used = now;
        }
    }

    /// Every entry that left was known, as the listener was shown it.
    fn note_shown(&mut self) {
        let Some(log) = &self.log else { return };
        let now = self.now();
        for (key, value, cause) in log.take() {
            self.shown[cause as usize] += 1;
            match self.map.get(&key) {
                Some(known) if known.value == value => {
                    let expired = !known.is_live(now);
                    assert!(!known.pinned || !cause.is_eviction(), "{key} was pinned");
                    assert!(expired || cause != RemovalCause::Expired, "{key} was not expired");
                    if cause != RemovalCause::Replaced {
                        self.map.remove(&key);
                    }
                }
                // The operation itself has taken it out of the map already.
                None => assert_ne!(cause, RemovalCause::Capacity, "{key} was not there"),
                Some(known) => panic!("{key}: {value:?} was shown, {:?} was there", known.value),
            }
        }
        let stats = self.cache.stats();
        let counted =
            [stats.evicted, stats.reclaimed, stats.expired, stats.replaced, stats.removed];
        assert_eq!(self.shown, counted, "all that are counted were shown");
    }

    /// The cache holds what the map does, and its inside is in order.
    fn compare(&mut self) {
        let now = self.now();
        let mut gone = Vec::new();
        let mut live = 0;
        for (&key, known) in &self.map {
            let there = self.cache.peek(key);
            assert_eq!(there.is_some(), self.cache.contains(key));
            if let Some(value) = there {
                assert_eq!(value, known.value, "another value of {key}");
                assert!(known.is_live(now), "{key} is expired");
                live += 1;
            } else if known.is_live(now) {
                assert!(
                    self.log.is_none(),
                    "{key} has left, and nobody was told; shown {:?}",
                    self.shown
                );
                assert!(!known.pinned, "{key} was pinned");
                gone.push(key);
            }
        }
        for key in gone {
            self.map.remove(&key);
        }
        let (len, stats) = (self.cache.len(), self.cache.stats());
        assert!((live..=self.map.len()).contains(&len), "{len} entries, {live} of them known");
        if self.log.is_some() {
            assert_eq!(len, self.map.len());
            let pinned = self.map.values().filter(|known| known.pinned).count();
            assert_eq!(self.cache.pinned(), pinned);
        }
        let mut entries = self.cache.entries();
        entries.sort_unstable();
        entries.dedup();
        assert_eq!(entries.len(), live, "iteration shows every entry that is not expired");
        assert!(entries.iter().all(|(key, value)| self.map[key].value == *value));
        let left = stats.evictions() + stats.expired + stats.replaced + stats.removed;
        assert_eq!(stats.inserts - left, len as u64, "{stats}");
        let weight = self.cache.weight();
        match self.cache.room() {
            Capacity::Entries(entries) => {
                assert_eq!(weight, len);
                assert!(weight <= entries.max(self.weight), "{weight} of {entries} entries");
                assert!(weight <= entries || len == self.cache.pinned(), "{weight} of {entries}");
            }
            Capacity::Bytes(bytes) => {
                // Pinned entries may be more than a capacity that was made smaller.
                assert!(weight <= bytes.get().max(self.weight), "{weight} of {bytes}");
                let evictable = |known: &&Known| known.is_live(now) && !known.pinned;
                let mut evictable = self.map.values().filter(evictable);
                // In slots that there are, beside pinned ones, there is room for what owns nothing.
                assert!(weight <= bytes.get() || evictable.all(|known| known.value.is_empty()));
                let owned: usize = entries.iter().map(|(_, value)| value.len()).sum();
                assert!(owned <= weight);
                let of_one = |one: fn(&u64, &Value) -> usize| one(&1, &value(0, 1));
                if of_one(self.spec.weigh) == of_one(self.spec.charge) {
                    assert_eq!(weight, self.cache.charged());
                }
            }
        }
        self.cache.assert_whole(&self.spec);
    }
}

/// The same items, whatever the order.
trait EqUnordered<'a>: Iterator<Item = &'a u64> + Sized {
    fn eq_unordered(self, others: &HashSet<u64>) -> bool {
        self.copied().collect::<HashSet<u64>>() == *others
    }
}

impl<'a, I: Iterator<Item = &'a u64>> EqUnordered<'a> for I {}
