//! Two threads whose values live equally long.

use std::{
    hint::black_box,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire},
    },
    thread,
    time::{Duration, Instant},
};

use nebula_arena::ThreadSafeArena;
use nebula_budget::BudgetAllocator;

use super::BUDGET;
use crate::{Case, Contender};

const THREADS: usize = 2;

/// Values of both threads between two resets: enough that starting together is little of it.
const BATCH: usize = if cfg!(debug_assertions) { 4096 } else { 512 << 10 };

/// What threads allocate from.
trait Shared: Sync + 'static {
    fn fresh() -> Self;
    /// One thread's part, in one go.
    fn values(&self, now: usize);
    fn reset(&mut self);
}

/// What every contender allocates.
#[inline(always)]
fn numbers<'a>(now: usize, mut alloc: impl FnMut(u64) -> &'a mut u64) {
    for i in 0..now {
        black_box(alloc(i as u64));
    }
}

type Ours = ThreadSafeArena<BudgetAllocator>;

/// Ours, through `&self`.
struct Direct(Ours);

impl Shared for Direct {
    fn fresh() -> Self {
        Self(ThreadSafeArena::new_in(BUDGET.allocator()))
    }

    fn values(&self, now: usize) {
        numbers(now, |number| self.0.alloc(number));
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}

/// Ours, with a handle for each thread.
struct Handles(Ours);

impl Shared for Handles {
    fn fresh() -> Self {
        Self(ThreadSafeArena::new_in(BUDGET.allocator()))
    }

    fn values(&self, now: usize) {
        let handle = self.0.handle();
        numbers(now, |number| handle.alloc(number));
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}

impl Shared for bump_scope::BumpPool {
    fn fresh() -> Self {
        Self::new()
    }

    fn values(&self, now: usize) {
        let bump = self.get();
        numbers(now, |number| bump.alloc(number).into_mut());
    }

    fn reset(&mut self) {
        self.reset();
    }
}

/// What one does without handles where there is nothing for many threads.
impl Shared for Mutex<bumpalo::Bump> {
    fn fresh() -> Self {
        Self::default()
    }

    fn values(&self, now: usize) {
        for i in 0..now {
            let bump = self.lock().unwrap_or_else(PoisonError::into_inner);
            black_box(bump.alloc(i as u64));
        }
    }

    fn reset(&mut self) {
        self.get_mut().unwrap_or_else(PoisonError::into_inner).reset();
    }
}

impl Shared for bumpalo_herd::Herd {
    fn fresh() -> Self {
        Self::new()
    }

    fn values(&self, now: usize) {
        let bump = self.get();
        numbers(now, |number| bump.alloc(number));
    }

    fn reset(&mut self) {
        self.reset();
    }
}

/// Wall time of both threads, from the first one's start to the last one's end.
fn together<S: Shared>(shared: &S) -> Duration {
    let ready = AtomicUsize::new(0);
    let work = || {
        // Threads that sleep at a barrier don't wake up together.
        ready.fetch_add(1, AcqRel);
        while ready.load(Acquire) < THREADS {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        shared.values(BATCH / THREADS);
        (start, Instant::now())
    };
    let spans = thread::scope(|scope| {
        let threads = [(); THREADS].map(|()| scope.spawn(work));
        threads.map(|thread| thread.join().expect("allocating does not panic"))
    });
    let start = spans.iter().map(|span| span.0).min();
    let end = spans.iter().map(|span| span.1).max();
    start.zip(end).map_or(Duration::ZERO, |(start, end)| end - start)
}

/// Wall time per operation over both threads, as of [`Contender::threads`], which cannot reset: as
/// many whole batches as it takes, of which the middle one counts. In a batch of a few values, what
/// is measured would be how far apart the threads began.
fn contender<S: Shared>(name: &'static str) -> Contender {
    let run = |iterations: u64| {
        let mut shared = S::fresh();
        let mut batch = || {
            let time = together(&shared);
            shared.reset();
            time
        };
        for _ in 0..3 {
            batch();
        }
        let mut times: Vec<_> = (0..iterations.div_ceil(BATCH as u64)).map(|_| batch()).collect();
        times.sort_unstable();
        times[times.len() / 2].mul_f64(iterations as f64 / BATCH as f64)
    };
    Contender { name, threads: THREADS, run: Box::new(run) }
}

/// The cases.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("u64, 2 threads, a handle each", contender::<Handles>("ours"))
            .peer(contender::<bump_scope::BumpPool>("bump-scope"))
            .peer(contender::<bumpalo_herd::Herd>("bumpalo-herd")),
        Case::new("u64, 2 threads, no handle", contender::<Direct>("ours")).peer(contender::<
            Mutex<bumpalo::Bump>,
        >(
            "bumpalo in a Mutex",
        )),
    ]
}
