//! A level on a server that speaks the Redis protocol.

use std::{
    fmt,
    marker::PhantomData,
    time::{Duration, SystemTime},
};

use crossbeam_queue::ArrayQueue;
use nebula_memory_core::{MemoryError, sync::Arc};
use redis::{Client, Cmd, Connection, ErrorKind, FromRedisValue, RedisError, cmd};
use serde::{Serialize, de::DeserializeOwned};

use super::{Codec, Decoded, Hit, Level, LevelError};

/// How many keys are asked for, and removed, at once when everything is cleared.
const PAGE: usize = 500;

/// A level of a [`MultiLevelCache`](crate::MultiLevelCache) on a server that speaks the Redis
/// protocol.
///
/// - Keys have a prefix; values are framed ([`Codec`]): what does not check, has another version or
///   is not from here is a miss and counted.
/// - The time to live is told to the server (`PX`), and in the frame as well.
/// - A call that takes longer than the [time-out](RedisBuilder::timeout) fails. Connections are kept
///   and shared, and made anew when they break. That the server is not there is no error until it is
///   asked something: the cache's [breaker](crate::Breaker) then leaves it alone for a while.
///
/// What other processes write is seen once level one has no value of its own: give entries a time to
/// live, if that matters. A write that timed out may still reach the server later, if the network
/// holds it back for longer than it takes to remove the key over another connection.
///
/// ```no_run
/// use std::time::Duration;
/// use nebula_cache::{CacheConfig, ConcurrentComputeCache, MultiLevelCache, RedisLevel};
///
/// let server = RedisLevel::builder("redis://127.0.0.1/")
///     .prefix("app:pages:")
///     .version(3)
///     .timeout(Duration::from_millis(50))
///     .open()?;
/// let config = CacheConfig::builder().ttl(Duration::from_secs(60)).build()?;
/// let first = ConcurrentComputeCache::<String, String>::builder(config).with_expiry();
/// let pages = MultiLevelCache::builder(first).level(server).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RedisLevel<K, V> {
    client: Client,
    idle: ArrayQueue<Connection>,
    prefix: String,
    timeout: Duration,
    codec: Codec,
    now: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    types: PhantomData<fn(&K) -> V>,
}

/// Opens a [`RedisLevel`].
#[must_use = "a builder does nothing until it is used to open the level"]
pub struct RedisBuilder<K, V> {
    url: String,
    prefix: String,
    timeout: Duration,
    connections: usize,
    version: u32,
    now: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    types: PhantomData<fn(&K) -> V>,
}

impl<K, V> RedisLevel<K, V> {
    /// For a level on the server at `url`: `redis://user:password@host:port/database`.
    pub fn builder(url: impl Into<String>) -> RedisBuilder<K, V> {
        RedisBuilder {
            url: url.into(),
            prefix: "nebula:".to_owned(),
            timeout: Duration::from_millis(250),
            connections: 8,
            version: 0,
            now: Arc::new(SystemTime::now),
            types: PhantomData,
        }
    }

    /// A connection, and whether it has been used before.
    fn connection(&self) -> Result<(Connection, bool), RedisError> {
        if let Some(connection) = self.idle.pop() {
            return Ok((connection, true));
        }
        let connection = self.client.get_connection_with_timeout(self.timeout)?;
        connection.set_read_timeout(Some(self.timeout))?;
        connection.set_write_timeout(Some(self.timeout))?;
        Ok((connection, false))
    }

    /// Sends a command. A connection that turns out to be closed is made anew once.
    fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, LevelError> {
        loop {
            let (mut connection, used) = self.connection().map_err(|error| self.error(error))?;
            match command.query(&mut connection) {
                Ok(answer) => {
                    // Too many are closed.
                    drop(self.idle.push(connection));
                    return Ok(answer);
                }
                // (It is closed: there may be an answer to come that nobody will read.)
                Err(error) if used && error.is_connection_dropped() && !error.is_timeout() => {}
                Err(error) => return Err(self.error(error)),
            }
        }
    }

    fn error(&self, error: RedisError) -> LevelError {
        if error.is_timeout() {
            return LevelError::TimedOut(self.timeout);
        }
        match error.kind() {
            ErrorKind::Io => LevelError::Io(std::io::Error::other(error)),
            _ => LevelError::backend(error),
        }
    }

    fn name_of(&self, key: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), key].concat()
    }

    fn unlink(&self, names: &[Vec<u8>]) -> Result<(), LevelError> {
        self.ask::<u64>(cmd("UNLINK").arg(names)).map(drop)
    }
}

impl<K, V> RedisBuilder<K, V> {
    /// What the names of all keys on the server begin with: `nebula:` by default. No two caches may
    /// have the same, unless they are to share what they hold; nor may that of one begin with that of
    /// another, whose `clear` would take its keys.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long connecting, and each sending and each answer, may take; above zero. 250 milliseconds
    /// by default.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many connections are kept while nobody uses them; above zero. 8 by default.
    pub const fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// The version of the types of keys and values; zero by default. Entries of another are misses.
    pub const fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Reads the time of day off `now`, the system's otherwise.
    pub fn wall_clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.now = Arc::new(now);
        self
    }

    /// The level. Connects when it is asked something.
    ///
    /// # Errors
    /// [`LevelError::Backend`] for a URL that is none, [`LevelError::Refused`] for a figure that must
    /// be above zero.
    pub fn open(self) -> Result<RedisLevel<K, V>, LevelError> {
        let Self { url, prefix, timeout, connections, version, now, types } = self;
        for (zero, path) in [(timeout.is_zero(), "timeout"), (connections == 0, "connections")] {
            if zero {
                let error = MemoryError::invalid_config(path, 0, "must be above zero");
                return Err(LevelError::Refused(error));
            }
        }
        let client = Client::open(url).map_err(LevelError::backend)?;
        let (idle, codec) = (ArrayQueue::new(connections), Codec::new(version));
        Ok(RedisLevel { client, idle, prefix, timeout, codec, now, types })
    }
}

impl<K: Serialize, V: Serialize + DeserializeOwned> Level<K, V> for RedisLevel<K, V> {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn get(&self, key: &K) -> Result<Option<Hit<V>>, LevelError> {
        let key = self.codec.key(key)?;
        let name = self.name_of(&key);
        let Some(frame) = self.ask::<Option<Vec<u8>>>(cmd("GET").arg(&name))? else {
            return Ok(None);
        };
        match self.codec.decode(&key, &frame, (self.now)()) {
            Decoded::Value(hit) => Ok(Some(hit)),
            // The server, or who writes the next version, will see to it.
            Decoded::Expired | Decoded::OtherVersion => Ok(None),
            Decoded::Corrupt => {
                self.unlink(&[name])?;
                Err(LevelError::Corrupt)
            }
        }
    }

    fn put(&self, key: &K, value: &V, ttl: Option<Duration>) -> Result<(), LevelError> {
        let key = self.codec.key(key)?;
        let until = ttl.and_then(|ttl| (self.now)().checked_add(ttl));
        let frame = self.codec.encode(&key, value, until)?;
        let mut command = cmd("SET");
        command.arg(self.name_of(&key)).arg(frame);
        if let Some(ttl) = ttl {
            // The server takes no zero, and nothing near 2^63.
            let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 52);
            command.arg("PX").arg(millis);
        }
        self.ask(&command)
    }

    fn remove(&self, key: &K) -> Result<(), LevelError> {
        self.unlink(&[self.name_of(&self.codec.key(key)?)])
    }

    /// Looks at every key of the database, some hundred at a time.
    fn clear(&self) -> Result<(), LevelError> {
        let pattern = escaped(&self.prefix) + "*";
        let mut cursor = 0_u64;
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(PAGE);
            let (next, names): (u64, Vec<Vec<u8>>) = self.ask(&scan)?;
            if !names.is_empty() {
                self.unlink(&names)?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }
}

/// A pattern that matches this text alone.
fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 1);
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

impl<K, V> fmt::Debug for RedisLevel<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("RedisLevel")
            .field("prefix", &self.prefix)
            .field("timeout", &self.timeout)
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}

impl<K, V> fmt::Debug for RedisBuilder<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBuilder")
            .field("prefix", &self.prefix)
            .field("timeout", &self.timeout)
            .field("connections", &self.connections)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
