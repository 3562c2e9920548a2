//! Values in an arena: where they lie, what they keep, what is reported.

use std::mem::align_of_val;

use nebula_arena::{Arena, ArenaConfig, Direction, Down, Growth, Keep, Up};
use nebula_memory_core::{
    ByteSize, Global, MemoryError, MemoryUsage, PressureLevel, Reclaim, Resettable,
};
use nebula_testing::{CountingAllocator, DropCounter, Rng, catch};
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
    let linear = builder().growth(Growth::Linear).max_chunk_size(ByteSize::new(1700));
    assert_eq!(chunk_sizes(linear.build().unwrap(), 5), [512, 1024, 1536, 1696, 1696]);
    for (keep, kept) in [(Keep::All, 512 + 1024), (Keep::Last, 1024), (Keep::Nothing, 0)] {
        let mut arena = Arena::with_config(builder().keep(keep).build().unwrap()).unwrap();
        arena.alloc([0_u8; 400]);
        arena.alloc([0_u8; 400]);
        arena.reset();
        assert_eq!(arena.allocated_bytes(), kept);
    }
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
fn a_reset_keeps_what_it_is_told_to() {
    let mut arena = Arena::with_config(config(256)).unwrap();
    let work = |arena: &Arena, n: u64| {
        for i in 0..n {
            arena.alloc([i; 8]);
        }
    };
    work(&arena, 100);
    let (chunks, bytes) = (arena.chunk_count(), arena.allocated_bytes());
    assert!(chunks > 3);
    // All: the same work takes nothing more.
    for _ in 0..3 {
        Resettable::reset(&mut arena);
        assert_eq!((arena.used(), arena.allocated_bytes()), (0, bytes));
        work(&arena, 100);
        assert_eq!((arena.chunk_count(), arena.allocated_bytes()), (chunks, bytes));
    }
    // The last, and then a part of the work.
    arena.reset_keeping(Keep::Last);
    let kept = arena.allocated_bytes();
    assert!(kept > 0 && kept < bytes && arena.chunk_count() == 1);
    work(&arena, 20);
    assert_eq!(arena.allocated_bytes(), kept);
    arena.reset_keeping(Keep::Nothing);
    assert_eq!((arena.allocated_bytes(), arena.chunk_count(), arena.used()), (0, 0, 0));
    assert_eq!(arena.alloc(7), &7);
    // An arena that holds large blocks alone keeps one of them.
    let mut large = Arena::new();
    for _ in 0..5 {
        large.alloc_slice_fill(2 << 20, 1_u8);
    }
    large.reset_keeping(Keep::Last);
    assert_eq!(large.chunk_count(), 1);
    // The series of sizes has begun anew.
    assert_eq!(arena.allocated_bytes(), 256);
    arena.reset_keeping(Keep::Last);
    arena.reset_keeping(Keep::Last);
    assert_eq!(arena.allocated_bytes(), 256);
}

#[test]
fn a_large_block_is_kept_and_used_again_for_another_large_one() {
    let mut arena = Arena::new();
    arena.alloc(1);
    arena.alloc_slice_fill(1 << 21, 1_u8);
    let bytes = arena.allocated_bytes();
    for _ in 0..3 {
        arena.reset();
        arena.alloc(1);
        arena.alloc_slice_fill(1 << 21, 2_u8);
        assert_eq!((arena.chunk_count(), arena.allocated_bytes()), (2, bytes));
    }
}

#[test]
fn spare_chunks_that_are_too_small_make_room_before_a_refusal() {
    let capacity = ByteSize::kib(8);
    let builder = ArenaConfig::builder().chunk_size(ByteSize::new(512)).growth(Growth::Fixed);
    let mut arena = Arena::with_config(builder.capacity(capacity).build().unwrap()).unwrap();
    while arena.try_alloc([0_u8; 100]).is_ok() {}
    arena.reset();
    assert!(arena.usage().spare > 6000);
    let block = arena.alloc_slice_fill(8000, 1_u8);
    assert_eq!(block.len(), 8000);
    assert_eq!(arena.usage().spare, 0);
}

#[test]
fn usage_adds_up_and_high_water_is_a_hint() {
    let mut arena = Arena::with_config(config(512)).unwrap();
    for i in 0..200_usize {
        arena.alloc_slice_fill(i, 1_u8);
        let usage = arena.usage();
        let sum = usage.used + usage.free + usage.wasted + usage.spare + usage.overhead;
        assert_eq!((sum, usage.used), (usage.allocated, arena.used()));
    }
    let (used, usage) = (arena.used(), arena.usage());
    assert!(usage.wasted > 0 && usage.high_water == used);
    assert!(usage.to_string().contains("chunks"), "{usage}");
    arena.reset();
    arena.alloc(1_u8);
    assert_eq!(arena.high_water(), used);
    let next = Arena::with_config(arena.config().clone().sized_for(used)).unwrap();
    for i in 0..200_usize {
        next.alloc_slice_fill(i, 1_u8);
    }
    assert_eq!(next.chunk_count(), 1);
    // Extremes are no error until they are used.
    for bytes in [0, 1, usize::MAX] {
        ArenaConfig::default().sized_for(bytes).validate().unwrap();
        for capacity in [ByteSize::kib(64), ByteSize::new(usize::MAX)] {
            let capped = ArenaConfig::builder().capacity(capacity).build().unwrap();
            capped.sized_for(bytes).validate().unwrap();
        }
    }
}

#[test]
fn spare_chunks_go_back_when_asked() {
    let base = CountingAllocator::new();
    let mut arena = Arena::with_config_in(config(512), &base).unwrap();
    let work = |arena: &Arena<_>| {
        for i in 0..100_u64 {
            arena.alloc_slice_fill(100, i);
        }
    };
    work(&arena);
    arena.shrink_to(0);
    assert_eq!(base.live_bytes(), arena.allocated_bytes(), "nothing was spare");
    let all = arena.allocated_bytes();
    assert!(all > 80_000);
    arena.reset();
    arena.shrink_to(all / 2);
    assert!(base.live_bytes() <= all / 2 && base.live_bytes() > 0);

    let request = arena.trim_request();
    assert_eq!(request.reclaimable(), base.live_bytes());
    assert_eq!(request.reclaim(10_000, PressureLevel::Elevated), 0);
    let before = base.live_bytes();
    // Answered when the next chunk is needed, even if spare ones are there.
    arena.alloc_slice_fill(900, 1_u8);
    assert!(base.live_bytes() < before);
    assert_eq!(request.reclaimable(), arena.usage().spare);
    // In a reset, and at the end of a scope.
    request.reclaim(usize::MAX, PressureLevel::Critical);
    arena.reset();
    assert_eq!((base.live_bytes(), request.reclaimable()), (0, 0));
    work(&arena);
    arena.reset();
    request.reclaim(usize::MAX, PressureLevel::Critical);
    arena.scope(|_| ());
    assert_eq!(base.live_bytes(), 0);
    assert!(std::sync::Arc::ptr_eq(&request, &arena.trim_request()));
}

#[test]
fn chunks_are_shown_in_order_of_use() {
    fn marks<D: Direction>() -> Vec<u8> {
        let mut arena = Arena::<Global, D>::with_parameters(config(256), Global).unwrap();
        for i in 0..20_u8 {
            arena.alloc([i; 20]);
        }
        arena.alloc_slice_fill(2000, 99_u8);
        let mut marks = vec![];
        for chunk in arena.chunks() {
            // SAFETY: there is no padding between bytes, so that all are initialised.
            let bytes = chunk.iter().map(|byte| unsafe { byte.assume_init() });
            let mut bytes: Vec<u8> = bytes.collect();
            if bytes[0] > bytes[bytes.len() - 1] {
                bytes.reverse();
            }
            marks.append(&mut bytes);
        }
        marks
    }
    let expected: Vec<u8> =
        (0..20).flat_map(|i| [i; 20]).chain(std::iter::repeat_n(99, 2000)).collect();
    assert_eq!(marks::<Up>(), expected);
    assert_eq!(marks::<Down>(), expected);
    assert_eq!(Arena::new().chunks().count(), 0);
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
