//! What is the same in all pools and yet has to be written for each: their constructors but for the
//! one that does the work, and what they tell in bytes.

/// `new`, `try_new` and `new_in` of a pool, by its `try_new_in`:
/// `constructors!(Pool, [bounds of the factory] -> what they return, further: Argument, ...)`.
macro_rules! constructors {
    ($pool:ident, [$($bounds:tt)+] -> $made:ty $(, $more:ident: $kind:ty)*) => {
        impl<T: crate::Poolable> $pool<T> {
            /// A pool whose objects are made by `factory` and charged to nobody.
            ///
            /// # Errors
            /// Those of [`try_new_in`](Self::try_new_in).
            pub fn new<F>(
                config: &crate::PoolConfig,
                $($more: $kind,)*
                factory: F,
            ) -> Result<$made, nebula_memory_core::MemoryError>
            where
                F: Fn() -> T + $($bounds)+,
            {
                Self::new_in(config, nebula_memory_core::Unlimited, $($more,)* factory)
            }

            /// A pool whose objects are made by `factory`, which can fail, and charged to nobody.
            ///
            /// # Errors
            /// Those of [`try_new_in`](Self::try_new_in).
            pub fn try_new<F>(
                config: &crate::PoolConfig,
                $($more: $kind,)*
                factory: F,
            ) -> Result<$made, nebula_memory_core::MemoryError>
            where
                F: Fn() -> Result<T, nebula_memory_core::MemoryError> + $($bounds)+,
            {
                Self::try_new_in(config, nebula_memory_core::Unlimited, $($more,)* factory)
            }
        }

        impl<T: crate::Poolable, A: nebula_memory_core::Account> $pool<T, A> {
            /// A pool whose objects are made by `factory` and charged to `account`.
            ///
            /// # Errors
            /// Those of [`try_new_in`](Self::try_new_in).
            pub fn new_in<F>(
                config: &crate::PoolConfig,
                account: A,
                $($more: $kind,)*
                factory: F,
            ) -> Result<$made, nebula_memory_core::MemoryError>
            where
                F: Fn() -> T + $($bounds)+,
            {
                Self::try_new_in(config, account, $($more,)* move || Ok(factory()))
            }
        }
    };
}

/// What a pool tells in bytes, by its `workshop`:
/// `told_in_bytes!([generic parameters] Pool<...>)`.
macro_rules! told_in_bytes {
    ([$($parameters:tt)*] $pool:ty) => {
        /// In bytes; the number of objects is in its `stats`.
        impl<$($parameters)*> nebula_memory_core::MemoryUsage for $pool {
            /// Bytes charged to the account, for the objects and for the pool itself.
            fn used(&self) -> usize {
                self.workshop.books.used()
            }

            /// `None`: a pool limits objects, not bytes; that is for its account to do.
            fn capacity(&self) -> Option<usize> {
                None
            }
        }

        /// The pool as an allocator: each object is an allocation, and so is the pool itself and
        /// each segment of its places.
        impl<$($parameters)*> nebula_memory_core::StatisticsProvider for $pool {
            fn statistics(&self) -> Option<nebula_memory_core::StatsSnapshot> {
                Some(self.workshop.books.charges())
            }
        }
    };
}

pub(crate) use {constructors, told_in_bytes};
