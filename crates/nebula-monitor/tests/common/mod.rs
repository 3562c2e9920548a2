//! Sources, reclaimers and throttles that do as they are told, and trees of fake kernel files.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use nebula_memory_core::{
    ManualClock, MemoryError, PressureLevel, PressureReading, PressureSource, Reclaim, Throttle,
};
use nebula_monitor::{MemoryMonitor, MonitorBuilder, MonitoringConfig};

pub(crate) const LONG: Duration = Duration::from_secs(30);

/// What a [`Dial`] shows when it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Show {
    Reading(usize, Option<usize>),
    Failure,
    Panic,
}

/// A source that shows what it is set to.
pub(crate) struct Dial {
    name: &'static str,
    show: Mutex<Show>,
}

impl Dial {
    pub(crate) fn new(name: &'static str, show: Show) -> Arc<Self> {
        Arc::new(Self { name, show: Mutex::new(show) })
    }

    /// Of 1000 bytes.
    pub(crate) fn at(used: usize) -> Arc<Self> {
        Self::new("dial", Show::Reading(used, Some(1000)))
    }

    pub(crate) fn show(&self, show: Show) {
        *self.show.lock().unwrap() = show;
    }

    pub(crate) fn set(&self, used: usize) {
        self.show(Show::Reading(used, Some(1000)));
    }
}

impl PressureSource for Dial {
    fn name(&self) -> &str {
        self.name
    }

    fn read(&self) -> Result<PressureReading, MemoryError> {
        let show = *self.show.lock().unwrap();
        match show {
            Show::Reading(used, limit) => Ok(PressureReading { used, limit }),
            Show::Failure => Err(MemoryError::source_unavailable(self.name, "it is gone")),
            Show::Panic => panic!("a source that panics"),
        }
    }
}

/// Gives back what it has, and lowers a dial by that, as a real cache would.
pub(crate) struct Spare {
    pub(crate) left: AtomicUsize,
    pub(crate) asked: Mutex<Vec<(usize, PressureLevel)>>,
    pub(crate) clock: Option<Arc<ManualClock>>,
}

impl Spare {
    pub(crate) fn new(left: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(left), asked: Mutex::default(), clock: None })
    }

    pub(crate) fn asked(&self) -> Vec<(usize, PressureLevel)> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    pub(crate) fn weak(self: &Arc<Self>) -> Weak<dyn Reclaim> {
        Arc::downgrade(self) as Weak<dyn Reclaim>
    }
}

impl Reclaim for Spare {
    fn reclaimable(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        self.asked.lock().unwrap().push((wanted, urgency));
        if let Some(clock) = &self.clock {
            clock.advance(Duration::from_millis(7));
        }
        let given = wanted.min(self.left.load(Ordering::Relaxed));
        self.left.fetch_sub(given, Ordering::Relaxed);
        given
    }
}

/// Remembers what it was told.
#[derive(Default)]
pub(crate) struct Told(Mutex<Vec<Option<usize>>>, Mutex<Vec<Option<u8>>>);

impl Told {
    pub(crate) fn take(&self) -> Vec<Option<usize>> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    pub(crate) fn priorities(&self) -> Vec<Option<u8>> {
        std::mem::take(&mut *self.1.lock().unwrap())
    }
}

impl Throttle for Told {
    fn limit_single_charges(&self, largest: Option<usize>) {
        self.0.lock().unwrap().push(largest);
    }

    fn limit_priority(&self, least: Option<u8>) {
        self.1.lock().unwrap().push(least);
    }
}

/// Thresholds at 500, 700 and 900 of 1000, left 100 below; cool-down of 10 s. Levels come from usage
/// alone.
pub(crate) fn config() -> MonitoringConfig {
    MonitoringConfig::builder()
        .thresholds(0.5, 0.7, 0.9)
        .hysteresis(0.1)
        .interval(Duration::from_secs(1))
        .fast_interval(Duration::from_millis(10))
        .cool_down(Duration::from_secs(10))
        .without_trend()
        .without_stalls()
        .build()
        .unwrap()
}

/// A monitor of `dial` alone.
pub(crate) fn monitor_of(dial: &Arc<Dial>, clock: &Arc<ManualClock>) -> MonitorBuilder {
    let (dial, clock) = (Arc::clone(dial), Arc::clone(clock));
    MemoryMonitor::builder(config()).without_system().source(dial).clock(clock)
}

/// Runs `f` on another thread and fails if it takes too long.
pub(crate) fn within_time<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> R {
    let (send, receive) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let result = f();
        let _ = send.send(());
        result
    });
    // If `f` has panicked, the channel is closed and `join` tells.
    let waited = receive.recv_timeout(LONG);
    assert!(waited != Err(mpsc::RecvTimeoutError::Timeout), "not done within {LONG:?}");
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A fake machine: files in a directory that goes away with it.
pub(crate) struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.root().join(file.trim_start_matches('/'))
    }

    /// Writes a file in place, as the kernel's files change under an open descriptor.
    pub(crate) fn write(&self, file: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    /// `used` and `total` in KiB.
    pub(crate) fn meminfo(&self, used: u64, total: u64) -> &Self {
        let available = total - used;
        let text = format!(
            "MemTotal:  {total:>10} kB\nMemFree: 1 kB\nMemAvailable: {available:>10} kB\nBuffers: 0 kB\n"
        );
        self.write("/proc/meminfo", text)
    }

    /// The process's paths, one `id:controllers:path` a line, and mounts as
    /// `(root, point, type, options)`.
    pub(crate) fn process(&self, groups: &str, mounts: &[(&str, &str, &str, &str)]) -> &Self {
        let lines = mounts.iter().map(|(root, point, kind, options)| {
            format!("30 23 0:26 {root} {point} rw,nosuid shared:9 - {kind} cgroup {options}\n")
        });
        let proc = "22 27 0:21 / /proc rw,relatime - proc proc rw\n".to_owned();
        let text: String = std::iter::once(proc).chain(lines).collect();
        self.write("/proc/self/cgroup", groups).write("/proc/self/mountinfo", text)
    }

    pub(crate) fn v2(&self, group: &str, used: &str, limit: &str) -> &Self {
        self.write(&format!("/sys/fs/cgroup{group}/memory.current"), format!("{used}\n"))
            .write(&format!("/sys/fs/cgroup{group}/memory.max"), format!("{limit}\n"))
    }

    pub(crate) fn v1(&self, group: &str, used: &str, limit: &str) -> &Self {
        let at = format!("/sys/fs/cgroup/memory{group}");
        self.write(&format!("{at}/memory.usage_in_bytes"), format!("{used}\n"))
            .write(&format!("{at}/memory.limit_in_bytes"), format!("{limit}\n"))
    }
}

pub(crate) const V2: (&str, &str, &str, &str) = ("/", "/sys/fs/cgroup", "cgroup2", "rw");
pub(crate) const V1: (&str, &str, &str, &str) =
    ("/", "/sys/fs/cgroup/memory", "cgroup", "rw,memory");
