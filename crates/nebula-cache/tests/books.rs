//! The account against an independent count of what is really allocated, to the byte, and under
//! refusals of every single charge.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use nebula_cache::{CacheConfig, ConcurrentComputeCache};
use nebula_memory_core::ByteSize;
use nebula_testing::{CountingAccount, RefusingAccount, Rng};

/// Counts what the current thread has allocated and not freed.
struct Counting;

std::thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: usize, freed: bool) {
    let by = if freed { bytes.wrapping_neg() } else { bytes };
    LIVE.with(|live| live.set(live.get().wrapping_add(by)));
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), false);
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(layout.size(), true);
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn live() -> usize {
    LIVE.with(Cell::get)
}

fn config(capacity: usize, shards: usize) -> CacheConfig {
    CacheConfig::builder().capacity(ByteSize::new(capacity)).shards(shards).build().unwrap()
}

#[test]
fn what_is_charged_is_what_is_allocated() {
    let account = CountingAccount::new();
    for shards in [1, 4] {
        let before = live();
        let cache = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config(200_000, shards))
            .with_account(account.clone())
            .with_weigher(|_, value| value.capacity())
            .build()
            .unwrap();
        let check = |what: &str| {
            assert_eq!(live().wrapping_sub(before), cache.charged(), "{what}");
            account.assert_balance(cache.charged());
        };
        check("empty");
        let mut rng = Rng::new(3);
        for step in 0..20_000 {
            let key = rng.below(4000) as u64;
            match rng.below(40) {
                0 => drop(cache.remove(&key)),
                1 => assert!(cache.get_or_compute(&key, || vec![0; 64]).is_ok()),
                2 => assert!(
                    cache.try_get_or_compute(&key, || Err(())).is_ok_and(|v| v.len() < 200)
                        || !cache.contains(&key)
                ),
                3 if step % 97 == 0 => drop(cache.evict(rng.below(50_000))),
                _ => drop(cache.insert(key, Vec::with_capacity(rng.below(200))).unwrap()),
            }
            if step % 50 == 0 {
                check("in use");
            }
        }
        check("churned");
        cache.retain(|key, _| key % 2 == 0);
        check("after retain");
        assert!(cache.evict(100_000) >= 100_000);
        check("after evict");
        cache.clear();
        check("cleared");
        cache.validate().unwrap();
        drop(cache);
        assert_eq!(live(), before);
        account.assert_settled();
    }
}

#[test]
fn what_is_full_allocates_nothing_for_another_entry() {
    let cache = ConcurrentComputeCache::<u64, u64>::new(config(16 * 20_000, 4)).unwrap();
    let mut rng = Rng::new(5);
    let mut key = || rng.below(100_000) as u64;
    (0..400_000).for_each(|_| _ = cache.insert(key(), 0));
    let (live, charged) = (live(), cache.charged());
    (0..400_000).for_each(|_| _ = cache.insert(key(), 0));
    assert_eq!((self::live(), cache.charged()), (live, charged));
    assert_eq!(cache.len(), 20_000);
    let each = charged / 20_000;
    assert!(each <= 60, "{each} bytes for an entry of 16");
}

/// A life of a cache, with every kind of charge in it; panics if books or structure are off.
fn live_a_life(account: &RefusingAccount) {
    let built = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config(30_000, 2))
        .with_account(account.clone())
        .with_weigher(|_, value| value.capacity())
        .build();
    let Ok(cache) = built else { return };
    let mut refused = 0;
    for key in 0..300_u64 {
        let size = usize::try_from(key * 37 % 150).unwrap();
        match cache.insert(key % 250, Vec::with_capacity(size)) {
            Ok(_) => assert!(cache.contains(&(key % 250))),
            Err(error) => {
                refused += 1;
                assert_eq!((error.value.0, error.value.1.capacity()), (key % 250, size));
            }
        }
        assert_eq!(cache.get_or_compute(&(1000 + key % 60), || vec![1; 30]).unwrap().len(), 30);
        if key % 100 == 99 {
            cache.evict(5000);
        }
        account.get_ref().assert_balance(cache.charged());
    }
    assert!(cache.stats().rejected >= refused);
    cache.validate().unwrap();
}

#[test]
fn a_refusal_of_any_charge_leaves_exact_books() {
    let account = RefusingAccount::<CountingAccount>::default();
    for n in 0.. {
        account.refuse_at(n);
        live_a_life(&account);
        account.get_ref().assert_settled();
        if !account.tripped() {
            assert!(n > 300, "only {n} charges");
            break;
        }
    }
    // And when everything from some charge on is refused.
    for n in (0..60).chain((60..1000).step_by(31)) {
        account.refuse_from(n);
        live_a_life(&account);
        account.get_ref().assert_settled();
    }
}

#[test]
fn an_account_that_is_full_makes_the_cache_replace_its_own_entries() {
    let account = CountingAccount::new();
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config(1 << 20, 1))
        .with_account(account.clone())
        .build()
        .unwrap();
    (0..1000).for_each(|key| _ = cache.insert(key, 0).unwrap());
    account.set_limit(account.balance());
    for key in 1000..20_000 {
        cache.insert(key, 0).unwrap();
        assert!(cache.contains(&key));
    }
    assert!(cache.len() >= 1000, "{} entries", cache.len());
    assert_eq!(cache.stats().rejected, 0);
    account.assert_balance(cache.charged());
    cache.validate().unwrap();
}

#[test]
fn an_account_without_room_has_the_value_handed_back() {
    let account = CountingAccount::new();
    let cache = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config(1 << 20, 1))
        .with_account(account.clone())
        .with_weigher(|_, value| value.capacity())
        .build()
        .unwrap();
    cache.insert(1, Vec::with_capacity(1000)).unwrap();
    account.set_limit(account.balance() + 500);
    // Evicting what is there makes room for one of its size and a little more, but not for this.
    assert_eq!(cache.insert(2, Vec::with_capacity(1400)).unwrap(), None);
    assert!(!cache.contains(&1));
    let refused = cache.insert(3, Vec::with_capacity(100_000)).unwrap_err();
    assert_eq!((refused.value.0, refused.value.1.capacity()), (3, 100_000));
    // Computed values are returned nevertheless.
    assert_eq!(cache.get_or_compute(&4, || vec![7; 100_000]).unwrap().len(), 100_000);
    assert_eq!((cache.contains(&4), cache.stats().rejected), (false, 2));
    account.assert_balance(cache.charged());
    account.set_limit(100);
    assert!(
        ConcurrentComputeCache::<u64, u64>::builder(config(1 << 20, 1))
            .with_account(account.clone())
            .build()
            .is_err()
    );
}
