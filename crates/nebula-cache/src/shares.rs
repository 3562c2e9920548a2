//! One capacity for several caches: each is granted a part of it, gets more when others do not use
//! theirs, and has what it is guaranteed back as soon as it needs it.
//!
//! Capacity moves in two ways. What is granted and not used moves under the ledger's lock. What is
//! used is evicted first, with no lock held, because evicting runs user code; it is reserved under
//! the lock before, so that two who want more do not evict the same excess twice and reach into what
//! is guaranteed. In both cases the room is taken out of one cache before it is added to another, so
//! the sum is never more than the capacity.

use nebula_memory_core::{
    MemoryError,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{inside::Inside, place::too_large};

/// A cache asks for the capacity divided by this and by the number of caches at once, so that it
/// doesn't ask for every entry.
const PARTS: usize = 64;

/// So many insertions a cache does not ask again after it was told that there is no more for it than
/// it is guaranteed.
const RESTRAINT: usize = 64;

/// What a partition may have of the capacity of a [`PartitionedCache`](crate::PartitionedCache), in
/// its unit: entries or bytes.
///
/// ```
/// use nebula_cache::Share;
///
/// let share = Share::guaranteed(1000).at_most(5000);
/// assert_eq!((share.guarantee(), share.maximum()), (1000, 5000));
/// // Nothing for certain, and everything that nobody needs.
/// assert_eq!(Share::default(), Share::guaranteed(0).at_most(usize::MAX));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a share has an effect once it is given to a partition"]
pub struct Share {
    guarantee: usize,
    maximum: usize,
}

impl Share {
    /// So much is there whenever the partition needs it. What it doesn't use is lent to others.
    pub const fn guaranteed(amount: usize) -> Self {
        Self { guarantee: amount, maximum: usize::MAX }
    }

    /// The partition never has more than this; without it, up to all of the capacity.
    pub const fn at_most(mut self, maximum: usize) -> Self {
        self.maximum = maximum;
        self
    }

    /// What is there whenever the partition needs it.
    #[must_use]
    pub const fn guarantee(&self) -> usize {
        self.guarantee
    }

    /// The most that the partition has.
    #[must_use]
    pub const fn maximum(&self) -> usize {
        self.maximum
    }

    fn validate(&self) -> Result<(), MemoryError> {
        if self.maximum == 0 || self.maximum < self.guarantee {
            let rule = "must be above zero, and no less than what is guaranteed";
            return Err(MemoryError::invalid_config("share.maximum", self.maximum, rule));
        }
        Ok(())
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::guaranteed(0)
    }
}

/// A cache that has a part of the capacity, as others see it.
pub(crate) trait Lender: Send + Sync {
    /// Gives up to `most` of what it does not use, keeping `kept` of it; returns how much it was.
    fn lend(&self, most: usize, kept: usize) -> usize;

    /// Gives up to `most` after evicting as much as that takes; returns how much it was. Runs user
    /// code.
    fn yield_up(&self, most: usize) -> usize;
}

/// The capacity, and who has how much of it.
#[derive(Debug)]
pub(crate) struct Shares {
    /// Copied anew when somebody comes or goes, and read with the lock released.
    members: Mutex<Arc<[Member]>>,
    ledger: Mutex<Ledger>,
}

#[derive(Debug)]
struct Ledger {
    capacity: usize,
    /// The sum of what the members are granted, and of what is on its way to one of them.
    granted: usize,
    /// The sum of what they are guaranteed.
    guaranteed: usize,
}

impl Ledger {
    const fn free(&self) -> usize {
        self.capacity.saturating_sub(self.granted)
    }
}

#[derive(Clone, Debug)]
struct Member {
    holding: Arc<Holding>,
    cache: Weak<dyn Lender>,
}

/// What one member has. Written under the ledger's lock, read by anybody.
#[derive(Debug)]
pub(crate) struct Holding {
    guarantee: AtomicUsize,
    maximum: AtomicUsize,
    /// What it needs to be there at all, guaranteed whatever its share says.
    least: AtomicUsize,
    granted: AtomicUsize,
    /// What others are about to evict.
    reserved: AtomicUsize,
    /// What others have evicted, ever.
    lost: AtomicU64,
    /// So many insertions to go until it asks again, unless it has been granted more or less than
    /// `refused_at` since.
    restraint: AtomicUsize,
    refused_at: AtomicUsize,
}

impl Holding {
    pub(crate) fn share(&self) -> Share {
        Share { guarantee: self.guarantee.load(Relaxed), maximum: self.maximum.load(Relaxed) }
    }

    pub(crate) fn granted(&self) -> usize {
        self.granted.load(Relaxed)
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Whether it has less than it is guaranteed, or nothing to put entries in: there is nothing that it
    /// could do but ask.
    fn lacks(&self, granted: usize) -> bool {
        granted < self.guarantee.load(Relaxed) || granted <= self.least.load(Relaxed)
    }

    /// Has `more` granted, as far as its maximum allows it, which may have been lowered meanwhile, or
    /// reached by somebody else for the same member. The ledger must be locked. Returns how much it
    /// was.
    fn grant(&self, more: usize) -> usize {
        let room = self.maximum.load(Relaxed).saturating_sub(self.granted());
        add(&self.granted, more.min(room));
        more.min(room)
    }

    /// What it has beyond its guarantee and nobody is about to take.
    fn excess(&self) -> usize {
        let taken = self.reserved.load(Relaxed).saturating_add(self.guarantee.load(Relaxed));
        self.granted().saturating_sub(taken)
    }
}

/// Others of whom capacity can be had, kept alive while it is being asked for.
type Lenders = Vec<(Arc<Holding>, Arc<dyn Lender>)>;

fn add(to: &AtomicUsize, more: usize) {
    to.store(to.load(Relaxed) + more, Relaxed);
}

fn subtract(from: &AtomicUsize, less: usize) {
    from.store(from.load(Relaxed) - less, Relaxed);
}

impl Shares {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        let ledger = Mutex::new(Ledger { capacity, granted: 0, guaranteed: 0 });
        Arc::new(Self { members: Mutex::new(Arc::new([])), ledger })
    }

    pub(crate) fn capacity(&self) -> usize {
        self.ledger.lock().capacity
    }

    /// What is not guaranteed to anybody.
    pub(crate) fn unpromised(&self) -> usize {
        let ledger = self.ledger.lock();
        ledger.capacity.saturating_sub(ledger.guaranteed)
    }

    /// Replaces the list of members by what `change` makes of it, which is called with no lock held,
    /// perhaps more than once.
    fn change_members(&self, change: impl Fn(&[Member]) -> Arc<[Member]>) {
        loop {
            let old = Arc::clone(&self.members.lock());
            let new = change(&old);
            let mut members = self.members.lock();
            if Arc::ptr_eq(&old, &members) {
                let unused = std::mem::replace(&mut *members, new);
                drop(members);
                drop(unused);
                return;
            }
        }
    }

    fn lenders(&self, besides: Option<&Arc<Holding>>) -> Lenders {
        let members = Arc::clone(&self.members.lock());
        let other = |member: &&Member| besides.is_none_or(|own| !Arc::ptr_eq(own, &member.holding));
        let alive = |member: &Member| Some((Arc::clone(&member.holding), member.cache.upgrade()?));
        members.iter().filter(other).filter_map(alive).collect()
    }

    /// Has a lender yield `part`, which is reserved, and calls `moved` with what it was, under the
    /// ledger's lock.
    fn yield_reserved(
        &self,
        (holding, lender): &(Arc<Holding>, Arc<dyn Lender>),
        part: usize,
        moved: impl FnOnce(&mut Ledger, usize),
    ) -> usize {
        /// Ends the reservation, if a panic in user code ends the eviction too.
        struct Reserved<'s>(&'s Mutex<Ledger>, &'s Holding, usize);
        impl Drop for Reserved<'_> {
            fn drop(&mut self) {
                let _ledger = self.0.lock();
                subtract(&self.1.reserved, self.2);
            }
        }
        let reserved = Reserved(&self.ledger, holding, part);
        let given = lender.yield_up(part);
        std::mem::forget(reserved);
        let mut ledger = self.ledger.lock();
        subtract(&holding.reserved, part);
        subtract(&holding.granted, given);
        holding.lost.fetch_add(given as u64, Relaxed);
        moved(&mut ledger, given);
        given
    }

    /// Changes the capacity; what members have too much is evicted before this returns.
    ///
    /// # Errors
    /// If it is less than what is guaranteed.
    pub(crate) fn set_capacity(&self, capacity: usize) -> Result<(), MemoryError> {
        {
            let mut ledger = self.ledger.lock();
            if capacity == 0 || capacity < ledger.guaranteed {
                let rule = "must be above zero, and no less than the partitions are guaranteed";
                return Err(MemoryError::invalid_config("capacity", capacity, rule));
            }
            ledger.capacity = capacity;
        }
        let mut lenders = self.lenders(None);
        {
            let mut ledger = self.ledger.lock();
            for (holding, lender) in &lenders {
                let over = ledger.granted.saturating_sub(ledger.capacity);
                let given = lender.lend(over, holding.reserved.load(Relaxed));
                subtract(&holding.granted, given);
                ledger.granted -= given;
            }
        }
        loop {
            let (index, part) = {
                let ledger = self.ledger.lock();
                let over = ledger.granted.saturating_sub(ledger.capacity);
                let Some((index, theirs)) = largest(&lenders) else { return Ok(()) };
                let part = over.min(theirs);
                if part == 0 {
                    return Ok(());
                }
                add(&lenders[index].0.reserved, part);
                (index, part)
            };
            let pool = |ledger: &mut Ledger, given| ledger.granted -= given;
            if self.yield_reserved(&lenders[index], part, pool) == 0 {
                // All pinned.
                lenders.swap_remove(index);
            }
        }
    }
}

/// Who has most beyond his guarantee, and how much that is.
fn largest(lenders: &Lenders) -> Option<(usize, usize)> {
    let excesses = lenders.iter().map(|(holding, _)| holding.excess());
    excesses.enumerate().max_by_key(|&(_, excess)| excess)
}

/// A cache's membership; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Tenancy {
    pub(crate) name: Box<str>,
    shares: Arc<Shares>,
    holding: Arc<Holding>,
}

impl Tenancy {
    /// Membership with this share, and nothing granted.
    ///
    /// # Errors
    /// If so much cannot be guaranteed.
    pub(crate) fn new(name: &str, shares: &Arc<Shares>, share: Share) -> Result<Self, MemoryError> {
        let nothing = Holding {
            guarantee: AtomicUsize::new(0),
            maximum: AtomicUsize::new(0),
            least: AtomicUsize::new(0),
            granted: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            restraint: AtomicUsize::new(0),
            refused_at: AtomicUsize::new(0),
        };
        let (shares, holding) = (Arc::clone(shares), Arc::new(nothing));
        let tenancy = Self { name: name.into(), shares, holding };
        tenancy.promise(share, true)?;
        Ok(tenancy)
    }

    /// Has others see the cache as one that has capacity to lend.
    pub(crate) fn enter(&self, cache: Weak<dyn Lender>) {
        let member = Member { holding: Arc::clone(&self.holding), cache };
        self.shares.change_members(|old| old.iter().chain([&member]).cloned().collect());
    }

    /// Whether the member is still one, or about to be.
    fn promise(&self, share: Share, begins: bool) -> Result<bool, MemoryError> {
        share.validate()?;
        let guarantee = share.guarantee.max(self.holding.least.load(Relaxed));
        let mut ledger = self.shares.ledger.lock();
        if !begins && self.holding.maximum.load(Relaxed) == 0 {
            return Ok(false);
        }
        let others = ledger.guaranteed - self.holding.guarantee.load(Relaxed);
        if guarantee > ledger.capacity.saturating_sub(others) {
            return Err(too_large(guarantee, ledger.capacity.saturating_sub(others)));
        }
        ledger.guaranteed = others + guarantee;
        self.holding.guarantee.store(guarantee, Relaxed);
        self.holding.maximum.store(share.maximum, Relaxed);
        self.holding.restraint.store(0, Relaxed);
        Ok(true)
    }

    /// Says what the member needs to be there at all, and has it guaranteed.
    ///
    /// # Errors
    /// If so much cannot be guaranteed.
    pub(crate) fn need(&self, least: usize) -> Result<(), MemoryError> {
        self.holding.least.store(least, Relaxed);
        self.promise(self.holding.share(), true).map(drop)
    }

    /// Changes the share; what `cache`, its own, has too much is evicted before this returns. `false`
    /// if the member's time is over.
    ///
    /// # Errors
    /// If so much cannot be guaranteed. Nothing has changed then.
    pub(crate) fn set_share(&self, share: Share, cache: &dyn Lender) -> Result<bool, MemoryError> {
        let promised = self.promise(share, false)?;
        self.give_up_excess(cache);
        Ok(promised)
    }

    /// Takes all from the member, for good.
    pub(crate) fn end(&self, cache: &dyn Lender) {
        {
            let mut ledger = self.shares.ledger.lock();
            ledger.guaranteed -= self.holding.guarantee.load(Relaxed);
            self.holding.guarantee.store(0, Relaxed);
            self.holding.maximum.store(0, Relaxed);
        }
        self.give_up_excess(cache);
    }

    fn give_up_excess(&self, cache: &dyn Lender) {
        let excess = || self.holding.granted().saturating_sub(self.holding.maximum.load(Relaxed));
        while excess() > 0 {
            let given = cache.yield_up(excess());
            let mut ledger = self.shares.ledger.lock();
            subtract(&self.holding.granted, given);
            ledger.granted -= given;
            if given == 0 {
                // Pinned, or on its way in.
                return;
            }
        }
    }

    pub(crate) fn holding(&self) -> &Holding {
        &self.holding
    }

    /// The most that the member can have.
    pub(crate) fn most(&self) -> usize {
        self.holding.maximum.load(Relaxed).min(self.shares.capacity())
    }

    /// Whether more may be had: false for a while after it was not.
    pub(crate) fn is_worth_asking(&self) -> bool {
        let holding = &*self.holding;
        let granted = holding.granted();
        if granted >= holding.maximum.load(Relaxed) {
            return false;
        }
        if granted != holding.refused_at.load(Relaxed) || holding.lacks(granted) {
            return true;
        }
        let restraint = holding.restraint.load(Relaxed);
        if restraint > 0 {
            holding.restraint.store(restraint - 1, Relaxed);
        }
        restraint == 0
    }

    /// Tells the capacity from others.
    fn shares_id(&self) -> usize {
        Arc::as_ptr(&self.shares).addr()
    }

    /// Whether this thread is having others evict something for a member, who asked because something
    /// was evicted for another one.
    pub(crate) fn is_claiming_within(&self) -> bool {
        Inside::times_noted(self.shares_id()) > 1
    }

    /// Gets `need` or more, as far as that is to be had, and calls `grow` with each part of it, under
    /// the ledger's lock. No lock may be held: others' entries are evicted. O(members).
    pub(crate) fn claim(&self, need: usize, grow: impl Fn(usize)) {
        if need == 0 {
            return;
        }
        let (shares, holding) = (&*self.shares, &*self.holding);
        let _claiming = Inside::enter(self.shares_id());
        let mut lenders = shares.lenders(Some(&self.holding));
        let (mut got, portion, want);
        {
            let mut ledger = shares.ledger.lock();
            portion = (ledger.capacity / PARTS / (lenders.len() + 1)).max(1);
            let most = holding.maximum.load(Relaxed).saturating_sub(holding.granted());
            want = need.max(portion).min(most);
            got = ledger.free().min(want);
            ledger.granted += got;
            for (other, lender) in &lenders {
                let kept = other.reserved.load(Relaxed).saturating_add(portion);
                let lent = lender.lend(want - got, kept);
                subtract(&other.granted, lent);
                got += lent;
            }
            add(&holding.granted, got);
            // Under the lock, so that who lowers the maximum finds all that is granted there.
            grow(got);
        }
        while got < want {
            let Some((index, part)) = self.reserve(&lenders, want - got, portion) else { break };
            let mut mine = 0;
            let take = |ledger: &mut Ledger, given| {
                mine = holding.grant(given);
                ledger.granted -= given - mine;
                grow(mine);
            };
            let given = shares.yield_reserved(&lenders[index], part, take);
            got += mine;
            if mine < given {
                // It has all that it may have.
                break;
            }
            if given == 0 {
                lenders.swap_remove(index);
            }
        }
        if got < need {
            holding.refused_at.store(holding.granted(), Relaxed);
            holding.restraint.store(RESTRAINT, Relaxed);
        }
    }

    /// Whom to have evict how much: whoever has most beyond his guarantee, as much as is guaranteed
    /// here, or else until both have as much beyond.
    fn reserve(&self, lenders: &Lenders, wanted: usize, portion: usize) -> Option<(usize, usize)> {
        let _ledger = self.shares.ledger.lock();
        let (granted, guarantee) = (self.holding.granted(), self.holding.guarantee.load(Relaxed));
        let (index, theirs) = largest(lenders)?;
        let wanted = wanted.min(self.holding.maximum.load(Relaxed).saturating_sub(granted));
        let mut part = wanted.min(guarantee.saturating_sub(granted));
        if granted <= self.holding.least.load(Relaxed) {
            // Who has nothing gets something.
            part = wanted;
        } else if part == 0 {
            part = wanted.min(theirs.saturating_sub(granted - guarantee) / 2);
            if part < portion {
                return None;
            }
        }
        let part = part.min(theirs);
        add(&lenders[index].0.reserved, part);
        (part > 0).then_some((index, part))
    }
}

impl Drop for Tenancy {
    fn drop(&mut self) {
        self.shares.change_members(|old| {
            let other = |member: &&Member| !Arc::ptr_eq(&member.holding, &self.holding);
            old.iter().filter(other).cloned().collect()
        });
        let mut ledger = self.shares.ledger.lock();
        ledger.granted -= self.holding.granted();
        ledger.guaranteed -= self.holding.guarantee.load(Relaxed);
    }
}
