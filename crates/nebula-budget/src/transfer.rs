//! Moving charged bytes from one budget to another, unseen by those above both.

use nebula_memory_core::{MemoryError, sync::Arc};

use crate::{
    arbitration::{Denied, Shortage},
    node::{Node, Spent},
    tree::Locked,
};

impl Node {
    /// Charges to `to` what is charged here, directly, to the byte. On an error nothing changed.
    pub(crate) fn transfer(
        self: &Arc<Self>,
        to: &Arc<Self>,
        bytes: usize,
    ) -> Result<(), MemoryError> {
        if !Arc::ptr_eq(&self.tree, &to.tree) {
            // Two trees have nothing in common: counted in both for a moment, rather than in none.
            to.try_charge(bytes)?;
            self.credit(bytes);
            return Ok(());
        }
        to.acquire(
            bytes,
            |locked| {
                to.permit(bytes)?;
                let attempt = |locked: &mut Locked<'_>| self.transfer_locked(to, bytes, locked);
                to.with_help(locked, attempt).map_err(Denied::from)
            },
            |locked, shortage| Err(shortage.at.refuse(bytes, locked)),
        )
    }

    /// The nearest node that is an ancestor of both, or one of them.
    fn meeting(self: &Arc<Self>, other: &Arc<Self>) -> Option<Arc<Self>> {
        self.path().find(|node| other.path().any(|o| Arc::ptr_eq(o, node))).cloned()
    }

    fn transfer_locked(
        self: &Arc<Self>,
        to: &Arc<Self>,
        bytes: usize,
        locked: &mut Locked<'_>,
    ) -> Result<(), Shortage> {
        let Some(meeting) = self.meeting(to) else {
            return Err(Shortage { at: Arc::clone(to), missing: bytes });
        };
        let below = |node: &&Arc<Self>| !Arc::ptr_eq(node, &meeting);

        // What can leave each level on the way up; the rest is guaranteed there, and becomes free.
        let mut carried = bytes;
        let mut leaving = vec![];
        for node in self.path().take_while(below) {
            let leaves = carried.min(node.borrowed());
            leaving.push((Arc::clone(node), leaves, carried - leaves));
            carried = leaves;
        }

        // What each level on the way down needs, after it has given what it has.
        let mut needed = bytes;
        let mut entering: Vec<(Arc<Self>, usize, usize)> = vec![];
        let mut short = None;
        for node in to.path().take_while(below) {
            node.activate(locked);
            let own = node.spend_up_to(needed);
            needed -= own;
            entering.push((Arc::clone(node), needed, own));
            short = node.check_room(needed, locked).err();
            if short.is_some() {
                break;
            }
        }
        if short.is_none() && needed > carried {
            short = meeting.spend_funded(needed - carried, locked).err();
        }
        if let Some(short) = short {
            for (node, _, own) in entering {
                node.refund(own);
                node.settle(locked);
            }
            return Err(short);
        }

        // From here on nothing can fail. Funds move as they are: spent.
        for (node, leaves, stays) in &leaving {
            node.store_funded(node.funded() - leaves);
            if let Some(parent) = &node.parent {
                parent.take_back(*leaves);
            }
            node.refund(*stays);
        }
        for (node, enters, _) in entering.iter().rev() {
            if let Some(parent) = &node.parent {
                parent.lend(*enters);
            }
            node.store_funded(node.funded() + enters);
            node.note(node.committed(), locked);
        }
        to.hot.free.count(1);
        meeting.refund(carried.saturating_sub(needed));
        for (node, ..) in leaving {
            node.settle(locked);
        }
        meeting.settle(locked);
        Ok(())
    }

    /// Spends what is free here, up to `bytes`; returns how much that was. What news that is has
    /// to be seen to once nothing can fail any more.
    fn spend_up_to(&self, bytes: usize) -> usize {
        loop {
            let own = self.free().min(bytes);
            if !matches!(self.spend::<false>(own), Spent::Not) {
                return own;
            }
        }
    }
}
