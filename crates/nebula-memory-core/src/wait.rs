//! Waiting in line: by priority or age, blocking or async.
//!
//! One queue serves every component that lets callers wait (pools for an object, budgets for
//! bytes), and it is the one place where the hard parts are: hand-off without barging, cancellation
//! at any moment, and a blocking and an async side with the same rules.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::{
    MemoryError, WaitSlot,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering, fence},
    },
};

/// Place in line, the smallest first: the ticket (the number of those who joined before), and added to
/// it a head start for those who come later, for each step of priority that is missing. Sums never
/// change, so that the line stays sorted by itself. Among equal sums the more important is first, who
/// is the one with the later ticket.
type Place = (u64, Reverse<u64>);

/// A head start that nobody makes up for: more than there will ever be tickets, and yet 255 times
/// that, and a ticket, is a number of 64 bits.
const FOR_EVER: u64 = 1 << 56;

/// A line of waiters, each of whom is handed one `T`.
///
/// The owner [`hand`](Self::hand)s a value to whoever is first; the value belongs to that waiter
/// from then on, so that no newcomer can take it away. A waiter that gives up (its future is
/// dropped, or its time runs out) after it was handed a value passes it on to the next in line; if
/// there is none, the value is dropped. **`T`'s `Drop` must therefore return whatever `T` stands
/// for to its owner**: hand out guards, not raw resources.
///
/// # No lost wake-up
/// A waiter takes its place with [`join`](Self::join) *before* it looks at the resource a last
/// time; an owner returns the resource *before* it asks [`has_waiters`](Self::has_waiters). Both of
/// those calls contain a sequentially consistent fence, so that at least one side sees the other.
///
/// ```
/// use std::time::Duration;
/// use nebula_memory_core::WaitQueue;
///
/// let queue = WaitQueue::new();
/// std::thread::scope(|s| {
///     let waiter = queue.join(0);
///     s.spawn(|| queue.hand("object").unwrap());
///     assert_eq!(waiter.wait_timeout(Duration::from_secs(5)).unwrap(), "object");
/// });
/// assert!(queue.hand("nobody waits").is_err());
/// ```
///
/// # Priority and age
/// In a [`new`](Self::new) queue, higher priorities always stand before lower ones, and equals stand in
/// the order in which they came. In one [`with_ageing`](Self::with_ageing), the important overtake, but
/// not for ever.
///
/// Handing takes O(1). Joining and giving up find the place in O(log n) and move at most half of
/// those who wait (none, for who joins at the end). The line's memory grows to the most that ever
/// waited at once, and is kept.
pub struct WaitQueue<T> {
    /// The length of the line, readable without the lock.
    waiting: AtomicUsize,
    /// How many tickets one step of priority is worth.
    step: u64,
    line: Mutex<Line<T>>,
}

struct Line<T> {
    next_ticket: u64,
    closed: Option<&'static str>,
    /// Sorted. Memory is neither allocated nor freed under the lock: where the global allocator
    /// charges an account, that could lead back here.
    places: VecDeque<(Place, Arc<WaitSlot<T>>)>,
}

impl<T> Default for WaitQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> WaitQueue<T> {
    crate::nebula_const_fn! {
        /// An empty line, in which priorities are strict.
        #[must_use]
        pub const fn new() -> Self {
            Self::with_step(FOR_EVER)
        }
    }

    crate::nebula_const_fn! {
        /// An empty line, in which nobody starves: who waits is overtaken by no more than the next
        /// `overtakes` to come of the next higher priority, twice as many of the one above that, and
        /// so on. After that, his age counts as much. With zero, priorities mean nothing.
        ///
        /// ```
        /// use nebula_memory_core::WaitQueue;
        ///
        /// let queue = WaitQueue::with_ageing(2);
        /// let mut patient = queue.join(0);
        /// let important = [(); 3].map(|()| queue.join(1));
        /// for n in 0..3 {
        ///     queue.hand(n).unwrap();
        /// }
        /// assert_eq!(patient.try_take().unwrap()?, 2); // before the third
        /// # drop(important);
        /// # Ok::<(), nebula_memory_core::MemoryError>(())
        /// ```
        #[must_use]
        pub const fn with_ageing(overtakes: u32) -> Self {
            Self::with_step(overtakes as u64)
        }
    }

    crate::nebula_const_fn! {
        const fn with_step(step: u64) -> Self {
            let line = Line { next_ticket: 0, closed: None, places: VecDeque::new() };
            Self { waiting: AtomicUsize::new(0), step, line: Mutex::new(line) }
        }
    }

    fn place(&self, priority: u8, ticket: u64) -> Place {
        let missing = u64::from(u8::MAX - priority);
        (ticket.saturating_add(self.step * missing), Reverse(ticket))
    }

    /// Takes a place in line: the higher the `priority`, the further ahead.
    ///
    /// The place is taken now, not when the waiter is first polled. On a closed queue, the waiter
    /// learns so when it waits.
    pub fn join(&self, priority: u8) -> Waiter<'_, T> {
        let slot = Arc::new(WaitSlot::new());
        // Room for a longer line; what it replaces is freed at the end, without the lock.
        let mut room = VecDeque::new();
        let place = loop {
            let mut line = self.line.lock();
            let len = line.places.len();
            if let Some(what) = line.closed {
                // Nobody knows this slot yet, so that there is nobody to wake.
                slot.put(Err(MemoryError::Closed { what }));
            } else if len < line.places.capacity() || len < room.capacity() {
                if len == line.places.capacity() {
                    room.append(&mut line.places);
                    std::mem::swap(&mut room, &mut line.places);
                }
                let place = self.place(priority, line.next_ticket);
                if line.places.back().is_none_or(|(last, _)| *last < place) {
                    line.places.push_back((place, Arc::clone(&slot)));
                } else {
                    let at = line.places.partition_point(|(earlier, _)| *earlier < place);
                    line.places.insert(at, (place, Arc::clone(&slot)));
                }
                self.waiting.store(len + 1, Ordering::Relaxed);
            } else {
                drop(line);
                room = VecDeque::with_capacity((2 * len).max(4));
                continue;
            }
            let place = self.place(priority, line.next_ticket);
            line.next_ticket += 1;
            break place;
        };
        fence(Ordering::SeqCst);
        Waiter { queue: self, slot, place, done: false }
    }

    /// Hands `value` to the first in line.
    ///
    /// # Errors
    /// `value` is given back if nobody waits.
    pub fn hand(&self, value: T) -> Result<(), T> {
        let slot = {
            let mut line = self.line.lock();
            let Some((_, slot)) = line.places.pop_front() else { return Err(value) };
            self.waiting.store(line.places.len(), Ordering::Relaxed);
            // Still under the line's lock: who leaves the line finds itself either in it or served.
            slot.put(Ok(value));
            slot
        };
        slot.wake();
        Ok(())
    }

    /// Whether somebody waits. To be asked after a resource has been returned; see
    /// [the type's documentation](Self#no-lost-wake-up).
    #[inline]
    pub fn has_waiters(&self) -> bool {
        fence(Ordering::SeqCst);
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the waiting: all who wait, and all who come later, get [`MemoryError::Closed`] with
    /// `what`.
    pub fn close(&self, what: &'static str) {
        let waiters = {
            let mut line = self.line.lock();
            line.closed = Some(what);
            self.waiting.store(0, Ordering::Relaxed);
            let waiters = std::mem::take(&mut line.places);
            for (_, slot) in &waiters {
                slot.put(Err(MemoryError::Closed { what }));
            }
            waiters
        };
        for (_, slot) in waiters {
            slot.wake();
        }
    }

    /// Leaves the line. `false` if the waiter was served (or the queue closed) before.
    fn leave(&self, place: Place) -> bool {
        let left = {
            let mut line = self.line.lock();
            let Ok(at) = line.places.binary_search_by_key(&place, |(place, _)| *place) else {
                return false;
            };
            let left = line.places.remove(at);
            self.waiting.store(line.places.len(), Ordering::Relaxed);
            left
        };
        left.is_some()
    }
}

impl<T> fmt::Debug for WaitQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitQueue").field("waiting", &self.len()).finish_non_exhaustive()
    }
}

/// A place in a [`WaitQueue`]. Await it, or block on it with [`wait`](Self::wait) or
/// [`wait_timeout`](Self::wait_timeout); dropping it gives the place up.
///
/// As a future it needs no particular runtime and has no time-out of its own; use your runtime's.
#[must_use = "dropping a waiter gives up its place"]
pub struct Waiter<'q, T> {
    queue: &'q WaitQueue<T>,
    slot: Arc<WaitSlot<T>>,
    place: Place,
    /// The outcome has been taken, or the line was left.
    done: bool,
}

impl<T> Waiter<'_, T> {
    /// Takes the outcome if there is one, without waiting.
    pub fn try_take(&mut self) -> Option<Result<T, MemoryError>> {
        let outcome = self.slot.try_take();
        self.done |= outcome.is_some();
        outcome
    }

    /// Blocks until served.
    ///
    /// # Errors
    /// [`MemoryError::Closed`] if the queue is closed.
    ///
    /// # Panics
    /// If the outcome has been taken already.
    pub fn wait(mut self) -> Result<T, MemoryError> {
        self.block(None).unwrap_or_else(|| unreachable!("waiting without a limit has no time-out"))
    }

    /// Blocks until served, for `timeout` at most.
    ///
    /// # Errors
    /// [`MemoryError::Timeout`] if the time is over, [`MemoryError::Closed`] if the queue is closed.
    ///
    /// # Panics
    /// If the outcome has been taken already.
    pub fn wait_timeout(mut self, timeout: Duration) -> Result<T, MemoryError> {
        // A time-out too long for the clock is no time-out.
        let deadline = Instant::now().checked_add(timeout);
        if let Some(outcome) = self.block(deadline) {
            return outcome;
        }
        if self.queue.leave(self.place) {
            self.done = true;
            return Err(MemoryError::Timeout { waited: timeout });
        }
        // Served at the last moment: the outcome was put there under the line's lock.
        self.try_take().unwrap_or(Err(MemoryError::Timeout { waited: timeout }))
    }

    /// `None` if the deadline passed first.
    fn block(&mut self, deadline: Option<Instant>) -> Option<Result<T, MemoryError>> {
        assert!(!self.done, "a waiter waits again after it was served");
        let outcome = self.slot.wait(deadline);
        self.done |= outcome.is_some();
        outcome
    }
}

impl<T> Future for Waiter<'_, T> {
    type Output = Result<T, MemoryError>;

    /// # Panics
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.done, "a waiter was polled after it was served");
        let outcome = self.slot.poll_take(cx);
        self.done |= outcome.is_ready();
        outcome
    }
}

impl<T> Drop for Waiter<'_, T> {
    fn drop(&mut self) {
        if self.done || self.queue.leave(self.place) {
            return;
        }
        if let Some(Ok(value)) = self.slot.try_take() {
            // Served and gone: the next in line gets it. With nobody in line its own Drop returns
            // it, here, where no lock is held.
            drop(self.queue.hand(value));
        }
    }
}

impl<T> fmt::Debug for Waiter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter")
            .field("ticket", &self.place.1.0)
            .field("served", &self.done)
            .finish_non_exhaustive()
    }
}
