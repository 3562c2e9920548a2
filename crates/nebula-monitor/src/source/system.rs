//! The memory of the whole system, by the best way there is.

use std::path::Path;

use nebula_memory_core::{MemoryError, PressureReading, PressureSource};

use crate::source::meminfo::Meminfo;

pub(crate) const NAME: &str = "system memory";

/// The memory of the whole system: what is in use and cannot be had without swapping, of all there
/// is.
///
/// On Linux it is read from `/proc/meminfo` through an open descriptor, without allocating;
/// elsewhere through the `sysinfo` crate, if that feature is on.
///
/// ```
/// use nebula_monitor::{PressureSource, SystemMemory};
///
/// let memory = SystemMemory::open()?;
/// let reading = memory.read()?;
/// assert!(Some(reading.used) <= reading.limit);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct SystemMemory {
    way: Way,
}

#[derive(Debug)]
enum Way {
    Meminfo(Meminfo),
    #[cfg(feature = "sysinfo")]
    Sysinfo(Box<crate::source::SysinfoMemory>),
}

impl SystemMemory {
    /// The memory of this system.
    ///
    /// # Errors
    /// [`MemoryError::SourceUnavailable`] saying why it cannot be read here.
    pub fn open() -> Result<Self, MemoryError> {
        let fast = Self::open_under(Path::new("/"));
        #[cfg(feature = "sysinfo")]
        if fast.is_err() {
            let sysinfo = crate::source::SysinfoMemory::open()?;
            return Ok(Self { way: Way::Sysinfo(Box::new(sysinfo)) });
        }
        fast
    }

    /// The memory of the Linux system whose `/proc` is found under `root`.
    ///
    /// # Errors
    /// [`MemoryError::SourceUnavailable`] if there is no such file, or it holds something else.
    pub fn open_under(root: &Path) -> Result<Self, MemoryError> {
        Ok(Self { way: Way::Meminfo(Meminfo::open_under(root)?) })
    }

    /// A reading as cheap as can be, while less than the part `enough` is in use for certain; `None`
    /// if there is no such way, or that much may be.
    pub(crate) fn glance(&self, enough: f64) -> Option<PressureReading> {
        match &self.way {
            Way::Meminfo(meminfo) => meminfo.glance(enough),
            #[cfg(feature = "sysinfo")]
            Way::Sysinfo(_) => None,
        }
    }

    pub(crate) fn detail(&self) -> &'static str {
        match self.way {
            Way::Meminfo(_) => "/proc/meminfo",
            #[cfg(feature = "sysinfo")]
            Way::Sysinfo(_) => "the sysinfo crate",
        }
    }
}

impl PressureSource for SystemMemory {
    fn name(&self) -> &str {
        NAME
    }

    fn read(&self) -> Result<PressureReading, MemoryError> {
        match &self.way {
            Way::Meminfo(meminfo) => meminfo.read(),
            #[cfg(feature = "sysinfo")]
            Way::Sysinfo(sysinfo) => sysinfo.read(),
        }
    }
}
