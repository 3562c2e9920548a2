//! Control groups of version 1.

use std::path::Path;

use nebula_memory_core::{MemoryError, PressureReading, PressureSource};

use crate::{
    parse::{self, Hierarchy},
    source::{
        Bounds, GroupEvents,
        chain::{Anew, Chain, Names},
    },
};

const NAMES: Names = Names {
    hierarchy: Hierarchy::V1,
    source: "cgroup v1",
    limit: "memory.limit_in_bytes",
    soft: None,
    usage: "memory.usage_in_bytes",
    events: "memory.failcnt",
    parse_events: parse::failures,
    droppable: b"total_inactive_file",
};

/// The process's memory control group of version 1 and its ancestors.
///
/// A reading is that of the fullest group of the chain (`memory.usage_in_bytes` of
/// `memory.limit_in_bytes`). Where `memory.stat` tells of a tighter limit in an ancestor that is
/// not mounted here, the own group is held to it; that one is read at opening only. Everything
/// else said of [`CgroupV2`](crate::CgroupV2) holds here too.
///
/// ```
/// use nebula_monitor::{CgroupV1, PressureSource};
///
/// match CgroupV1::open() {
///     Ok(group) => println!("{:?} of cap {:?}", group.read()?, group.cap()?),
///     Err(why) => println!("{why}"),
/// }
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct CgroupV1 {
    chain: Chain,
}

impl CgroupV1 {
    /// The control group of this process.
    ///
    /// # Errors
    /// [`MemoryError::SourceUnavailable`] saying why it does not apply here.
    pub fn open() -> Result<Self, MemoryError> {
        Self::open_under(Path::new("/"))
    }

    /// As [`open`](Self::open), for the files of a machine that are found under `root`: a copy
    /// of its `/proc` and `/sys/fs/cgroup`, made for a test or mounted by a container.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_under(root: &Path) -> Result<Self, MemoryError> {
        Ok(Self { chain: Chain::open(root, &NAMES)? })
    }

    /// The tightest limit of the chain, in bytes.
    ///
    /// # Errors
    /// [`MemoryError::SourceUnavailable`] if a limit cannot be read.
    pub fn cap(&self) -> Result<Option<usize>, MemoryError> {
        Ok(self.bounds()?.map(|bounds| bounds.cap))
    }

    pub(crate) fn bounds(&self) -> Result<Option<Bounds>, MemoryError> {
        self.chain.bounds(&NAMES)
    }

    pub(crate) fn read_anew(&self, anew: Anew) -> Result<PressureReading, MemoryError> {
        self.chain.read(&NAMES, anew)
    }

    /// As [`read`](PressureSource::read), with the limits as the last such reading found them: one
    /// `pread` for each group that has a limit (two while it is nearly full; file pages that the
    /// kernel would drop are taken as known). For readings every millisecond; limits change seldom.
    ///
    /// # Errors
    /// [`MemoryError::SourceUnavailable`] if a usage cannot be read.
    pub fn read_usage(&self) -> Result<PressureReading, MemoryError> {
        self.read_anew(Anew::Usage)
    }

    /// What the kernel has counted for the process's own group since that was made; `None` if it
    /// does not tell.
    pub fn events(&self) -> Option<GroupEvents> {
        self.chain.events(&NAMES)
    }

    /// How many control groups are watched: the process's own and its ancestors.
    pub fn depth(&self) -> usize {
        self.chain.len()
    }

    pub(crate) fn known_cap(&self) -> Option<usize> {
        self.chain.known_cap()
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn chain(&self) -> &Chain {
        &self.chain
    }

    pub(crate) fn detail(&self) -> String {
        self.chain.detail()
    }
}

impl PressureSource for CgroupV1 {
    fn name(&self) -> &str {
        NAMES.source
    }

    fn read(&self) -> Result<PressureReading, MemoryError> {
        self.read_anew(Anew::All)
    }
}
