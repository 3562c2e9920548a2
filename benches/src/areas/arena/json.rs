//! A JSON document of 4 MB as a tree in an arena: once of vectors that grow in it, by the same code
//! for every allocator; once in the manner of arenas, with finished texts and slices copied in.

use std::{cell::RefCell, hint::black_box, mem::ManuallyDrop};

use nebula_memory_core::{
    Global,
    allocator_api2::{alloc::Allocator, vec::Vec as Vec2},
};

use super::{
    Bump, BumpScope, Bumpalo, Ours, Oxc,
    document::{Reader, Start, document},
};
use crate::{Case, Contender, Footprint, Maker, kept};

/// A tree of vectors.
#[cfg_attr(not(test), expect(dead_code, reason = "made, not looked at"))]
enum Tree<A: Allocator> {
    Null,
    Bool(bool),
    Number(f64),
    Text(Vec2<u8, A>),
    Array(Vec2<Self, A>),
    Object(Vec2<(Vec2<u8, A>, Self), A>),
}

impl<A: Allocator + Copy> Tree<A> {
    fn read(reader: &mut Reader<'_>, allocator: A) -> Self {
        match reader.start() {
            Start::Null => Self::Null,
            Start::Bool(bool) => Self::Bool(bool),
            Start::Number(number) => Self::Number(number),
            Start::Text => Self::Text(Self::text(reader, allocator)),
            Start::Array => {
                let mut values = Vec2::new_in(allocator);
                if !reader.ends(b']') {
                    loop {
                        values.push(Self::read(reader, allocator));
                        if !reader.goes_on(b']') {
                            break;
                        }
                    }
                }
                Self::Array(values)
            }
            Start::Object => {
                let mut fields = Vec2::new_in(allocator);
                if !reader.ends(b'}') {
                    loop {
                        reader.key();
                        let key = Self::text(reader, allocator);
                        reader.colon();
                        fields.push((key, Self::read(reader, allocator)));
                        if !reader.goes_on(b'}') {
                            break;
                        }
                    }
                }
                Self::Object(fields)
            }
        }
    }

    #[inline]
    fn text(reader: &mut Reader<'_>, allocator: A) -> Vec2<u8, A> {
        let mut text = Vec2::new_in(allocator);
        loop {
            let (piece, escaped) = reader.piece();
            append(&mut text, piece);
            match escaped {
                Some(byte) => text.push(byte),
                None => return text,
            }
        }
    }
}

/// What `extend_from_slice` does byte by byte.
#[inline]
pub(super) fn append<A: Allocator>(text: &mut Vec2<u8, A>, piece: &[u8]) {
    text.reserve(piece.len());
    let free = &mut text.spare_capacity_mut()[..piece.len()];
    // SAFETY: both are valid for as many bytes, and what is free overlaps nothing.
    unsafe { piece.as_ptr().copy_to_nonoverlapping(free.as_mut_ptr().cast(), piece.len()) };
    // SAFETY: that many more bytes are written, and there was room for them.
    unsafe { text.set_len(text.len() + piece.len()) };
}

/// A tree that owns nothing.
#[derive(Clone, Copy)]
#[cfg_attr(not(test), expect(dead_code, reason = "made, not looked at"))]
enum Copied<'a> {
    Null,
    Bool(bool),
    Number(f64),
    Text(&'a str),
    Array(&'a [Self]),
    Object(&'a [(&'a str, Self)]),
}

/// What is not finished yet: elements of the arrays and fields of the objects that are open.
struct Scratch<'a, A> {
    arena: &'a A,
    values: Vec<Copied<'a>>,
    fields: Vec<(&'a str, Copied<'a>)>,
    text: Vec<u8>,
}

impl<'a, A: Bump> Scratch<'a, A> {
    fn new(arena: &'a A) -> Self {
        Self { arena, values: Vec::new(), fields: Vec::new(), text: Vec::new() }
    }

    fn read(&mut self, reader: &mut Reader<'_>) -> Copied<'a> {
        match reader.start() {
            Start::Null => Copied::Null,
            Start::Bool(bool) => Copied::Bool(bool),
            Start::Number(number) => Copied::Number(number),
            Start::Text => Copied::Text(self.text(reader)),
            Start::Array => {
                let from = self.values.len();
                if !reader.ends(b']') {
                    loop {
                        let value = self.read(reader);
                        self.values.push(value);
                        if !reader.goes_on(b']') {
                            break;
                        }
                    }
                }
                let values = self.arena.slice(&self.values[from..]);
                self.values.truncate(from);
                Copied::Array(values)
            }
            Start::Object => {
                let from = self.fields.len();
                if !reader.ends(b'}') {
                    loop {
                        reader.key();
                        let key = self.text(reader);
                        reader.colon();
                        let value = self.read(reader);
                        self.fields.push((key, value));
                        if !reader.goes_on(b'}') {
                            break;
                        }
                    }
                }
                let fields = self.arena.slice(&self.fields[from..]);
                self.fields.truncate(from);
                Copied::Object(fields)
            }
        }
    }

    #[inline]
    fn text(&mut self, reader: &mut Reader<'_>) -> &'a str {
        let (piece, mut escaped) = reader.piece();
        if escaped.is_none() {
            return self.arena.text(text(piece));
        }
        self.text.clear();
        self.text.extend_from_slice(piece);
        while let Some(byte) = escaped {
            self.text.push(byte);
            let (piece, next) = reader.piece();
            self.text.extend_from_slice(piece);
            escaped = next;
        }
        self.arena.text(text(&self.text))
    }
}

/// The bytes of a document's text.
#[inline]
fn text(bytes: &[u8]) -> &str {
    debug_assert!(bytes.is_ascii());
    // SAFETY: the document is ASCII.
    unsafe { str::from_utf8_unchecked(bytes) }
}

/// Reads the document once per iteration.
fn contender<S: 'static>(
    name: &'static str,
    fresh: fn() -> S,
    read: fn(&mut S, &str),
) -> Contender {
    // Kept, so that an arena that has found its size need not find it again for each sample.
    let setup = kept(move || {
        let mut state = fresh();
        let document = document();
        for _ in 0..3 {
            read(&mut state, &document);
        }
        RefCell::new((state, document))
    });
    Contender::each(name, setup, move |state| {
        let (state, document) = &mut *state.borrow_mut();
        read(state, document);
    })
}

/// The tree is not dropped: the arena frees it whole.
fn tree<A: Bump>(name: &'static str) -> Contender {
    contender(name, A::fresh, |arena, document| {
        let tree = Tree::read(&mut Reader::new(document), arena.allocator());
        black_box(&ManuallyDrop::new(tree));
        arena.reset();
    })
}

/// The same with an allocator that frees every vector on its own.
pub(super) fn freed<A: Allocator + Copy + Default + 'static>(name: &'static str) -> Contender {
    contender(name, A::default, |allocator, document| {
        black_box(&Tree::read(&mut Reader::new(document), *allocator));
    })
}

fn copied<A: Bump>(name: &'static str) -> Contender {
    contender(name, A::fresh, |arena, document| {
        black_box(&Scratch::new(arena).read(&mut Reader::new(document)));
        arena.reset();
    })
}

/// The cases.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("JSON of 4 MB, tree of vectors", tree::<Ours>("ours"))
            .unit("ns/pass")
            .peer(tree::<BumpScope>("bump-scope"))
            .peer(tree::<Bumpalo>("bumpalo"))
            .peer(tree::<Oxc>("oxc"))
            .peer(freed::<Global>("glibc")),
        Case::new("JSON of 4 MB, copied in", copied::<Ours>("ours"))
            .unit("ns/pass")
            .peer(copied::<BumpScope>("bump-scope"))
            .peer(copied::<Bumpalo>("bumpalo"))
            .peer(copied::<Oxc>("oxc")),
    ]
}

/// What the tree that is copied in takes.
pub(super) fn footprint() -> Footprint {
    fn maker<A: Bump>(name: &'static str) -> Maker {
        Maker::new(name, 1, document, |document, _| {
            let arena = A::fresh();
            black_box(&Scratch::new(&arena).read(&mut Reader::new(document)));
            arena
        })
    }
    Footprint::new("arena of a JSON document of 4 MB", "B/arena", maker::<Ours>("ours"))
        .peer(maker::<BumpScope>("bump-scope"))
        .peer(maker::<Bumpalo>("bumpalo"))
        .peer(maker::<Oxc>("oxc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaves of a tree: texts' bytes, keys' included, and the sum of numbers and truths.
    #[derive(Debug, Default, PartialEq)]
    struct Leaves {
        bytes: usize,
        sum: f64,
        nulls: usize,
    }

    impl Leaves {
        fn tree<A: Allocator>(&mut self, tree: &Tree<A>) {
            match tree {
                Tree::Null => self.nulls += 1,
                Tree::Bool(bool) => self.sum += f64::from(u8::from(*bool)),
                Tree::Number(number) => self.sum += number,
                Tree::Text(text) => self.bytes += text.len(),
                Tree::Array(values) => values.iter().for_each(|value| self.tree(value)),
                Tree::Object(fields) => fields.iter().for_each(|(key, value)| {
                    self.bytes += key.len();
                    self.tree(value);
                }),
            }
        }

        fn copied(&mut self, tree: &Copied<'_>) {
            match tree {
                Copied::Null => self.nulls += 1,
                Copied::Bool(bool) => self.sum += f64::from(u8::from(*bool)),
                Copied::Number(number) => self.sum += number,
                Copied::Text(text) => self.bytes += text.len(),
                Copied::Array(values) => values.iter().for_each(|value| self.copied(value)),
                Copied::Object(fields) => fields.iter().for_each(|(key, value)| {
                    self.bytes += key.len();
                    self.copied(value);
                }),
            }
        }
    }

    #[test]
    fn both_trees_hold_the_document() {
        let document = document();
        let (mut of_vectors, mut copied) = (Leaves::default(), Leaves::default());
        of_vectors.tree(&Tree::read(&mut Reader::new(&document), Global));
        let arena = Ours::fresh();
        copied.copied(&Scratch::new(&arena).read(&mut Reader::new(&document)));
        assert_eq!(of_vectors, copied);
        let records = document.matches("\"id\":").count();
        assert_eq!(copied.nulls, records.div_ceil(7));
        assert!(copied.bytes > document.len() / 3 && copied.sum > records as f64);
    }
}
