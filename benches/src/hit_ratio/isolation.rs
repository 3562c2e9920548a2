//! A tenant beside a noisy one: what that costs its hit ratio, in a cache that they share and in one
//! that is partitioned.

use nebula_cache::{CacheConfig, ConcurrentComputeCache, PartitionedCache, PolicyKind, Share};

use super::{
    caches::hasher,
    traces::{APART, Random, Zipf},
};

/// How often the noisy tenant asks for each request of the other.
const NOISE: u64 = 4;

/// What a tenant's requests came to beside a noisy one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// What the noisy one does.
    pub noise: &'static str,
    /// The cache, and how it is shared.
    pub cache: String,
    /// The tenant's requests.
    pub requests: usize,
    /// Those that found their key.
    pub hits: usize,
}

/// A cache as the two tenants see it: finds or inserts a key.
type Ask<'c> = &'c mut dyn FnMut(u64) -> bool;

/// What the noisy tenant's next key is.
type Next = fn(&mut u64, u64) -> u64;

/// Has a tenant, whose use is skewed, and a noisy one share a capacity of `entries` in several ways.
/// Half is guaranteed to the tenant where that can be said; alone, it has that half and no more.
///
/// # Panics
/// Never, for 16 entries or more.
#[must_use]
pub fn isolation(entries: usize) -> Vec<Beside> {
    let noises: [(&str, Next); 2] = [
        ("a scan", |turn, _| {
            *turn += 1;
            *turn
        }),
        ("a loop over 150 %", |turn, entries| {
            *turn += 1;
            *turn % (entries + entries / 2)
        }),
    ];
    let mut outcomes = Vec::new();
    for (noise, next) in noises {
        let mut done = |cache: String, quiet: Ask<'_>, noisy: Option<Ask<'_>>| {
            let (requests, hits) = run(entries, quiet, noisy, next);
            outcomes.push(Beside { noise, cache, requests, hits });
        };
        let config = |entries, kind| {
            let config = CacheConfig::builder().entries(entries).policy(kind).build();
            config.expect("a valid configuration")
        };
        for kind in [PolicyKind::Lru, PolicyKind::Steady] {
            let cache = |entries| {
                let cache = ConcurrentComputeCache::<u64, ()>::builder(config(entries, kind));
                cache.with_hasher(hasher()).build().expect("a valid configuration")
            };
            let alone = cache(entries / 2);
            done(format!("{kind:?}, alone with its half"), &mut |key| ask(&alone, key), None);
            let tenants = PartitionedCache::new(config(entries, kind)).expect("a capacity");
            let add = |name, least| {
                let share = Share::guaranteed(least);
                let added = tenants.add(name, share, |cache| cache.with_hasher(hasher()));
                added.expect("a share that is to be had")
            };
            let (quiet, noisy) = (add("quiet", entries / 2), add("noisy", 0));
            done(
                format!("{kind:?}, partitioned"),
                &mut |key| ask(&quiet, key),
                Some(&mut |key| ask(&noisy, key)),
            );
            let shared = cache(entries);
            done(
                format!("{kind:?}, shared"),
                &mut |key| ask(&shared, key),
                Some(&mut |key| ask(&shared, key + APART)),
            );
        }
        let peer = quick_cache::sync::Cache::<u64, ()>::new(entries);
        let ask_peer = |key| {
            let hit = peer.get(&key).is_some();
            if !hit {
                peer.insert(key, ());
            }
            hit
        };
        done(
            "quick_cache, shared".to_owned(),
            &mut |key| ask_peer(key),
            Some(&mut |key| ask_peer(key + APART)),
        );
        let peer = moka::sync::Cache::<u64, ()>::new(entries as u64);
        let ask_peer = |key| {
            let hit = peer.get(&key).is_some();
            if !hit {
                peer.insert(key, ());
            }
            peer.run_pending_tasks();
            hit
        };
        done(
            "moka, shared".to_owned(),
            &mut |key| ask_peer(key),
            Some(&mut |key| ask_peer(key + APART)),
        );
    }
    outcomes
}

fn ask<O>(cache: &ConcurrentComputeCache<u64, (), O>, key: u64) -> bool
where
    O: nebula_cache::Kit,
    O::Hasher: std::hash::BuildHasher,
{
    let hit = cache.get(&key).is_some();
    if !hit {
        cache.insert(key, ()).expect("room for one");
    }
    hit
}

/// The tenant's requests, from the same seed each time, and how many of them were hits.
fn run(entries: usize, quiet: Ask<'_>, mut noisy: Option<Ask<'_>>, next: Next) -> (usize, usize) {
    let zipf = Zipf::new(entries * 4, 0.9);
    let (mut random, mut turn) = (Random::new(7), 0);
    let requests = entries * 20;
    let mut hits = 0;
    for _ in 0..requests {
        hits += usize::from(quiet(zipf.draw(&mut random)));
        if let Some(noisy) = &mut noisy {
            for _ in 0..NOISE {
                noisy(next(&mut turn, entries as u64));
            }
        }
    }
    (requests, hits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_keeps_its_hits_beside_a_scan() {
        let outcomes = isolation(512);
        let ratio = |name: &str| {
            let outcome = outcomes.iter().find(|outcome| outcome.cache == name);
            outcome.map(|outcome| outcome.hits * 1000 / outcome.requests)
        };
        let (alone, beside) = (ratio("Lru, alone with its half"), ratio("Lru, partitioned"));
        assert!(beside.is_some() && alone.zip(beside).is_some_and(|(a, b)| b + 10 >= a));
        // There is something to be isolated from.
        assert!(ratio("Lru, shared").is_some_and(|shared| Some(shared + 100) < alone));
    }
}
