//! What leaves a store: carried out of the lock, then dropped, then credited.

use nebula_memory_core::Account;

use crate::store::Entry;

/// How many entries are taken out in one hold of a lock, at most. A hold stays short, and the bag
/// needs no allocation.
const BATCH: usize = 4;

/// Bytes credited when this is dropped, by a panic as well.
#[derive(Debug)]
pub(crate) struct Credit<'c, A: Account> {
    account: &'c A,
    pub(crate) bytes: usize,
}

impl<'c, A: Account> Credit<'c, A> {
    /// `bytes` that are charged to `account`.
    pub(crate) const fn of(account: &'c A, bytes: usize) -> Self {
        Self { account, bytes }
    }
}

impl<A: Account> Drop for Credit<'_, A> {
    #[inline]
    fn drop(&mut self) {
        if self.bytes != 0 {
            self.account.credit(self.bytes);
        }
    }
}

/// Entries that left a store. Must be dropped after the lock is released: their `Drop` is the
/// user's code. What they owned is credited after it is freed, even if a `Drop` panics, for which
/// the order of the fields cares.
#[derive(Debug)]
pub(crate) struct Bag<'c, K, V, A: Account> {
    entries: [Option<(K, V)>; BATCH],
    /// A key that an equal one stood for already.
    pub(crate) key: Option<K>,
    len: usize,
    pub(crate) weight: usize,
    pub(crate) credit: Credit<'c, A>,
}

impl<'c, K, V, A: Account> Bag<'c, K, V, A> {
    #[inline]
    pub(crate) const fn new(account: &'c A) -> Self {
        let entries = [const { None }; BATCH];
        Self { entries, key: None, len: 0, weight: 0, credit: Credit::of(account, 0) }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.len == BATCH
    }

    /// Puts an entry in; the bag must not be full.
    #[inline]
    pub(crate) fn put<W: crate::weigher::Kept, N>(&mut self, entry: Entry<K, V, W, N>) {
        self.weight += entry.weight();
        self.credit.bytes += entry.owned();
        self.entries[self.len] = Some((entry.key, entry.value));
        self.len += 1;
    }
}
