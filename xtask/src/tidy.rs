//! `cargo xtask tidy`: the rules of this repository that no compiler checks.
//!
//! Every rule is a function from texts to faults, and has a test with a planted example that it
//! finds. This file gathers the texts; the rules are in the files below.

mod dependencies;
mod manifests;
mod rust;
mod texts;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use crate::{Failure, Result, workspace::Workspace};

/// Check the rules that nobody should have to remember.
///
/// Crates depend on what they may, manifests are complete, every crate is in the facade, nothing is
/// left to do, exceptions give reasons, files are short, and no path of somebody's machine got in.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rewrite docs/DEPENDENCIES.md with what is counted now.
    #[arg(long)]
    bless: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    check(&Workspace::load()?, args.bless)?;
    println!("tidy");
    Ok(())
}

/// A rule that is broken, and where.
#[derive(Debug, PartialEq)]
struct Fault {
    path: PathBuf,
    /// From one; zero is the whole file.
    line: usize,
    message: String,
}

impl Fault {
    fn new(path: impl Into<PathBuf>, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.into(), line, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// A text file of the repository.
#[derive(Debug)]
struct File {
    /// Relative to the root, with forward slashes.
    path: PathBuf,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "rs")
    }

    #[cfg(test)]
    fn planted(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into() }
    }
}

/// All rules. With `bless`, what is generated is written instead of compared.
pub(crate) fn check(workspace: &Workspace, bless: bool) -> Result<()> {
    let mut files = Vec::new();
    read(workspace.root(), Path::new(""), &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));

    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        faults.extend(rust::check(file));
    }
    faults.extend(rust::length(&files, rust::LONG_FILES));
    for file in &files {
        faults.extend(texts::machine_paths(file));
        faults.extend(texts::registries(file));
    }
    faults.extend(manifests::check(&files)?);
    faults.extend(dependencies::check(workspace, bless)?);
    for fault in &faults {
        eprintln!("{fault}");
    }
    match faults.len() {
        0 => Ok(()),
        n => Err(Failure::new(format!("{n} untidy {}", if n == 1 { "place" } else { "places" }))),
    }
}

/// What is built or found by a tool, and not ours to keep tidy.
const NOT_OURS: &[&str] =
    &[".git", "target", "fuzz/target", "fuzz/corpus", "fuzz/artifacts", "fuzz/coverage"];

/// Reads all text files below `folder`, given relative to `root`.
fn read(root: &Path, folder: &Path, files: &mut Vec<File>) -> Result<()> {
    let dir = root.join(folder);
    let told = |e: std::io::Error| format!("{}: {e}", dir.display());
    for entry in fs::read_dir(&dir).map_err(told)? {
        let entry = entry.map_err(told)?;
        let path = folder.join(entry.file_name());
        if NOT_OURS.iter().any(|not| path == Path::new(not)) {
            continue;
        }
        if entry.file_type().map_err(told)?.is_dir() {
            read(root, &path, files)?;
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            // What is not UTF-8 is no text.
            files.push(File { path, text });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_build_output_is_not() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a.rs", "x/b.md", "target/c.rs", "fuzz/corpus/t/d", "fuzz/e.rs"] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "text").unwrap();
        }
        fs::write(dir.path().join("binary"), [0xff, 0xfe, 0x00]).unwrap();
        let mut files = Vec::new();
        read(dir.path(), Path::new(""), &mut files).unwrap();
        let mut paths: Vec<_> = files.iter().map(|file| file.path.clone()).collect();
        paths.sort();
        assert_eq!(paths, ["a.rs", "fuzz/e.rs", "x/b.md"].map(PathBuf::from));
    }
}
