//! The block pool in both forms: the conformance suites, what it takes and gives back, its limits,
//! failure of the allocator underneath, misuse, collections.

use std::{alloc::Layout, cell::RefCell, ptr::NonNull, rc::Rc};

use hashbrown::{DefaultHashBuilder, HashMap};
use nebula_alloc::{
    BumpAllocator, Exclusive, Mode, PoolAllocator, Shared, SystemAllocator, Tracked,
};
use nebula_memory_core::{
    Account, Accounted, Allocator, AllocatorKind, Foreign, Global, MemoryError, MemoryUsage,
    Resettable, StatisticsProvider, TypedAllocator,
    allocator_api2::{
        alloc::{AllocError, Allocator as Api2},
        boxed::Box,
        vec::Vec as Vec2,
    },
};
use nebula_testing::{
    CountingAccount, CountingAllocator, DropCounter, DropProbe, FailingAllocator, OverReturning,
    Rng,
    conformance::{AllocatorOptions, allocator_conformance_with, shared_allocator_conformance},
};
use static_assertions::{assert_impl_all, assert_not_impl_any};

assert_impl_all!(PoolAllocator: Allocator, Send);
assert_not_impl_any!(PoolAllocator: Sync, Clone);
assert_not_impl_any!(&PoolAllocator: Send, Sync);
assert_impl_all!(PoolAllocator<Global, Shared>: Allocator, Send, Sync);
assert_not_impl_any!(PoolAllocator<&'static OnlyHere, Shared>: Send, Sync);
assert_not_impl_any!(PoolAllocator<&'static OnlyHere, Exclusive>: Send, Sync);

/// An allocator that must stay on its thread.
type OnlyHere = Tracked<Global, Exclusive>;

/// Makes a pool in one of the forms.
type Make<A, M> = fn(Layout, Option<usize>, A) -> Result<PoolAllocator<A, M>, MemoryError>;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// Runs `$case` for a pool for one thread and for a shared one.
macro_rules! in_both_forms {
    ($case:ident) => {
        $case(PoolAllocator::try_new_in);
        $case(PoolAllocator::try_shared_in);
    };
}

fn is_empty<A: Allocator, M: Mode>(pool: &PoolAllocator<A, M>) {
    assert_eq!((pool.used(), pool.blocks_in_use()), (0, 0));
    assert_eq!(pool.available(), pool.capacity());
}

fn blocks<A: Allocator, M: Mode>(pool: &PoolAllocator<A, M>, count: usize) -> Vec<NonNull<u8>> {
    let layout = pool.block_layout();
    (0..count).map(|_| pool.try_allocate(layout).unwrap().cast()).collect()
}

fn free<A: Allocator, M: Mode>(
    pool: &PoolAllocator<A, M>,
    blocks: impl IntoIterator<Item = NonNull<u8>>,
) {
    for block in blocks {
        // SAFETY: the block is live, has this layout, and the caller forgets it.
        unsafe { pool.deallocate(block, pool.block_layout()) };
    }
}

// The suites.

fn conforms<M: Mode>(make: Make<CountingAllocator, M>) {
    let base = CountingAllocator::new();
    for (size, align, most) in
        [(1, 1, 100), (24, 8, 50), (64, 64, 2000), (100, 16, 16), (1024, 512, 300), (8, 4096, 40)]
    {
        let block = layout(size, align);
        let real = make(block, None, base.clone()).unwrap().block_layout();
        assert!(real.size() >= size && real.align() >= align);
        let options = AllocatorOptions::slots(most, real.size(), real.align());
        let make = || make(block, Some(most), base.clone()).unwrap();
        allocator_conformance_with(options, make, is_empty);
        base.assert_clean();
    }
    // Large enough for tables and vectors, and without a maximum.
    let block = layout(20_000, 4096);
    let options = AllocatorOptions { max_size: 20_480, ..AllocatorOptions::default() };
    allocator_conformance_with(options, || make(block, None, base.clone()).unwrap(), is_empty);
    base.assert_clean();
}

#[test]
fn both_forms_conform() {
    in_both_forms!(conforms);
}

#[test]
fn it_conforms_over_bases_of_all_kinds() {
    let options = AllocatorOptions::slots(60, 256, 32);
    let block = layout(256, 32);
    let base = OverReturning::new();
    let make = || PoolAllocator::try_new_in(block, Some(60), Foreign::new(base.clone())).unwrap();
    allocator_conformance_with(options, make, is_empty);
    base.assert_clean();

    let make = || {
        let region = BumpAllocator::try_new(256 << 10).unwrap();
        PoolAllocator::try_new_in(block, Some(60), region).unwrap().spare_pages(8)
    };
    allocator_conformance_with(options, make, is_empty);

    let make = || {
        let pool = PoolAllocator::try_new_in(block, Some(60), SystemAllocator::new()).unwrap();
        Tracked::exclusive(pool, "blocks", AllocatorKind::Pool).publish_capacity()
    };
    allocator_conformance_with(options, make, |tracked| {
        is_empty(tracked.allocator());
        assert_eq!(tracked.capacity(), Some(60 * 256));
        let stats = tracked.statistics().unwrap();
        assert_eq!(stats.allocations, stats.deallocations);
    });
}

#[test]
fn the_shared_form_conforms_with_threads() {
    let base = CountingAllocator::new();
    // With a maximum that threads which take more than their share don't reach.
    for (size, align, most) in [(16, 8, 2000), (100, 64, 5000), (2048, 16, 1500)] {
        let block = layout(size, align);
        let make = || PoolAllocator::try_shared_in(block, Some(most), base.clone()).unwrap();
        let real = make().block_layout();
        let options = AllocatorOptions::slots(most, real.size(), real.align());
        shared_allocator_conformance(options, make, is_empty);
        base.assert_clean();
    }
}

// Blocks.

fn every_block_is_apart_and_aligned<M: Mode>(make: Make<Global, M>) {
    for (size, align) in [(1, 1), (8, 8), (40, 8), (64, 64), (72, 16), (4096, 4096), (100_000, 32)]
    {
        let pool = make(layout(size, align), None, Global).unwrap();
        let block = pool.block_layout();
        let count = 2 * pool.blocks_per_page() + 1;
        let out = blocks(&pool, count);
        assert_eq!((pool.pages(), pool.blocks_in_use()), (3, count));
        assert_eq!(pool.used(), count * block.size());
        let mut starts: Vec<usize> = out.iter().map(|block| block.addr().get()).collect();
        // Within a page, blocks come in the order of their addresses.
        assert!(starts[..pool.blocks_per_page()].windows(2).all(|w| w[0] < w[1]));
        starts.sort_unstable();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= block.size()));
        assert!(starts.iter().all(|start| start % align == 0));
        for block in &out {
            // SAFETY: the block is live and this long.
            unsafe { block.write_bytes(0xEE, size) };
        }
        free(&pool, out);
        is_empty(&pool);
    }
}

#[test]
fn blocks_lie_apart_and_are_aligned() {
    in_both_forms!(every_block_is_apart_and_aligned);
}

fn rounding<M: Mode>(make: Make<Global, M>) {
    let pointer = size_of::<usize>();
    let block_of = |size, align| make(layout(size, align), None, Global).unwrap().block_layout();
    assert_eq!(block_of(1, 1), layout(pointer, pointer));
    assert_eq!(block_of(pointer + 1, 1), layout(2 * pointer, pointer));
    assert_eq!(block_of(10, 64), layout(64, 64));
    assert_eq!(block_of(64, 16), layout(64, 16));
}

#[test]
fn blocks_are_rounded_up_to_a_pointer_and_to_their_alignment() {
    in_both_forms!(rounding);
}

fn refusals<M: Mode>(make: Make<CountingAllocator, M>) {
    let base = CountingAllocator::new();
    let pool = make(layout(64, 16), Some(3), base.clone()).unwrap();
    let refused = |layout: Layout, left: usize| {
        let Err(MemoryError::CapacityExceeded { requested, available, align }) =
            pool.try_allocate(layout)
        else {
            panic!("{layout:?} was not refused for its size");
        };
        assert_eq!((requested, available), (layout.size(), left));
        assert_eq!(align.get(), layout.align());
        assert!(pool.allocate(layout).is_err());
    };
    refused(layout(65, 1), 64);
    refused(layout(8, 32), 64);
    refused(layout(isize::MAX as usize, 1), 64);
    refused(layout(isize::MAX as usize - 4095, 4096), 64);
    assert_eq!(base.allocations(), 0, "nothing of that reached the base");
    let out = blocks(&pool, 3);
    assert_eq!(pool.available(), Some(0));
    refused(layout(1, 1), 0);
    assert!(pool.try_allocate(layout(0, 4096)).is_ok(), "blocks of no bytes cost nothing");
    free(&pool, out);
    free(&pool, blocks(&pool, 3));
    assert_eq!(base.allocations(), 1);
}

#[test]
fn what_does_not_fit_is_refused_with_its_reasons() {
    in_both_forms!(refusals);
}

fn bad_settings<M: Mode>(make: Make<Global, M>) {
    let refused = |block, most, code| {
        let Err(error) = make(block, most, Global) else { panic!("{block:?} was accepted") };
        assert_eq!(error.code(), code);
    };
    refused(layout(0, 8), None, "invalid_config");
    refused(layout(8, 8), Some(0), "invalid_config");
    refused(layout(isize::MAX as usize, 1), None, "invalid_layout");
    refused(layout(isize::MAX as usize - 100, 1), Some(1), "invalid_layout");
    refused(layout(1, 1 << (usize::BITS - 2)), None, "invalid_layout");
}

#[test]
fn impossible_pools_are_refused() {
    in_both_forms!(bad_settings);
}

fn in_place<M: Mode>(make: Make<Global, M>) {
    let pool = make(layout(64, 16), None, Global).unwrap();
    let mut bytes = Vec2::<u8, _>::with_capacity_in(10, &pool);
    bytes.extend(0..10);
    let start = bytes.as_ptr();
    bytes.try_reserve_exact(54).unwrap();
    assert_eq!((bytes.as_ptr(), bytes.capacity()), (start, 64));
    assert!(bytes.try_reserve_exact(55).is_err(), "more than a block");
    assert!(bytes.iter().copied().eq(0..10));
    bytes.shrink_to_fit();
    assert_eq!((bytes.as_ptr(), bytes.capacity()), (start, 10));
    assert_eq!(pool.blocks_in_use(), 1);
    drop(bytes);
    is_empty(&pool);
}

#[test]
fn blocks_grow_and_shrink_in_place() {
    in_both_forms!(in_place);
}

fn ownership<M: Mode>(make: Make<Global, M>) {
    let pool = make(layout(64, 16), Some(5), Global).unwrap();
    let other = make(layout(64, 16), None, Global).unwrap();
    let out = blocks(&pool, 2);
    let theirs = blocks(&other, 1);
    let inside = |at: usize| pool.owns(out[0].map_addr(|address| address.checked_add(at).unwrap()));
    assert!(inside(0) && inside(63) && inside(64) && inside(5 * 64 - 1));
    assert!(!inside(5 * 64), "there are five blocks");
    let header = out[0].map_addr(|address| (address.get() - 1).try_into().unwrap());
    assert!(!pool.owns(header));
    assert!(!pool.owns(theirs[0]) && other.owns(theirs[0]));
    let local = 0_u8;
    assert!(!pool.owns(NonNull::from(&local)));
    free(&pool, out.clone());
    assert!(pool.owns(out[0]), "free blocks are the pool's, too");
    free(&other, theirs);
}

#[test]
fn a_pool_knows_its_blocks() {
    in_both_forms!(ownership);
}

// Pages.

fn charges<M: Mode>(make: Make<Accounted<Global, CountingAccount>, M>) {
    let account = CountingAccount::new();
    let pool = make(layout(64, 16), None, Accounted::new(Global, account.clone())).unwrap();
    assert_eq!(account.balance(), 0);
    let mut out = Vec::new();
    for _ in 0..3000 {
        out.extend(blocks(&pool, 1));
        assert_eq!(account.balance(), pool.pages() * pool.page_layout().size());
        assert_eq!(pool.pages(), out.len().div_ceil(pool.blocks_per_page()));
    }
    let mut rng = Rng::new(5);
    while !out.is_empty() {
        free(&pool, [out.swap_remove(rng.below(out.len()))]);
        assert_eq!(account.balance(), pool.pages() * pool.page_layout().size());
    }
    drop(pool);
    account.assert_settled();
}

#[test]
fn every_page_is_charged_to_the_byte() {
    in_both_forms!(charges);
}

#[test]
fn empty_pages_go_back_but_for_a_few() {
    let base = CountingAllocator::new();
    let pool = PoolAllocator::try_new_in(layout(64, 16), None, base.clone()).unwrap();
    let each = pool.blocks_per_page();
    // The current page is none of these.
    let out = blocks(&pool, 5 * each);
    let current = blocks(&pool, 2);
    assert_eq!((pool.pages(), base.live_blocks()), (6, 6));
    let mut pages = out.chunks(each).map(<[_]>::to_vec);
    free(&pool, pages.next().unwrap());
    free(&pool, [current[0]]);
    assert_eq!(pool.pages(), 6, "one is spare");
    let mut second = pages.next().unwrap();
    let one = second.pop();
    free(&pool, second);
    assert_eq!(pool.pages(), 6, "a block of it is out");
    free(&pool, one);
    assert_eq!(pool.pages(), 6, "its last block is at hand");
    free(&pool, [current[1]]);
    assert_eq!((pool.pages(), base.live_blocks()), (5, 5));
    free(&pool, pages.flatten());
    let page = pool.page_layout().size();
    assert_eq!((pool.pages(), base.live_bytes()), (3, 3 * page));
    assert_eq!(pool.trim(), 3 * page);
    assert_eq!((pool.pages(), base.live_bytes(), pool.trim()), (0, 0, 0));
    // And it serves again.
    free(&pool, blocks(&pool, each + 1));
    is_empty(&pool);
}

#[test]
fn a_pool_that_stays_at_a_border_does_not_fetch_pages() {
    let base = CountingAllocator::new();
    let pool = PoolAllocator::try_new_in(layout(64, 16), None, base.clone()).unwrap();
    for held in [0, 1, pool.blocks_per_page(), pool.blocks_per_page() + 1] {
        let out = blocks(&pool, held);
        free(&pool, blocks(&pool, 1));
        let before = base.allocations();
        for _ in 0..100 {
            free(&pool, blocks(&pool, 1));
        }
        assert_eq!(base.allocations(), before, "with {held} blocks out");
        free(&pool, out);
    }
}

#[test]
fn as_many_spare_pages_are_kept_as_were_asked_for() {
    for keep in [0, 1, 3, 10] {
        let base = CountingAllocator::new();
        let pool = PoolAllocator::try_new_in(layout(64, 16), None, base.clone()).unwrap();
        let pool = pool.spare_pages(keep);
        let out = blocks(&pool, 5 * pool.blocks_per_page() + 1);
        free(&pool, out);
        // The sixth is the current one, whose only block is at hand.
        assert_eq!(pool.pages(), 1 + keep.min(5));
        assert_eq!(base.live_blocks(), pool.pages());
        let before = base.allocations();
        let out = blocks(&pool, pool.pages() * pool.blocks_per_page());
        assert_eq!(base.allocations(), before, "spare pages are used first");
        free(&pool, out);
        assert_eq!(
            pool.trim(),
            pool.page_layout().size() * base.live_blocks().max(1 + keep.min(5))
        );
        base.assert_clean();
    }
}

fn pages_in_any_order<M: Mode>(make: Make<CountingAllocator, M>) {
    const PAGES: usize = 6;
    for seed in 0..40 {
        let base = CountingAllocator::new();
        let pool = make(layout(4096, 16), None, base.clone()).unwrap();
        let each = pool.blocks_per_page();
        let mut pages: Vec<Vec<_>> = (0..PAGES).map(|_| blocks(&pool, each)).collect();
        // One block of each page in some order, then the others page by page in another.
        let mut rng = Rng::new(seed);
        let mut order: Vec<usize> = (0..PAGES).collect();
        let mut out = PAGES * each;
        let mut shuffle = |order: &mut Vec<usize>| {
            for i in (1..PAGES).rev() {
                order.swap(i, rng.below(i + 1));
            }
        };
        shuffle(&mut order);
        for page in &order {
            free(&pool, pages[*page].pop());
            out -= 1;
            assert_eq!(pool.blocks_in_use(), out);
        }
        shuffle(&mut order);
        for page in &order {
            out -= pages[*page].len();
            free(&pool, pages[*page].drain(..));
            assert_eq!(pool.blocks_in_use(), out);
            assert!(pages.iter().flatten().all(|block| pool.owns(*block)));
        }
        free(&pool, blocks(&pool, PAGES * each));
        is_empty(&pool);
        drop(pool);
        base.assert_clean();
    }
}

#[test]
fn pages_fill_and_empty_in_any_order() {
    in_both_forms!(pages_in_any_order);
}

#[test]
fn blocks_come_from_one_page_until_it_has_none() {
    let pool = PoolAllocator::try_new(layout(64, 16), None).unwrap();
    let each = pool.blocks_per_page();
    let out = blocks(&pool, 3 * each);
    let page = |block: &NonNull<u8>| block.addr().get() & !(pool.page_layout().align() - 1);
    let (first, rest) = out.split_at(each);
    // Half of the first page and one block of the second are free; the first was freed to first.
    free(&pool, first.iter().step_by(2).copied());
    free(&pool, [rest[0], out[2 * each]]);
    assert_eq!(blocks(&pool, 1), [out[2 * each]], "the one at hand");
    let again = blocks(&pool, each.div_ceil(2));
    assert!(again.iter().all(|block| page(block) == page(&first[0])));
    assert_eq!(blocks(&pool, 1), [rest[0]]);
    assert_eq!(pool.pages(), 3);
}

#[test]
fn a_shared_pool_keeps_its_pages_until_it_is_trimmed() {
    let base = CountingAllocator::new();
    let mut pool = PoolAllocator::try_shared_in(layout(64, 16), None, base.clone()).unwrap();
    let each = pool.blocks_per_page();
    let out = blocks(&pool, 5 * each);
    let page = pool.page_layout().size();
    free(&pool, out[..each].iter().copied());
    free(&pool, out[2 * each..4 * each - 1].iter().copied());
    assert_eq!((pool.pages(), base.live_blocks()), (5, 5));
    assert_eq!(pool.trim(), 2 * page);
    assert_eq!((pool.pages(), base.live_bytes()), (3, 3 * page));
    // The rest is as it was: one page with a block out, two without a free one.
    assert_eq!(pool.blocks_in_use(), 2 * each + 1);
    let again = blocks(&pool, each - 1);
    assert_eq!(pool.pages(), 3);
    free(&pool, again);
    free(&pool, out[each..2 * each].iter().chain(&out[4 * each - 1..]).copied());
    is_empty(&pool);
    assert_eq!(pool.trim(), 3 * page);
    base.assert_clean();
    free(&pool, blocks(&pool, 2 * each));
    drop(pool);
    base.assert_clean();
}

fn maximum<M: Mode>(make: Make<CountingAllocator, M>) {
    let each = make(layout(64, 16), None, CountingAllocator::new()).unwrap().blocks_per_page();
    for most in [1, 2, 7, each - 1, each, each + 1, 2 * each + 5] {
        let base = CountingAllocator::new();
        let pool = make(layout(64, 16), Some(most), base.clone()).unwrap();
        assert_eq!((pool.max_blocks(), pool.capacity()), (Some(most), Some(most * 64)));
        for _ in 0..3 {
            let out = blocks(&pool, most);
            assert_eq!(pool.available(), Some(0));
            assert!(pool.allocate(layout(1, 1)).is_err());
            assert_eq!(pool.pages(), most.div_ceil(each));
            free(&pool, out);
        }
        drop(pool);
        base.assert_clean();
    }
    // Few blocks take a small page.
    let pool = make(layout(64, 16), Some(2), CountingAllocator::new()).unwrap();
    assert!(pool.page_layout().size() < 512, "{:?}", pool.page_layout());
}

#[test]
fn there_are_as_many_blocks_as_the_maximum_says() {
    in_both_forms!(maximum);
}

fn resetting<M: Mode>(make: Make<CountingAllocator, M>) {
    let base = CountingAllocator::new();
    let mut pool = make(layout(64, 16), Some(3000), base.clone()).unwrap();
    for _ in 0..3 {
        let out = blocks(&pool, 3000);
        free(&pool, out.iter().step_by(3).copied());
        pool.reset();
        is_empty(&pool);
        assert_eq!(base.live_blocks(), pool.pages());
    }
    let mut out = blocks(&pool, 3000);
    assert!(pool.allocate(layout(1, 1)).is_err());
    out.sort_unstable();
    assert!(out.windows(2).all(|pair| pair[0] != pair[1]));
    free(&pool, out);
    drop(pool);
    base.assert_clean();
}

#[test]
fn a_reset_takes_everything_back() {
    in_both_forms!(resetting);
}

fn dropping<M: Mode>(make: Make<CountingAllocator, M>) {
    let base = CountingAllocator::new();
    let pool = make(layout(64, 16), None, base.clone()).unwrap();
    let out = blocks(&pool, 3 * pool.blocks_per_page() + 7);
    free(&pool, out.into_iter().step_by(2));
    let moved = std::boxed::Box::new(pool);
    free(&moved, blocks(&moved, 10));
    drop(moved);
    base.assert_clean();
}

#[test]
fn dropping_gives_all_pages_back_whatever_is_out() {
    in_both_forms!(dropping);
}

// Failure underneath.

fn failing_at_every_call<M: Mode>(make: Make<FailingAllocator<CountingAllocator>, M>) {
    for n in 0.. {
        let base = CountingAllocator::new();
        let pool = make(layout(512, 8), None, FailingAllocator::new(base.clone())).unwrap();
        let each = pool.blocks_per_page();
        pool.base().fail_at(n);
        let (mut out, mut refused) = (Vec::new(), 0);
        while out.len() < 4 * each {
            match pool.try_allocate(layout(512, 8)) {
                Ok(block) => out.push(block.cast::<u8>()),
                Err(error) => {
                    assert!(matches!(error, MemoryError::OutOfMemory { .. }), "{error}");
                    assert_eq!(out.len() % each, 0, "refused only where a page is needed");
                    refused += 1;
                }
            }
            assert_eq!(pool.blocks_in_use(), out.len());
            assert_eq!(base.live_blocks(), pool.pages());
        }
        assert_eq!(refused, usize::from(n < 4));
        let tripped = pool.base().tripped();
        free(&pool, out);
        is_empty(&pool);
        drop(pool);
        base.assert_clean();
        if !tripped {
            return;
        }
    }
}

#[test]
fn a_base_that_fails_at_any_call_changes_nothing() {
    in_both_forms!(failing_at_every_call);
}

fn full_base<M: Mode>(make: Make<FailingAllocator<CountingAllocator>, M>) {
    let base = CountingAllocator::new();
    let pool = make(layout(512, 8), Some(1000), FailingAllocator::new(base.clone())).unwrap();
    let each = pool.blocks_per_page();
    let out = blocks(&pool, 2 * each);
    pool.base().fail_from(0);
    assert!(pool.try_allocate(layout(8, 8)).is_err());
    assert!(pool.allocate(layout(8, 8)).is_err());
    // What is freed is had again, wherever it lies.
    free(&pool, [out[3]]);
    free(&pool, blocks(&pool, 1));
    free(&pool, [out[each + 3]]);
    let again = blocks(&pool, 2);
    assert!(pool.try_allocate(layout(8, 8)).is_err());
    // What was refused does not count towards the maximum.
    pool.base().fail_never();
    let rest = blocks(&pool, 1000 - 2 * each);
    assert!(matches!(
        pool.try_allocate(layout(8, 8)),
        Err(MemoryError::CapacityExceeded { available: 0, .. })
    ));
    free(&pool, again);
    free(&pool, rest);
}

#[test]
fn a_base_that_has_no_more_leaves_what_there_is() {
    in_both_forms!(full_base);
}

#[test]
fn the_reason_of_the_account_is_handed_on() {
    let account = CountingAccount::with_limit(70_000);
    let pool =
        PoolAllocator::try_new_in(layout(64, 16), None, Accounted::new(Global, &account)).unwrap();
    let out = blocks(&pool, pool.blocks_per_page());
    let error = pool.try_allocate(layout(64, 16)).unwrap_err();
    assert_eq!(error.code(), account.try_charge(1 << 20).unwrap_err().code());
    free(&pool, out);
    drop(pool);
    account.assert_settled();
}

/// An allocator that comes back to a pool while it works, as one does whose account asks others to
/// give memory back.
#[derive(Clone, Default)]
struct Returning(Rc<RefCell<Vec<Work>>>);

type Work = std::boxed::Box<dyn Fn()>;

impl Returning {
    fn work(&self) {
        let work = self.0.borrow_mut().pop();
        if let Some(work) = work {
            work();
        }
    }
}

// SAFETY: blocks are those of `Global`.
unsafe impl Api2 for Returning {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.work();
        Global.allocate(layout)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        self.work();
        // SAFETY: the caller's promises are the callee's.
        unsafe { Global.deallocate(ptr, layout) };
    }
}

// SAFETY: as above.
unsafe impl Allocator for Returning {
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        self.allocate(layout).map_err(|AllocError| MemoryError::out_of_memory(layout))
    }
}

fn returning<M: Mode + 'static>(make: Make<Returning, M>) {
    let base = Returning::default();
    let pool = Rc::new(make(layout(64, 16), Some(5000), base.clone()).unwrap());
    let again = |work: fn(&PoolAllocator<Returning, M>)| {
        let weak = Rc::downgrade(&pool);
        let work = move || {
            if let Some(pool) = weak.upgrade() {
                work(&pool);
            }
        };
        base.0.borrow_mut().push(std::boxed::Box::new(work));
    };
    let each = pool.blocks_per_page();
    // While a page is being allocated, and again while that one's successor is.
    again(|pool| free(pool, blocks(pool, 10)));
    again(|pool| {
        let out = blocks(pool, pool.blocks_per_page() + 1);
        free(pool, out);
    });
    let first = blocks(&pool, 1);
    let out = blocks(&pool, 3 * each);
    again(|pool| free(pool, blocks(pool, 1)));
    free(&pool, out);
    free(&pool, first);
    base.0.borrow_mut().clear();
    is_empty(&pool);
    let all = blocks(&pool, 5000);
    assert!(pool.allocate(layout(1, 1)).is_err());
    free(&pool, all);
    is_empty(&pool);
}

#[test]
fn the_base_may_come_back_to_the_pool() {
    in_both_forms!(returning);
}

// Misuse.

#[cfg(debug_assertions)]
mod misuse {
    use nebula_testing::catch;

    use super::*;

    fn panics(what: &str, body: impl FnOnce()) {
        let message = catch(body).expect_err("misuse was not noticed");
        assert!(message.contains(what), "{message}");
    }

    fn misused<M: Mode>(make: Make<Global, M>) {
        let pool = make(layout(64, 16), Some(2000), Global).unwrap();
        let other = make(layout(64, 16), None, Global).unwrap();
        let out = blocks(&pool, 1500);
        let theirs = blocks(&other, 1);
        panics("not one of its blocks", || free(&pool, theirs.iter().copied()));
        let mut local = [0_u64; 16];
        panics("not one of its blocks", || free(&pool, [NonNull::from(&mut local).cast()]));
        let within = |at: isize| {
            out[0].map_addr(|address| address.get().wrapping_add_signed(at).try_into().unwrap())
        };
        panics("not where one of its blocks begins", || free(&pool, [within(1)]));
        panics("not where one of its blocks begins", || free(&pool, [within(-64)]));
        free(&pool, [out[7], out[8], out[1499]]);
        for double in [7, 8, 1499] {
            panics("free already", || free(&pool, [out[double]]));
        }
        // One that was never out.
        let last = out[1498].map_addr(|address| address.checked_add(10 * 64).unwrap());
        panics("free already", || free(&pool, [last]));
        // Nothing has changed by any of that.
        assert_eq!(pool.blocks_in_use(), 1497);
        free(
            &pool,
            out.into_iter().enumerate().filter(|(i, _)| ![7, 8, 1499].contains(i)).map(|(_, b)| b),
        );
        is_empty(&pool);
        let mut all = blocks(&pool, 2000);
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
        free(&other, theirs);
    }

    #[test]
    fn double_frees_and_foreign_blocks_are_noticed() {
        in_both_forms!(misused);
    }
}

// Collections.

fn side_by_side<M: Mode>(make: Make<CountingAllocator, M>) {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let base = CountingAllocator::new();
        let pool = make(layout(8192, 64), None, base.clone()).unwrap();
        let counter = DropCounter::new();
        let mut boxed = Some(Box::new_in(counter.probe(0), &pool));
        let mut list = Some(Vec2::new_in(&pool));
        let mut map = Some(HashMap::with_hasher_in(DefaultHashBuilder::default(), &pool));
        for i in 1..80_u64 {
            list.as_mut().unwrap().push(counter.probe(i));
            map.as_mut().unwrap().insert(i, counter.probe(1000 + i));
        }
        assert!((1..80).all(|i| map.as_ref().unwrap()[&i].tag() == 1000 + i));
        assert!(list.as_ref().unwrap().iter().map(DropProbe::tag).eq(1..80));
        assert_eq!((boxed.as_ref().unwrap().tag(), pool.blocks_in_use()), (0, 3));
        for which in order {
            match which {
                0 => drop(boxed.take()),
                1 => drop(list.take()),
                _ => drop(map.take()),
            }
        }
        counter.assert_all_dropped();
        is_empty(&pool);
        // What is larger than a block is an error.
        let mut numbers = Vec2::<u64, _>::with_capacity_in(1024, &pool);
        assert!(numbers.try_reserve(1025).is_err());
        assert!(pool.try_new_slice(1025, |i| i as u64).is_err());
        drop(numbers);
        is_empty(&pool);
        drop((boxed, list, map));
        drop(pool);
        base.assert_clean();
    }
}

#[test]
fn collections_live_side_by_side_and_go_in_any_order() {
    in_both_forms!(side_by_side);
}

fn owned<M: Mode>(make: Make<CountingAllocator, M>) {
    let base = CountingAllocator::new();
    let mut list = Vec2::new_in(make(layout(4096, 8), Some(2), base.clone()).unwrap());
    list.extend(0..512_u64);
    let moved = std::boxed::Box::new(list);
    assert!(moved.iter().copied().eq(0..512));
    drop(moved);
    base.assert_clean();
}

#[test]
fn a_collection_may_own_its_pool() {
    in_both_forms!(owned);
}
