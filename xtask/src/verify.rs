//! `cargo xtask verify`: the slow checks, each also alone by name.

mod compiler;
mod debian;
mod dynamic;
mod platforms;

use std::{fs, path::PathBuf};

use cargo_metadata::Package;
use clap::ValueEnum;

use crate::{
    Result,
    process::Cmd,
    steps::{Outcome, Steps},
    workspace::Workspace,
};

/// Run the slow checks: sanitizers, models, fuzzing, other platforms and compilers.
///
/// Every part installs what it needs where it can (components through rustup, Debian packages if
/// run as root, cargo tools into target/tools) and otherwise says what it skipped and why. Each
/// builds into a folder of its own below target/verify.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these parts; all of them without.
    parts: Vec<Part>,
    /// Print what the parts are, and run none.
    #[arg(long)]
    list: bool,
    /// Only these packages, where a part works on packages.
    #[arg(short, long, value_name = "NAME")]
    package: Vec<String>,
    /// How long each fuzz target runs.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    fuzz_seconds: u64,
    /// How many preemptions of a thread the loom models explore.
    #[arg(long, value_name = "N", default_value_t = 3)]
    loom_preemptions: usize,
    /// Take Debian's compilers even where rustup could install one.
    #[arg(long)]
    no_rustup: bool,
    /// Fail if a part is skipped.
    #[arg(long)]
    deny_skips: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Part {
    /// AddressSanitizer and LeakSanitizer over all tests; arenas and pools poison what they free.
    Asan,
    /// ThreadSanitizer over the tests, with a standard library that is instrumented too.
    Tsan,
    /// Miri over unit and integration tests: undefined behaviour by the letter.
    Miri,
    /// valgrind's memcheck over the test programs.
    Memcheck,
    /// Models of concurrent structures, explored by loom.
    Loom,
    /// Every fuzz target for a while.
    Fuzz,
    /// The published crates build with the oldest compiler that they promise.
    Msrv,
    /// The tests as a 32-bit program.
    I686,
    /// The tests as Windows programs, under Wine.
    Windows,
    /// The crates and tests compile for macOS, Windows with MSVC, and Linux on ARM.
    Cross,
    /// Every published crate packages, and builds from its package.
    Package,
}

/// What a part needs to know.
struct Context<'a> {
    workspace: &'a Workspace,
    args: &'a Args,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let chosen: Vec<Part> = Part::value_variants()
        .iter()
        .copied()
        .filter(|part| args.parts.is_empty() || args.parts.contains(part))
        .collect();
    if args.list {
        for value in chosen.iter().filter_map(Part::to_possible_value) {
            let help = value.get_help().map(ToString::to_string).unwrap_or_default();
            println!("{:10} {help}", value.get_name());
        }
        return Ok(());
    }
    let workspace = Workspace::load()?;
    for name in &args.package {
        workspace.package(name)?;
    }
    let context = Context { workspace: &workspace, args };
    let mut steps = Steps::default();
    for part in chosen {
        let name = part.to_possible_value().map_or_else(String::new, |v| v.get_name().into());
        steps.run(&name, || part.run(&context));
    }
    steps.finish(args.deny_skips)
}

impl Part {
    fn run(self, context: &Context<'_>) -> Result<Outcome> {
        match self {
            Self::Asan => dynamic::asan(context),
            Self::Tsan => dynamic::tsan(context),
            Self::Miri => dynamic::miri(context),
            Self::Memcheck => dynamic::memcheck(context),
            Self::Loom => {
                loom(context.workspace, &context.args.package, context.args.loom_preemptions)
            }
            Self::Fuzz => dynamic::fuzz(context),
            Self::Msrv => platforms::msrv(context),
            Self::I686 => platforms::i686(context),
            Self::Windows => platforms::windows(context),
            Self::Cross => platforms::cross(context),
            Self::Package => package(context),
        }
    }
}

impl<'a> Context<'a> {
    /// The folder that part `name` builds into: every set of flags has its own, or each switch
    /// between two would build everything again.
    fn target(&self, name: &str) -> PathBuf {
        self.workspace.target().join("verify").join(name)
    }

    /// The library crates whose tests are run: all but the tools, or those that were asked for.
    fn libraries(&self) -> Vec<&'a Package> {
        self.select(|package| !["xtask", crate::test::BENCHES].contains(&package.name.as_str()))
    }

    /// The published crates, or those of them that were asked for.
    fn published(&self) -> Vec<&'a Package> {
        self.select(|package| package.publish.is_none())
    }

    fn select(&self, wanted: impl Fn(&Package) -> bool) -> Vec<&'a Package> {
        let asked = &self.args.package;
        self.workspace
            .packages()
            .into_iter()
            .filter(|package| wanted(package))
            .filter(|package| asked.is_empty() || asked.contains(&package.name))
            .collect()
    }
}

/// `--package NAME` for each.
fn names(packages: &[&Package]) -> Vec<String> {
    packages.iter().map(|package| format!("--package={}", package.name)).collect()
}

/// Builds the examples of `packages`, which some tests run, and then runs the tests; `cargo` makes
/// the command up to a subcommand. (`cargo test --examples` would build them as tests of
/// themselves, and without `--tests` it would run documentation tests, too.)
fn with_examples(packages: &[&Package], cargo: impl Fn(&str) -> Cmd) -> Result<Outcome> {
    let names = names(packages);
    cargo("build").args(["--examples", "--all-features"]).args(&names).run()?;
    cargo("test")
        .args(["--lib", "--tests", "--all-features", "--no-fail-fast"])
        .args(&names)
        .run()?;
    Ok(Outcome::Passed)
}

const NO_PACKAGE: &str = "none of the packages asked for takes part in it";

/// Runs the `tests/loom_*.rs` of `packages`, or of all crates that have some.
pub(crate) fn loom(
    workspace: &Workspace,
    packages: &[String],
    preemptions: usize,
) -> Result<Outcome> {
    let mut found = false;
    for package in workspace.packages() {
        if !packages.is_empty() && !packages.contains(&package.name) {
            continue;
        }
        let mut tests: Vec<&str> = package
            .targets
            .iter()
            .filter(|target| target.is_test() && target.name.starts_with("loom_"))
            .map(|target| target.name.as_str())
            .collect();
        tests.sort_unstable();
        if tests.is_empty() {
            continue;
        }
        found = true;
        Cmd::cargo()
            .dir(workspace.root())
            .env("CARGO_TARGET_DIR", workspace.target().join("verify/loom"))
            .env("RUSTFLAGS", "--cfg nebula_loom")
            .env("LOOM_MAX_PREEMPTIONS", preemptions.to_string())
            .args(["test", "--release", "--package", &package.name])
            .args(tests.iter().flat_map(|test| ["--test", test]))
            .run()?;
    }
    Ok(if found {
        Outcome::Passed
    } else {
        Outcome::Skipped("no crate has tests/loom_*.rs".into())
    })
}

/// Packages the published crates together, and builds each from its package.
fn package(context: &Context<'_>) -> Result<Outcome> {
    let packages = context.published();
    if packages.is_empty() {
        return Ok(Outcome::Skipped(NO_PACKAGE.into()));
    }
    let target = context.target("package");
    // Left over from an earlier run, these would be taken for what is packaged now.
    if target.join("package").exists() {
        fs::remove_dir_all(target.join("package"))
            .map_err(|e| format!("{}: {e}", target.display()))?;
    }
    Cmd::cargo()
        .dir(context.workspace.root())
        .env("CARGO_TARGET_DIR", &target)
        .args(["package", "--locked", "--allow-dirty"])
        .args(names(&packages))
        .run()?;
    Ok(Outcome::Passed)
}
