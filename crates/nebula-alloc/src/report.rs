//! What the manager says about allocators: one of them, or all together.

use nebula_memory_core::{
    AllocatorKind, MemoryUsage, StatisticsProvider, StatsSnapshot, UsageCell,
};

/// One allocator, as it was when it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct AllocatorReport {
    /// Its name; several may have the same.
    pub name: String,
    /// What kind it is.
    pub kind: AllocatorKind,
    /// Whether several threads may allocate from it at once.
    pub thread_safe: bool,
    /// Bytes in use.
    pub used: usize,
    /// The most bytes it can hold, if it has a capacity of its own.
    pub capacity: Option<usize>,
    /// What it has done, if it counts.
    pub statistics: Option<StatsSnapshot>,
}

impl From<&UsageCell> for AllocatorReport {
    fn from(cell: &UsageCell) -> Self {
        Self {
            name: cell.name().to_owned(),
            kind: cell.kind(),
            thread_safe: cell.is_thread_safe(),
            used: cell.used(),
            capacity: cell.capacity(),
            statistics: cell.statistics(),
        }
    }
}

/// Several allocators taken together. An allocator that takes its memory from another one that is
/// listed too is in the sums twice, once in each role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct AllocatorTotal {
    /// How many they are.
    pub allocators: usize,
    /// Bytes in use.
    pub used: usize,
    /// The sum of the capacities, or `None` as soon as one has none.
    pub capacity: Option<usize>,
    /// The sums over those that count, or `None` if none does. The peak is the sum of the peaks,
    /// an upper bound.
    pub statistics: Option<StatsSnapshot>,
}

impl AllocatorTotal {
    /// The total over `reports`.
    #[must_use]
    pub fn of(reports: &[AllocatorReport]) -> Self {
        let none = Self { allocators: 0, used: 0, capacity: Some(0), statistics: None };
        reports.iter().fold(none, |sum, report| Self {
            allocators: sum.allocators + 1,
            used: sum.used.saturating_add(report.used),
            capacity: sum.capacity.zip(report.capacity).map(|(a, b)| a.saturating_add(b)),
            statistics: match (sum.statistics, report.statistics) {
                (Some(a), Some(b)) => Some(a.plus(&b)),
                (a, b) => a.or(b),
            },
        })
    }
}
