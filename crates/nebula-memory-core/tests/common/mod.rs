//! A semaphore over [`WaitQueue`]: the smallest owner that keeps the queue's protocol. The same
//! code runs with threads (`wait.rs`) and under the model checker (`loom_wait.rs`).

use nebula_memory_core::{
    WaitQueue,
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
};

/// A number of permits. The orderings are the weakest that make sense, so that only the queue's own
/// fences stand between it and a lost wake-up.
pub(crate) struct Semaphore {
    free: AtomicUsize,
    pub(crate) queue: WaitQueue<Permit>,
}

/// One permit; dropping it returns it.
pub(crate) struct Permit(Option<Arc<Semaphore>>);

impl Semaphore {
    pub(crate) fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self { free: AtomicUsize::new(permits), queue: WaitQueue::new() })
    }

    pub(crate) fn free(&self) -> usize {
        self.free.load(Acquire)
    }

    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let mut free = self.free.load(Relaxed);
        while free > 0 {
            match self.free.compare_exchange(free, free - 1, AcqRel, Relaxed) {
                Ok(_) => return Some(Permit(Some(Arc::clone(self)))),
                Err(now) => free = now,
            }
        }
        None
    }

    /// Waits for a permit; `None` once the queue is closed.
    pub(crate) fn acquire(self: &Arc<Self>) -> Option<Permit> {
        if let Some(permit) = self.try_acquire() {
            return Some(permit);
        }
        let waiter = self.queue.join(0);
        if let Some(permit) = self.try_acquire() {
            return Some(permit);
        }
        waiter.wait().ok()
    }

    fn release(self: &Arc<Self>) {
        self.free.fetch_add(1, AcqRel);
        while self.queue.has_waiters() {
            // Taken by somebody else, who will come by here later.
            let Some(permit) = self.try_acquire() else { return };
            let Err(mut permit) = self.queue.hand(permit) else { return };
            permit.0 = None;
            self.free.fetch_add(1, AcqRel);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(semaphore) = self.0.take() {
            semaphore.release();
        }
    }
}
