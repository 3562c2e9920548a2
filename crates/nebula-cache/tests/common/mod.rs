//! What the test files share.
#![allow(dead_code, unused_imports, reason = "each test file uses a part of it")]

pub(crate) mod async_shelf;
pub(crate) mod counting;
pub(crate) mod faces;
pub(crate) mod hashes;
pub(crate) mod ops;
pub(crate) mod shelf;
pub(crate) mod tasks;

use std::{
    hash::{BuildHasherDefault, DefaultHasher},
    thread,
    time::Duration,
};

use nebula_cache::PolicyKind;

/// Hashes that are the same in every run: for tests that depend on which keys share a shard.
pub(crate) type SameHashes = BuildHasherDefault<DefaultHasher>;

/// More than any test takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Every policy.
pub(crate) const KINDS: [PolicyKind; 8] = [
    PolicyKind::Fifo,
    PolicyKind::Lru,
    PolicyKind::Lfu,
    PolicyKind::Arc,
    PolicyKind::S3Fifo,
    PolicyKind::Sieve,
    PolicyKind::Steady,
    PolicyKind::WTinyLfu,
];

/// Waits until `done`, without a guess at how long that takes.
pub(crate) fn until(done: impl Fn() -> bool) {
    while !done() {
        thread::yield_now();
    }
}
