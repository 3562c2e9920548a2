//! Running code of others without being ended by its panics.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `f` returns, or `None` if it panics. The caller's own state is consistent while `f` runs.
pub(crate) fn guarded<R>(f: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(value) => Some(value),
        Err(panic) => {
            // Leaked, because what a panic carries may panic again when it is dropped.
            std::mem::forget(panic);
            None
        }
    }
}
