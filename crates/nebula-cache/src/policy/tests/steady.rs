//! What the default does in any mode, and that it finds the one to be in.

use super::{mock::Mock, *};

/// With a duel, or in the first mode for good.
fn steady(duels: bool, capacity: usize) -> Mock<Steady> {
    let make = if duels { Mock::leading } else { Mock::new };
    make(PolicyKind::Steady, capacity, capacity)
}

/// Per mille of hits.
fn hits<P: drive::Policy>(mock: &mut Mock<P>, keys: impl Iterator<Item = u32>) -> usize {
    let (mut hits, mut all) = (0, 0);
    for key in keys {
        hits += usize::from(mock.request(key, 1));
        all += 1;
    }
    hits * 1000 / all
}

/// Every key comes up twice, with `gap` others that are new between, and never again.
fn twice(gap: u32, keys: u32) -> impl Iterator<Item = u32> {
    (gap..gap + keys).flat_map(move |key| [key, key - gap])
}

#[test]
fn where_only_recency_counts_it_becomes_as_good_as_lru() {
    let mut lru = Mock::<Lru>::new(PolicyKind::Lru, 1000, 1000);
    let (mut duelling, mut alone) = (steady(true, 1000), steady(false, 1000));
    let learning = || twice(350, 4000);
    let (mut all, keys) = (Vec::new(), twice(350, 40_000).skip(8000));
    all.extend(keys);
    hits(&mut lru, learning());
    hits(&mut duelling, learning());
    hits(&mut alone, learning());
    let keys = || all.iter().copied();
    let (best, new, old) =
        (hits(&mut lru, keys()), hits(&mut duelling, keys()), hits(&mut alone, keys()));
    assert_eq!(best, 500);
    assert!(new >= best - 10, "{new} is more than a point below {best}");
    assert!(old < 100, "{old}");
    duelling.validate();
}

#[test]
fn loops_and_scans_are_no_worse_for_the_duel() {
    for tenths in [11, 15, 20, 30] {
        let around = |_| 0..100 * tenths;
        let mut duelling = steady(true, 1000);
        let found = hits(&mut duelling, (0..60).flat_map(around));
        // (Of what can be kept, at best.)
        let best = 1000 * 10 / tenths as usize;
        assert!(found > best * 8 / 10, "{found} of {best} at {tenths}");
        duelling.validate();
    }
    let skewed = |seed| {
        let mut random = Random(seed);
        let mut scan = 1 << 20;
        (0..20_000).map(move |at| {
            scan += 1;
            if at % 5 < 4 { random.zipf(3000) } else { scan }
        })
    };
    let (mut duelling, mut alone) = (steady(true, 300), steady(false, 300));
    let (new, old) = (hits(&mut duelling, skewed(9)), hits(&mut alone, skewed(9)));
    assert!(new + 10 >= old, "{new} {old}");
}

#[test]
fn one_leads_and_all_follow() {
    use drive::Policy as _;
    let mut leader = steady(true, 500);
    let follower = leader.policy.fork(false);
    assert!(leader.policy.leads() && !follower.leads());
    assert_eq!(follower.in_force(), 0);
    assert!(leader.policy.wanted(500) == 0 && follower.wanted(500) > 0);
    assert!(leader.policy.bytes() > follower.wanted(500));
    hits(&mut leader, twice(180, 5000));
    assert_ne!(follower.in_force(), 0);
    assert_eq!(leader.policy.fork(true).in_force(), follower.in_force());
}

#[test]
fn a_mode_that_was_in_force_for_a_moment_is_not_gone_by_for_good() {
    let (mut flipped, mut still) = (steady(false, 1000), steady(false, 1000));
    for mock in [&mut flipped, &mut still] {
        (0..2000).for_each(|key| _ = mock.request(key, 1));
    }
    for (mode, key) in [(1, 5000), (0, 5001)] {
        flipped.policy.force(mode);
        flipped.request(key, 1);
    }
    let keys = || twice(120, 20_000).map(|key| key + 10_000);
    let (flipped, still) = (hits(&mut flipped, keys()), hits(&mut still, keys()));
    assert!(flipped.abs_diff(still) < 20, "{flipped} per mille, not {still}");
}

#[test]
fn who_leads_anew_knows_which_mode_is_in_force() {
    use drive::Policy as _;
    let skewed = || {
        let mut random = Random(9);
        let mut scan = 1 << 20;
        (0..200_000).map(move |at| {
            scan += 1;
            if at % 5 < 4 { random.zipf(10_000) } else { scan }
        })
    };
    let mut fresh = steady(true, 1000);
    let before = hits(&mut fresh, skewed());
    for mode in 0..4 {
        let old = steady(true, 1000);
        old.policy.force(mode);
        let mut anew = Mock::<Steady>::leading(PolicyKind::Steady, 1000, 0);
        anew.policy = old.policy.fork(true);
        anew.grow(1000);
        let after = hits(&mut anew, skewed());
        assert!(
            after + 10 > before,
            "from mode {mode}: {after} per mille in mode {}, not {before} in mode {}",
            anew.policy.in_force(),
            fresh.policy.in_force()
        );
    }
}

#[test]
fn its_memory_grows_with_the_slots_and_keeps_what_it_holds() {
    let mut mock = steady(true, 5000);
    for key in 0..5000 {
        mock.request(key, 1);
        if key % 3 == 0 {
            mock.request(key / 2, 1);
        }
        if key % 100 == 0 {
            mock.validate();
        }
    }
    for slots in [1, 7, 64, 200, 3000] {
        mock.grow(slots);
        mock.validate();
    }
}

#[derive(Clone, Copy, Debug)]
enum Turn {
    Request(u32, usize),
    Replace(u32, usize),
    Remove(u32),
    Pin(u32, bool),
    Evict,
    Compact,
    Resize(usize),
    Mode(usize),
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let (key, weight) = (0..600_u32, 1..20_usize);
    vec(
        prop_oneof![
            400 => (key.clone(), weight.clone()).prop_map(|(key, weight)| Turn::Request(key, weight)),
            40 => (key.clone(), weight).prop_map(|(key, weight)| Turn::Replace(key, weight)),
            40 => key.clone().prop_map(Turn::Remove),
            10 => (key, any::<bool>()).prop_map(|(key, pinned)| Turn::Pin(key, pinned)),
            10 => Just(Turn::Evict),
            2 => Just(Turn::Compact),
            2 => (0..3000_usize).prop_map(Turn::Resize),
            10 => (0..4_usize).prop_map(Turn::Mode),
        ],
        0..3000,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn changes_of_mode_lose_neither_entries_nor_weight(turns in turns()) {
        let mut mock = Mock::<Steady>::leading(PolicyKind::Steady, 2000, 100);
        for (at, turn) in turns.into_iter().enumerate() {
            match turn {
                Turn::Request(key, weight) => _ = mock.request(key, weight),
                Turn::Replace(key, weight) => mock.replace(key, weight),
                Turn::Remove(key) => mock.remove(key),
                Turn::Pin(key, pinned) => mock.pin(key, pinned),
                Turn::Evict => _ = mock.evict(None),
                Turn::Compact => mock.compact(),
                Turn::Resize(capacity) => mock.set_capacity(capacity),
                Turn::Mode(mode) => mock.policy.force(mode),
            }
            if at % 50 == 0 {
                mock.validate();
            }
        }
        mock.validate();
    }
}
