//! Writing down what a cache holds, and reading it again.
//!
//! ```text
//! "NbS" format:u8 version:u32 | (length:u32 frame)* | 0:u32 entries:u64 crc:u32
//! ```
//! Numbers are little-endian. Frames are those of [`Codec`], hottest entry first; `crc` is the CRC-32
//! of `entries`.

use std::{
    hash::{BuildHasher, Hash},
    io::{self, Read, Write},
    time::{Duration, Instant, SystemTime},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Codec, ComputeCache, ConcurrentComputeCache, EntryOptions, Kit,
    engine::Engine,
    mode::Mode,
    times::{NEVER, sealed::Times},
};

const MAGIC: [u8; 4] = *b"NbS\x01";

/// Entries of a shard that are cloned in one hold of its lock.
const STRIDE: usize = 64;

/// Why a cache was not written down, or not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The writer or the reader failed.
    #[error("a snapshot could not be read or written: {0}")]
    Io(#[from] io::Error),
    /// Serde could not write an entry.
    #[error("an entry could not be encoded: {0}")]
    Encode(Box<str>),
    /// It is not a snapshot, or not what was written: after so many sound entries something is wrong,
    /// or the end is missing.
    #[error("the snapshot is broken after {entries} entries: {what}; take another one")]
    Broken {
        /// Sound entries before the fault.
        entries: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// It was written with another version of the types.
    #[error("the snapshot is of version {found} of the types, not {wanted}")]
    OtherVersion {
        /// Its version.
        found: u32,
        /// The version asked for.
        wanted: u32,
    },
}

/// What became of the entries of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// Entries that were cached (the coldest may have been evicted for others since).
    pub cached: usize,
    /// Entries that had expired meanwhile, or expire where entries of the cache do not.
    pub expired: usize,
    /// Entries that the cache or its account refused.
    pub refused: usize,
}

/// Where a snapshot is in a shard: its slots, coldest first, and how often entries have moved.
#[derive(Default)]
struct Cursor {
    slots: Vec<u32>,
    done: usize,
    moves: Option<u32>,
}

impl<K, V, O: Kit, M: Mode> Engine<K, V, O, M> {
    /// Clones the next entries of a shard, hotter ones first, each with the time at which it expires.
    fn next_hottest(
        &self,
        shard: usize,
        cursor: &mut Cursor,
        into: &mut Vec<(K, V, Option<SystemTime>)>,
    ) where
        K: Clone,
        V: Clone,
    {
        // Both clocks are read together: it may take a while until the entries are written.
        let (date, now) = (SystemTime::now(), self.now());
        // Memory is allocated with no lock held, for some entries more than there are.
        let most = self.shards[shard].gauges().len() + STRIDE;
        cursor.slots.reserve(most.saturating_sub(cursor.slots.len()));
        into.reserve(STRIDE);
        let store = self.shards[shard].read();
        if cursor.moves != Some(store.moves()) {
            cursor.slots.clear();
            let slots = &mut cursor.slots;
            store.coldest_first(|slot| {
                if slots.len() < most {
                    slots.push(slot);
                }
            });
            // So many have been written; the others are colder.
            cursor.slots.truncate(cursor.slots.len().saturating_sub(cursor.done));
            cursor.moves = Some(store.moves());
        }
        for _ in 0..STRIDE {
            let Some(slot) = cursor.slots.pop() else { break };
            cursor.done += 1;
            // It may have gone meanwhile.
            if store.next_from(slot) != Some(slot) {
                continue;
            }
            let entry = store.entry(slot);
            if !entry.kept.times.is_expired(now) {
                let until = entry.kept.times.until();
                let left = until.saturating_sub(self.hooks.stale).saturating_sub(now);
                // (Beyond the range of the system's time, it is as if it never came.)
                let until = date.checked_add(Duration::from_nanos(left));
                let until = until.filter(|_| entry.kept.times.until() != NEVER);
                into.push((entry.key.clone(), entry.value.clone(), until));
            }
        }
    }

    fn snapshot(&self, mut to: impl Write, version: u32) -> Result<u64, SnapshotError>
    where
        K: Clone + Serialize,
        V: Clone + Serialize,
    {
        let codec = Codec::new(version);
        to.write_all(&MAGIC)?;
        to.write_all(&version.to_le_bytes())?;
        let mut cursors: Vec<Cursor> = self.shards.iter().map(|_| Cursor::default()).collect();
        let (mut entries, mut batch) = (0_u64, Vec::new());
        loop {
            let mut ends = 0;
            for (shard, cursor) in cursors.iter_mut().enumerate() {
                let before = cursor.done;
                self.next_hottest(shard, cursor, &mut batch);
                ends += usize::from(cursor.done == before);
                for (key, value, until) in batch.drain(..) {
                    let encoded = codec.key(&key).and_then(|key| codec.encode(&key, &value, until));
                    let frame = encoded.map_err(|e| SnapshotError::Encode(e.to_string().into()))?;
                    let length = u32::try_from(frame.len())
                        .map_err(|_| SnapshotError::Encode("an entry of 4 GiB".into()))?;
                    to.write_all(&length.to_le_bytes())?;
                    to.write_all(&frame)?;
                    entries += 1;
                }
            }
            if ends == cursors.len() {
                break;
            }
        }
        to.write_all(&[0; 4])?;
        to.write_all(&entries.to_le_bytes())?;
        to.write_all(&crc32fast::hash(&entries.to_le_bytes()).to_le_bytes())?;
        to.flush()?;
        Ok(entries)
    }

    fn restore(&self, from: impl Read, version: u32) -> Result<Restored, SnapshotError>
    where
        K: Hash + Eq + DeserializeOwned,
        V: DeserializeOwned,
        O::Hasher: BuildHasher,
    {
        let mut restored = Restored::default();
        let begun = Instant::now();
        let mut entries = read(from, version, &mut restored)?;
        // The hottest comes last, so that it is the last to go.
        while let Some((key, value, ttl)) = entries.pop() {
            if ttl.is_some() && !O::Times::KEPT {
                restored.expired += 1;
                continue;
            }
            // Reading takes time as well.
            let ttl = ttl.map(|ttl| ttl.saturating_sub(begun.elapsed()));
            if ttl == Some(Duration::ZERO) {
                restored.expired += 1;
                continue;
            }
            let options = ttl.map(|ttl| EntryOptions::new().ttl(ttl));
            let hash = self.hash(&key);
            match self.place(hash, key, value, options.as_ref()) {
                Ok(_) => restored.cached += 1,
                Err(_) => restored.refused += 1,
            }
        }
        Ok(restored)
    }
}

/// An entry, and how long it has still to live.
type Living<K, V> = (K, V, Option<Duration>);

/// Reads all of a snapshot before anything is done with it.
fn read<K, V>(
    mut from: impl Read,
    version: u32,
    restored: &mut Restored,
) -> Result<Vec<Living<K, V>>, SnapshotError>
where
    K: DeserializeOwned,
    V: DeserializeOwned,
{
    let broken = |entries, what| SnapshotError::Broken { entries, what };
    let mut header = [0; 8];
    exactly(&mut from, &mut header, || broken(0, "it ends within its header"))?;
    if header[..4] != MAGIC {
        return Err(broken(0, "it is not one"));
    }
    let found = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    if found != version {
        return Err(SnapshotError::OtherVersion { found, wanted: version });
    }
    let (codec, now) = (Codec::new(version), SystemTime::now());
    let (mut all, mut entries, mut frame) = (Vec::new(), 0_u64, Vec::new());
    loop {
        let mut length = [0; 4];
        exactly(&mut from, &mut length, || broken(entries, "its end is missing"))?;
        let length = u32::from_le_bytes(length);
        if length == 0 {
            let mut end = [0; 12];
            exactly(&mut from, &mut end, || broken(entries, "its end is missing"))?;
            let sound = end[..8] == entries.to_le_bytes()
                && end[8..] == crc32fast::hash(&end[..8]).to_le_bytes();
            return if sound { Ok(all) } else { Err(broken(entries, "its end does not fit")) };
        }
        // Not all at once: a length that is wrong should not cost more memory than there are bytes.
        frame.clear();
        from.by_ref().take(length.into()).read_to_end(&mut frame)?;
        if frame.len() as u64 != u64::from(length) {
            return Err(broken(entries, "an entry is cut off"));
        }
        match codec.decode_entry(&frame, now) {
            Some(Some((key, hit))) => all.push((key, hit.0, hit.1)),
            Some(None) => restored.expired += 1,
            None => return Err(broken(entries, "an entry is not what was written")),
        }
        entries += 1;
    }
}

fn exactly(
    from: &mut impl Read,
    bytes: &mut [u8],
    missing: impl FnOnce() -> SnapshotError,
) -> Result<(), SnapshotError> {
    from.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => missing(),
        _ => SnapshotError::Io(error),
    })
}

macro_rules! faces {
    ($cache:ident, $self:ty) => {
        impl<K, V, O: Kit> $cache<K, V, O> {
            /// Writes down what is cached: keys, values and how long they still live, the hottest
            /// first as far as the policy knows, and returns how many entries it was. Not idle times,
            /// tags and pins.
            ///
            /// `version` is that of your types: only the same can be [restored](Self::restore). Takes
            /// clones, a few at a time; nothing of yours but `Clone` runs under a lock. Entries that
            /// come, go or move while it runs may be missing, or be there twice. Give it a buffered
            /// writer.
            ///
            /// # Errors
            /// What the writer or serde says.
            ///
            /// ```
            #[doc = concat!("use nebula_cache::{CacheConfig, ", stringify!($cache), "};")]
            ///
            /// let config = CacheConfig::builder().entries(100).build()?;
            #[doc = concat!("let mut cache = ", stringify!($cache), "::<String, u64>::new(config.clone())?;")]
            /// cache.insert("answer".to_owned(), 42)?;
            /// let mut file = Vec::new();
            /// cache.snapshot(&mut file, 1)?;
            ///
            #[doc = concat!("let mut another = ", stringify!($cache), "::<String, u64>::new(config)?;")]
            /// assert_eq!(another.restore(file.as_slice(), 1)?.cached, 1);
            /// assert!(another.contains("answer"));
            /// // A snapshot that is not whole is an error, and nothing is cached.
            /// assert!(another.restore(&file[..file.len() - 1], 1).is_err());
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn snapshot(&self, to: impl Write, version: u32) -> Result<u64, SnapshotError>
            where
                K: Clone + Serialize,
                V: Clone + Serialize,
            {
                self.engine.snapshot(to, version)
            }

            /// Caches the entries of a [`snapshot`](Self::snapshot), each for as long as it had left
            /// to live when that was made, less the time since; the coldest first, so that they go
            /// first if there is no room for all.
            ///
            /// All of it is read and checked before anything is cached, into memory that is not
            /// charged to the account.
            ///
            /// # Errors
            /// What the reader says, or what is wrong with the snapshot. Nothing is cached then.
            pub fn restore(self: $self, from: impl Read, version: u32) -> Result<Restored, SnapshotError>
            where
                K: Hash + Eq + DeserializeOwned,
                V: DeserializeOwned,
                O::Hasher: BuildHasher,
            {
                self.engine.restore(from, version)
            }
        }
    };
}

faces!(ConcurrentComputeCache, &Self);
faces!(ComputeCache, &mut Self);
