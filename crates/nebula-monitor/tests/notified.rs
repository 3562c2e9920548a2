//! Notifications of the system, for real: they wake the monitor's own thread long before its
//! interval ends. Where this machine has none, or gives none to this process, the tests print why
//! and prove nothing.
#![cfg(target_os = "linux")]

mod common;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use common::LONG;
use nebula_monitor::{
    Cause, CgroupV1, MemoryMonitor, MonitorStatus, MonitoringConfig, PressureAction, PressureLevel,
    PressureSource, SourceReport, SourceStatus,
};

const GROUP: &str = "NEBULA_NOTIFIED_GROUP";
const LIMIT: usize = 64 << 20;

/// A control group of version 1 below the own one, removed when dropped.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Result<Self, String> {
        let told = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let own = groups.lines().find_map(|line| line.split_once(":memory:").map(|(_, path)| path));
        let own = own.ok_or("this process is in no memory group of version 1")?;
        let mut place = Path::new("/sys/fs/cgroup/memory").join(own.trim_start_matches('/'));
        if !place.is_dir() {
            place = PathBuf::from("/sys/fs/cgroup/memory");
        }
        let place = place.join(format!("nebula-{name}-{}", std::process::id()));
        fs::create_dir(&place).map_err(|error| told(&place, error))?;
        let group = Self(place);
        group.limit(LIMIT)?;
        Ok(group)
    }

    fn limit(&self, bytes: usize) -> Result<(), String> {
        let file = self.0.join("memory.limit_in_bytes");
        fs::write(&file, bytes.to_string()).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// Runs the test `name` of this program again, in the group.
    fn run(&self, name: &str) {
        let program = env::current_exe().expect("a test knows its own path");
        let mut child = Command::new(program);
        child.args(["--exact", name, "--nocapture"]).env(GROUP, &self.0).stdin(Stdio::null());
        let output = child.output().expect("the test's own program runs");
        let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        println!("{out}");
        assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        eprintln!("left behind: {}", self.0.display());
    }
}

/// Joins the group, if this is the program that was started for it.
fn join() -> Option<PathBuf> {
    let group = PathBuf::from(env::var_os(GROUP)?);
    let join = group.join("cgroup.procs");
    fs::write(&join, std::process::id().to_string()).expect("a process may join its own group");
    Some(group)
}

/// Looks by itself only every hour.
fn rare() -> MonitoringConfig {
    MonitoringConfig::builder().interval(Duration::from_secs(3600)).without_trend().build().unwrap()
}

/// Others on this machine may stall while they test that.
fn without_stalls() -> MonitoringConfig {
    let (elevated_stall, high_stall, critical_stall) = (0.0, 0.0, 0.0);
    MonitoringConfig { elevated_stall, high_stall, critical_stall, ..rare() }
}

fn report(status: &MonitorStatus, name: &str) -> SourceReport {
    status.sources().into_iter().find(|report| report.name == name).unwrap()
}

/// Waits until the thread has tried its notifications.
fn tried(status: &MonitorStatus, name: &str) -> SourceReport {
    let begun = Instant::now();
    loop {
        let report = report(status, name);
        if report.status != SourceStatus::Idle {
            return report;
        }
        assert!(begun.elapsed() < LONG, "{report}");
        thread::yield_now();
    }
}

fn touch(bytes: usize) -> Vec<u8> {
    std::hint::black_box(vec![1_u8; bytes])
}

#[test]
fn usage_thresholds_wake_a_monitor_that_sleeps() {
    match Group::new("thresholds") {
        Ok(group) => group.run("sleeper"),
        Err(why) => println!("skipped: {why}"),
    }
}

/// Not a test by itself: the program that the test above runs in its group.
#[test]
fn sleeper() {
    let Some(group) = join() else { return };
    let (send, events) = mpsc::channel();
    let tell =
        PressureAction::notify(move |event| drop(send.send((Instant::now(), event.clone()))));
    let monitor =
        MemoryMonitor::builder(without_stalls()).on(PressureLevel::Elevated, tell).build().unwrap();
    assert_eq!(report(&monitor.status(), "usage thresholds").status, SourceStatus::Idle);
    let handle = monitor.spawn().unwrap();
    let status = handle.status();
    let set = tried(&status, "usage thresholds");
    println!("{set}");
    assert_eq!(set.status, SourceStatus::Watched, "{set}");

    let checks = status.stats().checks;
    assert!(events.try_recv().is_err() && checks <= 2, "{checks} checks, an hour apart");
    let usage = CgroupV1::open().unwrap().read().unwrap();
    assert_eq!(usage.limit, Some(LIMIT), "it is the group's");
    let begun = Instant::now();
    let block = touch(LIMIT / 100 * 80 - usage.used);
    let (at, event) = events.recv_timeout(LONG).expect("the kernel tells of the threshold");
    println!("{event}, {:?} after the start of filling", at.duration_since(begun));
    assert!(event.to >= PressureLevel::Elevated && event.cause == Cause::Usage, "{event}");
    assert!(status.stats().notified_checks >= 1);
    // Above normal it looks by itself, and sees it fall.
    drop(block);
    assert_eq!(events.recv_timeout(LONG).unwrap().1.to, PressureLevel::Normal);

    // A limit that changes moves the thresholds with it, as soon as it is seen.
    fs::write(group.join("memory.limit_in_bytes"), (LIMIT * 2).to_string()).unwrap();
    handle.wake();
    let begun = Instant::now();
    let seen = SourceStatus::InForce { limit: LIMIT * 2 };
    while report(&status, "cgroup v1").status != seen {
        assert!(begun.elapsed() < LONG);
        thread::yield_now();
    }
    let _some = touch(LIMIT / 100 * 80);
    assert!(
        events.recv_timeout(Duration::from_millis(300)).is_err(),
        "no threshold is here any more"
    );
    let _more = touch(LIMIT / 100 * 80);
    let (_, event) = events.recv_timeout(LONG).unwrap();
    assert_eq!(event.reading.limit, Some(LIMIT * 2));

    let monitor = handle.stop().unwrap();
    assert_eq!(report(&monitor.status(), "usage thresholds").status, SourceStatus::Idle);
}

/// Microseconds that tasks of this system have stalled on memory.
fn stalled() -> Option<u64> {
    let text = fs::read_to_string("/proc/pressure/memory").ok()?;
    text.lines().next()?.rsplit_once("total=")?.1.parse().ok()
}

#[test]
fn a_stall_trigger_wakes_a_monitor_that_sleeps() {
    match Group::new("stalls") {
        Ok(group) => group.run("staller"),
        Err(why) => println!("skipped: {why}"),
    }
}

/// Not a test by itself: the program that the test above runs in its group.
#[test]
fn staller() {
    let Some(group) = join() else { return };
    let (send, events) = mpsc::channel();
    let tell = PressureAction::notify(move |event| drop(send.send(event.clone())));
    // So little is stalled sooner or later by whoever reads through a full group.
    let config = MonitoringConfig { elevated: 0.97, high: 0.98, critical: 0.99, ..rare() };
    let config = MonitoringConfig { elevated_stall: 0.002, ..config };
    let monitor = MemoryMonitor::builder(config).on(PressureLevel::Elevated, tell).build().unwrap();
    let handle = monitor.spawn().unwrap();
    let set = tried(&handle.status(), "stall trigger");
    println!("{set}");
    if set.status != SourceStatus::Watched {
        return println!("skipped: {set}");
    }
    // Dirty and clean pages of a file through a group that has no room for them.
    let file = tempfile::NamedTempFile::new().unwrap();
    let block = vec![5_u8; 1 << 20];
    let before = stalled().unwrap();
    let begun = Instant::now();
    let event = loop {
        for _ in 0..8 {
            let mut out = fs::File::create(file.path()).unwrap();
            for _ in 0..2 * LIMIT / block.len() {
                std::io::Write::write_all(&mut out, &block).unwrap();
            }
        }
        match events.try_recv() {
            Ok(event) => break event,
            Err(_) if begun.elapsed() < Duration::from_secs(10) => {}
            Err(_) => {
                let stalls = stalled().unwrap() - before;
                assert!(stalls < 100_000, "{stalls} us of stalls, and nobody was told");
                return println!("skipped: only {stalls} us of stalls could be made");
            }
        }
    };
    println!("{event}, after {:?}", begun.elapsed());
    assert!(handle.status().stats().notified_checks >= 1);
    assert!(group.is_dir());
}

#[test]
fn what_is_not_to_be_had_says_why() {
    let machine = common::Machine::new();
    machine.process("0::/a\n", &[common::V2]).v2("/a", "1", "100").meminfo(1, 1000);
    let config = without_stalls();
    let monitor = MemoryMonitor::builder(config).system_root(machine.root()).build().unwrap();
    let handle = monitor.spawn().unwrap();
    for name in ["stall trigger", "usage thresholds", "low-memory notification"] {
        let report = tried(&handle.status(), name);
        assert!(report.to_string().contains("only of the machine that this process runs on"));
    }
    let handle = MemoryMonitor::new(config).unwrap().spawn().unwrap();
    let report = tried(&handle.status(), "stall trigger");
    assert!(report.to_string().contains("stalls don't count"), "{report}");
    let report = tried(&handle.status(), "low-memory notification");
    assert!(report.to_string().contains("only Windows"), "{report}");
}
