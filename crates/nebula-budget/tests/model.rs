//! Random trees and random operations against a plain model, checked after every step.

use nebula_budget::{Account, BudgetConfig, BudgetSnapshot, MemoryBudget};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Child { parent: usize, capacity: usize, guaranteed: usize },
    Local { budget: usize },
    Charge { account: usize, bytes: usize },
    Credit { account: usize, bytes: usize },
    CloseLocal { account: usize },
    Capacity { budget: usize, bytes: usize },
    Guaranteed { budget: usize, bytes: usize },
    Drop { budget: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![0_usize..100, 0_usize..10_000, 0_usize..5_000_000, Just(usize::MAX - 5)];
    let capacity = 1_usize..10_000_000;
    let part = || 0_usize..1_000_000;
    prop_oneof![
        2 => (any::<usize>(), capacity.clone(), part())
            .prop_map(|(parent, capacity, guaranteed)| Op::Child { parent, capacity, guaranteed }),
        2 => any::<usize>().prop_map(|budget| Op::Local { budget }),
        12 => (any::<usize>(), size).prop_map(|(account, bytes)| Op::Charge { account, bytes }),
        6 => (any::<usize>(), prop_oneof![1_usize..10_000, 1_usize..5_000_000])
            .prop_map(|(account, bytes)| Op::Credit { account, bytes }),
        1 => any::<usize>().prop_map(|account| Op::CloseLocal { account }),
        1 => (any::<usize>(), capacity).prop_map(|(budget, bytes)| Op::Capacity { budget, bytes }),
        1 => (any::<usize>(), part()).prop_map(|(budget, bytes)| Op::Guaranteed { budget, bytes }),
        1 => any::<usize>().prop_map(|budget| Op::Drop { budget }),
    ]
}

/// The same tree in plain numbers: what a node holds of its parent is the larger of its guarantee
/// and its own use.
#[derive(Clone)]
struct Node {
    parent: Option<usize>,
    capacity: usize,
    guaranteed: usize,
    charged: usize,
}

/// Something that charges a node: the budget itself, or a local account.
struct Charger {
    node: usize,
    charged: usize,
    account: Box<dyn Account>,
    is_local: bool,
}

struct Model {
    nodes: Vec<Node>,
    budgets: Vec<Option<MemoryBudget>>,
    chargers: Vec<Charger>,
}

impl Model {
    fn new(capacity: usize) -> Self {
        let mut model = Self { nodes: vec![], budgets: vec![], chargers: vec![] };
        model.add(None, capacity, 0, MemoryBudget::root("root", capacity).unwrap());
        model
    }

    fn add(&mut self, parent: Option<usize>, capacity: usize, guaranteed: usize, b: MemoryBudget) {
        let node = self.nodes.len();
        self.nodes.push(Node { parent, capacity, guaranteed, charged: 0 });
        self.charger(node, Box::new(b.account()), false);
        self.budgets.push(Some(b));
    }

    fn charger(&mut self, node: usize, account: Box<dyn Account>, is_local: bool) {
        self.chargers.push(Charger { node, charged: 0, account, is_local });
    }

    fn root(&self) -> &MemoryBudget {
        self.budgets[0].as_ref().unwrap()
    }

    fn live(&self, pick: usize) -> usize {
        let live: Vec<_> = (0..self.nodes.len()).filter(|&i| self.budgets[i].is_some()).collect();
        live[pick % live.len()]
    }

    fn budget(&self, i: usize) -> &MemoryBudget {
        self.budgets[i].as_ref().unwrap()
    }

    /// Makes a change to the numbers if they allow it: no level may need more than its capacity,
    /// unless it did before and does not need more now. Says whether they did.
    fn change(&mut self, change: impl FnOnce(&mut Vec<Node>)) -> bool {
        let before = self.nodes.clone();
        change(&mut self.nodes);
        let after = &self.nodes;
        let fits = (0..after.len()).all(|i| {
            let now = need(after, i);
            now <= after[i].capacity || (i < before.len() && now <= need(&before, i))
        });
        if !fits {
            self.nodes = before;
        }
        fits
    }
}

fn children(nodes: &[Node], i: usize) -> impl Iterator<Item = usize> {
    (0..nodes.len()).filter(move |&c| nodes[c].parent == Some(i))
}

/// Bytes charged at `i` and held by its children.
fn need(nodes: &[Node], i: usize) -> usize {
    let held = |c| need(nodes, c).max(nodes[c].guaranteed);
    nodes[i].charged + children(nodes, i).map(held).sum::<usize>()
}

fn used(nodes: &[Node], i: usize) -> usize {
    nodes[i].charged + children(nodes, i).map(|c| used(nodes, c)).sum::<usize>()
}

fn check_snapshot(snapshot: &BudgetSnapshot) -> Result<(), TestCaseError> {
    prop_assert!(snapshot.used <= snapshot.committed, "{snapshot}");
    prop_assert!(snapshot.committed <= snapshot.peak, "{snapshot}");
    snapshot.children.iter().try_for_each(check_snapshot)
}

fn step(model: &mut Model, op: &Op) -> Result<(), TestCaseError> {
    match *op {
        Op::Child { parent, capacity, guaranteed } => {
            let parent = model.live(parent);
            let capacity = capacity.min(model.nodes[parent].capacity);
            let guaranteed = guaranteed.min(capacity);
            let config = BudgetConfig {
                capacity: capacity.into(),
                guaranteed: Some(guaranteed.into()),
                ..BudgetConfig::default()
            };
            let child = model.budget(parent).child_with("child", &config);
            let node = Node { parent: Some(parent), capacity, guaranteed, charged: 0 };
            prop_assert_eq!(child.is_ok(), model.change(|nodes| nodes.push(node)));
            if let Ok(child) = child {
                model.nodes.pop();
                model.add(Some(parent), capacity, guaranteed, child);
            }
        }
        Op::Local { budget } => {
            let node = model.live(budget);
            let local = model.budget(node).local();
            model.charger(node, Box::new(local), true);
        }
        Op::Charge { account, bytes } => {
            let at = account % model.chargers.len();
            let node = model.chargers[at].node;
            // A charge of nothing needs nothing, not even a budget that is open.
            let fits = (model.budgets[node].is_some() || bytes == 0)
                && model.change(|nodes| {
                    nodes[node].charged =
                        nodes[node].charged.saturating_add(bytes).min(usize::MAX / 8);
                });
            prop_assert_eq!(model.chargers[at].account.try_charge(bytes).is_ok(), fits);
            if fits {
                model.chargers[at].charged += bytes;
            }
        }
        Op::Credit { account, bytes } => {
            let at = account % model.chargers.len();
            let charger = &mut model.chargers[at];
            let bytes = bytes.min(charger.charged);
            charger.account.credit(bytes);
            charger.charged -= bytes;
            model.nodes[charger.node].charged -= bytes;
        }
        Op::CloseLocal { account } => {
            let at = account % model.chargers.len();
            if model.chargers[at].is_local {
                // What it has charged stays charged, and is credited to the budget from now on.
                let Charger { node, charged, .. } = model.chargers.swap_remove(at);
                let is_budget = |c: &&mut Charger| c.node == node && !c.is_local;
                model.chargers.iter_mut().find(is_budget).unwrap().charged += charged;
            }
        }
        Op::Capacity { budget, bytes } => {
            let i = model.live(budget);
            let most = model.nodes[i].parent.map_or(usize::MAX, |p| model.nodes[p].capacity);
            let valid = bytes <= most && (i == 0 || bytes >= model.nodes[i].guaranteed);
            prop_assert_eq!(model.budget(i).set_capacity(bytes).is_ok(), valid);
            if valid {
                model.nodes[i].capacity = bytes;
            }
        }
        Op::Guaranteed { budget, bytes } => {
            let i = model.live(budget);
            let valid = i != 0
                && bytes <= model.nodes[i].capacity
                && model.change(|nodes| nodes[i].guaranteed = bytes);
            prop_assert_eq!(model.budget(i).set_guaranteed(bytes).is_ok(), valid);
        }
        Op::Drop { budget } => {
            let i = model.live(budget);
            // Children keep their parent, so that only leaves really go.
            if i != 0 && children(&model.nodes, i).all(|c| model.budgets[c].is_none()) {
                let budget = model.budgets[i].take().unwrap();
                let leak = budget.release().unwrap();
                model.nodes[i].guaranteed = 0;
                prop_assert_eq!(leak.map_or(0, |leak| leak.bytes), need(&model.nodes, i));
                prop_assert!(budget.try_charge(1).is_err());
            }
        }
    }
    let (root, nodes) = (model.root(), &model.nodes);
    prop_assert_eq!(root.used(), used(nodes, 0), "{}", root);
    let snapshot = root.snapshot();
    prop_assert_eq!(snapshot.used, used(nodes, 0));
    prop_assert!(snapshot.committed >= need(nodes, 0), "{}", snapshot);
    prop_assert!(snapshot.committed <= nodes[0].capacity.max(need(nodes, 0)), "{}", snapshot);
    check_snapshot(&snapshot)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn charges_go_through_exactly_when_the_model_has_room(ops in prop::collection::vec(op(), 1..150)) {
        let mut model = Model::new(10_000_000);
        for op in ops {
            step(&mut model, &op)?;
        }
        for charger in &mut model.chargers {
            charger.account.credit(charger.charged);
        }
        model.chargers.clear();
        // The youngest first: children keep their parents.
        model.budgets[1..].iter_mut().rev().for_each(|budget| drop(budget.take()));
        let root = model.root();
        prop_assert_eq!((root.used(), root.committed()), (0, 0), "{}", root);
        prop_assert_eq!(root.snapshot().over_credited, 0);
        prop_assert!(root.snapshot().children.is_empty(), "{}", root);
    }
}
