//! Where readings come from: what was probed, what is in force, and the tightest of it all.

mod cgroup_v1;
mod cgroup_v2;
mod chain;
mod kernel_file;
mod meminfo;
mod notices;
mod resident;
mod stall;
#[cfg(feature = "sysinfo")]
mod sysinfo;
mod system;

use std::{fmt, path::Path, time::Duration};

use nebula_memory_core::{
    ByteSize, MemoryError, PressureReading, PressureSource, panics::quietly, sync::Arc,
};

use crate::MonitoringConfig;

use self::{
    chain::{Anew, TURNS},
    notices::Notices,
};

pub(crate) use stall::Stalls;
pub use {
    crate::parse::GroupEvents, cgroup_v1::CgroupV1, cgroup_v2::CgroupV2, resident::ResidentMemory,
    system::SystemMemory,
};

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
    /// It is read (or waited for) and counts, but is no matter of limits: stalls, resident memory,
    /// notifications.
    Watched,
    /// A notification that wakes the monitor's own thread, and there is no such thread; see
    /// [`MemoryMonitor::spawn`](crate::MemoryMonitor::spawn).
    Idle,
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
    /// Whether it counts at present: it can be read, and has a limit if it is a matter of limits.
    pub fn in_force(&self) -> bool {
        matches!(self.status, SourceStatus::InForce { .. } | SourceStatus::Watched)
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
            SourceStatus::Watched => f.write_str("in force")?,
            SourceStatus::Idle => {
                f.write_str("not in force without a thread of the monitor's own")?;
            }
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

    /// A reading of what `anew` says. Of the system's memory, a glance if that is `enough`.
    fn read_anew(&self, anew: Anew, enough: f64) -> Result<PressureReading, MemoryError> {
        match self {
            Self::CgroupV1(source) => source.read_anew(anew),
            Self::CgroupV2(source) => source.read_anew(anew),
            Self::System(source) if anew != Anew::All => {
                source.glance(enough).map_or_else(|| source.read(), Ok)
            }
            Self::System(_) | Self::Injected(_) => self.read(),
        }
    }

    /// The tightest limit, as it is known from `reading`: of a chain of groups, that need not be
    /// the one of the fullest.
    fn known_cap(&self, reading: PressureReading) -> Option<usize> {
        match self {
            Self::CgroupV1(source) => source.known_cap(),
            Self::CgroupV2(source) => source.known_cap(),
            Self::System(_) | Self::Injected(_) => reading.limit,
        }
    }

    fn events(&self) -> Option<GroupEvents> {
        match self {
            Self::CgroupV1(source) => source.events(),
            Self::CgroupV2(source) => source.events(),
            Self::System(_) | Self::Injected(_) => None,
        }
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
    /// The counters when the monitor was built.
    events: Option<GroupEvents>,
}

/// Something beside the readings, with its place in the reports.
struct Beside<T> {
    it: T,
    report: usize,
}

/// All sources of a monitor.
#[derive(Default)]
pub(crate) struct Sources {
    watched: Vec<Watched>,
    /// The latest reading of each that is watched, and when it was made; `None` if it failed.
    readings: Vec<Option<(Duration, PressureReading)>>,
    stalls: Option<Beside<Stalls>>,
    resident: Option<Beside<ResidentMemory>>,
    reports: Vec<SourceReport>,
    /// When the latest full round was, and the latest complete one.
    full: Option<Duration>,
    complete: Option<Duration>,
    /// Counts full rounds: whose turn it is.
    turn: u64,
    /// What groups have been through since the monitor was built, as of then.
    events: GroupEvents,
    /// Resident bytes as of then.
    held: Option<usize>,
    notices: Notices,
}

/// What a round of readings brought.
#[derive(Default)]
pub(crate) struct Round {
    /// Sources that could not be read.
    pub(crate) failures: u64,
    /// Whether a report has changed.
    pub(crate) changed: bool,
    /// Whether it was a full one.
    pub(crate) full: bool,
}

impl Sources {
    /// Probes everything that this machine, or the copy of one under `root`, may have.
    pub(crate) fn add_system(&mut self, root: &Path) {
        self.notices.here = root == Path::new("/");
        let system = if root == Path::new("/") {
            SystemMemory::open()
        } else {
            SystemMemory::open_under(root)
        };
        let unified = CgroupV2::open_under(root);
        let group = unified.as_ref().ok().and_then(CgroupV2::directory);
        let stalls = Stalls::open_under(root, group);
        self.add("cgroup v2", unified.map(Source::CgroupV2));
        self.add("cgroup v1", CgroupV1::open_under(root).map(Source::CgroupV1));
        self.add("system memory", system.map(Source::System));
        self.stalls = self.add_beside(stall::NAME, stalls, Stalls::detail);
        let resident = ResidentMemory::open_under(root);
        self.resident = self.add_beside(resident::NAME, resident, ResidentMemory::detail);
        self.add_notices();
    }

    fn add_beside<T>(
        &mut self,
        name: &str,
        it: Result<T, MemoryError>,
        detail: fn(&T) -> String,
    ) -> Option<Beside<T>> {
        let report = self.reports.len();
        let (detail, status, it) = match it {
            Ok(it) => (detail(&it), SourceStatus::Watched, Some(it)),
            Err(error) => (String::new(), SourceStatus::Unavailable { why: why(error) }, None),
        };
        self.reports.push(SourceReport { name: name.to_owned(), detail, status });
        it.map(|it| Beside { it, report })
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
                let events = source.events();
                self.watched.push(Watched { source, report, events });
                // A time before every other; the first check reads everything anew.
                self.readings.push(reading.ok().map(|reading| (Duration::ZERO, reading)));
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

    /// Reads the sources at `now`. A full round, once in `every`, reads everything but what changes
    /// seldom, and of that a part in turn; every sixteenth, and one that comes late, is complete. In
    /// between, only what is cheap or near its limit is read. Allocates only where something fails,
    /// or a limit has changed.
    pub(crate) fn read(
        &mut self,
        now: Duration,
        every: Duration,
        config: &MonitoringConfig,
    ) -> Round {
        // A clock that has gone back tells nothing of the time that has passed.
        let passed = |then: Option<Duration>, time: Duration| {
            let since = then.and_then(|then| now.checked_sub(then));
            since.is_none_or(|since| since >= time)
        };
        let full = passed(self.full, every);
        // Whoever looks seldom sees everything each time.
        let late = passed(self.full, every.saturating_mul(2));
        let long = passed(self.complete, every.saturating_mul(16));
        let anew = match (full, late || long) {
            (false, _) => Anew::Usage,
            (true, false) => Anew::Turn(self.turn),
            (true, true) => Anew::All,
        };
        let mut round = Round { full, ..Round::default() };
        // Is the system's memory, which is expensive to read, what matters most?
        let group = |(watched, reading): (&Watched, &Option<(Duration, PressureReading)>)| {
            let limit = reading.and_then(|(_, reading)| reading.limit);
            limit.is_some() && !matches!(watched.source, Source::System(_))
        };
        let grouped = self.watched.iter().zip(&self.readings).any(group);
        let tight = (config.elevated - config.hysteresis) * 0.9;
        for (watched, known) in self.watched.iter().zip(&mut self.readings) {
            let near = known.is_none_or(|(_, reading)| reading.ratio() >= tight);
            let reading = match &watched.source {
                Source::System(_) if !full && grouped && !near => continue,
                source => source.read_anew(anew, tight),
            };
            *known = reading.as_ref().ok().map(|reading| (now, *reading));
            if let Some(report) = self.reports.get_mut(watched.report) {
                let status = status(&watched.source, &reading);
                round.changed |= report.status != status;
                report.status = status;
            }
            round.failures += u64::from(reading.is_err());
        }
        if full {
            self.full = Some(now);
            self.complete = if anew == Anew::All { Some(now) } else { self.complete };
            self.read_beside(now, config, anew, &mut round);
            self.turn = self.turn.wrapping_add(1);
        }
        round
    }

    /// The next round is a complete one.
    pub(crate) fn read_anew(&mut self) {
        self.full = None;
    }

    /// What is no matter of limits.
    fn read_beside(
        &mut self,
        now: Duration,
        config: &MonitoringConfig,
        anew: Anew,
        round: &mut Round,
    ) {
        let mut note = |report: usize, result: Result<(), MemoryError>| {
            round.failures += u64::from(result.is_err());
            let status = match result {
                Ok(()) => SourceStatus::Watched,
                Err(error) => SourceStatus::Failed { why: why(error) },
            };
            if let Some(report) = self.reports.get_mut(report) {
                round.changed |= report.status != status;
                report.status = status;
            }
        };
        if let Some(stalls) = &mut self.stalls {
            note(stalls.report, stalls.it.read(now, config.window));
        }
        if let Some(resident) = &self.resident {
            let bytes = resident.it.bytes();
            self.held = bytes.as_ref().ok().copied();
            note(resident.report, bytes.map(drop));
        }
        if !matches!(anew, Anew::All) && self.turn % TURNS != 0 {
            return;
        }
        let mut events = GroupEvents::default();
        for watched in &self.watched {
            let (Some(before), Some(now)) = (watched.events, watched.source.events()) else {
                continue;
            };
            let grown = now.since(before);
            events.high = events.high.saturating_add(grown.high);
            events.max = events.max.saturating_add(grown.max);
            events.oom = events.oom.saturating_add(grown.oom);
            events.oom_kill = events.oom_kill.saturating_add(grown.oom_kill);
        }
        self.events = events;
    }

    /// The latest readings, in the order of [`Self::names`].
    pub(crate) fn readings(&self) -> &[Option<(Duration, PressureReading)>] {
        &self.readings
    }

    /// The names of what is read.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let name = |watched: &Watched| Some(self.reports.get(watched.report)?.name.as_str());
        self.watched.iter().map(move |watched| name(watched).unwrap_or_default())
    }

    /// A new reading of the source at `place` of [`Self::readings`].
    pub(crate) fn read_again(&self, place: usize) -> Option<PressureReading> {
        self.watched.get(place)?.source.read_anew(Anew::Turn(0), 0.0).ok()
    }

    /// The part of the time in which tasks stalled.
    pub(crate) fn stall(&self) -> Option<f64> {
        self.stalls.as_ref()?.it.share()
    }

    /// The resident bytes as of the last full round.
    pub(crate) fn held(&self) -> Option<usize> {
        self.held
    }

    /// The resident bytes now.
    pub(crate) fn resident(&self) -> Result<usize, MemoryError> {
        match &self.resident {
            Some(resident) => resident.it.bytes(),
            None => Err(MemoryError::source_unavailable(resident::NAME, "it is not watched")),
        }
    }

    pub(crate) fn events(&self) -> GroupEvents {
        self.events
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

fn status(source: &Source, reading: &Result<PressureReading, MemoryError>) -> SourceStatus {
    match reading {
        Err(error) => SourceStatus::Failed { why: why(error.clone()) },
        Ok(reading) => match source.known_cap(*reading) {
            Some(limit) => SourceStatus::InForce { limit },
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
