//! This thread's scratch memory.

use std::sync::Arc;

use nebula_memory_core::{Account, Accounted, ByteSize, Reclaim};

use crate::{Arena, ArenaConfig, Growth, Keep, LocalChunks, Scope, bins::StoreStats, local_chunks};

/// One chunk does for most scopes; it costs nothing to take a large one that is there.
const CONFIG: ArenaConfig = ArenaConfig {
    chunk_size: ByteSize::kib(32),
    max_chunk_size: ByteSize::mib(1),
    growth: Growth::Doubling,
    capacity: None,
    keep: Keep::Last,
};

/// Scratch memory of this thread: a scope, wherever one is needed, without an arena to pass around.
///
/// Scopes nest freely, also through functions that know nothing of each other: each has an arena of
/// its own. The chunks come from this thread's spare ones, and go back there: once a thread has run
/// the same work before, a scope calls no allocator.
///
/// ```
/// use nebula_arena::LocalArena;
///
/// fn longest_word(text: &str) -> usize {
///     LocalArena::scope(|scratch| {
///         let mut lengths = scratch.vec();
///         lengths.extend(text.split(' ').map(str::len));
///         lengths.iter().max().copied().unwrap_or(0)
///     })
/// }
///
/// let words = LocalArena::scope(|scratch| {
///     let text = scratch.alloc_str("to be or not"); // not touched by the scope inside
///     let longest = longest_word(text);
///     (longest, text.len())
/// });
/// assert_eq!(words, (3, 12));
/// ```
///
/// What a scope takes first is a chunk of 32 KiB, then one of 64 KiB, and so on, up to 1 MiB; a
/// thread keeps up to 1 MiB of them between scopes ([`set_keep`](Self::set_keep)). Inside the
/// destructors of other thread-locals, it may be the heap that serves.
///
/// Nothing leaves its scope:
/// ```compile_fail
/// let escaped = nebula_arena::LocalArena::scope(|scratch| scratch.alloc(1));
/// ```
/// Nor can it be smuggled out:
/// ```compile_fail
/// let mut escaped = None;
/// nebula_arena::LocalArena::scope(|scratch| escaped = Some(scratch.alloc(1)));
/// ```
#[derive(Debug)]
pub struct LocalArena(());

/// Looks, at the end of a scope, whether memory is wanted back. Declared before the scope's arena,
/// and so dropped after it.
struct Answer;

impl Drop for Answer {
    #[inline]
    fn drop(&mut self) {
        local_chunks::answer();
    }
}

impl LocalArena {
    /// Runs `body` with scratch memory that is given back at its end, also if it panics.
    ///
    /// `&*scratch` is an allocator for collections; [`Scope::scope`] opens a scope inside that
    /// shares its chunks.
    ///
    /// ```
    /// use nebula_arena::LocalArena;
    /// use nebula_memory_core::allocator_api2::vec::Vec;
    ///
    /// let sum = LocalArena::scope(|scratch| {
    ///     let mut numbers = Vec::new_in(&*scratch);
    ///     numbers.extend(0..100);
    ///     numbers.iter().sum::<u32>()
    /// });
    /// assert_eq!(sum, 4950);
    /// ```
    #[inline]
    pub fn scope<R>(body: impl FnOnce(&mut Scope<'_, LocalChunks>) -> R) -> R {
        let _answer = Answer;
        let mut arena = Arena::unchecked(CONFIG, LocalChunks);
        body(&mut arena.as_scope())
    }

    /// The same, with the chunks of the scope charged to `account` while it runs: for a tenant's
    /// scratch. What the account refuses is refused in the scope.
    ///
    /// ```
    /// use nebula_arena::LocalArena;
    /// use nebula_memory_core::Unlimited;
    ///
    /// let account = Unlimited; // a budget, in earnest
    /// let sum = LocalArena::scope_in(account, |scratch| {
    ///     let numbers = scratch.try_alloc_slice_with(100, |i| i)?;
    ///     Ok::<usize, nebula_memory_core::MemoryError>(numbers.iter().sum())
    /// });
    /// assert_eq!(sum?, 4950);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    #[inline]
    pub fn scope_in<C: Account, R>(
        account: C,
        body: impl FnOnce(&mut Scope<'_, Accounted<LocalChunks, C>>) -> R,
    ) -> R {
        let _answer = Answer;
        let mut arena = Arena::unchecked(CONFIG, Accounted::new(LocalChunks, account));
        body(&mut arena.as_scope())
    }

    /// Sets the most bytes that this thread keeps for later scopes, and gives back what is above.
    ///
    /// ```
    /// use nebula_arena::LocalArena;
    /// use nebula_memory_core::ByteSize;
    ///
    /// LocalArena::scope(|scratch| *scratch.alloc(1));
    /// assert_eq!(LocalArena::kept(), 32 << 10);
    /// LocalArena::set_keep(ByteSize::kib(16));
    /// assert_eq!(LocalArena::kept(), 0);
    /// ```
    pub fn set_keep(bytes: ByteSize) {
        local_chunks::set_keep(bytes.get());
    }

    /// Bytes that this thread keeps for later scopes.
    pub fn kept() -> usize {
        Self::stats().bytes
    }

    /// The figures of this thread's spare chunks.
    pub fn stats() -> StoreStats {
        local_chunks::stats()
    }

    /// Gives back what this thread keeps; returns how many bytes that were.
    pub fn trim() -> usize {
        local_chunks::trim()
    }

    /// Who gives back what all threads keep, for a reclaim registry: one for the process, which
    /// lasts as long as it.
    ///
    /// A thread's memory is given back by that thread: by the one that is asked at once, by others
    /// at the end of their next scopes (until when a thread that runs none keeps what it has). What
    /// is reported as given is what was given at once.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use nebula_arena::LocalArena;
    /// use nebula_memory_core::{PressureLevel, ReclaimRegistry};
    ///
    /// let registry = ReclaimRegistry::new();
    /// let reclaimer = Arc::downgrade(&LocalArena::reclaimer());
    /// let _registration = registry.register("scratch", 0, reclaimer);
    /// LocalArena::scope(|scratch| *scratch.alloc(1));
    /// assert_eq!(registry.reclaim(1, PressureLevel::High).given, 32 << 10);
    /// ```
    pub fn reclaimer() -> Arc<dyn Reclaim> {
        local_chunks::reclaimer()
    }
}
