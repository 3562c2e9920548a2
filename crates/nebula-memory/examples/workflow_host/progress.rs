//! What is seen while the workflows run: a bar for each tenant, or plain lines where standard error
//! is no terminal.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use nebula_memory::core::ByteSize;

/// The display of all tenants.
pub(crate) struct Progress {
    bars: MultiProgress,
    plain: bool,
}

/// One tenant's line.
pub(crate) struct Line {
    bar: ProgressBar,
    plain: bool,
    shown: Option<Instant>,
}

/// How often a plain line is printed.
const EVERY: Duration = Duration::from_secs(1);

impl Progress {
    pub(crate) fn new() -> Self {
        let plain = !std::io::stderr().is_terminal();
        let target =
            if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        Self { bars: MultiProgress::with_draw_target(target), plain }
    }

    pub(crate) fn line(&self, tenant: &str, files: usize) -> Line {
        let bar = self.bars.add(ProgressBar::new(files as u64));
        let style =
            ProgressStyle::with_template("{prefix:<12} {bar:24} {pos:>5}/{len} files  {msg}");
        // The template is a constant; should it ever be wrong, the default style shows the same.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(tenant.to_owned());
        Line { bar, plain: self.plain, shown: None }
    }
}

impl Line {
    /// Shows how far the tenant is, and how much it uses of what it may.
    pub(crate) fn update(&mut self, done: usize, used: Option<(usize, usize)>) {
        self.bar.set_position(done as u64);
        let memory = match used {
            Some((used, limit)) => format!("{} of {}", ByteSize::new(used), ByteSize::new(limit)),
            None => "no limit".to_owned(),
        };
        if self.plain && self.shown.is_none_or(|at| at.elapsed() >= EVERY) {
            self.shown = Some(Instant::now());
            eprintln!("{}: {done} files done, {memory}", self.bar.prefix());
        }
        self.bar.set_message(memory);
    }

    /// Shows how it ended.
    pub(crate) fn finish(&self, outcome: &str) {
        if self.plain {
            eprintln!("{}: {outcome}", self.bar.prefix());
        }
        self.bar.abandon_with_message(outcome.to_owned());
    }
}
