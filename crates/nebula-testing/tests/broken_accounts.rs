//! The account suite fails for accounts that break the contract, and says why.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
};

use nebula_memory_core::{Account, Align, MemoryError, Unlimited};
use nebula_testing::{
    CountingAccount, RefusingAccount, catch,
    conformance::{account_conformance, shared_account_conformance},
};

const LIMIT: usize = 10_000;

/// What is wrong with a [`Purse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    RefusedChargesStay,
    OneByteTooMany,
    OneByteTooFew,
    Wraps,
    SaturatesTheSum,
    RoundsCharges,
    LosesSmallCredits,
    RefusesNothingWhenFull,
    HidesTheReason,
    ChargesInParts,
}

struct Purse {
    wrong: Wrong,
    charged: AtomicUsize,
}

impl Purse {
    fn new(wrong: Wrong) -> Self {
        Self { wrong, charged: AtomicUsize::new(0) }
    }
}

fn refusal(requested: usize) -> MemoryError {
    MemoryError::CapacityExceeded { requested, available: 0, align: Align::ONE }
}

impl Account for Purse {
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        let charged = self.charged.load(SeqCst);
        let sum = match self.wrong {
            Wrong::Wraps => charged.wrapping_add(bytes),
            Wrong::RoundsCharges => charged.saturating_add(bytes.saturating_add(63) & !63),
            _ => charged.saturating_add(bytes),
        };
        let limit = match self.wrong {
            Wrong::OneByteTooMany => LIMIT + 1,
            Wrong::OneByteTooFew => LIMIT - 1,
            _ => LIMIT,
        };
        let empty_handed = self.wrong == Wrong::RefusesNothingWhenFull && charged == limit;
        if sum <= limit && !empty_handed {
            self.charged.store(sum, SeqCst);
            return Ok(());
        }
        match self.wrong {
            Wrong::RefusedChargesStay => self.charged.store(sum.min(limit), SeqCst),
            Wrong::SaturatesTheSum if bytes > usize::MAX / 2 => {
                self.charged.store(usize::MAX, SeqCst);
            }
            // As much as there is room for.
            Wrong::ChargesInParts => {
                self.charged.store(limit, SeqCst);
                return Ok(());
            }
            _ => {}
        }
        Err(refusal(bytes))
    }

    fn credit(&self, bytes: usize) {
        if self.wrong == Wrong::LosesSmallCredits && bytes < 8 {
            return;
        }
        let bytes = if self.wrong == Wrong::RoundsCharges { (bytes + 63) & !63 } else { bytes };
        self.charged.store(self.charged.load(SeqCst).saturating_sub(bytes), SeqCst);
    }

    fn explain(&self, error: MemoryError) -> MemoryError {
        match self.wrong {
            Wrong::HidesTheReason => MemoryError::Closed { what: "purse" },
            _ => error,
        }
    }
}

#[test]
fn correct_accounts_pass() {
    account_conformance(|| Purse::new(Wrong::Nothing), Some(LIMIT));
    account_conformance(|| Unlimited, None);
    account_conformance(|| CountingAccount::with_limit(LIMIT), Some(LIMIT));
    account_conformance(|| CountingAccount::with_limit(usize::MAX), None);
    account_conformance(|| RefusingAccount::new(Unlimited), None);
    shared_account_conformance(|| CountingAccount::with_limit(LIMIT), Some(LIMIT));
    shared_account_conformance(|| Unlimited, None);
}

#[test]
fn broken_accounts_fail() {
    for (wrong, why) in [
        (Wrong::RefusedChargesStay, "were refused"),
        (Wrong::OneByteTooMany, "were granted"),
        (Wrong::OneByteTooFew, "refused"),
        (Wrong::Wraps, "were granted"),
        (Wrong::SaturatesTheSum, "refused"),
        (Wrong::RoundsCharges, "refused"),
        (Wrong::LosesSmallCredits, "refused"),
        (Wrong::RefusesNothingWhenFull, "refused"),
        (Wrong::HidesTheReason, "closed"),
        (Wrong::ChargesInParts, "were granted"),
    ] {
        let result = catch(|| account_conformance(|| Purse::new(wrong), Some(LIMIT)));
        let message = result.expect_err(&format!("the suite passed with {wrong:?}"));
        assert!(message.contains(why), "{wrong:?} failed with `{message}`, expected `{why}`");
    }
}

#[test]
fn an_account_without_a_limit_is_held_to_the_limit_that_was_named() {
    assert!(catch(|| account_conformance(|| Unlimited, Some(LIMIT))).is_err());
    let limited = || CountingAccount::with_limit(LIMIT);
    assert!(catch(|| account_conformance(limited, None)).is_err());
}

#[test]
fn an_account_that_refuses_at_random_fails() {
    for n in 0..40 {
        let make = || {
            let account = RefusingAccount::new(CountingAccount::with_limit(LIMIT));
            account.refuse_at(n);
            account
        };
        let result = catch(|| account_conformance(make, Some(LIMIT)));
        assert!(result.is_err(), "a refusal of charge {n} went unnoticed");
    }
}

/// Checks, then acts.
struct Racy(AtomicUsize);

impl Account for Racy {
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        if self.0.load(SeqCst).saturating_add(bytes) > LIMIT {
            return Err(refusal(bytes));
        }
        thread::yield_now();
        self.0.fetch_add(bytes, SeqCst);
        Ok(())
    }

    fn credit(&self, bytes: usize) {
        self.0.fetch_sub(bytes, SeqCst);
    }
}

#[test]
fn the_shared_suite_notices_a_race() {
    account_conformance(|| Racy(AtomicUsize::new(0)), Some(LIMIT));
    let suite = || shared_account_conformance(|| Racy(AtomicUsize::new(0)), Some(LIMIT));
    // The race is not certain to happen in one run; in all of fifty it is.
    assert!((0..50).any(|_| catch(suite).is_err()), "the race was never noticed");
}
