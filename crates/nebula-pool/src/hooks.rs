//! Objects of any type in a pool, with closures in the place of the trait.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    rc::Rc,
    sync::Arc,
};

use nebula_memory_core::MemoryError;

use crate::Poolable;

/// Hooks and the objects that have them: for threads, and for one thread.
macro_rules! hooks {
    (
        $(#[$about:meta])* $Hooks:ident,
        $(#[$about_object:meta])* $Hooked:ident,
        $Share:ident, [$($bounds:tt)*]
    ) => {
        $(#[$about])*
        #[must_use = "hooks do nothing until a factory is made of them"]
        pub struct $Hooks<T> {
            reset: Option<Box<dyn Fn(&mut T) -> bool $($bounds)*>>,
            is_valid: Option<Box<dyn Fn(&T) -> bool $($bounds)*>>,
            heap_size: Option<Box<dyn Fn(&T) -> usize $($bounds)*>>,
            value: Option<Box<dyn Fn(&T) -> u64 $($bounds)*>>,
            shrink_to: Option<Box<dyn Fn(&mut T, usize) $($bounds)*>>,
            destroy: Option<Box<dyn Fn(T) $($bounds)*>>,
        }

        impl<T> Default for $Hooks<T> {
            fn default() -> Self {
                Self::new()
            }
        }

        impl<T> $Hooks<T> {
            /// No hooks: objects are lent again as they come back, and own nothing.
            pub const fn new() -> Self {
                Self {
                    reset: None,
                    is_valid: None,
                    heap_size: None,
                    value: None,
                    shrink_to: None,
                    destroy: None,
                }
            }

            /// In the place of [`Poolable::reset`].
            pub fn reset(self, hook: impl Fn(&mut T) $($bounds)* + 'static) -> Self {
                self.try_reset(move |object| {
                    hook(object);
                    true
                })
            }

            /// In the place of [`Poolable::try_reset`]: `false` if the object is no good any more.
            pub fn try_reset(
                mut self,
                hook: impl Fn(&mut T) -> bool $($bounds)* + 'static,
            ) -> Self {
                self.reset = Some(Box::new(hook));
                self
            }

            /// In the place of [`Poolable::is_valid`].
            pub fn is_valid(mut self, hook: impl Fn(&T) -> bool $($bounds)* + 'static) -> Self {
                self.is_valid = Some(Box::new(hook));
                self
            }

            /// In the place of [`Poolable::heap_size`].
            pub fn heap_size(mut self, hook: impl Fn(&T) -> usize $($bounds)* + 'static) -> Self {
                self.heap_size = Some(Box::new(hook));
                self
            }

            /// In the place of [`Poolable::value`].
            pub fn value(mut self, hook: impl Fn(&T) -> u64 $($bounds)* + 'static) -> Self {
                self.value = Some(Box::new(hook));
                self
            }

            /// In the place of [`Poolable::shrink_to`].
            pub fn shrink_to(mut self, hook: impl Fn(&mut T, usize) $($bounds)* + 'static) -> Self {
                self.shrink_to = Some(Box::new(hook));
                self
            }

            /// In the place of [`Poolable::destroy`].
            pub fn destroy(mut self, hook: impl Fn(T) $($bounds)* + 'static) -> Self {
                self.destroy = Some(Box::new(hook));
                self
            }

            /// A factory for a pool of such objects.
            pub fn factory<F: Fn() -> T>(self, make: F) -> impl Fn() -> $Hooked<T> + use<T, F> {
                let hooks = $Share::new(self);
                move || $Hooked { object: make(), hooks: $Share::clone(&hooks) }
            }

            /// A factory that can fail, for a pool of such objects.
            pub fn try_factory<F>(
                self,
                make: F,
            ) -> impl Fn() -> Result<$Hooked<T>, MemoryError> + use<T, F>
            where
                F: Fn() -> Result<T, MemoryError>,
            {
                let hooks = $Share::new(self);
                move || Ok($Hooked { object: make()?, hooks: $Share::clone(&hooks) })
            }
        }

        impl<T> fmt::Debug for $Hooks<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($Hooks))
                    .field("reset", &self.reset.is_some())
                    .field("is_valid", &self.is_valid.is_some())
                    .field("heap_size", &self.heap_size.is_some())
                    .field("value", &self.value.is_some())
                    .field("shrink_to", &self.shrink_to.is_some())
                    .field("destroy", &self.destroy.is_some())
                    .finish()
            }
        }

        $(#[$about_object])*
        pub struct $Hooked<T> {
            object: T,
            hooks: $Share<$Hooks<T>>,
        }

        impl<T> $Hooked<T> {
            /// The object alone.
            pub fn into_inner(self) -> T {
                self.object
            }
        }

        impl<T> Deref for $Hooked<T> {
            type Target = T;

            #[inline]
            fn deref(&self) -> &T {
                &self.object
            }
        }

        impl<T> DerefMut for $Hooked<T> {
            #[inline]
            fn deref_mut(&mut self) -> &mut T {
                &mut self.object
            }
        }

        impl<T> Poolable for $Hooked<T> {
            fn reset(&mut self) {
                let _ = self.try_reset();
            }

            fn try_reset(&mut self) -> bool {
                self.hooks.reset.as_ref().is_none_or(|reset| reset(&mut self.object))
            }

            fn is_valid(&self) -> bool {
                self.hooks.is_valid.as_ref().is_none_or(|is_valid| is_valid(&self.object))
            }

            fn heap_size(&self) -> usize {
                self.hooks.heap_size.as_ref().map_or(0, |heap_size| heap_size(&self.object))
            }

            fn value(&self) -> u64 {
                self.hooks.value.as_ref().map_or(0, |value| value(&self.object))
            }

            fn shrink_to(&mut self, largest: usize) {
                if let Some(shrink_to) = &self.hooks.shrink_to {
                    shrink_to(&mut self.object, largest);
                }
            }

            fn destroy(self) {
                if let Some(destroy) = &self.hooks.destroy {
                    destroy(self.object);
                }
            }
        }

        impl<T: fmt::Debug> fmt::Debug for $Hooked<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($Hooked)).field(&self.object).finish()
            }
        }
    };
}

hooks! {
    /// What a pool does with objects of a type that is not [`Poolable`]: closures instead of the
    /// trait. All are optional.
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use nebula_pool::{Hooked, Hooks, PoolConfig, ThreadSafePool};
    ///
    /// type Table = HashMap<u64, u64>;
    /// let hooks = Hooks::new()
    ///     .reset(Table::clear)
    ///     .heap_size(|table| table.capacity() * 17)
    ///     .shrink_to(|table, largest| table.shrink_to(largest / 17));
    /// let pool: ThreadSafePool<Hooked<Table>> =
    ///     ThreadSafePool::new(&PoolConfig::default(), hooks.factory(Table::new))?;
    ///
    /// let mut table = pool.try_get()?;
    /// table.insert(1, 2);
    /// drop(table);
    /// assert!(pool.try_get()?.is_empty());
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    ///
    /// Closures that must stay on their thread are [`LocalHooks`].
    Hooks,
    /// An object with the closures that make it [`Poolable`]; see [`Hooks`].
    Hooked,
    Arc, [+ Send + Sync]
}

hooks! {
    /// [`Hooks`] for an [`ObjectPool`](crate::ObjectPool): closures that may use what must stay on
    /// its thread.
    ///
    /// ```
    /// use std::{cell::Cell, rc::Rc};
    /// use nebula_pool::{LocalHooks, ObjectPool, PoolConfig};
    ///
    /// let resets = Rc::new(Cell::new(0));
    /// let count = Rc::clone(&resets);
    /// let hooks = LocalHooks::new().reset(move |_: &mut u8| count.set(count.get() + 1));
    /// let pool = ObjectPool::new(&PoolConfig::default(), hooks.factory(|| 7))?;
    /// drop(pool.try_get()?);
    /// assert_eq!(resets.get(), 1);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    LocalHooks,
    /// An object with the closures that make it [`Poolable`]; see [`LocalHooks`].
    LocalHooked,
    Rc, []
}
