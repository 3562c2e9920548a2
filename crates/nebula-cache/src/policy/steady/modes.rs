//! The modes of [`Steady`](super::Steady), and what all of them do: the steps of eviction and of
//! insertion, written once for the real queues and for those of the shadows.

use super::super::{Links, Place};

/// Fresh entries.
pub(super) const SMALL: Place = Place::First;

/// Those that proved themselves.
pub(super) const MAIN: Place = Place::Second;

/// What the policy can be like.
#[derive(Debug)]
pub(super) struct Mode {
    /// The small queue's share of the weight, in 1024ths.
    small: usize,
    /// Hits in the small queue that earn a place in the main one.
    hits_to_stay: u8,
    /// Whether one who was hit, but not as often, goes round in the small queue.
    second_chance: bool,
    /// Whether one who is remembered comes to the main queue only if its end was not hit, and leaves
    /// for it.
    guarded: bool,
    /// One in so many of those that failed is exchanged for the end of the main queue.
    failures: u32,
    /// What a change to it or from it must gain, in 64ths of a shadow's size.
    pub(super) price: u32,
}

/// All modes; what a policy is in until it knows better comes first.
pub(super) static MODES: [Mode; 4] = [
    // Balanced: good at most loads.
    Mode {
        small: 184,
        hits_to_stay: 2,
        second_chance: false,
        guarded: false,
        failures: 128,
        price: 3,
    },
    // By frequency, and for loops.
    Mode {
        small: 10,
        hits_to_stay: 1,
        second_chance: false,
        guarded: true,
        failures: 16,
        price: 3,
    },
    // First in, first out, for all but a few: where use is a question of recency.
    Mode {
        small: 973,
        hits_to_stay: 2,
        second_chance: false,
        guarded: false,
        failures: 64,
        price: 24,
    },
    // In between.
    Mode {
        small: 410,
        hits_to_stay: 2,
        second_chance: true,
        guarded: false,
        failures: 64,
        price: 3,
    },
];

/// In a small store, one in so many divided by the entries is exchanged: it should not lose all of
/// its main queue within one round of a loop.
const FAILURES_BY_ENTRIES: usize = 4096;

/// Entries that an eviction passes over, at most.
const MOST_PASSES: usize = 64;

/// Entries that an insertion moves out of the small queue while the store is not full, at most.
const MOST_MOVES: usize = 8;

/// An entry at the end of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    pub(super) token: u32,
    /// What it is remembered by.
    pub(super) hash: u32,
    pub(super) links: Links,
    /// As the queues keep them: see [`Lanes::hits`].
    pub(super) hits: u8,
}

/// The small queue and the main queue.
pub(super) trait Lanes {
    /// What is in both weighs.
    fn weight(&self) -> usize;
    /// What is in the small queue weighs.
    fn small_weight(&self) -> usize;
    fn len(&self) -> usize;
    fn main_is_empty(&self) -> bool;
    fn tail(&mut self, lane: Place) -> Option<Tail>;
    /// How often it was hit.
    fn hits(tail: &Tail) -> u8;
    /// Takes the tail out of its lane.
    fn take(&mut self, lane: Place, tail: &Tail);
    /// Puts what was taken out at the head of a lane, as if it had not been hit.
    fn put(&mut self, lane: Place, tail: &Tail);
    /// Moves the tail to the head of the same lane; counts `hits` for it from now on.
    fn turn(&mut self, lane: Place, tail: &Tail, hits: u8);
    /// Remembers the tail, which is about to be taken out, as one of those that failed.
    fn remember(&mut self, tail: &Tail);
}

impl Mode {
    /// What the small queue may weigh of `weight`: an entry at least.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "a share of it is smaller")]
    const fn small_share(&self, weight: usize) -> usize {
        let share = (weight as u128 * self.small as u128 / 1024) as usize;
        if share == 0 { 1 } else { share }
    }

    /// Counts an entry that failed, of `len`. Whether it may be exchanged, should the main queue's
    /// end be stale.
    #[inline]
    const fn fail(&self, failures: &mut u32, len: usize) -> bool {
        // (Begins anew in the end, if there is nobody to exchange him for.)
        *failures = failures.wrapping_add(1);
        *failures >= self.failures && len.saturating_mul(*failures as usize) >= FAILURES_BY_ENTRIES
    }

    /// Chooses the entry to evict, of those that weigh `weight`: the one that is now the tail of the
    /// lane.
    #[inline(always)]
    pub(super) fn choose<L: Lanes>(
        &self,
        lanes: &mut L,
        weight: usize,
        failures: &mut u32,
    ) -> Option<(Place, Tail)> {
        let most = self.small_share(weight);
        let mut passes = 0;
        while lanes.main_is_empty() || lanes.small_weight() >= most {
            let tail = lanes.tail(SMALL)?;
            let hits = L::hits(&tail);
            if hits > 0 && passes < MOST_PASSES {
                if hits >= self.hits_to_stay {
                    passes += 1;
                    lanes.take(SMALL, &tail);
                    lanes.put(MAIN, &tail);
                    continue;
                }
                if self.second_chance {
                    passes += 1;
                    lanes.turn(SMALL, &tail, 0);
                    continue;
                }
            }
            let due = self.fail(failures, lanes.len() - 1);
            if let Some(stale) = if due { lanes.tail(MAIN) } else { None } {
                *failures = 0;
                let hits = L::hits(&stale);
                if hits == 0 {
                    lanes.take(SMALL, &tail);
                    lanes.put(MAIN, &tail);
                    // It has other neighbours now.
                    return Some((MAIN, lanes.tail(MAIN)?));
                }
                lanes.turn(MAIN, &stale, hits - 1);
            }
            lanes.remember(&tail);
            return Some((SMALL, tail));
        }
        loop {
            let tail = lanes.tail(MAIN)?;
            let hits = L::hits(&tail);
            if hits == 0 || passes == MOST_PASSES {
                return Some((MAIN, tail));
            }
            passes += 1;
            lanes.turn(MAIN, &tail, hits - 1);
        }
    }

    /// Moves one on from a small queue that has more than its share, because another mode gave it
    /// more. Whether it has no more than that.
    pub(super) fn hand_over<L: Lanes>(&self, lanes: &mut L) -> bool {
        if lanes.small_weight() <= self.small_share(lanes.weight()) {
            return true;
        }
        if let Some(tail) = lanes.tail(SMALL) {
            lanes.take(SMALL, &tail);
            lanes.put(MAIN, &tail);
        }
        false
    }

    /// Whether one who is remembered has to be let in by the end of the main queue.
    #[inline]
    pub(super) const fn guards(&self) -> bool {
        self.guarded
    }

    /// Makes room for `weight` more in the small queue's share while the store is not full: moves
    /// the oldest on to the main queue, hit or not.
    #[inline]
    pub(super) fn fill_main<L: Lanes>(&self, lanes: &mut L, weight: usize) {
        let most = self.small_share(lanes.weight().saturating_add(weight));
        for _ in 0..MOST_MOVES {
            if lanes.small_weight().saturating_add(weight) <= most {
                break;
            }
            let Some(tail) = lanes.tail(SMALL) else { break };
            lanes.take(SMALL, &tail);
            lanes.put(MAIN, &tail);
        }
    }
}

/// The end of the main queue, to leave for one who is remembered, if it was not hit.
pub(super) fn let_in<L: Lanes>(lanes: &mut L) -> Option<Tail> {
    let tail = lanes.tail(MAIN)?;
    let hits = L::hits(&tail);
    if hits == 0 {
        return Some(tail);
    }
    lanes.turn(MAIN, &tail, hits - 1);
    None
}
