//! What the process really holds in memory.

use std::path::Path;

use nebula_memory_core::MemoryError;

use crate::{
    parse,
    source::{chain::under, kernel_file::KernelFile},
};

pub(crate) const NAME: &str = "resident memory";

/// The resident memory of this process, whoever allocated it: its own code, other libraries and
/// what its allocator keeps are in it.
///
/// Linux only: `/proc/self/statm`, through a descriptor that stays open.
///
/// ```
/// use nebula_monitor::ResidentMemory;
///
/// match ResidentMemory::open() {
///     Ok(resident) => println!("{} bytes", resident.bytes()?),
///     Err(why) => println!("{why}"),
/// }
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct ResidentMemory {
    file: KernelFile,
    page: u64,
}

impl ResidentMemory {
    /// Of this process.
    ///
    /// # Errors
    /// [`MemoryError::SourceUnavailable`] saying why it cannot be had here.
    pub fn open() -> Result<Self, MemoryError> {
        Self::open_under(Path::new("/"))
    }

    /// As [`open`](Self::open), with the `/proc` that is found under `root`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_under(root: &Path) -> Result<Self, MemoryError> {
        let at = |path: &str| under(root, Path::new(path));
        let fault = |path: &Path, why: &dyn std::fmt::Display| {
            MemoryError::source_unavailable(NAME, format_args!("{}: {why}", path.display()))
        };
        let (vector, pages) = (at("/proc/self/auxv"), at("/proc/self/statm"));
        let words = std::fs::read(&vector).map_err(|error| fault(&vector, &error))?;
        let page = parse::page_size(&words, size_of::<usize>())
            .ok_or_else(|| fault(&vector, &"no page size"))?;
        let file = KernelFile::open(pages.clone()).map_err(|error| fault(&pages, &error))?;
        let resident = Self { file, page };
        resident.bytes()?;
        Ok(resident)
    }

    /// The present size, in bytes. Allocates nothing.
    ///
    /// # Errors
    /// [`MemoryError::SourceUnavailable`] if it cannot be read.
    pub fn bytes(&self) -> Result<usize, MemoryError> {
        let mut buffer = [0; 128];
        let path = self.file.path().display();
        let text = self.file.read(&mut buffer).map_err(|error| {
            MemoryError::source_unavailable(NAME, format_args!("{path}: {error}"))
        })?;
        let bytes = parse::resident_pages(text).and_then(|pages| pages.checked_mul(self.page));
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
        bytes.ok_or_else(|| {
            MemoryError::source_unavailable(NAME, format_args!("{path}: no number of pages"))
        })
    }

    pub(crate) fn detail(&self) -> String {
        self.file.path().display().to_string()
    }
}
