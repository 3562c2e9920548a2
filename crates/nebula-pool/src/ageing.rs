//! A line in which the important overtake, but not for ever.
//!
//! Each who comes draws a ticket, the next number, and the less important add to it what those who
//! come later may be ahead of them: `overtakes` for each step of priority. The smallest sum is first.
//! Sums never change, so that the line stays sorted by itself, and who waits is overtaken by the next
//! `overtakes` tickets of the next higher priority at most: he ages by standing still.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use nebula_memory_core::{
    MemoryError, WaitSlot,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering, fence},
    },
};

use crate::slots::mode::{Line, Wait};

/// The sum; where that is the same, how far from the highest priority; and the ticket.
type Rank = (u64, u8, u64);

/// A line of those who wait, by priority and age.
pub struct AgeingLine<V> {
    /// The length of the line, readable without the lock.
    waiting: AtomicUsize,
    overtakes: u32,
    line: Mutex<Places<V>>,
}

struct Places<V> {
    next_ticket: u64,
    /// Sorted. Memory is neither allocated nor freed under the lock: where the global allocator
    /// charges an account, that could lead back here.
    places: VecDeque<(Rank, Arc<WaitSlot<V>>)>,
}

impl<V> AgeingLine<V> {
    pub(crate) fn new(overtakes: u32) -> Self {
        let places = Places { next_ticket: 0, places: VecDeque::new() };
        Self { waiting: AtomicUsize::new(0), overtakes, line: Mutex::new(places) }
    }

    fn rank(&self, priority: u8, ticket: u64) -> Rank {
        let below = u8::MAX - priority;
        let behind = u64::from(self.overtakes) * u64::from(below);
        (ticket.saturating_add(behind), below, ticket)
    }

    /// Leaves the line. `false` if that place was served before.
    fn leave(&self, rank: Rank) -> bool {
        let left = {
            let mut line = self.line.lock();
            let Ok(at) = line.places.binary_search_by_key(&rank, |(rank, _)| *rank) else {
                return false;
            };
            let left = line.places.remove(at);
            self.waiting.store(line.places.len(), Ordering::Relaxed);
            left
        };
        left.is_some()
    }
}

impl<V> Line<V> for AgeingLine<V> {
    type Waiter<'l>
        = Aging<'l, V>
    where
        V: 'l;

    fn join(&self, priority: u8) -> Aging<'_, V> {
        let slot = Arc::new(WaitSlot::new());
        // Room for a longer line; what it replaces is freed at the end, without the lock.
        let mut room = VecDeque::new();
        let rank = loop {
            let mut line = self.line.lock();
            let len = line.places.len();
            if len == line.places.capacity() {
                if room.capacity() <= len {
                    drop(line);
                    room = VecDeque::with_capacity((2 * len).max(4));
                    continue;
                }
                room.append(&mut line.places);
                std::mem::swap(&mut room, &mut line.places);
            }
            let rank = self.rank(priority, line.next_ticket);
            line.next_ticket += 1;
            let at = line.places.partition_point(|(earlier, _)| *earlier < rank);
            line.places.insert(at, (rank, Arc::clone(&slot)));
            self.waiting.store(len + 1, Ordering::Relaxed);
            break rank;
        };
        fence(Ordering::SeqCst);
        Aging { line: self, slot, rank, done: false }
    }

    fn hand(&self, value: V) -> Result<(), V> {
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

    #[inline]
    fn has_waiters(&self) -> bool {
        fence(Ordering::SeqCst);
        self.waiting.load(Ordering::Relaxed) != 0
    }

    #[inline]
    fn len(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl<V> fmt::Debug for AgeingLine<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgeingLine").field("waiting", &self.len()).finish_non_exhaustive()
    }
}

/// A place in such a line; dropping it gives the place up.
pub struct Aging<'l, V> {
    line: &'l AgeingLine<V>,
    slot: Arc<WaitSlot<V>>,
    rank: Rank,
    /// The outcome has been taken, or the line was left.
    done: bool,
}

impl<V> Wait<V> for Aging<'_, V> {
    fn try_take(&mut self) -> Option<Result<V, MemoryError>> {
        let outcome = self.slot.try_take();
        self.done |= outcome.is_some();
        outcome
    }

    fn wait(mut self, timeout: Option<Duration>) -> Result<V, MemoryError> {
        // A time-out too long for the clock is no time-out.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        if let Some(outcome) = self.slot.wait(deadline) {
            self.done = true;
            return outcome;
        }
        let over = Err(MemoryError::Timeout { waited: timeout.unwrap_or(Duration::MAX) });
        if self.line.leave(self.rank) {
            self.done = true;
            return over;
        }
        // Served at the last moment: the outcome was put there under the line's lock.
        self.try_take().unwrap_or(over)
    }
}

impl<V> Future for Aging<'_, V> {
    type Output = Result<V, MemoryError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = self.slot.poll_take(cx);
        self.done |= outcome.is_ready();
        outcome
    }
}

impl<V> fmt::Debug for Aging<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aging").field("rank", &self.rank).finish_non_exhaustive()
    }
}

impl<V> Drop for Aging<'_, V> {
    fn drop(&mut self) {
        if self.done || self.line.leave(self.rank) {
            return;
        }
        if let Some(Ok(value)) = self.slot.try_take() {
            // Served and gone: the next in line gets it. With nobody in line its own Drop returns
            // it, here, where no lock is held.
            drop(self.line.hand(value));
        }
    }
}

#[cfg(all(test, not(nebula_loom)))]
mod tests {
    use super::{AgeingLine, Line, Wait};

    /// The order in which those are served who come with these priorities.
    fn order(overtakes: u32, priorities: &[u8]) -> Vec<usize> {
        let line = AgeingLine::new(overtakes);
        let mut waiters: Vec<_> = priorities.iter().map(|p| line.join(*p)).collect();
        let mut order = Vec::new();
        for value in 0..priorities.len() {
            assert!(line.hand(value).is_ok());
            let served = |w: &mut super::Aging<'_, usize>| w.try_take().is_some();
            order.push(waiters.iter_mut().position(served).unwrap());
        }
        assert!(!line.has_waiters() && line.hand(0).is_err());
        order
    }

    #[test]
    fn the_important_go_first_and_equals_as_they_came() {
        assert_eq!(order(100, &[0, 1, 0, 2, 1]), [3, 1, 4, 0, 2]);
        assert_eq!(order(100, &[5, 5, 5]), [0, 1, 2]);
    }

    #[test]
    fn who_waits_is_overtaken_so_often_and_no_more() {
        // The first may be overtaken by the next three tickets; there are five more.
        assert_eq!(order(3, &[0, 1, 1, 1, 1, 1]), [1, 2, 3, 0, 4, 5]);
        assert_eq!(order(0, &[0, 200, 100]), [0, 1, 2]);
        // A step more, three tickets more.
        assert_eq!(order(3, &[0, 2, 2, 2, 2, 2, 2, 2]), [1, 2, 3, 4, 5, 6, 0, 7]);
    }

    #[test]
    fn who_gives_up_passes_on_what_was_handed_to_him() {
        let line = AgeingLine::new(1);
        let (first, second, mut third) = (line.join(0), line.join(0), line.join(0));
        drop(first);
        line.hand("object").unwrap();
        assert_eq!(line.len(), 1);
        drop(second);
        assert_eq!(third.try_take().unwrap().unwrap(), "object");
        assert_eq!(line.len(), 0);
    }
}
