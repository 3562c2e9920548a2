//! Running the objects' code where a panic must not get out.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Runs `f`; `None` if it panicked. The panic hook has reported the panic by then.
///
/// For code that only sees state which is thrown away after a panic: an object, never the pool.
#[inline]
pub(crate) fn quietly<R>(f: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => Some(result),
        Err(payload) => {
            swallow(payload);
            None
        }
    }
}

/// Drops what a panic carried; if that panics as well, what it carries is leaked.
#[cold]
#[inline(never)]
fn swallow(payload: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        std::mem::forget(another);
    }
}

#[cfg(test)]
mod tests {
    use super::quietly;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::panic_any(());
        }
    }

    #[test]
    fn a_panic_becomes_none() {
        assert_eq!(quietly(|| 7), Some(7));
        assert_eq!(quietly(|| -> u8 { panic!("expected") }), None);
    }

    #[test]
    fn a_payload_that_panics_when_dropped_does_not_get_out() {
        assert_eq!(quietly(|| -> u8 { std::panic::panic_any(Bomb) }), None);
    }
}
