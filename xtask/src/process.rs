//! Running other programs, with their command line shown and their failure reported.

use std::{
    ffi::{OsStr, OsString},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Failure, Result};

/// A command line that is shown before it runs.
#[derive(Debug)]
pub(crate) struct Cmd {
    command: Command,
    shown: String,
}

impl Cmd {
    /// `program`, without arguments yet.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let shown = quoted(program.as_ref());
        Self { command: Command::new(program), shown }
    }

    /// Cargo, the one that runs us unless `CARGO` names another.
    ///
    /// What cargo tells a program that it runs is taken back: a nested cargo must not believe that
    /// it works on this package.
    pub(crate) fn cargo() -> Self {
        Self { shown: "cargo".into(), ..Self::new(cargo_program()) }.without_cargo_env()
    }

    /// Cargo of another toolchain, through rustup's proxy.
    pub(crate) fn cargo_of(toolchain: &str) -> Self {
        Self::new("cargo")
            .without_cargo_env()
            .env_remove("RUSTUP_TOOLCHAIN")
            .arg(format!("+{toolchain}"))
    }

    pub(crate) fn without_cargo_env(mut self) -> Self {
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if name.starts_with("CARGO_PKG_")
                || ["CARGO", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "LD_LIBRARY_PATH"]
                    .contains(&&*name)
            {
                self.command.env_remove(&key);
            }
        }
        self
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.shown.push(' ');
        self.shown.push_str(&quoted(arg.as_ref()));
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.shown = format!("{key}={} {}", quoted(value.as_ref()), self.shown);
        self.command.env(key, value);
        self
    }

    pub(crate) fn env_remove(mut self, key: &str) -> Self {
        self.command.env_remove(key);
        self
    }

    pub(crate) fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What it prints on standard output goes to standard error.
    pub(crate) fn stdout_to_stderr(mut self) -> Self {
        self.command.stdout(std::io::stderr());
        self
    }

    /// Runs it; an error says which command failed and how.
    pub(crate) fn run(mut self) -> Result<()> {
        self.show();
        let status = self.command.status().map_err(|e| format!("{}: {e}", self.shown))?;
        if status.success() {
            Ok(())
        } else {
            Err(Failure::new(format!("{status}: {}", self.shown)))
        }
    }

    /// Runs it and returns what it printed on standard output; standard error passes through.
    pub(crate) fn output(mut self) -> Result<String> {
        let output = self
            .command
            .stderr(Stdio::inherit())
            .output()
            .map_err(|e| format!("{}: {e}", self.shown))?;
        if !output.status.success() {
            return Err(Failure::new(format!("{}: {}", output.status, self.shown)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it in silence: whether it succeeded, and all that it printed.
    pub(crate) fn silent(mut self) -> Result<(bool, String)> {
        let output = self
            .command
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("{}: {e}", self.shown))?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok((output.status.success(), text))
    }

    /// Shows the command line, as [`run`](Self::run) does, and returns it for [`output`](Self::output).
    pub(crate) fn shown(self) -> Self {
        self.show();
        self
    }

    fn show(&self) {
        // Nothing that is buffered on the way out may appear below the command's own output.
        let _ = std::io::stdout().flush();
        eprintln!("$ {}", self.shown);
    }
}

/// The cargo that runs us.
pub(crate) fn cargo_program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The file that running `program` would start, if there is one on the `PATH`.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(format!("{program}{}", std::env::consts::EXE_SUFFIX)))
        .find(|file| file.is_file())
}

fn quoted(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%^".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_shown_as_a_shell_would_take_them() {
        let cmd = Cmd::new("cargo").args(["test", "a b", "it's"]).env("RUSTFLAGS", "-D warnings");
        assert_eq!(cmd.shown, r"RUSTFLAGS='-D warnings' cargo test 'a b' 'it'\''s'");
    }

    #[test]
    fn a_failing_command_is_an_error_that_names_it() {
        let error = Cmd::new(cargo_program()).arg("--no-such-option").run().unwrap_err();
        assert!(error.to_string().contains("--no-such-option"), "{error}");
    }

    #[test]
    fn a_missing_program_is_an_error_that_names_it() {
        let error = Cmd::new("no-such-program-here").run().unwrap_err();
        assert!(error.to_string().contains("no-such-program-here"), "{error}");
        assert_eq!(find_program("no-such-program-here"), None);
    }
}
