//! What the faces have in common, word for word.

/// Figures and requests that are the same for every face; `$holder` is how the face calls itself.
macro_rules! figures {
    () => {
        /// How many entries there are, expired ones that nobody has come across included. Takes
        /// O(shards).
        #[must_use]
        pub fn len(&self) -> usize {
            self.engine.len()
        }

        /// Whether there are no entries. Takes O(shards).
        #[must_use]
        pub fn is_empty(&self) -> bool {
            self.len() == 0
        }

        /// How much of the capacity is taken, in entries or bytes, by entries about to be placed
        /// too: at no moment more than the capacity.
        #[must_use]
        pub fn weight(&self) -> usize {
            self.engine.total.taken()
        }

        /// The most that the cache holds.
        #[must_use]
        pub fn capacity(&self) -> Capacity {
            self.engine.capacity()
        }

        /// How many entries are pinned. Takes O(shards).
        #[must_use]
        pub fn pinned(&self) -> usize {
            self.engine.pinned()
        }

        /// Bytes charged to the account: what the entries own, and all that the cache has allocated
        /// for itself. Takes O(shards).
        #[must_use]
        pub fn charged(&self) -> usize {
            self.engine.charged()
        }

        /// The account that is charged.
        #[must_use]
        pub const fn account(&self) -> &O::Account {
            &self.engine.account
        }

        /// The policy by which entries are evicted.
        #[must_use]
        pub fn policy(&self) -> PolicyKind {
            self.engine.policy()
        }

        /// What the cache has done. Takes O(shards).
        #[must_use]
        pub fn stats(&self) -> CacheStats {
            self.engine.stats()
        }
    };
}

pub(crate) use figures;
