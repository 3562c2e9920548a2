//! Configurations and snapshots as data.
#![cfg(feature = "serde")]

use nebula_budget::{BudgetConfig, MemoryBudget};
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
fn a_snapshot_is_written_with_its_children() {
    let root = MemoryBudget::root("root", 100).unwrap();
    let _child = root.child("child", 40).unwrap();
    let json = serde_json::to_value(root.snapshot()).unwrap();
    assert_eq!(json["children"][0]["name"], "child");
    assert_eq!((&json["committed"], &json["state"]), (&40.into(), &"active".into()));
}
