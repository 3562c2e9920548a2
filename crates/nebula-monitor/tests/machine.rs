//! The state machine, fed with series.

mod common;

use std::time::Duration;

use common::config;
use nebula_monitor::{
    Cause, MonitorState, MonitoringConfig, Observation, PressureLevel, PressureLevel::*,
    PressureMachine, PressureReading, reclaim_target,
};
use proptest::prelude::*;

fn of_thousand(used: usize) -> PressureReading {
    PressureReading { used, limit: Some(1000) }
}

/// Replays usages of 1000, one a second, and returns every change of level.
fn edges(usages: impl IntoIterator<Item = usize>) -> Vec<(PressureLevel, PressureLevel)> {
    let mut machine = PressureMachine::new(config()).unwrap();
    let mut edges = Vec::new();
    for (second, used) in usages.into_iter().enumerate() {
        let step = machine.observe(Duration::from_secs(second as u64), of_thousand(used));
        assert_eq!(step.to, machine.level());
        if step.is_edge() {
            edges.push((step.from, step.to));
        }
    }
    edges
}

#[test]
fn a_ramp_enters_each_level_once_and_leaves_it_once() {
    let up_and_down = (0..=1000).chain((0..1000).rev());
    let expected = [
        (Normal, Elevated),
        (Elevated, High),
        (High, Critical),
        (Critical, High),
        (High, Elevated),
        (Elevated, Normal),
    ];
    assert_eq!(edges(up_and_down), expected);
}

#[test]
fn levels_change_exactly_at_their_bytes() {
    assert_eq!(edges([499]), []);
    assert_eq!(edges([500]), [(Normal, Elevated)]);
    assert_eq!(edges([500, 400]), [(Normal, Elevated)]);
    assert_eq!(edges([500, 399]), [(Normal, Elevated), (Elevated, Normal)]);
    assert_eq!(edges([899, 900, 800, 799]), [(Normal, High), (High, Critical), (Critical, High)]);
}

#[test]
fn a_spike_is_one_edge_up_and_one_down() {
    assert_eq!(edges([100, 950, 100]), [(Normal, Critical), (Critical, Normal)]);
    assert_eq!(edges([100, 950, 650]), [(Normal, Critical), (Critical, High)]);
}

#[test]
fn flapping_around_a_threshold_is_one_edge() {
    let flapping = (0..1000).map(|i| if i % 2 == 0 { 699 } else { 701 });
    assert_eq!(edges(flapping), [(Normal, Elevated), (Elevated, High)]);
}

#[test]
fn without_hysteresis_flapping_is_an_edge_each_time() {
    let config = MonitoringConfig { hysteresis: 0.0, ..config() };
    let mut machine = PressureMachine::new(config).unwrap();
    let mut edges = 0;
    for i in 0..10 {
        let step = machine.observe(Duration::ZERO, of_thousand(if i % 2 == 0 { 499 } else { 500 }));
        edges += usize::from(step.is_edge());
    }
    assert_eq!(edges, 9);
}

#[test]
fn a_source_that_was_never_at_a_level_does_not_keep_what_another_has_left() {
    let config =
        MonitoringConfig { elevated_stall: 0.1, high_stall: 0.4, critical_stall: 0.6, ..config() };
    let mut machine = PressureMachine::new(config).unwrap();
    let second = Duration::from_secs(1);
    // `High` is from 700 on, and left below 600.
    let mut step = |at: u32, first, second_one, stall| {
        let readings = [first, second_one].map(|used| Some((second * at, of_thousand(used))));
        let observation = Observation { readings: &readings, stall: Some(stall) };
        let step = machine.observe_all(second * at, observation);
        (step.to, step.source, step.cause)
    };
    assert_eq!(step(0, 750, 650, 0.0), (High, 0, Cause::Usage));
    assert_eq!(step(1, 100, 650, 0.0), (Elevated, 1, Cause::Usage));
    assert_eq!(step(2, 100, 750, 0.0), (High, 1, Cause::Usage));
    assert_eq!(step(3, 650, 650, 0.0), (High, 1, Cause::Usage), "it was there itself");
    assert_eq!(step(4, 650, 100, 0.0), (Elevated, 0, Cause::Usage));
    // Nor do stalls keep what usage has left, or usage what stalls have.
    assert_eq!(step(5, 750, 100, 0.3), (High, 0, Cause::Usage));
    assert_eq!(step(6, 100, 100, 0.3), (Elevated, 0, Cause::Stalls));
    assert_eq!(step(7, 650, 100, 0.5), (High, 0, Cause::Stalls));
    assert_eq!(step(8, 650, 100, 0.0), (Elevated, 0, Cause::Usage));
}

#[test]
fn a_limit_that_changes_moves_the_level_under_the_same_usage() {
    let mut machine = PressureMachine::new(config()).unwrap();
    let mut level = |limit| machine.observe(Duration::ZERO, PressureReading { used: 95, limit }).to;
    assert_eq!(level(Some(1000)), Normal);
    assert_eq!(level(Some(100)), Critical);
    assert_eq!(level(Some(90)), Critical);
    assert_eq!(level(Some(150)), High);
    assert_eq!(level(Some(160)), Elevated);
    assert_eq!(level(None), Normal);
    assert_eq!(level(Some(0)), Critical);
}

#[test]
fn tiny_limits_are_not_pressure_before_anything_is_used() {
    for limit in 1..20 {
        let mut machine = PressureMachine::new(config()).unwrap();
        let step = machine.observe(Duration::ZERO, PressureReading { used: 0, limit: Some(limit) });
        assert_eq!(step.to, Normal, "limit {limit}");
        let full = PressureReading { used: limit, limit: Some(limit) };
        assert_eq!(machine.observe(Duration::ZERO, full).to, Critical);
        let none = PressureReading { used: 0, limit: Some(limit) };
        assert_eq!(machine.observe(Duration::ZERO, none).to, Normal);
    }
}

#[test]
fn states_go_round_the_cycle() {
    let mut machine = PressureMachine::new(config()).unwrap();
    assert_eq!(machine.state(), MonitorState::Idle);
    let _ = machine.observe(Duration::ZERO, of_thousand(1));
    assert_eq!(machine.state(), MonitorState::Monitoring);
    let _ = machine.observe(Duration::ZERO, of_thousand(800));
    assert_eq!(machine.state(), MonitorState::PressureDetected);
    machine.trigger();
    assert_eq!(machine.state(), MonitorState::ActionTriggered);
    machine.settle();
    assert_eq!(machine.state(), MonitorState::Idle);
    machine.begin();
    assert_eq!(machine.state(), MonitorState::Monitoring);
    let _ = machine.observe(Duration::ZERO, of_thousand(1));
    assert_eq!(machine.state(), MonitorState::PressureDetected, "the edge down is acted upon, too");
    let _ = machine.observe(Duration::ZERO, of_thousand(1));
    assert_eq!(machine.state(), MonitorState::Monitoring);
}

#[test]
fn a_level_cools_down_after_it_has_reclaimed() {
    let mut machine = PressureMachine::new(config()).unwrap();
    let second = Duration::from_secs(1);
    assert_eq!(machine.observe(second, of_thousand(950)).due, Some(Critical));
    machine.reclaimed(Critical, second);
    assert_eq!(machine.observe(second * 2, of_thousand(950)).due, Some(High));
    machine.reclaimed(High, second);
    machine.reclaimed(Elevated, second);
    assert_eq!(machine.observe(second * 10, of_thousand(950)).due, None);
    assert_eq!(machine.observe(second * 11, of_thousand(950)).due, Some(Critical));
    assert_eq!(machine.observe(second * 11, of_thousand(10)).due, None, "normal is never due");
}

#[test]
fn the_pace_is_fast_under_pressure_and_when_usage_rises_steeply() {
    let config = config();
    let (slow, fast) = (config.interval, config.fast_interval);
    let mut machine = PressureMachine::new(config).unwrap();
    let mut pace =
        |millis, used| machine.observe(Duration::from_millis(millis), of_thousand(used)).next;
    assert_eq!(pace(0, 100), slow);
    assert_eq!(pace(1000, 110), slow, "10 a second: far from 500");
    let quarter = Duration::from_millis(170);
    assert_eq!(pace(1100, 160), quarter, "500 a second: a quarter of the way to 500");
    assert_eq!(pace(2100, 160), slow, "no rise");
    assert_eq!(pace(3100, 150), slow, "a fall");
    assert_eq!(pace(4100, 600), fast, "pressure");
    assert_eq!(pace(5100, 600), fast, "lasting pressure");
    assert_eq!(pace(6100, 300), slow, "over");
    assert_eq!(pace(6100, 301), fast, "a rise in no time");
    assert_eq!(pace(6101, 499), fast, "nearly there");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Giving back the target leaves the level; one byte less does not.
    #[test]
    fn the_reclaim_target_is_exact(
        limit in 1..=usize::MAX >> 14,
        fill in 0.0_f64..1.5,
        elevated in 0.1_f64..0.6,
        hysteresis in 0.0_f64..0.1,
        at in 1_usize..4,
    ) {
        let config = MonitoringConfig::builder()
            .thresholds(elevated, elevated + 0.2, elevated + 0.3)
            .hysteresis(hysteresis)
            .build()?;
        let level = PressureLevel::ALL[at];
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
        let used = (limit as f64 * fill) as usize;
        let target = reclaim_target(&config, level, PressureReading { used, limit: Some(limit) });
        prop_assert!(target <= used);

        let after = |given: usize| {
            let mut machine = PressureMachine::new(config).unwrap();
            let full = PressureReading { used: limit, limit: Some(limit) };
            assert_eq!(machine.observe(Duration::ZERO, full).to, Critical);
            let reading = PressureReading { used: used - given, limit: Some(limit) };
            machine.observe(Duration::ZERO, reading).to
        };
        prop_assert!(after(target) < level);
        if target > 0 {
            prop_assert!(after(target - 1) >= level);
        }
    }

    /// Whatever the series: one event per change, the level is what the rule says, and the same
    /// series gives the same steps.
    #[test]
    fn any_series_keeps_the_rule(
        series in proptest::collection::vec((0_u64..5000, 0_usize..1200, 0_usize..8), 0..60),
    ) {
        let run = || {
            let mut machine = PressureMachine::new(config()).unwrap();
            let mut now = 0;
            series.iter().map(|&(after, used, limit)| {
                now += after;
                let limit = (limit > 0).then_some(limit * 200);
                machine.observe(Duration::from_millis(now), PressureReading { used, limit })
            }).collect::<Vec<_>>()
        };
        let steps = run();
        prop_assert_eq!(&steps, &run());
        let mut level = Normal;
        for (step, &(_, used, limit)) in steps.iter().zip(&series) {
            prop_assert_eq!(step.from, level);
            level = step.to;
            let percent = if limit > 0 { used as f64 / (limit * 200) as f64 } else { 0.0 };
            // The rule in ratios; bytes are rounded, which is allowed for.
            for (of, entry) in [(Elevated, 0.5), (High, 0.7), (Critical, 0.9)] {
                if percent > entry + 0.01 {
                    prop_assert!(level >= of);
                }
                if percent < entry - 0.1 - 0.01 {
                    prop_assert!(level < of);
                }
                if percent < entry - 0.01 && step.from < of {
                    prop_assert!(level < of, "entered below its threshold");
                }
            }
        }
    }

    #[test]
    fn no_reading_panics(used: usize, limit: Option<usize>, at in 0_usize..4) {
        let mut machine = PressureMachine::new(config()).unwrap();
        let reading = PressureReading { used, limit };
        let _ = machine.observe(Duration::MAX, reading);
        let _ = machine.observe(Duration::ZERO, reading);
        let _ = reclaim_target(&config(), PressureLevel::ALL[at], reading);
    }
}
