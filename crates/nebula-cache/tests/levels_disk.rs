//! The level on disk: what survives, what is never served, and how large the file gets.
#![cfg(feature = "disk")]

mod common;

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, SystemTime},
};

use nebula_cache::{
    CacheConfig, Codec, ConcurrentComputeCache, Decoded, DiskLevel, Hit, Level, LevelError,
    MultiLevelCache, OnDamage,
};
use nebula_memory_core::{ByteSize, ManualClock};
use nebula_testing::Rng;
use tempfile::TempDir;

type Disk = DiskLevel<u64, Vec<u64>>;

const SECOND: Duration = Duration::from_secs(1);

/// In memory where that is possible: what the tests do to files does not need a disk.
fn folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

fn open(path: &Path) -> Result<Disk, LevelError> {
    DiskLevel::<u64, Vec<u64>>::builder(path).capacity(ByteSize::mib(8)).open()
}

/// A value that says whose it is, many times.
fn value(key: u64, version: u64, length: usize) -> Vec<u64> {
    (0..length as u64).map(|i| key ^ (version << 32) ^ (i << 48)).collect()
}

/// The version of a value of `key`; panics if it is not one.
fn version(key: u64, found: &[u64]) -> u64 {
    let version = (found[0] ^ key) >> 32 & 0xFFFF;
    assert_eq!(found, value(key, version, found.len()), "what is served is what was written");
    version
}

#[test]
fn frames_that_do_not_check_are_no_values() {
    let codec = Codec::new(7);
    let (key, now) = (codec.key("key").unwrap(), SystemTime::now());
    let frame = codec.encode(&key, "value", Some(now + SECOND)).unwrap();
    let read = |frame: &[u8], now| codec.decode::<String>(&key, frame, now);
    let Decoded::Value(hit) = read(&frame, now) else { panic!("{:?}", read(&frame, now)) };
    assert_eq!(hit.value, "value");
    assert!(hit.ttl.unwrap() <= SECOND && hit.ttl.unwrap() > SECOND / 2);
    assert_eq!(read(&frame, now + SECOND), Decoded::Expired);
    assert_eq!(Codec::new(8).decode::<String>(&key, &frame, now), Decoded::OtherVersion);
    // Frames know of milliseconds; nobody lives longer for it.
    let (start, late) = (SystemTime::UNIX_EPOCH + SECOND, Duration::from_micros(1900));
    let in_time = codec.encode(&key, "value", Some(start + Duration::from_millis(2))).unwrap();
    let Decoded::Value(hit) = read(&in_time, start + late) else { panic!("it lives") };
    assert_eq!(hit.ttl, Some(Duration::from_micros(100)));
    let other = codec.key("kez").unwrap();
    assert_eq!(codec.decode::<String>(&other, &frame, now), Decoded::Corrupt);
    for length in 0..frame.len() {
        assert_eq!(read(&frame[..length], now), Decoded::Corrupt, "cut to {length}");
    }
    for bit in 0..frame.len() * 8 {
        let mut flipped = frame.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(read(&flipped, now), Decoded::Corrupt, "bit {bit}");
    }
    let mut longer = frame.clone();
    longer.push(0);
    assert_eq!(read(&longer, now), Decoded::Corrupt);
    // Sound, but not of this type.
    let number = codec.encode(&key, &(1_u8, "value"), None).unwrap();
    assert_eq!(read(&number, now), Decoded::Corrupt);
}

#[test]
fn what_was_written_is_there_after_a_restart_with_the_rest_of_its_time() {
    let folder = folder();
    let path = folder.path().join("cache");
    let now = Arc::new(AtomicU64::new(1_000_000));
    let open = || {
        let now = Arc::clone(&now);
        let clock = move || SystemTime::UNIX_EPOCH + Duration::from_secs(now.load(SeqCst));
        DiskLevel::<u64, String>::builder(&path).wall_clock(clock).open().unwrap()
    };
    let disk = open();
    disk.put(&1, &"one".to_owned(), None).unwrap();
    disk.put(&2, &"two".to_owned(), Some(10 * SECOND)).unwrap();
    disk.put(&3, &"three".to_owned(), Some(2 * SECOND)).unwrap();
    disk.put(&4, &"four".to_owned(), None).unwrap();
    disk.put(&4, &"vier".to_owned(), None).unwrap();
    disk.put(&5, &"five".to_owned(), None).unwrap();
    disk.remove(&5).unwrap();
    drop(disk);
    now.fetch_add(4, SeqCst);
    let disk = open();
    assert_eq!(disk.get(&1).unwrap(), Some(Hit::new("one".to_owned(), None)));
    assert_eq!(disk.get(&2).unwrap(), Some(Hit::new("two".to_owned(), Some(6 * SECOND))));
    assert_eq!((disk.get(&3).unwrap(), disk.get(&5).unwrap()), (None, None));
    assert_eq!(disk.get(&4).unwrap().unwrap().value, "vier");
    let stats = disk.stats();
    assert_eq!((stats.entries, stats.expired, stats.corrupt), (3, 1, 0));
    now.fetch_add(6, SeqCst);
    assert_eq!(disk.get(&2).unwrap(), None);
    assert_eq!(disk.stats().entries, 2);
    // One level at a time has the file.
    let again = DiskLevel::<u64, String>::builder(&path).on_damage(OnDamage::StartAnew).open();
    assert!(matches!(again, Err(LevelError::Io(_))), "{again:?}");
    assert_eq!(disk.get(&1).unwrap().unwrap().value, "one");
}

#[test]
fn entries_of_another_version_are_misses() {
    let folder = folder();
    let path = folder.path().join("cache");
    let open = |version| DiskLevel::<u64, u64>::builder(&path).version(version).open().unwrap();
    let disk = open(1);
    disk.put(&1, &10, None).unwrap();
    drop(disk);
    let disk = open(2);
    assert_eq!((disk.get(&1).unwrap(), disk.stats().entries), (None, 0));
}

#[test]
fn a_removal_that_was_flushed_stays_and_so_does_a_clear() {
    let folder = folder();
    let path = folder.path().join("cache");
    let disk = open(&path).unwrap();
    (0..100).for_each(|key| disk.put(&key, &value(key, 1, 4), None).unwrap());
    disk.flush().unwrap();
    disk.remove(&7).unwrap();
    assert_eq!(disk.get(&7).unwrap(), None);
    disk.flush().unwrap();
    // As it is on disk now, whatever the level still does.
    let copy = folder.path().join("copy");
    std::fs::copy(&path, &copy).unwrap();
    let copied = open(&copy).unwrap();
    assert_eq!((copied.get(&7).unwrap(), copied.stats().entries), (None, 99));
    disk.put(&200, &value(200, 1, 4), None).unwrap();
    disk.clear().unwrap();
    assert_eq!((disk.get(&1).unwrap(), disk.get(&200).unwrap()), (None, None));
    disk.put(&1, &value(1, 2, 4), None).unwrap();
    drop(disk);
    let disk = open(&path).unwrap();
    assert_eq!((disk.stats().entries, version(1, &disk.get(&1).unwrap().unwrap().value)), (1, 2));
}

#[test]
fn each_write_is_on_disk_at_once_if_that_is_wished() {
    let folder = folder();
    for (sync, wanted) in [(true, 1), (false, 0)] {
        let path = folder.path().join(format!("cache {sync}"));
        let disk = Disk::builder(&path).sync_each_write(sync).open().unwrap();
        disk.put(&1, &value(1, 1, 4), None).unwrap();
        let copy = folder.path().join(format!("copy {sync}"));
        std::fs::copy(&path, &copy).unwrap();
        assert_eq!(open(&copy).unwrap().stats().entries, wanted);
    }
}

#[test]
fn the_file_keeps_to_its_capacity_and_the_oldest_goes_first() {
    let folder = folder();
    for length in [4, 100, 4000] {
        let path = folder.path().join(format!("cache {length}"));
        let disk = Disk::builder(&path).capacity(ByteSize::mib(4)).open().unwrap();
        let count = if length == 4 { 40_000 } else { 10_000_000 / (8 * length as u64 + 60) };
        for key in 0..count {
            disk.put(&key, &value(key, 1, length), None).unwrap();
        }
        disk.flush().unwrap();
        let stats = disk.stats();
        assert!(stats.file_bytes <= 4 << 20, "{length}: {stats:?}");
        assert!(stats.entries > 0 && stats.bytes > 1 << 19, "{length}: {stats:?}");
        assert_eq!(stats.entries + stats.evicted, count, "{length}: {stats:?}");
        let oldest = count - stats.entries;
        for key in (0..count).step_by(7) {
            assert_eq!(disk.get(&key).unwrap().is_some(), key >= oldest, "{key}");
        }
        let last = count - 1;
        let large = disk.put(&last, &value(last, 2, 1 << 17), None).unwrap_err();
        assert!(matches!(large, LevelError::Refused(_)));
        assert_eq!(disk.get(&last).unwrap(), None, "no older value either");
    }
}

#[test]
fn the_file_keeps_to_its_capacity_whatever_the_sizes_and_at_every_moment() {
    let folder = folder();
    let path = folder.path().join("cache");
    let open = |mib: u64| {
        Disk::builder(&path).capacity(ByteSize::mib(usize::try_from(mib).unwrap())).open().unwrap()
    };
    let mut random = Rng::new(9);
    for mib in [16_u64, 4] {
        // (What a larger one left is too much for the smaller one.)
        let disk = open(mib);
        assert!(disk.stats().file_bytes <= mib << 20, "{mib}: {:?}", disk.stats());
        for _ in 0..800 {
            let key = random.below(400) as u64;
            let length = 1 << random.below(15);
            disk.put(&key, &value(key, 1, random.below(length) + 1), None).unwrap();
            if random.below(50) == 0 {
                disk.remove(&(key / 2)).unwrap();
            }
            let stats = disk.stats();
            assert!(stats.file_bytes <= mib << 20, "{mib}: {stats:?}");
        }
        assert!(disk.stats().bytes > mib << 17, "{:?}", disk.stats());
    }
}

#[test]
fn maintenance_removes_what_is_expired_a_bounded_number_at_a_time() {
    let folder = folder();
    let now = Arc::new(AtomicU64::new(1_000));
    let told = Arc::clone(&now);
    let clock = move || SystemTime::UNIX_EPOCH + Duration::from_secs(told.load(SeqCst));
    let disk = DiskLevel::<u64, u64>::builder(folder.path().join("cache")).wall_clock(clock);
    let disk = disk.open().unwrap();
    for key in 0..100 {
        disk.put(&key, &key, (key % 2 == 0).then_some(SECOND)).unwrap();
    }
    assert_eq!(disk.maintain(100).unwrap(), 0);
    now.fetch_add(1, SeqCst);
    assert_eq!(disk.maintain(0).unwrap(), 0);
    let went: Vec<usize> = (0..4).map(|_| disk.maintain(40).unwrap()).collect();
    assert_eq!(went.iter().sum::<usize>(), 50, "{went:?}");
    assert!(went.iter().all(|&went| went <= 40));
    assert_eq!((disk.stats().entries, disk.stats().expired), (50, 50));
}

#[test]
fn a_level_on_disk_serves_a_cache_after_a_restart() {
    let folder = folder();
    let path = folder.path().join("cache");
    let start = || {
        let config = CacheConfig::builder().entries(10).build().unwrap();
        let first = ConcurrentComputeCache::<u64, Vec<u64>>::builder(config)
            .with_expiry()
            .with_clock(Arc::new(ManualClock::new()) as _);
        MultiLevelCache::builder(first).level(open(&path).unwrap()).build().unwrap()
    };
    let cache = start();
    for key in 0..100 {
        cache.get_or_compute(&key, || value(key, 1, 8)).unwrap();
    }
    cache.flush(common::LIMIT).unwrap();
    drop(cache);
    let cache = start();
    for key in 0..100 {
        assert_eq!(version(key, &cache.get_or_compute(&key, || unreachable!()).unwrap()), 1);
    }
    assert_eq!(cache.stats().levels[0].hits, 100);
}

/// A file with a few hundred entries of various sizes, closed.
fn sound_file(path: &Path) -> u64 {
    let disk = open(path).unwrap();
    for key in 0..400 {
        disk.put(&key, &value(key, key % 5, 1 + usize::try_from(key % 97).unwrap()), None).unwrap();
        if key % 50 == 0 {
            disk.flush().unwrap();
        }
    }
    400
}

/// Uses a damaged file in every way; whether it could be opened.
fn use_damaged(path: &Path, what: &str) -> bool {
    let opened = open(path);
    let Ok(disk) = opened else {
        let error = opened.unwrap_err();
        assert!(matches!(error, LevelError::Damaged(_)), "{what}: {error}");
        if !what.ends_with('0') {
            return false;
        }
        // Anew, it is empty and works.
        let anew = Disk::builder(path).on_damage(OnDamage::StartAnew).open().unwrap();
        assert_eq!((anew.stats().entries, anew.get(&1).unwrap()), (0, None));
        anew.put(&1, &value(1, 1, 3), None).unwrap();
        anew.flush().unwrap();
        return false;
    };
    for key in 0..400 {
        if let Ok(Some(hit)) = disk.get(&key) {
            assert_eq!(version(key, &hit.value), key % 5, "{what}");
        }
    }
    // Errors are errors; nothing panics.
    let _ = disk.put(&1, &value(1, 9, 3), None);
    let _ = disk.remove(&2);
    let _ = disk.flush();
    let _ = disk.maintain(1000);
    let _ = disk.clear();
    true
}

#[test]
fn a_damaged_file_is_an_error_or_a_miss_and_never_a_value() {
    let folder = folder();
    let (sound, path) = (folder.path().join("sound"), folder.path().join("damaged"));
    sound_file(&sound);
    let bytes = std::fs::read(&sound).unwrap();
    let rounds = std::env::var("NEBULA_DAMAGE_ROUNDS").map_or(24, |rounds| rounds.parse().unwrap());
    let mut random = Rng::new(1);
    let (mut flips, mut opened) = (0, 0);
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    for round in 0..rounds {
        let mut damaged = bytes.clone();
        let kind = round % 4;
        match kind {
            // A few bits.
            0 | 1 => {
                for _ in 0..=random.below(3) {
                    // Headers and inner pages as often as leaves.
                    let end = if kind == 0 { used } else { used.min(16 << 10) };
                    let at = random.below(end);
                    damaged[at] ^= 1 << random.below(8);
                }
                flips += 1;
            }
            // A page of something else.
            2 => {
                let at = random.below(used) & !0xFFF;
                let end = damaged.len().min(at + 4096);
                damaged[at..end].fill_with(|| random.next_u64().to_le_bytes()[0]);
            }
            // The end is missing.
            _ => damaged.truncate(random.below(bytes.len())),
        }
        std::fs::write(&path, &damaged).unwrap();
        opened += u64::from(use_damaged(&path, &format!("round {round}")));
    }
    assert!(flips > 0 && opened < rounds, "some damage is found when the file is opened");
    eprintln!("{rounds} damaged files, {opened} of them could be opened");
}

#[test]
fn garbage_and_nothing_are_told_apart() {
    let folder = folder();
    let path = folder.path().join("file");
    for garbage in [&b"This is a text."[..], &[0xAB; 10_000], &vec![0; 100_000]] {
        std::fs::write(&path, garbage).unwrap();
        assert!(!use_damaged(&path, "garbage 0"));
    }
    std::fs::write(&path, b"").unwrap();
    assert!(use_damaged(&path, "an empty file is a new one"));
    let missing = open(&folder.path().join("no folder").join("file")).unwrap_err();
    assert!(matches!(missing, LevelError::Io(_)), "{missing}");
    let error = Disk::builder(&path).capacity(ByteSize::kib(1)).open().unwrap_err();
    assert!(error.to_string().contains("4 MiB"), "{error}");
}

/// Where the child of the crash test writes.
const CHILD: &str = "NEBULA_CACHE_CRASH_CHILD";

/// No test: what the child of the crash test does, until it is killed.
#[test]
fn crash_child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let disk = open(Path::new(&path)).unwrap();
    for round in 1.. {
        for key in 0..500_u64 {
            let length = usize::try_from(key % 200).unwrap() + 1;
            disk.put(&key, &value(key, round % 0x1_0000, length), None).unwrap();
        }
        // One key of each round is removed in the next.
        disk.put(&(1000 + round), &value(1000 + round, 1, 1), None).unwrap();
        disk.remove(&(999 + round)).unwrap();
        disk.flush().unwrap();
        println!("flushed {round}");
    }
}

#[test]
fn a_killed_process_leaves_nothing_corrupt() {
    let folder = folder();
    let path = folder.path().join("cache");
    let mut random = Rng::new(3);
    let mut flushed_at_all = 0;
    for _ in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash_child", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, flushes) = mpsc::channel();
        let reader = thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            let flushed =
                lines.filter_map(|line| line.split_once("flushed ")?.1.parse::<u64>().ok());
            let tell = |flushed: &u64| sender.send(*flushed).unwrap_or_default();
            flushed.inspect(tell).last()
        });
        // Somewhere in the midst of its work.
        for _ in 0..random.below(4) {
            flushes.recv_timeout(common::LIMIT).unwrap();
        }
        thread::sleep(Duration::from_millis(random.below(100) as u64));
        // SIGKILL, on Unix.
        child.kill().unwrap();
        child.wait().unwrap();
        let flushed = reader.join().unwrap();
        flushed_at_all += flushed.unwrap_or(0);
        let disk = open(&path).unwrap();
        assert_eq!(disk.stats().corrupt, 0);
        let mut seen = HashMap::new();
        for key in 0..500 {
            if let Some(hit) = disk.get(&key).unwrap() {
                *seen.entry(version(key, &hit.value)).or_insert(0) += 1;
            }
        }
        if let Some(flushed) = flushed {
            assert_eq!(seen.values().sum::<u64>(), 500, "what was flushed is there");
            let oldest = *seen.keys().min().unwrap();
            assert!(oldest >= flushed, "{oldest} after {flushed} was flushed");
            for removed in 1001..1000 + flushed {
                assert_eq!(disk.get(&removed).unwrap(), None, "{flushed} was flushed");
            }
        }
    }
    assert!(flushed_at_all > 0, "the child got somewhere");
}
