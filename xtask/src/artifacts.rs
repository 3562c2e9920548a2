//! The programs that a cargo command builds.

use std::path::{Path, PathBuf};

use cargo_metadata::{Message, PackageId};

use crate::{Result, process::Cmd};

/// A program that cargo built.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) package: PackageId,
    pub(crate) target: String,
    pub(crate) executable: PathBuf,
    /// A test harness, or a plain program.
    pub(crate) is_test: bool,
    pub(crate) is_example: bool,
    manifest: PathBuf,
}

impl Program {
    /// The folder of its package: where cargo runs tests.
    pub(crate) fn folder(&self) -> &Path {
        self.manifest.parent().unwrap_or(&self.manifest)
    }
}

/// Runs `cmd`, a cargo command that builds, and returns its programs.
pub(crate) fn build(cmd: Cmd) -> Result<Vec<Program>> {
    let text = cmd.arg("--message-format=json-render-diagnostics").shown().output()?;
    let mut programs = Vec::new();
    for message in Message::parse_stream(text.as_bytes()) {
        let Message::CompilerArtifact(artifact) = message.map_err(|e| format!("cargo: {e}"))?
        else {
            continue;
        };
        if let Some(executable) = artifact.executable {
            programs.push(Program {
                package: artifact.package_id,
                is_example: artifact.target.is_example(),
                target: artifact.target.name,
                executable: executable.into_std_path_buf(),
                is_test: artifact.profile.test,
                manifest: artifact.manifest_path.into_std_path_buf(),
            });
        }
    }
    Ok(programs)
}
