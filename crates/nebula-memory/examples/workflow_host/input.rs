//! Real text to work on: a folder, or the sources of the packages that this workspace builds with.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use cargo_metadata::MetadataCommand;
use nebula_memory::core::ByteSize;

/// The files to work on, in an order that is the same on every run.
pub(crate) struct Input {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) bytes: u64,
}

/// Why there is nothing to work on.
pub(crate) enum InputError {
    /// The caller asked for something that is not there.
    Usage(String),
    /// It should be there, but could not be read.
    Failed(String),
}

impl Input {
    /// The files in `folder` and below, by path, as long as they fit into `limit`.
    pub(crate) fn folder(folder: &Path, limit: ByteSize) -> Result<Self, InputError> {
        if !folder.is_dir() {
            return Err(InputError::Usage(format!("{} is not a folder", folder.display())));
        }
        let mut input = Self::empty();
        input.add(folder, &|_| true, limit).map_err(|e| unreadable(folder, &e))?;
        input.checked(&format!("{} holds no files within --input-limit", folder.display()))
    }

    /// The `.rs` files of the packages in this workspace's dependency graph on this platform, in
    /// the order of package names, as long as they fit into `limit`.
    pub(crate) fn dependencies(limit: ByteSize) -> Result<Self, InputError> {
        let failed = |e: &dyn std::fmt::Display| {
            InputError::Failed(format!(
                "cannot list this workspace's dependencies: {e}; name a folder with --input DIR"
            ))
        };
        let platform = host_platform().map_err(|e| failed(&e))?;
        let metadata = MetadataCommand::new()
            .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .other_options(["--locked".into(), "--filter-platform".into(), platform])
            .exec()
            .map_err(|e| failed(&e))?;
        let used: BTreeSet<_> = match &metadata.resolve {
            Some(resolve) => resolve.nodes.iter().map(|node| &node.id).collect(),
            None => BTreeSet::new(),
        };
        let mut packages: Vec<_> =
            metadata.packages.iter().filter(|p| used.contains(&p.id)).collect();
        packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        let mut input = Self::empty();
        let is_source = |path: &Path| path.extension().is_some_and(|e| e == "rs");
        for package in packages {
            if let Some(folder) = package.manifest_path.parent() {
                let folder = folder.join("src");
                if folder.is_dir() {
                    let folder = folder.as_std_path();
                    input.add(folder, &is_source, limit).map_err(|e| unreadable(folder, &e))?;
                }
            }
        }
        input.checked("the dependencies have no source files within --input-limit")
    }

    fn empty() -> Self {
        Self { files: vec![], bytes: 0 }
    }

    fn add(
        &mut self,
        folder: &Path,
        wanted: &dyn Fn(&Path) -> bool,
        limit: ByteSize,
    ) -> io::Result<()> {
        let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            // Links are not followed: they could lead in circles.
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.add(&path, wanted, limit)?;
            } else if kind.is_file() && wanted(&path) {
                let bytes = self.bytes + entry.metadata()?.len();
                if bytes <= limit.get() as u64 {
                    self.bytes = bytes;
                    self.files.push(path);
                }
            }
        }
        Ok(())
    }

    fn checked(self, otherwise: &str) -> Result<Self, InputError> {
        if self.files.is_empty() { Err(InputError::Usage(otherwise.to_owned())) } else { Ok(self) }
    }
}

fn unreadable(folder: &Path, error: &io::Error) -> InputError {
    InputError::Failed(format!("cannot read {}: {error}", folder.display()))
}

/// This machine's target triple, as the compiler names it.
fn host_platform() -> io::Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| io::Error::other("rustc does not name its host"))
}
