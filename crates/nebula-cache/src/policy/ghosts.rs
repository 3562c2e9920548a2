//! The memory of entries that are gone: 2-byte fingerprints in a presized array of small rings.
//!
//! One ring is a cache line: a cursor and 31 fingerprints, the oldest of which goes first. An
//! entry's ring is chosen by its hash. So a lookup touches one line, and what is remembered is very
//! nearly the last of those that left. A stranger is taken for an acquaintance once in some two
//! thousand times, which costs it nothing but a better place than it deserves.

use std::collections::TryReserveError;

/// Fingerprints in a ring.
const WAYS: usize = 31;

/// Words of a ring: a cursor and the fingerprints. Zero is no fingerprint.
const WORDS: usize = WAYS + 1;

/// A cursor, which is the place of the next fingerprint, and the fingerprints.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Ring(pub(super) [u16; WORDS]);

impl Ring {
    /// Words for another use than that of a ring.
    pub(super) const fn of(word: u16) -> Self {
        Self([word; WORDS])
    }

    pub(super) const EMPTY: Self = {
        let mut words = [0; WORDS];
        words[0] = 1;
        Self(words)
    };

    /// Puts it into one of the first `ways` places, in turn.
    #[inline]
    pub(super) fn remember(&mut self, fingerprint: u16, ways: u16) {
        let at = self.0[0];
        self.0[usize::from(at) & WAYS] = fingerprint;
        self.0[0] = if at >= ways { 1 } else { at + 1 };
    }

    /// Whether the fingerprint is there; it is no longer afterwards.
    #[inline(always)]
    pub(super) fn recall(&mut self, fingerprint: u16) -> bool {
        let Some(at) = self.position(fingerprint) else { return false };
        self.0[1 + at] = 0;
        true
    }

    #[inline]
    #[allow(clippy::needless_bitwise_bool, reason = "no branches, so that it is vectorised")]
    fn position(&self, fingerprint: u16) -> Option<usize> {
        // Without a way out in the middle, this is a few vector instructions; most look for what
        // is not there.
        // (No fingerprint is as small as a cursor.)
        let any = self.0.iter().fold(false, |any, &other| any | (other == fingerprint));
        if any { self.0[1..].iter().position(|&other| other == fingerprint) } else { None }
    }

    /// Whether the cursor is in the ring.
    pub(super) fn is_sound(&self) -> bool {
        (1..=WAYS).contains(&usize::from(self.0[0]))
    }
}

/// What stands for a hash; not zero, nor as small as a cursor.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the low bits are the fingerprint")]
pub(super) const fn fingerprint(hash: u32) -> u16 {
    let fingerprint = spread(hash) as u16;
    if fingerprint as usize <= WAYS { 1 + WAYS as u16 } else { fingerprint }
}

/// Which of `rings` rings is the one of a hash.
#[inline]
const fn ring_of(hash: u32, rings: usize) -> usize {
    ((spread(hash) as u64 * rings as u64) >> 32) as usize
}

/// Every bit of the hash has a say in both; the ring is chosen by the high bits.
#[inline]
const fn spread(hash: u32) -> u32 {
    hash.wrapping_mul(0x9E37_79B1)
}

/// How many places of each of `rings` rings are used to remember about as many as `entries`, or as
/// there is room for.
///
/// There is room for as many as the store has slots, which in a small store may be several times
/// its entries. (Should they become fewer, a few of those remembered before are so for longer.)
#[allow(clippy::cast_possible_truncation, reason = "it is no more than `WAYS`")]
pub(super) const fn ways_for(entries: usize, rings: usize) -> u16 {
    let ways = if rings == 0 { 0 } else { entries.div_ceil(rings) };
    if ways < WAYS { ways as u16 } else { WAYS as u16 }
}

/// Remembers the entry with `hash`, in `ways` places of its ring among the first `count` ones.
#[inline]
pub(super) fn remember_among(rings: &mut [Ring], count: usize, hash: u32, ways: u16) {
    if let Some(ring) = rings.get_mut(ring_of(hash, count)) {
        ring.remember(fingerprint(hash), ways);
    }
}

/// Whether the entry with `hash` is remembered in the first `count` rings; it is no longer
/// afterwards.
#[inline(always)]
pub(super) fn recall(rings: &mut [Ring], count: usize, hash: u32) -> bool {
    match rings.get_mut(ring_of(hash, count)) {
        Some(ring) => ring.recall(fingerprint(hash)),
        None => false,
    }
}

/// Copies what is remembered to more rings. A ring's members may belong to any of those that take
/// its place: each gets a copy of it. Strangers that come along this way are soon overwritten.
pub(super) fn stretch(old: &[Ring], new: &mut [Ring]) {
    if !old.is_empty() {
        let count = new.len();
        for (index, ring) in new.iter_mut().enumerate() {
            *ring = old[index * old.len() / count];
        }
    }
}

/// How many rings remember `entries` entries.
pub(super) const fn rings_for(entries: usize) -> usize {
    entries.div_ceil(WAYS)
}

#[derive(Debug, Default)]
pub(crate) struct Ghosts {
    rings: Vec<Ring>,
}

impl Ghosts {
    /// Remembers the entry with `hash`; the oldest of its ring is forgotten.
    #[inline]
    pub(crate) fn remember(&mut self, hash: u32) {
        let count = self.rings.len();
        if let Some(ring) = self.rings.get_mut(ring_of(hash, count)) {
            ring.remember(fingerprint(hash), ways_for(usize::MAX, count));
        }
    }

    /// Whether the entry with `hash` is remembered; it is no longer afterwards.
    #[inline]
    pub(crate) fn recall(&mut self, hash: u32) -> bool {
        let count = self.rings.len();
        recall(&mut self.rings, count, hash)
    }

    #[cfg(test)]
    pub(crate) fn rings_mut(&mut self) -> &mut [Ring] {
        &mut self.rings
    }

    /// Bytes wanted to remember `entries` entries, or zero if there is room for them.
    pub(crate) fn wanted(&self, entries: usize) -> usize {
        let rings = rings_for(entries);
        // An eighth more than there were, so that growing costs little in the long run.
        let step = self.rings.len() + self.rings.len() / 8;
        if rings > self.rings.len() { rings.max(step) * size_of::<Ring>() } else { 0 }
    }

    /// Empty rings of `bytes` bytes.
    pub(crate) fn allocate(bytes: usize) -> Result<Vec<Ring>, TryReserveError> {
        let mut rings = Vec::new();
        rings.try_reserve_exact(bytes / size_of::<Ring>())?;
        rings.resize(bytes / size_of::<Ring>(), Ring::EMPTY);
        Ok(rings)
    }

    /// Moves into `rings` if they are more; returns the ones not used any more.
    pub(crate) fn adopt(&mut self, mut rings: Vec<Ring>) -> Vec<Ring> {
        if rings.len() <= self.rings.len() {
            return rings;
        }
        stretch(&self.rings, &mut rings);
        std::mem::replace(&mut self.rings, rings)
    }

    pub(crate) fn bytes_of(rings: &Vec<Ring>) -> usize {
        rings.capacity() * size_of::<Ring>()
    }

    pub(crate) fn bytes(&self) -> usize {
        Self::bytes_of(&self.rings)
    }

    /// Checks the cursors.
    pub(crate) fn validate(&self) -> Result<(), String> {
        check(&self.rings)
    }
}

/// Checks the cursors.
pub(super) fn check(rings: &[Ring]) -> Result<(), String> {
    match rings.iter().position(|ring| !ring.is_sound()) {
        Some(ring) => Err(format!("the cursor of ring {ring} is out of it")),
        None => Ok(()),
    }
}
