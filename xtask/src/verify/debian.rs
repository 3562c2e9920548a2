//! Debian's compilers, unpacked below `target/tools` without being installed.
//!
//! Debian keeps two packages, `rustc-web` for today's browsers and an older one of the same name,
//! with the standard library's source beside them. Their versions move with the security archive,
//! so that they are asked for, never written down.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Result,
    process::{Cmd, find_program},
    workspace::Workspace,
};

/// A compiler and a cargo in a folder.
#[derive(Debug)]
pub(super) struct Unpacked(PathBuf);

impl Unpacked {
    /// Its cargo, told to use its compiler.
    ///
    /// `RUSTC_BOOTSTRAP` opens the nightly options (`-Zbuild-std`) of a stable compiler.
    pub(super) fn cargo(&self) -> Cmd {
        let bin = self.0.join("usr/bin");
        Cmd::new(bin.join("cargo"))
            .without_cargo_env()
            .env("LD_LIBRARY_PATH", self.libraries())
            .env("RUSTC", bin.join("rustc"))
            .env("RUSTDOC", bin.join("rustdoc"))
            .env("RUSTC_BOOTSTRAP", "1")
    }

    /// The major version of its LLVM.
    pub(super) fn llvm(&self) -> Option<String> {
        let rustc = Cmd::new(self.0.join("usr/bin/rustc"));
        let text = rustc.env("LD_LIBRARY_PATH", self.libraries()).arg("-vV").output().ok()?;
        let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
        version.split('.').next().map(str::to_owned)
    }

    fn libraries(&self) -> String {
        let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
        let dir = |prefix: &str| self.0.join(prefix).join(&triple).display().to_string();
        format!("{}:{}", dir("usr/lib"), dir("lib"))
    }
}

/// Debian's newest compiler, or that whose version begins with `version`; the inner error is why
/// there is none.
pub(super) fn unpack(workspace: &Workspace, version: Option<&str>) -> Result<Unpacked, String> {
    for program in ["apt-get", "apt-cache", "dpkg"] {
        if find_program(program).is_none() {
            return Err(format!("{program} is not installed"));
        }
    }
    let wanted = version.unwrap_or("");
    let known = || {
        let (_, text) = Cmd::new("apt-cache").args(["madison", "rustc-web"]).silent().ok()?;
        versions(&text).into_iter().find(|known| known.starts_with(wanted))
    };
    let version = match known() {
        Some(version) => version,
        None => {
            let _ = Cmd::new("apt-get").arg("update").silent();
            known().ok_or(format!("Debian has no rustc-web {wanted}"))?
        }
    };
    let dir = workspace.tools().join(format!("debian-rust-{version}"));
    if !dir.join("complete").exists() {
        eprintln!("unpacking Debian's rustc-web {version} into {}", dir.display());
        fill(&dir, &version).map_err(|e| format!("unpacking rustc-web {version}: {e}"))?;
    }
    Ok(Unpacked(dir))
}

fn fill(dir: &Path, version: &str) -> Result<()> {
    let told = |e: std::io::Error| format!("{}: {e}", dir.display());
    let parcels = dir.join("parcels");
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(told)?;
    }
    fs::create_dir_all(&parcels).map_err(told)?;
    let roots = ["rustc-web", "cargo-web", "libstd-rust-web-dev", "rust-web-src"]
        .map(|name| format!("{name}={version}"));
    // What an installation would bring, libraries that this machine lacks included.
    let (succeeded, text) = Cmd::new("apt-get")
        .args(["install", "--simulate", "--no-install-recommends"])
        .args(&roots)
        .silent()?;
    if !succeeded {
        return Err(text.into());
    }
    let (succeeded, text) =
        Cmd::new("apt-get").dir(&parcels).arg("download").args(simulated(&text)).silent()?;
    if !succeeded {
        return Err(text.into());
    }
    for entry in fs::read_dir(&parcels).map_err(told)? {
        let parcel = entry.map_err(told)?.path();
        let (succeeded, text) = Cmd::new("dpkg").arg("-x").arg(&parcel).arg(dir).silent()?;
        if !succeeded {
            return Err(text.into());
        }
    }
    fs::remove_dir_all(&parcels).map_err(told)?;
    fs::write(dir.join("complete"), version).map_err(told)?;
    Ok(())
}

/// The versions in lines such as `rustc-web | 1.85.0+dfsg3-1 | http://...`, newest first.
fn versions(madison: &str) -> Vec<String> {
    let fields = madison.lines().filter_map(|line| line.split('|').nth(1));
    fields.map(|version| version.trim().to_owned()).collect()
}

/// `NAME=VERSION` of each line such as `Inst rustc-web (1.85.0 Debian:12 [amd64])`.
fn simulated(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
            // An upgrade names the installed version in brackets behind the name.
            let name = name.split_whitespace().next()?;
            Some(format!("{name}={}", rest.split_whitespace().next()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_archive_list() {
        let text = " rustc-web | 1.96.0+dfsg1 | http://x Packages\n rustc-web | 1.85.0+dfsg3 | http://y Packages\n";
        assert_eq!(versions(text), ["1.96.0+dfsg1", "1.85.0+dfsg3"]);
        assert!(versions("").is_empty());
    }

    #[test]
    fn what_an_installation_would_bring_is_read_from_its_simulation() {
        let text = "NOTE: only a simulation\nInst libllvm19 (1:19.1 Debian:12 [amd64])\nInst gcc [12.1] (12.2 Debian:12 [amd64])\nConf gcc (12.2)\n";
        assert_eq!(simulated(text), ["libllvm19=1:19.1", "gcc=12.2"]);
    }
}
