//! The machine that the tests run on: what it has can be read, and makes sense.

use nebula_monitor::{
    CgroupV1, CgroupV2, MemoryMonitor, MonitoringConfig, PressureSource, SourceReport,
    SystemMemory, limits,
};

#[test]
fn a_probe_finds_a_source_in_force() {
    let mut monitor = MemoryMonitor::new(MonitoringConfig::default()).unwrap();
    for report in monitor.sources() {
        println!("{report}");
    }
    println!("limits: {}", monitor.limits());
    assert_eq!(monitor.sources().len(), 8);
    if !cfg!(target_os = "linux") && !cfg!(feature = "sysinfo") {
        println!("skipped: without Linux's files and without `sysinfo` there is nothing to read");
        return;
    }
    assert!(monitor.sources().iter().any(SourceReport::in_force));
    monitor.check().unwrap();
    let (_, reading) = monitor.status().last_reading().unwrap();
    assert!(reading.used > 0 && reading.limit > Some(0), "{reading:?}");
    let cap = monitor.limits().cap().unwrap();
    assert_eq!(limits().cap(), Some(cap));
    assert!(limits().left().unwrap() <= cap);
}

#[test]
fn system_memory_is_plausible() {
    match SystemMemory::open() {
        Ok(memory) => {
            let reading = memory.read().unwrap();
            assert!(reading.used > 1 << 20 && reading.ratio() < 1.0, "{reading:?}");
        }
        Err(why) if !cfg!(target_os = "linux") && !cfg!(feature = "sysinfo") => {
            println!("skipped: {why}");
        }
        Err(why) => panic!("{why}"),
    }
}

/// Between exact readings, the monitor asks the kernel by a cheaper way.
#[cfg(target_os = "linux")]
#[test]
fn a_glance_at_the_system_tells_about_the_same() {
    let clock = std::sync::Arc::new(nebula_memory_core::ManualClock::new());
    let config = MonitoringConfig::default();
    let mut monitor = MemoryMonitor::builder(config).clock(clock.clone()).build().unwrap();
    // No memory is nearly full here, so that the fullest source may be another one: compare all.
    let mut seen = Vec::new();
    for _ in 0..3 {
        monitor.check().unwrap();
        let limits = monitor.limits();
        let system = limits.as_slice().iter().find(|limit| limit.source == "system memory");
        seen.push(system.map(|limit| (limit.limit, limit.left)).unwrap());
        clock.advance(config.interval);
    }
    let exact = SystemMemory::open().unwrap().read().unwrap();
    for (limit, left) in seen {
        assert_eq!(Some(limit), exact.limit);
        let difference = (limit - left).abs_diff(exact.used);
        assert!(difference < limit / 10, "{left} of {limit} left, but {exact:?}");
    }
}

#[cfg(feature = "sysinfo")]
#[test]
fn sysinfo_and_the_fast_path_tell_the_same() {
    let slow = nebula_monitor::SysinfoMemory::open().unwrap();
    let fast = SystemMemory::open().unwrap();
    let (slow, fast) = (slow.read().unwrap(), fast.read().unwrap());
    // Under Wine one asks Windows' interface and the other the kernel's file; what Windows tells is
    // a page less.
    let (slow_limit, fast_limit) = (slow.limit.unwrap(), fast.limit.unwrap());
    assert!(slow_limit.abs_diff(fast_limit) <= 4096, "{slow:?} {fast:?}");
    // Other processes come and go between the two readings.
    let difference = slow.used.abs_diff(fast.used);
    assert!(difference < slow_limit / 10, "{slow:?} {fast:?}");
}

/// The kernel's own files, of whatever control groups there are, pass the parsers.
#[test]
fn own_control_groups_are_read_if_there_are_any() {
    let groups: [Result<Box<dyn PressureSource>, _>; 2] =
        [CgroupV2::open().map(|g| Box::new(g) as _), CgroupV1::open().map(|g| Box::new(g) as _)];
    for group in groups {
        match group {
            Ok(group) => {
                let reading = group.read().unwrap();
                println!("{}: {reading:?}", group.name());
                assert!(reading.used > 0, "this process is in it");
            }
            Err(why) => println!("skipped: {why}"),
        }
    }
}
