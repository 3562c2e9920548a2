//! The core's allocators, against the suite and against exact books.

use std::{
    alloc::{Layout, System},
    cell::Cell,
};

use allocator_api2::{
    alloc::{AllocError, Allocator as Api2},
    vec::Vec as AVec,
};
use hashbrown::{DefaultHashBuilder, HashMap};
use nebula_memory_core::{
    Account, Accounted, Align, Allocator, Foreign, Global, MemoryError, TypedAllocator, Unlimited,
};
use nebula_testing::{
    CountingAccount, CountingAllocator, DropCounter, FailingAllocator, OverReturning, PanicOn,
    RefusingAccount, catch,
    conformance::{
        AllocatorOptions, allocator_conformance, allocator_conformance_with,
        shared_allocator_conformance,
    },
};

fn general() -> AllocatorOptions {
    AllocatorOptions::default()
}

#[test]
fn global_conforms() {
    allocator_conformance(|| Global);
    shared_allocator_conformance(general(), || Global, |_| ());
}

#[test]
fn references_conform() {
    let base = CountingAllocator::new();
    allocator_conformance_with(general(), || &base, |_| base.assert_clean());
    let by_name: &dyn Allocator = &base;
    allocator_conformance_with(general(), || by_name, |_| base.assert_clean());
}

#[test]
fn foreign_allocators_conform() {
    allocator_conformance(|| Foreign::new(System));
    allocator_conformance_with(
        general(),
        || Foreign::new(OverReturning::new()),
        |foreign| foreign.get_ref().assert_clean(),
    );
    shared_allocator_conformance(
        general(),
        || Foreign::new(OverReturning::new()),
        |foreign| foreign.get_ref().assert_clean(),
    );
}

#[test]
fn accounted_allocators_conform_and_settle() {
    allocator_conformance(|| Accounted::new(Global, Unlimited));
    allocator_conformance_with(
        general(),
        || Accounted::new(CountingAllocator::new(), CountingAccount::new()),
        |accounted| {
            accounted.account().assert_settled();
            accounted.allocator().assert_clean();
        },
    );
    shared_allocator_conformance(
        general(),
        || Accounted::new(CountingAllocator::new(), CountingAccount::new()),
        |accounted| {
            accounted.account().assert_settled();
            accounted.allocator().assert_clean();
        },
    );
}

#[test]
fn accounted_over_an_over_returning_base_conforms_and_settles() {
    allocator_conformance_with(
        general(),
        || Accounted::new(Foreign::new(OverReturning::new()), CountingAccount::new()),
        |accounted| {
            accounted.account().assert_settled();
            accounted.allocator().get_ref().assert_clean();
        },
    );
}

/// Zero-sized requests never reach an allocator of another crate, which may not expect them back.
#[test]
fn foreign_keeps_empty_blocks_to_itself() {
    struct NoEmptyBlocks;
    // SAFETY: forwards to `Global`.
    unsafe impl Api2 for NoEmptyBlocks {
        fn allocate(&self, layout: Layout) -> Result<std::ptr::NonNull<[u8]>, AllocError> {
            assert_ne!(layout.size(), 0, "an empty block was asked for");
            Global.allocate(layout)
        }
        unsafe fn deallocate(&self, ptr: std::ptr::NonNull<u8>, layout: Layout) {
            assert_ne!(layout.size(), 0, "an empty block was freed");
            // SAFETY: the caller's promises are the callee's.
            unsafe { Global.deallocate(ptr, layout) }
        }
        unsafe fn shrink(
            &self,
            ptr: std::ptr::NonNull<u8>,
            old: Layout,
            new: Layout,
        ) -> Result<std::ptr::NonNull<[u8]>, AllocError> {
            assert_ne!(new.size(), 0, "a block was shrunk to nothing");
            // SAFETY: the caller's promises are the callee's.
            unsafe { Global.shrink(ptr, old, new) }
        }
    }
    allocator_conformance(|| Foreign::new(NoEmptyBlocks));
}

#[test]
fn foreign_gives_its_allocator_back() {
    let base = CountingAllocator::new();
    let foreign = Foreign::new(base.clone());
    drop(foreign.try_new(5_u8).unwrap());
    assert_eq!(foreign.into_inner().allocations(), base.allocations());
}

#[test]
fn a_hash_map_over_an_over_returning_base_is_charged_exactly() {
    let (base, account) = (OverReturning::new(), CountingAccount::new());
    let allocator = Accounted::new(Foreign::new(base.clone()), account.clone());
    let mut map = HashMap::with_hasher_in(DefaultHashBuilder::default(), allocator);
    for i in 0..if cfg!(miri) { 200 } else { 5000_u64 } {
        map.insert(i, i);
        assert!(account.balance() <= base.live_bytes(), "more is charged than is allocated");
        // `allocation_size` is what the map will free: just what must be charged.
        assert_eq!(account.balance(), map.allocation_size());
    }
    map.retain(|i, _| *i < 10);
    map.shrink_to_fit();
    assert_eq!(account.balance(), map.allocation_size());
    drop(map);
    account.assert_settled();
    base.assert_clean();
}

#[test]
fn a_vector_is_charged_to_the_byte() {
    let (base, account) = (CountingAllocator::new(), CountingAccount::new());
    let mut numbers = AVec::new_in(Accounted::new(base.clone(), account.clone()));
    for i in 0..1000_u32 {
        numbers.push(i);
        assert_eq!(
            (account.balance(), base.live_bytes()),
            (numbers.capacity() * 4, numbers.capacity() * 4)
        );
    }
    numbers.truncate(10);
    numbers.shrink_to_fit();
    account.assert_balance(40);
    let boxed = numbers.into_boxed_slice();
    account.assert_balance(40);
    drop(boxed);
    account.assert_settled();
    base.assert_clean();
}

/// Boxes, slices, a vector and a map; errors are passed on.
fn work<A: Allocator>(allocator: &A) -> Result<(), MemoryError> {
    let out_of_memory = || MemoryError::out_of_memory(Layout::new::<u8>());
    let name = allocator.try_new(String::from("nebula"))?;
    let squares = allocator.try_new_slice(50, |i| i * i)?;
    let mut numbers = AVec::new_in(allocator);
    for i in 0..40_u64 {
        numbers.try_reserve(1).map_err(|_| out_of_memory())?;
        numbers.push(i);
    }
    let mut map = HashMap::with_hasher_in(DefaultHashBuilder::default(), allocator);
    for i in 0..40_u64 {
        map.try_reserve(1).map_err(|_| out_of_memory())?;
        map.insert(i, i);
    }
    assert_eq!((name.len(), squares[7], numbers[9], map[&30]), (6, 49, 9, 30));
    Ok(())
}

#[test]
fn every_failing_allocation_leaves_the_books_at_zero() {
    let (base, account) = (CountingAllocator::new(), CountingAccount::new());
    let failing = FailingAllocator::new(base.clone());
    let allocator = Accounted::new(failing.clone(), account.clone());
    for n in 0.. {
        failing.fail_at(n);
        let result = work(&allocator);
        assert_eq!(result.is_err(), failing.tripped());
        base.assert_clean();
        account.assert_settled();
        if !failing.tripped() {
            assert!(n > 10, "only {n} requests were made");
            break;
        }
        assert_eq!(result.unwrap_err().code(), "out_of_memory");
    }
}

#[test]
fn every_refused_charge_leaves_the_books_at_zero() {
    let base = CountingAllocator::new();
    let account: RefusingAccount = RefusingAccount::default();
    let allocator = Accounted::new(base.clone(), account.clone());
    for n in 0.. {
        account.refuse_at(n);
        let before = base.allocations();
        let result = work(&allocator);
        assert_eq!(result.is_err(), account.tripped());
        if n == 0 {
            assert_eq!(base.allocations(), before, "allocated before it was charged");
        }
        base.assert_clean();
        account.get_ref().assert_settled();
        if !account.tripped() {
            assert!(n > 10, "only {n} charges were made");
            break;
        }
    }
}

#[test]
fn a_refused_charge_is_reported_as_the_account_says() {
    let allocator = Accounted::new(Global, CountingAccount::with_limit(100));
    let error = allocator.try_allocate(Layout::new::<[u8; 101]>()).unwrap_err();
    assert!(matches!(error, MemoryError::CapacityExceeded { requested: 101, available: 100, .. }));
    assert!(allocator.allocate(Layout::new::<[u8; 101]>()).is_err());
    assert!(allocator.allocate_zeroed(Layout::new::<[u8; 101]>()).is_err());
    allocator.account().assert_settled();
}

#[test]
fn a_refused_charge_is_explained_where_the_user_sees_it() {
    struct Explaining;
    impl Account for Explaining {
        fn try_charge(&self, requested: usize) -> Result<(), MemoryError> {
            Err(MemoryError::CapacityExceeded { requested, available: 0, align: Align::ONE })
        }
        fn credit(&self, _bytes: usize) {}
        fn explain(&self, _error: MemoryError) -> MemoryError {
            MemoryError::Closed { what: "explained" }
        }
    }
    let allocator = Accounted::new(Global, Explaining);
    assert_eq!(allocator.try_allocate(Layout::new::<u8>()).unwrap_err().code(), "closed");
    assert_eq!(allocator.try_new_slice(3, |i| i).unwrap_err().code(), "closed");
}

#[test]
fn a_value_that_does_not_fit_is_handed_back() {
    let counter = DropCounter::new();
    let allocator = Accounted::new(Global, CountingAccount::with_limit(4));
    let refused = allocator.try_new(counter.probe(9)).map(drop).unwrap_err();
    counter.assert_live(1);
    assert_eq!(refused.error.code(), "capacity_exceeded");
    assert_eq!(refused.into_value().tag(), 9);
    counter.assert_all_dropped();
}

#[test]
fn a_slice_that_does_not_fit_makes_no_values() {
    let on = PanicOn::never();
    let allocator = Accounted::new(Global, CountingAccount::with_limit(100));
    assert!(allocator.try_new_slice(101, |_| on.tick()).is_ok());
    on.arm(usize::MAX);
    let make = |_: usize| {
        on.tick();
        0_u8
    };
    assert!(allocator.try_new_slice(101, make).is_err());
    let error = allocator.try_new_slice(usize::MAX, |_| 0_u64).unwrap_err();
    assert_eq!((on.calls(), error.code()), (0, "invalid_layout"));
    assert_eq!(allocator.try_new_slice(100, make).unwrap().len(), 100);
    allocator.account().set_limit(3);
    assert!(allocator.try_new_slice(4, |_| 0_u8).is_err());
    allocator.account().assert_settled();
}

#[test]
fn a_constructor_that_panics_leaks_nothing() {
    for n in 0..6 {
        let (base, account) = (CountingAllocator::new(), CountingAccount::new());
        let (counter, on) = (DropCounter::new(), PanicOn::nth(n));
        let allocator = Accounted::new(base.clone(), account.clone());
        let result = catch(|| {
            allocator.try_new_slice(5, |i| {
                on.tick();
                counter.probe(i as u64)
            })
        });
        assert_eq!(result.is_err(), n < 5);
        drop(result);
        assert_eq!(counter.made(), n.min(5));
        counter.assert_all_dropped();
        base.assert_clean();
        account.assert_settled();
    }
}

/// (Not where leaks are looked for: `allocator_api2`'s box leaks its block if a drop panics.)
#[cfg(not(any(miri, nebula_asan)))]
#[test]
fn values_in_boxes_are_dropped_once_even_if_a_drop_panics() {
    struct Bomb<'a>(
        #[expect(dead_code, reason = "dropped")] nebula_testing::DropProbe,
        &'a PanicOn,
    );
    impl Drop for Bomb<'_> {
        fn drop(&mut self) {
            self.1.tick();
        }
    }
    let (base, counter, on) = (CountingAllocator::new(), DropCounter::new(), PanicOn::nth(1));
    let slice = base.try_new_slice(3, |i| Bomb(counter.probe(i as u64), &on)).unwrap();
    assert!(catch(|| drop(slice)).is_err());
    counter.assert_all_dropped();
}

thread_local! {
    static UNITS: Cell<usize> = const { Cell::new(0) };
}

/// Has no size, but is counted.
struct Unit;

impl Unit {
    fn new() -> Self {
        UNITS.set(UNITS.get() + 1);
        Self
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        UNITS.set(UNITS.get() - 1);
    }
}

#[test]
fn values_without_size_take_no_memory_and_are_dropped() {
    let (base, account) = (CountingAllocator::new(), CountingAccount::with_limit(0));
    let allocator = Accounted::new(base.clone(), account.clone());
    let one = allocator.try_new(Unit::new()).unwrap();
    let many = allocator.try_new_slice(1000, |_| Unit::new()).unwrap();
    assert_eq!((UNITS.get(), many.len()), (1001, 1000));
    drop(one);
    assert_eq!(UNITS.get(), 1000);
    drop(many);
    assert_eq!(UNITS.get(), 0);
    let on = PanicOn::nth(3);
    let make = |_| {
        on.tick();
        Unit::new()
    };
    assert!(catch(|| allocator.try_new_slice(10, make).map(drop)).is_err());
    assert_eq!((UNITS.get(), base.allocations(), account.peak()), (0, 0, 0));
}

#[test]
fn boxes_keep_strong_alignments() {
    #[repr(align(256))]
    struct Wide(u8);
    let slice = Global.try_new_slice(3, |i| Wide(u8::try_from(i).unwrap())).unwrap();
    assert!(slice.iter().all(|wide| std::ptr::from_ref(wide).addr() % 256 == 0));
    assert_eq!(slice.iter().map(|wide| wide.0).sum::<u8>(), 3);
}

#[test]
fn what_is_charged_moves_to_another_account_or_stays() {
    let (first, second) = (CountingAccount::new(), CountingAccount::with_limit(60));
    let mut allocator = Accounted::new(CountingAllocator::new(), first.clone());
    let layout = Layout::from_size_align(50, 1).unwrap();
    let block = allocator.try_allocate(layout).unwrap().cast();
    assert!(allocator.try_move_to(CountingAccount::with_limit(49), 50).is_err());
    assert_eq!((first.balance(), second.balance()), (50, 0));
    allocator.try_move_to(second.clone(), 50).unwrap();
    assert_eq!((first.balance(), second.balance()), (0, 50));
    assert!(allocator.try_allocate(layout).is_err());
    // SAFETY: allocated above with this layout, and not used again.
    unsafe { allocator.deallocate(block, layout) };
    second.assert_settled();
}
