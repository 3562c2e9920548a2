//! Models of the policies that keep an approximate memory, which they have in common with them.

use std::collections::VecDeque;

use super::{
    super::{
        ghosts::{Ghosts, remember_among, ways_for},
        sketch::Sketch,
    },
    mock::hash_of,
    models::{Keys, Model},
};

/// With the real memory of past entries.
pub(crate) struct S3FifoModel {
    capacity: usize,
    small: VecDeque<(u32, u8)>,
    main: VecDeque<(u32, u8)>,
    ghosts: Ghosts,
}

impl S3FifoModel {
    fn evict(&mut self) -> u32 {
        loop {
            let small = self.small.len();
            if small > 0 && (self.main.is_empty() || small >= self.capacity / 10) {
                let (key, hits) = self.small.pop_front().unwrap();
                if hits < 2 {
                    self.ghosts.remember(hash_of(key));
                    return key;
                }
                self.main.push_back((key, 0));
            } else {
                let (key, hits) = self.main.pop_front().unwrap();
                if hits == 0 {
                    return key;
                }
                self.main.push_back((key, hits - 1));
            }
        }
    }
}

impl Model for S3FifoModel {
    fn new(capacity: usize) -> Self {
        let mut ghosts = Ghosts::default();
        ghosts.adopt(Ghosts::allocate(ghosts.wanted(capacity)).unwrap());
        Self { capacity, small: VecDeque::new(), main: VecDeque::new(), ghosts }
    }

    fn request(&mut self, key: u32) -> (bool, Option<u32>) {
        let mut all = self.small.iter_mut().chain(&mut self.main);
        if let Some((_, hits)) = all.find(|member| member.0 == key) {
            *hits = (*hits + 1).min(3);
            return (true, None);
        }
        let back = self.ghosts.recall(hash_of(key));
        let full = self.small.len() + self.main.len() == self.capacity;
        let evicted = if full { Some(self.evict()) } else { None };
        if back { &mut self.main } else { &mut self.small }.push_back((key, 0));
        (false, evicted)
    }
}

/// With the real memory of past entries.
pub(crate) struct SteadyModel {
    capacity: usize,
    small: VecDeque<(u32, u8)>,
    main: VecDeque<(u32, u8)>,
    ghosts: Ghosts,
    failures: usize,
}

impl SteadyModel {
    fn len(&self) -> usize {
        self.small.len() + self.main.len()
    }

    fn evict(&mut self) -> u32 {
        let most = (self.capacity * 184 / 1024).max(1);
        let mut passes = 0;
        loop {
            let tired = passes == 64;
            if self.main.is_empty() || self.small.len() >= most {
                let (key, hits) = self.small.pop_front().unwrap();
                if hits >= 2 && !tired {
                    self.main.push_back((key, 0));
                    passes += 1;
                    continue;
                }
                self.failures += 1;
                let due = self.failures >= 128 && self.failures * self.len() >= 4096;
                if due && !self.main.is_empty() {
                    self.failures = 0;
                    let (stale, hits) = self.main.pop_front().unwrap();
                    if hits == 0 {
                        self.main.push_back((key, 0));
                        return stale;
                    }
                    self.main.push_back((stale, hits - 1));
                }
                let len = self.len();
                let rings = self.ghosts.rings_mut();
                let (count, ways) = (rings.len(), ways_for(len, rings.len()));
                remember_among(rings, count, hash_of(key), ways);
                return key;
            }
            let (key, hits) = self.main.pop_front().unwrap();
            if hits == 0 || tired {
                return key;
            }
            self.main.push_back((key, hits - 1));
            passes += 1;
        }
    }
}

impl Model for SteadyModel {
    fn new(capacity: usize) -> Self {
        let mut ghosts = Ghosts::default();
        ghosts.adopt(Ghosts::allocate(ghosts.wanted(capacity)).unwrap());
        Self { capacity, small: VecDeque::new(), main: VecDeque::new(), ghosts, failures: 0 }
    }

    fn request(&mut self, key: u32) -> (bool, Option<u32>) {
        let mut all = self.small.iter_mut().chain(&mut self.main);
        if let Some((_, hits)) = all.find(|member| member.0 == key) {
            *hits = (*hits + 1).min(3);
            return (true, None);
        }
        let back = self.ghosts.recall(hash_of(key));
        let full = self.len() == self.capacity;
        let evicted = full.then(|| self.evict());
        if back {
            self.main.push_back((key, 0));
            return (false, evicted);
        }
        if !full {
            let most = ((self.len() + 1) * 184 / 1024).max(1);
            for _ in 0..8 {
                if self.small.is_empty() || self.small.len() < most {
                    break;
                }
                let (oldest, _) = self.small.pop_front().unwrap();
                self.main.push_back((oldest, 0));
            }
        }
        self.small.push_back((key, 0));
        (false, evicted)
    }
}

/// With the real sketch.
pub(crate) struct WTinyLfuModel {
    capacity: usize,
    window: Keys,
    probation: Keys,
    protected: Keys,
    sketch: Sketch,
    share: f64,
    step: f64,
    ratio: f64,
    outcomes: Vec<bool>,
}

impl WTinyLfuModel {
    fn len(&self) -> usize {
        self.window.len() + self.probation.len() + self.protected.len()
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
    fn most(&self, share: f64) -> usize {
        (self.len() as f64 * share) as usize
    }

    fn note(&mut self, key: u32, hit: bool) {
        let sample = 10 * self.len().max(1);
        self.sketch.count(hash_of(key), sample);
        self.outcomes.push(hit);
        if self.outcomes.len() >= sample {
            let hits = self.outcomes.iter().filter(|&&hit| hit).count();
            let ratio = hits as f64 / self.outcomes.len() as f64;
            let change = ratio - std::mem::replace(&mut self.ratio, ratio);
            let amount = if change < 0.0 { -self.step } else { self.step };
            self.share = (self.share + amount).clamp(0.0, 0.802);
            self.step = match change.abs() {
                0.05.. => 0.0625 * amount.signum(),
                _ => 0.98 * amount,
            };
            self.outcomes.clear();
        }
    }

    fn evict(&mut self) -> Option<u32> {
        let victims = if self.probation.len() > 0 { &self.probation } else { &self.protected };
        let Some(&victim) = victims.0.front() else { return self.window.pop() };
        if self.window.len() + 1 > self.most(self.share).max(1) {
            if let Some(candidate) = self.window.pop() {
                let frequency = |key| self.sketch.frequency(hash_of(key));
                if frequency(candidate) <= frequency(victim) {
                    return Some(candidate);
                }
                // It is compared with the one of the main part that goes now.
                if !self.probation.take(victim) {
                    self.protected.take(victim);
                }
                self.probation.push(candidate);
                return Some(victim);
            }
        }
        if self.probation.len() > 0 { self.probation.pop() } else { self.protected.pop() }
    }
}

impl Model for WTinyLfuModel {
    fn new(capacity: usize) -> Self {
        let mut sketch = Sketch::default();
        sketch.adopt(Sketch::allocate(sketch.wanted(capacity)).unwrap());
        let [window, probation, protected] = std::array::from_fn(|_| Keys::default());
        Self {
            capacity,
            window,
            probation,
            protected,
            sketch,
            share: 0.01,
            step: 0.0625,
            ratio: 0.0,
            outcomes: Vec::new(),
        }
    }

    fn request(&mut self, key: u32) -> (bool, Option<u32>) {
        let queues = [&self.window, &self.probation, &self.protected];
        let Some(found) = queues.iter().position(|queue| queue.0.contains(&key)) else {
            self.note(key, false);
            let full = self.len() == self.capacity;
            let evicted = if full { self.evict() } else { None };
            self.window.push(key);
            for _ in 0..8 {
                if self.window.len() > self.most(self.share).max(1) {
                    let oldest = self.window.pop().unwrap();
                    self.probation.push(oldest);
                }
            }
            return (false, evicted);
        };
        self.note(key, true);
        if found == 0 {
            self.window.take(key);
            self.window.push(key);
        } else {
            if !self.probation.take(key) {
                self.protected.take(key);
            }
            self.protected.push(key);
            // Nobody falls back for a hit in the protected segment itself.
            while found == 1 && self.protected.len() > 1 {
                if self.protected.len() <= self.most(1.0 - 0.198 - self.share) {
                    break;
                }
                let oldest = self.protected.pop().unwrap();
                self.probation.push(oldest);
            }
        }
        (true, None)
    }
}
