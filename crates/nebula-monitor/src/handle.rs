//! The monitor on a thread of its own.

use std::{
    fmt,
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use nebula_memory_core::{
    MemoryError, Refused,
    sync::{Arc, Mutex},
};

use crate::{
    MemoryMonitor, MonitorStatus, MonitoringConfig,
    alarm::{Control, Woken},
};

/// A monitor that runs on its own thread; dropping the handle stops it and waits for its end,
/// which takes no longer than the check that may be running.
///
/// ```
/// use nebula_monitor::{MemoryMonitor, MonitoringConfig};
///
/// let handle = MemoryMonitor::new(MonitoringConfig::default())?.spawn()?;
/// println!("{}", handle.status().level());
/// let monitor = handle.stop().expect("nothing in it panics");
/// assert!(monitor.status().stats().checks >= 1);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[must_use = "dropping the handle stops the monitor"]
pub struct MonitorHandle {
    control: Arc<Control>,
    thread: Option<JoinHandle<MemoryMonitor>>,
    status: MonitorStatus,
}

#[allow(clippy::result_large_err, reason = "what is large is the monitor that is handed back")]
pub(crate) fn spawn(monitor: MemoryMonitor) -> Result<MonitorHandle, Refused<MemoryMonitor>> {
    let status = monitor.status();
    let control = Arc::new(Control::new());
    // The monitor goes through a slot, so that it can be had back if there is no thread.
    let slot = Arc::new(Mutex::new(Some(monitor)));
    let run = {
        let (slot, control) = (Arc::clone(&slot), Arc::clone(&control));
        move || {
            let monitor = slot.lock().take();
            drop(slot);
            let mut monitor = monitor.expect("only this thread takes it");
            run(&mut monitor, &control);
            monitor.clear_alarms();
            monitor
        }
    };
    match Builder::new().name("nebula-monitor".to_owned()).spawn(run) {
        Ok(thread) => Ok(MonitorHandle { control, thread: Some(thread), status }),
        Err(error) => {
            let monitor = slot.lock().take().expect("no thread has taken it");
            let error = MemoryError::source_unavailable("monitor thread", error);
            Err(Refused::new(monitor, error))
        }
    }
}

/// Checks until it is time to stop.
fn run(monitor: &mut MemoryMonitor, control: &Control) {
    let mut quiet = Quiet::default();
    loop {
        // A check at which no source could be read is counted and reported in the status.
        let _ = monitor.check();
        if monitor.set_alarms(control.hears_alarms()) {
            let _ = monitor.check();
        }
        // A wait that is too long for the clock's range ends only by a wish.
        let until = Instant::now().checked_add(monitor.next_check());
        match control.wait(until, quiet.until, monitor.alarms()) {
            Woken::Stop => return,
            Woken::Time => {}
            Woken::Wish => monitor.read_anew(),
            Woken::Alarm(rung) => {
                monitor.rung(rung);
                quiet.rung(Instant::now(), monitor.config());
            }
        }
    }
}

/// Notifications bring checks forward, but not closer together than the fast interval; and where
/// one comes again and again as soon as it is listened to, not as often as that.
struct Quiet {
    until: Instant,
    length: Duration,
}

impl Default for Quiet {
    fn default() -> Self {
        Self { until: Instant::now(), length: Duration::ZERO }
    }
}

impl Quiet {
    fn rung(&mut self, now: Instant, config: &MonitoringConfig) {
        let fast = config.fast_interval;
        let again = now.saturating_duration_since(self.until) < self.length;
        let longest = fast.saturating_mul(LONGEST_QUIET).min(config.interval);
        self.length = if again { self.length.saturating_mul(2).min(longest) } else { fast };
        self.until = now.checked_add(self.length).unwrap_or(now);
    }
}

/// In fast intervals.
const LONGEST_QUIET: u32 = 64;

impl MonitorHandle {
    /// A view of the running monitor.
    pub fn status(&self) -> MonitorStatus {
        self.status.clone()
    }

    /// Checks now instead of at the end of the interval, and reads everything anew, limits too.
    /// Returns without waiting for it.
    pub fn wake(&self) {
        self.control.want(|wanted| wanted.check = true);
    }

    /// Stops the thread and returns the monitor; `None` if the injected clock panicked in it, or if
    /// called by the monitor's own thread (from a callback), which ends after its check then.
    pub fn stop(mut self) -> Option<MemoryMonitor> {
        self.end()
    }

    fn end(&mut self) -> Option<MemoryMonitor> {
        self.control.want(|wanted| wanted.stop = true);
        let thread = self.thread.take()?;
        // A thread cannot wait for itself.
        if thread.thread().id() == std::thread::current().id() {
            return None;
        }
        thread.join().ok()
    }
}

impl Drop for MonitorHandle {
    fn drop(&mut self) {
        drop(self.end());
    }
}

impl fmt::Debug for MonitorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MonitorHandle").field("status", &self.status).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_that_never_ends_is_listened_to_less_and_less() {
        let millis = Duration::from_millis;
        let config = MonitoringConfig { interval: millis(40), ..MonitoringConfig::default() };
        let begun = Instant::now();
        let mut quiet = Quiet { until: begun, length: Duration::ZERO };
        let mut lengths = Vec::new();
        let mut now = begun;
        for _ in 0..8 {
            quiet.rung(now, &config);
            lengths.push(quiet.length.as_millis());
            now = quiet.until;
        }
        assert_eq!(lengths, [1, 2, 4, 8, 16, 32, 40, 40], "up to the interval");
        quiet.rung(now + millis(40), &config);
        assert_eq!(quiet.length, millis(1), "it was silent for a while");
        let config = MonitoringConfig { interval: Duration::MAX, ..config };
        for _ in 0..100 {
            quiet.rung(quiet.until, &config);
        }
        assert_eq!(quiet.length, millis(64));
        let endless = MonitoringConfig { fast_interval: Duration::MAX, ..config };
        quiet.rung(begun + Duration::from_secs(60), &endless);
        assert_eq!(quiet.until, begun + Duration::from_secs(60), "beyond the clock is no quiet");
    }
}
