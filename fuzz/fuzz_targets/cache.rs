//! Sequences of operations on a cache of any kind, by the driver of the cache's own tests: what it
//! holds is what a plain map holds, and its inside and its books are in order after every step.

#![no_main]

use std::panic;

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/nebula-cache/tests/common/mod.rs"]
mod common;

fuzz_target!(
    // The driver catches panics: those that it throws itself, and others to add in which step they
    // were. Without this they would be the end already.
    init: drop(panic::take_hook()),
    |bytes: &[u8]| common::ops::run(bytes)
);
