//! Partitions that come, go, grow and shrink while threads use them.

use std::thread;

use nebula_cache::{
    AnyPolicy, CacheConfig, Capacity, Partition, PartitionedCache, Share, Weighed, With,
};
use nebula_memory_core::ByteSize;

type Kit = With<AnyPolicy, Weighed>;
type Tenants = PartitionedCache<u64, Vec<u8>, Kit>;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn add(tenants: &Tenants, name: &str, share: Share) -> Option<Partition<u64, Vec<u8>, Kit>> {
    let weigh = |_: &u64, block: &Vec<u8>| block.capacity();
    tenants.add(name, share, |cache| cache.with_weigher(weigh)).ok()
}

fn amount(capacity: Capacity) -> usize {
    match capacity {
        Capacity::Entries(entries) => entries,
        Capacity::Bytes(bytes) => bytes.get(),
    }
}

/// Numbers that look random.
fn numbers(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % below
    }
}

/// What one thread does; `largest` is what a value weighs at most.
fn work(tenants: &Tenants, like: Capacity, largest: usize, seed: u64) {
    let (whole, mut number) = (amount(like), numbers(seed));
    for _ in 0..3000 {
        let name = NAMES[number(4)];
        let some = number(whole / 4);
        match number(200) {
            0 => _ = tenants.remove(name),
            1 => _ = add(tenants, name, Share::guaranteed(whole / 8)),
            // (Both may be refused.)
            2 => _ = tenants.set_share(name, Share::guaranteed(some)).ok(),
            3 => {
                let share = Share::guaranteed(whole / 16).at_most(whole / 8 + some);
                let _ = tenants.set_share(name, share);
            }
            4 => {
                let capacity = match like {
                    Capacity::Entries(_) => Capacity::Entries(whole / 2 + some),
                    Capacity::Bytes(_) => Capacity::Bytes(ByteSize::new(whole / 2 + some)),
                };
                let _ = tenants.set_capacity(capacity);
            }
            5 => _ = tenants.get(name).map(|partition| partition.clear()),
            _ => {
                let Some(partition) = tenants.get(name) else { continue };
                for _ in 0..5 {
                    // (It may have been removed by now.)
                    let _ = partition.insert(number(3000) as u64, vec![0; number(largest)]);
                }
                partition.remove(&(number(3000) as u64));
            }
        }
    }
}

#[test]
fn shares_and_capacity_change_under_load_and_nothing_is_lost() {
    let bytes = Capacity::Bytes(ByteSize::kib(512));
    for (seed, (like, largest)) in
        [(Capacity::Entries(2000), 1), (bytes, 900)].repeat(3).iter().enumerate()
    {
        let config = CacheConfig::builder().capacity(*like).shards(2).build().unwrap();
        let tenants = Tenants::new(config).unwrap();
        for name in NAMES {
            add(&tenants, name, Share::guaranteed(amount(*like) / 8)).unwrap();
        }
        thread::scope(|scope| {
            for thread in 0..3 {
                let (tenants, seed) = (&tenants, (seed * 3 + thread) as u64);
                scope.spawn(move || work(tenants, *like, *largest, seed));
            }
        });
        let whole = amount(tenants.capacity());
        let mut granted = 0;
        for partition in tenants.partitions() {
            let usage = partition.usage();
            assert_eq!(partition.validate(), Ok(()));
            assert_eq!(amount(partition.capacity()), usage.granted);
            assert!(usage.used <= usage.granted && usage.granted <= usage.maximum, "{usage:?}");
            granted += usage.granted;
        }
        assert!(granted <= whole, "{granted} of {whole} are granted");
        for name in NAMES {
            tenants.remove(name);
        }
        // All of it can be had by who is left.
        let last = add(&tenants, "last", Share::guaranteed(whole)).unwrap();
        for key in 0..10_000 {
            last.insert(key, vec![0; 100 % largest]).unwrap();
        }
        assert_eq!(last.usage().granted, whole);
    }
}
