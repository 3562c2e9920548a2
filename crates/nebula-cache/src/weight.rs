//! What entries keep of how much they weigh.

use std::fmt::Debug;

/// What an entry keeps of its weight: [`Counted`], [`Weighed`] or [`WeighedAndCharged`].
pub trait Weight: sealed::Weight {}

impl<T: sealed::Weight> Weight for T {}

/// Entries own nothing outside the cache, and keep no figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted;

/// Entries own what the weigher says, which is charged to the account, and, where the capacity is in
/// bytes, weighs against it. Takes 8 bytes in each entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weighed(usize);

/// Entries weigh what the weigher says, and are charged what the charger says. Takes 16 bytes in
/// each entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeighedAndCharged {
    weight: usize,
    charge: usize,
}

pub(crate) mod sealed {
    use super::{Counted, Debug, Weighed, WeighedAndCharged};

    pub trait Weight: Copy + Default + Debug + Send + Sync + 'static {
        /// Whether there are figures to keep.
        const KEPT: bool;

        fn new(weight: usize, charge: usize) -> Self;

        /// What the entry owns, as far as it counts against a capacity in bytes.
        fn weight(self) -> usize;

        /// What the entry owns, as far as it is charged.
        fn charge(self) -> usize;
    }

    impl Weight for Counted {
        const KEPT: bool = false;

        fn new(_weight: usize, _charge: usize) -> Self {
            Self
        }

        #[inline]
        fn weight(self) -> usize {
            0
        }

        #[inline]
        fn charge(self) -> usize {
            0
        }
    }

    impl Weight for Weighed {
        const KEPT: bool = true;

        fn new(weight: usize, charge: usize) -> Self {
            debug_assert_eq!(weight, charge, "there is one function for both");
            Self(weight)
        }

        #[inline]
        fn weight(self) -> usize {
            self.0
        }

        #[inline]
        fn charge(self) -> usize {
            self.0
        }
    }

    impl Weight for WeighedAndCharged {
        const KEPT: bool = true;

        fn new(weight: usize, charge: usize) -> Self {
            Self { weight, charge }
        }

        #[inline]
        fn weight(self) -> usize {
            self.weight
        }

        #[inline]
        fn charge(self) -> usize {
            self.charge
        }
    }
}
