//! Hit ratios: every policy of ours and the peers on the same requests, beside LRU and the optimum.
//!
//! A request is a lookup, and after a miss an insertion. Every cache has room for the same number of
//! entries, one shard unless it says otherwise, and the same hash function, seeded; one thread does
//! all requests in order. So two runs agree to the last hit; but the number of shards that ours have
//! by default depends on the machine's processors.

mod caches;
mod isolation;
mod plain;
mod published;
mod traces;

use std::{
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread::available_parallelism,
};

pub use self::{
    caches::{Contender, contenders},
    isolation::{Beside, isolation},
    plain::{lru, optimum},
    published::published,
    traces::{Trace, generated, read_all, read_keys},
};

/// One contender on one trace with one capacity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The trace.
    pub trace: String,
    /// Its requests.
    pub requests: usize,
    /// Its different keys.
    pub keys: usize,
    /// Room in the cache, in entries.
    pub entries: usize,
    /// Who did it.
    pub contender: &'static str,
    /// Requests that found their key.
    pub hits: usize,
}

/// Has every contender do every trace with each of its capacities, on half of the processors. The
/// outcomes are in the order of traces, capacities and contenders.
#[must_use]
pub fn run(traces: &[Trace], contenders: &[Contender]) -> Vec<Outcome> {
    let mut work = Vec::new();
    for trace in traces {
        for &entries in &trace.capacities {
            work.extend(contenders.iter().map(|contender| (trace, entries, contender)));
        }
    }
    let threads = available_parallelism().map_or(1, NonZero::get).div_ceil(2);
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut outcomes = Vec::new();
        loop {
            let at = next.fetch_add(1, Relaxed);
            let Some(&(trace, entries, contender)) = work.get(at) else { return outcomes };
            let outcome = Outcome {
                trace: trace.name.clone(),
                requests: trace.requests.len(),
                keys: trace.keys,
                entries,
                contender: contender.name,
                hits: (contender.hits)(trace, entries),
            };
            outcomes.push((at, outcome));
        }
    };
    let mut outcomes: Vec<(usize, Outcome)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    outcomes.sort_unstable_by_key(|&(at, _)| at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits<'o>(outcomes: &'o [Outcome], contender: &str) -> impl Iterator<Item = &'o Outcome> {
        let contender = contender.to_owned();
        outcomes.iter().filter(move |outcome| outcome.contender == contender)
    }

    #[test]
    fn all_contenders_do_all_generated_traces() {
        let (traces, contenders) = (generated(40), contenders());
        let outcomes = run(&traces, &contenders);
        assert_eq!(outcomes.len(), traces.len() * contenders.len());
        for optimum in hits(&outcomes, "OPT") {
            for other in outcomes.iter().filter(|other| other.trace == optimum.trace) {
                assert!(other.hits <= optimum.hits, "{other:?} beats {optimum:?}");
            }
        }
        // Ours is LRU to the hit.
        for (plain, ours) in hits(&outcomes, "LRU").zip(hits(&outcomes, "Lru")) {
            assert_eq!((&plain.trace, plain.hits), (&ours.trace, ours.hits));
        }
    }
}
