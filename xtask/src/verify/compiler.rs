//! Other compilers than the pinned one: through rustup where it can have them, else Debian's.

use std::path::Path;

use super::{Context, debian};
use crate::{
    Result,
    process::{Cmd, find_program},
};

/// A compiler with its cargo.
#[derive(Debug)]
pub(super) struct Compiler {
    /// What rustup calls it, or the program with what must be in its environment.
    cargo: Cargo,
    /// Whether the standard library has to be built for the target that was asked for.
    pub(super) builds_std: bool,
}

#[derive(Debug)]
enum Cargo {
    Rustup(String),
    Debian(debian::Unpacked),
}

/// What a check wants of a compiler.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted<'a> {
    /// rustup's name of the toolchain; without, the pinned one.
    pub(super) toolchain: Option<&'a str>,
    /// Components beyond compiler and cargo.
    pub(super) components: &'a [&'a str],
    /// A target beyond the host.
    pub(super) target: Option<&'a str>,
    /// How Debian's version has to begin, if any of them will not do.
    pub(super) debian: Option<&'a str>,
}

impl Compiler {
    /// Finds or installs it; the inner error is why there is none.
    pub(super) fn find(context: &Context<'_>, wanted: Wanted<'_>) -> Result<Self, String> {
        let why = if context.args.no_rustup {
            "rustup was not to be used".into()
        } else {
            match rustup(context.workspace.root(), wanted) {
                Ok(name) => return Ok(Self { cargo: Cargo::Rustup(name), builds_std: false }),
                Err(why) => why,
            }
        };
        match debian::unpack(context.workspace, wanted.debian) {
            Ok(unpacked) => {
                Ok(Self { cargo: Cargo::Debian(unpacked), builds_std: wanted.target.is_some() })
            }
            Err(also) => Err(format!("{why}; {also}")),
        }
    }

    /// A toolchain of rustup; the inner error is why there is none.
    pub(super) fn of_rustup(context: &Context<'_>, wanted: Wanted<'_>) -> Result<Self, String> {
        rustup(context.workspace.root(), wanted)
            .map(|name| Self { cargo: Cargo::Rustup(name), builds_std: false })
    }

    /// Its cargo, at the root of the workspace, building into `target`.
    pub(super) fn cargo(&self, context: &Context<'_>, target: &Path) -> Cmd {
        let cmd = match &self.cargo {
            Cargo::Rustup(name) => Cmd::cargo_of(name),
            Cargo::Debian(unpacked) => unpacked.cargo(),
        };
        cmd.dir(context.workspace.root()).env("CARGO_TARGET_DIR", target)
    }

    /// Its cargo with the target named, and told to build the standard library where it has to.
    pub(super) fn cargo_for(
        &self,
        context: &Context<'_>,
        folder: &Path,
        subcommand: &str,
        target: &str,
    ) -> Cmd {
        let cmd = self.cargo(context, folder).args([subcommand, "--target", target]);
        if self.builds_std { cmd.arg("-Zbuild-std") } else { cmd }
    }

    /// The version of LLVM that Debian's compiler uses; none for a toolchain of rustup, which
    /// brings the run-time libraries of its sanitizers.
    pub(super) fn debian_llvm(&self) -> Option<String> {
        match &self.cargo {
            Cargo::Rustup(_) => None,
            Cargo::Debian(unpacked) => unpacked.llvm(),
        }
    }
}

/// The name of a toolchain of rustup that has what is wanted, after installing what is missing.
fn rustup(root: &Path, wanted: Wanted<'_>) -> Result<String, String> {
    if find_program("rustup").is_none() {
        return Err("rustup is not installed".into());
    }
    let rustup = |args: &[&str]| {
        let cmd = Cmd::new("rustup").without_cargo_env().args(args).dir(root);
        let (succeeded, text) = cmd.silent().map_err(|e| e.to_string())?;
        if succeeded {
            Ok(text)
        } else {
            Err(format!("rustup {}: {}", args.join(" "), cause(&text)))
        }
    };
    let name = match wanted.toolchain {
        Some(name) => name.to_owned(),
        // The one that rust-toolchain.toml names, followed by why it is that one.
        None => {
            let active = rustup(&["show", "active-toolchain"])?;
            active.split_whitespace().next().unwrap_or_default().to_owned()
        }
    };
    let installed = rustup(&["toolchain", "list"])?;
    if !installed.lines().any(|line| line.starts_with(&name)) {
        eprintln!("$ rustup toolchain install {name}");
        rustup(&["toolchain", "install", &name, "--profile", "minimal", "--no-self-update"])?;
    }
    for component in wanted.components {
        rustup(&["component", "add", "--toolchain", &name, component])?;
    }
    if let Some(target) = wanted.target {
        rustup(&["target", "add", "--toolchain", &name, target])?;
    }
    Ok(name)
}

/// The line that tells most of a failed command's output.
fn cause(text: &str) -> &str {
    let error = text.lines().find(|line| line.starts_with("error"));
    error.or_else(|| text.lines().rev().find(|line| !line.trim().is_empty())).unwrap_or_default()
}

/// The target triple of this machine.
pub(super) fn host() -> Result<String> {
    let text = Cmd::new("rustc").arg("-vV").output()?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or("rustc does not tell its host")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_a_failure_is_the_line_that_begins_with_error() {
        assert_eq!(
            cause("info: x\nerror: no such toolchain\nnote: y\n"),
            "error: no such toolchain"
        );
        assert_eq!(cause("one\ntwo\n\n"), "two");
    }

    #[test]
    fn the_host_is_a_triple() {
        assert!(host().unwrap().contains(std::env::consts::ARCH));
    }
}
