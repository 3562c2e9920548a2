//! Bytes charged to a budget, credited on drop.

use std::fmt;

use nebula_memory_core::{Align, Charge, MemoryError, Refused, sync::Arc};

use crate::{BudgetAccount, Grow, MemoryBudget, node::Node, slack::Slack};

/// Bytes charged to a budget, credited on drop. What
/// [`MemoryBudget::try_reserve`](MemoryBudget::try_reserve) returns.
///
/// A reservation that grows and shrinks again and again takes funds from its budget in chunks, and
/// then a change costs about a nanosecond, at any depth of the tree; see
/// [`LocalBudget`](crate::LocalBudget), which does the same for accounts. Like it, it can be sent to
/// other threads, and does not keep its budget from being released.
///
/// ```
/// use nebula_budget::MemoryBudget;
///
/// let process = MemoryBudget::root("process", 1 << 20)?;
/// let (a, b) = (process.child("a", 1 << 18)?, process.child("b", 1 << 18)?);
///
/// let mut buffer = a.try_reserve(1000)?;
/// buffer.try_grow(500)?;
/// buffer.shrink(100);
/// assert_eq!((buffer.bytes(), a.used()), (1400, 1400));
///
/// let half = buffer.split(700)?;
/// buffer.merge(half)?;
/// // b takes the buffer over, with all that it weighs.
/// let buffer = buffer.transfer(&b)?;
/// assert_eq!((a.used(), b.used()), (0, 1400));
/// # drop(buffer);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[must_use = "dropping a reservation credits it at once"]
pub struct Reservation {
    node: Arc<Node>,
    held: Held,
}

/// How the bytes are charged.
enum Held {
    /// To the budget, so many, after so many changes.
    Direct { bytes: usize, changes: u8 },
    /// Through funds of its own.
    Owned(Arc<Slack>),
}

/// With this many changes of size, a reservation is worth the making of funds of its own.
const CHANGES: u8 = 4;

impl Reservation {
    pub(crate) fn try_new(node: &Arc<Node>, bytes: usize) -> Result<Self, MemoryError> {
        match node.try_charge(bytes) {
            Ok(()) => Ok(Self::adopt(Arc::clone(node), bytes)),
            Err(error) => Err(node.explain(error)),
        }
    }

    /// Takes over `bytes` that are charged already.
    fn adopt(node: Arc<Node>, bytes: usize) -> Self {
        Self { node, held: Held::Direct { bytes, changes: 0 } }
    }

    /// Bytes charged.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.held {
            Held::Direct { bytes, .. } => *bytes,
            Held::Owned(slack) => slack.bytes(),
        }
    }

    /// The charged budget's names from the root, joined by `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.node.refusal.path()
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Charges `more` bytes on top.
    ///
    /// # Errors
    /// The budget's refusal, explained; the reservation stays as it was.
    #[inline]
    pub fn try_grow(&mut self, more: usize) -> Result<(), MemoryError> {
        if let Held::Owned(slack) = &self.held {
            if slack.spend(more) {
                return Ok(());
            }
        }
        self.grow_slowly(more)
    }

    #[cold]
    #[inline(never)]
    fn grow_slowly(&mut self, more: usize) -> Result<(), MemoryError> {
        let held = self.bytes();
        let charged = match held.checked_add(more) {
            None => Err(MemoryError::CapacityExceeded {
                requested: more,
                available: usize::MAX - held,
                align: Align::ONE,
            }),
            Some(_) => match &mut self.held {
                Held::Owned(slack) => slack.charge_slowly(more),
                Held::Direct { bytes, changes } => self.node.try_charge(more).map(|()| {
                    *bytes += more;
                    *changes = changes.saturating_add(1);
                }),
            },
        };
        self.own_funds();
        charged.map_err(|error| self.node.explain(error))
    }

    /// Credits `fewer` bytes, or all of them if the reservation is smaller; returns how many it was.
    #[inline]
    pub fn shrink(&mut self, fewer: usize) -> usize {
        if let Held::Owned(slack) = &self.held {
            return fewer - slack.credit(fewer);
        }
        self.shrink_directly(fewer)
    }

    fn shrink_directly(&mut self, fewer: usize) -> usize {
        let Held::Direct { bytes, changes } = &mut self.held else { return 0 };
        let credited = fewer.min(*bytes);
        *bytes -= credited;
        *changes = changes.saturating_add(1);
        self.node.credit(credited);
        self.own_funds();
        credited
    }

    /// Gets funds of its own after a few changes, if the budget may part with them.
    fn own_funds(&mut self) {
        if let Held::Direct { bytes, changes: CHANGES.. } = self.held {
            if self.node.may_lend() {
                let slack = Slack::open(&self.node);
                slack.take_over(bytes);
                self.held = Held::Owned(slack);
            }
        }
    }

    /// Grows or shrinks the reservation to `bytes`.
    ///
    /// # Errors
    /// As [`try_grow`](Self::try_grow), where it has to grow.
    pub fn try_resize(&mut self, bytes: usize) -> Result<(), MemoryError> {
        match bytes.checked_sub(self.bytes()) {
            Some(more) => self.try_grow(more),
            None => {
                self.shrink(self.bytes() - bytes);
                Ok(())
            }
        }
    }

    /// Waits for `more` bytes on top: await it, or block on it with
    /// [`wait_timeout`](Grow::wait_timeout). What is held already is kept meanwhile, which is taken
    /// into account where those who wait hold everything themselves.
    ///
    /// # Errors
    /// As [`MemoryBudget::reserve`]; the reservation stays as it was.
    pub fn grow(&mut self, more: usize) -> Grow<'_> {
        Grow::new(self, more)
    }

    /// Takes `bytes` into a reservation of their own.
    ///
    /// # Errors
    /// [`MemoryError::CapacityExceeded`] if the reservation is smaller than that.
    pub fn split(&mut self, bytes: usize) -> Result<Self, MemoryError> {
        let held = self.bytes();
        if bytes > held {
            return Err(MemoryError::CapacityExceeded {
                requested: bytes,
                available: held,
                align: Align::ONE,
            });
        }
        self.charge_directly(bytes);
        self.hand_over(bytes);
        Ok(Self::adopt(Arc::clone(&self.node), bytes))
    }

    /// Joins `other` to this reservation. Those of one budget are simply added; otherwise the other
    /// one's bytes are transferred first.
    ///
    /// # Errors
    /// `other` is handed back, with both as they were, if this one's budget refuses; also if they
    /// are more than a `usize` can count.
    pub fn merge(&mut self, other: Self) -> Result<(), Refused<Self>> {
        if self.bytes().checked_add(other.bytes()).is_none() {
            let (requested, available) = (other.bytes(), usize::MAX - self.bytes());
            let align = Align::ONE;
            let error = MemoryError::CapacityExceeded { requested, available, align };
            return Err(Refused::new(other, error));
        }
        let mut other = other.move_to(&self.node)?;
        self.adopt_more(other.take());
        Ok(())
    }

    /// Charges the bytes to `budget` instead, and returns the reservation there. Nothing in between
    /// is seen by anybody, and nothing is charged twice, so that this succeeds even if all budgets
    /// above both are full. What was charged out of a guaranteed part stays guaranteed to the budget
    /// it leaves, and has to be found for the other one as by any charge.
    ///
    /// # Errors
    /// The reservation is handed back as it was, if `budget`, or a level above it that has to give
    /// more than comes in, has no room.
    pub fn transfer(self, budget: &MemoryBudget) -> Result<Self, Refused<Self>> {
        self.move_to(budget.node())
    }

    fn move_to(mut self, node: &Arc<Node>) -> Result<Self, Refused<Self>> {
        if Arc::ptr_eq(&self.node, node) {
            return Ok(self);
        }
        let bytes = self.bytes();
        self.charge_directly(bytes);
        match self.node.transfer(node, bytes) {
            Ok(()) => {
                self.hand_over(bytes);
                Ok(Self::adopt(Arc::clone(node), bytes))
            }
            Err(error) => {
                let error = node.explain(error);
                Err(Refused::new(self, error))
            }
        }
    }

    /// Sees to it that `bytes` of what is charged are charged to the budget directly.
    fn charge_directly(&self, bytes: usize) {
        if let Held::Owned(slack) = &self.held {
            slack.charge_directly(bytes);
        }
    }

    /// Gives up `bytes` that are charged to the budget directly, without crediting them.
    fn hand_over(&mut self, bytes: usize) {
        match &mut self.held {
            Held::Direct { bytes: held, .. } => *held -= bytes,
            Held::Owned(slack) => slack.hand_over(bytes),
        }
    }

    /// Leaves nothing to be credited on drop; what is returned is charged to the budget directly.
    fn take(&mut self) -> usize {
        let bytes = self.bytes();
        self.charge_directly(bytes);
        self.hand_over(bytes);
        bytes
    }

    /// Takes over `bytes` that are charged to this budget directly.
    fn adopt_more(&mut self, more: usize) {
        match &mut self.held {
            Held::Direct { bytes, .. } => *bytes += more,
            Held::Owned(slack) => slack.take_over(more),
        }
    }

    pub(crate) fn absorb(&mut self, charge: Charge<BudgetAccount>) {
        let (_, bytes) = charge.forget();
        self.adopt_more(bytes);
    }
}

/// The same bytes, in the form that works with any account.
impl From<Reservation> for Charge<BudgetAccount> {
    fn from(mut reservation: Reservation) -> Self {
        let bytes = reservation.take();
        Self::adopt(BudgetAccount(Arc::clone(&reservation.node)), bytes)
    }
}

impl From<Charge<BudgetAccount>> for Reservation {
    fn from(charge: Charge<BudgetAccount>) -> Self {
        let (BudgetAccount(node), bytes) = charge.forget();
        Self::adopt(node, bytes)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let bytes = match &self.held {
            Held::Direct { bytes, .. } => *bytes,
            Held::Owned(slack) => {
                slack.close();
                slack.bytes()
            }
        };
        self.node.credit(bytes);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("path", &self.path())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}
