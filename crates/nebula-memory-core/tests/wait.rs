//! Waiting in line: order, time-outs, cancellation at every point, closing.

mod common;

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use common::Semaphore;
use nebula_memory_core::{MemoryError, WaitQueue, WaitSlot, Waiter};
use nebula_testing::{DropCounter, InjectedPanic, Rng, catch, watchdog};
use proptest::prelude::*;

const LONG: Duration = Duration::from_secs(60);

/// Counts how often it was woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Bell {
    fn new() -> (Arc<Self>, Waker) {
        let bell = Arc::new(Self::default());
        (Arc::clone(&bell), Waker::from(bell))
    }

    fn rings(&self) -> usize {
        self.0.load(SeqCst)
    }
}

fn poll<T>(waiter: &mut Waiter<'_, T>, waker: &Waker) -> Poll<Result<T, MemoryError>> {
    Pin::new(waiter).poll(&mut Context::from_waker(waker))
}

fn taken<T>(mut waiter: Waiter<'_, T>) -> Option<T> {
    waiter.try_take().map(|outcome| outcome.expect("the queue is open"))
}

#[test]
fn higher_priorities_are_served_first_and_equals_in_order_of_joining() {
    let queue = WaitQueue::new();
    let waiters: Vec<_> =
        [5, 0, 255, 5, 255, 0].into_iter().map(|priority| queue.join(priority)).collect();
    assert_eq!((queue.len(), queue.is_empty(), queue.has_waiters()), (6, false, true));
    for value in 0..6 {
        queue.hand(value).unwrap();
    }
    assert_eq!((queue.len(), queue.has_waiters()), (0, false));
    let served: Vec<_> = waiters.into_iter().map(|waiter| taken(waiter).unwrap()).collect();
    assert_eq!(served, [2, 4, 0, 3, 1, 5]);
}

/// The order in which those are served who come with these priorities.
fn order(overtakes: u32, priorities: &[u8]) -> Vec<usize> {
    let queue = WaitQueue::with_ageing(overtakes);
    let mut waiters: Vec<_> = priorities.iter().map(|p| queue.join(*p)).collect();
    let mut order = Vec::new();
    for value in 0..priorities.len() {
        assert!(queue.hand(value).is_ok());
        let served = |waiter: &mut Waiter<'_, usize>| waiter.try_take().is_some();
        order.push(waiters.iter_mut().position(served).unwrap());
    }
    assert!(!queue.has_waiters() && queue.hand(0).is_err());
    order
}

#[test]
fn with_ageing_the_important_go_first_and_equals_as_they_came() {
    assert_eq!(order(100, &[0, 1, 0, 2, 1]), [3, 1, 4, 0, 2]);
    assert_eq!(order(100, &[5, 5, 5]), [0, 1, 2]);
    assert_eq!(order(u32::MAX, &[0, 255, 254]), [1, 2, 0]);
}

#[test]
fn with_ageing_who_waits_is_overtaken_so_often_and_no_more() {
    // The first may be overtaken by the next three tickets; there are five more.
    assert_eq!(order(3, &[0, 1, 1, 1, 1, 1]), [1, 2, 3, 0, 4, 5]);
    assert_eq!(order(0, &[0, 200, 100]), [0, 1, 2]);
    // A step more, three tickets more.
    assert_eq!(order(3, &[0, 2, 2, 2, 2, 2, 2, 2]), [1, 2, 3, 4, 5, 6, 0, 7]);
}

#[test]
fn nobody_in_line_means_the_value_comes_back() {
    let queue = WaitQueue::new();
    assert_eq!(queue.hand("value"), Err("value"));
    drop(queue.join(0));
    assert_eq!(queue.hand("value"), Err("value"));
}

#[test]
fn a_time_out_gives_the_place_up() {
    let queue = WaitQueue::<u32>::new();
    for timeout in [Duration::ZERO, Duration::from_millis(5)] {
        let before = Instant::now();
        let error = queue.join(0).wait_timeout(timeout).unwrap_err();
        assert!(before.elapsed() >= timeout);
        assert!(matches!(error, MemoryError::Timeout { waited } if waited == timeout));
        assert!(queue.is_empty());
    }
    assert_eq!(queue.hand(1), Err(1));
}

#[test]
fn who_was_served_before_waiting_does_not_wait() {
    let queue = WaitQueue::new();
    let (first, second) = (queue.join(0), queue.join(0));
    queue.hand(1).unwrap();
    queue.hand(2).unwrap();
    assert_eq!(first.wait_timeout(Duration::ZERO).unwrap(), 1);
    assert_eq!(second.wait().unwrap(), 2);
}

#[test]
fn a_blocked_thread_is_woken_by_a_hand_or_a_close() {
    watchdog(LONG, || {
        // The longest time is none: it lies beyond what the clock can tell.
        for timeout in [LONG, Duration::MAX] {
            let queue = WaitQueue::new();
            thread::scope(|scope| {
                let (first, second) = (queue.join(1), queue.join(0));
                let first = scope.spawn(move || first.wait_timeout(timeout));
                let second = scope.spawn(move || second.wait());
                queue.hand(7).unwrap();
                assert_eq!(first.join().unwrap().unwrap(), 7);
                queue.close("the shop");
                assert_eq!(second.join().unwrap().unwrap_err().code(), "closed");
            });
        }
    });
}

#[test]
fn who_leaves_after_being_served_passes_it_on() {
    let queue = WaitQueue::new();
    let counter = DropCounter::new();
    let (first, second, third) = (queue.join(2), queue.join(1), queue.join(0));
    queue.hand(counter.probe(1)).unwrap();
    drop(first);
    drop(second);
    counter.assert_live(1);
    assert_eq!(taken(third).unwrap().tag(), 1);
    counter.assert_all_dropped();
    assert_eq!(counter.drops(), 1);
}

#[test]
fn what_the_last_one_leaves_behind_is_dropped() {
    let queue = WaitQueue::new();
    let counter = DropCounter::new();
    let waiter = queue.join(0);
    queue.hand(counter.probe(1)).unwrap();
    drop(waiter);
    counter.assert_all_dropped();
    assert!(queue.is_empty());
}

#[test]
fn leaving_the_middle_of_the_line_does_not_disturb_the_others() {
    let queue = WaitQueue::new();
    let mut waiters: Vec<_> = (0..20).map(|_| Some(queue.join(3))).collect();
    for index in [0, 19, 7, 8, 13] {
        waiters[index] = None;
    }
    assert_eq!(queue.len(), 15);
    for value in 0..15 {
        queue.hand(value).unwrap();
    }
    let served: Vec<_> = waiters.into_iter().flatten().map(|w| taken(w).unwrap()).collect();
    assert!(served.into_iter().eq(0..15));
}

#[test]
fn an_outcome_is_taken_once() {
    let queue = WaitQueue::new();
    let mut waiter = queue.join(0);
    assert!(waiter.try_take().is_none());
    queue.hand(1).unwrap();
    assert!(format!("{waiter:?}").contains("served: false"));
    assert_eq!(waiter.try_take().unwrap().unwrap(), 1);
    assert!(waiter.try_take().is_none());
    assert!(format!("{waiter:?}").contains("served: true"));
    // Waiting for a second value would be waiting for ever.
    assert!(catch(|| waiter.wait()).is_err());

    let mut waiter = queue.join(0);
    queue.hand(2).unwrap();
    assert!(waiter.try_take().is_some());
    assert!(catch(|| waiter.wait_timeout(LONG)).is_err());

    let mut waiter = queue.join(0);
    queue.hand(3).unwrap();
    let (_, waker) = Bell::new();
    assert!(poll(&mut waiter, &waker).is_ready());
    assert!(catch(|| poll(&mut waiter, &waker)).is_err());
    assert_eq!(format!("{queue:?}"), "WaitQueue { waiting: 0, .. }");
}

#[test]
fn a_closed_queue_says_so_to_all_who_wait_and_all_who_come() {
    let queue = WaitQueue::<u32>::new();
    let (bell, waker) = Bell::new();
    let (served, waiting, mut polled) = (queue.join(9), queue.join(0), queue.join(0));
    queue.hand(1).unwrap();
    assert!(poll(&mut polled, &waker).is_pending());
    queue.close("the pool");
    assert_eq!((bell.rings(), queue.len(), queue.has_waiters()), (1, 0, false));
    let is_closed = |error: &MemoryError| matches!(error, MemoryError::Closed { what: "the pool" });
    assert!(matches!(poll(&mut polled, &waker), Poll::Ready(Err(error)) if is_closed(&error)));
    assert!(is_closed(&waiting.wait().unwrap_err()));
    assert!(is_closed(&queue.join(0).wait_timeout(LONG).unwrap_err()));
    assert!(is_closed(&queue.join(0).try_take().unwrap().unwrap_err()));
    drop(queue.join(0));
    // What was handed before is still there.
    assert_eq!(served.wait().unwrap(), 1);
    assert_eq!(queue.hand(2), Err(2));
    assert!(!queue.has_waiters());
}

#[test]
fn what_was_handed_before_closing_and_is_not_wanted_is_dropped() {
    let queue = WaitQueue::new();
    let counter = DropCounter::new();
    let (served, other) = (queue.join(1), queue.join(0));
    queue.hand(counter.probe(1)).unwrap();
    queue.close("the pool");
    drop(served);
    counter.assert_all_dropped();
    assert!(other.wait().is_err());
}

#[test]
fn a_future_wakes_whoever_polled_it_last_and_once() {
    let queue = WaitQueue::new();
    let (stale, stale_waker) = Bell::new();
    let (bell, waker) = Bell::new();
    let mut waiter = queue.join(0);
    assert!(poll(&mut waiter, &stale_waker).is_pending());
    assert!(poll(&mut waiter, &waker).is_pending());
    // The queue keeps no waker that it will not use.
    drop(stale_waker);
    assert_eq!(Arc::strong_count(&stale), 1);
    assert_eq!(bell.rings(), 0);
    queue.hand(5).unwrap();
    assert_eq!((stale.rings(), bell.rings()), (0, 1));
    assert!(matches!(poll(&mut waiter, &waker), Poll::Ready(Ok(5))));
    drop((waiter, waker));
    assert_eq!((bell.rings(), Arc::strong_count(&bell)), (1, 1));
}

#[test]
fn a_future_served_before_its_first_poll_is_ready_at_once() {
    let queue = WaitQueue::new();
    let (bell, waker) = Bell::new();
    let mut waiter = queue.join(0);
    queue.hand(5).unwrap();
    assert!(matches!(poll(&mut waiter, &waker), Poll::Ready(Ok(5))));
    assert_eq!(bell.rings(), 0);
}

#[test]
fn a_future_may_be_dropped_at_every_point() {
    let (bell, waker) = Bell::new();
    for point in 0..6 {
        let counter = DropCounter::new();
        let queue = WaitQueue::new();
        let mut leaver = queue.join(1);
        let heir = queue.join(0);
        let before = bell.rings();
        // 0: never polled; 1: polled; 2: polled twice; 3: served, never polled; 4: served after
        // a poll; 5: done.
        if matches!(point, 1 | 2 | 4) {
            assert!(poll(&mut leaver, &waker).is_pending());
        }
        if point == 2 {
            assert!(poll(&mut leaver, &waker).is_pending());
        }
        if point >= 3 {
            queue.hand(counter.probe(1)).unwrap();
        }
        if point == 5 {
            assert!(poll(&mut leaver, &waker).is_ready());
            counter.assert_all_dropped();
        }
        drop(leaver);
        assert_eq!(bell.rings() - before, usize::from(point == 4), "point {point}");
        let inherited = match point {
            // Nothing was handed yet: the heir is first in line.
            0..3 => {
                assert_eq!(queue.len(), 1);
                queue.hand(counter.probe(1)).unwrap();
                taken(heir)
            }
            3 | 4 => taken(heir),
            _ => {
                assert_eq!(queue.len(), 1);
                None
            }
        };
        assert_eq!(inherited.is_some(), point != 5, "point {point}");
        drop(inherited);
        counter.assert_all_dropped();
        assert_eq!(counter.made(), 1);
        assert_eq!(Arc::strong_count(&bell), 2, "point {point} keeps a waker");
    }
}

/// Panics when it is dropped.
struct Fragile;

impl Wake for Fragile {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Fragile {
    fn drop(&mut self) {
        std::panic::panic_any(InjectedPanic);
    }
}

#[test]
fn a_waker_that_panics_when_it_is_dropped_loses_no_outcome() {
    let slot = WaitSlot::new();
    let fragile = Waker::from(Arc::new(Fragile));
    assert!(slot.poll_take(&Context::from_waker(&fragile)).is_pending());
    // The slot's is the last one now.
    drop(fragile);
    slot.put(Ok("served"));
    let taken = slot.poll_take(&Context::from_waker(Waker::noop()));
    assert!(matches!(taken, Poll::Ready(Ok("served"))));
}

/// Panics when it is woken.
struct Broken;

impl Wake for Broken {
    fn wake(self: Arc<Self>) {
        std::panic::resume_unwind(Box::new(InjectedPanic));
    }
}

#[test]
fn a_waker_that_panics_loses_no_value_and_does_not_reach_who_hands() {
    let queue = WaitQueue::new();
    let mut waiter = queue.join(0);
    assert!(poll(&mut waiter, &Waker::from(Arc::new(Broken))).is_pending());
    assert_eq!(catch(|| queue.hand(1)), Ok(Ok(())));
    assert_eq!(taken(waiter), Some(1));
    let next = queue.join(0);
    queue.hand(2).unwrap();
    assert_eq!(taken(next), Some(2));
}

#[test]
fn a_waker_that_panics_does_not_keep_closing_from_waking_the_others() {
    let queue = WaitQueue::<u32>::new();
    let (bell, waker) = Bell::new();
    let mut waiters: Vec<_> = (0..5).map(|_| queue.join(0)).collect();
    for (index, waiter) in waiters.iter_mut().enumerate() {
        let broken = Waker::from(Arc::new(Broken));
        let waker = if index % 2 == 0 { &waker } else { &broken };
        assert!(poll(waiter, waker).is_pending());
    }
    queue.close("the pool");
    assert_eq!(bell.rings(), 3);
    assert!(waiters.into_iter().all(|waiter| waiter.wait().is_err()));
}

/// `Drop` of a value may come back to the queue that it was in.
#[test]
fn a_permit_nobody_wants_finds_its_way_home() {
    watchdog(LONG, || {
        let semaphore = Semaphore::new(1);
        let permit = semaphore.try_acquire().unwrap();
        let (first, second) = (semaphore.queue.join(0), semaphore.queue.join(0));
        drop(permit);
        assert_eq!(semaphore.free(), 0);
        drop(first);
        assert_eq!(semaphore.free(), 0);
        drop(second);
        assert_eq!(semaphore.free(), 1);
        let (permit, waiter) = (semaphore.try_acquire().unwrap(), semaphore.queue.join(0));
        drop(permit);
        semaphore.queue.close("the semaphore");
        drop(waiter);
        assert_eq!((semaphore.free(), Arc::strong_count(&semaphore)), (1, 1));
    });
}

#[derive(Clone, Debug)]
enum Op {
    Join(u8),
    Hand,
    Leave(usize),
    Take(usize),
    Poll(usize),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0_u8..4).prop_map(Op::Join),
        1 => any::<u8>().prop_map(Op::Join),
        2 => Just(Op::Hand),
        1 => any::<usize>().prop_map(Op::Leave),
        1 => any::<usize>().prop_map(Op::Take),
        1 => any::<usize>().prop_map(Op::Poll),
    ]
}

proptest! {
    /// The model: a list of waiters in order of joining. Without ageing, the first of the highest
    /// priority that was not served is next; with it, whoever has the highest sum of priority and
    /// age (in those who came later), and among such the more important one.
    #[test]
    fn the_line_equals_a_model(
        ops in prop::collection::vec(any_op(), 0..120),
        overtakes in prop::option::of(0_u32..5),
    ) {
        struct Person<'q> {
            waiter: Waiter<'q, u32>,
            priority: u8,
            age: i64,
            served: Option<u32>,
        }
        let next = |people: &mut [Person<'_>]| {
            let waiting = people.iter().enumerate().filter(|(_, person)| person.served.is_none());
            let step = overtakes.map(i64::from);
            let worth = |person: &Person<'_>| match step {
                None => i64::from(person.priority),
                Some(step) => step * i64::from(person.priority) + person.age,
            };
            let next = waiting.rev().max_by_key(|(_, p)| (worth(p), p.priority));
            next.map(|(at, _)| at)
        };
        let queue = overtakes.map_or_else(WaitQueue::new, WaitQueue::with_ageing);
        let mut people: Vec<Person<'_>> = Vec::new();
        let mut values = 0..;
        for op in ops {
            let len = people.len();
            match op {
                Op::Join(priority) => {
                    for person in &mut people {
                        person.age += 1;
                    }
                    let waiter = queue.join(priority);
                    people.push(Person { waiter, priority, age: 0, served: None });
                }
                Op::Hand => {
                    let value = values.next().unwrap();
                    let first = next(&mut people);
                    prop_assert_eq!(queue.hand(value).is_ok(), first.is_some());
                    if let Some(first) = first {
                        people[first].served = Some(value);
                    }
                }
                _ if len == 0 => {}
                Op::Leave(index) => {
                    let leaver = people.remove(index % len);
                    drop(leaver.waiter);
                    if let (Some(value), Some(heir)) = (leaver.served, next(&mut people)) {
                        people[heir].served = Some(value);
                    }
                }
                Op::Take(index) => {
                    let person = &mut people[index % len];
                    let outcome = person.waiter.try_take().map(Result::unwrap);
                    prop_assert_eq!(outcome, person.served);
                    if outcome.is_some() {
                        people.remove(index % len);
                    }
                }
                Op::Poll(index) => {
                    let person = &mut people[index % len];
                    match poll(&mut person.waiter, Waker::noop()) {
                        Poll::Ready(outcome) => {
                            prop_assert_eq!(outcome.ok(), person.served);
                            people.remove(index % len);
                        }
                        Poll::Pending => prop_assert!(person.served.is_none()),
                    }
                }
            }
            let waiting = people.iter().filter(|person| person.served.is_none()).count();
            prop_assert_eq!((queue.len(), queue.has_waiters()), (waiting, waiting > 0));
        }
    }
}

/// Parks the thread until the future is done.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Threads that wait in every way and give up in every way. No permit is lost, none is made.
#[test]
fn many_threads_wait_and_give_up() {
    const THREADS: u64 = 8;
    const PERMITS: usize = 2;
    const ROUNDS: usize = if cfg!(miri) { 10 } else { 400 };
    watchdog(Duration::from_secs(120), || {
        let semaphore = Semaphore::new(PERMITS);
        let (in_use, served) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let barrier = Barrier::new(usize::try_from(THREADS).unwrap());
        thread::scope(|scope| {
            for id in 0..THREADS {
                let (semaphore, in_use, served, barrier) = (&semaphore, &in_use, &served, &barrier);
                scope.spawn(move || {
                    let mut rng = Rng::new(id);
                    barrier.wait();
                    for _ in 0..ROUNDS {
                        let queue = &semaphore.queue;
                        let priority = u8::try_from(rng.below(3)).unwrap();
                        let join = || {
                            let waiter = queue.join(priority);
                            // The last look, after taking a place.
                            semaphore.try_acquire().ok_or(waiter)
                        };
                        let permit = match rng.below(6) {
                            0 => semaphore.acquire(),
                            1 => {
                                let timeout = Duration::from_micros(rng.below(200) as u64);
                                join().or_else(|w| w.wait_timeout(timeout).map_err(drop)).ok()
                            }
                            2 => join().or_else(|w| block_on(w).map_err(drop)).ok(),
                            // Gives up without, and with, a look.
                            3 => join().map_err(drop).ok(),
                            4 => match join() {
                                Ok(permit) => Some(permit),
                                Err(mut waiter) => {
                                    let first = poll(&mut waiter, Waker::noop());
                                    thread::yield_now();
                                    match first {
                                        Poll::Ready(outcome) => outcome.ok(),
                                        Poll::Pending => None,
                                    }
                                }
                            },
                            _ => join().or_else(|mut w| w.try_take().ok_or(())?.map_err(drop)).ok(),
                        };
                        if let Some(permit) = permit {
                            assert!(in_use.fetch_add(1, SeqCst) < PERMITS, "a permit too many");
                            served.fetch_add(1, SeqCst);
                            if rng.one_in(4) {
                                thread::yield_now();
                            }
                            in_use.fetch_sub(1, SeqCst);
                            drop(permit);
                        }
                    }
                });
            }
        });
        assert_eq!((semaphore.free(), semaphore.queue.len()), (PERMITS, 0));
        assert_eq!(Arc::strong_count(&semaphore), 1);
        // Those who do not give up are served: two kinds of six, at least.
        assert!(served.load(SeqCst) > ROUNDS * 2);
    });
}

#[test]
fn closing_ends_the_waiting_of_many_threads() {
    watchdog(LONG, || {
        for _ in 0..20 {
            let semaphore = Semaphore::new(1);
            let permit = semaphore.try_acquire();
            let (joined, has_joined) = mpsc::channel();
            thread::scope(|scope| {
                for id in 0..6 {
                    let (semaphore, joined) = (&semaphore, joined.clone());
                    scope.spawn(move || {
                        let waiter = semaphore.queue.join(0);
                        joined.send(()).unwrap();
                        let outcome = if id % 2 == 0 { waiter.wait() } else { block_on(waiter) };
                        assert!(outcome.is_err());
                    });
                }
                // Some have joined, others have not.
                has_joined.recv().unwrap();
                semaphore.queue.close("the semaphore");
            });
            drop(permit);
            assert_eq!(semaphore.free(), 1);
        }
    });
}

#[test]
fn a_slot_serves_whoever_waits_on_it() {
    let slot = WaitSlot::new();
    assert!(slot.try_take().is_none());
    assert!(slot.wait(Some(Instant::now())).is_none(), "the deadline has passed");
    let cx = Context::from_waker(Waker::noop());
    assert!(slot.poll_take(&cx).is_pending());
    slot.put(Ok(1));
    slot.put(Ok(2));
    slot.wake();
    assert!(format!("{slot:?}").contains("true"));
    assert!(matches!(slot.poll_take(&cx), Poll::Ready(Ok(2))));
    assert!(slot.try_take().is_none());
}
