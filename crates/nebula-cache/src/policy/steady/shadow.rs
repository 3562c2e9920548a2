//! A shadow: a mode's queues over a sample of the keys, as small as can be.
//!
//! Of an entry there are a 2-byte fingerprint, a 2-byte state, and 2 bytes of a hash table with
//! chains; beside the entries there are as many ghosts. All of it is in lines like those that the
//! ghosts of the store are in, so that there is one allocation for all, which is charged as theirs
//! is.

#![allow(
    clippy::cast_possible_truncation,
    reason = "cells, states and links are parts of the words that they are taken from"
)]

use super::{
    super::{
        Links, Place,
        ghosts::{Ring, check, fingerprint, rings_for, stretch, ways_for},
    },
    modes::{Lanes, MAIN, Mode, SMALL, Tail, let_in},
};

/// Entries of a block: a line that holds their fingerprints, then their states. A fingerprint of
/// zero is a free cell.
pub(super) const CELLS: usize = 16;

/// The most blocks: cells are numbered by a byte.
pub(super) const MOST_BLOCKS: usize = 16;

/// Words of the hash table in a line.
const LINKS: usize = 2 * CELLS;

/// No cell.
const NONE: u8 = u8::MAX;

/// What a cell keeps beside its fingerprint: the next newer cell of its queue in the low byte, hits
/// in two bits, and how rare a sample it belongs to.
const HITS: u32 = 8;
const LEVEL: u32 = 10;

/// A queue of cells, linked from the tail to the head.
#[derive(Clone, Copy, Debug, Default)]
struct Chain {
    tail: u8,
    head: u8,
    len: u16,
}

/// The queues of a mode, and how it does.
#[derive(Debug, Default)]
pub(super) struct Shadow {
    small: Chain,
    main: Chain,
    free: Chain,
    failures: u32,
    /// Its misses, in 256ths, those of long ago counting less.
    pub(super) misses: u32,
    /// Requests which were hits here or misses, and the other in the mode that is in force; counted
    /// as misses are.
    pub(super) apart: u32,
}

/// Lines of the hash table for so many blocks.
const fn table_for(blocks: usize) -> usize {
    blocks.div_ceil(2)
}

/// How many lines a shadow with so many blocks takes.
pub(super) const fn lines_for(blocks: usize) -> usize {
    blocks + table_for(blocks) + rings_for(blocks * CELLS)
}

/// How many entries so many blocks have room for.
pub(super) const fn room_of(blocks: usize) -> usize {
    let cells = blocks * CELLS;
    if cells > NONE as usize { NONE as usize } else { cells }
}

/// A shadow with its lines: blocks, then the hash table, then rings of ghosts.
struct View<'s> {
    shadow: &'s mut Shadow,
    blocks: &'s mut [Ring],
    table: &'s mut [Ring],
    ghosts: &'s mut [Ring],
}

impl<'s> View<'s> {
    fn new(shadow: &'s mut Shadow, lines: &'s mut [Ring], blocks: usize) -> Self {
        let (blocks, rest) = lines.split_at_mut(blocks);
        let (table, ghosts) = rest.split_at_mut(table_for(blocks.len()));
        Self { shadow, blocks, table, ghosts }
    }

    #[inline]
    fn state(&mut self, cell: u8) -> &mut u16 {
        &mut self.blocks[usize::from(cell) / CELLS].0[CELLS + usize::from(cell) % CELLS]
    }

    #[inline]
    fn print(&mut self, cell: u8) -> &mut u16 {
        &mut self.blocks[usize::from(cell) / CELLS].0[usize::from(cell) % CELLS]
    }

    /// Of the hash table: in the low byte the first cell of the chain with this number, in the high
    /// byte the next one after the cell with this number in its chain.
    #[inline]
    fn links(&mut self, at: u8) -> &mut u16 {
        &mut self.table[usize::from(at) / LINKS].0[usize::from(at) % LINKS]
    }

    /// The chain of a fingerprint.
    #[inline]
    fn chain_of(&self, print: u16) -> u8 {
        // As many as a power of two.
        (usize::from(print) & (self.blocks.len() * CELLS - 1)) as u8
    }

    /// The cell with this fingerprint.
    #[inline]
    fn find(&mut self, print: u16) -> Option<u8> {
        let mut cell = *self.links(self.chain_of(print)) as u8;
        while cell != NONE {
            if *self.print(cell) == print {
                return Some(cell);
            }
            cell = (*self.links(cell) >> 8) as u8;
        }
        None
    }

    /// Puts a cell into the hash table.
    fn link(&mut self, cell: u8, print: u16) {
        *self.print(cell) = print;
        let first = self.links(self.chain_of(print));
        let next = *first << 8;
        *first = *first & !0xff | u16::from(cell);
        let links = self.links(cell);
        *links = *links & 0xff | next;
    }

    /// Takes a cell out of the hash table.
    fn unlink(&mut self, cell: u8) {
        let print = std::mem::take(self.print(cell));
        let chain = self.chain_of(print);
        let next = *self.links(cell) >> 8;
        let mut before = *self.links(chain) as u8;
        if before == cell {
            let first = self.links(chain);
            *first = *first & !0xff | next;
            return;
        }
        while before != NONE {
            let links = self.links(before);
            let after = (*links >> 8) as u8;
            if after == cell {
                *links = *links & 0xff | next << 8;
                return;
            }
            before = after;
        }
    }

    /// The ring of ghosts for a fingerprint.
    fn ring(&mut self, print: u16) -> Option<&mut Ring> {
        let at = (usize::from(print) * self.ghosts.len()) >> 16;
        self.ghosts.get_mut(at)
    }

    const fn chain(&mut self, lane: Place) -> &mut Chain {
        match lane {
            SMALL => &mut self.shadow.small,
            MAIN => &mut self.shadow.main,
            _ => &mut self.shadow.free,
        }
    }

    fn push(&mut self, lane: Place, cell: u8, state: u16) {
        *self.state(cell) = state & !0xff;
        let chain = self.chain(lane);
        let (head, first) = (chain.head, chain.len == 0);
        chain.head = cell;
        chain.len += 1;
        if first {
            chain.tail = cell;
        } else {
            let state = self.state(head);
            *state = *state & !0xff | u16::from(cell);
        }
    }

    /// Takes the cell at the tail out; its state.
    fn pop(&mut self, lane: Place) -> Option<(u8, u16)> {
        let Chain { tail, len, .. } = *self.chain(lane);
        if len == 0 {
            return None;
        }
        let state = *self.state(tail);
        let chain = self.chain(lane);
        chain.tail = state as u8;
        chain.len -= 1;
        Some((tail, state))
    }

    /// Takes out the tail of a lane.
    fn let_go(&mut self, lane: Place, tail: &Tail) {
        self.take(lane, tail);
        self.free(tail.token as u8);
    }

    fn free(&mut self, cell: u8) {
        self.unlink(cell);
        self.push(FREE, cell, 0);
    }
}

/// The cells that are not in use are in a queue as well.
const FREE: Place = Place::Third;

impl Lanes for View<'_> {
    fn weight(&self) -> usize {
        self.len()
    }

    fn small_weight(&self) -> usize {
        self.shadow.small.len.into()
    }

    fn len(&self) -> usize {
        self.shadow.len()
    }

    fn main_is_empty(&self) -> bool {
        self.shadow.main.len == 0
    }

    fn tail(&mut self, lane: Place) -> Option<Tail> {
        let Chain { tail, len, .. } = *self.chain(lane);
        if len == 0 {
            return None;
        }
        let state = *self.state(tail);
        let hits = (state >> HITS & 3) as u8;
        // (Its fingerprint is kept until it is let go of.)
        Some(Tail { token: tail.into(), hash: state.into(), links: Links::default(), hits })
    }

    fn hits(tail: &Tail) -> u8 {
        tail.hits
    }

    fn take(&mut self, lane: Place, _tail: &Tail) {
        self.pop(lane);
    }

    fn put(&mut self, lane: Place, tail: &Tail) {
        self.push(lane, tail.token as u8, tail.hash as u16 & !(3 << HITS));
    }

    fn turn(&mut self, lane: Place, tail: &Tail, hits: u8) {
        self.pop(lane);
        let state = tail.hash as u16 & !(3 << HITS) | u16::from(hits) << HITS;
        self.push(lane, tail.token as u8, state);
    }

    fn remember(&mut self, tail: &Tail) {
        let print = *self.print(tail.token as u8);
        let (len, rings) = (self.len() - 1, self.ghosts.len());
        if let Some(ring) = self.ring(print) {
            ring.remember(print, ways_for(len, rings));
        }
    }
}

impl Shadow {
    pub(super) const fn len(&self) -> usize {
        self.small.len as usize + self.main.len as usize
    }

    /// Whether there is no room for another entry.
    pub(super) const fn is_full(&self) -> bool {
        self.free.len == 0
    }

    /// A request for an entry, one of at most `most`. Whether it is a miss.
    ///
    /// If `most` are more than there is room for, the shadow must not be full.
    pub(super) fn request(
        &mut self,
        lines: &mut [Ring],
        blocks: usize,
        mode: &Mode,
        hash: u32,
        level: u32,
        most: usize,
    ) -> bool {
        let print = fingerprint(hash);
        let mut view = View::new(self, lines, blocks);
        if let Some(cell) = view.find(print) {
            let state = view.state(cell);
            if *state >> HITS & 3 < 3 {
                *state += 1 << HITS;
            }
            return false;
        }
        let mut remembered = view.ring(print).is_some_and(|ring| ring.recall(print));
        let mut failures = view.shadow.failures;
        if view.len() >= most {
            if remembered && mode.guards() {
                match let_in(&mut view) {
                    Some(tail) => view.let_go(MAIN, &tail),
                    None => remembered = false,
                }
            }
            while view.len() >= most {
                let weight = view.len();
                let Some((lane, tail)) = mode.choose(&mut view, weight, &mut failures) else {
                    break;
                };
                view.let_go(lane, &tail);
            }
        } else if !remembered {
            mode.fill_main(&mut view, 1);
        }
        view.shadow.failures = failures;
        if let Some((cell, _)) = view.pop(FREE) {
            view.link(cell, print);
            view.push(if remembered { MAIN } else { SMALL }, cell, (level as u16) << LEVEL);
        }
        true
    }

    /// Forgets the entries that do not belong to a sample as rare as `level`.
    pub(super) fn thin(&mut self, lines: &mut [Ring], blocks: usize, level: u32) {
        let mut view = View::new(self, lines, blocks);
        for lane in [SMALL, MAIN] {
            for _ in 0..view.chain(lane).len {
                let Some((cell, state)) = view.pop(lane) else { break };
                if u32::from(state >> LEVEL) >= level {
                    view.push(lane, cell, state);
                } else {
                    view.free(cell);
                }
            }
        }
    }

    /// Moves to more lines.
    pub(super) fn adopt(
        &mut self,
        (old, old_blocks): (&[Ring], usize),
        (new, new_blocks): (&mut [Ring], usize),
    ) {
        let table = new_blocks..new_blocks + table_for(new_blocks);
        new[..new_blocks].fill(Ring::of(0));
        new[table.clone()].fill(Ring::of(u16::MAX));
        new[..old_blocks].copy_from_slice(&old[..old_blocks]);
        stretch(&old[old_blocks + table_for(old_blocks)..], &mut new[table.end..]);
        let mut view = View::new(self, new, new_blocks);
        for cell in 0..room_of(old_blocks) as u8 {
            let print = *view.print(cell);
            if print != 0 {
                view.link(cell, print);
            }
        }
        for cell in room_of(old_blocks)..room_of(new_blocks) {
            view.push(FREE, cell as u8, 0);
        }
    }

    /// Checks that every cell is in one of its queues.
    pub(super) fn validate(&self, lines: &[Ring], blocks: usize) -> Result<(), String> {
        let (cells_of, rest) = lines.split_at(blocks);
        let (table, ghosts) = rest.split_at(table_for(blocks));
        check(ghosts)?;
        let (mut seen, mut cells) = ([false; room_of(MOST_BLOCKS)], 0);
        for (chain, taken) in [(self.small, true), (self.main, true), (self.free, false)] {
            let mut cell = chain.tail;
            for left in (0..chain.len).rev() {
                let line = &cells_of[usize::from(cell) / CELLS].0;
                let at = usize::from(cell) % CELLS;
                let links = |at: usize| table[at / LINKS].0[at % LINKS];
                if taken {
                    let mut next = links(usize::from(line[at]) & (blocks * CELLS - 1)) as u8;
                    while next != cell {
                        if next == NONE {
                            return Err(format!("cell {cell} of a shadow is not in the table"));
                        }
                        next = (links(usize::from(next)) >> 8) as u8;
                    }
                }
                if (line[at] != 0) != taken || std::mem::replace(&mut seen[usize::from(cell)], true)
                {
                    return Err(format!("cell {cell} of a shadow is not where it belongs"));
                }
                if left == 0 && cell != chain.head {
                    return Err(format!("a queue of a shadow ends with cell {cell}"));
                }
                cells += 1;
                cell = line[CELLS + at] as u8;
            }
        }
        if cells == room_of(blocks) {
            Ok(())
        } else {
            Err(format!("{cells} cells of a shadow are in its queues, not {}", room_of(blocks)))
        }
    }
}
