//! The memory of entries that are gone: 4-byte fingerprints in a presized array of small rings.
//!
//! One ring is a cache line of fingerprints, newest first, and a fingerprint belongs to the ring
//! that its own bits choose. So a lookup touches one line, forgetting is first in first out within
//! a ring (and very nearly so over all), and the array can double without knowing anything else
//! about the entries.

use std::collections::TryReserveError;

/// Fingerprints in a ring.
const WAYS: usize = 16;

/// One ring, newest first. Zero is no fingerprint.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Ring([u32; WAYS]);

#[derive(Debug, Default)]
pub(crate) struct Ghosts {
    /// A power of two of rings, or none.
    rings: Vec<Ring>,
}

/// The fingerprint of a hash: the hash itself, but never zero.
#[inline]
const fn fingerprint(hash: u32) -> u32 {
    if hash == 0 { 1 } else { hash }
}

impl Ghosts {
    /// The ring of a fingerprint. The multiplication makes the choice depend on all bits; what is
    /// taken are high bits, so that with twice the rings each splits in two.
    #[inline]
    fn ring(&self, fingerprint: u32) -> usize {
        let spread = u64::from(fingerprint.wrapping_mul(0x9E37_79B1));
        ((spread * self.rings.len() as u64) >> 32) as usize
    }

    /// Remembers the entry with `hash`; the oldest of its ring is forgotten.
    #[inline]
    pub(crate) fn remember(&mut self, hash: u32) {
        let fingerprint = fingerprint(hash);
        let index = self.ring(fingerprint);
        if let Some(Ring(ring)) = self.rings.get_mut(index) {
            ring.copy_within(..WAYS - 1, 1);
            ring[0] = fingerprint;
        }
    }

    /// Whether the entry with `hash` is remembered; it is no longer afterwards.
    #[inline]
    pub(crate) fn recall(&mut self, hash: u32) -> bool {
        let fingerprint = fingerprint(hash);
        let index = self.ring(fingerprint);
        let Some(Ring(ring)) = self.rings.get_mut(index) else { return false };
        let Some(at) = ring.iter().position(|&f| f == fingerprint) else { return false };
        ring.copy_within(at + 1.., at);
        ring[WAYS - 1] = 0;
        true
    }

    /// Bytes wanted to remember `entries` entries, or zero if there is room for them.
    pub(crate) fn wanted(&self, entries: usize) -> usize {
        let rings = entries.div_ceil(WAYS).next_power_of_two();
        if rings > self.rings.len() { rings * size_of::<Ring>() } else { 0 }
    }

    /// Empty rings of `bytes` bytes.
    pub(crate) fn allocate(bytes: usize) -> Result<Vec<Ring>, TryReserveError> {
        let mut rings = Vec::new();
        rings.try_reserve_exact(bytes / size_of::<Ring>())?;
        rings.resize(bytes / size_of::<Ring>(), Ring([0; WAYS]));
        Ok(rings)
    }

    /// Moves into `rings` if they are more; returns the ones not used any more.
    pub(crate) fn adopt(&mut self, rings: Vec<Ring>) -> Vec<Ring> {
        if rings.len() <= self.rings.len() {
            return rings;
        }
        let old = std::mem::replace(&mut self.rings, rings);
        for Ring(ring) in &old {
            for &fingerprint in ring.iter().rev().filter(|&&f| f != 0) {
                self.remember(fingerprint);
            }
        }
        old
    }

    pub(crate) fn bytes_of(rings: &Vec<Ring>) -> usize {
        rings.capacity() * size_of::<Ring>()
    }

    pub(crate) fn bytes(&self) -> usize {
        Self::bytes_of(&self.rings)
    }

    /// Checks that every fingerprint is where it is looked for, and no gap is before it.
    pub(crate) fn validate(&self) -> Result<(), String> {
        for (index, Ring(ring)) in self.rings.iter().enumerate() {
            let used = ring.iter().take_while(|&&f| f != 0).count();
            if ring[used..].iter().any(|&f| f != 0) {
                return Err(format!("ring {index} of ghosts has a gap"));
            }
            if ring[..used].iter().any(|&f| self.ring(f) != index) {
                return Err(format!("ring {index} holds ghosts of another"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ghosts(entries: usize) -> Ghosts {
        let mut ghosts = Ghosts::default();
        let bytes = ghosts.wanted(entries);
        assert!(ghosts.adopt(Ghosts::allocate(bytes).unwrap()).is_empty());
        ghosts
    }

    #[test]
    fn one_ring_is_first_in_first_out() {
        let mut ghosts = ghosts(16);
        for hash in 0..17 {
            ghosts.remember(hash * 7);
        }
        assert!(!ghosts.recall(0), "the oldest of seventeen is forgotten");
        for hash in 1..17 {
            assert!(ghosts.recall(hash * 7));
            assert!(!ghosts.recall(hash * 7), "recalling forgets");
            ghosts.validate().unwrap();
        }
    }

    #[test]
    fn nothing_is_lost_when_the_rings_double() {
        let mut small = ghosts(16);
        for hash in 100..116 {
            small.remember(hash);
        }
        for entries in [32, 64, 4096] {
            let bytes = small.wanted(entries);
            assert_eq!(bytes, entries * 4);
            let old = small.adopt(Ghosts::allocate(bytes).unwrap());
            assert_eq!(Ghosts::bytes_of(&old) + bytes, small.bytes() + Ghosts::bytes_of(&old));
            small.validate().unwrap();
        }
        assert!((100..116).all(|hash| small.recall(hash)));
        assert_eq!(small.wanted(4096), 0);
    }

    #[test]
    fn most_of_what_fits_is_remembered() {
        let mut ghosts = ghosts(1024);
        let mut hash = 1_u32;
        let hashes: Vec<u32> = std::iter::repeat_with(|| {
            hash = hash.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            hash
        })
        .take(1024)
        .collect();
        for &hash in &hashes {
            ghosts.remember(hash);
        }
        let known = hashes.iter().filter(|&&h| ghosts.recall(h)).count();
        assert!(known > 850, "{known} of 1024");
    }
}
