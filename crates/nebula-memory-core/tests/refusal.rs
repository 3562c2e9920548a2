//! The reason behind a collection's error.

use std::thread;

use allocator_api2::vec::Vec as AVec;
use nebula_memory_core::{Accounted, Global, MemoryError, Unlimited, last_refusal};
use nebula_testing::{CountingAccount, FailingAllocator};

#[test]
fn a_collection_that_cannot_grow_leaves_the_reason_behind_once() {
    let account = CountingAccount::with_limit(100);
    let mut list = AVec::<u8, _>::new_in(Accounted::new(Global, account));
    assert!(list.try_reserve_exact(60).is_ok());
    assert!(last_refusal().is_none());
    assert!(list.try_reserve_exact(101).is_err());
    let reason = last_refusal();
    assert!(
        matches!(reason, Some(MemoryError::CapacityExceeded { requested: 41, available: 40, .. })),
        "{reason:?}"
    );
    assert!(last_refusal().is_none());
}

#[test]
fn the_latest_reason_counts() {
    let account = CountingAccount::with_limit(10);
    let mut list = AVec::<u8, _>::new_in(Accounted::new(Global, account));
    assert!(list.try_reserve_exact(11).is_err());
    assert!(list.try_reserve_exact(12).is_err());
    assert!(matches!(last_refusal(), Some(MemoryError::CapacityExceeded { requested: 12, .. })));
}

#[test]
fn reasons_stay_on_their_thread() {
    let refuse = || {
        let account = CountingAccount::with_limit(0);
        let mut list = AVec::<u8, _>::new_in(Accounted::new(Global, account));
        assert!(list.try_reserve_exact(1).is_err());
    };
    thread::spawn(refuse).join().unwrap();
    assert!(last_refusal().is_none());
    refuse();
    assert!(thread::spawn(last_refusal).join().unwrap().is_none());
    assert!(last_refusal().is_some());
}

#[test]
fn an_allocator_that_knows_no_reason_leaves_none() {
    let failing = FailingAllocator::new(Global);
    failing.fail_from(0);
    let mut list = AVec::<u8, _>::new_in(Accounted::new(failing, Unlimited));
    assert!(list.try_reserve_exact(1).is_err());
    assert!(last_refusal().is_none());
}
