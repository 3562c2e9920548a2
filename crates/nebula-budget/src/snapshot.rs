//! A tree of budgets at one moment, as plain data and as a table.

use std::fmt;

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
    /// Charges that this level refused.
    pub refusals: u64,
    /// The budgets below, oldest first.
    pub children: Vec<BudgetSnapshot>,
}

impl Node {
    /// `committed` and `used`. Under the lock.
    pub(crate) fn figures(&self) -> (usize, usize) {
        let unspent: usize =
            self.children.lock().values().map(|c| c.funded() - c.figures().1).sum();
        let committed = self.committed();
        (committed, committed.saturating_sub(unspent))
    }

    /// The tree from this node down. Under the lock.
    pub(crate) fn snapshot(self: &Arc<Self>) -> BudgetSnapshot {
        let children: Vec<(usize, BudgetSnapshot)> =
            self.children.lock().values().map(|c| (c.funded(), c.snapshot())).collect();
        let unspent: usize = children.iter().map(|(funded, c)| funded - c.used).sum();
        // Read after the children: what is charged and passed up meanwhile counts here, at worst,
        // so that `used` is never above `committed`.
        let committed = self.committed();
        BudgetSnapshot {
            name: self.name.to_string(),
            state: self.state(),
            capacity: self.capacity,
            guaranteed: self.guaranteed(),
            committed,
            used: committed.saturating_sub(unspent),
            peak: self.peak(),
            refusals: self.refusals.load(Relaxed),
            children: children.into_iter().map(|(_, snapshot)| snapshot).collect(),
        }
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
