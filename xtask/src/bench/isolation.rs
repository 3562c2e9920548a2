//! What a noisy tenant costs another's hit ratio, in caches that are partitioned and in others.

use comfy_table::Table;
use serde::Serialize;

use super::{
    Programs,
    hit_ratio::{ENTRIES, FEW_ENTRIES, aligned, empty_table, json_line, rounded},
};
use crate::{Result, process::Cmd};

/// What `cargo xtask bench` calls it.
pub(super) const NAME: &str = "isolation";

pub(super) const ABOUT: &str = "hit ratio of a tenant beside a noisy one, in a partitioned cache \
                                and in shared ones";

#[derive(Debug, PartialEq, Serialize)]
struct Row {
    area: &'static str,
    noise: String,
    cache: String,
    requests: usize,
    /// Percent of the requests that were hits.
    hit_ratio: f64,
}

/// Counts and prints; only what has `text` in the name of the noise or of the cache.
pub(super) fn run(programs: &Programs, text: &str, quick: bool, json: bool) -> Result<()> {
    let entries = if quick { FEW_ENTRIES } else { ENTRIES };
    let cmd = Cmd::new(&programs.hit_ratio).arg("isolation").arg(entries.to_string());
    let mut rows = rows(&cmd.shown().output()?)?;
    rows.retain(|row| row.noise.contains(text) || row.cache.contains(text));
    if rows.is_empty() {
        return Err(format!("no noise and no cache has {text:?} in its name").into());
    }
    if json {
        for row in &rows {
            println!("{}", json_line(row));
        }
    } else {
        println!("{}", table(&rows));
    }
    Ok(())
}

fn rows(text: &str) -> Result<Vec<Row>> {
    let row = |line: &str| -> Result<Row> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [noise, cache, requests, hits] = *fields.as_slice() else {
            return Err(format!("not an outcome: {line:?}").into());
        };
        let number = |text: &str| text.parse::<usize>().map_err(|e| format!("{line:?}: {e}"));
        let (requests, hits) = (number(requests)?, number(hits)?);
        let hit_ratio = rounded(100.0 * hits as f64 / requests.max(1) as f64);
        Ok(Row { area: NAME, noise: noise.into(), cache: cache.into(), requests, hit_ratio })
    };
    text.lines().map(row).collect()
}

/// A row for each cache, a column for each noise.
fn table(rows: &[Row]) -> Table {
    let (mut noises, mut caches): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for row in rows {
        for (list, name) in [(&mut noises, &row.noise), (&mut caches, &row.cache)] {
            if !list.contains(&name.as_str()) {
                list.push(name);
            }
        }
    }
    let mut table = empty_table();
    table.set_header(["hit ratio beside"].iter().chain(&noises));
    for cache in caches {
        let figure = |noise: &&str| {
            let of = |row: &&Row| row.cache == cache && row.noise == **noise;
            rows.iter().find(of).map_or("-".into(), |row| format!("{:.2}", row.hit_ratio))
        };
        table.add_row([cache.to_owned()].into_iter().chain(noises.iter().map(figure)));
    }
    aligned(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noises_are_columns_and_caches_rows() {
        let rows = rows("scan\tshared\t200\t100\nloop\tshared\t200\t50\nscan\talone\t200\t3\n");
        let rows = rows.unwrap();
        assert_eq!(
            json_line(&rows[0]),
            r#"{"area":"isolation","noise":"scan","cache":"shared","requests":200,"hit_ratio":50.0}"#
        );
        let table = table(&rows).to_string();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].contains("scan") && lines[0].contains("loop"));
        assert!(lines[2].contains("50.00") && lines[2].contains("25.00"));
        assert!(lines[3].contains("1.50") && lines[3].contains('-'));
        assert!(super::rows("scan\tshared\t200\n").is_err());
    }
}
