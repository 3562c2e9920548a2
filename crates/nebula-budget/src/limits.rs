//! Limits that change while the budget lives.

use nebula_memory_core::{MemoryError, sync::Arc};

use crate::{BudgetState, Enforcement, funds::MAX_FUNDS, node::Node, tree::Locked};

fn check(ok: bool, what: &str, value: usize, rule: &'static str) -> Result<(), MemoryError> {
    if ok { Ok(()) } else { Err(MemoryError::invalid_config(what, value, rule)) }
}

impl Node {
    pub(crate) fn set_capacity(self: &Arc<Self>, bytes: usize) -> Result<(), MemoryError> {
        check(bytes > 0, "capacity", bytes, "must be above zero")?;
        let excess = self.tree.locked(|locked| {
            self.permit_any()?;
            if let Some(parent) = &self.parent {
                let rule = "must be at most the parent's capacity";
                check(bytes <= parent.capacity(), "capacity", bytes, rule)?;
                let rule = "must be at least the guaranteed part";
                check(bytes >= self.guaranteed(), "capacity", bytes, rule)?;
            }
            let before = self.capacity();
            self.store_capacity(bytes);
            self.ask_for_credits(locked);
            if self.parent.is_none() {
                let (before, now) = (before.min(MAX_FUNDS), bytes.min(MAX_FUNDS));
                if self.state() == BudgetState::Created {
                    self.endow(now);
                } else if now > before {
                    // What is beyond the former capacity already was let through, or the capacity
                    // had been lowered before.
                    self.mint(now.saturating_sub(self.funded()));
                }
            }
            locked.review_line();
            self.settle(locked);
            self.follow_high(locked);
            Ok::<_, MemoryError>(self.committed().saturating_sub(bytes))
        })?;
        if excess > 0 {
            self.relieve(excess);
        }
        Ok(())
    }

    pub(crate) fn set_guaranteed(self: &Arc<Self>, bytes: usize) -> Result<(), MemoryError> {
        let Some(parent) = &self.parent else {
            return check(false, "guaranteed", bytes, "must be left as it is for a root");
        };
        let outcome = parent.acquire(
            bytes.saturating_sub(self.funded()),
            |locked| {
                self.permit_any()?;
                let rule = "must be at most the capacity";
                check(bytes <= self.capacity(), "guaranteed", bytes, rule)?;
                // What it has already is not to be collected while the rest is looked for.
                let before = self.guaranteed();
                self.store_guaranteed(before.max(bytes.min(self.funded())));
                let missing = bytes.saturating_sub(self.funded());
                if let Err(shortage) = parent.spend_with_help(missing, locked) {
                    self.store_guaranteed(before);
                    self.settle(locked);
                    return Err(shortage.into());
                }
                if self.state() == BudgetState::Created {
                    // Its funds are not in `free` yet.
                    let before = self.funded();
                    self.endow(bytes);
                    parent.lend(missing);
                    let back = before.saturating_sub(bytes);
                    parent.take_back(back);
                    parent.refund(back);
                    parent.settle(locked);
                } else {
                    if missing > 0 {
                        self.add_funds(missing);
                    }
                    self.store_guaranteed(bytes);
                    if self.is_short() {
                        // What was its own is wanted further up now, from all below.
                        self.ask_for_credits(locked);
                    }
                    // What is not guaranteed any more goes back now, not chunk by chunk.
                    let back = self.remove_funds(before.saturating_sub(bytes));
                    parent.refund(back);
                    parent.settle(locked);
                    self.settle(locked);
                }
                Ok(())
            },
            |locked, shortage| Err(shortage.at.refuse(bytes.saturating_sub(self.funded()), locked)),
        );
        outcome.map_err(|error| parent.explain(error))
    }

    /// Sets the funds of a budget that was never charged.
    fn endow(&self, bytes: usize) {
        self.store_guaranteed(self.guaranteed().min(bytes));
        self.store_funded(bytes);
        self.store_guaranteed(bytes);
        self.tune();
    }

    pub(crate) fn set_high(self: &Arc<Self>, bytes: Option<usize>) -> Result<(), MemoryError> {
        if let Some(bytes) = bytes {
            check(bytes <= self.capacity(), "high", bytes, "must be at most the capacity")?;
        }
        self.tree.locked(|locked| {
            self.store_high(bytes.unwrap_or(usize::MAX));
            self.follow_high(locked);
        });
        Ok(())
    }

    /// Looks whether the high mark is passed or left, after it (or the capacity) has changed.
    fn follow_high(self: &Arc<Self>, locked: &mut Locked<'_>) {
        if self.is_over_high() && self.committed() <= self.low() {
            self.leave_high(locked);
        }
        self.note(self.committed(), locked);
    }

    pub(crate) fn set_enforcement(self: &Arc<Self>, enforcement: Enforcement) {
        self.tree.locked(|locked| {
            self.store_enforcement(enforcement);
            locked.review_line();
            self.settle(locked);
        });
    }
}
