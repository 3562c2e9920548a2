//! What counting and charging cost on top of an allocator that costs next to nothing.

use std::{alloc::Layout, hint::black_box};

use nebula_alloc::{StackAllocator, Tracked};
use nebula_budget::MemoryBudget;
use nebula_memory_core::{Accounted, AllocatorKind, Global, allocator_api2::alloc::Allocator};

use crate::{Case, Contender};

fn stack() -> StackAllocator {
    StackAllocator::try_new(4096).expect("a region")
}

/// Places 64 bytes and frees them.
#[inline]
fn pair(allocator: impl Allocator) {
    let layout = Layout::new::<[u64; 8]>();
    let block = black_box(allocator.allocate(layout).expect("64 bytes").cast());
    // SAFETY: allocated above by the same allocator with the same layout, and used by nobody else.
    unsafe { allocator.deallocate(block, layout) };
}

fn plain() -> Contender {
    Contender::each("alone", stack, |a| pair(&*a))
}

fn budget() -> MemoryBudget {
    MemoryBudget::root("root", 1 << 30).expect("a valid capacity")
}

/// The cases: the difference to the peer is what the adaptor adds.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "64 B pair, stack, tracked for one",
            Contender::each(
                "ours",
                || Tracked::exclusive(stack(), "bench", AllocatorKind::Stack),
                |a| pair(&*a),
            ),
        )
        .peer(plain()),
        Case::new(
            "64 B pair, stack, charged to a local budget",
            Contender::each(
                "ours",
                || {
                    let budget = budget();
                    (Accounted::new(stack(), budget.local()), budget)
                },
                |(a, _)| pair(&*a),
            ),
        )
        .peer(plain()),
        Case::new(
            "64 B pair, stack, charged to a shared budget",
            Contender::each(
                "ours",
                || {
                    let budget = budget();
                    (Accounted::new(stack(), budget.account()), budget)
                },
                |(a, _)| pair(&*a),
            ),
        )
        .peer(plain()),
        Case::new(
            "64 B pair, Global, charged to a local budget",
            Contender::each(
                "ours",
                || {
                    let budget = budget();
                    (Accounted::new(Global, budget.local()), budget)
                },
                |(a, _)| pair(&*a),
            ),
        )
        .peer(Contender::each("alone", || Global, |a| pair(*a))),
    ]
}
