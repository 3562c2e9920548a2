//! Frames in a file: a log in `redb`, in which the oldest is the first.
//!
//! The one table maps sequence numbers to frames, so that writes go to its end and evictions to its
//! beginning. Which frame is a key's is known in memory, by the hash of the key, and found out anew
//! when the file is opened. What comes in waits in memory until there is a batch of it.
//!
//! `redb` can panic on a damaged file; that is caught, and the store then serves nothing any more.
//! (Where panics abort the process, that does.) Locks are taken in the order writer, file, state, and
//! no code of the user's runs here but his clock.

use std::{
    collections::{BTreeMap, HashMap},
    hash::BuildHasher,
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use nebula_memory_core::{
    panics::quietly,
    sync::{Arc, Mutex, RwLock},
};
use redb::{
    Database, DatabaseError, Durability, ReadableTable, StorageError, TableDefinition, TableError,
};

use super::{
    super::{Codec, LevelError, codec::millis},
    DiskStats,
};
use crate::DefaultHashBuilder;

pub(super) type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("nebula-cache entries 1");

/// What an entry takes beside its frame, about.
const OVERHEAD: u64 = 32;

/// The most bytes that wait to be written.
const BATCH: u64 = 1 << 20;

/// The most removals that wait to be written.
const REMOVALS: usize = 1024;

pub(super) struct Store {
    path: PathBuf,
    capacity: u64,
    batch: u64,
    sync: bool,
    hasher: DefaultHashBuilder,
    /// Who writes to the file.
    writer: Mutex<()>,
    /// `None` once it is found to be damaged.
    file: RwLock<Option<Database>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the hash of the key: which frame is its own, and what it takes.
    index: HashMap<u64, Place>,
    /// What the frames in the index take.
    live: u64,
    /// The most that they take.
    limit: u64,
    /// The next sequence number.
    next: u64,
    /// Frames that wait to be written.
    fresh: BTreeMap<u64, Arc<[u8]>>,
    fresh_bytes: u64,
    /// Frames that are being written.
    writing: BTreeMap<u64, Arc<[u8]>>,
    /// Frames in the file, or being written to it, that are nobody's any more.
    dead: Vec<u64>,
    /// Where the sweep for expired entries goes on.
    swept: u64,
    evicted: u64,
    expired: u64,
    corrupt: u64,
}

/// A frame, and its sequence number.
type Numbered = (u64, Arc<[u8]>);

#[derive(Clone, Copy)]
struct Place {
    sequence: u64,
    bytes: u64,
}

impl State {
    /// Takes the key of this hash out of the index, and has its frame go, if it is the one of
    /// `sequence` (or any).
    fn forget(&mut self, hash: u64, sequence: Option<u64>) -> bool {
        let Some(place) = self.index.get(&hash).copied() else { return false };
        if sequence.is_some_and(|sequence| sequence != place.sequence) {
            return false;
        }
        self.index.remove(&hash);
        self.live -= place.bytes;
        match self.fresh.remove(&place.sequence) {
            Some(frame) => self.fresh_bytes -= frame.len() as u64,
            None => self.dead.push(place.sequence),
        }
        true
    }

    fn place(&mut self, hash: u64, sequence: u64, frame: usize) {
        let bytes = frame as u64 + OVERHEAD;
        self.live += bytes;
        self.index.insert(hash, Place { sequence, bytes });
    }
}

#[allow(clippy::needless_pass_by_value, reason = "errors and texts alike")]
fn damaged(why: impl ToString) -> LevelError {
    LevelError::Damaged(why.to_string().into())
}

/// Whether an error says that the file is not what it should be, rather than that it can't be had.
fn is_damage(error: &StorageError) -> bool {
    match error {
        StorageError::Io(error) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        StorageError::Corrupted(_) | StorageError::ValueTooLarge(_) => true,
        _ => false,
    }
}

fn storage_error(error: StorageError) -> LevelError {
    match error {
        error if is_damage(&error) => damaged(error),
        StorageError::Io(error) => LevelError::Io(error),
        error => LevelError::backend(error),
    }
}

fn database_error(error: DatabaseError) -> LevelError {
    match error {
        DatabaseError::Storage(error) => storage_error(error),
        DatabaseError::DatabaseAlreadyOpen => {
            LevelError::Io(io::Error::new(io::ErrorKind::WouldBlock, error))
        }
        error => damaged(error),
    }
}

/// Any of `redb`'s errors in the midst of work.
fn any_error(error: impl Into<redb::Error>) -> LevelError {
    match error.into() {
        redb::Error::Io(error) => storage_error(StorageError::Io(error)),
        redb::Error::Corrupted(why) => damaged(why),
        error => LevelError::backend(error),
    }
}

impl Store {
    pub(super) fn open(
        path: &Path,
        capacity: u64,
        sync: bool,
        codec: Codec,
        now: &WallClock,
    ) -> Result<Self, LevelError> {
        let batch = BATCH.min(capacity / 16);
        let limit = capacity / 2;
        let store = Self {
            path: path.to_owned(),
            capacity,
            batch,
            sync,
            hasher: DefaultHashBuilder::default(),
            writer: Mutex::new(()),
            file: RwLock::new(None),
            state: Mutex::new(State { limit, ..State::default() }),
        };
        let panicked = || Err(damaged("its structure makes no sense"));
        let now = now();
        quietly(|| store.open_file(codec, now)).unwrap_or_else(panicked)?;
        // What of it goes, goes now.
        store.commit(true)?;
        Ok(store)
    }

    fn open_file(&self, codec: Codec, now: SystemTime) -> Result<(), LevelError> {
        let cache =
            usize::try_from(self.capacity / 32).unwrap_or(usize::MAX).clamp(1 << 20, 64 << 20);
        let mut builder = redb::Builder::new();
        builder.set_cache_size(cache);
        let mut database = builder.create(&self.path).map_err(database_error)?;
        // (`false` says that it had to be repaired, which it is now.)
        database.check_integrity().map_err(database_error)?;
        self.read_all(&database, codec, now)?;
        *self.file.write() = Some(database);
        Ok(())
    }

    /// Fills the index.
    fn read_all(
        &self,
        database: &Database,
        codec: Codec,
        now: SystemTime,
    ) -> Result<(), LevelError> {
        let read = database.begin_read().map_err(any_error)?;
        let table = match read.open_table(ENTRIES) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(error) => return Err(any_error(error)),
        };
        let mut state = self.state.lock();
        for entry in table.iter().map_err(any_error)? {
            let (sequence, frame) = entry.map_err(any_error)?;
            let (sequence, frame) = (sequence.value(), frame.value());
            state.next = state.next.max(sequence.saturating_add(1));
            match Codec::parts(frame) {
                Some(parts) if codec.is_stale(&parts, now) => {
                    // An older value of the key is not to come back for it.
                    state.forget(self.hasher.hash_one(parts.key), None);
                    state.expired += 1;
                    state.dead.push(sequence);
                }
                Some(parts) => {
                    let hash = self.hasher.hash_one(parts.key);
                    state.forget(hash, None);
                    state.place(hash, sequence, frame.len());
                }
                None => {
                    state.corrupt += 1;
                    state.dead.push(sequence);
                }
            }
        }
        Ok(())
    }

    /// The largest frame that is taken.
    pub(super) fn largest(&self) -> usize {
        usize::try_from(self.capacity / 16).unwrap_or(usize::MAX)
    }

    /// Runs what touches the file; if that panics, or finds it damaged, the file is not touched
    /// again.
    fn guarded<R>(
        &self,
        work: impl FnOnce(&Database) -> Result<R, LevelError>,
    ) -> Result<R, LevelError> {
        let result = {
            let file = self.file.read();
            let Some(database) = &*file else {
                return Err(damaged("it was found to be so before"));
            };
            quietly(|| work(database))
        };
        match result {
            Some(Ok(done)) => Ok(done),
            Some(Err(error)) => {
                if matches!(error, LevelError::Damaged(_)) {
                    self.give_up();
                }
                Err(error)
            }
            None => {
                self.give_up();
                Err(damaged("its structure makes no sense"))
            }
        }
    }

    #[cold]
    fn give_up(&self) {
        let file = self.file.write().take();
        // (It may panic again.)
        let _ = quietly(|| drop(file));
    }

    /// The frame of `key`, and its number.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Numbered>, LevelError> {
        let hash = self.hasher.hash_one(key);
        let sequence = {
            let state = self.state.lock();
            let Some(place) = state.index.get(&hash) else { return Ok(None) };
            let sequence = place.sequence;
            let waits = state.fresh.get(&sequence).or_else(|| state.writing.get(&sequence));
            if let Some(frame) = waits {
                return Ok(Some((sequence, Arc::clone(frame))));
            }
            sequence
        };
        let frame = self.guarded(|database| {
            let read = database.begin_read().map_err(any_error)?;
            let table = read.open_table(ENTRIES).map_err(any_error)?;
            let frame = table.get(sequence).map_err(any_error)?;
            Ok(frame.map(|frame| Arc::from(frame.value())))
        })?;
        // (Evicted meanwhile, if it is not there.)
        Ok(frame.map(|frame| (sequence, frame)))
    }

    pub(super) fn put(&self, key: &[u8], frame: Vec<u8>) -> Result<(), LevelError> {
        let hash = self.hasher.hash_one(key);
        let full = {
            let mut state = self.state.lock();
            state.forget(hash, None);
            let sequence = state.next;
            state.next += 1;
            state.place(hash, sequence, frame.len());
            state.fresh_bytes += frame.len() as u64;
            state.fresh.insert(sequence, frame.into());
            state.fresh_bytes >= self.batch
        };
        if full || self.sync { self.commit(self.sync) } else { Ok(()) }
    }

    pub(super) fn remove(&self, key: &[u8]) -> Result<(), LevelError> {
        let hash = self.hasher.hash_one(key);
        let full = {
            let mut state = self.state.lock();
            if !state.forget(hash, None) {
                return Ok(());
            }
            state.dead.len() >= REMOVALS
        };
        if full || self.sync { self.commit(self.sync) } else { Ok(()) }
    }

    /// Takes out an entry that was read and is of no use.
    pub(super) fn discard(&self, key: &[u8], sequence: u64, corrupt: bool) {
        let mut state = self.state.lock();
        if corrupt {
            // What was written under another key may be in its place: the hashes collide.
            state.corrupt += 1;
        } else {
            state.expired += 1;
        }
        state.forget(self.hasher.hash_one(key), Some(sequence));
    }

    /// Writes what waits, and evicts what is too much.
    fn commit(&self, sync: bool) -> Result<(), LevelError> {
        let _writer = self.writer.lock();
        self.commit_alone(sync)?;
        let mut rounds = 0;
        while self.file_bytes() > self.capacity && rounds < 8 {
            rounds += 1;
            self.compact()?;
        }
        Ok(())
    }

    /// As above, by who holds the writer's lock.
    fn commit_alone(&self, sync: bool) -> Result<(), LevelError> {
        let (frames, dead, live, limit) = {
            let mut state = self.state.lock();
            state.writing = std::mem::take(&mut state.fresh);
            state.fresh_bytes = 0;
            let dead = std::mem::take(&mut state.dead);
            (state.writing.clone(), dead, state.live, state.limit)
        };
        if frames.is_empty() && dead.is_empty() && live <= limit && !sync {
            return Ok(());
        }
        let written = self.guarded(|database| {
            let mut write = database.begin_write().map_err(any_error)?;
            write.set_durability(if sync { Durability::Immediate } else { Durability::Eventual });
            let mut evicted = Vec::new();
            {
                let mut table = write.open_table(ENTRIES).map_err(any_error)?;
                for (sequence, frame) in &frames {
                    table.insert(sequence, &**frame).map_err(any_error)?;
                }
                for sequence in &dead {
                    table.remove(sequence).map_err(any_error)?;
                }
                let mut left = live;
                while left > limit {
                    let Some((sequence, frame)) = table.pop_first().map_err(any_error)? else {
                        break;
                    };
                    left = left.saturating_sub(frame.value().len() as u64 + OVERHEAD);
                    let hash =
                        Codec::parts(frame.value()).map(|parts| self.hasher.hash_one(parts.key));
                    evicted.push((sequence.value(), hash));
                }
            }
            write.commit().map_err(any_error)?;
            Ok(evicted)
        });
        let mut state = self.state.lock();
        // (Freed after the lock.)
        let written_frames = std::mem::take(&mut state.writing);
        match written {
            Ok(evicted) => {
                for (sequence, hash) in evicted {
                    let hash = hash.or_else(|| {
                        // A frame that is corrupt does not say whose it is.
                        let mut places = state.index.iter();
                        places.find(|(_, place)| place.sequence == sequence).map(|(hash, _)| *hash)
                    });
                    if hash.is_some_and(|hash| state.forget(hash, Some(sequence))) {
                        // It is gone from the file as well.
                        state.dead.pop();
                        state.evicted += 1;
                    }
                }
            }
            Err(error) => {
                // Nothing of it has happened. What was to be written is lost; what it took the place
                // of has still to go.
                let lost = |place: &Place| frames.contains_key(&place.sequence);
                let hashes: Vec<u64> = state
                    .index
                    .iter()
                    .filter(|(_, place)| lost(place))
                    .map(|(hash, _)| *hash)
                    .collect();
                for hash in hashes {
                    state.forget(hash, None);
                }
                state.dead.extend(dead);
                state.dead.retain(|sequence| !frames.contains_key(sequence));
                drop(state);
                drop(written_frames);
                return Err(error);
            }
        }
        drop(state);
        drop(written_frames);
        Ok(())
    }

    /// The file is too large: fewer entries, and no gaps.
    #[cold]
    fn compact(&self) -> Result<(), LevelError> {
        {
            let mut state = self.state.lock();
            let less = state.limit.min(state.live) / 8 * 7;
            state.limit = less.max(self.capacity / 16);
        }
        self.commit_alone(true)?;
        let mut file = self.file.write();
        let Some(database) = &mut *file else {
            return Err(damaged("it was found to be so before"));
        };
        let compacted = quietly(|| database.compact());
        drop(file);
        match compacted {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(LevelError::backend(error)),
            None => {
                self.give_up();
                Err(damaged("its structure makes no sense"))
            }
        }
    }

    fn file_bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |about| about.len())
    }

    pub(super) fn flush(&self) -> Result<(), LevelError> {
        self.commit(true)
    }

    pub(super) fn clear(&self) -> Result<(), LevelError> {
        let _writer = self.writer.lock();
        let gone = {
            let mut state = self.state.lock();
            let State { index, fresh, dead, .. } = &mut *state;
            let gone = (std::mem::take(index), std::mem::take(fresh), std::mem::take(dead));
            (state.live, state.fresh_bytes) = (0, 0);
            gone
        };
        drop(gone);
        self.guarded(|database| {
            let mut write = database.begin_write().map_err(any_error)?;
            write.set_durability(Durability::Immediate);
            write.delete_table(ENTRIES).map_err(any_error)?;
            // What came in meanwhile waits in memory, and goes to the new one.
            write.open_table(ENTRIES).map_err(any_error)?;
            write.commit().map_err(any_error)
        })
    }

    pub(super) fn maintain(&self, work: usize, now: SystemTime) -> Result<usize, LevelError> {
        self.commit(false)?;
        let from = self.state.lock().swept;
        let now = millis(now);
        let (due, end) = self.guarded(|database| {
            let read = database.begin_read().map_err(any_error)?;
            let table = read.open_table(ENTRIES).map_err(any_error)?;
            let (mut due, mut seen, mut end) = (Vec::new(), 0, 0);
            for entry in table.range(from..).map_err(any_error)? {
                if seen == work {
                    break;
                }
                seen += 1;
                let (sequence, frame) = entry.map_err(any_error)?;
                end = sequence.value().saturating_add(1);
                if let Some(parts) = Codec::parts(frame.value()).filter(|parts| parts.until <= now)
                {
                    due.push((self.hasher.hash_one(parts.key), sequence.value()));
                }
            }
            // At the end, it begins anew.
            Ok((due, if seen < work { 0 } else { end }))
        })?;
        let gone = {
            let mut state = self.state.lock();
            state.swept = end;
            let before = state.expired;
            for (hash, sequence) in due {
                let went = state.forget(hash, Some(sequence));
                state.expired += u64::from(went);
            }
            usize::try_from(state.expired - before).unwrap_or(usize::MAX)
        };
        if gone > 0 {
            self.commit(false)?;
        }
        Ok(gone)
    }

    pub(super) fn stats(&self) -> DiskStats {
        let file_bytes = self.file_bytes();
        let state = self.state.lock();
        DiskStats {
            entries: state.index.len() as u64,
            bytes: state.live,
            file_bytes,
            evicted: state.evicted,
            expired: state.expired,
            corrupt: state.corrupt,
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Who can't write any more has nobody to tell.
        let _ = self.commit(true);
        self.give_up();
    }
}
