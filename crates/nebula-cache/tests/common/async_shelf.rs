//! A shelf whose calls are awaited: as fast and as well as tests tell it.

use std::{
    future::{Future, pending},
    hash::Hash,
    ops::Deref,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use nebula_cache::{AsyncLevel, Hit, Level, LevelFuture};
use nebula_memory_core::ManualClock;

use super::{shelf::Shelf, tasks::Yields};

/// When a call is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pace {
    #[default]
    AtOnce,
    /// Pending so many times before it has an effect, and again after that.
    Yields(usize),
    /// Never, without an effect.
    Never,
    /// Never, after it has had its effect.
    NeverAfterwards,
}

#[derive(Debug)]
pub(crate) struct AsyncShelf<K, V> {
    shelf: Arc<Shelf<K, V>>,
    pace: Mutex<Pace>,
}

impl<K: Hash + Eq + Clone + Default, V: Clone + Default> AsyncShelf<K, V> {
    pub(crate) fn new(clock: &Arc<ManualClock>) -> Arc<Self> {
        Arc::new(Self { shelf: Shelf::new(clock), pace: Mutex::default() })
    }
}

impl<K, V> Deref for AsyncShelf<K, V> {
    type Target = Shelf<K, V>;

    fn deref(&self) -> &Shelf<K, V> {
        &self.shelf
    }
}

impl<K: Sync + Send, V: Sync + Send> AsyncShelf<K, V> {
    pub(crate) fn go(&self, pace: Pace) {
        *self.pace.lock().unwrap() = pace;
    }

    fn visit<'l, R: Send + 'l>(
        &'l self,
        effect: impl FnOnce(&Shelf<K, V>) -> R + Send + 'l,
    ) -> Pin<Box<dyn Future<Output = R> + Send + 'l>> {
        Box::pin(async {
            let pace = *self.pace.lock().unwrap();
            match pace {
                Pace::AtOnce | Pace::NeverAfterwards => {}
                Pace::Yields(times) => Yields(times).await,
                Pace::Never => pending().await,
            }
            let result = effect(&self.shelf);
            match pace {
                Pace::AtOnce | Pace::Never => {}
                Pace::Yields(times) => Yields(times).await,
                Pace::NeverAfterwards => pending().await,
            }
            result
        })
    }
}

impl<K, V> AsyncLevel<K, V> for AsyncShelf<K, V>
where
    K: Hash + Eq + Clone + Send + Sync,
    V: Clone + Send + Sync,
{
    fn name(&self) -> &'static str {
        "async shelf"
    }

    fn get<'l>(&'l self, key: &'l K) -> LevelFuture<'l, Option<Hit<V>>> {
        self.visit(|shelf| Level::get(shelf, key))
    }

    fn put<'l>(&'l self, key: &'l K, value: &'l V, ttl: Option<Duration>) -> LevelFuture<'l, ()> {
        self.visit(move |shelf| shelf.put(key, value, ttl))
    }

    fn remove<'l>(&'l self, key: &'l K) -> LevelFuture<'l, ()> {
        self.visit(|shelf| shelf.remove(key))
    }

    fn clear(&self) -> LevelFuture<'_, ()> {
        self.visit(Level::<K, V>::clear)
    }

    fn flush(&self) -> LevelFuture<'_, ()> {
        self.visit(Level::<K, V>::flush)
    }
}
