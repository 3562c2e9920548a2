//! Object pools: an object is taken, used, reset and given back, 16 objects in the pool, by one
//! thread and by two at once; with guards that own a share of the pool; and by tasks that wait for
//! each other. Pools that don't reset are reset by hand, so that the work is the same; those that
//! don't count or limit are not made to.
//!
//! What is lent is asked for in the same place in every case; where one of our pools is slower than
//! another of ours by nature, the peers are those that do the same.

mod asynchronous;
mod ours;
mod peers;

use std::hint::black_box;

use nebula_pool::Poolable;

use crate::{Case, Contender};

pub(crate) const OBJECTS: usize = 16;

/// What is pooled: how it is made, used and reset.
pub(crate) trait Subject: Poolable + Send + Sync + 'static {
    fn make() -> Self;
    fn touch(&mut self);
}

/// 64 bytes in the object itself.
#[derive(Default)]
pub(crate) struct Small([u64; 8]);

impl Poolable for Small {
    #[inline]
    fn reset(&mut self) {
        self.0[0] = 0;
    }

    #[inline]
    fn heap_size(&self) -> usize {
        0
    }
}

impl Subject for Small {
    fn make() -> Self {
        Self::default()
    }

    #[inline]
    fn touch(&mut self) {
        self.0[0] += black_box(1);
    }
}

impl Subject for Vec<u8> {
    fn make() -> Self {
        Self::with_capacity(4096)
    }

    #[inline]
    fn touch(&mut self) {
        self.push(black_box(1));
    }
}

/// The peers of pools that threads share.
fn shared<T: Subject>(name: &'static str, threads: usize, ours: Contender) -> Case {
    let case = Case::new(name, ours)
        .peer(peers::opool::<T>(threads))
        .peer(peers::object_pool::<T>(threads))
        .peer(peers::lockfree::<T>(threads))
        .peer(peers::sharded::<T>(threads))
        .peer(peers::regex::<T>(threads))
        .peer(peers::deadpool::<T>(threads))
        .peer(peers::mutex::<T>(threads));
    with_heap::<T>(case, threads)
}

#[cfg(feature = "mimalloc")]
fn with_heap<T: Subject>(case: Case, threads: usize) -> Case {
    case.peer(peers::mimalloc::<T>(threads))
}

#[cfg(not(feature = "mimalloc"))]
fn with_heap<T: Subject>(case: Case, _threads: usize) -> Case {
    case
}

/// The peers of pools for one thread.
fn local<T: Subject>(name: &'static str, ours: Contender) -> Case {
    let case = Case::new(name, ours).peer(peers::opool_local::<T>()).peer(peers::vec::<T>());
    with_heap::<T>(case, 1)
}

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        local::<Small>("ObjectPool, 64 B, 1 thread", ours::object_pool::<Small>()),
        local::<Vec<u8>>("ObjectPool, 4 KiB buffer, 1 thread", ours::object_pool::<Vec<u8>>()),
        shared::<Small>("64 B object, 1 thread", 1, ours::thread_safe::<Small>(1)),
        shared::<Small>("64 B object, 2 threads", 2, ours::thread_safe::<Small>(2)),
        shared::<Vec<u8>>("4 KiB buffer, 1 thread", 1, ours::thread_safe::<Vec<u8>>(1)),
        shared::<Vec<u8>>("4 KiB buffer, 2 threads", 2, ours::thread_safe::<Vec<u8>>(2)),
        shared::<Small>("LockFreePool, 64 B, 1 thread", 1, ours::lock_free::<Small>(1)),
        shared::<Small>("LockFreePool, 64 B, 2 threads", 2, ours::lock_free::<Small>(2)),
        shared::<Small>("TtlPool, 64 B, 1 thread", 1, ours::ttl_kept::<Small>(1)),
        shared::<Small>("TtlPool without a maintainer, 64 B, 1 thread", 1, ours::ttl::<Small>(1)),
        shared::<Small>("PriorityPool, 64 B, 1 thread", 1, ours::priority::<Small>(1)),
        shared::<Small>("HierarchicalPool, 64 B, 1 thread", 1, ours::hierarchical::<Small>(1)),
        Case::new("Arc guard, 64 B, 1 thread", ours::owned::<Small>(1))
            .peer(peers::opool_owned::<Small>(1))
            .peer(peers::lockfree_owned::<Small>(1))
            .peer(peers::deadpool::<Small>(1)),
    ];
    cases.extend(asynchronous::cases());
    cases
}
