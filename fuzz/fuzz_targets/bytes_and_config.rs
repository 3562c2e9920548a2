//! Texts of configuration files: whatever is read is written back to the same value, and nothing
//! panics.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use nebula_memory_core::ByteSize;
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    size: ByteSize,
    #[serde(default, with = "nebula_memory_core::human_duration")]
    interval: Duration,
}

fuzz_target!(|text: &str| {
    let size = text.parse::<ByteSize>();
    if let Ok(size) = &size {
        let exact = size.to_exact_string();
        assert_eq!(exact.parse::<ByteSize>().ok(), Some(*size), "{exact}");
        assert!(!size.to_string().is_empty());
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // Plain numbers are exact, or refused where a `usize` cannot hold them.
        assert_eq!(size.ok().map(ByteSize::get), text.parse::<usize>().ok(), "{text}");
    }

    if let Ok(config) = serde_json::from_str::<Config>(text) {
        let written = serde_json::to_string(&config).expect("a configuration is written");
        let read: Config = serde_json::from_str(&written).expect("and read back");
        assert_eq!(read, config, "{written}");
    }
    for field in ["size", "interval"] {
        let value = serde_json::to_string(text).expect("text is text");
        let file = format!(r#"{{"{field}": {value}}}"#);
        if let Ok(config) = serde_json::from_str::<Config>(&file) {
            let written = serde_json::to_string(&config).expect("a configuration is written");
            assert_eq!(serde_json::from_str::<Config>(&written).expect("read back"), config);
        }
    }
});
