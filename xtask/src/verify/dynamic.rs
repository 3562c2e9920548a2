//! Checks that run our tests and watch: sanitizers, Miri, valgrind, fuzzing.

use std::collections::HashSet;

use super::{
    Context, NO_PACKAGE,
    compiler::{Compiler, Wanted, host},
    names, with_examples,
};
use crate::{
    Result, artifacts,
    process::Cmd,
    steps::Outcome,
    tools::{self, CARGO_FUZZ},
};

/// Leaves out tests that race on purpose.
const TSAN_CFG: &str = "--cfg nebula_tsan";

/// Makes arenas and pools tell AddressSanitizer what they freed: without that, a use after a reset
/// would not be seen. (Fuzz targets run under it, too.)
const ASAN_CFG: &str = "--cfg nebula_asan";

pub(super) fn asan(context: &Context<'_>) -> Result<Outcome> {
    let wanted = Wanted { toolchain: Some("nightly"), ..Wanted::default() };
    let compiler = match Compiler::of_rustup(context, wanted) {
        Ok(compiler) => compiler,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let packages = context.libraries();
    if packages.is_empty() {
        return Ok(Outcome::Skipped(NO_PACKAGE.into()));
    }
    let flags = format!("-Zsanitizer=address {ASAN_CFG}");
    compiler
        .cargo_for(context, &context.target("asan"), "test", &host()?)
        .env("RUSTFLAGS", &flags)
        .env("RUSTDOCFLAGS", &flags)
        // Tests ask for more than there is, and expect to be refused.
        .env("ASAN_OPTIONS", "allocator_may_return_null=1")
        .env("PROPTEST_CASES", "32")
        .args(["--all-features", "--no-fail-fast"])
        .args(names(&packages))
        .run()?;
    Ok(Outcome::Passed)
}

pub(super) fn tsan(context: &Context<'_>) -> Result<Outcome> {
    let host = host()?;
    // A standard library that is not instrumented makes correct programs look wrong, so that it is
    // built, too.
    let wanted =
        Wanted { toolchain: Some("nightly"), components: &["rust-src"], ..Wanted::default() };
    let compiler = match Compiler::find(context, wanted) {
        Ok(compiler) => compiler,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let packages = context.libraries();
    if packages.is_empty() {
        return Ok(Outcome::Skipped(NO_PACKAGE.into()));
    }
    let mut flags = format!("-Zsanitizer=thread {TSAN_CFG}");
    let mut linker = None;
    if let Some(llvm) = compiler.debian_llvm() {
        // Debian's compiler comes without the run-time library; clang of the same LLVM links its own.
        let clang = format!("clang-{llvm}");
        let library = format!("libclang-rt-{llvm}-dev");
        if let Err(why) = tools::ensure_apt(&clang, &[&clang, &library]) {
            return Ok(Outcome::Skipped(why));
        }
        flags.push_str(" -Zexternal-clangrt -Clink-arg=-fsanitize=thread");
        let variable = host.replace('-', "_").to_uppercase();
        linker = Some((format!("CARGO_TARGET_{variable}_LINKER"), clang));
    }
    with_examples(&packages, |subcommand| {
        let cmd = compiler.cargo(context, &context.target("tsan"));
        let cmd = match &linker {
            Some((variable, clang)) => cmd.env(variable, clang),
            None => cmd,
        };
        cmd.env("RUSTFLAGS", &flags)
            .env("TSAN_OPTIONS", "allocator_may_return_null=1")
            .env("PROPTEST_CASES", "16")
            .args([subcommand, "-Zbuild-std", "--target", &host])
    })
}

pub(super) fn miri(context: &Context<'_>) -> Result<Outcome> {
    let wanted = Wanted {
        toolchain: Some("nightly"),
        components: &["miri", "rust-src"],
        ..Wanted::default()
    };
    let compiler = match Compiler::of_rustup(context, wanted) {
        Ok(compiler) => compiler,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let packages = context.libraries();
    if packages.is_empty() {
        return Ok(Outcome::Skipped(NO_PACKAGE.into()));
    }
    compiler
        .cargo(context, &context.target("miri"))
        // Tests read files and the clock.
        .env("MIRIFLAGS", "-Zmiri-disable-isolation")
        .env("PROPTEST_CASES", "2")
        .args(["miri", "test", "--lib", "--tests", "--all-features", "--no-fail-fast"])
        .args(names(&packages))
        .run()?;
    Ok(Outcome::Passed)
}

/// What memcheck is not to report, with reasons.
const SUPPRESSIONS: &str = "xtask/src/verify/memcheck.supp";

pub(super) fn memcheck(context: &Context<'_>) -> Result<Outcome> {
    if let Err(why) = tools::ensure_apt("valgrind", &["valgrind"]) {
        return Ok(Outcome::Skipped(why));
    }
    let packages = context.libraries();
    if packages.is_empty() {
        return Ok(Outcome::Skipped(NO_PACKAGE.into()));
    }
    // What the ordinary tests build will do, so that it is built where they build. (Without
    // `--tests` there are the examples, too; some tests run them.)
    let cmd = Cmd::cargo()
        .dir(context.workspace.root())
        .args(["test", "--no-run", "--all-features"])
        .args(names(&packages));
    let suppressions = context.workspace.root().join(SUPPRESSIONS);
    let ours: HashSet<_> = packages.iter().map(|package| &package.id).collect();
    let mut failed = Vec::new();
    for program in artifacts::build(cmd)? {
        if !program.is_test || !ours.contains(&program.package) {
            continue;
        }
        let result = Cmd::new("valgrind")
            .without_cargo_env()
            .dir(program.folder())
            .env("PROPTEST_CASES", "4")
            // One thread at a time runs, and many times slower.
            .env("NEBULA_WATCHDOG_FACTOR", "10")
            .args(["-q", "--error-exitcode=9", "--leak-check=full", "--fair-sched=try"])
            .args(["--errors-for-leak-kinds=definite", "--show-leak-kinds=definite"])
            // Deep enough to see the test, by which suppressions name what they are about.
            .arg("--num-callers=50")
            .arg(format!("--suppressions={}", suppressions.display()))
            .arg(&program.executable)
            .arg("--test-threads=1")
            .run();
        if result.is_err() {
            failed.push(program.target);
        }
    }
    if failed.is_empty() {
        Ok(Outcome::Passed)
    } else {
        Err(format!("memcheck or the tests found errors in {}", failed.join(", ")).into())
    }
}

pub(super) fn fuzz(context: &Context<'_>) -> Result<Outcome> {
    let wanted = Wanted { toolchain: Some("nightly"), ..Wanted::default() };
    if let Err(why) = Compiler::of_rustup(context, wanted) {
        return Ok(Outcome::Skipped(why));
    }
    let tool = match CARGO_FUZZ.ensure(context.workspace) {
        Ok(tool) => tool,
        Err(why) => return Ok(Outcome::Skipped(format!("cargo-fuzz cannot be installed: {why}"))),
    };
    let fuzz = |args: &[&str]| {
        Cmd::new("rustup")
            .without_cargo_env()
            .dir(context.workspace.root())
            .env_remove("CARGO_TARGET_DIR")
            .env("RUSTFLAGS", ASAN_CFG)
            .args(["run", "nightly"])
            .arg(&tool)
            .arg("fuzz")
            .args(args)
    };
    fuzz(&["build"]).run()?;
    let targets = fuzz(&["list"]).output()?;
    let time = format!("-max_total_time={}", context.args.fuzz_seconds);
    let mut failed = Vec::new();
    for target in targets.split_whitespace() {
        if fuzz(&["run", target, "--", &time, "-print_final_stats=1"]).run().is_err() {
            failed.push(target);
        }
    }
    if failed.is_empty() {
        Ok(Outcome::Passed)
    } else {
        Err(format!("see fuzz/artifacts for the input that broke {}", failed.join(", ")).into())
    }
}
