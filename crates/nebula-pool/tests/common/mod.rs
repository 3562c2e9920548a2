//! What the test files share.
#![allow(dead_code, unused_imports, reason = "each test file uses a part of it")]

pub(crate) mod faces;

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use nebula_memory_core::{Account, MemoryError};
use nebula_pool::{PoolConfig, Poolable, ThreadSafePool};
use nebula_testing::{CountingAccount, DropCounter, DropProbe, PanicOn};

/// More than any test takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

std::thread_local! {
    static BALANCE: Cell<usize> = const { Cell::new(0) };
    static AT_NEXT_CHARGE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// An account that does something else within a charge, when it is told to. There is one for each
/// thread.
pub(crate) struct Reenter;

impl Reenter {
    /// What is charged.
    pub(crate) fn balance() -> usize {
        BALANCE.get()
    }

    /// Calls `act` within the next charge.
    pub(crate) fn at_next_charge(act: impl FnOnce() + 'static) {
        AT_NEXT_CHARGE.set(Some(Box::new(act)));
    }
}

impl Account for Reenter {
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        BALANCE.set(BALANCE.get() + bytes);
        if let Some(act) = AT_NEXT_CHARGE.take() {
            act();
        }
        Ok(())
    }

    fn credit(&self, bytes: usize) {
        BALANCE.set(BALANCE.get() - bytes);
    }
}

/// When an object's code panics. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Panics {
    pub(crate) reset: PanicOn,
    pub(crate) is_valid: PanicOn,
    pub(crate) heap_size: PanicOn,
    pub(crate) value: PanicOn,
    pub(crate) drop: PanicOn,
    pub(crate) factory: PanicOn,
}

impl Default for Panics {
    fn default() -> Self {
        let [reset, is_valid, heap_size, value, drop, factory] = [(); 6].map(|()| PanicOn::never());
        Self { reset, is_valid, heap_size, value, drop, factory }
    }
}

/// An object that says what it is told to say, and whose drop is counted.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) probe: DropProbe,
    /// What `heap_size` answers.
    pub(crate) bytes: usize,
    /// What `is_valid` answers.
    pub(crate) valid: bool,
    /// Set by its users, cleared by `reset`.
    pub(crate) dirty: bool,
    /// What `value` answers.
    pub(crate) value: u64,
    /// The least that it can shrink to.
    pub(crate) least: usize,
    /// How many objects the pool has said goodbye to.
    pub(crate) goodbyes: Arc<AtomicUsize>,
    pub(crate) panics: Panics,
}

impl Poolable for Object {
    fn reset(&mut self) {
        self.panics.reset.tick();
        self.dirty = false;
    }

    fn is_valid(&self) -> bool {
        self.panics.is_valid.tick();
        self.valid
    }

    fn heap_size(&self) -> usize {
        self.panics.heap_size.tick();
        self.bytes
    }

    fn value(&self) -> u64 {
        self.panics.value.tick();
        self.value
    }

    fn shrink_to(&mut self, largest: usize) {
        self.bytes = self.bytes.min(largest.max(self.least));
    }

    fn destroy(self) {
        self.goodbyes.fetch_add(1, SeqCst);
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.panics.drop.tick();
        }
    }
}

/// Makes [`Object`]s, counts them, and fails on demand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Factory {
    pub(crate) counter: DropCounter,
    pub(crate) panics: Panics,
    /// What new objects say of their heap.
    pub(crate) bytes: Arc<AtomicUsize>,
    /// Calls that fail from now on.
    pub(crate) failures: Arc<AtomicUsize>,
    /// How many objects the pool has said goodbye to.
    pub(crate) goodbyes: Arc<AtomicUsize>,
    next: Arc<AtomicU64>,
}

impl Factory {
    pub(crate) fn of(bytes: usize) -> Self {
        Self { bytes: Arc::new(AtomicUsize::new(bytes)), ..Self::default() }
    }

    pub(crate) fn make(&self) -> Result<Object, MemoryError> {
        self.panics.factory.tick();
        if self.failures.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(MemoryError::Closed { what: "the factory" });
        }
        Ok(Object {
            probe: self.counter.probe(self.next.fetch_add(1, SeqCst)),
            bytes: self.bytes.load(SeqCst),
            valid: true,
            dirty: false,
            value: 0,
            least: usize::MAX,
            goodbyes: Arc::clone(&self.goodbyes),
            panics: self.panics.clone(),
        })
    }

    pub(crate) fn pool_in<A: Account>(
        &self,
        config: &PoolConfig,
        account: A,
    ) -> Result<ThreadSafePool<Object, A>, MemoryError> {
        let this = self.clone();
        ThreadSafePool::try_new_in(config, account, move || this.make())
    }
}

/// A pool of objects of `bytes` bytes, with its factory and its account.
pub(crate) fn pool(
    capacity: usize,
    bytes: usize,
) -> (ThreadSafePool<Object, CountingAccount>, Factory, CountingAccount) {
    let config = PoolConfig::builder().capacity(capacity).build().unwrap();
    let (factory, account) = (Factory::of(bytes), CountingAccount::new());
    let pool = factory.pool_in(&config, account.clone()).unwrap();
    (pool, factory, account)
}

/// Polls once, with a waker that does nothing.
pub(crate) fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls until ready, parking in between.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Waits until `ready`, without a guess at how long that takes.
pub(crate) fn until(ready: impl Fn() -> bool) {
    while !ready() {
        thread::yield_now();
    }
}
