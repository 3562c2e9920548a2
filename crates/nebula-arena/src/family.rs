//! Naming a type that borrows from an arena before there is an arena.

/// A type with a lifetime that is filled in later: what a [`CrossThreadArena`] holds besides its
/// arena, and borrows from it.
///
/// Implement it for an empty type. Where `Of<'a>` refers to something outside of the arena, the
/// family names that lifetime: `struct Names<'x>(PhantomData<&'x ()>)`.
///
/// ```
/// use nebula_arena::Family;
///
/// struct Node<'a> {
///     name: &'a str,
///     children: &'a [Node<'a>],
/// }
///
/// struct Tree;
/// impl Family for Tree {
///     type Of<'a> = &'a Node<'a>;
/// }
/// # let node = Node { name: "n", children: &[] };
/// # let root: <Tree as Family>::Of<'_> = &node;
/// # assert_eq!(root.name.len() + root.children.len(), 1);
/// ```
///
/// [`CrossThreadArena`]: crate::CrossThreadArena
pub trait Family {
    /// The type, for values that live for `'a`.
    type Of<'a>;
}

/// A family whose types with a longer lifetime can stand for those with a shorter one, as shared
/// references, slices, and structs of them do: they can be looked at without a closure
/// ([`CrossThreadArena::root`], [`FrozenArena::root`]).
///
/// The method's body is always `of`; for a type that is not covariant (one with a `Cell<&'a T>` or
/// a `&'a mut &'a T` inside), that does not compile.
///
/// ```
/// use nebula_arena::{CovariantFamily, Family};
///
/// struct Words;
/// impl Family for Words {
///     type Of<'a> = &'a [&'a str];
/// }
/// impl CovariantFamily for Words {
///     fn shorten<'s, 'l: 's>(of: &'s Self::Of<'l>) -> &'s Self::Of<'s> {
///         of
///     }
/// }
/// ```
///
/// ```compile_fail
/// use nebula_arena::{CovariantFamily, Family};
///
/// struct Words;
/// impl Family for Words {
///     type Of<'a> = std::cell::Cell<&'a str>;
/// }
/// impl CovariantFamily for Words {
///     fn shorten<'s, 'l: 's>(of: &'s Self::Of<'l>) -> &'s Self::Of<'s> {
///         of
///     }
/// }
/// ```
///
/// [`CrossThreadArena::root`]: crate::CrossThreadArena::root
/// [`FrozenArena::root`]: crate::FrozenArena::root
pub trait CovariantFamily: Family {
    /// `of`, seen with the shorter of both lifetimes.
    fn shorten<'s, 'l: 's>(of: &'s Self::Of<'l>) -> &'s Self::Of<'s>;
}
