//! The bump allocator for many threads beside the one atomic addition that it cannot beat.

use std::{
    alloc::Layout,
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use nebula_alloc::{BumpAllocator, BumpScope, Shared};
use nebula_memory_core::{Global, Resettable, allocator_api2::alloc::Allocator};

use crate::{Case, Contender, repeat};

/// Iterations between two resets, on one thread.
const BATCH: usize = 4096;

/// Enough for all iterations of a run on several threads; nobody touches it.
const LARGE: usize = if cfg!(debug_assertions) { 1 << 20 } else { 1 << 30 };

fn shared(size: usize) -> BumpAllocator<Global, Shared> {
    BumpAllocator::try_shared(size).expect("a region")
}

/// What a bump allocator would be without an end and without alignments.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Counter {
    #[inline]
    fn take(&self, size: usize) -> usize {
        self.0.fetch_add(size, Relaxed)
    }
}

#[inline]
fn word(allocator: impl Allocator) {
    let block = allocator.allocate(Layout::new::<u64>()).expect("8 bytes");
    let _ = black_box(block.cast::<u8>());
}

#[inline]
fn value(allocator: impl Allocator) {
    let block = allocator.allocate(Layout::new::<[u64; 8]>()).expect("64 bytes");
    let _ = black_box(block.cast::<u8>());
}

/// Sixteen blocks in a scope.
#[inline]
fn fill(scope: &BumpScope<'_>) {
    for _ in 0..16 {
        value(scope);
    }
}

/// The cases.
pub(super) fn cases() -> Vec<Case> {
    let batch = BATCH as u64;
    vec![
        Case::new(
            "64 B, shared bump",
            Contender::batches(
                "ours",
                batch,
                || shared(BATCH * 64),
                |b| value(&*b),
                Resettable::reset,
            ),
        )
        .peer(Contender::batches(
            "fetch_add",
            batch,
            Counter::default,
            |counter| counter.take(64),
            |counter| *counter.0.get_mut() = 0,
        )),
        Case::new(
            "8 B, shared bump, 2 threads",
            Contender::threads(
                "ours",
                2,
                || shared(LARGE),
                |bump, thread| repeat(thread.iterations, || word(bump)),
            ),
        )
        .peer(Contender::threads("fetch_add", 2, Counter::default, |counter, thread| {
            repeat(thread.iterations, || counter.take(8));
        })),
        Case::new(
            "scope of 16 x 64 B, bump",
            Contender::each(
                "ours",
                || BumpAllocator::try_new(BATCH).expect("a region"),
                |b| fill(&b.scope()),
            ),
        )
        .unit("ns/scope")
        .peer(Contender::each(
            "bump-scope",
            || bump_scope::Bump::<bump_scope::alloc::Global>::with_size(BATCH),
            |b: &mut bump_scope::Bump| {
                b.scoped(|scope| {
                    for _ in 0..16 {
                        value(&scope);
                    }
                });
            },
        )),
    ]
}
