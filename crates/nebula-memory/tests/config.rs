//! One configuration for everything: every field has an effect, every fault is reported.
#![cfg(all(
    feature = "allocators",
    feature = "arena",
    feature = "budget",
    feature = "cache",
    feature = "monitor",
    feature = "pool"
))]

use std::time::Duration;

use nebula_memory::{
    Memory, MemoryConfig, StatsConfig,
    alloc::{AllocatorChoice, AllocatorConfig},
    arena::ArenaConfig,
    budget::BudgetConfig,
    cache::{CacheConfig, Capacity},
    core::{ByteSize, MemoryError, StatisticsProvider, TypedAllocator},
    monitor::MonitoringConfig,
    pool::PoolConfig,
};

const MIB: usize = 1 << 20;

fn process(mib: usize) -> BudgetConfig {
    BudgetConfig::builder(ByteSize::mib(mib)).build().unwrap()
}

fn paths(error: &MemoryError) -> Vec<&str> {
    let MemoryError::InvalidConfig(faults) = error else { panic!("{error}") };
    faults.as_slice().iter().map(|fault| &fault.path[..]).collect()
}

#[test]
fn only_the_capacity_has_no_default() {
    let error = MemoryConfig::default().validate().unwrap_err();
    assert_eq!(paths(&error), ["budget.capacity"]);
    assert!(Memory::new(MemoryConfig::default()).is_err());
    MemoryConfig::builder().budget(process(1)).build().unwrap();
}

#[test]
fn every_fault_of_every_part_is_reported_with_its_path() {
    let mut config = MemoryConfig::default();
    config.allocator.kind = AllocatorChoice::Bump;
    config.pool.capacity = 0;
    config.arena.chunk_size = ByteSize::new(1);
    config.cache.capacity = Capacity::Bytes(ByteSize::ZERO);
    config.cache.shards = Some(3);
    config.budget.guaranteed = Some(ByteSize::new(5));
    config.monitoring.high = 0.1;
    config.monitoring.interval = Duration::ZERO;
    let error = Memory::new(config).unwrap_err();
    let paths = paths(&error);
    for path in [
        "allocator.capacity",
        "pool.capacity",
        "arena.chunk_size",
        "cache.capacity",
        "cache.shards",
        "budget.capacity",
        "budget.guaranteed",
        "monitoring.high",
        "monitoring.interval",
    ] {
        assert!(paths.contains(&path), "{path} is missing in {paths:?}");
    }
    assert!(error.to_string().contains("cache.shards = 3: must be a power of two"), "{error}");
}

/// A memory of 64 MiB, and a tenant that may have all of it.
fn tenant(config: MemoryConfig) -> (Memory, nebula_memory::Tenant) {
    let memory = Memory::new(config).unwrap();
    let limits = BudgetConfig::builder(memory.config().budget.capacity);
    let limits = limits.guaranteed(ByteSize::ZERO).build().unwrap();
    let tenant = memory.tenant("acme", &limits).unwrap();
    (memory, tenant)
}

#[test]
fn every_field_reaches_what_a_tenant_builds() {
    let region = AllocatorConfig::builder().kind(AllocatorChoice::Bump);
    let config = MemoryConfig::builder()
        .budget(process(64))
        .allocator(region.capacity(ByteSize::kib(64)).build().unwrap())
        .arena(ArenaConfig::builder().chunk_size(ByteSize::kib(16)).build().unwrap())
        .pool(PoolConfig::builder().capacity(3).build().unwrap())
        .cache(CacheConfig::builder().bytes(ByteSize::kib(512)).build().unwrap())
        .stats(StatsConfig { track_tenants: true })
        .monitoring(MonitoringConfig::builder().thresholds(0.2, 0.3, 0.4).build().unwrap())
        .build()
        .unwrap();
    let (memory, tenant) = tenant(config);
    assert_eq!(memory.budget().capacity(), 64 * MIB);

    let allocator = tenant.allocator("scratch").unwrap();
    assert!(allocator.try_new_slice(65 << 10, |_| 0_u8).is_err());
    assert_eq!(tenant.budget().used(), 64 << 10);
    let list = memory.allocators().list();
    assert_eq!((list.len(), &*list[0].name), (1, "acme/scratch"));
    drop(allocator);
    assert!(memory.allocators().list().is_empty());

    let arena = tenant.arena().unwrap();
    arena.alloc(1_u64);
    assert_eq!(tenant.budget().used(), 16 << 10);
    drop(arena);

    let pool = tenant.pool("objects", || Ok(Vec::<u8>::new())).unwrap();
    assert_eq!(pool.capacity(), 3);
    drop(pool);

    let cache = tenant.cache("answers", |_: &u64, value: &Vec<u8>| value.capacity()).unwrap();
    assert_eq!(cache.capacity(), Capacity::Bytes(ByteSize::kib(512)));
    drop(cache);
    assert_eq!(memory.budget().used(), 0);
}

#[test]
fn tenants_allocators_are_not_tracked_unless_asked() {
    let (memory, tenant) = tenant(MemoryConfig::builder().budget(process(64)).build().unwrap());
    let allocator = tenant.allocator("scratch").unwrap();
    assert!(allocator.statistics().is_none() && memory.allocators().list().is_empty());
    let value = allocator.try_new([0_u8; 100]).unwrap();
    assert_eq!(tenant.budget().used(), 100);
    drop(value);
}

#[cfg(feature = "toml")]
#[test]
fn a_file_sets_every_part_and_unknown_keys_are_errors() {
    let config = MemoryConfig::from_toml(
        r#"
        [allocator]
        kind = "bump"
        capacity = "1MiB"
        [pool]
        capacity = 7
        [arena]
        chunk_size = "16KiB"
        growth = "fixed"
        [cache]
        capacity = "1MB"
        ttl = "5s"
        [budget]
        capacity = "256MiB"
        [stats]
        track_tenants = true
        [monitoring]
        elevated = 0.5
        interval = "1s 500ms"
        "#,
    )
    .unwrap();
    assert_eq!(config.allocator.capacity, ByteSize::mib(1));
    assert_eq!(
        (config.pool.capacity, config.cache.capacity),
        (7, Capacity::Bytes(ByteSize::new(1_000_000)))
    );
    assert_eq!(config.arena.chunk_size, ByteSize::kib(16));
    assert_eq!(config.budget, process(256));
    assert!(config.stats.track_tenants);
    assert_eq!(config.monitoring.interval, Duration::from_millis(1500));

    for (text, part) in [
        ("[budget]\ncapacity = \"256MiB\"\nsoft = 1", "soft"),
        ("[budgets]\ncapacity = \"256MiB\"", "budgets"),
        ("[budget]\ncapacity = \"many\"", "many"),
        ("[budget]\ncapacity = -1", "-1"),
        ("[budget]\ncapacity = \"256MiB\"\n[monitoring]\ninterval = \"soon\"", "soon"),
        ("[budget", "toml"),
    ] {
        let error = MemoryConfig::from_toml(text).unwrap_err();
        assert_eq!(error.code(), "invalid_config");
        assert!(error.to_string().contains(part), "{part} is missing in: {error}");
    }
    let error = MemoryConfig::from_toml("[pool]\ncapacity = 0").unwrap_err();
    assert_eq!(paths(&error), ["pool.capacity", "budget.capacity"]);
}

#[cfg(feature = "serde")]
#[test]
fn a_configuration_survives_a_round_trip() {
    let config = MemoryConfig::builder().budget(process(3)).build().unwrap();
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<MemoryConfig>(&text).unwrap(), config);
}
