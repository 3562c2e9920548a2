//! Errors: small, named, with the numbers in them.

use std::{collections::HashSet, error::Error, sync::Arc, time::Duration};

use nebula_memory_core::{
    Align, ConfigFaults, Consumer, MemoryError, Refusal, RefusalDetails, Refused,
};

fn refusal(used: usize, limit: usize, peak: usize) -> Arc<Refusal> {
    let refusal = Refusal::new("root/acme");
    refusal.record(used, limit, peak);
    Arc::new(refusal)
}

/// One of each, with the code, whether it is retryable, and what its message must contain.
fn samples() -> Vec<(MemoryError, &'static str, bool, Vec<&'static str>)> {
    let out_of_memory = std::alloc::Layout::from_size_align(100, 32).unwrap();
    vec![
        (
            MemoryError::invalid_config("cache.capacity", 0, "must be above zero"),
            "invalid_config",
            false,
            vec!["cache.capacity", "0", "must be above zero"],
        ),
        (
            MemoryError::InvalidLayout { size: 77, align: 3 },
            "invalid_layout",
            false,
            vec!["77", "3"],
        ),
        (
            MemoryError::CapacityExceeded { requested: 512, available: 24, align: Align::new(64) },
            "capacity_exceeded",
            false,
            vec!["512", "24", "64"],
        ),
        (
            MemoryError::PoolExhausted { in_use: 7, capacity: 9 },
            "pool_exhausted",
            true,
            vec!["7 of 9"],
        ),
        (
            MemoryError::BudgetExceeded { requested: 300, refusal: refusal(800, 900, 850) },
            "budget_exceeded",
            true,
            vec!["300", "800", "900", "850", "root/acme"],
        ),
        // As much as the limit may be free one day, more never will.
        (
            MemoryError::BudgetExceeded { requested: 900, refusal: refusal(1, 900, 1) },
            "budget_exceeded",
            true,
            vec!["900"],
        ),
        (
            MemoryError::BudgetExceeded { requested: 901, refusal: refusal(0, 900, 0) },
            "budget_exceeded",
            false,
            vec!["901", "900"],
        ),
        (
            MemoryError::Throttled { requested: 600, largest: 100 },
            "throttled",
            true,
            vec!["600", "100"],
        ),
        (
            MemoryError::LowPriority { requested: 700, priority: 20, least: 99 },
            "low_priority",
            true,
            vec!["700", "20", "99"],
        ),
        (MemoryError::NotTopOfStack { distance: 48 }, "not_top_of_stack", false, vec!["48"]),
        (
            MemoryError::Timeout { waited: Duration::from_millis(250) },
            "timeout",
            true,
            vec!["250ms"],
        ),
        (MemoryError::Closed { what: "the pool" }, "closed", false, vec!["the pool"]),
        (MemoryError::LiveChildren("a, b".into()), "live_children", true, vec!["a, b"]),
        (MemoryError::Reentrant { what: "the cache" }, "reentrant", false, vec!["the cache"]),
        (MemoryError::out_of_memory(out_of_memory), "out_of_memory", true, vec!["100", "32"]),
        (
            MemoryError::source_unavailable("cgroup v2", "no such file"),
            "source_unavailable",
            true,
            vec!["cgroup v2", "no such file"],
        ),
    ]
}

#[test]
#[cfg(target_pointer_width = "64")]
fn an_error_fits_in_24_bytes() {
    assert!(size_of::<MemoryError>() <= 24, "{} bytes", size_of::<MemoryError>());
    assert!(size_of::<Result<(), MemoryError>>() <= 24);
}

#[test]
fn errors_cross_threads_and_outlive_their_makers() {
    fn assert_all<T: Send + Sync + Error + Clone + 'static>() {}
    assert_all::<MemoryError>();
}

#[test]
fn messages_carry_the_numbers() {
    for (error, code, _, parts) in samples() {
        let message = error.to_string();
        for part in parts {
            assert!(message.contains(part), "`{part}` is missing in {code}: {message}");
        }
        assert!(message.starts_with(char::is_lowercase), "{message}");
    }
}

#[test]
fn codes_are_stable_and_unique() {
    let mut seen = HashSet::new();
    for (error, code, ..) in samples() {
        assert_eq!(error.code(), code);
        seen.insert(code);
        assert!(code.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{code}");
    }
    // One variant appears three times, retryable and not.
    assert_eq!(seen.len(), samples().len() - 2);
}

#[test]
fn what_others_can_mend_is_retryable() {
    for (error, code, retryable, _) in samples() {
        assert_eq!(error.is_retryable(), retryable, "{code}");
    }
}

#[test]
fn alignments_are_kept_exactly() {
    for shift in 0..usize::BITS {
        assert_eq!(Align::new(1 << shift).get(), 1 << shift);
    }
    assert_eq!((Align::new(0), Align::ONE.get()), (Align::ONE, 1));
    assert_eq!(Align::new(24).get(), 8);
    assert!(Align::new(8) < Align::new(16));
    assert_eq!(
        (format!("{}", Align::new(16)), format!("{:?}", Align::new(16))),
        ("16".into(), "16".into())
    );
}

#[test]
fn a_standing_refusal_shows_the_latest_figures_and_a_frozen_one_does_not() {
    let standing = refusal(10, 20, 15);
    let error = MemoryError::BudgetExceeded { requested: 11, refusal: Arc::clone(&standing) };
    let details = RefusalDetails {
        charged: "root/acme/query".into(),
        charged_bytes: Some(7),
        consumers: vec![Consumer { name: "cache".into(), used: 8, limit: 9 }],
        advice: "shrink the cache",
    };
    let frozen = standing.frozen(details.clone());
    standing.record(500, 600, 550);
    assert!(error.to_string().contains("500"), "{error}");
    assert_eq!((frozen.used(), frozen.limit(), frozen.peak()), (10, 20, 15));
    assert_eq!((frozen.path(), frozen.details()), ("root/acme", Some(&details)));
    assert_eq!(standing.details(), None);
    let message = frozen.to_string();
    for part in ["root/acme/query", "7 B of it charged", "`cache` 8 B of 9 B", "shrink the cache"] {
        assert!(message.contains(part), "`{part}` is missing: {message}");
    }
}

#[test]
fn sizes_in_messages_are_exact() {
    let error = |requested| MemoryError::CapacityExceeded {
        requested,
        available: 1 << 20,
        align: Align::ONE,
    };
    let message = error((1 << 20) + 1).to_string();
    assert!(message.contains("1.0 MiB (1048577 B) requested"), "{message}");
    assert!(message.contains(", 1.0 MiB available"), "{message}");
    assert!(error(3 << 20).to_string().contains("3.0 MiB requested"));
    assert!(error(0).to_string().contains("0 B requested"));
    assert!(error(usize::MAX).to_string().contains(&format!("({} B)", usize::MAX)));
}

#[test]
fn a_deadlock_names_the_budget_and_can_be_retried() {
    let error = MemoryError::Deadlock { requested: 11, refusal: refusal(10, 20, 15) };
    assert_eq!((error.code(), error.is_retryable()), ("deadlock", true));
    let message = error.to_string();
    for part in ["11 B waited for", "`root/acme`", "give back"] {
        assert!(message.contains(part), "`{part}` is missing: {message}");
    }
}

#[test]
fn a_refusal_charged_directly_does_not_repeat_the_path() {
    let details = RefusalDetails { charged: "root/acme".into(), ..RefusalDetails::default() };
    let message = refusal(1, 2, 1).frozen(details).to_string();
    assert_eq!(message.matches("root/acme").count(), 1, "{message}");
    assert!(!message.contains("consumers") && !message.ends_with("; "), "{message}");
}

#[test]
fn all_faults_of_a_configuration_are_reported() {
    let mut faults = ConfigFaults::new();
    faults.check(true, "good", 1, "is never mentioned");
    assert!(faults.clone().into_result().is_ok());
    faults.check(false, "low", 5, "must be below `high`");
    faults.add("name", "", "must not be empty");
    let error = faults.into_result().unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid configuration: low = 5: must be below `high`; name = : must not be empty"
    );
}

#[test]
fn nested_faults_carry_the_path_to_them() {
    let inner = || {
        let mut faults = ConfigFaults::new();
        faults.add("capacity", 0, "must be above zero");
        faults.add("ttl", "0s", "must be above zero");
        faults.into_result()
    };
    let middle = || {
        let mut faults = ConfigFaults::new();
        faults.nest("cache", inner());
        faults.into_result()
    };
    let mut faults = ConfigFaults::new();
    faults.nest("fine", Ok(()));
    faults.nest("memory", middle());
    faults.nest("source", Err(MemoryError::Closed { what: "monitor" }));
    let paths: Vec<&str> = faults.as_slice().iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(paths, ["memory.cache.capacity", "memory.cache.ttl", "source"]);
    assert!(faults.as_slice()[2].value.contains("monitor"));
}

#[test]
fn a_refused_value_is_kept_until_it_is_taken() {
    let refused = Refused::new(vec![1, 2], MemoryError::Closed { what: "shelf" });
    assert_eq!(refused.to_string(), "shelf is closed; it serves no new requests");
    assert!(refused.source().is_some());
    let refused = refused.map(|values| values.len());
    assert_eq!(refused.clone().into_value(), 2);
    assert_eq!(refused.clone().into_error().code(), "closed");
    assert_eq!(MemoryError::from(refused).code(), "closed");
}

#[test]
fn a_refused_value_needs_no_debug_of_its_own() {
    struct Opaque;
    let refused = Refused::new(Opaque, MemoryError::Closed { what: "shelf" });
    assert!(format!("{refused:?}").contains("shelf"));
}
