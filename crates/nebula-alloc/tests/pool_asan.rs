//! What AddressSanitizer is told by block pools: blocks that nobody has are poisoned, pages go back
//! clean. Built with `--cfg nebula_asan` and the sanitizer.
#![cfg(nebula_asan)]

use std::{alloc::Layout, ffi::c_void, ops::Range, ptr::NonNull};

use nebula_alloc::{Mode, PoolAllocator};
use nebula_memory_core::{
    Allocator, MemoryError, Resettable, allocator_api2::alloc::Allocator as _,
};
use nebula_testing::CountingAllocator;

unsafe extern "C" {
    fn __asan_address_is_poisoned(address: *const c_void) -> i32;
}

fn all(start: NonNull<u8>, offsets: Range<usize>, expected: bool) -> bool {
    offsets.into_iter().all(|offset| {
        let address = start.as_ptr().wrapping_add(offset).cast();
        // SAFETY: the function looks at shadow memory only.
        let poisoned = unsafe { __asan_address_is_poisoned(address) != 0 };
        poisoned == expected
    })
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

type Make<M> = fn(
    Layout,
    Option<usize>,
    CountingAllocator,
) -> Result<PoolAllocator<CountingAllocator, M>, MemoryError>;

fn borders<M: Mode>(make: Make<M>) {
    // This base writes to what it gets back: to poisoned bytes, that would end the process.
    let base = CountingAllocator::new();
    let mut pool = make(layout(64), Some(100), base.clone()).unwrap();
    let take = |size| pool.try_allocate(layout(size)).unwrap().cast::<u8>();
    let give = |block, size| {
        // SAFETY: the block is live, of this layout, and given up.
        unsafe { pool.deallocate(block, layout(size)) };
    };
    let (first, second) = (take(64), take(24));
    assert!(all(first, 0..64, false));
    assert!(all(second, 0..24, false) && all(second, 24..64 * 99, true));
    // SAFETY: the block is live, of this layout, and the new size is larger.
    unsafe { pool.grow(second, layout(24), layout(48)) }.unwrap();
    assert!(all(second, 0..48, false) && all(second, 48..64, true));
    // SAFETY: as above, smaller.
    unsafe { pool.shrink(second, layout(48), layout(8)) }.unwrap();
    assert!(all(second, 0..8, false) && all(second, 8..64, true));
    give(first, 64);
    assert!(all(first, 0..64, true) && all(second, 0..8, false));
    give(second, 8);
    assert!(all(first, 0..64 * 100, true));
    let again: Vec<_> = (0..100).map(|_| take(64)).collect();
    assert!(again.iter().all(|block| all(*block, 0..64, false)));
    for block in again.into_iter().step_by(3) {
        give(block, 64);
    }
    pool.reset();
    assert!(all(first, 0..64 * 100, true));
    drop(pool);
    base.assert_clean();
}

#[test]
fn only_blocks_are_accessible() {
    borders(PoolAllocator::try_new_in);
    borders(PoolAllocator::try_shared_in);
}

fn pages<M: Mode>(make: Make<M>, trim: fn(&mut PoolAllocator<CountingAllocator, M>) -> usize) {
    let base = CountingAllocator::new();
    let mut pool = make(layout(64), None, base.clone()).unwrap();
    for _ in 0..3 {
        let count = 3 * pool.blocks_per_page() + 1;
        let out: Vec<_> = (0..count).map(|_| pool.try_allocate(layout(40)).unwrap()).collect();
        for block in out {
            // SAFETY: the block is live, of this layout, and given up.
            unsafe { pool.deallocate(block.cast(), layout(40)) };
        }
        assert!(trim(&mut pool) > 0);
        base.assert_clean();
    }
}

#[test]
fn pages_go_back_clean() {
    pages(PoolAllocator::try_new_in, |pool| pool.trim());
    pages(PoolAllocator::try_shared_in, PoolAllocator::<_, nebula_alloc::Shared>::trim);
}
