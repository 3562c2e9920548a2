//! System memory on Linux, from `/proc/meminfo`.

use std::path::Path;

use nebula_memory_core::{MemoryError, PressureReading};

use crate::{
    parse,
    source::{chain::under, kernel_file::KernelFile, system::NAME},
};

/// `MemTotal` and `MemAvailable` are the first and the third line; the rest is not needed.
const BEGINNING: usize = 512;

const HINT: &str = if cfg!(any(target_os = "linux", feature = "sysinfo")) {
    ""
} else {
    "; outside Linux, system memory needs the feature `sysinfo`"
};

#[derive(Debug)]
pub(crate) struct Meminfo(KernelFile);

impl Meminfo {
    pub(crate) fn open_under(root: &Path) -> Result<Self, MemoryError> {
        let path = under(root, Path::new("/proc/meminfo"));
        let file = KernelFile::open(path.clone()).map_err(|error| {
            let why = format!("{}: {error}{HINT}", path.display());
            MemoryError::source_unavailable(NAME, why)
        })?;
        let meminfo = Self(file);
        meminfo.read()?;
        Ok(meminfo)
    }

    pub(crate) fn read(&self) -> Result<PressureReading, MemoryError> {
        let mut buffer = [0; BEGINNING];
        let path = self.0.path().display();
        let text = self.0.read(&mut buffer).map_err(|error| {
            MemoryError::source_unavailable(NAME, format_args!("{path}: {error}"))
        })?;
        let (total, available) = parse::meminfo(text).ok_or_else(|| {
            let why = format!("{path}: no MemTotal and MemAvailable in kB");
            MemoryError::source_unavailable(NAME, why)
        })?;
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let used = bytes(total.saturating_sub(available));
        Ok(PressureReading { used, limit: Some(bytes(total)) })
    }
}
