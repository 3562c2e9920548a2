//! Random sequences of operations against plain models: the bump's cursor to the byte, contents
//! and overlap, and the books of tracked allocators.

use std::{alloc::Layout, ptr::NonNull};

use nebula_alloc::{BumpAllocator, Mode, Tracked};
use nebula_memory_core::{
    Allocator, AllocatorKind, MemoryUsage, Resettable, StatisticsProvider, StatsSnapshot,
    allocator_api2::alloc::Allocator as _,
};
use nebula_testing::CountingAllocator;
use proptest::prelude::*;

const REGION: usize = 4096;

#[derive(Clone, Debug)]
enum Op {
    Allocate { size: usize, shift: u32, zeroed: bool },
    Free { which: usize },
    FreeLast,
    Grow { which: usize, by: usize, shift: u32, zeroed: bool },
    Shrink { which: usize, to: usize, shift: u32 },
    Reset,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let size = prop_oneof![Just(0_usize), 1..40_usize, 1..400_usize, 1..5000_usize];
    let shift = prop_oneof![0..5_u32, 0..13_u32];
    let which = any::<usize>();
    let op = prop_oneof![
        4 => (size.clone(), shift.clone(), any::<bool>())
            .prop_map(|(size, shift, zeroed)| Op::Allocate { size, shift, zeroed }),
        2 => which.prop_map(|which| Op::Free { which }),
        3 => Just(Op::FreeLast),
        3 => (which, size.clone(), shift.clone(), any::<bool>())
            .prop_map(|(which, by, shift, zeroed)| Op::Grow { which, by, shift, zeroed }),
        3 => (which, size, shift).prop_map(|(which, to, shift)| Op::Shrink { which, to, shift }),
        1 => Just(Op::Reset),
    ];
    prop::collection::vec(op, 1..80)
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

    fn start(&self) -> usize {
        self.ptr.addr().get()
    }
}

fn check(blocks: &[Block]) -> Result<(), TestCaseError> {
    let mut ranges: Vec<_> = blocks
        .iter()
        .filter(|block| block.layout.size() > 0)
        .map(|block| (block.start(), block.start() + block.layout.size()))
        .collect();
    ranges.sort_unstable();
    prop_assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "blocks overlap");
    for block in blocks {
        prop_assert_eq!(block.start() % block.layout.align(), 0);
        prop_assert_eq!(block.read(), &*block.bytes);
    }
    Ok(())
}

/// What the cursor has to do, in plain numbers.
struct Cursor {
    start: usize,
    at: usize,
}

impl Cursor {
    fn place(&mut self, from: usize, layout: Layout) -> bool {
        if layout.size() == 0 {
            self.at = from;
            return true;
        }
        let end = from.next_multiple_of(layout.align()) + layout.size();
        let fits = end <= self.start + REGION;
        if fits {
            self.at = end;
        }
        fits
    }

    fn is_last(&self, block: &Block) -> bool {
        block.layout.size() > 0 && block.start() + block.layout.size() == self.at
    }
}

fn layout(size: usize, shift: u32) -> Layout {
    Layout::from_size_align(size, 1 << shift).unwrap()
}

fn drive_bump<M: Mode>(
    mut bump: BumpAllocator<&CountingAllocator, M>,
    ops: Vec<Op>,
) -> Result<(), TestCaseError> {
    let base = *bump.base();
    // The first block begins where the region does.
    let first = bump.allocate(layout(1, 0)).unwrap().cast::<u8>();
    bump.reset();
    let start = first.addr().get();
    let mut cursor = Cursor { start, at: start };
    let mut blocks: Vec<Block> = Vec::new();
    for (seed, op) in ops.into_iter().enumerate() {
        match op {
            Op::Allocate { size, shift, zeroed } => {
                let layout = layout(size, shift);
                let got = if zeroed { bump.allocate_zeroed(layout) } else { bump.allocate(layout) };
                prop_assert_eq!(got.is_ok(), cursor.place(cursor.at, layout));
                let Ok(got) = got else { continue };
                prop_assert_eq!(got.len(), size);
                let mut block = Block { ptr: got.cast(), layout, bytes: Vec::new() };
                prop_assert!(!zeroed || block.read().iter().all(|byte| *byte == 0));
                block.refill(seed);
                blocks.push(block);
            }
            Op::Reset => {
                blocks.clear();
                bump.reset();
                cursor.at = start;
            }
            _ if blocks.is_empty() => {}
            Op::Free { which } => {
                let block = blocks.swap_remove(which % blocks.len());
                if cursor.is_last(&block) {
                    cursor.at = block.start();
                }
                // SAFETY: the block is live and of this layout; it is forgotten now.
                unsafe { bump.deallocate(block.ptr, block.layout) };
            }
            Op::FreeLast => {
                let (at, _) =
                    blocks.iter().enumerate().max_by_key(|(_, block)| block.start()).unwrap();
                let block = blocks.swap_remove(at);
                if cursor.is_last(&block) {
                    cursor.at = block.start();
                }
                // SAFETY: as above.
                unsafe { bump.deallocate(block.ptr, block.layout) };
            }
            Op::Grow { which, by, shift, zeroed } => {
                let at = which % blocks.len();
                let block = &mut blocks[at];
                let (old, new) = (block.layout, layout(block.layout.size() + by, shift));
                let from = if cursor.is_last(block) { block.start() } else { cursor.at };
                let got = if zeroed {
                    // SAFETY: the block is live, of this layout, and the new size is not smaller.
                    unsafe { bump.grow_zeroed(block.ptr, old, new) }
                } else {
                    // SAFETY: as above.
                    unsafe { bump.grow(block.ptr, old, new) }
                };
                prop_assert_eq!(got.is_ok(), cursor.place(from, new));
                if let Ok(got) = got {
                    prop_assert_eq!(got.len(), new.size());
                    block.ptr = got.cast();
                    block.layout = new;
                    let kept = &block.read()[..old.size()];
                    prop_assert_eq!(kept, &*block.bytes);
                    let added = &block.read()[old.size()..];
                    prop_assert!(!zeroed || added.iter().all(|byte| *byte == 0));
                    block.refill(seed);
                }
            }
            Op::Shrink { which, to, shift } => {
                let at = which % blocks.len();
                let block = &mut blocks[at];
                let (old, new) = (block.layout, layout(to.min(block.layout.size()), shift));
                let last = cursor.is_last(block);
                // SAFETY: the block is live, of this layout, and the new size is not larger.
                let got = unsafe { bump.shrink(block.ptr, old, new) };
                let expected = if last {
                    cursor.place(block.start(), new)
                } else {
                    block.start() % new.align() == 0 || cursor.place(cursor.at, new)
                };
                prop_assert_eq!(got.is_ok(), expected);
                if let Ok(got) = got {
                    prop_assert_eq!(got.len(), new.size());
                    block.ptr = got.cast();
                    block.layout = new;
                    block.bytes.truncate(new.size());
                    prop_assert_eq!(block.read(), &*block.bytes);
                    block.refill(seed);
                }
            }
        }
        prop_assert_eq!(bump.used(), cursor.at - start);
        prop_assert_eq!(bump.available(), Some(start + REGION - cursor.at));
        check(&blocks)?;
    }
    prop_assert_eq!((base.live_blocks(), base.live_bytes()), (1, REGION));
    drop(bump);
    base.assert_clean();
    Ok(())
}

/// The same operations on a tracked allocator over exact books; a model counts along.
fn drive_tracked<M: Mode>(
    tracked: &Tracked<CountingAllocator, M>,
    ops: Vec<Op>,
) -> Result<(), TestCaseError> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut model = StatsSnapshot::default();
    // Blocks of no bytes are no blocks.
    let resize = |model: &mut StatsSnapshot, old: usize, new: usize| {
        model.allocations += u64::from(old == 0 && new > 0);
        model.deallocations += u64::from(old > 0 && new == 0);
        model.bytes_allocated += new.saturating_sub(old) as u64;
        model.bytes_deallocated += old.saturating_sub(new) as u64;
        model.peak_usage = model.peak_usage.max(model.current_usage());
    };
    let free = |model: &mut StatsSnapshot, block: &Block| {
        resize(model, block.layout.size(), 0);
        // SAFETY: the block is live and of this layout; the caller forgets it.
        unsafe { tracked.deallocate(block.ptr, block.layout) };
    };
    for (seed, op) in ops.into_iter().enumerate() {
        match op {
            Op::Allocate { size, shift, zeroed } => {
                let layout = layout(size, shift);
                let got = if zeroed {
                    tracked.allocate_zeroed(layout).unwrap()
                } else {
                    tracked.try_allocate(layout).unwrap()
                };
                let mut block = Block { ptr: got.cast(), layout, bytes: Vec::new() };
                block.refill(seed);
                blocks.push(block);
                resize(&mut model, 0, size);
            }
            Op::Reset => {
                for block in blocks.drain(..) {
                    free(&mut model, &block);
                }
            }
            _ if blocks.is_empty() => {}
            Op::Free { which } => {
                let block = blocks.swap_remove(which % blocks.len());
                free(&mut model, &block);
            }
            Op::FreeLast => free(&mut model, &blocks.pop().unwrap()),
            Op::Grow { which, by, shift, zeroed } => {
                let at = which % blocks.len();
                let block = &mut blocks[at];
                let (old, new) = (block.layout, layout(block.layout.size() + by, shift));
                let got = if zeroed {
                    // SAFETY: the block is live, of this layout, and the new size is not smaller.
                    unsafe { tracked.grow_zeroed(block.ptr, old, new) }
                } else {
                    // SAFETY: as above.
                    unsafe { tracked.grow(block.ptr, old, new) }
                };
                block.ptr = got.unwrap().cast();
                block.layout = new;
                prop_assert_eq!(&block.read()[..old.size()], &*block.bytes);
                block.refill(seed);
                resize(&mut model, old.size(), new.size());
            }
            Op::Shrink { which, to, shift } => {
                let at = which % blocks.len();
                let block = &mut blocks[at];
                let (old, new) = (block.layout, layout(to.min(block.layout.size()), shift));
                // SAFETY: the block is live, of this layout, and the new size is not larger.
                let got = unsafe { tracked.shrink(block.ptr, old, new) };
                block.ptr = got.unwrap().cast();
                block.layout = new;
                block.bytes.truncate(new.size());
                resize(&mut model, old.size(), new.size());
            }
        }
        prop_assert_eq!(tracked.statistics(), Some(model));
        prop_assert_eq!(model.live_blocks(), tracked.allocator().live_blocks() as u64);
        prop_assert_eq!(tracked.used(), tracked.allocator().live_bytes());
        check(&blocks)?;
    }
    for block in blocks.drain(..) {
        free(&mut model, &block);
    }
    prop_assert_eq!(tracked.statistics(), Some(model));
    tracked.allocator().assert_clean();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_bump_does_what_its_model_says(ops in ops()) {
        let base = CountingAllocator::new();
        drive_bump(BumpAllocator::try_new_in(REGION, &base).unwrap(), ops.clone())?;
        drive_bump(BumpAllocator::try_shared_in(REGION, &base).unwrap(), ops)?;
    }

    #[test]
    fn statistics_are_those_of_the_model(ops in ops()) {
        let shared = Tracked::new(CountingAllocator::new(), "x", AllocatorKind::Other);
        drive_tracked(&shared, ops.clone())?;
        let exclusive = Tracked::exclusive(CountingAllocator::new(), "x", AllocatorKind::Other);
        drive_tracked(&exclusive, ops)?;
    }
}
