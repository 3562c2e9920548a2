//! A level that does what tests tell it: fail, panic, dawdle, write halfway, or wait at a gate.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use nebula_cache::{Hit, Level, LevelError};
use nebula_memory_core::{Clock, ManualClock, MemoryError};

/// What the shelf does when it is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Every call fails and changes nothing.
    Fails,
    /// Every call panics and changes nothing.
    Panics,
    /// Writes and removals are done, and reported as failed; reads fail.
    FailsAfterwards,
    /// Every call takes so long on the clock.
    Slow(Duration),
    /// Values are refused.
    Refuses,
    /// What is read is corrupt, and gone.
    Corrupt,
}

#[derive(Debug, Default)]
pub(crate) struct Shelf<K, V> {
    pub(crate) clock: Arc<ManualClock>,
    mood: Mutex<Mood>,
    entries: Mutex<HashMap<K, (V, Option<Duration>)>>,
    pub(crate) gets: AtomicUsize,
    pub(crate) puts: AtomicUsize,
    pub(crate) removes: AtomicUsize,
    pub(crate) clears: AtomicUsize,
    pub(crate) flushes: AtomicUsize,
    /// Closed: puts stay before it. And how many are there.
    gate: Mutex<(bool, usize)>,
    moved: Condvar,
}

impl<K: Hash + Eq + Clone, V: Clone> Shelf<K, V> {
    pub(crate) fn new(clock: &Arc<ManualClock>) -> Arc<Self>
    where
        K: Default,
        V: Default,
    {
        Arc::new(Self { clock: Arc::clone(clock), ..Self::default() })
    }

    pub(crate) fn be(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub(crate) fn calls(&self) -> usize {
        [&self.gets, &self.puts, &self.removes, &self.clears]
            .map(|count| count.load(SeqCst))
            .iter()
            .sum()
    }

    /// What is really there, whatever its mood.
    pub(crate) fn holds(&self, key: &K) -> Option<V> {
        self.entries.lock().unwrap().get(key).map(|(value, _)| value.clone())
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.lock().unwrap().len()
    }

    /// Puts something there behind the cache's back.
    pub(crate) fn plant(&self, key: K, value: V, ttl: Option<Duration>) {
        let until = ttl.map(|ttl| self.clock.now() + ttl);
        self.entries.lock().unwrap().insert(key, (value, until));
    }

    pub(crate) fn close_gate(&self) {
        self.gate.lock().unwrap().0 = true;
    }

    pub(crate) fn open_gate(&self) {
        self.gate.lock().unwrap().0 = false;
        self.moved.notify_all();
    }

    /// Waits until somebody stands before the gate.
    pub(crate) fn await_visitor(&self) {
        let gate = self.gate.lock().unwrap();
        drop(self.moved.wait_while(gate, |gate| gate.1 == 0).unwrap());
    }

    fn pass_gate(&self) {
        let mut gate = self.gate.lock().unwrap();
        gate.1 += 1;
        self.moved.notify_all();
        let mut gate = self.moved.wait_while(gate, |gate| gate.0).unwrap();
        gate.1 -= 1;
    }

    /// Counts a call, and does as the mood is; `Some` is the call's result after what it does.
    fn visit(&self, count: &AtomicUsize) -> Result<Option<LevelError>, LevelError> {
        count.fetch_add(1, SeqCst);
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Fails => Err(LevelError::backend("the shelf fails")),
            // (Without a report for each.)
            Mood::Panics => std::panic::resume_unwind(Box::new("the shelf panics")),
            Mood::FailsAfterwards => Ok(Some(LevelError::TimedOut(Duration::ZERO))),
            Mood::Slow(by) => {
                self.clock.advance(by);
                Ok(None)
            }
            Mood::Well | Mood::Refuses | Mood::Corrupt => Ok(None),
        }
    }
}

fn outcome(error: Option<LevelError>) -> Result<(), LevelError> {
    error.map_or(Ok(()), Err)
}

impl<K: Hash + Eq + Clone + Send, V: Clone + Send> Level<K, V> for Shelf<K, V> {
    fn name(&self) -> &'static str {
        "shelf"
    }

    fn get(&self, key: &K) -> Result<Option<Hit<V>>, LevelError> {
        if let Some(error) = self.visit(&self.gets)? {
            return Err(error);
        }
        let mut entries = self.entries.lock().unwrap();
        if *self.mood.lock().unwrap() == Mood::Corrupt {
            return entries.remove(key).map_or(Ok(None), |_| Err(LevelError::Corrupt));
        }
        let now = self.clock.now();
        let Some((value, until)) = entries.get(key) else { return Ok(None) };
        match until {
            Some(until) if *until <= now => Ok(None),
            until => {
                Ok(Some(Hit::new(value.clone(), until.map(|until| until.saturating_sub(now)))))
            }
        }
    }

    fn put(&self, key: &K, value: &V, ttl: Option<Duration>) -> Result<(), LevelError> {
        let after = self.visit(&self.puts)?;
        self.pass_gate();
        if *self.mood.lock().unwrap() == Mood::Refuses {
            return Err(LevelError::Refused(MemoryError::Closed { what: "shelf" }));
        }
        self.plant(key.clone(), value.clone(), ttl);
        outcome(after)
    }

    fn remove(&self, key: &K) -> Result<(), LevelError> {
        let after = self.visit(&self.removes)?;
        self.entries.lock().unwrap().remove(key);
        outcome(after)
    }

    fn clear(&self) -> Result<(), LevelError> {
        let after = self.visit(&self.clears)?;
        self.entries.lock().unwrap().clear();
        outcome(after)
    }

    fn flush(&self) -> Result<(), LevelError> {
        outcome(self.visit(&self.flushes)?)
    }
}
