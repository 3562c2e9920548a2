//! Those who wait for a computation, in the order in which they came: threads and tasks.

use std::{any::Any, collections::VecDeque};

use nebula_memory_core::{WaitSlot, sync::Arc};

/// An error of whatever type, shared by those who waited.
pub type SharedError = Arc<dyn Any + Send + Sync>;

/// Where one who waits is told what became of it.
pub(super) type Slot<V> = Arc<WaitSlot<Turn<V>>>;

/// What one who waits is told.
#[derive(Debug)]
pub(super) enum Turn<V> {
    /// The leader gave up: whoever is told this leads.
    Lead,
    /// The value.
    Landed(Arc<V>),
    /// The leader's error.
    Failed(SharedError),
    /// None of these: ask again.
    Again,
}

/// One who waits.
#[derive(Debug)]
pub(super) struct Place<V> {
    number: u64,
    /// The thread that blocks; zero for a task.
    pub(super) thread: usize,
    /// Whether the key was seen to be the same. If not, the value may be that of another key.
    sure: bool,
    slot: Slot<V>,
}

/// What it takes to stand in a line, allocated before the lock is taken.
#[derive(Debug)]
pub(super) struct Memory<V> {
    pub(super) slot: Option<Slot<V>>,
    pub(super) line: Option<Box<Line<V>>>,
    /// Room for more than there are, later the memory in which they were.
    room: VecDeque<Place<V>>,
}

impl<V> Memory<V> {
    pub(super) const fn new() -> Self {
        Self { slot: None, line: None, room: VecDeque::new() }
    }

    /// Allocates what is needed to be the next in a line of `waiting`.
    pub(super) fn prepare(&mut self, waiting: usize) {
        self.slot.get_or_insert_with(|| Arc::new(WaitSlot::new()));
        if waiting == 0 {
            self.line.get_or_insert_with(|| Box::new(Line::new()));
        }
        if self.room.capacity() <= waiting {
            self.room = VecDeque::with_capacity((2 * waiting).max(4));
        }
    }
}

/// The line. When it is dropped, all who are in it are told to ask again; no lock may be held then.
#[derive(Debug)]
pub(super) struct Line<V> {
    /// How many have been in it.
    numbers: u64,
    /// Sorted by their numbers.
    places: VecDeque<Place<V>>,
}

impl<V> Line<V> {
    const fn new() -> Self {
        Self { numbers: 0, places: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Takes the last place, whose number is returned; `None` if there is not the memory for it.
    pub(super) fn join(
        &mut self,
        thread: usize,
        sure: bool,
        memory: &mut Memory<V>,
    ) -> Option<(u64, Slot<V>)> {
        let len = self.places.len();
        if len == self.places.capacity() {
            if memory.room.capacity() <= len {
                return None;
            }
            memory.room.append(&mut self.places);
            std::mem::swap(&mut memory.room, &mut self.places);
        }
        let slot = memory.slot.take()?;
        let number = self.numbers;
        self.numbers += 1;
        self.places.push_back(Place { number, thread, sure, slot: Arc::clone(&slot) });
        Some((number, slot))
    }

    fn find(&self, number: u64) -> Option<usize> {
        self.places.binary_search_by_key(&number, |place| place.number).ok()
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.find(number).is_some()
    }

    /// Gives up a place; `None` if it was served.
    pub(super) fn leave(&mut self, number: u64) -> Option<Place<V>> {
        self.places.remove(self.find(number)?)
    }

    /// Takes out the first, who has to be told something.
    pub(super) fn first(&mut self) -> Option<Place<V>> {
        self.places.pop_front()
    }

    /// Gives all who wait the value, of which `share` makes a copy if somebody does.
    pub(super) fn land(&mut self, share: impl FnOnce() -> V) {
        if self.places.is_empty() {
            return;
        }
        // If this panics, all are told to ask again, as the line is dropped.
        let value = Arc::new(share());
        self.tell_all(|| Turn::Landed(Arc::clone(&value)));
    }

    /// Gives all who wait the error.
    pub(super) fn fail(&mut self, error: &SharedError) {
        self.tell_all(|| Turn::Failed(Arc::clone(error)));
    }

    fn tell_all(&mut self, turn: impl Fn() -> Turn<V>) {
        while let Some(place) = self.first() {
            let turn = if place.sure { turn() } else { Turn::Again };
            place.put(turn);
            place.wake();
        }
    }
}

impl<V> Drop for Line<V> {
    fn drop(&mut self) {
        self.tell_all(|| Turn::Again);
    }
}

impl<V> Place<V> {
    /// May be called under a lock; [`wake`](Self::wake) has to follow after it.
    pub(super) fn put(&self, turn: Turn<V>) {
        self.slot.put(Ok(turn));
    }

    /// Runs the waker. No lock may be held.
    pub(super) fn wake(self) {
        self.slot.wake();
    }
}
