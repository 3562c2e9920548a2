//! The six pools behind one trait, so that one suite runs over all of them.

use std::{rc::Rc, sync::Arc, time::Duration};

use nebula_memory_core::{ManualClock, MemoryError, MemoryUsage};
use nebula_pool::{
    HierarchicalPool, Holder, LockFreePool, ObjectPool, OwnedGuard, Pool, PoolConfig, PoolGuard,
    PoolStats, PriorityPool, ThreadSafePool, TtlPool,
};
use nebula_testing::{CountingAccount, RefusingAccount};

use super::{Factory, Object};

/// What the suite's pools are charged to.
pub(crate) type Purse = RefusingAccount<CountingAccount>;

/// One of the six.
pub(crate) trait Face: Pool<Object = Object> + MemoryUsage + Sized {
    /// What its configuration may say.
    const FIFO: bool = false;
    const TTL: bool = false;
    /// Whether storage goes when it is empty.
    const STORAGE_GOES: bool = false;

    fn build(
        config: &PoolConfig,
        account: &Purse,
        factory: &Factory,
    ) -> Result<Self::Handle, MemoryError>;
    fn lend(&self) -> Result<PoolGuard<'_, Self>, MemoryError>;
    fn lend_owned(pool: &Self::Handle) -> Result<OwnedGuard<Self>, MemoryError>;
    fn figures(&self) -> PoolStats;
    fn cut(&self) -> usize;
    /// Objects dropped and made.
    fn upkeep(&self) -> Result<(u64, u64), MemoryError>;
    fn held(&self) -> Vec<Holder>;
    fn room(&self) -> usize;
}

macro_rules! face {
    ($pool:ident, $handle:ident, { $($constants:tt)* }, |$config:ident, $account:ident, $make:ident| $build:expr) => {
        impl Face for $pool<Object, Purse> {
            $($constants)*

            fn build(
                $config: &PoolConfig,
                account: &Purse,
                factory: &Factory,
            ) -> Result<Self::Handle, MemoryError> {
                let ($account, factory) = (account.clone(), factory.clone());
                let $make = move || factory.make();
                $build
            }

            #[track_caller]
            fn lend(&self) -> Result<PoolGuard<'_, Self>, MemoryError> {
                self.try_get()
            }

            #[track_caller]
            fn lend_owned(pool: &Self::Handle) -> Result<OwnedGuard<Self>, MemoryError> {
                let pool: &$handle<Self> = pool;
                pool.try_get_owned()
            }

            fn figures(&self) -> PoolStats {
                self.stats()
            }

            fn cut(&self) -> usize {
                self.trim()
            }

            fn upkeep(&self) -> Result<(u64, u64), MemoryError> {
                self.maintain().map(|done| (done.dropped, done.made))
            }

            fn held(&self) -> Vec<Holder> {
                self.holders()
            }

            fn room(&self) -> usize {
                self.capacity()
            }
        }
    };
}

face!(
    ObjectPool,
    Rc,
    {
        const FIFO: bool = true;
    },
    |config, account, make| {
        let pool = ObjectPool::try_new_in(config, account, make)?;
        Ok(Rc::new(pool))
    }
);
face!(ThreadSafePool, Arc, {}, |config, account, make| {
    ThreadSafePool::try_new_in(config, account, make).map(Arc::new)
});
face!(
    LockFreePool,
    Arc,
    {
        const STORAGE_GOES: bool = true;
    },
    |config, account, make| {
        let pool = LockFreePool::try_new_in(config, account, make)?;
        Ok(Arc::new(pool))
    }
);
face!(
    TtlPool,
    Arc,
    {
        const TTL: bool = true;
    },
    |config, account, make| {
        let mut config = config.clone();
        config.idle_time = config.idle_time.or(Some(Duration::from_secs(1)));
        TtlPool::with_clock(&config, account, Arc::new(ManualClock::new()), make).map(Arc::new)
    }
);
face!(PriorityPool, Arc, {}, |config, account, make| {
    PriorityPool::try_new_in(config, account, 4, make).map(Arc::new)
});
face!(
    HierarchicalPool,
    Arc,
    {
        const FIFO: bool = true;
    },
    |config, account, make| {
        let pool = HierarchicalPool::try_new_in(config, account, make)?;
        assert!(pool.parent().is_none());
        Ok(pool)
    }
);

/// Makes a test of each function, for each of the six.
#[allow(unused_macros, reason = "not every test file is a suite")]
macro_rules! for_all_faces {
    ($($test:ident),* $(,)?) => {
        for_all_faces!(@ object_pool, ObjectPool, $($test),*);
        for_all_faces!(@ thread_safe_pool, ThreadSafePool, $($test),*);
        // crossbeam-epoch breaks miri's default rules for borrows (it keeps those of tree borrows).
        #[cfg(not(miri))]
        for_all_faces!(@ lock_free_pool, LockFreePool, $($test),*);
        for_all_faces!(@ ttl_pool, TtlPool, $($test),*);
        for_all_faces!(@ priority_pool, PriorityPool, $($test),*);
        for_all_faces!(@ hierarchical_pool, HierarchicalPool, $($test),*);
    };
    (@ $module:ident, $pool:ident, $($test:ident),*) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    super::$test::<nebula_pool::$pool<
                        super::common::Object,
                        super::common::faces::Purse,
                    >>();
                }
            )*
        }
    };
}
#[allow(unused_imports, reason = "not every test file is a suite")]
pub(crate) use for_all_faces;
