//! A level that blocks, called by threads that may.

use std::{
    fmt,
    future::poll_fn,
    hash::{BuildHasher, Hash},
    time::Duration,
};

use nebula_memory_core::{
    WaitSlot,
    panics::quietly,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
};

use super::{AsyncLevel, Hit, Level, LevelError, LevelFuture};
use crate::{DefaultHashBuilder, Job};

/// How many calls there are at once at most.
const STRIPES: usize = 64;

/// A [`Level`] that blocks, such as a file or a server, as an [`AsyncLevel`]: its calls are handed to
/// an executor of yours that has threads for such things.
///
/// Calls for one key come one after the other, also if their futures are dropped: what has begun is
/// ended before the next begins, and what has not begun is not done any more. Up to 64 calls are under
/// way at once. A call that the executor drops has failed.
///
/// ```
/// use std::thread;
/// use nebula_cache::{
///     AsyncMultiLevelCache, Blocking, CacheConfig, ConcurrentComputeCache,
/// };
///
/// # let level = ConcurrentComputeCache::<u64, u64>::new(CacheConfig::default())?;
/// // With tokio: `|job| drop(tokio::task::spawn_blocking(job))`.
/// let level = Blocking::new(level, |job| drop(thread::spawn(job)));
/// let first = ConcurrentComputeCache::builder(CacheConfig::default());
/// let cache = AsyncMultiLevelCache::builder(first).level(level).build()?;
/// # assert!(cache.is_empty());
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub struct Blocking<L, S> {
    shared: Arc<Shared<L>>,
    spawn: S,
    hasher: DefaultHashBuilder,
}

struct Shared<L> {
    level: L,
    turns: Turns,
}

#[derive(Clone, Copy, Debug)]
enum Turn {
    /// After those before it for keys that fall to this lock.
    Key(usize),
    /// With no other beside it.
    Alone,
    /// Whenever.
    Any,
}

/// Whose turn it is: calls for one key, one after the other, and those for all keys alone.
struct Turns {
    all: RwLock<()>,
    keys: Box<[Mutex<()>]>,
}

impl<L, S> Blocking<L, S>
where
    L: Send + Sync + 'static,
    S: Fn(Job) + Send + Sync,
{
    /// That level, called by what `spawn` is given: it must run it soon, on a thread that may block.
    pub fn new(level: L, spawn: S) -> Self {
        let keys = (0..STRIPES).map(|_| Mutex::new(())).collect();
        let turns = Turns { all: RwLock::new(()), keys };
        Self {
            shared: Arc::new(Shared { level, turns }),
            spawn,
            hasher: DefaultHashBuilder::default(),
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "only some of the bits are used")]
    fn turn(&self, key: &impl Hash) -> Turn {
        Turn::Key(self.hasher.hash_one(key) as usize & (STRIPES - 1))
    }

    /// Has `call` made on another thread, when it is its turn.
    async fn call<R: Send + 'static>(
        &self,
        turn: Turn,
        call: impl FnOnce(&L) -> Result<R, LevelError> + Send + 'static,
    ) -> Result<R, LevelError> {
        let slot = Arc::new(WaitSlot::new());
        let wanted = Wanted(Arc::new(AtomicBool::new(true)));
        let (shared, still) = (Arc::clone(&self.shared), Arc::clone(&wanted.0));
        let answer = Answer(Some(Arc::clone(&slot)));
        (self.spawn)(Box::new(move || {
            let made = {
                let turns = &shared.turns;
                let _alone = matches!(turn, Turn::Alone).then(|| turns.all.write());
                let _among = (!matches!(turn, Turn::Alone)).then(|| turns.all.read());
                let _mine =
                    if let Turn::Key(key) = turn { Some(turns.keys[key].lock()) } else { None };
                // Under the lock: who comes later finds this done, or never to be done.
                let make = || call(&shared.level);
                still.load(Acquire).then(|| quietly(make).unwrap_or(Err(LevelError::Panicked)))
            };
            if let Some(made) = made {
                answer.give(made);
            }
        }));
        match poll_fn(|cx| slot.poll_take(cx)).await {
            Ok(result) => result,
            Err(error) => Err(LevelError::backend(error)),
        }
    }
}

/// That somebody waits for the call.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}

/// Where the result goes; an error, if this is dropped first.
struct Answer<R>(Option<Arc<WaitSlot<Result<R, LevelError>>>>);

impl<R> Answer<R> {
    fn give(mut self, result: Result<R, LevelError>) {
        self.put(result);
    }

    fn put(&mut self, result: Result<R, LevelError>) {
        if let Some(slot) = self.0.take() {
            slot.put(Ok(result));
            slot.wake();
        }
    }
}

impl<R> Drop for Answer<R> {
    fn drop(&mut self) {
        self.put(Err(LevelError::backend("the executor dropped the call")));
    }
}

impl<K, V, L, S> AsyncLevel<K, V> for Blocking<L, S>
where
    K: Hash + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    L: Level<K, V> + 'static,
    S: Fn(Job) + Send + Sync,
{
    fn name(&self) -> &str {
        self.shared.level.name()
    }

    fn get<'l>(&'l self, key: &'l K) -> LevelFuture<'l, Option<Hit<V>>> {
        Box::pin(async {
            let name = key.clone();
            self.call(self.turn(key), move |level| level.get(&name)).await
        })
    }

    fn put<'l>(&'l self, key: &'l K, value: &'l V, ttl: Option<Duration>) -> LevelFuture<'l, ()> {
        Box::pin(async move {
            let (name, value) = (key.clone(), value.clone());
            self.call(self.turn(key), move |level| level.put(&name, &value, ttl)).await
        })
    }

    fn remove<'l>(&'l self, key: &'l K) -> LevelFuture<'l, ()> {
        Box::pin(async {
            let name = key.clone();
            self.call(self.turn(key), move |level| level.remove(&name)).await
        })
    }

    fn clear(&self) -> LevelFuture<'_, ()> {
        Box::pin(self.call(Turn::Alone, L::clear))
    }

    fn flush(&self) -> LevelFuture<'_, ()> {
        Box::pin(self.call(Turn::Any, L::flush))
    }

    fn maintain(&self, work: usize) -> LevelFuture<'_, usize> {
        Box::pin(self.call(Turn::Any, move |level: &L| level.maintain(work)))
    }
}

impl<L, S> fmt::Debug for Blocking<L, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking").finish_non_exhaustive()
    }
}
