//! Pressure-stall information: for how much of the time tasks wait for memory.

use std::{path::Path, time::Duration};

use nebula_memory_core::MemoryError;

use crate::{
    parse,
    source::{chain::under, kernel_file::KernelFile},
};

pub(crate) const NAME: &str = "memory stalls";

/// The file of the own control group where there is one, or else the system's.
#[derive(Debug)]
pub(crate) struct Stalls {
    file: KernelFile,
    /// When the present window began, and the counter then.
    began: Option<(Duration, u64)>,
    /// The stalled part of the last whole window.
    measured: Option<f64>,
    /// What the kernel has told beside it, and the ends of windows until that is forgotten.
    told: Option<(f64, u8)>,
}

impl Stalls {
    pub(crate) fn open_under(root: &Path, group: Option<&Path>) -> Result<Self, MemoryError> {
        let system = under(root, Path::new("/proc/pressure/memory"));
        let own = group.map(|group| group.join("memory.pressure"));
        let own = own.and_then(|path| Self::open(&path).ok());
        own.map_or_else(|| Self::open(&system), Ok)
    }

    fn open(path: &Path) -> Result<Self, MemoryError> {
        let file = KernelFile::open(path.to_path_buf()).map_err(|error| {
            MemoryError::source_unavailable(NAME, format_args!("{}: {error}", path.display()))
        })?;
        let stalls = Self { file, began: None, measured: None, told: None };
        // Some kernels have the file and refuse to read it: pressure-stall information is off.
        stalls.total()?;
        Ok(stalls)
    }

    fn total(&self) -> Result<u64, MemoryError> {
        let mut buffer = [0; 256];
        let path = self.file.path().display();
        let text = self.file.read(&mut buffer).map_err(|error| {
            MemoryError::source_unavailable(NAME, format_args!("{path}: {error}"))
        })?;
        parse::stalled(text).ok_or_else(|| {
            MemoryError::source_unavailable(NAME, format_args!("{path}: no total of `some`"))
        })
    }

    /// Reads the counter at `now` if a window has ended; the share is that of the last whole one.
    pub(crate) fn read(&mut self, now: Duration, window: Duration) -> Result<(), MemoryError> {
        if let Some((then, _)) = self.began {
            match now.checked_sub(then) {
                Some(elapsed) if elapsed < window => return Ok(()),
                Some(_) => {}
                // A clock that has gone back: a new window begins.
                None => self.began = None,
            }
        }
        let total = match self.total() {
            Ok(total) => total,
            Err(error) => {
                (self.began, self.measured, self.told) = (None, None, None);
                return Err(error);
            }
        };
        let Some((then, before)) = self.began else {
            self.began = Some((now, total));
            return Ok(());
        };
        let elapsed = now.saturating_sub(then);
        let stalled = Duration::from_micros(total.saturating_sub(before));
        self.measured = Some((stalled.as_secs_f64() / elapsed.as_secs_f64()).min(1.0));
        self.told = self.told.filter(|(_, ends)| *ends > 1).map(|(share, ends)| (share, ends - 1));
        self.began = Some((now, total));
        Ok(())
    }

    /// The kernel has told that tasks stall for `share` of the time: that counts, as the least,
    /// until the next whole window has ended. What is measured goes on: the kernel may tell once in
    /// every window, and more may be stalled than it was asked to tell of.
    pub(crate) fn told(&mut self, share: f64) {
        let ends = if self.began.is_some() { 2 } else { 1 };
        self.told = Some((share, ends));
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn share(&self) -> Option<f64> {
        let told = self.told.map(|(share, _)| share);
        [self.measured, told].into_iter().flatten().reduce(f64::max)
    }

    pub(crate) fn detail(&self) -> String {
        self.file.path().display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    const WINDOW: Duration = Duration::from_millis(500);

    /// Reads `stalls` at `now`, when `total` microseconds have been stalled.
    fn share(machine: &Path, stalls: &mut Stalls, now: Duration, total: u128) -> Option<f64> {
        let text = format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={total}\n");
        std::fs::write(machine.join("proc/pressure/memory"), text).unwrap();
        stalls.read(now, WINDOW).unwrap();
        stalls.share()
    }

    fn machine() -> (tempfile::TempDir, Stalls) {
        let machine = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(machine.path().join("proc/pressure")).unwrap();
        std::fs::write(machine.path().join("proc/pressure/memory"), "some total=0\n").unwrap();
        let stalls = Stalls::open_under(machine.path(), None).unwrap();
        (machine, stalls)
    }

    #[test]
    fn a_kernel_that_tells_in_every_window_hides_nothing() {
        let (machine, mut stalls) = machine();
        let mut seen = Vec::new();
        for step in 0..40 {
            // It tells every 400 ms of a tenth, while four fifths are stalled, and then one.
            stalls.told(0.1);
            let now = MILLI * 400 * step;
            let total =
                now.as_micros() * 4 / 5 - now.saturating_sub(MILLI * 8000).as_micros() * 3 / 5;
            seen.push(share(machine.path(), &mut stalls, now, total).unwrap());
        }
        assert!((seen[19] - 0.8).abs() < 1e-9, "{seen:?}");
        assert!((seen[39] - 0.2).abs() < 1e-9, "{seen:?}");
    }

    #[test]
    fn what_was_told_counts_until_the_next_whole_window_has_ended() {
        let (machine, mut stalls) = machine();
        let at = |stalls: &mut Stalls, millis| share(machine.path(), stalls, MILLI * millis, 0);
        stalls.told(0.1);
        assert_eq!(
            [0, 499, 500].map(|now| at(&mut stalls, now)),
            [Some(0.1), Some(0.1), Some(0.0)]
        );
        stalls.told(0.3);
        let shares = [600, 1000, 1499, 1500].map(|now| at(&mut stalls, now));
        assert_eq!(shares, [Some(0.3), Some(0.3), Some(0.3), Some(0.0)]);
    }
}
