//! What wakes the monitor's own thread before its time: wishes of the handle, and the system's own
//! notifications. Each platform has a way to wait for all of them at once; where there is none, or
//! nothing to wait for beside wishes, a condition variable does.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(windows, path = "windows.rs")]
#[cfg_attr(not(any(target_os = "linux", windows)), path = "other.rs")]
mod imp;

use std::time::{Duration, Instant};

use nebula_memory_core::sync::{Condvar, Mutex};

pub(crate) use imp::{LowMemory, StallTrigger, UsageThresholds};

/// The notifications that are in force.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    pub(crate) stalls: Option<StallTrigger>,
    pub(crate) usage: Option<UsageThresholds>,
    pub(crate) low_memory: Option<LowMemory>,
}

/// Which notifications have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rung {
    pub(crate) stalls: bool,
    /// Usage or the system's memory.
    pub(crate) level: bool,
    /// One cannot be waited for any more, and would ring for ever.
    pub(crate) broken: bool,
}

impl Rung {
    fn any(self) -> bool {
        self.stalls || self.level || self.broken
    }
}

impl Alarms {
    pub(crate) fn is_empty(&self) -> bool {
        self.stalls.is_none() && self.usage.is_none() && self.low_memory.is_none()
    }
}

/// Why a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// It is time to stop.
    Stop,
    /// The time has come.
    Time,
    /// Somebody wants a check.
    Wish,
    /// Notifications have come.
    Alarm(Rung),
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Wanted {
    pub(crate) stop: bool,
    pub(crate) check: bool,
}

impl Wanted {
    /// What is wanted already.
    fn take(&mut self) -> Option<Woken> {
        if self.stop {
            return Some(Woken::Stop);
        }
        std::mem::take(&mut self.check).then_some(Woken::Wish)
    }
}

/// Where the monitor's thread waits, and others wake it.
#[derive(Default)]
pub(crate) struct Control {
    wanted: Mutex<Wanted>,
    changed: Condvar,
    /// Wakes whoever waits for notifications; `None` if the system gives none: then notifications
    /// are not waited for.
    bell: Option<imp::Bell>,
}

impl Control {
    pub(crate) fn new() -> Self {
        Self { bell: imp::Bell::new(), ..Self::default() }
    }

    /// Whether notifications can be waited for.
    pub(crate) fn hears_alarms(&self) -> bool {
        self.bell.is_some()
    }

    pub(crate) fn want(&self, change: impl FnOnce(&mut Wanted)) {
        change(&mut self.wanted.lock());
        self.changed.notify_all();
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }

    /// Waits until `until` (for ever if that is `None`), until something is wanted, or, from `from`
    /// on, until one of `alarms` rings.
    pub(crate) fn wait(&self, until: Option<Instant>, from: Instant, alarms: &Alarms) -> Woken {
        let hears = !alarms.is_empty() && until.is_none_or(|until| from < until);
        match self.bell.as_ref().filter(|_| hears) {
            Some(bell) => self.wait_hearing(until, from, alarms, bell),
            None => self.wait_deaf(until),
        }
    }

    fn wait_deaf(&self, until: Option<Instant>) -> Woken {
        let mut wanted = self.wanted.lock();
        loop {
            if let Some(woken) = wanted.take() {
                return woken;
            }
            wanted = match until {
                None => self.changed.wait(wanted),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Woken::Time;
                    }
                    self.changed.wait_timeout(wanted, left)
                }
            };
        }
    }

    fn wait_hearing(
        &self,
        until: Option<Instant>,
        from: Instant,
        alarms: &Alarms,
        bell: &imp::Bell,
    ) -> Woken {
        let nobody = Alarms::default();
        loop {
            // The bell is silenced before the wishes are looked at: what is wanted later rings it
            // again.
            bell.silence();
            if let Some(woken) = self.wanted.lock().take() {
                return woken;
            }
            let now = Instant::now();
            if until.is_some_and(|until| until <= now) {
                return Woken::Time;
            }
            let deaf = now < from;
            let end = if deaf { Some(from) } else { until };
            // A wait for ever is a wait for an hour, again and again.
            let left = end.map_or(HOUR, |end| end.saturating_duration_since(now).min(HOUR));
            let rung = bell.wait(if deaf { &nobody } else { alarms }, left);
            match rung {
                Some(rung) if rung.any() => return Woken::Alarm(rung),
                Some(_) => {}
                // The system does not let us wait so.
                None => return self.wait_deaf(until),
            }
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);
