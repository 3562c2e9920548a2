//! Collections that grow in an arena, and blocks that are freed at once.

use std::{alloc::Layout, hint::black_box};

use nebula_memory_core::allocator_api2::{alloc::Allocator, vec::Vec as Vec2};

use super::{Bump, ROOM, case, contender};
use crate::Case;

/// Numbers in a vector.
const LEN: usize = 1024;

/// Pushes between two resets.
const BATCH: usize = 16 * LEN;

/// One vector grows at the end of the arena, then the next.
#[inline(always)]
pub(super) fn one_vector(allocator: impl Allocator + Copy, now: usize) {
    let mut left = now;
    while left > 0 {
        let len = left.min(LEN);
        let mut numbers = Vec2::new_in(allocator);
        for i in 0..len {
            numbers.push(i as u64);
        }
        black_box(&numbers[..]);
        left -= len;
    }
}

/// The same with a loop that counts down: what the compiler makes of a push depends so much on the
/// loop around it that one loop alone would favour one arena or another.
#[inline(always)]
fn one_vector_down(allocator: impl Allocator + Copy, now: usize) {
    let mut left = now;
    while left > 0 {
        let len = left.min(LEN);
        let mut numbers = Vec2::new_in(allocator);
        for i in (0..len).rev() {
            numbers.push(i as u64);
        }
        black_box(&numbers[..]);
        left -= len;
    }
}

/// Two vectors grow in turn, so that each is in the other's way.
#[inline(always)]
pub(super) fn two_vectors(allocator: impl Allocator + Copy, now: usize) {
    let mut left = now;
    while left > 0 {
        let len = left.min(2 * LEN);
        let mut numbers = Vec2::new_in(allocator);
        let mut others = Vec2::new_in(allocator);
        for i in 0..len / 2 {
            numbers.push(i as u64);
            others.push(i as u64);
        }
        black_box((&numbers[..], &others[..]));
        left -= len;
    }
}

/// Blocks of 64 bytes, each freed before the next.
#[inline(always)]
pub(super) fn pairs(allocator: impl Allocator + Copy, now: usize) {
    let layout = Layout::new::<[u64; 8]>();
    for _ in 0..now {
        let block = allocator.allocate(layout).expect("64 bytes").cast();
        // SAFETY: allocated above by the same allocator with the same layout, and used by nobody
        // else.
        unsafe { allocator.deallocate(black_box(block), layout) };
    }
}

fn one<A: Bump>(arena: &mut A, _: &[()], now: usize) {
    one_vector(arena.allocator(), now);
}

fn one_down<A: Bump>(arena: &mut A, _: &[()], now: usize) {
    one_vector_down(arena.allocator(), now);
}

fn two<A: Bump>(arena: &mut A, _: &[()], now: usize) {
    two_vectors(arena.allocator(), now);
}

fn pair<A: Bump>(arena: &mut A, _: &[()], now: usize) {
    pairs(arena.allocator(), now);
}

fn nothing() -> Vec<()> {
    Vec::new()
}

/// The cases.
pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("push, one vector", BATCH, nothing, one),
        case!("push, one vector", minimum alignment 8, BATCH, nothing, one),
        case!("push, one vector, counted down", BATCH, nothing, one_down),
        case!("push, two vectors in turn", BATCH, nothing, two),
        case!("push, two vectors in turn", minimum alignment 8, BATCH, nothing, two),
        case!("64 B pair, as allocator", ROOM / 8, nothing, pair),
        case!("64 B pair, as allocator", minimum alignment 8, ROOM / 8, nothing, pair),
    ]
}
