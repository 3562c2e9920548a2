//! Levels from growth and from stalls, and what is asked for then.

mod common;

use std::{sync::Arc, time::Duration};

use common::{Dial, Machine, Spare, V2, config};
use nebula_memory_core::{ManualClock, ReclaimRegistry};
use nebula_monitor::{
    ActionEffect, Cause, MemoryMonitor, MonitoringConfig, Observation, PressureAction,
    PressureLevel, PressureLevel::*, PressureMachine, PressureReading, Step,
};

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Thresholds out of the way, so that growth alone decides.
fn by_growth() -> MonitoringConfig {
    MonitoringConfig::builder()
        .thresholds(0.97, 0.98, 0.99)
        .hysteresis(0.01)
        .window(millis(1000))
        .exhaustion_within(millis(4000), millis(2000), millis(500))
        .without_stalls()
        .build()
        .unwrap()
}

/// Feeds a usage of 1,000,000 for every 100 ms.
fn steps(config: MonitoringConfig, usages: impl IntoIterator<Item = usize>) -> Vec<Step> {
    let mut machine = PressureMachine::new(config).unwrap();
    let step = |(i, used)| {
        let reading = PressureReading { used, limit: Some(1_000_000) };
        machine.observe(millis(100 * i as u64), reading)
    };
    usages.into_iter().enumerate().map(step).collect()
}

#[test]
fn growth_raises_the_level_before_usage_does() {
    // 200,000 a second.
    let steps = steps(by_growth(), (0..45).map(|i| 20_000 * i));
    let first = |level: PressureLevel| steps.iter().position(|step| step.to >= level).unwrap();
    // Half is reached after 2.5 s, when 2.5 s are left.
    assert_eq!(first(Elevated), 25);
    assert_eq!(first(High), 30, "2 s are left at 600,000");
    assert!(steps.iter().all(|step| step.to < Critical), "0.6 s are left in the end");
    let step = steps[30];
    assert_eq!(step.cause, Cause::Growth);
    assert!((step.rate.unwrap() - 200_000.0).abs() < 1.0);
    assert!(step.exhaustion.unwrap().abs_diff(millis(2000)) < millis(1));
}

#[test]
fn growth_does_not_count_when_it_is_switched_off() {
    let off = MonitoringConfig {
        elevated_within: Duration::ZERO,
        high_within: Duration::ZERO,
        critical_within: Duration::ZERO,
        ..by_growth()
    };
    assert!(steps(off, (0..45).map(|i| 20_000 * i)).iter().all(|step| step.to == Normal));
}

#[test]
fn each_time_to_exhaustion_has_its_level() {
    let to = |config| steps(config, (0..40).map(|i| 20_000 * i)).last().unwrap().to;
    let base = by_growth();
    assert_eq!(to(base), High, "1.1 s are left");
    assert_eq!(to(MonitoringConfig { critical_within: millis(1200), ..base }), Critical);
    let elevated = MonitoringConfig { high_within: millis(1000), ..base };
    assert_eq!(to(elevated), Elevated);
    let late =
        MonitoringConfig { elevated_within: millis(1000), high_within: millis(1000), ..base };
    assert_eq!(to(late), Normal);
}

#[test]
fn the_window_decides_what_growth_is() {
    // One jump, and then calm.
    let series = |i: usize| if i < 20 { 300_000 } else { 700_000 };
    let highest = |window| {
        let config = MonitoringConfig { window, ..by_growth() };
        steps(config, (0..40).map(series)).iter().map(|step| step.to).max().unwrap()
    };
    assert!(highest(millis(300)) > highest(millis(3000)), "a long window levels it out");
}

#[test]
fn a_level_of_growth_is_left_when_the_rest_lasts_twice_as_long() {
    let ramp = (0..30).map(|i| 20_000 * i);
    let calm = std::iter::repeat_n(580_000, 20);
    let steps = steps(by_growth(), ramp.chain(calm));
    assert_eq!(steps[29].to, Elevated);
    assert_eq!(steps[49].to, Normal);
    let edges = steps.iter().filter(|step| step.is_edge()).count();
    assert_eq!(edges, 2);
}

#[test]
fn a_gap_in_the_readings_starts_the_growth_anew() {
    let mut machine = PressureMachine::new(by_growth()).unwrap();
    let mut rate_at = |at: u64, used: Option<usize>| {
        let reading = |used| (millis(at), PressureReading { used, limit: Some(1_000_000) });
        let other = Some((millis(at), PressureReading { used: 1, limit: Some(100) }));
        let readings = [used.map(reading), other];
        let step =
            machine.observe_all(millis(at), Observation { readings: &readings, stall: None });
        (step.source, step.rate)
    };
    for i in 0..10 {
        rate_at(100 * i, Some(500_000));
    }
    assert_eq!(rate_at(1000, Some(500_000)), (0, Some(0.0)));
    assert_eq!(rate_at(1100, None), (1, Some(0.0)), "the other one decides");
    assert_eq!(rate_at(1200, Some(900_000)), (0, None), "what was before is not its past");
}

#[test]
fn the_source_with_the_highest_level_decides_before_the_fullest() {
    let mut machine = PressureMachine::new(by_growth()).unwrap();
    let mut last = None;
    for i in 0..32 {
        let grows = PressureReading { used: 20_000 * i, limit: Some(1_000_000) };
        let full = PressureReading { used: 90, limit: Some(100) };
        let at = millis(100 * i as u64);
        let readings = [Some((at, full)), Some((at, grows))];
        last = Some(machine.observe_all(at, Observation { readings: &readings, stall: None }));
    }
    let step = last.unwrap();
    assert_eq!((step.to, step.source, step.cause), (High, 1, Cause::Growth));
}

#[test]
fn a_reclaim_for_growth_makes_the_rest_last_for_twice_the_time() {
    let (dial, clock) = (Dial::at(0), Arc::new(ManualClock::new()));
    let spare = Spare::new(1000);
    let registry = ReclaimRegistry::new();
    registry.register("spare", 0, spare.weak()).detach();
    let mut monitor = MemoryMonitor::builder(by_growth())
        .without_system()
        .source(dial.clone())
        .clock(clock.clone())
        .on(High, PressureAction::reclaim(&registry))
        .build()
        .unwrap();
    let event = (0..50).find_map(|i| {
        dial.set(20 * i);
        let event = monitor.check().unwrap().filter(|event| event.to == High);
        clock.advance(millis(100));
        event
    });
    let event = event.unwrap();
    assert_eq!((event.cause, event.reading.used), (Cause::Growth, 600));
    // 200 a second for 4 s is 800; 400 are left.
    let ActionEffect::Reclaimed { wanted, report } = event.actions[0].effect else {
        panic!("{event}")
    };
    assert!(wanted.abs_diff(401) <= 1 && report.given == wanted, "{event}");
    assert_eq!(spare.asked(), [(wanted, High)]);
    assert!(event.to_string().contains("full within 2.0s"), "{event}");
    assert_eq!(event.after, Some(event.reading), "the dial does not know of the reclaim");
}

fn stalled(machine: &Machine, micros: u64) {
    let text = format!(
        "some avg10=0.00 avg60=0.00 avg300=0.00 total={micros}\n\
         full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    );
    machine.write("/proc/pressure/memory", text);
}

/// The level after a second in which tasks stalled for `share` of the time, and after another in
/// which they stalled for `then`.
fn levels_of_stalls(config: MonitoringConfig, share: f64, then: f64) -> [PressureLevel; 2] {
    let (machine, clock) = (Machine::new(), Arc::new(ManualClock::new()));
    machine.meminfo(100, 1000);
    stalled(&machine, 5);
    let mut monitor =
        MemoryMonitor::builder(config).system_root(machine.root()).clock(clock.clone());
    let spare = Spare::new(1 << 20);
    let registry = ReclaimRegistry::new();
    registry.register("spare", 0, spare.weak()).detach();
    monitor = monitor.on(Critical, PressureAction::reclaim(&registry));
    let mut monitor = monitor.build().unwrap();
    assert!(monitor.sources().iter().any(|s| s.name == "memory stalls" && s.in_force()));
    monitor.check().unwrap();
    let mut total = 5.0;
    [share, then].map(|share| {
        total += share * 1e6;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
        stalled(&machine, total as u64);
        clock.advance(Duration::from_secs(1));
        let event = monitor.check().unwrap();
        if let Some(event) = event.filter(|event| event.to == Critical) {
            assert_eq!(event.cause, Cause::Stalls);
            // A tenth of 1000 KiB, the hysteresis.
            assert_eq!(spare.asked(), [(102_400, Critical)]);
        }
        monitor.level()
    })
}

#[test]
fn stalls_raise_the_level_and_half_of_it_holds() {
    let config =
        MonitoringConfig { elevated_stall: 0.1, high_stall: 0.2, critical_stall: 0.4, ..config() };
    assert_eq!(levels_of_stalls(config, 0.05, 0.0), [Normal, Normal]);
    assert_eq!(levels_of_stalls(config, 0.11, 0.06), [Elevated, Elevated]);
    assert_eq!(levels_of_stalls(config, 0.21, 0.04), [High, Normal]);
    assert_eq!(levels_of_stalls(config, 0.5, 0.21), [Critical, Critical]);
    assert_eq!(levels_of_stalls(common::config(), 0.9, 0.9), [Normal, Normal], "switched off");
}

#[test]
fn a_group_has_stalls_of_its_own() {
    let machine = Machine::new();
    machine.process("0::/a\n", &[V2]).v2("/a", "10", "100").meminfo(10, 1000);
    stalled(&machine, 1);
    machine.write("/sys/fs/cgroup/a/memory.pressure", "some avg10=0.00 total=7\n");
    let monitor = MemoryMonitor::builder(config()).system_root(machine.root()).build().unwrap();
    let stalls = monitor.sources().iter().find(|source| source.name == "memory stalls").unwrap();
    let file = std::path::Path::new(&stalls.detail);
    assert!(file.ends_with("a/memory.pressure"), "{stalls}");
}

#[test]
fn stalls_that_cannot_be_read_say_why() {
    let machine = Machine::new();
    machine.meminfo(10, 1000).write("/proc/pressure/memory", "nothing of the kind\n");
    let monitor = MemoryMonitor::builder(config()).system_root(machine.root()).build().unwrap();
    let stalls = monitor.sources().iter().find(|source| source.name == "memory stalls").unwrap();
    assert!(!stalls.in_force() && stalls.to_string().contains("no total of `some`"), "{stalls}");
}
