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

    /// Whether the caller is the one who pays now; it must [end](Self::end_paying) that.
    pub(crate) fn begin_paying(&self) -> bool {
        !std::mem::replace(&mut self.inside.lock().paying, true)
    }

    pub(crate) fn end_paying(&self) {
        self.inside.lock().paying = false;
    }

    /// What is to be paid first.
    pub(crate) fn due(&self) -> Option<Due<K>> {
        let inside = self.inside.lock();
        if let Some(count) = inside.all {
            return Some(Due::Clear(count));
        }
        inside.keys.iter().next().map(|(key, &count)| Due::Remove(key.clone(), count))
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

    pub(crate) fn len(&self) -> usize {
        self.inside.lock().keys.len()
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
    fn too_many_put_the_whole_level_in_doubt() {
        let debts = Debts::new();
        (0..MOST).for_each(|key| debts.owe(&key));
        assert!(!debts.owes(&MOST) && debts.len() == MOST);
        debts.owe(&MOST);
        assert!(debts.owes(&usize::MAX));
        debts.settle(&3);
        assert!(debts.owes(&3));
        let due = debts.due().expect("all is owed");
        assert!(matches!(due, Due::Clear(_)));
        debts.owe(&5);
        debts.paid(due);
        assert!(debts.owes(&5) && !debts.owes(&6));
    }
}
