//! Linux: triggers of pressure-stall information, and usage thresholds of control groups of version
//! 1, waited for with `poll(2)`.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    path::Path,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::{Errno, read, write},
};

use super::{Alarms, Rung};

fn counter() -> Result<OwnedFd, String> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|error| error.to_string())
}

/// Takes what has been counted; without waiting, and whether or not there is anything.
fn empty(counter: &OwnedFd) {
    let mut count = [0_u8; 8];
    let _ = read(counter, &mut count);
}

/// Rung by those who want something of the waiting thread.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> Option<Self> {
        counter().ok().map(Self)
    }

    pub(crate) fn ring(&self) {
        // It fails only where it has been rung 2^64 times without being heard.
        let _ = write(&self.0, &1_u64.to_ne_bytes());
    }

    pub(crate) fn silence(&self) {
        empty(&self.0);
    }

    /// Waits for the bell or for `alarms`, for `left` at most; `None` if that cannot be done.
    pub(crate) fn wait(&self, alarms: &Alarms, left: Duration) -> Option<Rung> {
        // Where an alarm is missing, the bell stands in its place, and is asked for nothing.
        let (bell, nothing) = (self.0.as_fd(), PollFlags::empty());
        let (stalls, on_stalls) = match &alarms.stalls {
            Some(stalls) => (stalls.file.as_fd(), PollFlags::PRI),
            None => (bell, nothing),
        };
        let (usage, on_usage) = match &alarms.usage {
            Some(usage) => (usage.counter.as_fd(), PollFlags::IN),
            None => (bell, nothing),
        };
        let mut all = [(bell, PollFlags::IN), (stalls, on_stalls), (usage, on_usage)]
            .map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags));
        let timeout = Timespec::try_from(left).ok()?;
        match poll(&mut all, Some(&timeout)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Some(Rung::default()),
            Err(_) => return None,
        }
        let bad = PollFlags::ERR | PollFlags::NVAL;
        let rung = Rung {
            stalls: all[1].revents().contains(PollFlags::PRI),
            level: all[2].revents().contains(PollFlags::IN),
            broken: all.iter().any(|entry| entry.revents().intersects(bad)),
        };
        if rung.level {
            alarms.usage.iter().for_each(|usage| empty(&usage.counter));
        }
        Some(rung)
    }
}

/// The kernel rings when tasks have stalled for a part of a window.
#[derive(Debug)]
pub(crate) struct StallTrigger {
    file: File,
    window: Duration,
}

/// What the kernel takes; and, without the right to choose, only multiples of the last.
const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(10);
const UNPRIVILEGED: Duration = Duration::from_secs(2);

impl StallTrigger {
    /// The window in which it measures.
    pub(crate) fn window(&self) -> Duration {
        self.window
    }

    /// Rings when tasks stall for `share` of `window`, or of the next longer one that this process
    /// may have.
    pub(crate) fn set(path: &Path, share: f64, window: Duration) -> Result<Self, String> {
        let wanted = window.clamp(SHORTEST, LONGEST);
        Self::set_exactly(path, share, wanted).or_else(|error| {
            // Refused for the window's length, or for another reason that the second try tells.
            let _ = error;
            Self::set_exactly(path, share, UNPRIVILEGED)
        })
    }

    fn set_exactly(path: &Path, share: f64, window: Duration) -> Result<Self, String> {
        let fault = |error: std::io::Error| match error.kind() {
            ErrorKind::PermissionDenied => {
                format!("{}: this process may not write to it", path.display())
            }
            _ => format!("{}: {error}", path.display()),
        };
        let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(fault)?;
        let stall = window.mul_f64(share.clamp(0.0, 1.0)).as_micros().max(1);
        let text = format!("some {stall} {}\0", window.as_micros());
        file.write_all(text.as_bytes()).map_err(fault)?;
        Ok(Self { file, window })
    }
}

/// The kernel rings when a group's usage passes a threshold, in either direction.
#[derive(Debug)]
pub(crate) struct UsageThresholds {
    /// One for all: each ends when it is closed.
    counter: OwnedFd,
}

impl UsageThresholds {
    /// Thresholds as `(usage file, its path, bytes)`. Returns how many could be set, and why not
    /// all, if one at least could; the reason otherwise.
    pub(crate) fn set<'p>(
        thresholds: impl Iterator<Item = (RawFd, &'p Path, u64)>,
    ) -> Result<(Self, usize, Option<String>), String> {
        let counter = counter()?;
        let (mut set, mut fault) = (0, None);
        for (usage, path, bytes) in thresholds {
            let path = path.with_file_name("cgroup.event_control");
            let text = format!("{} {usage} {bytes}", counter.as_raw_fd());
            let control = OpenOptions::new().write(true).open(&path);
            match control.and_then(|mut control| control.write_all(text.as_bytes())) {
                Ok(()) => set += 1,
                Err(error) => fault = Some(format!("{}: {error}", path.display())),
            }
        }
        match fault {
            Some(fault) if set == 0 => Err(fault),
            fault => Ok((Self { counter }, set, fault)),
        }
    }
}

/// Windows has it.
#[derive(Debug)]
pub(crate) enum LowMemory {}

impl LowMemory {
    pub(crate) fn set() -> Result<Self, String> {
        Err("only Windows tells".to_owned())
    }
}
