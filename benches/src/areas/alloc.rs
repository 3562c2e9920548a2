//! `nebula-alloc`: a bump region beside bumpalo and the global allocator, and what counting costs.

mod adaptors;
mod blocks;
mod bump;
mod stack;

use std::{alloc::Layout, hint::black_box};

use nebula_alloc::{BumpAllocator, Exclusive, SystemAllocator, Tracked};
use nebula_memory_core::{
    AllocatorKind, Foreign, Global, Resettable,
    allocator_api2::{
        alloc::{Allocator, System},
        vec::Vec as Vec2,
    },
};

use crate::{Case, Contender};

/// Iterations between two resets: small enough to stay in the cache.
const BATCH: usize = 4096;

/// What a batch of the largest case takes.
const REGION: usize = BATCH * 64;

type Value = [u64; 8];

fn region() -> BumpAllocator {
    BumpAllocator::try_new(REGION).expect("a region")
}

fn peer() -> bumpalo::Bump {
    bumpalo::Bump::with_capacity(REGION)
}

/// Places 64 bytes and writes them.
#[inline]
fn place(allocator: impl Allocator) {
    let block = allocator.allocate(Layout::new::<Value>()).expect("64 bytes").cast::<Value>();
    // SAFETY: the block has the layout of a `Value` and nobody else knows it.
    unsafe { block.write(black_box([7; 8])) };
    black_box(block);
}

/// Places 64 bytes and frees them.
#[inline]
fn pair(allocator: impl Allocator) {
    let layout = Layout::new::<Value>();
    let block = black_box(allocator.allocate(layout)).expect("64 bytes").cast();
    // SAFETY: allocated above by the same allocator with the same layout, and used by nobody else.
    unsafe { allocator.deallocate(block, layout) };
}

/// A vector that grows to a thousand numbers.
#[inline]
fn vector(allocator: impl Allocator) -> u64 {
    let mut numbers = Vec2::new_in(allocator);
    for i in 0..1000_u64 {
        numbers.push(black_box(i));
    }
    numbers[999]
}

fn exclusive() -> Tracked<Global, Exclusive> {
    Tracked::exclusive(Global, "bench", AllocatorKind::System)
}

fn shared() -> Tracked<Global> {
    Tracked::new(Global, "bench", AllocatorKind::System)
}

fn counted_region() -> Tracked<BumpAllocator, Exclusive> {
    Tracked::exclusive(region(), "bench", AllocatorKind::Bump)
}

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new(
            "64 B, bump",
            Contender::batches("ours", BATCH as u64, region, |b| place(&*b), Resettable::reset),
        )
        .peer(Contender::batches(
            "bumpalo",
            BATCH as u64,
            peer,
            |b| place(&*b),
            bumpalo::Bump::reset,
        )),
        Case::new("64 B pair, bump", Contender::each("ours", region, |b| pair(&*b)))
            .peer(Contender::each("bumpalo", peer, |b| pair(&*b)))
            .peer(Contender::each("Global", || Global, |a| pair(*a))),
        Case::new("vector of 1000, bump", Contender::each("ours", region, |b| vector(&*b)))
            .unit("ns/vector")
            .peer(Contender::each("bumpalo", peer, |b| vector(&*b)))
            .peer(Contender::each("Global", || Global, |a| vector(*a))),
        Case::new("64 B pair, tracked for one", Contender::each("ours", exclusive, |a| pair(&*a)))
            .peer(Contender::each("Global", || Global, |a| pair(*a))),
        Case::new("64 B pair, tracked for many", Contender::each("ours", shared, |a| pair(&*a)))
            .peer(Contender::each("Global", || Global, |a| pair(*a))),
        Case::new(
            "64 B pair, tracked bump",
            Contender::each("ours", counted_region, |a| pair(&*a)),
        )
        .peer(Contender::each("untracked", region, |a| pair(&*a))),
        Case::new(
            "64 B pair, system",
            Contender::each("ours", SystemAllocator::new, |a| pair(&*a)),
        )
        .peer(Contender::each("System", || Foreign::new(System), |a| pair(*a))),
    ];
    cases.extend(blocks::cases());
    cases.extend(bump::cases());
    cases.extend(stack::cases());
    cases.extend(adaptors::cases());
    cases
}
