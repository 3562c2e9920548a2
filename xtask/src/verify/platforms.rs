//! Other platforms and older compilers.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::Package;

use super::{
    Context, NO_PACKAGE,
    compiler::{Compiler, Wanted, host},
    names, with_examples,
};
use crate::{
    Result,
    process::{Cmd, find_program},
    steps::Outcome,
    tools,
};

/// Checks every published crate with the very version that it names in `rust-version`.
pub(super) fn msrv(context: &Context<'_>) -> Result<Outcome> {
    let mut groups: BTreeMap<String, Vec<&Package>> = BTreeMap::new();
    for package in context.published() {
        let version = package
            .rust_version
            .as_ref()
            .ok_or_else(|| format!("{} names no rust-version", package.name))?;
        groups.entry(version.to_string()).or_default().push(package);
    }
    if groups.is_empty() {
        return Ok(Outcome::Skipped(NO_PACKAGE.into()));
    }
    for (version, packages) in groups {
        let prefix = format!("{version}+");
        let wanted =
            Wanted { toolchain: Some(&version), debian: Some(&prefix), ..Wanted::default() };
        let compiler = match Compiler::find(context, wanted) {
            Ok(compiler) => compiler,
            Err(why) => return Ok(Outcome::Skipped(why)),
        };
        compiler
            .cargo(context, &context.target("msrv"))
            .args(["check", "--locked", "--all-features"])
            .args(names(&packages))
            .run()?;
    }
    Ok(Outcome::Passed)
}

/// Runs the tests as 32-bit programs, which an x86-64 Linux runs as they are.
pub(super) fn i686(context: &Context<'_>) -> Result<Outcome> {
    const TARGET: &str = "i686-unknown-linux-gnu";
    if host()? != "x86_64-unknown-linux-gnu" {
        return Ok(Outcome::Skipped("only x86-64 Linux runs these programs".into()));
    }
    let packages = context.libraries();
    if packages.is_empty() {
        return Ok(Outcome::Skipped(NO_PACKAGE.into()));
    }
    // gcc answers with a path if it has the file, and with its bare name if not.
    let start_file = Cmd::new("gcc").args(["-m32", "-print-file-name=Scrt1.o"]).output();
    if !start_file.is_ok_and(|file| file.contains('/'))
        && let Err(why) = tools::apt_install(&["gcc-multilib"])
    {
        return Ok(Outcome::Skipped(format!("32-bit libraries: {why}")));
    }
    let wanted = Wanted { target: Some(TARGET), ..Wanted::default() };
    let compiler = match Compiler::find(context, wanted) {
        Ok(compiler) => compiler,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    with_examples(&packages, |subcommand| {
        compiler
            .cargo_for(context, &context.target("i686"), subcommand, TARGET)
            // A 64-bit kernel gives such a program nearly all of its 4 GiB; tests expect to be
            // refused a quarter of all addresses.
            .env("CARGO_TARGET_I686_UNKNOWN_LINUX_GNU_RUNNER", "prlimit --as=1073741824")
    })
}

/// What Rust's standard library takes random seeds from, and Wine before version 9 lacks.
const PROCESS_PRNG: &str = "\
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length);
__declspec(dllexport) BOOL ProcessPrng(PBYTE data, SIZE_T length) {
    return SystemFunction036(data, (ULONG)length);
}
";

/// Runs the tests as Windows programs under Wine.
pub(super) fn windows(context: &Context<'_>) -> Result<Outcome> {
    const TARGET: &str = "x86_64-pc-windows-gnu";
    const GCC: &str = "x86_64-w64-mingw32-gcc";
    if cfg!(windows) {
        return Ok(Outcome::Skipped("this is Windows: `cargo xtask test` is the check".into()));
    }
    let packages = context.libraries();
    if packages.is_empty() {
        return Ok(Outcome::Skipped(NO_PACKAGE.into()));
    }
    if let Err(why) = tools::ensure_apt(GCC, &["gcc-mingw-w64-x86-64-posix"]) {
        return Ok(Outcome::Skipped(format!("the Windows linker: {why}")));
    }
    if wine().is_none()
        && let Err(why) = tools::apt_install(&["wine64"])
    {
        return Ok(Outcome::Skipped(format!("Wine: {why}")));
    }
    let Some(wine) = wine() else {
        return Ok(Outcome::Skipped("wine64 was installed and is not to be found".into()));
    };
    let wanted = Wanted { target: Some(TARGET), ..Wanted::default() };
    let compiler = match Compiler::find(context, wanted) {
        Ok(compiler) => compiler,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let folder = context.target("windows");
    let libraries = folder.join("wine-libraries");
    stub(GCC, &libraries)?;
    with_examples(&packages, |subcommand| {
        compiler
            .cargo_for(context, &folder, subcommand, TARGET)
            .env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER", GCC)
            // Debian's compiler needs libraries that Wine must not see.
            .env(
                "CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER",
                format!("env -u LD_LIBRARY_PATH {}", wine.display()),
            )
            .env("WINEPREFIX", folder.join("wine"))
            .env("WINEPATH", &libraries)
            .env("WINEDEBUG", "-all")
    })
}

/// The 64-bit Wine.
fn wine() -> Option<PathBuf> {
    let unwrapped = Path::new("/usr/lib/wine/wine64");
    if unwrapped.exists() {
        return Some(unwrapped.into());
    }
    find_program("wine64").or_else(|| find_program("wine"))
}

/// Builds the library that old Wines lack.
fn stub(gcc: &str, folder: &Path) -> Result<()> {
    let told = |e: std::io::Error| format!("{}: {e}", folder.display());
    fs::create_dir_all(folder).map_err(told)?;
    let source = folder.join("process_prng.c");
    fs::write(&source, PROCESS_PRNG).map_err(told)?;
    Cmd::new(gcc)
        .args(["-shared", "-o"])
        .arg(folder.join("bcryptprimitives.dll"))
        .arg(&source)
        .arg("-ladvapi32")
        .run()
}

/// Compiles crates and tests for platforms that cannot be run here.
pub(super) fn cross(context: &Context<'_>) -> Result<Outcome> {
    let packages = context.libraries();
    if packages.is_empty() {
        return Ok(Outcome::Skipped(NO_PACKAGE.into()));
    }
    let mut skipped = Vec::new();
    for target in ["aarch64-apple-darwin", "x86_64-pc-windows-msvc", "aarch64-unknown-linux-gnu"] {
        let wanted = Wanted { target: Some(target), ..Wanted::default() };
        match Compiler::find(context, wanted) {
            Ok(compiler) => compiler
                .cargo_for(context, &context.target("cross"), "check", target)
                .args(["--lib", "--tests", "--all-features"])
                .args(names(&packages))
                .run()?,
            Err(why) => skipped.push(format!("{target}: {why}")),
        }
    }
    Ok(if skipped.is_empty() { Outcome::Passed } else { Outcome::Skipped(skipped.join("; ")) })
}
