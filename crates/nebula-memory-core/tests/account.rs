//! Accounts behind pointers, and charges that are credited exactly once.

use std::{cell::Cell, sync::Arc};

use nebula_memory_core::{Account, Align, Charge, MemoryError, Unlimited};
use nebula_testing::{
    CountingAccount, PanicOn, RefusingAccount, catch,
    conformance::{account_conformance, shared_account_conformance},
};
use proptest::prelude::*;

const LIMIT: usize = 10_000;

fn limited() -> CountingAccount {
    CountingAccount::with_limit(LIMIT)
}

#[test]
fn unlimited_conforms() {
    account_conformance(|| Unlimited, None);
    shared_account_conformance(|| Unlimited, None);
    assert_eq!(size_of::<Charge<Unlimited>>(), size_of::<usize>());
}

#[test]
fn accounts_behind_pointers_conform() {
    let account = limited();
    account_conformance(|| &account, Some(LIMIT));
    account.assert_settled();
    account_conformance(|| Arc::new(limited()), Some(LIMIT));
    let shared = Arc::new(limited());
    account_conformance(|| Arc::clone(&shared), Some(LIMIT));
    shared_account_conformance(|| Arc::clone(&shared), Some(LIMIT));
    account_conformance(|| &*shared, Some(LIMIT));
    shared.assert_settled();
}

#[test]
fn optional_accounts_conform() {
    account_conformance(|| Some(limited()), Some(LIMIT));
    account_conformance(|| None::<CountingAccount>, None);
    account_conformance(|| Some(Arc::new(limited())), Some(LIMIT));
}

/// Keeps method resolution from looking through the pointers.
fn same<A: Account>(one: &A, other: &A) -> bool {
    one.same_account(other)
}

#[test]
fn an_account_knows_itself_through_every_pointer() {
    let (a, b) = (limited(), limited());
    assert!(a.same_account(&a.clone()) && !a.same_account(&b));
    assert!(same(&&a, &&a.clone()) && !same(&&a, &&b));
    let (x, y) = (Arc::new(a.clone()), Arc::new(a.clone()));
    assert!(same(&x, &y));
    assert!(same(&Some(a.clone()), &Some(a.clone())));
    assert!(!same(&Some(a.clone()), &None));
    assert!(None::<CountingAccount>.same_account(&None));
    assert!(Unlimited.same_account(&Unlimited));
}

#[test]
fn an_account_can_be_chosen_at_run_time() {
    let account = limited();
    let chosen: Arc<dyn Account + Send + Sync> = Arc::new(account.clone());
    let mut charge = Charge::try_new(Arc::clone(&chosen), 10).unwrap();
    charge.merge(Charge::try_new(chosen, LIMIT - 10).unwrap()).unwrap();
    assert_eq!((charge.bytes(), account.balance()), (LIMIT, LIMIT));
    assert!(charge.try_grow(1).is_err());
}

/// An account that says nothing about who it is.
#[derive(Default)]
struct Purse(Cell<usize>);

impl Account for Purse {
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        self.0.set(self.0.get() + bytes);
        Ok(())
    }
    fn credit(&self, bytes: usize) {
        self.0.set(self.0.get() - bytes);
    }
}

#[test]
fn an_account_that_does_not_say_which_books_it_keeps_shares_them_with_nobody() {
    let a = Purse::default();
    assert!(!a.same_account(&a) && !same(&&a, &&a));
    // Merging charges the one and credits the other then.
    let mut first = Charge::try_new(Purse::default(), 10).unwrap();
    let second = Charge::try_new(Purse::default(), 5).unwrap();
    first.merge(second).unwrap();
    assert_eq!((first.bytes(), first.account().0.get()), (15, 15));
}

#[test]
fn an_error_is_explained_once_and_by_the_account_that_refused() {
    #[derive(Debug)]
    struct Explaining(Cell<usize>);
    impl Account for Explaining {
        fn try_charge(&self, requested: usize) -> Result<(), MemoryError> {
            Err(MemoryError::CapacityExceeded { requested, available: 0, align: Align::ONE })
        }
        fn credit(&self, _bytes: usize) {}
        fn explain(&self, _error: MemoryError) -> MemoryError {
            self.0.set(self.0.get() + 1);
            MemoryError::Closed { what: "explained" }
        }
    }
    let account = Explaining(Cell::new(0));
    let error = Charge::try_new(&account, 1).unwrap_err();
    assert_eq!((error.code(), account.0.get()), ("closed", 1));
    let mut charge = Charge::adopt(Some(&account), 0);
    assert_eq!(charge.try_grow(1).unwrap_err().code(), "closed");
    assert_eq!(account.0.get(), 2);
    let refused = charge.merge(Charge::adopt(None, 1)).unwrap_err();
    assert_eq!((refused.error.code(), account.0.get()), ("closed", 3));
    assert_eq!(Charge::try_new(&&account, 1).unwrap_err().code(), "closed");
}

#[test]
fn charges_of_one_account_join_without_touching_it() {
    let account = limited();
    let mut whole = Charge::try_new(account.clone(), LIMIT).unwrap();
    let part = whole.split(LIMIT / 2).unwrap();
    let calls = account.charges() + account.credits();
    whole.merge(part).unwrap();
    assert_eq!((whole.bytes(), account.charges() + account.credits()), (LIMIT, calls));
    drop(whole);
    account.assert_settled();
}

#[test]
fn charges_of_two_accounts_move_from_one_to_the_other() {
    let (a, b) = (CountingAccount::with_limit(100), CountingAccount::with_limit(100));
    let mut first = Charge::try_new(a.clone(), 70).unwrap();
    first.merge(Charge::try_new(b.clone(), 30).unwrap()).unwrap();
    a.assert_balance(100);
    b.assert_settled();
    // Refused: both stay as they were.
    let refused = first.merge(Charge::try_new(b.clone(), 1).unwrap()).unwrap_err();
    assert_eq!((first.bytes(), refused.value.bytes()), (100, 1));
    a.assert_balance(100);
    b.assert_balance(1);
    drop((first, refused));
    a.assert_settled();
    b.assert_settled();
}

#[test]
fn joining_beyond_the_range_of_a_usize_hands_the_charge_back() {
    let mut whole = Charge::try_new(Unlimited, usize::MAX).unwrap();
    let refused = whole.merge(Charge::try_new(Unlimited, 1).unwrap()).unwrap_err();
    assert_eq!((whole.bytes(), refused.value.bytes()), (usize::MAX, 1));
}

#[test]
fn a_clone_that_panics_leaves_the_charge_as_it_was() {
    struct Fragile(CountingAccount, PanicOn);
    impl Clone for Fragile {
        fn clone(&self) -> Self {
            self.1.tick();
            Self(self.0.clone(), self.1.clone())
        }
    }
    impl Account for Fragile {
        fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
            self.0.try_charge(bytes)
        }
        fn credit(&self, bytes: usize) {
            self.0.credit(bytes);
        }
    }
    let account = limited();
    let mut charge = Charge::try_new(Fragile(account.clone(), PanicOn::nth(0)), 50).unwrap();
    assert!(catch(|| charge.split(20).map(drop)).is_err());
    assert_eq!(charge.bytes(), 50);
    drop(charge.split(20).unwrap());
    account.assert_balance(30);
    drop(charge);
    account.assert_settled();
}

#[test]
fn a_forgotten_charge_stays_charged_and_drops_nothing() {
    let account = Arc::new(limited());
    let (handle, bytes) = Charge::try_new(Arc::clone(&account), 40).unwrap().forget();
    assert_eq!(Arc::strong_count(&account), 2);
    account.assert_balance(40);
    drop(Charge::adopt(handle, bytes));
    assert_eq!(Arc::strong_count(&account), 1);
    account.assert_settled();
}

#[test]
fn an_empty_charge_credits_nothing() {
    let account = limited();
    drop(Charge::try_new(&account, 0).unwrap());
    drop(Charge::adopt(&account, 0));
    assert_eq!(account.credits(), 0);
}

/// What can be done to a few charges.
#[derive(Clone, Debug)]
enum Op {
    New(bool, usize),
    Grow(usize, usize),
    Shrink(usize, usize),
    Resize(usize, usize),
    Split(usize, usize),
    Merge(usize, usize),
    Forget(usize),
    Drop(usize),
}

fn any_op() -> impl Strategy<Value = Op> {
    let index = || any::<usize>();
    let bytes = || prop_oneof![0_usize..LIMIT, 0_usize..100, Just(usize::MAX - 5)];
    prop_oneof![
        (any::<bool>(), bytes()).prop_map(|(which, bytes)| Op::New(which, bytes)),
        (index(), bytes()).prop_map(|(at, bytes)| Op::Grow(at, bytes)),
        (index(), bytes()).prop_map(|(at, bytes)| Op::Shrink(at, bytes)),
        (index(), bytes()).prop_map(|(at, bytes)| Op::Resize(at, bytes)),
        (index(), bytes()).prop_map(|(at, bytes)| Op::Split(at, bytes)),
        (index(), index()).prop_map(|(at, from)| Op::Merge(at, from)),
        index().prop_map(Op::Forget),
        index().prop_map(Op::Drop),
    ]
}

proptest! {
    #[test]
    fn balances_are_the_sums_of_the_charges(
        ops in prop::collection::vec(any_op(), 1..60),
        refused in 0_usize..40,
    ) {
        // Which of the two, and the guard.
        let accounts: [RefusingAccount; 2] =
            [RefusingAccount::new(limited()), RefusingAccount::new(limited())];
        accounts[0].refuse_at(refused);
        let mut held: Vec<(usize, Charge<RefusingAccount>)> = Vec::new();
        for op in ops {
            let len = held.len();
            let at = |index: usize| index % len;
            match op {
                Op::New(which, bytes) => {
                    let which = usize::from(which);
                    if let Ok(charge) = Charge::try_new(accounts[which].clone(), bytes) {
                        prop_assert_eq!(charge.bytes(), bytes);
                        held.push((which, charge));
                    }
                }
                _ if len == 0 => {}
                Op::Grow(index, bytes) => {
                    let charge = &mut held[at(index)].1;
                    let before = charge.bytes();
                    let grown = charge.try_grow(bytes).is_ok();
                    prop_assert_eq!(charge.bytes(), before + if grown { bytes } else { 0 });
                }
                Op::Shrink(index, bytes) => {
                    let charge = &mut held[at(index)].1;
                    let before = charge.bytes();
                    prop_assert_eq!(charge.shrink(bytes), before.min(bytes));
                    prop_assert_eq!(charge.bytes(), before.saturating_sub(bytes));
                }
                Op::Resize(index, bytes) => {
                    let charge = &mut held[at(index)].1;
                    let before = charge.bytes();
                    let done = charge.try_resize(bytes).is_ok();
                    prop_assert!(done || bytes > before);
                    prop_assert_eq!(charge.bytes(), if done { bytes } else { before });
                }
                Op::Split(index, bytes) => {
                    let (which, charge) = &mut held[at(index)];
                    let (which, before) = (*which, charge.bytes());
                    match charge.split(bytes) {
                        Ok(part) => {
                            prop_assert_eq!(part.bytes() + charge.bytes(), before);
                            held.push((which, part));
                        }
                        Err(error) => {
                            prop_assert!(bytes > before);
                            prop_assert_eq!(error.code(), "capacity_exceeded");
                        }
                    }
                }
                Op::Merge(to, from) => {
                    let (other, part) = held.swap_remove(at(from));
                    if held.is_empty() {
                        held.push((other, part));
                        continue;
                    }
                    let to = to % held.len();
                    let sum = part.bytes() + held[to].1.bytes();
                    let same = other == held[to].0;
                    match held[to].1.merge(part) {
                        Ok(()) => prop_assert_eq!(held[to].1.bytes(), sum),
                        Err(refused) => {
                            prop_assert!(!same, "charges of one account were not joined");
                            held.push((other, refused.into_value()));
                        }
                    }
                }
                Op::Forget(index) => {
                    let (which, charge) = held.swap_remove(at(index));
                    let (account, bytes) = charge.forget();
                    held.push((which, Charge::adopt(account, bytes)));
                }
                Op::Drop(index) => drop(held.swap_remove(at(index))),
            }
            for (which, account) in accounts.iter().enumerate() {
                let sum = held.iter().filter(|(w, _)| *w == which).map(|(_, c)| c.bytes()).sum();
                account.get_ref().assert_balance(sum);
            }
        }
        drop(held);
        for account in accounts {
            account.get_ref().assert_settled();
        }
    }
}
