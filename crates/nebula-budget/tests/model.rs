//! Random trees and random operations against a plain model, checked after every step.

use nebula_budget::{Account, BudgetConfig, BudgetSnapshot, MemoryBudget};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Child { parent: usize, capacity: usize, guaranteed: usize },
    Charge { budget: usize, bytes: usize },
    Credit { budget: usize, bytes: usize },
    Drop { budget: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![0_usize..100, 0_usize..5_000_000, Just(usize::MAX - 5)];
    prop_oneof![
        1 => (any::<usize>(), 1_usize..10_000_000, 0_usize..1_000_000)
            .prop_map(|(parent, capacity, guaranteed)| Op::Child { parent, capacity, guaranteed }),
        4 => (any::<usize>(), size).prop_map(|(budget, bytes)| Op::Charge { budget, bytes }),
        2 => (any::<usize>(), 1_usize..5_000_000)
            .prop_map(|(budget, bytes)| Op::Credit { budget, bytes }),
        1 => any::<usize>().prop_map(|budget| Op::Drop { budget }),
    ]
}

/// The same tree in plain numbers: what a node holds of its parent is the larger of its guarantee
/// and its own use.
struct Node {
    budget: Option<MemoryBudget>,
    parent: Option<usize>,
    capacity: usize,
    guaranteed: usize,
    charged: usize,
}

struct Model(Vec<Node>);

impl Model {
    fn children(&self, i: usize) -> impl Iterator<Item = usize> {
        (0..self.0.len()).filter(move |&c| self.0[c].parent == Some(i))
    }

    /// Bytes charged at `i` and held by its children.
    fn need(&self, i: usize) -> usize {
        self.0[i].charged + self.children(i).map(|c| self.held(c)).sum::<usize>()
    }

    fn held(&self, i: usize) -> usize {
        self.need(i).max(self.0[i].guaranteed)
    }

    fn used(&self, i: usize) -> usize {
        self.0[i].charged + self.children(i).map(|c| self.used(c)).sum::<usize>()
    }

    /// Whether every level would be within its capacity.
    fn fits(&self) -> bool {
        (0..self.0.len()).all(|i| self.need(i) <= self.0[i].capacity)
    }

    fn live(&self, pick: usize) -> usize {
        let live: Vec<_> = (0..self.0.len()).filter(|&i| self.0[i].budget.is_some()).collect();
        live[pick % live.len()]
    }

    fn budget(&self, i: usize) -> &MemoryBudget {
        self.0[i].budget.as_ref().unwrap()
    }
}

fn check_snapshot(snapshot: &BudgetSnapshot) -> Result<(), TestCaseError> {
    prop_assert!(snapshot.committed <= snapshot.capacity, "{snapshot}");
    prop_assert!(snapshot.used <= snapshot.committed, "{snapshot}");
    prop_assert!(snapshot.committed <= snapshot.peak, "{snapshot}");
    snapshot.children.iter().try_for_each(check_snapshot)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn charges_go_through_exactly_when_the_model_has_room(ops in prop::collection::vec(op(), 1..120)) {
        let capacity = 10_000_000;
        let root = MemoryBudget::root("root", capacity).unwrap();
        let mut model = Model(vec![Node {
            budget: Some(root.clone()), parent: None, capacity, guaranteed: 0, charged: 0,
        }]);
        for op in ops {
            match op {
                Op::Child { parent, capacity, guaranteed } => {
                    let parent = model.live(parent);
                    let capacity = capacity.min(model.0[parent].capacity);
                    let guaranteed = guaranteed.min(capacity);
                    let config = BudgetConfig { capacity: capacity.into(), guaranteed: Some(guaranteed.into()), ..BudgetConfig::default() };
                    let child = model.budget(parent).child_with("child", &config);
                    model.0.push(Node { budget: None, parent: Some(parent), capacity, guaranteed, charged: 0 });
                    prop_assert_eq!(child.is_ok(), model.fits());
                    match child {
                        Ok(child) => model.0.last_mut().unwrap().budget = Some(child),
                        Err(_) => drop(model.0.pop()),
                    }
                }
                Op::Charge { budget, bytes } => {
                    let i = model.live(budget);
                    let before = model.0[i].charged;
                    let fits = before.checked_add(bytes).is_some_and(|sum| {
                        model.0[i].charged = sum.min(2 * capacity);
                        model.fits()
                    });
                    prop_assert_eq!(model.budget(i).try_charge(bytes).is_ok(), fits);
                    if !fits {
                        model.0[i].charged = before;
                    }
                }
                Op::Credit { budget, bytes } => {
                    let i = model.live(budget);
                    let bytes = bytes.min(model.0[i].charged);
                    model.budget(i).credit(bytes);
                    model.0[i].charged -= bytes;
                }
                Op::Drop { budget } => {
                    let i = model.live(budget);
                    // Children keep their parent, so that only leaves really go.
                    if i != 0 && model.children(i).all(|c| model.0[c].budget.is_none()) {
                        let budget = model.0[i].budget.take().unwrap();
                        budget.release().unwrap();
                        model.0[i].guaranteed = 0;
                        prop_assert!(budget.try_charge(1).is_err());
                        // Credits after the release count at the parent.
                        budget.credit(model.0[i].charged);
                        model.0[i].charged = 0;
                    }
                }
            }
            prop_assert_eq!(root.used(), model.used(0), "{}", root);
            let snapshot = root.snapshot();
            prop_assert_eq!(snapshot.used, model.used(0));
            prop_assert!(snapshot.committed >= model.need(0));
            check_snapshot(&snapshot)?;
        }
        for i in 0..model.0.len() {
            if let Some(budget) = model.0[i].budget.take() {
                budget.credit(model.0[i].charged);
            }
        }
        prop_assert_eq!(root.used(), 0);
        prop_assert_eq!(root.committed(), 0, "{}", root);
    }
}
