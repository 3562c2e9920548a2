//! The default: S3-FIFO, made steady.
//!
//! It derives from S3-FIFO (Yang, Zhang, Qiu, Yue and Vigfusson, "FIFO queues are all you need for
//! cache eviction", SOSP 2023), and shares with it the small queue in which fresh entries prove
//! themselves, the main queue with its second chances, and the memory of those that failed. What it
//! does otherwise:
//! - The small queue has more of the weight, 18 %: who comes back a little late still finds itself
//!   there, which matters where use is a question of recency.
//! - As long as the store is not full, there is nobody to protect the main queue from, and what
//!   overflows the small queue moves there without having been hit. So of a loop that is larger
//!   than the store, a part comes to the main queue and stays, and has its hits, where everything
//!   would chase everything else through the small queue.
//! - Who came to the main queue once would stay there for good, hit or not, if nobody else proved
//!   himself. So now and then an entry that failed is exchanged for the one at the main queue's
//!   end, if that wasn't hit lately: the bimodal insertion of Qureshi, Jaleel, Patt, Steely and Emer,
//!   "Adaptive insertion policies for high performance caching", ISCA 2007, applied to a queue.
//! - As many are remembered as there are entries, and not more where slots would allow it.
//! - An eviction passes over a bounded number of entries, then takes the next, hit or not.
//!
//! That is the mode in which it begins, and one of four: what small queue, promotion and exchange
//! should be like depends on the load. Which mode is in force, in all shards of a cache, is decided
//! by a duel that the first shard fights with a small sample of its keys; who reads on may go to
//! `modes.rs` (the modes, and the steps of eviction), `duel.rs` (who wins) and `shadow.rs` (the
//! queues of a mode for a sample). Here are the real queues. After a change they come into their
//! new shape by and by, with each eviction.
//!
//! A hit is one relaxed store to the entry, and none once it counts three; hits of sampled entries,
//! which are marked by a bit in the same byte, are noted for the shadows beside. The memory for the
//! shadows is in one piece with the ghosts: 8448 bytes at most for a cache, and nothing up to 64
//! slots, where a sample would say nothing.
//!
//! As everywhere here, shares are of what the store holds now, because its share of the cache's
//! capacity is not fixed; "full" is a store that had to evict for the newcomer.

mod duel;
mod modes;
mod shadow;

use std::collections::TryReserveError;

use nebula_memory_core::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use self::{
    duel::Duel,
    modes::{Lanes, MAIN, MODES, Mode, SMALL, Tail, let_in},
};
use super::{
    MOST_HITS, Newcomer, Node, Nodes, Place, Queue, drive,
    ghosts::{Ghosts, Ring, check, recall, remember_among, rings_for, stretch, ways_for},
    links::tally,
    shape::queues_by_place,
};
use crate::{PolicyKind, slab::NONE};

/// A newcomer that is remembered.
const REMEMBERED: u8 = 1;

/// A newcomer whose hits are looked at closely; what its node counts hits from, too.
const SAMPLED: u8 = !MOST_HITS;

/// Not in the shape of any mode.
const NO_MODE: usize = usize::MAX;

/// The default: S3-FIFO (Yang et al., SOSP 2023) with a larger small queue, which fills the main
/// queue before it guards it, and exchanges what has gone stale there (Qureshi et al., ISCA 2007);
/// and if that does worse than it could, something else. A hit is one relaxed store to the entry.
#[derive(Debug)]
pub struct Steady {
    small: Queue,
    main: Queue,
    /// Ghosts, then the lines of the shadows.
    lines: Vec<Ring>,
    /// How many of them are ghosts.
    ghosts: usize,
    /// How many places of each ring of ghosts are used, of the entries that there were then.
    ways: u16,
    ways_for: usize,
    /// Entries that failed since the last exchange, or attempt.
    failures: u32,
    /// Whether there were evictions for the entry that is about to come in.
    full: bool,
    /// Whether it was not let in to the main queue.
    refused: bool,
    /// Whether the duel is fought here.
    leads: bool,
    /// The mode that the queues are in the shape of, or [`NO_MODE`] on the way from one to another.
    shape: usize,
    /// The mode that evictions go by.
    rules: &'static Mode,
    /// What the store weighed when it was full last; zero while it is being filled.
    level: usize,
    /// The mode in force, in all shards of a cache.
    mode: Arc<AtomicUsize>,
    duel: Duel,
}

/// The real queues.
struct Real<'p, N> {
    small: &'p mut Queue,
    main: &'p mut Queue,
    lines: &'p mut [Ring],
    /// How many of them are ghosts.
    ghosts: usize,
    ways: &'p mut u16,
    ways_for: &'p mut usize,
    nodes: &'p mut N,
}

impl<N> Real<'_, N> {
    #[inline(always)]
    const fn queue(&mut self, lane: Place) -> &mut Queue {
        match lane {
            SMALL => self.small,
            _ => self.main,
        }
    }
}

impl<N: Nodes> Lanes for Real<'_, N> {
    #[inline(always)]
    fn weight(&self) -> usize {
        self.small.weight() + self.main.weight()
    }

    #[inline(always)]
    fn small_weight(&self) -> usize {
        self.small.weight()
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.small.len() + self.main.len()
    }

    #[inline(always)]
    fn main_is_empty(&self) -> bool {
        self.main.is_empty()
    }

    #[inline(always)]
    fn tail(&mut self, lane: Place) -> Option<Tail> {
        let token = self.queue(lane).tail();
        if token == NONE {
            return None;
        }
        let (node, hash) = self.nodes.node_and_hash(token);
        Some(Tail { token, hash, links: node.links, hits: node.hits() })
    }

    #[inline(always)]
    fn hits(tail: &Tail) -> u8 {
        tail.hits & MOST_HITS
    }

    #[inline(always)]
    fn take(&mut self, lane: Place, tail: &Tail) {
        match lane {
            SMALL => self.small.pop(self.nodes, tail.links),
            _ => self.main.pop(self.nodes, tail.links),
        }
    }

    #[inline(always)]
    fn put(&mut self, lane: Place, tail: &Tail) {
        self.nodes.node_mut(tail.token).set_hits(tail.hits & !MOST_HITS);
        match lane {
            SMALL => self.small.push_to(self.nodes, tail.token, SMALL),
            _ => self.main.push_to(self.nodes, tail.token, MAIN),
        }
    }

    #[inline(always)]
    fn turn(&mut self, lane: Place, tail: &Tail, hits: u8) {
        self.nodes.node_mut(tail.token).set_hits(tail.hits & !MOST_HITS | hits);
        self.queue(lane).turn(tail.links);
    }

    #[inline(always)]
    fn remember(&mut self, tail: &Tail) {
        let len = self.len() - 1;
        if len != *self.ways_for {
            *self.ways_for = len;
            *self.ways = ways_for(len, self.ghosts);
        }
        remember_among(self.lines, self.ghosts, tail.hash, *self.ways);
    }
}

impl Steady {
    fn of(mode: Arc<AtomicUsize>, leads: bool) -> Self {
        let shape = mode.load(Relaxed);
        Self {
            small: Queue::default(),
            main: Queue::default(),
            lines: Vec::new(),
            ghosts: 0,
            ways: 0,
            ways_for: 0,
            failures: 0,
            full: false,
            refused: false,
            leads,
            shape,
            rules: &MODES[shape % MODES.len()],
            level: 0,
            mode,
            duel: Duel::new(shape),
        }
    }

    const fn queue(&mut self, place: Place) -> &mut Queue {
        match place {
            SMALL => &mut self.small,
            _ => &mut self.main,
        }
    }

    const fn weight(&self) -> usize {
        self.small.weight() + self.main.weight()
    }

    const fn len(&self) -> usize {
        self.small.len() + self.main.len()
    }

    #[inline]
    fn mode(&self) -> &'static Mode {
        &MODES[self.mode.load(Relaxed) % MODES.len()]
    }

    #[inline(always)]
    fn real<'p, N>(&'p mut self, nodes: &'p mut N) -> (Real<'p, N>, &'p mut u32) {
        let Self { small, main, lines, ghosts, ways, ways_for, failures, .. } = self;
        (Real { small, main, lines, ghosts: *ghosts, ways, ways_for, nodes }, failures)
    }

    /// Comes a step nearer to the shape of the mode in force, beside an eviction.
    #[cold]
    #[inline(never)]
    fn reshape<N: Nodes>(&mut self, nodes: &mut N) {
        let mode = self.mode.load(Relaxed);
        self.rules = &MODES[mode % MODES.len()];
        let done = self.rules.hand_over(&mut self.real(nodes).0);
        // (Until then they are in the shape of none: the mode may change back meanwhile.)
        self.shape = if done { mode } else { NO_MODE };
    }

    /// Puts a mode in force.
    #[cfg(test)]
    pub(crate) fn force(&self, mode: usize) {
        self.mode.store(mode, Relaxed);
    }

    /// The mode in force.
    #[cfg(test)]
    pub(crate) fn in_force(&self) -> usize {
        self.mode.load(Relaxed)
    }

    /// The store is full as the newcomer is about to come in: who leaves for him in particular.
    #[inline(always)]
    fn meet<N: Nodes>(
        &mut self,
        nodes: &mut N,
        newcomer: Newcomer,
        weight: usize,
    ) -> Option<(Place, Tail)> {
        self.level = weight;
        if newcomer.kind & REMEMBERED != 0 && self.mode().guards() {
            if let Some(guest) = let_in(&mut self.real(nodes).0) {
                return Some((MAIN, guest));
            }
            self.refused = true;
        }
        None
    }

    /// Chooses the entry to evict of those that weigh `weight`: the tail of a lane, which it still is.
    #[inline(always)]
    fn choose<N: Nodes>(&mut self, nodes: &mut N, weight: usize) -> Option<(Place, Tail)> {
        if self.shape != self.mode.load(Relaxed) {
            self.reshape(nodes);
        }
        let rules = self.rules;
        let (mut real, failures) = self.real(nodes);
        rules.choose(&mut real, weight, failures)
    }

    /// Has the shadows see a miss, and hits.
    #[cold]
    #[inline(never)]
    fn see(&mut self, hash: u32, sampled: bool) {
        let len = if self.level == 0 { None } else { Some(self.len()) };
        let lines = &mut self.lines[self.ghosts..];
        if let Some(mode) = self.duel.see(lines, sampled.then_some(hash), len) {
            self.mode.store(mode, Relaxed);
        }
    }

    /// Whether a store that is to weigh `weight`, without an eviction, is being filled.
    ///
    /// A little less than it weighed when it was full, or a little more, is no sign of that: it is
    /// what a heavy entry left over when it went, here or in another shard.
    #[inline]
    const fn is_filling(&mut self, weight: usize) -> bool {
        if weight.abs_diff(self.level) > self.level / 4 {
            self.level = 0;
        }
        self.level == 0
    }
}

/// How many of so many lines are ghosts, and how many blocks the shadows have each.
///
/// Both grow with the slots, so one number says both.
fn split(lines: usize, leads: bool) -> (usize, usize) {
    let mut blocks = if leads { shadow::MOST_BLOCKS } else { 0 };
    while blocks > 0 {
        // As many ghosts as the smallest store has whose shadows are as large.
        let least = rings_for(duel::least_slots(blocks));
        if lines >= least + duel::lines_of(blocks) {
            break;
        }
        blocks /= 2;
    }
    if blocks == 1 {
        blocks = 0;
    }
    (lines - duel::lines_of(blocks), blocks)
}

impl drive::Policy for Steady {
    type Memory = Vec<Ring>;

    queues_by_place!();

    fn new(_kind: PolicyKind) -> Self {
        Self::of(Arc::default(), false)
    }

    fn fork(&self, leads: bool) -> Self {
        Self::of(Arc::clone(&self.mode), leads)
    }

    fn leads(&self) -> bool {
        self.leads
    }

    fn shared_bytes(&self) -> usize {
        crate::engine::shared_bytes::<AtomicUsize>()
    }

    fn kind(&self) -> PolicyKind {
        PolicyKind::Steady
    }

    fn note(&self, node: &Node, hash: u32) {
        let hits = node.hits();
        if self.duel.samples(hash) {
            node.count(if hits & MOST_HITS < MOST_HITS { hits + 1 } else { hits });
            self.duel.note(hash);
        } else {
            // Not any more, as it seems.
            node.count(((hits & MOST_HITS) + 1).min(MOST_HITS));
        }
    }

    fn touch<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        let node = nodes.node(token);
        if !node.hit() {
            self.note(node, nodes.hash(token));
        }
    }

    #[inline]
    fn admit(&mut self, hash: u32) -> Newcomer {
        self.full = false;
        self.refused = false;
        let remembered = recall(&mut self.lines, self.ghosts, hash);
        let sampled = self.duel.samples(hash);
        if sampled || self.duel.is_behind() {
            self.see(hash, sampled);
        }
        let sampled = if sampled { SAMPLED } else { 0 };
        Newcomer { kind: u8::from(remembered) | sampled }
    }

    #[inline]
    fn insert<N: Nodes>(&mut self, nodes: &mut N, token: u32, newcomer: Newcomer) {
        let full = std::mem::take(&mut self.full);
        if newcomer.kind & SAMPLED != 0 {
            nodes.node_mut(token).set_hits(SAMPLED);
        }
        if newcomer.kind & REMEMBERED != 0 && !self.refused {
            self.main.push_to(nodes, token, MAIN);
            return;
        }
        if !full {
            let weight = nodes.weight(token);
            if self.is_filling(self.weight().saturating_add(weight)) {
                self.mode().fill_main(&mut self.real(nodes).0, weight);
            }
        }
        self.small.push_to(nodes, token, SMALL);
    }

    fn restore<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        self.main.push_to(nodes, token, MAIN);
    }

    /// O(1): passes over a bounded number of entries.
    fn evict<N: Nodes>(&mut self, nodes: &mut N, newcomer: Option<&Newcomer>) -> Option<u32> {
        let (weight, mut chosen) = (self.weight(), None);
        if let Some(newcomer) = newcomer.filter(|_| !self.full) {
            self.full = true;
            chosen = self.meet(nodes, *newcomer, weight);
        }
        let (lane, tail) = match chosen {
            Some(guest) => guest,
            None => self.choose(nodes, weight)?,
        };
        self.queue(lane).pop(nodes, tail.links);
        Some(tail.token)
    }

    #[inline(always)]
    fn exchange<N: Nodes>(
        &mut self,
        nodes: &mut N,
        newcomer: Newcomer,
    ) -> Option<(u32, Option<Node>)> {
        let weight = self.weight();
        let (lane, Tail { token, links, .. }) = match self.meet(nodes, newcomer, weight) {
            Some(guest) => guest,
            None => self.choose(nodes, weight)?,
        };
        if lane == MAIN || newcomer.kind & REMEMBERED != 0 {
            self.full = true;
            self.queue(lane).pop(nodes, links);
            return Some((token, None));
        }
        self.small.turn(links);
        let mut node = Node { links, place: SMALL, ..Node::default() };
        node.set_hits(newcomer.kind & SAMPLED);
        Some((token, Some(node)))
    }

    fn coldest_first<N: Nodes>(&self, nodes: &N, mut each: impl FnMut(u32)) {
        self.small.oldest_first(nodes, &mut each);
        self.main.oldest_first(nodes, each);
    }

    fn wanted(&self, slots: usize) -> usize {
        let rings = rings_for(slots);
        let blocks = if self.leads { duel::blocks_for(slots) } else { 0 };
        let blocks = blocks.max(self.duel.blocks());
        if rings <= self.ghosts && blocks == self.duel.blocks() {
            return 0;
        }
        // An eighth more than there were, so that growing costs little in the long run.
        let step = if rings > self.ghosts { self.ghosts + self.ghosts / 8 } else { self.ghosts };
        (rings.max(step) + duel::lines_of(blocks)) * size_of::<Ring>()
    }

    fn allocate(&self, bytes: usize) -> Result<Vec<Ring>, TryReserveError> {
        Ghosts::allocate(bytes)
    }

    fn adopt(&mut self, mut lines: Vec<Ring>) -> Vec<Ring> {
        if lines.len() <= self.lines.len() {
            return lines;
        }
        let (ghosts, blocks) = split(lines.len(), self.leads);
        let (old_ghosts, old_shadows) = self.lines.split_at(self.ghosts);
        let (new_ghosts, new_shadows) = lines.split_at_mut(ghosts);
        stretch(old_ghosts, new_ghosts);
        self.duel.adopt(old_shadows, new_shadows, blocks);
        self.ghosts = ghosts;
        self.ways = ways_for(self.ways_for, ghosts);
        std::mem::replace(&mut self.lines, lines)
    }

    fn bytes_of(lines: &Vec<Ring>) -> usize {
        Ghosts::bytes_of(lines)
    }

    fn bytes(&self) -> usize {
        Self::bytes_of(&self.lines)
    }

    fn validate<N: Nodes>(&self, nodes: &N, len: usize, weight: usize) -> Result<(), String> {
        self.small.validate(nodes, |node| node.place == SMALL)?;
        self.main.validate(nodes, |node| node.place == MAIN)?;
        let (ghosts, shadows) = self.lines.split_at(self.ghosts);
        check(ghosts)?;
        self.duel.validate(shadows)?;
        tally(&[&self.small, &self.main], len, weight)
    }
}
