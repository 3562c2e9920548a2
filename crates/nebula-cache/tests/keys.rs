//! Keys: looked up by what they borrow or are equivalent to, told apart by `Eq`, and cloned only
//! where that is needed.

use std::{
    borrow::Borrow,
    cell::Cell,
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::Arc,
};

use nebula_cache::{CacheConfig, ComputeCache, ConcurrentComputeCache, Equivalent};

/// A key with two owned parts.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Page {
    host: String,
    path: String,
}

/// The same without owning.
#[derive(Clone, Copy, Hash)]
struct PageRef<'p> {
    host: &'p str,
    path: &'p str,
}

impl Equivalent<Page> for PageRef<'_> {
    fn equivalent(&self, key: &Page) -> bool {
        self.host == key.host && self.path == key.path
    }
}

#[test]
fn strings_are_looked_up_by_str() {
    let cache = ConcurrentComputeCache::<String, u32>::new(CacheConfig::default()).unwrap();
    cache.insert("one".to_owned(), 1).unwrap();
    assert_eq!((cache.get("one"), cache.get("two"), cache.peek("one")), (Some(1), None, Some(1)));
    assert_eq!(cache.get_or_compute("two", || 2).unwrap(), 2);
    assert_eq!(cache.update("two", |two| two.map(|two| two + 1)).unwrap(), Some(3));
    assert!(cache.pin("two") && cache.unpin("two") && cache.contains("two"));
    assert_eq!((cache.remove("two"), cache.contains("two")), (Some(3), false));

    let mut cache = ComputeCache::<String, u32>::new(CacheConfig::default()).unwrap();
    assert_eq!(cache.get_or_compute("one", || 1).unwrap(), &1);
    assert_eq!(cache.try_get_or_compute("one", || Err(())).unwrap(), &1);
    assert_eq!(cache.get_or_compute_within("two", |_| 2).unwrap(), &2);
    assert!(cache.pin("two") && cache.unpin("two") && cache.contains("two"));
    assert_eq!(cache.get("one"), Some(&1));
    assert_eq!(cache.peek("two"), Some(&2));
    assert_eq!((cache.remove("two"), cache.remove("two")), (Some(2), None));
}

#[test]
fn a_key_is_looked_up_by_what_is_equivalent_to_it() {
    let shared = ConcurrentComputeCache::<Page, u32>::new(CacheConfig::default()).unwrap();
    let mut local = ComputeCache::<Page, u32>::new(CacheConfig::default()).unwrap();
    let page = Page { host: "example.org".to_owned(), path: "/".to_owned() };
    shared.insert(page.clone(), 1).unwrap();
    local.insert(page, 1).unwrap();
    let (same, other) = (
        PageRef { host: "example.org", path: "/" },
        PageRef { host: "example.org", path: "/other" },
    );
    assert_eq!((shared.get(&same), shared.get(&other)), (Some(1), None));
    assert_eq!(local.get(&same), Some(&1));
    assert_eq!(local.get(&other), None);
    assert!(shared.contains(&same) && local.contains(&same) && shared.pin(&same));
    assert!(local.pin(&same) && local.unpin(&same) && shared.unpin(&same));
    assert_eq!((shared.remove(&same), local.remove(&same)), (Some(1), Some(1)));
}

/// Hashes everything to the same.
#[derive(Default)]
struct Same;

impl Hasher for Same {
    fn finish(&self) -> u64 {
        0
    }
    fn write(&mut self, _: &[u8]) {}
}

#[test]
fn equal_hashes_are_told_apart() {
    let config = CacheConfig::builder().entries(200).build().unwrap();
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config)
        .with_hasher(BuildHasherDefault::<Same>::default())
        .build()
        .unwrap();
    (0..200).for_each(|key| _ = cache.insert(key, key).unwrap());
    assert!((0..200).all(|key| cache.get(&key) == Some(key)));
    assert!((0..200).step_by(2).all(|key| cache.remove(&key) == Some(key)));
    assert!((0..200).all(|key| cache.contains(&key) == (key % 2 == 1)));
    (300..600).for_each(|key| _ = cache.insert(key, key).unwrap());
    assert_eq!(cache.len(), 200);
    // Computations of different keys with one hash do not wait for each other.
    let nested = cache.get_or_compute(&1000, || cache.get_or_compute(&1001, || 1).unwrap() + 1);
    assert_eq!(nested.unwrap(), 2);
    cache.validate().unwrap();
}

std::thread_local! {
    static CLONES: Cell<usize> = const { Cell::new(0) };
}

#[derive(Hash, PartialEq, Eq)]
struct Counted(u64);

impl Clone for Counted {
    fn clone(&self) -> Self {
        CLONES.set(CLONES.get() + 1);
        Self(self.0)
    }
}

impl Borrow<u64> for Counted {
    fn borrow(&self) -> &u64 {
        &self.0
    }
}

#[test]
fn keys_are_cloned_only_to_be_computed() {
    let shared = ConcurrentComputeCache::<Counted, u64>::new(CacheConfig::default()).unwrap();
    let mut local = ComputeCache::<Counted, u64>::new(CacheConfig::default()).unwrap();
    shared.insert(Counted(1), 1).unwrap();
    local.insert(Counted(1), 1).unwrap();
    assert_eq!((shared.get(&1), local.get(&1)), (Some(1), Some(&1)));
    shared.get_or_compute(&Counted(1), || 2).unwrap();
    local.get_or_compute(&Counted(1), || 2).unwrap();
    assert_eq!(CLONES.get(), 0);
    shared.get_or_compute(&Counted(2), || 2).unwrap();
    local.get_or_compute(&Counted(2), || 2).unwrap();
    assert_eq!(CLONES.get(), 2);
    shared.insert(Counted(2), 3).unwrap();
    shared.remove(&Counted(2)).unwrap();
    shared.clear();
    assert_eq!(CLONES.get(), 2);
}

#[test]
fn values_are_cloned_by_those_who_share_and_lent_by_those_who_do_not() {
    /// No `Clone`.
    #[derive(Debug, PartialEq)]
    struct Unique(u64);
    let mut cache = ComputeCache::<u64, Unique>::new(CacheConfig::default()).unwrap();
    cache.insert(1, Unique(1)).unwrap();
    assert_eq!(cache.get(&1), Some(&Unique(1)));
    assert_eq!(cache.get_or_compute(&2, || Unique(2)).unwrap(), &Unique(2));
    cache.update(2, |old| old.map(|old| Unique(old.0 + 1))).unwrap();
    assert_eq!(cache.remove(&2), Some(Unique(3)));
    // A shared cache needs it for lookups, and not for the rest.
    let shared = ConcurrentComputeCache::<u64, Unique>::new(CacheConfig::default()).unwrap();
    shared.insert(1, Unique(1)).unwrap();
    assert!(shared.contains(&1));
    assert_eq!(shared.insert(1, Unique(2)).unwrap(), Some(Unique(1)));
    assert_eq!(shared.remove(&1), Some(Unique(2)));
    let arcs = ConcurrentComputeCache::<u64, Arc<Unique>>::new(CacheConfig::default()).unwrap();
    let one = arcs.get_or_compute(&1, || Arc::new(Unique(1))).unwrap();
    assert!(Arc::ptr_eq(&one, &arcs.get(&1).unwrap()));
}
