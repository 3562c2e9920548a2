//! Writing behind: what the lower levels are to be told waits in a bounded queue for a thread.
//!
//! The ledger holds the last thing to be done for each key that waits, and answers lookups until it
//! is done. The queue holds the keys, in the order in which they came. A key is in the ledger if and
//! only if it is in the queue or in the thread's hands, so that its writes are done in their order,
//! and those that are overtaken not at all. What overtakes the one that is in the thread's hands goes
//! to the end of the queue: a key that is written all the time does not hold up the others.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crossbeam_queue::ArrayQueue;
use nebula_memory_core::{
    WaitQueue, Waiter,
    panics::quietly,
    sync::{Arc, Condvar, Mutex},
};

use super::stats::{QueueStats, count};

const STRIPES: usize = 16;

/// What the lower levels are to be told of a key.
#[derive(Debug)]
pub(crate) enum Op<V> {
    /// The first `levels` of them hold this value; the others, if they are to be `cleared`, nothing.
    Put { value: Arc<V>, until: Option<Duration>, levels: usize, cleared: bool },
    /// None of them holds anything.
    Remove,
}

impl<V> Op<V> {
    /// Takes over what is still to be done of an `earlier` one in whose place it comes.
    fn overtake(&mut self, earlier: &Self) {
        let Self::Put { levels, cleared, .. } = self else { return };
        match earlier {
            // A level that was to have the earlier value must not keep one before it.
            Self::Put { levels: more, cleared: too, .. } => {
                *levels = (*levels).max(*more);
                *cleared |= *too;
            }
            Self::Remove => *cleared = true,
        }
    }
}

impl<V> Clone for Op<V> {
    fn clone(&self) -> Self {
        match self {
            Self::Put { value, until, levels, cleared } => Self::Put {
                value: Arc::clone(value),
                until: *until,
                levels: *levels,
                cleared: *cleared,
            },
            Self::Remove => Self::Remove,
        }
    }
}

#[derive(Debug)]
struct Pending<V> {
    op: Op<V>,
    /// Different for each operation.
    turn: u64,
    /// Whether the key is in the queue; if not, it is in the thread's hands.
    listed: bool,
}

type Stripe<K, V> = Mutex<HashMap<K, Pending<V>>>;

#[derive(Debug)]
pub(crate) struct Queue<K, V> {
    ledger: Box<[Stripe<K, V>]>,
    /// With room for one more than may wait: for the key that is in the thread's hands, of which there
    /// is something new to be done.
    waiting: ArrayQueue<(u64, K)>,
    capacity: usize,
    /// Keys in the ledger.
    len: AtomicU64,
    turns: AtomicU64,
    progress: Mutex<Progress>,
    /// Something has been queued, or it is time to stop.
    news: Condvar,
    /// Something has been done.
    done: Condvar,
    /// Where the tasks that serve it wait for either.
    tasks: WaitQueue<()>,
    /// What the task is at that serves it: one at a time, so that things are done in their order.
    hand: Mutex<Hand<K>>,
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

/// The hand of the task that serves the queue.
#[derive(Debug)]
enum Hand<K> {
    Free,
    Busy,
    /// It was dropped before it was done with this key, whose turn it still is.
    Left(u64, K),
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
            waiting: ArrayQueue::new(capacity.saturating_add(1)),
            capacity,
            len: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            progress: Mutex::default(),
            news: Condvar::new(),
            done: Condvar::new(),
            tasks: WaitQueue::new(),
            hand: Mutex::new(Hand::Free),
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
                op.overtake(&pending.op);
                pending.turn = turn;
                let unlisted = if pending.listed {
                    Some(queued)
                } else {
                    // There is room: of all keys, this one alone comes in beside the others.
                    self.list(hash, queued, self.capacity + 1).err()
                };
                pending.listed |= unlisted.is_none();
                overtaken = Some((std::mem::replace(&mut pending.op, op), listed, unlisted));
            } else {
                if let Err(queued) = self.list(hash, queued, self.capacity) {
                    drop(ledger);
                    drop((listed, queued));
                    return Err(op);
                }
                ledger.insert(listed, Pending { op, turn, listed: true });
                self.len.fetch_add(1, Relaxed);
                overtaken = None;
            }
        }
        count(&self.queued);
        if overtaken.is_some() {
            count(&self.merged);
        } else {
            self.news.notify_one();
            self.tell_tasks();
        }
        drop(overtaken);
        Ok(())
    }

    /// Puts a key at the end of the queue, unless so many wait.
    fn list(&self, hash: u64, key: K, most: usize) -> Result<(), K> {
        // Counted in the order of the queue, for those who wait for its progress.
        let mut progress = self.progress.lock();
        if self.waiting.len() >= most {
            return Err(key);
        }
        self.waiting.push((hash, key)).map_err(|(_, key)| key)?;
        progress.pushed += 1;
        Ok(())
    }

    /// Has what waits for `key`, if anything does, be a removal. Nothing of the user's runs but `Hash`
    /// and `Eq`, and the value's `Drop`.
    pub(crate) fn cancel(&self, hash: u64, key: &K) {
        let mut ledger = self.stripe(hash).lock();
        let gone = ledger.get_mut(key).map(|pending| {
            pending.turn = self.turns.fetch_add(1, Relaxed);
            std::mem::replace(&mut pending.op, Op::Remove)
        });
        drop(ledger);
        drop(gone);
    }

    /// The next key, waited for; `None` once nothing is left and it is time to stop.
    pub(crate) fn next(&self) -> Option<Job<K, V>> {
        loop {
            if let Some((hash, key)) = self.waiting.pop() {
                let pending = {
                    let mut ledger = self.stripe(hash).lock();
                    ledger.get_mut(&key).map(|pending| {
                        pending.listed = false;
                        (pending.op.clone(), pending.turn)
                    })
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

    /// The next key, for a task, which must [release](Self::release) it, unless another task has one.
    pub(crate) fn claim(&self) -> Option<Job<K, V>> {
        loop {
            let (hash, key, left) = {
                let mut hand = self.hand.lock();
                match std::mem::replace(&mut *hand, Hand::Busy) {
                    Hand::Busy => return None,
                    Hand::Left(hash, key) => (hash, key, true),
                    Hand::Free => {
                        let Some((hash, key)) = self.waiting.pop() else {
                            *hand = Hand::Free;
                            return None;
                        };
                        (hash, key, false)
                    }
                }
            };
            let pending = {
                let mut ledger = self.stripe(hash).lock();
                // What has overtaken the one that was left has its turn later.
                let mine = ledger.get_mut(&key).filter(|pending| !(left && pending.listed));
                mine.map(|pending| {
                    pending.listed = false;
                    (pending.op.clone(), pending.turn)
                })
            };
            if let Some((op, turn)) = pending {
                return Some(Job { hash, key, op, turn });
            }
            self.finish_one();
            self.release(None);
        }
    }

    /// The task is done, but for what it hands back, whose turn comes next.
    pub(crate) fn release(&self, left: Option<Job<K, V>>) {
        let (left, op) = match left {
            Some(Job { hash, key, op, .. }) => (Hand::Left(hash, key), Some(op)),
            None => (Hand::Free, None),
        };
        *self.hand.lock() = left;
        self.tell_tasks();
        drop(op);
    }

    /// Whether there is a key that can be claimed.
    pub(crate) fn is_due(&self) -> bool {
        match &*self.hand.lock() {
            Hand::Busy => false,
            Hand::Left(..) => true,
            Hand::Free => !self.waiting.is_empty(),
        }
    }

    /// To be awaited by a task until something is new; asked for before a last look.
    pub(crate) fn await_news(&self) -> Waiter<'_, ()> {
        self.tasks.join(0)
    }

    /// Wakes the tasks that wait now.
    fn tell_tasks(&self) {
        if self.tasks.has_waiters() {
            for _ in 0..self.tasks.len() {
                let _ = self.tasks.hand(());
            }
        }
    }

    /// Keys that ever went into the queue.
    pub(crate) fn pushed(&self) -> u64 {
        self.progress.lock().pushed
    }

    /// Keys whose turn is over.
    pub(crate) fn done(&self) -> u64 {
        self.progress.lock().done
    }

    /// The job has been done. If all that waits has been made a removal meanwhile, it goes on with
    /// that.
    pub(crate) fn finish(&self, mut job: Job<K, V>) -> Option<Job<K, V>> {
        let mut gone = None;
        {
            let mut ledger = self.stripe(job.hash).lock();
            match ledger.get(&job.key) {
                // What has overtaken it has its turn later.
                Some(pending) if pending.listed => {}
                Some(pending) if pending.turn != job.turn => {
                    job.turn = pending.turn;
                    let op = std::mem::replace(&mut job.op, pending.op.clone());
                    drop(ledger);
                    let _ = quietly(|| drop(op));
                    return Some(job);
                }
                _ => gone = ledger.remove_entry(&job.key),
            }
            if gone.is_some() {
                self.len.fetch_sub(1, Relaxed);
            }
        }
        // If a `Drop` panics, the thread goes on.
        let _ = quietly(|| drop((gone, job)));
        self.finish_one();
        None
    }

    fn finish_one(&self) {
        self.progress.lock().done += 1;
        self.done.notify_all();
        self.tell_tasks();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: u64, levels: usize) -> Op<u64> {
        Op::Put { value: Arc::new(value), until: None, levels, cleared: false }
    }

    #[test]
    fn what_overtakes_the_write_under_way_comes_after_all_that_wait() {
        let queue = Queue::new(1);
        queue.push(1, &1, put(10, 1)).unwrap();
        let mut job = queue.next().unwrap();
        queue.push(2, &2, put(20, 1)).unwrap();
        // However often: the others have their turns, and what is queued is all done in the end.
        for round in 0..3 {
            let (mine, other) = if round % 2 == 0 { (1, 2) } else { (2, 1) };
            assert_eq!(job.key, mine);
            queue.push(mine, &mine, put(30 + round, 1)).unwrap();
            queue.push(mine, &mine, put(40 + round, 1)).unwrap();
            assert!(queue.push(3, &3, put(1, 1)).is_err(), "it is full");
            assert!(queue.finish(job).is_none());
            assert!(!queue.wait(Duration::ZERO));
            job = queue.next().unwrap();
            assert_eq!(job.key, other);
        }
        assert!(queue.finish(job).is_none());
        let last = queue.next().unwrap();
        assert!(matches!(&last.op, Op::Put { value, .. } if **value == 42), "{last:?}");
        assert!(!queue.wait(Duration::ZERO));
        assert!(queue.finish(last).is_none());
        assert!(queue.wait(Duration::ZERO) && queue.find(1, &1).is_none());
        assert_eq!(queue.stats().waiting, 0);
    }

    #[test]
    fn a_clear_has_the_write_under_way_followed_by_a_removal() {
        let queue = Queue::new(4);
        queue.push(1, &1, put(10, 1)).unwrap();
        let job = queue.next().unwrap();
        queue.clear();
        let job = queue.finish(job).expect("there is more to be done");
        assert!(matches!(job.op, Op::Remove) && !queue.wait(Duration::ZERO));
        queue.push(1, &1, put(11, 1)).unwrap();
        queue.cancel(1, &1);
        assert!(queue.finish(job).is_none());
        let job = queue.next().unwrap();
        assert!(matches!(job.op, Op::Remove));
        assert!(queue.finish(job).is_none() && queue.wait(Duration::ZERO));
    }

    #[test]
    fn what_overtakes_does_what_was_to_be_done() {
        let queue = Queue::new(4);
        queue.push(1, &1, put(10, 2)).unwrap();
        queue.push(1, &1, put(11, 1)).unwrap();
        let op = queue.find(1, &1).unwrap();
        assert!(matches!(op, Op::Put { levels: 2, cleared: false, .. }), "{op:?}");
        queue.push(1, &1, Op::Remove).unwrap();
        queue.push(1, &1, put(12, 1)).unwrap();
        queue.push(1, &1, put(13, 1)).unwrap();
        let op = queue.find(1, &1).unwrap();
        assert!(matches!(op, Op::Put { levels: 1, cleared: true, .. }), "{op:?}");
    }

    #[test]
    fn what_a_task_leaves_comes_first_unless_it_has_been_overtaken() {
        let queue = Queue::new(2);
        queue.push(1, &1, put(10, 1)).unwrap();
        queue.push(2, &2, put(20, 1)).unwrap();
        let job = queue.claim().unwrap();
        assert!(queue.claim().is_none(), "one at a time");
        queue.release(Some(job));
        let job = queue.claim().unwrap();
        assert_eq!(job.key, 1);
        queue.release(Some(job));
        queue.push(1, &1, put(11, 1)).unwrap();
        let job = queue.claim().unwrap();
        assert_eq!((job.key, queue.done()), (2, 1));
        assert!(queue.finish(job).is_none());
        queue.release(None);
        let job = queue.claim().unwrap();
        assert!(matches!(&job.op, Op::Put { value, .. } if job.key == 1 && **value == 11));
        assert!(queue.finish(job).is_none());
        queue.release(None);
        assert!(queue.claim().is_none() && !queue.is_due());
        assert_eq!((queue.pushed(), queue.done(), queue.stats().waiting), (3, 3, 0));
    }
}
