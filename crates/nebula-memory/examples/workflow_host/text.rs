//! From text to words, and from words to a summary that can be shared.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use hashbrown::{DefaultHashBuilder, HashMap};
use nebula_memory::{
    arena::Arena,
    core::{Account, MemoryError, allocator_api2::vec::Vec as AVec},
};

use crate::tenant::{Heap, refusal};

/// Identifies a text by what it says, wherever it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ContentKey([u64; 2]);

impl ContentKey {
    pub(crate) fn of(text: &str) -> Self {
        let hash = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            salt.hash(&mut hasher);
            text.hash(&mut hasher);
            hasher.finish()
        };
        Self([hash(1), hash(2)])
    }
}

/// What a text says, in words: each with how often it occurs, in alphabetical order.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) tokens: u64,
    /// All words, one after the other.
    text: Box<str>,
    /// Where each word ends in `text`, and its count.
    words: Box<[(u32, u32)]>,
}

impl Summary {
    /// Splits `text` into words and counts them; what that takes lies in `arena`.
    pub(crate) fn of<A: Account>(text: &str, arena: &Arena<Heap<A>>) -> Result<Self, MemoryError> {
        let account = arena.allocator().account();
        let mut tokens = AVec::new_in(arena);
        for word in words(text) {
            tokens.try_reserve(1).map_err(|_| refusal(account))?;
            tokens.push(word);
        }
        let mut counts: HashMap<&str, u32, DefaultHashBuilder, &Arena<Heap<A>>> =
            HashMap::with_hasher_in(DefaultHashBuilder::default(), arena);
        for word in &tokens {
            counts.try_reserve(1).map_err(|_| refusal(account))?;
            *counts.entry(*word).or_insert(0) += 1;
        }
        let mut sorted = AVec::new_in(arena);
        sorted.try_reserve_exact(counts.len()).map_err(|_| refusal(account))?;
        sorted.extend(counts.iter().map(|(word, count)| (*word, *count)));
        sorted.sort_unstable();
        let mut joined = String::new();
        let ends = sorted.iter().map(|(word, count)| {
            joined.push_str(word);
            (u32::try_from(joined.len()).unwrap_or(u32::MAX), *count)
        });
        let words = ends.collect();
        Ok(Self { tokens: tokens.len() as u64, text: joined.into(), words })
    }

    /// The words in alphabetical order, with their counts.
    pub(crate) fn words(&self) -> impl Iterator<Item = (&str, u32)> {
        let mut start = 0;
        self.words.iter().map(move |&(end, count)| {
            let word = &self.text[start..end as usize];
            start = end as usize;
            (word, count)
        })
    }

    /// Bytes on the heap.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.text.len() + size_of_val(&*self.words)
    }
}

/// The words of a text: runs of letters, digits and underscores.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// A checksum that is the same in every run of one build, whatever the order of events.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Checksum(u64);

impl Checksum {
    /// Adds one fact; the order in which facts are added does not matter.
    pub(crate) fn add(&mut self, fact: impl Hash) {
        let mut hasher = DefaultHasher::new();
        fact.hash(&mut hasher);
        self.0 = self.0.wrapping_add(hasher.finish());
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
