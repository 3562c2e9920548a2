//! A sequence of checks: each is announced and timed, all run even if one fails, and a table at the
//! end tells what became of them.

use std::time::{Duration, Instant};

use comfy_table::{Table, presets};

use crate::{Failure, Result};

/// How a check ended, if it did not fail.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    /// It ran and found nothing.
    Passed,
    /// It did not run, and why.
    Skipped(String),
}

#[derive(Debug)]
struct Done {
    name: String,
    time: Duration,
    result: Result<Outcome>,
}

/// The checks done so far.
#[derive(Debug, Default)]
pub(crate) struct Steps(Vec<Done>);

impl Steps {
    /// Runs one check.
    pub(crate) fn run(&mut self, name: &str, check: impl FnOnce() -> Result<Outcome>) {
        eprintln!("\n=== {name}");
        let start = Instant::now();
        let result = check();
        let time = start.elapsed();
        match &result {
            Ok(Outcome::Passed) => eprintln!("=== {name}: passed in {time:.1?}"),
            Ok(Outcome::Skipped(why)) => eprintln!("=== {name}: skipped: {why}"),
            Err(failure) => eprintln!("=== {name}: FAILED in {time:.1?}: {failure}"),
        }
        self.0.push(Done { name: name.into(), time, result });
    }

    /// Prints the table. An error if a check failed or, with `skips_fail`, was skipped.
    pub(crate) fn finish(self, skips_fail: bool) -> Result<()> {
        println!("\n{}\n", self.table());
        let count =
            |f: fn(&Result<Outcome>) -> bool| self.0.iter().filter(|d| f(&d.result)).count();
        let failed = count(Result::is_err);
        let skipped = count(|result| matches!(result, Ok(Outcome::Skipped(_))));
        let passed = self.0.len() - failed - skipped;
        let total: Duration = self.0.iter().map(|done| done.time).sum();
        let summary = format!("{passed} passed, {failed} failed, {skipped} skipped in {total:.0?}");
        if failed > 0 || (skips_fail && skipped > 0) {
            return Err(Failure::new(summary));
        }
        println!("{summary}");
        Ok(())
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN).set_header(["check", "result", "time", "note"]);
        for done in &self.0 {
            let (result, note) = match &done.result {
                Ok(Outcome::Passed) => ("passed", String::new()),
                Ok(Outcome::Skipped(why)) => ("SKIPPED", why.clone()),
                Err(failure) => ("FAILED", failure.to_string()),
            };
            // The whole of it was printed when it happened.
            let note: String = note.lines().next().unwrap_or_default().chars().take(100).collect();
            table.add_row([&done.name, result, &format!("{:.1?}", done.time), &note]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_does_not_stop_the_rest_and_fails_the_whole() {
        let mut steps = Steps::default();
        let mut ran = false;
        steps.run("first", || Err("broken".into()));
        steps.run("second", || {
            ran = true;
            Ok(Outcome::Passed)
        });
        assert!(ran);
        let text = steps.table().to_string();
        assert!(text.contains("FAILED") && text.contains("broken") && text.contains("second"));
        let failure = steps.finish(false).unwrap_err();
        assert!(failure.to_string().starts_with("1 passed, 1 failed, 0 skipped"), "{failure}");
    }

    #[test]
    fn a_skipped_check_is_told_and_fails_only_where_that_is_asked_for() {
        let steps = |name| {
            let mut steps = Steps::default();
            steps.run(name, || Ok(Outcome::Skipped("no tool".into())));
            steps
        };
        assert!(steps("a").table().to_string().contains("no tool"));
        assert!(steps("a").finish(false).is_ok());
        assert!(steps("a").finish(true).is_err());
    }
}
