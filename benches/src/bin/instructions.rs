//! Runs one contender, for a tool that counts instructions, or lists them all.
//!
//! `instructions` prints a line for each contender: area, case, unit, threads and name, separated
//! by tabs, ours first; `instructions --areas` prints name and description of each area.
//! `instructions AREA CASE CONTENDER N` does that work N times. Counting is
//! the caller's part: what 2N iterations take more than N is the cost of N.

use std::process::ExitCode;

use nebula_benches::areas::AREAS;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match *args.as_slice() {
        [] => {
            for area in AREAS {
                for case in (area.cases)() {
                    for contender in case.contenders() {
                        println!(
                            "{}\t{}\t{}\t{}\t{}",
                            area.name, case.name, case.unit, contender.threads, contender.name
                        );
                    }
                }
            }
            ExitCode::SUCCESS
        }
        ["--areas"] => {
            for area in AREAS {
                println!("{}\t{}", area.name, area.about);
            }
            ExitCode::SUCCESS
        }
        [area, case, contender, iterations] => match run(area, case, contender, iterations) {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                eprintln!("{message}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: instructions [--areas | AREA CASE CONTENDER N]");
            ExitCode::from(2)
        }
    }
}

fn run(area: &str, case: &str, contender: &str, iterations: &str) -> Result<(), String> {
    let iterations = iterations.parse().map_err(|e| format!("{iterations}: {e}"))?;
    let found = AREAS.iter().find(|a| a.name == area).ok_or(format!("no area {area}"))?;
    let cases = (found.cases)();
    let found = cases.iter().find(|c| c.name == case).ok_or(format!("{area}: no case {case}"))?;
    let found = found
        .contenders()
        .find(|c| c.name == contender)
        .ok_or(format!("{area}, {case}: no contender {contender}"))?;
    let _ = (found.run)(iterations);
    Ok(())
}
