//! Waiting for bytes: in line at the level that is short, served as credits come in.
//!
//! Whoever stands first takes what becomes free, piece by piece, until it has what it needs; so
//! large requests are not starved by small ones, and whoever came later gets what is left. While
//! somebody waits at a node, all who hold funds that could come back there send every credit on at
//! once (see `Node::ask_for_credits`), and nobody borrows more than needed.

use std::{
    cmp::Reverse,
    collections::HashMap,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use nebula_memory_core::{
    Charge, MemoryError, WaitSlot, is_reclaiming,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    BudgetAccount, Enforcement, Reservation,
    node::Node,
    tree::{Locked, State},
};

type Slot = WaitSlot<Charge<BudgetAccount>>;

/// Where a waiter stands: at a node; there, higher priorities first; among those, by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    level: u64,
    priority: Reverse<u8>,
    ticket: u64,
}

/// What a waiter waits for.
#[derive(Debug)]
pub(crate) struct Entry {
    node: Arc<Node>,
    bytes: usize,
    /// Of `bytes`, those that have been charged for it already.
    accrued: usize,
    /// Bytes that the waiter holds already and keeps while it waits.
    holding: usize,
    slot: Arc<Slot>,
    level: Arc<AtomicU64>,
}

/// A waiter's side of its entry.
#[derive(Debug)]
struct Ticket {
    slot: Arc<Slot>,
    /// The level of its place, which may change.
    level: Arc<AtomicU64>,
    priority: Reverse<u8>,
    ticket: u64,
}

enum Begun {
    Granted(Charge<BudgetAccount>),
    Waiting(Ticket),
}

impl Node {
    /// Charges `bytes` at once, or takes a place in line.
    fn begin(self: &Arc<Self>, wait: &Wait) -> Result<Begun, MemoryError> {
        let bytes = wait.bytes;
        let granted = || Charge::adopt(BudgetAccount(Arc::clone(self)), bytes);
        self.acquire(
            bytes,
            |locked| {
                self.permit(bytes)?;
                if let Some(node) = self.path().find(|node| node.can_never_hold(bytes)) {
                    return Err(node.refuse(bytes, locked).into());
                }
                self.spend_with_help(bytes, locked)?;
                self.hot.free.count(1);
                Ok(Begun::Granted(granted()))
            },
            |locked, shortage| match is_reclaiming() {
                true => Err(shortage.at.refuse(bytes, locked)),
                false => self.join(wait, &shortage.at, locked),
            },
        )
    }

    /// Whether even an empty budget would refuse.
    fn can_never_hold(&self, bytes: usize) -> bool {
        bytes > self.capacity() && self.enforcement() == Enforcement::Enforce
    }

    /// Takes a place in line at `at`. Under the lock.
    fn join(
        self: &Arc<Self>,
        wait: &Wait,
        at: &Arc<Self>,
        locked: &mut Locked<'_>,
    ) -> Result<Begun, MemoryError> {
        let ticket = Ticket {
            slot: Arc::new(Slot::new()),
            level: Arc::new(AtomicU64::new(at.id)),
            priority: Reverse(wait.priority),
            ticket: locked.state.next_ticket,
        };
        locked.state.next_ticket += 1;
        let entry = Entry {
            node: Arc::clone(self),
            bytes: wait.bytes,
            accrued: 0,
            holding: wait.holding,
            slot: Arc::clone(&ticket.slot),
            level: Arc::clone(&ticket.level),
        };
        let place = ticket.place();
        // Whoever stands behind gives up what it has gathered.
        let behind = Place { ticket: u64::MAX, priority: Reverse(0), ..place };
        let gathered: Vec<_> = locked
            .state
            .waiters
            .range_mut(place..=behind)
            .map(|(_, entry)| (Arc::clone(&entry.node), std::mem::take(&mut entry.accrued)))
            .collect();
        locked.state.waiters.insert(place, entry);
        at.wait_here();
        for (node, accrued) in gathered {
            node.refund(accrued);
            node.settle(locked);
        }
        at.serve(locked);
        if locked.state.stuck() && locked.state.waiters.contains_key(&ticket.place()) {
            self.withdraw(&ticket, locked);
            at.refusal.record(at.committed(), at.capacity(), at.peak());
            let refusal = Arc::clone(&at.refusal);
            return Err(MemoryError::Deadlock { requested: wait.bytes, refusal });
        }
        Ok(Begun::Waiting(ticket))
    }

    /// One more waits here. Whatever is credited below from now on comes here at once, and what has
    /// been credited before is collected. Under the lock.
    fn wait_here(self: &Arc<Self>) {
        self.waiting.fetch_add(1, Relaxed);
        self.ask_for_credits();
    }

    /// Serves those who wait here, in their order, as far as funds go. Under the lock.
    pub(crate) fn serve(self: &Arc<Self>, locked: &mut Locked<'_>) {
        while self.waiting.load(Relaxed) > 0 {
            // It stays in line meanwhile, so that nobody takes the line to be empty.
            let Some((place, node, missing)) = locked.state.first_at(self.id) else { return };
            let (taken, short) = node.accrue(missing, locked);
            let waiters = &mut locked.state.waiters;
            match short {
                None => {
                    node.hot.free.count(1);
                    let Some(entry) = waiters.remove(&place) else { return };
                    self.waiting.fetch_sub(1, Relaxed);
                    entry.slot.put(Ok(Charge::adopt(BudgetAccount(node), entry.bytes)));
                    locked.after.served.push(entry.slot);
                }
                Some(at) if Arc::ptr_eq(&at, self) => {
                    if let Some(entry) = waiters.get_mut(&place) {
                        entry.accrued += taken;
                    }
                    return;
                }
                Some(at) => {
                    // Short elsewhere now.
                    let Some(mut entry) = waiters.remove(&place) else { return };
                    entry.accrued += taken;
                    entry.level.store(at.id, Relaxed);
                    waiters.insert(Place { level: at.id, ..place }, entry);
                    self.waiting.fetch_sub(1, Relaxed);
                    at.wait_here();
                    if at.free() > 0 {
                        at.serve(locked);
                    }
                }
            }
        }
    }

    /// Charges up to `wanted` bytes here, as far as funds go. Returns how much that was, and the
    /// level that has no more. A level below one that is short has room for all that is wanted: as
    /// long as it has not, nothing is taken from above. Under the lock.
    fn accrue(
        self: &Arc<Self>,
        wanted: usize,
        locked: &mut Locked<'_>,
    ) -> (usize, Option<Arc<Self>>) {
        let mut taken = 0;
        self.activate(locked);
        loop {
            let missing = wanted - taken;
            if self.spend_own(missing, locked) {
                return (wanted, None);
            }
            let free = self.free().min(missing);
            if free > 0 {
                if self.spend_own(free, locked) {
                    taken += free;
                }
                continue;
            }
            let Some(parent) = &self.parent else { return (taken, Some(Arc::clone(self))) };
            if missing > self.capacity().saturating_sub(self.funded()) {
                return (taken, Some(Arc::clone(self)));
            }
            let (lent, short) = parent.accrue(missing, locked);
            if lent > 0 {
                self.add_funds(lent);
            }
            if short.is_some() {
                // What came along is charged here, out of others' reach.
                let kept = lent.min(self.free());
                if kept > 0 && self.spend_own(kept, locked) {
                    taken += kept;
                }
                return (taken, short);
            }
        }
    }

    /// Leaves the line. `false` if it was served (or told to leave) before.
    fn withdraw(self: &Arc<Self>, ticket: &Ticket, locked: &mut Locked<'_>) -> bool {
        let Some(entry) = locked.state.waiters.remove(&ticket.place()) else { return false };
        let at = ticket.level.load(Relaxed);
        if let Some(at) = self.path().find(|node| node.id == at) {
            at.waiting.fetch_sub(1, Relaxed);
            self.refund(entry.accrued);
            self.settle(locked);
            at.settle(locked);
        }
        true
    }

    /// Tells those who wait for this node's bytes that there will be none. Under the lock.
    pub(crate) fn close_line(self: &Arc<Self>, locked: &mut Locked<'_>) {
        let closed = MemoryError::Closed { what: "the budget" };
        self.dismiss(locked, |_, entry| Arc::ptr_eq(&entry.node, self).then(|| closed.clone()));
    }

    /// Tells those whose wait can no longer end so, after limits have changed. Under the lock.
    pub(crate) fn review_line(self: &Arc<Self>, locked: &mut Locked<'_>) {
        let refuse = |_: &Place, entry: &Entry| {
            let node = entry.node.path().find(|node| node.can_never_hold(entry.bytes))?;
            node.refusal.record(node.committed(), node.capacity(), node.peak());
            let refusal = Arc::clone(&node.refusal);
            Some(MemoryError::BudgetExceeded { requested: entry.bytes, refusal })
        };
        self.dismiss(locked, refuse);
        while locked.state.stuck() {
            // The last to have come closed the circle.
            let last = locked.state.waiters.keys().map(|place| place.ticket).max();
            self.dismiss(locked, |place, entry| {
                let node = entry.node.path().find(|node| node.id == place.level)?;
                node.refusal.record(node.committed(), node.capacity(), node.peak());
                let refusal = Arc::clone(&node.refusal);
                let error = MemoryError::Deadlock { requested: entry.bytes, refusal };
                (Some(place.ticket) == last).then_some(error)
            });
        }
    }

    /// Ends the waits for which there is an error.
    fn dismiss(
        self: &Arc<Self>,
        locked: &mut Locked<'_>,
        error: impl Fn(&Place, &Entry) -> Option<MemoryError>,
    ) {
        let ended: Vec<_> = locked
            .state
            .waiters
            .iter()
            .filter_map(|(place, entry)| Some((*place, error(place, entry)?)))
            .collect();
        for (place, error) in ended {
            let Some(entry) = locked.state.waiters.remove(&place) else { continue };
            if let Some(at) = entry.node.path().find(|node| node.id == place.level) {
                at.waiting.fetch_sub(1, Relaxed);
            }
            entry.slot.put(Err(error));
            locked.after.served.push(entry.slot);
            entry.node.refund(entry.accrued);
            entry.node.settle(locked);
        }
    }
}

impl Ticket {
    fn place(&self) -> Place {
        let level = self.level.load(Relaxed);
        Place { level, priority: self.priority, ticket: self.ticket }
    }
}

impl State {
    /// Who stands first at a level, and how much it lacks.
    fn first_at(&self, level: u64) -> Option<(Place, Arc<Node>, usize)> {
        let from = Place { level, priority: Reverse(u8::MAX), ticket: 0 };
        let (place, entry) = self.waiters.range(from..).next()?;
        let missing = entry.bytes - entry.accrued;
        (place.level == level).then(|| (*place, Arc::clone(&entry.node), missing))
    }

    /// Whether some waits cannot end, whatever those give back who do not wait.
    ///
    /// Those who stand first somewhere, and would have enough if only those who wait kept what they
    /// hold, are taken to be served, to go on, and to give back what they hold; then those who
    /// remain are looked at again. O(n²) in the number of waiters, if they hold something.
    fn stuck(&self) -> bool {
        if self.waiters.values().all(|entry| entry.holding == 0) {
            return false;
        }
        let mut stuck: Vec<(&Place, &Entry)> = self.waiters.iter().collect();
        loop {
            let mut held: HashMap<u64, usize> = HashMap::new();
            for (_, entry) in &stuck {
                for node in entry.node.path() {
                    *held.entry(node.id).or_default() += entry.holding;
                }
            }
            let mut level = None;
            let before = stuck.len();
            stuck.retain(|(place, entry)| {
                let first = level.replace(place.level) != Some(place.level);
                let fits = |node: &Arc<Node>| {
                    let held = held.get(&node.id).copied().unwrap_or(0);
                    entry.bytes <= node.capacity().saturating_sub(held)
                        || node.enforcement() == Enforcement::Observe
                };
                !(first && entry.node.path().all(fits))
            });
            if stuck.is_empty() || stuck.len() == before {
                return !stuck.is_empty();
            }
        }
    }
}

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
            match self.node.begin(self) {
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
        if self.node.tree.locked(|locked| self.node.withdraw(&ticket, locked)) {
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
