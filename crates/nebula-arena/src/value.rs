//! A value of any shape, as JSON has them, in an arena.

use std::fmt;

use nebula_memory_core::allocator_api2::alloc::Allocator as Api2;
use serde::{
    Serialize, Serializer,
    de::{Deserializer, Error, MapAccess, SeqAccess, Visitor},
    ser::SerializeMap as _,
};

use crate::de::{DeserializeIn, map_in, sequence_in, text_in};

/// A value of any shape, as JSON has them, whose texts, lists and maps lie in an arena.
///
/// It is small and `Copy`, and needs no `Drop`.
///
/// ```
/// use nebula_arena::{Arena, ArenaSeed, ArenaValue};
/// use serde::de::DeserializeSeed as _;
///
/// let arena = Arena::new();
/// let mut json = serde_json::Deserializer::from_str(r#"{"name": "nebula", "sizes": [1, 2.5]}"#);
/// let value = ArenaSeed::<ArenaValue<'_>>::new(&arena).deserialize(&mut json)?;
/// assert_eq!(value.get("name").and_then(|name| name.as_str()), Some("nebula"));
/// assert_eq!(value.get("sizes").map(|sizes| sizes.as_slice().len()), Some(2));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum ArenaValue<'a> {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// An integer that is not negative.
    Unsigned(u64),
    /// A negative integer.
    Signed(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Str(&'a str),
    /// A list.
    List(&'a [ArenaValue<'a>]),
    /// The entries of a map, in the order in which they came; keys may repeat.
    Map(&'a [(&'a str, ArenaValue<'a>)]),
}

impl<'a> ArenaValue<'a> {
    /// The value of the last entry with that key, if this is a map that has one. O(n) in the
    /// number of entries.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a Self> {
        let Self::Map(entries) = *self else { return None };
        entries.iter().rev().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The text, if this is one.
    #[must_use]
    pub const fn as_str(&self) -> Option<&'a str> {
        if let Self::Str(text) = *self { Some(text) } else { None }
    }

    /// The values of a list; empty for all others.
    #[must_use]
    pub const fn as_slice(&self) -> &'a [Self] {
        if let Self::List(values) = *self { values } else { &[] }
    }
}

impl Serialize for ArenaValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(value),
            Self::Unsigned(number) => serializer.serialize_u64(number),
            Self::Signed(number) => serializer.serialize_i64(number),
            Self::Float(number) => serializer.serialize_f64(number),
            Self::Str(text) => serializer.serialize_str(text),
            Self::List(values) => serializer.collect_seq(values),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'a, S: ?Sized + 'a> DeserializeIn<'a, S> for ArenaValue<'a>
where
    &'a S: Api2,
{
    fn deserialize_in<'de, D: Deserializer<'de>>(
        arena: &'a S,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any(arena))
    }
}

struct Any<'a, S: ?Sized>(&'a S);

impl<'de, 'a, S: ?Sized> Visitor<'de> for Any<'a, S>
where
    &'a S: Api2,
{
    type Value = ArenaValue<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(ArenaValue::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(ArenaValue::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        ArenaValue::deserialize_in(self.0, value)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(ArenaValue::Bool(value))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(ArenaValue::Unsigned(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(u64::try_from(number).map_or(ArenaValue::Signed(number), ArenaValue::Unsigned))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        Ok(ArenaValue::Float(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        text_in(self.0, text).map(ArenaValue::Str)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Self::Value, A::Error> {
        sequence_in(self.0, sequence).map(ArenaValue::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        map_in(self.0, map).map(ArenaValue::Map)
    }
}
