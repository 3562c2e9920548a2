//! The memory of entries that are gone, exactly: two lists of 4-byte hashes in the order in which
//! their entries left, found by hash, forgotten from the end or from the middle.
//!
//! All of it is one presized array. A cell is a member of its list and of the chain of its bucket,
//! and the head of one bucket as well: there are as many buckets as cells.

use std::collections::TryReserveError;

use crate::slab::NONE;

/// The most cells: what an index of 31 bits tells apart, one of which is none.
const MOST_CELLS: usize = (1 << 31) - 1;

/// Room for the hash of one entry that is gone, and the head of a bucket.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    hash: u32,
    /// Towards the head of its list, or the next free cell.
    newer: u32,
    /// Towards the tail of its list.
    older: u32,
    /// The next of its bucket, and the list it is in.
    next: Next,
    /// The first cell of the bucket with this cell's number.
    bucket: u32,
}

/// The index of a cell, or [`NONE`], and which list the one is in that has it: 31 bits and one.
#[derive(Clone, Copy, Debug)]
struct Next(u32);

impl Next {
    const fn new(index: u32, list: bool) -> Self {
        Self(index << 1 | list as u32)
    }

    const fn index(self) -> u32 {
        if self.0 >> 1 == NONE >> 1 { NONE } else { self.0 >> 1 }
    }

    const fn list(self) -> bool {
        self.0 & 1 == 1
    }
}

#[derive(Debug)]
struct List {
    head: u32,
    tail: u32,
    len: usize,
}

#[derive(Debug)]
pub(crate) struct History {
    cells: Vec<Cell>,
    /// The first of the free cells, which are chained by `newer`.
    free: u32,
    lists: [List; 2],
}

impl Default for History {
    fn default() -> Self {
        let list = || List { head: NONE, tail: NONE, len: 0 };
        Self { cells: Vec::new(), free: NONE, lists: [list(), list()] }
    }
}

impl History {
    #[inline]
    fn cell(&mut self, index: u32) -> &mut Cell {
        &mut self.cells[index as usize]
    }

    /// The bucket of a hash; there must be cells.
    #[inline]
    fn bucket(&mut self, hash: u32) -> &mut u32 {
        let spread = u64::from(hash.wrapping_mul(0x9E37_79B1));
        let bucket = (spread * self.cells.len() as u64) >> 32;
        &mut self.cells[bucket as usize].bucket
    }

    pub(crate) const fn len(&self, list: bool) -> usize {
        self.lists[list as usize].len
    }

    /// Remembers an entry as the newest of `list`. If there is no room, the oldest of the list is
    /// forgotten, or of the other one if it has none.
    pub(crate) fn remember(&mut self, list: bool, hash: u32) {
        if self.free == NONE && !self.forget(list) && !self.forget(!list) {
            return;
        }
        let index = self.free;
        let next = std::mem::replace(self.bucket(hash), index);
        let ends = &mut self.lists[usize::from(list)];
        let older = std::mem::replace(&mut ends.head, index);
        ends.len += 1;
        match older {
            NONE => ends.tail = index,
            older => self.cell(older).newer = index,
        }
        let cell = self.cell(index);
        let free = cell.newer;
        *cell = Cell { hash, newer: NONE, older, next: Next::new(next, list), bucket: cell.bucket };
        self.free = free;
    }

    /// Which list the entry with `hash` is remembered in, the newest if there are several; it is no
    /// longer afterwards. O(1) on average.
    pub(crate) fn recall(&mut self, hash: u32) -> Option<bool> {
        if self.cells.is_empty() {
            return None;
        }
        self.take(hash, |_, cell| cell.hash == hash)
    }

    /// Forgets the oldest of `list`. Whether there was one.
    pub(crate) fn forget(&mut self, list: bool) -> bool {
        let oldest = self.lists[usize::from(list)].tail;
        if oldest == NONE {
            return false;
        }
        let hash = self.cell(oldest).hash;
        self.take(hash, |index, _| index == oldest).is_some()
    }

    /// Takes the first cell of the bucket of `hash` that `is` the one out of bucket and list.
    #[inline]
    fn take(&mut self, hash: u32, is: impl Fn(u32, &Cell) -> bool) -> Option<bool> {
        let (mut before, mut index) = (NONE, *self.bucket(hash));
        let cell = loop {
            let cell = *self.cells.get(index as usize)?;
            if is(index, &cell) {
                break cell;
            }
            (before, index) = (index, cell.next.index());
        };
        match before {
            NONE => *self.bucket(hash) = cell.next.index(),
            before => {
                let list = self.cell(before).next.list();
                self.cell(before).next = Next::new(cell.next.index(), list);
            }
        }
        let list = cell.next.list();
        self.lists[usize::from(list)].len -= 1;
        match cell.newer {
            NONE => self.lists[usize::from(list)].head = cell.older,
            newer => self.cell(newer).older = cell.older,
        }
        match cell.older {
            NONE => self.lists[usize::from(list)].tail = cell.newer,
            older => self.cell(older).newer = cell.newer,
        }
        self.cell(index).newer = self.free;
        self.free = index;
        Some(list)
    }

    /// Bytes wanted to remember `entries` entries, or zero if there is room for them.
    pub(crate) fn wanted(&self, entries: usize) -> usize {
        let have = self.cells.len();
        // A quarter more than there were, so that growing costs little in the long run.
        let cells = entries.max(have + have / 4).min(MOST_CELLS);
        if entries > have && cells > have { cells * size_of::<Cell>() } else { 0 }
    }

    /// Free cells of `bytes` bytes.
    #[allow(clippy::cast_possible_truncation, reason = "at most `MOST_CELLS`")]
    pub(crate) fn allocate(bytes: usize) -> Result<Vec<Cell>, TryReserveError> {
        let len = (bytes / size_of::<Cell>()).min(MOST_CELLS);
        let mut cells = Vec::new();
        cells.try_reserve_exact(len)?;
        cells.extend((1..=len).map(|next| Cell {
            hash: 0,
            newer: if next == len { NONE } else { next as u32 },
            older: NONE,
            next: Next::new(NONE, false),
            bucket: NONE,
        }));
        Ok(cells)
    }

    /// Moves into `cells`, which are fresh, if they are more; returns the ones not used any more.
    pub(crate) fn adopt(&mut self, cells: Vec<Cell>) -> Vec<Cell> {
        if cells.len() <= self.cells.len() {
            return cells;
        }
        let old = std::mem::replace(self, Self { cells, free: 0, ..Self::default() });
        for list in [false, true] {
            old.oldest_first(list, |hash| self.remember(list, hash));
        }
        old.cells
    }

    pub(crate) fn bytes_of(cells: &Vec<Cell>) -> usize {
        cells.capacity() * size_of::<Cell>()
    }

    pub(crate) fn bytes(&self) -> usize {
        Self::bytes_of(&self.cells)
    }

    /// Calls `each` with what is in `list`.
    fn oldest_first(&self, list: bool, mut each: impl FnMut(u32)) {
        let mut index = self.lists[usize::from(list)].tail;
        while let Some(cell) = self.cells.get(index as usize) {
            each(cell.hash);
            index = cell.newer;
        }
    }

    /// Checks lists, buckets and free cells against each other.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let (mut listed, mut free, mut chained) = (0, 0, 0);
        for list in [false, true] {
            let List { head, tail, len } = self.lists[usize::from(list)];
            let (mut older, mut index, mut walked) = (NONE, tail, 0);
            while let Some(cell) = self.cells.get(index as usize) {
                if cell.older != older || cell.next.list() != list || walked == len {
                    return Err(format!("cell {index} is out of the order of its list"));
                }
                walked += 1;
                (older, index) = (index, cell.newer);
            }
            if (head, len) != (older, walked) {
                return Err(format!("a list of {len} with head {head} ends after {walked}"));
            }
            listed += walked;
        }
        let mut index = self.free;
        while let Some(cell) = self.cells.get(index as usize) {
            free += 1;
            if free > self.cells.len() {
                return Err("the list of free cells goes round".to_owned());
            }
            index = cell.newer;
        }
        for bucket in &self.cells {
            let mut index = bucket.bucket;
            while let Some(cell) = self.cells.get(index as usize) {
                chained += 1;
                if chained > listed {
                    return Err("more cells are in buckets than in lists".to_owned());
                }
                index = cell.next.index();
            }
        }
        if chained == listed && listed + free == self.cells.len() {
            Ok(())
        } else {
            let all = self.cells.len();
            Err(format!("of {all} cells {listed} are listed, {chained} found, {free} free"))
        }
    }
}
