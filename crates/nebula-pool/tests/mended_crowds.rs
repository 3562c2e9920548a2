//! What went wrong once where several threads or tasks met, and was to be seen from outside.

mod common;

use std::{
    future::Future,
    mem::ManuallyDrop,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, RawWaker, RawWakerVTable, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use common::{Reenter, poll};
use nebula_memory_core::{Account, MemoryError, Unlimited};
use nebula_pool::{
    Growth, HierarchicalPool, LockFreePool, PoolConfig, PoolConfigBuilder, Poolable, ThreadSafePool,
};

fn of(capacity: usize) -> PoolConfigBuilder {
    PoolConfig::builder().capacity(capacity)
}

/// An object with a value of its own.
struct Valued(u64);

impl Poolable for Valued {
    fn reset(&mut self) {}

    fn heap_size(&self) -> usize {
        100
    }

    fn value(&self) -> u64 {
        self.0
    }
}

#[test]
fn a_pool_with_many_values_can_be_closed() {
    const MANY: usize = 10_000;
    let number = AtomicUsize::new(0);
    let make = move || Valued(number.fetch_add(1, SeqCst) as u64);
    let pool = LockFreePool::new(&of(MANY).warm_up(MANY).build().unwrap(), make).unwrap();
    let lent = pool.try_get().unwrap();
    pool.close();
    assert_eq!((pool.stats().idle, pool.stats().lent), (0, 1));
    drop(lent);
    assert_eq!((pool.stats().idle, pool.stats().surplus), (0, MANY as u64));
    assert_eq!(pool.maintain().unwrap().made, 0);
}

/// Waker functions that panic in the drop of the one that was made of `FRAGILE`.
static FRAGILE: AtomicBool = AtomicBool::new(false);
static WAKER: RawWakerVTable =
    RawWakerVTable::new(|this| RawWaker::new(this, &WAKER), |_| {}, |_| {}, drop_fragile);

fn drop_fragile(_: *const ()) {
    assert!(!FRAGILE.swap(false, SeqCst), "waker");
}

/// Polls with a waker whose clone panics when it is dropped.
fn poll_fragile<F: Future>(future: std::pin::Pin<&mut F>) {
    // SAFETY: the functions use nothing of the waker, and can be called by all threads.
    let waker = unsafe { Waker::from_raw(RawWaker::new(std::ptr::null(), &WAKER)) };
    let waker = ManuallyDrop::new(waker);
    FRAGILE.store(true, SeqCst);
    let poll = || drop(future.poll(&mut Context::from_waker(&waker)));
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(poll));
    FRAGILE.store(false, SeqCst);
}

/// Both, because there is one waker for them.
#[test]
fn a_waker_that_panics_when_it_is_dropped_costs_no_object() {
    let tree = HierarchicalPool::new(&of(1).build().unwrap(), String::new).unwrap();
    let held = tree.try_get().unwrap();
    let mut future = Box::pin(tree.get_async());
    assert!(poll(future.as_mut()).is_pending());
    drop(held);
    poll_fragile(future.as_mut());
    drop(future);
    assert!(tree.try_get().is_ok(), "{}", tree.stats());

    let slots = ThreadSafePool::new(&of(1).build().unwrap(), String::new).unwrap();
    let held = slots.try_get().unwrap();
    let mut future = Box::pin(slots.get_async());
    assert!(poll(future.as_mut()).is_pending());
    drop(held);
    poll_fragile(future.as_mut());
    drop(future);
    assert!(slots.try_get().is_ok(), "{}", slots.stats());
}

/// An account with a limit, that lets others run between its answer and what is done with it.
#[derive(Clone)]
struct Narrow {
    used: Arc<AtomicUsize>,
    limit: usize,
}

impl Narrow {
    fn new(limit: usize) -> Self {
        Self { used: Arc::default(), limit }
    }
}

impl Account for Narrow {
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        let fits = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.limit);
        let charged = self.used.fetch_update(SeqCst, SeqCst, fits);
        thread::yield_now();
        let refused = |in_use| MemoryError::PoolExhausted { in_use, capacity: self.limit };
        charged.map(|_| ()).map_err(refused)
    }

    fn credit(&self, bytes: usize) {
        self.used.fetch_sub(bytes, SeqCst);
    }
}

macro_rules! growth {
    ($name:ident, $Pool:ident) => {
        #[test]
        fn $name() {
            const CROWD: usize = 4;
            let config = of(CROWD + 1).growth(Growth::Doubling(1)).build().unwrap();
            let needed = {
                let account = Narrow::new(usize::MAX);
                let pool = $Pool::new_in(&config, account.clone(), String::new).unwrap();
                let all = [(); CROWD + 1].map(|()| pool.try_get().unwrap());
                let needed = account.used.load(SeqCst);
                drop(all);
                needed
            };
            for round in 0..50 {
                let account = Narrow::new(needed);
                let pool = $Pool::new_in(&config, account.clone(), String::new).unwrap();
                let barrier = Barrier::new(CROWD);
                thread::scope(|s| {
                    for _ in 0..CROWD {
                        s.spawn(|| {
                            barrier.wait();
                            let lent = pool.try_get();
                            barrier.wait();
                            if let Err(error) = lent {
                                panic!(
                                    "in round {round}, in which there was room for all: {error}"
                                );
                            }
                        });
                    }
                });
                drop(pool);
                assert_eq!(account.used.load(SeqCst), 0);
            }
        }
    };
}

growth!(slots_that_there_is_room_for_are_not_refused, ThreadSafePool);
growth!(storage_that_there_is_room_for_is_not_refused, LockFreePool);
growth!(places_that_there_is_room_for_are_not_refused, HierarchicalPool);

#[test]
fn an_account_may_use_the_pool_that_grows_at_its_expense() {
    let config = of(3).growth(Growth::Fixed(1)).build().unwrap();
    let pool = Arc::new(ThreadSafePool::new_in(&config, Reenter, String::new).unwrap());
    let first = pool.try_get().unwrap();
    let again = Arc::clone(&pool);
    Reenter::at_next_charge(move || drop(again.try_get().unwrap()));
    let second = pool.try_get().unwrap();
    drop((first, second));
    drop(pool);
    assert_eq!(Reenter::balance(), 0);
}

/// Does something when it is woken.
struct Do(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Wake for Do {
    fn wake(self: Arc<Self>) {
        let work = self.0.lock().unwrap().take();
        if let Some(work) = work {
            work();
        }
    }
}

fn waker(work: impl FnOnce() + Send + 'static) -> Waker {
    Waker::from(Arc::new(Do(Mutex::new(Some(Box::new(work))))))
}

#[test]
fn nobody_overtakes_while_a_level_is_closed() {
    let config = of(1).build().unwrap();
    let root = HierarchicalPool::new(&config, String::new).unwrap();
    let level = || root.child(&config, Unlimited).unwrap();
    let (closed, open) = (level(), level());
    let held = open.try_get_owned().unwrap();
    let [mut first, mut second] = [(); 2].map(|()| Box::pin(Arc::clone(&closed).get_owned_async()));
    let mut live = Box::pin(Arc::clone(&open).get_owned_async());
    let overtaken = Arc::new(Mutex::new(None));
    let returning = waker(move || drop(held));
    let newcomer = {
        let (open, overtaken) = (Arc::clone(&open), Arc::clone(&overtaken));
        waker(move || *overtaken.lock().unwrap() = open.try_get_owned().ok())
    };
    assert!(first.as_mut().poll(&mut Context::from_waker(&returning)).is_pending());
    assert!(second.as_mut().poll(&mut Context::from_waker(&newcomer)).is_pending());
    assert!(poll(live.as_mut()).is_pending());
    closed.close();
    assert!(overtaken.lock().unwrap().is_none(), "a newcomer passed who waits");
    assert!(poll(live.as_mut()).is_ready());
    assert!(poll(first.as_mut()).is_ready() && poll(second.as_mut()).is_ready());
}

#[test]
fn waits_of_which_not_all_are_timed_are_not_those_of_the_first_ones() {
    let pool = ThreadSafePool::new(&of(1).build().unwrap(), String::new).unwrap();
    let held = pool.try_get().unwrap();
    let start = Instant::now();
    for _ in 0..64 {
        assert!(pool.get_timeout(Duration::from_millis(5)).is_err());
    }
    for _ in 0..640 {
        assert!(pool.get_timeout(Duration::ZERO).is_err());
    }
    let (real, told) = (start.elapsed(), pool.stats().wait_time);
    assert!(Duration::from_millis(320) <= told && told < real * 2, "{told:?} of {real:?}");
    drop(held);
}

#[test]
fn who_still_waits_has_not_waited_for_as_long_as_others_did() {
    let pool = ThreadSafePool::new(&of(1).build().unwrap(), String::new).unwrap();
    let held = pool.try_get().unwrap();
    let start = Instant::now();
    assert!(pool.get_timeout(Duration::from_millis(20)).is_err());
    let over = start.elapsed();
    let mut line: Vec<_> = (0..9).map(|_| Box::pin(pool.get_async())).collect();
    assert!(line.iter_mut().all(|future| poll(future.as_mut()).is_pending()));
    let stats = pool.stats();
    assert!(stats.waited == 10 && stats.wait_time <= over, "{:?} of {over:?}", stats.wait_time);
    drop(line);
    drop(held);
}
