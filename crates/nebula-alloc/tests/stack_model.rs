//! Random sequences of operations on a stack and its frames against a plain list of what is where:
//! the cursor to the byte, contents, overlap, and what was freed out of order.

use std::{alloc::Layout, ptr::NonNull};

use nebula_alloc::{StackAllocator, StackFrame};
use nebula_memory_core::{
    Allocator, MemoryError, MemoryUsage, Resettable, allocator_api2::alloc::Allocator as _,
};
use nebula_testing::CountingAllocator;
use proptest::prelude::*;

const REGION: usize = 4096;
const GRAIN: usize = 16;

#[derive(Clone, Debug)]
enum Op {
    Allocate { size: usize, shift: u32, zeroed: bool },
    Free { which: usize },
    FreeTop,
    TryFree { which: usize },
    Grow { which: usize, by: usize, shift: u32 },
    Shrink { which: usize, to: usize, shift: u32 },
    Mark,
    Release { which: usize },
    Frame(Vec<Op>),
    Reset,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let size = prop_oneof![Just(0_usize), 1..40_usize, 1..400_usize, 1..5000_usize];
    let shift = prop_oneof![4 => 0..5_u32, 1 => 0..11_u32];
    let which = any::<usize>();
    let op = prop_oneof![
        8 => (size.clone(), shift.clone(), any::<bool>())
            .prop_map(|(size, shift, zeroed)| Op::Allocate { size, shift, zeroed }),
        6 => which.prop_map(|which| Op::Free { which }),
        4 => Just(Op::FreeTop),
        2 => which.prop_map(|which| Op::TryFree { which }),
        4 => (which, size.clone(), shift.clone())
            .prop_map(|(which, by, shift)| Op::Grow { which, by, shift }),
        4 => (which, size, shift).prop_map(|(which, to, shift)| Op::Shrink { which, to, shift }),
        1 => Just(Op::Mark),
        1 => which.prop_map(|which| Op::Release { which }),
        1 => Just(Op::Reset),
    ];
    let op =
        op.prop_recursive(2, 40, 12, |op| prop::collection::vec(op, 1..12).prop_map(Op::Frame));
    prop::collection::vec(op, 1..80)
}

/// What a stack and a frame can both do.
trait Stack: Allocator + MemoryUsage + Resettable {
    fn frame(&self) -> StackFrame<'_>;
    fn mark(&self) -> nebula_alloc::StackMarker;
    fn release(&mut self, marker: nebula_alloc::StackMarker) -> Result<(), MemoryError>;
    fn out_of_order(&self) -> u64;
    /// # Safety
    /// As `try_free`.
    unsafe fn try_free(&self, ptr: NonNull<u8>, layout: Layout) -> Result<(), MemoryError>;
}

macro_rules! stack {
    ([$($generics:tt)*] $type:ty) => {
        impl<$($generics)*> Stack for $type {
            fn frame(&self) -> StackFrame<'_> {
                self.frame()
            }
            fn mark(&self) -> nebula_alloc::StackMarker {
                self.marker()
            }
            fn release(&mut self, marker: nebula_alloc::StackMarker) -> Result<(), MemoryError> {
                self.release_to(marker)
            }
            fn out_of_order(&self) -> u64 {
                self.out_of_order()
            }
            unsafe fn try_free(&self, ptr: NonNull<u8>, layout: Layout) -> Result<(), MemoryError> {
                // SAFETY: the caller's promises are the callee's.
                unsafe { self.try_free(ptr, layout) }
            }
        }
    };
}
stack!([A: Allocator] StackAllocator<A>);
stack!(['a] StackFrame<'a>);

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

    fn end(&self) -> usize {
        self.start() + self.layout.size().next_multiple_of(GRAIN)
    }
}

/// One stretch: which grains of it are somebody's, one entry each from its start on. The cursor is
/// after the last.
#[derive(Default)]
struct Grains {
    start: usize,
    size: usize,
    taken: Vec<bool>,
    out_of_order: u64,
}

impl Grains {
    fn cursor(&self) -> usize {
        self.start + self.taken.len() * GRAIN
    }

    /// The place of a block whose header and padding begin at `from`, or `None` if it doesn't fit.
    fn fits(&self, from: usize, layout: Layout) -> Option<(usize, usize)> {
        let header = if layout.align() > GRAIN { GRAIN } else { 0 };
        let start = (from + header).next_multiple_of(layout.align());
        let end = start + layout.size().next_multiple_of(GRAIN);
        (end <= self.start + self.size).then_some((start, end))
    }

    fn take_to(&mut self, end: usize) {
        self.taken.resize((end - self.start) / GRAIN, true);
    }

    /// Frees `from..to`, and whatever is free below it if that was the top.
    fn free(&mut self, from: usize, to: usize) {
        let (from, to) = ((from - self.start) / GRAIN, (to - self.start) / GRAIN);
        assert!(self.taken[from..to].iter().all(|taken| *taken));
        self.taken[from..to].fill(false);
        self.settle();
    }

    fn settle(&mut self) {
        let top = self.taken.iter().rposition(|taken| *taken).map_or(0, |top| top + 1);
        self.taken.truncate(top);
    }
}

fn layout(size: usize, shift: u32) -> Layout {
    Layout::from_size_align(size, 1 << shift).unwrap()
}

/// A block with where its header and padding begin.
type Entry = (usize, Block);

fn check(blocks: &[Entry]) -> Result<(), TestCaseError> {
    let mut ranges: Vec<_> = blocks
        .iter()
        .filter(|(_, block)| block.layout.size() > 0)
        .map(|(from, block)| (*from, block.end()))
        .collect();
    ranges.sort_unstable();
    prop_assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "blocks overlap");
    for (_, block) in blocks {
        prop_assert_eq!(block.start() % block.layout.align(), 0);
        prop_assert_eq!(block.read(), &*block.bytes);
    }
    Ok(())
}

/// Drives one stretch; what `outer` has must stay as it is.
fn drive<S: Stack>(
    stack: &mut S,
    start: usize,
    ops: Vec<Op>,
    outer: &[Entry],
) -> Result<u64, TestCaseError> {
    let mut model = Grains { start, size: stack.capacity().unwrap(), ..Grains::default() };
    let mut blocks: Vec<Entry> = Vec::new();
    let mut markers = Vec::new();
    for (seed, op) in ops.into_iter().enumerate() {
        let op = match op {
            Op::FreeTop => {
                let top = blocks.iter().enumerate().max_by_key(|(_, (_, block))| block.start());
                Op::Free { which: top.map_or(0, |(at, _)| at) }
            }
            op => op,
        };
        match op {
            Op::FreeTop => unreachable!(),
            Op::Allocate { size, shift, zeroed } => {
                let layout = layout(size, shift);
                let got =
                    if zeroed { stack.allocate_zeroed(layout) } else { stack.allocate(layout) };
                let cursor = model.cursor();
                let fits = model.fits(cursor, layout);
                prop_assert_eq!(got.is_ok(), size == 0 || fits.is_some());
                let Ok(got) = got else { continue };
                prop_assert_eq!(got.len(), size);
                let mut block = Block { ptr: got.cast(), layout, bytes: Vec::new() };
                if let (Some((start, end)), true) = (fits, size > 0) {
                    prop_assert_eq!(block.start(), start);
                    model.take_to(end);
                }
                prop_assert!(!zeroed || block.read().iter().all(|byte| *byte == 0));
                block.refill(seed);
                blocks.push((cursor, block));
            }
            Op::Reset => {
                blocks.clear();
                stack.reset();
                model.taken.clear();
            }
            Op::Mark => markers.push((stack.mark(), model.cursor())),
            Op::Release { which } => {
                if let Some(marker) = markers.get(which % markers.len().max(1)) {
                    release(stack, &mut model, &mut blocks, *marker)?;
                }
            }
            Op::Frame(ops) => {
                let cursor = model.cursor();
                let mut frame = stack.frame();
                prop_assert_eq!(frame.capacity(), Some(start + model.size - cursor));
                prop_assert_eq!(stack.used(), model.size);
                prop_assert!(stack.allocate(layout(1, 0)).is_err());
                model.out_of_order += drive(&mut frame, cursor, ops, &blocks)?;
                drop(frame);
            }
            _ if blocks.is_empty() => {}
            Op::Free { which } => {
                let (from, block) = blocks.swap_remove(which % blocks.len());
                if block.layout.size() > 0 {
                    model.out_of_order += u64::from(block.end() != model.cursor());
                    model.free(from, block.end());
                }
                // SAFETY: the block is live and of this layout; it is forgotten now.
                unsafe { stack.deallocate(block.ptr, block.layout) };
            }
            Op::TryFree { which } => {
                let at = which % blocks.len();
                let (from, block) = &blocks[at];
                // SAFETY: the block is live and of this layout, and forgotten if it is freed.
                match unsafe { stack.try_free(block.ptr, block.layout) } {
                    Ok(()) => {
                        if block.layout.size() > 0 {
                            prop_assert_eq!(block.end(), model.cursor());
                            model.free(*from, block.end());
                        }
                        blocks.swap_remove(at);
                    }
                    Err(MemoryError::NotTopOfStack { distance }) => {
                        prop_assert_eq!(distance, model.cursor() - block.end());
                        prop_assert!(distance > 0);
                    }
                    Err(other) => prop_assert!(false, "{}", other),
                }
            }
            Op::Grow { which, by, shift } => {
                let at = which % blocks.len();
                let old = blocks[at].1.layout;
                resize(stack, &mut model, &mut blocks[at], layout(old.size() + by, shift))?;
                blocks[at].1.refill(seed);
            }
            Op::Shrink { which, to, shift } => {
                let at = which % blocks.len();
                let old = blocks[at].1.layout;
                resize(stack, &mut model, &mut blocks[at], layout(to.min(old.size()), shift))?;
                blocks[at].1.refill(seed);
            }
        }
        prop_assert_eq!(stack.used(), model.cursor() - start);
        prop_assert_eq!(stack.available(), Some(start + model.size - model.cursor()));
        prop_assert_eq!(stack.out_of_order(), model.out_of_order);
        check(&blocks)?;
        check(outer)?;
    }
    Ok(model.out_of_order)
}

/// Releases to a marker at `address`. One inside a block that was made later is the caller's
/// mistake, which nobody sees in blocks that are raw pointers; it cuts the block, and what is below
/// stays taken.
fn release<S: Stack>(
    stack: &mut S,
    model: &mut Grains,
    blocks: &mut Vec<Entry>,
    (marker, address): (nebula_alloc::StackMarker, usize),
) -> Result<(), TestCaseError> {
    let cursor = model.cursor();
    match stack.release(marker) {
        Ok(()) => {
            prop_assert!(address <= cursor);
            model.taken.truncate((address - model.start) / GRAIN);
            model.settle();
            let cursor = model.cursor();
            blocks.retain(|(_, block)| block.layout.size() == 0 || block.end() <= cursor);
        }
        Err(MemoryError::NotTopOfStack { distance }) => {
            prop_assert_eq!(distance, address - cursor);
        }
        Err(other) => prop_assert!(false, "{}", other),
    }
    Ok(())
}

/// Grows or shrinks a block, and checks where it went and what it holds.
fn resize<S: Stack>(
    stack: &S,
    model: &mut Grains,
    (from, block): &mut Entry,
    new: Layout,
) -> Result<(), TestCaseError> {
    let (old, growing) = (block.layout, new.size() >= block.layout.size());
    let got = if growing {
        // SAFETY: the block is live, of this layout, and the new size is not smaller.
        unsafe { stack.grow_zeroed(block.ptr, old, new) }
    } else {
        // SAFETY: the block is live, of this layout, and the new size is smaller.
        unsafe { stack.shrink(block.ptr, old, new) }
    };
    let (cursor, start, end) = (model.cursor(), block.start(), block.end());
    let top = old.size() > 0 && end == cursor;
    let stays = start % new.align() == 0 && (old.align() > GRAIN) == (new.align() > GRAIN);
    let same_grains = start + new.size().next_multiple_of(GRAIN) <= end;
    let in_place = !top && stays && same_grains && old.size() > 0;
    // Where it begins and lies now, if it has bytes at all.
    let begins = if top || in_place { *from } else { cursor };
    let place = if in_place {
        Some((start, start + new.size().next_multiple_of(GRAIN)))
    } else {
        model.fits(begins, new)
    };
    prop_assert_eq!(got.is_ok(), place.is_some() || new.size() == 0);
    let Ok(got) = got else { return Ok(()) };
    prop_assert_eq!(got.len(), new.size());
    if new.size() == 0 {
        if old.size() > 0 {
            model.free(*from, end);
            model.out_of_order += u64::from(!top);
        }
    } else {
        let (new_start, new_end) = place.unwrap();
        prop_assert_eq!(got.cast::<u8>().addr().get(), new_start);
        if in_place {
            model.free(new_end, end);
        } else if top {
            model.taken.truncate((begins - model.start) / GRAIN);
            model.take_to(new_end);
        } else {
            model.take_to(new_end);
            if old.size() > 0 {
                model.free(*from, end);
                model.out_of_order += 1;
            }
        }
        *from = begins;
    }
    block.ptr = got.cast();
    block.layout = new;
    let kept = old.size().min(new.size());
    prop_assert_eq!(&block.read()[..kept], &block.bytes[..kept]);
    prop_assert!(!growing || block.read()[kept..].iter().all(|byte| *byte == 0));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 5 } else { 80 }))]

    #[test]
    fn a_stack_does_what_its_model_says(ops in ops()) {
        let base = CountingAllocator::new();
        let mut stack = StackAllocator::try_new_in(REGION, &base).unwrap();
        // The first block begins where the region does.
        let start = stack.allocate(layout(1, 0)).unwrap().cast::<u8>().addr().get();
        stack.reset();
        drive(&mut stack, start, ops, &[])?;
        prop_assert_eq!((base.allocations(), base.live_bytes()), (1, REGION));
        drop(stack);
        base.assert_clean();
    }
}
