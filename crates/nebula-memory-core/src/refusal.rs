//! Why a collection could not grow.
//!
//! `allocator_api2` has one error for everything, so that a vector on a budget can only say that it
//! could not grow. Allocators of these crates leave the reason behind on their way out; whoever
//! gets a collection's error picks it up here.

use std::cell::RefCell;

use allocator_api2::alloc::AllocError;

use crate::MemoryError;

thread_local! {
    static LATEST: RefCell<Option<MemoryError>> = const { RefCell::new(None) };
}

impl MemoryError {
    /// The error that a collection understands; the reason is kept for [`last_refusal`].
    ///
    /// For the `allocator_api2` side of allocators that know why they refuse.
    #[cold]
    #[must_use]
    pub fn into_alloc_error(self) -> AllocError {
        // A thread that is ending keeps no reasons; the older reason is dropped outside the cell.
        let older = LATEST.try_with(|latest| latest.replace(Some(self)));
        drop(older);
        AllocError
    }
}

/// The reason why an allocation failed on this thread last, if an allocator of these crates refused
/// it; to be asked right after a collection reported that it could not grow. It is taken: the next
/// call returns `None` until something is refused again.
///
/// What it returns has not been explained; [`Account::explain`](crate::Account::explain) of the
/// account that was charged adds the details.
///
/// ```
/// use nebula_memory_core::{
///     Account, Accounted, Align, Global, MemoryError, allocator_api2::vec::Vec, last_refusal,
/// };
///
/// struct Nothing;
/// impl Account for Nothing {
///     fn try_charge(&self, requested: usize) -> Result<(), MemoryError> {
///         Err(MemoryError::CapacityExceeded { requested, available: 0, align: Align::ONE })
///     }
///     fn credit(&self, _bytes: usize) {}
/// }
///
/// let mut list = Vec::<u64, _>::new_in(Accounted::new(Global, Nothing));
/// if list.try_reserve_exact(100).is_err() {
///     let why = last_refusal().map(|error| list.allocator().account().explain(error));
///     assert!(matches!(why, Some(MemoryError::CapacityExceeded { requested: 800, .. })));
/// }
/// ```
#[must_use]
pub fn last_refusal() -> Option<MemoryError> {
    LATEST.try_with(RefCell::take).ok().flatten()
}
