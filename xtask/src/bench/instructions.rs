//! Instructions, counted by valgrind's callgrind.
//!
//! A contender runs N and then 2N times; the difference is what N iterations cost, without start-up,
//! preparation and the clock.

use super::{Line, Programs, Row, by_case};
use crate::{
    Result,
    process::{Cmd, find_program},
};

pub(super) enum Counted {
    Rows(Vec<Row>),
    Skipped(String),
}

/// Counts the contenders of the cases of one thread; `times` tells how many iterations are enough.
pub(super) fn count(programs: &Programs, lines: &[Line], times: &[Row]) -> Result<Counted> {
    if find_program("valgrind").is_none() {
        return Ok(Counted::Skipped("valgrind is not installed".into()));
    }
    let mut rows = Vec::new();
    for (case, time) in by_case(lines).zip(times) {
        if case.iter().any(|line| line.threads > 1) {
            eprintln!("instructions: skipped: {} runs on several threads", case[0].case);
            continue;
        }
        let mut figures = Vec::new();
        let each = std::iter::once(time.ours).chain(time.peers.iter().map(|peer| peer.1));
        for (line, nanoseconds) in case.iter().zip(each) {
            let n = iterations(nanoseconds);
            eprintln!("instructions: {}, {} ({n} iterations)", line.case, line.contender);
            let once = callgrind(programs, line, n)?;
            let twice = callgrind(programs, line, 2 * n)?;
            figures.push((line.contender.clone(), twice.saturating_sub(once) as f64 / n as f64));
        }
        let (_, ours) = figures.remove(0);
        rows.push(Row {
            area: time.area.clone(),
            case: time.case.clone(),
            unit: time.unit.replacen("ns/", "instr/", 1),
            ours,
            peers: figures,
            spread: None,
        });
    }
    Ok(if rows.is_empty() {
        Counted::Skipped("no case of one thread".into())
    } else {
        Counted::Rows(rows)
    })
}

/// As many iterations as take about 5 ms, at most 65536: callgrind is fifty times slower. A difference
/// of exact counts needs no long run, but what is done now and then should be in it. A power of two,
/// so that batches divide it.
fn iterations(nanoseconds: f64) -> u64 {
    let mut n = 65536;
    while n > 1 && n as f64 * nanoseconds > 5e6 {
        n /= 2;
    }
    n
}

fn callgrind(programs: &Programs, line: &Line, n: u64) -> Result<u64> {
    let (succeeded, text) = Cmd::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(&programs.instructions)
        .args([&line.area, &line.case, &line.contender, &n.to_string()])
        .silent()?;
    match collected(&text) {
        Some(count) if succeeded => Ok(count),
        _ => Err(format!("callgrind on {}, {}:\n{text}", line.case, line.contender).into()),
    }
}

/// The number in callgrind's line `==1== Collected : 12345`.
fn collected(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("Collected :")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_what_callgrind_prints() {
        let text = "==7== Events    : Ir\n==7== Collected : 2345678\n==7== \n";
        assert_eq!(collected(text), Some(2_345_678));
        assert_eq!(collected("==7== Command: x"), None);
    }

    #[test]
    fn slow_work_is_repeated_less() {
        assert_eq!(iterations(3.0), 65536);
        assert_eq!(iterations(1e6), 4);
        assert_eq!(iterations(1e9), 1);
    }
}
