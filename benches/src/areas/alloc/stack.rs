//! The stack: a block and its end, again and again.

use std::{alloc::Layout, hint::black_box};

use nebula_alloc::{StackAllocator, StackFrame};
use nebula_memory_core::{Global, allocator_api2::alloc::Allocator};

use crate::{Case, Contender};

const REGION: usize = 64 << 10;

/// Places a `T` and frees it.
#[inline]
fn pair<T>(allocator: impl Allocator) {
    let layout = Layout::new::<T>();
    let block = black_box(allocator.allocate(layout).expect("room").cast());
    // SAFETY: allocated above by the same allocator with the same layout, and used by nobody else.
    unsafe { allocator.deallocate(block, layout) };
}

/// A few blocks, freed last in, first out.
#[inline]
fn nested(allocator: impl Allocator) {
    let layout = Layout::new::<[u64; 8]>();
    let blocks = [(); 8].map(|()| black_box(allocator.allocate(layout).expect("room").cast()));
    for block in blocks.into_iter().rev() {
        // SAFETY: allocated above by the same allocator with the same layout; freed once.
        unsafe { allocator.deallocate(block, layout) };
    }
}

/// The same, freed in the order in which they were made.
#[inline]
fn reversed(allocator: impl Allocator) {
    let layout = Layout::new::<[u64; 8]>();
    let blocks = [(); 8].map(|()| black_box(allocator.allocate(layout).expect("room").cast()));
    for block in blocks {
        // SAFETY: as in `nested`.
        unsafe { allocator.deallocate(block, layout) };
    }
}

/// Sixteen blocks in a frame.
#[inline]
fn fill(frame: &StackFrame<'_>) {
    let layout = Layout::new::<[u64; 8]>();
    for _ in 0..16 {
        let _ = black_box(frame.allocate(layout).expect("room").cast::<u8>());
    }
}

#[expect(dead_code, reason = "its layout is what is wanted")]
#[repr(align(64))]
struct Line([u8; 64]);

fn stack() -> StackAllocator {
    let stack = StackAllocator::try_new(REGION).expect("a region");
    // Something below, as in real use; the pairs begin at no particular alignment.
    let _ = stack.allocate(Layout::new::<[u8; 16]>()).expect("room");
    stack
}

fn bumpalo() -> bumpalo::Bump {
    bumpalo::Bump::with_capacity(REGION)
}

fn scope() -> bump_scope::Bump {
    bump_scope::Bump::with_size(REGION)
}

macro_rules! case {
    ($name:literal, $op:expr) => {
        Case::new($name, Contender::each("ours", stack, |a| $op(&*a)))
            .peer(Contender::each("bumpalo", bumpalo, |a| $op(&*a)))
            .peer(Contender::each("bump-scope", scope, |a| $op(&*a)))
            .peer(Contender::each("Global", || Global, |a| $op(*a)))
    };
}

/// The cases.
pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("64 B pair, stack", pair::<[u64; 8]>),
        case!("64 B pair at alignment 64, stack", pair::<Line>),
        case!("8 blocks, last in, first out, stack", nested).unit("ns/8 pairs"),
        case!("8 blocks, first in, first out, stack", reversed).unit("ns/8 pairs"),
        Case::new(
            "frame of 16 x 64 B, stack",
            Contender::each("ours", stack, |a| fill(&a.frame())),
        )
        .unit("ns/frame")
        .peer(Contender::each("bump-scope", scope, |a| {
            a.scoped(|scope| {
                let layout = Layout::new::<[u64; 8]>();
                for _ in 0..16 {
                    let block = Allocator::allocate(&scope, layout).expect("room");
                    let _ = black_box(block.cast::<u8>());
                }
            });
        })),
    ]
}
