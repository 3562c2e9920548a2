//! Caches whose computations are futures: the same work as threads have, each future driven by the
//! thread that asks; and tasks in line for one key.

use std::{
    cell::Cell,
    future::Future,
    hint::black_box,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use nebula_cache::{AsyncCache, Policy, Steady};

use super::{
    each_key, full, get_or_insert,
    maps::{Made, Map, Ours, hasher},
};
use crate::{Case, Contender, kept};

/// Tasks that ask for one key at once.
const TASKS: usize = 10;

/// Ours, awaited.
type OursAsync<P> = AsyncCache<u64, u64, Made<P>>;

type MokaAsync = moka::future::Cache<u64, u64, ahash::RandomState>;

/// What these cases need of a cache beside what others do.
trait AsyncMap: Map + Send + Sync {
    fn get_or(&self, key: u64, compute: impl Future<Output = u64>) -> impl Future<Output = u64>;
}

/// Polls until ready, parking in between.
#[inline]
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = pin!(future);
    // Almost always ready at once; a waker of the thread's own otherwise.
    if let Poll::Ready(output) = poll(future.as_mut()) {
        return output;
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Polls once, with a waker that does nothing.
#[inline]
fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

impl<P: Policy> AsyncMap for OursAsync<P> {
    async fn get_or(&self, key: u64, compute: impl Future<Output = u64>) -> u64 {
        self.get_or_compute(&key, compute).await.expect("no circle")
    }
}

impl AsyncMap for MokaAsync {
    async fn get_or(&self, key: u64, compute: impl Future<Output = u64>) -> u64 {
        self.get_with(key, compute).await
    }
}

impl<P: Policy> Map for OursAsync<P> {
    fn with_room_for(entries: usize) -> Self {
        Ours::<P>::with_room_for(entries).into()
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u64> {
        Map::get(self.blocking(), key)
    }

    fn insert(&self, key: u64) {
        Map::insert(self.blocking(), key);
    }

    #[inline]
    fn get_or_insert(&self, key: u64) -> u64 {
        block_on(self.get_or_compute(&key, async { key })).expect("no circle")
    }
}

impl Map for MokaAsync {
    fn with_room_for(entries: usize) -> Self {
        let builder = moka::future::Cache::builder().max_capacity(entries as u64);
        builder.build_with_hasher(hasher())
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u64> {
        block_on(self.get(&key))
    }

    fn insert(&self, key: u64) {
        block_on(self.insert(key, key));
    }

    #[inline]
    fn get_or_insert(&self, key: u64) -> u64 {
        block_on(self.get_with(key, async move { key }))
    }
}

/// Everything is there, but asked for by who would compute it.
fn computed_hit<M: Map + Send + Sync>(name: &'static str) -> Contender {
    Contender::threads(name, 1, kept(full::<M>), |cache: &Arc<M>, thread| {
        each_key(thread, |key| {
            black_box(cache.get_or_insert(key));
        });
    })
}

/// A key that nobody has, for which so many tasks ask; the first computes, the others wait.
fn crowd<M: AsyncMap>(name: &'static str) -> Contender {
    Contender::threads(
        name,
        1,
        || M::with_room_for(super::PART),
        |cache, thread| {
            for key in 0..thread.iterations {
                let open = Cell::new(false);
                let gate =
                    || {
                        std::future::poll_fn(|_| {
                            if open.get() { Poll::Ready(key) } else { Poll::Pending }
                        })
                    };
                let mut tasks = [(); TASKS].map(|()| Box::pin(cache.get_or(key, gate())));
                for task in &mut tasks {
                    assert!(poll(task.as_mut()).is_pending(), "nothing is there yet");
                }
                open.set(true);
                for task in &mut tasks {
                    while poll(task.as_mut()).is_pending() {}
                }
            }
        },
    )
}

/// Every case of tasks.
pub(super) fn cases() -> Vec<Case> {
    type Mine = OursAsync<Steady>;
    let mixed = |name, threads| {
        Case::new(name, get_or_insert::<Mine>("ours", threads))
            .peer(get_or_insert::<Ours<Steady>>("ours, for threads", threads))
            .peer(get_or_insert::<MokaAsync>("moka", threads))
    };
    vec![
        Case::new("async: get or compute, hit", computed_hit::<Mine>("ours"))
            .peer(computed_hit::<Ours<Steady>>("ours, for threads"))
            .peer(computed_hit::<MokaAsync>("moka")),
        mixed("async: get or compute at 80 % hits, 1 thread", 1),
        mixed("async: get or compute at 80 % hits, 2 threads", 2),
        Case::new("async: ten tasks for one key", crowd::<Mine>("ours"))
            .peer(crowd::<MokaAsync>("moka")),
    ]
}
