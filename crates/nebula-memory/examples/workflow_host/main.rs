//! A host process that runs workflows for many tenants under one process budget, on real text.
//!
//! Every tenant reads files into pooled buffers, splits them into words in an arena, shares
//! per-file summaries with the others through a cache, and merges them into a search index of its
//! own. One tenant is rogue: it feeds its own output back and keeps everything. Its budget refuses
//! it, it gets an error that says why, its memory comes back, and the others don't notice.
//!
//! ```text
//! cargo run --release --example workflow_host -- --help
//! ```

mod host;
mod input;
mod options;
mod progress;
mod report;
mod tenant;
mod text;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    input::{Input, InputError},
    options::Options,
};

/// The caller asked for something impossible. What clap uses, too.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err((code, message)) => {
            eprintln!("error: {message}");
            ExitCode::from(code)
        }
    }
}

/// Whether all went well; or the exit code and what to say.
fn run(options: &Options) -> Result<bool, (u8, String)> {
    options.check().map_err(|message| (USAGE, message))?;
    let input = match &options.input {
        Some(folder) => Input::folder(folder, options.input_limit),
        None => Input::dependencies(options.input_limit),
    };
    let input = input.map_err(|error| match error {
        InputError::Usage(message) => (USAGE, message),
        InputError::Failed(message) => (1, message),
    })?;
    let report = host::run(options, &input).map_err(|error| (1, error.to_string()))?;
    if options.json {
        println!("{}", report.to_json().map_err(|error| (1, error))?);
    } else {
        report.print();
    }
    for problem in report.problems() {
        eprintln!("error: {problem}");
    }
    Ok(report.is_success())
}
