//! Every policy against a plain model of itself, and under operations in any order.

mod filters;
pub(crate) mod mock;
mod models;
mod steady;

use proptest::{collection::vec, prelude::*};

use self::{
    filters::{S3FifoModel, SteadyModel, WTinyLfuModel},
    mock::Mock,
    models::{ArcModel, FifoModel, LfuModel, LruModel, Model, SieveModel},
};
use super::*;
use crate::PolicyKind;

const KINDS: [PolicyKind; 8] = [
    PolicyKind::Fifo,
    PolicyKind::Lru,
    PolicyKind::Lfu,
    PolicyKind::Arc,
    PolicyKind::S3Fifo,
    PolicyKind::Sieve,
    PolicyKind::Steady,
    PolicyKind::WTinyLfu,
];

/// A stream of numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        let high = self.0 >> 32;
        u32::try_from((high * u64::from(bound)) >> 32).unwrap()
    }

    /// About as frequent as one over its rank.
    fn zipf(&mut self, keys: u32) -> u32 {
        let unit = f64::from(self.below(1 << 30)) / f64::from(1 << 30);
        let key = f64::from(keys).powf(unit) - 1.0;
        (0..keys).nth(format!("{key:.0}").parse().unwrap()).unwrap_or(0)
    }
}

/// Requests with what caches meet: skew, changes of what is popular, loops and scans.
fn trace(seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    let mut keys = Vec::new();
    let mut fresh = 10_000;
    for phase in 0..12 {
        match random.below(4) {
            0 => keys.extend((0..600).map(|_| random.zipf(400))),
            1 => keys.extend((0..600).map(|_| random.zipf(300) + 150 * phase)),
            2 => {
                let (start, len) = (random.below(500), 20 + random.below(150));
                keys.extend((0..600).map(|at| start + at % len));
            }
            _ => {
                // A scan among skewed requests.
                for _ in 0..300 {
                    keys.push(random.zipf(400));
                    keys.push(fresh);
                    fresh += 1;
                }
            }
        }
    }
    keys
}

/// The policy evicts whom its model evicts, all the time.
fn follows<P: drive::Policy, M: Model>(kind: PolicyKind, keys: &[u32], capacity: usize) {
    let mut mock = Mock::<P>::new(kind, capacity, capacity);
    let mut model = M::new(capacity);
    for (at, &key) in keys.iter().enumerate() {
        let hit = mock.request(key, 1);
        let evicted = mock.evicted.pop();
        assert_eq!(mock.evicted, []);
        assert_eq!((hit, evicted), model.request(key), "{kind:?} of {capacity}: request {at}");
        if at % 64 == 0 {
            mock.compact();
            mock.validate();
        }
    }
    mock.validate();
}

fn follows_its_model<P: drive::Policy, M: Model>(kind: PolicyKind) {
    for (seed, capacity) in [1, 2, 3, 7, 20, 64, 100, 150].into_iter().enumerate() {
        let keys = trace(seed as u64 + 1);
        follows::<P, M>(kind, &keys, capacity);
        follows::<AnyPolicy, M>(kind, &keys, capacity);
    }
    let config = ProptestConfig::with_cases(64);
    proptest!(config, |(keys in vec(0..30_u32, 0..400), capacity in 1..12_usize)| {
        follows::<P, M>(kind, &keys, capacity);
    });
}

#[test]
fn fifo_evicts_in_the_order_of_insertion() {
    follows_its_model::<Fifo, FifoModel>(PolicyKind::Fifo);
}

#[test]
fn lru_evicts_in_the_order_of_use() {
    follows_its_model::<Lru, LruModel>(PolicyKind::Lru);
}

#[test]
fn lfu_evicts_in_the_order_of_its_keys() {
    follows_its_model::<Lfu, LfuModel>(PolicyKind::Lfu);
}

#[test]
fn lfu_counts_to_255_and_its_keys_go_round() {
    // One entry is used all the time, as often as is counted and more; ages go beyond a byte.
    let mut random = Random(5);
    let keys = (0..6000).map(|_| if random.below(3) > 0 { 1 } else { random.below(12) });
    let keys: Vec<u32> = keys.chain((0..3000).map(|at| at % 9)).collect();
    follows::<Lfu, LfuModel>(PolicyKind::Lfu, &keys, 6);
}

#[test]
fn arc_does_what_the_paper_says() {
    follows_its_model::<Arc, ArcModel>(PolicyKind::Arc);
}

#[test]
fn sieve_moves_its_hand_as_published() {
    follows_its_model::<Sieve, SieveModel>(PolicyKind::Sieve);
}

#[test]
fn s3_fifo_filters_and_remembers() {
    follows_its_model::<S3Fifo, S3FifoModel>(PolicyKind::S3Fifo);
}

#[test]
fn steady_filters_once_it_is_full_and_exchanges_what_is_stale() {
    follows_its_model::<Steady, SteadyModel>(PolicyKind::Steady);
}

#[test]
fn steady_passes_over_64_at_most() {
    // Everything has been hit as often as is counted.
    let hit = (0..1000).map(|at| at % 200);
    let keys: Vec<u32> =
        hit.chain((0..1000).map(|at| if at % 2 == 0 { at } else { at % 90 })).collect();
    follows::<Steady, SteadyModel>(PolicyKind::Steady, &keys, 200);
    let mut mock = Mock::<Steady>::new(PolicyKind::Steady, 200, 200);
    (0..1000).for_each(|at| _ = mock.request(at % 200, 1));
    mock.request(1000, 1);
    // One of the small queue moved on, 63 of the main queue went behind it.
    assert_eq!(mock.evicted, [63]);
}

#[test]
fn steady_keeps_a_part_of_a_loop_from_the_beginning() {
    let mut mock = Mock::<Steady>::new(PolicyKind::Steady, 100, 100);
    let round = |_| (0..300).filter(|&key| mock.request(key, 1)).count();
    let hits: Vec<usize> = (0..10).map(round).collect();
    // The main queue has 83, of which now and then one is exchanged.
    assert!(hits[1..].iter().all(|hits| (60..=83).contains(hits)), "{hits:?}");
}

#[test]
fn steady_lets_all_pass_again_once_it_was_emptied() {
    let mut mock = Mock::<Steady>::new(PolicyKind::Steady, 100, 100);
    (0..1000).for_each(|key| _ = mock.request(key, 1));
    mock.set_capacity(0);
    mock.set_capacity(100);
    (0..300).for_each(|key| _ = mock.request(key, 1));
    // Nobody was hit: a part of the first that came is there anyway.
    assert!((0..80).filter(|&key| mock.has(key)).count() > 70);
}

#[test]
fn as_many_are_remembered_as_there_is_room_for_and_as_are_wanted() {
    let mut memory = ghosts::Ghosts::default();
    memory.adopt(ghosts::Ghosts::allocate(memory.wanted(620)).unwrap());
    for (most, range) in [(10_000, 500..=620), (200, 160..=220), (60, 45..=80)] {
        // Those of the round before fade first.
        let rings = memory.rings_mut();
        let (count, ways) = (rings.len(), ghosts::ways_for(most, rings.len()));
        (0..20_000).for_each(|key| ghosts::remember_among(rings, count, mock::hash_of(key), ways));
        let remembered = (0..20_000).filter(|&key| memory.recall(mock::hash_of(key))).count();
        assert!(range.contains(&remembered), "{remembered} of {most}");
        memory.validate().unwrap();
    }
}

#[test]
fn w_tiny_lfu_admits_and_climbs() {
    follows_its_model::<WTinyLfu, WTinyLfuModel>(PolicyKind::WTinyLfu);
}

#[test]
fn a_scan_does_not_sweep_out_what_is_used_again_and_again() {
    for kind in KINDS {
        let mut mock = Mock::<AnyPolicy>::new(kind, 100, 100);
        for _ in 0..20 {
            (0..50).for_each(|key| _ = mock.request(key, 1));
        }
        (1000..1200).for_each(|key| _ = mock.request(key, 1));
        let kept = (0..50).filter(|&key| mock.has(key)).count();
        match kind {
            PolicyKind::Fifo | PolicyKind::Lru => assert_eq!(kept, 0),
            _ => assert_eq!(kept, 50, "{kind:?}"),
        }
    }
}

#[test]
fn the_order_of_the_coldest_is_the_order_of_eviction() {
    let kinds = [PolicyKind::Fifo, PolicyKind::Lru, PolicyKind::Lfu, PolicyKind::Sieve];
    for kind in kinds {
        let mut mock = Mock::<AnyPolicy>::new(kind, 64, 64);
        for key in trace(3) {
            mock.request(key, 1);
        }
        if kind == PolicyKind::Sieve {
            // The marks are taken off first.
            (0..40).for_each(|fresh| _ = mock.request(1 << 20 | fresh, 1));
            (0..40).for_each(|fresh| _ = mock.request(1 << 21 | fresh, 1));
        }
        let order = mock.coldest_first();
        mock.evicted.clear();
        mock.set_capacity(0);
        if kind == PolicyKind::Sieve {
            assert_eq!(mock.evicted.len(), order.len());
        } else {
            assert_eq!(mock.evicted, order, "{kind:?}");
        }
    }
}

#[test]
fn heavy_entries_used_once_do_not_push_out_many_light_ones() {
    let hits = |kind| {
        let mut mock = Mock::<AnyPolicy>::new(kind, 1000, 16);
        let (mut random, mut hits) = (Random(9), 0);
        for at in 0..20_000 {
            hits += usize::from(mock.request(random.zipf(300), 2));
            if at % 4 == 0 {
                mock.request((1 << 20) + at, 50);
            }
        }
        mock.validate();
        hits
    };
    let lru = hits(PolicyKind::Lru);
    let filters = [PolicyKind::S3Fifo, PolicyKind::Sieve, PolicyKind::Steady, PolicyKind::WTinyLfu];
    for kind in filters.into_iter().chain([PolicyKind::Arc]) {
        let hits = hits(kind);
        assert!(hits * 2 > lru * 3, "{kind:?} has {hits} hits, LRU {lru}");
    }
}

#[test]
fn nodes_take_no_more_than_their_links_and_three_bytes_padded() {
    assert_eq!(size_of::<Node>(), 12);
}

#[derive(Clone, Debug)]
enum Step {
    Request(u32, usize),
    Admit(u32),
    InsertUnasked(u32, usize),
    Replace(u32, usize),
    Remove(u32),
    Pin(u32, bool),
    Compact,
    Evict,
    Resize(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (key, weight) = (0..40_u32, 1..20_usize);
    let step = prop_oneof![
        12 => (key.clone(), weight.clone()).prop_map(|(key, weight)| Step::Request(key, weight)),
        1 => key.clone().prop_map(Step::Admit),
        1 => (key.clone(), weight.clone()).prop_map(|(k, w)| Step::InsertUnasked(k, w)),
        2 => (key.clone(), weight).prop_map(|(key, weight)| Step::Replace(key, weight)),
        1 => key.clone().prop_map(Step::Remove),
        2 => (key, any::<bool>()).prop_map(|(key, pinned)| Step::Pin(key, pinned)),
        1 => Just(Step::Compact),
        1 => Just(Step::Evict),
        1 => (0..200_usize).prop_map(Step::Resize),
    ];
    vec(step, 0..300)
}

fn survives<P: drive::Policy>(kind: PolicyKind, steps: &[Step]) {
    let mut mock = Mock::<P>::leading(kind, 100, 0);
    for step in steps {
        match *step {
            Step::Request(key, weight) => _ = mock.request(key, weight),
            Step::Admit(key) => mock.admit(key),
            Step::InsertUnasked(key, weight) => {
                if !mock.has(key) {
                    mock.insert(key, weight, Newcomer::default());
                }
            }
            Step::Replace(key, weight) => mock.replace(key, weight),
            Step::Remove(key) => mock.remove(key),
            Step::Pin(key, pinned) => mock.pin(key, pinned),
            Step::Compact => mock.compact(),
            Step::Evict => _ = mock.evict(None),
            Step::Resize(capacity) => mock.set_capacity(capacity),
        }
        mock.validate();
    }
    let pinned = (0..40).filter(|&key| mock.is_pinned(key)).count();
    mock.set_capacity(0);
    assert_eq!(mock.len(), pinned, "everything but what is pinned can be evicted");
    mock.validate();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_order_of_operations_leaves_every_policy_whole(steps in steps()) {
        for kind in KINDS {
            survives::<AnyPolicy>(kind, &steps);
        }
    }
}

/// Their memory is the same.
const ALIKE: [PolicyKind; 2] = [PolicyKind::S3Fifo, PolicyKind::Steady];

#[test]
fn memory_of_another_policy_is_handed_back() {
    use drive::Policy as _;
    for kind in KINDS {
        for other in KINDS.into_iter().filter(|&other| other != kind) {
            let (mut policy, giver) = (AnyPolicy::new(kind), AnyPolicy::new(other));
            let memory = giver.allocate(giver.wanted(100)).unwrap();
            if [kind, other].iter().all(|kind| ALIKE.contains(kind)) {
                continue;
            }
            let bytes = AnyPolicy::bytes_of(&memory);
            assert_eq!(bytes, giver.wanted(100));
            assert_eq!(AnyPolicy::bytes_of(&policy.adopt(memory)), bytes);
            assert_eq!(policy.bytes(), 0);
        }
    }
}
