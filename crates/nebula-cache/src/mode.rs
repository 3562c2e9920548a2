//! For one thread or for many: the locks, counters and functions of a cache, chosen by type.

use std::{
    cell::{Cell, Ref, RefCell, RefMut},
    ops::{Deref, DerefMut},
};

use nebula_memory_core::{
    StripedCounter,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::RemovalCause;

/// A lock of one of the modes.
pub trait Lock<T> {
    type Read<'a>: Deref<Target = T>
    where
        Self: 'a;
    type Write<'a>: DerefMut<Target = T>
    where
        Self: 'a;

    fn new(value: T) -> Self;
    fn read(&self) -> Self::Read<'_>;
    fn try_read(&self) -> Option<Self::Read<'_>>;
    fn write(&self) -> Self::Write<'_>;
    fn try_write(&self) -> Option<Self::Write<'_>>;
    fn get_mut(&mut self) -> &mut T;
}

/// A counter of one of the modes.
pub trait Counter: Default {
    fn add(&self, by: u64);
    fn sum(&self) -> u64;
}

/// For one thread, or for many.
pub trait Mode: 'static {
    /// Whether more than one thread may be at work.
    const SHARED: bool;
    type Lock<T>: Lock<T>;
    type Counter: Counter;
    /// Says how many bytes an entry owns.
    type Weigher<K, V>: ?Sized + Fn(&K, &V) -> usize;
    /// Is told of entries that leave.
    type Listener<K, V>: ?Sized + Fn(&K, &V, RemovalCause);
}

/// Many threads share the cache.
#[derive(Debug)]
pub struct Shared;

/// One thread owns the cache.
#[derive(Debug)]
pub struct Local;

impl Mode for Shared {
    const SHARED: bool = true;
    type Lock<T> = RwLock<T>;
    type Counter = StripedCounter;
    type Weigher<K, V> = dyn Fn(&K, &V) -> usize + Send + Sync;
    type Listener<K, V> = dyn Fn(&K, &V, RemovalCause) + Send + Sync;
}

impl Mode for Local {
    const SHARED: bool = false;
    type Lock<T> = RefCell<T>;
    type Counter = Cell<u64>;
    type Weigher<K, V> = dyn Fn(&K, &V) -> usize;
    type Listener<K, V> = dyn Fn(&K, &V, RemovalCause);
}

impl<T> Lock<T> for RwLock<T> {
    type Read<'a>
        = RwLockReadGuard<'a, T>
    where
        T: 'a;
    type Write<'a>
        = RwLockWriteGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Self::new(value)
    }

    #[inline]
    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.read()
    }

    #[inline]
    fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        self.try_read()
    }

    #[inline]
    fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.write()
    }

    fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        self.try_write()
    }

    fn get_mut(&mut self) -> &mut T {
        self.get_mut()
    }
}

impl<T> Lock<T> for RefCell<T> {
    type Read<'a>
        = Ref<'a, T>
    where
        T: 'a;
    type Write<'a>
        = RefMut<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Self::new(value)
    }

    #[inline]
    fn read(&self) -> Ref<'_, T> {
        self.borrow()
    }

    #[inline]
    fn try_read(&self) -> Option<Ref<'_, T>> {
        self.try_borrow().ok()
    }

    #[inline]
    fn write(&self) -> RefMut<'_, T> {
        self.borrow_mut()
    }

    fn try_write(&self) -> Option<RefMut<'_, T>> {
        self.try_borrow_mut().ok()
    }

    #[inline]
    fn get_mut(&mut self) -> &mut T {
        self.get_mut()
    }
}

impl Counter for StripedCounter {
    #[inline]
    fn add(&self, by: u64) {
        self.add(by);
    }

    fn sum(&self) -> u64 {
        self.sum()
    }
}

impl Counter for Cell<u64> {
    #[inline]
    fn add(&self, by: u64) {
        self.set(self.get().wrapping_add(by));
    }

    fn sum(&self) -> u64 {
        self.get()
    }
}
