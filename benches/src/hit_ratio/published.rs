//! Hit ratios that others have published, for traces that they have published too.

use super::{Contender, Outcome, Trace, contenders, run};

/// What was published of a trace: of a policy of ours by its name, in percent, for each capacity.
struct Published {
    trace: &'static str,
    contender: &'static str,
    percent: [(usize, f64); 4],
}

/// One hour of a CODASYL database (Megiddo and Modha, "ARC: A Self-Tuning, Low Overhead Replacement
/// Cache", FAST 2003).
const PUBLISHED: [Published; 2] = [
    Published {
        trace: "arc-oltp",
        contender: "Lru",
        percent: [(1000, 32.83), (2000, 42.47), (5000, 53.65), (10_000, 60.70)],
    },
    Published {
        trace: "arc-oltp",
        contender: "Arc",
        percent: [(1000, 39.06), (2000, 46.17), (5000, 55.12), (10_000, 61.92)],
    },
];

/// Has ours do those of `traces` of which something was published. What they did, and how many
/// percent of hits were published.
#[must_use]
pub fn published(traces: &[Trace]) -> Vec<(Outcome, f64)> {
    published_by(&PUBLISHED, traces)
}

fn published_by(published: &[Published], traces: &[Trace]) -> Vec<(Outcome, f64)> {
    let ours = contenders();
    let mut all = Vec::new();
    for published in published {
        let named = |contender: &&Contender| contender.name == published.contender;
        let contender: Vec<Contender> = ours.iter().filter(named).copied().collect();
        for trace in traces.iter().filter(|trace| trace.name == published.trace) {
            let capacities = published.percent.map(|(entries, _)| entries).to_vec();
            let outcomes = run(&[Trace { capacities, ..trace.clone() }], &contender);
            all.extend(outcomes.into_iter().zip(published.percent.map(|(_, percent)| percent)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hit_ratio::generated;

    #[test]
    fn ours_does_what_was_published_and_nothing_else() {
        let traces = generated(20);
        let percent = [(10, 1.0), (20, 2.0), (40, 3.0), (80, 4.0)];
        let of = |trace, contender| Published { trace, contender, percent };
        let both = [of("uniform", "Lru"), of("loop 0.5x", "Arc"), of("elsewhere", "Arc")];
        let done = published_by(&both, &traces);
        let done: Vec<(&str, &str, usize, f64)> = done
            .iter()
            .map(|(o, percent)| (o.trace.as_str(), o.contender, o.entries, *percent))
            .collect();
        let of = |trace, contender| percent.map(|(entries, p)| (trace, contender, entries, p));
        assert_eq!(done, [of("uniform", "Lru"), of("loop 0.5x", "Arc")].concat());
        assert!(published(&traces).is_empty());
    }
}
