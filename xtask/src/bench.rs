//! `cargo xtask bench`: builds the benches, runs an area, prints the table.

mod criterion;
mod footprint;
mod hit_ratio;
mod instructions;
mod isolation;
mod report;

use std::path::PathBuf;

use crate::{Result, artifacts, process::Cmd, workspace::Workspace};

/// Compare ours and the peers on the same work, in one run.
///
/// Builds `benches/` with fat LTO, measures every contender of the area with criterion, counts
/// instructions under callgrind where valgrind is installed (cases of one thread), weighs what the
/// area has to weigh, and prints ours, each peer, and the ratio to the best peer: below 1, ours is
/// better. Times are noisy, instructions and bytes are not: see docs/BENCHMARKS.md. Without AREA,
/// lists the areas. The areas `hit-ratio` and `isolation` are another matter: they count hits.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to run, such as `core`.
    area: Option<String>,
    /// Measure for a fraction of the time: good enough to see factors, not percents. For
    /// `hit-ratio`: generate shorter traces, for smaller caches.
    #[arg(long)]
    quick: bool,
    /// Print one JSON object a line on standard output, and nothing else there.
    #[arg(long)]
    json: bool,
    /// Only cases (traces, for `hit-ratio`) whose name contains this text.
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Features of the benches crate to switch on (peers that are heavy to build).
    #[arg(long, value_name = "FEATURES")]
    features: Option<String>,
    /// For `hit-ratio`: a folder with more traces, `NAME.k32.zst` (little-endian u32 keys, zstd).
    #[arg(long, value_name = "DIR")]
    traces: Option<PathBuf>,
}

/// One contender, as the benches list it.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    area: String,
    case: String,
    unit: String,
    threads: usize,
    contender: String,
}

/// A case with a figure for each contender.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    area: String,
    case: String,
    unit: String,
    ours: f64,
    peers: Vec<(String, f64)>,
    /// How far apart the rounds were, for the contender with the least steady ones.
    spread: Option<f64>,
}

/// What was built.
#[derive(Debug)]
struct Programs {
    areas: PathBuf,
    footprint: PathBuf,
    hit_ratio: PathBuf,
    instructions: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    let Some(area) = &args.area else {
        return list(args);
    };
    if args.traces.is_some() && area != hit_ratio::NAME {
        return Err(format!("traces are for the area {}", hit_ratio::NAME).into());
    }
    let programs = build(&workspace, args)?;
    if area == hit_ratio::NAME {
        let text = args.case.as_deref().unwrap_or_default();
        return hit_ratio::run(&programs, args.traces.as_deref(), text, args.quick, args.json);
    }
    if area == isolation::NAME {
        let text = args.case.as_deref().unwrap_or_default();
        return isolation::run(&programs, text, args.quick, args.json);
    }
    let all = parse_list(&Cmd::new(&programs.instructions).output()?)?;
    if !all.iter().any(|line| line.area == *area) {
        let mut areas: Vec<&str> = all.iter().map(|line| line.area.as_str()).collect();
        areas.dedup();
        areas.extend([hit_ratio::NAME, isolation::NAME]);
        return Err(format!("there is no area {area}; there are: {}", areas.join(", ")).into());
    }
    let wanted = |case: &str| args.case.as_ref().is_none_or(|text| case.contains(text));
    let lines: Vec<Line> =
        all.into_iter().filter(|line| line.area == *area && wanted(&line.case)).collect();
    let mut weights = footprint::weigh(&programs, area)?;
    weights.retain(|row| wanted(&row.case));
    if lines.is_empty() && weights.is_empty() {
        let text = args.case.as_deref().unwrap_or_default();
        return Err(format!("area {area} has no case with {text:?} in its name").into());
    }
    if !lines.is_empty() {
        let times = criterion::measure(&workspace, &programs, &lines, args.quick)?;
        report::print(&times, args.json);
        match instructions::count(&programs, &lines, &times)? {
            instructions::Counted::Rows(rows) => report::print(&rows, args.json),
            instructions::Counted::Skipped(why) => eprintln!("instructions: skipped: {why}"),
        }
    }
    if !weights.is_empty() {
        report::print(&weights, args.json);
    }
    Ok(())
}

/// Prints the areas.
fn list(args: &Args) -> Result<()> {
    let mut cmd = Cmd::cargo().args(["run", "--quiet", "--package", "nebula-benches"]);
    if let Some(features) = &args.features {
        cmd = cmd.args(["--features", features]);
    }
    let text = cmd.args(["--bin", "instructions", "--", "--areas"]).output()?;
    for line in text.lines() {
        let (name, about) = line.split_once('\t').unwrap_or((line, ""));
        println!("{name:10} {about}");
    }
    println!("{:10} {}", hit_ratio::NAME, hit_ratio::ABOUT);
    println!("{:10} {}", isolation::NAME, isolation::ABOUT);
    Ok(())
}

fn build(workspace: &Workspace, args: &Args) -> Result<Programs> {
    let mut cmd = Cmd::cargo()
        .dir(workspace.root())
        .args(["build", "--profile", "bench", "--package", "nebula-benches"])
        .args(["--bench", "areas", "--bin", "footprint", "--bin", "hit_ratio"])
        .args(["--bin", "instructions"]);
    if let Some(features) = &args.features {
        cmd = cmd.args(["--features", features]);
    }
    let programs = artifacts::build(cmd)?;
    let executable = |name: &str| {
        let program = programs.iter().find(|program| program.target == name);
        program.map(|p| p.executable.clone()).ok_or(format!("cargo built no program {name}"))
    };
    Ok(Programs {
        areas: executable("areas")?,
        footprint: executable("footprint")?,
        hit_ratio: executable("hit_ratio")?,
        instructions: executable("instructions")?,
    })
}

fn parse_list(text: &str) -> Result<Vec<Line>> {
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [area, case, unit, threads, contender] = *fields.as_slice() else {
                return Err(format!("not a contender: {line:?}").into());
            };
            Ok(Line {
                area: area.into(),
                case: case.into(),
                unit: unit.into(),
                threads: threads.parse().map_err(|e| format!("{line:?}: {e}"))?,
                contender: contender.into(),
            })
        })
        .collect()
}

/// The lines of each case, in order; the first is ours.
fn by_case(lines: &[Line]) -> impl Iterator<Item = &[Line]> {
    lines.chunk_by(|a, b| a.case == b.case)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_contenders_is_read_back() {
        let lines = parse_list("core\tblock\tns/op\t1\tours\ncore\tblock\tns/op\t1\tGlobal\ncore\tcount\tns/op\t2\tours\n").unwrap();
        assert_eq!(lines.len(), 3);
        assert_eq!((lines[2].case.as_str(), lines[2].threads), ("count", 2));
        let sizes: Vec<usize> = by_case(&lines).map(<[Line]>::len).collect();
        assert_eq!(sizes, [2, 1]);
        assert!(parse_list("core\tblock\n").is_err());
    }
}
