//! "What is my cap?"

use std::{fmt, path::Path};

use nebula_memory_core::ByteSize;

use crate::source::{Bounds, Sources};

/// The limits that really apply to this process, tightest first.
///
/// ```
/// // How large may the root budget be? Four fifths of what the container or the machine allows.
/// let limits = nebula_monitor::limits();
/// println!("{limits}");
/// let root = limits.cap().map(|cap| cap / 5 * 4);
/// # #[cfg(target_os = "linux")]
/// assert!(root.is_some());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    entries: Vec<LimitReport>,
}

/// One limit, as a source tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitReport {
    /// Which source.
    pub source: String,
    /// The tightest limit of this source, in bytes.
    pub limit: usize,
    /// Bytes left before a limit of this source is met.
    pub left: usize,
}

/// The limits of this process on this machine, probed now. A monitor that exists already answers
/// without probing: [`MemoryMonitor::limits`](crate::MemoryMonitor::limits).
pub fn limits() -> Limits {
    let mut sources = Sources::default();
    sources.add_system(Path::new("/"));
    Limits::of(&sources)
}

impl Limits {
    pub(crate) fn of(sources: &Sources) -> Self {
        let mut entries: Vec<_> = sources
            .bounds()
            .filter_map(|(report, Bounds { cap: limit, left })| {
                let source = sources.reports().get(report)?.name.clone();
                Some(LimitReport { source, limit, left })
            })
            .collect();
        entries.sort_by_key(|entry| entry.limit);
        Self { entries }
    }

    /// The effective cap: the tightest limit of all sources, in bytes; `None` if there is none.
    pub fn cap(&self) -> Option<usize> {
        self.entries.first().map(|entry| entry.limit)
    }

    /// The bytes left before the first limit is met; `None` if there is no limit.
    pub fn left(&self) -> Option<usize> {
        self.entries.iter().map(|entry| entry.left).min()
    }

    /// Every limit, tightest first.
    pub fn as_slice(&self) -> &[LimitReport] {
        &self.entries
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.entries.is_empty() {
            return f.write_str("no limit");
        }
        for (i, LimitReport { source, limit, left }) in self.entries.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let (limit, left) = (ByteSize::new(*limit), ByteSize::new(*left));
            write!(f, "{comma}{limit} from {source} ({left} left)")?;
        }
        Ok(())
    }
}
