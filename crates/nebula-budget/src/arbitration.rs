//! The slow path: moving funds between parents and children, refusing, settling and releasing.
//!
//! Everything here that moves funds holds the tree's lock, so that a refusal is decided while no
//! funds are on their way: what is not found then is not there. Reclaimers run, and nodes are
//! dropped, after the lock is released.

use std::collections::BTreeMap;

use nebula_memory_core::{
    Consumer, MemoryError, PressureLevel, RefusalDetails, is_reclaiming,
    sync::{Arc, MutexGuard, atomic::Ordering::Relaxed},
};

use crate::{BudgetState, node::Node};

/// The level that has no room, and how much it is short of.
struct Shortage {
    at: Arc<Node>,
    missing: usize,
}

/// How many consumers a refusal names.
const CONSUMERS: usize = 5;

impl Node {
    pub(crate) fn lock(&self) -> MutexGuard<'_, u64> {
        self.tree.lock.lock()
    }

    /// A charge that `free` did not cover, or that may not be made.
    #[cold]
    #[inline(never)]
    pub(crate) fn charge_slowly(self: &Arc<Self>, bytes: usize) -> Result<(), MemoryError> {
        self.charge_reclaiming(bytes, || self.permitted(bytes))
    }

    /// Spends `bytes`. Where a level is short, its reclaimers are asked, once for each level.
    fn charge_reclaiming(
        self: &Arc<Self>,
        bytes: usize,
        permitted: impl Fn() -> Result<(), MemoryError>,
    ) -> Result<(), MemoryError> {
        // How many levels, from here upwards, have been asked.
        let mut asked = 0;
        loop {
            let shortage = {
                let _lock = self.lock();
                permitted()?;
                let Err(shortage) = self.spend_with_help(bytes) else { return Ok(()) };
                let level = self.path().take_while(|node| !Arc::ptr_eq(node, &shortage.at)).count();
                if level < asked || is_reclaiming() {
                    return Err(shortage.at.refuse(bytes));
                }
                asked = level + 1;
                shortage
            };
            self.reclaim_below(&shortage);
        }
    }

    /// Whether a single charge of `bytes` may be made at all.
    fn permitted(&self, bytes: usize) -> Result<(), MemoryError> {
        if self.state() == BudgetState::Released {
            return Err(MemoryError::Closed { what: "the budget" });
        }
        let largest = self.largest_charge();
        if bytes <= largest {
            Ok(())
        } else {
            Err(MemoryError::Throttled { requested: bytes, largest })
        }
    }

    /// Spends `bytes`, with funds from the ancestors and, where they have none left, with what is
    /// lying unspent below the level that is short. Under the lock.
    fn spend_with_help(self: &Arc<Self>, bytes: usize) -> Result<(), Shortage> {
        let mut last: Option<*const Node> = None;
        loop {
            let shortage = match self.spend_funded(bytes) {
                Ok(()) => return Ok(()),
                Err(shortage) => shortage,
            };
            // Each level is drained once: another attempt may fail higher up, but not there again.
            let at = Arc::as_ptr(&shortage.at);
            if last == Some(at) || shortage.at.drain() == 0 {
                return Err(shortage);
            }
            last = Some(at);
        }
    }

    /// Spends `bytes`, with funds from the ancestors where its own do not cover it. Under the lock.
    fn spend_funded(self: &Arc<Self>, bytes: usize) -> Result<(), Shortage> {
        self.open();
        // Another thread may spend what was just borrowed; it is borrowed again then, until the
        // capacity is spent.
        while !self.spend(bytes) {
            let missing = bytes.saturating_sub(self.free());
            if missing == 0 {
                continue;
            }
            let room = self.capacity - self.funded();
            let Some(parent) = &self.parent else {
                return Err(Shortage { at: Arc::clone(self), missing });
            };
            if missing > room {
                let missing = missing - room;
                return Err(Shortage { at: Arc::clone(self), missing });
            }
            // A chunk at a time, so that the next charges need nobody, unless the parent could give
            // less; then exactly what is missing.
            let chunk = missing.max(self.chunk()).min(room);
            let amount = if chunk <= parent.obtainable() { chunk } else { missing };
            parent.spend_funded(amount)?;
            self.add_funds(amount);
        }
        Ok(())
    }

    /// What could be spent here without taking from anybody else. Under the lock.
    fn obtainable(&self) -> usize {
        let own = match self.state() {
            BudgetState::Created => self.guaranteed(),
            _ => self.free(),
        };
        let borrowed = match &self.parent {
            Some(parent) => parent.obtainable().min(self.capacity - self.funded()),
            None => 0,
        };
        own + borrowed
    }

    /// Collects into this node's funds what its descendants have borrowed and not spent; returns
    /// how much came together here. Under the lock. O(n) in the number of descendants.
    fn drain(&self) -> usize {
        let mut drained = 0;
        for child in self.children.lock().values() {
            child.drain();
            drained += child.remove_funds(usize::MAX);
        }
        if drained > 0 {
            self.refund(drained);
        }
        drained
    }

    /// Notes a refusal and makes the error for it. Under the lock.
    fn refuse(&self, bytes: usize) -> MemoryError {
        self.refusals.fetch_add(1, Relaxed);
        self.refusal.record(self.committed(), self.capacity, self.peak());
        self.set_state(BudgetState::Exhausted);
        MemoryError::BudgetExceeded { requested: bytes, refusal: Arc::clone(&self.refusal) }
    }

    /// Asks reclaimers for what is missing: those on the way from here to the level that is short
    /// first, then everybody else's below that level.
    fn reclaim_below(self: &Arc<Self>, shortage: &Shortage) {
        let mut wanted = shortage.missing;
        let mut ask = |node: &Node| {
            let given = node.reclaimers.reclaim(wanted, PressureLevel::Critical).given;
            wanted = wanted.saturating_sub(given);
            wanted == 0
        };
        let mut path = vec![];
        for node in self.path() {
            if ask(node) {
                return;
            }
            path.push(Arc::as_ptr(node));
            if Arc::ptr_eq(node, &shortage.at) {
                break;
            }
        }
        let others = {
            let _lock = self.lock();
            let mut nodes = vec![];
            shortage.at.collect_below(&mut nodes);
            nodes
        };
        for node in &others {
            if !path.contains(&Arc::as_ptr(node)) && ask(node) {
                return;
            }
        }
    }

    /// This node, its parent, and so on up to the root.
    pub(crate) fn path(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        std::iter::successors(Some(self), |node| node.parent.as_ref())
    }

    /// All descendants. Under the lock.
    fn collect_below(&self, into: &mut Vec<Arc<Self>>) {
        for child in self.children.lock().values() {
            into.push(Arc::clone(child));
            child.collect_below(into);
        }
    }

    /// What a credit leads to when it passes the ceiling.
    #[cold]
    #[inline(never)]
    pub(crate) fn settle_slowly(self: &Arc<Self>) {
        let mut gone = vec![];
        {
            let _lock = self.lock();
            self.settle(&mut gone);
        }
        drop(gone);
    }

    /// Ends an exhaustion, gives surplus funds to the parent, and buries a released node that has
    /// nothing left; then the same for the parent, which has funds again. Under the lock; nodes
    /// that left the tree are pushed to `gone`, to be dropped after it.
    fn settle(self: &Arc<Self>, gone: &mut Vec<Arc<Self>>) {
        self.clamp();
        if self.state() == BudgetState::Exhausted {
            self.set_state(BudgetState::Active);
        }
        let Some(parent) = &self.parent else { return };
        let released = self.state() == BudgetState::Released;
        // A chunk is kept against the next charge, once two are free.
        let surplus = self.surplus();
        let given = if released {
            self.remove_funds(usize::MAX)
        } else if surplus > 0 && self.free() > 2 * self.chunk() {
            self.remove_funds(surplus.min(self.free() - self.chunk()))
        } else {
            0
        };
        if released && self.funded() == 0 && self.children.lock().is_empty() {
            gone.extend(parent.children.lock().remove(&self.id));
        }
        if given > 0 {
            parent.refund(given);
            parent.settle(gone);
        }
    }

    /// Makes a child that is guaranteed `guaranteed` of its `capacity`.
    pub(crate) fn add_child(
        self: &Arc<Self>,
        name: Box<str>,
        capacity: usize,
        guaranteed: usize,
    ) -> Result<Arc<Self>, MemoryError> {
        // The guarantee is charged like anything else, with reclaiming if need be; only that no
        // throttle limits it, because it is no single allocation.
        self.charge_reclaiming(guaranteed, || match self.state() {
            BudgetState::Released => Err(MemoryError::Closed { what: "the budget" }),
            _ => Ok(()),
        })?;
        let mut next_id = self.lock();
        if self.state() == BudgetState::Released {
            // Released since the charge: the bytes go where the others went.
            self.refund(guaranteed);
            drop(next_id);
            self.settle_slowly();
            return Err(MemoryError::Closed { what: "the budget" });
        }
        let id = *next_id;
        *next_id += 1;
        let (parent, tree) = (Arc::clone(self), Arc::clone(&self.tree));
        let child = Arc::new(Self::new(name, id, capacity, guaranteed, Some(parent), tree));
        self.children.lock().insert(id, Arc::clone(&child));
        Ok(child)
    }

    /// Gives the capacity back to the parent and refuses charges from now on.
    pub(crate) fn release(self: &Arc<Self>) -> Result<(), MemoryError> {
        let mut gone = vec![];
        {
            let _lock = self.lock();
            let live = self.live_children();
            if !live.is_empty() {
                return Err(MemoryError::LiveChildren(live.join(", ").into()));
            }
            match self.state() {
                BudgetState::Released => return Ok(()),
                // So that the guaranteed part is where settling looks for it.
                BudgetState::Created => self.open(),
                BudgetState::Active | BudgetState::Exhausted => {}
            }
            self.set_state(BudgetState::Released);
            self.settle(&mut gone);
        }
        drop(gone);
        Ok(())
    }

    fn live_children(&self) -> Vec<String> {
        let children = self.children.lock();
        let live = children.values().filter(|c| c.state() != BudgetState::Released);
        live.map(|c| format!("`{}`", c.name)).collect()
    }

    /// Sets the largest single charge in this node and below.
    pub(crate) fn throttle(&self, largest: usize) {
        let _lock = self.lock();
        self.throttle_locked(largest);
    }

    fn throttle_locked(&self, largest: usize) {
        self.set_largest_charge(largest);
        for child in self.children.lock().values() {
            child.throttle_locked(largest);
        }
    }

    /// Adds to a refusal of this node, or of an ancestor, whose memory stands in the way.
    pub(crate) fn explain(self: &Arc<Self>, error: MemoryError) -> MemoryError {
        let MemoryError::BudgetExceeded { requested, refusal } = &error else { return error };
        if refusal.details().is_some() {
            return error;
        }
        let Some(level) = self.path().find(|node| Arc::ptr_eq(&node.refusal, refusal)) else {
            return error;
        };
        let consumers = {
            let _lock = self.lock();
            largest(&level.children.lock())
        };
        let advice = if *requested > level.capacity {
            "it can never hold that much: ask for less, or raise its capacity"
        } else if consumers.is_empty() {
            "free some of it, or raise its capacity"
        } else {
            "free memory there, or raise the capacity"
        };
        let charged = self.refusal.path().to_owned();
        let frozen = refusal.frozen(RefusalDetails { charged, consumers, advice });
        MemoryError::BudgetExceeded { requested: *requested, refusal: Arc::new(frozen) }
    }
}

/// The largest few of `children` by committed bytes, largest first.
fn largest(children: &BTreeMap<u64, Arc<Node>>) -> Vec<Consumer> {
    let mut largest: Vec<(usize, &Arc<Node>)> = vec![];
    for child in children.values() {
        let used = child.committed();
        let at = largest.partition_point(|(other, _)| *other >= used);
        if used > 0 && at < CONSUMERS {
            largest.insert(at, (used, child));
            largest.truncate(CONSUMERS);
        }
    }
    let consumer = |(used, node): (usize, &Arc<Node>)| Consumer {
        name: node.name.to_string(),
        used,
        limit: node.capacity,
    };
    largest.into_iter().map(consumer).collect()
}
