//! Measures the time of every contender with criterion.
//!
//! Identifiers are `AREA/CASE/CONTENDER/ROUND`; criterion's filter chooses among them. Contenders
//! of a case take turns: each is measured once per round, in an order that rotates from round to
//! round, so that a slow spell of the machine does not fall on one of them alone.
//! `NEBULA_BENCH_ROUNDS` sets the number of rounds (3).

use criterion::{BenchmarkId, Criterion, SamplingMode};
use nebula_benches::areas::AREAS;

fn main() {
    let rounds = std::env::var("NEBULA_BENCH_ROUNDS")
        .ok()
        .map_or(3, |rounds| rounds.parse::<usize>().expect("NEBULA_BENCH_ROUNDS is a number"));
    let mut criterion = Criterion::default().configure_from_args();
    for area in AREAS {
        for case in (area.cases)() {
            let mut group = criterion.benchmark_group(format!("{}/{}", area.name, case.name));
            // Every sample has the same number of iterations, so that their median means something.
            group.sampling_mode(SamplingMode::Flat);
            let contenders: Vec<_> = case.contenders().collect();
            for round in 0..rounds {
                for turn in 0..contenders.len() {
                    let contender = contenders[(round + turn) % contenders.len()];
                    group.bench_function(BenchmarkId::new(contender.name, round), |bencher| {
                        bencher.iter_custom(&contender.run);
                    });
                }
            }
            group.finish();
        }
    }
    criterion.final_summary();
}
