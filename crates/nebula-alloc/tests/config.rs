//! The configuration: every field has an effect, every rule is checked.

use nebula_alloc::{AllocatorChoice, AllocatorConfig, AllocatorManager, SystemAllocator};
use nebula_memory_core::{
    ByteSize, MemoryError, MemoryUsage, StatisticsProvider, TypedAllocator,
    allocator_api2::vec::Vec,
};
use nebula_testing::{CountingAllocator, FailingAllocator};

/// A configuration; a pool's blocks are 64 bytes.
fn config(kind: AllocatorChoice, capacity: usize, track_stats: bool) -> AllocatorConfig {
    let block_size = ByteSize::new(if kind == AllocatorChoice::Pool { 64 } else { 0 });
    let capacity = ByteSize::new(capacity);
    AllocatorConfig { kind, capacity, block_size, track_stats, ..AllocatorConfig::default() }
}

/// Every kind, with a capacity that it can have.
const KINDS: [(AllocatorChoice, usize); 4] = [
    (AllocatorChoice::System, 0),
    (AllocatorChoice::Bump, 10_000),
    (AllocatorChoice::Stack, 10_000),
    (AllocatorChoice::Pool, 6400),
];

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
    for (kind, capacity) in KINDS {
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
fn a_stack_gives_back_what_is_freed_in_any_order_and_can_be_reset() {
    for track in [false, true] {
        let base = SystemAllocator::new();
        let mut stack = config(AllocatorChoice::Stack, 1000, track).build_in(base.clone()).unwrap();
        assert_eq!((stack.kind(), stack.capacity()), (AllocatorChoice::Stack, Some(1008)));
        assert_eq!((base.used(), stack.base().used()), (1008, 1008));
        let (first, second) = (stack.try_new([1_u8; 16]).unwrap(), stack.try_new(2_u8).unwrap());
        drop(first);
        assert_eq!(stack.used(), 32);
        drop(second);
        assert_eq!(stack.used(), 0);
        std::mem::forget(stack.try_new([0_u8; 1000]).unwrap());
        assert!(stack.try_reset());
        assert_eq!(stack.used(), 0);
    }
}

#[test]
fn a_pool_has_blocks_of_the_size_and_alignment_up_to_the_capacity() {
    for track in [false, true] {
        let pool = config(AllocatorChoice::Pool, 3 * 64 + 63, track);
        let pool = AllocatorConfig { block_align: 32, ..pool };
        let mut pool = pool.build().unwrap();
        assert_eq!((pool.kind(), pool.capacity()), (AllocatorChoice::Pool, Some(192)));
        let blocks = [(); 3].map(|()| pool.try_new([0_u8; 64]).unwrap());
        assert!(blocks.iter().all(|block| block.as_ptr().addr() % 32 == 0));
        assert!(pool.try_new(0_u8).is_err());
        assert_eq!(pool.used(), 192);
        drop(blocks);
        assert!(pool.try_new([0_u8; 65]).is_err());
        std::mem::forget(pool.try_new(0_u8).unwrap());
        assert!(pool.try_reset());
        assert_eq!((pool.used(), pool.base().used()), (0, pool.base().used()));
    }
    // Rounded up to a pointer, and without a maximum.
    let mut small = config(AllocatorChoice::Pool, 0, false);
    small.block_size = ByteSize::new(1);
    let pool = small.build().unwrap();
    assert_eq!(pool.capacity(), None);
    let numbers = [(); 100].map(|()| pool.try_new(7_usize).unwrap());
    assert_eq!(pool.used(), 100 * size_of::<usize>());
    drop(numbers);
    // The capacity is in bytes of blocks as they are.
    small.capacity = ByteSize::new(100);
    assert_eq!(
        small.build().unwrap().capacity(),
        Some(100 / size_of::<usize>() * size_of::<usize>())
    );
}

#[test]
fn rules_of_blocks_are_named() {
    let pool = config(AllocatorChoice::Pool, 640, false);
    let with = |size, align, capacity| AllocatorConfig {
        block_size: ByteSize::new(size),
        block_align: align,
        capacity: ByteSize::new(capacity),
        ..pool.clone()
    };
    with(64, 64, 64).validate().unwrap();
    assert_eq!(faults(with(0, 0, 0).build()), ["block_size"]);
    assert_eq!(faults(with(64, 3, 0).build()), ["block_align"]);
    assert_eq!(faults(with(64, 0, 63).build()), ["capacity"]);
    assert_eq!(faults(with(64, 128, 64).build()), ["capacity"]);
    assert_eq!(faults(with(usize::MAX, 0, 0).build()), ["block_size"]);
    assert_eq!(faults(config(AllocatorChoice::Stack, 0, false).build()), ["capacity"]);
    for (kind, capacity) in KINDS {
        if kind != AllocatorChoice::Pool {
            let wrong = AllocatorConfig {
                block_size: ByteSize::new(8),
                block_align: 8,
                ..config(kind, capacity, false)
            };
            assert_eq!(faults(wrong.build()), ["block_size", "block_align"]);
        }
    }
    let builder = AllocatorConfig::builder()
        .kind(AllocatorChoice::Pool)
        .capacity(ByteSize::new(640))
        .block_size(ByteSize::new(64))
        .block_align(0);
    assert_eq!(builder.build().unwrap(), pool);
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
    for (kind, capacity) in KINDS {
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
        let mut pool = config(AllocatorChoice::Pool, 1234, true);
        pool.block_align = 16;
        let bump = config(AllocatorChoice::Bump, 1234, true);
        for config in [AllocatorConfig::default(), bump, pool] {
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
        for (kind, _) in KINDS {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
    }
}
