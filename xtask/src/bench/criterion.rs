//! Times: runs the criterion harness and reads what it wrote.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use serde::Deserialize;

use super::{Line, Programs, Row, by_case};
use crate::{Result, process::Cmd, workspace::Workspace};

/// Measures the contenders in `lines`, all of one area.
pub(super) fn measure(
    workspace: &Workspace,
    programs: &Programs,
    lines: &[Line],
    quick: bool,
) -> Result<Vec<Row>> {
    let home = workspace.target().join("criterion");
    let cases: Vec<&str> = by_case(lines).map(|case| case[0].case.as_str()).collect();
    let filter = format!(
        "^{}/({})/",
        escape(&lines[0].area),
        cases.iter().map(|case| escape(case)).collect::<Vec<_>>().join("|")
    );
    let (rounds, warm_up, measurement, samples) =
        if quick { (2, "0.1", "0.3", "10") } else { (3, "0.5", "2", "30") };
    // A coarse file system clock may be a little behind.
    let start = SystemTime::now() - Duration::from_secs(2);
    Cmd::new(&programs.areas)
        .env("CRITERION_HOME", &home)
        .env("NEBULA_BENCH_ROUNDS", rounds.to_string())
        .args(["--bench", "--noplot", "--warm-up-time", warm_up, "--measurement-time", measurement])
        .args(["--sample-size", samples, &filter])
        .stdout_to_stderr()
        .run()?;
    let mut medians = HashMap::new();
    collect(&home, start, &mut medians)?;
    by_case(lines).map(|case| row(case, &medians)).collect()
}

/// Group, function, and the medians of its rounds.
type Medians = HashMap<(String, String), Vec<f64>>;

#[derive(Debug, Deserialize)]
struct Benchmark {
    group_id: String,
    function_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Debug, Deserialize)]
struct Estimate {
    point_estimate: f64,
}

/// Reads every `new/benchmark.json` below `dir` that was written since `start`, with the
/// `estimates.json` beside it.
fn collect(dir: &Path, start: SystemTime, medians: &mut Medians) -> Result<()> {
    let told = |e: &dyn std::fmt::Display| format!("{}: {e}", dir.display());
    for entry in fs::read_dir(dir).map_err(|e| told(&e))? {
        let path = entry.map_err(|e| told(&e))?.path();
        if !path.is_dir() {
            continue;
        }
        let file = path.join("benchmark.json");
        if !path.ends_with("new") {
            collect(&path, start, medians)?;
        } else if fs::metadata(&file).and_then(|m| m.modified()).is_ok_and(|time| time >= start) {
            let benchmark: Benchmark = read(&file)?;
            let estimates: Estimates = read(&path.join("estimates.json"))?;
            medians
                .entry((benchmark.group_id, benchmark.function_id.unwrap_or_default()))
                .or_default()
                .push(estimates.median.point_estimate);
        }
    }
    Ok(())
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?)
}

/// The round that counts. Of one thread it is the best: whatever else runs on the machine only ever
/// adds time. Of several it is the middle one (the slower of two): when something else has a
/// processor, threads run one after the other and don't get in each other's way, which is quicker
/// than the contention that is to be measured.
fn representative(threads: usize, rounds: &[f64]) -> f64 {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = if threads > 1 { sorted.len() / 2 } else { 0 };
    sorted.get(index).copied().unwrap_or(f64::INFINITY)
}

/// A figure for each contender of a case.
fn row(case: &[Line], medians: &Medians) -> Result<Row> {
    let mut figures = Vec::new();
    let mut spread = 0.0_f64;
    for line in case {
        let key = (format!("{}/{}", line.area, line.case), line.contender.clone());
        let rounds =
            medians.get(&key).ok_or(format!("criterion measured no {}, {}", key.0, key.1))?;
        let best = rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let worst = rounds.iter().copied().fold(0.0, f64::max);
        spread = spread.max(worst / best - 1.0);
        figures.push((line.contender.clone(), representative(line.threads, rounds)));
    }
    let (_, ours) = figures.remove(0);
    Ok(Row {
        area: case[0].area.clone(),
        case: case[0].case.clone(),
        unit: case[0].unit.clone(),
        ours,
        peers: figures,
        spread: Some(spread),
    })
}

/// `text` as a regular expression that matches it.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if r"\.+*?()|[]{}^$#&-~".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, contender: &str, round: usize, median: f64) {
        let dir = dir.join("core_block").join(contender).join(round.to_string()).join("new");
        fs::create_dir_all(&dir).unwrap();
        let id = format!(
            r#"{{"group_id":"core/block","function_id":"{contender}","value_str":"{round}"}}"#
        );
        fs::write(dir.join("benchmark.json"), id).unwrap();
        let estimates = format!(r#"{{"median":{{"point_estimate":{median}}},"mean":null}}"#);
        fs::write(dir.join("estimates.json"), estimates).unwrap();
    }

    fn line(contender: &str) -> Line {
        Line {
            area: "core".into(),
            case: "block".into(),
            unit: "ns/op".into(),
            threads: 1,
            contender: contender.into(),
        }
    }

    #[test]
    fn the_best_round_counts_and_the_spread_is_told() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "ours", 0, 10.0);
        write(dir.path(), "ours", 1, 15.0);
        write(dir.path(), "peer", 0, 9.0);
        write(dir.path(), "peer", 1, 8.0);
        let mut medians = Medians::new();
        collect(dir.path(), SystemTime::UNIX_EPOCH, &mut medians).unwrap();
        let row = row(&[line("ours"), line("peer")], &medians).unwrap();
        assert_eq!((row.ours, row.peers), (10.0, vec![("peer".to_owned(), 8.0)]));
        assert!((row.spread.unwrap() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn of_several_threads_the_middle_round_counts() {
        let is = |threads, rounds: &[f64], expected: f64| {
            assert!((representative(threads, rounds) - expected).abs() < 1e-9, "{rounds:?}");
        };
        is(1, &[9.0, 3.0, 5.0], 3.0);
        is(2, &[9.0, 3.0, 5.0], 5.0);
        is(2, &[3.0, 9.0], 9.0);
        is(2, &[9.0], 9.0);
    }

    #[test]
    fn figures_of_an_earlier_run_are_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "ours", 0, 10.0);
        let mut medians = Medians::new();
        let later = SystemTime::now() + Duration::from_mins(1);
        collect(dir.path(), later, &mut medians).unwrap();
        let error = row(&[line("ours")], &medians).unwrap_err();
        assert!(error.to_string().contains("core/block"), "{error}");
    }

    #[test]
    fn names_with_special_characters_are_matched_as_they_are() {
        assert_eq!(escape("a.b (1-256 B)"), r"a\.b \(1\-256 B\)");
    }
}
