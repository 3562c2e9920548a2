//! Computing once per key: the first caller computes, the others wait for what it finds.
//!
//! A flight is a computation that is under way. It is listed under its key from before its leader
//! looks at the cache a last time until after the value is in the cache, so that whoever finds
//! neither a value nor a flight may lead. The caller's computation and the key's and value's `Clone`
//! and `Drop` run with no lock held; only `Eq` of keys runs under the lock of a list.
//!
//! Waiting is recorded in a list of its own, in which a caller that is about to close a circle of
//! computations waiting for each other finds out that it would.

use std::borrow::Borrow;

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
type Stripe<K, V> = Mutex<List<Record<K, V>>>;

/// The computations under way in one cache.
#[derive(Debug)]
pub struct Flights<K, V> {
    stripes: Box<[Stripe<K, V>]>,
    waits: Mutex<List<Wait<V>>>,
}

#[derive(Debug)]
struct Record<K, V> {
    hash: u64,
    /// `None` once the leader has taken it to place it in the cache. Whoever looks in that short
    /// time goes by the hash alone, at worst waiting for a stranger's value to be placed.
    key: Option<K>,
    flight: Arc<Flight<V>>,
}

/// Thread `waiter` waits for `flight`, or has yet to notice that it ended.
#[derive(Debug)]
struct Wait<V> {
    waiter: usize,
    flight: Arc<Flight<V>>,
}

#[derive(Debug)]
struct Flight<V> {
    leader: usize,
    state: Mutex<State<V>>,
    ended: Condvar,
}

#[derive(Debug)]
struct State<V> {
    waiters: usize,
    outcome: Option<Outcome<V>>,
}

/// How a flight ended.
#[derive(Debug)]
enum Outcome<V> {
    Landed(Arc<V>),
    Failed,
}

impl<V> Flight<V> {
    fn has_ended(&self) -> bool {
        self.state.lock().outcome.is_some()
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

impl<K, V> Flights<K, V> {
    /// None under way, listed in `stripes` lists, a power of two.
    pub fn new(stripes: usize) -> Self {
        debug_assert!(stripes.is_power_of_two());
        let stripes = (0..stripes).map(|_| Mutex::new(List::new())).collect();
        Self { stripes, waits: Mutex::new(List::new()) }
    }

    /// Bytes that so many stripes allocate.
    pub(crate) const fn bytes(stripes: usize) -> usize {
        stripes * size_of::<Stripe<K, V>>()
    }

    #[allow(clippy::cast_possible_truncation, reason = "only some of the bits are used")]
    fn stripe(&self, hash: u64) -> &Stripe<K, V> {
        &self.stripes[(hash >> 32) as usize & (self.stripes.len() - 1)]
    }

    /// Joins the flight for `key`, waiting for its end, or starts one.
    ///
    /// `waiting` is called once if it waits.
    pub fn join<Q>(&self, hash: u64, key: &Q, waiting: impl FnOnce()) -> Joined<'_, K, V>
    where
        K: Borrow<Q>,
        Q: Eq + ToOwned<Owned = K> + ?Sized,
    {
        let state = State { waiters: 0, outcome: None };
        let flight = Flight { leader: me(), state: Mutex::new(state), ended: Condvar::new() };
        let flight = Arc::new(flight);
        let record = Record { hash, key: Some(key.to_owned()), flight: Arc::clone(&flight) };
        let mut link = Some(Box::new(List::link(record)));
        let under_way = {
            let mut list = self.stripe(hash).lock();
            let same = |record: &Record<K, V>| {
                let key_is = |other: &K| other.borrow() == key;
                record.hash == hash && record.key.as_ref().is_none_or(key_is)
            };
            match list.find(same) {
                Some(record) => {
                    // Counted under the list's lock, so that a leader who has left the list knows
                    // all who wait.
                    record.flight.state.lock().waiters += 1;
                    Some(Arc::clone(&record.flight))
                }
                None => {
                    if let Some(link) = link.take() {
                        list.push(link);
                    }
                    None
                }
            }
        };
        drop(link);
        match under_way {
            None => Joined::Lead(Lead { flights: self, hash, flight, ended: false }),
            Some(flight) => self.wait(&flight, waiting),
        }
    }

    /// Waits for the end of another's flight, in whose waiters this thread is counted.
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
            let mut state = flight.state.lock();
            loop {
                match &state.outcome {
                    Some(Outcome::Landed(value)) => break Some(Arc::clone(value)),
                    Some(Outcome::Failed) => break None,
                    None => state = flight.ended.wait(state),
                }
            }
        };
        let mine = |wait: &Wait<V>| wait.waiter == waiter;
        drop(self.waits.lock().remove(mine));
        landed.map_or(Joined::Failed, Joined::Landed)
    }

    /// Whether nothing is under way and nobody waits.
    pub fn is_idle(&self) -> bool {
        let idle = |stripe: &Stripe<K, V>| stripe.lock().0.is_none();
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
    flight: Arc<Flight<V>>,
    ended: bool,
}

impl<K, V> Lead<'_, K, V> {
    fn is_mine(&self) -> impl Fn(&Record<K, V>) -> bool + '_ {
        |record| Arc::ptr_eq(&record.flight, &self.flight)
    }

    /// The key, to be placed in the cache; `None` the second time.
    pub fn take_key(&self) -> Option<K> {
        let mut list = self.flights.stripe(self.hash).lock();
        list.find(self.is_mine())?.key.take()
    }

    /// Ends the flight with a value, of which `share` makes a copy if somebody waits.
    ///
    /// The value has to be in the cache by now, or is not going to be.
    pub fn land(mut self, share: impl FnOnce() -> V) {
        self.leave();
        if self.flight.state.lock().waiters > 0 {
            // If this panics, the flight has failed after all.
            let value = Arc::new(share());
            self.end(Outcome::Landed(value));
        }
        self.ended = true;
    }

    /// Takes the flight off the list: nobody joins from now on.
    fn leave(&self) {
        let record = self.flights.stripe(self.hash).lock().remove(self.is_mine());
        drop(record);
    }

    fn end(&self, outcome: Outcome<V>) {
        self.flight.state.lock().outcome = Some(outcome);
        self.flight.ended.notify_all();
    }
}

impl<K, V> Drop for Lead<'_, K, V> {
    fn drop(&mut self) {
        if !self.ended {
            // The waiters are told before anything of the user's is dropped.
            let record = self.flights.stripe(self.hash).lock().remove(self.is_mine());
            self.end(Outcome::Failed);
            drop(record);
        }
    }
}
