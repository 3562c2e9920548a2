//! The line of those who wait for bytes: one for the whole tree.
//!
//! The line is ordered by priority and age. Whoever stands first gathers what becomes free, piece by
//! piece, until it has what it needs, so that a large request is not starved by small ones. All
//! others are served as a whole or not at all: since nobody else holds a part of what the first one
//! needs, there are no circles. And nobody is served with funds of a level, or through a level, that
//! somebody before it is short of; so each level serves in order, while those who are short
//! elsewhere don't stand in the way.
//!
//! While somebody waits, whoever holds funds that could come to the levels between the waiter's
//! budget and the one that is short sends every credit on at once (see `Node::ask_for_credits`), and
//! nobody borrows more than needed. Whenever the tree's lock is released, the line is looked
//! through.

use std::{cmp::Reverse, collections::HashMap};

use nebula_memory_core::{
    Charge, MemoryError, WaitSlot, is_reclaiming,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{
    BudgetAccount, BudgetState, Enforcement,
    arbitration::Shortage,
    funds::MAX_FUNDS,
    node::Node,
    tree::{Locked, State},
};

type Slot = WaitSlot<Charge<BudgetAccount>>;

/// Where a waiter stands: higher priorities first; among equals, by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    priority: Reverse<u8>,
    ticket: u64,
}

/// What a waiter waits for.
#[derive(Debug)]
pub(crate) struct Entry {
    node: Arc<Node>,
    bytes: usize,
    /// Of `bytes`, those that have been charged for it already. Only the first in line has any.
    accrued: usize,
    /// Bytes that the waiter holds already and keeps while it waits.
    holding: usize,
    /// The level that is short: the node or one of its ancestors.
    at: Arc<Node>,
    slot: Arc<Slot>,
}

/// A waiter's side of its entry.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) slot: Arc<Slot>,
    place: Place,
}

pub(crate) enum Begun {
    Granted(Charge<BudgetAccount>),
    Waiting(Ticket),
}

impl Node {
    /// Charges `bytes` at once, or takes a place in line.
    pub(crate) fn begin(
        self: &Arc<Self>,
        bytes: usize,
        priority: u8,
        holding: usize,
    ) -> Result<Begun, MemoryError> {
        let priority = Reverse(priority);
        self.acquire(
            bytes,
            |locked| {
                self.permit(bytes)?;
                if let Some(node) = self.path().find(|node| node.can_never_hold(bytes)) {
                    return Err(node.refuse(bytes, locked).into());
                }
                // What was credited already is theirs who came before.
                let before = Place { priority, ticket: u64::MAX };
                let levels = locked.state.line.range(..before).map(|(_, entry)| entry.at.id);
                let taken: Vec<_> = levels.collect();
                if let Err(at) = self.covers(bytes, &taken) {
                    if taken.contains(&at.id) {
                        return Err(Shortage { at, missing: bytes }.into());
                    }
                }
                self.spend_with_help(bytes, locked)?;
                self.hot.free.count(1);
                let account = BudgetAccount(Arc::clone(self));
                Ok(Begun::Granted(Charge::adopt(account, bytes)))
            },
            |locked, shortage| {
                if is_reclaiming() {
                    return Err(shortage.at.refuse(bytes, locked));
                }
                let place = Place { priority, ticket: locked.state.next_ticket };
                locked.state.next_ticket += 1;
                let slot = Arc::new(Slot::new());
                let entry = Entry {
                    node: Arc::clone(self),
                    bytes,
                    accrued: 0,
                    holding,
                    at: shortage.at,
                    slot: Arc::clone(&slot),
                };
                locked.join(Ticket { slot, place }, entry)
            },
        )
    }

    /// Whether even an empty budget would refuse.
    fn can_never_hold(&self, bytes: usize) -> bool {
        bytes > MAX_FUNDS || bytes > self.capacity() && self.enforcement() == Enforcement::Enforce
    }

    /// Whether `bytes` could be charged here at once without anything of the levels in `taken`, nor
    /// through them; otherwise the level that stands in the way. Under the lock.
    fn covers(self: &Arc<Self>, bytes: usize, taken: &[u64]) -> Result<(), Arc<Self>> {
        let mut missing = bytes;
        for node in self.path() {
            if taken.contains(&node.id) {
                return Err(Arc::clone(node));
            }
            let free = match node.state() {
                BudgetState::Created => node.guaranteed(),
                _ => node.free(),
            };
            missing = missing.saturating_sub(free);
            let observes = node.enforcement() == Enforcement::Observe;
            let most = if observes { MAX_FUNDS } else { node.capacity() };
            if missing == 0 || node.parent.is_none() && observes {
                return Ok(());
            }
            if node.parent.is_none() || missing > most.saturating_sub(node.funded()) {
                return Err(Arc::clone(node));
            }
        }
        Ok(())
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
            let Some(parent) = &self.parent else {
                if self.check_room(missing, locked).is_ok() && self.try_mint(missing, locked) {
                    continue;
                }
                return (taken, Some(Arc::clone(self)));
            };
            if self.check_room(missing, locked).is_err() {
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

    /// Settles this node and those above it, up to `top`. Under the lock.
    fn settle_until(self: &Arc<Self>, top: &Arc<Self>, locked: &mut Locked<'_>) {
        for node in self.until(top) {
            node.settle(locked);
        }
    }
}

impl Entry {
    /// Counts it at the level that is short, and at those below where it could be served, too. They
    /// have to [ask for credits](Locked::ask_for) then.
    fn line_up(&self) {
        for counter in self.counters() {
            counter.fetch_add(1, Relaxed);
        }
    }

    fn leave_line(&self) {
        for counter in self.counters() {
            counter.fetch_sub(1, Relaxed);
        }
    }

    fn counters(&self) -> impl Iterator<Item = &AtomicUsize> {
        let is_at = |node: &Arc<Node>| Arc::ptr_eq(node, &self.at);
        let path = self.node.until(&self.at);
        path.map(move |node| if is_at(node) { &node.waiting } else { &node.awaited })
    }

    fn missing(&self) -> usize {
        self.bytes - self.accrued
    }
}

impl Locked<'_> {
    /// Puts an entry in line.
    fn join(&mut self, ticket: Ticket, entry: Entry) -> Result<Begun, MemoryError> {
        let (node, at, bytes) = (Arc::clone(&entry.node), Arc::clone(&entry.at), entry.bytes);
        entry.line_up();
        self.state.line.insert(ticket.place, entry);
        self.ask_for(&node, &at);
        // Only the first keeps what it has gathered.
        let behind = self.state.line.values_mut().skip(1).find(|entry| entry.accrued > 0);
        if let Some(entry) = behind {
            let accrued = std::mem::take(&mut entry.accrued);
            let (node, at) = (Arc::clone(&entry.node), Arc::clone(&entry.at));
            node.refund(accrued);
            node.settle_until(&at, self);
        }
        self.serve_line();
        if self.state.stuck() && self.withdraw(&ticket) {
            at.refusal.record(at.committed(), at.capacity(), at.peak());
            let refusal = Arc::clone(&at.refusal);
            return Err(MemoryError::Deadlock { requested: bytes, refusal });
        }
        Ok(Begun::Waiting(ticket))
    }

    /// From `node` up to `at`, credits are waited for from now on.
    fn ask_for(&mut self, node: &Arc<Node>, at: &Arc<Node>) {
        for node in node.until(at) {
            node.ask_for_credits(self);
        }
    }

    /// Serves whom it can. O(n) in the number of those who wait.
    pub(crate) fn serve_line(&mut self) {
        while self.serve_in_order() {
            // Somebody is short elsewhere now: where funds have been collected since, and where it
            // may stand before somebody whose bytes it needs.
            self.tell_who_is_stuck();
        }
    }

    /// Serves those who wait, once through the line. Returns whether somebody has moved.
    fn serve_in_order(&mut self) -> bool {
        let places: Vec<Place> = self.state.line.keys().copied().collect();
        let mut taken: Vec<u64> = vec![];
        let mut moved = false;
        for place in places {
            let Some(entry) = self.state.line.get(&place) else { continue };
            let (node, missing) = (Arc::clone(&entry.node), entry.missing());
            let (short, excused) = Node::excused(self, |locked| {
                if taken.is_empty() {
                    let (gathered, short) = node.accrue(missing, locked);
                    if let Some(entry) = locked.state.line.get_mut(&place) {
                        entry.accrued += gathered;
                    }
                    return short;
                }
                match node.covers(missing, &taken) {
                    Ok(()) => node.spend_funded(missing, locked).err().map(|short| short.at),
                    Err(at) => Some(at),
                }
            });
            let Some(at) = short else {
                self.grant(&place, excused);
                continue;
            };
            taken.push(at.id);
            if let Some(entry) = self.state.line.get_mut(&place) {
                if !Arc::ptr_eq(&entry.at, &at) {
                    entry.leave_line();
                    entry.at = Arc::clone(&at);
                    entry.line_up();
                    self.ask_for(&node, &at);
                    moved = true;
                }
            }
        }
        moved
    }

    /// Leaves the bytes, which are charged by now, for who waits for them. `excused` levels let
    /// them through.
    fn grant(&mut self, place: &Place, excused: Vec<Arc<Node>>) {
        let Some(entry) = self.state.line.remove(place) else { return };
        entry.leave_line();
        entry.node.hot.free.count(1);
        Node::count_excused(excused, entry.bytes, self);
        entry.slot.put(Ok(Charge::adopt(BudgetAccount(entry.node), entry.bytes)));
        self.after.served.push(entry.slot);
    }

    /// Takes a waiter out of the line. `false` if it was served (or told to leave) before.
    pub(crate) fn withdraw(&mut self, ticket: &Ticket) -> bool {
        let Some(entry) = self.state.line.remove(&ticket.place) else { return false };
        self.give_up(&entry);
        true
    }

    /// Gives back what an entry has gathered that is out of the line already.
    fn give_up(&mut self, entry: &Entry) {
        entry.leave_line();
        entry.node.refund(entry.accrued);
        entry.node.settle_until(&entry.at, self);
    }

    /// Tells those who wait for `node`'s bytes that there will be none.
    pub(crate) fn close_line(&mut self, node: &Arc<Node>) {
        let closed = |entry: &Entry| {
            let is_closed = Arc::ptr_eq(&entry.node, node);
            is_closed.then_some(MemoryError::Closed { what: "the budget" })
        };
        self.dismiss(|_, entry| closed(entry));
    }

    /// Tells those whose wait can no longer end so, after limits have changed.
    pub(crate) fn review_line(&mut self) {
        self.dismiss(|_, entry| {
            let node = entry.node.path().find(|node| node.can_never_hold(entry.bytes))?;
            node.refusal.record(node.committed(), node.capacity(), node.peak());
            let refusal = Arc::clone(&node.refusal);
            Some(MemoryError::BudgetExceeded { requested: entry.bytes, refusal })
        });
        self.tell_who_is_stuck();
    }

    fn tell_who_is_stuck(&mut self) {
        while self.state.stuck() {
            // The last to have come closed the circle.
            let last = self.state.line.keys().map(|place| place.ticket).max();
            self.dismiss(|place, entry| {
                let at = &entry.at;
                at.refusal.record(at.committed(), at.capacity(), at.peak());
                let refusal = Arc::clone(&at.refusal);
                let error = MemoryError::Deadlock { requested: entry.bytes, refusal };
                (Some(place.ticket) == last).then_some(error)
            });
        }
    }

    /// Ends the waits for which there is an error.
    fn dismiss(&mut self, error: impl Fn(&Place, &Entry) -> Option<MemoryError>) {
        let line = self.state.line.iter();
        let ended = line.filter_map(|(place, entry)| Some((*place, error(place, entry)?)));
        for (place, error) in ended.collect::<Vec<_>>() {
            let Some(entry) = self.state.line.remove(&place) else { continue };
            entry.slot.put(Err(error));
            self.after.served.push(Arc::clone(&entry.slot));
            self.give_up(&entry);
        }
    }
}

impl State {
    /// Whether some waits cannot end, whatever those give back who do not wait.
    ///
    /// Whoever would have enough if only those who wait kept what they hold, and has nobody before
    /// it at the levels that it needs, is taken to be served, to go on, and to give back what it
    /// holds; then those who remain are looked at again. O(n²) in the number of waiters, if they
    /// hold something.
    fn stuck(&self) -> bool {
        if self.line.values().all(|entry| entry.holding == 0) {
            return false;
        }
        let mut stuck: Vec<&Entry> = self.line.values().collect();
        loop {
            let mut held: HashMap<u64, usize> = HashMap::new();
            for entry in &stuck {
                for node in entry.node.path() {
                    let held = held.entry(node.id).or_default();
                    *held = held.saturating_add(entry.holding);
                }
            }
            let held = |node: &Node| held.get(&node.id).copied().unwrap_or(0);
            let mut taken: Vec<u64> = vec![];
            let before = stuck.len();
            stuck.retain(|entry| {
                let fits = |node: &Arc<Node>| {
                    entry.bytes <= node.capacity().saturating_sub(held(node))
                        || node.enforcement() == Enforcement::Observe
                };
                // What is guaranteed at one level, it needs nothing of those above for.
                let covers =
                    |node: &Arc<Node>| entry.bytes <= node.guaranteed().saturating_sub(held(node));
                let reach = entry.node.path().position(covers).map_or(usize::MAX, |at| at + 1);
                let mut needed = entry.node.path().take(reach);
                let goes_on = needed.all(|node| fits(node) && !taken.contains(&node.id));
                if !goes_on {
                    taken.push(entry.at.id);
                }
                !goes_on
            });
            if stuck.is_empty() || stuck.len() == before {
                return !stuck.is_empty();
            }
        }
    }
}
