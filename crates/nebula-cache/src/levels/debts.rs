//! What a level could not be told: keys about which its word is not to be taken.
//!
//! A removal or a write that failed, or was not tried because the level is bypassed, leaves a value
//! in the level that may be an old one. Until the level has forgotten it, it is not asked about that
//! key. If there are too many, it is not asked at all until it has been cleared.

use std::{collections::HashMap, hash::Hash};

use nebula_memory_core::sync::{
    Mutex,
    atomic::{
        AtomicBool,
        Ordering::{Acquire, Release},
    },
};

/// The most keys that are noted one by one.
const MOST: usize = 1024;

#[derive(Debug)]
pub(crate) struct Debts<K> {
    /// Whether there are any, for a look without the lock. Set before the lock is released under
    /// which one is noted.
    any: AtomicBool,
    inside: Mutex<Inside<K>>,
}

#[derive(Debug)]
struct Inside<K> {
    keys: HashMap<K, u64>,
    /// Everything in the level is in doubt.
    all: Option<u64>,
    /// Tells debts for one key apart.
    count: u64,
    /// Whether somebody is at paying.
    paying: bool,
}

/// Somebody is at paying; ends when it is dropped, by a panic as well.
#[derive(Debug)]
pub(crate) struct Paying<'d, K>(&'d Debts<K>);

impl<K> Drop for Paying<'_, K> {
    fn drop(&mut self) {
        self.0.inside.lock().paying = false;
    }
}

/// What is to be done next.
#[derive(Debug)]
pub(crate) enum Due<K> {
    Remove(K, u64),
    Clear(u64),
}

impl<K: Hash + Eq + Clone> Debts<K> {
    pub(crate) fn new() -> Self {
        let inside = Inside { keys: HashMap::new(), all: None, count: 0, paying: false };
        Self { any: AtomicBool::new(false), inside: Mutex::new(inside) }
    }

    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.any.load(Acquire)
    }

    /// Whether the level is not to be asked about `key`.
    pub(crate) fn owes(&self, key: &K) -> bool {
        if !self.any() {
            return false;
        }
        let inside = self.inside.lock();
        inside.all.is_some() || inside.keys.contains_key(key)
    }

    /// The level was not told about `key`.
    pub(crate) fn owe(&self, key: &K) {
        let key = key.clone();
        let freed;
        {
            let mut inside = self.inside.lock();
            inside.count += 1;
            let count = inside.count;
            if inside.keys.len() < MOST || inside.keys.contains_key(&key) {
                inside.keys.insert(key, count);
                freed = None;
            } else {
                inside.all = Some(count);
                freed = Some((std::mem::take(&mut inside.keys), key));
            }
            self.any.store(true, Release);
        }
        drop(freed);
    }

    /// The level has not been cleared.
    pub(crate) fn owe_all(&self) {
        let freed;
        {
            let mut inside = self.inside.lock();
            inside.count += 1;
            inside.all = Some(inside.count);
            freed = std::mem::take(&mut inside.keys);
            self.any.store(true, Release);
        }
        drop(freed);
    }

    /// The level knows about `key` now.
    pub(crate) fn settle(&self, key: &K) {
        if !self.any() {
            return;
        }
        let mut inside = self.inside.lock();
        let freed = inside.keys.remove_entry(key);
        self.show(&inside);
        drop(inside);
        drop(freed);
    }

    fn show(&self, inside: &Inside<K>) {
        self.any.store(inside.all.is_some() || !inside.keys.is_empty(), Release);
    }

    /// Whether the caller is the one who pays now, until what this returns is dropped.
    pub(crate) fn begin_paying(&self) -> Option<Paying<'_, K>> {
        let others = std::mem::replace(&mut self.inside.lock().paying, true);
        (!others).then_some(Paying(self))
    }

    /// What is to be paid first: what has been owed for longest.
    pub(crate) fn due(&self) -> Option<Due<K>> {
        let inside = self.inside.lock();
        if let Some(count) = inside.all {
            return Some(Due::Clear(count));
        }
        let oldest = inside.keys.iter().min_by_key(|(_, count)| **count);
        oldest.map(|(key, &count)| Due::Remove(key.clone(), count))
    }

    /// It could not be done: it is paid after the others.
    pub(crate) fn put_off(&self, due: &Due<K>) {
        let Due::Remove(key, count) = due else { return };
        let mut inside = self.inside.lock();
        inside.count += 1;
        let last = inside.count;
        if let Some(owed) = inside.keys.get_mut(key).filter(|owed| **owed == *count) {
            *owed = last;
        }
    }

    /// It has been done; what came to be owed meanwhile is still owed.
    pub(crate) fn paid(&self, due: Due<K>) {
        let mut inside = self.inside.lock();
        let mut freed = None;
        match &due {
            Due::Clear(count) => {
                inside.all.take_if(|all| *all == *count);
            }
            Due::Remove(key, count) => {
                if inside.keys.get(key) == Some(count) {
                    freed = inside.keys.remove_entry(key);
                }
            }
        }
        self.show(&inside);
        drop(inside);
        drop((freed, due));
    }

    /// How many keys are owed; all there are if the whole level is in doubt.
    pub(crate) fn len(&self) -> u64 {
        let inside = self.inside.lock();
        if inside.all.is_some() { u64::MAX } else { inside.keys.len() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debt_that_comes_back_while_it_is_paid_stays() {
        let debts = Debts::new();
        debts.owe(&7);
        let due = debts.due().expect("one is owed");
        debts.owe(&7);
        debts.paid(due);
        assert!(debts.owes(&7));
        let due = debts.due().expect("one is owed");
        debts.paid(due);
        assert!(!debts.owes(&7) && !debts.any());
    }

    #[test]
    fn what_has_been_owed_longest_is_due_first_and_what_is_put_off_last() {
        let debts = Debts::new();
        (0..3).for_each(|key| debts.owe(&key));
        for key in [0, 1, 2, 0] {
            let due = debts.due().expect("three are owed");
            assert!(matches!(due, Due::Remove(next, _) if next == key), "{due:?}");
            debts.put_off(&due);
        }
        assert_eq!(debts.len(), 3);
    }

    #[test]
    fn paying_ends_by_a_panic_as_well() {
        let debts = Debts::<u8>::new();
        let paying = debts.begin_paying();
        assert!(paying.is_some() && debts.begin_paying().is_none());
        let panics = move || -> () {
            let _paying = paying;
            std::panic::resume_unwind(Box::new(()));
        };
        assert!(nebula_memory_core::panics::quietly(panics).is_none());
        assert!(debts.begin_paying().is_some());
    }

    #[test]
    fn too_many_put_the_whole_level_in_doubt() {
        let debts = Debts::new();
        (0..MOST).for_each(|key| debts.owe(&key));
        assert!(!debts.owes(&MOST) && debts.len() == MOST as u64);
        debts.owe(&MOST);
        assert!(debts.owes(&usize::MAX) && debts.len() == u64::MAX);
        debts.settle(&3);
        assert!(debts.owes(&3));
        let due = debts.due().expect("all is owed");
        assert!(matches!(due, Due::Clear(_)));
        debts.owe(&5);
        debts.paid(due);
        assert!(debts.owes(&5) && !debts.owes(&6));
    }
}
