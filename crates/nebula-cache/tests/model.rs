//! Random sequences of operations against a plain map, for every cache and every policy: whatever
//! the cache holds is what the map holds, and its inside is in order after every step.

mod common;

use common::ops;
use nebula_testing::Rng;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn a_cache_is_a_part_of_a_map(bytes in prop::collection::vec(any::<u8>(), 8..600)) {
        ops::run(&bytes);
    }
}

#[test]
fn long_lives_are_in_order_too() {
    let mut rng = Rng::new(1);
    for _ in 0..20 {
        let bytes: Vec<u8> = (0..2000).map(|_| rng.next_u64().to_le_bytes()[3]).collect();
        ops::run(&bytes);
    }
}
