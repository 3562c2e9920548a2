//! What is printed at the end: tables for people, or one JSON object.

use comfy_table::{CellAlignment, Table, presets};
use nebula_memory::core::ByteSize;
use serde::Serialize;

/// Everything that is known at the end.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) budgets: bool,
    pub(crate) input_files: usize,
    pub(crate) input_bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) tenants: Vec<TenantReport>,
    /// Of the well-behaved tenants' results.
    pub(crate) checksum: String,
    pub(crate) cache: CacheReport,
    pub(crate) pool: PoolReport,
    pub(crate) pressure: Vec<String>,
    pub(crate) process: Option<ProcessReport>,
}

#[derive(Serialize)]
pub(crate) struct TenantReport {
    pub(crate) name: String,
    pub(crate) rogue: bool,
    pub(crate) files: usize,
    pub(crate) tokens: u64,
    pub(crate) words: usize,
    /// Bytes; none without budgets.
    pub(crate) peak: Option<usize>,
    pub(crate) limit: Option<usize>,
    pub(crate) outcome: Outcome,
    pub(crate) error: Option<String>,
    /// Of the files that could not be worked on.
    pub(crate) file_errors: Vec<String>,
    /// None unless the workflow was completed.
    pub(crate) checksum: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// All files are in the index.
    Completed,
    /// The budget refused; the tenant's memory came back.
    Refused,
    /// Nothing refused, so that the host itself put an end to it.
    Stopped,
}

#[derive(Serialize)]
pub(crate) struct CacheReport {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) hit_rate: f64,
}

#[derive(Serialize)]
pub(crate) struct PoolReport {
    pub(crate) created: u64,
    pub(crate) reuses: u64,
    pub(crate) reuse_rate: f64,
}

/// The process's budget, in bytes.
#[derive(Serialize)]
pub(crate) struct ProcessReport {
    pub(crate) capacity: usize,
    pub(crate) peak: usize,
    /// After the last tenant was dropped.
    pub(crate) used_at_end: usize,
}

impl Report {
    /// Whether every well-behaved tenant has indexed every file.
    pub(crate) fn is_success(&self) -> bool {
        let well = |t: &&TenantReport| !t.rogue;
        self.tenants
            .iter()
            .filter(well)
            .all(|t| t.outcome == Outcome::Completed && t.file_errors.is_empty())
    }

    /// What went wrong with well-behaved tenants, a line each.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        self.tenants.iter().filter(|t| !t.rogue).flat_map(|t| {
            let refused = t.error.iter().map(|error| format!("{error}; give a larger --budget"));
            let files = t.file_errors.iter().cloned();
            refused.chain(files).map(|problem| format!("{}: {problem}", t.name))
        })
    }

    pub(crate) fn to_json(&self) -> Result<String, String> {
        serde_json::to_string(self).map_err(|e| e.to_string())
    }

    pub(crate) fn print(&self) {
        let size = |bytes: usize| ByteSize::new(bytes).to_string();
        let or_dash = |bytes: Option<usize>| bytes.map_or_else(|| "-".to_owned(), size);
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["tenant", "files", "tokens", "words", "peak", "limit", "outcome"]);
        for t in &self.tenants {
            let outcome = match t.outcome {
                Outcome::Completed => "completed",
                Outcome::Refused => "refused by its budget",
                Outcome::Stopped => "stopped by the host",
            };
            table.add_row([
                format!("{}{}", t.name, if t.rogue { " (rogue)" } else { "" }),
                t.files.to_string(),
                t.tokens.to_string(),
                t.words.to_string(),
                or_dash(t.peak),
                or_dash(t.limit),
                outcome.to_owned(),
            ]);
        }
        for column in table.column_iter_mut().skip(1).take(5) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!(
            "{} files, {}, in {:.2} s",
            self.input_files,
            size(usize::try_from(self.input_bytes).unwrap_or(usize::MAX)),
            self.seconds,
        );
        println!("{table}");
        println!(
            "cache: {:.1} % hits ({} of {})",
            100.0 * self.cache.hit_rate,
            self.cache.hits,
            self.cache.hits + self.cache.misses,
        );
        println!(
            "pool:  {:.1} % reuse ({} buffers created)",
            100.0 * self.pool.reuse_rate,
            self.pool.created,
        );
        match &self.process {
            Some(p) => println!(
                "process budget: {}, peak {}, {} used after the last tenant",
                size(p.capacity),
                size(p.peak),
                size(p.used_at_end),
            ),
            None => println!("process budget: none"),
        }
        println!("pressure events: {}", self.pressure.len());
        for event in &self.pressure {
            println!("  {event}");
        }
        for t in self.tenants.iter().filter(|t| t.rogue) {
            if let Some(error) = &t.error {
                println!("{} got: {error}", t.name);
            }
        }
        println!("checksum of the well-behaved tenants' results: {}", self.checksum);
    }
}
