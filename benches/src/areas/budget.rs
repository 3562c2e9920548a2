//! `nebula-budget` beside a plain tree of atomics and, with the feature `datafusion`, beside
//! DataFusion's memory pools.
//!
//! Ours and the plain tree keep a hard limit exactly at every level; nothing is guaranteed to a
//! leaf, so that ours has to borrow from its parents, too. DataFusion's pools have no levels:
//! whatever the depth in a case's name, theirs is one pool with a reservation for each leaf, which
//! is to their advantage.

#[cfg(feature = "datafusion")]
mod datafusion;
mod ours;
mod plain;

use std::hint::black_box;

use crate::{Case, Contender, Footprint, Maker, repeat};

const BYTES: usize = 64;
/// Of the root, and of everything below it: the limit is checked, and never in the way.
const CAPACITY: usize = 1 << 40;

/// Which budgets a case is about.
#[derive(Clone, Copy)]
struct Shape {
    /// Levels of the tree; a root is the only leaf of a tree of one level.
    depth: usize,
    /// Leaves, all below one parent.
    leaves: usize,
    /// Threads, among which the leaves are divided.
    threads: usize,
}

impl Shape {
    /// One thread on one leaf.
    const fn alone(depth: usize) -> Self {
        Self { depth, leaves: 1, threads: 1 }
    }

    /// A leaf for each of two threads.
    const SIBLINGS: Self = Self { depth: 4, leaves: 2, threads: 2 };

    /// One leaf for two threads.
    const SAME: Self = Self { depth: 4, leaves: 1, threads: 2 };
}

/// A thread's way to charge a leaf.
trait Books: Send + Sized + 'static {
    const NAME: &'static str;
    /// Makes the tree, and on it the books of each thread.
    fn open(shape: Shape) -> Vec<Self>;
    fn charge(&mut self, bytes: usize);
    fn credit(&mut self, bytes: usize);
}

/// What is done with books.
trait Work: 'static {
    const UNIT: &'static str;
    fn once(books: &mut impl Books);
}

/// Charges, and credits at once.
struct Pair;

impl Work for Pair {
    const UNIT: &'static str = "ns/pair";

    #[inline(always)]
    fn once(books: &mut impl Books) {
        let bytes = black_box(BYTES);
        books.charge(bytes);
        books.credit(bytes);
    }
}

/// Charges more than a leaf borrows at a time, then credits all of it.
struct FillAndEmpty;

impl Work for FillAndEmpty {
    const UNIT: &'static str = "ns/10000 pairs";

    fn once(books: &mut impl Books) {
        for _ in 0..10_000 {
            books.charge(black_box(BYTES));
        }
        for _ in 0..10_000 {
            books.credit(black_box(BYTES));
        }
    }
}

fn contender<W: Work, B: Books>(shape: Shape) -> Contender {
    let open = move |_| B::open(shape);
    Contender::owned(B::NAME, shape.threads, open, |books, thread| {
        repeat(thread.iterations, || W::once(books));
    })
}

/// The same work on the same shape, by all.
fn case<W: Work, Ours: Books, Plain: Books>(name: &'static str, shape: Shape) -> Case {
    let case = Case::new(name, contender::<W, Ours>(shape)).unit(W::UNIT);
    let case = case.peer(contender::<W, Plain>(shape));
    #[cfg(feature = "datafusion")]
    let case = datafusion::contenders::<W>(shape).into_iter().fold(case, Case::peer);
    case
}

/// On a budget that anybody may charge.
fn shared<W: Work>(name: &'static str, shape: Shape) -> Case {
    case::<W, ours::Shared, plain::Shared>(name, shape)
}

/// On a reservation, which knows its size and has one owner.
fn reserved(name: &'static str, shape: Shape) -> Case {
    case::<Pair, ours::Reserved, plain::Reserved>(name, shape)
}

/// On a thread's own account of a budget. The peers have nothing of the kind: their reservations are
/// used by one thread, too.
fn local(name: &'static str, shape: Shape) -> Case {
    case::<Pair, ours::Local, plain::Reserved>(name, shape)
}

/// What a second thread on a leaf of its own gains over one thread: the ratio is 0.5 where the two
/// don't disturb each other, and 1 where the second one is of no use.
fn scaling<B: Books>(name: &'static str) -> Case {
    let alone = contender::<Pair, B>(Shape { threads: 1, ..Shape::SIBLINGS });
    let alone = Contender { name: "ours, 1 thread", ..alone };
    Case::new(name, contender::<Pair, B>(Shape::SIBLINGS)).unit(Pair::UNIT).peer(alone)
}

/// Something that has children: a budget, or what comes closest to it.
trait Parent: 'static {
    const NAME: &'static str;
    type Root: 'static;
    type Child: 'static;
    /// A child of which 64 bytes are reserved.
    type InUse: 'static;
    fn root() -> Self::Root;
    fn child(root: &Self::Root, name: &str) -> Self::Child;
    fn in_use(root: &Self::Root, name: &str) -> Self::InUse;
}

fn create<P: Parent>() -> Contender {
    Contender::each(P::NAME, P::root, |root| drop(P::child(root, black_box("child"))))
}

/// A child that comes and goes. In the plain tree it has no name, no state and no place in a list
/// of its parent's children: what is left of the ratio is their price.
fn child() -> Case {
    let case = Case::new("create and drop a child", create::<ours::Tree>()).unit("ns/child");
    let case = case.peer(create::<plain::Tree>());
    #[cfg(feature = "datafusion")]
    let case = datafusion::creators().into_iter().fold(case, Case::peer);
    case
}

/// What is weighed of a child.
#[derive(Clone, Copy)]
enum State {
    /// Made, and never charged.
    Idle,
    /// With 64 bytes reserved: what comes into being with the first charge weighs, too.
    InUse,
}

/// Many children of one parent; fewer where nothing is optimised.
const MANY: usize = if cfg!(debug_assertions) { 1000 } else { 100_000 };

fn maker<P: Parent>(state: State, count: usize) -> Maker {
    // Names of six bytes, none of them twice.
    let label = |index: usize| format!("{index:06}");
    match state {
        State::Idle => Maker::new(P::NAME, count, P::root, move |r, i| P::child(r, &label(i))),
        State::InUse => Maker::new(P::NAME, count, P::root, move |r, i| P::in_use(r, &label(i))),
    }
}

fn children(name: &'static str, state: State, count: usize) -> Footprint {
    let footprint = Footprint::new(name, "B/child", maker::<ours::Tree>(state, count));
    let footprint = footprint.peer(maker::<plain::Tree>(state, count));
    #[cfg(feature = "datafusion")]
    let footprint = datafusion::makers(state, count).into_iter().fold(footprint, Footprint::peer);
    footprint
}

/// What is weighed.
pub fn footprints() -> Vec<Footprint> {
    vec![
        children("one child of a parent", State::Idle, 1),
        children("100000 children of a parent", State::Idle, MANY),
        children("100000 children, 64 B reserved by each", State::InUse, MANY),
    ]
}

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        shared::<Pair>("charge and credit 64 B, depth 1", Shape::alone(1)),
        shared::<Pair>("charge and credit 64 B, depth 4", Shape::alone(4)),
        shared::<Pair>("charge and credit 64 B, depth 8", Shape::alone(8)),
        shared::<FillAndEmpty>("10000 charges, then credits, depth 4", Shape::alone(4)),
        shared::<Pair>("charge and credit 64 B, 2 threads, a leaf each, depth 4", Shape::SIBLINGS),
        shared::<Pair>("charge and credit 64 B, 2 threads, one leaf, depth 4", Shape::SAME),
        scaling::<ours::Shared>("charge and credit 64 B, 2 threads beside 1, depth 4"),
        reserved("reservation: try_grow and shrink 64 B, depth 1", Shape::alone(1)),
        reserved("reservation: try_grow and shrink 64 B, depth 4", Shape::alone(4)),
        reserved("reservation: try_grow and shrink 64 B, depth 8", Shape::alone(8)),
        reserved(
            "reservation: try_grow and shrink 64 B, 2 threads, a leaf each, depth 4",
            Shape::SIBLINGS,
        ),
        local("local account: charge and credit 64 B, depth 1", Shape::alone(1)),
        local("local account: charge and credit 64 B, depth 4", Shape::alone(4)),
        local("local account: charge and credit 64 B, depth 8", Shape::alone(8)),
        local(
            "local account: charge and credit 64 B, 2 threads, a leaf each, depth 4",
            Shape::SIBLINGS,
        ),
        child(),
    ]
}
