//! The word in which a budget keeps what it has not spent, and how often it was charged.
//!
//! Both change with every charge, so that they share one atomic: the unspent bytes below, the
//! number of charges above. The count has few bits; whoever makes it wrap adds a round to the
//! number of rounds, so that the sum is exact.

use nebula_memory_core::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

/// Bits for the bytes: two more than [`MAX_FUNDS`] needs, so that several of them can be added.
const BYTES_BITS: u32 = 52;
const BYTES: u64 = (1 << BYTES_BITS) - 1;
const ONE_CHARGE: u64 = 1 << BYTES_BITS;
const CHARGES_A_ROUND: u64 = 1 << (64 - BYTES_BITS);

/// The most that a budget can hold: 1 PiB (on 32-bit targets, the whole address space). A larger
/// capacity is as good as none.
#[allow(clippy::cast_possible_truncation, reason = "only taken where it fits")]
pub(crate) const MAX_FUNDS: usize =
    if usize::BITS < BYTES_BITS { usize::MAX } else { (1_u64 << (BYTES_BITS - 2)) as usize };

#[derive(Debug)]
pub(crate) struct Free {
    word: AtomicU64,
    rounds: AtomicU64,
}

/// The bytes in a word. More than a `usize` can say is only there for a moment, while somebody
/// credits what was never charged.
#[inline]
fn bytes_of(word: u64) -> usize {
    usize::try_from(word & BYTES).unwrap_or(usize::MAX)
}

impl Free {
    pub(crate) fn new() -> Self {
        Self { word: AtomicU64::new(0), rounds: AtomicU64::new(0) }
    }

    #[inline]
    pub(crate) fn get(&self) -> usize {
        bytes_of(self.word.load(Acquire))
    }

    /// Takes `bytes`, counting a charge if `COUNT`; returns what is left. `None` if they are not
    /// there. `look` runs before each attempt, and its result is handed out with success.
    #[inline]
    pub(crate) fn take<const COUNT: bool, T>(
        &self,
        bytes: usize,
        look: impl Fn() -> T,
    ) -> Option<(usize, T)> {
        let mut word = self.word.load(Relaxed);
        loop {
            let seen = look();
            let left = bytes_of(word).checked_sub(bytes)?;
            // Does not borrow from the count, because the bytes are there. The count may wrap.
            let mut next = word - bytes as u64;
            if COUNT {
                next = next.wrapping_add(ONE_CHARGE);
            }
            match self.word.compare_exchange_weak(word, next, AcqRel, Relaxed) {
                Ok(_) => {
                    if COUNT && next < ONE_CHARGE {
                        self.next_round();
                    }
                    return Some((left, seen));
                }
                Err(now) => word = now,
            }
        }
    }

    /// Takes exactly `bytes` if exactly `free` are there.
    pub(crate) fn take_from(&self, free: usize, bytes: usize) -> bool {
        let mut word = self.word.load(Acquire);
        loop {
            if bytes_of(word) != free {
                return false;
            }
            // A charge may change the count meanwhile; only the bytes matter.
            match self.word.compare_exchange_weak(word, word - bytes as u64, AcqRel, Acquire) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }

    /// Adds `bytes` and returns what is free then. At most [`MAX_FUNDS`] at a time.
    #[inline]
    pub(crate) fn add(&self, bytes: usize) -> usize {
        bytes_of(self.word.fetch_add(bytes as u64, AcqRel).wrapping_add(bytes as u64))
    }

    /// Counts charges that took nothing from here.
    pub(crate) fn count(&self, charges: u64) {
        self.rounds.fetch_add(charges, Relaxed);
    }

    #[cold]
    fn next_round(&self) {
        self.rounds.fetch_add(CHARGES_A_ROUND, Relaxed);
    }

    /// How many charges were made.
    pub(crate) fn charges(&self) -> u64 {
        let word = self.word.load(Relaxed);
        // Whoever wraps the count adds its round a moment later.
        self.rounds.load(Relaxed) + (word >> BYTES_BITS)
    }
}

#[cfg(all(test, not(nebula_loom)))]
mod tests {
    use super::{CHARGES_A_ROUND, Free, MAX_FUNDS};

    #[test]
    fn bytes_and_charges_do_not_touch_each_other() {
        let free = Free::new();
        assert_eq!(free.add(MAX_FUNDS), MAX_FUNDS);
        for i in 1..=2 * CHARGES_A_ROUND + 5 {
            assert_eq!(free.take::<true, _>(MAX_FUNDS, || ()), Some((0, ())));
            assert_eq!(free.take::<true, _>(1, || ()), None);
            assert_eq!(free.add(MAX_FUNDS), MAX_FUNDS);
            assert_eq!(free.charges(), i);
        }
        assert_eq!(free.take::<false, _>(3, || 7), Some((MAX_FUNDS - 3, 7)));
        assert_eq!(free.charges(), 2 * CHARGES_A_ROUND + 5);
        assert!(!free.take_from(MAX_FUNDS, 1));
        assert!(free.take_from(MAX_FUNDS - 3, MAX_FUNDS - 4));
        assert_eq!(free.get(), 1);
        free.count(3);
        assert_eq!(free.charges(), 2 * CHARGES_A_ROUND + 8);
    }
}
