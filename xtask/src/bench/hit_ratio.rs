//! Hit ratios: every policy of ours, the peers, LRU and the optimum, on generated traces and on
//! those of a folder.

use std::{collections::BTreeMap, path::Path};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::Programs;
use crate::{Result, process::Cmd};

/// What `cargo xtask bench` calls it.
pub(super) const NAME: &str = "hit-ratio";

pub(super) const ABOUT: &str = "hit ratios of nebula-cache's policies and of quick_cache, moka and \
                                foyer-memory, on traces (own ones: --traces DIR)";

/// Capacity for the generated traces, and the one for `--quick`.
pub(super) const ENTRIES: usize = 4096;
pub(super) const FEW_ENTRIES: usize = 512;

/// Where the optimum is not so many points above LRU, there is no gap worth the name.
const GAP: f64 = 0.5;

/// Fewer points below LRU than this are not worth mentioning.
const DEFICIT: f64 = 0.5;

/// How many points ours may be off what was published of the same trace, policy and capacity.
const NEAR: f64 = 0.2;

/// A cache on a trace with a capacity: a line of the table.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    area: &'static str,
    source: String,
    trace: String,
    requests: usize,
    keys: usize,
    entries: usize,
    /// Percent of requests that were hits.
    hit_ratio: BTreeMap<String, f64>,
    #[serde(skip)]
    contenders: Vec<String>,
}

impl Row {
    fn of(&self, contender: &str) -> f64 {
        self.hit_ratio.get(contender).copied().unwrap_or(f64::NAN)
    }

    fn name(&self) -> String {
        format!("{}, {}", self.trace, self.entries)
    }
}

/// What became of a contender over all rows.
#[derive(Debug, PartialEq, Serialize)]
struct Summary {
    area: &'static str,
    source: String,
    contender: String,
    mean: f64,
    /// Percent of the way from LRU to the optimum, where there is one; the mean of all rows.
    gap_closed: Option<f64>,
    /// Points below LRU, of all rows where they are more than a half.
    deficits: f64,
    worst_against_lru: f64,
    worst_at: String,
}

/// What was published, and what ours did.
#[derive(Debug, PartialEq, Serialize)]
struct Published {
    area: &'static str,
    trace: String,
    entries: usize,
    contender: String,
    /// In percent, as `hit_ratio`.
    expected: f64,
    hit_ratio: f64,
}

impl Published {
    fn is_near(&self) -> bool {
        (self.hit_ratio - self.expected).abs() <= NEAR
    }
}

/// Counts hits and prints them; traces of `folder` as well, and only those with `text` in their
/// names.
pub(super) fn run(
    programs: &Programs,
    folder: Option<&Path>,
    text: &str,
    quick: bool,
    json: bool,
) -> Result<()> {
    let entries = if quick { FEW_ENTRIES } else { ENTRIES };
    let cmd = Cmd::new(&programs.hit_ratio).arg(entries.to_string()).arg(text);
    let rows = rows(&folder.into_iter().fold(cmd, Cmd::arg).shown().output()?)?;
    if rows.is_empty() {
        return Err(format!("no trace has {text:?} in its name").into());
    }
    for rows in rows.chunk_by(|a, b| a.source == b.source) {
        let summaries = summaries(rows);
        if json {
            for row in rows {
                println!("{}", json_line(row));
            }
            for summary in &summaries {
                println!("{}", json_line(summary));
            }
        } else {
            println!("{}\n\n{}\n", table(rows), summary_table(&summaries));
        }
    }
    match folder {
        Some(folder) => compare_with_published(programs, folder, text, json),
        None => Ok(()),
    }
}

/// Has ours do again what others have published of those traces; an error if it is not that.
fn compare_with_published(
    programs: &Programs,
    folder: &Path,
    text: &str,
    json: bool,
) -> Result<()> {
    let cmd = Cmd::new(&programs.hit_ratio).args(["published", text]).arg(folder);
    let all = published(&cmd.shown().output()?)?;
    if json {
        for one in &all {
            println!("{}", json_line(one));
        }
    } else if !all.is_empty() {
        println!("{}\n", published_table(&all));
    }
    match all.iter().find(|one| !one.is_near()) {
        None => Ok(()),
        Some(Published { trace, entries, contender, expected, hit_ratio, .. }) => Err(format!(
            "{contender} on {trace}, {entries} entries: {hit_ratio:.2} percent of hits, where \
             {expected:.2} were published"
        )
        .into()),
    }
}

/// Reads the program's lines, which end with what was published.
fn published(text: &str) -> Result<Vec<Published>> {
    let mut all = Vec::new();
    for line in text.lines() {
        let (outcome, percent) = line.rsplit_once('\t').unwrap_or_default();
        let expected: f64 = percent.parse().map_err(|e| format!("{line:?}: {e}"))?;
        for row in rows(outcome)? {
            for (contender, hit_ratio) in row.hit_ratio {
                let (trace, entries) = (row.trace.clone(), row.entries);
                all.push(Published { area: NAME, trace, entries, contender, expected, hit_ratio });
            }
        }
    }
    Ok(all)
}

fn published_table(all: &[Published]) -> Table {
    let mut table = empty_table();
    table.set_header(["policy, trace, entries", "ours", "published", "difference"]);
    for one in all {
        table.add_row([
            format!("{}, {}, {}", one.contender, one.trace, one.entries),
            format!("{:.2}", one.hit_ratio),
            format!("{:.2}", one.expected),
            format!("{:+.2}", one.hit_ratio - one.expected),
        ]);
    }
    aligned(table)
}

pub(super) fn json_line(line: &impl Serialize) -> String {
    serde_json::to_string(line).expect("strings and numbers")
}

/// Reads the program's lines, of which those of a trace and a capacity come one after another.
fn rows(text: &str) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [source, trace, requests, keys, entries, contender, hits] = *fields.as_slice() else {
            return Err(format!("not an outcome: {line:?}").into());
        };
        let number = |text: &str| text.parse::<usize>().map_err(|e| format!("{line:?}: {e}"));
        let (requests, entries) = (number(requests)?, number(entries)?);
        let other = |row: &Row| {
            (row.source.as_str(), row.trace.as_str(), row.entries) != (source, trace, entries)
        };
        if rows.last().is_none_or(other) {
            rows.push(Row {
                area: NAME,
                source: source.into(),
                trace: trace.into(),
                requests,
                keys: number(keys)?,
                entries,
                hit_ratio: BTreeMap::new(),
                contenders: Vec::new(),
            });
        }
        let percent = 100.0 * number(hits)? as f64 / requests.max(1) as f64;
        if let Some(row) = rows.last_mut() {
            row.hit_ratio.insert(contender.into(), rounded(percent));
            row.contenders.push(contender.into());
        }
    }
    Ok(rows)
}

pub(super) fn rounded(percent: f64) -> f64 {
    (percent * 1000.0).round() / 1000.0
}

fn mean(figures: &[f64]) -> Option<f64> {
    (!figures.is_empty()).then(|| figures.iter().sum::<f64>() / figures.len() as f64)
}

/// A summary for each contender of the rows, which all have the same ones.
fn summaries(rows: &[Row]) -> Vec<Summary> {
    let Some(first) = rows.first() else { return Vec::new() };
    let summary = |contender: &String| {
        let ratios: Vec<f64> = rows.iter().map(|row| row.of(contender)).collect();
        let gaps = rows.iter().filter_map(|row| {
            let gap = row.of("OPT") - row.of("LRU");
            (gap > GAP).then(|| 100.0 * (row.of(contender) - row.of("LRU")) / gap)
        });
        let against = |row: &Row| row.of(contender) - row.of("LRU");
        let below = rows.iter().map(|row| -against(row)).filter(|&below| below > DEFICIT);
        let worst = rows.iter().min_by(|a, b| against(a).total_cmp(&against(b))).unwrap_or(first);
        Summary {
            area: NAME,
            source: first.source.clone(),
            contender: contender.clone(),
            mean: rounded(mean(&ratios).unwrap_or(f64::NAN)),
            gap_closed: mean(&gaps.collect::<Vec<f64>>()).map(rounded),
            deficits: rounded(below.fold(0.0, |sum, below| sum + below)),
            worst_against_lru: rounded(against(worst)),
            worst_at: worst.name(),
        }
    };
    first.contenders.iter().map(summary).collect()
}

/// A row for each trace and capacity, a column for each contender of one shard.
fn table(rows: &[Row]) -> Table {
    let mut table = empty_table();
    let all = rows.first().map_or(&[][..], |row| &row.contenders);
    let columns: Vec<&String> = all.iter().filter(|name| !name.contains(',')).collect();
    table
        .set_header(["trace, entries"].into_iter().chain(columns.iter().map(|name| name.as_str())));
    for row in rows {
        let figures = columns.iter().map(|name| format!("{:.2}", row.of(name)));
        table.add_row([row.name()].into_iter().chain(figures));
    }
    aligned(table)
}

fn summary_table(summaries: &[Summary]) -> Table {
    let mut table = empty_table();
    table.set_header([
        "",
        "mean",
        "gap closed",
        "below LRU",
        "worst against LRU",
        "at (trace, entries)",
    ]);
    for summary in summaries {
        let gap = summary.gap_closed.map_or("-".into(), |gap| format!("{gap:.1}"));
        table.add_row([
            summary.contender.clone(),
            format!("{:.2}", summary.mean),
            gap,
            format!("{:.1}", summary.deficits),
            format!("{:+.2}", summary.worst_against_lru),
            summary.worst_at.clone(),
        ]);
    }
    let mut table = aligned(table);
    if let Some(column) = table.column_mut(5) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    table
}

pub(super) fn empty_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table
}

/// With figures to the right of their columns.
pub(super) fn aligned(mut table: Table) -> Table {
    for index in 1..table.column_count() {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "generated\tloop\t200\t30\t10\tOPT\t100\n\
                        generated\tloop\t200\t30\t10\tLRU\t0\n\
                        generated\tloop\t200\t30\t10\tSteady\t50\n\
                        generated\tzipf\t400\t90\t10\tOPT\t81\n\
                        generated\tzipf\t400\t90\t10\tLRU\t80\n\
                        generated\tzipf\t400\t90\t10\tSteady\t76\n\
                        files\tloop\t200\t30\t10\tOPT\t7\n";

    #[test]
    fn lines_of_a_trace_and_a_capacity_make_a_row() {
        let rows = rows(TEXT).unwrap();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0].contenders, ["OPT", "LRU", "Steady"]);
        assert!((rows[1].of("Steady") - 19.0).abs() < 1e-9);
        assert_eq!((rows[2].source.as_str(), rows[2].entries), ("files", 10));
        assert!(super::rows("generated\tloop\t200\n").is_err());
        assert!(super::rows(&TEXT.replace("81", "many")).is_err());
    }

    #[test]
    fn a_json_line_has_exactly_the_promised_keys() {
        let rows = rows(TEXT).unwrap();
        assert_eq!(
            json_line(&rows[2]),
            r#"{"area":"hit-ratio","source":"files","trace":"loop","requests":200,"keys":30,"entries":10,"hit_ratio":{"OPT":3.5}}"#
        );
        assert_eq!(
            json_line(&summaries(&rows[1..2])[0]),
            r#"{"area":"hit-ratio","source":"generated","contender":"OPT","mean":20.25,"gap_closed":null,"deficits":0.0,"worst_against_lru":0.25,"worst_at":"zipf, 10"}"#
        );
    }

    #[test]
    fn what_is_off_what_was_published_is_told() {
        let text = "published\tdb\t1000\t90\t10\tLru\t328\t32.83\n\
                    published\tdb\t1000\t90\t20\tLru\t421\t42.47\n";
        let all = published(text).unwrap();
        assert_eq!(all.iter().map(Published::is_near).collect::<Vec<bool>>(), [true, false]);
        assert_eq!((all[1].trace.as_str(), all[1].entries), ("db", 20));
        let table = published_table(&all).to_string();
        assert!(table.contains("Lru, db, 20") && table.contains("-0.37"), "{table}");
        assert!(published("published\tdb\t1000\t90\t10\tLru\t328\tmany\n").is_err());
        assert!(published("32.83\n").is_err());
    }

    #[test]
    fn the_summary_leaves_out_gaps_that_are_none() {
        let rows = rows(TEXT).unwrap();
        let summaries = summaries(&rows[..2]);
        let steady = &summaries[2];
        assert_eq!((steady.contender.as_str(), steady.gap_closed), ("Steady", Some(50.0)));
        assert!((steady.mean - 22.0).abs() < 1e-9);
        assert!((steady.deficits - 1.0).abs() < 1e-9);
        assert!((steady.worst_against_lru + 1.0).abs() < 1e-9);
        assert_eq!(steady.worst_at, "zipf, 10");
    }

    #[test]
    fn the_table_has_a_column_for_each_contender_of_one_shard() {
        let more = TEXT.replace(
            "\tSteady\t76\n",
            "\tSteady\t76\ngenerated\tzipf\t400\t90\t10\tSteady, more\t9\n",
        );
        let rows = rows(&more).unwrap();
        let text = table(&rows[1..2]).to_string();
        assert!(text.contains(" Steady ") && text.contains("19.00"), "{text}");
        assert!(!text.contains("more"), "{text}");
        let text = summary_table(&summaries(&rows[1..2])).to_string();
        assert!(text.contains("Steady, more") && text.contains("-17.75"), "{text}");
    }
}
