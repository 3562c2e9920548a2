//! A level whose calls are awaited, with what the cache keeps of it. Nothing that a level does gets
//! out of here but what it found; and whatever is dropped before it is ready, it is known what the
//! level was not told.

use std::{
    future::Future,
    hash::Hash,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use nebula_memory_core::{panics::quietly, sync::Arc};

use super::{
    AsyncLevel, LevelError, LevelFuture,
    breaker::Leave,
    debts::Due,
    stats::count,
    tier::{Look, PAID_AT_ONCE, Tier, Told},
};

pub(crate) type Sleeping = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How long calls are waited for.
pub(crate) struct Patience {
    pub(crate) timeout: Duration,
    pub(crate) sleep: Box<dyn Fn(Duration) -> Sleeping + Send + Sync>,
}

/// What a level that is awaited is called by.
pub(crate) struct Remote<K, V> {
    pub(crate) level: Box<dyn AsyncLevel<K, V>>,
    pub(crate) patience: Option<Arc<Patience>>,
}

/// A call that is raced against its time-out, and whose panics are errors.
struct Call<'l, R> {
    work: Option<LevelFuture<'l, R>>,
    patience: Option<&'l Patience>,
    /// Made when the level is found to take its time.
    sleep: Option<Sleeping>,
}

impl<'l, R> Call<'l, R> {
    fn new(work: impl FnOnce() -> LevelFuture<'l, R>, patience: Option<&'l Patience>) -> Self {
        Self { work: quietly(work), patience, sleep: None }
    }

    /// The level's future is dropped, whatever its `Drop` does.
    fn end(&mut self) {
        let work = self.work.take();
        quietly(|| drop(work));
    }
}

impl<R> Future for Call<'_, R> {
    type Output = Result<R, LevelError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let panicked = Poll::Ready(Err(LevelError::Panicked));
        let mut polled = match &mut this.work {
            Some(work) => quietly(|| work.as_mut().poll(cx)).unwrap_or(panicked),
            None => panicked,
        };
        if let (Poll::Pending, Some(patience)) = (&polled, this.patience) {
            let sleep = this.sleep.get_or_insert_with(|| (patience.sleep)(patience.timeout));
            if sleep.as_mut().poll(cx).is_ready() {
                polled = Poll::Ready(Err(LevelError::TimedOut(patience.timeout)));
            }
        }
        if polled.is_ready() {
            this.end();
        }
        polled
    }
}

impl<R> Drop for Call<'_, R> {
    fn drop(&mut self) {
        self.end();
    }
}

/// A call that is under way; dropped before it is [over](Self::end), nobody waited for it.
struct Begun<'l, K: Hash + Eq + Clone, L> {
    tier: &'l Tier<K, L>,
    leave: Option<Leave>,
    start: Duration,
}

impl<K: Hash + Eq + Clone, L> Begun<'_, K, L> {
    fn end<R>(mut self, result: Result<R, LevelError>) -> Result<R, LevelError> {
        match self.leave.take() {
            Some(leave) => self.tier.end(leave, self.start, result),
            None => result,
        }
    }
}

impl<K: Hash + Eq + Clone, L> Drop for Begun<'_, K, L> {
    fn drop(&mut self) {
        let Some(leave) = self.leave else { return };
        let now = self.tier.clock.now();
        if self.tier.circuit.abandon(leave, now.saturating_sub(self.start), now) {
            count(&self.tier.counts.slow);
        }
    }
}

/// That some levels have not been told of a key: if this is dropped, it is in doubt there.
pub(super) struct Telling<'l, K: Hash + Eq + Clone, L> {
    pub(super) tiers: &'l [Tier<K, L>],
    pub(super) key: &'l K,
}

impl<K: Hash + Eq + Clone, L> Telling<'_, K, L> {
    /// The first of them knows.
    pub(super) fn told(&mut self) {
        self.tiers = self.tiers.get(1..).unwrap_or_default();
    }
}

impl<K: Hash + Eq + Clone, L> Drop for Telling<'_, K, L> {
    fn drop(&mut self) {
        for tier in self.tiers {
            // If `Clone` of the key panics, it can't be noted which one it is.
            if quietly(|| tier.doubt(self.key)).is_none() {
                tier.doubt_all();
            }
        }
    }
}

impl<K: Hash + Eq + Clone, V> Tier<K, Remote<K, V>> {
    /// Calls the level, if its breaker lets it; for as long as it takes, or until the time-out.
    async fn call<'l, R>(
        &'l self,
        patient: bool,
        f: impl FnOnce(&'l dyn AsyncLevel<K, V>) -> LevelFuture<'l, R>,
    ) -> Told<R> {
        let start = self.clock.now();
        let leave = self.circuit.admit(start)?;
        let begun = Begun { tier: self, leave: Some(leave), start };
        let Remote { level, patience } = &*self.level;
        let patience = if patient { None } else { patience.as_deref() };
        let result = Call::new(|| f(&**level), patience).await;
        Some(begun.end(result))
    }

    pub(crate) async fn get(&self, key: &K) -> Look<V> {
        self.pay(PAID_AT_ONCE, false).await;
        if self.doubts(key) {
            return Look::Unknown;
        }
        self.looked(self.call(false, |level| level.get(key)).await)
    }

    /// Dropped before it is ready, it leaves the key in doubt, if the caller holds that it is
    /// [`Telling`].
    pub(crate) async fn put(&self, key: &K, value: &V, ttl: Option<Duration>) {
        self.pay(PAID_AT_ONCE, false).await;
        if self.wrote(key, self.call(false, |level| level.put(key, value, ttl)).await) {
            self.forget(key).await;
        }
    }

    /// As [`put`](Self::put).
    pub(crate) async fn remove(&self, key: &K) {
        self.pay(PAID_AT_ONCE, false).await;
        self.forget(key).await;
    }

    async fn forget(&self, key: &K) {
        self.forgot(key, self.call(false, |level| level.remove(key)).await);
    }

    /// Pays some of what the level is owed, if it can be reached and nobody else is at it.
    pub(crate) async fn pay(&self, most: usize, patient: bool) {
        if !self.debts.any() {
            return;
        }
        let Some(_paying) = self.debts.begin_paying() else { return };
        for _ in 0..most {
            let Some(due) = self.debts.due() else { break };
            let done = match &due {
                Due::Remove(key, _) => self.call(patient, |level| level.remove(key)).await,
                Due::Clear(_) => self.call(patient, |level| level.clear()).await,
            };
            if !self.paid(due, done) {
                break;
            }
        }
    }

    pub(crate) async fn flush(&self) -> Result<(), LevelError> {
        Call::new(|| self.level.level.flush(), None).await
    }

    pub(crate) async fn maintain(&self, work: usize) -> usize {
        self.pay(work, true).await;
        match self.call(true, |level| level.maintain(work)).await {
            Some(Ok(done)) => done,
            _ => 0,
        }
    }
}
