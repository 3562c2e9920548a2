//! How often hashes came up lately, roughly: the count-min sketch of TinyLFU (Einziger, Friedman and
//! Manes, "TinyLFU: a highly efficient cache admission policy", 2017) in 4-bit counters.
//!
//! A hash has four counters, one in each quarter of one cache line. Its estimate is the least of
//! them, which is never less than the truth up to 15; other hashes can make it more. When as many
//! events were counted as a sample has, all counters are halved: that is the ageing.

use std::collections::TryReserveError;

/// Words of a cache line.
const WORDS: usize = 8;

/// Entries for each line: a word for each.
const ENTRIES: usize = WORDS;

/// Counters of a hash.
const ROWS: usize = 4;

/// What a counter counts to.
const MOST: u64 = 15;

/// A cache line of counters; two words for each row.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Line([u64; WORDS]);

#[derive(Debug, Default)]
pub(crate) struct Sketch {
    lines: Vec<Line>,
    /// Events counted, halved with the counters.
    events: usize,
}

/// The line of a hash, and word and shift of its counters there.
#[derive(Clone, Copy, Debug)]
struct Spot {
    line: usize,
    counters: [(usize, u32); ROWS],
}

impl Sketch {
    #[inline]
    fn spot(&self, hash: u32) -> Spot {
        let spread = hash.wrapping_mul(0x9E37_79B1);
        let line = (u64::from(spread) * self.lines.len() as u64) >> 32;
        // Other bits than those that chose the line.
        #[allow(clippy::cast_possible_truncation, reason = "24 bits are left")]
        let mut bits = (u64::from(hash).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 40) as u32;
        let counters = std::array::from_fn(|row| {
            let (word, shift) = (row * 2 + (bits & 1) as usize, (bits >> 1 & 15) * 4);
            bits >>= 5;
            (word, shift)
        });
        Spot { line: line as usize, counters }
    }

    /// How often `hash` came up, at most 15.
    #[inline]
    pub(crate) fn frequency(&self, hash: u32) -> u8 {
        let spot = self.spot(hash);
        let Some(Line(words)) = self.lines.get(spot.line) else { return 0 };
        let counts = spot.counters.map(|(word, shift)| (words[word] >> shift & MOST) as u8);
        counts.into_iter().min().unwrap_or(0)
    }

    /// Counts an event. After `sample` of them, but not before there are enough to make up for the
    /// effort, all counts are halved. Amortised O(1).
    #[inline]
    pub(crate) fn count(&mut self, hash: u32, sample: usize) {
        let spot = self.spot(hash);
        let Some(Line(words)) = self.lines.get_mut(spot.line) else { return };
        let mut counted = false;
        for (word, shift) in spot.counters {
            if words[word] >> shift & MOST < MOST {
                words[word] += 1 << shift;
                counted = true;
            }
        }
        if counted {
            self.events += 1;
            if self.events >= sample.max(self.lines.len() * ENTRIES) {
                self.halve();
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn halve(&mut self) {
        let mut odd = 0;
        for word in self.lines.iter_mut().flat_map(|line| &mut line.0) {
            odd += (*word & 0x1111_1111_1111_1111).count_ones() as usize;
            *word = *word >> 1 & 0x7777_7777_7777_7777;
        }
        // Every event has as many counters as there are rows, and of odd ones half a count is lost.
        self.events = self.events.saturating_sub(odd / ROWS) / 2;
    }

    /// Bytes wanted to count for `entries` entries, or zero if there is room for them.
    pub(crate) fn wanted(&self, entries: usize) -> usize {
        let (have, needed) = (self.lines.len(), entries.div_ceil(ENTRIES));
        if needed <= have {
            return 0;
        }
        // As often as large as before, so that every old line has whole new ones in its place.
        let times = if have == 0 { needed } else { needed.div_ceil(have).next_power_of_two() };
        have.max(1) * times * size_of::<Line>()
    }

    /// Lines of `bytes` bytes, nothing counted.
    pub(crate) fn allocate(bytes: usize) -> Result<Vec<Line>, TryReserveError> {
        let mut lines = Vec::new();
        lines.try_reserve_exact(bytes / size_of::<Line>())?;
        lines.resize(bytes / size_of::<Line>(), Line([0; WORDS]));
        Ok(lines)
    }

    /// Moves into `lines` if they are more; returns the ones not used any more.
    ///
    /// Every line is copied to those that take its place, so that no estimate falls.
    pub(crate) fn adopt(&mut self, mut lines: Vec<Line>) -> Vec<Line> {
        let (old, new) = (self.lines.len(), lines.len());
        if new <= old {
            return lines;
        }
        if old > 0 {
            for (index, line) in lines.iter_mut().enumerate() {
                *line = self.lines[index * old / new];
            }
        }
        std::mem::replace(&mut self.lines, lines)
    }

    pub(crate) fn bytes_of(lines: &Vec<Line>) -> usize {
        lines.capacity() * size_of::<Line>()
    }

    pub(crate) fn bytes(&self) -> usize {
        Self::bytes_of(&self.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch(entries: usize) -> Sketch {
        let mut sketch = Sketch::default();
        let lines = Sketch::allocate(sketch.wanted(entries)).unwrap();
        assert!(sketch.adopt(lines).is_empty());
        sketch
    }

    fn hash_of(key: u32) -> u32 {
        key.wrapping_mul(0x85EB_CA6B) ^ key >> 7
    }

    /// Key n comes up n % 16 times.
    fn counted(entries: u32) -> Sketch {
        let mut sketch = sketch(entries as usize);
        for key in 0..entries {
            (0..key % 16).for_each(|_| sketch.count(hash_of(key), usize::MAX));
        }
        sketch
    }

    #[test]
    fn estimates_are_never_low_and_rarely_high() {
        let sketch = counted(4096);
        let mut high = 0;
        for key in 0..4096 {
            let estimate = u32::from(sketch.frequency(hash_of(key)));
            assert!(estimate >= key % 16);
            high += usize::from(estimate > key % 16);
        }
        assert!(high < 400, "{high} of 4096 estimates are too high");
    }

    #[test]
    fn halving_halves_and_counts_what_is_left() {
        let mut sketch = sketch(64);
        (0..9).for_each(|_| sketch.count(7, 1000));
        assert_eq!((sketch.frequency(7), sketch.events), (9, 9));
        sketch.halve();
        assert_eq!((sketch.frequency(7), sketch.events), (4, 4));
        // Full counters are not events.
        (0..100).for_each(|_| sketch.count(7, 1000));
        assert_eq!((sketch.frequency(7), sketch.events), (15, 15));
    }

    #[test]
    fn a_sample_ends_in_halving_but_never_before_it_pays() {
        let mut sketch = sketch(8);
        (0..7).for_each(|_| sketch.count(1, 1));
        assert_eq!(sketch.frequency(1), 7);
        sketch.count(1, 1);
        assert_eq!(sketch.frequency(1), 4);
    }

    #[test]
    fn no_estimate_falls_when_the_sketch_grows() {
        for (before, after) in [(8, 16), (64, 1000), (1000, 1256), (800, 1000), (4096, 5000)] {
            let mut sketch = counted(before);
            let old: Vec<_> = (0..before).map(|key| sketch.frequency(hash_of(key))).collect();
            let lines = Sketch::allocate(sketch.wanted(after)).unwrap();
            assert!(lines.len() * ENTRIES >= after);
            sketch.adopt(lines);
            for (key, old) in (0..before).zip(old) {
                assert!(sketch.frequency(hash_of(key)) >= old);
            }
        }
    }

    #[test]
    fn without_memory_nothing_is_counted() {
        let mut sketch = Sketch::default();
        sketch.count(1, 10);
        assert_eq!((sketch.frequency(1), sketch.bytes(), sketch.events), (0, 0, 0));
    }
}
