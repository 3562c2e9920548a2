//! The policy against a plain transcription of the published algorithm, and against LRU.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasherDefault, Hasher},
};

use nebula_cache::{CacheConfig, ConcurrentComputeCache};
use nebula_memory_core::ByteSize;
use nebula_testing::{DropCounter, DropProbe, Rng};

/// The key is its hash, so that fingerprints are keys.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// S3-FIFO as in the paper (algorithm 1), for entries of equal weight, with promotion from the
/// third access on (two hits), a ghost queue of its own size, and explicit removal.
struct Reference {
    capacity: usize,
    ghost_capacity: usize,
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    ghosts: VecDeque<u64>,
    hits: HashMap<u64, u8>,
    evicted: Vec<u64>,
}

impl Reference {
    fn new(capacity: usize, ghost_capacity: usize) -> Self {
        Self {
            capacity,
            ghost_capacity,
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            hits: HashMap::new(),
            evicted: Vec::new(),
        }
    }

    fn get(&mut self, key: u64) -> bool {
        match self.hits.get_mut(&key) {
            Some(hits) => {
                *hits = (*hits + 1).min(3);
                true
            }
            None => false,
        }
    }

    fn insert(&mut self, key: u64) {
        if self.get(key) {
            return;
        }
        while self.hits.len() >= self.capacity {
            self.evict();
        }
        if let Some(at) = self.ghosts.iter().position(|&ghost| ghost == key) {
            self.ghosts.remove(at);
            self.main.push_front(key);
        } else {
            self.small.push_front(key);
        }
        self.hits.insert(key, 0);
    }

    fn remove(&mut self, key: u64) {
        if self.hits.remove(&key).is_some() {
            self.small.retain(|&other| other != key);
            self.main.retain(|&other| other != key);
        }
    }

    fn evict(&mut self) {
        let tenth_or_more = self.small.len() * 10 >= self.hits.len();
        if !self.small.is_empty() && (tenth_or_more || self.main.is_empty()) {
            self.evict_small();
        } else {
            self.evict_main();
        }
    }

    /// One step of the paper's loop; the caller goes on until something has left.
    fn evict_small(&mut self) {
        let key = self.small.pop_back().unwrap();
        if self.hits[&key] > 1 {
            self.hits.insert(key, 0);
            self.main.push_front(key);
        } else {
            self.ghosts.push_front(key);
            self.ghosts.truncate(self.ghost_capacity);
            self.leave(key);
        }
    }

    fn evict_main(&mut self) {
        while let Some(key) = self.main.pop_back() {
            let hits = self.hits.get_mut(&key).unwrap();
            if *hits == 0 {
                return self.leave(key);
            }
            *hits -= 1;
            self.main.push_front(key);
        }
    }

    fn leave(&mut self, key: u64) {
        self.hits.remove(&key);
        self.evicted.push(key);
    }
}

/// Random keys, few of them often.
fn skewed(rng: &mut Rng, keys: usize) -> u64 {
    let a = rng.below(keys);
    let b = rng.below(a + 1);
    rng.below(b + 1) as u64 + 1
}

#[test]
fn evicts_the_same_entries_in_the_same_order_as_the_paper() {
    // Up to 16 slots in a chunk have 16 ghosts, in one ring: a plain queue.
    for (seed, capacity) in (0..60).zip([1, 2, 3, 5, 9, 10, 11, 12, 15, 16].into_iter().cycle()) {
        let probes = DropCounter::new();
        let entry = size_of::<(u64, DropProbe)>();
        let config = CacheConfig::builder()
            .capacity(ByteSize::new(capacity * entry))
            .shards(1)
            .build()
            .unwrap();
        let cache = ConcurrentComputeCache::<u64, DropProbe>::builder(config)
            .with_hasher(BuildHasherDefault::<Identity>::default())
            .build()
            .unwrap();
        let mut reference = Reference::new(capacity, 16);
        let mut rng = Rng::new(seed);
        let mut dropped = Vec::new();
        for _ in 0..3000 {
            let key = skewed(&mut rng, capacity * 6);
            let cached = cache.contains(&key);
            if rng.one_in(20) {
                let removed = cache.remove(&key);
                assert_eq!(removed.is_some(), cached);
                reference.remove(key);
                // Not an eviction.
                drop(removed);
                if cached {
                    dropped.push((probes.drops() - 1, key));
                }
            } else if cached {
                // A clone is a probe too: its drop is not an eviction either.
                assert!(cache.get(&key).is_some() && reference.get(key));
                dropped.push((probes.drops() - 1, key));
            } else {
                assert!(!reference.hits.contains_key(&key), "seed {seed}, key {key}");
                cache.insert(key, probes.probe(key)).unwrap();
                reference.insert(key);
            }
        }
        let others: HashSet<usize> = dropped.iter().map(|&(at, _)| at).collect();
        let tags = probes.dropped();
        let evicted = tags.iter().enumerate().filter(|(at, _)| !others.contains(at));
        let evicted: Vec<u64> = evicted.map(|(_, &tag)| tag).collect();
        assert_eq!(evicted, reference.evicted, "seed {seed}, capacity {capacity}");
        assert!(evicted.len() > 100);
        cache.validate().unwrap();
    }
}

/// Keys by the Zipf distribution: weight `1 / rank^s`, drawn by inversion.
struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    fn new(keys: usize, s: f64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=keys).map(|rank| {
            sum += (rank as f64).powf(-s);
            sum
        });
        Self { sums: sums.collect() }
    }

    fn draw(&self, rng: &mut Rng) -> u64 {
        let all = self.sums[self.sums.len() - 1];
        let point = (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 * all;
        self.sums.partition_point(|&sum| sum <= point) as u64
    }
}

fn lru_hits(trace: &[u64], capacity: usize) -> usize {
    // The order of use by a counter; the oldest is found in an ordered map.
    let (mut used, mut order) = (HashMap::new(), std::collections::BTreeMap::new());
    let mut hits = 0;
    for (now, &key) in trace.iter().enumerate() {
        if let Some(then) = used.insert(key, now) {
            hits += 1;
            order.remove(&then);
        } else if used.len() > capacity {
            let (_, oldest) = order.pop_first().unwrap();
            used.remove(&oldest);
        }
        order.insert(now, key);
    }
    hits
}

fn cache_hits(trace: &[u64], capacity: usize, shards: usize) -> usize {
    let config = CacheConfig::builder().capacity(ByteSize::new(capacity * 16)).shards(shards);
    let cache = ConcurrentComputeCache::<u64, u64>::new(config.build().unwrap()).unwrap();
    for &key in trace {
        if cache.get(&key).is_none() {
            cache.insert(key, key).unwrap();
        }
    }
    cache.validate().unwrap();
    usize::try_from(cache.stats().hits).unwrap()
}

#[test]
fn hits_more_than_lru_on_skewed_keys_with_scans() {
    let (zipf, mut rng) = (Zipf::new(20_000, 0.9), Rng::new(7));
    let mut trace: Vec<u64> = (0..200_000).map(|_| zipf.draw(&mut rng)).collect();
    let share = |hits: usize, trace: &[u64]| hits as f64 / trace.len() as f64 * 100.0;
    let (ours, lru) = (cache_hits(&trace, 1000, 1), lru_hits(&trace, 1000));
    let (ours, lru) = (share(ours, &trace), share(lru, &trace));
    assert!(ours > lru + 2.0, "ours {ours:.2} %, LRU {lru:.2} %");
    // The same with a scan of fresh keys now and then.
    for start in (0..200_000).step_by(20_000) {
        let scan = 1_000_000 + start as u64..1_003_000 + start as u64;
        trace.splice(start..start, scan);
    }
    let (ours, lru) = (cache_hits(&trace, 1000, 1), lru_hits(&trace, 1000));
    let (ours, lru) = (share(ours, &trace), share(lru, &trace));
    assert!(ours > lru + 2.0, "with scans: ours {ours:.2} %, LRU {lru:.2} %");
}

#[test]
fn approximate_ghosts_and_shards_cost_little() {
    let (zipf, mut rng) = (Zipf::new(50_000, 0.8), Rng::new(11));
    let trace: Vec<u64> = (0..100_000).map(|_| zipf.draw(&mut rng)).collect();
    let capacity = 4000;
    let mut reference = Reference::new(capacity, capacity);
    let mut exact = 0_usize;
    for &key in &trace {
        if reference.get(key) {
            exact += 1;
        } else {
            reference.insert(key);
        }
    }
    for shards in [1, 4, 16] {
        let ours = cache_hits(&trace, capacity, shards);
        let points = (exact as f64 - ours as f64) / trace.len() as f64 * 100.0;
        assert!(points < 0.5, "{shards} shards lose {points:.2} points of hit ratio");
    }
}
