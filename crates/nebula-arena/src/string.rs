//! Strings that leave their memory to the arena.

use std::{
    borrow::Borrow,
    fmt,
    hash::{Hash, Hasher},
    ops::{Deref, DerefMut},
};

use nebula_memory_core::{MemoryError, allocator_api2::alloc::Allocator as Api2};

use crate::{Arena, ArenaVec};

/// A growing string in an arena, which needs no `Drop`.
///
/// `write!` writes to it. At the end of the arena's current chunk it grows where it lies.
///
/// ```
/// use std::fmt::Write as _;
///
/// let arena = nebula_arena::Arena::new();
/// let mut text = arena.string();
/// text.push_str("pi is about ");
/// write!(text, "{:.2}", 3.14159)?;
/// let text: &mut str = text.into_str();
/// assert_eq!(text, "pi is about 3.14");
/// # Ok::<(), std::fmt::Error>(())
/// ```
pub struct ArenaString<'a, S: ?Sized = Arena>(ArenaVec<'a, u8, S>)
where
    &'a S: Api2;

impl<'a, S: ?Sized> ArenaString<'a, S>
where
    &'a S: Api2,
{
    /// Empty; takes no room.
    #[inline]
    pub(crate) const fn new_in(arena: &'a S) -> Self {
        Self(ArenaVec::new_in(arena))
    }

    /// Appends `text`.
    ///
    /// # Panics
    /// If the arena is refused a chunk.
    #[inline]
    #[track_caller]
    pub fn push_str(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    /// Appends `text`.
    ///
    /// # Errors
    /// If the arena is refused a chunk; the string has not changed then.
    pub fn try_push_str(&mut self, text: &str) -> Result<(), MemoryError> {
        self.0.try_reserve(text.len())?;
        // There is room now.
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// Appends a character.
    ///
    /// # Panics
    /// If the arena is refused a chunk.
    #[inline]
    #[track_caller]
    pub fn push(&mut self, character: char) {
        self.push_str(character.encode_utf8(&mut [0; 4]));
    }

    /// Makes room for `additional` more bytes.
    ///
    /// # Errors
    /// If the arena is refused a chunk; the string has not changed then.
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), MemoryError> {
        self.0.try_reserve(additional)
    }

    /// Bytes that it has room for.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Removes all text; keeps the room.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The text.
    #[inline]
    pub fn as_str(&self) -> &str {
        self
    }

    /// The text, for as long as the arena is borrowed. Unused room goes back to the arena if the
    /// string was allocated last.
    #[inline]
    pub fn into_str(self) -> &'a mut str {
        // SAFETY: only whole strings were appended.
        unsafe { std::str::from_utf8_unchecked_mut(self.0.into_slice()) }
    }
}

impl<'a, S: ?Sized> Deref for ArenaString<'a, S>
where
    &'a S: Api2,
{
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        // SAFETY: only whole strings were appended.
        unsafe { std::str::from_utf8_unchecked(&self.0) }
    }
}

impl<'a, S: ?Sized> DerefMut for ArenaString<'a, S>
where
    &'a S: Api2,
{
    #[inline]
    fn deref_mut(&mut self) -> &mut str {
        // SAFETY: only whole strings were appended.
        unsafe { std::str::from_utf8_unchecked_mut(&mut self.0) }
    }
}

impl<'a, S: ?Sized> Clone for ArenaString<'a, S>
where
    &'a S: Api2,
{
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<'a, S: ?Sized> AsRef<str> for ArenaString<'a, S>
where
    &'a S: Api2,
{
    fn as_ref(&self) -> &str {
        self
    }
}

impl<'a, S: ?Sized> Borrow<str> for ArenaString<'a, S>
where
    &'a S: Api2,
{
    fn borrow(&self) -> &str {
        self
    }
}

impl<'a, S: ?Sized> fmt::Write for ArenaString<'a, S>
where
    &'a S: Api2,
{
    /// # Errors
    /// If the arena is refused a chunk; the reason is the thread's
    /// [`last_refusal`](nebula_memory_core::last_refusal).
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match self.try_push_str(text) {
            Ok(()) => Ok(()),
            Err(error) => {
                let _ = error.into_alloc_error();
                Err(fmt::Error)
            }
        }
    }
}

impl<'a, S: ?Sized> Extend<char> for ArenaString<'a, S>
where
    &'a S: Api2,
{
    fn extend<I: IntoIterator<Item = char>>(&mut self, characters: I) {
        characters.into_iter().for_each(|character| self.push(character));
    }
}

impl<'t, 'a, S: ?Sized> Extend<&'t str> for ArenaString<'a, S>
where
    &'a S: Api2,
{
    fn extend<I: IntoIterator<Item = &'t str>>(&mut self, texts: I) {
        texts.into_iter().for_each(|text| self.push_str(text));
    }
}

impl<'a, S: ?Sized> PartialEq for ArenaString<'a, S>
where
    &'a S: Api2,
{
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<'a, S: ?Sized> Eq for ArenaString<'a, S> where &'a S: Api2 {}

impl<'a, S: ?Sized> PartialEq<str> for ArenaString<'a, S>
where
    &'a S: Api2,
{
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl<'a, S: ?Sized> PartialEq<&str> for ArenaString<'a, S>
where
    &'a S: Api2,
{
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl<'a, S: ?Sized> Hash for ArenaString<'a, S>
where
    &'a S: Api2,
{
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl<'a, S: ?Sized> fmt::Display for ArenaString<'a, S>
where
    &'a S: Api2,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<'a, S: ?Sized> fmt::Debug for ArenaString<'a, S>
where
    &'a S: Api2,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Writes `arguments` to `text` and keeps why the arena was refused, if it was.
pub(crate) fn format<'a, S: ?Sized>(
    text: ArenaString<'a, S>,
    arguments: fmt::Arguments<'_>,
) -> Result<&'a mut str, MemoryError>
where
    &'a S: Api2,
{
    struct Writer<'a, S: ?Sized>
    where
        &'a S: Api2,
    {
        text: ArenaString<'a, S>,
        refusal: Option<MemoryError>,
    }

    impl<'a, S: ?Sized> fmt::Write for Writer<'a, S>
    where
        &'a S: Api2,
    {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.text.try_push_str(text).map_err(|error| {
                self.refusal = Some(error);
                fmt::Error
            })
        }
    }

    let mut writer = Writer { text, refusal: None };
    let result = fmt::write(&mut writer, arguments);
    match (writer.refusal, result) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => Ok(writer.text.into_str()),
        (None, Err(fmt::Error)) => panic!("a formatting trait implementation returned an error"),
    }
}
