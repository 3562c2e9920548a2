//! What a failed insert, return or allocation of a value gives back: the value, and why.

use std::{error::Error, fmt};

use crate::MemoryError;

/// A value that could not be placed, and the reason.
///
/// Every operation of these crates that takes a value and can fail hands it back this way, so that
/// nothing is lost on an error path. `?` converts it to a [`MemoryError`], dropping the value.
///
/// ```
/// use nebula_memory_core::{MemoryError, Refused};
///
/// fn place(value: String) -> Result<(), Refused<String>> {
///     Err(Refused::new(value, MemoryError::Closed { what: "shelf" }))
/// }
/// let refused = place("book".to_owned()).unwrap_err();
/// assert_eq!(refused.error.code(), "closed");
/// assert_eq!(refused.into_value(), "book");
/// ```
#[derive(Clone)]
pub struct Refused<T> {
    /// What was not placed.
    pub value: T,
    /// Why not.
    pub error: MemoryError,
}

impl<T> Refused<T> {
    /// Hands `value` back with the reason `error`.
    pub const fn new(value: T, error: MemoryError) -> Self {
        Self { value, error }
    }

    /// The value; the reason is dropped.
    pub fn into_value(self) -> T {
        self.value
    }

    /// The reason; the value is dropped.
    pub fn into_error(self) -> MemoryError {
        self.error
    }

    /// The same refusal of what `f` makes of the value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Refused<U> {
        Refused { value: f(self.value), error: self.error }
    }
}

impl<T> fmt::Debug for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<T> Error for Refused<T> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

impl<T> From<Refused<T>> for MemoryError {
    fn from(refused: Refused<T>) -> Self {
        refused.error
    }
}
