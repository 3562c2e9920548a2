//! A reading allocates nothing; counted by a global allocator of this binary's own.

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::{Arc, Weak},
};

use common::{Dial, Machine, V1, V2, config};
use nebula_memory_core::ManualClock;
use nebula_monitor::{CgroupV1, CgroupV2, MemoryMonitor, PressureSource, SystemMemory};

/// Counts the allocations of each thread by itself, so that the test runner's don't disturb.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is passed on to the system's allocator unchanged; the counter neither
// allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` with this `layout`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as in `dealloc`; the caller's promise about `size` is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations_of<R>(f: impl FnOnce() -> R) -> (R, u64) {
    let before = ALLOCATIONS.with(Cell::get);
    let result = f();
    (result, ALLOCATIONS.with(Cell::get) - before)
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations_of(|| std::hint::black_box(Box::new(5))).1, 1);
}

#[test]
fn a_reading_of_a_linux_source_allocates_nothing() {
    let machine = Machine::new();
    // Nearly full, so that `memory.stat` is read, too.
    machine
        .process("0::/a/b\n4:memory:/a/b\n", &[V2, V1])
        .v2("/a", "900", "1000")
        .v2("/a/b", "90", "100")
        .v1("/a", "900", "1000")
        .v1("/a/b", "90", "100")
        .meminfo(10, 1000)
        .write("/sys/fs/cgroup/a/memory.stat", "inactive_file 10\n")
        .write("/sys/fs/cgroup/memory/a/memory.stat", "total_inactive_file 10\n");
    let v2 = CgroupV2::open_under(machine.root()).unwrap();
    let v1 = CgroupV1::open_under(machine.root()).unwrap();
    let system = SystemMemory::open_under(machine.root()).unwrap();
    let sources: [&dyn PressureSource; 3] = [&v2, &v1, &system];
    for source in sources {
        let (reading, allocations) = allocations_of(|| source.read());
        assert!(reading.is_ok());
        assert_eq!(allocations, 0, "{}", source.name());
    }
}

#[test]
fn a_check_without_an_event_allocates_nothing() {
    let machine = Machine::new();
    machine.process("0::/a\n", &[V2]).v2("/a", "10", "100").meminfo(10, 1000);
    let dial = Dial::at(100);
    let mut monitor = MemoryMonitor::builder(config())
        .system_root(machine.root())
        .source(dial.clone())
        .clock(Arc::new(ManualClock::new()))
        .build()
        .unwrap();
    for used in [100, 600] {
        dial.set(used);
        monitor.check().unwrap();
        for _ in 0..10 {
            let (event, allocations) = allocations_of(|| monitor.check().unwrap());
            assert_eq!((event, allocations), (None, 0));
        }
    }
}

#[test]
fn a_check_of_everything_allocates_nothing() {
    let machine = Machine::new();
    let vector: Vec<u8> = [6_usize, 4096].iter().flat_map(|word| word.to_ne_bytes()).collect();
    machine
        .process("0::/a\n4:memory:/a\n", &[V2, V1])
        .v2("/a", "900", "1000")
        .v1("/a", "900", "1000")
        .meminfo(10, 1000)
        .write("/sys/fs/cgroup/a/memory.high", "max\n")
        .write("/sys/fs/cgroup/a/memory.events", "high 1\nmax 2\n")
        .write("/sys/fs/cgroup/a/memory.stat", "inactive_file 100\n")
        .write("/sys/fs/cgroup/memory/a/memory.failcnt", "1\n")
        .write("/proc/pressure/memory", "some avg10=0.00 total=7\n")
        .write("/proc/self/auxv", vector)
        .write("/proc/self/statm", "500 100 7 1 0 50 0\n");
    let (suspect, clock) = (Dial::at(100), Arc::new(ManualClock::new()));
    let weak: Weak<dyn PressureSource> = Arc::downgrade(&suspect) as _;
    let mut monitor = MemoryMonitor::builder(config())
        .system_root(machine.root())
        .suspect(weak)
        .clock(clock.clone())
        .build()
        .unwrap();
    let in_force = monitor.sources().iter().filter(|source| source.in_force()).count();
    assert_eq!(in_force, 5);
    monitor.check().unwrap();
    // More often than there are points in a trend.
    for _ in 0..50 {
        clock.advance(config().interval);
        let (event, allocations) = allocations_of(|| monitor.check().unwrap());
        assert_eq!((event, allocations), (None, 0));
    }
    assert!(monitor.status().last_sample().unwrap().stall.is_some());
}

#[cfg(target_os = "linux")]
#[test]
fn a_check_of_this_machine_allocates_nothing() {
    let mut monitor = MemoryMonitor::new(config()).unwrap();
    monitor.check().unwrap();
    let mut fewest = u64::MAX;
    // The machine's own level may change meanwhile: then there is an event.
    for _ in 0..10 {
        fewest = fewest.min(allocations_of(|| monitor.check().is_ok()).1);
    }
    assert_eq!(fewest, 0);
}
