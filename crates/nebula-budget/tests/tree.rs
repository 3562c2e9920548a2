//! Trees of budgets, one thread: what counts where, and what comes back.

use std::sync::Arc;

use nebula_budget::{Account, BudgetConfig, BudgetState, MemoryBudget};
use nebula_memory_core::{
    ByteSize, MemoryError, MemoryUsage, PressureSource, Throttle,
    allocator_api2::{boxed::Box, vec::Vec},
};

const MIB: usize = 1 << 20;

fn config(capacity: usize, guaranteed: usize) -> BudgetConfig {
    BudgetConfig::builder(capacity.into()).guaranteed(guaranteed.into()).build().unwrap()
}

#[test]
fn a_root_gives_its_capacity_to_the_byte_and_no_more() {
    let root = MemoryBudget::root("root", 1000).unwrap();
    root.try_charge(999).unwrap();
    assert!(root.try_charge(2).is_err());
    root.try_charge(1).unwrap();
    assert_eq!((root.committed(), root.used(), root.peak()), (1000, 1000, 1000));
    assert!(root.try_charge(1).is_err());
    root.credit(1000);
    assert_eq!((root.committed(), root.used(), root.peak()), (0, 0, 1000));
}

#[test]
fn construction_refuses_zero_capacity_bad_names_and_a_guaranteed_root() {
    let code = |r: Result<MemoryBudget, MemoryError>| r.unwrap_err().code();
    assert_eq!(code(MemoryBudget::root("root", 0)), "invalid_config");
    assert_eq!(code(MemoryBudget::root("", 1)), "invalid_config");
    assert_eq!(code(MemoryBudget::root("a/b", 1)), "invalid_config");
    assert_eq!(code(MemoryBudget::root_with("root", &config(10, 5))), "invalid_config");
    let root = MemoryBudget::root("root", 100).unwrap();
    assert_eq!(code(root.child("zero", 0)), "invalid_config");
    assert_eq!(code(root.child_with("large", &config(101, 5))), "invalid_config");
    let both = BudgetConfig {
        capacity: ByteSize::ZERO,
        guaranteed: Some(ByteSize::new(1)),
        ..BudgetConfig::default()
    };
    let error = root.child_with("both", &both).unwrap_err().to_string();
    assert!(error.contains("budget.capacity") && error.contains("budget.guaranteed"), "{error}");
}

#[test]
fn a_guarantee_is_carved_out_at_creation_and_comes_back_on_drop() {
    let root = MemoryBudget::root("root", 100).unwrap();
    let a = root.child("a", 60).unwrap();
    assert_eq!((root.committed(), root.used()), (60, 0));
    let error = root.child("b", 41).unwrap_err();
    assert_eq!(error.code(), "budget_exceeded");
    let b = root.child("b", 40).unwrap();
    assert!(root.try_charge(1).is_err());
    a.try_charge(60).unwrap();
    assert!(a.try_charge(1).is_err());
    a.credit(60);
    drop(a);
    assert_eq!(root.committed(), 40);
    drop(b);
    assert_eq!(root.committed(), 0);
}

#[test]
fn beyond_its_guarantee_a_child_borrows_while_the_parent_has_it() {
    let root = MemoryBudget::root("root", 100 * MIB).unwrap();
    let a = root.child_with("a", &config(80 * MIB, 10 * MIB)).unwrap();
    let b = root.child_with("b", &config(80 * MIB, 10 * MIB)).unwrap();
    let first = a.try_reserve(80 * MIB).unwrap();
    assert_eq!(root.committed(), 90 * MIB);
    // The limit of `a` refuses.
    let error = a.try_reserve(1).unwrap_err();
    assert!(error.to_string().contains("`root/a`"), "{error}");
    // The guarantee of `b` is there; 10 MiB are left to borrow, and then the root refuses.
    let second = b.try_reserve(20 * MIB).unwrap();
    let error = b.try_reserve(1).unwrap_err();
    assert!(error.to_string().contains("`root` has used"), "{error}");
    drop(first);
    let third = b.try_reserve(60 * MIB).unwrap();
    assert_eq!(root.used(), 80 * MIB);
    drop((second, third));
    assert_eq!(root.used(), 0);
}

#[test]
fn slack_of_siblings_is_collected_before_a_refusal() {
    let root = MemoryBudget::root("root", 10 * MIB).unwrap();
    let group = root.child_with("group", &config(10 * MIB, 0)).unwrap();
    let children: std::vec::Vec<_> =
        (0..8).map(|i| group.child_with(&format!("c{i}"), &config(10 * MIB, 0)).unwrap()).collect();
    for child in &children {
        child.try_charge(1).unwrap();
    }
    assert_eq!(root.used(), 8);
    assert!(root.committed() > 8, "chunks were borrowed: {root}");
    // Everything but the eight bytes is to be had, from the root and from any child.
    for budget in children.iter().chain([&root, &group]) {
        let all = budget.try_reserve(10 * MIB - 8).unwrap();
        assert_eq!((root.committed(), root.used()), (10 * MIB, 10 * MIB));
        assert!(budget.try_reserve(1).is_err());
        drop(all);
    }
    for child in &children {
        child.credit(1);
    }
    assert_eq!(root.used(), 0);
}

#[test]
fn a_refusal_leaves_no_trace_at_any_level() {
    let root = MemoryBudget::root("root", 1000).unwrap();
    let mut levels = vec![root.clone()];
    for depth in 0..6 {
        let parent = levels.last().unwrap();
        levels.push(parent.child_with(&format!("l{depth}"), &config(1000, 0)).unwrap());
    }
    let held = root.try_reserve(600).unwrap();
    let leaf = levels.last().unwrap();
    for bytes in [401, 1000, 1001, usize::MAX - 5, usize::MAX] {
        let error = leaf.try_reserve(bytes).unwrap_err();
        assert_eq!(error.code(), "budget_exceeded", "{bytes}");
        assert_eq!(error.is_retryable(), bytes <= 1000, "{bytes}: {error}");
    }
    assert!(levels.iter().skip(1).all(|level| level.used() == 0));
    assert_eq!(leaf.try_reserve(400).unwrap().bytes(), 400);
    drop(held);
    assert_eq!(root.used(), 0);
}

#[test]
fn an_overflowing_charge_on_top_of_another_is_an_error() {
    let root = MemoryBudget::root("root", usize::MAX).unwrap();
    root.try_charge(100).unwrap();
    assert!(root.try_charge(usize::MAX - 5).is_err());
    assert_eq!(root.committed(), 100);
    root.credit(100);
}

#[test]
fn states_follow_the_life_of_a_budget() {
    let root = MemoryBudget::root("root", 100).unwrap();
    assert_eq!(root.state(), BudgetState::Created);
    let child = root.child("child", 50).unwrap();
    assert_eq!((root.state(), child.state()), (BudgetState::Active, BudgetState::Created));
    assert_eq!((child.committed(), child.guaranteed()), (0, 50));
    child.try_charge(50).unwrap();
    assert_eq!(child.state(), BudgetState::Active);
    child.try_charge(1).unwrap_err();
    assert_eq!((child.state(), root.state()), (BudgetState::Exhausted, BudgetState::Active));
    child.credit(1);
    assert_eq!(child.state(), BudgetState::Active);
    child.credit(49);
    child.release().unwrap();
    child.release().unwrap();
    assert_eq!(child.state(), BudgetState::Released);
    assert_eq!(child.try_charge(1).unwrap_err().code(), "closed");
    assert_eq!(child.child("late", 1).unwrap_err().code(), "closed");
    assert_eq!((root.committed(), child.guaranteed()), (0, 0));
}

#[test]
fn releasing_a_parent_names_its_live_children() {
    let root = MemoryBudget::root("root", 100).unwrap();
    let (a, b) = (root.child("a", 10).unwrap(), root.child("b", 10).unwrap());
    b.release().unwrap();
    let error = root.release().unwrap_err();
    assert_eq!(error.code(), "live_children");
    assert!(error.to_string().contains("`a`") && !error.to_string().contains("`b`"), "{error}");
    drop(a);
    root.release().unwrap();
}

#[test]
fn a_child_keeps_its_parent_alive() {
    let root = MemoryBudget::root("root", 100).unwrap();
    let child = {
        let middle = root.child("middle", 50).unwrap();
        middle.child("child", 20).unwrap()
    };
    child.try_charge(20).unwrap();
    assert_eq!((child.path(), root.used()), ("root/middle/child", 20));
    child.credit(20);
    drop(child);
    assert_eq!(root.committed(), 0);
}

#[test]
fn charges_that_outlive_their_budget_count_at_the_parent_until_credited() {
    let root = MemoryBudget::root("root", 1000).unwrap();
    let child = root.child("child", 500).unwrap();
    let mut buffer = Vec::<u8, _>::new_in(child.allocator());
    buffer.reserve_exact(100);
    let value = Box::new_in([0_u8; 50], child.allocator());
    let reservation = child.try_reserve(30).unwrap();
    drop(child);
    assert_eq!((root.committed(), root.used()), (180, 180));
    assert!(buffer.try_reserve_exact(101).is_err(), "a released budget lends nothing more");
    drop(value);
    assert_eq!(root.committed(), 130);
    drop(reservation);
    assert_eq!(root.committed(), 100);
    assert_eq!(root.snapshot().children.len(), 1);
    drop(buffer);
    assert_eq!(root.committed(), 0);
    assert_eq!(root.snapshot().children.len(), 0, "what is settled leaves the tree");
}

#[test]
fn a_credit_above_what_is_held_is_clamped() {
    let root = MemoryBudget::root("root", 1000).unwrap();
    let child = root.child("child", 100).unwrap();
    child.try_charge(10).unwrap();
    child.credit(500);
    assert_eq!((child.committed(), root.committed()), (0, 100));
    assert!(child.try_charge(101).is_err());
    root.credit(5000);
    assert!(root.try_charge(1001).is_err());
}

#[test]
fn an_explained_refusal_names_level_figures_and_largest_consumers() {
    let root = MemoryBudget::root("process", 100 * MIB).unwrap();
    let tenants: std::vec::Vec<_> =
        (0..8).map(|i| root.child_with(&format!("t{i}"), &config(100 * MIB, 0)).unwrap()).collect();
    for (i, tenant) in tenants.iter().enumerate() {
        tenant.try_charge((i + 1) * 2 * MIB).unwrap();
    }
    let error = tenants[0].try_reserve(50 * MIB).unwrap_err();
    let MemoryError::BudgetExceeded { requested, refusal } = &error else { panic!("{error}") };
    assert_eq!((*requested, refusal.path(), refusal.limit()), (50 * MIB, "process", 100 * MIB));
    let details = refusal.details().unwrap();
    assert_eq!(details.charged, "process/t0");
    let names: std::vec::Vec<_> = details.consumers.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["t7", "t6", "t5", "t4", "t3"]);
    assert_eq!(details.consumers[0].used, 16 * MIB);
    let text = error.to_string();
    for part in ["50.0 MiB", "`process`", "100.0 MiB", "`t7` 16.0 MiB", "raise the capacity"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    // A frozen refusal does not change with later ones.
    tenants[1].try_charge(60 * MIB).unwrap_err();
    tenants[7].credit(16 * MIB);
    tenants[1].try_charge(200 * MIB).unwrap_err();
    assert_eq!(text, error.to_string());
    for (i, tenant) in tenants.iter().enumerate().take(7) {
        tenant.credit((i + 1) * 2 * MIB);
    }
}

#[test]
fn a_bare_charge_reports_the_refusing_level_without_details() {
    let root = MemoryBudget::root("root", 10).unwrap();
    let MemoryError::BudgetExceeded { requested, refusal } = root.try_charge(11).unwrap_err()
    else {
        panic!()
    };
    assert_eq!((requested, refusal.path(), refusal.limit()), (11, "root", 10));
    assert!(refusal.details().is_none());
}

#[test]
fn merging_reservations_of_two_budgets_moves_the_bytes() {
    let root = MemoryBudget::root("root", 100).unwrap();
    let (a, b) = (root.child("a", 50).unwrap(), root.child("b", 20).unwrap());
    let mut of_b = b.try_reserve(10).unwrap();
    of_b.merge(a.try_reserve(10).unwrap()).unwrap();
    assert_eq!((a.used(), b.used()), (0, 20));
    let refused = of_b.merge(a.try_reserve(1).unwrap()).unwrap_err();
    assert_eq!((refused.value.bytes(), a.used(), b.used()), (1, 1, 20));
    drop((refused, of_b));
    assert_eq!(root.used(), 0);
}

#[test]
fn a_throttle_limits_single_charges_below_it_and_is_lifted_again() {
    let root = MemoryBudget::root("root", 1000).unwrap();
    let before = root.child("before", 100).unwrap();
    root.limit_single_charges(Some(10));
    let after = root.child("after", 100).unwrap();
    for budget in [&before, &after] {
        let error = budget.try_charge(11).unwrap_err();
        assert_eq!(error.code(), "throttled");
        budget.try_charge(10).unwrap();
    }
    root.limit_single_charges(None);
    before.try_charge(90).unwrap();
    before.credit(100);
    after.credit(10);
}

fn of_priority(capacity: usize, priority: u8) -> BudgetConfig {
    BudgetConfig { capacity: capacity.into(), priority, ..BudgetConfig::default() }
}

#[test]
fn low_priorities_are_refused_while_a_throttle_says_so() {
    let root = MemoryBudget::root("root", 10_000).unwrap();
    let low = root.child_with("low", &of_priority(1000, 10)).unwrap();
    let below = low.child_with("below", &of_priority(500, 200)).unwrap();
    let mid = root.child_with("mid", &of_priority(1000, 100)).unwrap();
    let plain = root.child("plain", 1000).unwrap();
    let priorities = [&low, &below, &mid, &plain, &root].map(MemoryBudget::priority);
    assert_eq!(priorities, [10, 10, 100, 255, 255], "the lowest up to the root counts");
    low.try_charge(50).unwrap();

    root.limit_priority(Some(100));
    for budget in [&low, &below] {
        let error = budget.try_charge(1).unwrap_err();
        let expected = MemoryError::LowPriority { requested: 1, priority: 10, least: 100 };
        assert_eq!(error.to_string(), expected.to_string());
        assert!(budget.try_reserve(1).is_err() && budget.reserve(1).wait().is_err());
        assert_eq!(budget.try_charge(0).map_err(|error| error.code()), Ok(()));
    }
    for budget in [&mid, &plain, &root] {
        budget.try_charge(1).unwrap();
        budget.credit(1);
    }
    // What is held may be given back, and nothing new of that priority comes to be.
    low.credit(50);
    let refused = root.child_with("late", &of_priority(100, 99)).unwrap_err();
    assert_eq!(refused.code(), "low_priority");
    assert_eq!(below.child("later", 100).unwrap_err().code(), "low_priority");
    let unfunded = BudgetConfig { guaranteed: Some(0.into()), ..of_priority(100, 99) };
    let unfunded = root.child_with("unfunded", &unfunded).unwrap();
    assert_eq!(unfunded.try_charge(1).unwrap_err().code(), "low_priority", "inherited");
    let high = root.child_with("high", &of_priority(100, 100)).unwrap();
    high.try_charge(1).unwrap();
    high.credit(1);

    root.limit_priority(None);
    for budget in [&low, &below, &unfunded] {
        budget.try_charge(60).unwrap();
        budget.credit(60);
    }
    assert_eq!((root.used(), root.refusals()), (0, 0));
}

#[test]
fn sizes_and_priorities_are_throttled_side_by_side() {
    let root = MemoryBudget::root("root", 10_000).unwrap();
    let low = root.child_with("low", &of_priority(1000, 10)).unwrap();
    let code = |bytes| match low.try_charge(bytes) {
        Ok(()) => {
            low.credit(bytes);
            "ok"
        }
        Err(error) => error.code(),
    };
    root.limit_single_charges(Some(20));
    root.limit_priority(Some(11));
    assert_eq!([code(5), code(50)], ["low_priority", "low_priority"]);
    root.limit_priority(None);
    assert_eq!([code(5), code(50)], ["ok", "throttled"], "the other wish stands");
    root.limit_priority(Some(11));
    root.limit_single_charges(None);
    assert_eq!([code(5), code(50)], ["low_priority", "low_priority"]);
    root.limit_priority(Some(10));
    assert_eq!([code(5), code(50)], ["ok", "ok"]);
    low.release().unwrap();
    root.limit_priority(Some(0));
    assert_eq!(code(5), "closed", "a throttle that is lifted opens nothing that is released");
}

#[test]
fn of_several_throttles_up_to_the_root_the_tightest_counts_and_each_is_lifted_by_itself() {
    let root = MemoryBudget::root("root", 10_000).unwrap();
    let tenant = root.child_with("tenant", &of_priority(1000, 10)).unwrap();
    let child = tenant.child("child", 100).unwrap();
    let codes = |bytes| {
        [&tenant, &child].map(|budget| match budget.try_charge(bytes) {
            Ok(()) => {
                budget.credit(bytes);
                "ok"
            }
            Err(error) => error.code(),
        })
    };
    root.limit_priority(Some(100));
    for looser in [Some(5), None] {
        tenant.limit_priority(looser);
        assert_eq!(codes(1), ["low_priority"; 2], "the root's wish stands");
    }
    child.limit_priority(Some(11));
    root.limit_priority(None);
    assert_eq!(codes(1), ["ok", "low_priority"], "and so does the child's");
    child.limit_priority(None);
    assert_eq!(codes(1), ["ok"; 2]);

    tenant.limit_single_charges(Some(20));
    root.limit_single_charges(Some(10));
    let late = tenant.child("late", 100).unwrap();
    assert_eq!(codes(11), ["throttled"; 2]);
    tenant.limit_single_charges(Some(30));
    assert_eq!(codes(11), ["throttled"; 2]);
    root.limit_single_charges(None);
    assert_eq!((codes(30), codes(31)), (["ok"; 2], ["throttled"; 2]));
    assert_eq!(late.try_charge(31).unwrap_err().code(), "throttled");
    tenant.limit_single_charges(None);
    assert_eq!(codes(31), ["ok"; 2]);
    late.try_charge(31).unwrap();
    late.credit(31);
}

#[test]
fn unspent_funds_do_not_carry_a_low_priority_past_a_throttle() {
    let root = MemoryBudget::root("root", 1 << 20).unwrap();
    let low = root.child_with("low", &of_priority(1 << 20, 10)).unwrap();
    let local = low.local();
    let mut reservation = low.try_reserve(8).unwrap();
    for _ in 0..50 {
        // So that both have funds of their own, where there is a fence.
        local.try_charge(8).unwrap();
        reservation.try_grow(8).unwrap();
    }
    root.limit_priority(Some(11));
    for _ in 0..3 {
        assert_eq!(local.try_charge(1).unwrap_err().code(), "low_priority");
        assert_eq!(reservation.try_grow(1).unwrap_err().code(), "low_priority");
        local.credit(8);
        reservation.shrink(8);
    }
    assert_eq!((root.used(), low.committed()), (2 * 47 * 8 + 8, 2 * 47 * 8 + 8), "nothing is lent");
    root.limit_priority(None);
    local.try_charge(1).unwrap();
    local.credit(47 * 8 + 1);
    drop((local, reservation));
    assert_eq!(root.used(), 0);
}

#[test]
fn a_budget_reads_as_a_pressure_source_and_as_memory_usage() {
    let root = MemoryBudget::root("root", 1000).unwrap();
    root.try_charge(250).unwrap();
    let source: &dyn PressureSource = &root;
    assert_eq!((source.name(), source.read().unwrap().ratio()), ("root", 0.25));
    assert_eq!(MemoryUsage::available(&root), Some(750));
    root.credit(250);
}

#[test]
fn a_tree_prints_as_a_table() {
    let root = MemoryBudget::root("process", 100 * MIB).unwrap();
    let a = root.child("acme", 20 * MIB).unwrap();
    let query = a.child("query", 5 * MIB).unwrap();
    query.try_charge(MIB).unwrap();
    let table = root.to_string();
    let lines: std::vec::Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[0].starts_with("budget"));
    assert!(lines[3].starts_with("    query") && lines[3].contains("1.0 MiB"), "{table}");
    assert!(lines[1].ends_with("active"), "{table}");
    query.credit(MIB);
}

#[test]
fn debug_output_shows_the_path_and_the_tree() {
    let root = MemoryBudget::root("root", 1000).unwrap();
    let child = root.child("child", 400).unwrap();
    let _leaf = child.child("leaf", 100).unwrap();
    let text = format!("{child:?}");
    for part in ["`root/child`", "committed", "leaf", "100 B"] {
        assert!(text.contains(part), "`{part}` is missing: {text}");
    }
}

#[test]
fn a_tree_whose_charges_nobody_can_credit_any_more_is_freed() {
    let dropped = Arc::new(());
    let kept = Arc::clone(&dropped);
    {
        let root = MemoryBudget::root("root", 1000).unwrap();
        let child = root.child("child", 400).unwrap();
        let leaf = child.child("leaf", 100).unwrap();
        leaf.watch(move |_| drop(Arc::clone(&kept))).detach();
        leaf.try_charge(50).unwrap();
        child.try_charge(60).unwrap();
    }
    assert_eq!(Arc::strong_count(&dropped), 1);
}

#[test]
fn an_account_may_credit_after_the_whole_tree_has_gone() {
    let root = MemoryBudget::root("root", 1000).unwrap();
    let child = root.child("child", 400).unwrap();
    let leaf = child.child("leaf", 100).unwrap();
    leaf.try_charge(50).unwrap();
    let (account, local) = (leaf.account(), leaf.local());
    local.try_charge(20).unwrap();
    drop((leaf, child, root));
    account.credit(20);
    local.credit(20);
    account.credit(30);
    assert!(account.try_charge(1).is_err());
}
