//! What was seen of late, for pictures.

use std::{collections::VecDeque, fmt, time::Duration};

use nebula_memory_core::{PressureLevel, PressureReading};

/// What one check saw.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Sample {
    /// When, on the monitor's clock.
    pub at: Duration,
    /// The level after it.
    pub level: PressureLevel,
    /// What the source that decided said.
    pub reading: PressureReading,
    /// How fast that grew, in bytes a second.
    pub rate: Option<f64>,
    /// The part of the time in which tasks stalled on memory.
    pub stall: Option<f64>,
    /// The process's resident memory, in bytes.
    pub resident: Option<usize>,
}

/// The latest samples of a monitor, oldest first; from
/// [`MonitorStatus::history`](crate::MonitorStatus::history).
///
/// ```
/// use nebula_monitor::{MemoryMonitor, MonitoringConfig};
///
/// let mut monitor = MemoryMonitor::new(MonitoringConfig::builder().history(100).build()?)?;
/// monitor.check()?;
/// let history = monitor.status().history();
/// assert_eq!(history.as_slice().len(), 1);
/// assert!(history.to_csv().starts_with("seconds,level,used,limit,rate,stall,resident\n"));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct History {
    samples: Vec<Sample>,
}

impl History {
    /// The samples, oldest first.
    pub fn as_slice(&self) -> &[Sample] {
        &self.samples
    }

    /// A table with a line for each sample: seconds, level (0 to 3), bytes in use, limit, bytes a
    /// second, stalled part, resident bytes. What is not known is empty.
    pub fn to_csv(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn cell<T: fmt::Display>(f: &mut fmt::Formatter<'_>, value: Option<T>) -> fmt::Result {
            f.write_str(",")?;
            value.map_or(Ok(()), |value| write!(f, "{value}"))
        }
        f.write_str("seconds,level,used,limit,rate,stall,resident\n")?;
        for sample in &self.samples {
            write!(f, "{:.6},{}", sample.at.as_secs_f64(), sample.level as u8)?;
            cell(f, Some(sample.reading.used))?;
            cell(f, sample.reading.limit)?;
            cell(f, sample.rate)?;
            cell(f, sample.stall)?;
            cell(f, sample.resident)?;
            f.write_str("\n")?;
        }
        Ok(())
    }
}

/// The ring; its memory is taken once.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    samples: VecDeque<Sample>,
    most: usize,
}

impl Ring {
    pub(crate) fn new(most: usize) -> Self {
        Self { samples: VecDeque::with_capacity(most), most }
    }

    pub(crate) fn push(&mut self, sample: Sample) {
        if self.most == 0 {
            return;
        }
        if self.samples.len() == self.most {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    pub(crate) fn len(&self) -> usize {
        self.samples.len()
    }

    /// Copies into `samples` the latest that its capacity holds.
    pub(crate) fn copy_into(&self, samples: &mut Vec<Sample>) {
        let room = samples.capacity() - samples.len();
        samples.extend(self.samples.iter().skip(self.samples.len().saturating_sub(room)));
    }
}

impl From<Vec<Sample>> for History {
    fn from(samples: Vec<Sample>) -> Self {
        Self { samples }
    }
}
