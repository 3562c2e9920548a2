//! `cargo xtask ci`: what has to pass before a change is merged.

use clap::ValueEnum;

use crate::{
    Result,
    process::{Cmd, find_program},
    steps::{Outcome, Steps},
    test::{self, BENCHES},
    tidy, tools, verify,
    workspace::{FACADE, Workspace},
};

/// Run every check that a change has to pass, in a quarter of an hour on two cores.
///
/// All steps run even if one fails; the exit code tells whether all passed. Slow checks are under
/// `cargo xtask verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these steps.
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Step {
    /// rustfmt, the fuzz targets included.
    Fmt,
    /// The rules of `cargo xtask tidy`.
    Tidy,
    /// clippy with warnings as errors, on all targets and features.
    Clippy,
    /// Unit, integration and documentation tests with all features.
    Test,
    /// Every example is run.
    Examples,
    /// The benches' own tests, each contender once.
    Benches,
    /// Documentation, with warnings as errors.
    Docs,
    /// Combinations of features, by cargo-hack; without features, too.
    Features,
    /// Licences, sources and bans of dependencies, by cargo-deny.
    Deny,
    /// Models of concurrent structures, with few preemptions; `verify loom` allows more.
    Loom,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    let mut steps = Steps::default();
    for step in Step::value_variants() {
        if args.steps.is_empty() || args.steps.contains(step) {
            let name = step.to_possible_value().map_or_else(String::new, |v| v.get_name().into());
            steps.run(&name, || step.run(&workspace));
        }
    }
    steps.finish(false)
}

impl Step {
    fn run(self, workspace: &Workspace) -> Result<Outcome> {
        let cargo = || Cmd::cargo().dir(workspace.root());
        match self {
            Self::Fmt => {
                cargo().args(["fmt", "--all", "--check"]).run()?;
                cargo().args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]).run()?;
            }
            Self::Tidy => tidy::check(workspace, false)?,
            Self::Clippy => {
                let strict = ["--", "-D", "warnings"];
                cargo()
                    .args(["clippy", "--workspace", "--exclude", BENCHES])
                    .args(["--all-targets", "--all-features"])
                    .args(strict)
                    .run()?;
                cargo()
                    .args(["clippy", "--package", BENCHES, "--all-targets"])
                    .args(strict)
                    .run()?;
            }
            Self::Test => return test::tests(workspace, &[]),
            Self::Examples => return test::examples(workspace, &[]),
            Self::Benches => return test::bench_tests(workspace),
            Self::Docs => {
                cargo()
                    .env("RUSTDOCFLAGS", "-D warnings")
                    .args(["doc", "--workspace", "--exclude", BENCHES, "--exclude", "xtask"])
                    .args(["--no-deps", "--all-features"])
                    .run()?;
            }
            Self::Features => {
                let hack = tools::CARGO_HACK.ensure(workspace)?;
                // Only the facade's default is more than nothing or one feature that has a name.
                let combinations = |args: &[&str]| {
                    Cmd::new(&hack)
                        .without_cargo_env()
                        .dir(workspace.root())
                        .args(["hack", "check", "--ignore-private", "--no-dev-deps"])
                        .args(["--feature-powerset", "--depth", "2"])
                        .args(args)
                        .run()
                };
                combinations(&["--package", FACADE])?;
                let others = ["--workspace", "--exclude", FACADE];
                combinations(&[&others[..], &["--exclude-features", "default"]].concat())?;
            }
            Self::Deny => {
                if find_program("cargo-deny").is_none() {
                    return Ok(Outcome::Skipped("cargo-deny is not installed".into()));
                }
                cargo().args(["deny", "check", "bans", "licenses", "sources"]).run()?;
            }
            Self::Loom => return verify::loom(workspace, &[], 2),
        }
        Ok(Outcome::Passed)
    }
}
