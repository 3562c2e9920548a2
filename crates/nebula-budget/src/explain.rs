//! What is told about a refusal, once somebody wants to know.

use std::collections::BTreeMap;

use nebula_memory_core::{Consumer, MemoryError, RefusalDetails, sync::Arc};

use crate::node::Node;

/// How many consumers a refusal names.
const CONSUMERS: usize = 5;

impl Node {
    /// Adds to a refusal of this node, or of an ancestor, whose memory stands in the way.
    pub(crate) fn explain(self: &Arc<Self>, error: MemoryError) -> MemoryError {
        let (requested, refusal, is_deadlock) = match &error {
            MemoryError::BudgetExceeded { requested, refusal } => (*requested, refusal, false),
            MemoryError::Deadlock { requested, refusal } => (*requested, refusal, true),
            _ => return error,
        };
        if refusal.details().is_some() {
            return error;
        }
        let Some(level) = self.path().find(|node| Arc::ptr_eq(&node.refusal, refusal)) else {
            return error;
        };
        let (consumers, charged_bytes) = self.tree.locked(|_| {
            let (committed, used) = level.figures();
            // Charges that are refused meanwhile may have left other figures.
            (largest(&level.family.lock().children), (committed == refusal.used()).then_some(used))
        });
        let advice = if is_deadlock {
            ""
        } else if requested > level.capacity() {
            "it can never hold that much: ask for less, or raise its capacity"
        } else if consumers.is_empty() {
            "free some of it, or raise its capacity"
        } else {
            "free memory there, or raise the capacity"
        };
        let charged = self.refusal.path().to_owned();
        let details = RefusalDetails { charged, charged_bytes, consumers, advice };
        let refusal = Arc::new(refusal.frozen(details));
        if is_deadlock {
            MemoryError::Deadlock { requested, refusal }
        } else {
            MemoryError::BudgetExceeded { requested, refusal }
        }
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
        name: node.name().to_owned(),
        used,
        limit: node.capacity(),
    };
    largest.into_iter().map(consumer).collect()
}
