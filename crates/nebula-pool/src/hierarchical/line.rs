//! The line of those who wait for an object of a tree of pools.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use nebula_memory_core::{Account, MemoryError, WaitSlot, sync::Arc};

use super::{
    HierarchicalPool,
    tree::{State, Taken},
};
use crate::Poolable;

pub(super) type Slot<T, A> = WaitSlot<Taken<T, A>>;

/// Who waits for an object for a level.
pub(super) struct InLine<T: Poolable, A: Account> {
    ticket: u64,
    pub(super) level: usize,
    pub(super) slot: Arc<Slot<T, A>>,
}

impl<T: Poolable, A: Account> State<T, A> {
    /// Puts a waiter for `level` at the end of the line, who leaves it by the number that this
    /// returns; `None` if there is no memory for that, in the line or in `room` (where what it
    /// replaces is left, to be freed without the lock).
    fn join(
        &mut self,
        level: usize,
        slot: &Arc<Slot<T, A>>,
        room: &mut VecDeque<InLine<T, A>>,
    ) -> Option<u64> {
        let len = self.line.len();
        if len == self.line.capacity() {
            if room.capacity() <= len {
                return None;
            }
            room.append(&mut self.line);
            std::mem::swap(room, &mut self.line);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.line.push_back(InLine { ticket, level, slot: Arc::clone(slot) });
        Some(ticket)
    }
}

/// How a wait begins.
pub(super) enum Begun<'p, T: Poolable, A: Account> {
    /// It need not.
    Served(Taken<T, A>),
    Waiting(Waiter<'p, T, A>),
}

impl<T: Poolable, A: Account> HierarchicalPool<T, A> {
    /// Takes an object, or the room for one; or a place in line.
    ///
    /// # Errors
    /// [`MemoryError::Closed`] if the level is closed.
    pub(super) fn begin(&self) -> Result<Begun<'_, T, A>, MemoryError> {
        if let Some(taken) = self.take()? {
            return Ok(Begun::Served(taken));
        }
        let slot = Arc::new(WaitSlot::new());
        let mut room = VecDeque::new();
        loop {
            let mut state = self.tree.lock();
            // Under the lock under which the line is joined, so that nothing is missed in between.
            if let Some(taken) = state.take(self.number)? {
                return Ok(Begun::Served(taken));
            }
            if let Some(ticket) = state.join(self.number, &slot, &mut room) {
                drop(state);
                return Ok(Begun::Waiting(Waiter { pool: self, slot, ticket, done: false }));
            }
            let len = state.line.len();
            drop(state);
            room = VecDeque::with_capacity((2 * len).max(4));
        }
    }

    /// Takes an object, or the room for one, if there is any.
    ///
    /// # Errors
    /// [`MemoryError::Closed`] if the level is closed.
    pub(super) fn take(&self) -> Result<Option<Taken<T, A>>, MemoryError> {
        let mut state = self.tree.lock();
        state.take(self.number)
    }
}

/// A place in the line of a tree; dropping it gives the place up.
pub(super) struct Waiter<'p, T: Poolable, A: Account> {
    pool: &'p HierarchicalPool<T, A>,
    slot: Arc<Slot<T, A>>,
    ticket: u64,
    /// The outcome has been taken, or the line was left.
    done: bool,
}

impl<T: Poolable, A: Account> Waiter<'_, T, A> {
    pub(super) fn wait(mut self, timeout: Option<Duration>) -> Result<Taken<T, A>, MemoryError> {
        // A time-out too long for the clock is no time-out.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let outcome = match self.slot.wait(deadline) {
            None if self.leave() => None,
            // Served at the last moment: the outcome was put there under the tree's lock.
            None => self.slot.try_take(),
            outcome => outcome,
        };
        self.done = true;
        let waited = timeout.unwrap_or(Duration::MAX);
        outcome.unwrap_or(Err(MemoryError::Timeout { waited }))
    }

    /// Leaves the line. `false` if it was served before.
    fn leave(&self) -> bool {
        let left = {
            let mut state = self.pool.tree.lock();
            let at = state.line.binary_search_by_key(&self.ticket, |place| place.ticket);
            at.ok().and_then(|at| state.line.remove(at))
        };
        left.is_some()
    }
}

impl<T: Poolable, A: Account> Future for Waiter<'_, T, A> {
    type Output = Result<Taken<T, A>, MemoryError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = self.slot.poll_take(cx);
        self.done |= outcome.is_ready();
        outcome
    }
}

impl<T: Poolable, A: Account> Drop for Waiter<'_, T, A> {
    fn drop(&mut self) {
        if self.done || self.leave() {
            return;
        }
        if let Some(Ok(taken)) = self.slot.try_take() {
            self.pool.give_back(taken);
        }
    }
}
