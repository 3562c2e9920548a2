//! Configurations and snapshots as data.
#![cfg(feature = "serde")]

use nebula_budget::{Account, BudgetConfig, BudgetEvent, Enforcement, MemoryBudget};
use nebula_memory_core::ByteSize;

#[test]
fn a_configuration_reads_sizes_and_refuses_unknown_keys() {
    let config: BudgetConfig = serde_json::from_str(r#"{"capacity": "64MiB"}"#).unwrap();
    assert_eq!(config, BudgetConfig { capacity: ByteSize::mib(64), ..BudgetConfig::default() });
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<BudgetConfig>(&text).unwrap(), config);
    let error = serde_json::from_str::<BudgetConfig>(r#"{"capacity": 1, "max": 2}"#).unwrap_err();
    assert!(error.to_string().contains("max"), "{error}");
    assert!(serde_json::from_str::<BudgetConfig>("{}").is_err(), "the capacity has no default");
}

#[test]
fn every_field_can_be_written_and_read() {
    let text = concat!(
        r#"{"capacity":"4MiB","guaranteed":"1MiB","high":"3MiB","#,
        r#""enforcement":"observe","priority":7}"#
    );
    let config: BudgetConfig = serde_json::from_str(text).unwrap();
    let built = BudgetConfig::builder(ByteSize::mib(4))
        .guaranteed(ByteSize::mib(1))
        .high(ByteSize::mib(3))
        .enforcement(Enforcement::Observe)
        .priority(7)
        .build()
        .unwrap();
    assert_eq!((&config, serde_json::to_string(&config).unwrap()), (&built, text.to_owned()));
}

#[test]
fn events_and_leak_reports_are_data() {
    let event = serde_json::to_value(BudgetEvent::Leaked { bytes: 7 }).unwrap();
    assert_eq!(event, serde_json::json!({ "leaked": { "bytes": 7 } }));
    let root = MemoryBudget::root("root", 100).unwrap();
    root.try_charge(7).unwrap();
    let leak = root.release().unwrap().unwrap();
    let json = serde_json::to_value(&leak).unwrap();
    assert_eq!((&json["path"], &json["bytes"]), (&"root".into(), &7.into()));
}

#[test]
fn a_snapshot_is_written_with_its_children() {
    let root = MemoryBudget::root("root", 100).unwrap();
    let _child = root.child("child", 40).unwrap();
    let json = serde_json::to_value(root.snapshot()).unwrap();
    assert_eq!(json["children"][0]["name"], "child");
    assert_eq!((&json["committed"], &json["state"]), (&40.into(), &"active".into()));
}
