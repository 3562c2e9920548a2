//! Computing once per key: the first caller computes, the others wait for what it finds.
//!
//! A flight is a computation that is under way. It is listed under its key from before its leader
//! looks at the cache a last time until after the value is in the cache, so that whoever finds
//! neither a value nor a flight may lead. The caller's computation, wakers, and the key's and value's
//! `Clone` and `Drop` run with no lock held; only `Eq` of keys runs under the lock of a list.
//!
//! Those who wait stand in line, threads that block and tasks that are woken. A leader that gives up
//! (it fails, panics, or is a task that is dropped) hands the flight to the first of them, who leads
//! from then on; nobody else is woken.

mod circle;
mod line;
mod list;

use std::{
    future::Future,
    mem::ManuallyDrop,
    pin::Pin,
    task::{Context, Poll},
};

use equivalent::Equivalent;
use nebula_memory_core::{
    MemoryError,
    sync::{Arc, Mutex},
};

pub use self::line::SharedError;
use self::{
    circle::{Actor, Circle, Frame, Seat, Waits, me},
    line::{Line, Memory, Slot, Turn},
    list::{Link, List},
};

/// Who asks is a task, rather than a thread of this number.
const TASK: usize = 0;

/// The computations under way whose keys' hashes fall to one lock.
#[derive(Debug)]
struct Board<K, V> {
    /// One of them has its place here, so that it needs no allocation.
    one: Option<Record<K, V>>,
    others: List<Record<K, V>>,
    /// How many there have been.
    tickets: u64,
}

type Stripe<K, V> = Mutex<Board<K, V>>;

/// The computations under way in one cache.
#[derive(Debug)]
pub struct Flights<K, V> {
    stripes: Box<[Stripe<K, V>]>,
    waits: Waits,
}

#[derive(Debug)]
struct Record<K, V> {
    hash: u64,
    /// Tells it from all others of its board; never zero.
    ticket: u64,
    /// The thread that leads; [`TASK`] if a task does.
    leader: usize,
    /// `None` once the leader has taken it to place it in the cache. Whoever looks in that short
    /// time goes by the hash alone, at worst waiting for a stranger's value to be placed.
    key: Option<K>,
    /// Made by the first who waits.
    line: Option<Box<Line<V>>>,
}

impl<K, V> Board<K, V> {
    const fn new() -> Self {
        Self { one: None, others: List::new(), tickets: 0 }
    }

    const fn is_empty(&self) -> bool {
        self.one.is_none() && self.others.is_empty()
    }

    #[inline]
    const fn ticket(&mut self) -> u64 {
        self.tickets = self.tickets.wrapping_add(1);
        self.tickets
    }

    /// Lists a computation in the place that needs no allocation, which must be free.
    #[inline]
    fn list_alone(&mut self, hash: u64, leader: usize, key: Option<K>) -> u64 {
        let ticket = self.ticket();
        self.one = Some(Record { hash, ticket, leader, key, line: None });
        ticket
    }

    #[inline]
    fn find(&mut self, mut wanted: impl FnMut(&Record<K, V>) -> bool) -> Option<&mut Record<K, V>> {
        if let Some(record) = &mut self.one {
            if wanted(record) {
                return Some(record);
            }
        }
        self.others.find(wanted)
    }

    fn with_ticket(&mut self, ticket: u64) -> Option<&mut Record<K, V>> {
        self.find(|record| record.ticket == ticket)
    }

    fn take(&mut self, ticket: u64) -> Option<Gone<K, V>> {
        match self.one.take_if(|record| record.ticket == ticket) {
            Some(record) => Some(Gone::One(record)),
            None => self.others.remove(|record| record.ticket == ticket).map(Gone::Other),
        }
    }
}

/// A record that left its board, with its memory.
#[derive(Debug)]
enum Gone<K, V> {
    One(Record<K, V>),
    Other(Box<Link<Record<K, V>>>),
}

impl<K, V> Gone<K, V> {
    const fn take_line(&mut self) -> Option<Box<Line<V>>> {
        match self {
            Self::One(record) => record.line.take(),
            Self::Other(link) => link.item.line.take(),
        }
    }
}

/// What became of asking for a key.
#[derive(Debug)]
pub enum Joined<'f, K, V> {
    /// Nobody computes it: the caller does.
    Lead(Lead<'f, K, V>),
    /// Somebody computed it meanwhile.
    Landed(Arc<V>),
    /// Somebody tried, and this came of it.
    Failed(SharedError),
    /// Somebody was at it, and it can't be said what came of it: ask again.
    Again,
    /// Somebody computes it who waits, directly or through others, for the caller.
    Circle,
}

/// What became of asking for a key, before any waiting.
#[derive(Debug)]
pub enum Asked<'f, K, V> {
    /// Nobody computes it: the caller does.
    Lead(Lead<'f, K, V>),
    /// Another does, and the caller stands in line.
    Wait(Waiting<'f, K, V>),
    /// Another does, and waits for the caller.
    Circle,
}

/// What the board of a key says.
enum Seen<V> {
    /// The caller leads, and has this ticket.
    Lead(u64),
    /// Another leads, and the caller stands in line.
    Seat(Seat, Slot<V>),
    /// Another leads for whom so many wait; to stand in line with them takes memory.
    Line(usize),
    /// The caller may lead if it has memory to be listed.
    Crowded,
    /// What is under way is so on this very stack.
    Circle,
}

impl<K, V> Flights<K, V> {
    /// None under way, listed in `stripes` lists, a power of two.
    pub fn new(stripes: usize) -> Self {
        debug_assert!(stripes.is_power_of_two());
        let stripes = (0..stripes).map(|_| Mutex::new(Board::new())).collect();
        Self { stripes, waits: Waits::new() }
    }

    /// Bytes that so many stripes allocate.
    pub(crate) const fn bytes(stripes: usize) -> usize {
        stripes * size_of::<Stripe<K, V>>()
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "only some of the bits are used")]
    fn stripe(&self, hash: u64) -> &Stripe<K, V> {
        &self.stripes[(hash >> 32) as usize & (self.stripes.len() - 1)]
    }

    /// A task's computation, as others know it.
    fn computation(&self, hash: u64, ticket: u64) -> Actor {
        Actor::computation(std::ptr::from_ref(self.stripe(hash)).addr(), ticket)
    }

    fn leader(&self, record: &Record<K, V>) -> Actor {
        if record.leader == TASK {
            self.computation(record.hash, record.ticket)
        } else {
            Actor::thread(record.leader)
        }
    }

    /// Who has to serve `seat`; `None` if it has been served.
    fn leader_of(&self, seat: Seat) -> Option<Actor> {
        let mut board = self.stripe(seat.hash).lock();
        let record = board.with_ticket(seat.ticket)?;
        record.line.as_ref().filter(|line| line.contains(seat.number))?;
        Some(self.leader(record))
    }

    #[cfg(not(nebula_loom))]
    /// Starts a flight for `key`, unless there is one already.
    pub(crate) fn try_lead(&self, hash: u64, key: &K) -> Option<Lead<'_, K, V>>
    where
        K: Clone + Eq,
    {
        let (mut owned, mut link) = (Some(key.clone()), None);
        loop {
            // With no memory to stand in line, none is joined.
            match self.look(hash, key, me(), &mut owned, &mut link, &mut Memory::new()) {
                Seen::Lead(ticket) => return Some(Lead { flights: self, hash, ticket }),
                Seen::Seat(seat, slot) => {
                    drop(Waiting { flights: self, seat, slot, listed: false, told: false });
                    return None;
                }
                Seen::Line(_) | Seen::Circle => return None,
                Seen::Crowded => {
                    let record = Record { hash, ticket: 0, leader: me(), key: None, line: None };
                    link = Some(Box::new(List::link(record)));
                }
            }
        }
    }

    /// Joins the flight for `key`, blocking until its end, or starts one.
    ///
    /// `waiting` is called once if it waits.
    #[inline]
    pub fn join<Q>(&self, hash: u64, key: &Q, waiting: impl FnOnce()) -> Joined<'_, K, V>
    where
        Q: Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        match self.lead_alone(hash, key.to_owned(), me()) {
            Ok(lead) => Joined::Lead(lead),
            Err(owned) => self.join_others(hash, key, owned, waiting),
        }
    }

    /// As above, where others are under way.
    #[cold]
    fn join_others<Q>(
        &self,
        hash: u64,
        key: &Q,
        owned: K,
        waiting: impl FnOnce(),
    ) -> Joined<'_, K, V>
    where
        Q: Equivalent<K> + ?Sized,
    {
        match self.ask_others(hash, key, owned, me()) {
            Asked::Lead(lead) => Joined::Lead(lead),
            Asked::Circle => Joined::Circle,
            Asked::Wait(line) => {
                waiting();
                line.block()
            }
        }
    }

    /// As [`join`](Self::join), for a task, which is not blocked but has something to await.
    #[inline]
    pub fn ask<Q>(&self, hash: u64, key: &Q) -> Asked<'_, K, V>
    where
        Q: Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        match self.lead_alone(hash, key.to_owned(), TASK) {
            Ok(lead) => Asked::Lead(lead),
            Err(owned) => self.ask_others(hash, key, owned, TASK),
        }
    }

    /// Starts a flight if none is under way on that board. What is allocated is so before the lock
    /// is taken, and freed after it is released; the key too.
    #[inline]
    fn lead_alone(&self, hash: u64, owned: K, leader: usize) -> Result<Lead<'_, K, V>, K> {
        let mut board = self.stripe(hash).lock();
        if board.is_empty() {
            let ticket = board.list_alone(hash, leader, Some(owned));
            Ok(Lead { flights: self, hash, ticket })
        } else {
            Err(owned)
        }
    }

    #[cold]
    fn ask_others<Q>(&self, hash: u64, key: &Q, owned: K, asker: usize) -> Asked<'_, K, V>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let mut owned = Some(owned);
        let (mut link, mut memory) = (None, Memory::new());
        loop {
            match self.look(hash, key, asker, &mut owned, &mut link, &mut memory) {
                Seen::Lead(ticket) => return Asked::Lead(Lead { flights: self, hash, ticket }),
                Seen::Circle => return Asked::Circle,
                Seen::Line(waiting) => memory.prepare(waiting),
                Seen::Seat(seat, slot) => {
                    // Before anything of the user's runs: it gives up the seat when it is dropped.
                    let waiting = Waiting { flights: self, seat, slot, listed: false, told: false };
                    drop(owned);
                    return self.wait(waiting, asker);
                }
                Seen::Crowded => {
                    let record = Record { hash, ticket: 0, leader: asker, key: None, line: None };
                    link = Some(Box::new(List::link(record)));
                }
            }
        }
    }

    /// Looks at the board of `key`, with what memory there is to be listed there or to wait.
    fn look<Q>(
        &self,
        hash: u64,
        key: &Q,
        asker: usize,
        owned: &mut Option<K>,
        link: &mut Option<Box<Link<Record<K, V>>>>,
        memory: &mut Memory<V>,
    ) -> Seen<V>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let mut board = self.stripe(hash).lock();
        let same = |record: &Record<K, V>| {
            let key_is = |other: &K| key.equivalent(other);
            record.hash == hash && record.key.as_ref().is_none_or(key_is)
        };
        if let Some(record) = board.find(same) {
            if self.leader(record).is_on_this_stack() {
                return Seen::Circle;
            }
            if record.line.is_none() {
                record.line = memory.line.take();
            }
            let Some(line) = &mut record.line else { return Seen::Line(0) };
            let sure = record.key.is_some();
            return match line.join(asker, sure, memory) {
                Some((number, slot)) => {
                    Seen::Seat(Seat { hash, ticket: record.ticket, number }, slot)
                }
                None => Seen::Line(line.len()),
            };
        }
        if board.one.is_none() {
            return Seen::Lead(board.list_alone(hash, asker, owned.take()));
        }
        let Some(mut link) = link.take() else { return Seen::Crowded };
        link.item.ticket = board.ticket();
        link.item.key = owned.take();
        let ticket = link.item.ticket;
        board.others.push(link);
        Seen::Lead(ticket)
    }

    /// Has those who wait by this know that they do.
    fn wait<'f>(&'f self, mut waiting: Waiting<'f, K, V>, asker: usize) -> Asked<'f, K, V> {
        let thread = (asker != TASK).then_some(asker);
        match self.waits.enter(waiting.seat, thread, |seat| self.leader_of(seat)) {
            Ok(listed) => {
                waiting.listed = listed;
                Asked::Wait(waiting)
            }
            Err(Circle) => Asked::Circle,
        }
    }

    /// Whether nothing is under way and nobody waits.
    pub fn is_idle(&self) -> bool {
        let idle = |stripe: &Stripe<K, V>| stripe.lock().is_empty();
        self.stripes.iter().all(idle) && self.waits.is_empty()
    }
}

/// A place in the line of another's flight. A thread [`block`](Self::block)s, a task awaits it;
/// dropping it gives the place up, and what was handed to it to the next.
#[derive(Debug)]
#[must_use = "dropping it gives up the place"]
pub struct Waiting<'f, K, V> {
    flights: &'f Flights<K, V>,
    seat: Seat,
    slot: Slot<V>,
    /// Whether it is noted who waits.
    listed: bool,
    /// Whether what the slot is for has been taken out of it.
    told: bool,
}

impl<'f, K, V> Waiting<'f, K, V> {
    fn block(mut self) -> Joined<'f, K, V> {
        match self.slot.wait(None) {
            Some(turn) => self.told(turn),
            None => Joined::Again,
        }
    }

    fn told(&mut self, turn: Result<Turn<V>, MemoryError>) -> Joined<'f, K, V> {
        self.told = true;
        match turn {
            Ok(Turn::Lead) => Joined::Lead(self.lead()),
            Ok(Turn::Landed(value)) => Joined::Landed(value),
            Ok(Turn::Failed(error)) => Joined::Failed(error),
            Ok(Turn::Again) | Err(_) => Joined::Again,
        }
    }

    const fn lead(&self) -> Lead<'f, K, V> {
        let Seat { hash, ticket, .. } = self.seat;
        Lead { flights: self.flights, hash, ticket }
    }
}

impl<'f, K, V> Future for Waiting<'f, K, V> {
    type Output = Joined<'f, K, V>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Joined<'f, K, V>> {
        self.slot.poll_take(cx).map(|turn| self.told(turn))
    }
}

impl<K, V> Drop for Waiting<'_, K, V> {
    fn drop(&mut self) {
        if self.listed {
            self.flights.waits.leave(self.seat);
        }
        if self.told {
            return;
        }
        let left = {
            let mut board = self.flights.stripe(self.seat.hash).lock();
            let record = board.with_ticket(self.seat.ticket);
            let line = record.and_then(|record| record.line.as_mut());
            line.and_then(|line| line.leave(self.seat.number))
        };
        // The flight is handed on under the lock of the board: who is not in line any more has it,
        // or has been told something that obliges nobody.
        if left.is_none() && matches!(self.slot.try_take(), Some(Ok(Turn::Lead))) {
            drop(self.lead());
        }
    }
}

/// The caller's duty to compute. Dropped without a landing, by a panic for example, it hands the
/// flight to the first who waits for it.
#[derive(Debug)]
#[must_use = "dropping it hands the computation on"]
pub struct Lead<'f, K, V> {
    flights: &'f Flights<K, V>,
    hash: u64,
    ticket: u64,
}

impl<K, V> Lead<'_, K, V> {
    /// The key, to be placed in the cache; `None` the second time.
    #[inline]
    pub fn take_key(&self) -> Option<K> {
        let mut board = self.flights.stripe(self.hash).lock();
        board.find(|record| record.ticket == self.ticket)?.key.take()
    }

    /// Ends the flight with a value, of which `share` makes a copy if somebody waits.
    ///
    /// The value has to be in the cache by now, or is not going to be.
    #[inline]
    pub fn land(self, share: impl FnOnce() -> V) {
        let mut board = self.flights.stripe(self.hash).lock();
        let is_mine = |record: &Record<K, V>| record.ticket == self.ticket && record.line.is_none();
        if board.one.as_ref().is_some_and(is_mine) {
            let record = board.one.take();
            drop(board);
            // Nobody waits, and nothing is left to be done.
            std::mem::forget(self);
            drop(record);
        } else {
            drop(board);
            self.end(|line| line.land(share));
        }
    }

    /// Ends the flight with an error, of which all who wait get a share.
    #[cold]
    pub fn fail(self, error: &SharedError) {
        self.end(|line| line.fail(error));
    }

    /// Takes the flight off the board, so that nobody joins from now on, and has all told who wait.
    #[cold]
    fn end(self, tell: impl FnOnce(&mut Line<V>)) {
        let lead = ManuallyDrop::new(self);
        let mut gone = lead.flights.stripe(lead.hash).lock().take(lead.ticket);
        // Before the key is dropped, which is the user's.
        if let Some(mut line) = gone.as_mut().and_then(Gone::take_line) {
            tell(&mut line);
        }
    }

    /// Polls `computation`, which is what this is about.
    pub fn poll<F: Future>(
        &self,
        computation: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        let _frame = Frame::enter(self.flights.computation(self.hash, self.ticket));
        computation.poll(cx)
    }
}

impl<K, V> Drop for Lead<'_, K, V> {
    #[cold]
    fn drop(&mut self) {
        let mut gone = None;
        let next = {
            let mut board = self.flights.stripe(self.hash).lock();
            let record = board.with_ticket(self.ticket).filter(|record| record.key.is_some());
            // Without its key it is nobody's who waits.
            let next = record.and_then(|record| {
                let next = record.line.as_mut()?.first()?;
                record.leader = next.thread;
                // Still under the lock: who leaves the line finds itself either in it or leading.
                next.put(Turn::Lead);
                Some(next)
            });
            if next.is_none() {
                gone = board.take(self.ticket);
            }
            next
        };
        match next {
            Some(next) => next.wake(),
            // Who waits is told to ask again, before the key is dropped.
            None => drop(gone.as_mut().and_then(Gone::take_line)),
        }
    }
}
