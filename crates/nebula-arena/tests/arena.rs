//! Values in an arena: where they lie, what they keep, what is reported.

use std::mem::align_of_val;

use nebula_arena::{Arena, ArenaConfig, Growth, Keep};
use nebula_memory_core::{ByteSize, MemoryError, MemoryUsage, Resettable};
use nebula_testing::{DropCounter, Rng, catch};
use proptest::prelude::*;

fn config(chunk: usize) -> ArenaConfig {
    ArenaConfig::builder().chunk_size(ByteSize::new(chunk)).build().unwrap()
}

#[repr(align(4096))]
#[derive(Clone, Copy)]
struct Page([u8; 4096]);

#[test]
fn values_keep_their_contents_and_alignment_across_chunks() {
    let arena = Arena::with_config(config(256)).unwrap();
    let mut numbers = vec![];
    let mut strings = vec![];
    for i in 0..1000_u64 {
        numbers.push(arena.alloc(i));
        strings.push(arena.alloc_str(&"x".repeat((i % 70) as usize)));
        arena.alloc(1_u8);
    }
    assert!(arena.chunk_count() > 3);
    for (i, (number, string)) in numbers.iter().zip(&strings).enumerate() {
        assert_eq!((**number, string.len()), (i as u64, i % 70));
        assert_eq!(std::ptr::from_ref::<u64>(number).addr() % align_of_val(*number), 0);
    }
}

#[test]
fn over_aligned_values_are_aligned() {
    let arena = Arena::new();
    for i in 0..5 {
        arena.alloc(1_u8);
        let page = arena.alloc(Page([i; 4096]));
        assert_eq!(std::ptr::from_ref(page).addr() % 4096, 0);
        assert!(page.0.iter().all(|&byte| byte == i));
    }
}

#[test]
fn zero_sized_values_take_no_room_and_no_chunk() {
    let arena = Arena::new();
    arena.alloc(());
    arena.alloc([0_u64; 0]);
    assert!(arena.alloc_slice_copy::<Page>(&[]).is_empty());
    assert_eq!(arena.alloc_slice_with(1 << 10, |_| ()).len(), 1 << 10);
    assert_eq!(arena.alloc_str(""), "");
    assert_eq!((arena.used(), arena.allocated_bytes(), arena.chunk_count()), (0, 0, 0));
}

#[test]
fn slices_are_copied_cloned_and_made() {
    let arena = Arena::new();
    assert_eq!(arena.alloc_slice_copy(&[1, 2, 3]), [1, 2, 3]);
    assert_eq!(arena.alloc_slice_clone(&["a", "b"]), ["a", "b"]);
    assert_eq!(arena.alloc_slice_with(3, |i| i * 2), [0, 2, 4]);
    assert_eq!(arena.alloc_with(|| 5), &5);
    assert_eq!(arena.try_alloc_slice_clone(&[1.5]).unwrap(), [1.5]);
    assert!(matches!(
        arena.try_alloc_slice_with(usize::MAX / 4, |i| i),
        Err(MemoryError::InvalidLayout { .. })
    ));
    assert!(arena.try_alloc_slice_with(isize::MAX as usize, |_| 0_u8).is_err());
}

#[test]
fn making_a_value_may_use_the_same_arena() {
    let arena = Arena::with_config(config(256)).unwrap();
    let outer = arena.alloc_with(|| {
        let inner: Vec<&mut u64> = (0..100).map(|i| arena.alloc(i)).collect();
        inner.iter().map(|i| **i).sum::<u64>()
    });
    assert_eq!(*outer, 4950);
}

#[test]
fn a_panic_while_making_values_leaves_the_arena_usable() {
    let arena = Arena::with_config(config(256)).unwrap();
    let before = arena.alloc(1);
    let panicked = catch(|| {
        arena.alloc_slice_with(100, |i| {
            assert!(i < 50, "injected");
            i
        });
    });
    assert!(panicked.is_err());
    assert!(catch(|| arena.alloc_with(|| -> u8 { panic!("injected") })).is_err());
    let after = arena.alloc(2);
    assert_eq!((*before, *after), (1, 2));
}

#[test]
fn leaking_on_purpose_does_not_drop() {
    let drops = DropCounter::new();
    let arena = Arena::new();
    let probe = arena.alloc_without_drop(drops.probe(1));
    drops.assert_live(1);
    // SAFETY: the arena never drops it, so that this is the only time; it is not used again.
    unsafe { std::ptr::drop_in_place(probe) };
    drops.assert_all_dropped();
}

#[test]
fn a_refused_value_is_handed_back_and_a_refusal_panics_without_try() {
    let limit = ArenaConfig::builder().chunk_size(ByteSize::new(256)).capacity(ByteSize::new(512));
    let arena = Arena::with_config(limit.build().unwrap()).unwrap();
    let refused = arena.try_alloc([3_u8; 600]).unwrap_err();
    let MemoryError::CapacityExceeded { requested, available, .. } = refused.error else {
        panic!("{refused}")
    };
    assert_eq!((requested, refused.value[599]), (600, 3));
    assert!(available < 512);
    assert_eq!(arena.try_alloc_without_drop([4_u8; 600]).unwrap_err().value[0], 4);
    let panic = catch(|| arena.alloc([0_u8; 600])[0]);
    assert!(panic.is_err());
    // What was said to be available is.
    arena.try_alloc_slice_with(available, |_| 0_u8).unwrap();
    assert!(arena.allocated_bytes() <= 512);
}

#[test]
fn a_large_value_gets_a_chunk_of_its_own_that_changes_nothing_else() {
    let arena = Arena::with_config(config(1024)).unwrap();
    let first = arena.alloc(1_u64);
    arena.alloc_slice_with(100_000, |_| 0_u8);
    let second = arena.alloc(2_u64);
    assert_eq!(arena.chunk_count(), 2);
    let distance = std::ptr::from_mut(second).addr() - std::ptr::from_mut(first).addr();
    assert_eq!(distance, 8, "the current chunk goes on being filled");
    // The next ordinary chunk is twice the first one, whatever lay between.
    let before = arena.allocated_bytes();
    while arena.chunk_count() < 3 {
        arena.alloc([0_u8; 64]);
    }
    assert_eq!(arena.allocated_bytes() - before, 2048);
}

/// The sizes of the first `n` chunks.
fn chunk_sizes(config: ArenaConfig, n: usize) -> Vec<usize> {
    let arena = Arena::with_config(config).unwrap();
    let mut sizes = vec![];
    let mut before = 0;
    while sizes.len() < n {
        arena.alloc([0_u8; 16]);
        if arena.allocated_bytes() != before {
            sizes.push(arena.allocated_bytes() - before);
            before = arena.allocated_bytes();
        }
    }
    sizes
}

#[test]
fn every_setting_shows() {
    let builder = || ArenaConfig::builder().chunk_size(ByteSize::new(512));
    let doubling = builder().max_chunk_size(ByteSize::new(2048)).build().unwrap();
    assert_eq!(chunk_sizes(doubling, 5), [512, 1024, 2048, 2048, 2048]);
    let fixed = builder().growth(Growth::Fixed).build().unwrap();
    assert_eq!(chunk_sizes(fixed, 3), [512, 512, 512]);
    let odd = ArenaConfig::builder().chunk_size(ByteSize::new(519)).build().unwrap();
    assert_eq!(chunk_sizes(odd, 2), [512, 1024]);
    let capped = builder().capacity(ByteSize::new(1200)).build().unwrap();
    let arena = Arena::with_config(capped).unwrap();
    assert_eq!(arena.capacity(), Some(1200));
    while arena.try_alloc([0_u8; 16]).is_ok() {}
    // 512, and then what was left instead of 1024.
    assert_eq!((arena.chunk_count(), arena.allocated_bytes()), (2, 512 + 688));
    assert!(arena.available().unwrap() < 16);
}

#[test]
fn a_configuration_reports_every_fault() {
    let faulty = ArenaConfig {
        chunk_size: ByteSize::new(255),
        max_chunk_size: ByteSize::new(100),
        growth: Growth::Fixed,
        capacity: Some(ByteSize::new(10)),
        ..ArenaConfig::default()
    };
    let error = Arena::with_config(faulty).unwrap_err();
    let MemoryError::InvalidConfig(faults) = error else { panic!("{error}") };
    let paths: Vec<_> = faults.as_slice().iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, ["chunk_size", "max_chunk_size", "capacity"]);
    let huge = ArenaConfig { max_chunk_size: ByteSize::new(usize::MAX), ..ArenaConfig::default() };
    assert!(huge.validate().is_err());
    assert_eq!(ArenaConfig::builder().build().unwrap(), ArenaConfig::default());
    let raised = ArenaConfig::builder().chunk_size(ByteSize::mib(2)).build().unwrap();
    assert_eq!(raised.max_chunk_size, ByteSize::mib(2));
}

#[cfg(feature = "serde")]
#[test]
fn a_configuration_survives_a_round_trip_and_refuses_unknown_keys() {
    let text = r#"{"chunk_size": "64KiB", "growth": "fixed"}"#;
    let config: ArenaConfig = serde_json::from_str(text).unwrap();
    assert_eq!((config.chunk_size, config.growth), (ByteSize::kib(64), Growth::Fixed));
    let again = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<ArenaConfig>(&again).unwrap(), config);
    assert!(serde_json::from_str::<ArenaConfig>(r#"{"chunk": 1}"#).is_err());
}

#[test]
fn a_reset_keeps_the_last_chunk_and_takes_none_for_the_same_work() {
    let mut arena = Arena::with_config(config(256)).unwrap();
    for _ in 0..100 {
        arena.alloc([1_u64; 8]);
    }
    let peak = arena.allocated_bytes();
    Resettable::reset(&mut arena);
    let kept = arena.allocated_bytes();
    assert!(kept > 0 && kept < peak && arena.chunk_count() == 1);
    for _ in 0..20 {
        arena.alloc([2_u64; 8]);
    }
    assert_eq!(arena.allocated_bytes(), kept);
    arena.reset_keeping(Keep::Nothing);
    assert_eq!((arena.allocated_bytes(), arena.chunk_count(), arena.used()), (0, 0, 0));
    assert_eq!(arena.alloc(7), &7);
}

#[test]
fn an_arena_moves_to_another_thread_with_its_chunks() {
    let mut arena = Arena::new();
    arena.alloc_str("from here");
    let used = arena.used();
    std::thread::spawn(move || {
        assert_eq!(arena.used(), used);
        arena.reset();
        arena.alloc_str("there");
    })
    .join()
    .unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn blocks_do_not_overlap_and_keep_their_contents(seed in any::<u64>(), chunk in 256_usize..5000) {
        let arena = Arena::with_config(config(chunk)).unwrap();
        let mut rng = Rng::new(seed);
        let mut slices: Vec<(&mut [u8], u8)> = vec![];
        let mut bytes = 0;
        for tag in 0..200_u8 {
            let len = if rng.below(20) == 0 { rng.below(3 * chunk) } else { rng.below(100) };
            slices.push((arena.alloc_slice_with(len, |_| tag), tag));
            bytes += len;
        }
        prop_assert_eq!(arena.used(), bytes, "bytes need no padding");
        for (slice, tag) in &mut slices {
            prop_assert!(slice.iter().all(|byte| byte == tag));
            slice.fill(!*tag);
        }
        for (slice, tag) in &slices {
            prop_assert!(slice.iter().all(|byte| *byte == !*tag));
        }
    }
}
