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
pub struct Ring([u16; WORDS]);

impl Ring {
    const EMPTY: Self = {
        let mut words = [0; WORDS];
        words[0] = 1;
        Self(words)
    };

    /// Puts it into one of the first `ways` places, in turn.
    #[inline]
    fn remember(&mut self, fingerprint: u16, ways: usize) {
        let at = self.0[0];
        self.0[usize::from(at) & WAYS] = fingerprint;
        self.0[0] = if usize::from(at) >= ways.min(WAYS) { 1 } else { at + 1 };
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
}

#[derive(Debug, Default)]
pub(crate) struct Ghosts {
    rings: Vec<Ring>,
}

impl Ghosts {
    /// The ring and the fingerprint of a hash.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "the low bits are the fingerprint")]
    fn place(&self, hash: u32) -> (usize, u16) {
        // Every bit of the hash has a say in both; the ring is chosen by the high bits.
        let spread = hash.wrapping_mul(0x9E37_79B1);
        let ring = (u64::from(spread) * self.rings.len() as u64) >> 32;
        (ring as usize, (spread as u16).max(1 + WAYS as u16))
    }

    /// Remembers the entry with `hash`; the oldest of its ring is forgotten.
    #[inline]
    pub(crate) fn remember(&mut self, hash: u32) {
        let (ring, fingerprint) = self.place(hash);
        if let Some(ring) = self.rings.get_mut(ring) {
            ring.remember(fingerprint, WAYS);
        }
    }

    /// Remembers the entry with `hash` as one of the last `most`, about; or of fewer, if there is no
    /// room for so many.
    ///
    /// There is room for as many as the store has slots, which in a small store may be several times
    /// its entries. (Should `most` fall, a few of those remembered before are so for longer.)
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "there are no more entries than tokens")]
    pub(crate) fn remember_among(&mut self, hash: u32, most: usize) {
        let (ring, fingerprint) = self.place(hash);
        let rings = self.rings.len() as u32;
        if let Some(ring) = self.rings.get_mut(ring) {
            ring.remember(fingerprint, (most as u32).div_ceil(rings) as usize);
        }
    }

    /// Whether the entry with `hash` is remembered; it is no longer afterwards.
    #[inline]
    pub(crate) fn recall(&mut self, hash: u32) -> bool {
        let (ring, fingerprint) = self.place(hash);
        let Some(ring) = self.rings.get_mut(ring) else { return false };
        let Some(at) = ring.position(fingerprint) else { return false };
        ring.0[1 + at] = 0;
        true
    }

    /// Bytes wanted to remember `entries` entries, or zero if there is room for them.
    pub(crate) fn wanted(&self, entries: usize) -> usize {
        let rings = entries.div_ceil(WAYS);
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
    ///
    /// A ring's members may belong to any of those that take its place: each gets a copy of it.
    /// Strangers that come along this way are soon overwritten.
    pub(crate) fn adopt(&mut self, mut rings: Vec<Ring>) -> Vec<Ring> {
        let (old, new) = (self.rings.len(), rings.len());
        if new <= old {
            return rings;
        }
        if old > 0 {
            for (index, ring) in rings.iter_mut().enumerate() {
                *ring = self.rings[index * old / new];
            }
        }
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
        match self.rings.iter().position(|ring| !(1..=WAYS).contains(&usize::from(ring.0[0]))) {
            Some(ring) => Err(format!("the cursor of ring {ring} is out of it")),
            None => Ok(()),
        }
    }
}
