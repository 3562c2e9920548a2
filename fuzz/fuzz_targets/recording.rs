//! Recordings of a monitor: any text is refused or read, and what was read is written the same and
//! replays without a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nebula_monitor::{MonitoringConfig, Recording};

fuzz_target!(|lines: &str| {
    let text = format!("nebula-monitor recording 1\na\tb\n{lines}");
    let Ok(recording) = text.parse::<Recording>() else { return };
    let again: Recording = recording.to_string().parse().expect("it was written by us");
    assert_eq!(again.to_string(), recording.to_string());
    let steps = recording.replay(MonitoringConfig::default()).expect("the defaults are valid");
    assert!(steps.len() <= recording.len());
    assert!(steps.windows(2).all(|pair| pair[0].1.to == pair[1].1.from));
});
