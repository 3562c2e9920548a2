//! Bytes: what the things of an area weigh.
//!
//! The benches count what the global allocator hands out, in a program of its own: exact numbers,
//! the same on every run unless a randomly seeded table decides.

use super::{Line, Programs, Row, by_case};
use crate::{Result, process::Cmd};

/// Weighs all of `area`, where there is something to weigh.
pub(super) fn weigh(programs: &Programs, area: &str) -> Result<Vec<Row>> {
    rows(&Cmd::new(&programs.footprint).arg(area).output()?)
}

/// A line for each contender, ours first: area, case, unit, contender and bytes.
fn rows(text: &str) -> Result<Vec<Row>> {
    let (mut lines, mut figures) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [area, case, unit, contender, bytes] = *fields.as_slice() else {
            return Err(format!("not a weight: {line:?}").into());
        };
        figures.push(bytes.parse::<f64>().map_err(|e| format!("{line:?}: {e}"))?);
        lines.push(Line {
            area: area.into(),
            case: case.into(),
            unit: unit.into(),
            threads: 1,
            contender: contender.into(),
        });
    }
    let mut figures = figures.into_iter();
    let row = |case: &[Line]| {
        let names = case.iter().map(|line| line.contender.clone());
        let mut figures = names.zip(&mut figures);
        let (_, ours) = figures.next()?;
        Some(Row {
            area: case[0].area.clone(),
            case: case[0].case.clone(),
            unit: case[0].unit.clone(),
            ours,
            peers: figures.collect(),
            spread: None,
        })
    };
    Ok(by_case(&lines).filter_map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read_back_as_rows() {
        let text = "budget\ta child\tB/child\tours\t96.5\nbudget\ta child\tB/child\tpeer\t32\n\
                    budget\tmany\tB/child\tours\t80\n";
        let rows = rows(text).unwrap();
        assert_eq!(rows.len(), 2);
        assert!((rows[0].ours - 96.5).abs() < 1e-9);
        assert_eq!(
            (rows[0].unit.as_str(), rows[0].peers.as_slice()),
            ("B/child", &[("peer".to_owned(), 32.0)][..])
        );
        assert_eq!((rows[1].case.as_str(), rows[1].peers.len()), ("many", 0));
    }

    #[test]
    fn what_is_no_weight_is_an_error() {
        assert!(rows("").unwrap().is_empty());
        assert!(rows("budget\ta child\tB/child\tours\n").is_err());
        assert!(rows("budget\ta child\tB/child\tours\tmuch\n").is_err());
    }
}
