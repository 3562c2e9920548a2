//! What all budgets of a tree share: the lock under which funds move, and what waits for its end.

use std::collections::BTreeMap;

use nebula_memory_core::{
    Charge, WaitSlot,
    panics::quietly,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{
    BudgetAccount, BudgetEvent,
    events::Pending,
    line::{Entry, Place},
    node::Node,
};

/// What all budgets of a tree share.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Arbitration: whoever moves funds, changes a state or walks the tree holds this lock.
    state: Mutex<State>,
    /// How many hooks there are in the tree: without any, events are not even noted.
    pub(crate) hooks: AtomicUsize,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The next node's number. The root is 0.
    pub(crate) next_id: u64,
    /// The next waiter's place in line.
    pub(crate) next_ticket: u64,
    /// How many events there have been.
    pub(crate) events: u64,
    /// Everybody who waits, by priority and age.
    pub(crate) line: BTreeMap<Place, Entry>,
}

/// The tree's lock, and what is to be done once it is released.
pub(crate) struct Locked<'t> {
    pub(crate) state: MutexGuard<'t, State>,
    pub(crate) after: After,
    /// Levels that only observe let this attempt through.
    pub(crate) excused: bool,
    /// The levels that did, where there was no room.
    pub(crate) let_through: Vec<Arc<Node>>,
    watched: bool,
}

/// What must not happen under the lock: other people's code, and drops.
#[derive(Default)]
pub(crate) struct After {
    /// Nodes that left the tree.
    pub(crate) gone: Vec<Arc<Node>>,
    /// Waiters that were served.
    pub(crate) served: Vec<Arc<WaitSlot<Charge<BudgetAccount>>>>,
    pub(crate) events: Vec<Pending>,
    /// Nodes that passed their high mark, by how much.
    pub(crate) pressed: Vec<(Arc<Node>, usize)>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let state = State { next_id: 1, ..State::default() };
        Self { state: Mutex::new(state), hooks: AtomicUsize::new(0) }
    }

    /// Runs `work` under the lock, and then, without it, what it left to do.
    pub(crate) fn locked<R>(&self, work: impl FnOnce(&mut Locked<'_>) -> R) -> R {
        let mut locked = Locked {
            state: self.state.lock(),
            after: After::default(),
            excused: false,
            let_through: vec![],
            watched: self.hooks.load(Relaxed) > 0,
        };
        let result = work(&mut locked);
        if !locked.state.line.is_empty() {
            locked.serve_line();
        }
        let Locked { state, after, .. } = locked;
        drop(state);
        after.run();
        result
    }
}

impl Locked<'_> {
    /// Notes what happened at `node`, for the hooks there and above.
    pub(crate) fn event(&mut self, node: &Arc<Node>, event: BudgetEvent) {
        if self.watched {
            self.state.events += 1;
            let sequence = self.state.events;
            self.after.events.push(Pending { node: Arc::clone(node), sequence, event });
        }
    }
}

impl After {
    fn run(self) {
        // A waker is the runtime's code; if one panics, the others are woken all the same, and what
        // else there is to do is done. The panic does not get out: a credit, which may be made by
        // an allocator in the middle of its work, must not unwind.
        for slot in self.served {
            quietly(|| slot.wake());
        }
        for pending in self.events {
            pending.deliver();
        }
        for (node, missing) in self.pressed {
            node.relieve(missing);
        }
        quietly(|| drop(self.gone));
    }
}
