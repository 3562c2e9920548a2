//! Events for asynchronous code, of any runtime.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    task::{Context, Poll, Waker},
};

use nebula_memory_core::sync::{Arc, Mutex};

use crate::PressureEvent;

/// The events that a [`PressureAction::stream`](crate::PressureAction::stream) hears of.
///
/// It belongs to no runtime: wait with [`next`](Self::next), or build what your runtime's streams
/// need from [`poll_next`](Self::poll_next). A reader who is too slow loses the oldest events, and
/// can tell by [`missed`](Self::missed).
///
/// ```
/// use nebula_monitor::{MemoryMonitor, MonitoringConfig, PressureAction, PressureLevel};
///
/// let (action, mut events) = PressureAction::stream(16);
/// let monitor = MemoryMonitor::builder(MonitoringConfig::default())
///     .on(PressureLevel::Elevated, action)
///     .build()?;
/// let watch = async move {
///     while let Some(event) = events.next().await {
///         println!("{event}");
///     } // ends when the monitor is dropped
/// };
/// # let _ = (monitor, watch);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub struct PressureEvents {
    shared: Arc<Mutex<Queue>>,
}

/// The monitor's end.
pub(crate) struct EventSender {
    shared: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<PressureEvent>,
    most: usize,
    missed: u64,
    /// The monitor's end is gone.
    ended: bool,
    reader: Option<Waker>,
}

pub(crate) fn stream(most: usize) -> (EventSender, PressureEvents) {
    let most = most.max(1);
    let events = VecDeque::with_capacity(most);
    let shared = Arc::new(Mutex::new(Queue { events, most, ..Queue::default() }));
    (EventSender { shared: Arc::clone(&shared) }, PressureEvents { shared })
}

impl EventSender {
    /// Whether there was room, and somebody to read.
    pub(crate) fn send(&self, event: PressureEvent) -> bool {
        let (reader, lost) = {
            let mut queue = self.shared.lock();
            let full = queue.events.len() >= queue.most;
            let lost = if full { queue.events.pop_front() } else { None };
            queue.missed += u64::from(full);
            queue.events.push_back(event);
            (queue.reader.take(), lost)
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        lost.is_none() && Arc::strong_count(&self.shared) > 1
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        let reader = {
            let mut queue = self.shared.lock();
            queue.ended = true;
            queue.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl PressureEvents {
    /// The next event; `None` when the monitor is gone and everything was read. May be dropped at
    /// any moment without losing an event.
    pub async fn next(&mut self) -> Option<PressureEvent> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`next`](Self::next), for those who poll.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<PressureEvent>> {
        // Wakers are others' code: they are cloned and dropped without the lock.
        let mut reader = Some(context.waker().clone());
        let mut queue = self.shared.lock();
        let result = match queue.events.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if queue.ended => Poll::Ready(None),
            None => {
                std::mem::swap(&mut queue.reader, &mut reader);
                Poll::Pending
            }
        };
        drop(queue);
        drop(reader);
        result
    }

    /// The next event if there is one already.
    pub fn try_next(&mut self) -> Option<PressureEvent> {
        self.shared.lock().events.pop_front()
    }

    /// How many events were lost because nobody read them in time.
    pub fn missed(&self) -> u64 {
        self.shared.lock().missed
    }
}

impl fmt::Debug for PressureEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PressureEvents").field("missed", &self.missed()).finish_non_exhaustive()
    }
}
