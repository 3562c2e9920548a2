//! `cargo xtask host`: the main example.

use std::ffi::OsString;

use crate::{Result, process::Cmd, workspace::Workspace};

/// Run the main example: `cargo run --release --example workflow_host -- ARGS`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Passed on as they are; `cargo xtask host -- --help` shows the example's own options.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    Cmd::cargo()
        .dir(workspace.root())
        .args(["run", "--release", "--example", "workflow_host", "--"])
        .args(&args.args)
        .run()
}
