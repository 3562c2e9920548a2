//! Spare blocks, found again by their exact size, given up in the order of their age.
//!
//! The blocks are linked through their own memory, so that keeping one takes none. Plain lists,
//! without locks and allocators: a [`ChunkStore`](crate::ChunkStore) has one behind a mutex, and
//! every thread has one for its [`LocalArena`](crate::LocalArena).

use std::{alloc::Layout, cell::Cell, ptr::NonNull};

use crate::asan;

/// The most blocks of one octave of sizes that are looked at for one of the right size. Arenas ask
/// for few sizes again and again; odd ones move to the back, and are given up in time.
const LOOKS: usize = 32;

/// What stands at the start of a spare block.
struct Node {
    layout: Layout,
    /// The neighbours among blocks of the same octave of sizes, the newest first.
    bin: Links,
    /// The neighbours in age.
    age: Links,
}

/// Neighbours in a list.
#[derive(Default)]
struct Links {
    newer: Cell<Option<Spare>>,
    older: Cell<Option<Spare>>,
}

/// A spare block. A copyable name for it: the lists are its owner.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Spare(NonNull<Node>);

impl Spare {
    fn node(&self) -> &Node {
        // SAFETY: a `Spare` is only made for a block that starts with a node, and is not used after
        // that block was taken out; nodes are only ever borrowed shared.
        unsafe { self.0.as_ref() }
    }

    /// The block itself, for whoever gets it; its node is gone.
    fn into_block(self) -> (NonNull<u8>, Layout) {
        let layout = self.node().layout;
        asan::allow(self.0.as_ptr().cast(), layout.size());
        (self.0.cast(), layout)
    }
}

/// The ends of a list.
#[derive(Clone, Copy, Default)]
struct Ends {
    newest: Option<Spare>,
    oldest: Option<Spare>,
}

impl Ends {
    /// Puts `spare` before the newest.
    fn push(&mut self, spare: Spare, links: fn(&Node) -> &Links) {
        let older = self.newest.replace(spare);
        links(spare.node()).older.set(older);
        match older {
            Some(older) => links(older.node()).newer.set(Some(spare)),
            None => self.oldest = Some(spare),
        }
    }

    /// Takes `spare` out.
    fn remove(&mut self, spare: Spare, links: fn(&Node) -> &Links) {
        let (newer, older) = (links(spare.node()).newer.take(), links(spare.node()).older.take());
        match newer {
            Some(newer) => links(newer.node()).older.set(older),
            None => self.newest = older,
        }
        match older {
            Some(older) => links(older.node()).newer.set(newer),
            None => self.oldest = newer,
        }
    }
}

/// Spare blocks. Whoever has one empties it before it goes.
pub(crate) struct Bins {
    /// By the logarithm of their sizes.
    octaves: [Ends; usize::BITS as usize],
    by_age: Ends,
    bytes: usize,
    count: usize,
    served: u64,
    missed: u64,
}

// SAFETY: the blocks are nobody else's, and are not tied to a thread.
unsafe impl Send for Bins {}

impl Bins {
    pub(crate) const fn new() -> Self {
        const EMPTY: Ends = Ends { newest: None, oldest: None };
        Self {
            octaves: [EMPTY; usize::BITS as usize],
            by_age: EMPTY,
            bytes: 0,
            count: 0,
            served: 0,
            missed: 0,
        }
    }

    /// Whether blocks of `layout` can be kept: they have room for a node.
    #[inline]
    pub(crate) const fn can_keep(layout: Layout) -> bool {
        layout.size() >= size_of::<Node>() && layout.align() >= align_of::<Node>()
    }

    /// The octave of a size that is not zero.
    fn octave(layout: Layout) -> usize {
        layout.size().ilog2() as usize
    }

    /// A block of exactly `layout` that was kept, and is the caller's from now on.
    pub(crate) fn take(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let octave = Self::octave(layout);
        let newest = self.octaves[octave].newest;
        let mut spares = std::iter::successors(newest, |spare| spare.node().bin.older.get());
        let Some(found) = spares.by_ref().take(LOOKS).find(|spare| spare.node().layout == layout)
        else {
            self.missed += 1;
            return None;
        };
        self.served += 1;
        self.remove(found);
        Some(found.into_block().0)
    }

    /// Keeps a block.
    ///
    /// # Safety
    /// The block is valid for reads and writes of `layout`, aligned, and nobody else's until it is
    /// taken out. [`can_keep`](Self::can_keep) it.
    pub(crate) unsafe fn put(&mut self, block: NonNull<u8>, layout: Layout) {
        debug_assert!(Self::can_keep(layout));
        let node = block.cast::<Node>();
        // SAFETY: the block is large enough and aligned for a node, and the caller's promise.
        unsafe { node.write(Node { layout, bin: Links::default(), age: Links::default() }) };
        let behind = node.as_ptr().wrapping_add(1).cast();
        asan::forbid(behind, layout.size() - size_of::<Node>());
        let spare = Spare(node);
        self.octaves[Self::octave(layout)].push(spare, |node| &node.bin);
        self.by_age.push(spare, |node| &node.age);
        self.bytes += layout.size();
        self.count += 1;
    }

    fn remove(&mut self, spare: Spare) {
        let layout = spare.node().layout;
        self.octaves[Self::octave(layout)].remove(spare, |node| &node.bin);
        self.by_age.remove(spare, |node| &node.age);
        self.bytes -= layout.size();
        self.count -= 1;
    }

    /// Gives up the oldest blocks until no more than `bytes` are kept. They are for the caller to
    /// free, all of them: after the lock, if there is one.
    #[must_use]
    pub(crate) fn shed(&mut self, bytes: usize) -> Shed {
        let mut shed = Shed(None);
        while self.bytes > bytes {
            let Some(oldest) = self.by_age.oldest else { break };
            self.remove(oldest);
            oldest.node().age.older.set(shed.0.replace(oldest));
        }
        shed
    }

    /// Bytes of all blocks.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn stats(&self) -> StoreStats {
        StoreStats {
            blocks: self.count,
            bytes: self.bytes,
            served: self.served,
            missed: self.missed,
        }
    }
}

/// Blocks that were given up, for the caller to free.
pub(crate) struct Shed(Option<Spare>);

impl Iterator for Shed {
    type Item = (NonNull<u8>, Layout);

    fn next(&mut self) -> Option<Self::Item> {
        let spare = self.0?;
        self.0 = spare.node().age.older.take();
        Some(spare.into_block())
    }
}

/// The figures of a store of spare chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct StoreStats {
    /// Blocks that are kept.
    pub blocks: usize,
    /// Their bytes.
    pub bytes: usize,
    /// How many requests were served from the store.
    pub served: u64,
    /// How many went to the allocator underneath, because no block of their size was kept.
    pub missed: u64,
}

#[cfg(test)]
mod tests {
    use nebula_memory_core::Global;
    use nebula_memory_core::allocator_api2::alloc::Allocator as _;
    use proptest::prelude::*;

    use super::*;

    fn free(shed: Shed) -> Vec<Layout> {
        shed.map(|(block, layout)| {
            // SAFETY: the block came from `Global` with this layout, and nobody uses it.
            unsafe { Global.deallocate(block, layout) };
            layout
        })
        .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against a list of layouts, oldest first.
        #[test]
        fn the_newest_of_a_size_is_taken_and_the_oldest_of_all_given_up(
            steps in prop::collection::vec((0_u8..8, 0_usize..6), 1..100),
        ) {
            let sizes = [128, 129, 200, 256, 4096, 5000];
            let mut bins = Bins::new();
            let mut model: Vec<(usize, Layout)> = vec![];
            for (step, which) in steps {
                let layout = Layout::from_size_align(sizes[which], 16).unwrap();
                match step {
                    0..4 => {
                        let block = Global.allocate(layout).unwrap().cast::<u8>();
                        // SAFETY: the block is fresh.
                        unsafe { bins.put(block, layout) };
                        model.push((block.addr().get(), layout));
                    }
                    4..7 => {
                        let found = bins.take(layout);
                        let at = model.iter().rposition(|(_, kept)| *kept == layout);
                        let expected = at.map(|at| model.remove(at).0);
                        prop_assert_eq!(found.map(|block| block.addr().get()), expected);
                        if let Some(block) = found {
                            // SAFETY: it is `layout.size()` bytes long and ours.
                            unsafe { block.write_bytes(1, layout.size()) };
                            // SAFETY: it came from `Global` with this layout.
                            unsafe { Global.deallocate(block, layout) };
                        }
                    }
                    _ => {
                        let keep = bins.bytes() / 2;
                        let mut given: Vec<_> = free(bins.shed(keep));
                        given.reverse();
                        let mut expected = vec![];
                        while model.iter().map(|(_, kept)| kept.size()).sum::<usize>() > keep {
                            expected.push(model.remove(0).1);
                        }
                        prop_assert_eq!(given, expected);
                    }
                }
                let bytes = model.iter().map(|(_, kept)| kept.size()).sum::<usize>();
                prop_assert_eq!((bins.bytes(), bins.stats().blocks), (bytes, model.len()));
            }
            prop_assert_eq!(free(bins.shed(0)).len(), model.len());
        }
    }
}
