//! Counts the hits of every policy and peer: `hit_ratio ENTRIES TEXT [FOLDER]`.
//!
//! ENTRIES is the capacity for the generated traces; FOLDER has more traces, NAME.k32.zst; only
//! those with TEXT in their names are done. Prints a line for each outcome: where the trace is from,
//! its name, requests and different keys, the capacity in entries, the contender and its hits,
//! separated by tabs. `hit_ratio isolation ENTRIES` counts those of a tenant beside a noisy one: what
//! that one does, the cache, the tenant's requests and its hits.

use std::{path::Path, process::ExitCode};

use nebula_benches::hit_ratio::{Trace, contenders, generated, isolation, read_all, run};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (entries, text, folder) = match *args.as_slice() {
        ["isolation", entries] => return print_isolation(entries),
        [entries, text] => (entries, text, None),
        [entries, text, folder] => (entries, text, Some(Path::new(folder))),
        _ => {
            eprintln!("usage: hit_ratio ENTRIES TEXT [FOLDER]");
            return ExitCode::from(2);
        }
    };
    let Some(entries) = number(entries) else { return ExitCode::from(2) };
    let files = match folder.map_or(Ok(Vec::new()), read_all) {
        Ok(files) => files,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
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

fn print(source: &str, mut traces: Vec<Trace>, text: &str) {
    traces.retain(|trace| trace.name.contains(text));
    for outcome in run(&traces, &contenders()) {
        println!(
            "{source}\t{}\t{}\t{}\t{}\t{}\t{}",
            outcome.trace,
            outcome.requests,
            outcome.keys,
            outcome.entries,
            outcome.contender,
            outcome.hits
        );
    }
}
