//! Rules and forms of the configuration; what each field does is shown where it does it
//! (thresholds, hysteresis, intervals and cool-down in `machine.rs` and `polled.rs`).

use std::time::Duration;

use nebula_memory_core::MemoryError;
use nebula_monitor::{
    MemoryMonitor, MonitorHandle, MonitorStatus, MonitoringConfig, PressureLevel, PressureMachine,
};

static_assertions::assert_impl_all!(MemoryMonitor: Send);
static_assertions::assert_impl_all!(MonitorHandle: Send, Sync);
static_assertions::assert_impl_all!(MonitorStatus: Send, Sync, Clone);
static_assertions::assert_impl_all!(PressureMachine: Send, Sync, Clone);
static_assertions::assert_impl_all!(nebula_monitor::CgroupV2: Send, Sync);
static_assertions::assert_impl_all!(nebula_monitor::CgroupV1: Send, Sync);
static_assertions::assert_impl_all!(nebula_monitor::SystemMemory: Send, Sync);

fn faults(config: MonitoringConfig) -> Vec<String> {
    match config.validate() {
        Ok(()) => Vec::new(),
        Err(MemoryError::InvalidConfig(faults)) => {
            faults.as_slice().iter().map(|fault| fault.path.clone()).collect()
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn the_defaults_are_valid() {
    assert_eq!(faults(MonitoringConfig::default()), [""; 0]);
    let built = MonitoringConfig::builder().build().unwrap();
    assert_eq!(built, MonitoringConfig::default());
}

#[test]
fn every_broken_rule_is_reported_with_its_field() {
    let base = MonitoringConfig::default();
    let zero = Duration::ZERO;
    let cases = [
        (
            MonitoringConfig { elevated: 0.0, hysteresis: -0.0, ..base },
            vec!["elevated", "hysteresis"],
        ),
        (MonitoringConfig { high: base.elevated, ..base }, vec!["high"]),
        (MonitoringConfig { critical: base.high, ..base }, vec!["critical"]),
        (MonitoringConfig { critical: 1.001, ..base }, vec!["critical"]),
        (MonitoringConfig { hysteresis: base.elevated, ..base }, vec!["hysteresis"]),
        (MonitoringConfig { hysteresis: -0.1, ..base }, vec!["hysteresis"]),
        (
            MonitoringConfig { interval: zero, fast_interval: zero, ..base },
            vec!["interval", "fast_interval"],
        ),
        (MonitoringConfig { fast_interval: base.interval * 2, ..base }, vec!["fast_interval"]),
        (MonitoringConfig { elevated: f64::NAN, ..base }, vec!["elevated", "high", "hysteresis"]),
        (MonitoringConfig { critical: f64::NAN, ..base }, vec!["critical", "critical"]),
        (MonitoringConfig { hysteresis: f64::NAN, ..base }, vec!["hysteresis"]),
        (MonitoringConfig { critical: f64::INFINITY, ..base }, vec!["critical"]),
        (MonitoringConfig { window: zero, ..base }, vec!["window"]),
        (MonitoringConfig { elevated_within: zero, ..base }, vec!["elevated_within"]),
        (MonitoringConfig { high_within: zero, ..base }, vec!["high_within"]),
        (MonitoringConfig { critical_within: zero, ..base }, vec!["critical_within"]),
        (MonitoringConfig { elevated_stall: 0.0, ..base }, vec!["elevated_stall"]),
        (MonitoringConfig { elevated_stall: 0.4, ..base }, vec!["high_stall"]),
        (MonitoringConfig { critical_stall: 0.2, ..base }, vec!["critical_stall"]),
        (MonitoringConfig { critical_stall: 1.1, ..base }, vec!["critical_stall"]),
        (MonitoringConfig { high_stall: f64::NAN, ..base }, vec!["high_stall", "critical_stall"]),
        (MonitoringConfig { history: (1 << 20) + 1, ..base }, vec!["history"]),
    ];
    for (config, expected) in cases {
        assert_eq!(faults(config), expected, "{config:?}");
        assert!(MemoryMonitor::new(config).is_err() && PressureMachine::new(config).is_err());
    }
    let mut config = base;
    (config.critical, config.hysteresis, config.fast_interval) = (1.0, 0.0, config.interval);
    (config.cool_down, config.history) = (zero, 0);
    assert_eq!(faults(config), [""; 0], "the bounds themselves are allowed");
}

#[test]
fn the_builder_sets_each_field() {
    let config = MonitoringConfig::builder()
        .thresholds(0.1, 0.2, 0.3)
        .hysteresis(0.04)
        .window(Duration::from_secs(9))
        .exhaustion_within(
            Duration::from_millis(30),
            Duration::from_millis(20),
            Duration::from_millis(10),
        )
        .stalls(0.5, 0.6, 0.7)
        .history(8)
        .interval(Duration::from_secs(7))
        .fast_interval(Duration::from_secs(6))
        .cool_down(Duration::from_secs(5))
        .build()
        .unwrap();
    let expected = MonitoringConfig {
        elevated: 0.1,
        high: 0.2,
        critical: 0.3,
        hysteresis: 0.04,
        window: Duration::from_secs(9),
        elevated_within: Duration::from_millis(30),
        high_within: Duration::from_millis(20),
        critical_within: Duration::from_millis(10),
        elevated_stall: 0.5,
        high_stall: 0.6,
        critical_stall: 0.7,
        history: 8,
        interval: Duration::from_secs(7),
        fast_interval: Duration::from_secs(6),
        cool_down: Duration::from_secs(5),
    };
    assert_eq!(config, expected);
    let thresholds = PressureLevel::ALL.map(|level| config.threshold(level).to_string());
    assert_eq!(thresholds, ["0", "0.1", "0.2", "0.3"]);
}

#[cfg(feature = "serde")]
#[test]
fn it_is_read_as_people_write_it() {
    let text = r#"{ "high": 0.8, "interval": "250ms", "cool_down": "2s" }"#;
    let config: MonitoringConfig = serde_json::from_str(text).unwrap();
    let expected = MonitoringConfig {
        high: 0.8,
        interval: Duration::from_millis(250),
        cool_down: Duration::from_secs(2),
        ..MonitoringConfig::default()
    };
    assert_eq!(config, expected);
    let back: MonitoringConfig =
        serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(back, config);
    assert!(serde_json::from_str::<MonitoringConfig>(r#"{ "hihg": 0.8 }"#).is_err());
}

#[cfg(feature = "serde")]
#[test]
fn states_and_statistics_are_written_and_read() {
    use nebula_monitor::{MonitorState, MonitorStats};
    let state = serde_json::to_string(&MonitorState::PressureDetected).unwrap();
    assert_eq!(state, r#""pressure_detected""#);
    let stats = MemoryMonitor::new(MonitoringConfig::default()).unwrap().status().stats();
    let back: MonitorStats = serde_json::from_str(&serde_json::to_string(&stats).unwrap()).unwrap();
    assert_eq!(back, stats);
}

#[cfg(feature = "serde")]
#[test]
fn history_is_written_and_read() {
    use nebula_monitor::History;
    let mut monitor = MemoryMonitor::new(MonitoringConfig::default()).unwrap();
    // On a platform without sources there is nothing to write; that is a history, too.
    drop(monitor.check());
    let history = monitor.status().history();
    let text = serde_json::to_string(&history).unwrap();
    let back: History = serde_json::from_str(&text).unwrap();
    assert_eq!(back, history);
    assert!(text.starts_with('['), "{text}");
}
