//! How full something is: the traits, and the cell through which an allocator publishes it.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::{AllocatorStats, StatisticsProvider, StatsSnapshot};

/// How many bytes something holds and may hold.
pub trait MemoryUsage {
    /// Bytes in use.
    fn used(&self) -> usize;

    /// The most bytes it can hold, or `None` if nothing but the system limits it.
    fn capacity(&self) -> Option<usize>;

    /// Bytes left, or `None` if nothing but the system limits it.
    fn available(&self) -> Option<usize> {
        self.capacity().map(|capacity| capacity.saturating_sub(self.used()))
    }
}

impl<U: MemoryUsage + ?Sized> MemoryUsage for &U {
    fn used(&self) -> usize {
        (**self).used()
    }

    fn capacity(&self) -> Option<usize> {
        (**self).capacity()
    }

    fn available(&self) -> Option<usize> {
        (**self).available()
    }
}

/// Something whose memory can be taken back all at once.
///
/// `&mut self` proves that nobody borrows from it any more.
pub trait Resettable {
    /// Takes everything back. What was allocated is gone, without being dropped unless the type says
    /// otherwise; memory may be kept for the next use.
    fn reset(&mut self);
}

/// What kind of allocator publishes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum AllocatorKind {
    /// The system's heap or mapped pages.
    System,
    /// One region with a cursor.
    Bump,
    /// Last in, first out.
    Stack,
    /// Blocks of one size.
    Pool,
    /// Chunks with a cursor.
    Arena,
    /// Anything else.
    Other,
}

impl fmt::Display for AllocatorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::System => "system",
            Self::Bump => "bump",
            Self::Stack => "stack",
            Self::Pool => "pool",
            Self::Arena => "arena",
            Self::Other => "other",
        })
    }
}

/// Where an allocator publishes how full it is, for others to read at any time.
///
/// The allocator holds the cell in an `Arc` and writes it with plain stores; a registry holds it
/// weakly. So an allocator for one thread can be listed by another, and resetting or dropping it
/// needs nobody's leave.
///
/// ```
/// use nebula_memory_core::{AllocatorKind, MemoryUsage, UsageCell};
///
/// let cell = UsageCell::new("scratch", AllocatorKind::Bump, false).with_capacity(4096);
/// cell.set_used(96);
/// assert_eq!((cell.name(), cell.available()), ("scratch", Some(4000)));
/// ```
#[derive(Debug)]
pub struct UsageCell {
    name: Box<str>,
    kind: AllocatorKind,
    thread_safe: bool,
    used: AtomicUsize,
    /// `usize::MAX` stands for no capacity of its own.
    capacity: AtomicUsize,
    statistics: Option<AllocatorStats>,
}

impl UsageCell {
    /// A cell for an allocator called `name`, with nothing used, no capacity and no statistics.
    pub fn new(name: impl Into<Box<str>>, kind: AllocatorKind, thread_safe: bool) -> Self {
        Self {
            name: name.into(),
            kind,
            thread_safe,
            used: AtomicUsize::new(0),
            capacity: AtomicUsize::new(usize::MAX),
            statistics: None,
        }
    }

    /// The same with a capacity in bytes.
    #[must_use]
    pub fn with_capacity(self, bytes: usize) -> Self {
        self.set_capacity(Some(bytes));
        self
    }

    /// The same with statistics.
    #[must_use]
    pub fn with_statistics(mut self) -> Self {
        self.statistics = Some(AllocatorStats::new());
        self
    }

    /// The allocator's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The allocator's kind.
    #[must_use]
    pub const fn kind(&self) -> AllocatorKind {
        self.kind
    }

    /// Whether several threads may allocate from it at once.
    #[must_use]
    pub const fn is_thread_safe(&self) -> bool {
        self.thread_safe
    }

    /// Publishes that `bytes` are in use. A cell with statistics reads its usage from them
    /// instead.
    #[inline]
    pub fn set_used(&self, bytes: usize) {
        self.used.store(bytes, Relaxed);
    }

    /// Publishes the capacity in bytes.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.capacity.store(bytes.unwrap_or(usize::MAX), Relaxed);
    }

    /// Where the allocator counts, if it does.
    #[inline]
    #[must_use]
    pub const fn stats(&self) -> Option<&AllocatorStats> {
        self.statistics.as_ref()
    }
}

impl MemoryUsage for UsageCell {
    /// Bytes in use: by the statistics, if there are any, otherwise what was published.
    fn used(&self) -> usize {
        match &self.statistics {
            Some(stats) => usize::try_from(stats.current_usage()).unwrap_or(usize::MAX),
            None => self.used.load(Relaxed),
        }
    }

    fn capacity(&self) -> Option<usize> {
        let capacity = self.capacity.load(Relaxed);
        (capacity != usize::MAX).then_some(capacity)
    }
}

impl StatisticsProvider for UsageCell {
    fn statistics(&self) -> Option<StatsSnapshot> {
        self.statistics.as_ref().map(AllocatorStats::snapshot)
    }
}
