//! What every [`Allocator`] has to keep.

use std::{alloc::Layout, hint::black_box, thread};

use allocator_api2::vec::Vec as AVec;
use nebula_memory_core::{Allocator, TypedAllocator};

use super::{
    containers::{boxes, hash_maps, mixed_containers, vectors},
    model::{How, Model},
    options::{AllocatorOptions, Reuse, layout},
};
use crate::Rng;

/// Random sequences, and operations in each: fewer where each takes a thousand times as long.
const SEEDS: u64 = if cfg!(miri) { 2 } else { 12 };
const OPERATIONS: usize = if cfg!(miri) { 50 } else { 250 };

/// Runs the whole suite for an allocator without limits that gives memory back; `make` makes a
/// fresh allocator for every case.
///
/// ```
/// nebula_testing::conformance::allocator_conformance(|| nebula_memory_core::Global);
/// ```
///
/// # Panics
/// If the allocator breaks the contract.
pub fn allocator_conformance<A: Allocator>(make: impl Fn() -> A) {
    allocator_conformance_with(AllocatorOptions::default(), make, |_| ());
}

/// Runs the whole suite for an allocator with `options`; at the end of every case, when all blocks
/// have been freed, `settled` is called to check the allocator's own books.
///
/// ```
/// use nebula_testing::{CountingAllocator, conformance::{AllocatorOptions, allocator_conformance_with}};
/// let options = AllocatorOptions::default();
/// allocator_conformance_with(options, CountingAllocator::new, CountingAllocator::assert_clean);
/// ```
///
/// # Panics
/// If the allocator breaks the contract.
pub fn allocator_conformance_with<A: Allocator>(
    options: AllocatorOptions,
    make: impl Fn() -> A,
    settled: impl Fn(&A),
) {
    options.check();
    let cases: [fn(&AllocatorOptions, &A); 14] = [
        zero_sized_blocks,
        blocks_that_were_never_allocated,
        every_alignment,
        zeroed_memory,
        growing_and_shrinking,
        growing_in_small_steps,
        changing_the_alignment,
        huge_requests,
        unusual_alignments,
        boxes,
        vectors,
        hash_maps,
        mixed_containers,
        exhaustion,
    ];
    for case in cases {
        let allocator = make();
        case(&options, &allocator);
        settled(&allocator);
    }
    for seed in 0..SEEDS {
        let allocator = make();
        random_operations(&options, &allocator, seed, OPERATIONS);
        settled(&allocator);
    }
}

/// Runs random operations on one allocator from four threads at once, for allocators that are
/// shared by reference; `settled` is called when all threads are done.
///
/// ```
/// use nebula_testing::{CountingAllocator, conformance::{AllocatorOptions, shared_allocator_conformance}};
/// let options = AllocatorOptions::default();
/// shared_allocator_conformance(options, CountingAllocator::new, CountingAllocator::assert_clean);
/// ```
///
/// # Panics
/// If the allocator breaks the contract.
pub fn shared_allocator_conformance<A: Allocator + Sync>(
    options: AllocatorOptions,
    make: impl Fn() -> A,
    settled: impl Fn(&A),
) {
    const THREADS: usize = 4;
    options.check();
    let share = |capacity: usize| capacity / THREADS;
    let options = AllocatorOptions {
        capacity: options.capacity.map(share),
        blocks: options.blocks.map(share),
        max_size: options.capacity.map_or(options.max_size, |c| options.max_size.min(share(c))),
        ..options
    };
    for round in 0..4 {
        let allocator = make();
        thread::scope(|scope| {
            for id in 0..THREADS as u64 {
                let (allocator, options) = (&allocator, &options);
                scope.spawn(move || {
                    random_operations(options, allocator, round * 100 + id, OPERATIONS);
                });
            }
        });
        settled(&allocator);
    }
}

/// A model with the options in mind: it knows which refusals are allowed.
struct Driver<'a, A: Allocator> {
    model: Model<'a, A>,
    options: &'a AllocatorOptions,
}

impl<'a, A: Allocator> Driver<'a, A> {
    fn new(options: &'a AllocatorOptions, allocator: &'a A) -> Self {
        Self { model: Model::new(allocator), options }
    }

    /// Whether a refusal of what was asked last is allowed.
    fn may_refuse(&self, asked: Layout) -> bool {
        let blocks = match self.options.reuse {
            Reuse::Any => self.model.len() + 1,
            // Some may be waiting for those above them.
            Reuse::Never | Reuse::LastInFirstOut => self.model.requests(),
        };
        !self.options.serves(asked)
            || self.options.capacity.is_some_and(|c| self.model.asked() > c)
            || self.options.blocks.is_some_and(|b| blocks > b)
    }

    /// Allocates; `false` if that was refused and the refusal is allowed.
    fn allocate(&mut self, layout: Layout, how: How) -> bool {
        let result = self.model.allocate(layout, how);
        assert!(result.is_ok() || self.may_refuse(layout), "{layout:?} was refused ({how:?})");
        result.is_ok()
    }

    fn grow(&mut self, index: usize, new: Layout, how: How) -> bool {
        let old = self.model.layout(index);
        let result = self.model.grow(index, new, how);
        assert!(
            result.is_ok() || self.may_refuse(new),
            "growing {old:?} to {new:?} was refused ({how:?})"
        );
        result.is_ok()
    }

    fn shrink(&mut self, index: usize, new: Layout) -> bool {
        let old = self.model.layout(index);
        let result = self.model.shrink(index, new);
        assert!(result.is_ok() || self.may_refuse(new), "shrinking {old:?} to {new:?} was refused");
        result.is_ok()
    }
}

fn zero_sized_blocks<A: Allocator>(options: &AllocatorOptions, allocator: &A) {
    let mut driver = Driver::new(options, allocator);
    for how in [How::Try, How::Plain, How::Zeroed] {
        for align in [1, 8, 64] {
            let align = align.min(options.max_align);
            driver.allocate(layout(0, align), how);
            // From nothing to something and back.
            if driver.allocate(layout(0, align), how) {
                let last = driver.model.len() - 1;
                driver.grow(last, layout(options.size(24), align), how);
                driver.shrink(last, layout(0, align));
            }
        }
    }
    driver.model.clear();
}

/// `Box` frees empty slices that it never allocated; that must do nothing.
fn blocks_that_were_never_allocated<A: Allocator>(options: &AllocatorOptions, allocator: &A) {
    let mut driver = Driver::new(options, allocator);
    let block = layout(options.size(32), 8.min(options.max_align));
    driver.allocate(block, How::Try);
    for _ in 0..3 {
        drop(AVec::<u64, _>::new_in(allocator).into_boxed_slice());
        drop(AVec::<(), _>::new_in(allocator).into_boxed_slice());
        drop(allocator.try_new_slice(0, |i| i).expect("an empty slice"));
        drop(allocator.try_new(()).expect("a value without size"));
    }
    // What a free that took them seriously would hand out twice.
    driver.allocate(block, How::Try);
    driver.allocate(block, How::Try);
    driver.model.verify();
    driver.model.clear();
}

fn every_alignment<A: Allocator>(options: &AllocatorOptions, allocator: &A) {
    let mut driver = Driver::new(options, allocator);
    for how in [How::Try, How::Plain, How::Zeroed] {
        for shift in 0..=12 {
            for size in [1, 7, 64] {
                let align = 1 << shift;
                if align <= options.max_align {
                    driver.allocate(layout(options.size(size), align), how);
                }
            }
        }
    }
    driver.model.verify();
    driver.model.clear();
}

fn zeroed_memory<A: Allocator>(options: &AllocatorOptions, allocator: &A) {
    let mut driver = Driver::new(options, allocator);
    let block = layout(options.size(500), 8.min(options.max_align));
    for round in 0..4 {
        // Dirty memory that is freed and, perhaps, given out again.
        for _ in 0..4 {
            driver.allocate(block, How::Plain);
        }
        driver.model.clear();
        for _ in 0..4 {
            driver.allocate(block, How::Zeroed);
        }
        let small = layout(options.size(round * 3 + 1), block.align());
        if driver.allocate(small, How::Zeroed) {
            driver.grow(driver.model.len() - 1, block, How::Zeroed);
        }
        driver.model.verify();
        driver.model.clear();
    }
}

fn growing_and_shrinking<A: Allocator>(options: &AllocatorOptions, allocator: &A) {
    let mut driver = Driver::new(options, allocator);
    let align = 8.min(options.max_align);
    for how in [How::Plain, How::Zeroed] {
        for hemmed_in in [false, true] {
            for wanted in [16, 48, 100, 1000] {
                let (small, large) = (options.size(wanted / 4), options.size(wanted));
                if !driver.allocate(layout(small, align), How::Try) {
                    continue;
                }
                // With a neighbour behind it, the block has to move (in most allocators).
                if hemmed_in {
                    driver.allocate(layout(options.size(8), align), How::Try);
                }
                driver.grow(0, layout(large.max(small), align), how);
                driver.model.verify();
                let now = driver.model.layout(0).size();
                driver.shrink(0, layout(small.min(now), align));
                let now = driver.model.layout(0).size();
                // To the same size: nothing changes.
                driver.shrink(0, layout(now, align));
                driver.grow(0, layout(now, align), how);
                driver.model.verify();
                driver.model.clear();
            }
        }
    }
}

/// Two blocks that grow in turn, byte by byte at first.
fn growing_in_small_steps<A: Allocator>(options: &AllocatorOptions, allocator: &A) {
    let mut driver = Driver::new(options, allocator);
    if !driver.allocate(layout(1, 1), How::Try) || !driver.allocate(layout(1, 1), How::Try) {
        return driver.model.clear();
    }
    for step in 0..60 {
        let index = step % 2;
        let size = driver.model.layout(index).size();
        let larger = options.size(size + 1 + step / 10).max(size);
        if !driver.grow(index, layout(larger, 1), How::Plain) {
            break;
        }
    }
    driver.model.verify();
    driver.model.clear();
}

fn changing_the_alignment<A: Allocator>(options: &AllocatorOptions, allocator: &A) {
    let mut driver = Driver::new(options, allocator);
    let aligns = [1, 16, 2, 256, 8, 4096, 1];
    if !driver.allocate(layout(options.size(10), 1), How::Try) {
        return;
    }
    for (step, align) in aligns.into_iter().enumerate() {
        let align = align.min(options.max_align);
        let size = driver.model.layout(0).size();
        driver.grow(0, layout(options.size(size + step * 5).max(size), align), How::Plain);
        driver.allocate(layout(options.size(3), 1), How::Plain);
    }
    for align in aligns.into_iter().rev() {
        let align = align.min(options.max_align);
        let size = driver.model.layout(0).size();
        driver.shrink(0, layout(size / 2, align));
    }
    driver.model.verify();
    driver.model.clear();
}

/// No allocator can serve these; they are errors, and change nothing.
fn huge_requests<A: Allocator>(options: &AllocatorOptions, allocator: &A) {
    const LARGEST: usize = isize::MAX as usize;
    if cfg!(miri) {
        // Miri ends the program where the system's allocator would refuse.
        return;
    }
    let mut driver = Driver::new(options, allocator);
    let block = layout(options.size(64), 8.min(options.max_align));
    driver.allocate(block, How::Try);
    for align in [1, 8, 4096] {
        for huge in [LARGEST - (align - 1), LARGEST - (align - 1) - 4096, LARGEST / 2 + 1] {
            let huge = layout(huge, align);
            let refused = |served: bool, call: &str| {
                assert!(!served, "{call} claims to have served {huge:?}");
            };
            // The compiler may leave out an allocation that nobody uses, and call it a success.
            refused(black_box(allocator.try_allocate(huge)).is_ok(), "try_allocate");
            refused(black_box(allocator.allocate(huge)).is_ok(), "allocate");
            refused(black_box(allocator.allocate_zeroed(huge)).is_ok(), "allocate_zeroed");
            if driver.model.len() > 0 {
                refused(driver.model.grow(0, huge, How::Plain).is_ok(), "grow");
                refused(driver.model.grow(0, huge, How::Zeroed).is_ok(), "grow_zeroed");
            }
        }
    }
    assert!(allocator.try_new_slice(usize::MAX / 4, |i| i as u64).is_err());
    driver.model.verify();
    driver.model.clear();
    // Nothing of those requests counts: the allocator serves as before.
    let mut driver = Driver::new(options, allocator);
    if options.reuse != Reuse::Never {
        assert!(driver.allocate(block, How::Try));
    }
    driver.model.clear();
}

/// Alignments beyond a page, and beyond what the allocator has to serve: properly, or not at all.
fn unusual_alignments<A: Allocator>(options: &AllocatorOptions, allocator: &A) {
    let mut driver = Driver::new(options, allocator);
    for shift in 12..=21 {
        // Served or refused: the model checks what was served.
        let _ = driver.model.allocate(layout(options.size(8), 1 << shift), How::Try);
    }
    driver.model.verify();
    driver.model.clear();
}

/// Allocates until refused; then everything is intact and can be had again.
fn exhaustion<A: Allocator>(options: &AllocatorOptions, allocator: &A) {
    const MOST: usize = 1 << 16;
    if options.capacity.is_none() && options.blocks.is_none() {
        return many_blocks(options, allocator);
    }
    let size = options.size(options.capacity.map_or(options.max_size, |c| c / 128));
    let block = layout(size.max(1), 8.min(options.max_align));
    let fill = |driver: &mut Driver<'_, A>| {
        for _ in 0..MOST {
            if !driver.allocate(block, How::Try) {
                assert!(
                    black_box(allocator.try_allocate(block)).is_err(),
                    "{block:?} was refused, then served, though nothing was freed"
                );
                return;
            }
        }
        panic!("{MOST} blocks of {block:?} were served by what has a fixed capacity");
    };
    let mut driver = Driver::new(options, allocator);
    fill(&mut driver);
    driver.model.verify();
    let first = driver.model.len();
    driver.model.clear();
    if options.reuse == Reuse::Never {
        return;
    }
    // Freed last first; all of it must be there again.
    let mut driver = Driver::new(options, allocator);
    fill(&mut driver);
    let again = driver.model.len();
    assert!(again >= first, "{first} blocks fitted at first, only {again} after freeing them");
    if options.reuse == Reuse::Any {
        let mut rng = Rng::new(1);
        while driver.model.len() > 0 {
            driver.model.free(rng.below(driver.model.len()));
        }
        fill(&mut driver);
        let again = driver.model.len();
        assert!(again >= first, "{first} blocks fitted, only {again} after frees in random order");
    }
    driver.model.clear();
}

fn many_blocks<A: Allocator>(options: &AllocatorOptions, allocator: &A) {
    let mut driver = Driver::new(options, allocator);
    for i in 0..500 {
        driver.allocate(layout(options.size(i % 90), 1 << (i % 5)), How::Try);
    }
    driver.model.verify();
    driver.model.clear();
}

fn random_operations<A: Allocator>(
    options: &AllocatorOptions,
    allocator: &A,
    seed: u64,
    operations: usize,
) {
    let mut driver = Driver::new(options, allocator);
    let mut rng = Rng::new(seed);
    let random_layout = |rng: &mut Rng| {
        let most = if rng.one_in(8) { 2000 } else { 100 };
        let align = (1_usize << rng.below(8)).min(options.max_align);
        layout(rng.below(options.size(most) + 1), align)
    };
    for _ in 0..operations {
        let how = [How::Try, How::Plain, How::Zeroed][rng.below(3)];
        let len = driver.model.len();
        match rng.below(10) {
            0..4 => {
                let wanted = random_layout(&mut rng);
                driver.allocate(wanted, how);
            }
            _ if len == 0 => {}
            4..6 => {
                let (index, wanted) = (rng.below(len), random_layout(&mut rng));
                let size = wanted.size().max(driver.model.layout(index).size());
                driver.grow(index, layout(size, wanted.align()), how);
            }
            6 => {
                let (index, wanted) = (rng.below(len), random_layout(&mut rng));
                let size = wanted.size().min(driver.model.layout(index).size());
                driver.shrink(index, layout(size, wanted.align()));
            }
            7 => driver.model.pop(),
            _ => driver.model.free(rng.below(len)),
        }
        if rng.one_in(16) {
            driver.model.verify();
        }
    }
    driver.model.verify();
    while driver.model.len() > 0 {
        driver.model.free(rng.below(driver.model.len()));
    }
}
