//! The configuration: every field has an effect, every rule is checked.

use nebula_alloc::{AllocatorChoice, AllocatorConfig, AllocatorManager, SystemAllocator};
use nebula_memory_core::{
    ByteSize, MemoryError, MemoryUsage, StatisticsProvider, TypedAllocator,
    allocator_api2::vec::Vec,
};
use nebula_testing::{CountingAllocator, FailingAllocator};

fn config(kind: AllocatorChoice, capacity: usize, track_stats: bool) -> AllocatorConfig {
    AllocatorConfig { kind, capacity: ByteSize::new(capacity), track_stats }
}

/// The paths of what is wrong.
fn faults(result: Result<impl std::fmt::Debug, MemoryError>) -> std::vec::Vec<String> {
    match result {
        Err(MemoryError::InvalidConfig(faults)) => {
            faults.as_slice().iter().map(|fault| fault.path.clone()).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_default_is_the_system_without_statistics() {
    let config = AllocatorConfig::default();
    assert_eq!(config, AllocatorConfig::builder().build().unwrap());
    let allocator = config.build().unwrap();
    assert_eq!(allocator.kind(), AllocatorChoice::System);
    assert_eq!(allocator.statistics(), None);
    assert_eq!(allocator.capacity(), None);
}

#[test]
fn the_kind_decides_where_blocks_come_from() {
    let base = SystemAllocator::new();
    let system = config(AllocatorChoice::System, 0, false).build_in(base.clone()).unwrap();
    assert_eq!(base.used(), 0);
    let number = system.try_new(1_u64).unwrap();
    assert_eq!((base.used(), system.used()), (8, 8));
    drop(number);

    let bump = config(AllocatorChoice::Bump, 1000, false).build_in(base.clone()).unwrap();
    assert_eq!((bump.kind(), base.used(), bump.used()), (AllocatorChoice::Bump, 1000, 0));
    let number = bump.try_new(1_u64).unwrap();
    assert_eq!((base.used(), bump.used()), (1000, 8));
    drop(number);
    drop(bump);
    assert_eq!(base.used(), 0);
}

#[test]
fn the_capacity_is_the_size_of_the_region() {
    for capacity in [1, 100, 5000] {
        let allocator = config(AllocatorChoice::Bump, capacity, false).build().unwrap();
        assert_eq!(allocator.capacity(), Some(capacity));
        assert_eq!(allocator.base().used(), capacity);
        let mut bytes = Vec::<u8, _>::new_in(&allocator);
        assert!(bytes.try_reserve_exact(capacity + 1).is_err());
        bytes.try_reserve_exact(capacity).unwrap();
        let refused = allocator.try_new(1_u8).unwrap_err();
        assert_eq!(refused.error.code(), "capacity_exceeded");
    }
}

#[test]
fn statistics_are_tracked_when_asked_for() {
    for (kind, capacity) in [(AllocatorChoice::System, 0), (AllocatorChoice::Bump, 1000)] {
        let manager = AllocatorManager::new();
        let silent = config(kind, capacity, false).build().unwrap().registered_in(&manager);
        drop(silent.try_new(1_u64));
        assert_eq!(silent.statistics(), None);
        assert!(silent.cell().is_none());
        assert!(manager.list().is_empty());

        let counted = config(kind, capacity, true)
            .build_named_in("counted", SystemAllocator::new())
            .unwrap()
            .registered_in(&manager);
        drop(counted.try_new(1_u64));
        let stats = counted.statistics().unwrap();
        assert_eq!((stats.allocations, stats.deallocations, stats.peak_usage), (1, 1, 8));
        let report = &manager.list()[0];
        assert_eq!((report.name.as_str(), report.kind.to_string()), ("counted", kind.to_string()));
        assert_eq!(report.capacity, (capacity > 0).then_some(capacity));
        assert!(!report.thread_safe);
    }
}

#[test]
fn without_a_name_it_is_called_after_its_kind() {
    let manager = AllocatorManager::new();
    let _bump = config(AllocatorChoice::Bump, 64, true).build().unwrap().registered_in(&manager);
    let _system = config(AllocatorChoice::System, 0, true).build().unwrap().registered_in(&manager);
    let names: std::vec::Vec<_> = manager.list().into_iter().map(|report| report.name).collect();
    assert_eq!(names, ["bump", "system"]);
}

#[test]
fn a_bump_can_be_reset_and_the_system_cannot() {
    for track in [false, true] {
        let mut bump = config(AllocatorChoice::Bump, 100, track).build().unwrap();
        std::mem::forget(bump.try_new([0_u8; 100]).unwrap());
        assert!(bump.try_new(1_u8).is_err());
        assert!(bump.try_reset());
        assert_eq!(bump.used(), 0);
        assert_eq!(bump.statistics().map(|stats| stats.live_blocks()), track.then_some(0));
        assert!(bump.try_new(1_u8).is_ok());

        let mut system = config(AllocatorChoice::System, 0, track).build().unwrap();
        assert!(!system.try_reset());
    }
}

#[test]
fn broken_rules_are_named() {
    let bump = config(AllocatorChoice::Bump, 0, true);
    assert_eq!(faults(bump.validate()), ["capacity"]);
    assert_eq!(faults(bump.build()), ["capacity"]);
    assert_eq!(faults(config(AllocatorChoice::Bump, usize::MAX, true).build()), ["capacity"]);
    assert_eq!(faults(config(AllocatorChoice::System, 1, true).build()), ["capacity"]);
    let builder = AllocatorConfig::builder().kind(AllocatorChoice::Bump);
    assert_eq!(faults(builder.build()), ["capacity"]);
    config(AllocatorChoice::Bump, 1, false).validate().unwrap();
}

#[test]
fn the_largest_valid_capacity_is_refused_by_the_system() {
    let config = config(AllocatorChoice::Bump, isize::MAX as usize - 15, false);
    config.validate().unwrap();
    assert_eq!(config.build().unwrap_err().code(), "out_of_memory");
}

#[test]
fn a_base_that_fails_at_any_call_leaves_nothing_behind() {
    for (kind, capacity) in [(AllocatorChoice::System, 0), (AllocatorChoice::Bump, 10_000)] {
        for track in [false, true] {
            let mut n = 0;
            loop {
                let base = FailingAllocator::new(CountingAllocator::new());
                base.fail_at(n);
                match config(kind, capacity, track).build_in(base.clone()) {
                    Ok(allocator) => {
                        let mut numbers = Vec::new_in(&allocator);
                        for i in 0..100_u32 {
                            if numbers.try_reserve(1).is_ok() {
                                numbers.push(i);
                            }
                        }
                    }
                    Err(error) => assert_eq!(error.code(), "out_of_memory"),
                }
                base.get_ref().assert_clean();
                if !base.tripped() {
                    break;
                }
                n += 1;
            }
            assert!(n > 0);
        }
    }
}

#[cfg(feature = "serde")]
mod with_serde {
    use super::*;

    #[test]
    fn it_reads_what_it_writes() {
        for config in [AllocatorConfig::default(), config(AllocatorChoice::Bump, 1234, true)] {
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<AllocatorConfig>(&text).unwrap(), config);
        }
    }

    #[test]
    fn sizes_are_written_as_people_do_and_fields_may_be_left_out() {
        let text = r#"{"kind": "bump", "capacity": "64KiB"}"#;
        let read: AllocatorConfig = serde_json::from_str(text).unwrap();
        assert_eq!(read, config(AllocatorChoice::Bump, 64 << 10, false));
        assert_eq!(
            serde_json::from_str::<AllocatorConfig>("{}").unwrap(),
            AllocatorConfig::default()
        );
    }

    #[test]
    fn unknown_fields_and_kinds_are_refused() {
        for text in [r#"{"capacty": 1}"#, r#"{"kind": "quantum"}"#] {
            assert!(serde_json::from_str::<AllocatorConfig>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_kind_is_spelled_alike_everywhere() {
        for kind in [AllocatorChoice::System, AllocatorChoice::Bump] {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
    }
}
