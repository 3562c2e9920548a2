//! Control groups and system memory, read from fake machines.

mod common;

use std::sync::Arc;

use common::{Machine, V1, V2};
use nebula_memory_core::{ManualClock, PressureReading};
use nebula_monitor::{
    CgroupV1, CgroupV2, MemoryMonitor, MonitoringConfig, PressureSource, SourceReport,
    SourceStatus, SystemMemory,
};

const MIB: usize = 1 << 20;

fn reading(used: usize, limit: usize) -> PressureReading {
    PressureReading { used, limit: Some(limit) }
}

#[test]
fn v2_reads_the_own_group() {
    let machine = Machine::new();
    machine.process("0::/app\n", &[V2]).v2("/app", "1000", "4000");
    let group = CgroupV2::open_under(machine.root()).unwrap();
    assert_eq!(group.read().unwrap(), reading(1000, 4000));
    assert_eq!(group.cap().unwrap(), Some(4000));
    assert_eq!(group.depth(), 1);
}

#[test]
fn v2_takes_the_fullest_of_the_chain_and_the_tightest_as_cap() {
    let machine = Machine::new();
    machine
        .process("0::/a/b/c\n", &[V2])
        .v2("/a", "9500", "10000")
        .v2("/a/b", "3000", "max")
        .v2("/a/b/c", "100", "1000");
    let group = CgroupV2::open_under(machine.root()).unwrap();
    assert_eq!(group.depth(), 3);
    assert_eq!(group.read().unwrap(), reading(9500, 10000), "an ancestor is nearest to its limit");
    assert_eq!(group.cap().unwrap(), Some(1000), "the own group has the tightest limit");

    machine.v2("/a", "5000", "10000");
    machine.v2("/a/b", "600", "500");
    assert_eq!(group.read().unwrap(), reading(600, 500), "a new limit counts at once");
    assert_eq!(group.cap().unwrap(), Some(500));
}

#[test]
fn v2_without_any_limit_tells_the_own_usage() {
    let machine = Machine::new();
    machine.process("0::/a/b\n", &[V2]).v2("/a", "900", "max").v2("/a/b", "70", "max");
    let group = CgroupV2::open_under(machine.root()).unwrap();
    assert_eq!(group.read().unwrap(), PressureReading { used: 70, limit: None });
    assert_eq!(group.cap().unwrap(), None);
}

#[test]
fn groups_without_the_memory_controller_are_passed_over() {
    let machine = Machine::new();
    machine.process("0::/a/b/c\n", &[V2]).v2("/a", "900", "1000");
    machine.write("/sys/fs/cgroup/a/b/c/cgroup.procs", "");
    let group = CgroupV2::open_under(machine.root()).unwrap();
    assert_eq!(group.depth(), 1);
    assert_eq!(group.read().unwrap(), reading(900, 1000));
}

#[test]
fn idle_file_pages_are_not_pressure() {
    let machine = Machine::new();
    machine.process("0::/a\n", &[V2]).v2("/a", "950", "1000");
    let stat = "anon 1\nfile 700\ninactive_file 600\nactive_file 100\n";
    machine.write("/sys/fs/cgroup/a/memory.stat", stat);
    let group = CgroupV2::open_under(machine.root()).unwrap();
    assert_eq!(group.read().unwrap(), reading(350, 1000));
    machine.v2("/a", "500", "1000");
    assert_eq!(group.read().unwrap(), reading(500, 1000), "not asked for while half is free");
    machine.v2("/a", "950", "1000").write("/sys/fs/cgroup/a/memory.stat", "junk");
    assert_eq!(group.read().unwrap(), reading(950, 1000), "what is not told is not subtracted");

    let machine = Machine::new();
    machine.process("2:memory:/a\n", &[V1]).v1("/a", "950", "1000");
    let stat = "inactive_file 1\nhierarchical_memory_limit 1000\ntotal_inactive_file 600\n";
    machine.write("/sys/fs/cgroup/memory/a/memory.stat", stat);
    let group = CgroupV1::open_under(machine.root()).unwrap();
    assert_eq!(group.read().unwrap(), reading(350, 1000));
}

#[test]
fn statistics_longer_than_the_buffer_are_not_taken_by_half() {
    let machine = Machine::new();
    machine.process("0::/a\n", &[V2]).v2("/a", "950", "1000");
    let group = CgroupV2::open_under(machine.root()).unwrap();
    // The number straddles the end of the 4 KiB that are read: its first digit alone would count.
    let key = "\ninactive_file ";
    let stat = "x".repeat(4095 - key.len()) + key + "600\n";
    machine.write("/sys/fs/cgroup/a/memory.stat", stat);
    assert_eq!(group.read().unwrap(), reading(950, 1000));
}

#[test]
fn containers_of_v2_are_seen_from_inside() {
    // With a namespace of its own, the container's group is the root of what it sees.
    let machine = Machine::new();
    machine.process("0::/\n", &[V2]).v2("", "30", "100");
    let group = CgroupV2::open_under(machine.root()).unwrap();
    assert_eq!(group.read().unwrap(), reading(30, 100));
    assert_eq!(group.depth(), 1);

    // A process above its namespace, whose mount is above it just as far.
    let machine = Machine::new();
    let mount = ("/../..", "/sys/fs/cgroup", "cgroup2", "rw");
    machine.process("0::/../../x\n", &[mount]).v2("/x", "30", "100").v2("", "80", "400");
    let group = CgroupV2::open_under(machine.root()).unwrap();
    assert_eq!((group.depth(), group.cap().unwrap()), (2, Some(100)));

    // A process outside of what is mounted: the mount is taken, and the report says so.
    for path in ["0::/../..\n", "0::/../sibling\n"] {
        let machine = Machine::new();
        machine.process(path, &[V2]).v2("", "30", "100").meminfo(1, 1000);
        // Must not be found by walking upwards out of the mount.
        machine
            .write("/sys/fs/sibling/memory.max", "5")
            .write("/sys/fs/sibling/memory.current", "5");
        let monitor = MemoryMonitor::builder(MonitoringConfig::default())
            .system_root(machine.root())
            .build()
            .unwrap();
        let report = &monitor.sources()[0];
        assert_eq!(report.status, SourceStatus::InForce { limit: 100 }, "{path}");
        assert!(report.to_string().contains("assumed"), "{report}");
    }
}

#[test]
fn a_container_without_its_own_namespace_is_seen() {
    // The paths are the host's; the mount shows the container's part of the tree.
    let machine = Machine::new();
    let mount = ("/docker/ab\\040c", "/sys/fs/cgroup/memory", "cgroup", "rw,memory");
    machine.process("9:cpu:/\n4:memory:/docker/ab c\n", &[mount]).v1("", "30", "100");
    let group = CgroupV1::open_under(machine.root()).unwrap();
    assert_eq!(group.read().unwrap(), reading(30, 100));

    machine.process("4:memory:/docker/ab c/sub\n", &[mount]).v1("/sub", "45", "50");
    let group = CgroupV1::open_under(machine.root()).unwrap();
    assert_eq!((group.depth(), group.read().unwrap()), (2, reading(45, 50)));

    // Paths of another tree: nothing below the mount matches.
    machine.process("4:memory:/lxc/other\n", &[mount]);
    let group = CgroupV1::open_under(machine.root()).unwrap();
    assert_eq!((group.depth(), group.read().unwrap()), (1, reading(30, 100)));
}

#[test]
fn the_mount_that_shows_the_own_group_is_taken() {
    let machine = Machine::new();
    let other = ("/other", "/mnt/other", "cgroup2", "rw");
    machine.process("0::/app\n", &[other, V2]).v2("/app", "1", "100");
    machine.write("/mnt/other/memory.max", "7").write("/mnt/other/memory.current", "7");
    let group = CgroupV2::open_under(machine.root()).unwrap();
    assert_eq!(group.cap().unwrap(), Some(100));
}

#[test]
fn v1_knows_its_huge_number_for_no_limit() {
    let machine = Machine::new();
    machine.process("4:memory:/a\n", &[V1]).v1("/a", "30", "9223372036854771712");
    let group = CgroupV1::open_under(machine.root()).unwrap();
    assert_eq!(group.read().unwrap(), PressureReading { used: 30, limit: None });
    assert_eq!(group.cap().unwrap(), None);
    machine.v1("/a", "30", "100");
    assert_eq!(group.read().unwrap(), reading(30, 100));
}

#[test]
fn v1_walks_up_as_far_as_limits_are_inherited() {
    let machine = Machine::new();
    machine
        .process("4:cpu,memory:/a/b\n", &[V1])
        .v1("", "5000", "9223372036854771712")
        .v1("/a", "950", "1000")
        .v1("/a/b", "10", "500");
    let group = CgroupV1::open_under(machine.root()).unwrap();
    assert_eq!((group.depth(), group.read().unwrap()), (3, reading(950, 1000)));

    machine.write("/sys/fs/cgroup/memory/a/memory.use_hierarchy", "0\n");
    let group = CgroupV1::open_under(machine.root()).unwrap();
    assert_eq!((group.depth(), group.read().unwrap()), (1, reading(10, 500)));
}

#[test]
fn v1_obeys_a_limit_of_ancestors_that_it_cannot_see() {
    let machine = Machine::new();
    machine.process("4:memory:/a\n", &[V1]).v1("/a", "30", "1000");
    let stat = |limit: &str| format!("cache 1\nhierarchical_memory_limit {limit}\ntotal_cache 1\n");
    let file = "/sys/fs/cgroup/memory/a/memory.stat";
    machine.write(file, stat("100"));
    let hidden = CgroupV1::open_under(machine.root()).unwrap();
    assert_eq!(hidden.read().unwrap(), reading(30, 100));

    // The same limit as the visible one is that one, and follows it.
    machine.write(file, stat("1000"));
    let visible = CgroupV1::open_under(machine.root()).unwrap();
    machine.v1("/a", "30", "2000");
    assert_eq!(visible.read().unwrap(), reading(30, 2000));
}

#[test]
fn system_memory_reads_meminfo() {
    let machine = Machine::new();
    machine.meminfo(300, 1000);
    let memory = SystemMemory::open_under(machine.root()).unwrap();
    assert_eq!(memory.read().unwrap(), reading(300 << 10, 1000 << 10));
    machine.write("/proc/meminfo", "MemTotal: 1000 kB\n");
    assert_eq!(memory.read().unwrap_err().code(), "source_unavailable");
}

#[test]
fn what_is_missing_is_named() {
    let machine = Machine::new();
    let why = |machine: &Machine| {
        let v2 = CgroupV2::open_under(machine.root()).unwrap_err();
        let v1 = CgroupV1::open_under(machine.root()).unwrap_err();
        assert_eq!((v1.code(), v2.code()), ("source_unavailable", "source_unavailable"));
        (v1.to_string(), v2.to_string())
    };
    // (What stands between the root and this is the platform's separator.)
    assert!(why(&machine).0.contains("proc/self/cgroup"));
    machine.write("/proc/self/cgroup", "0::/a\n");
    assert!(why(&machine).0.contains("mountinfo"));
    machine.process("0::/a\n", &[]);
    let (v1, v2) = why(&machine);
    assert!(v1.contains("names no control group"), "{v1}");
    assert!(v2.contains("no mount"), "{v2}");
    machine.process("0::/a\n", &[V2]);
    assert!(why(&machine).1.contains("memory.max"));
    machine.v2("/a", "1", "garbage");
    assert!(why(&machine).1.contains("not a number"));
    assert!(SystemMemory::open_under(machine.root()).is_err());
}

#[test]
fn junk_in_any_file_is_an_error_and_never_a_panic() {
    let junk: [&[u8]; 6] =
        [b"", b"\0\xff\xfe", b"-1\n", b"99999999999999999999999\n", b"\n\n", &[b'9'; 5000]];
    for text in junk {
        let machine = Machine::new();
        machine
            .process("0::/a\n4:memory:/a\n", &[V2, V1])
            .v2("/a", "1", "100")
            .v1("/a", "1", "100");
        let v2 = CgroupV2::open_under(machine.root()).unwrap();
        let v1 = CgroupV1::open_under(machine.root()).unwrap();
        machine.write("/sys/fs/cgroup/a/memory.current", text);
        machine.write("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", text);
        assert!(v2.read().is_err() && v1.read().is_err(), "{text:?}");
        for file in ["/proc/self/cgroup", "/proc/self/mountinfo", "/proc/meminfo"] {
            let machine = Machine::new();
            machine.process("0::/a\n4:memory:/a\n", &[V2, V1]).write(file, text);
            assert!(CgroupV2::open_under(machine.root()).is_err());
            assert!(CgroupV1::open_under(machine.root()).is_err());
            assert!(SystemMemory::open_under(machine.root()).is_err());
        }
    }
}

#[test]
fn the_monitor_reports_each_source_and_takes_the_tightest() {
    let (machine, clock) = (Machine::new(), Arc::new(ManualClock::new()));
    machine.process("0::/\n4:memory:/a\n", &[V1]).v1("/a", "100", &(64 * MIB).to_string());
    machine.meminfo(300, 1 << 20);
    let mut monitor = MemoryMonitor::builder(MonitoringConfig::default())
        .system_root(machine.root())
        .clock(clock.clone())
        .build()
        .unwrap();
    let texts: Vec<_> = monitor.sources().iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 8);
    assert!(texts[0].starts_with("cgroup v2: not in force, "), "{}", texts[0]);
    assert!(texts[1].starts_with("cgroup v1: in force, limit 64.0 MiB ("), "{}", texts[1]);
    assert_eq!(texts[2], "system memory: in force, limit 1.0 GiB (/proc/meminfo)");
    assert!(texts[3].starts_with("memory stalls: not in force, "), "{}", texts[3]);
    assert!(texts[4].starts_with("resident memory: not in force, "), "{}", texts[4]);
    let in_force: Vec<_> = monitor.sources().iter().map(SourceReport::in_force).collect();
    assert_eq!(in_force, [false, true, true, false, false, false, false, false]);
    for (name, text) in
        ["stall trigger", "usage thresholds", "low-memory notification"].iter().zip(&texts[5..])
    {
        let idle = format!("{name}: not in force without a thread of the monitor's own");
        assert_eq!(*text, idle);
    }

    let limits = monitor.limits();
    assert_eq!(limits.cap(), Some(64 * MIB));
    assert_eq!(limits.left(), Some(64 * MIB - 100));
    assert_eq!(limits.as_slice()[0].source, "cgroup v1");
    assert!(limits.to_string().starts_with("64.0 MiB from cgroup v1 ("), "{limits}");

    machine.v1("/a", "100", "9223372036854771712");
    monitor.check().unwrap();
    assert_eq!(monitor.sources()[1].status, SourceStatus::Unlimited);
    assert_eq!(monitor.limits().cap(), Some(1 << 30));
    machine.v1("/a", "99", "100");
    clock.advance(monitor.config().interval);
    let event = monitor.check().unwrap().expect("the group is nearly full");
    assert_eq!(event.source, "cgroup v1");
    assert_eq!(event.reading, reading(99, 100));
    assert_eq!(monitor.status().sources(), monitor.sources());
    assert_eq!(monitor.limits().left(), Some(1));
}

#[test]
fn ancestors_limits_are_read_in_turn_and_the_own_one_every_interval() {
    let (machine, clock) = (Machine::new(), Arc::new(ManualClock::new()));
    machine.process("0::/a/b/c\n", &[V2]).meminfo(1, 1 << 20);
    for group in ["/a", "/a/b", "/a/b/c"] {
        machine.v2(group, "10", "max");
    }
    let mut monitor = MemoryMonitor::builder(MonitoringConfig::default())
        .system_root(machine.root())
        .clock(clock.clone())
        .build()
        .unwrap();
    let interval = monitor.config().interval;
    let mut checks_until_seen = |group| {
        machine.v2(group, "10", "11");
        let seen = (0..20).position(|_| {
            clock.advance(interval);
            monitor.check().unwrap();
            monitor.status().last_reading().unwrap().1 == reading(10, 11)
        });
        machine.v2(group, "10", "max");
        for _ in 0..4 {
            clock.advance(interval);
            monitor.check().unwrap();
        }
        let (_, last) = monitor.status().last_reading().unwrap();
        assert_ne!(last.limit, Some(11), "{group}: and seen to be lifted");
        seen.unwrap()
    };
    for _ in 0..5 {
        assert_eq!(checks_until_seen("/a/b/c"), 0);
        assert!(checks_until_seen("/a/b") < 4 && checks_until_seen("/a") < 4);
    }
    // Whoever looks seldom sees all each time.
    machine.v2("/a", "10", "11");
    clock.advance(2 * interval);
    monitor.check().unwrap();
    assert_eq!(monitor.status().last_reading().unwrap().1, reading(10, 11));
}

#[test]
fn droppable_pages_are_taken_as_known_in_between_and_read_near_the_limit() {
    let stat = |machine: &Machine, idle: u32| {
        machine.write("/sys/fs/cgroup/a/memory.stat", format!("inactive_file {idle}\n"));
    };
    let machine = Machine::new();
    machine.process("0::/a\n", &[V2]).v2("/a", "800", "1000");
    stat(&machine, 300);
    let group = CgroupV2::open_under(machine.root()).unwrap();
    assert_eq!(group.read().unwrap(), reading(500, 1000));
    stat(&machine, 0);
    assert_eq!(group.read_usage().unwrap(), reading(500, 1000), "as known");
    machine.v2("/a", "900", "1000");
    assert_eq!(group.read_usage().unwrap(), reading(600, 1000), "all growth counts");
    machine.v2("/a", "700", "1000");
    assert_eq!(group.read_usage().unwrap(), reading(500, 1000), "what left may be those pages");
    machine.v2("/a", "800", "1000");
    assert_eq!(group.read_usage().unwrap(), reading(600, 1000), "and what came is not");
    machine.v2("/a", "938", "1000");
    assert_eq!(group.read_usage().unwrap(), reading(938, 1000), "near the limit it is read");
    stat(&machine, 100);
    machine.v2("/a", "900", "1000");
    assert_eq!(group.read_usage().unwrap(), reading(900, 1000), "as known by then");
    assert_eq!(group.read().unwrap(), reading(800, 1000));
    // A limit of nothing is no reason to divide by it.
    machine.v2("/a", "5", "0");
    stat(&machine, 0);
    assert_eq!(
        (group.read().unwrap(), group.read_usage().unwrap()),
        (reading(5, 0), reading(5, 0))
    );
}

#[test]
fn droppable_pages_that_were_known_before_a_group_was_half_empty_are_forgotten() {
    let stat = |machine: &Machine, idle: u32| {
        machine.write("/sys/fs/cgroup/a/memory.stat", format!("inactive_file {idle}\n"));
    };
    let machine = Machine::new();
    machine.process("0::/a\n", &[V2]).v2("/a", "800", "1000");
    stat(&machine, 300);
    let group = CgroupV2::open_under(machine.root()).unwrap();
    assert_eq!(group.read().unwrap(), reading(500, 1000));
    machine.v2("/a", "100", "1000");
    assert_eq!(group.read().unwrap(), reading(100, 1000));
    stat(&machine, 0);
    machine.v2("/a", "800", "1000");
    assert_eq!(group.read_usage().unwrap(), reading(800, 1000), "not 300 less");
}

#[test]
fn a_report_follows_the_tightest_limit_even_if_another_group_is_fuller() {
    let (machine, clock) = (Machine::new(), Arc::new(ManualClock::new()));
    machine.process("0::/a/b\n", &[V2]).v2("/a", "9000", "10000").v2("/a/b", "80", "1000");
    let mut monitor = MemoryMonitor::builder(MonitoringConfig::default())
        .system_root(machine.root())
        .clock(clock.clone())
        .build()
        .unwrap();
    monitor.check().unwrap();
    assert_eq!(monitor.sources()[0].status, SourceStatus::InForce { limit: 1000 });
    for limit in [500, 2000] {
        machine.v2("/a/b", "80", &limit.to_string());
        assert_eq!(monitor.limits().cap(), Some(limit), "whoever asks first");
        clock.advance(MonitoringConfig::default().interval);
        monitor.check().unwrap();
        assert_eq!(monitor.status().last_reading().unwrap().1, reading(9000, 10_000));
        assert_eq!(monitor.status().sources()[0].status, SourceStatus::InForce { limit });
    }
}

#[test]
fn what_is_left_is_the_least_of_the_chain() {
    let machine = Machine::new();
    // The ancestor is fuller by its ratio, but has more bytes left.
    machine.process("0::/a/b\n", &[V2]).v2("/a", "9000", "10000").v2("/a/b", "80", "100");
    let monitor = MemoryMonitor::builder(MonitoringConfig::default())
        .system_root(machine.root())
        .build()
        .unwrap();
    assert_eq!((monitor.limits().cap(), monitor.limits().left()), (Some(100), Some(20)));
}
