//! Running the code of others where a panic must not get out, or not yet.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

/// Runs `f`; `None` if it panicked. The panic hook has reported the panic by then.
///
/// For code that sees nothing of the caller's that a panic could leave half done.
#[inline]
pub fn quietly<R>(f: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => Some(result),
        Err(payload) => {
            swallow(payload);
            None
        }
    }
}

/// Drops what a panic carried; if that panics as well, what it carries is leaked. (Not the first
/// one: some code may panic again and again, for as long as the process lives.)
#[cold]
#[inline(never)]
fn swallow(payload: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        std::mem::forget(another);
    }
}

/// Lets several pieces of others' code run to their ends, and then goes on with the first panic.
#[derive(Debug, Default)]
pub struct FirstPanic(Option<Box<dyn Any + Send>>);

impl FirstPanic {
    /// Runs `f`.
    pub fn run(&mut self, f: impl FnOnce()) {
        match (catch_unwind(AssertUnwindSafe(f)), &self.0) {
            (Ok(()), _) => {}
            (Err(payload), None) => self.0 = Some(payload),
            (Err(payload), Some(_)) => swallow(payload),
        }
    }

    /// Goes on with the first panic, if there was any.
    ///
    /// # Panics
    /// That one.
    pub fn resume(self) {
        if let Some(payload) = self.0 {
            resume_unwind(payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{panic::panic_any, sync::Arc};

    use super::{AssertUnwindSafe, FirstPanic, catch_unwind, quietly};

    /// Panics when it is dropped.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic_any(());
        }
    }

    #[test]
    fn a_panic_becomes_none_and_what_it_carries_is_dropped() {
        let carried = Arc::new(());
        let of_panic = Arc::clone(&carried);
        assert_eq!(quietly(|| 7), Some(7));
        assert_eq!(quietly(|| -> u8 { panic_any(of_panic) }), None);
        assert_eq!(Arc::strong_count(&carried), 1);
    }

    #[test]
    fn what_panics_when_it_is_dropped_does_not_get_out() {
        assert_eq!(quietly(|| -> u8 { panic_any(Bomb) }), None);
    }

    #[test]
    fn all_run_and_the_first_panic_goes_on() {
        let mut ran = 0;
        let mut panics = FirstPanic::default();
        panics.run(|| ran += 1);
        panics.run(|| panic_any(1));
        panics.run(|| panic_any(Bomb));
        panics.run(|| ran += 1);
        assert_eq!(ran, 2);
        let payload = catch_unwind(AssertUnwindSafe(|| panics.resume())).unwrap_err();
        assert_eq!(payload.downcast_ref(), Some(&1));
        FirstPanic::default().resume();
    }
}
