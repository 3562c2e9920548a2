//! The shared block pool under many threads: nobody has another's block, nothing is lost, and what
//! there is room for is never refused.

use std::{
    alloc::Layout,
    ptr::NonNull,
    sync::{Barrier, mpsc},
    thread,
};

use nebula_alloc::{PoolAllocator, Shared};
use nebula_memory_core::{Allocator, MemoryUsage, allocator_api2::alloc::Allocator as _};
use nebula_testing::{CountingAllocator, Rng};

type Pool = PoolAllocator<CountingAllocator, Shared>;

const THREADS: usize = 8;
const BLOCK: Layout = Layout::new::<[u64; 4]>();

/// A block and what was written to it.
struct Owned {
    block: NonNull<u64>,
    seed: u64,
}

// SAFETY: whoever has it is the only one to use the block.
unsafe impl Send for Owned {}

impl Owned {
    fn take(pool: &Pool, seed: u64) -> Option<Self> {
        let block = pool.try_allocate(BLOCK).ok()?.cast::<u64>();
        for at in 0..4 {
            // SAFETY: the block has room for four.
            let word = unsafe { block.add(at) };
            // SAFETY: nobody else has the block, which is what the reads below find out.
            unsafe { word.write(seed ^ at as u64) };
        }
        Some(Self { block, seed })
    }

    fn give(self, pool: &Pool) {
        for at in 0..4 {
            // SAFETY: the block has room for four.
            let word = unsafe { self.block.add(at) };
            // SAFETY: they were written by `take`.
            let found = unsafe { word.read() };
            assert_eq!(found, self.seed ^ at as u64, "somebody else had the block");
        }
        // SAFETY: the block is live, of this layout, and given up.
        unsafe { pool.deallocate(self.block.cast(), BLOCK) };
    }
}

fn give_all(pool: &Pool, out: impl IntoIterator<Item = Owned>) {
    for owned in out {
        owned.give(pool);
    }
}

fn seed(thread: usize, round: usize) -> u64 {
    (thread as u64) << 48 | (round as u64) << 8
}

fn pool(most: Option<usize>) -> (Pool, CountingAllocator) {
    pool_of(BLOCK, most)
}

/// A pool whose blocks may be larger than what is asked of it.
fn pool_of(block: Layout, most: Option<usize>) -> (Pool, CountingAllocator) {
    let base = CountingAllocator::new();
    (PoolAllocator::try_shared_in(block, most, base.clone()).unwrap(), base)
}

fn settled(mut pool: Pool, base: &CountingAllocator) {
    assert_eq!((pool.used(), pool.blocks_in_use()), (0, 0));
    assert_eq!(base.live_bytes(), pool.pages() * pool.page_layout().size());
    // All of them can be had, each once.
    let count = pool.max_blocks().unwrap_or(pool.pages() * pool.blocks_per_page());
    let mut out: Vec<_> = (0..count).map(|i| Owned::take(&pool, i as u64).unwrap()).collect();
    out.sort_unstable_by_key(|owned| owned.block);
    assert!(out.windows(2).all(|pair| pair[0].block != pair[1].block));
    give_all(&pool, out);
    pool.trim();
    base.assert_clean();
    assert_eq!(pool.pages(), 0);
}

/// Each thread holds up to `share` blocks, which it must always be able to get.
fn contend(most: Option<usize>, share: usize, rounds: usize) {
    contend_in(pool(most), share, rounds);
}

fn contend_in((pool, base): (Pool, CountingAllocator), share: usize, rounds: usize) {
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (pool, barrier) = (&pool, &barrier);
            scope.spawn(move || {
                let mut rng = Rng::new(thread as u64);
                let mut out = Vec::new();
                barrier.wait();
                for round in 0..rounds {
                    if out.is_empty() || out.len() < share && rng.one_in(2) {
                        let owned = Owned::take(pool, seed(thread, round));
                        out.push(owned.expect("there is one for each"));
                    } else {
                        out.swap_remove(rng.below(out.len())).give(pool);
                    }
                }
                give_all(pool, out);
            });
        }
    });
    settled(pool, &base);
}

#[test]
fn one_block_for_each_thread_is_never_exhausted() {
    contend(Some(THREADS), 1, 10_000);
}

#[test]
fn a_share_for_each_thread_is_never_exhausted() {
    contend(Some(THREADS * 7), 7, 10_000);
}

#[test]
fn a_share_of_several_pages_is_never_exhausted() {
    contend(Some(THREADS * 700), 700, 10_000);
}

/// Threads move between pages of a few blocks each, all of which are needed at times: who looks at
/// one page after the other must not take what it sees for a moment at which all were out.
#[test]
fn a_share_of_many_small_pages_is_never_exhausted() {
    let large = Layout::new::<[u64; 4000]>();
    for share in [1, 2, 5] {
        contend_in(pool_of(large, Some(THREADS * share)), share, 10_000);
    }
}

#[test]
fn threads_that_grow_a_pool_do_not_get_in_each_others_way() {
    contend(None, 1500, 20_000);
}

#[test]
fn no_more_blocks_are_out_than_the_maximum() {
    let (pool, base) = pool(Some(3000));
    let barrier = Barrier::new(THREADS);
    for _ in 0..5 {
        let out: Vec<Owned> = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (pool, barrier) = (&pool, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        let taken = (0..).map_while(|i| Owned::take(pool, seed(thread, i)));
                        taken.collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!((out.len(), pool.available()), (3000, Some(0)));
        give_all(&pool, out);
    }
    settled(pool, &base);
}

#[test]
fn blocks_may_be_freed_by_another_thread() {
    let (pool, base) = pool(Some(500));
    thread::scope(|scope| {
        let pool = &pool;
        for pair in 0..THREADS / 2 {
            let (sender, receiver) = mpsc::sync_channel::<Owned>(50);
            scope.spawn(move || {
                for round in 0..5000 {
                    let owned = loop {
                        match Owned::take(pool, seed(pair, round)) {
                            Some(owned) => break owned,
                            None => thread::yield_now(),
                        }
                    };
                    sender.send(owned).unwrap();
                }
            });
            scope.spawn(move || give_all(pool, receiver));
        }
    });
    settled(pool, &base);
}
