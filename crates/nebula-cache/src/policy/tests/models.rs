//! What policies have to do, written down as plainly as possible and for entries of one weight.

use std::collections::{HashMap, VecDeque};

/// A cache of `capacity` entries.
pub(crate) trait Model {
    fn new(capacity: usize) -> Self;

    /// The outcome of a request: whether it was a hit, and who was evicted.
    fn request(&mut self, key: u32) -> (bool, Option<u32>);
}

/// A queue with its newest member at the back.
#[derive(Debug, Default)]
pub(crate) struct Keys(pub(crate) VecDeque<u32>);

impl Keys {
    pub(crate) fn take(&mut self, key: u32) -> bool {
        let at = self.0.iter().position(|&other| other == key);
        at.is_some_and(|at| self.0.remove(at).is_some())
    }

    pub(crate) fn push(&mut self, key: u32) {
        self.0.push_back(key);
    }

    pub(crate) fn pop(&mut self) -> Option<u32> {
        self.0.pop_front()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

pub(crate) struct FifoModel(usize, Keys);

impl Model for FifoModel {
    fn new(capacity: usize) -> Self {
        Self(capacity, Keys::default())
    }

    fn request(&mut self, key: u32) -> (bool, Option<u32>) {
        if self.1.0.contains(&key) {
            return (true, None);
        }
        let evicted = if self.1.len() == self.0 { self.1.pop() } else { None };
        self.1.push(key);
        (false, evicted)
    }
}

pub(crate) struct LruModel(usize, Keys);

impl Model for LruModel {
    fn new(capacity: usize) -> Self {
        Self(capacity, Keys::default())
    }

    fn request(&mut self, key: u32) -> (bool, Option<u32>) {
        let hit = self.1.take(key);
        let evicted = if self.1.len() == self.0 { self.1.pop() } else { None };
        self.1.push(key);
        (hit, evicted)
    }
}

pub(crate) struct SieveModel {
    capacity: usize,
    /// Key and whether it was visited; the oldest first.
    queue: Vec<(u32, bool)>,
    hand: usize,
}

impl Model for SieveModel {
    fn new(capacity: usize) -> Self {
        Self { capacity, queue: Vec::new(), hand: 0 }
    }

    fn request(&mut self, key: u32) -> (bool, Option<u32>) {
        if let Some(member) = self.queue.iter_mut().find(|member| member.0 == key) {
            member.1 = true;
            return (true, None);
        }
        let mut evicted = None;
        if self.queue.len() == self.capacity {
            while std::mem::take(&mut self.queue[self.hand].1) {
                self.hand = (self.hand + 1) % self.capacity;
            }
            evicted = Some(self.queue.remove(self.hand).0);
            // Past the newest it begins again at the oldest, whoever comes in now.
            self.hand %= self.queue.len().max(1);
        }
        self.queue.push((key, false));
        (false, evicted)
    }
}

pub(crate) struct LfuModel {
    capacity: usize,
    /// Uses, key of the order, and time of the last use.
    entries: HashMap<u32, (u64, u64, u64)>,
    age: u64,
    now: u64,
}

impl Model for LfuModel {
    fn new(capacity: usize) -> Self {
        Self { capacity, entries: HashMap::new(), age: 0, now: 0 }
    }

    fn request(&mut self, key: u32) -> (bool, Option<u32>) {
        self.now += 1;
        if let Some((uses, order, used)) = self.entries.get_mut(&key) {
            *uses = (*uses + 1).min(255);
            (*order, *used) = (self.age + *uses, self.now);
            return (true, None);
        }
        let mut evicted = None;
        if self.entries.len() == self.capacity {
            let least = self.entries.iter().min_by_key(|(_, (_, order, used))| (*order, *used));
            let (&victim, &(_, order, _)) = least.unwrap();
            self.entries.remove(&victim);
            self.age = order;
            evicted = Some(victim);
        }
        self.entries.insert(key, (1, self.age + 1, self.now));
        (false, evicted)
    }
}

/// Step by step as in figure 4 of the paper.
pub(crate) struct ArcModel {
    c: usize,
    p: f64,
    t1: Keys,
    t2: Keys,
    b1: Keys,
    b2: Keys,
}

impl ArcModel {
    fn replace(&mut self, in_b2: bool) -> Option<u32> {
        let t1 = self.t1.len() as f64;
        if t1 >= 1.0 && ((in_b2 && t1 >= self.p) || t1 > self.p) {
            let key = self.t1.pop()?;
            self.b1.push(key);
            Some(key)
        } else {
            let key = self.t2.pop()?;
            self.b2.push(key);
            Some(key)
        }
    }
}

impl Model for ArcModel {
    fn new(c: usize) -> Self {
        let [t1, t2, b1, b2] = std::array::from_fn(|_| Keys::default());
        Self { c, p: 0.0, t1, t2, b1, b2 }
    }

    fn request(&mut self, x: u32) -> (bool, Option<u32>) {
        let (b1, b2) = (self.b1.len() as f64, self.b2.len() as f64);
        let mut evicted = None;
        // Case I.
        if self.t1.take(x) || self.t2.take(x) {
            self.t2.push(x);
            return (true, None);
        }
        // Case II.
        if self.b1.0.contains(&x) {
            self.p = (self.p + (b2 / b1).max(1.0)).min(self.c as f64);
            evicted = self.replace(false);
            self.b1.take(x);
            self.t2.push(x);
            return (false, evicted);
        }
        // Case III.
        if self.b2.0.contains(&x) {
            self.p = (self.p - (b1 / b2).max(1.0)).max(0.0);
            evicted = self.replace(true);
            self.b2.take(x);
            self.t2.push(x);
            return (false, evicted);
        }
        // Case IV.
        let l1 = self.t1.len() + self.b1.len();
        let all = l1 + self.t2.len() + self.b2.len();
        if l1 == self.c {
            if self.t1.len() < self.c {
                self.b1.pop();
                evicted = self.replace(false);
            } else {
                evicted = self.t1.pop();
            }
        } else if all >= self.c {
            if all == 2 * self.c {
                self.b2.pop();
            }
            evicted = self.replace(false);
        }
        self.t1.push(x);
        (false, evicted)
    }
}
