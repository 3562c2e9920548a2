//! How short memory is, who can tell, and who can be told to take less.

use std::fmt;

use crate::MemoryError;

/// How short memory is. Ordered: `Normal < Elevated < High < Critical`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum PressureLevel {
    /// Plenty left.
    #[default]
    Normal,
    /// Worth giving back what is idle.
    Elevated,
    /// Give back what is cheap to make again.
    High,
    /// Give back whatever can be given back.
    Critical,
}

impl PressureLevel {
    /// All levels, lowest first.
    pub const ALL: [Self; 4] = [Self::Normal, Self::Elevated, Self::High, Self::Critical];
}

impl fmt::Display for PressureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Normal => "normal",
            Self::Elevated => "elevated",
            Self::High => "high",
            Self::Critical => "critical",
        })
    }
}

/// One reading of a [`PressureSource`], in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PressureReading {
    /// Bytes in use.
    pub used: usize,
    /// The limit that they count against, or `None` if there is none at present.
    pub limit: Option<usize>,
}

impl PressureReading {
    /// The used part of the limit; zero without a limit, above one if the limit was lowered below
    /// what is in use.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        match self.limit {
            None => 0.0,
            Some(0) => 1.0,
            Some(limit) => self.used as f64 / limit as f64,
        }
    }
}

/// Something whose fill level a monitor watches: a control group, the system, a budget.
///
/// ```
/// use nebula_memory_core::{MemoryError, PressureReading, PressureSource};
///
/// struct HalfFull;
/// impl PressureSource for HalfFull {
///     fn name(&self) -> &str { "half full" }
///     fn read(&self) -> Result<PressureReading, MemoryError> {
///         Ok(PressureReading { used: 50, limit: Some(100) })
///     }
/// }
/// assert_eq!(HalfFull.read()?.ratio(), 0.5);
/// # Ok::<(), MemoryError>(())
/// ```
pub trait PressureSource: Send + Sync {
    /// Its name, for reports.
    fn name(&self) -> &str;

    /// The present reading. Called often: it should neither allocate nor block.
    ///
    /// # Errors
    /// [`MemoryError::SourceUnavailable`] if it cannot be read at present.
    fn read(&self) -> Result<PressureReading, MemoryError>;
}

/// Something that can be told to take less until told otherwise; a budget tree is one.
///
/// The two wishes stand side by side: each holds until it is changed or lifted by itself.
///
/// ```
/// use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
/// use nebula_memory_core::Throttle;
///
/// struct Gate {
///     largest: AtomicUsize,
///     least: AtomicU8,
/// }
/// impl Gate {
///     fn admits(&self, bytes: usize, priority: u8) -> bool {
///         bytes <= self.largest.load(Relaxed) && priority >= self.least.load(Relaxed)
///     }
/// }
/// impl Throttle for Gate {
///     fn limit_single_charges(&self, largest: Option<usize>) {
///         self.largest.store(largest.unwrap_or(usize::MAX), Relaxed);
///     }
///     fn limit_priority(&self, least: Option<u8>) {
///         self.least.store(least.unwrap_or(0), Relaxed);
///     }
/// }
/// let gate = Gate { largest: AtomicUsize::new(usize::MAX), least: AtomicU8::new(0) };
/// gate.limit_priority(Some(100));
/// assert!(gate.admits(5, 100) && !gate.admits(5, 99));
/// gate.limit_priority(None);
/// assert!(gate.admits(5, 99));
/// ```
pub trait Throttle: Send + Sync {
    /// From now on, single charges above `largest` bytes are refused; `None` lifts that again.
    fn limit_single_charges(&self, largest: Option<usize>);

    /// From now on, charges by whoever has a priority below `least` are refused, whatever their
    /// size; `None` lifts that again. Something without priorities of its own ignores it, and says
    /// so where it is documented.
    fn limit_priority(&self, least: Option<u8>);
}
