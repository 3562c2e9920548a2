//! A reading must be cheap enough to be made every millisecond: each source that this machine has,
//! and checks as they are made under pressure and in calm. Beside it, what it costs to wait for a
//! millisecond at all, and how long it takes from a threshold to the first byte given back.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{
        Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, Instant},
};

use nebula_memory_core::{
    Clock, MemoryError, PressureLevel, PressureReading, PressureSource, Reclaim, ReclaimRegistry,
    sync::Arc,
};
use nebula_monitor::{
    CgroupV1, CgroupV2, MemoryMonitor, MonitoringConfig, PressureAction, ResidentMemory,
    SystemMemory,
};
use sysinfo::{MemoryRefreshKind, System};

use crate::{Case, Contender};

/// Moves on by so many milliseconds with every glance.
struct Hasty(AtomicU64, u64);

impl Clock for Hasty {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(self.1, Relaxed))
    }
}

/// A check of this machine, with so much time between two.
fn checks(name: &'static str, millis: u64) -> Case {
    let setup = move || {
        let clock = Arc::new(Hasty(AtomicU64::new(0), millis));
        let builder = MemoryMonitor::builder(MonitoringConfig::default()).clock(clock);
        let mut monitor = builder.build().expect("the defaults are valid");
        monitor.check().expect("there is something to read");
        monitor
    };
    Case::new(name, Contender::each("ours", setup, |monitor| monitor.check().is_ok()))
}

/// The least that a reading can take: one `pread` of the own group's usage.
fn bare_pread(file: &'static str) -> Option<Contender> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.split_once(":memory:").map(|(_, path)| path))?;
    let path = format!("/sys/fs/cgroup/memory{own}/{file}");
    File::open(&path).ok()?;
    let setup = move || File::open(&path).expect("it was there");
    Some(Contender::each("bare pread", setup, |file| {
        let mut buffer = [0; 32];
        file.read_at(&mut buffer, 0).is_ok()
    }))
}

/// How long a thread of this process, by its name, has run on a core.
fn ran(name: &str) -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux has it");
    let nanos = tasks.flatten().find_map(|task| {
        let of = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let times = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        (of.trim_end() == name).then(|| times.split(' ').next()?.parse().ok())?
    });
    Duration::from_nanos(nanos.expect("the thread runs"))
}

/// The time that a thread is on a core for one sleep of a millisecond, by `sleep`.
fn sleeping(name: &'static str, sleep: fn(Duration)) -> Contender {
    let run = move |iterations| {
        let thread = std::thread::Builder::new().name("bare-sleep".to_owned()).spawn(move || {
            let before = ran("bare-sleep");
            for _ in 0..iterations {
                sleep(Duration::from_millis(1));
            }
            ran("bare-sleep").saturating_sub(before)
        });
        thread.expect("a thread").join().expect("it does not panic")
    };
    Contender { name, threads: 2, run: Box::new(run) }
}

/// A level that holds, so that checks come at the fast interval; and one that can be changed.
struct Dial(AtomicUsize);

impl PressureSource for Dial {
    fn name(&self) -> &'static str {
        "dial"
    }

    fn read(&self) -> Result<PressureReading, MemoryError> {
        Ok(PressureReading { used: self.0.load(Relaxed), limit: Some(100) })
    }
}

/// The time that a monitor's thread is on a core for one check, with the sleep before it, while all
/// that this machine has is watched at the fast interval of a millisecond.
fn watching() -> Contender {
    let run = |iterations| {
        let config = MonitoringConfig::builder().without_trend().build().expect("it is valid");
        let dial = Arc::new(Dial(AtomicUsize::new(75)));
        let monitor = MemoryMonitor::builder(config).source(dial).build().expect("it is valid");
        let handle = monitor.spawn().expect("a thread");
        let status = handle.status();
        let wait_for = |checks| {
            while status.stats().checks < checks {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        wait_for(2);
        let (before, first) = (ran("nebula-monitor"), status.stats().checks);
        wait_for(first + iterations);
        let (after, last) = (ran("nebula-monitor"), status.stats().checks);
        after.saturating_sub(before).mul_f64(iterations as f64 / (last - first) as f64)
    };
    Contender { name: "ours", threads: 2, run: Box::new(run) }
}

/// Gives back all that is too much, and tells when it was asked.
struct Spare(Arc<Dial>, mpsc::Sender<Instant>);

impl Reclaim for Spare {
    fn reclaimable(&self) -> usize {
        self.0.0.load(Relaxed)
    }

    fn reclaim(&self, wanted: usize, _urgency: PressureLevel) -> usize {
        let now = Instant::now();
        let given = wanted.min(self.0.0.swap(10, Relaxed));
        // Nobody listens any more at the end.
        let _ = self.1.send(now);
        given
    }
}

/// From the moment when a threshold is passed until the first byte is given back, at the fast
/// interval: the worst of so many crossings.
fn crossing(crossings: u64) -> Contender {
    let run = move |iterations| {
        let config = MonitoringConfig::builder()
            .interval(Duration::from_millis(1))
            .cool_down(Duration::ZERO)
            .without_trend()
            .build()
            .expect("it is valid");
        let dial = Arc::new(Dial(AtomicUsize::new(10)));
        let (send, asked) = mpsc::channel();
        let spare = Arc::new(Spare(Arc::clone(&dial), send));
        let registry = ReclaimRegistry::new();
        let weak = Arc::downgrade(&spare);
        registry.register("spare", 0, weak as Weak<dyn Reclaim>).detach();
        let handle = MemoryMonitor::builder(config)
            .source(Arc::clone(&dial) as Arc<dyn PressureSource>)
            .on(PressureLevel::High, PressureAction::reclaim(&registry))
            .build()
            .expect("it is valid")
            .spawn()
            .expect("a thread");
        let mut total = Duration::ZERO;
        for _ in 0..iterations {
            let mut worst = Duration::ZERO;
            for _ in 0..crossings {
                while handle.status().level() > PressureLevel::Normal {
                    std::thread::sleep(Duration::from_micros(300));
                }
                let begun = Instant::now();
                dial.0.store(90, Relaxed);
                let at = asked.recv().expect("the monitor runs");
                worst = worst.max(at.saturating_duration_since(begun));
            }
            total += worst;
        }
        total
    };
    Contender { name: "ours", threads: 2, run: Box::new(run) }
}

/// Every case of this area; a machine without a kind of control group has no case of it.
///
/// # Panics
/// When run, if a source has gone that was there when the cases were listed.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    if CgroupV2::open().is_ok() {
        let setup = || CgroupV2::open().expect("it was there");
        let ours = Contender::each("ours", setup, |group| group.read().is_ok());
        cases.push(Case::new("reading of cgroup v2, with its limits", ours));
        let setup = || {
            let group = CgroupV2::open().expect("it was there");
            group.read().expect("its limits can be read");
            group
        };
        let ours = Contender::each("ours", setup, |group| group.read_usage().is_ok());
        cases.push(Case::new("reading of cgroup v2", ours));
    }
    if CgroupV1::open().is_ok() {
        let setup = || CgroupV1::open().expect("it was there");
        let ours = Contender::each("ours", setup, |group| group.read().is_ok());
        cases.push(Case::new("reading of cgroup v1, with its limits", ours));
        let setup = || {
            let group = CgroupV1::open().expect("it was there");
            group.read().expect("its limits can be read");
            group
        };
        let ours = Contender::each("ours", setup, |group| group.read_usage().is_ok());
        let case = Case::new("reading of cgroup v1", ours);
        cases.push(match bare_pread("memory.usage_in_bytes") {
            Some(pread) => case.peer(pread),
            None => case,
        });
    }
    if SystemMemory::open().is_ok() {
        let setup = || SystemMemory::open().expect("it was there");
        let ours = Contender::each("ours", setup, |memory| memory.read().is_ok());
        let sysinfo = Contender::each("sysinfo", System::new, |system| {
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            system.total_memory() - system.available_memory()
        });
        cases.push(Case::new("reading of system memory", ours).peer(sysinfo));
    }
    if ResidentMemory::open().is_ok() {
        let setup = || ResidentMemory::open().expect("it was there");
        let ours = Contender::each("ours", setup, |resident| resident.bytes().is_ok());
        cases.push(Case::new("reading of resident memory", ours));
    }
    cases.push(checks("check in between, as every millisecond", 0));
    cases.push(checks("check of all sources, as every interval", 100));
    cases.push(checks("check of all files anew, as every 16 intervals", 1600));
    if std::fs::read("/proc/self/schedstat").is_ok() {
        let watch = Case::new("time on a core for a check every millisecond", watching());
        cases.push(
            watch
                .unit("ns of CPU")
                .peer(sleeping("bare sleep", std::thread::sleep))
                .peer(sleeping("bare park", std::thread::park_timeout)),
        );
    }
    cases.push(Case::new("threshold to first byte", crossing(1)).unit("ns"));
    cases.push(Case::new("threshold to first byte, worst of 20", crossing(20)).unit("ns"));
    cases
}
