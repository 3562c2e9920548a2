//! A charge that is credited when it is dropped.

use std::mem::ManuallyDrop;

use crate::{Account, Align, MemoryError, Refused};

/// Bytes charged to an account, credited on drop.
///
/// The account is held by value; pass `&account`, an `Arc`, or a handle that is cheap to clone.
///
/// ```
/// use nebula_memory_core::{Charge, Unlimited};
///
/// let mut charge = Charge::try_new(Unlimited, 1000)?;
/// charge.try_grow(24)?;
/// let part = charge.split(24)?;
/// assert_eq!((charge.bytes(), part.bytes()), (1000, 24));
/// charge.merge(part)?;
/// assert_eq!(charge.bytes(), 1024);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping a charge credits it at once"]
pub struct Charge<A: Account> {
    account: A,
    bytes: usize,
}

impl<A: Account> Charge<A> {
    /// Charges `bytes` to `account`.
    ///
    /// # Errors
    /// The account's refusal, explained; nothing is charged then.
    pub fn try_new(account: A, bytes: usize) -> Result<Self, MemoryError> {
        match account.try_charge(bytes) {
            Ok(()) => Ok(Self { account, bytes }),
            Err(error) => Err(account.explain(error)),
        }
    }

    /// Takes over `bytes` that are charged to `account` already; dropping the charge credits them.
    pub const fn adopt(account: A, bytes: usize) -> Self {
        Self { account, bytes }
    }

    /// Bytes charged.
    #[inline]
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The account that is charged.
    #[inline]
    #[must_use]
    pub const fn account(&self) -> &A {
        &self.account
    }

    /// Charges `more` bytes on top.
    ///
    /// # Errors
    /// The account's refusal, explained; the charge stays as it was.
    #[inline]
    pub fn try_grow(&mut self, more: usize) -> Result<(), MemoryError> {
        let Some(bytes) = self.bytes.checked_add(more) else {
            return Err(MemoryError::CapacityExceeded {
                requested: more,
                available: usize::MAX - self.bytes,
                align: Align::ONE,
            });
        };
        match self.account.try_charge(more) {
            Ok(()) => {
                self.bytes = bytes;
                Ok(())
            }
            Err(error) => Err(self.account.explain(error)),
        }
    }

    /// Credits `fewer` bytes, or all of them if the charge is smaller; returns how many it was.
    #[inline]
    pub fn shrink(&mut self, fewer: usize) -> usize {
        let credited = fewer.min(self.bytes);
        self.bytes -= credited;
        self.account.credit(credited);
        credited
    }

    /// Grows or shrinks the charge to `bytes`.
    ///
    /// # Errors
    /// As [`try_grow`](Self::try_grow), where it has to grow.
    pub fn try_resize(&mut self, bytes: usize) -> Result<(), MemoryError> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.try_grow(more),
            None => {
                self.shrink(self.bytes - bytes);
                Ok(())
            }
        }
    }

    /// Takes `bytes` of the charge into a charge of its own.
    ///
    /// # Errors
    /// [`MemoryError::CapacityExceeded`] if the charge is smaller than that.
    pub fn split(&mut self, bytes: usize) -> Result<Self, MemoryError>
    where
        A: Clone,
    {
        let Some(left) = self.bytes.checked_sub(bytes) else {
            return Err(MemoryError::CapacityExceeded {
                requested: bytes,
                available: self.bytes,
                align: Align::ONE,
            });
        };
        // Cloned before the books change: `Clone` is the account's code and may panic.
        let account = self.account.clone();
        self.bytes = left;
        Ok(Self { account, bytes })
    }

    /// Joins `other` to this charge.
    ///
    /// Charges of one account are simply added. Otherwise this charge's account is charged first
    /// and the other one's credited after, so that the bytes are counted somewhere at every moment.
    ///
    /// # Errors
    /// `other` is handed back, with both charges as they were, if this charge's account refuses.
    pub fn merge(&mut self, other: Self) -> Result<(), Refused<Self>> {
        if self.account.same_account(&other.account) {
            if let Some(sum) = self.bytes.checked_add(other.bytes) {
                self.bytes = sum;
                let mut other = other;
                // Its bytes are ours now; what is left to drop is its handle of the account.
                other.bytes = 0;
                return Ok(());
            }
        }
        match self.try_grow(other.bytes) {
            Ok(()) => Ok(()),
            Err(error) => Err(Refused::new(other, error)),
        }
    }

    /// Ends the guard without crediting. Whoever keeps the returned pair has to credit the bytes,
    /// for example through [`adopt`](Self::adopt).
    pub fn forget(self) -> (A, usize) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this.account` is valid for reads and initialised; `this` is never used or
        // dropped again, so that the bitwise copy is the only owner.
        let account = unsafe { std::ptr::read(&raw const this.account) };
        (account, this.bytes)
    }
}

impl<A: Account> Drop for Charge<A> {
    #[inline]
    fn drop(&mut self) {
        if self.bytes != 0 {
            self.account.credit(self.bytes);
        }
    }
}
