//! Tasks that wait for each other's computations, under every order of events that a few threads can
//! have: whatever is dropped when, nobody waits for ever and nothing is left on the books.
//!
//! `RUSTFLAGS="--cfg nebula_loom" cargo test --release -p nebula-cache --test loom_async`
#![cfg(nebula_loom)]

use std::{
    any::Any,
    future::{Future, ready},
    pin::pin,
    task::{Context, Poll, Waker},
};

use loom::{future::block_on, model::Builder, thread};
use nebula_cache::{
    AsyncCache, CacheConfig, Fifo,
    flight::{Asked, Flights, Joined, SharedError},
};
use nebula_memory_core::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(body);
}

/// Flights around a cache of one entry.
struct Cell {
    flights: Flights<u8, u64>,
    cached: Mutex<Option<u64>>,
    computed: AtomicUsize,
}

const KEY: u8 = 7;

impl Cell {
    fn new() -> Arc<Self> {
        let computed = AtomicUsize::new(0);
        Arc::new(Self { flights: Flights::new(1), cached: Mutex::new(None), computed })
    }

    /// As the cache does it.
    async fn get(&self, compute: impl Future<Output = Result<u64, u8>>) -> Result<u64, u8> {
        if let Some(value) = *self.cached.lock() {
            return Ok(value);
        }
        let mut compute = pin!(compute);
        loop {
            let joined = match self.flights.ask(1, &KEY) {
                Asked::Lead(lead) => Joined::Lead(lead),
                Asked::Wait(waiting) => waiting.await,
                Asked::Circle => Joined::Circle,
            };
            match joined {
                Joined::Lead(lead) => {
                    let found = *self.cached.lock();
                    if let Some(value) = found {
                        lead.land(|| value);
                        return Ok(value);
                    }
                    self.computed.fetch_add(1, SeqCst);
                    match std::future::poll_fn(|cx| lead.poll(compute.as_mut(), cx)).await {
                        Ok(value) => {
                            assert_eq!(lead.take_key(), Some(KEY));
                            *self.cached.lock() = Some(value);
                            lead.land(|| value);
                            return Ok(value);
                        }
                        Err(error) => {
                            let shared: SharedError = Arc::new(error);
                            lead.fail(&shared);
                            return Err(error);
                        }
                    }
                }
                Joined::Landed(value) => return Ok(*value),
                Joined::Failed(error) => {
                    let error: &(dyn Any + Send + Sync) = &*error;
                    return Err(*error.downcast_ref().expect("an error of ours"));
                }
                Joined::Again => {}
                Joined::Circle => panic!("there is no circle"),
            }
        }
    }

    /// Asks, polls once with a computation that never ends, and gives up; unless there is a value.
    fn give_up(&self) {
        let future = pin!(self.get(std::future::pending()));
        if let Poll::Ready(value) = future.poll(&mut Context::from_waker(Waker::noop())) {
            assert_eq!(value, Ok(5));
        }
    }
}

#[test]
fn a_leader_that_is_dropped_hands_over() {
    model(3, || {
        let cell = Cell::new();
        let other = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || assert_eq!(block_on(cell.get(ready(Ok(5)))), Ok(5)))
        };
        cell.give_up();
        other.join().unwrap();
        assert!(cell.flights.is_idle());
    });
}

#[test]
fn what_is_handed_to_one_who_gives_up_reaches_the_next() {
    model(3, || {
        let cell = Cell::new();
        let others = [true, false].map(|stays| {
            let cell = Arc::clone(&cell);
            thread::spawn(move || {
                if stays {
                    assert_eq!(block_on(cell.get(ready(Ok(5)))), Ok(5));
                } else {
                    cell.give_up();
                }
            })
        });
        cell.give_up();
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(cell.flights.is_idle());
    });
}

#[test]
fn threads_and_tasks_compute_once() {
    model(3, || {
        let cell = Cell::new();
        let task = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || assert_eq!(block_on(cell.get(ready(Ok(5)))), Ok(5)))
        };
        let thread = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || {
                loop {
                    if cell.cached.lock().is_some() {
                        return;
                    }
                    match cell.flights.join(1, &KEY, || {}) {
                        Joined::Lead(lead) => {
                            if cell.cached.lock().is_none() {
                                cell.computed.fetch_add(1, SeqCst);
                                *cell.cached.lock() = Some(5);
                            }
                            return lead.land(|| 5);
                        }
                        Joined::Landed(value) => return assert_eq!(*value, 5),
                        // It came while the value was being placed.
                        Joined::Again => {}
                        other => panic!("{other:?}"),
                    }
                }
            })
        };
        assert_eq!(block_on(cell.get(ready(Ok(5)))), Ok(5));
        task.join().unwrap();
        thread.join().unwrap();
        assert_eq!(cell.computed.load(SeqCst), 1);
        assert!(cell.flights.is_idle());
    });
}

#[test]
fn a_thread_takes_over_from_a_task_that_gives_up() {
    model(3, || {
        let cell = Cell::new();
        let thread = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || match cell.flights.join(1, &KEY, || {}) {
                Joined::Lead(lead) => lead.land(|| 5),
                other => panic!("{other:?}"),
            })
        };
        cell.give_up();
        thread.join().unwrap();
        assert!(cell.flights.is_idle());
    });
}

#[test]
fn an_error_is_told_to_those_who_wait_and_nobody_else() {
    model(3, || {
        let cell = Cell::new();
        let others = [1, 2].map(|error| {
            let cell = Arc::clone(&cell);
            thread::spawn(move || block_on(cell.get(ready(Err(error)))).unwrap_err())
        });
        let mut errors = vec![block_on(cell.get(ready(Err(0)))).unwrap_err()];
        errors.extend(others.map(|other| other.join().unwrap()));
        errors.sort_unstable();
        errors.dedup();
        // Everyone who computed has told everyone who was told: no error is nobody's.
        assert_eq!(errors.len(), cell.computed.load(SeqCst));
        assert!(cell.flights.is_idle());
    });
}

#[test]
fn a_landing_against_one_who_gives_up() {
    model(3, || {
        let cell = Cell::new();
        let others = [true, false].map(|stays| {
            let cell = Arc::clone(&cell);
            thread::spawn(move || {
                if stays {
                    assert_eq!(block_on(cell.get(ready(Ok(5)))), Ok(5));
                } else {
                    cell.give_up();
                }
            })
        });
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(cell.computed.load(SeqCst).clamp(1, 2), cell.computed.load(SeqCst));
        assert!(cell.flights.is_idle());
    });
}

#[test]
fn the_cache_itself() {
    model(3, || {
        let config = CacheConfig::builder().entries(1).shards(1).build().unwrap();
        let builder = AsyncCache::<u64, u64>::builder(config).with_policy::<Fifo>();
        let cache = builder.with_hasher(Hash::default()).build_async().unwrap();
        let cache = Arc::new(cache);
        let other = {
            let cache = Arc::clone(&cache);
            thread::spawn(move || {
                let mut future = Box::pin(cache.get_or_compute(&1, std::future::pending()));
                let mut context = Context::from_waker(Waker::noop());
                assert!(future.as_mut().poll(&mut context).map(Result::unwrap) != Poll::Ready(7));
            })
        };
        assert_eq!(block_on(cache.get_or_compute(&1, async { 5 })).unwrap(), 5);
        other.join().unwrap();
        assert_eq!(cache.get(&1), Some(5));
        cache.validate().unwrap();
    });
}

type Hash = std::hash::BuildHasherDefault<Identity>;

/// Keys are their own hashes.
#[derive(Default)]
struct Identity(u64);

impl std::hash::Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}
