//! The table, and the same as JSON lines.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::Row;

pub(super) fn print(rows: &[Row], json: bool) {
    if json {
        for row in rows {
            println!("{}", json_line(row));
        }
    } else {
        println!("{}\n", table(rows));
    }
}

impl Row {
    /// The peer with the smallest figure.
    fn best_peer(&self) -> Option<&(String, f64)> {
        self.peers.iter().min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Ours against the best peer.
    fn ratio(&self) -> Option<f64> {
        self.best_peer().map(|peer| self.ours / peer.1)
    }
}

/// A [`Row`] as it is written with `--json`.
#[derive(Debug, Serialize)]
struct JsonLine<'a> {
    area: &'a str,
    case: &'a str,
    unit: &'a str,
    ours: f64,
    peers: BTreeMap<&'a str, f64>,
    best_peer: Option<&'a str>,
    ratio: Option<f64>,
}

impl<'a> From<&'a Row> for JsonLine<'a> {
    fn from(row: &'a Row) -> Self {
        let round = |value: f64| (value * 1000.0).round() / 1000.0;
        Self {
            area: &row.area,
            case: &row.case,
            unit: &row.unit,
            ours: round(row.ours),
            peers: row.peers.iter().map(|peer| (peer.0.as_str(), round(peer.1))).collect(),
            best_peer: row.best_peer().map(|peer| peer.0.as_str()),
            ratio: row.ratio().filter(|ratio| ratio.is_finite()).map(round),
        }
    }
}

fn json_line(row: &Row) -> String {
    serde_json::to_string(&JsonLine::from(row)).expect("strings and numbers")
}

fn table(rows: &[Row]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flat_map(|row| &row.peers) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let spread = rows.iter().any(|row| row.spread.is_some());
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    let ends = ["best peer", "ratio"].into_iter().chain(spread.then_some("spread"));
    table.set_header(["case", "unit", "ours"].into_iter().chain(names.iter().copied()).chain(ends));
    for row in rows {
        let mut cells = vec![row.case.clone(), row.unit.clone(), number(row.ours)];
        for name in &names {
            let peer = row.peers.iter().find(|peer| peer.0 == *name);
            cells.push(peer.map_or("-".into(), |peer| number(peer.1)));
        }
        cells.push(row.best_peer().map_or("-".into(), |peer| peer.0.clone()));
        cells.push(row.ratio().map_or("-".into(), |ratio| format!("{ratio:.2}")));
        if spread {
            cells.push(row.spread.map_or("-".into(), |spread| format!("{:.0} %", spread * 100.0)));
        }
        table.add_row(cells);
    }
    for index in 2..table.column_count() {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// Three significant digits, or all of an integer.
fn number(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2}")
    } else if value < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(peers: &[(&str, f64)]) -> Row {
        Row {
            area: "core".into(),
            case: "block".into(),
            unit: "ns/op".into(),
            ours: 5.0,
            peers: peers.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            spread: Some(0.071),
        }
    }

    #[test]
    fn a_json_line_has_exactly_the_promised_keys() {
        assert_eq!(
            json_line(&row(&[("a", 10.0), ("b", 4.0)])),
            r#"{"area":"core","case":"block","unit":"ns/op","ours":5.0,"peers":{"a":10.0,"b":4.0},"best_peer":"b","ratio":1.25}"#
        );
        assert!(json_line(&row(&[])).ends_with(r#""peers":{},"best_peer":null,"ratio":null}"#));
    }

    #[test]
    fn the_table_has_a_column_for_every_peer() {
        let text = table(&[row(&[("a", 10.0)]), row(&[("b", 4.0)])]);
        for part in ["| case ", " ours ", " a ", " b ", "1.25", "0.50", "7 %", " - "] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }
}
