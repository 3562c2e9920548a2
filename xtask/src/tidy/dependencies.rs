//! `docs/DEPENDENCIES.md`: what a crate with its default features pulls in, as committed and as
//! cargo counts it now.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use super::Fault;
use crate::{Result, process::Cmd, workspace::Workspace};

const PATH: &str = "docs/DEPENDENCIES.md";

/// The platform that is counted for, wherever this runs.
const TARGET: &str = "x86_64-unknown-linux-gnu";

pub(super) fn check(workspace: &Workspace, bless: bool) -> Result<Vec<Fault>> {
    let members: BTreeSet<&str> =
        workspace.packages().iter().map(|package| package.name.as_str()).collect();
    let mut crates = Vec::new();
    for package in workspace.published() {
        let tree = Cmd::cargo()
            .dir(workspace.root())
            .args(["tree", "--locked", "--package", &package.name, "--target", TARGET])
            .args(["--edges", "normal,build", "--prefix", "none", "--no-dedupe"])
            .args(["--format", "{p}"])
            .output()?;
        crates.push((package.name.as_str(), third_party(&tree, &members)));
    }
    let now = page(&crates);
    let path = workspace.root().join(PATH);
    if bless {
        fs::write(&path, now).map_err(|e| format!("{}: {e}", path.display()))?;
        return Ok(Vec::new());
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    Ok(compare(&committed, &now))
}

/// The names in the output of `cargo tree`, without our own crates.
fn third_party(tree: &str, members: &BTreeSet<&str>) -> BTreeSet<String> {
    tree.lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| !members.contains(name))
        .map(str::to_owned)
        .collect()
}

fn page(crates: &[(&str, BTreeSet<String>)]) -> String {
    let mut page = format!(
        "# Dependencies\n\n\
         What each published crate pulls in from crates.io with its default features, directly and\n\
         indirectly, code that runs at build time included (for {TARGET}). Few is the aim.\n\
         `cargo xtask tidy` compares this page with what cargo resolves; after a wanted change,\n\
         `cargo xtask tidy --bless` rewrites it.\n\n\
         | crate | number | which |\n|---|---:|---|\n"
    );
    for (name, dependencies) in crates {
        let list = dependencies.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let _ = writeln!(page, "| {name} | {} | {list} |", dependencies.len());
    }
    page
}

/// The lines that only one of the two has.
fn compare(committed: &str, now: &str) -> Vec<Fault> {
    let hint = "if that is wanted: cargo xtask tidy --bless";
    let fault = |line: &str, what: &str| Fault::new(PATH, 0, format!("{what}: {line} ({hint})"));
    if committed.is_empty() {
        return vec![Fault::new(PATH, 0, "is missing: cargo xtask tidy --bless")];
    }
    let missing = now.lines().filter(|line| !committed.lines().any(|other| other == *line));
    let stale = committed.lines().filter(|line| !now.lines().any(|other| other == *line));
    missing
        .map(|line| fault(line, "lacks"))
        .chain(stale.map(|line| fault(line, "has, and should not")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(names: &[&str]) -> String {
        page(&[("nebula-pool", names.iter().map(|name| (*name).to_owned()).collect())])
    }

    #[test]
    fn a_new_dependency_is_found_until_it_is_blessed() {
        let committed = counted(&["thiserror"]);
        assert!(compare(&committed, &counted(&["thiserror"])).is_empty());
        let faults = compare(&committed, &counted(&["serde", "thiserror"]));
        assert_eq!(faults.len(), 2);
        assert!(faults[0].message.contains("| nebula-pool | 2 | serde, thiserror |"));
        assert_eq!(compare("", &committed).len(), 1);
    }

    #[test]
    fn our_own_crates_and_repetitions_do_not_count() {
        let tree = "nebula-pool v0.1.0 (/x)\nserde v1.0.0\nnebula-memory-core v0.1.0 (/y)\nserde v1.0.0\n\n";
        let members = BTreeSet::from(["nebula-pool", "nebula-memory-core"]);
        assert_eq!(third_party(tree, &members), BTreeSet::from(["serde".to_owned()]));
    }
}
