//! System memory on Linux, from `/proc/meminfo`; and what `sysinfo(2)` says of it in between, at a
//! tenth of the cost.

use std::path::Path;

use nebula_memory_core::{
    MemoryError, PressureReading,
    sync::atomic::{AtomicU64, Ordering},
};

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

/// Nothing was read yet.
const UNKNOWN: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Meminfo {
    file: KernelFile,
    /// Whether the system call speaks of the same system.
    here: bool,
    /// What was available, but not free, at the latest exact reading: what the kernel would give up
    /// of its caches.
    cached: AtomicU64,
}

impl Meminfo {
    pub(crate) fn open_under(root: &Path) -> Result<Self, MemoryError> {
        let path = under(root, Path::new("/proc/meminfo"));
        let file = KernelFile::open(path.clone()).map_err(|error| {
            let why = format!("{}: {error}{HINT}", path.display());
            MemoryError::source_unavailable(NAME, why)
        })?;
        let here = root == Path::new("/");
        let meminfo = Self { file, here, cached: AtomicU64::new(UNKNOWN) };
        meminfo.read()?;
        Ok(meminfo)
    }

    pub(crate) fn read(&self) -> Result<PressureReading, MemoryError> {
        let mut buffer = [0; BEGINNING];
        let path = self.file.path().display();
        let text = self.file.read(&mut buffer).map_err(|error| {
            MemoryError::source_unavailable(NAME, format_args!("{path}: {error}"))
        })?;
        let (total, available) = parse::meminfo(text).ok_or_else(|| {
            let why = format!("{path}: no MemTotal and MemAvailable in kB");
            MemoryError::source_unavailable(NAME, why)
        })?;
        // Where the two differ about all there is (a container may show a file of its own making),
        // they speak of different systems.
        let cached = match free(self.here) {
            Some((all, free)) if all == total => available.saturating_sub(free),
            _ => UNKNOWN,
        };
        self.cached.store(cached, Ordering::Relaxed);
        Ok(reading(total, available))
    }

    /// What has to be so, and not more than about so, while less than the part `enough` of the
    /// memory is in use even if the caches count as used; `None` if that is not known to be so, and
    /// `/proc/meminfo` has to tell.
    pub(crate) fn glance(&self, enough: f64) -> Option<PressureReading> {
        let cached = self.cached.load(Ordering::Relaxed);
        let (total, free) = free(self.here && cached != UNKNOWN)?;
        // As long as so much is free, the kernel need not touch its caches, and what they held is
        // still to be had.
        let most = reading(total, free);
        (most.ratio() < enough).then(|| reading(total, free.saturating_add(cached).min(total)))
    }
}

fn reading(total: u64, available: u64) -> PressureReading {
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let used = bytes(total.saturating_sub(available));
    PressureReading { used, limit: Some(bytes(total)) }
}

/// All memory and what is free of it, in bytes, if `here` is the system that the call speaks of.
#[cfg(target_os = "linux")]
fn free(here: bool) -> Option<(u64, u64)> {
    if !here {
        return None;
    }
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    #[allow(clippy::useless_conversion, reason = "these are 32 bits wide on some targets")]
    let bytes = |units| u64::from(units).checked_mul(unit);
    Some((bytes(info.totalram)?, bytes(info.freeram)?))
}

#[cfg(not(target_os = "linux"))]
fn free(_here: bool) -> Option<(u64, u64)> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn meminfo(total: u64, available: u64) -> Meminfo {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!("MemTotal: {total} kB\nMemFree: 1 kB\nMemAvailable: {available} kB\n");
        std::fs::write(file.path(), text).unwrap();
        let file = KernelFile::open(file.path().to_path_buf()).unwrap();
        Meminfo { file, here: true, cached: AtomicU64::new(0) }
    }

    #[test]
    fn a_container_with_a_meminfo_of_its_own_is_not_glanced_at() {
        let container = meminfo(1000, 900);
        assert_eq!(container.read().unwrap(), reading(1000 << 10, 900 << 10));
        assert_eq!(container.glance(f64::MAX), None, "the call tells of the host");
        let total = free(true).unwrap().0;
        let machine = meminfo(total >> 10, total >> 10);
        machine.read().unwrap();
        let glance = machine.glance(f64::MAX).unwrap();
        assert_eq!(glance.limit, machine.read().unwrap().limit);
    }
}
