//! Sequences of operations on an arena of any kind: what was allocated keeps its contents until it
//! is freed, its scope ends or the arena is reset, blocks don't overlap, and every byte comes back
//! to the allocator.

#![no_main]

use std::{alloc::Layout, cell::Cell, ptr::NonNull};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use nebula_arena::{Arena, ArenaConfig, Direction, Down, Growth, Keep, Scope, Up};
use nebula_memory_core::{
    Account, Accounted, Align, ByteSize, Global, MemoryError, MemoryUsage,
    allocator_api2::alloc::Allocator as _,
};

/// An account with a limit, which is how an arena meets refusals.
struct Purse {
    charged: Cell<usize>,
    limit: usize,
}

impl Account for Purse {
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        let available = self.limit - self.charged.get();
        if bytes > available {
            let align = Align::ONE;
            return Err(MemoryError::CapacityExceeded { requested: bytes, available, align });
        }
        self.charged.set(self.charged.get() + bytes);
        Ok(())
    }

    fn credit(&self, bytes: usize) {
        assert!(bytes <= self.charged.get(), "more was credited than charged");
        self.charged.set(self.charged.get() - bytes);
    }
}

#[derive(Arbitrary, Debug)]
struct Input {
    chunk_size: u16,
    max_chunk_size: u16,
    growth: u8,
    kind: u8,
    capacity: Option<u16>,
    limit: u16,
    rounds: Vec<Round>,
}

#[derive(Arbitrary, Debug)]
struct Round {
    operations: Vec<Operation>,
    keep: u8,
    shrink_to: u16,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    Number(u64),
    Text(String),
    Numbers(Vec<u16>),
    /// A block of that size and alignment (its logarithm, after a remainder).
    Block(u16, u8),
    /// Which block (after a remainder), and its new size.
    Resize(u8, u16),
    Free(u8),
    /// A list that does not know its length, and formatted text.
    Collect(u16),
    /// All of these in a scope of their own.
    Scope(Vec<Operation>),
}

/// A block that the fuzzer holds, and the byte that fills it.
struct Held {
    block: NonNull<u8>,
    layout: Layout,
    fill: u8,
}

impl Held {
    fn write(&self) {
        // SAFETY: the block is ours and has that size.
        unsafe { self.block.write_bytes(self.fill, self.layout.size()) };
    }

    fn check(&self, size: usize) {
        // SAFETY: the block is ours, was filled when we got it, and `size` is at most its own.
        let bytes = unsafe { std::slice::from_raw_parts(self.block.as_ptr(), size) };
        assert!(bytes.iter().all(|byte| *byte == self.fill), "a block was overwritten");
        assert_eq!(self.block.addr().get() % self.layout.align(), 0, "a block is misaligned");
    }
}

fn round<A: nebula_memory_core::Allocator, D: Direction, const M: usize>(
    arena: &mut Scope<'_, A, D, M>,
    operations: Vec<Operation>,
) {
    let mut lists: Vec<&mut [u16]> = Vec::new();
    let mut blocks: Vec<Held> = Vec::new();
    let mut numbers: Vec<(&mut u64, u64)> = Vec::new();
    let mut texts: Vec<(&mut str, String)> = Vec::new();
    let mut slices: Vec<(&mut [u16], Vec<u16>)> = Vec::new();
    for (index, operation) in operations.into_iter().enumerate() {
        let fill = index as u8;
        match operation {
            Operation::Number(number) => match arena.try_alloc(number) {
                Ok(value) => numbers.push((value, number)),
                Err(refused) => assert_eq!(refused.value, number),
            },
            Operation::Text(text) => {
                if let Ok(copy) = arena.try_alloc_str(&text) {
                    texts.push((copy, text));
                }
            }
            Operation::Numbers(values) => {
                if let Ok(copy) = arena.try_alloc_slice_copy(&values) {
                    slices.push((copy, values));
                }
            }
            Operation::Block(size, shift) => {
                let layout = Layout::from_size_align(size.into(), 1 << (shift % 13));
                let layout = layout.expect("small");
                if let Ok(block) = (&*arena).allocate(layout) {
                    assert_eq!(block.len(), layout.size());
                    let held = Held { block: block.cast(), layout, fill };
                    held.write();
                    blocks.push(held);
                }
            }
            Operation::Resize(which, size) => {
                let count = blocks.len().max(1);
                let Some(held) = blocks.get_mut(usize::from(which) % count) else { continue };
                let (old, size) = (held.layout, usize::from(size));
                let new = Layout::from_size_align(size, old.align()).expect("small");
                let result = if size >= old.size() {
                    // SAFETY: the block is the arena's and has the old layout; the new one is at
                    // least as large.
                    unsafe { (&*arena).grow(held.block, old, new) }
                } else {
                    // SAFETY: as above; the new one is smaller.
                    unsafe { (&*arena).shrink(held.block, old, new) }
                };
                if let Ok(block) = result {
                    assert_eq!(block.len(), size);
                    held.block = block.cast();
                    held.layout = new;
                    held.check(size.min(old.size()));
                    held.fill = fill;
                    held.write();
                }
            }
            Operation::Free(which) => {
                if !blocks.is_empty() {
                    let held = blocks.swap_remove(usize::from(which) % blocks.len());
                    held.check(held.layout.size());
                    // SAFETY: the block is the arena's, has this layout, and is forgotten here.
                    unsafe { (&*arena).deallocate(held.block, held.layout) };
                }
            }
            Operation::Collect(len) => {
                if let Ok(list) = arena.try_alloc_slice_from_iter((0..len).filter(|i| i % 2 == 0)) {
                    lists.push(list);
                }
                if let Ok(text) = arena.try_alloc_fmt(format_args!("{len:>9}{len}")) {
                    texts.push((text, format!("{len:>9}{len}")));
                }
            }
            Operation::Scope(operations) => {
                let used = arena.usage().used;
                arena.scope(|inner| round(inner, operations));
                assert_eq!(arena.usage().used, used, "a scope kept something");
            }
        }
    }
    for held in &blocks {
        held.check(held.layout.size());
    }
    assert!(numbers.iter().all(|(value, number)| **value == *number));
    assert!(texts.iter().all(|(copy, text)| **copy == **text));
    assert!(slices.iter().all(|(copy, values)| **copy == **values));
    for list in lists {
        assert!(list.iter().enumerate().all(|(i, value)| usize::from(*value) == 2 * i));
    }
}

fuzz_target!(|input: Input| match input.kind % 6 {
    0 => run::<Up, 1>(input),
    1 => run::<Up, 8>(input),
    2 => run::<Up, 16>(input),
    3 => run::<Down, 1>(input),
    4 => run::<Down, 4>(input),
    _ => run::<Down, 16>(input),
});

fn run<D: Direction, const M: usize>(input: Input) {
    let mut config = ArenaConfig::builder()
        .chunk_size(ByteSize::new(input.chunk_size.into()))
        .max_chunk_size(ByteSize::new(input.max_chunk_size.into()))
        .growth([Growth::Fixed, Growth::Linear, Growth::Doubling][usize::from(input.growth % 3)]);
    if let Some(capacity) = input.capacity {
        config = config.capacity(ByteSize::new(capacity.into()));
    }
    let Ok(config) = config.build() else { return };
    let purse = Purse { charged: Cell::new(0), limit: usize::from(input.limit) * 16 };
    let allocator = Accounted::new(Global, &purse);
    let Ok(mut arena) = Arena::<_, D, M>::with_parameters(config, allocator) else { return };
    for next in input.rounds {
        round(&mut arena.as_scope(), next.operations);
        let usage = arena.usage();
        assert_eq!(arena.allocated_bytes(), purse.charged.get(), "the books differ");
        assert_eq!((usage.used, usage.allocated), (arena.used(), purse.charged.get()));
        let sum = usage.used + usage.free + usage.wasted + usage.spare + usage.overhead;
        assert_eq!(sum, usage.allocated, "bytes without a purpose");
        assert_eq!(arena.chunks().map(<[_]>::len).sum::<usize>(), usage.used);
        arena.reset_keeping([Keep::Nothing, Keep::Last, Keep::All][usize::from(next.keep % 3)]);
        assert_eq!((arena.used(), arena.allocated_bytes()), (0, purse.charged.get()));
        arena.shrink_to(next.shrink_to.into());
        assert!(purse.charged.get() <= next.shrink_to.into());
    }
    drop(arena);
    assert_eq!(purse.charged.get(), 0, "not all came back");
}
