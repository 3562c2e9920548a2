//! What leaves a store: carried out of the lock, shown to the listener, dropped, then credited.

use nebula_memory_core::Account;

use crate::{
    Kit, RemovalCause,
    hooks::Evictions,
    mode::Mode,
    room::{Room, Total},
    store::Entry,
    times::sealed::Times,
};

/// How many entries are taken out in one hold of a lock, at most. A hold stays short, and the bag
/// needs no allocation.
const BATCH: usize = 2;

/// Bytes credited when this is dropped, by a panic as well.
#[derive(Debug)]
pub(crate) struct Credit<'c, A: Account> {
    account: &'c A,
    pub(crate) bytes: usize,
}

impl<'c, A: Account> Credit<'c, A> {
    /// `bytes` that are charged to `account`.
    #[inline]
    pub(crate) const fn of(account: &'c A, bytes: usize) -> Self {
        Self { account, bytes }
    }

    /// The bytes belong to somebody else now.
    #[inline]
    pub(crate) fn hand_over(mut self) {
        self.bytes = 0;
        std::mem::forget(self);
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
/// user's code. What they owned is credited after they are freed, even if a `Drop` panics, for which the
/// order of the fields cares; their room, at the latest then.
pub(crate) struct Bag<'c, K, V, A: Account, M: Mode> {
    entries: [Option<(K, V, RemovalCause)>; BATCH],
    len: usize,
    /// Who takes over what is evicted, and hash and deadline of the entries, for them alone.
    evictions: Option<&'c Evictions<K, V>>,
    evicted: [(u32, u64); BATCH],
    /// The value that a new one took the place of, with its key or an equal one.
    pub(crate) replaced: Option<(K, V, RemovalCause)>,
    pub(crate) credit: Credit<'c, A>,
    pub(crate) room: Room<'c, M>,
}

impl<'c, K, V, A: Account, M: Mode> Bag<'c, K, V, A, M> {
    #[inline]
    pub(crate) fn new(
        account: &'c A,
        total: &'c Total<M>,
        evictions: Option<&'c Evictions<K, V>>,
    ) -> Self {
        let (credit, room) = (Credit::of(account, 0), Room::none(total));
        let (entries, evicted) = ([const { None }; BATCH], [(0, 0); BATCH]);
        Self { entries, len: 0, evictions, evicted, replaced: None, credit, room }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub(crate) const fn is_full(&self) -> bool {
        self.len == BATCH
    }

    /// Puts an entry in; the bag must not be full.
    #[inline]
    pub(crate) fn put<O: Kit>(&mut self, entry: Entry<K, V, O>, cause: RemovalCause) {
        self.credit.bytes = self.credit.bytes.wrapping_add(entry.charge());
        if let Some(evictions) = self.evictions {
            if cause.is_eviction() {
                evictions.leaving(entry.hash());
                self.evicted[self.len] = (entry.hash(), entry.kept.times.deadline());
            }
        }
        self.entries[self.len] = Some((entry.key, entry.value, cause));
        self.len += 1;
    }

    /// Hands what was evicted to who takes it over. The lock has to be released by now.
    #[inline]
    pub(crate) fn hand_on(&self) {
        if let Some(evictions) = self.evictions {
            for (entry, &(hash, deadline)) in self.entries.iter().zip(&self.evicted) {
                if let Some((key, value, cause)) = entry {
                    if cause.is_eviction() {
                        evictions.left(hash, key, value, deadline);
                    }
                }
            }
        }
    }

    /// Shows everything in it to `listener`. The lock has to be released by now.
    pub(crate) fn show(&self, listener: &(impl Fn(&K, &V, RemovalCause) + ?Sized)) {
        for (key, value, cause) in self.entries.iter().flatten().chain(&self.replaced) {
            listener(key, value, *cause);
        }
    }
}
