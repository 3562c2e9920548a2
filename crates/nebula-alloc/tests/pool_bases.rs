//! Pools over allocators that panic, or that come back to the very pool.

use std::{
    alloc::Layout,
    ptr::NonNull,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use nebula_alloc::{PoolAllocator, Shared, StackAllocator};
use nebula_memory_core::{
    Allocator, Global, MemoryError, TypedAllocator,
    allocator_api2::{
        alloc::{AllocError, Allocator as Api2},
        boxed::Box,
    },
};
use nebula_testing::{catch, watchdog};

/// The global allocator, after `hook` has run.
struct Hooked<F>(F);

// SAFETY: every block is the global allocator's.
unsafe impl<F: Fn()> Api2 for Hooked<F> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        (self.0)();
        Global.allocate(layout)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { Global.deallocate(ptr, layout) }
    }
}

// SAFETY: as above; the slice is as long as was asked for.
unsafe impl<F: Fn()> Allocator for Hooked<F> {
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        (self.0)();
        Global.try_allocate(layout)
    }
}

#[test]
fn a_panic_of_the_base_costs_no_blocks() {
    let panics = AtomicBool::new(true);
    let base = || Hooked(|| assert!(!panics.load(SeqCst), "injected"));
    watchdog(Duration::from_secs(60), || {
        let one = PoolAllocator::try_new_in(Layout::new::<u64>(), Some(4), base()).unwrap();
        let many = PoolAllocator::try_shared_in(Layout::new::<u64>(), Some(4), base()).unwrap();
        assert!(catch(|| one.try_new(1_u64).map(drop)).is_err());
        assert!(catch(|| many.try_new(1_u64).map(drop)).is_err());
        panics.store(false, SeqCst);
        let of_one: Vec<_> = (0..4_u64).map(|i| one.try_new(i).unwrap()).collect();
        let of_many: Vec<_> = (0..4_u64).map(|i| many.try_new(i).unwrap()).collect();
        assert!(one.try_new(4_u64).is_err() && many.try_new(4_u64).is_err());
        drop((of_one, of_many));
    });
}

type Hook = Hooked<std::boxed::Box<dyn Fn() + Send + Sync>>;

#[test]
fn a_base_that_comes_back_to_a_shared_pool_does_not_wait_for_itself() {
    static POOL: OnceLock<Weak<PoolAllocator<Hook, Shared>>> = OnceLock::new();
    static REFUSED: AtomicBool = AtomicBool::new(false);
    watchdog(Duration::from_secs(60), || {
        let base: Hook = Hooked(std::boxed::Box::new(|| {
            if let Some(pool) = POOL.get().and_then(Weak::upgrade) {
                REFUSED.store(pool.try_new(2_u64).is_err(), SeqCst);
            }
        }));
        let block = Layout::new::<u64>();
        let pool = Arc::new(PoolAllocator::try_shared_in(block, Some(4), base).unwrap());
        POOL.set(Arc::downgrade(&pool)).unwrap();
        assert_eq!(*pool.try_new(1_u64).unwrap(), 1);
        assert!(REFUSED.load(SeqCst), "all that there may be was on its way");
        assert_eq!(pool.blocks_in_use(), 0);
    });
}

/// Grows a boxed slice into a vector, in place, and writes where only the block reaches, not the
/// box.
fn grows(allocator: &impl Allocator) {
    let bytes = allocator.try_new_slice(20, |_| 1_u8).unwrap();
    let above = allocator.try_new(7_u64).unwrap();
    let mut bytes = Box::<[u8], _>::into_vec(bytes);
    bytes.reserve_exact(5);
    bytes.extend([2; 5]);
    assert_eq!((bytes[19], bytes[24], *above), (1, 2, 7));
    drop(above);
    drop(bytes);
}

#[test]
fn a_block_that_grew_in_place_can_be_used_in_full() {
    let block = Layout::new::<[u64; 8]>();
    grows(&PoolAllocator::try_new(block, None).unwrap());
    grows(&PoolAllocator::try_shared(block, None).unwrap());
    grows(&StackAllocator::try_new(4096).unwrap());
}
