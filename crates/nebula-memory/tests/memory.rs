//! Tenants of one process: isolated by their budgets, and giving back before anybody is refused.
#![cfg(all(
    feature = "arena",
    feature = "budget",
    feature = "cache",
    feature = "monitor",
    feature = "pool"
))]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use nebula_memory::{
    Memory, MemoryConfig, Tenant, TenantPartitions,
    budget::BudgetConfig,
    cache::{CacheConfig, Share},
    core::{Account, ByteSize, ManualClock, PressureLevel},
    monitor::PressureAction,
};

const MIB: usize = 1 << 20;

fn memory() -> Memory {
    let process = BudgetConfig::builder(ByteSize::mib(64)).build().unwrap();
    let cache = CacheConfig::builder().bytes(ByteSize::mib(32)).build().unwrap();
    Memory::new(MemoryConfig::builder().budget(process).cache(cache).build().unwrap()).unwrap()
}

fn borrower(memory: &Memory, name: &str) -> Tenant {
    let limits = BudgetConfig::builder(ByteSize::mib(64)).guaranteed(ByteSize::ZERO);
    memory.tenant(name, &limits.build().unwrap()).unwrap()
}

#[test]
fn a_tenant_that_exceeds_its_budget_leaves_the_others_alone() {
    let memory = memory();
    let limits = BudgetConfig::builder(ByteSize::mib(8)).build().unwrap();
    let (rogue, other) =
        (memory.tenant("rogue", &limits).unwrap(), memory.tenant("other", &limits).unwrap());
    let arena = rogue.arena().unwrap();
    let error = loop {
        if let Err(refused) = arena.try_alloc([0_u8; 10_000]) {
            break refused.error;
        }
    };
    assert!(error.to_string().contains("`process/rogue` has used"), "{error}");
    let theirs = other.arena().unwrap();
    theirs.try_alloc_slice_with(7 * MIB, |_| 0_u8).unwrap();
    drop((arena, theirs));
    assert_eq!(memory.budget().used(), 0);
}

#[test]
fn a_cache_gives_back_before_another_tenant_is_refused() {
    let memory = memory();
    let (caching, needing) = (borrower(&memory, "caching"), borrower(&memory, "needing"));
    let cache = caching.cache("pages", |_: &u64, page: &Vec<u8>| page.capacity()).unwrap();
    for key in 0..400 {
        cache.insert(key, vec![0; 64 << 10]).unwrap();
    }
    let before = caching.budget().used();
    assert!(before > 20 * MIB, "{before}");
    let held = needing.budget().try_reserve(50 * MIB).unwrap();
    assert!(caching.budget().used() <= 14 * MIB);
    assert!(cache.len() < 400);
    drop((held, cache));
    assert_eq!(memory.budget().used(), 0);
}

#[test]
fn tenants_share_a_cache_and_each_is_charged_for_its_part() {
    let memory = memory();
    let config = CacheConfig::builder().entries(100).build().unwrap();
    let pages = TenantPartitions::<u64, Vec<u8>>::new(config).unwrap();
    let (quiet, noisy) = (borrower(&memory, "quiet"), borrower(&memory, "noisy"));
    let part = |tenant: &Tenant, least| {
        tenant.partition(&pages, Share::guaranteed(least), |_, page| page.capacity())
    };
    let (mine, theirs) = (part(&quiet, 50).unwrap(), part(&noisy, 0).unwrap());
    assert!(part(&quiet, 1).is_err(), "there is one of that name");
    (0..50).for_each(|key| drop(mine.insert(key, vec![0; 10_000]).unwrap()));
    (0..1000).for_each(|key| drop(theirs.insert(key, vec![0; 10_000]).unwrap()));
    assert_eq!((mine.len(), theirs.len()), (50, 50));
    assert_eq!(quiet.budget().used(), mine.charged());
    assert_eq!(noisy.budget().used(), theirs.charged());
    assert_eq!(memory.reclaimers().len(), 3, "both, and the scratch");
    // Who needs the memory has it from both caches.
    drop(quiet.budget().try_reserve(64 * MIB - 100_000).unwrap());
    assert!(mine.len() + theirs.len() < 100);
    drop((mine, theirs, pages));
    assert_eq!(memory.budget().used(), 0);
}

#[test]
fn idle_objects_of_a_pool_are_given_back_before_cached_values() {
    let memory = memory();
    let tenant = borrower(&memory, "tenant");
    let pool = tenant.pool("buffers", || Ok(Vec::<u8>::with_capacity(10 * MIB))).unwrap();
    let cache = tenant.cache("pages", |_: &u64, page: &Vec<u8>| page.capacity()).unwrap();
    cache.insert(1, vec![0; 10 * MIB]).unwrap();
    drop(pool.try_get().unwrap());
    let names: Vec<_> = memory.reclaimers().list().into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["scratch", "tenant/buffers", "tenant/pages"]);
    let held = tenant.budget().try_reserve(50 * MIB).unwrap();
    assert_eq!((pool.stats().idle, cache.len()), (0, 1));
    drop((held, pool, cache));
    assert_eq!(memory.reclaimers().len(), 1, "the scratch stays");
    assert_eq!(memory.budget().used(), 0);
}

#[test]
fn spare_chunks_are_given_back_before_idle_objects() {
    let memory = memory();
    let tenant = borrower(&memory, "acme");
    let pool = tenant.pool("buffers", || Ok(Vec::<u8>::with_capacity(10 * MIB))).unwrap();
    drop(pool.try_get().unwrap());
    let stream = tenant.stream("lines", 2).unwrap();
    let batch = stream.try_batch().unwrap();
    batch.alloc_slice_fill(2 * MIB, 1_u8);
    drop(batch);
    let store = tenant.chunk_store("chunks", ByteSize::mib(64));
    nebula_memory::arena::Arena::new_in(&store).alloc_slice_fill(2 * MIB, 1_u8);
    let kept = stream.stats().idle_bytes + store.stats().bytes;
    assert!(kept > 3 * MIB, "{kept}");
    // As much as is left, and all that is spare.
    let left = tenant.budget().capacity() - tenant.budget().used();
    let held = tenant.account();
    held.try_charge(left + kept).unwrap();
    assert_eq!((stream.stats().idle_bytes, store.stats().bytes, pool.stats().idle), (0, 0, 1));
    held.credit(left + kept);
    drop((stream, store, pool));
    assert_eq!(tenant.budget().used(), 0);
}

#[test]
fn the_monitor_sees_the_budget_and_asks_everybody_to_give_back() {
    let memory = memory();
    let tenant = borrower(&memory, "tenant");
    let events = Arc::new(Mutex::new(vec![]));
    let log = Arc::clone(&events);
    let tell = PressureAction::notify(move |event| log.lock().unwrap().push(event.clone()));
    let clock = Arc::new(ManualClock::new());
    let mut monitor = memory
        .monitor()
        .without_system()
        .clock(Arc::clone(&clock) as _)
        .on(PressureLevel::Elevated, tell)
        .build()
        .unwrap();
    assert!(monitor.check().unwrap().is_none());

    let cache = tenant.cache("pages", |_: &u64, page: &Vec<u8>| page.capacity()).unwrap();
    for key in 0..300 {
        cache.insert(key, vec![0; 64 << 10]).unwrap();
    }
    let held = tenant.budget().try_reserve(40 * MIB).unwrap();
    let event = monitor.check().unwrap().expect("58 of 64 MiB are pressure");
    assert_eq!((event.from, event.to), (PressureLevel::Normal, PressureLevel::High));
    assert_eq!(event.source, "process");
    // A cache does not give up everything at once; what it said that it gave is gone.
    assert!(event.given() > 5 * MIB, "{event}");
    assert!(memory.budget().used() <= 60 * MIB - event.given());
    for _ in 0..20 {
        clock.advance(Duration::from_secs(2));
        monitor.check().unwrap();
    }
    assert_eq!(monitor.level(), PressureLevel::Normal);
    let seen: Vec<_> = events.lock().unwrap().iter().map(|e| e.to).collect();
    assert_eq!((seen[0], seen[seen.len() - 1]), (PressureLevel::High, PressureLevel::Normal));
    drop(held);
}

#[test]
fn the_monitor_asks_again_when_pressure_rises_before_the_cool_down_has_ended() {
    let memory = memory();
    let tenant = borrower(&memory, "tenant");
    let clock = Arc::new(ManualClock::new());
    let mut monitor =
        memory.monitor().without_system().clock(Arc::clone(&clock) as _).build().unwrap();
    let cache = tenant.cache("pages", |_: &u64, page: &Vec<u8>| page.capacity()).unwrap();
    for key in 0..300 {
        cache.insert(key, vec![0; 64 << 10]).unwrap();
    }
    let some = tenant.budget().try_reserve(28 * MIB).unwrap();
    let event = monitor.check().unwrap().expect("47 of 64 MiB are pressure");
    assert!(event.to == PressureLevel::Elevated && event.given() > 0, "{event}");
    let more = tenant.budget().try_reserve(62 * MIB - memory.budget().used()).unwrap();
    clock.advance(Duration::from_millis(1));
    let event = monitor.check().unwrap().expect("62 of 64 MiB are more of it");
    assert_eq!((event.from, event.to), (PressureLevel::Elevated, PressureLevel::Critical));
    assert!(event.given() > 0, "{event}");
    drop((some, more));
}

#[test]
fn the_monitor_names_the_tenant_that_has_grown_most_and_books_the_process() {
    let memory = memory();
    let early = borrower(&memory, "early");
    let clock = Arc::new(ManualClock::new());
    let blamed = Arc::new(Mutex::new(vec![]));
    let log = Arc::clone(&blamed);
    let mut monitor = memory
        .monitor()
        .without_system()
        .clock(Arc::clone(&clock) as _)
        .on(
            PressureLevel::Elevated,
            PressureAction::blame(move |blame| log.lock().unwrap().push(blame.name.clone())),
        )
        .build()
        .unwrap();
    let late = borrower(&memory, "late");
    let gone = borrower(&memory, "gone");
    drop((gone.clone(), late.clone()));
    let of_early = early.budget().try_reserve(20 * MIB).unwrap();
    monitor.check().unwrap();
    drop(gone);
    clock.advance(std::time::Duration::from_millis(200));
    let of_late = late.budget().try_reserve(32 * MIB).unwrap();
    let event = monitor.check().unwrap().expect("52 of 64 MiB are pressure");
    let blame = event.blame.unwrap();
    assert_eq!((&*blame.name, blame.growth), ("late", 32 * MIB));
    assert_eq!(*blamed.lock().unwrap(), ["late"]);
    drop((of_early, of_late));

    // A tenant is let go of although monitors watch it, and its bytes are the process's again.
    let guaranteed = BudgetConfig::builder(ByteSize::mib(40)).build().unwrap();
    let before = memory.budget().committed();
    for _ in 0..3 {
        let tenant = memory.tenant("guaranteed", &guaranteed).unwrap();
        clock.advance(std::time::Duration::from_millis(200));
        monitor.check().unwrap();
        assert_eq!(memory.budget().committed(), before + 40 * MIB);
        drop(tenant);
        assert_eq!(memory.budget().committed(), before);
    }

    let held = memory.budget().try_reserve(5 * MIB).unwrap();
    match memory.monitor().build().unwrap().reconcile() {
        Ok(found) => assert_eq!(found.books, [("process".to_owned(), 5 * MIB)]),
        Err(why) => println!("skipped: {why}"),
    }
    drop(held);
}

#[test]
fn the_promise_of_a_guarantee_is_no_pressure() {
    let memory = memory();
    let limits = BudgetConfig::builder(ByteSize::mib(60)).build().unwrap();
    let _tenant = memory.tenant("tenant", &limits).unwrap();
    let mut monitor = memory.monitor().without_system().build().unwrap();
    assert!(monitor.check().unwrap().is_none());
    assert_eq!((monitor.level(), memory.budget().committed()), (PressureLevel::Normal, 60 * MIB));
}

#[test]
fn memory_and_tenants_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + 'static>() {}
    shared::<Memory>();
    shared::<Tenant>();
}
