//! Whose memory grows: the tenant to act on.

use std::{fmt, time::Duration};

use nebula_memory_core::{
    ByteSize, PressureSource,
    panics::quietly,
    sync::{Arc, Mutex, Weak},
};

use crate::trend::Trend;

/// Who has grown most.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Blame {
    /// Its name.
    pub name: String,
    /// Bytes that it has in use.
    pub used: usize,
    /// By how many bytes it has grown.
    pub growth: usize,
    /// In what time: the window, or as long as it has been watched.
    pub over: Duration,
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, growth) = (ByteSize::new(self.used), ByteSize::new(self.growth));
        write!(f, "{} has grown by {growth} in {:?}, to {used}", self.name, self.over)
    }
}

/// The list of those whose growth a monitor watches, to name the one that has grown most when
/// pressure comes: tenants' budgets, for example. A cheap handle; clones share.
///
/// Their limits don't count (inject them as sources for that).
///
/// ```
/// use std::sync::{Arc, Weak};
/// use nebula_memory_core::{MemoryError, PressureReading, PressureSource};
/// use nebula_monitor::{MemoryMonitor, MonitoringConfig};
///
/// struct Tenant;
/// impl PressureSource for Tenant {
///     fn name(&self) -> &str { "acme" }
///     fn read(&self) -> Result<PressureReading, MemoryError> {
///         Ok(PressureReading { used: 5, limit: None })
///     }
/// }
///
/// let monitor = MemoryMonitor::new(MonitoringConfig::default())?;
/// let tenant: Arc<dyn PressureSource> = Arc::new(Tenant);
/// monitor.suspects().watch(Arc::downgrade(&tenant)); // until the tenant is dropped
/// # Ok::<(), MemoryError>(())
/// ```
#[derive(Clone, Default)]
pub struct Suspects {
    /// Those that the monitor has not taken over yet.
    added: Arc<Mutex<Vec<Weak<dyn PressureSource>>>>,
}

impl Suspects {
    /// Watches `suspect` until it is dropped.
    pub fn watch(&self, suspect: Weak<dyn PressureSource>) {
        self.added.lock().push(suspect);
    }
}

impl fmt::Debug for Suspects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suspects").finish_non_exhaustive()
    }
}

struct Suspect {
    source: Weak<dyn PressureSource>,
    trend: Trend,
    used: usize,
}

/// The monitor's side of it.
#[derive(Default)]
pub(crate) struct Watch {
    suspects: Suspects,
    list: Vec<Suspect>,
}

impl Watch {
    pub(crate) fn suspects(&self) -> &Suspects {
        &self.suspects
    }

    /// Reads everybody. Those who are gone, or panic, are taken off the list.
    pub(crate) fn read(&mut self, now: Duration, window: Duration) {
        let added = std::mem::take(&mut *self.suspects.added.lock());
        let suspect = |source| Suspect { source, trend: Trend::default(), used: 0 };
        self.list.extend(added.into_iter().map(suspect));
        self.list.retain_mut(|suspect| {
            let Some(source) = suspect.source.upgrade() else { return false };
            // `source` is dropped in there, too: it may be the last handle by now.
            let Some(reading) = quietly(move || source.read()) else { return false };
            if let Ok(reading) = reading {
                suspect.used = reading.used;
                suspect.trend.push(now, reading.used, window);
            }
            true
        });
    }

    /// Who has grown most, if anybody has.
    pub(crate) fn blame(&self) -> Option<Blame> {
        let grown = self.list.iter().filter_map(|suspect| {
            let (growth, over) = suspect.trend.growth()?;
            (growth > 0).then_some((suspect, growth, over))
        });
        let (suspect, growth, over) = grown.max_by_key(|(_, growth, _)| *growth)?;
        let source = suspect.source.upgrade()?;
        let name = quietly(move || source.name().to_owned())?;
        Some(Blame { name, used: suspect.used, growth, over })
    }
}
