//! Computing once per key: the first caller computes, the others wait for what it finds.
//!
//! A flight is a computation that is under way. It is listed under its key from before its leader
//! looks at the cache a last time until after the value is in the cache, so that whoever finds
//! neither a value nor a flight may lead. The caller's computation and the key's and value's `Clone`
//! and `Drop` run with no lock held; only `Eq` of keys runs under the lock of a list.
//!
//! Waiting is recorded in a list of its own, in which a caller that is about to close a circle of
//! computations waiting for each other finds out that it would.

use equivalent::Equivalent;
use nebula_memory_core::sync::{Arc, Condvar, Mutex};

nebula_memory_core::nebula_thread_local! {
    /// Its address tells threads apart while they live.
    static ME: u8 = 0
}

/// The thread that asks, different from every other live one.
fn me() -> usize {
    ME.with(|me| std::ptr::from_ref(me).addr())
}

/// A singly linked list, whose links are allocated before a lock is taken and freed after it is
/// released, and which holds no memory when it is empty.
#[derive(Debug)]
struct List<T>(Option<Box<Link<T>>>);

#[derive(Debug)]
struct Link<T> {
    item: T,
    next: List<T>,
}

impl<T> List<T> {
    const fn new() -> Self {
        Self(None)
    }

    const fn link(item: T) -> Link<T> {
        Link { item, next: Self::new() }
    }

    fn push(&mut self, mut link: Box<Link<T>>) {
        link.next.0 = self.0.take();
        self.0 = Some(link);
    }

    fn find(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Option<&mut T> {
        let mut list = self;
        while let Some(link) = &mut list.0 {
            if wanted(&link.item) {
                return Some(&mut link.item);
            }
            list = &mut link.next;
        }
        None
    }

    /// Takes out the first link that is `wanted`.
    fn remove(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Option<Box<Link<T>>> {
        let mut list = self;
        while list.0.as_ref().is_some_and(|link| !wanted(&link.item)) {
            // Checked by the condition; an `if let` here would borrow for too long.
            list = &mut list.0.as_mut()?.next;
        }
        let mut link = list.0.take()?;
        list.0 = link.next.0.take();
        Some(link)
    }
}

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
    waits: Mutex<List<Wait<V>>>,
}

#[derive(Debug)]
struct Record<K, V> {
    hash: u64,
    /// Tells it from all others of its board.
    ticket: u64,
    leader: usize,
    /// `None` once the leader has taken it to place it in the cache. Whoever looks in that short
    /// time goes by the hash alone, at worst waiting for a stranger's value to be placed.
    key: Option<K>,
    /// Made by the first who waits.
    flight: Option<Arc<Flight<V>>>,
}

/// Thread `waiter` waits for `flight`, or has yet to notice that it ended.
#[derive(Debug)]
struct Wait<V> {
    waiter: usize,
    flight: Arc<Flight<V>>,
}

/// What those who wait for a computation share with its leader.
#[derive(Debug)]
struct Flight<V> {
    leader: usize,
    outcome: Mutex<Option<Outcome<V>>>,
    ended: Condvar,
}

/// How a flight ended.
#[derive(Debug)]
enum Outcome<V> {
    Landed(Arc<V>),
    Failed,
}

impl<V> Flight<V> {
    fn new(leader: usize) -> Self {
        Self { leader, outcome: Mutex::new(None), ended: Condvar::new() }
    }

    fn has_ended(&self) -> bool {
        self.outcome.lock().is_some()
    }

    fn end(&self, outcome: Outcome<V>) {
        *self.outcome.lock() = Some(outcome);
        self.ended.notify_all();
    }
}

impl<K, V> Board<K, V> {
    const fn new() -> Self {
        Self { one: None, others: List::new(), tickets: 0 }
    }

    const fn is_empty(&self) -> bool {
        self.one.is_none() && self.others.0.is_none()
    }

    #[inline]
    const fn ticket(&mut self) -> u64 {
        self.tickets = self.tickets.wrapping_add(1);
        self.tickets
    }

    /// Lists a computation in the place that needs no allocation, which must be free.
    #[inline]
    fn list_alone(&mut self, hash: u64, key: Option<K>) -> u64 {
        let ticket = self.ticket();
        self.one = Some(Record { hash, ticket, leader: me(), key, flight: None });
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
}

/// A record that left its board, with its memory.
#[derive(Debug)]
enum Gone<K, V> {
    One(Record<K, V>),
    Other(Box<Link<Record<K, V>>>),
}

impl<K, V> Gone<K, V> {
    const fn take_flight(&mut self) -> Option<Arc<Flight<V>>> {
        match self {
            Self::One(record) => record.flight.take(),
            Self::Other(link) => link.item.flight.take(),
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
    /// Somebody tried, and failed; ask again.
    Failed,
    /// Somebody computes it who waits, directly or through others, for the caller.
    Circle,
}

/// What the board of a key says.
enum Seen<V> {
    /// The caller leads, and has this ticket.
    Lead(u64),
    /// Another leads, and the caller is in the flight.
    Flight(Arc<Flight<V>>),
    /// This thread leads; to wait for it takes a [`Flight`].
    Lacking(usize),
    /// The caller may lead if it has memory to be listed.
    Crowded,
}

impl<K, V> Flights<K, V> {
    /// None under way, listed in `stripes` lists, a power of two.
    pub fn new(stripes: usize) -> Self {
        debug_assert!(stripes.is_power_of_two());
        let stripes = (0..stripes).map(|_| Mutex::new(Board::new())).collect();
        Self { stripes, waits: Mutex::new(List::new()) }
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

    /// Joins the flight for `key`, waiting for its end, or starts one.
    ///
    /// `waiting` is called once if it waits.
    #[inline]
    pub fn join<Q>(&self, hash: u64, key: &Q, waiting: impl FnOnce()) -> Joined<'_, K, V>
    where
        Q: Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        // What is allocated is so before the lock is taken, and freed after it is released.
        let owned = key.to_owned();
        let mut board = self.stripe(hash).lock();
        if board.is_empty() {
            let ticket = board.list_alone(hash, Some(owned));
            return Joined::Lead(Lead { flights: self, hash, ticket, gone: false, waiting: None });
        }
        drop(board);
        self.join_others(hash, key, owned, waiting)
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
        let mut owned = Some(owned);
        let (mut link, mut flight) = (None, None);
        loop {
            match self.look(hash, key, &mut owned, &mut link, &mut flight) {
                Seen::Lead(ticket) => {
                    return Joined::Lead(Lead {
                        flights: self,
                        hash,
                        ticket,
                        gone: false,
                        waiting: None,
                    });
                }
                Seen::Flight(flight) => {
                    drop(owned);
                    return self.wait(&flight, waiting);
                }
                Seen::Lacking(leader) if leader == me() => return Joined::Circle,
                Seen::Lacking(leader) => flight = Some(Arc::new(Flight::new(leader))),
                Seen::Crowded => {
                    let record = Record { hash, ticket: 0, leader: me(), key: None, flight: None };
                    link = Some(Box::new(List::link(record)));
                }
            }
        }
    }

    /// Looks at the board of `key`, with what memory there is to be listed there.
    fn look<Q>(
        &self,
        hash: u64,
        key: &Q,
        owned: &mut Option<K>,
        link: &mut Option<Box<Link<Record<K, V>>>>,
        flight: &mut Option<Arc<Flight<V>>>,
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
            if let Some(flight) = &record.flight {
                return Seen::Flight(Arc::clone(flight));
            }
            // A leader that was seen earlier may have gone, and another have come.
            return match flight.take_if(|flight| flight.leader == record.leader) {
                Some(flight) => Seen::Flight(Arc::clone(record.flight.insert(flight))),
                None => Seen::Lacking(record.leader),
            };
        }
        if board.one.is_none() {
            return Seen::Lead(board.list_alone(hash, owned.take()));
        }
        let Some(mut link) = link.take() else { return Seen::Crowded };
        link.item.ticket = board.ticket();
        link.item.key = owned.take();
        let ticket = link.item.ticket;
        board.others.push(link);
        Seen::Lead(ticket)
    }

    /// Waits for the end of another's flight.
    #[cold]
    fn wait(&self, flight: &Arc<Flight<V>>, waiting: impl FnOnce()) -> Joined<'_, K, V> {
        let waiter = me();
        let link = Box::new(List::link(Wait { waiter, flight: Arc::clone(flight) }));
        {
            let mut waits = self.waits.lock();
            // A thread waits for one flight at a time, so this follows a chain; the chain has no
            // circle in it, because nobody who would close one is listed.
            let mut leader = flight.leader;
            while leader != waiter {
                match waits.find(|wait| wait.waiter == leader && !wait.flight.has_ended()) {
                    Some(wait) => leader = wait.flight.leader,
                    None => break,
                }
            }
            if leader == waiter && !flight.has_ended() {
                return Joined::Circle;
            }
            waits.push(link);
        }
        waiting();
        let landed = {
            let mut outcome = flight.outcome.lock();
            loop {
                match &*outcome {
                    Some(Outcome::Landed(value)) => break Some(Arc::clone(value)),
                    Some(Outcome::Failed) => break None,
                    None => outcome = flight.ended.wait(outcome),
                }
            }
        };
        let mine = |wait: &Wait<V>| wait.waiter == waiter;
        drop(self.waits.lock().remove(mine));
        landed.map_or(Joined::Failed, Joined::Landed)
    }

    /// Whether nothing is under way and nobody waits.
    pub fn is_idle(&self) -> bool {
        let idle = |stripe: &Stripe<K, V>| stripe.lock().is_empty();
        self.stripes.iter().all(idle) && self.waits.lock().0.is_none()
    }
}

/// The caller's duty to compute. Dropped without a landing, by a panic for example, it tells the
/// waiters that the flight failed, and one of them computes.
#[derive(Debug)]
#[must_use = "dropping it fails the computation"]
pub struct Lead<'f, K, V> {
    flights: &'f Flights<K, V>,
    hash: u64,
    ticket: u64,
    /// Whether the flight is off the board.
    gone: bool,
    /// Those who wait to be told, if anybody does, once it is.
    waiting: Option<Arc<Flight<V>>>,
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
        let is_mine =
            |record: &Record<K, V>| record.ticket == self.ticket && record.flight.is_none();
        if board.one.as_ref().is_some_and(is_mine) {
            let record = board.one.take();
            drop(board);
            // Nobody waits, and nothing is left to be done.
            std::mem::forget(self);
            drop(record);
        } else {
            drop(board);
            self.land_among(share);
        }
    }

    /// As above, where others may wait.
    #[cold]
    fn land_among(mut self, share: impl FnOnce() -> V) {
        drop(self.leave());
        if let Some(flight) = &self.waiting {
            // If this panics, the flight has failed after all.
            let value = Arc::new(share());
            flight.end(Outcome::Landed(value));
            self.waiting = None;
        }
    }

    /// Takes the flight off the board: nobody joins from now on.
    #[cold]
    fn leave(&mut self) -> Option<Gone<K, V>> {
        let mut gone = {
            let mut board = self.flights.stripe(self.hash).lock();
            match board.one.take_if(|record| record.ticket == self.ticket) {
                Some(record) => Some(Gone::One(record)),
                None => {
                    let mine = |record: &Record<K, V>| record.ticket == self.ticket;
                    board.others.remove(mine).map(Gone::Other)
                }
            }
        };
        self.gone = true;
        self.waiting = gone.as_mut().and_then(Gone::take_flight);
        gone
    }
}

impl<K, V> Drop for Lead<'_, K, V> {
    #[inline]
    fn drop(&mut self) {
        // The waiters are told before anything of the user's is dropped.
        let record = if self.gone { None } else { self.leave() };
        if let Some(flight) = &self.waiting {
            flight.end(Outcome::Failed);
        }
        drop(record);
    }
}
