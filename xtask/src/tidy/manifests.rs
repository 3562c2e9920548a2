//! Rules for manifests, and for what has to agree with them.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Fault, File, rust};
use crate::{Result, workspace::FACADE};

const CORE: &str = "nebula-memory-core";
/// The peers are dependencies of this crate alone, and declared there.
const BENCHES: &str = "nebula-benches";

/// A manifest of a member.
struct Manifest {
    path: PathBuf,
    table: Table,
}

impl Manifest {
    fn parse(file: &File) -> Result<Self> {
        let table = file.text.parse().map_err(|e| format!("{}: {e}", file.path.display()))?;
        Ok(Self { path: file.path.clone(), table })
    }

    fn package(&self, key: &str) -> Option<&Value> {
        self.table.get("package")?.get(key)
    }

    fn name(&self) -> &str {
        self.package("name").and_then(Value::as_str).unwrap_or_default()
    }

    fn is_published(&self) -> bool {
        self.package("publish") != Some(&Value::Boolean(false))
    }

    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(&self.path, 0, message)
    }

    /// The dependencies of `section` (such as `dev-dependencies`), those of targets included.
    fn dependencies(&self, section: &str) -> Vec<(&str, &Value)> {
        let targets = self.table.get("target").and_then(Value::as_table);
        let of_targets = targets.into_iter().flat_map(|targets| targets.values());
        of_targets
            .filter_map(Value::as_table)
            .chain([&self.table])
            .filter_map(|table| table.get(section)?.as_table())
            .flatten()
            .map(|(name, value)| (name.as_str(), value))
            .collect()
    }
}

fn is_internal(name: &str) -> bool {
    name.starts_with("nebula-")
}

pub(super) fn check(files: &[File]) -> Result<Vec<Fault>> {
    let find = |path: &str| files.iter().find(|file| file.path == Path::new(path));
    let root = find("Cargo.toml").ok_or("there is no Cargo.toml")?;
    let workspace = Manifest::parse(root)?;
    let mut members = Vec::new();
    for file in files {
        let folder = file.path.parent().unwrap_or(Path::new(""));
        let is_member = folder.parent() == Some(Path::new("crates"))
            || [Path::new("xtask"), Path::new("benches")].contains(&folder);
        if is_member && file.path.ends_with("Cargo.toml") {
            members.push(Manifest::parse(file)?);
        }
    }

    let mut faults = workspace_dependencies(&workspace, &root.text);
    for member in &members {
        faults.extend(layers(member));
        faults.extend(inherited(member));
        faults.extend(dev_dependencies(member, &workspace));
        faults.extend(features(member));
        faults.extend(metadata(member, files));
    }
    let published: Vec<&str> =
        members.iter().filter(|member| member.is_published()).map(Manifest::name).collect();
    faults.extend(facade(&published, find("crates/nebula-memory/src/lib.rs")));
    let msrv = rust_version(&workspace);
    match find("README.md") {
        Some(readme) => faults.extend(readme_msrv(readme, &msrv, true)),
        None => faults.push(Fault::new("README.md", 0, "is missing")),
    }
    for member in &members {
        let own = member.package("rust-version").and_then(Value::as_str).unwrap_or(&msrv);
        let readme = member.path.with_file_name("README.md");
        if let Some(readme) = files.iter().find(|file| file.path == readme) {
            faults.extend(readme_msrv(readme, own, false));
        }
    }
    Ok(faults)
}

fn rust_version(workspace: &Manifest) -> String {
    let version =
        || workspace.table.get("workspace")?.get("package")?.get("rust-version")?.as_str();
    version().unwrap_or_default().to_owned()
}

/// A component depends on the core, and on no other of our crates.
fn layers(member: &Manifest) -> Vec<Fault> {
    let name = member.name();
    if [FACADE, BENCHES].contains(&name) || !is_internal(name) {
        return Vec::new();
    }
    ["dependencies", "build-dependencies"]
        .iter()
        .flat_map(|section| member.dependencies(section))
        .filter(|(dependency, _)| is_internal(dependency))
        .filter(|(dependency, _)| name == CORE || *dependency != CORE)
        .map(|(dependency, _)| {
            let rule = if name == CORE { "none of ours" } else { "the core alone" };
            member.fault(format!("{name} depends on {dependency}; it may depend on {rule}"))
        })
        .collect()
}

/// Dependencies and lints are the workspace's; peers are the benches' own.
fn inherited(member: &Manifest) -> Vec<Fault> {
    let inherits = |value: &Value| value.get("workspace") == Some(&Value::Boolean(true));
    let mut faults = Vec::new();
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for (name, value) in member.dependencies(section) {
            let own = member.name() == BENCHES && !is_internal(name);
            if !own && !inherits(value) {
                faults.push(member.fault(format!("{name} is not taken from the workspace")));
            }
        }
    }
    if !member.table.get("lints").is_some_and(inherits) {
        faults.push(member.fault("has no `[lints] workspace = true`"));
    }
    faults
}

/// Our crates in `dev-dependencies` are named by path alone: with a version, a crate could not be
/// published before those that test it.
fn dev_dependencies(member: &Manifest, workspace: &Manifest) -> Vec<Fault> {
    if !member.is_published() {
        return Vec::new();
    }
    let shared = |name: &str| workspace.table.get("workspace")?.get("dependencies")?.get(name);
    let needed: Vec<&str> =
        member.dependencies("dependencies").into_iter().map(|(name, _)| name).collect();
    let mut faults = Vec::new();
    for (name, value) in member.dependencies("dev-dependencies") {
        if !is_internal(name) || needed.contains(&name) {
            continue;
        }
        let declared = if value.get("workspace").is_some() { shared(name) } else { Some(value) };
        if declared
            .is_none_or(|value| value.get("path").is_none() || value.get("version").is_some())
        {
            faults.push(member.fault(format!("the dev-dependency {name} is not by path alone")));
        }
    }
    faults
}

/// `"dependency/feature"` of an optional dependency would switch that on, too.
fn features(member: &Manifest) -> Vec<Fault> {
    let dependencies = member.dependencies("dependencies");
    let is_optional = |name: &str| {
        dependencies
            .iter()
            .any(|(n, value)| *n == name && value.get("optional") == Some(&Value::Boolean(true)))
    };
    let mut faults = Vec::new();
    let features = member.table.get("features").and_then(Value::as_table);
    for (feature, list) in features.into_iter().flatten() {
        for entry in list.as_array().into_iter().flatten().filter_map(Value::as_str) {
            if entry.split_once('/').is_some_and(|(dependency, _)| is_optional(dependency)) {
                let right = entry.replacen('/', "?/", 1);
                faults.push(member.fault(format!(
                    "feature {feature}: \"{entry}\" switches the dependency on; write \"{right}\""
                )));
            }
        }
    }
    faults
}

/// What crates.io shows of a crate is there.
fn metadata(member: &Manifest, files: &[File]) -> Vec<Fault> {
    if !member.is_published() {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for key in
        ["description", "keywords", "categories", "license", "readme", "repository", "rust-version"]
    {
        let empty = match member.package(key) {
            None => true,
            Some(Value::String(text)) => text.trim().is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        if empty {
            faults.push(member.fault(format!("has no {key}")));
        }
    }
    let keywords = member.package("keywords").and_then(Value::as_array);
    if keywords.is_some_and(|list| list.len() > 5) {
        faults.push(member.fault("has more than the five keywords that crates.io takes"));
    }
    let readme = member.path.with_file_name("README.md");
    if !files.iter().any(|file| file.path == readme && !file.text.trim().is_empty()) {
        faults.push(member.fault("has no README.md beside it"));
    }
    faults
}

/// The workspace's dependencies come without default features, in alphabetical order.
fn workspace_dependencies(workspace: &Manifest, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let dependencies = workspace
        .table
        .get("workspace")
        .and_then(|w| w.get("dependencies"))
        .and_then(Value::as_table);
    for (name, value) in dependencies.into_iter().flatten() {
        if value.get("default-features") != Some(&Value::Boolean(false)) {
            faults.push(workspace.fault(format!("{name} is without `default-features = false`")));
        }
    }
    let names: Vec<(usize, &str)> = text
        .lines()
        .enumerate()
        .skip_while(|(_, line)| line.trim() != "[workspace.dependencies]")
        .skip(1)
        .take_while(|(_, line)| !line.starts_with('['))
        .filter_map(|(index, line)| Some((index + 1, line.split_once('=')?.0.trim())))
        .filter(|(_, name)| !name.starts_with('#'))
        .collect();
    for pair in names.windows(2) {
        if pair[0].1 > pair[1].1 {
            let message = format!("{} belongs before {}", pair[1].1, pair[0].1);
            faults.push(Fault::new(&workspace.path, pair[1].0, message));
        }
    }
    faults
}

/// Every published crate is re-exported by the facade.
fn facade(published: &[&str], lib: Option<&File>) -> Vec<Fault> {
    let Some(lib) = lib else {
        return vec![Fault::new("crates/nebula-memory/src/lib.rs", 0, "is missing")];
    };
    let code = rust::code(&lib.text);
    let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect::<Vec<_>>();
    words.sort_unstable();
    published
        .iter()
        .filter(|name| **name != FACADE)
        .filter(|name| words.binary_search(&name.replace('-', "_").as_str()).is_err())
        .map(|name| Fault::new(&lib.path, 0, format!("{name} is not re-exported")))
        .collect()
}

/// The README names the Rust version that the manifest asks for, and no other.
fn readme_msrv(readme: &File, msrv: &str, must_name_it: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut named = false;
    for (index, line) in readme.text.lines().enumerate() {
        let lower = line.to_lowercase();
        for marker in ["rust ", "rustc ", "rustc-", "msrv ", "msrv: ", "msrv is "] {
            for (start, _) in lower.match_indices(marker) {
                let rest = lower[start + marker.len()..].trim_start_matches(['*', '`']);
                let version: String =
                    rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
                let version = version.trim_end_matches('.');
                if !version.starts_with("1.") {
                    continue;
                }
                if version == msrv {
                    named = true;
                } else {
                    let message = format!("names Rust {version}; rust-version is {msrv}");
                    faults.push(Fault::new(&readme.path, index + 1, message));
                }
            }
        }
    }
    if must_name_it && !named {
        let message = format!("does not say that it needs Rust {msrv}");
        faults.push(Fault::new(&readme.path, 0, message));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &str) -> Manifest {
        Manifest::parse(&File::planted("crates/x/Cargo.toml", text)).unwrap()
    }

    fn named(name: &str, rest: &str) -> Manifest {
        manifest(&format!("[package]\nname = \"{name}\"\n{rest}"))
    }

    #[test]
    fn a_component_that_depends_on_another_is_found() {
        let pool = "[dependencies]\nnebula-pool = { workspace = true }\n";
        assert_eq!(layers(&named("nebula-cache", pool)).len(), 1);
        let target = "[target.'cfg(unix)'.dependencies]\nnebula-pool = { workspace = true }\n";
        assert_eq!(layers(&named("nebula-cache", target)).len(), 1);
        let core = "[dependencies]\nnebula-memory-core = { workspace = true }\n";
        assert!(layers(&named("nebula-cache", core)).is_empty());
        assert_eq!(layers(&named(CORE, pool)).len(), 1);
        assert!(layers(&named(FACADE, pool)).is_empty());
        let dev = "[dev-dependencies]\nnebula-pool = { workspace = true }\n";
        assert!(layers(&named("nebula-cache", dev)).is_empty());
    }

    #[test]
    fn what_is_not_inherited_is_found() {
        let lints = "[lints]\nworkspace = true\n";
        let serde = "[dependencies]\nserde = \"1\"\n";
        assert_eq!(inherited(&named("nebula-cache", &format!("{lints}{serde}"))).len(), 1);
        assert!(inherited(&named(BENCHES, &format!("{lints}{serde}"))).is_empty());
        let good = "[dev-dependencies]\nserde = { workspace = true, features = [\"std\"] }\n";
        assert!(inherited(&named("nebula-cache", &format!("{lints}{good}"))).is_empty());
        assert_eq!(inherited(&named("nebula-cache", "")).len(), 1);
    }

    #[test]
    fn a_dev_dependency_with_a_version_is_found() {
        let workspace = manifest(
            "[workspace.dependencies]\nnebula-testing = { path = \"t\" }\nnebula-pool = { path = \"p\", version = \"1\" }\n",
        );
        let check = |text: &str| dev_dependencies(&named("nebula-cache", text), &workspace).len();
        assert_eq!(check("[dev-dependencies]\nnebula-testing = { workspace = true }\n"), 0);
        assert_eq!(check("[dev-dependencies]\nnebula-pool = { workspace = true }\n"), 1);
        assert_eq!(
            check("publish = false\n[dev-dependencies]\nnebula-pool = { workspace = true }\n"),
            0
        );
        let both = "[dependencies]\nnebula-pool = { workspace = true }\n[dev-dependencies]\nnebula-pool = { workspace = true }\n";
        assert_eq!(check(both), 0);
    }

    #[test]
    fn a_feature_that_switches_on_a_dependency_by_the_way_is_found() {
        let with = |entry: &str| {
            features(&named(
                FACADE,
                &format!(
                    "[features]\nserde = [\"{entry}\"]\n[dependencies]\nnebula-pool = {{ workspace = true, optional = true }}\nnebula-memory-core = {{ workspace = true }}\n"
                ),
            ))
        };
        assert_eq!(with("nebula-pool/serde").len(), 1);
        assert!(with("nebula-pool?/serde").is_empty());
        assert!(with("nebula-memory-core/serde").is_empty());
    }

    #[test]
    fn missing_metadata_is_found() {
        let full = "description = \"d\"\nkeywords = [\"k\"]\ncategories = [\"c\"]\nreadme = \"README.md\"\nlicense.workspace = true\nrepository.workspace = true\nrust-version.workspace = true\n";
        let readme = [File::planted("crates/x/README.md", "# x")];
        assert!(metadata(&named("nebula-cache", full), &readme).is_empty());
        assert_eq!(metadata(&named("nebula-cache", full), &[]).len(), 1);
        for line in full.lines() {
            let without = full.replace(&format!("{line}\n"), "");
            assert_eq!(metadata(&named("nebula-cache", &without), &readme).len(), 1, "{line}");
        }
        let empty = full.replace("[\"k\"]", "[]");
        assert_eq!(metadata(&named("nebula-cache", &empty), &readme).len(), 1);
        let many = full.replace("[\"k\"]", "[\"1\", \"2\", \"3\", \"4\", \"5\", \"6\"]");
        assert_eq!(metadata(&named("nebula-cache", &many), &readme).len(), 1);
        assert!(metadata(&named("xtask", "publish = false\n"), &[]).is_empty());
    }

    #[test]
    fn default_features_and_disorder_of_the_workspace_are_found() {
        let check = |text: &str| workspace_dependencies(&manifest(text), text).len();
        let a = "a = { version = \"1\", default-features = false }\n";
        let b = "b = { version = \"1\", default-features = false }\n";
        let head = "[workspace.dependencies]\n# why\n";
        assert_eq!(check(&format!("{head}{a}{b}\n[profile.release]\n0 = 1\n")), 0);
        assert_eq!(check(&format!("{head}{b}{a}")), 1);
        assert_eq!(check(&format!("{head}a = \"1\"\n{b}")), 1);
        assert_eq!(check(&format!("{head}a = {{ version = \"1\" }}\n{b}")), 1);
    }

    #[test]
    fn a_crate_that_the_facade_forgets_is_found() {
        let published = ["nebula-memory", "nebula-memory-core", "nebula-pool"];
        let check = |text: &str| facade(&published, Some(&File::planted("lib.rs", text))).len();
        assert_eq!(check("pub use nebula_memory_core as core;\npub use nebula_pool as pool;\n"), 0);
        assert_eq!(check("pub use nebula_memory_core as core;\n// nebula_pool\n"), 1);
        assert_eq!(check("pub use nebula_memory_core_x as core;\npub use nebula_pool::*;\n"), 1);
        assert_eq!(facade(&published, None).len(), 1);
    }

    #[test]
    fn a_readme_that_names_another_rust_is_found() {
        let check = |text: &str| readme_msrv(&File::planted("README.md", text), "1.85", true).len();
        assert_eq!(check("It needs Rust 1.85 or later.\n"), 0);
        assert_eq!(check("MSRV: 1.85.\n"), 0);
        assert_eq!(check("MSRV 1.80, tested with Rust 1.85\n"), 1);
        assert_eq!(check("It is written in Rust.\n"), 1);
        let crates = readme_msrv(&File::planted("README.md", "# x\n"), "1.85", false);
        assert!(crates.is_empty());
    }
}
