//! Bytes that move between budgets: what moves with them, what stays, and what is refused.

use nebula_budget::{Account, BudgetConfig, MemoryBudget, Reservation};
use nebula_memory_core::{MemoryError, Throttle};
use nebula_testing::Rng;
use proptest::prelude::*;

fn root(capacity: usize) -> MemoryBudget {
    MemoryBudget::root("root", capacity).unwrap()
}

fn child(parent: &MemoryBudget, name: &str, capacity: usize, guaranteed: usize) -> MemoryBudget {
    let config = BudgetConfig::builder(capacity.into()).guaranteed(guaranteed.into());
    parent.child_with(name, &config.build().unwrap()).unwrap()
}

fn code<T>(outcome: Result<T, MemoryError>) -> &'static str {
    outcome.map(drop).unwrap_err().code()
}

#[test]
fn siblings_pass_bytes_on_while_everything_above_is_full() {
    let root = root(1000);
    let a_parent = child(&root, "group", 1000, 0);
    let (a, b) = (child(&a_parent, "a", 1000, 0), child(&a_parent, "b", 1000, 0));
    let mut buffer = a.try_reserve(1000).unwrap();
    for _ in 0..3 {
        for (from, to) in [(&a, &b), (&b, &a)] {
            assert_eq!(code(to.try_charge(1)), "budget_exceeded");
            buffer = buffer.transfer(to).unwrap();
            assert_eq!((buffer.bytes(), buffer.path()), (1000, to.path()));
            assert_eq!((from.used(), to.used(), root.used()), (0, 1000, 1000));
        }
    }
    assert_eq!((root.peak(), root.committed()), (1000, 1000));
    drop(buffer);
    assert_eq!((root.used(), root.snapshot().over_credited), (0, 0));
}

#[test]
fn to_a_child_to_a_parent_and_to_a_cousin() {
    let root = root(1000);
    let (a, b) = (child(&root, "a", 1000, 0), child(&root, "b", 1000, 0));
    let (of_a, of_b) = (child(&a, "of-a", 1000, 0), child(&b, "of-b", 1000, 0));
    let mut buffer = root.try_reserve(1000).unwrap();
    let route = [&a, &of_a, &of_b, &b, &root, &of_b, &root, &of_a, &b, &a, &root];
    for to in route {
        buffer = buffer.transfer(to).unwrap();
        for budget in [&root, &a, &b, &of_a, &of_b] {
            let is_above = to.path() == budget.path()
                || to.path().strip_prefix(budget.path()).is_some_and(|rest| rest.starts_with('/'));
            assert_eq!(budget.used(), if is_above { 1000 } else { 0 }, "{to:?}, {budget:?}");
        }
        assert_eq!(root.committed(), 1000);
    }
    drop(buffer);
    assert_eq!((root.used(), root.committed()), (0, 0));
}

#[test]
fn to_its_own_budget_is_no_change() {
    let root = root(100);
    let buffer = root.try_reserve(100).unwrap().transfer(&root).unwrap();
    assert_eq!((buffer.bytes(), root.used(), root.charges()), (100, 100, 1));
    let nothing = root.try_reserve(0).unwrap();
    let a = child(&root, "a", 10, 0);
    assert_eq!(nothing.transfer(&a).unwrap().path(), "root/a");
}

#[test]
fn another_tree_has_to_have_room_of_its_own() {
    let (here, there) = (root(1000), root(600));
    let tenant = child(&there, "tenant", 500, 0);
    let mut buffer = here.try_reserve(1000).unwrap();
    let part = buffer.split(500).unwrap().transfer(&tenant).unwrap();
    assert_eq!((here.used(), tenant.used(), there.used()), (500, 500, 500));
    let refused = buffer.transfer(&there).unwrap_err();
    assert_eq!(refused.error.code(), "budget_exceeded");
    let mut buffer = refused.into_value();
    assert_eq!((buffer.bytes(), buffer.path(), here.used(), there.used()), (500, "root", 500, 500));
    buffer.merge(part).unwrap();
    assert_eq!((buffer.bytes(), here.used(), there.used()), (1000, 1000, 0));
    drop(buffer);
    assert_eq!((here.committed(), there.used()), (0, 0));
}

#[test]
fn a_guaranteed_part_stays_where_it_is_guaranteed() {
    let root = root(1000);
    let (a, b) = (child(&root, "a", 1000, 300), child(&root, "b", 1000, 200));
    let buffer = a.try_reserve(800).unwrap();
    assert_eq!((root.committed(), root.used()), (1000, 800));
    // 500 were borrowed and go along, 200 are b's own; the other 100 would have to come from the
    // root, which has none.
    let refused = buffer.transfer(&b).unwrap_err();
    assert_eq!(refused.error.code(), "budget_exceeded");
    let mut buffer = refused.into_value();
    assert_eq!((a.used(), b.used(), a.guaranteed(), b.guaranteed()), (800, 0, 300, 200));
    let moved = buffer.split(700).unwrap().transfer(&b).unwrap();
    assert_eq!((a.used(), b.used(), root.committed()), (100, 700, 1000));
    // What is a's own is there for it, and for nobody else.
    assert_eq!(code(b.try_charge(1)), "budget_exceeded");
    assert_eq!(code(root.try_charge(1)), "budget_exceeded");
    let own = a.try_reserve(200).unwrap();
    drop(buffer);
    let back = moved.transfer(&a).unwrap_err().into_value();
    drop(own);
    assert_eq!((back.transfer(&a).unwrap().bytes(), b.used()), (700, 700 - 700));
    assert_eq!((root.used(), root.committed()), (0, 500));
}

#[test]
fn to_a_parent_only_what_was_borrowed_goes_without_room() {
    let root = root(1000);
    let a = child(&root, "a", 1000, 300);
    let buffer = a.try_reserve(1000).unwrap();
    let mut buffer = buffer.transfer(&root).unwrap_err().into_value();
    let moved = buffer.split(700).unwrap().transfer(&root).unwrap();
    assert_eq!((a.used(), root.used(), root.committed()), (300, 1000, 1000));
    assert_eq!(code(buffer.transfer(&root).map_err(MemoryError::from)), "budget_exceeded");
    drop(moved);
    assert_eq!((a.used(), root.used(), root.committed()), (0, 0, 300));
}

#[test]
fn a_refusing_destination_hands_the_bytes_back_and_changes_nothing() {
    let root = root(10_000);
    let (a, b) = (child(&root, "a", 5000, 0), child(&root, "b", 1000, 400));
    let deep = child(&b, "deep", 800, 100);
    deep.try_charge(10).unwrap();
    b.try_charge(50).unwrap();
    let mut buffer = a.try_reserve(2000).unwrap();
    for to in [&b, &deep] {
        let before = root.snapshot();
        let refused = buffer.transfer(to).unwrap_err();
        assert!(refused.error.to_string().contains(to.path()), "{refused}");
        assert!(!refused.error.is_retryable());
        buffer = refused.into_value();
        assert_eq!((buffer.bytes(), buffer.path()), (2000, "root/a"));
        let after = root.snapshot();
        assert_eq!(
            (after.used, after.committed, after.peak),
            (before.used, before.committed, before.peak)
        );
        for (after, before) in after.children.iter().zip(&before.children) {
            assert_eq!((after.used, after.peak), (before.used, before.peak), "{}", after.name);
        }
        assert_eq!(deep.peak(), 10, "no part of it was charged, not for a moment");
    }
    let part = buffer.split(700).unwrap().transfer(&deep).unwrap();
    assert_eq!((a.used(), b.used(), deep.used()), (1300, 760, 710));
    drop((part, buffer));
    deep.credit(10);
    b.credit(50);
    assert_eq!(root.used(), 0);
}

#[test]
fn released_and_throttled_destinations_refuse() {
    let root = root(1000);
    let (a, b) = (child(&root, "a", 1000, 0), child(&root, "b", 1000, 0));
    let buffer = a.try_reserve(500).unwrap();
    b.limit_single_charges(Some(100));
    let refused = buffer.transfer(&b).unwrap_err();
    assert_eq!(refused.error.code(), "throttled");
    b.limit_single_charges(None);
    b.release().unwrap();
    let refused = refused.into_value().transfer(&b).unwrap_err();
    assert_eq!(refused.error.code(), "closed");
    // Out of a released budget they can go.
    a.release().unwrap();
    let buffer = refused.into_value().transfer(&root).unwrap();
    assert_eq!((buffer.path(), root.used(), root.snapshot().children.len()), ("root", 500, 0));
}

#[test]
fn reservations_with_funds_of_their_own_move_like_others() {
    let root = root(1 << 20);
    let (a, b) = (child(&root, "a", 1 << 20, 0), child(&root, "b", 1 << 20, 1000));
    let mut buffer = a.try_reserve(1).unwrap();
    for (i, to) in [&b, &a, &root, &b].into_iter().enumerate() {
        (0..40).for_each(|_| buffer.try_grow(25).unwrap());
        buffer.shrink(500);
        let bytes = buffer.bytes();
        assert_eq!((bytes, root.used()), (501 + 500 * i, bytes));
        buffer = buffer.transfer(to).unwrap();
        assert_eq!((buffer.bytes(), to.used(), root.used()), (bytes, bytes, bytes));
    }
    (0..40).for_each(|_| buffer.try_grow(25).unwrap());
    let part = buffer.split(1500).unwrap();
    assert_eq!((part.bytes(), buffer.bytes(), b.used()), (1500, 1501, 3001));
    let part = part.transfer(&a).unwrap();
    assert_eq!((a.used(), b.used()), (1500, 1501));
    // They are refused with their funds as they were, too.
    a.set_capacity(1500).unwrap();
    let mut buffer = buffer.transfer(&a).unwrap_err().into_value();
    assert_eq!((buffer.bytes(), a.used(), b.used()), (1501, 1500, 1501));
    buffer.try_grow(10).unwrap();
    drop((buffer, part));
    assert_eq!((a.used(), b.used(), root.used(), root.snapshot().over_credited), (0, 0, 0, 0));
}

#[test]
fn merging_across_budgets_charges_the_one_that_stays() {
    let root = root(1000);
    let (a, b) = (child(&root, "a", 600, 0), child(&root, "b", 1000, 0));
    let mut of_a = a.try_reserve(400).unwrap();
    let mut of_b = b.try_reserve(600).unwrap();
    let refused = of_a.merge(of_b.split(300).unwrap()).unwrap_err();
    assert_eq!((refused.error.code(), of_a.bytes()), ("budget_exceeded", 400));
    of_b.merge(refused.into_value()).unwrap();
    assert_eq!((of_b.bytes(), a.used(), b.used()), (600, 400, 600));
    of_a.merge(of_b.split(200).unwrap()).unwrap();
    assert_eq!((of_a.bytes(), of_b.bytes(), a.used(), b.used()), (600, 400, 600, 400));
    of_b.merge(of_a).unwrap();
    assert_eq!((of_b.bytes(), a.used(), b.used()), (1000, 0, 1000));
    let error = of_b.split(1001).unwrap_err();
    assert!(matches!(error, MemoryError::CapacityExceeded { available: 1000, .. }));
    drop(of_b);
    assert_eq!(root.used(), 0);
}

/// Budgets, what they hold by the model, and the limits that make a difference.
struct Model {
    budgets: Vec<MemoryBudget>,
    /// Parent, maximum, guaranteed part.
    shape: Vec<(Option<usize>, usize, usize)>,
    charged: Vec<usize>,
}

impl Model {
    fn new() -> Self {
        let shape = vec![
            (None, 20_000, 0),
            (Some(0), 15_000, 2000),
            (Some(0), 12_000, 0),
            (Some(1), 9000, 1000),
            (Some(1), 15_000, 0),
            (Some(2), 12_000, 3000),
        ];
        let mut budgets = vec![root(20_000)];
        for (i, &(parent, capacity, guaranteed)) in shape.iter().enumerate().skip(1) {
            budgets.push(child(&budgets[parent.unwrap()], &format!("b{i}"), capacity, guaranteed));
        }
        Self { charged: vec![0; shape.len()], budgets, shape }
    }

    /// Bytes that a budget needs for itself and for those below, whose guarantees count in full.
    fn need(&self, i: usize) -> usize {
        let below = (0..self.shape.len()).filter(|&c| self.shape[c].0 == Some(i));
        self.charged[i] + below.map(|c| self.need(c).max(self.shape[c].2)).sum::<usize>()
    }

    fn fits(&self) -> bool {
        (0..self.shape.len()).all(|i| self.need(i) <= self.shape[i].1)
    }

    /// Makes a change if all limits allow it.
    fn apply(&mut self, from: Option<usize>, to: Option<usize>, bytes: usize) -> bool {
        let before = self.charged.clone();
        if let Some(from) = from {
            self.charged[from] -= bytes;
        }
        if let Some(to) = to {
            self.charged[to] += bytes;
        }
        let fits = self.fits();
        if !fits {
            self.charged = before;
        }
        fits
    }

    fn check(&self, held: &[(usize, Reservation)]) {
        for (i, budget) in self.budgets.iter().enumerate() {
            let sum: usize = held.iter().filter(|(at, _)| *at == i).map(|(_, r)| r.bytes()).sum();
            assert_eq!(sum, self.charged[i]);
            let snapshot = budget.snapshot();
            let below: usize = snapshot.children.iter().map(|child| child.used).sum();
            assert_eq!(snapshot.used - below, sum, "{snapshot}");
            assert!(snapshot.committed <= snapshot.capacity, "{snapshot}");
            assert_eq!((snapshot.over_credited, snapshot.excused), (0, 0));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_split_merge_and_move_exactly_as_the_limits_allow(seed in any::<u64>()) {
        let mut rng = Rng::new(seed);
        let mut model = Model::new();
        let mut held: Vec<(usize, Reservation)> = vec![];
        for _ in 0..150 {
            let to = rng.below(model.budgets.len());
            let picked = (!held.is_empty()).then(|| held.swap_remove(rng.below(held.len())));
            match (rng.below(7), picked) {
                (0, Some((at, mut buffer))) => {
                    let bytes = rng.below(buffer.bytes() + 1);
                    held.push((at, buffer.split(bytes).unwrap()));
                    held.push((at, buffer));
                }
                (1, Some((at, mut buffer))) if !held.is_empty() => {
                    let (from, other) = held.swap_remove(rng.below(held.len()));
                    let fits = model.apply(Some(from), Some(at), other.bytes());
                    let merged = buffer.merge(other);
                    prop_assert_eq!(merged.is_ok(), fits, "{}", model.budgets[0]);
                    held.extend(merged.err().map(|refused| (from, refused.into_value())));
                    held.push((at, buffer));
                }
                (2 | 3, Some((at, buffer))) => {
                    let fits = model.apply(Some(at), Some(to), buffer.bytes());
                    let moved = buffer.transfer(&model.budgets[to]);
                    prop_assert_eq!(moved.is_ok(), fits, "{}", model.budgets[0]);
                    held.push(match moved {
                        Ok(buffer) => (to, buffer),
                        Err(refused) => (at, refused.into_value()),
                    });
                }
                (4, Some((at, mut buffer))) => {
                    // Small steps, so that it gets funds of its own.
                    for _ in 0..rng.below(8) {
                        let bytes = rng.below(300);
                        let fits = model.apply(None, Some(at), bytes);
                        prop_assert_eq!(buffer.try_grow(bytes).is_ok(), fits);
                        let fewer = buffer.shrink(rng.below(100));
                        model.apply(Some(at), None, fewer);
                    }
                    held.push((at, buffer));
                }
                (5, Some((at, buffer))) => {
                    model.apply(Some(at), None, buffer.bytes());
                    drop(buffer);
                }
                (_, picked) => {
                    held.extend(picked);
                    let bytes = rng.below(5000);
                    let fits = model.apply(None, Some(to), bytes);
                    let made = model.budgets[to].try_reserve(bytes);
                    prop_assert_eq!(made.is_ok(), fits, "{}", model.budgets[0]);
                    held.extend(made.ok().map(|buffer| (to, buffer)));
                }
            }
            model.check(&held);
        }
        drop(held);
        prop_assert_eq!(model.budgets[0].used(), 0);
    }
}
