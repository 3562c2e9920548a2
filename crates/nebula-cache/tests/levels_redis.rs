//! The level on a server, against a real `redis-server` where there is one on the path.
#![cfg(feature = "redis")]

mod common;

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use nebula_cache::{
    AsyncMultiLevelCache, Blocking, Breaker, BreakerState, CacheConfig, ConcurrentComputeCache,
    EntryOptions, Hit, Level, LevelError, MultiLevelCache, RedisLevel,
};
use nebula_memory_core::ManualClock;
use nebula_testing::watchdog;
use tempfile::TempDir;

const SECOND: Duration = Duration::from_secs(1);

/// A server of the test's own, killed when it is dropped.
struct Server {
    process: Option<Child>,
    port: u16,
    folder: TempDir,
}

impl Server {
    /// `None`, and a line that says so, where there is no such program.
    fn start() -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            // Not by `eprintln`, which tests that pass do not show.
            let _ = writeln!(std::io::stderr(), "skipped: there is no redis-server on the path");
            return None;
        }
        // Whoever else takes the port before the server does makes it end, and another is tried.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut server = Self { process: None, port, folder: TempDir::new().unwrap() };
            if server.run() {
                return Some(server);
            }
        }
        panic!("redis-server does not start");
    }

    /// Starts the process, and waits until it answers; whether it does.
    fn run(&mut self) -> bool {
        let port = self.port.to_string();
        let mut process = Command::new("redis-server")
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        let mut runs = false;
        while !runs && start.elapsed() < common::LIMIT && process.try_wait().unwrap().is_none() {
            runs = TcpStream::connect(("127.0.0.1", self.port)).is_ok();
            thread::yield_now();
        }
        self.process = Some(process);
        runs
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    fn level<V>(&self) -> RedisLevel<u64, V> {
        RedisLevel::builder(self.url()).timeout(20 * SECOND).open().unwrap()
    }

    /// Asks the server itself.
    fn ask<T: redis::FromRedisValue>(&self, command: &[&[u8]]) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        let mut request = redis::Cmd::new();
        for part in command {
            request.arg(*part);
        }
        request.query(&mut client.get_connection().unwrap()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn values_keep_their_time_and_go_when_they_are_removed() {
    let Some(server) = Server::start() else { return };
    let level = server.level::<String>();
    assert_eq!(level.get(&1).unwrap(), None);
    level.put(&1, &"one".to_owned(), None).unwrap();
    level.put(&2, &"two".to_owned(), Some(100 * SECOND)).unwrap();
    assert_eq!(level.get(&1).unwrap(), Some(Hit::new("one".to_owned(), None)));
    let hit = level.get(&2).unwrap().unwrap();
    assert!(hit.ttl.unwrap() <= 100 * SECOND && hit.ttl.unwrap() > 50 * SECOND);
    let left: i64 = server.ask(&[b"PTTL", b"nebula:\x02"]);
    assert!(left > 50_000 && left <= 100_000, "{left}");
    assert_eq!(server.ask::<i64>(&[b"PTTL", b"nebula:\x01"]), -1);
    level.put(&1, &"eins".to_owned(), None).unwrap();
    assert_eq!(level.get(&1).unwrap().unwrap().value, "eins");
    level.remove(&1).unwrap();
    level.remove(&1).unwrap();
    assert_eq!(level.get(&1).unwrap(), None);
    level.put(&3, &"three".to_owned(), Some(Duration::from_nanos(1))).unwrap();
    common::until(|| level.get(&3).unwrap().is_none());
}

#[test]
fn a_clear_takes_what_has_the_prefix_and_nothing_else() {
    let Some(server) = Server::start() else { return };
    let open = |prefix: &str| {
        RedisLevel::<u64, u64>::builder(server.url())
            .prefix(prefix)
            .timeout(20 * SECOND)
            .open()
            .unwrap()
    };
    let (starred, plain) = (open("a*[b]:"), open("a:"));
    for key in 0..1500 {
        starred.put(&key, &key, None).unwrap();
        plain.put(&key, &key, None).unwrap();
    }
    starred.clear().unwrap();
    assert_eq!(server.ask::<u64>(&[b"DBSIZE"]), 1500);
    assert_eq!(
        (starred.get(&7).unwrap(), plain.get(&7).unwrap().map(|hit| hit.value)),
        (None, Some(7))
    );
}

#[test]
fn what_is_not_from_here_is_a_miss_and_goes() {
    let Some(server) = Server::start() else { return };
    let level = server.level::<u64>();
    let () = server.ask(&[b"SET", b"nebula:\x01", b"something else"]);
    assert!(matches!(level.get(&1), Err(LevelError::Corrupt)));
    assert_eq!(level.get(&1).unwrap(), None);
    // A frame of another key.
    level.put(&2, &20, None).unwrap();
    let () = server.ask(&[b"RENAME", b"nebula:\x02", b"nebula:\x03"]);
    assert!(matches!(level.get(&3), Err(LevelError::Corrupt)));
    // Another version, which may be a newer one, stays.
    level.put(&4, &40, None).unwrap();
    let newer = RedisLevel::<u64, u64>::builder(server.url()).version(1).open().unwrap();
    assert_eq!(newer.get(&4).unwrap(), None);
    assert_eq!(level.get(&4).unwrap().unwrap().value, 40);
    // A list is an error of the server's.
    let () = server.ask(&[b"RPUSH", b"nebula:\x05", b"a"]);
    assert!(matches!(level.get(&5), Err(LevelError::Backend(_))));
    assert_eq!(level.get(&4).unwrap().unwrap().value, 40);
}

#[test]
fn entries_expire_by_the_frame_as_well() {
    let Some(server) = Server::start() else { return };
    let now = Arc::new(AtomicU64::new(1_000_000));
    let told = Arc::clone(&now);
    let clock = move || SystemTime::UNIX_EPOCH + Duration::from_secs(told.load(SeqCst));
    let level = RedisLevel::<u64, u64>::builder(server.url()).wall_clock(clock).open().unwrap();
    level.put(&1, &10, Some(100 * SECOND)).unwrap();
    now.fetch_add(60, SeqCst);
    assert_eq!(level.get(&1).unwrap(), Some(Hit::new(10, Some(40 * SECOND))));
    now.fetch_add(40, SeqCst);
    assert_eq!(level.get(&1).unwrap(), None);
}

#[test]
fn threads_share_connections() {
    let Some(server) = Server::start() else { return };
    let level = RedisLevel::<u64, u64>::builder(server.url()).connections(2).timeout(20 * SECOND);
    let level = level.open().unwrap();
    thread::scope(|scope| {
        for thread in 0..8 {
            let level = &level;
            scope.spawn(move || {
                for key in (0..100).map(|i| i * 8 + thread) {
                    level.put(&key, &(key * 2), None).unwrap();
                    assert_eq!(level.get(&key).unwrap().unwrap().value, key * 2);
                }
            });
        }
    });
    // Those that are kept, and the one that asks. (The server may take a while to see that the others
    // are closed.)
    watchdog(common::LIMIT, move || {
        common::until(|| {
            let clients: String = server.ask(&[b"CLIENT", b"LIST"]);
            (1..=2).contains(&(clients.lines().count() - 1))
        });
        drop(level);
    });
}

#[test]
fn a_server_that_does_not_answer_is_timed_out() {
    // Takes connections into its backlog, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}/", silent.local_addr().unwrap());
    let level =
        RedisLevel::<u64, u64>::builder(url).timeout(Duration::from_millis(30)).open().unwrap();
    watchdog(10 * SECOND, move || {
        assert!(matches!(level.get(&1), Err(LevelError::TimedOut(_))));
    });
    let zero = RedisLevel::<u64, u64>::builder("redis://localhost").timeout(Duration::ZERO).open();
    assert!(matches!(zero, Err(LevelError::Refused(_))));
    let none = RedisLevel::<u64, u64>::builder("redis://localhost").connections(0).open();
    assert!(matches!(none, Err(LevelError::Refused(_))));
    let bad = RedisLevel::<u64, u64>::builder("not a url").open();
    assert!(matches!(bad, Err(LevelError::Backend(_))));
}

#[test]
fn a_server_that_is_killed_is_bypassed_and_used_again_when_it_is_back() {
    let Some(mut server) = Server::start() else { return };
    let clock = Arc::new(ManualClock::new());
    let config = CacheConfig::builder().entries(10).build().unwrap();
    let first = ConcurrentComputeCache::<u64, String>::builder(config)
        .with_expiry()
        .with_clock(Arc::clone(&clock) as _);
    let middle = ConcurrentComputeCache::<u64, String>::builder(CacheConfig::default())
        .with_expiry()
        .with_clock(Arc::clone(&clock) as _);
    let cache = MultiLevelCache::builder(first)
        .level(middle.build().unwrap())
        .level(server.level::<String>())
        .breaker(Breaker::default().failures(3).slow(Duration::from_secs(1000)).cool_down(SECOND))
        .build()
        .unwrap();
    let put = |key: u64| {
        let options = EntryOptions::new().ttl(1000 * SECOND);
        cache.insert_with(key, key.to_string(), options).unwrap();
    };
    (0..100).for_each(put);
    assert_eq!(server.ask::<u64>(&[b"DBSIZE"]), 100);
    server.kill();
    // Hits elsewhere are served, misses are misses, and writes go where they can.
    for key in 0..100 {
        assert_eq!(cache.get(&key), Some(key.to_string()));
    }
    for key in 200..210 {
        assert_eq!(cache.get(&key), None);
        put(key);
        assert_eq!(cache.get(&key), Some(key.to_string()));
    }
    cache.remove(&7).unwrap();
    let sick = cache.stats().levels.swap_remove(1);
    assert_eq!((sick.errors, sick.breaker, sick.opened), (3, BreakerState::Open, 1));
    assert!(server.run(), "it is on the same port again");
    // What it has is an old value, as far as anybody knows.
    clock.advance(SECOND);
    let () = server.ask(&[b"SET", b"nebula:\x07", b"old"]);
    assert_eq!(cache.get(&7), None);
    assert_eq!(cache.stats().levels[1].breaker, BreakerState::Closed);
    cache.maintain(100);
    assert_eq!((server.ask::<u64>(&[b"DBSIZE"]), cache.stats().levels[1].doubts), (0, 0));
    put(300);
    assert_eq!(server.ask::<u64>(&[b"DBSIZE"]), 1);
}

#[test]
fn tasks_use_a_server_by_threads_that_may_block_and_do_without_it_when_it_is_killed() {
    let Some(mut server) = Server::start() else { return };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    runtime.unwrap().block_on(async {
        let clock = Arc::new(ManualClock::new());
        let config = CacheConfig::builder().entries(10).build().unwrap();
        let first = ConcurrentComputeCache::<u64, String>::builder(config);
        let blocking = Blocking::new(server.level::<String>(), |job| {
            drop(tokio::task::spawn_blocking(job));
        });
        let cache = AsyncMultiLevelCache::builder(first.with_clock(Arc::clone(&clock) as _))
            .level(blocking)
            .breaker(Breaker::default().failures(2).slow(1000 * SECOND).cool_down(SECOND))
            .timeout(20 * SECOND, tokio::time::sleep)
            .build()
            .unwrap();
        let cache = Arc::new(cache);
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..8 {
            let cache = Arc::clone(&cache);
            tasks.spawn(async move {
                for key in (0..25).map(|i| i * 8 + task) {
                    let value = cache.get_or_compute(&key, async { key.to_string() }).await;
                    assert_eq!(value.unwrap(), key.to_string());
                }
            });
        }
        tasks.join_all().await;
        assert_eq!(server.ask::<u64>(&[b"DBSIZE"]), 200);
        for key in 0..200 {
            assert_eq!(cache.get(&key).await, Some(key.to_string()));
        }
        server.kill();
        for key in 300..310 {
            assert_eq!(
                cache.get_or_compute(&key, async { key.to_string() }).await.unwrap(),
                key.to_string()
            );
            assert_eq!(cache.get(&key).await, Some(key.to_string()));
        }
        cache.remove(&7).await.unwrap();
        let sick = cache.stats().levels.swap_remove(0);
        assert_eq!((sick.errors, sick.breaker, sick.doubts), (2, BreakerState::Open, 11));
        assert!(server.run(), "it is on the same port again");
        clock.advance(SECOND);
        let () = server.ask(&[b"SET", b"nebula:\x07", b"old"]);
        assert_eq!(cache.get(&7).await, None);
        cache.maintain(100).await;
        assert_eq!((server.ask::<u64>(&[b"DBSIZE"]), cache.stats().levels[0].doubts), (0, 0));
        cache.insert(300, "anew".to_owned()).await.unwrap();
        assert_eq!(server.ask::<u64>(&[b"DBSIZE"]), 1);
        cache.clear().await;
        assert_eq!(server.ask::<u64>(&[b"DBSIZE"]), 0);
        cache.validate().unwrap();
    });
}
