//! The races of taking, freeing and adding pages in the shared block pool, under the model checker:
//! `RUSTFLAGS="--cfg nebula_loom" cargo test --release -p nebula-alloc --test loom_pool`
#![cfg(nebula_loom)]

use std::{alloc::Layout, collections::BTreeSet, ptr::NonNull, sync::Arc};

use loom::{cell::UnsafeCell, model::Builder, thread};
use nebula_alloc::{PoolAllocator, Shared};
use nebula_memory_core::{Allocator, Global, allocator_api2::alloc::Allocator as _};

type Pool = PoolAllocator<Global, Shared>;

/// Sixteen to a page would be many for the checker; blocks as large as this are few.
const BLOCK: Layout = Layout::new::<[u64; 2]>();

/// A pool, and for each of its blocks a cell whose every use the checker sees: it fails if two uses
/// are not ordered.
struct Model {
    pool: Pool,
    cells: Vec<UnsafeCell<usize>>,
}

// SAFETY: a cell is used by whoever has the block, one thread at a time; that this is true is what
// loom checks.
unsafe impl Sync for Model {}

impl Model {
    fn new(blocks: usize) -> Arc<Self> {
        let pool = PoolAllocator::try_shared(BLOCK, Some(blocks)).unwrap();
        let cells = (0..blocks).map(|_| UnsafeCell::new(0)).collect();
        Arc::new(Self { pool, cells })
    }

    fn take(&self) -> Option<NonNull<u8>> {
        let block = self.pool.try_allocate(BLOCK).ok()?.cast();
        self.touch(block);
        Some(block)
    }

    fn give(&self, block: NonNull<u8>) {
        self.touch(block);
        // SAFETY: the block is live, of this layout, and given up.
        unsafe { self.pool.deallocate(block, BLOCK) };
    }

    /// Uses the cell of a block: which one it is, its address in the only page says.
    fn touch(&self, block: NonNull<u8>) {
        let offset = block.addr().get() & (self.pool.page_layout().align() - 1);
        let first = self.pool.page_layout().size() - self.cells.len() * BLOCK.size();
        self.cells[(offset - first) / BLOCK.size()].with_mut(|cell| {
            // SAFETY: exclusive, as loom checks.
            unsafe { *cell += 1 }
        });
    }

    /// Nothing is out, and every block can be had once.
    fn assert_whole(&self) {
        assert_eq!(self.pool.blocks_in_use(), 0);
        let out: Vec<_> = (0..self.cells.len()).map(|_| self.take().unwrap()).collect();
        assert!(self.take().is_none());
        let different: BTreeSet<NonNull<u8>> = out.iter().copied().collect();
        assert_eq!(different.len(), out.len());
        for block in out {
            self.give(block);
        }
    }
}

/// A block that goes to another thread.
struct Sent(NonNull<u8>);

// SAFETY: whoever has it is the only one to use the block.
unsafe impl Send for Sent {}

fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(body);
}

#[test]
fn two_threads_never_have_one_block() {
    model(3, || {
        let model = Model::new(2);
        let other = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                let block = model.take().expect("one for each");
                model.give(block);
            })
        };
        let block = model.take().expect("one for each");
        model.give(block);
        other.join().unwrap();
        model.assert_whole();
    });
}

/// The list is A, B, C. One thread is about to take A and has read that B follows; meanwhile the
/// other takes A and B and frees D and A: the list begins with A again and is as long, but B is out.
#[test]
fn a_list_that_looks_unchanged_is_told_from_one_that_is() {
    model(3, || {
        let model = Model::new(5);
        let mut out: Vec<_> = (0..5).map(|_| model.take().unwrap()).collect();
        let fourth = out.swap_remove(3);
        for block in out.into_iter().rev() {
            model.give(block);
        }
        let other = {
            // Blocks are addresses here: nobody else has this one.
            let (model, fourth) = (Arc::clone(&model), Sent(fourth));
            thread::spawn(move || {
                let fourth = fourth;
                let first = model.take().expect("five for two threads");
                let second = model.take().expect("five for two threads");
                model.give(fourth.0);
                model.give(first);
                Sent(second)
            })
        };
        let mine = model.take().expect("five for two threads");
        let next = model.take();
        let theirs = other.join().unwrap().0;
        assert!(mine != theirs && next != Some(theirs) && next != Some(mine));
        for block in [mine, theirs].into_iter().chain(next) {
            model.give(block);
        }
        model.assert_whole();
    });
}

/// What one thread frees, the other must be able to have, and the last block is had by one alone.
#[test]
fn the_last_block_goes_to_one() {
    model(3, || {
        let model = Model::new(1);
        let block = model.take().unwrap();
        let other = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.take())
        };
        model.give(block);
        let mine = model.take();
        let theirs = other.join().unwrap();
        assert!(mine.is_some() != theirs.is_some());
        model.give(mine.or(theirs).unwrap());
        model.assert_whole();
    });
}

/// Both find no page and add one; there may be one only.
#[test]
fn threads_that_add_the_last_page_at_once_are_both_served() {
    model(2, || {
        let model = Model::new(2);
        let other = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.take().expect("one for each"))
        };
        let mine = model.take().expect("one for each");
        let theirs = other.join().unwrap();
        assert_ne!(mine, theirs);
        model.give(theirs);
        model.give(mine);
        model.assert_whole();
    });
}

/// Two pages, and of each a single block that is not out for good. One thread moves from the one to
/// the other: its neighbour must not take what it sees for a moment at which both were out.
#[test]
fn a_neighbour_that_changes_pages_does_not_make_a_pool_look_exhausted() {
    /// Of these, a few make a page.
    const LARGE: Layout = Layout::new::<[u64; 2500]>();

    fn take(pool: &Pool) -> NonNull<u8> {
        pool.try_allocate(LARGE).expect("one for each").cast()
    }

    fn give(pool: &Pool, block: NonNull<u8>) {
        // SAFETY: the block is live, of this layout, and given up.
        unsafe { pool.deallocate(block, LARGE) };
    }

    model(2, || {
        let each = PoolAllocator::try_shared(LARGE, None).unwrap().blocks_per_page();
        let pool = PoolAllocator::try_shared(LARGE, Some(each + 1)).unwrap();
        let pool: Arc<Pool> = Arc::new(pool);
        let all: Vec<_> = (0..=each).map(|_| take(&pool)).collect();
        assert_eq!(pool.pages(), 2);
        // Blocks are taken from the first page from now on.
        give(&pool, all[0]);
        assert_eq!(take(&pool), all[0]);
        give(&pool, all[0]);
        let neighbour = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                let second = take(&pool);
                give(&pool, second);
            })
        };
        give(&pool, all[each]);
        let first = take(&pool);
        neighbour.join().unwrap();
        give(&pool, first);
        assert_eq!(pool.blocks_in_use(), each - 1);
    });
}
