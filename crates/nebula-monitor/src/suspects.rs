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
    /// In what time: the window, or as long as it has been watched; or, where checks are further
    /// apart than the window, since the one before.
    pub over: Duration,
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, growth) = (ByteSize::new(self.used), ByteSize::new(self.growth));
        write!(f, "{} has grown by {growth} in {:?}, to {used}", self.name, self.over)
    }
}

/// The list of those whose growth a monitor watches, to name the one that has grown most when
/// pressure comes: tenants' budgets, for example. A cheap handle; clones share. Each monitor has
/// one; or several share one that is given to their
/// [builders](crate::MonitorBuilder::suspects).
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
    list: Arc<Mutex<List>>,
}

#[derive(Default)]
struct List {
    /// In the order in which they came. Those who are gone are taken off when it is full.
    entries: Vec<Entry>,
    /// The number of the next.
    next: u64,
}

/// A suspect with its number.
type Entry = (u64, Weak<dyn PressureSource>);

impl Suspects {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches `suspect` until it is dropped. O(1), amortised over those that are on the list.
    pub fn watch(&self, suspect: Weak<dyn PressureSource>) {
        // Nothing is allocated, freed or dropped under the lock: where the global allocator charges
        // an account, that could lead to a reclaim, and back here.
        let mut roomy = Vec::new();
        loop {
            let needed = {
                let mut list = self.list.lock();
                let alive = |entry: &&Entry| entry.1.strong_count() > 0;
                if list.entries.len() == list.entries.capacity() {
                    let living = list.entries.iter().filter(alive);
                    let needed = 2 * living.clone().count() + 16;
                    if roomy.capacity() >= needed {
                        // Those who are gone stay behind.
                        roomy.extend(living.cloned());
                        std::mem::swap(&mut roomy, &mut list.entries);
                    }
                    needed
                } else {
                    0
                }
            };
            let mut list = self.list.lock();
            if list.entries.len() < list.entries.capacity() {
                let number = list.next;
                list.next += 1;
                list.entries.push((number, suspect));
                return;
            }
            drop(list);
            roomy = Vec::with_capacity(needed);
        }
    }

    /// Adds to `to` what `new` makes of those that came since `seen`, the number that the latest
    /// call returned.
    fn since<T>(&self, seen: u64, to: &mut Vec<T>, new: fn(Weak<dyn PressureSource>) -> T) -> u64 {
        loop {
            let missing = {
                let list = self.list.lock();
                let from = list.entries.partition_point(|(number, _)| *number < seen);
                let fresh = &list.entries[from..];
                if to.capacity() - to.len() >= fresh.len() {
                    to.extend(fresh.iter().map(|(_, suspect)| new(Weak::clone(suspect))));
                    return list.next;
                }
                fresh.len()
            };
            to.reserve(missing);
        }
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
    /// Up to which number they have been taken over.
    seen: u64,
    list: Vec<Suspect>,
}

impl Watch {
    pub(crate) fn of(suspects: Suspects) -> Self {
        Self { suspects, ..Self::default() }
    }

    pub(crate) fn suspects(&self) -> &Suspects {
        &self.suspects
    }

    /// Reads everybody. Those who are gone, or panic, are taken off the list.
    pub(crate) fn read(&mut self, now: Duration, window: Duration) {
        let suspect = |source| Suspect { source, trend: Trend::default(), used: 0 };
        self.seen = self.suspects.since(self.seen, &mut self.list, suspect);
        self.list.retain_mut(|suspect| {
            let Some(source) = suspect.source.upgrade() else { return false };
            // `source` is dropped in there, too: it may be the last handle by now.
            let Some(reading) = quietly(move || source.read()) else { return false };
            match reading {
                Ok(reading) => {
                    suspect.used = reading.used;
                    suspect.trend.push(now, reading.used, window);
                }
                // What comes after a gap says nothing of growth, and what was before is past.
                Err(_) => suspect.trend = Trend::default(),
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
