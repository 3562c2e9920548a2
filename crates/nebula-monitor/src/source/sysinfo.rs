//! System memory on every platform, through the `sysinfo` crate.

use std::fmt;

use nebula_memory_core::{MemoryError, PressureReading, PressureSource, sync::Mutex};
use sysinfo::{MemoryRefreshKind, System};

const NAME: &str = "sysinfo";

/// The memory of the whole system, as the `sysinfo` crate tells it on Linux, Windows, macOS and
/// the BSDs. Needs the feature `sysinfo`.
///
/// On Linux, [`SystemMemory`](crate::SystemMemory) reads the same figures without this detour.
///
/// ```
/// use nebula_monitor::{PressureSource, SysinfoMemory};
///
/// let memory = SysinfoMemory::open()?;
/// assert!(memory.read()?.limit > Some(0));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub struct SysinfoMemory {
    /// Refreshing takes `&mut`; nobody else's code runs under this lock.
    system: Mutex<System>,
}

impl SysinfoMemory {
    /// The memory of this system.
    ///
    /// # Errors
    /// [`MemoryError::SourceUnavailable`] on a platform that `sysinfo` does not know.
    pub fn open() -> Result<Self, MemoryError> {
        let memory = Self { system: Mutex::new(System::new().made()?) };
        memory.read()?;
        Ok(memory)
    }
}

/// What `System::new` returns: the system in older releases of the range that we accept, and a
/// result in newer ones.
trait Made {
    fn made(self) -> Result<System, MemoryError>;
}

impl Made for System {
    fn made(self) -> Result<System, MemoryError> {
        Ok(self)
    }
}

impl<E: fmt::Display> Made for Result<System, E> {
    fn made(self) -> Result<System, MemoryError> {
        self.map_err(|error| MemoryError::source_unavailable(NAME, error))
    }
}

impl PressureSource for SysinfoMemory {
    fn name(&self) -> &str {
        NAME
    }

    fn read(&self) -> Result<PressureReading, MemoryError> {
        let (total, available) = {
            let mut system = self.system.lock();
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            (system.total_memory(), system.available_memory())
        };
        if total == 0 {
            return Err(MemoryError::source_unavailable(NAME, "it reports no memory at all"));
        }
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let used = bytes(total.saturating_sub(available));
        Ok(PressureReading { used, limit: Some(bytes(total)) })
    }
}

impl fmt::Debug for SysinfoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SysinfoMemory").finish_non_exhaustive()
    }
}
