//! End to end: a process that fills a cache at full speed, in a control group of 64 MiB, is killed
//! by the kernel without a monitor; with one it lives, and its cache still serves.
//!
//! The group is made below this process's own, for as long as the test runs. Where that is not
//! allowed, the test prints why and proves nothing. `NEBULA_OOM_SECONDS` sets how long the second
//! process has to live (3 by default).
#![cfg(all(target_os = "linux", feature = "cache", feature = "monitor"))]

use std::{
    env, fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use nebula_memory::{
    cache::{CacheConfig, ConcurrentComputeCache},
    core::{ByteSize, PressureLevel, Reclaim, ReclaimRegistry},
    monitor::{MemoryMonitor, MonitorHandle, MonitoringConfig, PressureAction},
};

const LIMIT: usize = 64 << 20;
/// Bytes that are filled in a millisecond, at most.
const PACE: u128 = 160 << 10;
const SECONDS: &str = "NEBULA_OOM_SECONDS";
const GROUP: &str = "NEBULA_OOM_GROUP";
const MONITORED: &str = "NEBULA_OOM_MONITORED";

/// Which files a version of control groups has.
struct Version {
    name: &'static str,
    limit: &'static str,
    /// The limit of memory and swap, or of swap, and what to write there; it need not exist.
    swap: (&'static str, usize),
}

const V1: Version = Version {
    name: "version 1",
    limit: "memory.limit_in_bytes",
    swap: ("memory.memsw.limit_in_bytes", LIMIT),
};
const V2: Version =
    Version { name: "version 2", limit: "memory.max", swap: ("memory.swap.max", 0) };

/// A control group that is removed when dropped.
struct Group(PathBuf);

impl Group {
    /// The directory of the own group, as far as it can be seen.
    fn own(version: &Version) -> Option<PathBuf> {
        let unified = version.limit == V2.limit;
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let path = groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let memory = controllers.split(',').any(|name| name == "memory");
            (if unified { controllers.is_empty() } else { memory }).then_some(path)
        })?;
        let point = mounts.lines().find_map(|line| {
            let (mount, system) = line.split_once(" - ")?;
            let memory = system.starts_with("cgroup ")
                && system.rsplit(' ').next()?.split(',').any(|option| option == "memory");
            let ours = if unified { system.starts_with("cgroup2 ") } else { memory };
            ours.then(|| mount.split(' ').nth(4)).flatten()
        })?;
        let own = Path::new(point).join(path.trim_start_matches('/'));
        Some(if own.is_dir() { own } else { PathBuf::from(point) })
    }

    fn new(version: &Version) -> Result<Self, String> {
        let own = Self::own(version).ok_or("this process is in no such group")?;
        let place = own.join(format!("nebula-oom-{}", std::process::id()));
        fs::create_dir(&place).map_err(|error| format!("{}: {error}", place.display()))?;
        let group = Self(place);
        let limit = group.0.join(version.limit);
        if !limit.exists() {
            return Err(format!("{}: the memory controller is not enabled", limit.display()));
        }
        fs::write(&limit, LIMIT.to_string())
            .map_err(|error| format!("{}: {error}", limit.display()))?;
        let swap = group.0.join(version.swap.0);
        if swap.exists() {
            fs::write(&swap, version.swap.1.to_string())
                .map_err(|error| format!("{}: {error}", swap.display()))?;
        }
        Ok(group)
    }

    /// Runs this test's own program as the filler, in the group.
    fn run(&self, monitored: bool) -> Output {
        let mut filler = Command::new(env::current_exe().expect("a test knows its own path"));
        filler.args(["--exact", "filler", "--nocapture"]).env(GROUP, &self.0);
        if monitored {
            filler.env(MONITORED, "yes");
        } else {
            filler.env_remove(MONITORED);
        }
        filler.stdin(Stdio::null()).output().expect("the test's own program runs")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel may take a moment to let go of a process that it has killed.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        eprintln!("left behind: {}", self.0.display());
    }
}

fn seconds() -> u64 {
    env::var(SECONDS).map_or(3, |text| text.parse().expect("a number of seconds"))
}

fn killed_without_and_alive_with(version: &Version) {
    let group = match Group::new(version) {
        Ok(group) => group,
        Err(why) => return println!("skipped: no control group of {}: {why}", version.name),
    };
    let without = group.run(false);
    let told = |output: &Output| {
        let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        format!("{}\n{out}\n{err}", output.status)
    };
    assert_eq!(without.status.signal(), Some(9), "it should have been killed: {}", told(&without));

    let with = group.run(true);
    println!("{}", told(&with));
    assert!(with.status.success(), "it should have lived");
    let out = String::from_utf8_lossy(&with.stdout);
    let figure = |name: &str| -> u64 {
        let line = out.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|figure| figure.trim().parse().ok()).unwrap_or_else(|| panic!("no {name}"))
    };
    let filled = figure("filled:");
    assert!(filled > 4 * LIMIT as u64, "only {filled} bytes went through the cache");
    assert!(figure("late hits:") > 0, "the cache serves no more");
    assert!(figure("given back:") > 0);
}

#[test]
fn a_filler_is_killed_without_a_monitor_and_lives_with_one_in_version_1() {
    killed_without_and_alive_with(&V1);
}

#[test]
fn a_filler_is_killed_without_a_monitor_and_lives_with_one_in_version_2() {
    killed_without_and_alive_with(&V2);
}

type Blocks = ConcurrentComputeCache<u64, Arc<[u8]>>;

fn monitor(cache: &Arc<impl Reclaim + 'static>) -> MonitorHandle {
    let registry = ReclaimRegistry::new();
    let weak: Weak<dyn Reclaim> = Arc::downgrade(cache) as _;
    registry.register("cache", 0, weak).detach();
    let config = MonitoringConfig::builder()
        .thresholds(0.50, 0.65, 0.80)
        .interval(Duration::from_millis(5))
        .cool_down(Duration::from_millis(20))
        .build()
        .expect("a valid configuration");
    MemoryMonitor::builder(config)
        .on(PressureLevel::Elevated, PressureAction::reclaim(&registry))
        .build()
        .and_then(|monitor| monitor.spawn().map_err(Into::into))
        .expect("a thread")
}

/// Not a test by itself: the program that the tests above run in their group.
#[test]
fn filler() {
    let Some(group) = env::var_os(GROUP) else { return };
    let join = Path::new(&group).join("cgroup.procs");
    fs::write(&join, std::process::id().to_string()).expect("a process may join its own group");

    // Far more than the group allows.
    let config = CacheConfig::builder().bytes(ByteSize::gib(4)).build().unwrap();
    let cache = Blocks::builder(config)
        .with_weigher(|_: &u64, block: &Arc<[u8]>| block.len())
        .build()
        .unwrap();
    let cache = Arc::new(cache);
    let monitor = env::var_os(MONITORED).map(|_| monitor(&cache));
    let status = monitor.as_ref().map(MonitorHandle::status);

    let (begun, lifetime) = (Instant::now(), Duration::from_secs(seconds()));
    let (mut next, mut filled, mut hits, mut late_hits) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut refused = 0_u64;
    while begun.elapsed() < lifetime {
        // New work comes at a pace: what a busy machine takes to wake a thread is time for a part of
        // the limit only. None comes while memory is critical; what is cached is served.
        if u128::from(filled) > begun.elapsed().as_millis() * PACE {
            thread::yield_now();
        } else if status.as_ref().is_none_or(|status| status.level() < PressureLevel::Critical) {
            let block: Arc<[u8]> = vec![1; 16 << 10].into();
            filled += block.len() as u64;
            let _ = cache.insert(next, block);
            next += 1;
        } else {
            refused += 1;
            thread::yield_now();
        }
        let hit = u64::from(cache.get(&next.saturating_sub(1 + next % 64)).is_some());
        hits += hit;
        if begun.elapsed() * 2 > lifetime {
            late_hits += hit;
        }
    }
    // The harness may have begun a line, where it has one core.
    println!("\nfilled: {filled}\nhits: {hits}\nlate hits: {late_hits}\nrefused: {refused}");
    if let Some(status) = status {
        println!("given back: {}\n{}", status.stats().bytes_given, status.stats());
    }
}
