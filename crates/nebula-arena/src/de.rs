//! Deserialising straight into an arena.

use std::{fmt, marker::PhantomData};

use nebula_memory_core::{MemoryError, Refused, allocator_api2::alloc::Allocator as Api2};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::{Arena, ArenaVec};

/// A type whose texts, slices and maps can be deserialised into an arena: [`ArenaSeed`] does it.
///
/// Implemented for numbers, `bool` and `char` (which need no arena), `&'a str`, `&'a [T]`,
/// `Option<T>`, [`Entries`] and [`ArenaValue`](crate::ArenaValue).
pub trait DeserializeIn<'a, S: ?Sized = Arena>: Sized {
    /// Deserialises a value; what it refers to is allocated in `arena`.
    ///
    /// # Errors
    /// The deserialiser's, also if the arena was refused a chunk; the reason is then the thread's
    /// [`last_refusal`](nebula_memory_core::last_refusal).
    fn deserialize_in<'de, D: Deserializer<'de>>(
        arena: &'a S,
        deserializer: D,
    ) -> Result<Self, D::Error>;
}

/// A seed (for [`DeserializeSeed`]) that makes a `T` whose contents lie in an arena.
///
/// Nothing is allocated elsewhere, so that an arena on a budget is charged for all of it. Slices
/// grow in the arena while their length is not known; what they leave behind is unused until the
/// arena is reset.
///
/// ```
/// use nebula_arena::{Arena, ArenaSeed, Entries};
/// use serde::de::DeserializeSeed as _;
///
/// let arena = Arena::new();
/// let mut json = serde_json::Deserializer::from_str(r#"{"a": ["x", "y"], "b": []}"#);
/// let seed = ArenaSeed::<Entries<'_, &str, &[&str]>>::new(&arena);
/// let entries = seed.deserialize(&mut json)?;
/// assert_eq!(entries.0, [("a", &["x", "y"][..]), ("b", &[])]);
/// # Ok::<(), serde_json::Error>(())
/// ```
pub struct ArenaSeed<'a, T, S: ?Sized = Arena> {
    arena: &'a S,
    makes: PhantomData<fn() -> T>,
}

impl<'a, T, S: ?Sized> ArenaSeed<'a, T, S> {
    /// A seed for `arena`, or a scope, or another kind of arena.
    pub const fn new(arena: &'a S) -> Self {
        Self { arena, makes: PhantomData }
    }
}

impl<T, S: ?Sized> Clone for ArenaSeed<'_, T, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, S: ?Sized> Copy for ArenaSeed<'_, T, S> {}

impl<T, S: ?Sized> fmt::Debug for ArenaSeed<'_, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArenaSeed").finish_non_exhaustive()
    }
}

impl<'de, 'a, T: DeserializeIn<'a, S>, S: ?Sized> DeserializeSeed<'de> for ArenaSeed<'a, T, S> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::deserialize_in(self.arena, deserializer)
    }
}

/// A refusal as a deserialiser's error; the reason is kept for who wants it whole.
pub(crate) fn refused<E: Error>(error: MemoryError) -> E {
    let said = E::custom(&error);
    let _ = error.into_alloc_error();
    said
}

/// A copy of `text` in the arena.
pub(crate) fn text_in<'a, S: ?Sized, E: Error>(arena: &'a S, text: &str) -> Result<&'a str, E>
where
    &'a S: Api2,
{
    let mut copy = ArenaVec::new_in(arena);
    copy.try_reserve(text.len()).map_err(refused)?;
    copy.extend_from_slice(text.as_bytes());
    // SAFETY: the bytes are those of a `str`.
    Ok(unsafe { std::str::from_utf8_unchecked(copy.into_slice()) })
}

/// All elements of a sequence, in the arena.
pub(crate) fn sequence_in<'de, 'a, T, S, A>(
    arena: &'a S,
    mut sequence: A,
) -> Result<&'a [T], A::Error>
where
    T: DeserializeIn<'a, S>,
    S: ?Sized,
    &'a S: Api2,
    A: SeqAccess<'de>,
{
    let mut values = with_room_for(arena, sequence.size_hint())?;
    while let Some(value) = sequence.next_element_seed(ArenaSeed::new(arena))? {
        push(&mut values, value)?;
    }
    Ok(values.into_slice())
}

/// All entries of a map, in the arena.
pub(crate) fn map_in<'de, 'a, K, V, S, A>(
    arena: &'a S,
    mut map: A,
) -> Result<&'a [(K, V)], A::Error>
where
    K: DeserializeIn<'a, S>,
    V: DeserializeIn<'a, S>,
    S: ?Sized,
    &'a S: Api2,
    A: MapAccess<'de>,
{
    let mut entries = with_room_for(arena, map.size_hint())?;
    while let Some(key) = map.next_key_seed(ArenaSeed::new(arena))? {
        let value = map.next_value_seed(ArenaSeed::new(arena))?;
        push(&mut entries, (key, value))?;
    }
    Ok(entries.into_slice())
}

/// A vector with room for as many values as are announced, but not for more than could be there
/// by mistake.
fn with_room_for<'a, T, S: ?Sized, E: Error>(
    arena: &'a S,
    announced: Option<usize>,
) -> Result<ArenaVec<'a, T, S>, E>
where
    &'a S: Api2,
{
    let most = 4096 / size_of::<T>().max(1);
    let mut values = ArenaVec::new_in(arena);
    values.try_reserve(announced.unwrap_or(0).min(most)).map_err(refused)?;
    Ok(values)
}

fn push<'a, T, S: ?Sized, E: Error>(values: &mut ArenaVec<'a, T, S>, value: T) -> Result<(), E>
where
    &'a S: Api2,
{
    values.try_push(value).map_err(Refused::into_error).map_err(refused)
}

macro_rules! as_they_are {
    ($($type:ty),*) => { $(
        impl<'a, S: ?Sized + 'a> DeserializeIn<'a, S> for $type {
            fn deserialize_in<'de, D: Deserializer<'de>>(
                _arena: &'a S,
                deserializer: D,
            ) -> Result<Self, D::Error> {
                Self::deserialize(deserializer)
            }
        }
    )* };
}

as_they_are!(
    (),
    bool,
    char,
    u8,
    u16,
    u32,
    u64,
    u128,
    usize,
    i8,
    i16,
    i32,
    i64,
    i128,
    isize,
    f32,
    f64
);

impl<'a, S: ?Sized + 'a> DeserializeIn<'a, S> for &'a str
where
    &'a S: Api2,
{
    fn deserialize_in<'de, D: Deserializer<'de>>(
        arena: &'a S,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        struct Text<'a, S: ?Sized>(&'a S);

        impl<'a, S: ?Sized> Visitor<'_> for Text<'a, S>
        where
            &'a S: Api2,
        {
            type Value = &'a str;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<&'a str, E> {
                text_in(self.0, text)
            }
        }

        deserializer.deserialize_str(Text(arena))
    }
}

impl<'a, T: DeserializeIn<'a, S> + 'a, S: ?Sized + 'a> DeserializeIn<'a, S> for &'a [T]
where
    &'a S: Api2,
{
    fn deserialize_in<'de, D: Deserializer<'de>>(
        arena: &'a S,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        struct Sequence<'a, T, S: ?Sized>(ArenaSeed<'a, T, S>);

        impl<'de, 'a, T: DeserializeIn<'a, S> + 'a, S: ?Sized> Visitor<'de> for Sequence<'a, T, S>
        where
            &'a S: Api2,
        {
            type Value = &'a [T];

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<&'a [T], A::Error> {
                sequence_in(self.0.arena, sequence)
            }
        }

        deserializer.deserialize_seq(Sequence(ArenaSeed::new(arena)))
    }
}

impl<'a, T: DeserializeIn<'a, S>, S: ?Sized + 'a> DeserializeIn<'a, S> for Option<T> {
    fn deserialize_in<'de, D: Deserializer<'de>>(
        arena: &'a S,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        struct Maybe<'a, T, S: ?Sized>(ArenaSeed<'a, T, S>);

        impl<'de, 'a, T: DeserializeIn<'a, S>, S: ?Sized> Visitor<'de> for Maybe<'a, T, S> {
            type Value = Option<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or nothing")
            }

            fn visit_none<E: Error>(self) -> Result<Option<T>, E> {
                Ok(None)
            }

            fn visit_unit<E: Error>(self) -> Result<Option<T>, E> {
                Ok(None)
            }

            fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Option<T>, D::Error> {
                T::deserialize_in(self.0.arena, value).map(Some)
            }
        }

        deserializer.deserialize_option(Maybe(ArenaSeed::new(arena)))
    }
}

/// The entries of a map in the order in which they came; keys may repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries<'a, K, V>(pub &'a [(K, V)]);

impl<'a, K, V, S: ?Sized + 'a> DeserializeIn<'a, S> for Entries<'a, K, V>
where
    K: DeserializeIn<'a, S> + 'a,
    V: DeserializeIn<'a, S> + 'a,
    &'a S: Api2,
{
    fn deserialize_in<'de, D: Deserializer<'de>>(
        arena: &'a S,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        struct Map<'a, K, V, S: ?Sized>(ArenaSeed<'a, (K, V), S>);

        impl<'de, 'a, K, V, S: ?Sized> Visitor<'de> for Map<'a, K, V, S>
        where
            K: DeserializeIn<'a, S> + 'a,
            V: DeserializeIn<'a, S> + 'a,
            &'a S: Api2,
        {
            type Value = Entries<'a, K, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                map_in(self.0.arena, map).map(Entries)
            }
        }

        deserializer.deserialize_map(Map(ArenaSeed::new(arena)))
    }
}
