//! Batch after batch of small values, a few of them alive at a time.

use std::{hint::black_box, time::Duration};

use nebula_arena::{ArenaConfig, Keep, StreamingArena};

use super::{BUDGET, Bump, BumpScope, Bumpalo, Ours};
use crate::{Case, Contender, Stopwatch};

/// Batches that are alive at once.
const ALIVE: usize = 4;

/// Pairs of a number and a text in a batch.
const PAIRS: u64 = 500;

/// A batch: a thousand small values.
#[inline(always)]
fn fill<A: Bump>(arena: &A, words: &[String]) {
    for (number, word) in (0..PAIRS).zip(words.iter().cycle()) {
        black_box(arena.value([number; 2]));
        black_box(arena.text(word));
    }
}

fn words() -> Vec<String> {
    let mut random = super::values::random();
    (0..256).map(|_| "w".repeat(1 + random(24))).collect()
}

/// Retires the oldest batch again and again, which `batch` is given, and makes one more.
fn stream<B>(iterations: u64, mut batch: impl FnMut(&[String], Option<B>) -> B) -> Duration {
    let words = words();
    let mut alive = [const { None }; ALIVE];
    let mut next = move || {
        alive.rotate_left(1);
        let retired = alive[ALIVE - 1].take();
        alive[ALIVE - 1] = Some(batch(&words, retired));
    };
    for _ in 0..2 * ALIVE {
        next();
    }
    let watch = Stopwatch::start();
    for _ in 0..iterations {
        next();
    }
    watch.elapsed()
}

/// A stream of ours: its buffers go round by themselves.
fn streaming() -> Contender {
    Contender::timed("ours", |iterations| {
        let allocator = BUDGET.allocator();
        let config = ArenaConfig { keep: Keep::All, ..ArenaConfig::default() };
        let arena = StreamingArena::with_config_in(ALIVE, &config, &allocator);
        let arena = arena.expect("a valid config");
        stream(iterations, |words, retired| {
            drop(retired);
            let batch = arena.try_batch().expect("the oldest one has retired");
            fill::<Ours>(&batch, words);
            batch
        })
    })
}

/// A fresh arena for every batch.
fn fresh<A: Bump>(name: &'static str) -> Contender {
    Contender::timed(name, |iterations| {
        stream(iterations, |words, retired| {
            drop(retired);
            let arena = A::fresh();
            fill(&arena, words);
            arena
        })
    })
}

/// A ring of arenas made by hand; batches retire in the order in which they were made.
fn ring<A: Bump>(name: &'static str) -> Contender {
    Contender::timed(name, |iterations| {
        stream(iterations, |words, retired| {
            let mut arena = retired.unwrap_or_else(A::fresh);
            arena.reset();
            fill(&arena, words);
            arena
        })
    })
}

/// The cases.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("stream, batches of 1000 values", streaming())
            .unit("ns/batch")
            .peer(fresh::<BumpScope>("bump-scope"))
            .peer(fresh::<Bumpalo>("bumpalo"))
            .peer(ring::<BumpScope>("bump-scope ring"))
            .peer(ring::<Bumpalo>("bumpalo ring")),
    ]
}
