//! Writing behind: what the lower levels are to be told waits in a bounded queue for a thread.
//!
//! The ledger holds the last thing to be done for each key that waits, and answers lookups until it
//! is done. The queue holds the keys, in the order in which they came. A key is in the ledger if and
//! only if it is in the queue or in the thread's hands, so that its writes are done in their order,
//! and those that are overtaken not at all.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crossbeam_queue::ArrayQueue;
use nebula_memory_core::sync::{Arc, Condvar, Mutex};

use super::stats::{QueueStats, count};

const STRIPES: usize = 16;

/// What the lower levels are to be told of a key.
#[derive(Debug)]
pub(crate) enum Op<V> {
    /// The first `levels` of them hold this value.
    Put { value: Arc<V>, until: Option<Duration>, levels: usize },
    /// None of them holds anything.
    Remove,
}

impl<V> Clone for Op<V> {
    fn clone(&self) -> Self {
        match self {
            Self::Put { value, until, levels } => {
                Self::Put { value: Arc::clone(value), until: *until, levels: *levels }
            }
            Self::Remove => Self::Remove,
        }
    }
}

#[derive(Debug)]
struct Pending<V> {
    op: Op<V>,
    /// Different for each operation.
    turn: u64,
}

type Stripe<K, V> = Mutex<HashMap<K, Pending<V>>>;

#[derive(Debug)]
pub(crate) struct Queue<K, V> {
    ledger: Box<[Stripe<K, V>]>,
    waiting: ArrayQueue<(u64, K)>,
    /// Keys in the ledger.
    len: AtomicU64,
    turns: AtomicU64,
    progress: Mutex<Progress>,
    /// Something has been queued, or it is time to stop.
    news: Condvar,
    /// Something has been done.
    done: Condvar,
    queued: AtomicU64,
    merged: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) dropped: AtomicU64,
    hits: AtomicU64,
}

#[derive(Debug, Default)]
struct Progress {
    /// Keys that ever went into the queue.
    pushed: u64,
    /// Keys whose turn is over.
    done: u64,
    stopping: bool,
}

/// A key whose turn it is.
#[derive(Debug)]
pub(crate) struct Job<K, V> {
    hash: u64,
    pub(crate) key: K,
    pub(crate) op: Op<V>,
    turn: u64,
}

impl<K: Hash + Eq + Clone, V> Queue<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            ledger: (0..STRIPES).map(|_| Mutex::new(HashMap::new())).collect(),
            waiting: ArrayQueue::new(capacity),
            len: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            progress: Mutex::default(),
            news: Condvar::new(),
            done: Condvar::new(),
            queued: AtomicU64::new(0),
            merged: AtomicU64::new(0),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            hits: AtomicU64::new(0),
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "only some of the bits are used")]
    fn stripe(&self, hash: u64) -> &Stripe<K, V> {
        &self.ledger[(hash >> 40) as usize & (STRIPES - 1)]
    }

    /// What waits for `key`, if anything does.
    pub(crate) fn find(&self, hash: u64, key: &K) -> Option<Op<V>> {
        if self.len.load(Relaxed) == 0 {
            return None;
        }
        let op = self.stripe(hash).lock().get(key)?.op.clone();
        Some(op)
    }

    /// A lookup has been answered by what waits.
    pub(crate) fn count_hit(&self) {
        count(&self.hits);
    }

    /// Queues `op`. `Err` if the queue is full; then nothing waits for the key.
    pub(crate) fn push(&self, hash: u64, key: &K, mut op: Op<V>) -> Result<(), Op<V>> {
        let (listed, queued) = (key.clone(), key.clone());
        let turn = self.turns.fetch_add(1, Relaxed);
        let overtaken;
        {
            let mut ledger = self.stripe(hash).lock();
            if let Some(pending) = ledger.get_mut(key) {
                if let (Op::Put { levels, .. }, Op::Put { levels: earlier, .. }) =
                    (&mut op, &pending.op)
                {
                    // A level that was to have the earlier value must not keep one before it.
                    *levels = (*levels).max(*earlier);
                }
                pending.turn = turn;
                overtaken = Some((std::mem::replace(&mut pending.op, op), listed, queued));
            } else {
                let refused = {
                    // Counted in the order of the queue, for those who wait for its progress.
                    let mut progress = self.progress.lock();
                    let refused = self.waiting.push((hash, queued)).err();
                    progress.pushed += u64::from(refused.is_none());
                    refused
                };
                if refused.is_some() {
                    drop(ledger);
                    drop((listed, refused));
                    return Err(op);
                }
                ledger.insert(listed, Pending { op, turn });
                self.len.fetch_add(1, Relaxed);
                overtaken = None;
            }
        }
        count(&self.queued);
        if overtaken.is_some() {
            count(&self.merged);
        } else {
            self.news.notify_one();
        }
        drop(overtaken);
        Ok(())
    }

    /// The next key, waited for; `None` once nothing is left and it is time to stop.
    pub(crate) fn next(&self) -> Option<Job<K, V>> {
        loop {
            if let Some((hash, key)) = self.waiting.pop() {
                let pending = {
                    let ledger = self.stripe(hash).lock();
                    ledger.get(&key).map(|pending| (pending.op.clone(), pending.turn))
                };
                if let Some((op, turn)) = pending {
                    return Some(Job { hash, key, op, turn });
                }
                // Not to be, unless `Eq` of the keys is a strange one.
                self.finish_one();
                continue;
            }
            let progress = self.progress.lock();
            // (A key comes into the queue under this lock.)
            if !self.waiting.is_empty() {
                continue;
            }
            if progress.stopping {
                return None;
            }
            drop(self.news.wait(progress));
        }
    }

    /// The job has been done. If it has been overtaken meanwhile, it goes on with what is to be done
    /// now.
    pub(crate) fn finish(&self, mut job: Job<K, V>) -> Option<Job<K, V>> {
        let gone;
        {
            let mut ledger = self.stripe(job.hash).lock();
            match ledger.get(&job.key) {
                Some(pending) if pending.turn != job.turn => {
                    job.turn = pending.turn;
                    let op = std::mem::replace(&mut job.op, pending.op.clone());
                    drop(ledger);
                    drop(op);
                    return Some(job);
                }
                _ => gone = ledger.remove_entry(&job.key),
            }
            if gone.is_some() {
                self.len.fetch_sub(1, Relaxed);
            }
        }
        drop((gone, job));
        self.finish_one();
        None
    }

    fn finish_one(&self) {
        self.progress.lock().done += 1;
        self.done.notify_all();
    }

    /// Has everything that waits, or is being done, be a removal.
    pub(crate) fn clear(&self) {
        for stripe in &self.ledger {
            // (Values are dropped after the lock is released, with what their memory is in.)
            let mut gone = Vec::new();
            let mut ledger = stripe.lock();
            for pending in ledger.values_mut() {
                pending.turn = self.turns.fetch_add(1, Relaxed);
                gone.push(std::mem::replace(&mut pending.op, Op::Remove));
            }
            drop(ledger);
        }
    }

    /// Waits until everything has been done that was queued before the call; whether it has.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        let start = Instant::now();
        let mut progress = self.progress.lock();
        let goal = progress.pushed;
        while progress.done < goal {
            let Some(left) = timeout.checked_sub(start.elapsed()).filter(|left| !left.is_zero())
            else {
                return false;
            };
            progress = self.done.wait_timeout(progress, left);
        }
        true
    }

    /// Has the thread end when nothing is left.
    pub(crate) fn stop(&self) {
        self.progress.lock().stopping = true;
        self.news.notify_all();
    }

    pub(crate) fn stats(&self) -> QueueStats {
        QueueStats {
            queued: self.queued.load(Relaxed),
            merged: self.merged.load(Relaxed),
            written: self.written.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            hits: self.hits.load(Relaxed),
            waiting: self.len.load(Relaxed),
        }
    }
}
