//! The waiting line under the model checker, which tries the interleavings of threads:
//! `RUSTFLAGS="--cfg nebula_loom" cargo test --release -p nebula-memory-core --test loom_wait`
#![cfg(nebula_loom)]

mod common;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Waker},
};

use common::Semaphore;
use loom::{future::block_on, model::Builder, thread};
use nebula_memory_core::{MemoryError, WaitQueue, Waiter};

/// Tries all interleavings with at most `preemptions` forced switches.
fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// A queue that waiters on other threads can borrow. It is leaked: loom's threads outlive scopes.
fn queue<T>() -> &'static WaitQueue<T> {
    Box::leak(Box::new(WaitQueue::new()))
}

/// Counts the values that are alive. It is not part of the model, so that it hides no race.
struct Token(Arc<AtomicUsize>);

impl Token {
    fn new(alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, SeqCst);
        Self(Arc::clone(alive))
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn poll_once<T>(waiter: &mut Waiter<'_, T>) -> bool {
    Pin::new(waiter).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn a_value_handed_to_one_who_leaves_reaches_the_next() {
    model(4, || {
        let queue = queue();
        let alive = Arc::new(AtomicUsize::new(0));
        let (leaver, stayer) = (queue.join(0), queue.join(0));
        let cancel = thread::spawn(move || drop(leaver));
        let token = Token::new(&alive);
        let hand = thread::spawn(move || assert!(queue.hand(token).is_ok()));
        let token = stayer.wait().expect("the queue is open");
        assert_eq!(alive.load(SeqCst), 1);
        drop(token);
        cancel.join().unwrap();
        hand.join().unwrap();
        assert_eq!((alive.load(SeqCst), queue.len()), (0, 0));
    });
}

#[test]
fn a_value_handed_to_the_last_who_leaves_is_dropped_once() {
    model(5, || {
        let queue = queue();
        let alive = Arc::new(AtomicUsize::new(0));
        let mut leaver = queue.join(0);
        let cancel = thread::spawn(move || {
            let _ = poll_once(&mut leaver);
        });
        let token = Token::new(&alive);
        let hand = thread::spawn(move || {
            // Either the leaver got it, or it comes back.
            drop(queue.hand(token));
        });
        cancel.join().unwrap();
        hand.join().unwrap();
        assert_eq!((alive.load(SeqCst), queue.len()), (0, 0));
    });
}

#[test]
fn two_values_and_two_waiters_of_whom_one_leaves() {
    model(3, || {
        let queue = queue();
        let alive = Arc::new(AtomicUsize::new(0));
        let (first, second) = (queue.join(0), queue.join(0));
        let (a, b) = (Token::new(&alive), Token::new(&alive));
        let hands = [a, b].map(|token| thread::spawn(move || drop(queue.hand(token))));
        drop(first);
        drop(second.wait().expect("the queue is open"));
        for hand in hands {
            hand.join().unwrap();
        }
        assert_eq!((alive.load(SeqCst), queue.len()), (0, 0));
    });
}

/// A lost wake-up would leave a thread waiting for ever, which loom reports.
#[test]
fn join_and_look_against_return_and_ask_loses_no_wake_up() {
    model(4, || {
        let semaphore = Semaphore::new(1);
        let permit = semaphore.try_acquire().unwrap();
        let waiting = {
            let semaphore = Arc::clone(&semaphore);
            thread::spawn(move || drop(semaphore.acquire().expect("the queue is open")))
        };
        drop(permit);
        waiting.join().unwrap();
        assert_eq!((semaphore.free(), semaphore.queue.len()), (1, 0));
    });
}

#[test]
fn three_threads_share_one_permit() {
    model(2, || {
        let semaphore = Semaphore::new(1);
        let in_use = Arc::new(AtomicUsize::new(0));
        let work = |semaphore: &Arc<Semaphore>, in_use: &Arc<AtomicUsize>| {
            let permit = semaphore.acquire().expect("the queue is open");
            assert_eq!(in_use.fetch_add(1, SeqCst), 0, "two hold the only permit");
            in_use.fetch_sub(1, SeqCst);
            drop(permit);
        };
        let others = [(); 2].map(|()| {
            let (semaphore, in_use) = (Arc::clone(&semaphore), Arc::clone(&in_use));
            thread::spawn(move || work(&semaphore, &in_use))
        });
        work(&semaphore, &in_use);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!((semaphore.free(), semaphore.queue.len()), (1, 0));
    });
}

#[test]
fn a_permit_returned_to_one_who_leaves_is_found_by_a_newcomer() {
    model(2, || {
        let semaphore = Semaphore::new(1);
        let permit = semaphore.try_acquire().unwrap();
        let leaver = {
            let semaphore = Arc::clone(&semaphore);
            thread::spawn(move || drop(semaphore.queue.join(9)))
        };
        let newcomer = {
            let semaphore = Arc::clone(&semaphore);
            thread::spawn(move || drop(semaphore.acquire().expect("the queue is open")))
        };
        drop(permit);
        leaver.join().unwrap();
        newcomer.join().unwrap();
        assert_eq!((semaphore.free(), semaphore.queue.len()), (1, 0));
    });
}

#[test]
fn a_future_is_woken() {
    model(4, || {
        let semaphore = Semaphore::new(1);
        let permit = semaphore.try_acquire().unwrap();
        let waiting = {
            let semaphore = Arc::clone(&semaphore);
            thread::spawn(move || {
                let waiter = semaphore.queue.join(0);
                let permit = semaphore.try_acquire();
                if permit.is_none() {
                    drop(block_on(waiter).expect("the queue is open"));
                }
            })
        };
        drop(permit);
        waiting.join().unwrap();
        assert_eq!((semaphore.free(), semaphore.queue.len()), (1, 0));
    });
}

#[test]
fn nobody_waits_in_a_closed_queue() {
    model(5, || {
        let queue = queue::<()>();
        let early = queue.join(0);
        let late = thread::spawn(move || {
            let outcome = queue.join(0).wait();
            assert!(matches!(outcome, Err(MemoryError::Closed { what: "the queue" })));
        });
        let close = thread::spawn(move || queue.close("the queue"));
        assert!(early.wait().is_err());
        late.join().unwrap();
        close.join().unwrap();
        assert!(!queue.has_waiters());
    });
}

#[test]
fn closing_against_handing_and_leaving_loses_no_value() {
    model(3, || {
        let queue = queue();
        let alive = Arc::new(AtomicUsize::new(0));
        let (stayer, leaver) = (queue.join(0), queue.join(0));
        let token = Token::new(&alive);
        let hand = thread::spawn(move || drop(queue.hand(token)));
        let leave = thread::spawn(move || drop(leaver));
        queue.close("the queue");
        drop(stayer.wait());
        hand.join().unwrap();
        leave.join().unwrap();
        assert_eq!(alive.load(SeqCst), 0);
        assert!(!queue.has_waiters());
    });
}
