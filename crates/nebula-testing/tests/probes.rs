//! The probes notice what they are for.

use std::{
    alloc::Layout,
    mem::ManuallyDrop,
    process::Command,
    ptr::NonNull,
    sync::{Barrier, mpsc},
    time::Duration,
};

use allocator_api2::{alloc::Allocator, vec::Vec as AVec};
use nebula_memory_core::{Account, Allocator as _, Global};
use nebula_testing::{
    ClonePanics, CountingAccount, CountingAllocator, DropCounter, DropPanics, FailingAllocator,
    OverReturning, PanicOn, RefusingAccount, Rng, catch, watchdog,
};

/// (An `u64` is aligned to four bytes on some platforms.)
const WORD: Layout = match Layout::from_size_align(8, 8) {
    Ok(layout) => layout,
    Err(_) => panic!("eight is a power of two"),
};

fn free(allocator: &impl Allocator, ptr: NonNull<u8>, layout: Layout) {
    // SAFETY: the allocators of these tests check what is freed and leave wrong blocks alone.
    unsafe { allocator.deallocate(ptr, layout) }
}

#[track_caller]
fn message<R>(result: Result<R, String>) -> String {
    match result {
        Ok(_) => panic!("nothing was noticed"),
        Err(message) => message,
    }
}

#[test]
fn counting_allocator_keeps_exact_books() {
    let base = CountingAllocator::new();
    let other = base.clone();
    let mut bytes: AVec<u8, _> = AVec::with_capacity_in(10, base.clone());
    bytes.reserve_exact(100);
    assert_eq!((other.live_bytes(), other.live_blocks()), (100, 1));
    assert_eq!((other.allocations(), other.deallocations(), other.peak()), (2, 1, 110));
    assert!(message(catch(|| other.assert_clean())).contains("100 bytes were never freed"));
    drop(bytes);
    base.assert_clean();
}

#[test]
fn counting_allocator_notices_a_double_free() {
    let base = CountingAllocator::new();
    let block = base.allocate(WORD).unwrap().cast();
    free(&base, block, WORD);
    assert!(message(catch(|| free(&base, block, WORD))).contains("is not live"));
    assert_eq!((base.live_blocks(), base.faults().len()), (0, 1));
    assert!(message(catch(|| base.assert_clean())).contains("misused"));
}

#[test]
fn counting_allocator_notices_a_wrong_layout() {
    let base = CountingAllocator::new();
    let block = base.allocate(WORD).unwrap().cast();
    for wrong in [(7, 8), (9, 8), (8, 4), (16, 16)] {
        let wrong = Layout::from_size_align(wrong.0, wrong.1).unwrap();
        assert!(message(catch(|| free(&base, block, wrong))).contains("is freed as"));
    }
    assert_eq!(base.live_bytes(), 8);
    free(&base, block, WORD);
    assert_eq!(base.live_bytes(), 0);
}

#[test]
fn counting_allocator_ignores_empty_blocks() {
    let base = CountingAllocator::new();
    let empty = Layout::from_size_align(0, 16).unwrap();
    let block = base.allocate(empty).unwrap();
    assert_eq!((block.len(), base.live_blocks()), (0, 0));
    free(&base, block.cast(), empty);
    free(&base, block.cast(), empty);
    base.assert_clean();
}

#[test]
fn failing_allocator_fails_at_the_chosen_requests() {
    let failing = FailingAllocator::new(CountingAllocator::new());
    let mut blocks = Vec::new();
    let mut got = |block: Option<NonNull<[u8]>>| {
        blocks.extend(block);
        block.is_some()
    };
    failing.fail_at(1);
    let results: Vec<bool> = (0..3).map(|_| got(failing.allocate(WORD).ok())).collect();
    assert_eq!(results, [true, false, true]);
    assert_eq!((failing.calls(), failing.tripped()), (3, true));
    failing.fail_from(1);
    let results: Vec<bool> = (0..3).map(|_| got(failing.try_allocate(WORD).ok())).collect();
    assert_eq!(results, [true, false, false]);
    failing.fail_at(10);
    assert!(got(failing.allocate_zeroed(WORD).ok()));
    assert!(!failing.tripped());
    failing.fail_from(0);
    failing.fail_never();
    assert!(got(failing.allocate(WORD).ok()));
    assert_eq!(failing.get_ref().live_blocks(), 5);
    for block in blocks {
        free(&failing, block.cast(), WORD);
    }
    failing.get_ref().assert_clean();
}

#[test]
fn failing_allocator_counts_growth_but_not_shrinking() {
    let failing = FailingAllocator::new(Global);
    let mut bytes = AVec::new_in(&failing);
    bytes.extend_from_slice(&[1_u8; 10]);
    failing.fail_from(0);
    assert!(bytes.try_reserve(100).is_err());
    bytes.truncate(2);
    bytes.shrink_to_fit();
    assert_eq!((failing.calls(), bytes.capacity()), (1, 2));
}

#[test]
fn failing_allocator_refuses_large_requests() {
    let failing = FailingAllocator::new(Global);
    failing.refuse_above(Some(7));
    assert!(failing.allocate(WORD).is_err());
    assert!(!failing.tripped());
    failing.refuse_above(None);
    free(&failing, failing.allocate(WORD).unwrap().cast(), WORD);
}

#[test]
fn over_returning_allocator_returns_more_and_takes_any_fitting_size() {
    let base = OverReturning::new();
    for _ in 0..8 {
        let block = base.allocate(WORD).unwrap();
        assert!(block.len() > WORD.size());
        let whole = Layout::from_size_align(block.len(), 8).unwrap();
        let beyond = Layout::from_size_align(block.len() + 1, 8).unwrap();
        assert_eq!(base.live_bytes(), block.len());
        free(&base, block.cast(), whole);
        let block = base.allocate(WORD).unwrap();
        free(&base, block.cast(), WORD);
        assert!(message(catch(|| free(&base, block.cast(), WORD))).contains("not live"));
        let _ = beyond;
    }
    assert_eq!(base.live_blocks(), 0);
    let block = base.allocate(WORD).unwrap();
    let beyond = Layout::from_size_align(block.len() + 1, 8).unwrap();
    assert!(message(catch(|| free(&base, block.cast(), beyond))).contains("is freed as"));
    free(&base, block.cast(), WORD);
    assert!(message(catch(|| base.assert_clean())).contains("misused"));
}

#[test]
fn counting_account_keeps_exact_books() {
    let account = CountingAccount::with_limit(100);
    account.try_charge(70).unwrap();
    assert!(account.try_charge(31).is_err());
    assert!(account.try_charge(usize::MAX).is_err());
    account.clone().credit(20);
    account.try_charge(0).unwrap();
    account.assert_balance(50);
    assert_eq!((account.charges(), account.refusals(), account.credits()), (2, 2, 1));
    assert_eq!(account.peak(), 70);
    account.set_limit(10);
    assert!(account.try_charge(1).is_err());
    assert!(message(catch(|| account.assert_settled())).contains("50 bytes are charged"));
    account.credit(50);
    account.assert_settled();
    assert!(account.same_account(&account.clone()));
    assert!(!account.same_account(&CountingAccount::new()));
}

#[test]
fn counting_account_notices_a_credit_too_many() {
    let account = CountingAccount::new();
    account.try_charge(5).unwrap();
    assert!(message(catch(|| account.credit(8))).contains("only 5 are charged"));
    assert_eq!((account.balance(), account.overdrawn()), (0, 3));
    assert!(message(catch(|| account.assert_settled())).contains("nobody had charged"));
}

#[test]
fn refusing_account_refuses_the_chosen_charges() {
    let account: RefusingAccount = RefusingAccount::default();
    account.refuse_from(2);
    let results: Vec<bool> = (0..4).map(|_| account.try_charge(1).is_ok()).collect();
    assert_eq!(results, [true, true, false, false]);
    assert_eq!((account.calls(), account.tripped()), (4, true));
    account.refuse_never();
    account.try_charge(1).unwrap();
    assert!(!account.tripped());
    account.get_ref().assert_balance(3);
    account.credit(3);
    assert!(account.same_account(&account.clone()));
}

#[test]
fn drop_counter_knows_who_lives() {
    let counter = DropCounter::new();
    let first = counter.probe(1);
    let second = first.clone();
    assert!(first == second && first >= second);
    counter.assert_live(2);
    assert!(message(catch(|| counter.assert_all_dropped())).contains("never dropped"));
    assert!(message(catch(|| counter.assert_live(3))).contains("2 probes live"));
    drop((second, first));
    counter.assert_all_dropped();
    assert_eq!((counter.made(), counter.drops(), counter.dropped()), (2, 2, vec![1, 1]));
}

#[test]
fn drop_counter_notices_a_double_drop() {
    let counter = DropCounter::new();
    let probe = ManuallyDrop::new(counter.probe(7));
    // SAFETY: valid for reads; a probe owns nothing, so that a copy of it is harmless.
    let copy = unsafe { std::ptr::read(&raw const *probe) };
    drop(ManuallyDrop::into_inner(probe));
    assert!(message(catch(|| drop(copy))).contains("probe 7 was dropped twice"));
    assert!(message(catch(|| counter.assert_all_dropped())).contains("dropped twice"));
}

#[test]
fn clones_and_drops_panic_when_they_are_told_to() {
    let counter = DropCounter::new();
    let on = PanicOn::never();
    let values: Vec<_> =
        (0..3).map(|i| ClonePanics { value: counter.probe(i), on: on.clone() }).collect();
    on.arm(1);
    assert_eq!(message(catch(|| values.clone())), "injected");
    assert!(on.fired());
    counter.assert_live(3);
    on.arm(3);
    drop(values.clone());
    assert!(!on.fired());

    let values: Vec<_> = values
        .into_iter()
        .map(|each| DropPanics { value: each.value.clone(), on: on.clone() })
        .collect();
    on.arm(1);
    assert_eq!(message(catch(|| drop(values))), "injected");
    counter.assert_all_dropped();
}

#[test]
fn random_numbers_stay_in_range_and_repeat() {
    let mut rng = Rng::new(42);
    for _ in 0..1000 {
        assert!(rng.below(10) < 10);
        assert!((5..=6).contains(&rng.between(5, 6)));
    }
    assert_eq!((rng.below(0), rng.below(1), rng.between(3, 3)), (0, 0, 3));
    assert!((0..1000).filter(|_| rng.one_in(4)).count().abs_diff(250) < 100);
}

#[test]
fn watchdog_passes_results_and_panics_on() {
    let barrier = Barrier::new(1);
    let limit = Duration::from_secs(60);
    assert!(watchdog(limit, || barrier.wait().is_leader()));
    assert_eq!(message(catch(|| watchdog(limit, || panic!("from inside")))), "from inside");
}

/// Runs this test again as a process of its own, in which it hangs.
#[test]
fn watchdog_aborts_what_does_not_end() {
    const NAME: &str = "watchdog_aborts_what_does_not_end";
    if std::env::var_os("NEBULA_TEST_HANGS").is_some() {
        watchdog(Duration::from_millis(50), || {
            let (_held, never) = mpsc::channel::<()>();
            never.recv()
        })
        .unwrap();
        return;
    }
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args(["--exact", NAME, "--test-threads", "1"])
        .env("NEBULA_TEST_HANGS", "1")
        .env("NEBULA_WATCHDOG_FACTOR", "2")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("is not over after 100ms"), "{errors}");
    assert!(errors.contains(NAME), "{errors}");
}
