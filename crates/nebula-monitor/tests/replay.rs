//! Recordings: written by a live monitor, read back, and replayed.

mod common;

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{Dial, Machine, Show, V2, config};
use nebula_memory_core::{Clock, ManualClock, MemoryError};
use nebula_monitor::{
    MemoryMonitor, MonitoringConfig, Observation, PressureLevel, PressureLevel::*, PressureReading,
    Recording,
};
use proptest::prelude::*;

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Edges of a made-up series, one reading of 1000 every `every`.
fn edges(
    config: MonitoringConfig,
    every: Duration,
    usages: impl IntoIterator<Item = usize>,
) -> Vec<(PressureLevel, PressureLevel)> {
    let mut recording = Recording::new(["made up"]);
    let mut at = Duration::ZERO;
    for used in usages {
        let readings = [Some((at, PressureReading { used, limit: Some(1000) }))];
        recording.push(at, Observation { readings: &readings, stall: None });
        at += every;
    }
    // What is played is what was written and read back.
    let again: Recording = recording.to_string().parse().unwrap();
    assert_eq!(again, recording);
    let steps = again.replay(config).unwrap();
    steps.iter().filter(|(_, step)| step.is_edge()).map(|(_, step)| (step.from, step.to)).collect()
}

const MILLI: Duration = Duration::from_millis(1);

#[test]
fn a_slow_ramp_goes_through_every_level_once() {
    let config = MonitoringConfig::default();
    let second = Duration::from_secs(1);
    let expected = [(Normal, Elevated), (Elevated, High), (High, Critical)];
    assert_eq!(edges(config, second, 0..=1000), expected);
}

#[test]
fn a_fast_ramp_is_seen_coming() {
    // Full within 100 ms: growth says so at half of the limit, or as soon as it is known.
    let steps = edges(MonitoringConfig::default(), MILLI, (0..500).chain((500..1000).step_by(5)));
    assert_eq!(steps.first().unwrap().0, Normal);
    assert_eq!(steps.last().unwrap().1, Critical);
    assert!(steps.len() <= 3, "{steps:?}");
}

#[test]
fn a_single_spike_is_up_and_down() {
    let calm = || std::iter::repeat_n(300, 50);
    let series = calm().chain([960]).chain(calm());
    let edges = edges(config(), MILLI * 100, series);
    assert_eq!(edges, [(Normal, Critical), (Critical, Normal)]);
}

#[test]
fn flapping_around_a_threshold_is_one_edge() {
    let flapping = (0..500).map(|i| if i % 2 == 0 { 849 } else { 851 });
    let config = MonitoringConfig::builder().without_trend().build().unwrap();
    assert_eq!(edges(config, MILLI * 10, flapping), [(Normal, Elevated), (Elevated, High)]);
}

#[test]
fn a_sawtooth_of_a_collected_heap_does_not_flap_with_every_tooth() {
    // Up from 40 % to 60 % in a second and down at once, again and again.
    let teeth = (0..2000).map(|i| 400 + 2 * (i % 100));
    let edges = edges(MonitoringConfig::default(), MILLI * 10, teeth);
    assert!(edges.iter().all(|(_, to)| *to <= Elevated), "{edges:?}");
}

/// A live monitor of a fake machine, recorded while much happens to it.
fn recorded(seed: &[(u64, usize, u8)]) -> (String, Vec<PressureLevel>, Paper) {
    let (machine, clock) = (Machine::new(), Arc::new(ManualClock::new()));
    machine.process("0::/a\n", &[V2]).v2("/a", "10", "1000").meminfo(100, 100_000);
    let (dial, paper) = (Dial::at(0), Paper::default());
    let mut monitor = MemoryMonitor::builder(MonitoringConfig::default())
        .system_root(machine.root())
        .source(dial.clone())
        .clock(clock.clone())
        .record(paper.clone())
        .build()
        .unwrap();
    let mut levels = Vec::new();
    for (after, used, what) in seed {
        clock.advance(Duration::from_millis(*after));
        match what % 8 {
            0 => dial.show(Show::Failure),
            1 => dial.show(Show::Reading(*used, None)),
            2 => _ = machine.v2("/a", &used.to_string(), "max"),
            3 => _ = machine.v2("/a", &used.to_string(), "800"),
            4 => _ = machine.v2("/a", "garbage", "1000"),
            5 => _ = machine.v2("/a", &used.to_string(), "1000"),
            6 => dial.show(Show::Panic),
            _ => dial.set(*used),
        }
        drop(monitor.check());
        if monitor.status().last_reading().is_some_and(|(at, _)| at == clock.now()) {
            levels.push(monitor.level());
        }
    }
    assert_eq!(monitor.status().stats().unrecorded, 0);
    (paper.text(), levels, paper)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever happened, the recording replays to the levels that the monitor saw.
    #[test]
    fn a_recording_replays_to_the_same_levels(
        seed in proptest::collection::vec((0_u64..400, 0_usize..1200, any::<u8>()), 1..40),
    ) {
        let (text, levels, _) = recorded(&seed);
        let recording: Recording = text.parse()?;
        prop_assert_eq!(recording.len(), seed.len());
        let replayed = recording.replay(MonitoringConfig::default())?;
        let replayed: Vec<_> = replayed.iter().map(|(_, step)| step.to).collect();
        prop_assert_eq!(replayed, levels);
        prop_assert_eq!(recording.to_string(), text);
    }

    #[test]
    fn junk_is_no_recording_and_never_panics(text in ".{0,200}", lines in ".{0,80}") {
        prop_assert!(text.parse::<Recording>().is_err());
        let near = format!("nebula-monitor recording 1\na\tb\n{lines}");
        if let Ok(recording) = near.parse::<Recording>() {
            let _ = recording.replay(config());
        }
    }
}

#[test]
fn readings_of_another_time_than_their_checks_and_names_of_nothing_are_written_too() {
    let reading = |at: u64, used| {
        Some((Duration::from_millis(at), PressureReading { used, limit: Some(100) }))
    };
    let mut recording = Recording::new(["early", ""]);
    for (at, readings) in [
        (5, [reading(4, 10), reading(5, 10)]),
        (9, [reading(4, 10), reading(8, 99)]),
        (12, [None, reading(8, 99)]),
        (13, [reading(4, 10), reading(8, 98)]),
    ] {
        let observation = Observation { readings: &readings, stall: None };
        recording.push(Duration::from_millis(at), observation);
    }
    let text = recording.to_string();
    let lines: Vec<_> = text.lines().skip(1).collect();
    let expected = [
        "early\tunnamed",
        "5000000 - 10/100@4000000 10/100",
        "9000000 - = 99/100@8000000",
        "12000000 - x =",
        "13000000 - 10/100@4000000 98/100@8000000",
    ];
    assert_eq!(lines, expected);
    let read: Recording = text.parse().unwrap();
    assert_eq!(read.to_string(), text);
    let levels = |recording: &Recording| {
        let steps = recording.replay(MonitoringConfig::default()).unwrap();
        steps.iter().map(|(_, step)| step.to).collect::<Vec<_>>()
    };
    assert_eq!(levels(&read), levels(&recording));
    assert_eq!(levels(&read)[1], Critical);
    assert!(text.replace("@4000000", "@4s").parse::<Recording>().is_err());
}

#[test]
fn what_is_wrong_with_a_text_is_said_with_its_line() {
    let parse = |text: &str| match text.parse::<Recording>() {
        Err(MemoryError::SourceUnavailable(fault)) => fault.why,
        other => panic!("{other:?}"),
    };
    assert!(parse("").starts_with("line 1"));
    assert!(parse("nebula-monitor recording 1").starts_with("line 2"));
    let head = "nebula-monitor recording 1\na\tb\n0 - 1/2 x\n";
    for bad in ["", "0", "0 -", "0 - 1/2", "0 - 1/2 1/2 1/2", "x - 1/2 x", "0 2.0 x x", "0 - = ="] {
        assert!(parse(&format!("{head}{bad}\n")).starts_with("line 4"), "{bad:?}");
    }
    let good: Recording = format!("{head}7 0.5 = 3/-\n").parse().unwrap();
    assert_eq!(
        (good.len(), good.is_empty(), good.sources()),
        (2, false, &["a", "b"].map(String::from)[..])
    );
}

/// Writes a little, and then breaks.
struct Broken(u8, bool);

impl Write for Broken {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            assert!(!self.1, "a writer that panics");
            return Err(io::Error::other("the disk is full"));
        }
        self.0 -= 1;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_recording_that_breaks_is_counted_and_the_monitor_goes_on() {
    for panics in [false, true] {
        let mut monitor = MemoryMonitor::builder(config())
            .without_system()
            .source(Dial::at(600))
            .record(Broken(2, panics))
            .build()
            .unwrap();
        for _ in 0..5 {
            monitor.check().unwrap();
        }
        let stats = monitor.status().stats();
        assert_eq!((stats.checks, stats.unrecorded, monitor.level()), (5, 3, Elevated));
    }
}
