//! Waits that are polled by hand.

#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use nebula_budget::{BudgetConfig, MemoryBudget};
use nebula_memory_core::MemoryError;

/// Counts how often it is woken.
#[derive(Default)]
pub struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Wakes {
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A wait and its waker.
pub struct Polled<F> {
    wait: F,
    pub wakes: Arc<Wakes>,
}

impl<T, F: Future<Output = Result<T, MemoryError>> + Unpin> Polled<F> {
    /// Not polled yet.
    pub fn new(wait: F) -> Self {
        Self { wait, wakes: Arc::default() }
    }

    /// Polled once; it has to be pending.
    pub fn pending(wait: F) -> Self {
        let mut this = Self::new(wait);
        assert!(this.poll().is_pending());
        this
    }

    pub fn poll(&mut self) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(&self.wakes));
        Pin::new(&mut self.wait).poll(&mut Context::from_waker(&waker))
    }

    /// It was woken, once, and is over.
    #[track_caller]
    pub fn ended(&mut self) -> F::Output {
        assert_eq!(self.wakes.count(), 1, "wakes");
        self.outcome()
    }

    #[track_caller]
    pub fn outcome(&mut self) -> F::Output {
        match self.poll() {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => panic!("still in line"),
        }
    }

    /// Nobody woke it, and it is still in line.
    #[track_caller]
    pub fn waits(&mut self) {
        assert_eq!(self.wakes.count(), 0, "wakes");
        assert!(self.poll().is_pending());
    }
}

pub fn root(capacity: usize) -> MemoryBudget {
    MemoryBudget::root("root", capacity).unwrap()
}

#[track_caller]
pub fn code<T>(outcome: Result<T, MemoryError>) -> &'static str {
    outcome.map(drop).unwrap_err().code()
}

pub fn config(capacity: usize, guaranteed: usize) -> BudgetConfig {
    BudgetConfig::builder(capacity.into()).guaranteed(guaranteed.into()).build().unwrap()
}
