//! What can be said on the command line.

use std::path::PathBuf;

use clap::Parser;
use nebula_memory::core::ByteSize;

/// Runs search-index workflows for many tenants in one process, each within its memory budget. One
/// of them is rogue: it feeds its own output back and keeps everything.
#[derive(Debug, Parser)]
#[command(name = "workflow_host")]
pub(crate) struct Options {
    /// How many tenants there are.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) tenants: u16,

    /// How many of them are rogue (the last ones).
    #[arg(long, default_value_t = 1)]
    pub(crate) rogue: u16,

    /// How many threads run the workflows.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: u16,

    /// What the whole process may use, such as 256MiB.
    #[arg(long, default_value = "256MiB")]
    pub(crate) budget: ByteSize,

    /// Run the same work on the plain heap, without any limit.
    #[arg(long)]
    pub(crate) no_budgets: bool,

    /// A folder of text to work on, instead of the sources of this workspace's dependencies.
    #[arg(long, value_name = "DIR")]
    pub(crate) input: Option<PathBuf>,

    /// How much input to read at most.
    #[arg(long, default_value = "32MiB")]
    pub(crate) input_limit: ByteSize,

    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Options {
    /// What clap cannot check by itself.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.rogue > self.tenants {
            return Err(format!(
                "--rogue {} is more than the {} tenants there are",
                self.rogue, self.tenants
            ));
        }
        if self.budget.get() == 0 {
            return Err("--budget must be above zero, such as 256MiB".to_owned());
        }
        if self.input_limit.get() == 0 {
            return Err("--input-limit must be above zero, such as 32MiB".to_owned());
        }
        Ok(())
    }

    pub(crate) fn is_rogue(&self, tenant: u16) -> bool {
        tenant >= self.tenants - self.rogue
    }
}
