//! A level in a file. Here is its face; what is in the file and how is in `store.rs`.

mod store;

use std::{
    fmt,
    marker::PhantomData,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nebula_memory_core::{Align, ByteSize, MemoryError, sync::Arc};
use serde::{Serialize, de::DeserializeOwned};

use self::store::{Store, WallClock};
use super::{Codec, Decoded, Hit, Level, LevelError};

/// The smallest capacity.
const LEAST: usize = 4 << 20;

/// A level of a [`MultiLevelCache`](crate::MultiLevelCache) in one file, by the embedded store `redb`.
///
/// - It survives the process, also one that is killed: what was written is there again, with the rest
///   of its time to live, but for the last writes (see [`DiskBuilder::sync_each_write`]).
/// - Every entry has a checksum, the key and a version (see [`Codec`]); what does not check is a miss
///   and counted, never a value. The file as a whole is read and checked when it is opened; one that
///   is damaged is an error or, by choice, replaced by an empty one ([`OnDamage`]).
/// - The oldest written goes first when there is no more room.
///
/// Entries are written in the order in which they come, many at a time, by whoever brings the last
/// of them. In memory are those that wait to be written, 1 MiB at most, `redb`'s cache of pages, and
/// some 50 bytes for each entry; none of that is charged to an account.
///
/// ```no_run
/// use nebula_cache::{CacheConfig, ConcurrentComputeCache, DiskLevel, MultiLevelCache, OnDamage};
/// use nebula_memory_core::ByteSize;
///
/// let disk = DiskLevel::builder("/var/cache/app/pages")
///     .capacity(ByteSize::gib(1))
///     .version(3) // of the types; what is there of another is not read
///     .on_damage(OnDamage::StartAnew)
///     .open()?;
/// let first = ConcurrentComputeCache::<String, String>::builder(CacheConfig::default());
/// let pages = MultiLevelCache::builder(first).level(disk).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DiskLevel<K, V> {
    store: Store,
    codec: Codec,
    now: WallClock,
    types: PhantomData<fn(&K) -> V>,
}

/// What happens when a file that is to be opened turns out to be damaged, or something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnDamage {
    /// An error: [`LevelError::Damaged`]. The default.
    #[default]
    Fail,
    /// The file is deleted, whatever it was, and an empty one takes its place.
    StartAnew,
}

/// What a [`DiskLevel`] holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct DiskStats {
    /// Entries, expired ones that nobody has come across included.
    pub entries: u64,
    /// What they take, without the store's own overhead.
    pub bytes: u64,
    /// How large the file is.
    pub file_bytes: u64,
    /// Entries that were taken out to make room.
    pub evicted: u64,
    /// Entries that were taken out because their time was over, or of another version.
    pub expired: u64,
    /// Entries that were not what was written.
    pub corrupt: u64,
}

/// Opens a [`DiskLevel`].
#[must_use = "a builder does nothing until it is used to open the level"]
pub struct DiskBuilder<K, V> {
    path: PathBuf,
    capacity: ByteSize,
    version: u32,
    on_damage: OnDamage,
    sync: bool,
    now: WallClock,
    types: PhantomData<fn(&K) -> V>,
}

impl<K, V> DiskLevel<K, V> {
    /// For a level in the file `path`, which is created if it is not there.
    pub fn builder(path: impl AsRef<Path>) -> DiskBuilder<K, V> {
        DiskBuilder {
            path: path.as_ref().to_owned(),
            capacity: ByteSize::mib(256),
            version: 0,
            on_damage: OnDamage::default(),
            sync: false,
            now: Arc::new(SystemTime::now),
            types: PhantomData,
        }
    }

    /// What it holds and has done.
    #[must_use]
    pub fn stats(&self) -> DiskStats {
        self.store.stats()
    }
}

impl<K, V> DiskBuilder<K, V> {
    /// The most that the file takes on disk: 256 MiB by default, 4 MiB at least. Entries get half of
    /// it; the rest is for the store's pages, copies of them while it writes, and gaps. Should the
    /// file become larger all the same, entries make room and it is compacted, by the writer that
    /// made it so.
    pub const fn capacity(mut self, capacity: ByteSize) -> Self {
        self.capacity = capacity;
        self
    }

    /// The version of the types of keys and values; zero by default. Entries of another are not read,
    /// and go when the file is opened.
    pub const fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// What happens if the file is damaged.
    pub const fn on_damage(mut self, on_damage: OnDamage) -> Self {
        self.on_damage = on_damage;
        self
    }

    /// Whether each write and removal is on disk before its call returns, which costs a sync of the
    /// file each time. Off by default: what was written in the last moments before the process or the
    /// machine stops (up to 1 MiB, and as many removals as came with it) may then not have happened,
    /// and what was removed be there again. [`Level::flush`] makes everything durable that came before
    /// it.
    pub const fn sync_each_write(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }

    /// Reads the time of day off `now`, the system's otherwise: entries expire by it, so that they do
    /// so while nobody has the file open.
    pub fn wall_clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.now = Arc::new(now);
        self
    }

    /// Opens the file, and checks everything in it, which takes as long as reading it.
    ///
    /// # Errors
    /// [`LevelError::Damaged`] if it is not such a file or is damaged; [`LevelError::Io`] if it can't
    /// be read or written, or another level has it open; [`LevelError::Refused`] if the capacity is
    /// too small.
    pub fn open(self) -> Result<DiskLevel<K, V>, LevelError> {
        let Self { path, capacity, version, on_damage, sync, now, types } = self;
        if capacity.get() < LEAST {
            let rule = "must be 4 MiB at least";
            return Err(LevelError::Refused(MemoryError::invalid_config(
                "capacity", capacity, rule,
            )));
        }
        let codec = Codec::new(version);
        let opened = Store::open(&path, capacity.get() as u64, sync, codec, &now);
        let store = match (opened, on_damage) {
            (Err(LevelError::Damaged(_)), OnDamage::StartAnew) => {
                std::fs::remove_file(&path)?;
                Store::open(&path, capacity.get() as u64, sync, codec, &now)?
            }
            (opened, _) => opened?,
        };
        Ok(DiskLevel { store, codec, now, types })
    }
}

impl<K: Serialize, V: Serialize + DeserializeOwned> Level<K, V> for DiskLevel<K, V> {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn get(&self, key: &K) -> Result<Option<Hit<V>>, LevelError> {
        let key = self.codec.key(key)?;
        let Some((sequence, frame)) = self.store.get(&key)? else { return Ok(None) };
        match self.codec.decode(&key, &frame, (self.now)()) {
            Decoded::Value(hit) => Ok(Some(hit)),
            Decoded::Expired | Decoded::OtherVersion => {
                self.store.discard(&key, sequence, false);
                Ok(None)
            }
            Decoded::Corrupt => {
                self.store.discard(&key, sequence, true);
                Err(LevelError::Corrupt)
            }
        }
    }

    fn put(&self, key: &K, value: &V, ttl: Option<Duration>) -> Result<(), LevelError> {
        let key = self.codec.key(key)?;
        let until = ttl.and_then(|ttl| (self.now)().checked_add(ttl));
        let frame = self.codec.encode(&key, value, until)?;
        let most = self.store.largest();
        if frame.len() > most {
            // What it holds of the key is an older value.
            self.store.remove(&key)?;
            return Err(LevelError::Refused(MemoryError::CapacityExceeded {
                requested: frame.len(),
                available: most,
                align: Align::ONE,
            }));
        }
        self.store.put(&key, frame)
    }

    fn remove(&self, key: &K) -> Result<(), LevelError> {
        self.store.remove(&self.codec.key(key)?)
    }

    fn clear(&self) -> Result<(), LevelError> {
        self.store.clear()
    }

    /// Writes what waits, and syncs the file.
    fn flush(&self) -> Result<(), LevelError> {
        self.store.flush()
    }

    /// Writes what waits, and looks at `work` entries, where the last call ended.
    fn maintain(&self, work: usize) -> Result<usize, LevelError> {
        self.store.maintain(work, (self.now)())
    }
}

impl<K, V> fmt::Debug for DiskLevel<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskLevel").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl<K, V> fmt::Debug for DiskBuilder<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskBuilder")
            .field("path", &self.path)
            .field("capacity", &self.capacity)
            .field("version", &self.version)
            .field("on_damage", &self.on_damage)
            .field("sync", &self.sync)
            .finish_non_exhaustive()
    }
}
