//! Several levels beside the cache that is their first, and the level on disk beside plain files.
//! Files are timed by the wall: what is waited for is what they cost.

use std::{
    cell::Cell,
    fs,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use nebula_cache::{ConcurrentComputeCache, DiskLevel, Level, MultiLevelCache, Policy};
use nebula_memory_core::ByteSize;
use tempfile::TempDir;

use super::maps::{Made, Map, Ours, account, config, hasher};
use crate::Contender;

/// Ours, with another below it.
pub(super) type Levels<P> = MultiLevelCache<u64, u64, Made<P>>;

impl<P: Policy> Map for Levels<P> {
    fn with_room_for(entries: usize) -> Self {
        let first = ConcurrentComputeCache::builder(config(entries)).with_policy::<P>();
        let first = first.with_account(account()).with_hasher(hasher());
        let below = <Ours<P> as Map>::with_room_for(2 * entries);
        let cache = MultiLevelCache::builder(first).level(below);
        cache.build().expect("room in the budget")
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u64> {
        self.get(&key)
    }

    #[inline]
    fn insert(&self, key: u64) {
        self.insert(key, key).expect("room for one");
    }

    #[inline]
    fn get_or_insert(&self, key: u64) -> u64 {
        self.get_or_compute(&key, || key).expect("no circle")
    }
}

/// Values in files.
const FILES: u64 = if super::SMALL { 50 } else { 5_000 };

/// Bytes of a value.
const LENGTH: usize = 1000;

/// A value for each key.
trait Files {
    fn new() -> Self;
    #[allow(clippy::ptr_arg, reason = "it is what a level is given")]
    fn put(&self, key: u64, value: &Vec<u8>);
    fn get(&self, key: u64) -> usize;
}

/// The level on disk.
struct Disk {
    level: DiskLevel<u64, Vec<u8>>,
    _folder: TempDir,
}

impl Files for Disk {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let level = DiskLevel::builder(folder.path().join("cache")).capacity(ByteSize::mib(64));
        Self { level: level.open().expect("a file"), _folder: folder }
    }

    fn put(&self, key: u64, value: &Vec<u8>) {
        self.level.put(&key, value, None).expect("a file that can be written");
    }

    fn get(&self, key: u64) -> usize {
        self.level.get(&key).expect("a sound file").map_or(0, |hit| hit.value.len())
    }
}

/// A file for each value, with nothing checked and nothing bounded.
struct Plain(TempDir);

impl Plain {
    fn path(&self, key: u64) -> std::path::PathBuf {
        self.0.path().join(format!("{key:016x}"))
    }
}

impl Files for Plain {
    fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    fn put(&self, key: u64, value: &Vec<u8>) {
        // Whole or not at all, as a cache has to.
        let (path, part) = (self.path(key), self.0.path().join("part"));
        fs::write(&part, value).expect("a file that can be written");
        fs::rename(part, path).expect("a file that can be renamed");
    }

    fn get(&self, key: u64) -> usize {
        fs::read(self.path(key)).map_or(0, |value| value.len())
    }
}

/// A store of the files, made once, with every key in it.
fn stocked<F: Files + 'static>() -> impl Fn() -> Arc<F> {
    crate::kept(|| {
        let files = F::new();
        (0..FILES).for_each(|key| files.put(key, &vec![7; LENGTH]));
        files
    })
}

fn timed<F: Files + 'static>(name: &'static str, op: impl Fn(&F, u64) + 'static) -> Contender {
    let (setup, next) = (stocked::<F>(), Cell::new(0_u64));
    Contender::timed(name, move |iterations| -> Duration {
        let files = setup();
        let start = Instant::now();
        for _ in 0..iterations {
            next.set(next.get().wrapping_add(1));
            op(&files, super::scatter(next.get()) % FILES);
        }
        start.elapsed()
    })
}

fn get<F: Files + 'static>(name: &'static str) -> Contender {
    timed(name, |files: &F, key| assert_ne!(black_box(files.get(key)), 0))
}

fn put<F: Files + 'static>(name: &'static str) -> Contender {
    let value = vec![9; LENGTH];
    timed(name, move |files: &F, key| files.put(key, &value))
}

/// The level on disk, and its rival.
pub(super) fn disk_get() -> (Contender, Contender) {
    (get::<Disk>("DiskLevel"), get::<Plain>("plain files"))
}

/// As above, for writes.
pub(super) fn disk_put() -> (Contender, Contender) {
    (put::<Disk>("DiskLevel"), put::<Plain>("plain files, renamed"))
}
