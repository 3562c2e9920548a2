//! `nebula-cache` beside its peers: the same keys in the same order, the same hash function, room for
//! the same number of entries. Ours is charged to a budget and counts hits and misses; so do the
//! peers that can (`quick_cache`).

mod levels;
mod maps;
mod scheduled;
mod tasks;

use std::{
    cell::RefCell,
    hint::black_box,
    sync::{Arc, OnceLock},
};

use nebula_cache::{AnyPolicy, Steady};

use self::levels::{Levels, disk_get, disk_put};
use self::maps::{
    Dash, Foyer, Hashlink, LocalMap, Locked, Map, Moka, Ours, OursLocal, Quick, QuickLocal,
    Schnellru,
};
use crate::{Case, Contender, Footprint, Maker, Stopwatch, Thread, kept};

/// The tests run everything a few times without optimisation, and on less.
const SMALL: bool = cfg!(debug_assertions);

/// Different keys of the Zipf sequence.
const KEYS: usize = if SMALL { 1000 } else { 100_000 };

/// Length of the sequence, a power of two; threads start at different places in it.
const SEQUENCE: usize = if SMALL { 1 << 12 } else { 1 << 18 };

/// Entries of a cache that holds about 80 % of the accesses.
const PART: usize = if SMALL { 140 } else { 14_000 };

/// Spreads numbers over the key space.
const fn scatter(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// A fixed sequence of keys by the Zipf distribution, exponent 0.99; ranks are scattered over the
/// key space.
fn zipf() -> &'static [u64] {
    static SEQUENCE_OF_KEYS: OnceLock<Vec<u64>> = OnceLock::new();
    SEQUENCE_OF_KEYS.get_or_init(|| {
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=KEYS)
            .map(|rank| {
                sum += (rank as f64).powf(-0.99);
                sum
            })
            .collect();
        let mut state = 7_u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state ^ (state >> 29)) >> 11) as f64 / (1_u64 << 53) as f64
        };
        let draw = |_| {
            let point = uniform() * sum;
            let rank = sums.partition_point(|&sum| sum <= point) as u64;
            scatter(rank)
        };
        (0..SEQUENCE).map(draw).collect()
    })
}

/// Keys of the sequence, from a place of the thread's own.
fn each_key(thread: Thread, mut op: impl FnMut(u64)) {
    let keys = zipf();
    let start = thread.index * SEQUENCE / 3;
    let turns = usize::try_from(thread.iterations).unwrap_or(usize::MAX);
    for turn in start..start + turns {
        op(keys[turn & (SEQUENCE - 1)]);
    }
}

/// A cache with room to spare that holds all keys.
fn full<M: Map>() -> M {
    let cache = M::with_room_for(2 * KEYS);
    for rank in 0..KEYS as u64 {
        cache.insert(scatter(rank));
    }
    cache
}

/// Everything is cached, and read; every twentieth key is written instead, if `mixed`.
fn hit<M: Map + Send + Sync>(name: &'static str, threads: usize, mixed: bool) -> Contender {
    Contender::threads(name, threads, kept(full::<M>), move |cache: &Arc<M>, thread| {
        if mixed {
            let mut turn = 0_u32;
            each_key(thread, |key| {
                turn += 1;
                if turn == 20 {
                    turn = 0;
                    cache.insert(key);
                } else {
                    black_box(cache.get(key));
                }
            });
        } else {
            each_key(thread, |key| {
                black_box(cache.get(key));
            });
        }
    })
}

/// Every key is new, and one goes for it.
fn churn<M: Map + Send + Sync>(name: &'static str, threads: usize) -> Contender {
    Contender::threads(name, threads, churned::<M>, |cache, thread| {
        let first = (thread.index as u64 + 1) << 40;
        for key in first..first + thread.iterations {
            cache.insert(scatter(key));
        }
    })
}

/// A full cache through which three times as much has gone.
fn churned<M: Map>() -> M {
    let cache = M::with_room_for(PART);
    (0..4 * PART as u64).for_each(|key| cache.insert(scatter(key)));
    cache
}

/// About four in five keys are cached; the others are computed and cached.
fn get_or_insert<M: Map + Send + Sync>(name: &'static str, threads: usize) -> Contender {
    let setup = || {
        let cache = M::with_room_for(PART);
        for &key in zipf() {
            cache.get_or_insert(key);
        }
        cache
    };
    Contender::threads(name, threads, setup, |cache, thread| {
        each_key(thread, |key| {
            black_box(cache.get_or_insert(key));
        });
    })
}

/// The work of one thread on a cache of its own.
fn local<M: LocalMap>(
    name: &'static str,
    setup: impl Fn() -> M + 'static,
    work: impl Fn(&mut M, Thread) + 'static,
) -> Contender {
    let setup = kept(move || RefCell::new(setup()));
    Contender::timed(name, move |iterations| {
        let cache = setup();
        let mut cache = cache.borrow_mut();
        let watch = Stopwatch::start();
        work(&mut cache, Thread { index: 0, iterations });
        watch.elapsed()
    })
}

fn local_hit<M: LocalMap>(name: &'static str) -> Contender {
    let setup = || {
        let mut cache = M::with_room_for(2 * KEYS);
        (0..KEYS as u64).for_each(|rank| cache.insert(scatter(rank)));
        cache
    };
    local(name, setup, |cache: &mut M, thread| {
        each_key(thread, |key| {
            black_box(cache.get(key));
        });
    })
}

fn local_churn<M: LocalMap>(name: &'static str) -> Contender {
    let setup = || {
        let mut cache = M::with_room_for(PART);
        (0..4 * PART as u64).for_each(|key| cache.insert(scatter(key)));
        cache
    };
    local(name, setup, |cache: &mut M, thread| {
        for key in (1 << 40)..(1 << 40) + thread.iterations {
            cache.insert(scatter(key));
        }
    })
}

fn local_get_or_insert<M: LocalMap>(name: &'static str) -> Contender {
    let setup = || {
        let mut cache = M::with_room_for(PART);
        for &key in zipf() {
            cache.get_or_insert(key);
        }
        cache
    };
    local(name, setup, |cache: &mut M, thread| {
        each_key(thread, |key| {
            black_box(cache.get_or_insert(key));
        });
    })
}

/// A case over all concurrent ones: ours with the policy chosen by type, and at run time.
macro_rules! case {
    ($name:literal, $work:ident($($arg:expr),*)) => {
        Case::new($name, $work::<Ours<Steady>>("ours", $($arg),*))
            .peer($work::<Ours<AnyPolicy>>("ours, policy at run time", $($arg),*))
            .peer($work::<Quick>("quick_cache", $($arg),*))
            .peer($work::<Moka>("moka", $($arg),*))
            .peer($work::<Foyer>("foyer-memory", $($arg),*))
            .peer($work::<Locked>("Mutex<hashlink>", $($arg),*))
    };
}

/// A case over all single-threaded ones.
macro_rules! local_case {
    ($name:literal, $work:ident) => {
        Case::new($name, $work::<OursLocal<Steady>>("ours"))
            .peer($work::<QuickLocal>("quick_cache"))
            .peer($work::<Hashlink>("hashlink"))
            .peer($work::<Schnellru>("schnellru"))
    };
}

/// Every case of this area.
#[must_use]
pub fn cases() -> Vec<Case> {
    let ((disk_get, file_get), (disk_put, file_put)) = (disk_get(), disk_put());
    let mut cases = vec![
        Case::new("levels: hit in level one, 1 thread", hit::<Levels<Steady>>("ours", 1, false))
            .peer(hit::<Ours<Steady>>("ours, one level", 1, false)),
        Case::new("levels: get or insert at 80 % hits", get_or_insert::<Levels<Steady>>("ours", 1))
            .peer(get_or_insert::<Ours<Steady>>("ours, one level", 1)),
        Case::new("disk: get, 1000 bytes", disk_get).peer(file_get),
        Case::new("disk: put, 1000 bytes", disk_put).peer(file_put),
        case!("get hit, 1 thread", hit(1, false)).peer(hit::<Dash>("DashMap", 1, false)),
        case!("get hit, 2 threads", hit(2, false)).peer(hit::<Dash>("DashMap", 2, false)),
        case!("95 % get, 5 % insert, 1 thread", hit(1, true)),
        case!("95 % get, 5 % insert, 2 threads", hit(2, true)),
        case!("insert and evict, 1 thread", churn(1)),
        case!("insert and evict, 2 threads", churn(2)),
        case!("get or insert at 80 % hits, 1 thread", get_or_insert(1)),
        case!("get or insert at 80 % hits, 2 threads", get_or_insert(2)),
        local_case!("single-threaded: get hit", local_hit),
        local_case!("single-threaded: insert and evict", local_churn),
        local_case!("single-threaded: get or insert at 80 % hits", local_get_or_insert),
    ];
    cases.extend(scheduled::cases());
    cases.extend(tasks::cases());
    cases
}

/// What an entry takes of a cache that was made for so many, through which `turns` times as many have
/// gone.
fn filled<M: Map>(name: &'static str, turns: usize) -> Maker {
    Maker::of_parts(name, KEYS, move || {
        let cache = M::with_room_for(KEYS);
        (0..(turns * KEYS) as u64).for_each(|key| cache.insert(scatter(key)));
        cache
    })
}

/// What entries take.
#[must_use]
pub fn footprints() -> Vec<Footprint> {
    let of = |name, turns| {
        Footprint::new(name, "B/entry", filled::<Ours<Steady>>("ours", turns))
            .peer(filled::<Quick>("quick_cache", turns))
            .peer(filled::<Moka>("moka", turns))
            .peer(filled::<Foyer>("foyer-memory", turns))
            .peer(filled::<Locked>("Mutex<hashlink>", turns))
    };
    vec![of("a cache from u64 to u64, filled", 1), of("a cache from u64 to u64, churned", 4)]
}
