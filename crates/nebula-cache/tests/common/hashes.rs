//! A hash function that can be a bad one.

use std::hash::{BuildHasher, DefaultHasher, Hasher};

use nebula_cache::DefaultHashBuilder;

/// How keys are hashed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Hashes {
    /// As by default, with the seed of the process.
    #[default]
    Seeded,
    /// Well, and the same in every run.
    Even,
    /// To so many different hashes.
    Few(u64),
    /// To different hashes of which so many choose different buckets: the rest are full.
    Crowded(u64),
}

/// Makes the inside of a cache, which mixes hashes by a multiplication, see those we want.
const UNMIXED: u64 = 0xF1DE_83E1_9937_733D;

impl BuildHasher for Hashes {
    type Hasher = Hashing;

    fn build_hasher(&self) -> Hashing {
        match self {
            Self::Seeded => Hashing::Seeded(DefaultHashBuilder::default().build_hasher()),
            _ => Hashing::Known(DefaultHasher::new(), *self),
        }
    }
}

pub(crate) enum Hashing {
    Seeded(nebula_cache::DefaultHasher),
    Known(DefaultHasher, Hashes),
}

impl Hasher for Hashing {
    fn finish(&self) -> u64 {
        match self {
            Self::Seeded(hasher) => hasher.finish(),
            Self::Known(hasher, hashes) => {
                let hash = hasher.finish();
                match *hashes {
                    Hashes::Few(n) => hash % n,
                    // The highest bits of a mixed hash choose the bucket.
                    Hashes::Crowded(n) => {
                        let high = (hash % n).wrapping_mul(0x5555) << 48;
                        (hash >> 16 | high).wrapping_mul(UNMIXED)
                    }
                    Hashes::Seeded | Hashes::Even => hash,
                }
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Seeded(hasher) => hasher.write(bytes),
            Self::Known(hasher, _) => hasher.write(bytes),
        }
    }
}
