//! Values, strings, slices, and blocks of any layout.

use std::{alloc::Layout, hint::black_box};

use nebula_memory_core::allocator_api2::alloc::Allocator;

use super::{Bump, ROOM, case, contender};
use crate::Case;

fn number<A: Bump>(arena: &mut A, _: &[()], now: usize) {
    for _ in 0..now {
        black_box(arena.value(7_u64));
    }
}

fn line<A: Bump>(arena: &mut A, lines: &[[u64; 8]], now: usize) {
    let line = &lines[0];
    for _ in 0..now {
        black_box(arena.value(*line));
    }
}

fn text<A: Bump>(arena: &mut A, texts: &[String], now: usize) {
    for text in &texts[..now] {
        black_box(arena.text(text));
    }
}

fn slice<A: Bump>(arena: &mut A, slices: &[Vec<u32>], now: usize) {
    for slice in &slices[..now] {
        black_box(arena.slice(slice));
    }
}

fn block<A: Bump>(arena: &mut A, layouts: &[Layout], now: usize) {
    let allocator = arena.allocator();
    for layout in &layouts[..now] {
        let block = allocator.allocate(*layout).expect("few bytes");
        black_box(block.cast::<u8>());
    }
}

/// Numbers below `below` in an order that the processor cannot guess.
pub(super) fn random() -> impl FnMut(usize) -> usize {
    let mut seed = 1_u64;
    move |below| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(seed >> 33).unwrap_or_default() % below
    }
}

const TEXTS: usize = 2048;

pub(super) fn texts() -> Vec<String> {
    let mut random = random();
    (0..TEXTS).map(|_| "x".repeat(1 + random(256))).collect()
}

fn slices() -> Vec<Vec<u32>> {
    let mut random = random();
    (0..TEXTS).map(|_| vec![7; 1 + random(32)]).collect()
}

const LAYOUTS: usize = 4096;

fn layouts() -> Vec<Layout> {
    let mut random = random();
    (0..LAYOUTS)
        .map(|_| Layout::from_size_align(1 + random(64), 1 << random(5)).expect("small"))
        .collect()
}

fn nothing() -> Vec<()> {
    Vec::new()
}

fn seven() -> Vec<[u64; 8]> {
    vec![[7; 8]]
}

/// The cases.
pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("u64", ROOM / 8, nothing, number),
        case!("u64", minimum alignment 8, ROOM / 8, nothing, number),
        case!("64 B value", ROOM / 64, seven, line),
        case!("64 B value", minimum alignment 8, ROOM / 64, seven, line),
        case!("str of 1-256 B", TEXTS, texts, text),
        case!("str of 1-256 B", minimum alignment 8, TEXTS, texts, text),
        case!("slice of 1-32 u32", TEXTS, slices, slice),
        case!("any layout, as allocator", LAYOUTS, layouts, block),
        case!("any layout, as allocator", minimum alignment 8, LAYOUTS, layouts, block),
    ]
}
