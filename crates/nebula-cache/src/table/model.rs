//! Tests of the table against a list, with hash functions good and bad: most of what is here happens
//! in full buckets.

use std::mem::take;

use nebula_testing::Rng;

use super::*;

/// A table and what it should hold: hashes and tokens, no token twice.
struct Model {
    table: Table,
    held: Vec<(u32, u32)>,
    bits: u32,
}

impl Model {
    fn new(buckets: usize, bits: u32) -> Self {
        let mut table = Table::new();
        table.replace(Buckets::allocate(buckets, bits).unwrap());
        Self { table, held: Vec::new(), bits }
    }

    /// A token that it does not hold.
    fn fresh(&self, rng: &mut Rng) -> u32 {
        loop {
            // Some differ in their highest byte alone.
            let (low, high) = (rng.below(2000), rng.below(1 << (self.bits - NEAR_BITS)));
            let token = u32::try_from(low | high << NEAR_BITS).unwrap();
            if self.held.iter().all(|(_, other)| *other != token) {
                return token;
            }
        }
    }

    /// Does something with a hash; in so many of eight cases it inserts, if it can.
    fn step(&mut self, rng: &mut Rng, hash: u32, ins: usize) {
        if !self.table.is_full() && (self.held.is_empty() || rng.below(8) < ins) {
            let token = self.fresh(rng);
            self.table.insert(hash, token);
            self.held.push((hash, token));
        } else if rng.one_in(3) {
            let (to, at) = (self.fresh(rng), rng.below(self.held.len()));
            let (hash, from) = &mut self.held[at];
            self.table.rename(*hash, *from, to);
            *from = to;
        } else {
            let (hash, token) = self.held.swap_remove(rng.below(self.held.len()));
            self.table.remove(hash, token);
            self.assert_found(hash, token, false);
        }
    }

    fn assert_found(&self, hash: u32, token: u32, there: bool) {
        let is_it = |other| (other == token).then_some(other);
        assert_eq!(self.table.find(hash, is_it), there.then_some(token));
        match self.table.find_at_home(hash, is_it) {
            Ok(found) => assert_eq!((found, there), (token, true)),
            Err(Elsewhere::Nowhere) => assert!(!there, "{token} was said to be nowhere"),
            Err(Elsewhere::Perhaps) => {}
        }
    }

    /// Nothing is missing, and who looks on is shown every token of a hash.
    fn check(&self) {
        self.table.validate(self.held.iter().copied()).unwrap();
        for &(hash, token) in &self.held {
            self.assert_found(hash, token, true);
        }
        for (hash, _) in self.held.first().iter().chain(&self.held.last()) {
            let mut shown = Vec::new();
            let none: Option<()> = self.table.find(*hash, |token| {
                shown.push(token);
                None
            });
            assert_eq!(none, None);
            let all = |held: &&(u32, u32)| held.0 == *hash && !shown.contains(&held.1);
            assert_eq!(self.held.iter().find(all), None, "{hash:#x} was not looked for everywhere");
        }
        assert_eq!(self.table.is_full(), self.held.len() >= self.table.limit);
    }
}

/// The hash function of bad and good ones.
type Hashes = fn(&mut Rng) -> u32;

fn any(rng: &mut Rng) -> u32 {
    u32::try_from(rng.next_u64() >> 32).unwrap()
}

#[test]
fn a_table_is_a_set_however_full_its_buckets_are() {
    let kinds: [Hashes; 9] = [
        any,
        |_| 0,
        |_| u32::MAX,
        // Two, of which each may be home or the second of the other.
        |rng| [7, 7_u32.wrapping_mul(0x85EB_CA6B).rotate_left(16)][rng.below(2)],
        // One bucket with all tags, and with all counts of those who left.
        |rng| any(rng) & 0xFFF,
        |rng| any(rng) | 0xFFFF_F000,
        // All buckets with one tag and one count.
        |rng| any(rng) & !0x3FF,
        // Two buckets, a count each.
        |rng| (any(rng) & 0x8000_007F) | 0x80,
        // Half of them one hash.
        |rng| if rng.one_in(2) { 0x1234_5678 } else { any(rng) },
    ];
    let mut rng = Rng::new(35);
    for (kind, hashes) in kinds.into_iter().enumerate() {
        for buckets in [1, 2, 3, 4, 7, 20] {
            for bits in [NEAR_BITS, MOST_BITS] {
                let mut model = Model::new(buckets, bits);
                // Full, then emptier, then full again, then empty.
                for (round, ins) in [7, 5, 2, 8, 0].into_iter().enumerate() {
                    for step in 0..6 * LANES * buckets.min(4) {
                        let hash = hashes(&mut rng);
                        if ins > 0 || !model.held.is_empty() {
                            model.step(&mut rng, hash, ins);
                        }
                        if step % 97 == 0 {
                            model.check();
                        }
                    }
                    assert!(kind + round > 0 || model.held.len() > LANES * buckets / 2);
                }
                for (hash, token) in take(&mut model.held) {
                    model.table.remove(hash, token);
                }
                model.check();
                // What has counted too many for its count stays; nothing else does.
                for bucket in model.table.memory.all().0 {
                    let counts = (0..8).map(|field| bucket.state() >> (3 * field) & 7);
                    assert!(counts.into_iter().all(|count| [0, 7].contains(&count)));
                    assert!([0, MOST_PASSED].contains(&bucket.passed()));
                }
            }
        }
    }
}

#[test]
fn a_larger_table_finds_what_the_smaller_one_did() {
    let mut rng = Rng::new(36);
    for few in [1, 2, 40, usize::MAX] {
        let mut model = Model::new(1, NEAR_BITS);
        for buckets in [1, 2, 3, 6, 13, 30] {
            let old = model.table.replace(Buckets::allocate(buckets, NEAR_BITS).unwrap());
            assert!(buckets == 1 || old.len() < buckets);
            for &(hash, token) in &model.held {
                model.table.insert(hash, token);
            }
            model.check();
            while !model.table.is_full() {
                let number = u32::try_from(rng.below(few.min(1 << 31))).unwrap();
                let hash = number.wrapping_mul(0x9E37_79B9);
                model.step(&mut rng, hash, 8);
            }
            model.check();
        }
    }
}
