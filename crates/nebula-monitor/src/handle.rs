//! The monitor on a thread of its own.

use std::{
    fmt,
    thread::{Builder, JoinHandle},
    time::Instant,
};

use nebula_memory_core::{
    MemoryError, Refused,
    sync::{Arc, Condvar, Mutex},
};

use crate::{MemoryMonitor, MonitorStatus};

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

#[derive(Default)]
struct Control {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Wanted {
    stop: bool,
    check: bool,
}

impl Control {
    fn want(&self, change: impl FnOnce(&mut Wanted)) {
        change(&mut self.wanted.lock());
        self.changed.notify_all();
    }

    /// Waits until `until`, or until a check is wanted; `false` if it is time to stop.
    fn wait(&self, until: Option<Instant>) -> bool {
        let mut wanted = self.wanted.lock();
        loop {
            if wanted.stop {
                return false;
            }
            if std::mem::take(&mut wanted.check) {
                return true;
            }
            wanted = match until {
                None => self.changed.wait(wanted),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return true;
                    }
                    self.changed.wait_timeout(wanted, left)
                }
            };
        }
    }
}

#[allow(clippy::result_large_err, reason = "what is large is the monitor that is handed back")]
pub(crate) fn spawn(monitor: MemoryMonitor) -> Result<MonitorHandle, Refused<MemoryMonitor>> {
    let status = monitor.status();
    let control = Arc::new(Control::default());
    // The monitor goes through a slot, so that it can be had back if there is no thread.
    let slot = Arc::new(Mutex::new(Some(monitor)));
    let run = {
        let (slot, control) = (Arc::clone(&slot), Arc::clone(&control));
        move || {
            let monitor = slot.lock().take();
            drop(slot);
            let mut monitor = monitor.expect("only this thread takes it");
            loop {
                // A check at which no source could be read is counted and reported in the status.
                let _ = monitor.check();
                // A wait that is too long for the clock's range ends only by a wish.
                if !control.wait(Instant::now().checked_add(monitor.next_check())) {
                    return monitor;
                }
            }
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

impl MonitorHandle {
    /// A view of the running monitor.
    pub fn status(&self) -> MonitorStatus {
        self.status.clone()
    }

    /// Checks now instead of at the end of the interval. Returns without waiting for it.
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
