//! Object pools: an object is taken, used, reset and given back, 16 objects in the pool, by one
//! thread and by two at once. Pools that don't reset are reset by hand, so that the work is the
//! same; those that don't count or limit are not made to.

use std::{
    hint::black_box,
    sync::{Mutex, PoisonError},
};

use nebula_pool::{PoolConfig, Poolable, ThreadSafePool};
use object_pool::Pool as ObjectPool;
use opool::{Pool as OPool, PoolAllocator};

use crate::{Case, Contender, Thread, repeat};

const OBJECTS: usize = 16;

/// What is pooled: how it is made, used and reset.
trait Subject: Poolable + Send + 'static {
    fn make() -> Self;
    fn touch(&mut self);
}

/// 64 bytes in the object itself.
struct Small([u64; 8]);

impl Poolable for Small {
    #[inline]
    fn reset(&mut self) {
        self.0[0] = 0;
    }

    #[inline]
    fn heap_size(&self) -> usize {
        0
    }
}

impl Subject for Small {
    fn make() -> Self {
        Self([0; 8])
    }

    #[inline]
    fn touch(&mut self) {
        self.0[0] += black_box(1);
    }
}

impl Subject for Vec<u8> {
    fn make() -> Self {
        Self::with_capacity(4096)
    }

    #[inline]
    fn touch(&mut self) {
        self.push(black_box(1));
    }
}

/// Makes and resets for opool.
struct Maker;

impl<T: Subject> PoolAllocator<T> for Maker {
    #[inline]
    fn reset(&self, object: &mut T) {
        object.reset();
    }

    fn allocate(&self) -> T {
        T::make()
    }
}

fn ours<T: Subject>(threads: usize) -> Contender {
    let setup = || {
        let config = PoolConfig::builder().capacity(OBJECTS).warm_up(OBJECTS).build();
        config.and_then(|config| ThreadSafePool::new(&config, T::make)).expect("a pool")
    };
    Contender::threads("ours", threads, setup, |pool, thread: Thread| {
        repeat(thread.iterations, || pool.try_get().expect("an object").touch());
    })
}

fn opool<T: Subject>(threads: usize) -> Contender {
    let setup = || OPool::<Maker, T>::new_prefilled(OBJECTS, Maker);
    Contender::threads("opool", threads, setup, |pool, thread: Thread| {
        repeat(thread.iterations, || pool.get().touch());
    })
}

fn object_pool<T: Subject>(threads: usize) -> Contender {
    let setup = || ObjectPool::new(OBJECTS, T::make);
    Contender::threads("object-pool", threads, setup, |pool, thread: Thread| {
        repeat(thread.iterations, || {
            let mut object = pool.try_pull().expect("an object");
            object.touch();
            object.reset();
        });
    })
}

fn mutex<T: Subject>(threads: usize) -> Contender {
    let setup = || Mutex::new((0..OBJECTS).map(|_| T::make()).collect::<Vec<T>>());
    Contender::threads("Mutex<Vec>", threads, setup, |pool, thread: Thread| {
        let lock = || pool.lock().unwrap_or_else(PoisonError::into_inner);
        repeat(thread.iterations, || {
            let mut object = lock().pop().expect("an object");
            object.touch();
            object.reset();
            lock().push(object);
        });
    })
}

fn case<T: Subject>(name: &'static str, threads: usize) -> Case {
    Case::new(name, ours::<T>(threads))
        .peer(opool::<T>(threads))
        .peer(object_pool::<T>(threads))
        .peer(mutex::<T>(threads))
}

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        case::<Small>("64 B object, 1 thread", 1),
        case::<Small>("64 B object, 2 threads", 2),
        case::<Vec<u8>>("4 KiB buffer, 1 thread", 1),
        case::<Vec<u8>>("4 KiB buffer, 2 threads", 2),
    ]
}
