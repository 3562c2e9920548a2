//! Accounts for tests: one that keeps exact books, one that refuses on demand.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use nebula_memory_core::{Account, Align, MemoryError};

#[derive(Debug)]
struct Books {
    balance: usize,
    peak: usize,
    limit: usize,
    charges: usize,
    credits: usize,
    refusals: usize,
    /// Bytes that were credited without having been charged.
    overdrawn: usize,
}

/// An account with exact books, counted independently of what is tested. Clones share the books.
///
/// Crediting more than was charged is noted, and panics.
///
/// ```
/// use nebula_memory_core::{Account, Charge};
/// use nebula_testing::CountingAccount;
///
/// let account = CountingAccount::with_limit(100);
/// let charge = Charge::try_new(account.clone(), 60)?;
/// assert!(account.try_charge(60).is_err());
/// assert_eq!((account.balance(), account.refusals()), (60, 1));
/// drop(charge);
/// account.assert_settled();
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Debug)]
pub struct CountingAccount(Arc<Mutex<Books>>);

impl Default for CountingAccount {
    fn default() -> Self {
        Self::new()
    }
}

impl CountingAccount {
    /// An account without a limit.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(usize::MAX)
    }

    /// An account that never holds more than `limit` bytes.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Books {
            balance: 0,
            peak: 0,
            limit,
            charges: 0,
            credits: 0,
            refusals: 0,
            overdrawn: 0,
        })))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the limit; what is charged already stays.
    pub fn set_limit(&self, limit: usize) {
        self.books().limit = limit;
    }

    /// Bytes charged now.
    #[must_use]
    pub fn balance(&self) -> usize {
        self.books().balance
    }

    /// The most bytes that were charged at one time.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.books().peak
    }

    /// Charges that were accepted (of zero bytes, too).
    #[must_use]
    pub fn charges(&self) -> usize {
        self.books().charges
    }

    /// Credits (of zero bytes, too).
    #[must_use]
    pub fn credits(&self) -> usize {
        self.books().credits
    }

    /// Charges that were refused.
    #[must_use]
    pub fn refusals(&self) -> usize {
        self.books().refusals
    }

    /// Bytes that were credited without having been charged.
    #[must_use]
    pub fn overdrawn(&self) -> usize {
        self.books().overdrawn
    }

    /// Checks that nothing is charged any more and nothing was ever credited too much.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_settled(&self) {
        self.assert_balance(0);
    }

    /// Checks that exactly `bytes` are charged and nothing was ever credited too much.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_balance(&self, bytes: usize) {
        let (balance, overdrawn) = {
            let books = self.books();
            (books.balance, books.overdrawn)
        };
        assert_eq!(overdrawn, 0, "{overdrawn} bytes were credited that nobody had charged");
        assert_eq!(balance, bytes, "{balance} bytes are charged, expected {bytes}");
    }
}

/// The refusal of `requested` where `available` were left.
const fn refusal(requested: usize, available: usize) -> MemoryError {
    MemoryError::CapacityExceeded { requested, available, align: Align::ONE }
}

impl Account for CountingAccount {
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        let mut books = self.books();
        match books.balance.checked_add(bytes) {
            Some(balance) if balance <= books.limit => {
                books.balance = balance;
                books.peak = books.peak.max(balance);
                books.charges += 1;
                Ok(())
            }
            _ => {
                books.refusals += 1;
                Err(refusal(bytes, books.limit.saturating_sub(books.balance)))
            }
        }
    }

    fn credit(&self, bytes: usize) {
        let (balance, excess) = {
            let mut books = self.books();
            let balance = books.balance;
            let excess = bytes.saturating_sub(balance);
            books.overdrawn += excess;
            books.balance -= bytes - excess;
            books.credits += 1;
            (balance, excess)
        };
        assert!(
            excess == 0 || thread::panicking(),
            "{bytes} bytes credited, but only {balance} are charged"
        );
    }

    fn books(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.0).addr())
    }
}

/// An account that refuses the n-th charge, around another one. Clones count together.
///
/// ```
/// use nebula_memory_core::Account;
/// use nebula_testing::RefusingAccount;
///
/// let account: RefusingAccount = RefusingAccount::default();
/// account.refuse_at(1);
/// assert!(account.try_charge(10).is_ok());
/// assert!(account.try_charge(10).is_err());
/// assert!(account.try_charge(10).is_ok());
/// assert_eq!(account.get_ref().balance(), 20);
/// ```
#[derive(Clone, Debug, Default)]
pub struct RefusingAccount<A = CountingAccount> {
    inner: A,
    trip: Arc<Trip>,
}

/// Counts calls and trips at one of them, or at all from there on.
#[derive(Debug)]
pub(crate) struct Trip {
    calls: AtomicUsize,
    from: AtomicUsize,
    to: AtomicUsize,
}

impl Default for Trip {
    fn default() -> Self {
        let (calls, from, to) =
            (AtomicUsize::new(0), AtomicUsize::new(usize::MAX), AtomicUsize::new(0));
        Self { calls, from, to }
    }
}

impl Trip {
    /// Counts from zero again; calls `from..=to` trip.
    pub(crate) fn arm(&self, from: usize, to: usize) {
        self.calls.store(0, SeqCst);
        self.from.store(from, SeqCst);
        self.to.store(to, SeqCst);
    }

    /// Counts a call; whether it trips.
    pub(crate) fn call(&self) -> bool {
        let call = self.calls.fetch_add(1, SeqCst);
        (self.from.load(SeqCst)..=self.to.load(SeqCst)).contains(&call)
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    pub(crate) fn tripped(&self) -> bool {
        let from = self.from.load(SeqCst);
        from <= self.to.load(SeqCst) && self.calls() > from
    }
}

impl<A> RefusingAccount<A> {
    /// Refuses nothing until told to.
    pub fn new(inner: A) -> Self {
        Self { inner, trip: Arc::default() }
    }

    /// The account around which this is.
    pub const fn get_ref(&self) -> &A {
        &self.inner
    }

    /// Counts charges from zero again and refuses number `n` (the first is zero) from now.
    pub fn refuse_at(&self, n: usize) {
        self.trip.arm(n, n);
    }

    /// Counts charges from zero again and refuses number `n` and all after it.
    pub fn refuse_from(&self, n: usize) {
        self.trip.arm(n, usize::MAX);
    }

    /// Refuses nothing from now on, and counts from zero.
    pub fn refuse_never(&self) {
        self.trip.arm(usize::MAX, 0);
    }

    /// Charges asked for since it was made or told when to refuse.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.trip.calls()
    }

    /// Whether a charge was refused since then. A loop over `n` ends when it was not.
    #[must_use]
    pub fn tripped(&self) -> bool {
        self.trip.tripped()
    }
}

impl<A: Account> Account for RefusingAccount<A> {
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        if self.trip.call() { Err(refusal(bytes, 0)) } else { self.inner.try_charge(bytes) }
    }

    fn credit(&self, bytes: usize) {
        self.inner.credit(bytes);
    }

    fn books(&self) -> Option<usize> {
        self.inner.books()
    }
}
