//! Counts the hits of every policy and peer: `hit_ratio ENTRIES TEXT [FOLDER]`.
//!
//! ENTRIES is the capacity for the generated traces; FOLDER has more traces, NAME.k32.zst; only
//! those with TEXT in their names are done. Prints a line for each outcome: where the trace is from,
//! its name, requests and different keys, the capacity in entries, the contender and its hits,
//! separated by tabs. `hit_ratio isolation ENTRIES` counts those of a tenant beside a noisy one: what
//! that one does, the cache, the tenant's requests and its hits. `hit_ratio published TEXT FOLDER` does
//! those traces again of which others have published hit ratios, and prints the percent as well.

use std::{path::Path, process::ExitCode};

use nebula_benches::hit_ratio::{
    Outcome, Trace, contenders, generated, isolation, published, read_all, run,
};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (entries, text, folder) = match *args.as_slice() {
        ["isolation", entries] => return print_isolation(entries),
        ["published", text, folder] => return print_published(text, Path::new(folder)),
        [entries, text] => (entries, text, None),
        [entries, text, folder] => (entries, text, Some(Path::new(folder))),
        _ => {
            eprintln!("usage: hit_ratio ENTRIES TEXT [FOLDER]");
            return ExitCode::from(2);
        }
    };
    let Some(entries) = number(entries) else { return ExitCode::from(2) };
    let Some(files) = folder.map_or(Some(Vec::new()), read) else { return ExitCode::FAILURE };
    print("generated", generated(entries), text);
    print("files", files, text);
    ExitCode::SUCCESS
}

fn number(entries: &str) -> Option<usize> {
    let number = entries.parse().ok().filter(|&entries| entries >= 16);
    if number.is_none() {
        eprintln!("{entries:?} is not 16 entries or more");
    }
    number
}

fn print_isolation(entries: &str) -> ExitCode {
    let Some(entries) = number(entries) else { return ExitCode::from(2) };
    for outcome in isolation(entries) {
        println!("{}\t{}\t{}\t{}", outcome.noise, outcome.cache, outcome.requests, outcome.hits);
    }
    ExitCode::SUCCESS
}

fn print_published(text: &str, folder: &Path) -> ExitCode {
    let Some(mut traces) = read(folder) else { return ExitCode::FAILURE };
    traces.retain(|trace| trace.name.contains(text));
    for (outcome, percent) in published(&traces) {
        println!("{}\t{percent}", line("published", &outcome));
    }
    ExitCode::SUCCESS
}

fn read(folder: &Path) -> Option<Vec<Trace>> {
    let files = read_all(folder);
    files.map_err(|error| eprintln!("{error}")).ok()
}

fn print(source: &str, mut traces: Vec<Trace>, text: &str) {
    traces.retain(|trace| trace.name.contains(text));
    for outcome in run(&traces, &contenders()) {
        println!("{}", line(source, &outcome));
    }
}

fn line(source: &str, outcome: &Outcome) -> String {
    let Outcome { trace, requests, keys, entries, contender, hits } = outcome;
    format!("{source}\t{trace}\t{requests}\t{keys}\t{entries}\t{contender}\t{hits}")
}
