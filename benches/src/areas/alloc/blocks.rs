//! Block pools of `nebula-alloc` beside slab and general allocators.

use std::{alloc::Layout, hint::black_box, mem::MaybeUninit, ptr::NonNull, time::Duration};

use nebula_alloc::PoolAllocator;
use nebula_memory_core::{
    Foreign,
    allocator_api2::alloc::{Allocator, System},
};

use crate::{Case, Contender, Stopwatch, Thread, repeat};

/// 64 bytes, of which the first eight are written.
type Value = (u64, [MaybeUninit<u64>; 7]);

/// Blocks that are out at once before the first is freed.
const FILL: usize = 10_000;

/// Pages that hold as many blocks.
const PAGES: usize = 16;

fn value(number: u64) -> Value {
    (number, [MaybeUninit::uninit(); 7])
}

fn pool() -> PoolAllocator {
    PoolAllocator::try_new(Layout::new::<Value>(), None).expect("a layout")
}

fn shared() -> PoolAllocator<nebula_memory_core::Global, nebula_alloc::Shared> {
    PoolAllocator::try_shared(Layout::new::<Value>(), None).expect("a layout")
}

#[inline(always)]
fn take(allocator: &impl Allocator, number: u64) -> NonNull<Value> {
    let block = allocator.allocate(Layout::new::<Value>()).expect("64 bytes").cast::<Value>();
    // SAFETY: the block has the layout of a `Value` and nobody else knows it.
    unsafe { block.write(value(number)) };
    black_box(block)
}

#[inline(always)]
fn give(allocator: &impl Allocator, block: NonNull<Value>) {
    // SAFETY: allocated by `take` with the same allocator, and used by nobody else.
    unsafe { allocator.deallocate(block.cast(), Layout::new::<Value>()) };
}

/// Takes a block and frees it.
fn churn<A: Allocator + 'static>(name: &'static str, make: fn() -> A) -> Contender {
    Contender::each(name, make, |allocator| {
        let block = take(allocator, 7);
        give(allocator, block);
    })
}

/// The numbers below `len` in an order without order.
fn shuffled(len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    let mut state = 0x9E37_79B9_7F4A_7C15_usize;
    for i in (1..len).rev() {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        order.swap(i, (state >> 33) % (i + 1));
    }
    order
}

/// Takes many blocks, then frees them in random order. An iteration is one block taken and freed.
fn drain<S: 'static, K: Copy + 'static>(
    name: &'static str,
    make: fn() -> S,
    take: fn(&mut S, u64) -> K,
    give: fn(&mut S, K),
) -> Contender {
    Contender::timed(name, move |iterations| {
        let mut state = make();
        let mut left = usize::try_from(iterations).expect("a number of blocks");
        let mut total = Duration::ZERO;
        let mut keys: Vec<K> = Vec::with_capacity(FILL);
        let mut order = shuffled(left.min(FILL));
        while left > 0 {
            let now = left.min(FILL);
            if order.len() != now {
                order = shuffled(now);
            }
            keys.clear();
            let watch = Stopwatch::start();
            for number in 0..now {
                keys.push(take(&mut state, number as u64));
            }
            for index in &order {
                give(&mut state, keys[*index]);
            }
            total += watch.elapsed();
            left -= now;
        }
        total
    })
}

fn drain_blocks<A: Allocator + 'static>(name: &'static str, make: fn() -> A) -> Contender {
    drain(
        name,
        make,
        |allocator, number| take(allocator, number),
        |allocator, block| {
            give(allocator, block);
        },
    )
}

/// Two threads take and free blocks of one pool, a thousand times an iteration: each thread begins
/// with a page of its own, which is not to be what few iterations measure.
fn two_threads<A: Allocator + Sync + 'static>(name: &'static str, make: fn() -> A) -> Contender {
    Contender::threads(name, 2, make, |allocator, thread: Thread| {
        repeat(thread.iterations, || {
            for _ in 0..1000 {
                let block = take(allocator, 7);
                give(allocator, block);
            }
        });
    })
}

fn glibc() -> Foreign<System> {
    Foreign::new(System)
}

fn slab() -> slab::Slab<Value> {
    slab::Slab::new()
}

fn with_mimalloc(case: Case, contender: fn() -> Option<Contender>) -> Case {
    match contender() {
        Some(contender) => case.peer(contender),
        None => case,
    }
}

macro_rules! mimalloc {
    ($how:ident) => {{
        fn contender() -> Option<Contender> {
            #[cfg(feature = "mimalloc")]
            return Some($how("mimalloc", || crate::areas::mi::Mi));
            #[cfg(not(feature = "mimalloc"))]
            return None;
        }
        contender
    }};
}

/// The cases.
pub(super) fn cases() -> Vec<Case> {
    let churning = Case::new("64 B pair, pool", churn("ours", pool))
        .peer(Contender::each("slab", slab, |slab| {
            let key = black_box(slab.insert(value(7)));
            slab.remove(key);
        }))
        .peer(churn("glibc", glibc));
    let draining = Case::new(
        "64 B pair, 10000 filled and drained at random, pool",
        drain_blocks("ours", || pool().spare_pages(PAGES)),
    )
    .peer(drain(
        "slab",
        slab,
        |slab, number| slab.insert(value(number)),
        |slab, key| {
            slab.remove(key);
        },
    ))
    .peer(drain_blocks("glibc", glibc));
    // Pages go back to the base in between, all but one.
    let draining_to_one = Case::new(
        "64 B pair, 10000 filled and drained at random, pool that keeps one page",
        drain_blocks("ours", pool),
    )
    .peer(drain_blocks("glibc", glibc));
    vec![
        with_mimalloc(churning, mimalloc!(churn)),
        with_mimalloc(draining, mimalloc!(drain_blocks)),
        with_mimalloc(draining_to_one, mimalloc!(drain_blocks)),
        Case::new("64 B pair, shared pool", churn("ours", shared)).peer(churn("glibc", glibc)),
        Case::new(
            "64 B pair, 10000 filled and drained at random, shared pool",
            drain_blocks("ours", shared),
        )
        .peer(drain_blocks("glibc", glibc)),
        Case::new("1000 64 B pairs, shared pool, 2 threads", two_threads("ours", shared))
            .unit("ns/1000 pairs")
            .peer(two_threads("glibc", glibc)),
    ]
}
