//! The duel: which mode is the best for what is asked for now.
//!
//! Of the keys a small sample is looked at closely: for each mode there is a shadow, which is what
//! a store of a part of the size would be in that mode if the sample were all there is. The mode
//! whose shadow misses least is put in force, for the whole cache, as soon as its lead is more than
//! chance. That is the set dueling of Qureshi, Jaleel, Patt, Steely and Emer ("Adaptive insertion
//! policies for high performance caching", ISCA 2007), with samples of keys in the place of leader
//! sets: miniature simulations as by Waldspurger, Saemundsson, Ahmad and Park ("Cache modeling and
//! optimization using miniature simulations", ATC 2017), whose sample is spatial, chosen by hash,
//! and grows rarer as the store grows, so that its size is bounded.
//!
//! What a shadow sees are the misses of the sampled keys, at once, and their hits, through a short
//! list that readers write without a lock and the next miss reads. What does not fit in there is
//! lost.

use nebula_memory_core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{
    super::ghosts::Ring,
    modes::MODES,
    shadow::{CELLS, MOST_BLOCKS, Shadow, lines_for, room_of},
};

/// At first one of 2 to the power of so many keys is sampled.
const FIRST_LEVEL: u32 = 2;

/// No key belongs to a sample as rare.
const OFF: u32 = 33;

/// Hits waiting to be seen by the shadows, at most.
const HITS: usize = 16;

/// The fewest sampled requests between two decisions.
const FEWEST_REQUESTS: u32 = 16;

/// A miss.
const ONE: u32 = 256;

/// Misses lose one in 2 to the power of this at each decision.
const FADING: u32 = 5;

/// Hashes of sampled entries that were hit.
#[derive(Debug, Default)]
struct Hits {
    len: AtomicU32,
    hashes: [AtomicU32; HITS],
}

impl Hits {
    /// One who is there already is not noted again: who is hit that often is so in every mode. Two
    /// threads may write to the same place; then one hit is lost.
    #[cold]
    fn push(&self, hash: u32) {
        let len = self.len.load(Relaxed);
        let Some(place) = self.hashes.get(len as usize) else { return };
        if self.hashes[..len as usize].iter().all(|other| other.load(Relaxed) != hash) {
            place.store(hash, Relaxed);
            self.len.store(len + 1, Relaxed);
        }
    }
}

#[derive(Debug)]
pub(super) struct Duel {
    /// Keys of this level and above are sampled.
    level: u32,
    /// What only sampled keys are scattered below.
    limit: u32,
    /// Blocks of each shadow.
    blocks: usize,
    shadows: [Shadow; MODES.len()],
    /// The mode in force.
    current: usize,
    /// Sampled requests since the last decision.
    requests: u32,
    hits: Hits,
}

/// How rare a sample a key belongs to: half of the keys are of level one and above, a quarter of
/// level two, and so on.
const fn level_of(hash: u32) -> u32 {
    scatter(hash).leading_zeros()
}

/// Other bits than those that make its ghost.
#[inline]
const fn scatter(hash: u32) -> u32 {
    hash.wrapping_mul(0x85EB_CA6B)
}

/// Lines for the shadows of a store with `slots` slots, and blocks of each.
pub(super) const fn blocks_for(slots: usize) -> usize {
    let wanted = slots.div_ceil(CELLS << FIRST_LEVEL);
    if wanted < 2 {
        return 0;
    }
    let blocks = wanted.next_power_of_two();
    if blocks > MOST_BLOCKS { MOST_BLOCKS } else { blocks }
}

/// The fewest slots of a store whose shadows have so many blocks.
pub(super) const fn least_slots(blocks: usize) -> usize {
    ((blocks / 2 * CELLS) << FIRST_LEVEL) + 1
}

/// Lines that all shadows take with so many blocks each.
pub(super) const fn lines_of(blocks: usize) -> usize {
    MODES.len() * lines_for(blocks)
}

impl Duel {
    /// One that has not begun, while `mode` is in force.
    pub(super) fn new(mode: usize) -> Self {
        Self {
            level: OFF,
            limit: 0,
            blocks: 0,
            shadows: Default::default(),
            current: mode % MODES.len(),
            requests: 0,
            hits: Hits::default(),
        }
    }

    /// Blocks of each shadow.
    pub(super) const fn blocks(&self) -> usize {
        self.blocks
    }

    /// Whether the key with this hash is sampled.
    #[inline]
    pub(super) const fn samples(&self, hash: u32) -> bool {
        scatter(hash) < self.limit
    }

    /// Whether there are hits that should be looked at before more come.
    #[inline]
    pub(super) fn is_behind(&self) -> bool {
        self.hits.len.load(Relaxed) as usize >= HITS / 2
    }

    /// Notes a hit of a sampled key.
    pub(super) fn note(&self, hash: u32) {
        self.hits.push(hash);
    }

    /// Has the shadows see the hits, and `miss`, if that key is sampled. `len` are the entries of a
    /// store that is full; `None` one that is not. Returns the mode to put in force if it is another
    /// one.
    #[cold]
    #[inline(never)]
    pub(super) fn see(
        &mut self,
        lines: &mut [Ring],
        miss: Option<u32>,
        len: Option<usize>,
    ) -> Option<usize> {
        let before = self.current;
        if let Some(len) = len {
            self.fit(lines, len);
        }
        let most = len.map_or(usize::MAX, |len| (len >> self.level).max(1));
        let hits = (self.hits.len.load(Relaxed) as usize).min(HITS);
        for at in 0..hits {
            let hash = self.hits.hashes[at].load(Relaxed);
            self.request(lines, hash, most);
        }
        self.hits.len.store(0, Relaxed);
        if let Some(hash) = miss {
            self.request(lines, hash, most);
        }
        (self.current != before).then_some(self.current)
    }

    /// Samples as many keys as the shadows of a store of `len` entries have room for.
    fn fit(&mut self, lines: &mut [Ring], len: usize) {
        let room = room_of(self.blocks);
        while self.level < OFF - 1 && len >> self.level > room {
            self.thin(lines);
        }
        // (Some way from where it would be too many again.)
        while self.level > FIRST_LEVEL && len >> (self.level - 1) <= room / 4 * 3 {
            self.set_level(self.level - 1);
        }
    }

    fn set_level(&mut self, level: u32) {
        self.level = level;
        self.limit = 1_u32.checked_shl(32 - level).unwrap_or(0);
    }

    /// Samples half as many keys.
    fn thin(&mut self, lines: &mut [Ring]) {
        self.set_level(self.level + 1);
        let each = lines_for(self.blocks);
        for (shadow, lines) in self.shadows.iter_mut().zip(lines.chunks_exact_mut(each)) {
            shadow.thin(lines, self.blocks, self.level);
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "a shadow has 255 entries at most")]
    fn request(&mut self, lines: &mut [Ring], hash: u32, most: usize) {
        while most == usize::MAX && self.level < OFF - 1 && self.shadows.iter().any(Shadow::is_full)
        {
            self.thin(lines);
        }
        let level = level_of(hash);
        if level < self.level {
            return;
        }
        let each = lines_for(self.blocks);
        let mut missed = 0_u32;
        let shadows = self.shadows.iter_mut().zip(lines.chunks_exact_mut(each));
        for ((index, (shadow, lines)), mode) in shadows.enumerate().zip(&MODES) {
            if shadow.request(lines, self.blocks, mode, hash, level, most) {
                missed |= 1 << index;
                shadow.misses += ONE;
            }
        }
        let current = missed >> self.current;
        for (index, shadow) in self.shadows.iter_mut().enumerate() {
            if (missed >> index ^ current) & 1 == 1 {
                shadow.apart += ONE;
            }
        }
        self.requests += 1;
        if most != usize::MAX && self.requests >= (most as u32 / 2).max(FEWEST_REQUESTS) {
            self.requests = 0;
            self.decide(most as u32);
        }
    }

    /// Puts the best mode in force, if its lead is large enough, for shadows of `size` entries.
    fn decide(&mut self, size: u32) {
        let cost = |index: usize| self.shadows[index].misses;
        let current = self.current;
        let best = (0..MODES.len()).min_by_key(|&index| (cost(index), index != current));
        let best = best.unwrap_or(current);
        let gain = cost(current) - cost(best);
        let noise = (self.shadows[best].apart / ONE).isqrt() * ONE;
        let price = MODES[best].price.max(MODES[current].price);
        if best != current
            && gain > noise
            && u64::from(gain) > u64::from(size) * u64::from(ONE * price) / 64
        {
            self.current = best;
            let misses = self.shadows[best].misses;
            for shadow in &mut self.shadows {
                shadow.apart = 2 * shadow.misses.abs_diff(misses);
            }
        }
        for shadow in &mut self.shadows {
            shadow.misses -= shadow.misses >> FADING;
            shadow.apart -= shadow.apart >> FADING;
        }
    }

    /// Moves to more lines, of which each shadow gets `blocks` blocks.
    pub(super) fn adopt(&mut self, old: &[Ring], new: &mut [Ring], blocks: usize) {
        if blocks == 0 {
            return;
        }
        if self.blocks == 0 {
            self.set_level(FIRST_LEVEL);
        }
        let (each, before) = (lines_for(blocks), lines_for(self.blocks));
        for (index, (shadow, new)) in
            self.shadows.iter_mut().zip(new.chunks_exact_mut(each)).enumerate()
        {
            let old = &old[index * before..(index + 1) * before];
            shadow.adopt((old, self.blocks), (new, blocks));
        }
        self.blocks = blocks;
    }

    pub(super) fn validate(&self, lines: &[Ring]) -> Result<(), String> {
        if lines.len() != lines_of(self.blocks) {
            return Err(format!("shadows of {} blocks have {} lines", self.blocks, lines.len()));
        }
        if self.blocks == 0 {
            return Ok(());
        }
        let each = lines_for(self.blocks);
        self.shadows
            .iter()
            .zip(lines.chunks_exact(each))
            .try_for_each(|(shadow, lines)| shadow.validate(lines, self.blocks))
    }
}
