//! What both faces ask of level one.

use std::{
    hash::{BuildHasher, Hash},
    time::Duration,
};

use crate::{ConcurrentComputeCache, EntryOptions, Kit, times::sealed::Times};

impl<K, V, O> ConcurrentComputeCache<K, V, O>
where
    K: Hash + Eq,
    O: Kit,
    O::Hasher: BuildHasher,
{
    /// Places what was found below, for as long as it has to live.
    pub(super) fn place_until(&self, hash: u64, key: K, value: V, until: Option<Duration>) {
        let mut options = EntryOptions::new();
        if let Some(until) = until {
            let hooks = &self.engine.hooks;
            let left = until.saturating_sub(hooks.clock.now());
            if left.is_zero() || !O::Times::KEPT {
                // Level one would not know when to let go of it.
                return;
            }
            options = options.ttl(hooks.ttl.map_or(left, |ttl| ttl.min(left)));
        }
        // What level one refuses has been counted there.
        drop(self.engine.place(hash, key, value, Some(&options)));
    }

    /// Until when an entry lives that is inserted now.
    pub(super) fn until(&self, options: Option<&EntryOptions>) -> Option<Duration> {
        if !O::Times::KEPT {
            return None;
        }
        let hooks = &self.engine.hooks;
        let ttl = options.and_then(|options| options.ttl).or(hooks.ttl)?;
        Some(hooks.clock.now().saturating_add(ttl))
    }
}
