//! Where readings come from: what was probed, what is in force, and the tightest of it all.

mod cgroup_v1;
mod cgroup_v2;
mod chain;
mod kernel_file;
mod meminfo;
#[cfg(feature = "sysinfo")]
mod sysinfo;
mod system;

use std::{fmt, path::Path};

use nebula_memory_core::{
    ByteSize, MemoryError, PressureReading, PressureSource, panics::quietly, sync::Arc,
};

pub use {cgroup_v1::CgroupV1, cgroup_v2::CgroupV2, system::SystemMemory};

#[cfg(feature = "sysinfo")]
pub use self::sysinfo::SysinfoMemory;

/// Whether a source counts at present, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceStatus {
    /// It is read at every check and has a limit, in bytes.
    InForce {
        /// Its tightest limit.
        limit: usize,
    },
    /// It is read at every check, but has no limit at present.
    Unlimited,
    /// It was there, but the latest reading failed; the next check tries again.
    Failed {
        /// What went wrong.
        why: String,
    },
    /// It was not to be had when the monitor was built, and is not watched.
    Unavailable {
        /// What is missing.
        why: String,
    },
}

/// What is known about one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// Where it reads; empty for a source that was injected.
    pub detail: String,
    /// Whether it counts.
    pub status: SourceStatus,
}

impl SourceReport {
    /// Whether its limit counts at present.
    pub fn in_force(&self) -> bool {
        matches!(self.status, SourceStatus::InForce { .. })
    }
}

impl fmt::Display for SourceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        match &self.status {
            SourceStatus::InForce { limit } => {
                write!(f, "in force, limit {}", ByteSize::new(*limit))?;
            }
            SourceStatus::Unlimited => f.write_str("watched, no limit at present")?,
            SourceStatus::Failed { why } => write!(f, "failed, {why}")?,
            SourceStatus::Unavailable { why } => write!(f, "not in force, {why}")?,
        }
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", self.detail) }
    }
}

impl Bounds {
    /// Nothing is bounded.
    const NONE: Self = Self { cap: usize::MAX, left: usize::MAX };
}

/// A source that is watched.
enum Source {
    CgroupV1(CgroupV1),
    CgroupV2(CgroupV2),
    System(SystemMemory),
    Injected(Arc<dyn PressureSource>),
}

impl Source {
    fn as_dyn(&self) -> &dyn PressureSource {
        match self {
            Self::CgroupV1(source) => source,
            Self::CgroupV2(source) => source,
            Self::System(source) => source,
            Self::Injected(source) => &**source,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::CgroupV1(source) => source.detail(),
            Self::CgroupV2(source) => source.detail(),
            Self::System(source) => source.detail().to_owned(),
            Self::Injected(_) => String::new(),
        }
    }

    /// A reading; a panic of an injected source is a failure like any other.
    fn read(&self) -> Result<PressureReading, MemoryError> {
        let source = self.as_dyn();
        quietly(|| source.read())
            .unwrap_or_else(|| Err(MemoryError::source_unavailable("injected", "it panicked")))
    }

    /// The tightest limit, and what is left: not always those of the reading, which is that of
    /// the fullest of several groups.
    fn bounds(&self, reading: PressureReading) -> Option<Bounds> {
        match self {
            Self::CgroupV1(source) => source.bounds().ok().flatten(),
            Self::CgroupV2(source) => source.bounds().ok().flatten(),
            Self::System(_) | Self::Injected(_) => {
                let cap = reading.limit?;
                Some(Bounds { cap, left: cap.saturating_sub(reading.used) })
            }
        }
    }
}

/// How far a source lets the process go, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The tightest limit.
    pub(crate) cap: usize,
    /// What is left before any of its limits is met.
    pub(crate) left: usize,
}

struct Watched {
    source: Source,
    /// Where in the list of reports it is.
    report: usize,
    /// The latest reading; `None` if it failed.
    reading: Option<PressureReading>,
}

/// All sources of a monitor.
#[derive(Default)]
pub(crate) struct Sources {
    watched: Vec<Watched>,
    reports: Vec<SourceReport>,
}

/// What a round of readings brought.
pub(crate) struct Round {
    /// The fullest source's place in the reports, and its reading.
    pub(crate) tightest: Option<(usize, PressureReading)>,
    /// Sources that could not be read.
    pub(crate) failures: u64,
    /// Whether a report has changed.
    pub(crate) changed: bool,
}

impl Sources {
    /// Probes everything that this machine, or the copy of one under `root`, may have.
    pub(crate) fn add_system(&mut self, root: &Path) {
        let system = if root == Path::new("/") {
            SystemMemory::open()
        } else {
            SystemMemory::open_under(root)
        };
        self.add("cgroup v2", CgroupV2::open_under(root).map(Source::CgroupV2));
        self.add("cgroup v1", CgroupV1::open_under(root).map(Source::CgroupV1));
        self.add("system memory", system.map(Source::System));
    }

    pub(crate) fn inject(&mut self, source: Arc<dyn PressureSource>) {
        let name = quietly(|| source.name().to_owned()).unwrap_or_else(|| "injected".to_owned());
        self.add(&name, Ok(Source::Injected(source)));
    }

    fn add(&mut self, name: &str, source: Result<Source, MemoryError>) {
        let (detail, status) = match source {
            Err(error) => (String::new(), SourceStatus::Unavailable { why: why(error) }),
            Ok(source) => {
                let detail = source.detail();
                let reading = source.read();
                let status = status(&source, &reading);
                let report = self.reports.len();
                self.watched.push(Watched { source, report, reading: reading.ok() });
                (detail, status)
            }
        };
        self.reports.push(SourceReport { name: name.to_owned(), detail, status });
    }

    pub(crate) fn reports(&self) -> &[SourceReport] {
        &self.reports
    }

    /// The present bounds of each source that has any, with its place in the reports.
    pub(crate) fn bounds(&self) -> impl Iterator<Item = (usize, Bounds)> {
        self.watched.iter().filter_map(|watched| {
            let reading = watched.source.read().ok()?;
            Some((watched.report, watched.source.bounds(reading)?))
        })
    }

    /// Reads every source. Allocates only where a source fails or its limit has changed.
    pub(crate) fn read(&mut self) -> Round {
        let mut round = Round { tightest: None, failures: 0, changed: false };
        for watched in &mut self.watched {
            let reading = watched.source.read();
            let limits = |reading: Option<PressureReading>| reading.map(|reading| reading.limit);
            let before = limits(watched.reading);
            watched.reading = reading.as_ref().ok().copied();
            if reading.is_err() || before != limits(watched.reading) {
                if let Some(report) = self.reports.get_mut(watched.report) {
                    let status = status(&watched.source, &reading);
                    round.changed |= report.status != status;
                    report.status = status;
                }
            }
            let Ok(reading) = reading else {
                round.failures += 1;
                continue;
            };
            if round.tightest.is_none_or(|(_, tightest)| tighter(reading, tightest)) {
                round.tightest = Some((watched.report, reading));
            }
        }
        round
    }

    /// Why nothing could be read.
    pub(crate) fn nothing_left(&self) -> MemoryError {
        let mut why = String::from("no source can be read");
        for (i, report) in self.reports.iter().enumerate() {
            why.push_str(if i == 0 { ": " } else { "; " });
            why.push_str(&report.to_string());
        }
        MemoryError::source_unavailable("memory monitor", why)
    }
}

/// Whether `a` is nearer to its limit than `b`; any limit is nearer than none.
fn tighter(a: PressureReading, b: PressureReading) -> bool {
    match (a.limit, b.limit) {
        (Some(_), None) => true,
        (None, _) => false,
        (Some(_), Some(_)) => a.ratio() > b.ratio(),
    }
}

fn status(source: &Source, reading: &Result<PressureReading, MemoryError>) -> SourceStatus {
    match reading {
        Err(error) => SourceStatus::Failed { why: why(error.clone()) },
        Ok(reading) => match source.bounds(*reading) {
            Some(bounds) => SourceStatus::InForce { limit: bounds.cap },
            None => SourceStatus::Unlimited,
        },
    }
}

/// The reason alone, without the source's name, which stands beside it in a report.
fn why(error: MemoryError) -> String {
    match error {
        MemoryError::SourceUnavailable(fault) => fault.why,
        other => other.to_string(),
    }
}
