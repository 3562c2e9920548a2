//! Who is told: channels, streams, suspects; and what can be asked: history, reconciliation, tasks.

mod common;

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use common::{Dial, Machine, Show, Spare, V2, config, monitor_of};
use nebula_memory_core::{ManualClock, PressureSource, ReclaimRegistry};
use nebula_monitor::{
    ActionEffect, Blame, GroupEvents, MemoryMonitor, MonitoringConfig, PressureAction,
    PressureLevel::*, Suspects,
};

static_assertions::assert_impl_all!(nebula_monitor::PressureEvents: Send, Sync);
static_assertions::assert_impl_all!(nebula_monitor::Suspects: Send, Sync, Clone);
static_assertions::assert_impl_all!(nebula_monitor::Recording: Send, Sync, Clone);

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new())
}

#[test]
fn a_channel_hears_of_every_edge_and_never_blocks() {
    let (dial, clock) = (Dial::at(0), clock());
    let (action, receiver) = PressureAction::channel(2);
    let mut monitor = monitor_of(&dial, &clock).on(Elevated, action).build().unwrap();
    let mut effect_at = |used| {
        dial.set(used);
        monitor.check().unwrap().map(|event| event.actions[0].effect)
    };
    assert_eq!(effect_at(600), Some(ActionEffect::Notified));
    assert_eq!(effect_at(600), None);
    assert_eq!(effect_at(0), Some(ActionEffect::Notified));
    assert_eq!(effect_at(600), Some(ActionEffect::Unheard), "no room");
    let heard: Vec<_> = receiver.try_iter().map(|event| (event.from, event.to)).collect();
    assert_eq!(heard, [(Normal, Elevated), (Elevated, Normal)]);
    drop(receiver);
    assert_eq!(effect_at(0), Some(ActionEffect::Unheard), "nobody there");
}

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_stream_wakes_its_reader_and_ends_with_the_monitor() {
    let (dial, clock) = (Dial::at(0), clock());
    let (action, mut events) = PressureAction::stream(2);
    let mut monitor = monitor_of(&dial, &clock).on(Elevated, action).build().unwrap();
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut context = Context::from_waker(&waker);
    assert!(pin!(events.next()).poll(&mut context).is_pending());
    dial.set(600);
    monitor.check().unwrap();
    assert_eq!(bell.0.load(Ordering::Relaxed), 1);
    let Poll::Ready(Some(event)) = pin!(events.next()).poll(&mut context) else { panic!() };
    assert_eq!(event.to, Elevated);
    assert!(pin!(events.next()).poll(&mut context).is_pending());
    drop(monitor);
    assert_eq!(bell.0.load(Ordering::Relaxed), 2);
    assert_eq!(pin!(events.next()).poll(&mut context), Poll::Ready(None));
}

#[test]
fn a_stream_that_is_not_read_loses_the_oldest() {
    let (dial, clock) = (Dial::at(0), clock());
    let (action, mut events) = PressureAction::stream(2);
    let mut monitor = monitor_of(&dial, &clock).on(Elevated, action).build().unwrap();
    let mut effect_at = |used| {
        dial.set(used);
        monitor.check().unwrap().unwrap().actions[0].effect
    };
    let effects = [600, 0, 600].map(&mut effect_at);
    assert_eq!(effects[2], ActionEffect::Unheard);
    assert_eq!(events.missed(), 1);
    let heard = [(); 3].map(|()| events.try_next().map(|event| event.to));
    assert_eq!(heard, [Some(Normal), Some(Elevated), None]);
    drop(events);
    assert_eq!(effect_at(0), ActionEffect::Unheard, "nobody there");
}

#[test]
fn the_suspect_that_has_grown_most_is_named() {
    let (dial, clock) = (Dial::at(0), clock());
    let big = Dial::new("big", Show::Reading(400, None));
    let fast = Dial::new("fast", Show::Reading(10, None));
    let gone = Dial::new("gone", Show::Reading(0, None));
    let bad = Dial::new("bad", Show::Panic);
    let weak = |dial: &Arc<Dial>| Arc::downgrade(dial) as Weak<dyn PressureSource>;
    let blamed: Arc<Mutex<Vec<Blame>>> = Arc::default();
    let note = Arc::clone(&blamed);
    let mut monitor = monitor_of(&dial, &clock)
        .suspect(weak(&big))
        .suspect(weak(&gone))
        .on(High, PressureAction::blame(move |blame| note.lock().unwrap().push(blame.clone())))
        .build()
        .unwrap();
    monitor.suspects().clone().watch(weak(&fast));
    monitor.suspects().watch(weak(&bad));
    monitor.check().unwrap();
    clock.advance(Duration::from_millis(300));
    big.show(Show::Reading(450, None));
    fast.show(Show::Reading(300, None));
    drop(gone);
    dial.set(800);
    let event = monitor.check().unwrap().unwrap();
    let blame = event.blame.clone().unwrap();
    assert_eq!((&*blame.name, blame.used, blame.growth), ("fast", 300, 290));
    assert_eq!(blame.over, Duration::from_millis(300));
    assert_eq!(blamed.lock().unwrap()[..], [blame]);
    assert_eq!(event.actions[0].effect, ActionEffect::Blamed);
    assert!(event.to_string().contains("fast has grown by 290 B in 300ms, to 300 B"), "{event}");
    dial.set(0);
    assert_eq!(monitor.check().unwrap().unwrap().blame, None, "nobody is blamed on the way down");
}

#[test]
fn a_list_of_suspects_may_be_shared_and_forgets_who_is_gone() {
    let (dial, clock) = (Dial::at(0), clock());
    let list = Suspects::new();
    let kept: Vec<_> = (0..200)
        .filter_map(|i| {
            let suspect = Dial::new("passing", Show::Reading(i, None));
            list.watch(Arc::downgrade(&suspect) as Weak<dyn PressureSource>);
            // Most are gone at once.
            (i % 50 == 0).then_some(suspect)
        })
        .collect();
    let monitors = [(); 2].map(|()| monitor_of(&dial, &clock).suspects(&list).build().unwrap());
    let late = Dial::new("late", Show::Reading(0, None));
    list.watch(Arc::downgrade(&late) as Weak<dyn PressureSource>);
    assert!(format!("{list:?}").contains("Suspects"));
    for mut monitor in monitors {
        dial.set(0);
        late.show(Show::Reading(0, None));
        for suspect in &kept {
            suspect.show(Show::Reading(0, None));
        }
        clock.advance(Duration::from_secs(1));
        monitor.check().unwrap();
        kept[3].show(Show::Reading(30, None));
        late.show(Show::Reading(20, None));
        clock.advance(Duration::from_millis(100));
        dial.set(800);
        let blame = monitor.check().unwrap().unwrap().blame.unwrap();
        assert_eq!((&*blame.name, blame.growth), ("passing", 30));
    }
}

#[test]
fn nobody_is_blamed_if_nobody_has_grown() {
    let (dial, clock) = (Dial::at(800), clock());
    let still = Dial::new("still", Show::Reading(400, None));
    let weak = Arc::downgrade(&still) as Weak<dyn PressureSource>;
    let called = |_: &Blame| panic!("nobody has grown");
    let mut monitor = monitor_of(&dial, &clock)
        .suspect(weak)
        .on(High, PressureAction::blame(called))
        .build()
        .unwrap();
    let event = monitor.check().unwrap().unwrap();
    assert_eq!((event.blame, event.actions), (None, vec![]));
}

#[test]
fn whoever_has_grown_is_named_however_seldom_anybody_looks() {
    let (dial, clock) = (Dial::at(0), clock());
    assert!(config().interval > config().window);
    let [grown, old] = ["grown", "old"].map(|name| Dial::new(name, Show::Reading(10, None)));
    let weak = |dial: &Arc<Dial>| Arc::downgrade(dial) as Weak<dyn PressureSource>;
    let mut monitor =
        monitor_of(&dial, &clock).suspect(weak(&grown)).suspect(weak(&old)).build().unwrap();
    monitor.check().unwrap();
    clock.advance(config().interval);
    // What one has grown by before it could not be read any more is past.
    old.show(Show::Reading(900, None));
    monitor.check().unwrap();
    clock.advance(config().interval);
    old.show(Show::Failure);
    grown.show(Show::Reading(300, None));
    dial.set(800);
    let blame = monitor.check().unwrap().unwrap().blame.unwrap();
    assert_eq!((&*blame.name, blame.growth, blame.over), ("grown", 290, config().interval));
}

#[test]
fn several_registries_give_idle_first_and_in_proportion() {
    let (dial, clock) = (Dial::at(800), clock());
    let registries = [ReclaimRegistry::new(), ReclaimRegistry::new()];
    let idle = [Spare::new(0), Spare::new(40)];
    let hot = [Spare::new(300), Spare::new(100)];
    for (registry, (idle, hot)) in registries.iter().zip(idle.iter().zip(&hot)) {
        registry.register("hot", 9, hot.weak()).detach();
        registry.register("idle", 1, idle.weak()).detach();
    }
    let mut monitor = monitor_of(&dial, &clock)
        .on(High, PressureAction::reclaim_spread(registries))
        .build()
        .unwrap();
    let event = monitor.check().unwrap().unwrap();
    assert_eq!(event.given(), 201);
    assert_eq!(idle[1].asked(), [(201, High)], "it alone has idle bytes");
    // 161 are missing then: three quarters from the first, and the rest.
    assert_eq!(hot[0].asked(), [(121, High)]);
    assert_eq!(hot[1].asked(), [(40, High)]);
}

#[test]
#[cfg(target_pointer_width = "64")]
fn the_default_history_takes_what_the_configuration_says() {
    let samples = MonitoringConfig::default().history;
    assert_eq!(samples * size_of::<nebula_monitor::Sample>(), 48 << 10);
}

#[test]
fn history_holds_the_latest_samples_and_is_written_as_a_table() {
    let (dial, clock) = (Dial::at(0), clock());
    let config = MonitoringConfig { history: 3, ..config() };
    let mut monitor = MemoryMonitor::builder(config)
        .without_system()
        .source(dial.clone())
        .clock(clock.clone())
        .build()
        .unwrap();
    for used in [100, 200, 600, 950] {
        dial.set(used);
        monitor.check().unwrap();
        clock.advance(Duration::from_millis(500));
    }
    let history = monitor.status().history();
    let seen: Vec<_> = history.as_slice().iter().map(|s| (s.reading.used, s.level)).collect();
    assert_eq!(seen, [(200, Normal), (600, Elevated), (950, Critical)]);
    assert_eq!(monitor.status().last_sample().as_ref(), history.as_slice().last());
    let table = history.to_csv();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[1], "0.500000,0,200,1000,,,");
    assert!(lines[3].starts_with("1.500000,3,950,1000,"), "{table}");

    let none = MonitoringConfig { history: 0, ..config };
    let mut monitor = MemoryMonitor::builder(none).without_system().source(dial).build().unwrap();
    monitor.check().unwrap();
    assert_eq!(monitor.status().history().as_slice(), []);
}

#[test]
fn books_are_compared_with_what_the_process_holds() {
    let machine = Machine::new();
    let vector: Vec<u8> = [6_usize, 4096].iter().flat_map(|word| word.to_ne_bytes()).collect();
    machine.meminfo(10, 1000).write("/proc/self/auxv", vector);
    machine.write("/proc/self/statm", "500 100 7 1 0 50 0\n");
    let (books, more) = (Dial::at(300_000), Dial::new("more", Show::Reading(9600, None)));
    let mut monitor = MemoryMonitor::builder(config())
        .system_root(machine.root())
        .book(books.clone())
        .book(more.clone())
        .allocated(|| 350_000)
        .build()
        .unwrap();
    let found = monitor.reconcile().unwrap();
    assert_eq!((found.resident, found.booked()), (409_600, 309_600));
    assert_eq!((found.unexplained(), found.untouched()), (100_000, 0));
    assert_eq!(found.unbooked(), Some(40_400));
    let text = found.to_string();
    assert!(text.starts_with("400.0 KiB resident") && text.contains("more"), "{text}");
    books.set(500_000);
    assert_eq!(monitor.reconcile().unwrap().untouched(), 100_000);
    more.show(Show::Panic);
    assert!(monitor.reconcile().is_err());

    more.show(Show::Reading(0, None));
    monitor.check().unwrap();
    assert_eq!(monitor.status().last_sample().unwrap().resident, Some(409_600));
    machine.write("/proc/self/statm", "garbage\n");
    assert!(monitor.reconcile().unwrap_err().to_string().contains("no number of pages"));
}

#[cfg(target_os = "linux")]
#[test]
fn this_process_holds_what_it_touches() {
    let resident = nebula_monitor::ResidentMemory::open().unwrap();
    let before = resident.bytes().unwrap();
    let block = std::hint::black_box(vec![1_u8; 64 << 20]);
    let after = resident.bytes().unwrap();
    assert!(after >= before + (48 << 20), "{before} {after}");
    drop(block);
}

#[test]
fn what_the_kernel_counts_for_the_group_is_in_the_statistics() {
    let (machine, clock) = (Machine::new(), clock());
    machine.process("0::/a\n", &[V2]).v2("/a", "10", "100").meminfo(10, 1000);
    let events = "/sys/fs/cgroup/a/memory.events";
    machine.write(events, "low 0\nhigh 3\nmax 5\noom 0\noom_kill 0\n");
    let mut monitor = MemoryMonitor::builder(config())
        .system_root(machine.root())
        .clock(clock.clone())
        .build()
        .unwrap();
    monitor.check().unwrap();
    assert_eq!(monitor.status().stats().group, GroupEvents::default());
    machine.write(events, "low 0\nhigh 4\nmax 9\noom 1\noom_kill 0\n");
    // In turn with what else changes seldom.
    for _ in 0..4 {
        clock.advance(config().interval);
        monitor.check().unwrap();
    }
    let expected = GroupEvents { high: 1, max: 4, oom: 1, oom_kill: 0 };
    assert_eq!(monitor.status().stats().group, expected);
}

#[test]
fn the_lower_one_of_high_and_max_is_the_limit() {
    let (machine, clock) = (Machine::new(), clock());
    machine.process("0::/a\n", &[V2]).v2("/a", "60", "100").meminfo(10, 1000);
    let high = "/sys/fs/cgroup/a/memory.high";
    machine.write(high, "max\n");
    let mut monitor = MemoryMonitor::builder(config())
        .system_root(machine.root())
        .clock(clock.clone())
        .build()
        .unwrap();
    monitor.check().unwrap();
    assert_eq!((monitor.level(), monitor.limits().cap()), (Elevated, Some(100)));
    machine.write(high, "64\n");
    monitor.check().unwrap();
    assert_eq!(monitor.level(), Elevated, "limits are read once an interval");
    clock.advance(config().interval);
    monitor.check().unwrap();
    assert_eq!((monitor.level(), monitor.limits().cap()), (Critical, Some(64)));
}

#[test]
fn between_full_readings_a_distant_system_is_left_alone() {
    let (machine, clock) = (Machine::new(), clock());
    machine.process("0::/a\n", &[V2]).v2("/a", "10", "1000").meminfo(10, 1000);
    let mut monitor = MemoryMonitor::builder(config())
        .system_root(machine.root())
        .clock(clock.clone())
        .build()
        .unwrap();
    monitor.check().unwrap();
    machine.meminfo(800, 1000);
    monitor.check().unwrap();
    assert_eq!(monitor.level(), Normal);
    clock.advance(config().interval);
    monitor.check().unwrap();
    assert_eq!(monitor.level(), High);
    machine.meminfo(950, 1000);
    monitor.check().unwrap();
    assert_eq!(monitor.level(), Critical, "near its limit it is read at every check");
}

fn is_send<T: Send>(_: &T) {}

#[test]
fn a_task_checks_after_each_sleep_and_stops_when_dropped() {
    let (dial, clock) = (Dial::at(600), clock());
    let mut monitor = monitor_of(&dial, &clock).build().unwrap();
    let status = monitor.status();
    let asked: Mutex<Vec<Duration>> = Mutex::default();
    let ready = AtomicUsize::new(1);
    {
        let sleep = |how_long| {
            asked.lock().unwrap().push(how_long);
            std::future::poll_fn(|_| match ready.load(Ordering::Relaxed) {
                0 => Poll::Pending,
                left => {
                    ready.store(left - 1, Ordering::Relaxed);
                    Poll::Ready(())
                }
            })
        };
        let mut task = pin!(monitor.run(sleep));
        is_send(&task);
        let mut context = Context::from_waker(Waker::noop());
        assert!(task.as_mut().poll(&mut context).is_pending());
        assert_eq!(status.stats().checks, 2);
        dial.show(Show::Failure);
        ready.store(1, Ordering::Relaxed);
        assert!(task.poll(&mut context).is_pending());
    }
    let stats = status.stats();
    assert_eq!((stats.checks, stats.blind_checks), (3, 1));
    let config = config();
    let expected = [config.fast_interval, config.fast_interval, config.interval];
    assert_eq!(asked.lock().unwrap()[..], expected);
    dial.set(0);
    assert_eq!(monitor.check().unwrap().unwrap().to, Normal, "it is ours again");
}
