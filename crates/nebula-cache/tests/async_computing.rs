//! What tasks that compute may rely on, driven by hand.

mod common;

use std::{
    cell::Cell,
    future::{Future, pending, poll_fn, ready},
    hash::{BuildHasherDefault, Hasher},
    panic::resume_unwind,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use common::{
    LIMIT,
    counting::{self, Counting},
    tasks::{Task, Yields, block_on},
    until as wait_until,
};
use nebula_cache::{
    AsyncCache, CacheConfig, ComputeError, ConcurrentComputeCache, EntryOptions, Timed, With,
};
use nebula_memory_core::{ByteSize, ManualClock, MemoryError, MemoryUsage, PressureLevel, Reclaim};
use nebula_testing::{CountingAccount, DropCounter, DropProbe, InjectedPanic, catch, watchdog};
use static_assertions::assert_impl_all;

#[global_allocator]
static COUNTING: Counting = Counting;

type Cache = AsyncCache<u64, u64>;

fn cache() -> Cache {
    Cache::new(CacheConfig::builder().entries(100).shards(1).build().unwrap()).unwrap()
}

fn is_reentrant<T>(result: &Result<T, MemoryError>) -> bool {
    matches!(result, Err(MemoryError::Reentrant { .. }))
}

/// Ready with what is put in.
struct Gate<T>(Arc<Mutex<(Option<T>, Option<Waker>)>>);

impl<T> Clone for Gate<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Gate<T> {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((None, None))))
    }

    fn open(&self, value: T) {
        let waker = {
            let mut gate = self.0.lock().unwrap();
            gate.0 = Some(value);
            gate.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for Gate<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut gate = self.0.lock().unwrap();
        match gate.0.take() {
            Some(value) => Poll::Ready(value),
            None => {
                gate.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[test]
fn futures_are_send_and_so_is_the_cache() {
    assert_impl_all!(Cache: Send, Sync, Reclaim, MemoryUsage);
    fn send<T: Send>(future: T) -> T {
        future
    }
    let cache = cache();
    drop(send(cache.get_or_compute(&1, async { 1 })));
    drop(send(cache.try_get_or_compute(&1, async { Err::<u64, _>("no") })));
    drop(send(cache.get_or_compute_timeout(&1, pending::<()>(), async { 1 })));
    drop(send(cache.update(&1, async |_| Some(1))));
    let text = AsyncCache::<String, u64>::new(CacheConfig::default()).unwrap();
    drop(send(text.get_or_compute("a", async { 1 })));
    assert_eq!((cache.len(), cache.stats().lookups()), (0, 0), "nothing is done before a poll");
}

#[test]
fn a_hit_allocates_nothing_and_a_lone_miss_nothing_either() {
    let cache = cache();
    // The memory of the first entry is the cache's.
    block_on(cache.get_or_compute(&0, async { 0 })).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    for (key, found) in [(0, 0), (1, 10), (1, 10)] {
        let mut future = std::pin::pin!(cache.get_or_compute(&key, async { 10 }));
        let before = counting::calls();
        assert!(matches!(future.as_mut().poll(&mut context), Poll::Ready(Ok(v)) if v == found));
        assert_eq!(counting::calls(), before, "{key}");
    }
    assert_eq!(cache.stats().computes, 2);
}

#[test]
fn a_future_has_room_for_the_computation_twice_and_little_else() {
    let cache = cache();
    let compute = |bytes: [u8; 1000]| async move {
        Yields(1).await;
        bytes.len() as u64
    };
    let computing = size_of_val(&compute([0; 1000]));
    let room = size_of_val(&cache.get_or_compute(&1, compute([0; 1000])));
    assert!(room < 2 * computing + 600, "{room} for {computing}");
}

#[test]
fn what_waits_for_nobody_is_there_too() {
    let clock = Arc::new(ManualClock::new());
    let account = CountingAccount::new();
    let config = CacheConfig::builder().entries(100).build().unwrap();
    let cache = AsyncCache::<u64, Vec<u8>>::builder(config)
        .with_expiry()
        .with_tags()
        .with_clock(Arc::clone(&clock) as _)
        .with_account(account.clone())
        .with_weigher(|_, value| value.capacity())
        .build_async()
        .unwrap();
    let options = EntryOptions::new().tag(7).ttl(Duration::from_secs(1));
    let computed = cache.try_get_or_compute_with(&1, options, async { Ok::<_, ()>(vec![1; 10]) });
    assert_eq!(block_on(computed).unwrap(), vec![1; 10]);
    cache.insert(2, vec![2; 20]).unwrap();
    cache.insert_with(3, vec![3; 30], EntryOptions::new().tag(7).pinned()).unwrap();
    assert_eq!((cache.len(), cache.pinned(), cache.invalidate_tag(7)), (3, 1, 2));
    let computed = cache.try_get_or_compute_with(&1, options, async { Ok::<_, ()>(vec![4; 40]) });
    block_on(computed).unwrap();
    clock.advance(Duration::from_secs(1));
    assert_eq!((cache.get(&1), cache.maintain(usize::MAX)), (None, 0));
    assert_eq!((&cache).into_iter().collect::<Vec<_>>(), [(2, vec![2; 20])]);
    assert_eq!((cache.used(), MemoryUsage::capacity(&cache)), (cache.charged(), None));
    account.assert_balance(cache.charged());
    assert!(cache.reclaimable() > 0 && cache.reclaim(usize::MAX, PressureLevel::Critical) > 0);
    assert!(cache.is_empty() && format!("{cache:?}").starts_with("AsyncCache(ConcurrentCompute"));
    let cache: ConcurrentComputeCache<_, _, With<_, _, Timed, _, _>> = cache.into_blocking();
    drop(AsyncCache::from(cache));
    account.assert_settled();
}

#[test]
fn who_waits_is_woken_once_by_the_landing() {
    let cache = cache();
    let gate = Gate::new();
    let mut leader = Task::new(cache.get_or_compute(&1, gate.clone()));
    leader.poll_pending();
    let mut others: Vec<_> =
        (0..20).map(|_| Task::new(cache.get_or_compute(&1, async { unreachable!() }))).collect();
    others.iter_mut().for_each(Task::poll_pending);
    // A task that is polled again without need stays where it is.
    others.iter_mut().for_each(Task::poll_pending);
    assert_eq!(cache.stats().waits, 20);
    // Every third leaves.
    others =
        others.into_iter().enumerate().filter(|(n, _)| n % 3 != 1).map(|other| other.1).collect();
    gate.open(5);
    assert_eq!((leader.rings(), others[0].rings()), (1, 0));
    assert_eq!(leader.poll_ready().unwrap(), 5);
    for other in &mut others {
        assert_eq!(other.rings(), 1);
        assert_eq!(other.poll_ready().unwrap(), 5);
    }
    assert_eq!(cache.stats().computes, 1);
    cache.validate().unwrap();
}

#[test]
fn a_cancelled_leader_wakes_the_first_in_line_alone() {
    let cache = cache();
    let mut tasks: Vec<_> = (0..5)
        .map(|n| {
            Some(Task::new(cache.get_or_compute(&1, async move {
                Yields(1).await;
                n
            })))
        })
        .collect();
    tasks.iter_mut().flatten().for_each(Task::poll_pending);
    let rings = |tasks: &[Option<Task<'_, _>>]| -> Vec<usize> {
        tasks.iter().map(|task| task.as_ref().map_or(0, Task::rings)).collect()
    };
    tasks[0] = None;
    assert_eq!(rings(&tasks), [0, 1, 0, 0, 0]);
    // Woken, but gone before it was polled: what it was handed goes on.
    tasks[1] = None;
    assert_eq!(rings(&tasks), [0, 0, 1, 0, 0]);
    // Gone from the middle of the line.
    tasks[3] = None;
    tasks[2].as_mut().unwrap().poll_pending();
    tasks[2] = None;
    assert_eq!(rings(&tasks), [0, 0, 0, 0, 1]);
    let last = tasks[4].as_mut().unwrap();
    last.poll_pending();
    assert_eq!(last.poll_ready().unwrap(), 4);
    assert_eq!((cache.get(&1), cache.stats().computes, cache.stats().failures), (Some(4), 3, 2));
    cache.validate().unwrap();
}

#[test]
fn a_computation_is_dropped_before_the_next_begins() {
    struct Under<'a>(&'a AtomicUsize);
    impl Drop for Under<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }

    let cache = cache();
    let (under_way, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let compute = || async {
        most.fetch_max(under_way.fetch_add(1, SeqCst) + 1, SeqCst);
        let _under = Under(&under_way);
        pending().await
    };
    let mut tasks: Vec<_> =
        (0..4).map(|_| Task::new(cache.get_or_compute(&1, compute()))).collect();
    tasks.iter_mut().for_each(Task::poll_pending);
    while !tasks.is_empty() {
        drop(tasks.remove(0));
        assert_eq!(under_way.load(SeqCst), 0);
        tasks.iter_mut().for_each(Task::poll_pending);
    }
    assert_eq!((most.load(SeqCst), cache.stats().computes), (1, 4));
    cache.validate().unwrap();
}

#[test]
fn errors_are_shared_by_those_who_expect_them() {
    let cache = cache();
    let gate = Gate::new();
    let mut leader = Task::new(cache.try_get_or_compute(&1, gate.clone()));
    leader.poll_pending();
    let mut same =
        Task::new(cache.try_get_or_compute(&1, async { unreachable!("it waits for the error") }));
    let mut other = Task::new(cache.try_get_or_compute(&1, async { Err::<u64, _>(7_u8) }));
    let mut none = Task::new(cache.get_or_compute(&1, async { 9 }));
    same.poll_pending();
    other.poll_pending();
    none.poll_pending();
    gate.open(Err("no".to_owned()));
    let Err(ComputeError::Compute(error)) = leader.poll_ready() else { panic!("it fails") };
    // Who asks now waits for nobody, and is not told of what was before.
    let mut late =
        Task::new(cache.try_get_or_compute(&1, async { Err::<u64, _>("later".to_owned()) }));
    assert_eq!(late.poll_ready().unwrap_err().to_string(), "the computation failed: later");
    let Err(ComputeError::Compute(shared)) = same.poll_ready() else { panic!("it fails too") };
    assert!(Arc::ptr_eq(&error, &shared));
    // These can't be given an error of that type.
    assert!(matches!(other.poll_ready(), Err(ComputeError::Compute(error)) if *error == 7));
    assert_eq!(none.poll_ready().unwrap(), 9);
    let stats = cache.stats();
    assert_eq!((stats.computes, stats.failures, stats.waits), (4, 3, 3));
    cache.validate().unwrap();
}

#[test]
fn a_computation_that_asks_for_itself_is_an_error() {
    let cache = cache();
    let outer = cache.get_or_compute(&1, async {
        Yields(2).await;
        assert!(is_reentrant(&cache.get_or_compute(&1, async { 5 }).await));
        let inner = cache.get_or_compute(&2, async {
            Yields(1).await;
            let updated = cache.update(&1, async |_| Some(1)).await.unwrap_err();
            assert!(
                matches!(updated.error, MemoryError::Reentrant { .. }) && updated.value.is_none()
            );
            // A thread that would block for what it polls itself.
            assert!(is_reentrant(&cache.blocking().get_or_compute(&1, || 5)));
            cache.get_or_compute(&3, async { 30 }).await.unwrap()
        });
        inner.await.unwrap()
    });
    assert_eq!(block_on(outer).unwrap(), 30);
    assert_eq!((cache.get(&1), cache.get(&2), cache.get(&3)), (Some(30), Some(30), Some(30)));
    // And the other way round.
    let outer = cache.blocking().get_or_compute(&4, || {
        assert!(is_reentrant(&block_on(cache.get_or_compute(&4, async { 5 }))));
        block_on(cache.get_or_compute(&5, async { 50 })).unwrap()
    });
    assert_eq!(outer.unwrap(), 50);
    cache.validate().unwrap();
}

#[test]
fn tasks_that_compute_in_a_circle_get_an_error_instead_of_a_deadlock() {
    for (count, nested) in [(2, false), (2, true), (3, false), (5, true)] {
        let cache = cache();
        let (errors, cache) = (Cell::new(0), &cache);
        let ask = |key: u64| {
            let errors = &errors;
            async move {
                match cache.get_or_compute(&((key + 1) % count), async { 100 }).await {
                    Ok(value) => value + 1,
                    Err(error) => {
                        assert!(matches!(error, MemoryError::Reentrant { .. }));
                        errors.set(errors.get() + 1);
                        1
                    }
                }
            }
        };
        let keys: Vec<u64> = (0..count).collect();
        let mut tasks: Vec<_> = keys
            .iter()
            .map(|own| {
                let key = *own;
                Task::new(cache.get_or_compute(own, async move {
                    Yields(1).await;
                    if nested {
                        // Its own computation stands between.
                        cache.get_or_compute(&(key + 1000), ask(key)).await.unwrap()
                    } else {
                        ask(key).await
                    }
                }))
            })
            .collect();
        let mut done = 0;
        for _ in 0..20 {
            tasks.retain_mut(|task| match task.poll() {
                Poll::Pending => true,
                Poll::Ready(value) => {
                    assert!((1..=count).contains(&value.unwrap()));
                    done += 1;
                    false
                }
            });
        }
        assert_eq!((done, errors.get()), (count, 1), "the one that closes the circle is told");
        cache.validate().unwrap();
    }
}

#[test]
fn siblings_that_wait_for_each_other_one_way_are_no_circle() {
    let cache = cache();
    // One computation polls two others, of which the first waits for the second.
    let outer = cache.get_or_compute(&1, async {
        let mut first = Task::new(cache.get_or_compute(&2, async {
            Yields(1).await;
            cache.get_or_compute(&3, async { unreachable!() }).await.unwrap() + 1
        }));
        let mut second = Task::new(cache.get_or_compute(&3, async {
            Yields(3).await;
            7
        }));
        first.poll_pending();
        second.poll_pending();
        first.poll_pending();
        let (mut one, mut two) = (None, None);
        poll_fn(|cx| {
            if one.is_none() {
                one = match first.poll() {
                    Poll::Ready(value) => Some(value.unwrap()),
                    Poll::Pending => None,
                };
            }
            if two.is_none() {
                two = match second.poll() {
                    Poll::Ready(value) => Some(value.unwrap()),
                    Poll::Pending => None,
                };
            }
            match (one, two) {
                (Some(one), Some(two)) => Poll::Ready(one * 10 + two),
                _ => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            }
        })
        .await
    });
    assert_eq!(block_on(outer).unwrap(), 87);
    cache.validate().unwrap();
}

#[test]
fn threads_and_tasks_share_a_computation() {
    watchdog(LIMIT, || {
        let cache = cache();
        // A task leads, threads wait.
        let gate = Gate::new();
        let mut leader = Task::new(cache.get_or_compute(&1, gate.clone()));
        leader.poll_pending();
        thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| assert_eq!(cache.blocking().get_or_compute(&1, || 9).unwrap(), 5));
            }
            wait_until(|| cache.stats().waits == 3);
            gate.open(5);
            assert_eq!(leader.poll_ready().unwrap(), 5);
        });
        // A thread leads, a task waits.
        thread::scope(|s| {
            let (leading, go) = (mpsc::channel::<()>(), mpsc::channel::<()>());
            let cache = &cache;
            let (tell, hear) = (leading.0, go.1);
            s.spawn(move || {
                let value = cache.blocking().get_or_compute(&2, || {
                    tell.send(()).unwrap();
                    hear.recv().unwrap();
                    6
                });
                assert_eq!(value.unwrap(), 6);
            });
            leading.1.recv().unwrap();
            let mut task = Task::new(cache.get_or_compute(&2, async { 9 }));
            task.poll_pending();
            go.0.send(()).unwrap();
            wait_until(|| task.rings() == 1);
            assert_eq!(task.poll_ready().unwrap(), 6);
        });
        assert_eq!(cache.stats().computes, 2);
        // A task is dropped, and a thread goes on, and a thread fails, and a task goes on.
        let mut leader = Task::new(cache.get_or_compute(&3, pending()));
        leader.poll_pending();
        thread::scope(|s| {
            let failing = s.spawn(|| {
                cache.blocking().try_get_or_compute(&3, || {
                    wait_until(|| cache.stats().waits == 6);
                    Err("no")
                })
            });
            wait_until(|| cache.stats().waits == 5);
            let mut task = Task::new(cache.get_or_compute(&3, async { 30 }));
            task.poll_pending();
            drop(leader);
            assert!(matches!(failing.join().unwrap(), Err(ComputeError::Compute("no"))));
            assert_eq!(task.rings(), 1);
            assert_eq!(task.poll_ready().unwrap(), 30);
        });
        cache.validate().unwrap();
    });
}

#[test]
fn threads_and_tasks_in_a_circle_get_an_error() {
    watchdog(LIMIT, || {
        let cache = cache();
        let gate = Gate::new();
        let mut task = Task::new(cache.get_or_compute(&1, async {
            gate.clone().await;
            match cache.get_or_compute(&2, async { 9 }).await {
                Err(MemoryError::Reentrant { .. }) => 7,
                other => panic!("{other:?}"),
            }
        }));
        task.poll_pending();
        thread::scope(|s| {
            s.spawn(|| {
                let value = cache
                    .blocking()
                    .get_or_compute(&2, || cache.blocking().get_or_compute(&1, || 9).unwrap() + 1);
                assert_eq!(value.unwrap(), 8);
            });
            wait_until(|| cache.stats().waits == 1);
            gate.open(());
            assert_eq!(task.poll_ready().unwrap(), 7);
        });
        cache.validate().unwrap();
    });
}

#[test]
fn updates_of_one_key_are_one_after_the_other() {
    let cache = cache();
    let mut tasks: Vec<_> = (0..10)
        .map(|_| {
            Task::new(cache.update(&1, async |count| {
                Yields(3).await;
                Some(count.unwrap_or(0) + 1)
            }))
        })
        .collect();
    let mut counts = Vec::new();
    for round in 0..100 {
        tasks.retain_mut(|task| match task.poll() {
            Poll::Pending => true,
            Poll::Ready(count) => {
                counts.extend(count.unwrap());
                false
            }
        });
        // One of them gives up in the middle.
        if round == 5 {
            drop(tasks.remove(0));
        }
    }
    assert_eq!(counts, (1..10).collect::<Vec<_>>());
    assert_eq!(block_on(cache.update(&1, async |_| None)).unwrap(), None);
    assert!(!cache.contains(&1));
    cache.validate().unwrap();
}

#[test]
fn a_time_that_is_over_ends_the_waiting_and_the_computing() {
    let cache = cache();
    let (sleep, late) = (Gate::new(), Gate::new());
    let mut leader = Task::new(cache.get_or_compute_timeout(&1, sleep.clone(), pending()));
    let mut waiter = Task::new(cache.get_or_compute_timeout(&1, late.clone(), async {
        Yields(1).await;
        6
    }));
    let mut gone =
        Task::new(cache.try_get_or_compute_timeout(&1, ready(()), pending::<Result<u64, ()>>()));
    leader.poll_pending();
    waiter.poll_pending();
    let timed_out = gone.poll_ready();
    assert!(matches!(timed_out, Err(ComputeError::Memory(MemoryError::Timeout { .. }))));
    assert_eq!(waiter.rings(), 0);
    sleep.open(());
    assert_eq!(leader.poll_ready().unwrap_err().code(), "timeout");
    assert_eq!(waiter.rings(), 1, "it is handed on by the time-out, before the future is dropped");
    waiter.poll_pending();
    // The time is over in the same moment as the value is there.
    late.open(());
    assert_eq!(waiter.poll_ready().unwrap(), 6);
    cache.remove(&1);
    // And for one who waits: it lands, then the time is over, then both are noticed.
    let (gate, sleep) = (Gate::new(), Gate::new());
    let mut leader = Task::new(cache.get_or_compute(&1, gate.clone()));
    leader.poll_pending();
    let mut waiter = Task::new(cache.get_or_compute_timeout(&1, sleep.clone(), pending()));
    waiter.poll_pending();
    gate.open(7);
    assert_eq!(leader.poll_ready().unwrap(), 7);
    sleep.open(());
    assert_eq!(waiter.poll_ready().unwrap(), 7);
    cache.validate().unwrap();
}

#[test]
fn what_is_refused_is_returned_to_all() {
    let config = CacheConfig::builder().bytes(ByteSize::kib(40)).shards(1).build().unwrap();
    let cache = AsyncCache::<u64, Vec<u8>>::builder(config)
        .with_weigher(|_, value| value.capacity())
        .build_async()
        .unwrap();
    let gate = Gate::new();
    let mut leader = Task::new(cache.get_or_compute(&1, gate.clone()));
    leader.poll_pending();
    let mut waiter = Task::new(cache.get_or_compute(&1, pending()));
    waiter.poll_pending();
    gate.open(vec![7; 50_000]);
    assert_eq!(leader.poll_ready().unwrap(), vec![7; 50_000]);
    assert_eq!(waiter.poll_ready().unwrap(), vec![7; 50_000]);
    let refused = block_on(cache.update(&1, async |_| Some(vec![8; 50_000])));
    assert_eq!(refused.unwrap_err().into_value(), Some(vec![8; 50_000]));
    assert_eq!((cache.len(), cache.stats().rejected, cache.stats().failures), (0, 2, 0));
    cache.validate().unwrap();
}

/// Whose turn it is to panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Site {
    CloneKey,
    CloneValue,
    Drop,
    DropFuture,
    Compute,
    Weigh,
}

std::thread_local! {
    static ARMED: Cell<Option<(Site, usize)>> = const { Cell::new(None) };
}

fn tick(site: Site) {
    let Some((armed, left)) = ARMED.get() else { return };
    if armed != site || thread::panicking() {
        return;
    }
    ARMED.set(left.checked_sub(1).map(|left| (armed, left)));
    if left == 0 {
        resume_unwind(Box::new(InjectedPanic));
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key(u64);

impl Clone for Key {
    fn clone(&self) -> Self {
        tick(Site::CloneKey);
        Self(self.0)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        tick(Site::Drop);
    }
}

#[derive(Debug)]
struct Value(DropProbe);

impl Clone for Value {
    fn clone(&self) -> Self {
        tick(Site::CloneValue);
        Self(self.0.clone())
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        tick(Site::Drop);
    }
}

/// Three tasks for one key, polled in turn, with a panic at call `n` of `site`: whoever is left gets
/// a value, and the books are in order. Whether the panic came.
fn panic_at(site: Site, n: usize) -> bool {
    struct Guarded<'f>(Pin<Box<dyn Future<Output = Value> + 'f>>);
    impl Future for Guarded<'_> {
        type Output = Value;
        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Value> {
            self.0.as_mut().poll(cx)
        }
    }
    impl Drop for Guarded<'_> {
        fn drop(&mut self) {
            tick(Site::DropFuture);
        }
    }
    let (probes, account) = (DropCounter::new(), CountingAccount::new());
    {
        let cache = AsyncCache::<Key, Value>::builder(CacheConfig::default())
            .with_account(account.clone())
            .with_weigher(|_, _| {
                tick(Site::Weigh);
                3
            })
            .build_async()
            .unwrap();
        ARMED.set(Some((site, n)));
        for round in 0..3 {
            let keys: Vec<Key> = (0..3).map(|_| Key(round)).collect();
            let compute = || {
                Guarded(Box::pin(async {
                    tick(Site::Compute);
                    Yields(2).await;
                    tick(Site::Compute);
                    Value(probes.probe(round))
                }))
            };
            let mut tasks: Vec<_> = keys
                .iter()
                .map(|key| Some(Task::new(cache.get_or_compute(key, compute()))))
                .collect();
            let mut found = 0;
            for turn in 0..20 {
                for task in &mut tasks {
                    let Some(future) = task else { continue };
                    match catch(|| future.poll().map(|value| drop(value.unwrap()))) {
                        Ok(Poll::Pending) => continue,
                        Ok(Poll::Ready(())) => found += 1,
                        Err(_) => {}
                    }
                    _ = catch(|| *task = None);
                    *task = None;
                }
                if round == 1 && turn == 1 {
                    // A leader is dropped, which may panic.
                    let first = tasks[0].take();
                    _ = catch(move || drop(first));
                }
            }
            assert!(found >= if round == 1 { 1 } else { 2 }, "{site:?} {n}: {found} in {round}");
            assert_eq!(cache.validate(), Ok(()), "{site:?} {n}");
            _ = catch(|| drop(tasks));
            _ = catch(|| drop(keys));
        }
        probes.assert_live(cache.len());
        account.assert_balance(cache.charged());
        _ = catch(|| drop(cache));
    }
    let fired = ARMED.take().is_none();
    probes.assert_all_dropped();
    account.assert_settled();
    fired
}

#[test]
fn panics_anywhere_leave_the_books_in_order_and_the_others_a_value() {
    for site in
        [Site::CloneKey, Site::CloneValue, Site::Drop, Site::DropFuture, Site::Compute, Site::Weigh]
    {
        let mut n = 0;
        while panic_at(site, n) {
            n += 1;
        }
        assert!(n >= 3, "{site:?} was called {n} times only");
    }
}

#[test]
fn a_waker_that_panics_harms_nobody() {
    struct Broken;
    impl Wake for Broken {
        fn wake(self: Arc<Self>) {
            resume_unwind(Box::new(InjectedPanic));
        }
    }
    let cache = cache();
    let gate = Gate::new();
    let mut leader = Task::new(cache.get_or_compute(&1, gate.clone()));
    leader.poll_pending();
    let mut broken = Box::pin(cache.get_or_compute(&1, pending()));
    let waker = Waker::from(Arc::new(Broken));
    assert!(broken.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let mut last = Task::new(cache.get_or_compute(&1, pending()));
    last.poll_pending();
    gate.open(5);
    assert_eq!(leader.poll_ready().unwrap(), 5);
    assert_eq!(last.poll_ready().unwrap(), 5);
    assert_eq!(block_on(broken).unwrap(), 5);
    cache.validate().unwrap();
}

/// The same hash for all keys.
#[derive(Default)]
struct Constant;

impl Hasher for Constant {
    fn finish(&self) -> u64 {
        7
    }
    fn write(&mut self, _: &[u8]) {}
}

#[test]
fn a_stranger_with_the_same_hash_is_not_given_the_value() {
    watchdog(LIMIT, || {
        // While a value is placed, its key is not on the board: the weigher keeps it so.
        let (placing, go_on) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (tell, hear) = (Arc::clone(&placing), Arc::clone(&go_on));
        let cache = AsyncCache::<u64, u64>::builder(CacheConfig::default())
            .with_hasher(BuildHasherDefault::<Constant>::default())
            .with_weigher(move |key, _| {
                if *key == 1 {
                    tell.store(true, SeqCst);
                    wait_until(|| hear.load(SeqCst));
                }
                0
            })
            .build_async()
            .unwrap();
        thread::scope(|s| {
            s.spawn(|| assert_eq!(block_on(cache.get_or_compute(&1, async { 10 })).unwrap(), 10));
            wait_until(|| placing.load(SeqCst));
            let mut task = Task::new(cache.get_or_compute(&2, async { 20 }));
            task.poll_pending();
            let thread = s.spawn(|| cache.blocking().get_or_compute(&3, || 30));
            wait_until(|| cache.stats().waits == 2);
            go_on.store(true, SeqCst);
            wait_until(|| task.rings() == 1);
            // The thread was woken too, and may be computing under the hash that they share.
            assert_eq!(task.poll_until_ready().unwrap(), 20);
            assert_eq!(thread.join().unwrap().unwrap(), 30);
        });
        assert_eq!((cache.get(&1), cache.get(&2), cache.get(&3)), (Some(10), Some(20), Some(30)));
        cache.validate().unwrap();
    });
}
