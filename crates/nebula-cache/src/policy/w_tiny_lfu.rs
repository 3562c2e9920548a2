//! W-TinyLFU: Einziger, Friedman and Manes, "TinyLFU: a highly efficient cache admission policy",
//! ACM Transactions on Storage 2017; the window adapts as described by Einziger, Eytan, Friedman and
//! Manes, "Adaptive software cache management", Middleware 2018, with the constants of Caffeine.
//!
//! Fresh entries enter a small window in the order of use. Who leaves it asks for admission to the
//! main part and competes there with the one that would be evicted next: who came up more often
//! lately, by a [`Sketch`] of all requests, stays. The main part is a segmented LRU: whoever is hit
//! in its probationary segment moves to the protected one, and back when that is full. Every so many
//! requests the window grows or shrinks a step, on in the same direction as long as the hit ratio
//! rises. The first step is upwards: so small a window can hardly shrink. Nobody is moved for a
//! window that has grown: it fills with those who come, and the main part makes room.
//!
//! As everywhere here, shares are of what the store holds now, because its share of the cache's
//! capacity is not fixed.

use std::collections::TryReserveError;

use super::{
    Newcomer, Nodes, Place, Queue, drive,
    links::tally,
    shape::{memory_in, queues_by_place},
    sketch::{Line, Sketch},
};
use crate::{PolicyKind, slab::NONE};

/// The window's share at the beginning.
const WINDOW: f64 = 0.01;

/// The probationary segment's share: a fifth of the main part at the beginning, of which changes of
/// the window leave it alone.
const PROBATION: f64 = (1.0 - WINDOW) * 0.2;

/// Requests of a sample, in entries.
const SAMPLE: usize = 10;

/// The first step by which the window's share changes.
const STEP: f64 = 0.0625;

/// Each further step is this much of the one before.
const DECAY: f64 = 0.98;

/// A change of the hit ratio that starts again with the first step.
const RESTART: f64 = 0.05;

/// Entries that leave a window that has become too large, at each insertion.
const LEAVES: usize = 8;

/// W-TinyLFU (Einziger, Friedman and Manes, 2017): who comes up more often than the one in its place
/// is admitted, by a sketch of all requests.
///
/// Every hit writes to the queues and so takes its part of the cache for itself. Takes 8 to
/// 16 bytes for each entry.
#[derive(Debug)]
pub struct WTinyLfu {
    window: Queue,
    probation: Queue,
    protected: Queue,
    sketch: Sketch,
    climber: Climber,
}

const FRESH: Place = Place::First;
const PROBATIONARY: Place = Place::Second;
const PROTECTED: Place = Place::Third;

/// Looks for the window's best share by hill climbing.
#[derive(Debug)]
struct Climber {
    /// The window's share of the weight.
    share: f64,
    hits: usize,
    misses: usize,
    /// The last sample's hit ratio.
    ratio: f64,
    /// What the share changes by next, if the hit ratio does not fall.
    step: f64,
}

impl Climber {
    const fn new() -> Self {
        Self { share: WINDOW, hits: 0, misses: 0, ratio: 0.0, step: STEP }
    }

    /// Notes a request; at the end of a sample of `sample`, the share may change.
    #[inline]
    fn note(&mut self, hit: bool, sample: usize) {
        self.hits += usize::from(hit);
        self.misses += usize::from(!hit);
        if self.hits + self.misses >= sample {
            self.climb();
        }
    }

    #[cold]
    fn climb(&mut self) {
        let ratio = self.hits as f64 / (self.hits + self.misses) as f64;
        let change = ratio - self.ratio;
        let amount = if change >= 0.0 { self.step } else { -self.step };
        self.step = if change.abs() >= RESTART { STEP.copysign(amount) } else { amount * DECAY };
        self.share = (self.share + amount).clamp(0.0, 1.0 - PROBATION);
        (self.hits, self.misses, self.ratio) = (0, 0, ratio);
    }
}

/// A share of a weight.
#[inline]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "shares are between zero and one"
)]
fn part(weight: usize, share: f64) -> usize {
    (weight as f64 * share) as usize
}

impl WTinyLfu {
    const fn queue(&mut self, place: Place) -> &mut Queue {
        match place {
            FRESH => &mut self.window,
            PROBATIONARY => &mut self.probation,
            _ => &mut self.protected,
        }
    }

    const fn len(&self) -> usize {
        self.window.len() + self.probation.len() + self.protected.len()
    }

    const fn weight(&self) -> usize {
        self.window.weight() + self.probation.weight() + self.protected.weight()
    }

    /// What the window may weigh: room for an entry at least.
    #[inline]
    fn most_in_window(&self) -> usize {
        part(self.weight(), self.climber.share).max(1)
    }

    /// Counts a request.
    #[inline]
    fn note(&mut self, hash: u32, hit: bool) {
        let sample = self.len().max(1).saturating_mul(SAMPLE);
        self.sketch.count(hash, sample);
        self.climber.note(hit, sample);
    }

    #[inline]
    fn push<N: Nodes>(&mut self, nodes: &mut N, token: u32, place: Place) {
        nodes.node_mut(token).place = place;
        self.queue(place).push(nodes, token);
    }

    #[inline]
    fn leave_window<N: Nodes>(&mut self, nodes: &mut N) {
        let token = self.window.tail();
        self.window.unlink(nodes, token);
        self.push(nodes, token, PROBATIONARY);
    }

    /// Takes in an entry that was used again. Amortised O(1): who falls back rose before.
    #[inline]
    fn protect<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        self.push(nodes, token, PROTECTED);
        let most = part(self.weight(), 1.0 - PROBATION - self.climber.share);
        while self.protected.weight() > most && self.protected.len() > 1 {
            let token = self.protected.tail();
            self.protected.unlink(nodes, token);
            self.push(nodes, token, PROBATIONARY);
        }
    }
}

impl drive::Policy for WTinyLfu {
    memory_in!(sketch: Sketch of Line);
    queues_by_place!();

    fn new(_kind: PolicyKind) -> Self {
        Self {
            window: Queue::default(),
            probation: Queue::default(),
            protected: Queue::default(),
            sketch: Sketch::default(),
            climber: Climber::new(),
        }
    }

    fn kind(&self) -> PolicyKind {
        PolicyKind::WTinyLfu
    }

    fn shares_hits(&self) -> bool {
        false
    }

    #[inline]
    fn touch<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        self.note(nodes.hash(token), true);
        match nodes.node(token).place {
            FRESH => self.window.promote(nodes, token),
            PROBATIONARY => {
                self.probation.unlink(nodes, token);
                self.protect(nodes, token);
            }
            _ => self.protected.promote(nodes, token),
        }
    }

    #[inline]
    fn admit(&mut self, hash: u32) -> Newcomer {
        self.note(hash, false);
        Newcomer::default()
    }

    #[inline]
    fn insert<N: Nodes>(&mut self, nodes: &mut N, token: u32, _newcomer: Newcomer) {
        self.push(nodes, token, FRESH);
        // As long as there is room for all, those who leave the window need not compete.
        let most = self.most_in_window();
        for _ in 0..LEAVES {
            if self.window.weight() <= most || self.window.len() == 1 {
                break;
            }
            self.leave_window(nodes);
        }
    }

    fn evict<N: Nodes>(&mut self, nodes: &mut N, newcomer: Option<&Newcomer>) -> Option<u32> {
        let candidate = self.window.tail();
        let victim = match (self.probation.tail(), self.protected.tail()) {
            (NONE, NONE) => {
                if candidate == NONE {
                    return None;
                }
                self.window.unlink(nodes, candidate);
                return Some(candidate);
            }
            (NONE, protected) => protected,
            (probation, _) => probation,
        };
        // Where a newcomer waits, somebody has to make room for it in the window.
        let average = newcomer.map_or(0, |_| self.weight() / self.len());
        if candidate != NONE && self.window.weight() + average > self.most_in_window() {
            let frequency = |token| self.sketch.frequency(nodes.hash(token));
            if frequency(candidate) <= frequency(victim) {
                self.window.unlink(nodes, candidate);
                return Some(candidate);
            }
            self.leave_window(nodes);
        }
        let place = nodes.node(victim).place;
        self.queue(place).unlink(nodes, victim);
        Some(victim)
    }

    fn restore<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        self.protect(nodes, token);
    }

    fn coldest_first<N: Nodes>(&self, nodes: &N, mut each: impl FnMut(u32)) {
        self.probation.oldest_first(nodes, &mut each);
        self.window.oldest_first(nodes, &mut each);
        self.protected.oldest_first(nodes, each);
    }

    fn validate<N: Nodes>(&self, nodes: &N, len: usize, weight: usize) -> Result<(), String> {
        self.window.validate(nodes, |node| node.place == FRESH)?;
        self.probation.validate(nodes, |node| node.place == PROBATIONARY)?;
        self.protected.validate(nodes, |node| node.place == PROTECTED)?;
        if !(0.0..=1.0 - PROBATION).contains(&self.climber.share) {
            return Err(format!("the window's share is {}", self.climber.share));
        }
        tally(&[&self.window, &self.probation, &self.protected], len, weight)
    }
}
