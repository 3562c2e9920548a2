//! The circuit breaker: a level that fails or is slow again and again is left alone for a while.

use std::time::Duration;

use nebula_memory_core::{
    ConfigFaults,
    sync::{
        Mutex,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

/// When a level is bypassed, and for how long.
///
/// ```
/// use std::time::Duration;
/// use nebula_cache::Breaker;
///
/// let breaker = Breaker::default().failures(2).cool_down(Duration::from_secs(1));
/// assert_eq!(breaker.slow, Duration::from_secs(1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Breaker {
    /// After so many calls in a row that failed or were slow, the level is bypassed; above zero. 5 by
    /// default.
    pub failures: u32,
    /// A call that takes so long counts as failed, although its result is used; above zero. One
    /// second by default.
    pub slow: Duration,
    /// How long it is bypassed before one call is let through as a probe; above zero. 5 seconds by
    /// default.
    pub cool_down: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        let (slow, cool_down) = (Duration::from_secs(1), Duration::from_secs(5));
        Self { failures: 5, slow, cool_down }
    }
}

impl Breaker {
    /// Sets [`failures`](field@Self::failures).
    #[must_use]
    pub const fn failures(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// Sets [`slow`](field@Self::slow).
    #[must_use]
    pub const fn slow(mut self, slow: Duration) -> Self {
        self.slow = slow;
        self
    }

    /// Sets [`cool_down`](field@Self::cool_down).
    #[must_use]
    pub const fn cool_down(mut self, cool_down: Duration) -> Self {
        self.cool_down = cool_down;
        self
    }

    pub(crate) fn check(&self, faults: &mut ConfigFaults) {
        faults.check(self.failures > 0, "breaker.failures", 0, "must be above zero");
        for (time, path) in [(self.slow, "breaker.slow"), (self.cool_down, "breaker.cool_down")] {
            faults.check(!time.is_zero(), path, "0s", "must be above zero");
        }
    }
}

/// How a level's breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum BreakerState {
    /// The level is used.
    #[default]
    Closed,
    /// The level is bypassed.
    Open,
    /// The level is bypassed, but for one call that is under way and decides how it goes on.
    HalfOpen,
}

const CLOSED: u8 = 0;

/// The breaker of one level.
#[derive(Debug)]
pub(crate) struct Circuit {
    rules: Breaker,
    /// What `inside` says, for a look without the lock.
    state: AtomicU8,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    state: BreakerState,
    /// Calls in a row that failed.
    failures: u32,
    /// On the clock: when a probe may be made.
    until: Duration,
    opened: u64,
}

/// Leave to call the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    Call,
    /// How this call goes decides.
    Probe,
}

impl Circuit {
    pub(crate) fn new(rules: Breaker) -> Self {
        Self { rules, state: AtomicU8::new(CLOSED), inside: Mutex::default() }
    }

    /// Leave to call the level at `now`, if there is any.
    #[inline]
    pub(crate) fn admit(&self, now: Duration) -> Option<Leave> {
        if self.state.load(Relaxed) == CLOSED { Some(Leave::Call) } else { self.probe(now) }
    }

    #[cold]
    fn probe(&self, now: Duration) -> Option<Leave> {
        let mut inside = self.inside.lock();
        match inside.state {
            BreakerState::Closed => Some(Leave::Call),
            BreakerState::Open if inside.until <= now => {
                self.set(&mut inside, BreakerState::HalfOpen);
                Some(Leave::Probe)
            }
            BreakerState::Open | BreakerState::HalfOpen => None,
        }
    }

    fn set(&self, inside: &mut Inside, state: BreakerState) {
        inside.state = state;
        self.state.store(state as u8, Relaxed);
    }

    /// Notes how a call went that took `took` and ended at `now`; whether it counts as slow.
    pub(crate) fn note(&self, leave: Leave, well: bool, took: Duration, now: Duration) -> bool {
        let slow = took >= self.rules.slow;
        let mut inside = self.inside.lock();
        if well && !slow {
            match (leave, inside.state) {
                (Leave::Probe, _) => {
                    self.set(&mut inside, BreakerState::Closed);
                    inside.failures = 0;
                }
                (Leave::Call, BreakerState::Closed) => inside.failures = 0,
                // It began before the breaker opened, and says nothing about now.
                (Leave::Call, _) => {}
            }
            return slow;
        }
        inside.failures = inside.failures.saturating_add(1);
        let opens = match inside.state {
            BreakerState::Closed => inside.failures >= self.rules.failures,
            BreakerState::HalfOpen => leave == Leave::Probe,
            BreakerState::Open => false,
        };
        if opens {
            inside.until = now.saturating_add(self.rules.cool_down);
            inside.opened += 1;
            self.set(&mut inside, BreakerState::Open);
        }
        slow
    }

    /// Notes that nobody waited for a call to end, after `took`; whether it counts as slow. One that
    /// was not says nothing; if it was the probe, another is let through.
    pub(crate) fn abandon(&self, leave: Leave, took: Duration, now: Duration) -> bool {
        if took >= self.rules.slow {
            return self.note(leave, false, took, now);
        }
        let mut inside = self.inside.lock();
        if leave == Leave::Probe && inside.state == BreakerState::HalfOpen {
            self.set(&mut inside, BreakerState::Open);
        }
        false
    }

    /// How it stands, and how often it has opened.
    pub(crate) fn state(&self) -> (BreakerState, u64) {
        let inside = self.inside.lock();
        (inside.state, inside.opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const ALMOST: Duration = Duration::from_nanos(999_999_999);
    const QUICK: Duration = Duration::ZERO;

    #[test]
    fn opens_after_failures_in_a_row_and_closes_after_a_probe() {
        let circuit = Circuit::new(Breaker::default().failures(3).cool_down(SECOND));
        let fail = |at| {
            let leave = circuit.admit(at).expect("it is closed");
            circuit.note(leave, false, QUICK, at);
        };
        fail(QUICK);
        fail(QUICK);
        circuit.note(Leave::Call, true, QUICK, QUICK);
        fail(QUICK);
        fail(QUICK);
        assert_eq!(circuit.state(), (BreakerState::Closed, 0), "never three in a row");
        fail(QUICK);
        assert_eq!(circuit.state(), (BreakerState::Open, 1));
        assert_eq!(circuit.admit(ALMOST), None);
        assert_eq!(circuit.admit(SECOND), Some(Leave::Probe));
        assert_eq!(circuit.admit(SECOND), None, "one probe at a time");
        assert_eq!(circuit.state().0, BreakerState::HalfOpen);
        circuit.note(Leave::Probe, false, QUICK, SECOND);
        assert_eq!(circuit.state(), (BreakerState::Open, 2));
        assert_eq!(circuit.admit(SECOND), None);
        assert_eq!(circuit.admit(2 * SECOND), Some(Leave::Probe));
        circuit.note(Leave::Probe, true, QUICK, 2 * SECOND);
        assert_eq!(circuit.state(), (BreakerState::Closed, 2));
        assert_eq!(circuit.admit(2 * SECOND), Some(Leave::Call));
    }

    #[test]
    fn a_slow_call_counts_as_failed() {
        let circuit = Circuit::new(Breaker::default().failures(1).slow(SECOND));
        assert!(!circuit.note(Leave::Call, true, ALMOST, QUICK));
        assert_eq!(circuit.state(), (BreakerState::Closed, 0));
        assert!(circuit.note(Leave::Call, true, SECOND, QUICK));
        assert_eq!(circuit.state(), (BreakerState::Open, 1));
    }

    #[test]
    fn a_probe_for_which_nobody_waits_is_followed_by_another() {
        let circuit = Circuit::new(Breaker::default().failures(1).slow(SECOND).cool_down(SECOND));
        circuit.note(Leave::Call, false, QUICK, QUICK);
        assert_eq!(circuit.admit(SECOND), Some(Leave::Probe));
        assert!(!circuit.abandon(Leave::Probe, ALMOST, SECOND));
        assert_eq!(circuit.state(), (BreakerState::Open, 1));
        assert_eq!(circuit.admit(SECOND), Some(Leave::Probe));
        assert!(circuit.abandon(Leave::Probe, SECOND, 2 * SECOND));
        assert_eq!(circuit.state(), (BreakerState::Open, 2));
        assert_eq!(circuit.admit(2 * SECOND), None);
    }

    #[test]
    fn a_call_from_before_does_not_close_it() {
        let circuit = Circuit::new(Breaker::default().failures(1));
        circuit.note(Leave::Call, false, QUICK, QUICK);
        circuit.note(Leave::Call, true, QUICK, QUICK);
        assert_eq!(circuit.state(), (BreakerState::Open, 1));
    }
}
