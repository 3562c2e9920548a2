//! The areas. A new one is a `pub mod` and a line of [`AREAS`], both in alphabetical order.

use crate::Area;

pub mod alloc;
pub mod arena;
pub mod budget;
pub mod cache;
pub mod core;
#[cfg(feature = "mimalloc")]
mod mi;
pub mod monitor;
pub mod pool;

/// Every area.
pub const AREAS: &[Area] = &[
    // One a line.
    Area::new("alloc", "a bump region beside bumpalo, and what counting costs", alloc::cases),
    Area::new("arena", "values, vectors, scopes, JSON, Drop, threads, streams", arena::cases)
        .footprints(arena::footprints),
    Area::new("budget", "charges to trees of budgets, alone and from two threads", budget::cases)
        .footprints(budget::footprints),
    Area::new("cache", "hits, evictions, get or insert; many threads and one", cache::cases)
        .footprints(cache::footprints),
    Area::new("core", "accounting nobody asked for, charges, striped counters", core::cases),
    Area::new("monitor", "readings of memory limits, and a check of all of them", monitor::cases),
    Area::new("pool", "object pools: get and return, alone and from two threads", pool::cases),
];
