//! The levels below level one, told by tasks. The rules are those of `lower.rs`; here are the awaits.
//!
//! Whatever is dropped while it awaits leaves behind what is known: a level that was to be told of a
//! key, and may not have been, is not asked about it until it has been.

use std::{
    future::{Future, poll_fn},
    hash::Hash,
    pin::pin,
    task::Poll,
    time::Duration,
};

use nebula_memory_core::panics::quietly;

use super::{
    lower::{Demoter, Found, Lower, spread},
    queue::{Job, Op, Queue},
    remote::{Remote, Telling},
    stats::count,
    tier::Look,
};
use crate::hooks::Demote;

pub(crate) type AsyncLower<K, V> = Lower<K, V, Remote<K, V>>;

impl<K: Hash + Eq + Clone, V: Clone> AsyncLower<K, V> {
    /// Looks for `key` in each level, in their order. Within its flight.
    pub(crate) async fn find_awaited(&self, hash: u32, key: &K) -> Option<Found<V>> {
        if let Some(queued) = self.find_queued(hash, key) {
            return queued;
        }
        for (above, tier) in self.tiers.iter().enumerate() {
            if let Look::Found(hit) = tier.get(key).await {
                return Some(self.found(hit, above));
            }
        }
        None
    }

    /// Has the first `levels` levels hold `value`, now or soon. Within the key's flight. A value that
    /// is `fresh` makes what they hold wrong; others may be dropped without harm.
    pub(crate) async fn put_awaited(
        &self,
        hash: u32,
        key: &K,
        value: &V,
        until: Option<Duration>,
        levels: usize,
        fresh: bool,
    ) {
        // If `Clone` panics, the levels are not told.
        let mut telling = Telling { tiers: if fresh { &self.tiers[..levels] } else { &[] }, key };
        let queued = self.queue_put(hash, key, value, until, levels, fresh);
        telling.tiers = &[];
        if !queued {
            self.put_each(key, value, until, levels).await;
        }
    }

    /// Has no level hold anything under `key`, now or soon. Within its flight.
    pub(crate) async fn remove_awaited(&self, hash: u32, key: &K) {
        // If `Clone` panics, the levels are not told.
        let mut telling = Telling { tiers: &self.tiers, key };
        let queued = self.queue_removal(hash, key);
        telling.tiers = &[];
        if !queued {
            self.remove_each(key, 0).await;
        }
    }

    async fn put_each(&self, key: &K, value: &V, until: Option<Duration>, levels: usize) {
        let tiers = &self.tiers[..levels];
        let mut telling = Telling { tiers, key };
        for tier in tiers {
            match until.map(|until| until.saturating_sub(self.clock.now())) {
                // Too late for it; but what is there is older still.
                Some(Duration::ZERO) => tier.remove(key).await,
                ttl => tier.put(key, value, ttl).await,
            }
            telling.told();
        }
    }

    /// From all levels but the first `above`.
    async fn remove_each(&self, key: &K, above: usize) {
        let tiers = &self.tiers[above..];
        let mut telling = Telling { tiers, key };
        for tier in tiers {
            tier.remove(key).await;
            telling.told();
        }
    }

    /// Has the levels forget what they hold, those that can be reached.
    pub(crate) async fn clear_awaited(&self) {
        for tier in &self.tiers {
            tier.pay(1, true).await;
        }
    }

    /// Does what is queued: until what was when this began is done, or else for ever.
    pub(crate) async fn serve_awaited(&self, queue: &Queue<K, V>, forever: bool) {
        let goal = if forever { u64::MAX } else { queue.pushed() };
        while queue.done() < goal {
            if let Some(job) = queue.claim() {
                self.do_job(Claimed { queue, job: Some(job) }).await;
                continue;
            }
            // A place is taken before the last look, so that no news is missed.
            let news = queue.await_news();
            if queue.done() < goal && !queue.is_due() {
                // It is never closed.
                let _ = news.await;
            }
        }
    }

    async fn do_job(&self, mut claimed: Claimed<'_, K, V>) {
        while let Some(job) = &claimed.job {
            {
                let mut work = pin!(self.do_op(job));
                // (Levels are guarded; this is for `Hash` and `Clone` of keys.)
                poll_fn(|cx| {
                    let polled = quietly(|| work.as_mut().poll(cx));
                    polled.unwrap_or(Poll::Ready(()))
                })
                .await;
            }
            claimed.job = claimed.job.take().and_then(|job| claimed.queue.finish(job));
        }
    }

    async fn do_op(&self, job: &Job<K, V>) {
        match &job.op {
            Op::Put { value, until, levels, cleared } => {
                self.put_each(&job.key, value, *until, *levels).await;
                if *cleared {
                    self.remove_each(&job.key, *levels).await;
                }
            }
            Op::Remove => self.remove_each(&job.key, 0).await,
        }
    }
}

/// A key whose turn it is; dropped before it is done, its turn comes again.
struct Claimed<'q, K: Hash + Eq + Clone, V> {
    queue: &'q Queue<K, V>,
    job: Option<Job<K, V>>,
}

impl<K: Hash + Eq + Clone, V> Drop for Claimed<'_, K, V> {
    fn drop(&mut self) {
        self.queue.release(self.job.take());
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Demote<K, V> for Demoter<K, V, Remote<K, V>> {
    fn leaving(&self, hash: u32) {
        self.0.limbo.enter(hash);
    }

    fn left(&self, hash: u32, key: &K, value: &V, deadline: u64) {
        let put = |until| {
            let Some(queue) = &self.0.queue else { return };
            let op = Op::Put { value: value.clone().into(), until, levels: 1, cleared: false };
            // Who is here may be no task: it can't write by itself.
            if queue.push(spread(hash), key, op).is_err() {
                count(&queue.dropped);
                count(&self.0.tiers[0].counts.dropped);
            }
        };
        // If `Clone` panics, the value is lost to the levels below, and to nobody else.
        let _ = quietly(|| self.0.demote(hash, key, value, deadline, put));
        self.0.limbo.exit(hash);
    }
}
