//! The one error of all crates, and what its larger variants carry.
//!
//! [`MemoryError`] is small (at most 24 bytes) and is made without allocating wherever it is made
//! on an allocation path. What needs room, the explanation of a refused charge, lives behind an
//! `Arc` that the refusing budget prepared when it was created.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use thiserror::Error;

use crate::ByteSize;

/// An alignment in bytes, held as its logarithm so that it takes one byte.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Align(u8);

impl Align {
    /// No alignment to speak of: one byte.
    pub const ONE: Self = Self(0);

    /// The largest power of two that divides `align`; for an alignment, that is `align` itself.
    /// Zero counts as one.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "at most 63")]
    pub const fn new(align: usize) -> Self {
        if align == 0 { Self(0) } else { Self(align.trailing_zeros() as u8) }
    }

    /// The alignment in bytes.
    #[must_use]
    pub const fn get(self) -> usize {
        1 << self.0
    }
}

impl fmt::Debug for Align {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.get(), f)
    }
}

impl fmt::Display for Align {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.get(), f)
    }
}

/// A size as messages print it: rounded, and to the byte beside it where rounding lost something.
struct Exact(usize);

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&ByteSize::new(self.0), f)?;
        let unit = 1_usize << ((usize::BITS - 1 - self.0.max(1).leading_zeros()) / 10 * 10);
        // One decimal is printed.
        if unit == 1 || self.0 % unit == 0 { Ok(()) } else { write!(f, " ({} B)", self.0) }
    }
}

/// Why memory was not to be had, or a request about memory could not be met.
///
/// Every message says what was asked, what there was, whose limit it was and what to do; match on
/// the variant or on [`code`](Self::code) to act on it.
///
/// ```
/// use nebula_memory_core::MemoryError;
///
/// let error = MemoryError::PoolExhausted { in_use: 8, capacity: 8 };
/// assert_eq!(error.code(), "pool_exhausted");
/// assert!(error.is_retryable());
/// assert!(error.to_string().contains("8 of 8"));
/// ```
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// A configuration breaks its rules; every fault is listed with its path.
    #[error("invalid configuration: {0}")]
    InvalidConfig(Box<ConfigFaults>),

    /// A size and alignment that no allocation can have.
    #[error(
        "invalid layout: {size} bytes at alignment {align}; the alignment must be a power of two \
         and the size at most {}",
        crate::layout::MAX_SIZE
    )]
    InvalidLayout {
        /// Bytes asked for (saturated where the request overflowed).
        size: usize,
        /// Alignment asked for, in bytes.
        align: usize,
    },

    /// A fixed capacity (a region, a cache, an arena with a limit) has no room for the request.
    #[error(
        "capacity exceeded: {} requested at alignment {align}, {} available; \
         free or reset something, or give it a larger capacity",
        Exact(*requested), Exact(*available)
    )]
    CapacityExceeded {
        /// Bytes asked for.
        requested: usize,
        /// Bytes that were left.
        available: usize,
        /// Alignment asked for.
        align: Align,
    },

    /// All objects of a pool are lent and it may not create more.
    #[error(
        "pool exhausted: {in_use} of {capacity} objects are lent; \
         return one, wait for one, or raise the maximum"
    )]
    PoolExhausted {
        /// Objects lent out.
        in_use: usize,
        /// The pool's maximum number of objects.
        capacity: usize,
    },

    /// A budget refused a charge. Nothing was charged at any level.
    #[error("budget exceeded: {} requested, {refusal}", Exact(*requested))]
    BudgetExceeded {
        /// Bytes asked for.
        requested: usize,
        /// Whose limit it was, and what stood against it.
        refusal: Arc<Refusal>,
    },

    /// While memory is short, single charges above a size are refused.
    #[error(
        "throttled: {} requested, but charges above {} are refused while memory is short; \
         ask for less at a time, or later",
        Exact(*requested), Exact(*largest)
    )]
    Throttled {
        /// Bytes asked for.
        requested: usize,
        /// The largest single charge allowed at present, in bytes.
        largest: usize,
    },

    /// While memory is short, charges by those with a low priority are refused.
    #[error(
        "low priority: {} requested at priority {priority}, but charges below priority {least} \
         are refused while memory is short; ask again later",
        Exact(*requested)
    )]
    LowPriority {
        /// Bytes asked for.
        requested: usize,
        /// The priority of who asked.
        priority: u8,
        /// The lowest priority that is served at present.
        least: u8,
    },

    /// A wait for a budget's bytes that could never end: those who wait hold so much themselves
    /// that what all others hold would not suffice. Whoever would have closed the circle is told,
    /// and has to give back what it holds, so that the others can go on.
    #[error(
        "deadlock: {} waited for, {refusal}; those who wait hold the rest themselves: \
         give back what this task holds, and ask again",
        Exact(*requested)
    )]
    Deadlock {
        /// Bytes asked for.
        requested: usize,
        /// The budget that everybody waits for.
        refusal: Arc<Refusal>,
    },

    /// A free or a rewind that is not the latest allocation of a stack.
    #[error(
        "not the top of the stack: the block {distance} bytes below the top was released first; \
         release in reverse order of allocation"
    )]
    NotTopOfStack {
        /// Bytes between the released block and the top.
        distance: usize,
    },

    /// A wait ended before there was anything to have.
    #[error("timed out after {waited:?}; wait longer, or look for what is held too long")]
    Timeout {
        /// How long the caller had agreed to wait.
        waited: Duration,
    },

    /// The thing that was asked is closed or released; it will not serve again.
    #[error("{what} is closed; it serves no new requests")]
    Closed {
        /// What is closed.
        what: &'static str,
    },

    /// A budget cannot be released while it still has children.
    #[error("budget has live children: {0}; release them first")]
    LiveChildren(Box<str>),

    /// A computation asked, directly or through others, for its own result.
    #[error("{what} asked for its own result while computing it; compute it without itself")]
    Reentrant {
        /// What re-entered.
        what: &'static str,
    },

    /// The system (or the allocator underneath) has no memory.
    #[error(
        "out of memory: the allocator underneath refused {} at alignment {align}; \
         release memory, or raise the process's limit",
        Exact(*requested)
    )]
    OutOfMemory {
        /// Bytes asked for.
        requested: usize,
        /// Alignment asked for.
        align: Align,
    },

    /// A source of pressure readings cannot be read.
    #[error("pressure source `{}` cannot be read: {}", .0.source, .0.why)]
    SourceUnavailable(Box<SourceFault>),
}

/// Which source of pressure failed, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFault {
    /// The source's name, such as `cgroup v2`.
    pub source: String,
    /// What went wrong, in words.
    pub why: String,
}

impl MemoryError {
    /// A configuration with a single fault.
    pub fn invalid_config(path: &str, value: impl fmt::Display, rule: &'static str) -> Self {
        let mut faults = ConfigFaults::new();
        faults.add(path, value, rule);
        Self::InvalidConfig(Box::new(faults))
    }

    /// The allocator underneath refused `layout`.
    #[must_use]
    pub const fn out_of_memory(layout: std::alloc::Layout) -> Self {
        Self::OutOfMemory { requested: layout.size(), align: Align::new(layout.align()) }
    }

    /// A source of readings failed.
    pub fn source_unavailable(source: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::SourceUnavailable(Box::new(SourceFault {
            source: source.into(),
            why: why.to_string(),
        }))
    }

    /// A stable name of the variant, for logs and metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidConfig(_) => "invalid_config",
            Self::InvalidLayout { .. } => "invalid_layout",
            Self::CapacityExceeded { .. } => "capacity_exceeded",
            Self::PoolExhausted { .. } => "pool_exhausted",
            Self::BudgetExceeded { .. } => "budget_exceeded",
            Self::Throttled { .. } => "throttled",
            Self::LowPriority { .. } => "low_priority",
            Self::Deadlock { .. } => "deadlock",
            Self::NotTopOfStack { .. } => "not_top_of_stack",
            Self::Timeout { .. } => "timeout",
            Self::Closed { .. } => "closed",
            Self::LiveChildren(_) => "live_children",
            Self::Reentrant { .. } => "reentrant",
            Self::OutOfMemory { .. } => "out_of_memory",
            Self::SourceUnavailable(_) => "source_unavailable",
        }
    }

    /// Whether the same request may succeed later because others give memory back.
    ///
    /// A budget's refusal is not retryable if the request is larger than the limit that refused it.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::PoolExhausted { .. }
            | Self::Throttled { .. }
            | Self::LowPriority { .. }
            | Self::Timeout { .. }
            | Self::Deadlock { .. }
            | Self::OutOfMemory { .. }
            | Self::LiveChildren(_)
            | Self::SourceUnavailable(_) => true,
            Self::BudgetExceeded { requested, refusal } => *requested <= refusal.limit(),
            Self::InvalidConfig(_)
            | Self::InvalidLayout { .. }
            | Self::CapacityExceeded { .. }
            | Self::NotTopOfStack { .. }
            | Self::Closed { .. }
            | Self::Reentrant { .. } => false,
        }
    }
}

/// Whose limit refused a charge, and what stood against it.
///
/// A budget keeps one of these from its creation on and updates the figures when it refuses, so
/// that a refusal neither allocates nor walks the tree; until [`Account::explain`] has made a
/// frozen copy with the details, the figures are those of the budget's latest refusal.
///
/// [`Account::explain`]: crate::Account::explain
#[derive(Debug)]
pub struct Refusal {
    path: Box<str>,
    used: AtomicUsize,
    limit: AtomicUsize,
    peak: AtomicUsize,
    details: Option<RefusalDetails>,
}

/// What is found out about a refusal before a user sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusalDetails {
    /// The path of the budget that was charged; the refusing one is it or one of its ancestors.
    pub charged: String,
    /// Of the bytes committed at the refusing level, those that are really charged. The rest is
    /// held for budgets below: guarantees that are not spent.
    pub charged_bytes: Option<usize>,
    /// The largest consumers at the refusing level, largest first.
    pub consumers: Vec<Consumer>,
    /// What to do.
    pub advice: &'static str,
}

/// One consumer of a budget, as a refusal names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Its name.
    pub name: String,
    /// Bytes that it uses.
    pub used: usize,
    /// Bytes that it may use at most.
    pub limit: usize,
}

impl Refusal {
    /// The standing record of the budget at `path` (names from the root, joined by `/`).
    #[must_use]
    pub fn new(path: impl Into<Box<str>>) -> Self {
        Self {
            path: path.into(),
            used: AtomicUsize::new(0),
            limit: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            details: None,
        }
    }

    /// Notes the figures of a refusal that is happening, in bytes.
    pub fn record(&self, used: usize, limit: usize, peak: usize) {
        self.used.store(used, Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
        self.peak.store(peak, Ordering::Relaxed);
    }

    /// A copy that later refusals do not change, with `details`.
    #[must_use]
    pub fn frozen(&self, details: RefusalDetails) -> Self {
        Self {
            path: self.path.clone(),
            used: AtomicUsize::new(self.used()),
            limit: AtomicUsize::new(self.limit()),
            peak: AtomicUsize::new(self.peak()),
            details: Some(details),
        }
    }

    /// The refusing budget: names from the root, joined by `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Bytes committed at the refusing level.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The limit at the refusing level, in bytes.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// The most that was ever committed there, in bytes.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Consumers and advice, once the refusal has been explained.
    #[must_use]
    pub fn details(&self) -> Option<&RefusalDetails> {
        self.details.as_ref()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, limit) = (Exact(self.used()), Exact(self.limit()));
        write!(f, "`{}` has used {used} of {limit}", self.path)?;
        write!(f, " (peak {})", Exact(self.peak()))?;
        let Some(details) = &self.details else { return Ok(()) };
        if let Some(charged) = details.charged_bytes.filter(|charged| *charged < self.used()) {
            let charged = Exact(charged);
            write!(f, ", {charged} of it charged and the rest held for budgets below")?;
        }
        if *details.charged != *self.path {
            write!(f, "; charged through `{}`", details.charged)?;
        }
        for (i, consumer) in details.consumers.iter().enumerate() {
            f.write_str(if i == 0 { "; largest consumers: " } else { ", " })?;
            let (used, limit) = (Exact(consumer.used), Exact(consumer.limit));
            write!(f, "`{}` {used} of {limit}", consumer.name)?;
        }
        if !details.advice.is_empty() {
            write!(f, "; {}", details.advice)?;
        }
        Ok(())
    }
}

/// One broken rule of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// The field, with the path to it: `cache.capacity`.
    pub path: String,
    /// The value found there.
    pub value: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

/// Every broken rule of a configuration, for `validate()` to collect.
///
/// ```
/// use nebula_memory_core::{ConfigFaults, MemoryError};
///
/// struct Config { low: usize, high: usize }
/// impl Config {
///     fn validate(&self) -> Result<(), MemoryError> {
///         let mut faults = ConfigFaults::new();
///         faults.check(self.low > 0, "low", self.low, "must be above zero");
///         faults.check(self.low <= self.high, "high", self.high, "must be at least `low`");
///         faults.into_result()
///     }
/// }
/// let error = Config { low: 0, high: 5 }.validate().unwrap_err();
/// assert_eq!(error.to_string(), "invalid configuration: low = 0: must be above zero");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFaults(Vec<ConfigFault>);

impl ConfigFaults {
    /// No faults so far.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Notes a fault.
    pub fn add(&mut self, path: &str, value: impl fmt::Display, rule: &'static str) {
        self.0.push(ConfigFault { path: path.to_owned(), value: value.to_string(), rule });
    }

    /// Notes a fault unless `ok`.
    pub fn check(&mut self, ok: bool, path: &str, value: impl fmt::Display, rule: &'static str) {
        if !ok {
            self.add(path, value, rule);
        }
    }

    /// Takes over the faults of a part, each path prefixed with `part` and a dot. An error of
    /// another kind becomes a fault of the part itself.
    pub fn nest(&mut self, part: &str, result: Result<(), MemoryError>) {
        match result {
            Ok(()) => {}
            Err(MemoryError::InvalidConfig(faults)) => {
                for mut fault in faults.0 {
                    fault.path = format!("{part}.{}", fault.path);
                    self.0.push(fault);
                }
            }
            Err(other) => self.add(part, other, "must be usable"),
        }
    }

    /// The faults, in the order in which they were found.
    #[must_use]
    pub fn as_slice(&self) -> &[ConfigFault] {
        &self.0
    }

    /// `Ok` if there are none.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] with all of them.
    pub fn into_result(self) -> Result<(), MemoryError> {
        if self.0.is_empty() { Ok(()) } else { Err(MemoryError::InvalidConfig(Box::new(self))) }
    }
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{} = {}: {}", fault.path, fault.value, fault.rule)?;
        }
        Ok(())
    }
}
