//! The plain way to build the same: a tree of atomics, each charge going up to the root by
//! compare-and-swap, with a roll-back where a level refuses.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::{BYTES, Books, CAPACITY, Parent, Shape};

/// A level of the tree.
pub(super) struct Level {
    used: AtomicUsize,
    parent: Option<Arc<Self>>,
}

impl Level {
    fn new(parent: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), parent })
    }

    fn levels(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |level| level.parent.as_deref())
    }

    fn try_charge(&self, bytes: usize) -> Result<(), usize> {
        for (charged, level) in self.levels().enumerate() {
            let sum = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= CAPACITY);
            if let Err(used) = level.used.fetch_update(Relaxed, Relaxed, sum) {
                for level in self.levels().take(charged) {
                    level.used.fetch_sub(bytes, Relaxed);
                }
                return Err(CAPACITY - used);
            }
        }
        Ok(())
    }

    fn credit(&self, bytes: usize) {
        for level in self.levels() {
            level.used.fetch_sub(bytes, Relaxed);
        }
    }
}

/// A leaf that anybody may charge.
pub(super) struct Shared(Arc<Level>);

impl Books for Shared {
    const NAME: &'static str = "tree of atomics";

    fn open(shape: Shape) -> Vec<Self> {
        let mut level = Level::new(None);
        for _ in 2..shape.depth {
            level = Level::new(Some(level));
        }
        let leaf = |_| {
            if shape.depth == 1 { Arc::clone(&level) } else { Level::new(Some(Arc::clone(&level))) }
        };
        let leaves: Vec<_> = (0..shape.leaves).map(leaf).collect();
        leaves.iter().cycle().take(shape.threads).map(|leaf| Self(Arc::clone(leaf))).collect()
    }

    #[inline(always)]
    fn charge(&mut self, bytes: usize) {
        self.0.try_charge(bytes).expect("far from the limit");
    }

    #[inline(always)]
    fn credit(&mut self, bytes: usize) {
        self.0.credit(bytes);
    }
}

/// A leaf, and what one owner has charged to it.
pub(super) struct Reserved {
    leaf: Shared,
    bytes: usize,
}

impl Reserved {
    fn new(mut leaf: Shared) -> Self {
        leaf.charge(BYTES);
        Self { leaf, bytes: BYTES }
    }
}

impl Books for Reserved {
    const NAME: &'static str = "tree of atomics";

    fn open(shape: Shape) -> Vec<Self> {
        Shared::open(shape).into_iter().map(Self::new).collect()
    }

    #[inline(always)]
    fn charge(&mut self, bytes: usize) {
        self.leaf.charge(bytes);
        self.bytes += bytes;
    }

    #[inline(always)]
    fn credit(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.leaf.credit(bytes);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.leaf.credit(self.bytes);
    }
}

/// A root and its children.
pub(super) struct Tree;

impl Parent for Tree {
    const NAME: &'static str = "tree of atomics";
    type Root = Arc<Level>;
    type Child = Arc<Level>;
    type InUse = Reserved;

    fn root() -> Arc<Level> {
        Level::new(None)
    }

    fn child(root: &Arc<Level>, _name: &str) -> Arc<Level> {
        Level::new(Some(Arc::clone(root)))
    }

    fn in_use(root: &Arc<Level>, name: &str) -> Reserved {
        Reserved::new(Shared(Self::child(root, name)))
    }
}
