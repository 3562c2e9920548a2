//! Tasks that take objects: when there is always one, and when they have to wait for each other.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use deadpool::{managed, unmanaged};
use nebula_pool::{PoolConfig, Poolable, ThreadSafePool};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
    task::{JoinSet, yield_now},
};

use super::{OBJECTS, Small, Subject};
use crate::{Case, Contender, Stopwatch};

fn runtime() -> Runtime {
    Builder::new_current_thread().build().expect("a runtime")
}

/// What deadpool's managed pool asks.
struct Manager;

impl managed::Manager for Manager {
    type Type = Small;
    type Error = ();

    async fn create(&self) -> Result<Small, ()> {
        Ok(Small::make())
    }

    async fn recycle(
        &self,
        object: &mut Small,
        _metrics: &managed::Metrics,
    ) -> managed::RecycleResult<()> {
        object.reset();
        Ok(())
    }
}

/// What people write by hand.
struct ByHand {
    permits: Semaphore,
    objects: ArrayQueue<Small>,
}

impl ByHand {
    fn new(objects: usize) -> Self {
        let queue = ArrayQueue::new(objects);
        (0..objects).for_each(|_| drop(queue.push(Small::make())));
        Self { permits: Semaphore::new(objects), objects: queue }
    }
}

/// A contender: `$pool` is made of a number of objects, and `$visit` takes one, touches it, gives
/// way if it is to, and gives it back.
macro_rules! contender {
    ($name:literal, $tasks:expr, $objects:expr, |$n:ident| $pool:expr, |$p:ident, $pause:ident| $visit:block) => {{
        let (tasks, objects): (u64, usize) = ($tasks, $objects);
        Contender::timed($name, move |iterations| {
            let $n = objects;
            let (pool, runtime) = (Arc::new($pool), runtime());
            let $pause = tasks > 1;
            let each = iterations.div_ceil(tasks);
            let watch = Stopwatch::start();
            runtime.block_on(async move {
                if tasks == 1 {
                    let $p = &pool;
                    for _ in 0..each {
                        $visit
                    }
                    return;
                }
                let mut all = JoinSet::new();
                for _ in 0..tasks {
                    let pool = Arc::clone(&pool);
                    all.spawn(async move {
                        let $p = &pool;
                        for _ in 0..each {
                            $visit
                        }
                    });
                }
                while let Some(done) = all.join_next().await {
                    done.expect("a task that ends");
                }
            });
            // More than asked for was done where the tasks don't divide the iterations.
            watch.elapsed().mul_f64(iterations as f64 / (each * tasks) as f64)
        })
    }};
}

fn case(name: &'static str, tasks: u64, objects: usize) -> Case {
    let ours = contender!(
        "ours",
        tasks,
        objects,
        |n| {
            let config = PoolConfig::builder().capacity(n).warm_up(n).build();
            ThreadSafePool::new(&config.expect("valid"), Small::make).expect("a pool")
        },
        |pool, pause| {
            let mut object = pool.get_async().await.expect("an object");
            object.touch();
            if pause {
                yield_now().await;
            }
        }
    );
    let unmanaged = contender!(
        "deadpool",
        tasks,
        objects,
        |n| unmanaged::Pool::from((0..n).map(|_| Small::make()).collect::<Vec<_>>()),
        |pool, pause| {
            let mut object = pool.get().await.expect("an object");
            object.touch();
            if pause {
                yield_now().await;
            }
            object.reset();
        }
    );
    let managed = contender!(
        "deadpool managed",
        tasks,
        objects,
        |n| managed::Pool::builder(Manager).max_size(n).build().expect("a pool"),
        |pool, pause| {
            let mut object: managed::Object<Manager> = pool.get().await.expect("an object");
            object.touch();
            if pause {
                yield_now().await;
            }
        }
    );
    let by_hand =
        contender!("semaphore and queue", tasks, objects, |n| ByHand::new(n), |pool, pause| {
            let permit = pool.permits.acquire().await.expect("open");
            let mut object = pool.objects.pop().expect("an object");
            object.touch();
            if pause {
                yield_now().await;
            }
            object.reset();
            drop(pool.objects.push(object));
            drop(permit);
        });
    Case::new(name, ours).peer(unmanaged).peer(managed).peer(by_hand)
}

/// The cases.
pub(super) fn cases() -> Vec<Case> {
    vec![
        case("async, 1 task, 16 objects", 1, OBJECTS),
        case("async, 16 tasks, 4 objects", 16, 4),
        case("async, 64 tasks, 2 objects", 64, 2),
    ]
}
