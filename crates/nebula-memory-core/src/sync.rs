//! The synchronisation primitives of every crate: std's, or loom's under `--cfg nebula_loom`.
//!
//! Crates import from here and never from `std::sync`, so that one build flag puts a whole
//! component under the model checker. Two differences from std are wanted: locks ignore poisoning
//! (state is made consistent before user code runs, so there is nothing to protect), and
//! [`UnsafeCell`] gives access through closures, which lets loom see every access. `Arc` and `Weak`
//! are always std's: their counts are not what the models are about.

#[cfg(not(nebula_loom))]
use std::sync as imp;
#[cfg(not(nebula_loom))]
pub use std::sync::atomic;

#[cfg(nebula_loom)]
use loom::sync as imp;
#[cfg(nebula_loom)]
pub use loom::sync::atomic;

pub use std::sync::{Arc, Weak};
use std::time::Duration;

/// Threads, as far as the components use them.
pub mod thread {
    #[cfg(nebula_loom)]
    pub use loom::thread::{current, park, spawn, yield_now};
    #[cfg(not(nebula_loom))]
    pub use std::thread::{current, park, spawn, yield_now};
}

/// What a thread tells the processor, or loom, when it waits in a loop.
pub mod hint {
    #[cfg(nebula_loom)]
    pub use loom::hint::spin_loop;
    #[cfg(not(nebula_loom))]
    pub use std::hint::spin_loop;
}

/// Declares a thread-local of std, or of loom under `--cfg nebula_loom`.
///
/// The initialiser must be a constant expression.
#[macro_export]
#[doc(hidden)]
macro_rules! nebula_thread_local {
    ($(#[$meta:meta])* $vis:vis static $name:ident: $ty:ty = $init:expr) => {
        #[cfg(not(nebula_loom))]
        ::std::thread_local! { $(#[$meta])* $vis static $name: $ty = const { $init }; }
        #[cfg(nebula_loom)]
        ::loom::thread_local! { $(#[$meta])* $vis static $name: $ty = $init; }
    };
}

/// Declares a `const fn` that is an ordinary `fn` under `--cfg nebula_loom`, whose primitives have
/// no constant constructors.
#[macro_export]
#[doc(hidden)]
macro_rules! nebula_const_fn {
    ($(#[$meta:meta])* $vis:vis const fn $($rest:tt)*) => {
        #[cfg(not(nebula_loom))]
        $(#[$meta])*
        $vis const fn $($rest)*
        #[cfg(nebula_loom)]
        $(#[$meta])*
        $vis fn $($rest)*
    };
}

/// A mutex without poisoning.
#[derive(Debug, Default)]
pub struct Mutex<T>(imp::Mutex<T>);

/// What [`Mutex::lock`] returns.
pub type MutexGuard<'a, T> = imp::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    nebula_const_fn! {
        /// A mutex around `value`.
        pub const fn new(value: T) -> Self {
            Self(imp::Mutex::new(value))
        }
    }

    /// Waits for the lock.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        match self.0.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// Takes the lock if nobody holds it.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    /// The value, without locking: `&mut self` proves that nobody else is here.
    pub fn get_mut(&mut self) -> &mut T {
        match self.0.get_mut() {
            Ok(value) => value,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// The value, with the lock consumed.
    pub fn into_inner(self) -> T {
        match self.0.into_inner() {
            Ok(value) => value,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

/// A reader-writer lock without poisoning.
#[derive(Debug, Default)]
pub struct RwLock<T>(imp::RwLock<T>);

/// What [`RwLock::read`] returns.
pub type RwLockReadGuard<'a, T> = imp::RwLockReadGuard<'a, T>;

/// What [`RwLock::write`] returns.
pub type RwLockWriteGuard<'a, T> = imp::RwLockWriteGuard<'a, T>;

impl<T> RwLock<T> {
    nebula_const_fn! {
        /// A lock around `value`.
        pub const fn new(value: T) -> Self {
            Self(imp::RwLock::new(value))
        }
    }

    /// Waits until nobody writes.
    #[inline]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        match self.0.read() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// Waits until nobody else reads or writes.
    #[inline]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        match self.0.write() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// Takes the lock for reading if nobody writes, or waits for it.
    #[inline]
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        match self.0.try_read() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    /// Takes the lock for writing if nobody holds it in any way.
    #[inline]
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        match self.0.try_write() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    /// The value, without locking: `&mut self` proves that nobody else is here.
    pub fn get_mut(&mut self) -> &mut T {
        match self.0.get_mut() {
            Ok(value) => value,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

/// A condition variable to go with [`Mutex`].
#[derive(Debug, Default)]
pub struct Condvar(imp::Condvar);

impl Condvar {
    nebula_const_fn! {
        /// A condition variable.
        pub const fn new() -> Self {
            Self(imp::Condvar::new())
        }
    }

    /// Releases the lock and waits for a notification (or a spurious wake-up).
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        match self.0.wait(guard) {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// As [`wait`](Self::wait), for `timeout` at most.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        match self.0.wait_timeout(guard, timeout) {
            Ok((guard, _)) => guard,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all waiters.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A cell whose contents are reached through closures, so that loom can check every access.
#[cfg(not(nebula_loom))]
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct UnsafeCell<T: ?Sized>(std::cell::UnsafeCell<T>);

#[cfg(not(nebula_loom))]
impl<T> UnsafeCell<T> {
    /// A cell around `value`.
    pub const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// Calls `f` with a pointer for reading.
    #[inline(always)]
    pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    /// Calls `f` with a pointer for writing.
    #[inline(always)]
    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

#[cfg(nebula_loom)]
pub use loom::cell::UnsafeCell;
