//! Notifications: which of them there are, set while the monitor runs on a thread of its own.

use std::path::Path;

use crate::{
    MonitoringConfig, PressureLevel, SourceReport, SourceStatus,
    alarm::{Alarms, LowMemory, Rung, StallTrigger, UsageThresholds},
    machine::entry,
    source::{Source, Sources, Watched},
};

/// What the reports call them, in this order.
const NAMES: [&str; 3] = ["stall trigger", "usage thresholds", "low-memory notification"];
const STALLS: usize = 0;
const USAGE: usize = 1;
const LOW_MEMORY: usize = 2;

/// The notifications of this machine.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// Whether the sources are those of this machine, and not of a copy of one.
    pub(super) here: bool,
    /// Where their reports begin; `None` if the system is not watched.
    reports: Option<usize>,
    alarms: Alarms,
    /// They have been tried.
    set: bool,
    /// There are groups that may have usage thresholds.
    thresholds: bool,
    /// The limits for which they were tried.
    limits: Vec<u64>,
}

/// What has become of one, with what its report says beside it.
type Outcome = Result<String, String>;

impl Sources {
    pub(super) fn add_notices(&mut self) {
        self.notices.reports = Some(self.reports.len());
        let report = |name: &str| SourceReport {
            name: name.to_owned(),
            detail: String::new(),
            status: SourceStatus::Idle,
        };
        self.reports.extend(NAMES.map(report));
    }

    /// What the monitor's thread waits for.
    pub(crate) fn alarms(&self) -> &Alarms {
        &self.notices.alarms
    }

    /// Sets what can be had, and sets it anew where limits have changed. To be called by the
    /// monitor's own thread after each check; `Some` if anything has changed: whether usage may have
    /// passed a threshold before that was set. Allocates only then.
    pub(crate) fn set_alarms(&mut self, config: &MonitoringConfig, hears: bool) -> Option<bool> {
        self.notices.reports?;
        let mut changed = None;
        if !self.notices.set {
            self.notices.set = true;
            changed = Some(false);
            let possible = match (hears, self.notices.here) {
                (true, true) => Ok(()),
                (true, false) => Err("only of the machine that this process runs on".to_owned()),
                (false, _) => Err("there is no way to wait for it here".to_owned()),
            };
            let stalls = possible.clone().and_then(|()| self.set_stalls(config));
            self.note(STALLS, stalls);
            let low_memory = possible.clone().and_then(|()| self.set_low_memory());
            self.note(LOW_MEMORY, low_memory);
            let grouped = |watched: &Watched| matches!(watched.source, Source::CgroupV1(_));
            let usage = if self.watched.iter().any(grouped) {
                possible
            } else {
                possible.and(Err("only control groups of version 1 have them".to_owned()))
            };
            self.notices.thresholds = usage.is_ok();
            if let Err(why) = usage {
                self.note(USAGE, Err(why));
            }
        }
        let tried = self.notices.limits.iter().copied();
        let fresh = changed.is_some() || !self.limited().map(|(_, _, limit)| limit).eq(tried);
        if self.notices.thresholds && fresh {
            changed = Some(true);
            match self.set_usage(config) {
                Ok(None) => self.set_report(USAGE, SourceStatus::Unlimited, String::new()),
                Ok(Some(detail)) => self.note(USAGE, Ok(detail)),
                Err(why) => self.note(USAGE, Err(why)),
            }
        }
        changed
    }

    /// Lets go of all: the thread ends.
    pub(crate) fn clear_alarms(&mut self) {
        let Some(first) = self.notices.reports else { return };
        self.notices.alarms = Alarms::default();
        (self.notices.set, self.notices.thresholds) = (false, false);
        self.notices.limits = Vec::new();
        for report in self.reports.iter_mut().skip(first).take(NAMES.len()) {
            report.status = SourceStatus::Idle;
            report.detail = String::new();
        }
    }

    /// Takes note of what rang: the next check reads everything. `true` if reports have changed.
    pub(crate) fn rung(&mut self, rung: Rung, config: &MonitoringConfig) -> bool {
        self.read_anew();
        if let Some(stalls) = self.stalls.as_mut().filter(|_| rung.stalls) {
            stalls.it.told(config.elevated_stall);
        }
        if rung.broken {
            self.notices.alarms = Alarms::default();
            self.notices.thresholds = false;
            let why = || "the system has withdrawn it".to_owned();
            for which in [STALLS, USAGE, LOW_MEMORY] {
                let in_force =
                    self.notices.reports.and_then(|first| self.reports.get(first + which));
                if in_force.is_some_and(SourceReport::in_force) {
                    self.set_report(which, SourceStatus::Failed { why: why() }, String::new());
                }
            }
        }
        rung.broken
    }

    fn set_stalls(&mut self, config: &MonitoringConfig) -> Outcome {
        if config.elevated_stall <= 0.0 {
            return Err("stalls don't count in this configuration".to_owned());
        }
        let stalls = self.stalls.as_ref().ok_or("stalls are not known here")?;
        let (path, share) = (stalls.it.path(), config.elevated_stall);
        let trigger = StallTrigger::set(path, share, config.window)?;
        let detail = format!("{}, window {:?}", path.display(), trigger.window());
        self.notices.alarms.stalls = Some(trigger);
        Ok(detail)
    }

    fn set_low_memory(&mut self) -> Outcome {
        self.notices.alarms.low_memory = Some(LowMemory::set()?);
        Ok("CreateMemoryResourceNotification".to_owned())
    }

    /// The groups of version 1 that have a limit: usage file, its path, limit.
    #[cfg(target_os = "linux")]
    fn limited(&self) -> impl Iterator<Item = (i32, &Path, u64)> {
        let groups = self.watched.iter().filter_map(|watched| match &watched.source {
            Source::CgroupV1(group) => Some(group),
            _ => None,
        });
        let limited = groups.flat_map(|group| group.chain().limited());
        limited.map(|(file, limit)| (file.number(), file.path(), limit))
    }

    #[cfg(not(target_os = "linux"))]
    #[allow(clippy::unused_self, reason = "as on Linux")]
    fn limited(&self) -> impl Iterator<Item = (i32, &Path, u64)> {
        std::iter::empty()
    }

    /// Sets a threshold for each level of each limited group; `None` if no group has a limit.
    fn set_usage(&mut self, config: &MonitoringConfig) -> Result<Option<String>, String> {
        self.notices.alarms.usage = None;
        self.notices.limits = self.limited().map(|(_, _, limit)| limit).collect();
        let levels = PressureLevel::ALL.iter().skip(1);
        let thresholds = levels.flat_map(|level| {
            let bytes =
                |limit: u64| entry(config, *level, usize::try_from(limit).unwrap_or(usize::MAX));
            self.limited().map(move |(file, path, limit)| (file, path, bytes(limit) as u64))
        });
        let (usage, set, fault) = UsageThresholds::set(thresholds)?;
        if set == 0 {
            return Ok(None);
        }
        self.notices.alarms.usage = Some(usage);
        let wanted = 3 * self.notices.limits.len();
        Ok(Some(match fault {
            None => format!("{set} thresholds"),
            Some(why) => format!("{set} of {wanted} thresholds; {why}"),
        }))
    }

    fn note(&mut self, which: usize, outcome: Outcome) {
        match outcome {
            Ok(detail) => self.set_report(which, SourceStatus::Watched, detail),
            Err(why) => self.set_report(which, SourceStatus::Unavailable { why }, String::new()),
        }
    }

    fn set_report(&mut self, which: usize, status: SourceStatus, detail: String) {
        let place = self.notices.reports.map(|first| first + which);
        if let Some(report) = place.and_then(|place| self.reports.get_mut(place)) {
            (report.status, report.detail) = (status, detail);
        }
    }
}
