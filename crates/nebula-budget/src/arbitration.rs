//! The slow path: moving funds between parents and children, refusing, settling and releasing.
//!
//! Everything here that moves funds holds the tree's lock, so that a refusal is decided while no
//! funds are on their way: what is not found then is not there. Reclaimers and hooks run, and nodes
//! are dropped, after the lock is released.

use std::mem;

use nebula_memory_core::{
    MemoryError, is_reclaiming,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use crate::{
    BudgetConfig, BudgetEvent, BudgetState, Enforcement, LeakReport,
    funds::MAX_FUNDS,
    node::{Node, Spent},
    slack::Slack,
    tree::Locked,
};

/// The level that has no room, and how much it is short of.
#[derive(Clone)]
pub(crate) struct Shortage {
    pub(crate) at: Arc<Node>,
    pub(crate) missing: usize,
}

/// Why an attempt came to nothing.
pub(crate) enum Denied {
    /// Memory may be found.
    Short(Shortage),
    /// It is not about memory.
    Error(MemoryError),
}

impl From<Shortage> for Denied {
    fn from(shortage: Shortage) -> Self {
        Self::Short(shortage)
    }
}

impl From<MemoryError> for Denied {
    fn from(error: MemoryError) -> Self {
        Self::Error(error)
    }
}

impl Node {
    /// A charge that `free` did not cover, or that may not be made.
    #[cold]
    #[inline(never)]
    pub(crate) fn charge_slowly(self: &Arc<Self>, bytes: usize) -> Result<(), MemoryError> {
        self.acquire(
            bytes,
            |locked| {
                self.permit(bytes)?;
                self.spend_with_help(bytes, locked)?;
                self.hot.free.count(1);
                Ok(())
            },
            |locked, shortage| Err(shortage.at.refuse(bytes, locked)),
        )
    }

    /// Makes `attempt`s under the lock. Where a level is short, its reclaimers are asked in
    /// between, once for each level; then, if that level only observes, it is let through, and
    /// otherwise `give_up` has the last word, under the lock that the last attempt held.
    pub(crate) fn acquire<R>(
        self: &Arc<Self>,
        bytes: usize,
        mut attempt: impl FnMut(&mut Locked<'_>) -> Result<R, Denied>,
        give_up: impl FnOnce(&mut Locked<'_>, Shortage) -> Result<R, MemoryError>,
    ) -> Result<R, MemoryError> {
        // How many levels, from here upwards, have been asked.
        let mut asked = 0;
        let mut is_to_be_asked = |shortage: &Shortage| {
            let level = self.path().take_while(|node| !Arc::ptr_eq(node, &shortage.at)).count();
            let is_new = level >= asked && !is_reclaiming();
            asked = if is_new { level + 1 } else { asked };
            is_new
        };
        let mut give_up = Some(give_up);
        loop {
            let outcome = self.tree.locked(|locked| {
                let shortage = match attempt(locked) {
                    Ok(done) => return Ok(Ok(done)),
                    Err(Denied::Error(error)) => return Ok(Err(error)),
                    Err(Denied::Short(shortage)) => shortage,
                };
                if is_to_be_asked(&shortage) {
                    return Err(shortage);
                }
                let shortage = match Self::excuse(bytes, shortage, locked, &mut attempt) {
                    Ok(done) => return Ok(Ok(done)),
                    Err(Denied::Error(error)) => return Ok(Err(error)),
                    // One further up, which the attempt before had not come to.
                    Err(Denied::Short(shortage)) if is_to_be_asked(&shortage) => {
                        return Err(shortage);
                    }
                    Err(Denied::Short(shortage)) => shortage,
                };
                Ok(match give_up.take() {
                    Some(give_up) => give_up(locked, shortage),
                    None => Err(shortage.at.refuse(bytes, locked)),
                })
            });
            match outcome {
                Ok(result) => return result,
                Err(shortage) => self.reclaim_for(&shortage),
            }
        }
    }

    /// Makes another attempt that the levels which only observe do not stand in the way of.
    fn excuse<R>(
        bytes: usize,
        shortage: Shortage,
        locked: &mut Locked<'_>,
        attempt: &mut impl FnMut(&mut Locked<'_>) -> Result<R, Denied>,
    ) -> Result<R, Denied> {
        if shortage.at.enforcement() == Enforcement::Enforce {
            return Err(shortage.into());
        }
        let (outcome, levels) = Self::excused(locked, attempt);
        if outcome.is_ok() {
            Self::count_excused(levels, bytes, locked);
        }
        outcome
    }

    /// Does `work` while levels that only observe let everything through; returns which of them
    /// had no room.
    pub(crate) fn excused<R>(
        locked: &mut Locked<'_>,
        work: impl FnOnce(&mut Locked<'_>) -> R,
    ) -> (R, Vec<Arc<Self>>) {
        // Somebody may be served in the middle of another attempt.
        let outer = (locked.excused, std::mem::take(&mut locked.let_through));
        locked.excused = true;
        let result = work(locked);
        let levels = std::mem::take(&mut locked.let_through);
        (locked.excused, locked.let_through) = outer;
        (result, levels)
    }

    /// Notes a charge of `bytes` that `levels` let through.
    pub(crate) fn count_excused(levels: Vec<Arc<Self>>, bytes: usize, locked: &mut Locked<'_>) {
        for at in levels {
            at.counts.excused.fetch_add(1, Relaxed);
            at.counts.excused_bytes.fetch_add(bytes as u64, Relaxed);
            locked.event(&at, BudgetEvent::WouldRefuse { requested: bytes });
        }
    }

    /// Whether this level only observes what is going on.
    fn lets_through(&self, locked: &Locked<'_>) -> bool {
        locked.excused && self.enforcement() == Enforcement::Observe
    }

    /// Finds out whether `missing` more funds may come here, and takes note if they may only
    /// because this level observes. Under the lock.
    pub(crate) fn check_room(
        self: &Arc<Self>,
        missing: usize,
        locked: &mut Locked<'_>,
    ) -> Result<(), Shortage> {
        let mut room = self.capacity().saturating_sub(self.funded());
        if missing > room && self.lets_through(locked) {
            room = MAX_FUNDS.saturating_sub(self.funded());
            if missing <= room && !locked.let_through.iter().any(|node| Arc::ptr_eq(node, self)) {
                locked.let_through.push(Arc::clone(self));
            }
        }
        match missing.checked_sub(room) {
            None | Some(0) => Ok(()),
            Some(missing) => Err(Shortage { at: Arc::clone(self), missing }),
        }
    }

    /// Makes up for funds that a root lacks, if it only observes. Under the lock.
    pub(crate) fn try_mint(&self, missing: usize, locked: &Locked<'_>) -> bool {
        let may = self.lets_through(locked) && missing <= MAX_FUNDS.saturating_sub(self.funded());
        if may {
            self.mint(missing);
        }
        may
    }

    /// Whether a single charge of `bytes` may be made at all.
    pub(crate) fn permit(&self, bytes: usize) -> Result<(), MemoryError> {
        self.permit_any()?;
        self.permit_priority(bytes, self.priority())?;
        let largest = self.throttle_limit();
        if bytes <= largest {
            Ok(())
        } else {
            Err(MemoryError::Throttled { requested: bytes, largest })
        }
    }

    /// Whether `bytes` may be charged here at `priority`.
    fn permit_priority(&self, bytes: usize, priority: u8) -> Result<(), MemoryError> {
        let least = self.least_priority();
        if priority >= least || bytes == 0 {
            Ok(())
        } else {
            Err(MemoryError::LowPriority { requested: bytes, priority, least })
        }
    }

    pub(crate) fn permit_any(&self) -> Result<(), MemoryError> {
        match self.state() {
            BudgetState::Released => Err(MemoryError::Closed { what: "the budget" }),
            _ => Ok(()),
        }
    }

    /// Spends `bytes`, with funds from the ancestors and, where they have none left, with what is
    /// lying unspent below the level that is short. Under the lock.
    pub(crate) fn spend_with_help(
        self: &Arc<Self>,
        bytes: usize,
        locked: &mut Locked<'_>,
    ) -> Result<(), Shortage> {
        self.with_help(locked, |locked| self.spend_funded(bytes, locked))
    }

    /// Makes attempts to charge this node; in between, what is lying unspent below the level that
    /// is short is collected. Under the lock.
    pub(crate) fn with_help(
        self: &Arc<Self>,
        locked: &mut Locked<'_>,
        attempt: impl Fn(&mut Locked<'_>) -> Result<(), Shortage>,
    ) -> Result<(), Shortage> {
        let mut last: Option<*const Self> = None;
        loop {
            let Err(shortage) = attempt(locked) else { return Ok(()) };
            // Each level is drained once: another attempt may fail higher up, but not there again.
            let at = Arc::as_ptr(&shortage.at);
            if last == Some(at) || self.drain(&shortage.at) == 0 {
                // What was collected may have been on its way to who waits.
                shortage.at.settle(locked);
                return Err(shortage);
            }
            last = Some(at);
        }
    }

    /// Spends `bytes`, with funds from the ancestors where its own do not cover it. Under the lock.
    pub(crate) fn spend_funded(
        self: &Arc<Self>,
        bytes: usize,
        locked: &mut Locked<'_>,
    ) -> Result<(), Shortage> {
        self.activate(locked);
        // Another thread may spend what was just borrowed; it is borrowed again then, until the
        // capacity is spent.
        loop {
            if self.spend_own(bytes, locked) {
                return Ok(());
            }
            let missing = bytes.saturating_sub(self.free());
            if missing == 0 {
                continue;
            }
            self.check_room(missing, locked)?;
            match &self.parent {
                Some(parent) => {
                    // A chunk at a time, so that the next charges need nobody, unless funds are
                    // short somewhere; then exactly what is missing.
                    let chunk = self.chunk();
                    let generous = missing < chunk
                        && chunk <= self.capacity().saturating_sub(self.funded())
                        && chunk <= parent.obtainable() / 2
                        && !self.is_short();
                    let generous = generous && parent.spend_funded(chunk, locked).is_ok();
                    if !generous {
                        parent.spend_funded(missing, locked)?;
                    }
                    self.add_funds(if generous { chunk } else { missing });
                    if generous {
                        self.enlarge_chunk();
                    }
                }
                // Room at a root, without funds to fill it: it observes, or had been larger than
                // what can be funded.
                None if self.try_mint(missing, locked) => {}
                None => return Err(Shortage { at: Arc::clone(self), missing }),
            }
        }
    }

    /// Spends `bytes` out of what is free here, and nothing else. Under the lock.
    pub(crate) fn spend_own(self: &Arc<Self>, bytes: usize, locked: &mut Locked<'_>) -> bool {
        match self.spend::<false>(bytes) {
            Spent::Not => return false,
            Spent::Quietly => {}
            Spent::WithNews { committed } => self.note(committed, locked),
        }
        true
    }

    /// Leaves the first state. Under the lock.
    pub(crate) fn activate(self: &Arc<Self>, locked: &mut Locked<'_>) {
        if self.state() == BudgetState::Created {
            self.open();
            self.set_state(BudgetState::Active, locked);
        }
    }

    pub(crate) fn set_state(self: &Arc<Self>, to: BudgetState, locked: &mut Locked<'_>) {
        let from = self.state();
        self.store_state(to);
        locked.event(self, BudgetEvent::StateChanged { from, to });
    }

    /// Puts funds into a root out of nothing. Under the lock.
    pub(crate) fn mint(&self, bytes: usize) {
        self.store_guaranteed(self.guaranteed() + bytes);
        self.add_funds(bytes);
    }

    /// Takes up to `bytes` of free funds out of a root. Under the lock.
    fn burn(&self, bytes: usize) {
        let guaranteed = self.guaranteed();
        self.store_guaranteed(guaranteed - bytes.min(guaranteed));
        self.remove_funds(bytes);
        self.store_guaranteed(self.funded());
    }

    /// What could be spent here without taking from anybody else. Under the lock.
    pub(crate) fn obtainable(&self) -> usize {
        let own = match self.state() {
            BudgetState::Created => self.guaranteed(),
            _ => self.free(),
        };
        let borrowed = match &self.parent {
            Some(parent) => parent.obtainable().min(self.capacity().saturating_sub(self.funded())),
            None => 0,
        };
        own + borrowed
    }

    /// Collects what is lying unspent below `top`, this node's ancestor or itself, and could help
    /// a charge here: at `top`, and at every level in between. Returns how much came together.
    /// Under the lock. O(n) in the number of owners and of budgets that have borrowed.
    pub(crate) fn drain(self: &Arc<Self>, top: &Arc<Self>) -> usize {
        let mut owners = vec![];
        self.until(top).for_each(|node| node.call_owners(&mut owners));
        let collected = Self::collect_from(&owners);
        self.until(top).map(|node| node.gather()).sum::<usize>() + collected
    }

    /// This node and its ancestors, up to `top`.
    pub(crate) fn until(self: &Arc<Self>, top: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        let top = Arc::as_ptr(top);
        let mut ended = false;
        self.path().take_while(move |node| !std::mem::replace(&mut ended, Arc::as_ptr(node) == top))
    }

    /// Calls the owners who hold funds that could help here: this node's, and those of budgets that
    /// have borrowed.
    fn call_owners(&self, called: &mut Vec<Arc<Slack>>) {
        let family = self.family.lock();
        called.extend(family.owners.iter().filter(|owner| owner.call()).cloned());
        family.borrowers.values().for_each(|child| child.call_owners(called));
    }

    /// Collects into this node's funds what its descendants have borrowed and not spent; returns
    /// how much that was.
    fn gather(&self) -> usize {
        let borrowers: Vec<_> = self.family.lock().borrowers.values().cloned().collect();
        let mut gathered = 0;
        for child in borrowers {
            child.gather();
            child.shrink_chunk();
            gathered += child.remove_funds(usize::MAX);
        }
        if gathered > 0 {
            self.refund(gathered);
        }
        gathered
    }

    /// Asks everybody who holds funds that could come back here to send every credit on at once,
    /// and collects what is free. Under the lock.
    pub(crate) fn ask_for_credits(self: &Arc<Self>, locked: &mut Locked<'_>) {
        let mut owners = vec![];
        self.call_owners(&mut owners);
        self.tune_below();
        if Self::collect_from(&owners) + self.gather() > 0 {
            // It may be waited for further up.
            self.settle(locked);
        }
    }

    fn tune_below(&self) {
        self.tune_for_credits();
        let borrowers: Vec<_> = self.family.lock().borrowers.values().cloned().collect();
        for child in borrowers {
            child.tune_below();
        }
    }

    /// Notes a refusal and makes the error for it. Under the lock.
    pub(crate) fn refuse(self: &Arc<Self>, bytes: usize, locked: &mut Locked<'_>) -> MemoryError {
        self.counts.refusals.fetch_add(1, Relaxed);
        self.refusal.record(self.committed(), self.capacity(), self.peak());
        if matches!(self.state(), BudgetState::Created | BudgetState::Active) {
            self.activate(locked);
            // What is unspent already is no credit, and does not end what begins now.
            if self.drain(self) > 0 {
                self.settle(locked);
            }
            self.set_state(BudgetState::Exhausted, locked);
            self.ask_for_credits(locked);
        }
        MemoryError::BudgetExceeded { requested: bytes, refusal: Arc::clone(&self.refusal) }
    }

    /// Follows up on what a charge brought to light. Under the lock.
    pub(crate) fn note(self: &Arc<Self>, committed: usize, locked: &mut Locked<'_>) {
        if self.raise_peak(committed) {
            self.set_over_high(true);
            let high = self.high();
            locked.event(self, BudgetEvent::HighMarkPassed { committed, high });
            locked.after.pressed.push((Arc::clone(self), committed - high));
            // A credit that did not see the mark passed yet.
            self.tune_for_credits();
            if self.committed() <= self.low() {
                self.leave_high(locked);
            }
        }
    }

    pub(crate) fn leave_high(self: &Arc<Self>, locked: &mut Locked<'_>) {
        self.set_over_high(false);
        locked.event(self, BudgetEvent::HighMarkLeft { committed: self.committed() });
    }

    /// As [`note`](Self::note), without the lock.
    #[cold]
    #[inline(never)]
    pub(crate) fn note_slowly(self: &Arc<Self>, committed: usize) {
        if self.state() == BudgetState::Created {
            // A charge of nothing, before there are funds.
            return;
        }
        if self.raise_peak(committed) {
            self.tree.locked(|locked| self.note(committed, locked));
        }
    }

    /// What a credit leads to when it passes the ceiling.
    #[cold]
    #[inline(never)]
    pub(crate) fn settle_slowly(self: &Arc<Self>) {
        self.tree.locked(|locked| self.settle(locked));
    }

    /// Serves who waits, ends an exhaustion, gives surplus funds to the parent, and buries a
    /// released node that has nothing left; then the same for the parent, which has funds again.
    /// Under the lock.
    pub(crate) fn settle(self: &Arc<Self>, locked: &mut Locked<'_>) {
        let excess = self.clamp();
        if excess > 0 {
            self.count_excess(excess);
            locked.event(self, BudgetEvent::OverCredited { excess });
        }
        match self.state() {
            BudgetState::Exhausted if self.free() > 0 => {
                self.set_state(BudgetState::Active, locked);
            }
            BudgetState::Created => {
                // Before its first charge nothing is free, and nothing was credited.
                self.tune();
                return;
            }
            _ => {}
        }
        if self.is_over_high() && self.committed() <= self.low() {
            self.leave_high(locked);
        }
        let excess = self.funded().saturating_sub(self.capacity());
        let Some(parent) = &self.parent else {
            if excess > 0 {
                self.burn(excess);
            }
            self.tune();
            return;
        };
        let released = self.state() == BudgetState::Released;
        let is_waited_for = self.waiting.load(Relaxed) + self.awaited.load(Relaxed) > 0;
        let mut given = self.remove_funds(excess);
        let (free, surplus) = (self.free(), self.surplus());
        if released || self.borrowed() > 0 && parent.is_short() {
            // Also what is credited between these lines.
            given += self.remove_funds(usize::MAX);
        } else if free > 2 * self.chunk() && !is_waited_for {
            // A chunk is kept against the next charge, once two are free.
            given += self.remove_funds(surplus.min(free - self.chunk()));
        }
        self.tune();
        if released && self.funded() == 0 && self.family.lock().children.is_empty() {
            let mut family = parent.family.lock();
            locked.after.gone.extend(family.borrowers.remove(&self.id));
            locked.after.gone.extend(family.children.remove(&self.id));
        }
        if given > 0 {
            parent.refund(given);
            parent.settle(locked);
        }
    }

    /// Makes a child. Its guaranteed part is charged like anything else, with reclaiming if need
    /// be; only that no throttle limits its size, because it is no single allocation.
    pub(crate) fn add_child(
        self: &Arc<Self>,
        name: &str,
        config: &BudgetConfig,
    ) -> Result<Arc<Self>, MemoryError> {
        let guaranteed = config.guaranteed_bytes();
        self.acquire(
            guaranteed,
            |locked| {
                self.permit_any()?;
                self.permit_priority(guaranteed, self.priority().min(config.priority))?;
                self.spend_with_help(guaranteed, locked)?;
                let id = locked.state.next_id;
                locked.state.next_id += 1;
                let (parent, tree) = (Arc::clone(self), Arc::clone(&self.tree));
                let child = Arc::new(Self::new(name, id, config, Some(parent), tree));
                self.lend(guaranteed);
                self.family.lock().children.insert(id, Arc::clone(&child));
                Ok(child)
            },
            |locked, shortage| Err(shortage.at.refuse(guaranteed, locked)),
        )
    }

    /// Gives the capacity back to the parent and refuses charges from now on.
    pub(crate) fn release(self: &Arc<Self>) -> Result<Option<LeakReport>, MemoryError> {
        self.tree.locked(|locked| {
            let live = self.live_children();
            if !live.is_empty() {
                return Err(MemoryError::LiveChildren(live.join(", ").into()));
            }
            if self.state() == BudgetState::Released {
                return Ok(self.leak_report());
            }
            // So that the guaranteed part is where settling looks for it.
            self.activate(locked);
            locked.close_line(self);
            self.set_state(BudgetState::Released, locked);
            self.drain(self);
            let leak = self.leak_report();
            if let Some(leak) = &leak {
                locked.event(self, BudgetEvent::Leaked { bytes: leak.bytes });
            }
            self.settle(locked);
            Ok(leak)
        })
    }

    /// Lets go of all below, once nobody can ask for them any more. They are released, and those
    /// with bytes still charged live on in the accounts that may credit them, if there are any;
    /// without this, parents and children would keep each other for ever.
    pub(crate) fn part_with_children(&self) {
        let mut gone = vec![];
        self.tree.locked(|_| self.part_locked(&mut gone));
    }

    fn part_locked(&self, gone: &mut Vec<Arc<Self>>) {
        let children = {
            let mut family = self.family.lock();
            gone.extend(mem::take(&mut family.borrowers).into_values());
            mem::take(&mut family.children)
        };
        for child in children.into_values() {
            child.part_locked(gone);
            gone.push(child);
        }
    }

    fn leak_report(&self) -> Option<LeakReport> {
        let bytes = self.funded().saturating_sub(self.free());
        let family = self.family.lock();
        (bytes > 0).then(|| LeakReport {
            path: self.refusal.path().to_owned(),
            bytes,
            bytes_below: family.children.values().map(|c| c.funded()).sum(),
            owners: family.owners.len(),
            released_children: family.children.values().map(|c| c.name().to_owned()).collect(),
        })
    }

    fn live_children(&self) -> Vec<String> {
        let family = self.family.lock();
        let live = family.children.values().filter(|c| c.state() != BudgetState::Released);
        live.map(|c| format!("`{}`", c.name())).collect()
    }

    /// Sets the largest single charge, the lowest priority that may charge, or both, in this node
    /// and below.
    pub(crate) fn throttle(self: &Arc<Self>, largest: Option<usize>, least: Option<u8>) {
        self.tree.locked(|locked| {
            // Owners' charges are looked at one by one from now on.
            let mut called = vec![];
            self.set_throttle(largest, least);
            self.throttle_locked(&mut called);
            Self::collect_from(&called);
            for owner in called {
                owner.node.settle(locked);
            }
        });
    }

    fn throttle_locked(&self, called: &mut Vec<Arc<Slack>>) {
        self.tune_throttle();
        let family = self.family.lock();
        if self.is_throttled() {
            called.extend(family.owners.iter().filter(|owner| owner.call()).cloned());
        }
        let children = family.children.values();
        children.for_each(|child| child.throttle_locked(called));
    }
}
