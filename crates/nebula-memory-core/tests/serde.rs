//! What the `serde` feature reads and writes. (The numbers are those of 64-bit machines.)
#![cfg(target_pointer_width = "64")]

use std::{fmt::Debug, time::Duration};

use nebula_memory_core::{
    AllocatorKind, ByteSize, PressureLevel, PressureReading, ReclaimReport, StatsSnapshot,
    human_duration,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

#[track_caller]
fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, text: &str) {
    assert_eq!(serde_json::to_string(value).unwrap(), text);
    assert_eq!(&serde_json::from_str::<T>(text).unwrap(), value);
}

#[test]
fn sizes_are_written_exactly_and_read_back() {
    for (bytes, text) in [
        (0, r#""0B""#),
        (1, r#""1B""#),
        (64 << 20, r#""64MiB""#),
        ((64 << 20) + 1, r#""67108865B""#),
        (usize::MAX, r#""18446744073709551615B""#),
    ] {
        round_trip(&ByteSize::new(bytes), text);
    }
}

#[test]
fn sizes_are_read_from_numbers_and_texts() {
    for text in ["1048576", r#""1048576""#, r#""1MiB""#, r#"" 1 MiB ""#, r#""1.0MiB""#] {
        assert_eq!(serde_json::from_str::<ByteSize>(text).unwrap(), ByteSize::mib(1), "{text}");
    }
    assert_eq!(serde_json::from_str::<ByteSize>("18446744073709551615").unwrap().get(), usize::MAX);
}

#[test]
fn what_is_no_size_is_refused() {
    for text in ["-1", "1.5", "null", "true", "[]", r#""-1MiB""#, r#""lots""#, r#""""#, "1e30"] {
        let error = serde_json::from_str::<ByteSize>(text).expect_err(text).to_string();
        assert!(error.contains("64MiB"), "no example in `{error}`");
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Waits {
    #[serde(with = "human_duration")]
    limit: Duration,
}

#[test]
fn durations_are_written_in_words() {
    for (limit, text) in [
        (Duration::from_secs(5), r#"{"limit":"5s"}"#),
        (Duration::from_millis(250), r#"{"limit":"250ms"}"#),
        (Duration::from_secs(90), r#"{"limit":"1m 30s"}"#),
        (Duration::new(1, 1), r#"{"limit":"1s 1ns"}"#),
        (Duration::ZERO, r#"{"limit":"0s"}"#),
    ] {
        round_trip(&Waits { limit }, text);
    }
}

#[test]
fn what_is_no_duration_is_refused() {
    for text in [r#"{"limit":"soon"}"#, r#"{"limit":"-5s"}"#, r#"{"limit":"5"}"#, r#"{"limit":5}"#]
    {
        assert!(serde_json::from_str::<Waits>(text).is_err(), "{text}");
    }
    let error = serde_json::from_str::<Waits>(r#"{"limit":"soon"}"#).unwrap_err().to_string();
    assert!(error.contains("`soon`") && error.contains("250ms"), "{error}");
}

#[test]
fn levels_and_kinds_are_lower_case_words() {
    let levels = serde_json::to_string(&PressureLevel::ALL).unwrap();
    assert_eq!(levels, r#"["normal","elevated","high","critical"]"#);
    for level in PressureLevel::ALL {
        round_trip(&level, &format!("\"{level}\""));
    }
    round_trip(&AllocatorKind::Bump, r#""bump""#);
}

#[test]
fn snapshots_and_reports_keep_their_field_names() {
    round_trip(
        &StatsSnapshot {
            allocations: 1,
            deallocations: 2,
            bytes_allocated: 3,
            bytes_deallocated: 4,
            peak_usage: u64::MAX,
        },
        r#"{"allocations":1,"deallocations":2,"bytes_allocated":3,"bytes_deallocated":4,"peak_usage":18446744073709551615}"#,
    );
    round_trip(
        &ReclaimReport { given: 1, asked: 2, skipped: 3, panicked: 4 },
        r#"{"given":1,"asked":2,"skipped":3,"panicked":4}"#,
    );
    round_trip(&PressureReading { used: 5, limit: None }, r#"{"used":5,"limit":null}"#);
}
