//! What every [`Account`] has to keep.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
};

use allocator_api2::vec::Vec as AVec;
use nebula_memory_core::{Account, Accounted, Charge, Global, TypedAllocator};

use crate::{CountingAllocator, FailingAllocator, Rng};

/// What a suite charges at most to an account without a limit.
const PLENTY: usize = 1 << 20;

/// Runs the whole suite; `make` makes a fresh account, with nothing charged, for every case.
///
/// `limit` is what the account allows, to the byte: that much must be chargeable, and one byte
/// more must not. `None` is for an account that never refuses what it can count.
///
/// ```
/// use nebula_testing::{CountingAccount, conformance::account_conformance};
/// account_conformance(CountingAccount::new, None);
/// account_conformance(|| CountingAccount::with_limit(10_000), Some(10_000));
/// ```
///
/// # Panics
/// If the account breaks the contract, or if `limit` is below 4 KiB, with which there is not
/// enough to do.
pub fn account_conformance<A: Account>(make: impl Fn() -> A, limit: Option<usize>) {
    assert!(limit.is_none_or(|limit| limit >= 4096), "the limit is too small to test");
    let cases: [fn(&A, Option<usize>); 11] = [
        charge_all_at_once,
        charge_in_pieces,
        charges_of_nothing,
        refused_charges_leave_no_trace,
        enormous_charges,
        charge_guards_credit,
        charge_guards_split_and_merge,
        charge_guards_change_hands,
        charge_guards_keep_their_bytes_when_refused,
        accounted_allocators,
        accounted_allocators_over_a_failing_base,
    ];
    for case in cases {
        let account = make();
        case(&account, limit);
        assert_untouched(&account, limit);
    }
    for seed in 0..if cfg!(miri) { 2 } else { 12 } {
        let account = make();
        random_charges(&account, limit, seed, 300);
        assert_untouched(&account, limit);
    }
}

/// Charges one account from four threads at once: what is charged never exceeds the limit, and at
/// the end nothing is missing. To be run besides [`account_conformance`] for accounts that are
/// shared by reference.
///
/// ```
/// use nebula_testing::{CountingAccount, conformance::shared_account_conformance};
/// shared_account_conformance(|| CountingAccount::with_limit(10_000), Some(10_000));
/// ```
///
/// # Panics
/// If the account breaks the contract, or if `limit` is below 4 KiB.
pub fn shared_account_conformance<A: Account + Sync>(make: impl Fn() -> A, limit: Option<usize>) {
    const THREADS: u64 = 4;
    assert!(limit.is_none_or(|limit| limit >= 4096), "the limit is too small to test");
    let most = limit.unwrap_or(PLENTY);
    for round in 0..8 {
        let account = make();
        // Counted after a charge and before its credit: never more than is really charged.
        let charged = AtomicUsize::new(0);
        let worker = |seed: u64| {
            let mut rng = Rng::new(seed);
            let mut held = Vec::new();
            for _ in 0..400 {
                let bytes = rng.below(most / 3);
                if rng.one_in(2) && account.try_charge(bytes).is_ok() {
                    let now = charged.fetch_add(bytes, SeqCst) + bytes;
                    assert!(limit.is_none_or(|l| now <= l), "{now} bytes charged, limit {most}");
                    held.push(bytes);
                } else if let Some(bytes) = held.pop() {
                    charged.fetch_sub(bytes, SeqCst);
                    account.credit(bytes);
                }
            }
            for bytes in held {
                charged.fetch_sub(bytes, SeqCst);
                account.credit(bytes);
            }
        };
        thread::scope(|scope| {
            for id in 0..THREADS {
                let worker = &worker;
                scope.spawn(move || worker(round * 100 + id));
            }
        });
        assert_untouched(&account, limit);
    }
}

/// Checks that all of the limit, and no more, can be charged: that nothing is charged now.
#[track_caller]
fn assert_untouched<A: Account>(account: &A, limit: Option<usize>) {
    assert_left(account, limit, 0);
    let all = limit.unwrap_or(PLENTY);
    // Whole, too, and not only in the pieces that were credited.
    assert!(account.try_charge(all).is_ok(), "{all} bytes cannot be charged, though none is");
    account.credit(all);
}

/// Checks that exactly `limit - charged` can still be charged.
#[track_caller]
fn assert_left<A: Account>(account: &A, limit: Option<usize>, charged: usize) {
    let Some(limit) = limit else { return };
    let left = limit - charged;
    assert!(
        account.try_charge(left + 1).is_err(),
        "with {charged} of {limit} bytes charged, {} more were granted",
        left + 1
    );
    assert!(
        account.try_charge(left).is_ok(),
        "with {charged} of {limit} bytes charged, the last {left} were refused"
    );
    assert!(account.try_charge(1).is_err(), "a byte beyond the limit of {limit} was granted");
    account.credit(left);
}

fn charge<A: Account>(account: &A, bytes: usize) {
    let result = account.try_charge(bytes);
    assert!(result.is_ok(), "{bytes} bytes were refused, though there is room: {result:?}");
}

fn charge_all_at_once<A: Account>(account: &A, limit: Option<usize>) {
    let all = limit.unwrap_or(PLENTY);
    for _ in 0..3 {
        charge(account, all);
        assert_left(account, limit, all);
        account.credit(all);
        assert_left(account, limit, 0);
    }
}

/// What was charged in one piece is credited in several, and the other way round.
fn charge_in_pieces<A: Account>(account: &A, limit: Option<usize>) {
    let all = limit.unwrap_or(PLENTY);
    let pieces = [all / 2, all / 3, 1, all - all / 2 - all / 3 - 1];
    charge(account, all);
    let mut charged = all;
    for piece in pieces {
        account.credit(piece);
        charged -= piece;
        assert_left(account, limit, charged);
    }
    for piece in pieces {
        charge(account, piece);
        charged += piece;
        assert_left(account, limit, charged);
    }
    account.credit(all);
}

fn charges_of_nothing<A: Account>(account: &A, limit: Option<usize>) {
    charge(account, 0);
    account.credit(0);
    assert_left(account, limit, 0);
    // A full account still grants nothing to who asks for nothing.
    let all = limit.unwrap_or(PLENTY);
    charge(account, all);
    charge(account, 0);
    account.credit(0);
    account.credit(all);
}

fn refused_charges_leave_no_trace<A: Account>(account: &A, limit: Option<usize>) {
    let Some(limit) = limit else { return };
    charge(account, limit / 2);
    for beyond in [1, 2, 1000, limit, usize::MAX / 2] {
        let wanted = (limit - limit / 2).saturating_add(beyond);
        let refused = account.try_charge(wanted);
        let Err(error) = refused else {
            panic!("{wanted} bytes were granted beyond the limit of {limit}");
        };
        // A refusal can be explained, and stays a refusal.
        assert_eq!(account.explain(error.clone()).code(), error.code());
        assert_left(account, Some(limit), limit / 2);
    }
    account.credit(limit / 2);
}

/// Sums beyond the range of `usize` are refused, not wrapped.
fn enormous_charges<A: Account>(account: &A, limit: Option<usize>) {
    charge(account, 100);
    for bytes in [usize::MAX - 5, usize::MAX, usize::MAX - 100, usize::MAX / 2, isize::MAX as usize]
    {
        match account.try_charge(bytes) {
            Ok(()) => {
                assert!(limit.is_none(), "{bytes} bytes were granted, the limit is {limit:?}");
                account.credit(bytes);
            }
            Err(_) => assert_left(account, limit, 100),
        }
    }
    account.credit(100);
}

fn charge_guards_credit<A: Account>(account: &A, limit: Option<usize>) {
    let all = limit.unwrap_or(PLENTY);
    let mut guard = Charge::try_new(account, all / 4).expect("room for a quarter");
    assert_left(account, limit, all / 4);
    guard.try_grow(all / 4).expect("room for another");
    assert_eq!(guard.bytes(), all / 4 * 2);
    assert_left(account, limit, guard.bytes());
    assert_eq!(guard.shrink(10), 10);
    assert_left(account, limit, guard.bytes());
    guard.try_resize(all).expect("room for all");
    assert_left(account, limit, all);
    guard.try_resize(1).expect("shrinking is not refused");
    assert_left(account, limit, 1);
    assert_eq!(guard.shrink(usize::MAX), 1);
    assert_left(account, limit, 0);
    guard.try_grow(5).expect("room for five bytes");
    drop(guard);
    assert_left(account, limit, 0);
}

fn charge_guards_split_and_merge<A: Account>(account: &A, limit: Option<usize>) {
    let all = limit.unwrap_or(PLENTY);
    // A full account: joining two charges of it must not need room for a third.
    let mut whole = Charge::try_new(account, all).expect("room for all");
    let mut parts = Vec::new();
    for bytes in [1, 100, 0, all / 2] {
        parts.push(whole.split(bytes).expect("the charge is large enough"));
        assert_left(account, limit, all);
    }
    assert!(whole.split(all).is_err(), "more was split off than was there");
    let middle = parts.swap_remove(1);
    drop(middle);
    assert_left(account, limit, all - 100);
    whole.try_grow(100).expect("room for what was credited");
    for part in parts {
        if account.same_account(account) {
            assert!(whole.merge(part).is_ok(), "two charges of one account cannot be joined");
        } else {
            // An account that cannot tell: then joining takes room, or hands the part back.
            match whole.merge(part) {
                Ok(()) => {}
                Err(refused) => drop(refused),
            }
        }
    }
    assert_left(account, limit, whole.bytes());
    drop(whole);
}

fn charge_guards_change_hands<A: Account>(account: &A, limit: Option<usize>) {
    let (handle, bytes) = Charge::try_new(account, 70).expect("room for 70 bytes").forget();
    assert_eq!(bytes, 70);
    assert_left(account, limit, 70);
    let mut first = Charge::adopt(handle, 30);
    let second = Charge::adopt(handle, 40);
    assert_left(account, limit, 70);
    drop(second);
    assert_left(account, limit, 30);
    first.try_grow(5).expect("room for five bytes");
    drop(first);
    assert_left(account, limit, 0);
}

fn charge_guards_keep_their_bytes_when_refused<A: Account>(account: &A, limit: Option<usize>) {
    let mut guard = Charge::try_new(account, 1000).expect("room for 1000 bytes");
    assert!(guard.try_grow(usize::MAX).is_err(), "a sum beyond `usize` was granted");
    assert!(guard.try_grow(usize::MAX - 999).is_err(), "a sum beyond `usize` was granted");
    assert_eq!(guard.bytes(), 1000);
    if let Some(limit) = limit {
        assert!(guard.try_grow(limit - 999).is_err(), "a byte beyond the limit was granted");
        assert!(guard.try_resize(limit + 1).is_err(), "a byte beyond the limit was granted");
        assert!(Charge::try_new(account, limit - 999).is_err(), "a byte too many was granted");
        assert_eq!(guard.bytes(), 1000);
        assert_left(account, Some(limit), 1000);
    }
    drop(guard);
}

fn accounted_allocators<A: Account>(account: &A, limit: Option<usize>) {
    let allocator = Accounted::new(Global, account);
    let number = allocator.try_new(1_u64).expect("room for a number");
    assert_left(account, limit, 8);
    let mut bytes = AVec::with_capacity_in(100, allocator);
    assert_left(account, limit, 108);
    bytes.extend_from_slice(&[7_u8; 100]);
    bytes.reserve_exact(200);
    assert_left(account, limit, 8 + bytes.capacity());
    bytes.shrink_to_fit();
    assert_left(account, limit, 108);
    if let Some(limit) = limit {
        assert!(bytes.try_reserve_exact(limit).is_err(), "more was reserved than the limit allows");
        let room = limit - 108;
        assert!(allocator.try_new_slice(room + 1, |_| 0_u8).is_err(), "a byte too many");
        drop(allocator.try_new_slice(room, |_| 0_u8).expect("exactly what is left"));
        assert_left(account, Some(limit), 108);
    }
    drop(number);
    assert_left(account, limit, 100);
    assert_eq!(bytes.as_slice(), [7; 100]);
    drop(bytes);
}

fn accounted_allocators_over_a_failing_base<A: Account>(account: &A, limit: Option<usize>) {
    let base = CountingAllocator::new();
    let failing = FailingAllocator::new(base.clone());
    let allocator = Accounted::new(failing.clone(), account);
    let mut rounds = 0;
    loop {
        failing.fail_at(rounds);
        let first = allocator.try_new([1_u8; 40]);
        let second = allocator.try_new_slice(10, |i| i as u64);
        let mut third = AVec::<u32, _>::new_in(&allocator);
        let mut fourth = AVec::<u16, _>::new_in(&allocator);
        for _ in 0..20 {
            if third.try_reserve(1).is_ok() {
                third.push(1);
            }
        }
        let _ = fourth.try_reserve_exact(5);
        let expected = first.as_ref().map_or(0, |_| 40)
            + second.as_ref().map_or(0, |_| 80)
            + third.capacity() * 4
            + fourth.capacity() * 2;
        assert_eq!(base.live_bytes(), expected);
        assert_left(account, limit, expected);
        drop((first, second, third, fourth));
        base.assert_clean();
        assert_left(account, limit, 0);
        if !failing.tripped() {
            break;
        }
        rounds += 1;
    }
    assert!(rounds >= 5, "only {rounds} requests reached the base");
}

fn random_charges<A: Account>(account: &A, limit: Option<usize>, seed: u64, operations: usize) {
    let mut rng = Rng::new(seed);
    let most = limit.unwrap_or(PLENTY);
    let mut held: Vec<usize> = Vec::new();
    let mut total = 0;
    for _ in 0..operations {
        if rng.one_in(2) {
            let bytes = if rng.one_in(4) { rng.below(most) } else { rng.below(most / 20) };
            let fits = limit.is_none_or(|limit| total + bytes <= limit);
            let granted = account.try_charge(bytes).is_ok();
            assert_eq!(granted, fits, "{bytes} bytes on top of {total}, limit {limit:?}");
            if granted {
                held.push(bytes);
                total += bytes;
            }
        } else if !held.is_empty() {
            let index = rng.below(held.len());
            let bytes = held.swap_remove(index);
            let now = rng.between(0, bytes);
            account.credit(now);
            total -= now;
            if now < bytes {
                held.push(bytes - now);
            }
        }
        if rng.one_in(16) {
            assert_left(account, limit, total);
        }
    }
    for bytes in held {
        account.credit(bytes);
    }
}
