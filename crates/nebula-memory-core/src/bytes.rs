//! Sizes in bytes that people can read and write: `"64MiB"` in a file, `64.0 MiB` in a message.

use std::{fmt, str::FromStr};

use crate::MemoryError;

/// A number of bytes that parses and prints as people write it.
///
/// Parsing accepts plain numbers and the decimal and binary units (`1000`, `64KiB`, `1.5 GB`);
/// [`Display`](fmt::Display) prints a rounded binary size. The `serde` feature reads either a
/// number or such a string, and writes the largest binary unit that is exact, so that a
/// configuration survives a round trip to the byte.
///
/// ```
/// use nebula_memory_core::ByteSize;
/// let size: ByteSize = "64MiB".parse()?;
/// assert_eq!(size, ByteSize::mib(64));
/// assert_eq!(size.get(), 64 << 20);
/// assert_eq!(size.to_string(), "64.0 MiB");
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(usize);

impl ByteSize {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// `bytes` bytes.
    #[must_use]
    pub const fn new(bytes: usize) -> Self {
        Self(bytes)
    }

    /// `n` binary kilobytes (1024 bytes each), saturating at `usize::MAX`.
    #[must_use]
    pub const fn kib(n: usize) -> Self {
        Self(n.saturating_mul(1 << 10))
    }

    /// `n` binary megabytes, saturating at `usize::MAX`.
    #[must_use]
    pub const fn mib(n: usize) -> Self {
        Self(n.saturating_mul(1 << 20))
    }

    /// `n` binary gigabytes, saturating at `usize::MAX`.
    #[must_use]
    pub const fn gib(n: usize) -> Self {
        Self(n.saturating_mul(1 << 30))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0
    }

    /// The shortest text that parses back to exactly this size, such as `64MiB` or `1000B`.
    #[must_use]
    pub fn to_exact_string(self) -> String {
        const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (unit, shift) in UNITS {
            if self.0 != 0 && self.0 % (1 << shift) == 0 {
                return format!("{}{unit}", self.0 >> shift);
            }
        }
        format!("{}B", self.0)
    }
}

impl From<usize> for ByteSize {
    fn from(bytes: usize) -> Self {
        Self(bytes)
    }
}

impl From<ByteSize> for usize {
    fn from(size: ByteSize) -> Self {
        size.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Formatted first, so that a width given by the caller applies to the whole.
        let text = bytesize::ByteSize::b(self.0 as u64).display().iec().to_string();
        f.pad(&text)
    }
}

impl FromStr for ByteSize {
    type Err = MemoryError;

    /// # Errors
    /// [`MemoryError::InvalidConfig`] if the text is not a size, or is one that a `usize` cannot
    /// hold.
    fn from_str(text: &str) -> Result<Self, MemoryError> {
        let fault = || {
            MemoryError::invalid_config(
                "size",
                text,
                "must be a number of bytes with an optional unit, such as 1048576, 512KiB or 64MiB",
            )
        };
        // The crate parses through floating point and saturates silently; what lies beyond the
        // numbers that it represents exactly is refused rather than rounded to something else.
        let size = bytesize::ByteSize::from_str(text.trim()).map_err(|_| fault())?;
        if size.as_u64() == u64::MAX {
            let digits = text.trim().trim_end_matches(['b', 'B']).trim_end();
            if digits.parse() != Ok(u64::MAX) {
                return Err(fault());
            }
        }
        usize::try_from(size.as_u64()).map(Self).map_err(|_| fault())
    }
}

#[cfg(feature = "serde")]
mod with_serde {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use super::{ByteSize, fmt};

    impl Serialize for ByteSize {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(&self.to_exact_string())
        }
    }

    struct SizeVisitor;

    impl de::Visitor<'_> for SizeVisitor {
        type Value = ByteSize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of bytes, or a size such as \"64MiB\"")
        }

        fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
            usize::try_from(bytes)
                .map(ByteSize)
                .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(bytes), &self))
        }

        fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
            usize::try_from(bytes)
                .map(ByteSize)
                .map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
            text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }

    impl<'de> Deserialize<'de> for ByteSize {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(SizeVisitor)
        }
    }
}

/// Durations as people write them (`"5s"`, `"250ms"`), for `#[serde(with = "..")]` on the fields
/// of configuration types.
///
/// ```
/// # #[cfg(feature = "serde")] {
/// use std::time::Duration;
/// #[derive(serde::Deserialize)]
/// struct Config {
///     #[serde(with = "nebula_memory_core::human_duration")]
///     interval: Duration,
/// }
/// let config: Config = serde_json::from_str(r#"{"interval": "250ms"}"#).unwrap();
/// assert_eq!(config.interval, Duration::from_millis(250));
/// # }
/// ```
#[cfg(feature = "serde")]
pub mod human_duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes `duration` in words, exact to the nanosecond.
    ///
    /// # Errors
    /// Whatever the serializer reports.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    /// Reads a duration in words.
    ///
    /// # Errors
    /// If the text is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(|e| {
            D::Error::custom(format!("`{text}` is not a duration such as \"5s\" or \"250ms\": {e}"))
        })
    }

    /// The same for durations that may be missing: `#[serde(with = "human_duration::option")]`.
    pub mod option {
        use std::time::Duration;

        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        #[derive(Serialize, Deserialize)]
        struct InWords(#[serde(with = "super")] Duration);

        /// Writes `duration` in words, or nothing.
        ///
        /// # Errors
        /// Whatever the serializer reports.
        pub fn serialize<S: Serializer>(
            duration: &Option<Duration>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            duration.map(InWords).serialize(serializer)
        }

        /// Reads a duration in words, or nothing.
        ///
        /// # Errors
        /// If the text is not a duration.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Duration>, D::Error> {
            Ok(Option::<InWords>::deserialize(deserializer)?.map(|words| words.0))
        }
    }
}
