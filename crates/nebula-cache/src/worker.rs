//! A thread of a cache's own, which takes turns at something until it is dropped.

use std::{
    thread::{Builder, JoinHandle, current},
    time::{Duration, Instant},
};

use nebula_memory_core::{
    MemoryError,
    sync::{Arc, Condvar, Mutex},
};

/// Dropping it ends the thread, after the turn that it may be at, and waits for that.
#[derive(Debug)]
pub(crate) struct Worker {
    wishes: Arc<Wishes>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is to do next.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Wanted {
    stop: bool,
    turn: bool,
}

impl Wishes {
    /// Has the thread take a turn now.
    pub(crate) fn wake(&self) {
        self.wanted.lock().turn = true;
        self.changed.notify_one();
    }

    /// Waits until a turn is wanted, or for so long; `false` if it is time to stop.
    fn wait(&self, most: Option<Duration>) -> bool {
        // A wait too long for the clock's range ends only by a wish.
        let until = most.and_then(|most| Instant::now().checked_add(most));
        let mut wanted = self.wanted.lock();
        loop {
            if wanted.stop {
                return false;
            }
            if std::mem::take(&mut wanted.turn) {
                return true;
            }
            wanted = match until {
                None => self.changed.wait(wanted),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return true;
                    }
                    self.changed.wait_timeout(wanted, left)
                }
            };
        }
    }
}

impl Worker {
    /// A thread that calls `turn`, waits as long as that says (`None`: until it is woken), and so
    /// on.
    ///
    /// # Errors
    /// [`MemoryError::SourceUnavailable`] if there is no thread to be had.
    pub(crate) fn spawn(
        name: &'static str,
        wishes: Arc<Wishes>,
        mut turn: impl FnMut() -> Option<Duration> + Send + 'static,
    ) -> Result<Self, MemoryError> {
        let its = Arc::clone(&wishes);
        let run = move || while its.wait(turn()) {};
        let thread = Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(|error| MemoryError::source_unavailable(name, error))?;
        Ok(Self { wishes, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.wishes.wanted.lock().stop = true;
        self.wishes.changed.notify_one();
        let Some(thread) = self.thread.take() else { return };
        // A thread cannot wait for itself: dropped in one of its turns, it ends after that.
        if thread.thread().id() != current().id() {
            let _ = thread.join();
        }
    }
}
