//! The peers, and what people do without a pool crate.

use std::sync::{Arc, Mutex, PoisonError};

use lockfree_object_pool::LinearObjectPool;
use object_pool::Pool as ObjectPool;
use opool::{LocalPool as OLocalPool, Pool as OPool, PoolAllocator};
use sharded_slab::Clear;

use super::{OBJECTS, Subject};
use crate::{Contender, Thread, repeat};

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

pub(super) fn opool<T: Subject>(threads: usize) -> Contender {
    let setup = || OPool::<Maker, T>::new_prefilled(OBJECTS, Maker);
    Contender::threads("opool", threads, setup, |pool, thread: Thread| {
        repeat(thread.iterations, || pool.get().touch());
    })
}

pub(super) fn opool_owned<T: Subject>(threads: usize) -> Contender {
    let setup = || OPool::<Maker, T>::new_prefilled(OBJECTS, Maker).to_rc();
    Contender::threads("opool", threads, setup, |pool, thread: Thread| {
        repeat(thread.iterations, || Arc::clone(pool).get_rc().touch());
    })
}

pub(super) fn opool_local<T: Subject>() -> Contender {
    let setup = || OLocalPool::<Maker, T>::new_prefilled(OBJECTS, Maker);
    Contender::each("opool", setup, |pool| pool.get().touch())
}

pub(super) fn object_pool<T: Subject>(threads: usize) -> Contender {
    let setup = || ObjectPool::new(OBJECTS, T::make);
    Contender::threads("object-pool", threads, setup, |pool, thread: Thread| {
        repeat(thread.iterations, || {
            let mut object = pool.try_pull().expect("an object");
            object.touch();
            object.reset();
        });
    })
}

fn linear<T: Subject>() -> LinearObjectPool<T> {
    let pool = LinearObjectPool::new(T::make, |object: &mut T| object.reset());
    drop((0..OBJECTS).map(|_| pool.pull()).collect::<Vec<_>>());
    pool
}

pub(super) fn lockfree<T: Subject>(threads: usize) -> Contender {
    Contender::threads("lockfree-object-pool", threads, linear::<T>, |pool, thread: Thread| {
        repeat(thread.iterations, || pool.pull().touch());
    })
}

pub(super) fn lockfree_owned<T: Subject>(threads: usize) -> Contender {
    let setup = || Arc::new(linear::<T>());
    Contender::threads("lockfree-object-pool", threads, setup, |pool, thread: Thread| {
        repeat(thread.iterations, || pool.pull_owned().touch());
    })
}

/// What sharded-slab keeps: made when it is first used, as it wants it.
struct Lazy<T>(Option<T>);

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Subject> Clear for Lazy<T> {
    #[inline]
    fn clear(&mut self) {
        if let Some(object) = &mut self.0 {
            object.reset();
        }
    }
}

pub(super) fn sharded<T: Subject>(threads: usize) -> Contender {
    let setup = sharded_slab::Pool::<Lazy<T>>::new;
    Contender::threads("sharded-slab", threads, setup, |pool, thread: Thread| {
        repeat(thread.iterations, || {
            let mut object = pool.create().expect("a place");
            object.0.get_or_insert_with(T::make).touch();
            let key = object.key();
            drop(object);
            pool.clear(key);
        });
    })
}

pub(super) fn regex<T: Subject>(threads: usize) -> Contender {
    let setup = || regex_automata::util::pool::Pool::<T>::new(T::make);
    Contender::threads("regex-automata", threads, setup, |pool, thread: Thread| {
        repeat(thread.iterations, || {
            let mut object = pool.get();
            object.touch();
            object.reset();
        });
    })
}

/// The pool without a manager: the faster one of the two.
pub(super) fn deadpool<T: Subject>(threads: usize) -> Contender {
    let setup = || {
        let objects = (0..OBJECTS).map(|_| T::make());
        deadpool::unmanaged::Pool::from(objects.collect::<Vec<T>>())
    };
    Contender::threads("deadpool", threads, setup, |pool, thread: Thread| {
        repeat(thread.iterations, || {
            let mut object = pool.try_get().expect("an object");
            object.touch();
            object.reset();
        });
    })
}

pub(super) fn mutex<T: Subject>(threads: usize) -> Contender {
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

pub(super) fn vec<T: Subject>() -> Contender {
    let setup = || (0..OBJECTS).map(|_| T::make()).collect::<Vec<T>>();
    Contender::each("Vec", setup, |pool| {
        let mut object = pool.pop().expect("an object");
        object.touch();
        object.reset();
        pool.push(object);
    })
}

/// No pool: a new object each time, from a fast heap.
#[cfg(feature = "mimalloc")]
pub(super) fn mimalloc<T: Subject>(threads: usize) -> Contender {
    use std::{
        alloc::{GlobalAlloc, Layout},
        hint::black_box,
    };

    Contender::threads(
        "mimalloc",
        threads,
        || (),
        |(), thread: Thread| {
            let layout =
                Layout::from_size_align(if size_of::<T>() < 64 { 4096 } else { size_of::<T>() }, 8)
                    .expect("a layout");
            repeat(thread.iterations, || {
                // SAFETY: the layout is not empty.
                let block = unsafe { mimalloc::MiMalloc.alloc(layout) };
                assert!(!block.is_null());
                // SAFETY: the block is at least one byte long.
                unsafe { block.write(black_box(1)) };
                // SAFETY: it was allocated above, with the same layout.
                unsafe { mimalloc::MiMalloc.dealloc(black_box(block), layout) };
            });
        },
    )
}
