//! Programs that checks need: found, or installed under `target/tools`.

use std::path::{Path, PathBuf};

use crate::{
    Result,
    process::{Cmd, find_program},
    workspace::Workspace,
};

/// A cargo subcommand at a pinned version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CargoTool {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
}

pub(crate) const CARGO_HACK: CargoTool = CargoTool { name: "cargo-hack", version: "0.6.46" };
pub(crate) const CARGO_FUZZ: CargoTool = CargoTool { name: "cargo-fuzz", version: "0.13.2" };

impl CargoTool {
    /// The program, installed into `target/tools` if that does not hold this version yet.
    pub(crate) fn ensure(self, workspace: &Workspace) -> Result<PathBuf> {
        let tools = workspace.tools();
        let program =
            tools.join("bin").join(format!("{}{}", self.name, std::env::consts::EXE_SUFFIX));
        if !self.is_at(&program) {
            Cmd::cargo()
                .dir(workspace.root())
                // Tools are built alike whatever is being checked, and none of it is kept.
                .env_remove("RUSTFLAGS")
                .env_remove("CARGO_TARGET_DIR")
                .args(["install", "--locked", "--force", "--root"])
                .arg(&tools)
                .arg(format!("{}@{}", self.name, self.version))
                .run()?;
        }
        Ok(program)
    }

    fn is_at(self, program: &Path) -> bool {
        // `cargo hack --version` is how cargo calls it: the subcommand's name comes first.
        let subcommand = self.name.trim_start_matches("cargo-");
        program.is_file()
            && Cmd::new(program)
                .args([subcommand, "--version"])
                .silent()
                .is_ok_and(|(_, text)| text.split_whitespace().any(|word| word == self.version))
    }
}

/// Makes sure that `program` is there, by installing Debian packages where we may.
///
/// The inner error is why it is not.
pub(crate) fn ensure_apt(program: &str, packages: &[&str]) -> Result<(), String> {
    if find_program(program).is_some() {
        return Ok(());
    }
    apt_install(packages)?;
    match find_program(program) {
        Some(_) => Ok(()),
        None => Err(format!("{} did not bring {program}", packages.join(" "))),
    }
}

/// Installs Debian packages, if this is Debian and we are root or `sudo` lets us be without asking.
pub(crate) fn apt_install(packages: &[&str]) -> Result<(), String> {
    let names = packages.join(" ");
    if find_program("apt-get").is_none() {
        return Err(format!("not installed, and there is no apt-get to install {names}"));
    }
    let silent = |cmd: Cmd| cmd.silent().is_ok_and(|(succeeded, _)| succeeded);
    let is_root = Cmd::new("id").arg("-u").output().is_ok_and(|id| id.trim() == "0");
    let apt_get = || {
        let cmd = if is_root { Cmd::new("env") } else { Cmd::new("sudo").args(["-n", "env"]) };
        cmd.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
    };
    if !is_root && !silent(Cmd::new("sudo").args(["-n", "true"])) {
        return Err(format!("not installed; try: sudo apt-get install {names}"));
    }
    let install = || apt_get().args(["install", "--yes", "--no-install-recommends"]).args(packages);
    eprintln!("$ apt-get install {names}");
    if !silent(install()) {
        // The lists may be missing or old.
        silent(apt_get().arg("update"));
        let (succeeded, text) = install().silent().map_err(|e| e.to_string())?;
        if !succeeded {
            let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            return Err(format!("apt-get install {names}: {last}"));
        }
    }
    Ok(())
}
