//! Where one waiter finds what it waits for, blocking or async.

use std::{
    fmt,
    task::{Context, Poll, Waker},
    time::Instant,
};

use crate::{
    MemoryError,
    panics::quietly,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

/// The meeting place of one waiter and whoever serves it.
///
/// A [`WaitQueue`](crate::WaitQueue) has one for each place in line. Owners whose lines have other
/// rules (a budget's waiters ask for different amounts) keep the line themselves, and leave the
/// waiting to this.
///
/// ```
/// use nebula_memory_core::WaitSlot;
///
/// let slot = WaitSlot::new();
/// std::thread::scope(|s| {
///     s.spawn(|| {
///         slot.put(Ok("bytes"));
///         slot.wake();
///     });
///     assert_eq!(slot.wait(None).unwrap().unwrap(), "bytes");
/// });
/// ```
pub struct WaitSlot<T> {
    inner: Mutex<Inner<T>>,
    served: Condvar,
    /// Whether a waker has been left here: a hint.
    polled: AtomicBool,
}

struct Inner<T> {
    outcome: Option<Result<T, MemoryError>>,
    waker: Option<Waker>,
    /// Whether a thread blocks here: waking one that does not would be a system call for nothing.
    blocked: bool,
}

impl<T> Default for WaitSlot<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> WaitSlot<T> {
    /// A place where nothing has been left yet.
    #[must_use]
    pub fn new() -> Self {
        let inner = Inner { outcome: None, waker: None, blocked: false };
        Self { inner: Mutex::new(inner), served: Condvar::new(), polled: AtomicBool::new(false) }
    }

    /// Leaves the outcome. Takes no lock but its own, and runs nobody else's code, so that it may
    /// be called under the owner's lock; [`wake`](Self::wake) has to follow, after it.
    ///
    /// An earlier outcome that nobody has taken is replaced (and dropped here).
    pub fn put(&self, outcome: Result<T, MemoryError>) {
        let older = self.inner.lock().outcome.replace(outcome);
        drop(older);
    }

    /// Wakes the waiter. Wakers are the runtime's code: no lock may be held. If one panics, that stays
    /// here (the panic hook has reported it): who serves a waiter is often about to return something
    /// to its owner, perhaps while panicking himself.
    pub fn wake(&self) {
        let (waker, blocked) = {
            let mut inner = self.inner.lock();
            (inner.waker.take(), inner.blocked)
        };
        if blocked {
            self.served.notify_one();
        }
        if let Some(waker) = waker {
            quietly(|| waker.wake());
        }
    }

    /// Takes the outcome if there is one, without waiting.
    pub fn try_take(&self) -> Option<Result<T, MemoryError>> {
        self.inner.lock().outcome.take()
    }

    /// Blocks until there is an outcome; `None` if the deadline passes first.
    pub fn wait(&self, deadline: Option<Instant>) -> Option<Result<T, MemoryError>> {
        let mut inner = self.inner.lock();
        loop {
            if let Some(outcome) = inner.outcome.take() {
                return Some(outcome);
            }
            inner.blocked = true;
            inner = match deadline {
                None => self.served.wait(inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.served.wait_timeout(inner, left)
                }
            };
        }
    }

    /// Takes the outcome, or arranges for the task to be woken when there is one.
    pub fn poll_take(&self, cx: &Context<'_>) -> Poll<Result<T, MemoryError>> {
        // Cloned before and dropped after the lock: wakers are the runtime's code. Who comes again
        // has probably been woken, and needs no waker any more.
        let mut fresh = (!self.polled.load(Ordering::Relaxed)).then(|| cx.waker().clone());
        loop {
            let (outcome, stale) = {
                let mut inner = self.inner.lock();
                if let Some(outcome) = inner.outcome.take() {
                    (Poll::Ready(outcome), inner.waker.take())
                } else if inner.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    (Poll::Pending, None)
                } else if let Some(fresh) = fresh.take() {
                    self.polled.store(true, Ordering::Relaxed);
                    (Poll::Pending, inner.waker.replace(fresh))
                } else {
                    drop(inner);
                    fresh = Some(cx.waker().clone());
                    continue;
                }
            };
            // If one panics, the outcome must not be lost with it.
            if fresh.is_some() || stale.is_some() {
                quietly(|| drop((fresh, stale)));
            }
            return outcome;
        }
    }
}

impl<T> fmt::Debug for WaitSlot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let served = self.inner.lock().outcome.is_some();
        f.debug_struct("WaitSlot").field("served", &served).finish_non_exhaustive()
    }
}
