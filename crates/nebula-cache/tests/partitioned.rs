//! Partitions: one capacity, and what each tenant is guaranteed of it.

mod common;

use std::{
    sync::{
        Arc, Barrier, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use common::{KINDS, SameHashes};
use nebula_cache::{
    AnyPolicy, CacheConfig, Capacity, EntryOptions, Partition, PartitionedCache, PolicyKind, Share,
    Untagged, Untimed, Weighed, With,
};
use nebula_memory_core::{
    ByteSize, ManualClock, MemoryError, MemoryUsage, PressureLevel, Reclaim, ReclaimRegistry,
};
use nebula_testing::{CountingAccount, InjectedPanic, catch};
use proptest::prelude::*;

type Tenants = PartitionedCache<u64, u64>;

fn entries(capacity: usize) -> Tenants {
    Tenants::new(CacheConfig::builder().entries(capacity).shards(2).build().unwrap()).unwrap()
}

fn add(tenants: &Tenants, name: &str, share: Share) -> Partition<u64, u64> {
    tenants.add(name, share, |cache| cache).unwrap()
}

fn fill(partition: &Partition<u64, u64>, keys: std::ops::Range<u64>) {
    keys.for_each(|key| _ = partition.insert(key, key).unwrap());
}

/// The sum of what all are granted is never more than the capacity, and each is in order.
fn check(tenants: &Tenants) {
    let partitions = tenants.partitions();
    let granted: usize = partitions.iter().map(|partition| partition.usage().granted).sum();
    assert!(granted <= tenants.capacity_amount(), "{granted} are granted");
    for partition in partitions {
        assert_eq!(partition.validate(), Ok(()), "{}", partition.name());
        let usage = partition.usage();
        assert!(usage.used <= usage.granted, "{}: {usage:?}", partition.name());
    }
}

trait Amount {
    fn capacity_amount(&self) -> usize;
}

impl<K, V, O: nebula_cache::Kit> Amount for PartitionedCache<K, V, O> {
    fn capacity_amount(&self) -> usize {
        match self.capacity() {
            Capacity::Entries(entries) => entries,
            Capacity::Bytes(bytes) => bytes.get(),
        }
    }
}

#[test]
fn a_noisy_tenant_never_evicts_what_another_is_guaranteed() {
    for kind in KINDS {
        let config = CacheConfig::builder().entries(1000).policy(kind).build().unwrap();
        let tenants = Tenants::new(config).unwrap();
        let quiet = add(&tenants, "quiet", Share::guaranteed(600));
        let noisy = add(&tenants, "noisy", Share::default());
        fill(&noisy, 0..500);
        fill(&quiet, 0..600);
        fill(&noisy, 500..10_000);
        assert_eq!(quiet.len(), 600, "{kind:?}");
        assert_eq!(quiet.stats().evictions(), 0, "{kind:?}");
        assert!((0..600).all(|key| quiet.get(&key) == Some(key)));
        assert!(noisy.len() > 390 && noisy.len() <= 400, "{}", noisy.len());
        assert!(noisy.usage().lost > 0);
        check(&tenants);
    }
}

#[test]
fn what_is_not_used_is_lent_and_had_back_at_once() {
    let tenants = entries(1000);
    let owner = add(&tenants, "owner", Share::guaranteed(700));
    let guest = add(&tenants, "guest", Share::guaranteed(300));
    fill(&guest, 0..5000);
    assert_eq!(guest.len(), 1000);
    for key in 0..700 {
        owner.insert(key, key).unwrap();
        // It never has to evict its own, nor is it refused.
        assert_eq!(owner.len() as u64, key + 1);
        assert!(owner.len() + guest.len() <= 1000);
    }
    assert!(guest.len() <= 300);
    fill(&guest, 0..300);
    assert_eq!((owner.len(), guest.len()), (700, 300));
    // And lent again.
    owner.clear();
    fill(&guest, 0..5000);
    assert!(guest.len() > 980, "all but a portion: {}", guest.len());
    check(&tenants);
}

#[test]
fn nobody_has_more_than_his_maximum() {
    let tenants = entries(1000);
    let small = add(&tenants, "small", Share::guaranteed(10).at_most(100));
    fill(&small, 0..1000);
    assert_eq!(small.len(), 100);
    assert_eq!(small.capacity(), Capacity::Entries(100));
    let usage = small.usage();
    assert_eq!((usage.guaranteed, usage.maximum, usage.granted, usage.used), (10, 100, 100, 100));
}

#[test]
fn what_is_guaranteed_to_nobody_is_divided_evenly_among_who_wants_it() {
    let tenants = entries(6400);
    let first = add(&tenants, "first", Share::default());
    let second = add(&tenants, "second", Share::guaranteed(400));
    fill(&first, 0..10_000);
    assert_eq!(first.len(), 6400);
    for key in 0..20_000 {
        first.insert(key, key).unwrap();
        second.insert(key, key).unwrap();
    }
    let beyond = [first.usage().granted, second.usage().granted - 400];
    let portion = 6400 / 64 / 2;
    assert!(beyond[0].abs_diff(beyond[1]) <= 3 * portion, "{beyond:?}");
    check(&tenants);
}

#[test]
fn partitions_come_and_go() {
    let tenants = entries(100);
    let stays = add(&tenants, "stays", Share::guaranteed(20));
    for round in 0..5 {
        let goes = add(&tenants, "goes", Share::guaranteed(80));
        assert_eq!(tenants.unpromised(), 0);
        assert!(tenants.add("third", Share::guaranteed(1), |cache| cache).is_err());
        fill(&stays, 0..200);
        fill(&goes, 0..80);
        assert_eq!((stays.len(), goes.len()), (20, 80));
        if round % 2 == 0 {
            assert!(tenants.remove("goes"));
            assert!(!tenants.remove("goes"));
            // A handle that is left is one of an empty cache that takes nothing.
            assert!(goes.is_empty());
            assert_eq!(goes.usage().granted, 0);
            let refused = goes.insert(1, 2).unwrap_err();
            assert_eq!(refused.value, (1, 2));
            assert!(matches!(refused.error, MemoryError::CapacityExceeded { .. }));
            drop(goes);
        } else {
            // The hub has a handle of its own: until it goes too, nothing is given back.
            drop(goes);
            assert!(tenants.remove("goes"));
        }
        fill(&stays, 0..200);
        assert_eq!(stays.len(), 100);
        check(&tenants);
    }
    assert_eq!(tenants.partitions().len(), 1);
    drop(tenants);
    // A handle outlives the hub.
    fill(&stays, 0..200);
    assert_eq!(stays.len(), 100);
}

#[test]
fn faults_are_told() {
    let tenants = entries(100);
    let a = add(&tenants, "a", Share::guaranteed(60));
    let message = |share| tenants.add("b", share, |cache| cache).unwrap_err().to_string();
    assert!(message(Share::guaranteed(41)).contains("41"));
    assert!(message(Share::guaranteed(2).at_most(1)).contains("share.maximum"));
    assert!(message(Share::default().at_most(0)).contains("share.maximum"));
    let again = tenants.add("a", Share::default(), |cache| cache).unwrap_err();
    assert!(again.to_string().contains("name = a"), "{again}");
    assert!(a.set_capacity(Capacity::Entries(10)).unwrap_err().to_string().contains("share"));
    assert!(tenants.set_capacity(Capacity::Entries(59)).is_err());
    assert!(tenants.set_capacity(Capacity::Bytes(ByteSize::mib(1))).is_err());
    assert!(tenants.set_share("a", Share::guaranteed(101)).is_err());
    assert!(!tenants.set_share("nobody", Share::default()).unwrap());
    assert_eq!(a.usage().guaranteed, 60, "nothing has changed");
    assert_eq!(tenants.capacity(), Capacity::Entries(100));
    assert!(
        Tenants::new(CacheConfig { ttl: Some(Duration::ZERO), ..CacheConfig::default() }).is_err()
    );
    // After all that, so much is still to be had.
    add(&tenants, "b", Share::guaranteed(40));
    check(&tenants);
}

#[test]
fn shares_change() {
    let tenants = entries(100);
    let a = add(&tenants, "a", Share::guaranteed(50));
    let b = add(&tenants, "b", Share::default());
    fill(&a, 0..100);
    assert_eq!(a.len(), 100);
    assert!(tenants.set_share("a", Share::guaranteed(10).at_most(30)).unwrap());
    assert_eq!((a.len(), a.usage().granted), (30, 30));
    assert_eq!(tenants.unpromised(), 90);
    fill(&b, 0..100);
    assert_eq!(b.len(), 70);
    assert!(tenants.set_share("b", Share::guaranteed(90)).unwrap());
    fill(&b, 0..100);
    assert_eq!((a.len(), b.len()), (10, 90));
    assert_eq!(a.usage().lost, 20);
    check(&tenants);
}

#[test]
fn the_capacity_changes() {
    let tenants = entries(1000);
    let a = add(&tenants, "a", Share::guaranteed(100));
    let b = add(&tenants, "b", Share::guaranteed(50));
    fill(&a, 0..1000);
    fill(&b, 0..300);
    tenants.set_capacity(Capacity::Entries(150)).unwrap();
    assert!(a.len() <= 100 && b.len() <= 50);
    assert!(a.usage().granted + b.usage().granted <= 150);
    fill(&a, 0..1000);
    fill(&b, 0..300);
    assert_eq!((a.len(), b.len()), (100, 50));
    tenants.set_capacity(Capacity::Entries(2000)).unwrap();
    fill(&a, 0..3000);
    assert_eq!(a.len(), 1950);
    check(&tenants);
}

#[test]
fn pinned_entries_stay_whoever_asks() {
    let tenants = entries(100);
    let a = add(&tenants, "a", Share::guaranteed(10));
    let b = add(&tenants, "b", Share::guaranteed(50));
    for key in 0..100 {
        a.insert_with(key, key, EntryOptions::new().pinned()).unwrap();
    }
    // It cannot be had, guaranteed or not, and that is told.
    let refused = b.insert(1, 1).unwrap_err();
    assert!(matches!(refused.error, MemoryError::CapacityExceeded { .. }), "{refused:?}");
    assert_eq!(a.len(), 100);
    (0..60).for_each(|key| assert!(a.unpin(&key)));
    // (It asks again only after a while.)
    (0..200).for_each(|key| _ = b.insert(key, key));
    // Beyond the guarantees they would have as much as each other, but for what is still pinned.
    assert_eq!((a.len(), b.len()), (40, 60));
    check(&tenants);
}

type Texts<A> =
    PartitionedCache<u64, Vec<u8>, With<AnyPolicy, Weighed, Untimed, Untagged, A, SameHashes>>;

#[test]
fn each_partition_charges_its_own_account_to_the_byte() {
    let config = CacheConfig::builder().bytes(ByteSize::mib(1)).shards(2).build().unwrap();
    let tenants = Texts::<CountingAccount>::new(config).unwrap();
    let accounts = [CountingAccount::new(), CountingAccount::new()];
    let partition = |name, account: &CountingAccount| {
        tenants
            .add(name, Share::guaranteed(400 << 10), |cache| {
                cache
                    .with_account(account.clone())
                    .with_weigher(|_, value: &Vec<u8>| value.capacity())
                    .with_hasher(SameHashes::default())
            })
            .unwrap()
    };
    let (a, b) = (partition("a", &accounts[0]), partition("b", &accounts[1]));
    for key in 0..5000_u64 {
        a.insert(key, vec![0; 700]).unwrap();
        b.insert(key, vec![0; usize::try_from(key % 900).unwrap()]).unwrap();
        assert!(a.used() + b.used() <= 1 << 20);
        assert_eq!(a.used(), a.weight());
    }
    accounts[0].assert_balance(a.charged());
    accounts[1].assert_balance(b.charged());
    // Each has what it is guaranteed (but for what does not divide evenly), and a part of the rest.
    for partition in [&a, &b] {
        assert!(partition.used() > 380 << 10, "{:?}", partition.usage());
        assert_eq!(partition.validate(), Ok(()));
    }
    // A large entry fits if it is less than what the partition may have.
    a.insert(1, vec![0; 300 << 10]).unwrap();
    let refused = a.insert(1, vec![0; 2 << 20]).unwrap_err();
    assert!(matches!(refused.error, MemoryError::CapacityExceeded { .. }));
    tenants.remove("a");
    drop(a);
    accounts[0].assert_settled();
    drop((b, tenants));
    accounts[1].assert_settled();
}

#[test]
fn a_cache_in_bytes_needs_room_for_itself() {
    let config = CacheConfig::builder().bytes(ByteSize::kib(64)).shards(1).build().unwrap();
    let tenants = PartitionedCache::<u64, u64>::new(config).unwrap();
    let owner = tenants.add("owner", Share::guaranteed(64 << 10), |cache| cache).unwrap();
    (0..5000).for_each(|key| _ = owner.insert(key, key).unwrap());
    let refused = tenants.add("guest", Share::default(), |cache| cache).unwrap_err();
    assert!(matches!(refused, MemoryError::CapacityExceeded { .. }), "{refused}");
    assert!(tenants.add("tiny", Share::default().at_most(100), |cache| cache).is_err());
    assert_eq!(owner.validate(), Ok(()));
}

/// How many there are, and the most there ever were.
#[derive(Default)]
struct Census {
    live: AtomicUsize,
    peak: AtomicUsize,
}

struct Counted(Arc<Census>);

impl Counted {
    fn new(census: &Arc<Census>) -> Self {
        let live = census.live.fetch_add(1, SeqCst) + 1;
        census.peak.fetch_max(live, SeqCst);
        Self(Arc::clone(census))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, SeqCst);
    }
}

#[test]
fn writers_of_many_partitions_never_hold_more_than_the_capacity() {
    const CAPACITY: usize = 3000;
    const WRITERS: usize = 3;
    let config = CacheConfig::builder().entries(CAPACITY).shards(2).build().unwrap();
    let tenants = PartitionedCache::<u64, Counted>::new(config).unwrap();
    let add = |name: &str, share| tenants.add(name, share, |cache| cache).unwrap();
    let census = Arc::new(Census::default());
    let steady = add("steady", Share::guaranteed(1000));
    (0..1000).for_each(|key| drop(steady.insert(key, Counted::new(&census))));
    let start = Barrier::new(WRITERS);
    thread::scope(|scope| {
        for writer in 0..WRITERS as u64 {
            let partition = add(&writer.to_string(), Share::guaranteed(500));
            let (start, census) = (&start, &census);
            scope.spawn(move || {
                start.wait();
                for key in 0..30_000_u64 {
                    let key = key.wrapping_mul(0x9E37_79B9) % 4000;
                    if !partition.contains(&key) {
                        assert!(partition.insert(key, Counted::new(census)).is_ok());
                    }
                    if key % 1000 == writer {
                        partition.evict(64);
                    }
                }
            });
        }
    });
    // Beside what the cache holds, each writer has a new one in his hands, and at most four that
    // are about to be dropped: two of his own's, two of another's.
    let peak = census.peak.load(SeqCst);
    assert!(peak > CAPACITY - 300 && peak <= CAPACITY + 5 * WRITERS, "{peak}");
    for partition in tenants.partitions() {
        assert_eq!(partition.validate(), Ok(()));
    }
    assert_eq!((steady.len(), steady.stats().evictions()), (1000, 0));
    assert!(tenants.weight() <= CAPACITY);
}

/// Panics when it is dropped, once it is armed.
struct Bomb(Arc<AtomicBool>);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0.swap(false, SeqCst) {
            std::panic::resume_unwind(Box::new(InjectedPanic));
        }
    }
}

#[test]
fn a_panic_in_what_is_evicted_for_another_costs_no_capacity() {
    let config = CacheConfig::builder().entries(100).shards(1).build().unwrap();
    let tenants = PartitionedCache::<u64, Bomb>::new(config).unwrap();
    let a = tenants.add("a", Share::default(), |cache| cache).unwrap();
    let b = tenants.add("b", Share::guaranteed(50), |cache| cache).unwrap();
    let armed = Arc::new(AtomicBool::new(false));
    (0..100).for_each(|key| drop(a.insert(key, Bomb(Arc::clone(&armed)))));
    armed.store(true, SeqCst);
    assert!(catch(|| drop(b.insert(0, Bomb(Arc::default())))).is_err());
    assert_eq!((a.validate(), b.validate()), (Ok(()), Ok(())));
    for key in 0..50 {
        assert!(b.insert(key, Bomb(Arc::default())).is_ok());
    }
    assert_eq!((a.usage().granted + b.usage().granted, b.len()), (100, 50));
}

#[test]
fn listeners_may_use_the_partitions() {
    let config = CacheConfig::builder().entries(200).shards(1).build().unwrap();
    let tenants = Tenants::new(config).unwrap();
    let second: Arc<OnceLock<Partition<u64, u64>>> = Arc::default();
    let (to, busy) = (Arc::clone(&second), AtomicBool::new(false));
    let first = tenants
        .add("first", Share::default(), move |cache| {
            cache.with_listener(move |key, value, _| {
                // What is evicted for the other goes to the other; not also what is evicted for that.
                if let Some(to) = to.get().filter(|_| !busy.swap(true, SeqCst)) {
                    to.insert(*key, *value).unwrap();
                    busy.store(false, SeqCst);
                }
            })
        })
        .unwrap();
    fill(&first, 0..200);
    let b = second.get_or_init(|| add(&tenants, "second", Share::guaranteed(100)));
    fill(b, 1000..1050);
    check(&tenants);
    let moved = b.iter().filter(|&(key, _)| key < 1000).count();
    assert!(moved > 0 && b.len() == 50 + moved, "{moved}");
    assert!(first.len() + b.len() <= 200);
}

#[test]
fn listeners_are_not_called_within_each_other_without_end() {
    let config = CacheConfig::builder().entries(20_000).shards(1).build().unwrap();
    let tenants = Tenants::new(config).unwrap();
    let second: Arc<OnceLock<Partition<u64, u64>>> = Arc::default();
    let to = Arc::clone(&second);
    let first = tenants.add("first", Share::default(), move |cache| {
        // Each of these could have another entry evicted here.
        cache.with_listener(move |key, value, _| _ = to.get().map(|to| to.insert(*key, *value)))
    });
    let first = first.unwrap();
    fill(&first, 0..20_000);
    let b = second.get_or_init(|| add(&tenants, "second", Share::guaranteed(10_000)));
    fill(b, 100_000..105_000);
    check(&tenants);
    assert!(b.len() >= 5000);
    assert!(first.len() + b.len() >= 19_000);
}

#[test]
fn what_is_guaranteed_is_had_back_of_who_has_many_entries_without_weight() {
    let config = CacheConfig::builder().bytes(ByteSize::kib(256)).shards(2).build().unwrap();
    let tenants = Tenants::new(config).unwrap();
    let owner = add(&tenants, "owner", Share::guaranteed(128 << 10));
    let guest = add(&tenants, "guest", Share::default());
    fill(&guest, 0..20_000);
    assert!(guest.usage().used > 200 << 10);
    fill(&owner, 0..2000);
    assert_eq!((owner.len(), owner.stats().evictions()), (2000, 0));
    check(&tenants);
}

#[test]
fn who_was_refused_has_what_there_is_as_soon_as_there_is_any() {
    let tenants = entries(100);
    let owner = add(&tenants, "owner", Share::guaranteed(50));
    let pinning = add(&tenants, "pinning", Share::default());
    for key in 0..100 {
        pinning.insert_with(key, key, EntryOptions::new().pinned()).unwrap();
    }
    owner.insert(1, 1).unwrap_err();
    (0..100).for_each(|key| assert!(pinning.unpin(&key)));
    // It is guaranteed.
    fill(&owner, 0..50);
    // And without a guarantee, to who has nothing.
    fill(&pinning, 0..50);
    tenants.set_share("pinning", Share::guaranteed(50)).unwrap();
    let late = add(&tenants, "late", Share::default());
    late.insert(1, 1).unwrap_err();
    assert!(tenants.remove("pinning"));
    late.insert(1, 1).unwrap();
    check(&tenants);
}

#[test]
fn a_lower_maximum_takes_what_is_free_beside_pinned_entries() {
    let tenants = entries(1000);
    let pinning = add(&tenants, "pinning", Share::default());
    for key in 0..10 {
        pinning.insert_with(key, key, EntryOptions::new().pinned()).unwrap();
    }
    fill(&pinning, 10..95);
    assert!(tenants.set_share("pinning", Share::default().at_most(5)).unwrap());
    let usage = pinning.usage();
    assert_eq!((usage.granted, usage.used), (10, 10));
    pinning.insert(1000, 0).unwrap_err();
    check(&tenants);
}

#[test]
fn a_partition_in_bytes_that_is_removed_keeps_what_it_takes_itself_and_no_more() {
    let config = CacheConfig::builder().bytes(ByteSize::kib(256)).shards(2).build().unwrap();
    let tenants = Tenants::new(config).unwrap();
    let goes = add(&tenants, "goes", Share::default());
    let empty = goes.usage().used;
    fill(&goes, 0..3000);
    assert!(tenants.remove("goes"));
    assert_eq!((goes.usage().granted, goes.usage().used), (empty, empty));
    goes.insert(1, 1).unwrap_err();
}

#[test]
fn threads_of_one_partition_do_not_get_more_than_its_maximum_together() {
    for _ in 0..20 {
        let tenants = entries(1000);
        let own = add(&tenants, "own", Share::guaranteed(500).at_most(500));
        fill(&add(&tenants, "guest", Share::default()), 0..3000);
        thread::scope(|scope| {
            for first in 0..4 {
                let own = &own;
                scope.spawn(move || fill(own, first * 1000..first * 1000 + 500));
            }
        });
        assert_eq!((own.usage().granted, own.len()), (500, 500));
        check(&tenants);
    }
}

#[test]
fn a_value_too_large_for_what_is_to_be_had_evicts_nothing() {
    type Blocks = PartitionedCache<u64, Vec<u8>, With<AnyPolicy, Weighed>>;
    let config = CacheConfig::builder().bytes(ByteSize::kib(256)).shards(1).build().unwrap();
    let tenants = Blocks::new(config).unwrap();
    let add = |name, share| {
        let weigh = |_: &u64, block: &Vec<u8>| block.capacity();
        tenants.add(name, share, |cache| cache.with_weigher(weigh)).unwrap()
    };
    let owner = add("owner", Share::guaranteed(180 << 10));
    let guest = add("guest", Share::default());
    for key in 0..40 {
        owner.insert(key, vec![0; 4096]).unwrap();
    }
    for key in 0..10 {
        guest.insert(key, vec![0; 4096]).unwrap();
    }
    let refused = guest.insert(100, vec![0; 150 << 10]).unwrap_err();
    assert_eq!(refused.into_value().1.len(), 150 << 10);
    assert_eq!((owner.len(), guest.len()), (40, 10));
    // What it could have is had, and then there is room.
    owner.clear();
    guest.insert(100, vec![0; 150 << 10]).unwrap();
}

type Timed = With<AnyPolicy, nebula_cache::Counted, nebula_cache::Timed>;

#[test]
fn the_rest_of_the_configuration_applies_to_every_partition() {
    let config = CacheConfig::builder()
        .entries(100)
        .policy(PolicyKind::Lru)
        .ttl(Duration::from_secs(1))
        .shards(4)
        .build()
        .unwrap();
    let tenants = PartitionedCache::<u64, u64, Timed>::new(config).unwrap();
    let clock = Arc::new(ManualClock::new());
    let build = |name| {
        let clock = clock.clone();
        tenants.add(name, Share::default(), |cache| cache.with_expiry().with_clock(clock)).unwrap()
    };
    for partition in [build("a"), build("b")] {
        assert_eq!((partition.policy(), partition.shards()), (PolicyKind::Lru, 4));
        partition.insert(1, 1).unwrap();
    }
    clock.advance(Duration::from_secs(2));
    assert!(tenants.partitions().iter().all(|partition| partition.get(&1).is_none()));
}

#[test]
fn pressure_takes_first_from_who_has_more_than_he_is_guaranteed() {
    let tenants = Arc::new(entries(10_000));
    let modest = add(&tenants, "modest", Share::guaranteed(5000));
    let greedy = add(&tenants, "greedy", Share::default());
    fill(&modest, 0..2000);
    fill(&greedy, 0..5000);
    let before = tenants.reclaimable();
    let registry = ReclaimRegistry::new();
    let reclaim: std::sync::Weak<dyn Reclaim> = Arc::downgrade(&tenants) as _;
    let _registration = registry.register("tenants", 1, reclaim);
    let given = registry.reclaim(greedy.reclaimable() / 2, PressureLevel::Critical).given;
    assert!(given > 0);
    assert_eq!(tenants.reclaimable(), before - given);
    assert_eq!(modest.len(), 2000);
    assert!(greedy.len() < 5000);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Insert(usize, u64),
    Remove(usize, u64),
    Clear(usize),
    Share(usize, usize, usize),
    Leave(usize),
    Capacity(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        30 => (0..4_usize, 0..60_u64).prop_map(|(who, key)| Op::Insert(who, key)),
        4 => (0..4_usize, 0..60_u64).prop_map(|(who, key)| Op::Remove(who, key)),
        1 => (0..4_usize).prop_map(Op::Clear),
        2 => (0..4_usize, 0..20_usize, 1..60_usize).prop_map(|(who, least, most)| Op::Share(who, least, most)),
        1 => (0..4_usize).prop_map(Op::Leave),
        1 => (1..80_usize).prop_map(Op::Capacity),
    ];
    prop::collection::vec(op, 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_guarantees_are_kept(ops in ops()) {
        let tenants = entries(50);
        let name = |who: usize| who.to_string();
        let partition = |who: usize| {
            tenants.get(&name(who)).unwrap_or_else(|| add(&tenants, &name(who), Share::default()))
        };
        for op in ops {
            let before: Vec<_> = (0..4).map(partition).map(|p| (p.len(), p.usage())).collect();
            match op {
                Op::Insert(who, key) => {
                    let partition = partition(who);
                    let (len, there) = (partition.len(), partition.contains(&key));
                    let inserted = partition.insert(key, key).is_ok();
                    // What nobody guarantees may not be there.
                    prop_assert!(inserted || before[who].1.guaranteed == 0);
                    // Below his guarantee nobody evicts his own.
                    if !there && len < before[who].1.guaranteed {
                        prop_assert_eq!(partition.len(), len + 1);
                    }
                    // Nor has anybody else lost what he is guaranteed.
                    for (other, (len, usage)) in before.iter().enumerate().filter(|(o, _)| *o != who) {
                        let kept = (*len).min(usage.guaranteed);
                        prop_assert!(tenants.get(&name(other)).unwrap().len() >= kept);
                    }
                }
                Op::Remove(who, key) => _ = partition(who).remove(&key),
                Op::Clear(who) => partition(who).clear(),
                Op::Share(who, least, most) => {
                    let share = Share::guaranteed(least).at_most(most);
                    if tenants.set_share(&name(who), share).is_ok() {
                        prop_assert!(partition(who).len() <= most);
                    }
                }
                Op::Leave(who) => _ = tenants.remove(&name(who)),
                Op::Capacity(capacity) => _ = tenants.set_capacity(Capacity::Entries(capacity)),
            }
            check(&tenants);
            prop_assert!(tenants.weight() <= tenants.capacity_amount());
        }
    }
}
