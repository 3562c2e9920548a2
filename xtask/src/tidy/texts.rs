//! Rules for all text files: nothing of the machine that somebody worked on.

use super::{Fault, File};

/// Where people's and build machines' files live. (Put together here, so as not to find itself.)
const HOMES: &[&str] = &[
    concat!("/", "root/"),
    concat!("/", "work/"),
    concat!("/", "home/"),
    concat!("/", "Users/"),
    concat!("C:", "\\Users\\"),
];

/// Where Cargo.lock may say that a package comes from.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// No absolute path of a machine.
pub(super) fn machine_paths(file: &File) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for home in HOMES {
            // Behind a name or a slash it is a part of another path, or of an address.
            let part_of_more = |c: char| c.is_alphanumeric() || "._-/}*~".contains(c);
            let found =
                line.match_indices(home).any(|(start, _)| !line[..start].ends_with(part_of_more));
            if found {
                let message = format!("a path of somebody's machine: {home}");
                faults.push(Fault::new(&file.path, index + 1, message));
            }
        }
    }
    faults
}

/// Packages come from crates.io, under its own name.
pub(super) fn registries(file: &File) -> Vec<Fault> {
    let mut faults = Vec::new();
    let name = file.path.file_name().unwrap_or_default();
    let is_config = file.path.parent().is_some_and(|dir| dir.ends_with(".cargo"));
    for (index, line) in file.text.lines().enumerate() {
        let line = line.trim();
        if name == "Cargo.lock" {
            let source = line.strip_prefix("source = \"").map(|rest| rest.trim_end_matches('"'));
            if let Some(source) = source.filter(|source| *source != CRATES_IO) {
                let message = format!("a package comes from {source}");
                faults.push(Fault::new(&file.path, index + 1, message));
            }
        } else if is_config
            && ["[source", "[registries", "[registry"].iter().any(|t| line.starts_with(t))
        {
            let message = format!("`{line}` belongs into a machine's own configuration");
            faults.push(Fault::new(&file.path, index + 1, message));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_machines_are_found() {
        for home in HOMES {
            let file = File::planted("a.md", &format!("see\n\"{home}x/y\"\n"));
            let faults = machine_paths(&file);
            assert_eq!(faults.len(), 1, "{home}");
            assert_eq!(faults[0].line, 2);
            let file =
                File::planted("a.md", &format!("https://example.org{home}x and docs{home}y"));
            assert!(machine_paths(&file).is_empty(), "{home}");
        }
    }

    #[test]
    fn packages_from_elsewhere_are_found() {
        let lock = |source: &str| {
            registries(&File::planted(
                "fuzz/Cargo.lock",
                &format!("[[package]]\nsource = \"{source}\"\n"),
            ))
        };
        assert_eq!(lock("registry+https://mirror.example.org/index").len(), 1);
        assert_eq!(lock("git+https://example.org/x#123").len(), 1);
        assert!(lock(CRATES_IO).is_empty());
    }

    #[test]
    fn registries_in_the_configuration_are_found() {
        let config = "[source.crates-io]\nreplace-with = \"mirror\"\n";
        assert_eq!(registries(&File::planted(".cargo/config.toml", config)).len(), 1);
        assert!(registries(&File::planted(".cargo/config.toml", "[alias]\n")).is_empty());
        assert!(registries(&File::planted("docs/config.toml", config)).is_empty());
    }
}
