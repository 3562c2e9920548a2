//! Who waits for whom, so that a caller that is about to close a circle of computations waiting for
//! each other finds out that it would.
//!
//! Computations are run by threads, which do one thing at a time, or by tasks, of which a thread
//! polls now this one, now that one. What is being polled is noted while it is, so that a
//! computation that asks for another key is known as the one who asks.

use std::cell::RefCell;

use nebula_memory_core::sync::Mutex;

use super::list::{Link, List};

/// How many computations that are polled within each other are noted.
const NOTED: usize = 16;

nebula_memory_core::nebula_thread_local! {
    /// Its address tells threads apart while they live.
    static ME: u8 = 0
}

nebula_memory_core::nebula_thread_local! {
    /// The tasks' computations that are being polled here, each within the one before it.
    static POLLED: RefCell<Polled> = RefCell::new(Polled::new())
}

/// The thread that asks, different from every other live one; never zero.
#[inline]
pub(super) fn me() -> usize {
    ME.with(|me| std::ptr::from_ref(me).addr())
}

/// One who computes: a thread, or a computation that is polled by whatever thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Actor {
    /// The address of the thread, or of the board on which the computation is listed.
    at: usize,
    /// The computation's number on that board; zero for threads.
    ticket: u64,
}

impl Actor {
    pub(super) const fn thread(thread: usize) -> Self {
        Self { at: thread, ticket: 0 }
    }

    pub(super) const fn computation(board: usize, ticket: u64) -> Self {
        Self { at: board, ticket }
    }

    /// Whether it is being run on this very stack, by whatever thread or task this is: it can't go
    /// on before the caller does.
    pub(super) fn is_on_this_stack(self) -> bool {
        self == Self::thread(me()) || POLLED.with(|polled| polled.borrow().noted().contains(&self))
    }
}

struct Polled {
    depth: usize,
    noted: [Actor; NOTED],
}

impl Polled {
    const fn new() -> Self {
        Self { depth: 0, noted: [Actor::thread(0); NOTED] }
    }

    fn noted(&self) -> &[Actor] {
        &self.noted[..self.depth.min(NOTED)]
    }
}

/// A computation that is being polled, noted until this is dropped.
#[derive(Debug)]
pub(super) struct Frame(());

impl Frame {
    pub(super) fn enter(computation: Actor) -> Self {
        POLLED.with(|polled| {
            let polled = &mut *polled.borrow_mut();
            if let Some(place) = polled.noted.get_mut(polled.depth) {
                *place = computation;
            }
            polled.depth += 1;
        });
        Self(())
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        POLLED.with(|polled| polled.borrow_mut().depth -= 1);
    }
}

/// A place in the line of a computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) hash: u64,
    /// The computation's, on the board of that hash.
    pub(super) ticket: u64,
    pub(super) number: u64,
}

/// `waiter` waits in `seat`, or has yet to notice that it was served.
#[derive(Debug)]
struct Wait {
    waiter: Actor,
    seat: Seat,
    mark: Mark,
}

/// How far a search has come with a [`Wait`]. Between searches, none is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    None,
    ToDo,
    Done,
}

/// The waits of those who themselves compute something, for which others may wait.
#[derive(Debug)]
pub(super) struct Waits(Mutex<List<Wait>>);

/// Waiting would close a circle.
pub(super) struct Circle;

impl Waits {
    pub(super) fn new() -> Self {
        Self(Mutex::new(List::new()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Notes that all who run on this stack, this `thread` itself too if it is the one to block,
    /// wait in `seat`; whether there was anybody to be noted. `leader` says who has to serve a
    /// seat, `None` if it has been served; it may take the locks of boards.
    pub(super) fn enter(
        &self,
        seat: Seat,
        thread: Option<usize>,
        leader: impl Fn(Seat) -> Option<Actor>,
    ) -> Result<bool, Circle> {
        let (actors, count) = POLLED.with(|polled| {
            let polled = polled.borrow();
            (polled.noted, polled.noted().len())
        });
        let actors = actors[..count].iter().copied().chain(thread.map(Actor::thread));
        let mut links: List<Wait> = List::new();
        for waiter in actors {
            links.push(Box::new(List::link(Wait { waiter, seat, mark: Mark::None })));
        }
        if links.is_empty() {
            // Nobody can wait for who computes nothing.
            return Ok(false);
        }
        let mut waits = self.0.lock();
        if closes_circle(&mut waits, seat, leader) {
            // Freed after the lock is released.
            drop(waits);
            return Err(Circle);
        }
        while let Some(link) = links.pop() {
            waits.push(link);
        }
        Ok(true)
    }

    /// Nobody waits in `seat` any more.
    pub(super) fn leave(&self, seat: Seat) {
        let is_there = |wait: &Wait| wait.seat == seat;
        let remove = || -> Option<Box<Link<Wait>>> { self.0.lock().remove(is_there) };
        while let Some(link) = remove() {
            drop(link);
        }
    }
}

/// Whether who has to serve `seat` waits, directly or through others, for who runs on this stack.
///
/// Takes O(waits), times the number of those on the way.
fn closes_circle(
    waits: &mut List<Wait>,
    seat: Seat,
    leader: impl Fn(Seat) -> Option<Actor>,
) -> bool {
    let (mut next, mut marked, mut closes) = (Some(seat), 0, false);
    while let Some(seat) = next.take() {
        if let Some(leader) = leader(seat) {
            if leader.is_on_this_stack() {
                closes = true;
                break;
            }
            waits.for_each(|wait| {
                if wait.waiter == leader && wait.mark == Mark::None {
                    wait.mark = Mark::ToDo;
                    marked += 1;
                }
            });
        }
        if marked > 0 {
            next = waits.find(|wait| wait.mark == Mark::ToDo).map(|wait| {
                wait.mark = Mark::Done;
                wait.seat
            });
        }
    }
    if marked > 0 {
        waits.for_each(|wait| wait.mark = Mark::None);
    }
    closes
}
