//! Writing down what is cached, and reading it again.
#![cfg(feature = "codec")]

mod common;

use std::{
    io::{self, Read, Write},
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use common::{KINDS, SameHashes};
use nebula_cache::{
    AnyPolicy, CacheConfig, ComputeCache, ConcurrentComputeCache, Counted, EntryOptions,
    PolicyKind, Restored, SnapshotError, Timed, Untagged, With,
};
use nebula_memory_core::ManualClock;
use nebula_testing::CountingAccount;
use proptest::prelude::*;

fn config(entries: usize, kind: PolicyKind) -> CacheConfig {
    CacheConfig::builder().entries(entries).policy(kind).shards(4).build().unwrap()
}

type Cache = ConcurrentComputeCache<u64, String>;

fn filled(entries: u64, kind: PolicyKind) -> Cache {
    let cache = Cache::new(config(1000, kind)).unwrap();
    (0..entries).for_each(|key| drop(cache.insert(key, key.to_string()).unwrap()));
    cache
}

fn written(cache: &Cache) -> Vec<u8> {
    let mut file = Vec::new();
    assert_eq!(cache.snapshot(&mut file, 7).unwrap(), cache.len() as u64);
    file
}

#[test]
fn what_was_cached_is_cached_again() {
    for kind in KINDS {
        let cache = filled(1000, kind);
        cache.pin(&3);
        let another = Cache::new(config(1000, kind)).unwrap();
        let restored = another.restore(written(&cache).as_slice(), 7).unwrap();
        assert_eq!((restored.cached, restored.expired, restored.refused), (1000, 0, 0));
        assert!((0..1000).all(|key| another.peek(&key) == Some(key.to_string())), "{kind:?}");
        assert_eq!(another.validate(), Ok(()));
    }
}

#[test]
fn the_hottest_are_kept_where_there_is_no_room_for_all() {
    let one_shard = |entries| {
        let config = CacheConfig::builder().entries(entries).shards(1);
        Cache::new(config.policy(PolicyKind::Lru).build().unwrap()).unwrap()
    };
    let cache = one_shard(1000);
    (0..1000).for_each(|key| drop(cache.insert(key, key.to_string()).unwrap()));
    (0..300).for_each(|key| drop(cache.get(&key)));
    let small = one_shard(200);
    assert_eq!(small.restore(written(&cache).as_slice(), 7).unwrap().cached, 1000);
    assert!((100..300).all(|key| small.contains(&key)), "those that were used last");
}

#[test]
fn the_single_threaded_cache_reads_what_the_other_wrote() {
    let cache = filled(100, PolicyKind::default());
    let mut local = ComputeCache::<u64, String>::new(config(1000, PolicyKind::default())).unwrap();
    assert_eq!(local.restore(written(&cache).as_slice(), 7).unwrap().cached, 100);
    let mut file = Vec::new();
    assert_eq!(local.snapshot(&mut file, 8).unwrap(), 100);
    let again = Cache::new(config(1000, PolicyKind::default())).unwrap();
    again.restore(file.as_slice(), 8).unwrap();
    assert_eq!(again.get(&99).as_deref(), Some("99"));
}

#[test]
fn entries_live_for_what_they_had_left() {
    type Kit = With<AnyPolicy, Counted, Timed>;
    let clock = Arc::new(ManualClock::new());
    let build = || -> ConcurrentComputeCache<u64, u64, Kit> {
        let builder = ConcurrentComputeCache::builder(config(100, PolicyKind::default()));
        builder.with_expiry().with_clock(clock.clone()).build().unwrap()
    };
    let cache = build();
    let hours = |hours: u64| EntryOptions::new().ttl(Duration::from_secs(3600 * hours));
    cache.insert_with(1, 1, hours(1)).unwrap();
    cache.insert_with(2, 2, hours(10)).unwrap();
    cache.insert(3, 3).unwrap();
    clock.advance(Duration::from_secs(1800));
    let mut file = Vec::new();
    cache.snapshot(&mut file, 1).unwrap();
    let another = build();
    assert_eq!(another.restore(file.as_slice(), 1).unwrap().cached, 3);
    clock.advance(Duration::from_secs(1801));
    assert_eq!((another.get(&1), another.get(&2), another.get(&3)), (None, Some(2), Some(3)));
    // What is expired is not written, and where entries know no time only those come in that have
    // all of it.
    let untimed = ConcurrentComputeCache::<u64, u64>::new(CacheConfig::default()).unwrap();
    let restored = untimed.restore(file.as_slice(), 1).unwrap();
    assert_eq!((restored.cached, restored.expired), (1, 2));
    let mut file = Vec::new();
    assert_eq!(another.snapshot(&mut file, 1).unwrap(), 2);
}

#[test]
fn what_expires_while_a_snapshot_is_read_is_not_cached() {
    /// Holds the end back until the time has come.
    struct Slow<'f>(&'f [u8], SystemTime);
    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let end = self.0.len() <= 16;
            while end && SystemTime::now() < self.1 {
                thread::yield_now();
            }
            let part = if end { into.len() } else { into.len().min(self.0.len() - 16) };
            self.0.read(&mut into[..part])
        }
    }
    type Kit = With<AnyPolicy, Counted, Timed>;
    let build = || -> ConcurrentComputeCache<u64, u64, Kit> {
        let builder = ConcurrentComputeCache::builder(config(100, PolicyKind::default()));
        builder.with_expiry().build().unwrap()
    };
    let (cache, ttl) = (build(), Duration::from_millis(200));
    cache.insert_with(1, 1, EntryOptions::new().ttl(ttl)).unwrap();
    cache.insert_with(2, 2, EntryOptions::new().ttl(Duration::from_secs(3600))).unwrap();
    let mut file = Vec::new();
    assert_eq!(cache.snapshot(&mut file, 1).unwrap(), 2);
    let another = build();
    let restored = another.restore(Slow(&file, SystemTime::now() + ttl), 1).unwrap();
    assert_eq!((restored.cached, restored.expired), (1, 1));
    assert_eq!((another.get(&1), another.get(&2)), (None, Some(2)));
}

#[test]
fn every_cut_and_every_flipped_bit_is_told_and_caches_nothing() {
    let file = written(&filled(20, PolicyKind::Fifo));
    let check = |file: &[u8], what: &str| {
        let cache = Cache::new(config(100, PolicyKind::Fifo)).unwrap();
        let error = cache.restore(file, 7).expect_err(what);
        assert!(!matches!(error, SnapshotError::Io(_)), "{what}: {error}");
        assert!(cache.is_empty(), "{what}");
    };
    for length in 0..file.len() {
        check(&file[..length], &format!("cut at {length}"));
    }
    for at in 0..file.len() * 8 {
        let mut file = file.clone();
        file[at / 8] ^= 1 << (at % 8);
        check(&file, &format!("bit {at} flipped"));
    }
}

#[test]
fn another_version_is_told() {
    let file = written(&filled(20, PolicyKind::Fifo));
    let cache = Cache::new(config(100, PolicyKind::Fifo)).unwrap();
    let error = cache.restore(file.as_slice(), 8).unwrap_err();
    assert!(matches!(error, SnapshotError::OtherVersion { found: 7, wanted: 8 }), "{error}");
    // The same bytes as other types: an error or other values, but nothing worse.
    let other = ConcurrentComputeCache::<String, u64>::new(CacheConfig::default()).unwrap();
    let _ = other.restore(file.as_slice(), 7);
}

#[test]
fn a_writer_or_reader_that_fails_says_so() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let part = bytes.len().min(self.0);
            self.0 -= part;
            if part == 0 { Err(io::Error::other("full")) } else { Ok(part) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    struct Torn(io::Cursor<Vec<u8>>, usize);
    impl Read for Torn {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let most = into.len().min(self.1);
            if most == 0 {
                return Err(io::Error::other("torn"));
            }
            self.1 -= most;
            self.0.read(&mut into[..most])
        }
    }
    let cache = filled(20, PolicyKind::Fifo);
    let file = written(&cache);
    for length in 0..file.len() {
        assert!(matches!(cache.snapshot(Full(length), 7), Err(SnapshotError::Io(_))));
        let torn = Torn(io::Cursor::new(file.clone()), length);
        let empty = Cache::new(config(100, PolicyKind::Fifo)).unwrap();
        assert!(matches!(empty.restore(torn, 7), Err(SnapshotError::Io(_))));
        assert!(empty.is_empty());
    }
}

#[test]
fn books_are_exact_and_refusals_are_counted() {
    type Kit = With<
        AnyPolicy,
        nebula_cache::Weighed,
        nebula_cache::Untimed,
        Untagged,
        CountingAccount,
        SameHashes,
    >;
    let account = CountingAccount::new();
    let small: ConcurrentComputeCache<u64, String, Kit> = ConcurrentComputeCache::builder(
        CacheConfig::builder()
            .bytes(nebula_memory_core::ByteSize::kib(64))
            .shards(1)
            .build()
            .unwrap(),
    )
    .with_account(account.clone())
    .with_weigher(|key, value: &String| if *key == 5 { 1 << 20 } else { value.capacity() })
    .with_hasher(SameHashes::default())
    .build()
    .unwrap();
    let restored = small.restore(written(&filled(50, PolicyKind::Fifo)).as_slice(), 7).unwrap();
    assert_eq!((restored.cached, restored.refused), (49, 1));
    account.assert_balance(small.charged());
}

#[test]
fn a_snapshot_of_a_cache_in_use_is_sound() {
    let cache = filled(1000, PolicyKind::default());
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for key in 1000.. {
                if stop.load(std::sync::atomic::Ordering::SeqCst) {
                    return;
                }
                drop(cache.insert(key, key.to_string()).unwrap());
                if key % 50 == 0 {
                    cache.evict(20_000);
                }
            }
        });
        for _ in 0..20 {
            let mut file = Vec::new();
            let entries = cache.snapshot(&mut file, 7).unwrap();
            let another = Cache::new(config(2000, PolicyKind::Fifo)).unwrap();
            let restored = another.restore(file.as_slice(), 7).unwrap();
            assert_eq!(restored.cached as u64, entries);
            assert!(another.iter().all(|(key, value)| value == key.to_string()));
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_read_is_no_more_than_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let cache = Cache::new(config(100, PolicyKind::Fifo)).unwrap();
        prop_assert!(cache.restore(bytes.as_slice(), 7).is_err());
        let mut file = b"NbS\x01\x07\0\0\0".to_vec();
        file.extend(bytes);
        prop_assert!(cache.restore(file.as_slice(), 7).is_err());
        prop_assert!(cache.is_empty());
        prop_assert_eq!(Restored::default().cached, 0);
    }
}
