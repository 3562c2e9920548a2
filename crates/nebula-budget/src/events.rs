//! What happens at budgets, and who wants to hear of it.

use std::fmt;

use nebula_memory_core::{
    ByteSize,
    panics::quietly,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
};

use crate::{BudgetState, node::Node};

/// Something that happened at a budget. See [`MemoryBudget::watch`](crate::MemoryBudget::watch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum BudgetEvent {
    /// The budget is in another state.
    StateChanged {
        /// The state before.
        from: BudgetState,
        /// The state since.
        to: BudgetState,
    },
    /// What is committed passed the high mark. Reclaimers are asked for the difference next.
    HighMarkPassed {
        /// Bytes committed.
        committed: usize,
        /// The mark, in bytes.
        high: usize,
    },
    /// What is committed fell a sixteenth below the high mark, or further.
    HighMarkLeft {
        /// Bytes committed.
        committed: usize,
    },
    /// A budget that only observes let a charge through that would have been refused.
    WouldRefuse {
        /// Bytes charged.
        requested: usize,
    },
    /// More was credited than was charged; the excess was ignored.
    OverCredited {
        /// The excess, in bytes.
        excess: usize,
    },
    /// The budget was released while bytes were charged; they stay counted at the parent until
    /// they are credited.
    Leaked {
        /// Bytes charged.
        bytes: usize,
    },
}

impl fmt::Display for BudgetEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = ByteSize::new;
        match *self {
            Self::StateChanged { from, to } => write!(f, "{from} -> {to}"),
            Self::HighMarkPassed { committed, high } => {
                write!(f, "{} are committed, above the mark of {}", size(committed), size(high))
            }
            Self::HighMarkLeft { committed } => {
                write!(f, "{} are committed, well below the high mark again", size(committed))
            }
            Self::WouldRefuse { requested } => {
                write!(f, "a charge of {} would have been refused", size(requested))
            }
            Self::OverCredited { excess } => {
                write!(f, "{} were credited that nobody had charged", size(excess))
            }
            Self::Leaked { bytes } => write!(f, "released with {} still charged", size(bytes)),
        }
    }
}

/// An event, and where and when it happened.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct BudgetNotice<'a> {
    /// The budget: names from the root, joined by `/`.
    pub path: &'a str,
    /// The event's number in its tree, counted from 1. Hooks run on the threads that caused the
    /// events, so that two may arrive in another order than they happened in.
    pub sequence: u64,
    /// What happened.
    pub event: BudgetEvent,
}

type Hook = dyn Fn(&BudgetNotice<'_>) + Send + Sync;

/// The hooks of one node.
#[derive(Default)]
pub(crate) struct Hooks(Mutex<Vec<Arc<Hook>>>);

/// An event that is to be delivered once the tree's lock is released.
pub(crate) struct Pending {
    pub(crate) node: Arc<Node>,
    pub(crate) sequence: u64,
    pub(crate) event: BudgetEvent,
}

impl Pending {
    pub(crate) fn deliver(self) {
        let Self { node, sequence, event } = self;
        let notice = BudgetNotice { path: node.refusal.path(), sequence, event };
        for node in node.path() {
            let Some(hooks) = node.hooks.get() else { continue };
            // Taken out: a hook may add and remove hooks.
            let hooks = hooks.0.lock().clone();
            for hook in hooks {
                // A hook's panic is not the charger's.
                quietly(|| hook(&notice));
            }
        }
    }
}

impl Node {
    pub(crate) fn watch(self: &Arc<Self>, hook: Arc<Hook>) -> Watch {
        self.hooks.get_or_init(Box::default).0.lock().push(Arc::clone(&hook));
        self.tree.hooks.fetch_add(1, Relaxed);
        Watch(Some((Arc::clone(self), hook)))
    }
}

/// Keeps a hook in place; dropping it removes the hook.
#[must_use = "dropping a watch ends it"]
pub struct Watch(Option<(Arc<Node>, Arc<Hook>)>);

impl Watch {
    /// Leaves the hook in place for as long as the budget lives.
    pub fn detach(mut self) {
        self.0 = None;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some((node, hook)) = self.0.take() else { return };
        let Some(hooks) = node.hooks.get() else { return };
        let removed = {
            let mut hooks = hooks.0.lock();
            let at = hooks.iter().position(|other| Arc::ptr_eq(other, &hook));
            at.map(|at| hooks.remove(at))
        };
        if removed.is_some() {
            node.tree.hooks.fetch_sub(1, Relaxed);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.as_ref().map(|(node, _)| node.refusal.path());
        f.debug_tuple("Watch").field(&path).finish()
    }
}
