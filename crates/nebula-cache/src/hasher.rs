//! The default hash function, behind names of our own.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hasher},
    sync::OnceLock,
};

/// Builds the default hashers of a cache: fast, and seeded from the system's entropy once a
/// process, so that keys chosen by others cannot be made to collide.
///
/// ```
/// use std::hash::BuildHasher;
/// use nebula_cache::DefaultHashBuilder;
/// let build = DefaultHashBuilder::default();
/// assert_eq!(build.hash_one("key"), build.clone().hash_one("key"));
/// ```
#[derive(Clone)]
pub struct DefaultHashBuilder(ahash::RandomState);

impl Default for DefaultHashBuilder {
    fn default() -> Self {
        static SEEDED: OnceLock<ahash::RandomState> = OnceLock::new();
        let seeded = SEEDED.get_or_init(|| {
            // std's own state is seeded by the system; four different inputs make four seeds of it.
            let entropy = RandomState::new();
            let [a, b, c, d] = [1_u64, 2, 3, 4].map(|i| entropy.hash_one(i));
            ahash::RandomState::with_seeds(a, b, c, d)
        });
        Self(seeded.clone())
    }
}

impl fmt::Debug for DefaultHashBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The seeds are nobody's business.
        f.debug_struct("DefaultHashBuilder").finish_non_exhaustive()
    }
}

impl BuildHasher for DefaultHashBuilder {
    type Hasher = DefaultHasher;

    #[inline]
    fn build_hasher(&self) -> DefaultHasher {
        DefaultHasher(self.0.build_hasher())
    }
}

/// The default hasher of a cache; made by [`DefaultHashBuilder`].
#[derive(Clone)]
pub struct DefaultHasher(ahash::AHasher);

impl fmt::Debug for DefaultHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DefaultHasher").finish_non_exhaustive()
    }
}

macro_rules! forward {
    ($($method:ident: $ty:ty),*) => {$(
        #[inline]
        fn $method(&mut self, value: $ty) {
            self.0.$method(value);
        }
    )*};
}

impl Hasher for DefaultHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0.finish()
    }

    forward!(
        write: &[u8], write_u8: u8, write_u16: u16, write_u32: u32, write_u64: u64,
        write_u128: u128, write_usize: usize
    );
}
