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
    share: Option<f64>,
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
        let stalls = Self { file, began: None, share: None };
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
                (self.began, self.share) = (None, None);
                return Err(error);
            }
        };
        let Some((then, before)) = self.began else {
            self.began = Some((now, total));
            return Ok(());
        };
        let elapsed = now.saturating_sub(then);
        let stalled = Duration::from_micros(total.saturating_sub(before));
        self.share = Some((stalled.as_secs_f64() / elapsed.as_secs_f64()).min(1.0));
        self.began = Some((now, total));
        Ok(())
    }

    /// The kernel has told that tasks stall for `share` of the time: a new window begins.
    pub(crate) fn told(&mut self, share: f64) {
        self.share = Some(self.share.unwrap_or(0.0).max(share));
        self.began = None;
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn share(&self) -> Option<f64> {
        self.share
    }

    pub(crate) fn detail(&self) -> String {
        self.file.path().display().to_string()
    }
}
