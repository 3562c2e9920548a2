//! What cargo knows about this workspace.

use std::path::{Path, PathBuf};

use cargo_metadata::{Metadata, MetadataCommand, Package};

use crate::{Failure, Result, process};

/// The crate that re-exports the others.
pub(crate) const FACADE: &str = "nebula-memory";

/// The workspace that this program belongs to.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) metadata: Metadata,
}

impl Workspace {
    /// Asks cargo; dependencies are not resolved.
    pub(crate) fn load() -> Result<Self> {
        // As cargo tells when it runs this program: two clones may share a target folder, and with
        // it the program. Compiled in, for who starts it without cargo.
        let own = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let manifest = own.join("../Cargo.toml");
        let metadata = MetadataCommand::new()
            .cargo_path(process::cargo_program())
            .manifest_path(manifest)
            .no_deps()
            .exec()
            .map_err(|e| format!("cargo metadata: {e}"))?;
        Ok(Self { metadata })
    }

    /// The folder of the root manifest.
    pub(crate) fn root(&self) -> &Path {
        self.metadata.workspace_root.as_std_path()
    }

    /// Where cargo builds.
    pub(crate) fn target(&self) -> PathBuf {
        self.metadata.target_directory.clone().into_std_path_buf()
    }

    /// Where tools and second compilers are installed; under the workspace whatever the target
    /// folder is, so that changing that does not install them again.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root().join("target/tools")
    }

    /// The members, by name.
    pub(crate) fn packages(&self) -> Vec<&Package> {
        let mut packages = self.metadata.workspace_packages();
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        packages
    }

    /// The member called `name`.
    pub(crate) fn package(&self, name: &str) -> Result<&Package> {
        self.packages()
            .into_iter()
            .find(|package| package.name == name)
            .ok_or_else(|| Failure::new(format!("there is no package {name} here")))
    }

    /// The members that are published.
    pub(crate) fn published(&self) -> Vec<&Package> {
        self.packages().into_iter().filter(|package| package.publish.is_none()).collect()
    }
}
