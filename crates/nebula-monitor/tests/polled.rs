//! A monitor that is polled: actions, their order and effect, and sources that fail.

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Dial, Machine, Show, Spare, Told, V2, config, monitor_of};
use nebula_memory_core::{Clock, ManualClock, ReclaimRegistry, Throttle};
use nebula_monitor::{
    ActionEffect, MemoryMonitor, MonitorState, PressureAction, PressureEvent, PressureLevel::*,
    SourceStatus,
};

const SECOND: Duration = Duration::from_secs(1);

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new())
}

/// A registry with one reclaimer.
fn registry_of(spare: &Arc<Spare>) -> ReclaimRegistry {
    let registry = ReclaimRegistry::new();
    registry.register("spare", 0, spare.weak()).detach();
    registry
}

#[test]
fn one_event_for_each_edge_and_none_between() {
    let (dial, clock) = (Dial::at(100), clock());
    let mut monitor = monitor_of(&dial, &clock).build().unwrap();
    let mut edges = Vec::new();
    for used in [100, 550, 490, 450, 550, 950, 950, 350, 350] {
        dial.set(used);
        clock.advance(SECOND);
        if let Some(event) = monitor.check().unwrap() {
            assert_eq!((event.at, event.reading.used), (clock.now(), used));
            assert_eq!(event.source, "dial");
            edges.push((event.from, event.to));
        }
    }
    assert_eq!(edges, [(Normal, Elevated), (Elevated, Critical), (Critical, Normal)]);
    let stats = monitor.status().stats();
    assert_eq!((stats.checks, stats.entered), (9, [1, 1, 0, 1]));
    assert_eq!(stats.entered(Critical), 1);
}

#[test]
fn callbacks_hear_of_every_crossing_of_their_level() {
    let (dial, clock) = (Dial::at(0), clock());
    let heard: Arc<Mutex<Vec<_>>> = Arc::default();
    let listen = |level| {
        let heard = Arc::clone(&heard);
        PressureAction::notify(move |event: &PressureEvent| {
            heard.lock().unwrap().push((level, event.from, event.to));
        })
    };
    let mut monitor = monitor_of(&dial, &clock)
        .on(Elevated, listen(Elevated))
        .on(Critical, listen(Critical))
        .on(High, listen(High))
        .build()
        .unwrap();
    let mut heard_at = |used| {
        dial.set(used);
        monitor.check().unwrap();
        std::mem::take(&mut *heard.lock().unwrap())
    };
    assert_eq!(heard_at(550), [(Elevated, Normal, Elevated)]);
    assert_eq!(heard_at(950), [(Critical, Elevated, Critical), (High, Elevated, Critical)]);
    assert_eq!(heard_at(950), []);
    assert_eq!(heard_at(650), [(Critical, Critical, High)]);
    assert_eq!(heard_at(0), [(High, High, Normal), (Elevated, High, Normal)]);
}

#[test]
fn a_reclaim_asks_for_the_distance_and_reports_what_came() {
    let (dial, clock) = (Dial::at(800), clock());
    let spare = Arc::new(Spare {
        clock: Some(Arc::clone(&clock)),
        ..Arc::into_inner(Spare::new(150)).unwrap()
    });
    let registry = registry_of(&spare);
    let mut monitor =
        monitor_of(&dial, &clock).on(High, PressureAction::reclaim(&registry)).build().unwrap();
    let event = monitor.check().unwrap().unwrap();
    // From 800 down to below 700 less 100.
    assert_eq!(spare.asked(), [(201, High)]);
    let [action] = &event.actions[..] else { panic!("{event}") };
    let ActionEffect::Reclaimed { wanted, report } = action.effect else { panic!("{event}") };
    assert_eq!((wanted, report.given, report.asked), (201, 150, 1));
    assert_eq!((action.level, action.took), (High, Duration::from_millis(7)));
    assert_eq!(event.given(), 150);
    let stats = monitor.status().stats();
    assert_eq!((stats.bytes_asked, stats.bytes_given, stats.actions), (201, 150, 1));
    let text = event.to_string();
    assert!(text.contains("normal -> high") && text.contains("80.0 %"), "{text}");
    assert!(text.contains("reclaimed 150 B of 201 B from 1"), "{text}");
}

#[test]
fn reclaims_of_several_levels_share_one_distance_most_urgent_first() {
    let (dial, clock) = (Dial::at(950), clock());
    let spare = Spare::new(10_000);
    let registry = registry_of(&spare);
    let mut builder = monitor_of(&dial, &clock);
    for level in [Elevated, High, Critical] {
        builder = builder.on(level, PressureAction::reclaim(&registry));
    }
    let mut monitor = builder.build().unwrap();
    let event = monitor.check().unwrap().unwrap();
    // 950 -> 799 -> 599 -> 399.
    assert_eq!(spare.asked(), [(151, Critical), (200, High), (200, Elevated)]);
    assert_eq!(event.given(), 551);
}

#[test]
fn urgency_is_that_of_the_usage_even_where_only_a_low_level_reclaims() {
    let (dial, clock) = (Dial::at(950), clock());
    let (first, second) = (Spare::new(10), Spare::new(10_000));
    let (a, b) = (registry_of(&first), registry_of(&second));
    let mut monitor = monitor_of(&dial, &clock)
        .on(Elevated, PressureAction::reclaim(&a))
        .on(Elevated, PressureAction::reclaim(&b))
        .build()
        .unwrap();
    monitor.check().unwrap();
    assert_eq!(first.asked(), [(551, Critical)]);
    assert_eq!(second.asked(), [(541, Critical)], "less what the first gave");
    let stats = monitor.status().stats();
    assert_eq!((stats.bytes_asked, stats.bytes_given), (551 + 541, 551));
}

#[test]
fn reclaims_cool_down_and_go_on_while_pressure_lasts() {
    let (dial, clock) = (Dial::at(800), clock());
    let spare = Spare::new(0);
    let registry = registry_of(&spare);
    let told = Arc::new(AtomicUsize::new(0));
    let heard = Arc::clone(&told);
    let mut monitor = monitor_of(&dial, &clock)
        .on(High, PressureAction::reclaim(&registry))
        .on(
            High,
            PressureAction::notify(move |_| {
                heard.fetch_add(1, Ordering::Relaxed);
            }),
        )
        .build()
        .unwrap();
    let mut events = Vec::new();
    for second in 0..25 {
        if let Some(event) = monitor.check().unwrap() {
            events.push((second, event.is_edge()));
        } else {
            assert_eq!(monitor.state(), MonitorState::PressureDetected);
        }
        clock.advance(SECOND);
    }
    assert_eq!(events, [(0, true), (10, false), (20, false)], "every 10 s");
    assert_eq!(spare.asked().len(), 3);
    assert_eq!(told.load(Ordering::Relaxed), 1, "callbacks hear of edges alone");

    // Leaving and coming back within the cool-down is an edge, but not another reclaim.
    for used in [100, 800] {
        dial.set(used);
        assert!(monitor.check().unwrap().unwrap().is_edge());
    }
    assert_eq!(spare.asked().len(), 0);
    assert_eq!(told.load(Ordering::Relaxed), 3);

    // A higher level has a cool-down of its own; here nothing is attached to it.
    dial.set(950);
    assert!(monitor.check().unwrap().unwrap().actions.is_empty());
}

/// A clock that somebody turns back.
struct Turned(Mutex<Duration>);

impl Clock for Turned {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

#[test]
fn a_clock_that_goes_back_stops_neither_reclaims_nor_readings() {
    let (machine, spare) = (Machine::new(), Spare::new(0));
    machine.process("0::/a\n", &[V2]).v2("/a", "80", "100").meminfo(1, 1000);
    machine.write("/proc/pressure/memory", "some avg10=0.00 total=7\n");
    let clock = Arc::new(Turned(Mutex::new(1000 * SECOND)));
    let mut monitor = MemoryMonitor::builder(config())
        .system_root(machine.root())
        .clock(clock.clone())
        .on(High, PressureAction::reclaim(&registry_of(&spare)))
        .build()
        .unwrap();
    assert_eq!(monitor.check().unwrap().unwrap().to, High);
    assert_eq!(spare.asked().len(), 1);
    *clock.0.lock().unwrap() = SECOND;
    machine.v2("/a", "80", "85");
    let event = monitor.check().unwrap().expect("the new limit is seen");
    assert_eq!((event.to, spare.asked().len()), (Critical, 1));
    assert_eq!(monitor.check().unwrap(), None, "and it cools down by the new time");
    // Forwards by as much as there is.
    *clock.0.lock().unwrap() = Duration::MAX;
    assert!(monitor.check().unwrap().is_some());
    machine.v2("/a", "1", "100");
    *clock.0.lock().unwrap() = Duration::ZERO;
    assert_eq!(monitor.check().unwrap().unwrap().to, Normal);
}

#[test]
fn limits_and_stalls_are_not_left_alone_for_a_long_interval_under_pressure() {
    let (machine, clock) = (Machine::new(), clock());
    machine.process("0::/a\n", &[V2]).v2("/a", "80", "100").meminfo(1, 1000);
    let mut long = config();
    (long.interval, long.window) = (3600 * SECOND, SECOND);
    let mut monitor = MemoryMonitor::builder(long)
        .system_root(machine.root())
        .clock(clock.clone())
        .build()
        .unwrap();
    assert_eq!(monitor.check().unwrap().unwrap().to, High);
    machine.v2("/a", "80", "1000");
    clock.advance(SECOND);
    assert_eq!(monitor.check().unwrap().unwrap().to, Normal, "after a window");
    machine.v2("/a", "80", "100");
    clock.advance(SECOND);
    assert_eq!(monitor.check().unwrap(), None, "in calm the interval is what was asked for");
    clock.advance(3600 * SECOND);
    assert_eq!(monitor.check().unwrap().unwrap().to, High);
}

#[test]
fn a_cool_down_of_zero_reclaims_at_every_check() {
    let (dial, clock) = (Dial::at(800), clock());
    let spare = Spare::new(0);
    let mut config = config();
    config.cool_down = Duration::ZERO;
    let mut monitor = MemoryMonitor::builder(config)
        .without_system()
        .source(dial)
        .clock(clock)
        .on(High, PressureAction::reclaim(&registry_of(&spare)))
        .build()
        .unwrap();
    for _ in 0..5 {
        assert!(monitor.check().unwrap().is_some());
    }
    assert_eq!(spare.asked().len(), 5);
}

#[test]
fn throttles_hold_while_their_level_holds_and_the_tightest_counts() {
    let (dial, clock) = (Dial::at(0), clock());
    let (told, other) = (Arc::new(Told::default()), Arc::new(Told::default()));
    let dynamic = |told: &Arc<Told>| Arc::clone(told) as Arc<dyn Throttle>;
    let mut monitor = monitor_of(&dial, &clock)
        .on(High, PressureAction::throttle(dynamic(&told), 4096))
        .on(Critical, PressureAction::throttle(dynamic(&told), 64))
        .on(Critical, PressureAction::throttle(dynamic(&other), 32))
        .build()
        .unwrap();
    let mut at = |used| {
        dial.set(used);
        let event = monitor.check().unwrap();
        (event.map(|event| event.actions.len()), told.take(), other.take())
    };
    assert_eq!(at(550), (Some(0), vec![], vec![]));
    assert_eq!(at(750), (Some(1), vec![Some(4096)], vec![]));
    assert_eq!(at(950), (Some(2), vec![Some(64)], vec![Some(32)]));
    assert_eq!(at(950), (None, vec![], vec![]));
    assert_eq!(at(750), (Some(2), vec![Some(4096)], vec![None]), "back to that of `High`");
    assert_eq!(at(300), (Some(1), vec![None], vec![]));
    // Both levels at once: whoever is told last is told the tightest.
    let (_, up, _) = at(1000);
    assert_eq!(up.last(), Some(&Some(64)));
    let (_, down, _) = at(0);
    assert_eq!(down.last(), Some(&None));
}

#[test]
fn low_priorities_are_refused_while_the_level_holds_and_the_highest_counts() {
    let (dial, clock) = (Dial::at(0), clock());
    let told = Arc::new(Told::default());
    let mut monitor = monitor_of(&dial, &clock)
        .on(High, PressureAction::throttle_priority(told.clone(), 10))
        .on(Critical, PressureAction::throttle_priority(told.clone(), 200))
        .on(Critical, PressureAction::throttle(told.clone(), 64))
        .build()
        .unwrap();
    let mut at = |used| {
        dial.set(used);
        let event = monitor.check().unwrap();
        (event.map_or(0, |event| event.actions.len()), told.priorities(), told.take())
    };
    assert_eq!(at(550), (0, vec![], vec![]));
    assert_eq!(at(750), (1, vec![Some(10)], vec![]));
    assert_eq!(at(950), (2, vec![Some(200)], vec![Some(64)]), "side by side");
    assert_eq!(at(750), (2, vec![Some(10)], vec![None]), "back to that of `High`");
    assert_eq!(at(300), (1, vec![None], vec![]));
    dial.set(750);
    let event = monitor.check().unwrap().unwrap();
    assert_eq!(event.actions[0].effect, ActionEffect::PriorityLimited { least: Some(10) });
    assert!(event.to_string().contains("priorities below 10 refused"), "{event}");
    assert_eq!(told.priorities(), [Some(10)]);
    drop(monitor);
    assert_eq!(told.priorities(), [None], "a dropped monitor lifts it");
}

#[test]
fn a_dropped_monitor_lifts_what_it_has_tightened() {
    let (dial, clock) = (Dial::at(750), clock());
    let (high, critical) = (Arc::new(Told::default()), Arc::new(Told::default()));
    let mut monitor = monitor_of(&dial, &clock)
        .on(High, PressureAction::throttle(high.clone(), 1))
        .on(Critical, PressureAction::throttle(critical.clone(), 1))
        .build()
        .unwrap();
    monitor.check().unwrap();
    drop(monitor);
    assert_eq!(high.take(), [Some(1), None]);
    assert_eq!(critical.take(), [], "it was never told anything");
}

#[test]
fn states_are_seen_from_within_and_without() {
    let (dial, clock) = (Dial::at(100), clock());
    let seen: Arc<Mutex<Vec<_>>> = Arc::default();
    let status: Arc<Mutex<Option<nebula_monitor::MonitorStatus>>> = Arc::default();
    let (watch, write) = (Arc::clone(&status), Arc::clone(&seen));
    let mut monitor = monitor_of(&dial, &clock)
        .on(
            High,
            PressureAction::notify(move |_| {
                let status = watch.lock().unwrap().clone().unwrap();
                write.lock().unwrap().push((status.state(), status.level()));
            }),
        )
        .build()
        .unwrap();
    let view = monitor.status();
    *status.lock().unwrap() = Some(view.clone());
    assert_eq!(
        (view.state(), view.level(), view.last_reading()),
        (MonitorState::Idle, Normal, None)
    );
    monitor.check().unwrap();
    assert_eq!(
        (view.state(), monitor.state()),
        (MonitorState::Monitoring, MonitorState::Monitoring)
    );
    dial.set(800);
    clock.advance(SECOND);
    monitor.check().unwrap();
    assert_eq!(*seen.lock().unwrap(), [(MonitorState::ActionTriggered, High)]);
    assert_eq!((view.state(), view.level()), (MonitorState::Idle, High));
    let (at, reading) = view.last_reading().unwrap();
    assert_eq!((at, reading.used), (SECOND, 800));
    monitor.check().unwrap();
    assert_eq!(view.state(), MonitorState::PressureDetected);
}

#[test]
fn panics_of_others_are_counted_and_the_rest_runs() {
    struct Bomb;
    impl Throttle for Bomb {
        fn limit_single_charges(&self, _largest: Option<usize>) {
            panic!("a throttle that panics");
        }
        fn limit_priority(&self, _least: Option<u8>) {
            panic!("a throttle that panics");
        }
    }
    /// Panics once more when it is dropped. (What the second panic carries is leaked, so that it
    /// carries nothing here.)
    struct Spiteful;
    impl Drop for Spiteful {
        fn drop(&mut self) {
            std::panic::panic_any(());
        }
    }
    let (dial, clock) = (Dial::at(950), clock());
    let spare = Spare::new(1000);
    let called = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&called);
    let mut monitor = monitor_of(&dial, &clock)
        .on(High, PressureAction::notify(|_| panic!("a callback that panics")))
        .on(High, PressureAction::notify(|_| std::panic::panic_any(Spiteful)))
        .on(High, PressureAction::throttle(Arc::new(Bomb), 1))
        .on(High, PressureAction::throttle_priority(Arc::new(Bomb), 1))
        .on(High, PressureAction::reclaim(&registry_of(&spare)))
        .on(
            High,
            PressureAction::notify(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
            }),
        )
        .build()
        .unwrap();
    let event = monitor.check().unwrap().unwrap();
    let panicked = |effect: &ActionEffect| *effect == ActionEffect::Panicked;
    let effects: Vec<_> = event.actions.iter().map(|action| panicked(&action.effect)).collect();
    assert_eq!(effects, [true, true, true, true, false, false]);
    assert_eq!(called.load(Ordering::Relaxed), 1);
    assert_eq!(spare.asked().len(), 1);
    let stats = monitor.status().stats();
    assert_eq!((stats.panics, stats.actions), (4, 2));
    assert_eq!(monitor.state(), MonitorState::Idle);
    dial.set(0);
    assert_eq!(monitor.check().unwrap().unwrap().to, Normal);
}

#[test]
fn the_fullest_source_decides_and_is_named() {
    let (a, clock) = (Dial::new("a", Show::Reading(90, Some(1000))), clock());
    let b = Dial::new("b", Show::Reading(80, Some(100)));
    let c = Dial::new("c", Show::Reading(usize::MAX / 2, None));
    let mut monitor = monitor_of(&a, &clock).source(b.clone()).source(c.clone()).build().unwrap();
    let event = monitor.check().unwrap().unwrap();
    assert_eq!((event.source.as_str(), event.to), ("b", High));
    a.set(950);
    assert_eq!(monitor.check().unwrap().unwrap().source, "a");
    let limits = monitor.limits();
    assert_eq!((limits.cap(), limits.left()), (Some(100), Some(20)));
    assert_eq!(monitor.sources()[2].status, SourceStatus::Unlimited);
}

#[test]
fn a_source_that_fails_is_reported_and_the_others_go_on() {
    let (a, clock) = (Dial::new("a", Show::Reading(950, Some(1000))), clock());
    let b = Dial::new("b", Show::Reading(10, Some(100)));
    let mut monitor = monitor_of(&a, &clock).source(b.clone()).build().unwrap();
    monitor.check().unwrap();
    assert_eq!(monitor.level(), Critical);

    for show in [Show::Failure, Show::Panic] {
        a.show(show);
        let event = monitor.check().unwrap();
        assert!(event.is_none_or(|event| event.source == "b" && event.to == Normal));
        let report = &monitor.sources()[0];
        assert!(matches!(report.status, SourceStatus::Failed { .. }), "{report}");
        assert_eq!(monitor.status().sources(), monitor.sources());
        assert_eq!(monitor.limits().cap(), Some(100));
    }
    assert_eq!(monitor.status().stats().failed_readings, 2);

    b.set(800);
    assert_eq!(monitor.check().unwrap().unwrap().to, High);
    b.show(Show::Failure);
    let error = monitor.check().unwrap_err();
    assert_eq!(error.code(), "source_unavailable");
    let text = error.to_string();
    assert!(text.contains("a: failed") && text.contains("b: failed, it is gone"), "{text}");
    assert_eq!(monitor.level(), High, "the level stays");
    assert_eq!(monitor.next_check(), config().interval);
    assert_eq!(monitor.status().stats().blind_checks, 1);

    a.set(800);
    assert_eq!(monitor.check().unwrap(), None, "it is back, at the same level");
    assert!(monitor.sources()[0].in_force());
}

#[test]
fn the_next_check_follows_the_pace() {
    let (dial, clock) = (Dial::at(100), clock());
    let mut monitor = monitor_of(&dial, &clock).build().unwrap();
    assert_eq!(monitor.next_check(), Duration::ZERO);
    monitor.check().unwrap();
    assert_eq!(monitor.next_check(), config().interval);
    dial.set(600);
    monitor.check().unwrap();
    assert_eq!(monitor.next_check(), config().fast_interval);
}

#[test]
fn what_makes_no_sense_is_not_built() {
    let (dial, clock) = (Dial::at(100), clock());
    let on_normal = monitor_of(&dial, &clock).on(Normal, PressureAction::notify(|_| {})).build();
    assert_eq!(on_normal.unwrap_err().code(), "invalid_config");
    let nothing = MemoryMonitor::builder(config()).without_system().build();
    assert_eq!(nothing.unwrap_err().code(), "invalid_config");
    let mut broken = config();
    broken.interval = Duration::ZERO;
    assert_eq!(MemoryMonitor::new(broken).unwrap_err().code(), "invalid_config");
}
