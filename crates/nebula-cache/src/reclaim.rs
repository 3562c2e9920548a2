//! Giving memory back: by request, under pressure, and before an insertion is refused.

use std::sync::atomic::Ordering::Relaxed;

use nebula_memory_core::{Account, MemoryUsage, PressureLevel, Reclaim};

use crate::{
    ConcurrentComputeCache, Weigher,
    bag::{Bag, Credit},
    concurrent::ShardOf,
    store::Store,
};

impl<K, V, A: Account, W: Weigher<K, V>, S> ConcurrentComputeCache<K, V, A, W, S> {
    /// Evicts entries, coldest first, until `bytes` bytes have been given back or nothing is left,
    /// and returns how many it was.
    ///
    /// Counted is what is really given back: what the evicted entries owned (as far as the weigher
    /// told), and the cache's own memory as far as it is freed, which happens in chunks of some
    /// kilobytes. So the weight may fall by more or by less.
    pub fn evict(&self, bytes: usize) -> usize {
        self.give_back(bytes, true)
    }

    /// Each shard gives its part, in turns, beginning where the last call ended.
    pub(crate) fn give_back(&self, wanted: usize, wait: bool) -> usize {
        let shards = self.shards.len();
        let share = wanted.div_ceil(shards);
        let mut given = 0;
        loop {
            let before = given;
            for _ in 0..shards {
                if given >= wanted {
                    return given;
                }
                let turn = self.next.fetch_add(1, Relaxed) & (shards - 1);
                let part = share.min(wanted - given);
                given += self.give_back_from(&self.shards[turn], part, wait);
            }
            if given == before {
                return given;
            }
        }
    }

    fn give_back_from(&self, shard: &ShardOf<K, V, W>, wanted: usize, wait: bool) -> usize {
        let mut given = 0;
        loop {
            let mut bag = Bag::new(&self.account);
            let mut emptied = None;
            let freed;
            let enough = {
                let held = if wait { Some(shard.write()) } else { shard.try_write() };
                let Some(mut store) = held else { return given };
                let mut enough;
                loop {
                    enough = given + bag.credit.bytes + store.spare_bytes() >= wanted;
                    if enough || bag.is_full() {
                        break;
                    }
                    let Some((_, entry)) = store.evict() else {
                        enough = true;
                        break;
                    };
                    store.count_eviction();
                    bag.put(entry);
                }
                let before = store.bytes();
                if enough && store.len() == 0 {
                    // With the last entry goes all the rest: the table, and the ghosts.
                    let empty = Store::new(store.chunk_shift());
                    emptied = Some(std::mem::replace(&mut *store, empty));
                } else if enough {
                    store.compact();
                }
                freed = before - store.bytes();
                enough
            };
            self.total.give_back(bag.weight);
            given += bag.credit.bytes + freed;
            let _credit = Credit::of(&self.account, freed);
            drop(emptied);
            drop(bag);
            if enough {
                return given;
            }
        }
    }
}

impl<K, V, A, W, S> Reclaim for ConcurrentComputeCache<K, V, A, W, S>
where
    K: Send + Sync,
    V: Send + Sync,
    A: Account + Send + Sync,
    W: Weigher<K, V> + Send + Sync,
    crate::concurrent::KeptOf<K, V, W>: Send + Sync,
    S: Send + Sync,
{
    fn reclaimable(&self) -> usize {
        self.shards.iter().map(|shard| shard.gauges().bytes()).sum()
    }

    /// At `Normal` and `Elevated` it gives at most a quarter of what it holds, at `High` half, at
    /// `Critical` everything. Shards that are in use are skipped.
    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        let held = self.reclaimable();
        let most = match urgency {
            PressureLevel::Normal | PressureLevel::Elevated => held / 4,
            PressureLevel::High => held / 2,
            PressureLevel::Critical => held,
        };
        self.give_back(wanted.min(most), false)
    }
}

/// In terms of weight: [`charged`](ConcurrentComputeCache::charged) tells the bytes behind it.
impl<K, V, A: Account, W: Weigher<K, V>, S> MemoryUsage for ConcurrentComputeCache<K, V, A, W, S> {
    fn used(&self) -> usize {
        self.weight()
    }

    fn capacity(&self) -> Option<usize> {
        Some(self.total.capacity())
    }
}
