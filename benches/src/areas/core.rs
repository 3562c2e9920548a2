//! The shared parts: accounting that is not asked for must cost nothing, and counters that many
//! threads write to must not slow each other down.

use std::{
    alloc::Layout,
    hint::black_box,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use nebula_memory_core::{
    Account, Accounted, Charge, Global, MemoryError, StripedCounter, Unlimited,
    allocator_api2::{alloc::Allocator, vec::Vec as Vec2},
};

use crate::{Case, Contender, Thread, repeat};

/// Books without a limit, in one atomic.
#[derive(Default)]
struct Books(AtomicUsize);

impl Account for Books {
    #[inline]
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        self.0.fetch_add(bytes, Relaxed);
        Ok(())
    }

    #[inline]
    fn credit(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Relaxed);
    }
}

const BYTES: usize = 64;

/// A block of 64 bytes, allocated and freed.
fn block(allocator: &impl Allocator) {
    let layout = black_box(Layout::new::<[u8; BYTES]>());
    let block = black_box(allocator.allocate(layout)).expect("64 bytes").cast();
    // SAFETY: allocated above by the same allocator with the same layout, and used by nobody else.
    unsafe { allocator.deallocate(block, layout) };
}

/// A vector that grows to a thousand numbers.
fn vector(allocator: &impl Allocator) -> u64 {
    let mut numbers = Vec2::new_in(allocator);
    for i in 0..1000_u64 {
        numbers.push(black_box(i));
    }
    numbers[999]
}

fn striped(threads: usize) -> Contender {
    Contender::threads("ours", threads, StripedCounter::new, |counter, thread: Thread| {
        repeat(thread.iterations, || counter.add(1));
    })
}

fn shared(threads: usize) -> Contender {
    Contender::threads("AtomicU64", threads, AtomicU64::default, |counter, thread: Thread| {
        repeat(thread.iterations, || counter.fetch_add(1, Relaxed));
    })
}

/// The cases.
pub fn cases() -> Vec<Case> {
    let unlimited = || Accounted::new(Global, Unlimited);
    vec![
        Case::new("64 B block, Unlimited", Contender::each("ours", unlimited, |a| block(a)))
            .peer(Contender::each("Global", || Global, |a| block(a))),
        Case::new("vector of 1000, Unlimited", Contender::each("ours", unlimited, |a| vector(a)))
            .unit("ns/vector")
            .peer(Contender::each("Global", || Global, |a| vector(a))),
        Case::new(
            "charge 64 B, one atomic",
            Contender::each("ours", Books::default, |books| {
                Charge::try_new(&*books, black_box(BYTES)).map(|charge| charge.bytes())
            }),
        )
        .peer(Contender::each("fetch_add", AtomicUsize::default, |used| {
            let bytes = black_box(BYTES);
            used.fetch_add(bytes, Relaxed);
            used.fetch_sub(bytes, Relaxed);
            bytes
        })),
        Case::new("count, 1 thread", striped(1)).peer(shared(1)),
        Case::new("count, 2 threads", striped(2)).peer(shared(2)),
        Case::new("count, 8 threads", striped(8)).peer(shared(8)),
    ]
}
