//! An account that can be exchanged while what it is charged for is in use.

use std::{
    cell::{Cell, RefCell},
    fmt,
};

use nebula_memory_core::{Account, MemoryError, Refused};

/// An account that passes everything on to `C`, counts the bytes, and can be moved to another `C`
/// with [`CrossThreadArena::try_move_to`](crate::CrossThreadArena::try_move_to).
///
/// Nobody can borrow the `C` inside. That is what makes moving sound while a root is alive: a root
/// may hold a reference to whatever can be reached through its arena.
///
/// ```
/// use nebula_arena::{Arena, MovableAccount};
/// use nebula_memory_core::{Accounted, Global, Unlimited};
///
/// let account = MovableAccount::new(Unlimited);
/// let arena = Arena::new_in(Accounted::new(Global, account));
/// arena.alloc(1);
/// assert_eq!(arena.allocator().account().charged(), arena.allocated_bytes());
/// ```
pub struct MovableAccount<C> {
    account: RefCell<C>,
    charged: Cell<usize>,
}

impl<C: Account> MovableAccount<C> {
    /// Charges `account`, for now.
    pub const fn new(account: C) -> Self {
        Self { account: RefCell::new(account), charged: Cell::new(0) }
    }

    /// Bytes charged through this.
    pub fn charged(&self) -> usize {
        self.charged.get()
    }

    /// The account of the moment; nothing is moved.
    pub fn into_inner(self) -> C {
        self.account.into_inner()
    }

    /// Moves what is charged, and what will be, to `account`. Not to be called by what a charge
    /// runs (which none can that does not hold this exclusively).
    pub(crate) fn try_move_to(&self, account: C) -> Result<C, Refused<C>> {
        let bytes = self.charged();
        if let Err(error) = account.try_charge(bytes) {
            let error = account.explain(error);
            return Err(Refused::new(account, error));
        }
        let before = self.account.replace(account);
        before.credit(bytes);
        Ok(before)
    }
}

impl<C: Account> Account for MovableAccount<C> {
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        self.account.borrow().try_charge(bytes)?;
        self.charged.set(self.charged.get().saturating_add(bytes));
        Ok(())
    }

    fn credit(&self, bytes: usize) {
        self.charged.set(self.charged.get().saturating_sub(bytes));
        self.account.borrow().credit(bytes);
    }

    fn explain(&self, error: MemoryError) -> MemoryError {
        self.account.borrow().explain(error)
    }

    fn books(&self) -> Option<usize> {
        self.account.borrow().books()
    }
}

impl<C> fmt::Debug for MovableAccount<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MovableAccount")
            .field("charged", &self.charged.get())
            .finish_non_exhaustive()
    }
}
