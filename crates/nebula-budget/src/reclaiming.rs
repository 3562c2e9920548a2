//! Whom a budget that is short asks to give memory back, and how much of them.
//!
//! First those who belong to the charged budget or to one above it, up to the level that is short;
//! then the budgets beside, each up to what it has borrowed: its guaranteed part is its own. In
//! both groups what is idle goes before what is in use, that is, lower priorities before higher
//! ones. No lock is held while they work.

use nebula_memory_core::{PressureLevel, ReclaimRegistry, sync::Arc};

use crate::{arbitration::Shortage, node::Node};

/// Reclaimers that may be asked for so many bytes, together with others of the same allowance.
struct Asked {
    registry: ReclaimRegistry,
    allowance: usize,
}

impl Node {
    /// Asks for what is missing, before something is refused.
    pub(crate) fn reclaim_for(self: &Arc<Self>, shortage: &Shortage) {
        self.reclaim_below(&shortage.at, shortage.missing, PressureLevel::Critical);
    }

    /// Asks for what is committed beyond the high mark, or beyond a capacity that was lowered.
    pub(crate) fn relieve(self: &Arc<Self>, missing: usize) {
        self.reclaim_below(self, missing, PressureLevel::High);
    }

    /// Asks those below `top` for `wanted` bytes, beginning with those on the way there from here.
    /// Returns how much they gave.
    pub(crate) fn reclaim_below(
        self: &Arc<Self>,
        top: &Arc<Self>,
        wanted: usize,
        urgency: PressureLevel,
    ) -> usize {
        let mut own = vec![];
        let mut beside: Vec<Vec<Asked>> = vec![];
        let mut from: Option<u64> = None;
        for node in self.path() {
            own.extend(node.asked(usize::MAX));
            // Collected level by level, each under its family's own lock for a moment.
            let borrowers: Vec<_> = node.family.lock().borrowers.values().cloned().collect();
            for child in borrowers {
                if Some(child.id) != from {
                    let mut asked = vec![];
                    child.collect(child.borrowed_now(), &mut asked);
                    beside.push(asked);
                }
            }
            if Arc::ptr_eq(node, top) {
                break;
            }
            from = Some(node.id);
        }
        let mut given = ask(&mut [own], wanted, urgency);
        if given < wanted {
            given += ask(&mut beside, wanted - given, urgency);
        }
        given
    }

    /// The reclaimers of this node and of all below, for `allowance` bytes.
    fn collect(&self, allowance: usize, into: &mut Vec<Asked>) {
        into.extend(self.asked(allowance));
        let children: Vec<_> = self.family.lock().children.values().cloned().collect();
        for child in children {
            child.collect(allowance, into);
        }
    }

    fn asked(&self, allowance: usize) -> Option<Asked> {
        let registry = self.known_reclaimers()?.clone();
        Some(Asked { registry, allowance })
    }

    /// What it has borrowed, seen without the lock.
    fn borrowed_now(&self) -> usize {
        self.funded().saturating_sub(self.guaranteed())
    }
}

/// Asks for `wanted` bytes, lower priorities of all groups first. No group gives more than its
/// members' allowance. Returns how much was given.
fn ask(groups: &mut [Vec<Asked>], wanted: usize, urgency: PressureLevel) -> usize {
    let mut given = 0_usize;
    let mut from = 0;
    loop {
        let asked = groups.iter().flatten();
        let Some(priority) = asked.filter_map(|a| a.registry.next_priority(from)).min() else {
            return given;
        };
        for group in groups.iter_mut() {
            for i in 0..group.len() {
                let allowed = (wanted - given).min(group[i].allowance);
                if allowed == 0 {
                    continue;
                }
                let report = group[i].registry.reclaim_among(priority..=priority, allowed, urgency);
                // Who gives more than it was asked for has been generous; its allowance is spent.
                for member in group.iter_mut() {
                    member.allowance = member.allowance.saturating_sub(report.given);
                }
                given = given.saturating_add(report.given);
                if given >= wanted {
                    return given;
                }
            }
        }
        match priority.checked_add(1) {
            Some(next) => from = next,
            None => return given,
        }
    }
}
