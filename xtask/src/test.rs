//! `cargo xtask test`: unit, integration and documentation tests; examples are run.

use std::path::PathBuf;

use crate::{
    Result,
    artifacts::{self, Program},
    process::Cmd,
    steps::{Outcome, Steps},
    workspace::Workspace,
};

/// Run unit, integration and documentation tests with all features, and every example.
///
/// The benches run each of their contenders once (default features). An example passes when it
/// ends with success; the main one, `workflow_host`, is run in release on a small input.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these packages.
    #[arg(short, long, value_name = "NAME")]
    package: Vec<String>,
}

/// The crate with the peers: built with default features only, and apart from the rest, so that
/// what the peers switch on in shared dependencies cannot hide a missing feature of ours.
pub(crate) const BENCHES: &str = "nebula-benches";

/// How to run an example that needs arguments, or release.
struct Run {
    example: &'static str,
    args: &'static [&'static str],
    release: bool,
}

const RUNS: &[Run] = &[Run {
    example: "workflow_host",
    args: &["--input-limit", "1MiB", "--tenants", "3", "--budget", "64MiB"],
    release: true,
}];

pub(crate) fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    for name in &args.package {
        workspace.package(name)?;
    }
    let mut steps = Steps::default();
    let benches = |name: &String| name == BENCHES;
    if args.package.is_empty() || !args.package.iter().all(benches) {
        let packages: Vec<String> =
            args.package.iter().filter(|name| !benches(name)).cloned().collect();
        steps.run("tests", || tests(&workspace, &packages));
        steps.run("examples", || examples(&workspace, &packages));
    }
    if args.package.is_empty() || args.package.iter().any(benches) {
        steps.run("benches", || bench_tests(&workspace));
    }
    steps.finish(false)
}

/// `cargo test` on `packages`, or on all but the benches.
fn cargo_test(workspace: &Workspace, packages: &[String]) -> Cmd {
    let cmd = Cmd::cargo().dir(workspace.root()).args(["test", "--all-features"]);
    if packages.is_empty() {
        cmd.args(["--workspace", "--exclude", BENCHES])
    } else {
        packages.iter().fold(cmd, |cmd, name| cmd.args(["--package", name]))
    }
}

pub(crate) fn tests(workspace: &Workspace, packages: &[String]) -> Result<Outcome> {
    cargo_test(workspace, packages).arg("--no-fail-fast").run()?;
    Ok(Outcome::Passed)
}

pub(crate) fn bench_tests(workspace: &Workspace) -> Result<Outcome> {
    Cmd::cargo().dir(workspace.root()).args(["test", "--package", BENCHES, "--lib"]).run()?;
    // Documentation tests are not part of `--lib`, and criterion's harness need not be built.
    Cmd::cargo().dir(workspace.root()).args(["test", "--package", BENCHES, "--doc"]).run()?;
    Ok(Outcome::Passed)
}

pub(crate) fn examples(workspace: &Workspace, packages: &[String]) -> Result<Outcome> {
    // The tests built them already, with the same features.
    let built = artifacts::build(cargo_test(workspace, packages).arg("--no-run"))?;
    let mut examples: Vec<&Program> = built.iter().filter(|program| program.is_example).collect();
    examples.sort_by(|a, b| a.target.cmp(&b.target));
    if examples.is_empty() {
        return Ok(Outcome::Skipped("there are no examples".into()));
    }
    for example in examples {
        let run = RUNS.iter().find(|run| run.example == example.target);
        let program = if run.is_some_and(|run| run.release) {
            build_in_release(workspace, &example.target)?
        } else {
            example.executable.clone()
        };
        let args = run.map_or(&[][..], |run| run.args);
        Cmd::new(program).without_cargo_env().dir(workspace.root()).args(args).run()?;
    }
    Ok(Outcome::Passed)
}

/// Builds an example the way the README tells its reader to.
fn build_in_release(workspace: &Workspace, example: &str) -> Result<PathBuf> {
    let cmd = Cmd::cargo().dir(workspace.root()).args(["build", "--release", "--example", example]);
    artifacts::build(cmd)?
        .into_iter()
        .find(|program| program.is_example && program.target == example)
        .map(|program| program.executable)
        .ok_or_else(|| format!("cargo built no example {example}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_example_is_run_in_release_on_a_small_input() {
        let run = RUNS.iter().find(|run| run.example == "workflow_host").unwrap();
        assert!(run.release && run.args.contains(&"--input-limit"));
    }
}
