//! Random sequences of operations on block pools against a model: contents, overlap, counts.

use std::{alloc::Layout, ptr::NonNull};

use nebula_alloc::{Mode, PoolAllocator};
use nebula_memory_core::{MemoryUsage, Resettable, allocator_api2::alloc::Allocator as _};
use nebula_testing::CountingAllocator;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Allocate { size: usize, shift: u32, zeroed: bool },
    Fill { count: usize },
    Free { which: usize },
    Drain { from: usize, step: usize },
    Grow { which: usize, by: usize, zeroed: bool },
    Shrink { which: usize, to: usize },
    Trim,
    Reset,
}

#[derive(Clone, Debug)]
struct Plan {
    block: Layout,
    most: Option<usize>,
    ops: Vec<Op>,
}

fn plans() -> impl Strategy<Value = Plan> {
    let size = prop_oneof![1..100_usize, 1..20_000_usize];
    let most = prop_oneof![Just(None), (1..40_usize).prop_map(Some), (1..400_usize).prop_map(Some)];
    (size, 0..13_u32, most).prop_flat_map(|(size, shift, most)| {
        let block = Layout::from_size_align(size, 1 << shift).unwrap();
        let bytes = prop_oneof![Just(0), 1..=size, 1..=2 * size];
        let which = any::<usize>();
        let op = prop_oneof![
            4 => (bytes.clone(), 0..13_u32, any::<bool>())
                .prop_map(|(size, shift, zeroed)| Op::Allocate { size, shift, zeroed }),
            2 => (1..60_usize).prop_map(|count| Op::Fill { count }),
            4 => which.prop_map(|which| Op::Free { which }),
            1 => (which, 1..4_usize).prop_map(|(from, step)| Op::Drain { from, step }),
            2 => (which, bytes.clone(), any::<bool>())
                .prop_map(|(which, by, zeroed)| Op::Grow { which, by, zeroed }),
            2 => (which, bytes).prop_map(|(which, to)| Op::Shrink { which, to }),
            1 => Just(Op::Trim),
            1 => Just(Op::Reset),
        ];
        prop::collection::vec(op, 1..50).prop_map(move |ops| Plan { block, most, ops })
    })
}

/// A live block and the bytes that it has to hold.
struct Block {
    ptr: NonNull<u8>,
    layout: Layout,
    bytes: Vec<u8>,
}

impl Block {
    fn read(&self) -> &[u8] {
        // SAFETY: the block is live, initialised by `refill`, and nobody writes to it meanwhile.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.layout.size()) }
    }

    fn refill(&mut self, seed: usize) {
        let bytes = (0..self.layout.size()).map(|i| seed.wrapping_mul(31).wrapping_add(i));
        self.bytes = bytes.map(|sum| sum.to_le_bytes()[0]).collect();
        let source = NonNull::from(&*self.bytes).cast();
        // SAFETY: the block is live, as long as `bytes`, and not part of them.
        unsafe { self.ptr.copy_from_nonoverlapping(source, self.bytes.len()) };
    }
}

fn check(blocks: &[Block]) -> Result<(), TestCaseError> {
    let mut ranges: Vec<_> = blocks
        .iter()
        .filter(|block| block.layout.size() > 0)
        .map(|block| (block.ptr.addr().get(), block.ptr.addr().get() + block.layout.size()))
        .collect();
    ranges.sort_unstable();
    prop_assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "blocks overlap");
    for block in blocks {
        prop_assert_eq!(block.ptr.addr().get() % block.layout.align(), 0);
        prop_assert_eq!(block.read(), &*block.bytes);
    }
    Ok(())
}

struct Driver<M: Mode> {
    pool: PoolAllocator<CountingAllocator, M>,
    blocks: Vec<Block>,
    most: usize,
}

impl<M: Mode> Driver<M> {
    /// Blocks of no bytes take none of the pool's.
    fn out(&self) -> usize {
        self.blocks.iter().filter(|block| block.layout.size() > 0).count()
    }

    fn serves(&self, layout: Layout) -> bool {
        let block = self.pool.block_layout();
        layout.size() == 0 || layout.size() <= block.size() && layout.align() <= block.align()
    }

    /// Whether a block of `layout` is to be had, in place of one of `old` bytes.
    fn has(&self, layout: Layout, old: usize) -> bool {
        self.serves(layout) && (layout.size() == 0 || old > 0 || self.out() < self.most)
    }

    fn allocate(&mut self, layout: Layout, zeroed: bool, seed: usize) -> Result<(), TestCaseError> {
        let pool = &self.pool;
        let got = if zeroed { pool.allocate_zeroed(layout) } else { pool.allocate(layout) };
        prop_assert_eq!(got.is_ok(), self.has(layout, 0));
        let Ok(got) = got else { return Ok(()) };
        prop_assert_eq!(got.len(), layout.size());
        let mut block = Block { ptr: got.cast(), layout, bytes: Vec::new() };
        prop_assert!(!zeroed || block.read().iter().all(|byte| *byte == 0));
        prop_assert!(layout.size() == 0 || pool.owns(block.ptr));
        block.refill(seed);
        self.blocks.push(block);
        Ok(())
    }

    fn free(&mut self, at: usize) {
        let block = self.blocks.swap_remove(at);
        // SAFETY: the block is live, of this layout, and forgotten.
        unsafe { self.pool.deallocate(block.ptr, block.layout) };
    }

    fn resize(&mut self, at: usize, new: Layout, zeroed: bool) -> Result<bool, TestCaseError> {
        let (ptr, old) = (self.blocks[at].ptr, self.blocks[at].layout);
        let has = self.has(new, old.size());
        let got = if new.size() < old.size() {
            // SAFETY: the block is live, of this layout, and the new size is not larger.
            unsafe { self.pool.shrink(ptr, old, new) }
        } else if zeroed {
            // SAFETY: the block is live, of this layout, and the new size is not smaller.
            unsafe { self.pool.grow_zeroed(ptr, old, new) }
        } else {
            // SAFETY: as above.
            unsafe { self.pool.grow(ptr, old, new) }
        };
        prop_assert_eq!(got.is_ok(), has);
        let Ok(got) = got else { return Ok(false) };
        prop_assert_eq!(got.len(), new.size());
        if old.size() > 0 && new.size() > 0 {
            prop_assert_eq!(got.cast(), ptr, "in place");
        }
        let block = &mut self.blocks[at];
        (block.ptr, block.layout) = (got.cast(), new);
        let kept = old.size().min(new.size());
        prop_assert_eq!(&block.read()[..kept], &block.bytes[..kept]);
        prop_assert!(!zeroed || block.read()[kept..].iter().all(|byte| *byte == 0));
        Ok(true)
    }

    fn run(
        &mut self,
        ops: &[Op],
        trim: impl Fn(&mut PoolAllocator<CountingAllocator, M>) -> usize,
    ) -> Result<(), TestCaseError> {
        let base = self.pool.base().clone();
        for (seed, op) in ops.iter().enumerate() {
            let len = self.blocks.len();
            match *op {
                Op::Allocate { size, shift, zeroed } => {
                    let layout = Layout::from_size_align(size, 1 << shift).unwrap();
                    self.allocate(layout, zeroed, seed)?;
                }
                Op::Fill { count } => {
                    let layout = self.pool.block_layout();
                    for _ in 0..count {
                        self.allocate(layout, false, seed)?;
                    }
                }
                Op::Trim => {
                    let before = base.live_bytes();
                    let given = trim(&mut self.pool);
                    prop_assert_eq!(base.live_bytes() + given, before);
                    prop_assert!(self.out() > 0 || base.live_bytes() == 0);
                }
                Op::Reset => {
                    self.blocks.clear();
                    self.pool.reset();
                }
                _ if len == 0 => {}
                Op::Free { which } => self.free(which % len),
                Op::Drain { from, step } => {
                    for at in (0..=from % len).rev().step_by(step) {
                        self.free(at);
                    }
                }
                Op::Grow { which, by, zeroed } => {
                    let old = self.blocks[which % len].layout;
                    let new = Layout::from_size_align(old.size() + by, old.align()).unwrap();
                    if self.resize(which % len, new, zeroed)? {
                        self.blocks[which % len].refill(seed);
                    }
                }
                Op::Shrink { which, to } => {
                    let old = self.blocks[which % len].layout;
                    let size = to.min(old.size());
                    let new = Layout::from_size_align(size, old.align()).unwrap();
                    if self.resize(which % len, new, false)? {
                        self.blocks[which % len].refill(seed);
                    }
                }
            }
            let (pool, out) = (&self.pool, self.out());
            prop_assert_eq!(pool.blocks_in_use(), out);
            prop_assert_eq!(pool.used(), out * pool.block_layout().size());
            prop_assert!(pool.pages() * pool.blocks_per_page() >= out);
            prop_assert_eq!(base.live_blocks(), pool.pages());
            prop_assert_eq!(base.live_bytes(), pool.pages() * pool.page_layout().size());
            check(&self.blocks)?;
        }
        Ok(())
    }
}

fn drive<M: Mode>(
    plan: &Plan,
    pool: PoolAllocator<CountingAllocator, M>,
    trim: impl Fn(&mut PoolAllocator<CountingAllocator, M>) -> usize,
) -> Result<(), TestCaseError> {
    let base = pool.base().clone();
    let most = plan.most.unwrap_or(usize::MAX);
    let mut driver = Driver { pool, blocks: Vec::new(), most };
    driver.run(&plan.ops, trim)?;
    drop(driver);
    base.assert_clean();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_pool_does_what_its_model_says(plan in plans()) {
        let base = CountingAllocator::new();
        let pool = PoolAllocator::try_new_in(plan.block, plan.most, base).unwrap();
        drive(&plan, pool, |pool| pool.trim())?;
    }

    #[test]
    fn a_shared_pool_does_what_its_model_says(plan in plans()) {
        let base = CountingAllocator::new();
        let pool = PoolAllocator::try_shared_in(plan.block, plan.most, base).unwrap();
        drive(&plan, pool, PoolAllocator::<_, nebula_alloc::Shared>::trim)?;
    }
}
