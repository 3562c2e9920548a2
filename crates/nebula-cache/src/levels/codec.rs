//! Keys and values as bytes, in frames that are checked when they are read.
//!
//! ```text
//! "NbC" format:u8 version:u32 until:u64 key_length:u32 crc:u32 | key | value
//! ```
//! Numbers are little-endian. `until` is in milliseconds since 1970, or all ones; `crc` is the CRC-32
//! of everything else. Key and value are in postcard's format.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, de::DeserializeOwned};

use super::{Hit, LevelError};

const MAGIC: [u8; 4] = *b"NbC\x01";
const HEADER: usize = 24;
const CRC: std::ops::Range<usize> = 20..24;
const NEVER: u64 = u64::MAX;

/// Puts keys and values into frames that say what they are, and reads nothing but those.
///
/// A frame has a magic number, the version of your types, the time at which the value expires, the
/// key, the value, and a checksum of all of it. What does not check is no value. Keys and values go
/// through serde in the format of the crate `postcard`, which does not describe itself: give your
/// types another version whenever they change.
///
/// Keys are told apart by their bytes: those that are equal must be written alike. (A key that ignores
/// case, or holds a `HashSet`, may not be; what is removed under one may then be found under the
/// other.)
///
/// For levels of your own; [`DiskLevel`](crate::DiskLevel) and [`RedisLevel`](crate::RedisLevel) have
/// one.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use nebula_cache::{Codec, Decoded, Hit};
///
/// let codec = Codec::new(1);
/// let key = codec.key("pi").unwrap();
/// let mut frame = codec.encode(&key, &3.14_f64, None).unwrap();
///
/// let now = SystemTime::now();
/// assert_eq!(codec.decode(&key, &frame, now), Decoded::Value(Hit::new(3.14, None)));
/// assert_eq!(Codec::new(2).decode::<f64>(&key, &frame, now), Decoded::OtherVersion);
/// frame[30] ^= 1;
/// assert_eq!(codec.decode::<f64>(&key, &frame, now), Decoded::Corrupt);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codec {
    version: u32,
}

/// What a frame turned out to be.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Decoded<V> {
    /// A value that is still alive.
    Value(Hit<V>),
    /// A value whose time is over.
    Expired,
    /// A sound frame of another version of the types.
    OtherVersion,
    /// Not what was written under this key.
    Corrupt,
}

/// The parts of a sound frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'f> {
    pub(crate) version: u32,
    pub(crate) until: u64,
    pub(crate) key: &'f [u8],
    value: &'f [u8],
}

/// Milliseconds since 1970.
pub(crate) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(NEVER - 1)
}

#[allow(clippy::needless_pass_by_value, reason = "as `map_err` wants it")]
fn encode_error(error: postcard::Error) -> LevelError {
    LevelError::Encode(error.to_string().into())
}

/// The checksum of a frame that has the length of a header at least.
fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..CRC.start]);
    hasher.update(&frame[CRC.end..]);
    hasher.finalize()
}

/// The number at `at` of a frame that is long enough.
fn number<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at + N)?.try_into().ok()
}

impl Codec {
    /// For types of this version.
    #[must_use]
    pub const fn new(version: u32) -> Self {
        Self { version }
    }

    /// The bytes of a key.
    ///
    /// # Errors
    /// [`LevelError::Encode`] if serde can't.
    pub fn key<K: Serialize + ?Sized>(&self, key: &K) -> Result<Vec<u8>, LevelError> {
        postcard::to_extend(key, Vec::new()).map_err(encode_error)
    }

    /// A frame of `value` under `key`, which expires at `until`.
    ///
    /// # Errors
    /// [`LevelError::Encode`] if serde can't, or the key is 4 GiB large.
    pub fn encode<V: Serialize + ?Sized>(
        &self,
        key: &[u8],
        value: &V,
        until: Option<SystemTime>,
    ) -> Result<Vec<u8>, LevelError> {
        let too_long = |_| LevelError::Encode("a key of 4 GiB".into());
        let length = u32::try_from(key.len()).map_err(too_long)?;
        let mut frame = Vec::with_capacity(HEADER + key.len() + 64);
        frame.extend(MAGIC);
        frame.extend(self.version.to_le_bytes());
        frame.extend(until.map_or(NEVER, millis).to_le_bytes());
        frame.extend(length.to_le_bytes());
        frame.extend([0; 4]);
        frame.extend(key);
        let mut frame = postcard::to_extend(value, frame).map_err(encode_error)?;
        let crc = checksum(&frame);
        frame[CRC].copy_from_slice(&crc.to_le_bytes());
        Ok(frame)
    }

    /// The parts of a frame, if it is sound.
    pub(crate) fn parts(frame: &[u8]) -> Option<Parts<'_>> {
        if frame.len() < HEADER || frame[..4] != MAGIC {
            return None;
        }
        if u32::from_le_bytes(number(frame, CRC.start)?) != checksum(frame) {
            return None;
        }
        let length = usize::try_from(u32::from_le_bytes(number(frame, 16)?)).ok()?;
        let (key, value) = frame[HEADER..].split_at_checked(length)?;
        let version = u32::from_le_bytes(number(frame, 4)?);
        Some(Parts { version, until: u64::from_le_bytes(number(frame, 8)?), key, value })
    }

    #[cfg(feature = "disk")]
    /// Whether a sound frame has nothing to say at `now`.
    pub(crate) fn is_stale(self, parts: &Parts<'_>, now: SystemTime) -> bool {
        parts.version != self.version || parts.until <= millis(now)
    }

    /// Reads a frame with whatever key is in it: the entry, with what it has left to live at `now`;
    /// `Some(None)` if that is nothing, `None` if the frame is not sound.
    #[allow(clippy::type_complexity, reason = "an alias would hide what it is")]
    pub(crate) fn decode_entry<K: DeserializeOwned, V: DeserializeOwned>(
        self,
        frame: &[u8],
        now: SystemTime,
    ) -> Option<Option<(K, (V, Option<Duration>))>> {
        let parts = Self::parts(frame)?;
        let Ok((key, [])) = postcard::take_from_bytes(parts.key) else { return None };
        match self.decode(parts.key, frame, now) {
            Decoded::Value(hit) => Some(Some((key, (hit.value, hit.ttl)))),
            Decoded::Expired => Some(None),
            Decoded::OtherVersion | Decoded::Corrupt => None,
        }
    }

    /// Reads a frame that was found under `key` at `now`.
    #[must_use]
    pub fn decode<V: DeserializeOwned>(
        &self,
        key: &[u8],
        frame: &[u8],
        now: SystemTime,
    ) -> Decoded<V> {
        let Some(parts) = Self::parts(frame).filter(|parts| parts.key == key) else {
            return Decoded::Corrupt;
        };
        if parts.version != self.version {
            return Decoded::OtherVersion;
        }
        if parts.until <= millis(now) {
            return Decoded::Expired;
        }
        match postcard::take_from_bytes(parts.value) {
            Ok((value, [])) => {
                // To the nanosecond: what is promoted must not outlive what was written.
                let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
                let ttl = Duration::from_millis(parts.until).saturating_sub(since);
                Decoded::Value(Hit::new(value, (parts.until != NEVER).then_some(ttl)))
            }
            _ => Decoded::Corrupt,
        }
    }
}
