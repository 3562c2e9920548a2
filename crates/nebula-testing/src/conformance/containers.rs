//! Boxes, vectors and hash maps over an allocator.

use std::alloc::Layout;

use allocator_api2::{boxed::Box as ABox, vec::Vec as AVec};
use hashbrown::{DefaultHashBuilder, HashMap};
use nebula_memory_core::{Allocator, TypedAllocator};

use super::options::{AllocatorOptions, layout};
use crate::DropCounter;

pub(super) fn boxes<A: Allocator>(options: &AllocatorOptions, allocator: &A) {
    if !options.serves(Layout::new::<[u64; 8]>()) {
        return;
    }
    let counter = DropCounter::new();
    let number = ABox::try_new_in([7_u64; 8], allocator).expect("room for a box");
    let probe = allocator.try_new(counter.probe(1)).expect("room for a probe");
    let slice = allocator.try_new_slice(3, |i| i as u64).expect("room for a slice");
    let unit = allocator.try_new(()).expect("a value without size");
    assert_eq!((*number, probe.tag(), &slice[..]), ([7; 8], 1, &[0, 1, 2][..]));
    // Not in the order in which they were made, nor in the reverse.
    drop(probe);
    drop(unit);
    drop(number);
    drop(slice);
    counter.assert_all_dropped();
}

/// Whether a container that asked for `wanted` bytes so far may be refused.
fn full(options: &AllocatorOptions, wanted: usize) -> bool {
    wanted > options.max_size || options.capacity.is_some_and(|c| wanted > c / 4)
}

pub(super) fn vectors<A: Allocator>(options: &AllocatorOptions, allocator: &A) {
    if !options.serves(Layout::new::<u64>()) {
        return;
    }
    let mut numbers = AVec::new_in(allocator);
    for i in 0..if cfg!(miri) { 100 } else { 1000_u64 } {
        // Growing to twice the size, it takes the old block and the new one for a moment; one that
        // reuses nothing has given out all the earlier ones, too.
        if numbers.try_reserve(1).is_err() {
            let bytes = (numbers.len() + 1) * 8 * 4;
            assert!(full(options, bytes), "a vector of {} numbers cannot grow", numbers.len());
            break;
        }
        numbers.push(i);
    }
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64));
    let kept = numbers.len() / 3;
    numbers.truncate(kept);
    // Not `shrink_to_fit`, which ends the process where an allocator without reuse is full.
    let copy = {
        let mut copy = AVec::new_in(allocator);
        copy.try_reserve_exact(kept).is_ok().then(|| {
            copy.extend_from_slice(&numbers);
            copy
        })
    };
    drop(numbers);
    if let Some(copy) = copy {
        assert!(copy.iter().copied().eq(0..kept as u64));
    }
}

pub(super) fn hash_maps<A: Allocator>(options: &AllocatorOptions, allocator: &A) {
    // The smallest table: four buckets of 16 bytes and their control bytes, 16-aligned.
    if !options.serves(layout(128, 16)) {
        return;
    }
    let mut map = HashMap::with_hasher_in(DefaultHashBuilder::default(), allocator);
    for i in 0..if cfg!(miri) { 60 } else { 700_u64 } {
        if map.try_reserve(1).is_err() {
            let bytes = (map.len() + 8) * 17 * 8;
            assert!(full(options, bytes), "a map of {} entries cannot grow", map.len());
            break;
        }
        map.insert(i, !i);
    }
    let len = map.len() as u64;
    assert!((0..len).all(|i| map.get(&i) == Some(&!i)));
    map.retain(|i, _| i % 3 == 0);
    assert!((0..len).all(|i| map.contains_key(&i) == (i % 3 == 0)));
}

/// Containers side by side, growing in turn and dropped in every order.
pub(super) fn mixed_containers<A: Allocator>(options: &AllocatorOptions, allocator: &A) {
    const ORDERS: [[usize; 3]; 6] =
        [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    if !options.serves(layout(1024, 16)) {
        return;
    }
    for order in ORDERS {
        let counter = DropCounter::new();
        let mut bytes = Some(AVec::new_in(allocator));
        let mut probes = Some(AVec::new_in(allocator));
        let mut map = Some(HashMap::with_hasher_in(DefaultHashBuilder::default(), allocator));
        for i in 0..20_u8 {
            if let Some(bytes) = &mut bytes {
                if bytes.try_reserve(1).is_ok() {
                    bytes.push(i);
                }
            }
            if let Some(probes) = &mut probes {
                if probes.try_reserve(1).is_ok() {
                    probes.push(counter.probe(u64::from(i)));
                }
            }
            if let Some(map) = &mut map {
                if map.try_reserve(1).is_ok() {
                    map.insert(i, counter.probe(u64::from(i)));
                }
            }
        }
        for which in order {
            assert!(bytes.iter().flatten().zip(0..).all(|(a, b)| *a == b));
            assert!(probes.iter().flatten().zip(0..).all(|(probe, i)| probe.tag() == i));
            let mut entries = map.iter().flatten();
            assert!(entries.all(|(i, probe)| probe.tag() == u64::from(*i)));
            match which {
                0 => bytes = None,
                1 => probes = None,
                _ => map = None,
            }
        }
        counter.assert_all_dropped();
    }
}
