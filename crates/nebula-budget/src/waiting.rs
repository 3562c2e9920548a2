//! Waiting for bytes, blocking or async. The line itself is in `line`.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use nebula_memory_core::{Charge, MemoryError, sync::Arc};

use crate::{
    BudgetAccount, Reservation,
    line::{Begun, Ticket},
    node::Node,
};

/// A wait for bytes, before and while it stands in line.
#[derive(Debug)]
struct Wait {
    node: Arc<Node>,
    bytes: usize,
    priority: u8,
    holding: usize,
    ticket: Option<Ticket>,
    done: bool,
}

impl Wait {
    fn new(node: &Arc<Node>, bytes: usize, holding: usize) -> Self {
        Self { node: Arc::clone(node), bytes, priority: 0, holding, ticket: None, done: false }
    }

    /// Takes what is there, or a place in line.
    fn begin(&mut self) -> Option<Result<Charge<BudgetAccount>, MemoryError>> {
        assert!(!self.done, "a wait was continued after its end");
        if self.ticket.is_none() {
            match self.node.begin(self.bytes, self.priority, self.holding) {
                Ok(Begun::Waiting(ticket)) => self.ticket = Some(ticket),
                Ok(Begun::Granted(charge)) => return Some(self.end(Ok(charge))),
                Err(error) => return Some(self.end(Err(error))),
            }
        }
        None
    }

    fn end(
        &mut self,
        outcome: Result<Charge<BudgetAccount>, MemoryError>,
    ) -> Result<Charge<BudgetAccount>, MemoryError> {
        self.ticket = None;
        self.done = true;
        outcome.map_err(|error| self.node.explain(error))
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<Charge<BudgetAccount>, MemoryError>> {
        if let Some(outcome) = self.begin() {
            return Poll::Ready(outcome);
        }
        let Some(ticket) = &self.ticket else { return Poll::Pending };
        ticket.slot.poll_take(cx).map(|outcome| self.end(outcome))
    }

    fn block(&mut self, timeout: Option<Duration>) -> Result<Charge<BudgetAccount>, MemoryError> {
        // A time-out too long for the clock is no time-out.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        if let Some(outcome) = self.begin() {
            return outcome;
        }
        let served = self.ticket.as_ref().and_then(|ticket| ticket.slot.wait(deadline));
        let outcome = served.or_else(|| self.give_up());
        let waited = timeout.unwrap_or_default();
        self.end(outcome.unwrap_or(Err(MemoryError::Timeout { waited })))
    }

    /// Leaves the line; returns what was left for it before it could.
    fn give_up(&mut self) -> Option<Result<Charge<BudgetAccount>, MemoryError>> {
        let ticket = self.ticket.take()?;
        if self.node.tree.locked(|locked| locked.withdraw(&ticket)) {
            return None;
        }
        ticket.slot.try_take()
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        // What was granted at the last moment is credited, and serves the next in line.
        drop(self.give_up());
    }
}

/// Settings and ways to wait that both kinds of waits have.
macro_rules! wait_methods {
    ($output:ty) => {
        /// Sets the place in line: higher priorities are served first, equals in the order in which
        /// they began to wait. Zero without this.
        pub fn priority(mut self, priority: u8) -> Self {
            self.wait.priority = priority;
            self
        }

        /// Blocks this thread until the bytes are there.
        ///
        /// # Errors
        /// As when awaited.
        pub fn wait(mut self) -> Result<$output, MemoryError> {
            let outcome = self.wait.block(None);
            self.finish(outcome)
        }

        /// Blocks this thread until the bytes are there, for `timeout` at most.
        ///
        /// # Errors
        /// As when awaited, and [`MemoryError::Timeout`].
        pub fn wait_timeout(mut self, timeout: Duration) -> Result<$output, MemoryError> {
            let outcome = self.wait.block(Some(timeout));
            self.finish(outcome)
        }
    };
}

/// A wait for a [`Reservation`]; see [`MemoryBudget::reserve`](crate::MemoryBudget::reserve).
/// Await it, or block on it with [`wait`](Self::wait) or [`wait_timeout`](Self::wait_timeout).
///
/// It begins with the first poll (or the call that blocks); dropping it gives up the place in line,
/// and nothing stays charged. As a future it needs no particular runtime, and has no time-out of
/// its own; use your runtime's.
#[derive(Debug)]
#[must_use = "a wait does nothing until it is awaited or blocked on"]
pub struct Reserve {
    wait: Wait,
}

impl Reserve {
    pub(crate) fn new(node: &Arc<Node>, bytes: usize) -> Self {
        Self { wait: Wait::new(node, bytes, 0) }
    }

    /// Says that this task holds `bytes` of the same tree already, charged to the budget it waits
    /// for or one below, and keeps them while it waits. So it can be told apart from a wait that
    /// may take long whether those who wait hold so much themselves that no wait can end; without
    /// this, they would hang. [`Reservation::grow`] says so by itself.
    pub fn holding(mut self, bytes: usize) -> Self {
        self.wait.holding = bytes;
        self
    }

    wait_methods!(Reservation);

    #[allow(clippy::unused_self, reason = "both kinds of waits are finished alike")]
    fn finish(
        &mut self,
        outcome: Result<Charge<BudgetAccount>, MemoryError>,
    ) -> Result<Reservation, MemoryError> {
        outcome.map(Reservation::from)
    }
}

impl Future for Reserve {
    type Output = Result<Reservation, MemoryError>;

    /// # Panics
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.wait.poll(cx).map(|outcome| self.finish(outcome))
    }
}

/// A wait for a larger [`Reservation`]; see [`Reservation::grow`]. To be used like [`Reserve`].
#[derive(Debug)]
#[must_use = "a wait does nothing until it is awaited or blocked on"]
pub struct Grow<'r> {
    wait: Wait,
    reservation: &'r mut Reservation,
}

impl<'r> Grow<'r> {
    pub(crate) fn new(reservation: &'r mut Reservation, more: usize) -> Self {
        let wait = Wait::new(reservation.node(), more, reservation.bytes());
        Self { wait, reservation }
    }

    wait_methods!(());

    fn finish(
        &mut self,
        outcome: Result<Charge<BudgetAccount>, MemoryError>,
    ) -> Result<(), MemoryError> {
        outcome.map(|charge| self.reservation.absorb(charge))
    }
}

impl Future for Grow<'_> {
    type Output = Result<(), MemoryError>;

    /// # Panics
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.wait.poll(cx).map(|outcome| self.finish(outcome))
    }
}
