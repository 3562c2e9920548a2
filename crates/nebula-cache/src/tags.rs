//! Names that entries share, so that they can be removed together.

use std::{
    fmt::Debug,
    hash::{BuildHasher, Hash},
};

use nebula_memory_core::MemoryError;

use crate::DefaultHashBuilder;

/// What an entry keeps of tags: [`Untagged`] or [`Tagged`].
pub trait Tags: sealed::Tags {}

impl<T: sealed::Tags> Tags for T {}

/// Entries have no tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Untagged;

/// Entries may have up to four tags. Takes 16 bytes in each entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tagged {
    /// Hashes of the tags; zero is none.
    tags: [u32; MOST],
}

/// The most tags of an entry.
const MOST: usize = 4;

/// The hash of a tag, never zero; the same in every cache of this process.
#[allow(clippy::cast_possible_truncation, reason = "the high half is as good as any")]
pub(crate) fn hash_of(tag: impl Hash) -> u32 {
    let hash = DefaultHashBuilder::default().hash_one(tag);
    ((hash >> 32) as u32).max(1)
}

/// Tags on their way to an entry.
#[derive(Clone, Copy, Debug, Default)]
pub struct TagList {
    tags: [u32; MOST],
    len: usize,
}

impl TagList {
    pub(crate) fn push(&mut self, tag: u32) {
        // Those beyond are counted, for the error.
        if let Some(place) = self.tags.get_mut(self.len) {
            *place = tag;
        }
        self.len += 1;
    }
}

pub(crate) mod sealed {
    use super::{Debug, MOST, MemoryError, TagList, Tagged, Untagged};

    pub trait Tags: Default + Debug + Send + Sync + 'static {
        /// The most tags that an entry can have.
        const MOST: usize;

        fn keep(tags: [u32; MOST]) -> Self;

        fn has(&self, tag: u32) -> bool;

        /// Keeps the tags of `list`.
        fn new(list: &TagList) -> Result<Self, MemoryError> {
            if list.len <= Self::MOST {
                return Ok(Self::keep(list.tags));
            }
            Err(MemoryError::invalid_config(
                "tags",
                list.len,
                if Self::MOST == 0 {
                    "entries of this cache have no tags; build it `with_tags()`"
                } else {
                    "an entry has at most four tags"
                },
            ))
        }
    }

    impl Tags for Untagged {
        const MOST: usize = 0;

        fn keep(_tags: [u32; MOST]) -> Self {
            Self
        }

        fn has(&self, _tag: u32) -> bool {
            false
        }
    }

    impl Tags for Tagged {
        const MOST: usize = MOST;

        fn keep(tags: [u32; MOST]) -> Self {
            Self { tags }
        }

        fn has(&self, tag: u32) -> bool {
            self.tags.contains(&tag)
        }
    }
}
