//! Control groups of version 2.

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
    hierarchy: Hierarchy::V2,
    source: "cgroup v2",
    limit: "memory.max",
    soft: Some("memory.high"),
    usage: "memory.current",
    events: "memory.events",
    parse_events: parse::events,
    droppable: b"inactive_file",
};

/// The process's control group of version 2 and its ancestors, up to the uppermost that is mounted.
///
/// A limit binds all that lies below it, so a reading is that of the fullest group of the chain
/// (`memory.current` of the lower one of `memory.max` and `memory.high`, beyond which the kernel
/// kills or holds up the process), and [`cap`](Self::cap) is the tightest limit, which need
/// not be the same group's. Without any limit, the reading is the usage of the process's own group.
///
/// File pages count as used. Once a group is more than half full, those that the kernel would drop
/// first (`inactive_file`) are subtracted, so that a process that reads much is not taken for one
/// that runs out of memory.
///
/// Files stay open; a reading takes a `pread` or two for each group and does not allocate. A
/// process that is moved to another group while it runs keeps watching the old one.
///
/// ```
/// use nebula_monitor::{CgroupV2, PressureSource};
///
/// match CgroupV2::open() {
///     Ok(group) => println!("{:?} of cap {:?}", group.read()?, group.cap()?),
///     Err(why) => println!("{why}"),
/// }
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct CgroupV2 {
    chain: Chain,
}

impl CgroupV2 {
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

    pub(crate) fn directory(&self) -> Option<&Path> {
        self.chain.directory()
    }

    pub(crate) fn detail(&self) -> String {
        self.chain.detail()
    }
}

impl PressureSource for CgroupV2 {
    fn name(&self) -> &str {
        NAMES.source
    }

    fn read(&self) -> Result<PressureReading, MemoryError> {
        self.read_anew(Anew::All)
    }
}
