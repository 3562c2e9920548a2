//! Whether one thread or many use something at once, as a type.

use std::{cell::Cell, marker::PhantomData};

use nebula_memory_core::AllocatorStats;

use crate::{cursor::Bumping, pool::Pooling};

/// For any number of threads at once: figures are kept with atomic additions.
#[derive(Clone, Copy, Debug)]
pub struct Shared(());

/// For one thread at a time: figures are kept with plain stores. Makes what it marks `!Sync`.
#[derive(Clone, Copy, Debug)]
pub struct Exclusive(PhantomData<Cell<()>>);

/// [`Shared`] or [`Exclusive`].
pub trait Mode: sealed::Counting + Bumping + Pooling {
    /// Whether several threads may allocate at once.
    const THREAD_SAFE: bool;
}

impl Mode for Shared {
    const THREAD_SAFE: bool = true;
}

impl Mode for Exclusive {
    const THREAD_SAFE: bool = false;
}

pub(crate) mod sealed {
    use super::AllocatorStats;

    /// How a mode counts.
    pub trait Counting {
        fn allocation(stats: &AllocatorStats, bytes: usize);
        fn deallocation(stats: &AllocatorStats, bytes: usize);
        fn grow(stats: &AllocatorStats, by: usize);
        fn shrink(stats: &AllocatorStats, by: usize);
    }
}

impl sealed::Counting for Shared {
    #[inline(always)]
    fn allocation(stats: &AllocatorStats, bytes: usize) {
        stats.record_allocation(bytes);
    }

    #[inline(always)]
    fn deallocation(stats: &AllocatorStats, bytes: usize) {
        stats.record_deallocation(bytes);
    }

    #[inline(always)]
    fn grow(stats: &AllocatorStats, by: usize) {
        stats.record_grow(by);
    }

    #[inline(always)]
    fn shrink(stats: &AllocatorStats, by: usize) {
        stats.record_shrink(by);
    }
}

impl sealed::Counting for Exclusive {
    #[inline(always)]
    fn allocation(stats: &AllocatorStats, bytes: usize) {
        stats.record_allocation_exclusive(bytes);
    }

    #[inline(always)]
    fn deallocation(stats: &AllocatorStats, bytes: usize) {
        stats.record_deallocation_exclusive(bytes);
    }

    #[inline(always)]
    fn grow(stats: &AllocatorStats, by: usize) {
        stats.record_grow_exclusive(by);
    }

    #[inline(always)]
    fn shrink(stats: &AllocatorStats, by: usize) {
        stats.record_shrink_exclusive(by);
    }
}
