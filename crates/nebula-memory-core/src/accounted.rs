//! An allocator whose every byte is charged to an account.

use std::{alloc::Layout, ptr::NonNull};

use allocator_api2::alloc::{AllocError, Allocator as Api2, Global};

use crate::{Account, Allocator, MemoryError, Unlimited};

/// The allocator `A`, with each block charged to `C` before it is allocated and credited after it
/// is freed; what `C` refuses is not allocated. If `C` panics in a credit, which
/// [`Account`](crate::Account) forbids, the process is aborted.
///
/// This is how a budget reaches an arena, a vector or a hash map: through the allocator parameter
/// alone. A block is charged with exactly the size of its layout. Allocators of other crates come
/// in through [`Foreign`](crate::Foreign).
///
/// ```
/// use allocator_api2::vec::Vec;
/// use nebula_memory_core::{Accounted, Global, Unlimited};
///
/// let mut names = Vec::new_in(Accounted::new(Global, Unlimited));
/// names.push("nebula");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Accounted<A = Global, C = Unlimited> {
    allocator: A,
    account: C,
}

impl<A: Allocator, C: Account> Accounted<A, C> {
    /// Charges what `allocator` gives out to `account`.
    pub const fn new(allocator: A, account: C) -> Self {
        Self { allocator, account }
    }

    /// The account that is charged.
    pub const fn account(&self) -> &C {
        &self.account
    }

    /// The allocator underneath.
    pub const fn allocator(&self) -> &A {
        &self.allocator
    }

    /// Charges what is allocated to `account` from now on, and moves `bytes` of what has been
    /// charged so far there. Returns the account before. Both hold the bytes for a moment.
    ///
    /// `bytes` is what the blocks that this adaptor has out add up to (of one owner, which knows);
    /// with another figure the accounts drift.
    ///
    /// # Errors
    /// The new account's refusal; nothing has changed then.
    pub fn try_move_to(&mut self, account: C, bytes: usize) -> Result<C, MemoryError> {
        account.try_charge(bytes)?;
        let before = std::mem::replace(&mut self.account, account);
        before.credit(bytes);
        Ok(before)
    }

    /// Credits `bytes` of a block that has been freed or shrunk.
    #[inline]
    fn credit(&self, bytes: usize) {
        /// A caller that sees a panic takes it that nothing was done, and uses the block again.
        struct MustNotUnwind;

        impl Drop for MustNotUnwind {
            fn drop(&mut self) {
                std::process::abort();
            }
        }

        let guard = MustNotUnwind;
        self.account.credit(bytes);
        std::mem::forget(guard);
    }

    /// Charges `bytes`, then calls `allocate`; credits them if that fails.
    #[inline]
    fn charged(
        &self,
        bytes: usize,
        allocate: impl FnOnce() -> Result<NonNull<[u8]>, AllocError>,
    ) -> Result<NonNull<[u8]>, AllocError> {
        self.account.try_charge(bytes).map_err(MemoryError::into_alloc_error)?;
        let result = allocate();
        if result.is_err() {
            self.account.credit(bytes);
        }
        result
    }
}

// SAFETY: blocks come from `A` and are passed back to it with the same pointers and layouts; the
// account never touches memory. Clones behave alike because clones of `A` do.
unsafe impl<A: Allocator, C: Account> Api2 for Accounted<A, C> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.charged(layout.size(), || self.allocator.allocate(layout))
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.charged(layout.size(), || self.allocator.allocate_zeroed(layout))
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.allocator.deallocate(ptr, layout) };
        self.credit(layout.size());
    }

    #[inline]
    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        self.charged(new.size() - old.size(), || {
            // SAFETY: the caller's promises are the callee's.
            unsafe { self.allocator.grow(ptr, old, new) }
        })
    }

    #[inline]
    unsafe fn grow_zeroed(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        self.charged(new.size() - old.size(), || {
            // SAFETY: the caller's promises are the callee's.
            unsafe { self.allocator.grow_zeroed(ptr, old, new) }
        })
    }

    #[inline]
    unsafe fn shrink(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promises are the callee's.
        let block = unsafe { self.allocator.shrink(ptr, old, new) }?;
        self.credit(old.size() - new.size());
        Ok(block)
    }
}

// SAFETY: `A` returns slices of exactly `layout.size()` bytes and ignores blocks of zero size, for
// which nothing is charged; all is passed on as it is.
unsafe impl<A: Allocator, C: Account> Allocator for Accounted<A, C> {
    #[inline]
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        if let Err(error) = self.account.try_charge(layout.size()) {
            return Err(self.account.explain(error));
        }
        let result = self.allocator.try_allocate(layout);
        if result.is_err() {
            self.account.credit(layout.size());
        }
        result
    }
}
