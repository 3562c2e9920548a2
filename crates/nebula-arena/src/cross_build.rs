//! Making cross-thread arenas with an arena of their own, and moving what they are charged for.

use nebula_memory_core::{Account, Accounted, Allocator, Global, MemoryError, Refused};

use crate::{
    Arena, ArenaConfig, CrossThreadArena, Family, MovableAccount,
    owner::{ArenaOwner, BoxedArena},
};

impl<F: Family> CrossThreadArena<F> {
    /// Makes a root in an arena on the heap with the default settings.
    ///
    /// # Panics
    /// If the heap has no memory, or `build` panics. Nothing is leaked then.
    #[track_caller]
    pub fn build(build: impl for<'a> FnOnce(&'a Arena) -> F::Of<'a>) -> Self {
        match Self::build_in(ArenaConfig::default(), Global, build) {
            Ok(built) => built,
            Err(error) => crate::making::refused(error),
        }
    }

    /// As [`build`](Self::build), for a root that may fail to be made.
    ///
    /// # Errors
    /// What `build` returns, or the heap's refusal.
    ///
    /// ```
    /// use nebula_arena::{CrossThreadArena, Family};
    /// use nebula_memory_core::MemoryError;
    ///
    /// struct Numbers;
    /// impl Family for Numbers {
    ///     type Of<'a> = &'a mut [u64];
    /// }
    /// let numbers = CrossThreadArena::<Numbers>::try_build(|arena| {
    ///     arena.try_alloc_slice_with(1000, |i| i as u64)
    /// })?;
    /// assert_eq!(numbers.with(|numbers| numbers.len()), 1000);
    /// # Ok::<(), MemoryError>(())
    /// ```
    pub fn try_build<E: From<MemoryError>>(
        build: impl for<'a> FnOnce(&'a Arena) -> Result<F::Of<'a>, E>,
    ) -> Result<Self, E> {
        Self::try_build_in(ArenaConfig::default(), Global, build)
    }
}

impl<F: Family, A: Allocator> CrossThreadArena<F, A> {
    /// What the arena's box takes from the allocator, in bytes.
    pub const BOX_BYTES: usize = BoxedArena::<A>::LAYOUT.size();

    /// Makes a root in an arena with `config` whose chunks, and itself, come from `allocator`.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`], or the allocator's refusal; `build` is not called then.
    pub fn build_in(
        config: ArenaConfig,
        allocator: A,
        build: impl for<'a> FnOnce(&'a Arena<A>) -> F::Of<'a>,
    ) -> Result<Self, MemoryError> {
        Self::try_build_in(config, allocator, |arena| Ok(build(arena)))
    }

    /// As [`build_in`](Self::build_in), for a root that may fail to be made.
    ///
    /// # Errors
    /// What `build` returns, and as [`build_in`](Self::build_in).
    pub fn try_build_in<E: From<MemoryError>>(
        config: ArenaConfig,
        allocator: A,
        build: impl for<'a> FnOnce(&'a Arena<A>) -> Result<F::Of<'a>, E>,
    ) -> Result<Self, E> {
        let owner = BoxedArena::try_new(Arena::with_config_in(config, allocator)?)?;
        Self::try_seat(owner, build).map_err(|(_, error)| error)
    }

    /// Drops the root, and returns the arena: to be reset, and used again.
    ///
    /// ```
    /// # use nebula_arena::{CrossThreadArena, Family};
    /// # struct Words;
    /// # impl Family for Words { type Of<'a> = &'a str; }
    /// let words = CrossThreadArena::<Words>::build(|arena| arena.alloc_str("abc"));
    /// let mut arena = words.into_arena();
    /// arena.reset();
    /// arena.alloc(1);
    /// ```
    pub fn into_arena(self) -> Arena<A> {
        self.into_owner().into_arena()
    }
}

impl<F: Family, B: Allocator, C: Account> CrossThreadArena<F, Accounted<B, MovableAccount<C>>> {
    /// Moves all that arena and root are charged for to another account, and charges it there from
    /// now on; returns the account before. Both accounts hold the bytes for a moment.
    ///
    /// # Errors
    /// `account` is handed back with its refusal; nothing has changed then.
    ///
    /// ```
    /// use nebula_arena::{ArenaConfig, CrossThreadArena, Family, MovableAccount};
    /// use nebula_memory_core::{Accounted, Global, Unlimited};
    ///
    /// struct Words;
    /// impl Family for Words {
    ///     type Of<'a> = &'a [&'a str];
    /// }
    /// let producer = Unlimited; // a budget, in earnest
    /// let charged = Accounted::new(Global, MovableAccount::new(producer));
    /// let mut words = CrossThreadArena::<Words, _>::build_in(ArenaConfig::default(), charged, |arena| {
    ///     arena.alloc_slice_from_iter("to be or not".split(' ').map(|word| &*arena.alloc_str(word)))
    /// })?;
    /// let consumer = Unlimited;
    /// words.try_move_to(consumer)?;
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn try_move_to(&mut self, account: C) -> Result<C, Refused<C>> {
        self.owner().arena().allocator().account().try_move_to(account)
    }
}
