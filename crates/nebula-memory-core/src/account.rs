//! Accounts: where bytes are charged.

use std::{rc::Rc, sync::Arc};

use crate::MemoryError;

/// Something that bytes are charged to: a budget, or nothing at all ([`Unlimited`]).
///
/// Arenas and collections are charged through their allocator ([`Accounted`](crate::Accounted));
/// pools and caches take an account in their builder. `Send + Sync` are asked for only where an
/// account is shared.
///
/// Rules for implementors:
/// - What [`credit`](Self::credit) is given was charged before, in any pieces: charges may be split
///   and joined freely.
/// - A refused charge leaves no trace.
/// - Neither method may panic.
///
/// ```
/// use std::cell::Cell;
/// use nebula_memory_core::{Account, Align, MemoryError};
///
/// /// A purse for one thread.
/// struct Purse(Cell<usize>);
///
/// impl Account for Purse {
///     fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
///         let available = self.0.get();
///         let left = available.checked_sub(bytes).ok_or(MemoryError::CapacityExceeded {
///             requested: bytes, available, align: Align::ONE,
///         })?;
///         self.0.set(left);
///         Ok(())
///     }
///     fn credit(&self, bytes: usize) {
///         self.0.set(self.0.get() + bytes);
///     }
/// }
///
/// let purse = Purse(Cell::new(100));
/// purse.try_charge(60)?;
/// assert!(purse.try_charge(60).is_err());
/// purse.credit(60);
/// purse.try_charge(100)?;
/// # Ok::<(), MemoryError>(())
/// ```
pub trait Account {
    /// Charges `bytes`.
    ///
    /// It neither allocates nor takes long in order to describe a refusal; [`explain`] does that.
    ///
    /// # Errors
    /// If the limit of this account, or of one that it belongs to, does not allow it. Then nothing
    /// was charged, at any level.
    ///
    /// [`explain`]: Self::explain
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError>;

    /// Gives back `bytes` that were charged.
    fn credit(&self, bytes: usize);

    /// Completes a refusal of this account with what its user wants to know: the largest
    /// consumers, and advice.
    ///
    /// Called once, where an error leaves these crates for the user's code; it may allocate and
    /// take its time. Other errors, and those of accounts with nothing to add, pass unchanged.
    #[must_use]
    fn explain(&self, error: MemoryError) -> MemoryError {
        error
    }

    /// What tells these books from others: accounts that return the same number charge the same
    /// books, so that bytes charged to one may be credited to the other. An address that the books
    /// own for as long as they live will do. `None`, the default, is always safe to answer.
    fn books(&self) -> Option<usize> {
        None
    }

    /// Whether both are known to charge the same [`books`](Self::books).
    fn same_account(&self, other: &Self) -> bool
    where
        Self: Sized,
    {
        self.books().is_some_and(|books| other.books() == Some(books))
    }
}

/// The books of an account without a limit. No address is zero.
const NO_BOOKS: usize = 0;

/// The account that never refuses and keeps no books; it compiles to nothing.
///
/// ```
/// use nebula_memory_core::{Account, Unlimited};
/// assert!(Unlimited.try_charge(usize::MAX).is_ok());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unlimited;

impl Account for Unlimited {
    #[inline(always)]
    fn try_charge(&self, _bytes: usize) -> Result<(), MemoryError> {
        Ok(())
    }

    #[inline(always)]
    fn credit(&self, _bytes: usize) {}

    fn books(&self) -> Option<usize> {
        Some(NO_BOOKS)
    }
}

macro_rules! forward_account {
    ($($pointer:ty),*) => {$(
        impl<A: Account + ?Sized> Account for $pointer {
            #[inline]
            fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
                (**self).try_charge(bytes)
            }

            #[inline]
            fn credit(&self, bytes: usize) {
                (**self).credit(bytes);
            }

            fn explain(&self, error: MemoryError) -> MemoryError {
                (**self).explain(error)
            }

            fn books(&self) -> Option<usize> {
                (**self).books()
            }
        }
    )*};
}

forward_account!(&A, Arc<A>, Rc<A>);

/// `None` is [`Unlimited`].
impl<A: Account> Account for Option<A> {
    #[inline]
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        match self {
            Some(account) => account.try_charge(bytes),
            None => Ok(()),
        }
    }

    #[inline]
    fn credit(&self, bytes: usize) {
        if let Some(account) = self {
            account.credit(bytes);
        }
    }

    fn explain(&self, error: MemoryError) -> MemoryError {
        match self {
            Some(account) => account.explain(error),
            None => error,
        }
    }

    fn books(&self) -> Option<usize> {
        match self {
            Some(account) => account.books(),
            None => Some(NO_BOOKS),
        }
    }
}
