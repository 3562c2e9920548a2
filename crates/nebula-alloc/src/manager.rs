//! Which allocators there are.

use std::{fmt, mem, sync::LazyLock};

use nebula_memory_core::{
    ByteSize, UsageCell,
    sync::{Arc, Mutex, Weak},
};

use crate::{AllocatorReport, AllocatorTotal};

/// A list of the allocators that are alive, with what they hold: one for the process
/// ([`global`](Self::global)), and others wherever they help.
///
/// An allocator publishes its figures in a [`UsageCell`] and the manager looks at the cell; the
/// allocator itself is not held, need not be shareable between threads, and vanishes from the list
/// when its cell is dropped. Listing reads atomics: it never makes an allocation wait, and takes no
/// lock while it looks.
///
/// ```
/// use nebula_alloc::{AllocatorManager, BumpAllocator, SystemAllocator, Tracked};
/// use nebula_memory_core::{AllocatorKind, TypedAllocator};
///
/// let manager = AllocatorManager::new();
/// let system = Tracked::new(SystemAllocator::new(), "heap", AllocatorKind::System)
///     .registered_in(&manager);
/// let scratch = Tracked::exclusive(BumpAllocator::try_new(4096)?, "scratch", AllocatorKind::Bump)
///     .publish_capacity()
///     .registered_in(&manager);
/// let number = scratch.try_new(1_u64)?;
///
/// let reports = manager.list();
/// assert_eq!((reports[1].used, reports[1].capacity), (8, Some(4096)));
/// assert_eq!(manager.total().used, 8);
/// println!("{manager}");
/// # drop(number);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Debug, Default)]
pub struct AllocatorManager {
    /// In the order of registration, with no cell twice. Neither allocates nor frees while the lock
    /// is held: under a global allocator that charges somebody, either could come back here.
    cells: Mutex<Vec<Weak<UsageCell>>>,
}

impl AllocatorManager {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self { cells: Mutex::new(Vec::new()) }
    }

    /// The list of this process.
    ///
    /// ```
    /// use nebula_alloc::{AllocatorManager, Tracked};
    /// use nebula_memory_core::{AllocatorKind, Global};
    ///
    /// let heap = Tracked::new(Global, "parser", AllocatorKind::System)
    ///     .registered_in(AllocatorManager::global());
    /// assert!(AllocatorManager::global().list().iter().any(|report| report.name == "parser"));
    /// # drop(heap);
    /// ```
    #[must_use]
    pub fn global() -> &'static Self {
        static GLOBAL: LazyLock<AllocatorManager> = LazyLock::new(AllocatorManager::new);
        &GLOBAL
    }

    /// Lists the allocator behind `cell` until the cell is dropped. Once is enough: a cell that is
    /// listed already stays where it is.
    ///
    /// Takes O(n) in the number of allocators listed.
    pub fn register(&self, cell: &Arc<UsageCell>) {
        let new = Arc::downgrade(cell);
        let mut spare = Vec::new();
        loop {
            let mut cells = self.cells.lock();
            if cells.iter().any(|listed| listed.ptr_eq(&new)) {
                break;
            }
            if cells.len() < cells.capacity() {
                cells.push(new);
                break;
            }
            let live = cells.iter().filter(|listed| listed.strong_count() > 0).count();
            if live < spare.capacity() {
                // The dead ones stay in the old list, which is dropped after the lock.
                let live = cells.iter_mut().filter(|listed| listed.strong_count() > 0);
                // A cell that died since it was counted makes room rather than taking it.
                spare.extend(live.map(mem::take));
                spare.push(new);
                mem::swap(&mut *cells, &mut spare);
                break;
            }
            drop(cells);
            spare = Vec::with_capacity((live + 1).saturating_mul(2));
        }
    }

    /// Who is alive, in the order of registration.
    fn live(&self) -> Vec<Arc<UsageCell>> {
        let mut live = Vec::new();
        loop {
            let cells = self.cells.lock();
            if cells.len() <= live.capacity() {
                live.extend(cells.iter().filter_map(Weak::upgrade));
                return live;
            }
            let len = cells.len();
            drop(cells);
            live = Vec::with_capacity(len.saturating_add(len / 8));
        }
    }

    /// What every allocator that is alive holds, in the order of registration.
    ///
    /// Figures of allocators that are at work meanwhile may be from slightly different moments.
    #[must_use]
    pub fn list(&self) -> Vec<AllocatorReport> {
        self.live().iter().map(|cell| AllocatorReport::from(&**cell)).collect()
    }

    /// The sums over all that are alive.
    #[must_use]
    pub fn total(&self) -> AllocatorTotal {
        AllocatorTotal::of(&self.list())
    }
}

const HEADINGS: [&str; 7] = ["allocator", "kind", "threads", "used", "capacity", "peak", "blocks"];

/// The cells of a line: texts on the left, numbers on the right of their columns.
type Line = [String; HEADINGS.len()];

fn size(bytes: usize) -> String {
    ByteSize::new(bytes).to_string()
}

/// The figures of a line, from the fourth column on.
fn figures(
    used: usize,
    capacity: Option<usize>,
    statistics: Option<nebula_memory_core::StatsSnapshot>,
) -> [String; 4] {
    let none = || "-".to_owned();
    let peak = statistics.map(|s| size(usize::try_from(s.peak_usage).unwrap_or(usize::MAX)));
    let blocks = statistics.map(|s| s.live_blocks().to_string());
    [
        size(used),
        capacity.map_or_else(none, size),
        peak.unwrap_or_else(none),
        blocks.unwrap_or_else(none),
    ]
}

/// A table: a line for each allocator in the order of registration, and one for all.
impl fmt::Display for AllocatorManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reports = self.list();
        let total = AllocatorTotal::of(&reports);

        let mut lines: Vec<Line> = vec![HEADINGS.map(str::to_owned)];
        lines.extend(reports.into_iter().map(|report| {
            let [used, capacity, peak, blocks] =
                figures(report.used, report.capacity, report.statistics);
            let threads = if report.thread_safe { "many" } else { "one" };
            let kind = report.kind.to_string();
            [report.name, kind, threads.to_owned(), used, capacity, peak, blocks]
        }));
        let [used, capacity, peak, blocks] = figures(total.used, total.capacity, total.statistics);
        let name = format!("total of {}", total.allocators);
        lines.push([name, String::new(), String::new(), used, capacity, peak, blocks]);

        let mut widths = [0; HEADINGS.len()];
        for line in &lines {
            for (width, text) in widths.iter_mut().zip(line) {
                *width = text.chars().count().max(*width);
            }
        }
        for (i, line) in lines.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            for (column, (text, width)) in line.iter().zip(widths).enumerate() {
                match column {
                    0 => write!(f, "{text:<width$}")?,
                    1 | 2 => write!(f, "  {text:<width$}")?,
                    _ => write!(f, "  {text:>width$}")?,
                }
            }
        }
        Ok(())
    }
}
