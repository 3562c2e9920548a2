//! Random sequences of operations against a plain map: whatever the cache holds is what the map
//! holds, and its inside is in order after every step.

use std::collections::HashMap;

use nebula_cache::{CacheConfig, ConcurrentComputeCache};
use nebula_memory_core::ByteSize;
use nebula_testing::CountingAccount;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Insert(u8, u16),
    Get(u8),
    Remove(u8),
    Compute(u8, u16),
    Evict(usize),
    Retain(u8),
    Clear,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => (any::<u8>(), 0..600_u16).prop_map(|(k, v)| Op::Insert(k, v)),
        8 => any::<u8>().prop_map(Op::Get),
        3 => any::<u8>().prop_map(Op::Remove),
        4 => (any::<u8>(), 0..600_u16).prop_map(|(k, v)| Op::Compute(k, v)),
        1 => (0..5000_usize).prop_map(Op::Evict),
        1 => (2..9_u8).prop_map(Op::Retain),
        1 => Just(Op::Clear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_cache_is_a_part_of_a_map(
        ops in prop::collection::vec(op(), 1..400),
        shards in prop::sample::select(vec![1_usize, 2, 8]),
        capacity in 100..6000_usize,
        limit in prop::sample::select(vec![usize::MAX, 90_000]),
    ) {
        let account = CountingAccount::with_limit(limit);
        let config =
            CacheConfig::builder().capacity(ByteSize::new(capacity)).shards(shards).build().unwrap();
        // A value weighs itself, so that weights change with replacements.
        let cache = ConcurrentComputeCache::<u8, u16>::builder(config)
            .with_account(account.clone())
            .with_weigher(|_, value| usize::from(*value))
            .build()
            .unwrap();
        let mut model = HashMap::new();
        for op in ops {
            let mut before = HashMap::new();
            for &key in model.keys() {
                before.insert(key, cache.peek(&key));
            }
            match op {
                Op::Insert(key, value) => match cache.insert(key, value) {
                    Ok(old) => {
                        if shards == 1 {
                            prop_assert_eq!(old, before.get(&key).copied().flatten());
                        }
                        prop_assert_eq!(cache.peek(&key), Some(value));
                        model.insert(key, value);
                    }
                    Err(refused) => {
                        prop_assert_eq!(refused.value, (key, value));
                        // An earlier value stays, or is gone; what was refused is not there.
                        let there = cache.peek(&key);
                        prop_assert!(there.is_none() || there == model.get(&key).copied());
                    }
                },
                Op::Get(key) => {
                    if let Some(value) = cache.get(&key) {
                        prop_assert_eq!(Some(&value), model.get(&key));
                    }
                }
                Op::Remove(key) => {
                    let removed = cache.remove(&key);
                    prop_assert_eq!(removed, before.get(&key).copied().flatten());
                    prop_assert!(!cache.contains(&key));
                    model.remove(&key);
                }
                Op::Compute(key, value) => {
                    let there = before.get(&key).copied().flatten();
                    let computed = cache.get_or_compute(&key, || value).unwrap();
                    prop_assert_eq!(computed, there.unwrap_or(value));
                    if cache.contains(&key) {
                        model.insert(key, computed);
                    } else {
                        model.remove(&key);
                    }
                }
                Op::Evict(bytes) => {
                    let charged = cache.charged();
                    let given = cache.evict(bytes);
                    prop_assert_eq!(given, charged - cache.charged());
                    prop_assert!(given >= bytes || cache.is_empty());
                }
                Op::Retain(n) => {
                    cache.retain(|key, value| {
                        assert_eq!(model.get(key), Some(value));
                        key % n != 0
                    });
                    model.retain(|key, _| key % n != 0);
                }
                Op::Clear => {
                    cache.clear();
                    model.clear();
                    prop_assert!(cache.is_empty());
                }
            }
            for (key, value) in &model {
                let there = cache.peek(key);
                prop_assert!(there.is_none() || there == Some(*value));
            }
            prop_assert!(cache.len() <= model.len());
            prop_assert!(cache.weight() <= cache.capacity());
            prop_assert_eq!(cache.validate(), Ok(()));
            account.assert_balance(cache.charged());
        }
        drop(cache);
        account.assert_settled();
    }
}
