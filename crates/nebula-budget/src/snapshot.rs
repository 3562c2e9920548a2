//! A tree of budgets at one moment, as plain data and as a table.

use std::{fmt, ops::Bound};

use nebula_memory_core::{
    ByteSize,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use crate::{BudgetState, node::Node};

/// The figures of a budget and of those below it, all in bytes, from one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct BudgetSnapshot {
    /// The budget's name.
    pub name: String,
    /// Where it is in its life.
    pub state: BudgetState,
    /// The most that may be charged.
    pub capacity: usize,
    /// The part that is its own.
    pub guaranteed: usize,
    /// What counts against the capacity: charges made here, and all that children hold.
    pub committed: usize,
    /// `committed` without what children hold and have not spent: the bytes that are really
    /// charged, here and below.
    pub used: usize,
    /// The largest `committed` so far.
    pub peak: usize,
    /// Charges made to this budget itself, by whatever way.
    pub charges: u64,
    /// Charges that this level refused.
    pub refusals: u64,
    /// Charges that this level let through because it only observes.
    pub excused: u64,
    /// The bytes of those charges, each in full.
    pub excused_bytes: u64,
    /// Bytes that were credited to this budget and that it did not hold. They were ignored.
    pub over_credited: u64,
    /// How many wait for this level's bytes.
    pub waiting: usize,
    /// The budgets below, oldest first.
    pub children: Vec<BudgetSnapshot>,
}

impl Node {
    /// `committed` and `used`.
    ///
    /// O(n) in the number of budgets and owners below. Works with and without the tree's lock;
    /// what moves meanwhile is counted once, or not at all. Locks are held for a few children at a
    /// time.
    pub(crate) fn figures(&self) -> (usize, usize) {
        const BATCH: usize = 128;
        let mut unspent: usize = {
            let family = self.family.lock();
            family.owners.iter().map(|owner| owner.unspent()).sum()
        };
        let mut after = Bound::Unbounded;
        loop {
            let children: Vec<Arc<Self>> = {
                let family = self.family.lock();
                let rest = family.children.range((after, Bound::Unbounded));
                rest.take(BATCH).map(|(_, child)| Arc::clone(child)).collect()
            };
            for child in &children {
                unspent += child.funded().saturating_sub(child.figures().1);
            }
            match children.last() {
                Some(last) if children.len() == BATCH => after = Bound::Excluded(last.id),
                _ => break,
            }
        }
        let committed = self.committed();
        (committed, committed.saturating_sub(unspent))
    }

    /// How many charges were made here.
    pub(crate) fn charges(&self) -> u64 {
        let family = self.family.lock();
        self.hot.free.charges() + family.owners.iter().map(|owner| owner.charges()).sum::<u64>()
    }

    /// The tree from this node down. Under the lock.
    pub(crate) fn snapshot(self: &Arc<Self>) -> BudgetSnapshot {
        let (children, mut unspent): (Vec<(usize, BudgetSnapshot)>, usize) = {
            let family = self.family.lock();
            let children = family.children.values().map(|c| (c.funded(), c.snapshot())).collect();
            (children, family.owners.iter().map(|owner| owner.unspent()).sum())
        };
        unspent += children.iter().map(|(f, child)| f.saturating_sub(child.used)).sum::<usize>();
        // Read after the children: what is charged and passed up meanwhile counts here, at worst,
        // so that `used` is never above `committed`.
        let committed = self.committed();
        BudgetSnapshot {
            name: self.name().to_owned(),
            state: self.state(),
            capacity: self.capacity(),
            guaranteed: self.guaranteed(),
            committed,
            used: committed.saturating_sub(unspent),
            peak: self.peak().max(committed),
            charges: self.charges(),
            refusals: self.counts.refusals.load(Relaxed),
            excused: self.counts.excused.load(Relaxed),
            excused_bytes: self.counts.excused_bytes.load(Relaxed),
            over_credited: self.counts.over_credited.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            children: children.into_iter().map(|(_, snapshot)| snapshot).collect(),
        }
    }
}

/// What was still charged when a budget was released. It stays counted at the parent until it is
/// credited.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LeakReport {
    /// The budget: names from the root, joined by `/`.
    pub path: String,
    /// Bytes charged.
    pub bytes: usize,
    /// Of those, bytes that children hold which were released before with bytes still charged.
    pub bytes_below: usize,
    /// Those children.
    pub released_children: Vec<String>,
    /// Local accounts, and reservations with funds of their own, that are still there.
    pub owners: usize,
}

impl fmt::Display for LeakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, bytes, bytes_below, released_children, owners } = self;
        write!(f, "`{path}` was released with {} still charged", ByteSize::new(*bytes))?;
        if *owners > 0 {
            write!(f, "; {owners} of its local accounts and reservations are still there")?;
        }
        if !released_children.is_empty() {
            let (below, names) = (ByteSize::new(*bytes_below), released_children.join("`, `"));
            write!(f, "; {below} of it through `{names}`, released before")?;
        }
        Ok(())
    }
}

impl BudgetSnapshot {
    fn rows(&self, depth: usize, rows: &mut Vec<[String; 7]>) {
        let size = |bytes: usize| ByteSize::new(bytes).to_string();
        rows.push([
            format!("{}{}", "  ".repeat(depth), self.name),
            size(self.used),
            size(self.committed),
            size(self.capacity),
            size(self.guaranteed),
            size(self.peak),
            self.state.to_string(),
        ]);
        for child in &self.children {
            child.rows(depth + 1, rows);
        }
    }
}

/// A table with a row for each budget, children below and to the right of their parents.
impl fmt::Display for BudgetSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = ["budget", "used", "committed", "capacity", "guaranteed", "peak", "state"];
        let mut rows = vec![titles.map(str::to_owned)];
        self.rows(0, &mut rows);
        let mut widths = [0; 7];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for (i, row) in rows.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{:<w$}", row[0], w = widths[0])?;
            for (cell, width) in row[1..6].iter().zip(&widths[1..6]) {
                write!(f, "  {cell:>width$}")?;
            }
            write!(f, "  {}", row[6])?;
        }
        Ok(())
    }
}
