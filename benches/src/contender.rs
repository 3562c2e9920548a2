//! One way to do a piece of work, with its preparation kept out of the clock.

use std::{
    cell::OnceCell,
    fmt,
    hint::black_box,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use crate::Stopwatch;

/// One way to do a case's work.
pub struct Contender {
    /// `ours` or the peer's name; unique within the case.
    pub name: &'static str,
    /// How many threads it runs; instructions are counted for one thread only.
    pub threads: usize,
    /// Does the work that many times and returns how long it took, without the preparation.
    pub run: Box<dyn Fn(u64) -> Duration>,
}

impl fmt::Debug for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contender")
            .field("name", &self.name)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

/// Calls `op` that many times and keeps its results from being optimised away.
#[inline(always)]
pub fn repeat<R>(iterations: u64, mut op: impl FnMut() -> R) {
    for _ in 0..iterations {
        black_box(op());
    }
}

/// Makes what `setup` makes once, and hands it out again and again: for preparation that takes
/// long, such as filling a cache, where what one run leaves behind does not matter to the next.
/// (Contenders are run many times, for a sample each.)
pub fn kept<S>(setup: impl Fn() -> S) -> impl Fn() -> Arc<S> {
    let cell = OnceCell::new();
    move || Arc::clone(cell.get_or_init(|| Arc::new(setup())))
}

/// What a thread of [`Contender::threads`] is told.
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    /// Which one it is, from zero.
    pub index: usize,
    /// How many times it has to do the work.
    pub iterations: u64,
}

impl Contender {
    /// A contender that measures itself: `run(iterations)` returns the time of that many. Take a
    /// [`Stopwatch`] where it works on this thread and doesn't sleep.
    pub fn timed(name: &'static str, run: impl Fn(u64) -> Duration + 'static) -> Self {
        Self { name, threads: 1, run: Box::new(run) }
    }

    /// Makes a state, then calls `op` with it once per iteration; dropping the state is not timed,
    /// dropping what `op` returns is.
    pub fn each<S, R>(
        name: &'static str,
        setup: impl Fn() -> S + 'static,
        op: impl Fn(&mut S) -> R + 'static,
    ) -> Self {
        Self::timed(name, move |iterations| {
            let mut state = setup();
            let watch = Stopwatch::start();
            repeat(iterations, || op(&mut state));
            watch.elapsed()
        })
    }

    /// As [`each`](Self::each), with `rewind` called untimed after every `batch` iterations: for
    /// work that uses something up, such as an arena that has to be emptied now and then. Take
    /// batches of a thousand or more, or the clock is what is measured.
    pub fn batches<S, R>(
        name: &'static str,
        batch: u64,
        setup: impl Fn() -> S + 'static,
        op: impl Fn(&mut S) -> R + 'static,
        rewind: impl Fn(&mut S) + 'static,
    ) -> Self {
        Self::timed(name, move |iterations| {
            let mut state = setup();
            let mut total = Duration::ZERO;
            let mut left = iterations;
            while left > 0 {
                let now = left.min(batch);
                let watch = Stopwatch::start();
                repeat(now, || op(&mut state));
                total += watch.elapsed();
                rewind(&mut state);
                left -= now;
            }
            total
        })
    }

    /// Shares a state between `threads` threads, each of which does its part of the iterations in
    /// one call of `work`.
    ///
    /// The result is wall time per operation over all threads, from the first thread's start to
    /// the last one's end: with perfect scaling, two threads take half of what one takes. A single
    /// thread is measured as [`each`](Self::each) is.
    ///
    /// # Panics
    /// If `threads` is zero; when it runs, if `work` panics.
    pub fn threads<S: Sync>(
        name: &'static str,
        threads: usize,
        setup: impl Fn() -> S + 'static,
        work: impl Fn(&S, Thread) + Sync + 'static,
    ) -> Self {
        assert!(threads > 0, "{name}: no threads");
        let run = move |iterations| {
            let state = setup();
            together(vec![&state; threads], iterations, |state, thread| work(state, thread))
        };
        Self { name, threads, run: Box::new(run) }
    }

    /// As [`threads`](Self::threads), with a state for each thread instead of one that they share:
    /// for what is changed through `&mut`, or must not be used by two threads at once.
    ///
    /// `setup` is told the number of threads and makes as many states, on the thread that prepares;
    /// each is then moved to the stack of the thread that works with it, so that two of them never
    /// meet in a cache line because of where they were made. Dropping them is not timed.
    ///
    /// # Panics
    /// If `threads` is zero; when it runs, if there are not as many states as threads, or if `work`
    /// panics.
    pub fn owned<S: Send>(
        name: &'static str,
        threads: usize,
        setup: impl Fn(usize) -> Vec<S> + 'static,
        work: impl Fn(&mut S, Thread) + Sync + 'static,
    ) -> Self {
        assert!(threads > 0, "{name}: no threads");
        let run = move |iterations| {
            let states = setup(threads);
            assert_eq!(states.len(), threads, "{name}: a state for each thread");
            together(states, iterations, &work)
        };
        Self { name, threads, run: Box::new(run) }
    }
}

/// The time of that many iterations, divided among threads that start at once, one for each state.
fn together<S: Send>(
    mut states: Vec<S>,
    iterations: u64,
    work: impl Fn(&mut S, Thread) + Sync,
) -> Duration {
    if states.len() == 1 {
        let mut state = states.remove(0);
        let watch = Stopwatch::start();
        work(&mut state, Thread { index: 0, iterations });
        return watch.elapsed();
    }
    let threads = states.len();
    let each = iterations.div_ceil(threads as u64);
    let barrier = Barrier::new(threads);
    let spans: Vec<(Instant, Instant)> = thread::scope(|scope| {
        let handles: Vec<_> = states
            .into_iter()
            .enumerate()
            .map(|(index, mut state)| {
                let (work, barrier) = (&work, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let start = Instant::now();
                    work(&mut state, Thread { index, iterations: each });
                    (start, Instant::now())
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let start = spans.iter().map(|span| span.0).min();
    let end = spans.iter().map(|span| span.1).max();
    let wall = start.zip(end).map_or(Duration::ZERO, |(start, end)| end - start);
    // More than asked for was done where the threads don't divide the iterations.
    wall.mul_f64(iterations as f64 / (each * threads as u64) as f64)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[test]
    fn each_calls_the_operation_once_per_iteration() {
        let calls = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&calls);
        let contender = Contender::each("x", || (), move |()| seen.fetch_add(1, Relaxed));
        let _ = (contender.run)(1234);
        assert_eq!(calls.load(Relaxed), 1234);
    }

    #[test]
    fn batches_rewind_after_every_batch() {
        let (calls, rewinds) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (seen, rewound) = (Arc::clone(&calls), Arc::clone(&rewinds));
        let contender = Contender::batches(
            "x",
            100,
            || (),
            move |()| seen.fetch_add(1, Relaxed),
            move |()| {
                rewound.fetch_add(1, Relaxed);
            },
        );
        let _ = (contender.run)(250);
        assert_eq!((calls.load(Relaxed), rewinds.load(Relaxed)), (250, 3));
    }

    #[test]
    fn preparation_is_not_timed() {
        let work = || {
            for i in 0..10_000_000_u64 {
                black_box(i);
            }
        };
        let watch = Stopwatch::start();
        work();
        let preparation = watch.elapsed();
        let contender = Contender::each("x", work, |()| ());
        assert!((contender.run)(1) < preparation / 2);
    }

    #[test]
    fn what_is_kept_is_made_once() {
        let made = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&made);
        let setup = kept(move || count.fetch_add(1, Relaxed));
        let contender = Contender::each("x", setup, |state| **state);
        let _ = ((contender.run)(1), (contender.run)(1));
        assert_eq!(made.load(Relaxed), 1);
    }

    #[test]
    fn threads_share_the_iterations_and_all_run() {
        let calls = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&calls);
        let contender = Contender::threads(
            "x",
            3,
            || [const { AtomicU64::new(0) }; 3],
            move |state, thread| {
                seen.fetch_add(thread.iterations, Relaxed);
                assert_eq!(state[thread.index].swap(1, Relaxed), 0);
            },
        );
        let _ = (contender.run)(10);
        assert_eq!(calls.load(Relaxed), 12);
    }

    #[test]
    fn threads_own_their_states() {
        // Not to be shared by threads, which the type says.
        let (calls, states) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (seen, made) = (Arc::clone(&calls), Arc::clone(&states));
        let contender = Contender::owned(
            "x",
            3,
            move |threads| {
                made.fetch_add(threads as u64, Relaxed);
                vec![std::cell::Cell::new(0_u64); threads]
            },
            move |state, thread| {
                *state.get_mut() += thread.iterations;
                seen.fetch_add(state.get(), Relaxed);
            },
        );
        let _ = (contender.run)(10);
        assert_eq!((calls.load(Relaxed), states.load(Relaxed)), (12, 3));
    }

    #[test]
    fn one_thread_works_where_it_is_called() {
        let here = thread::current().id();
        let contender = Contender::owned(
            "x",
            1,
            |threads| vec![(); threads],
            move |(), thread| assert_eq!((thread::current().id(), thread.iterations), (here, 10)),
        );
        let _ = (contender.run)(10);
    }
}
