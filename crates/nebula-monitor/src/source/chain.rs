//! What both versions of control groups have in common: a chain of groups, from the process's own
//! to the uppermost that is mounted, each with a limit that applies to everything below it.

use std::path::{Path, PathBuf};

use nebula_memory_core::{
    MemoryError, PressureReading,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    parse::{self, Hierarchy, UNLIMITED},
    source::{Bounds, GroupEvents, kernel_file::KernelFile},
};

/// How the files of one version are called.
pub(crate) struct Names {
    pub(crate) hierarchy: Hierarchy,
    pub(crate) source: &'static str,
    pub(crate) limit: &'static str,
    /// A second limit of the same group, at which the kernel does not kill yet but holds up.
    pub(crate) soft: Option<&'static str>,
    pub(crate) usage: &'static str,
    /// What the group has been through.
    pub(crate) events: &'static str,
    pub(crate) parse_events: fn(&[u8]) -> Option<GroupEvents>,
    /// Key, in `memory.stat`, of the file pages that the kernel drops before it kills.
    pub(crate) droppable: &'static [u8],
}

/// A number on a line of its own takes 21 bytes at most.
type NumberBuffer = [u8; 32];

/// `memory.stat` has less than 4 KiB in both versions, and what is wanted stands in its first half.
type StatBuffer = [u8; 4096];

#[derive(Debug)]
struct Level {
    limit: KernelFile,
    soft: Option<KernelFile>,
    usage: KernelFile,
    stat: Option<KernelFile>,
    /// A tighter limit of ancestors that are not mounted, as it was at probing.
    hidden_limit: u64,
    /// The limit as of the latest reading of it.
    known_limit: AtomicU64,
    /// The droppable bytes as of the latest reading of `memory.stat`, less what usage has fallen by
    /// since, and the usage then; no usage is that large if there was none.
    droppable: AtomicU64,
    droppable_at: AtomicU64,
}

/// What a reading does beside reading the usage of each limited group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anew {
    /// Nothing: limits are taken as they were found last, and `memory.stat` is read only near the
    /// limit.
    Usage,
    /// Reads `memory.stat` where it matters, the own group's limit, and of its ancestors' those
    /// whose turn it is: each has its own out of [`TURNS`].
    Turn(u64),
    /// Reads everything.
    All,
}

/// In so many turns every limit is read once, at least.
pub(crate) const TURNS: u64 = 4;

impl Anew {
    /// Whether the limit of the group so far up from the own one is read.
    fn limit(self, place: usize) -> bool {
        match self {
            Self::Usage => false,
            Self::Turn(turn) => place == 0 || place as u64 % TURNS == turn % TURNS,
            Self::All => true,
        }
    }
}

/// The open files of a chain of control groups; never empty.
#[derive(Debug)]
pub(crate) struct Chain {
    levels: Vec<Level>,
    /// The own group's; there need not be any.
    events: Option<KernelFile>,
    /// Whether the process's own group was not to be seen, so that the mount's is assumed.
    assumed: bool,
}

impl Names {
    fn fault(&self, why: impl std::fmt::Display) -> MemoryError {
        MemoryError::source_unavailable(self.source, why)
    }

    fn number(
        &self,
        file: &KernelFile,
        parse: impl FnOnce(&[u8]) -> Option<u64>,
    ) -> Result<u64, MemoryError> {
        let mut buffer = NumberBuffer::default();
        let fault = |why: &dyn std::fmt::Display| {
            self.fault(format_args!("{}: {why}", file.path().display()))
        };
        let text = file.read(&mut buffer).map_err(|error| fault(&error))?;
        parse(text).ok_or_else(|| fault(&"not a number of bytes"))
    }

    fn limit(&self, level: &Level) -> Result<u64, MemoryError> {
        let mut limit = self.number(&level.limit, parse::limit)?.min(level.hidden_limit);
        if let Some(soft) = &level.soft {
            limit = limit.min(self.number(soft, parse::limit)?);
        }
        level.known_limit.store(limit, Ordering::Relaxed);
        Ok(limit)
    }

    fn usage(&self, level: &Level) -> Result<u64, MemoryError> {
        self.number(&level.usage, parse::number)
    }
}

impl Chain {
    /// Finds and opens the chain in the machine (or the copy of one) under `root`.
    pub(crate) fn open(root: &Path, names: &Names) -> Result<Self, MemoryError> {
        let text = |file: &str| {
            let path = under(root, Path::new(file));
            match std::fs::read(&path) {
                Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
                Err(error) => Err(names.fault(format_args!("{}: {error}", path.display()))),
            }
        };
        let (groups, mounts) = (text("/proc/self/cgroup")?, text("/proc/self/mountinfo")?);
        let group = parse::cgroup_path(&groups, names.hierarchy).ok_or_else(|| {
            names.fault("/proc/self/cgroup names no control group of this kind for the process")
        })?;
        let mounts: Vec<_> = parse::mounts(&mounts, names.hierarchy).collect();
        if mounts.is_empty() {
            return Err(names.fault("/proc/self/mountinfo shows no mount of this kind"));
        }
        // Where the group lies within a mount, that is the place; where it does not (a container
        // that sees the host's paths, or a process that was moved out of its namespace), the mount
        // itself is the best guess there is.
        let exact = mounts.iter().filter_map(|mount| {
            let relative = parse::within(group, &mount.root)?;
            Some((under(root, &mount.point), relative, false))
        });
        let guessed = mounts.iter().map(|mount| (under(root, &mount.point), PathBuf::new(), true));
        for (point, relative, assumed) in exact.chain(guessed) {
            let (levels, events) = open_levels(&point, &relative, names);
            if !levels.is_empty() {
                let mut chain = Self { levels, events, assumed };
                chain.find_hidden_limit(names)?;
                return Ok(chain);
            }
        }
        Err(names.fault(format_args!(
            "no group from {group} up has both {} and {}: it is the root group, or the memory \
             controller is not enabled here",
            names.limit, names.usage
        )))
    }

    /// Version 1 tells the tightest limit of all ancestors, also of those above the mount.
    fn find_hidden_limit(&mut self, names: &Names) -> Result<(), MemoryError> {
        let mut visible = UNLIMITED;
        for level in &self.levels {
            visible = visible.min(names.limit(level)?);
        }
        if let Some(own) = self.levels.first_mut() {
            let all = own.stat(b"hierarchical_memory_limit", parse::limit).unwrap_or(UNLIMITED);
            // Of limits that are visible, the present value counts and not the one of probing.
            own.hidden_limit = if all < visible { all } else { UNLIMITED };
        }
        Ok(())
    }

    /// How many groups are watched.
    pub(crate) fn len(&self) -> usize {
        self.levels.len()
    }

    /// The tightest limit of the chain, and the least that is left in any of its groups.
    pub(crate) fn bounds(&self, names: &Names) -> Result<Option<Bounds>, MemoryError> {
        let mut bounds: Option<Bounds> = None;
        for level in &self.levels {
            let reading = level.read(names, Anew::All, true)?;
            let Some(PressureReading { used, limit: Some(cap) }) = reading else { continue };
            let (left, so_far) = (cap.saturating_sub(used), bounds.unwrap_or(Bounds::NONE));
            bounds = Some(Bounds { cap: cap.min(so_far.cap), left: left.min(so_far.left) });
        }
        Ok(bounds)
    }

    /// The tightest limit as it is known, without reading anything.
    pub(crate) fn known_cap(&self) -> Option<usize> {
        let limits = self.levels.iter().map(|level| level.known_limit.load(Ordering::Relaxed));
        limits.min().filter(|limit| *limit != UNLIMITED).map(saturate)
    }

    /// The reading of the group that is fullest.
    pub(crate) fn read(&self, names: &Names, anew: Anew) -> Result<PressureReading, MemoryError> {
        let mut fullest: Option<PressureReading> = None;
        for (place, level) in self.levels.iter().enumerate() {
            let Some(reading) = level.read(names, anew, anew.limit(place))? else { continue };
            if fullest.is_none_or(|fullest| reading.ratio() > fullest.ratio()) {
                fullest = Some(reading);
            }
        }
        match (fullest, self.levels.first()) {
            (Some(reading), _) => Ok(reading),
            (None, Some(own)) => {
                Ok(PressureReading { used: saturate(names.usage(own)?), limit: None })
            }
            (None, None) => Err(names.fault("no control group is watched")),
        }
    }

    /// What the own group has been through.
    pub(crate) fn events(&self, names: &Names) -> Option<GroupEvents> {
        let mut buffer = [0; 256];
        (names.parse_events)(self.events.as_ref()?.read(&mut buffer).ok()?)
    }

    /// The usage files of the groups that have a limit, and that limit as it is known.
    #[cfg(target_os = "linux")]
    pub(crate) fn limited(&self) -> impl Iterator<Item = (&KernelFile, u64)> {
        let limit = |level: &Level| level.known_limit.load(Ordering::Relaxed);
        let limited = self.levels.iter().map(move |level| (&level.usage, limit(level)));
        limited.filter(|(_, limit)| *limit != UNLIMITED)
    }

    /// The directory of the own group.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.levels.first()?.limit.path().parent()
    }

    /// Where it reads, for reports.
    pub(crate) fn detail(&self) -> String {
        let place = self.directory().unwrap_or(Path::new("")).display();
        let ancestors = match self.len().saturating_sub(1) {
            0 => String::new(),
            1 => " and 1 ancestor".to_owned(),
            n => format!(" and {n} ancestors"),
        };
        let assumed = if self.assumed {
            ", assumed: the process's own group is not visible here"
        } else {
            ""
        };
        format!("{place}{ancestors}{assumed}")
    }
}

impl Level {
    /// How full the group is; `None` if it has no limit, which is read if `limit` is set.
    fn read(
        &self,
        names: &Names,
        anew: Anew,
        limit: bool,
    ) -> Result<Option<PressureReading>, MemoryError> {
        let known = || self.known_limit.load(Ordering::Relaxed);
        let limit = if limit { names.limit(self)? } else { known() };
        if limit == UNLIMITED {
            return Ok(None);
        }
        let mut used = names.usage(self)?;
        // File pages count as used, but the kernel drops those that nobody uses before it runs
        // out. It matters only when it might be getting tight.
        if used > limit / 2 {
            used = used.saturating_sub(self.droppable(names, anew, used, limit));
        } else if anew != Anew::Usage {
            // What was known before would be old when it matters again.
            self.droppable_at.store(u64::MAX, Ordering::Relaxed);
        }
        Ok(Some(PressureReading { used: saturate(used), limit: Some(saturate(limit)) }))
    }

    /// How much of `used` the kernel would drop. To ask costs ten times what reading the usage
    /// does, so that between full readings the latest answer is taken, less all that usage has
    /// fallen by since: as long as the limit is not near, the kernel has no reason to drop any of
    /// it for the group's own sake.
    fn droppable(&self, names: &Names, anew: Anew, used: u64, limit: u64) -> u64 {
        let (known, at) = (&self.droppable, &self.droppable_at);
        let then = at.load(Ordering::Relaxed);
        let taken = anew == Anew::Usage && then != u64::MAX && used < limit - limit / 16;
        let droppable = match then.saturating_sub(used) {
            0 if taken => return known.load(Ordering::Relaxed),
            fallen if taken => known.load(Ordering::Relaxed).saturating_sub(fallen),
            _ => self.stat(names.droppable, parse::number).unwrap_or(0),
        };
        known.store(droppable, Ordering::Relaxed);
        at.store(used, Ordering::Relaxed);
        droppable
    }

    /// A figure of `memory.stat`; `None` if there is no such file or figure.
    fn stat(&self, key: &[u8], parse: fn(&[u8]) -> Option<u64>) -> Option<u64> {
        let stat = self.stat.as_ref()?;
        let mut buffer: StatBuffer = [0; 4096];
        let text = stat.read(&mut buffer).ok()?;
        // A line that the end of the buffer may have cut is not taken.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        parse(parse::stat_value(text.get(..whole)?, key)?)
    }
}

/// The levels from `relative` up to `point` whose limits apply to `relative`.
fn open_levels(point: &Path, relative: &Path, names: &Names) -> (Vec<Level>, Option<KernelFile>) {
    let (mut levels, mut events) = (Vec::new(), None);
    for part in relative.ancestors() {
        let directory = point.join(part);
        let open = |name| KernelFile::open(directory.join(name));
        // In version 1 a group may ignore the limits of its parents (`use_hierarchy` of the
        // parent is 0); kernels since 5.11 don't offer that any more.
        if !levels.is_empty() {
            let flat = std::fs::read(directory.join("memory.use_hierarchy"));
            if flat.is_ok_and(|text| parse::number(&text) == Some(0)) {
                break;
            }
        }
        if let (Ok(limit), Ok(usage)) = (open(names.limit), open(names.usage)) {
            let stat = open("memory.stat").ok();
            let soft = names.soft.and_then(|soft| open(soft).ok());
            if levels.is_empty() {
                events = open(names.events).ok();
            }
            levels.push(Level {
                limit,
                soft,
                usage,
                stat,
                hidden_limit: UNLIMITED,
                known_limit: AtomicU64::new(UNLIMITED),
                droppable: AtomicU64::new(0),
                droppable_at: AtomicU64::new(u64::MAX),
            });
        }
    }
    (levels, events)
}

/// The absolute path `path` as it lies under `root`.
pub(crate) fn under(root: &Path, path: &Path) -> PathBuf {
    // Joining an absolute path would replace the root.
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn saturate(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
