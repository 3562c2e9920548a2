//! mimalloc, which frees every value on its own: what a general allocator takes for the same work.

use std::hint::black_box;

use nebula_memory_core::allocator_api2::{boxed::Box as Box2, vec::Vec as Vec2};

use super::{json, typed, values::texts, vectors};
use crate::{Case, Contender, Stopwatch, areas::mi::Mi};

/// Values that live at once: each is freed when its place is needed.
const ALIVE: usize = 1024;

/// Makes a value again and again, told how often it did.
fn values<P: 'static, V: 'static>(
    prepare: fn() -> P,
    make: impl Fn(&P, usize) -> V + 'static,
) -> Contender {
    let setup = move || (prepare(), (0..ALIVE).map(|_| None).collect::<Vec<Option<V>>>(), 0);
    Contender::each("mimalloc", setup, move |(prepared, alive, turn)| {
        *turn += 1;
        alive[*turn % ALIVE] = Some(black_box(make(prepared, *turn)));
    })
}

fn operations(run: fn(Mi, usize)) -> Contender {
    Contender::timed("mimalloc", move |iterations| {
        let watch = Stopwatch::start();
        run(Mi, usize::try_from(iterations).expect("a number of operations"));
        watch.elapsed()
    })
}

/// Adds mimalloc to the cases that it can do.
pub(super) fn add_to(cases: &mut [Case]) {
    let number = values(|| (), |(), turn| Box2::new_in(turn, Mi));
    let line = values(|| (), |(), turn| Box2::new_in([turn; 8], Mi));
    let text = values(texts, |texts, turn| {
        let text = &texts[turn % texts.len()];
        let mut copy = Vec2::new_in(Mi);
        json::append(&mut copy, text.as_bytes());
        copy
    });
    for (name, contender) in [
        ("u64", number),
        ("64 B value", line),
        ("str of 1-256 B", text),
        ("push, one vector", operations(vectors::one_vector)),
        ("push, two vectors in turn", operations(vectors::two_vectors)),
        ("64 B pair, as allocator", operations(vectors::pairs)),
        ("JSON of 4 MB, tree of vectors", json::freed::<Mi>("mimalloc")),
        ("value with Drop, in a box", typed::contender::<Mi>("mimalloc")),
    ] {
        let case = cases.iter_mut().find(|case| case.name == name);
        case.unwrap_or_else(|| panic!("no case {name}")).peers.push(contender);
    }
}
