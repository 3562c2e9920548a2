//! A model of an allocator's live blocks: what each holds, and where.

use std::{alloc::Layout, collections::BTreeMap, hint::black_box, ops::Range, ptr::NonNull};

use allocator_api2::alloc::AllocError;
use nebula_memory_core::Allocator;

/// A live block, filled with the pattern of its seed.
#[derive(Clone, Copy, Debug)]
struct Block {
    ptr: NonNull<u8>,
    layout: Layout,
    seed: u64,
}

/// The byte at `index` of a block with `seed`.
#[allow(clippy::cast_possible_truncation, reason = "the low byte is what is wanted")]
fn pattern(seed: u64, index: usize) -> u8 {
    let mixed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (index as u64).wrapping_mul(0x0101_0107);
    (mixed >> 24) as u8 ^ mixed as u8
}

impl Block {
    /// The bytes in `range`, which have been written, by the suite or by a zeroing call.
    fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.layout.size());
        // SAFETY: the block is live and at least this long.
        let start = unsafe { self.ptr.add(range.start) };
        // SAFETY: as above; these bytes are initialised, and nobody writes to them meanwhile.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), range.len()) }
    }

    fn fill(&self) {
        let bytes: Vec<u8> = (0..self.layout.size()).map(|i| pattern(self.seed, i)).collect();
        let from = NonNull::from(bytes.as_slice()).cast();
        // SAFETY: both are valid for the size of the block, which is exclusively ours.
        unsafe { self.ptr.copy_from_nonoverlapping(from, bytes.len()) };
    }

    fn verify(&self, len: usize, when: &str) {
        for (index, &found) in self.bytes(0..len).iter().enumerate() {
            let wanted = pattern(self.seed, index);
            assert!(
                found == wanted,
                "contents lost {when}: byte {index} of {:?} is {found:#x}, was {wanted:#x}",
                self.layout
            );
        }
    }

    fn verify_zeroed(&self, from: usize, when: &str) {
        if let Some(at) = self.bytes(from..self.layout.size()).iter().position(|&b| b != 0) {
            panic!("not zeroed {when}: byte {} of {:?}", from + at, self.layout);
        }
    }
}

/// Which call makes the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Try,
    Plain,
    Zeroed,
}

/// Drives an allocator and checks every answer; frees what is left when dropped.
pub(super) struct Model<'a, A: Allocator> {
    allocator: &'a A,
    blocks: Vec<Block>,
    /// Start and end of every live block of more than zero bytes.
    ranges: BTreeMap<usize, usize>,
    /// The size of all blocks asked for so far, with room for their alignment: after this much,
    /// an allocator that reuses nothing may be full.
    asked: usize,
    /// How many requests that was.
    requests: usize,
    next_seed: u64,
}

impl<'a, A: Allocator> Model<'a, A> {
    pub(super) fn new(allocator: &'a A) -> Self {
        let (blocks, ranges) = (Vec::new(), BTreeMap::new());
        Self { allocator, blocks, ranges, asked: 0, requests: 0, next_seed: 1 }
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn asked(&self) -> usize {
        self.asked
    }

    pub(super) fn requests(&self) -> usize {
        self.requests
    }

    pub(super) fn layout(&self, index: usize) -> Layout {
        self.blocks[index].layout
    }

    fn ask(&mut self, layout: Layout) {
        self.requests += 1;
        self.asked = self.asked.saturating_add(layout.size()).saturating_add(layout.align());
    }

    /// Checks what every returned slice has to keep.
    fn check_slice(&self, slice: NonNull<[u8]>, layout: Layout, call: &str) {
        assert!(
            slice.len() == layout.size(),
            "{call} returned {} bytes for {layout:?}; exactly {} were asked for",
            slice.len(),
            layout.size()
        );
        let start = slice.cast::<u8>().addr().get();
        assert!(
            start % layout.align() == 0,
            "{call} returned {start:#x} for {layout:?}: misaligned"
        );
        if layout.size() == 0 {
            return;
        }
        let end = start.checked_add(layout.size());
        let end = end.unwrap_or_else(|| panic!("{call} returned a block past the address space"));
        // The nearest block that starts before our end is the only one that can reach into us.
        if let Some((&other, &other_end)) = self.ranges.range(..end).next_back() {
            assert!(
                other_end <= start,
                "{call} returned {start:#x}..{end:#x}, which overlaps {other:#x}..{other_end:#x}"
            );
        }
    }

    fn insert(&mut self, ptr: NonNull<u8>, layout: Layout) -> Block {
        let block = Block { ptr, layout, seed: self.next_seed };
        self.next_seed += 1;
        if layout.size() != 0 {
            let start = ptr.addr().get();
            self.ranges.insert(start, start + layout.size());
        }
        block.fill();
        block
    }

    fn forget(&mut self, block: Block) {
        if block.layout.size() != 0 {
            self.ranges.remove(&block.ptr.addr().get());
        }
    }

    /// Allocates a block at the end of the list.
    pub(super) fn allocate(&mut self, layout: Layout, how: How) -> Result<(), AllocError> {
        self.ask(layout);
        let (slice, call) = match how {
            How::Try => {
                (self.allocator.try_allocate(layout).map_err(|_| AllocError), "try_allocate")
            }
            How::Plain => (self.allocator.allocate(layout), "allocate"),
            How::Zeroed => (self.allocator.allocate_zeroed(layout), "allocate_zeroed"),
        };
        // Opaque to the compiler: it knows allocation functions, and may assume what is tested here.
        let slice = black_box(slice)?;
        self.check_slice(slice, layout, call);
        let ptr = slice.cast();
        if how == How::Zeroed {
            Block { ptr, layout, seed: 0 }.verify_zeroed(0, "by allocate_zeroed");
        }
        let block = self.insert(ptr, layout);
        self.blocks.push(block);
        Ok(())
    }

    /// Grows block `index`.
    pub(super) fn grow(&mut self, index: usize, new: Layout, how: How) -> Result<(), AllocError> {
        let old = self.blocks[index];
        assert!(new.size() >= old.layout.size(), "the suite grows to a smaller size");
        self.ask(new);
        old.verify(old.layout.size(), "before a growth");
        let (slice, call) = if how == How::Zeroed {
            // SAFETY: the block is live, was allocated here with this layout, and `new` is not
            // smaller.
            (unsafe { self.allocator.grow_zeroed(old.ptr, old.layout, new) }, "grow_zeroed")
        } else {
            // SAFETY: as above.
            (unsafe { self.allocator.grow(old.ptr, old.layout, new) }, "grow")
        };
        self.moved(index, slice, new, call)?;
        if how == How::Zeroed {
            self.blocks[index].verify_zeroed(old.layout.size(), "by grow_zeroed");
        }
        self.refill(index);
        Ok(())
    }

    /// Shrinks block `index`.
    pub(super) fn shrink(&mut self, index: usize, new: Layout) -> Result<(), AllocError> {
        let old = self.blocks[index];
        assert!(new.size() <= old.layout.size(), "the suite shrinks to a larger size");
        // In place it takes nothing; moving, it takes this.
        self.ask(new);
        old.verify(old.layout.size(), "before a shrinking");
        // SAFETY: the block is live, was allocated here with this layout, and `new` is not larger.
        let slice = unsafe { self.allocator.shrink(old.ptr, old.layout, new) };
        self.moved(index, slice, new, "shrink")?;
        self.refill(index);
        Ok(())
    }

    /// Books what a growth or shrinking returned and checks the kept contents; a failed one must
    /// have left the old block alone.
    fn moved(
        &mut self,
        index: usize,
        slice: Result<NonNull<[u8]>, AllocError>,
        new: Layout,
        call: &str,
    ) -> Result<(), AllocError> {
        let old = self.blocks[index];
        let slice = match black_box(slice) {
            Ok(slice) => slice,
            Err(error) => {
                old.verify(old.layout.size(), &format!("by a {call} that failed"));
                return Err(error);
            }
        };
        self.forget(old);
        self.check_slice(slice, new, call);
        let ptr: NonNull<u8> = slice.cast();
        let block = Block { ptr, layout: new, seed: old.seed };
        if new.size() != 0 {
            self.ranges.insert(ptr.addr().get(), ptr.addr().get() + new.size());
        }
        self.blocks[index] = block;
        block.verify(old.layout.size().min(new.size()), &format!("by {call}"));
        Ok(())
    }

    /// Gives a block a pattern of its own again, over all of its bytes.
    fn refill(&mut self, index: usize) {
        self.blocks[index].seed = self.next_seed;
        self.next_seed += 1;
        self.blocks[index].fill();
    }

    /// Frees block `index`; the last one takes its index.
    pub(super) fn free(&mut self, index: usize) {
        let block = self.blocks.swap_remove(index);
        self.release(block);
    }

    /// Frees the block that was allocated (or moved in the list) last.
    pub(super) fn pop(&mut self) {
        if let Some(block) = self.blocks.pop() {
            self.release(block);
        }
    }

    fn release(&mut self, block: Block) {
        block.verify(block.layout.size(), "while the block was live");
        self.forget(block);
        // SAFETY: the block is live, was allocated here with this layout, and is not used again.
        unsafe { self.allocator.deallocate(block.ptr, block.layout) };
    }

    /// Checks the contents of every live block.
    pub(super) fn verify(&self) {
        for block in &self.blocks {
            block.verify(block.layout.size(), "while the block was live");
        }
    }

    /// Frees everything, last first.
    pub(super) fn clear(&mut self) {
        while !self.blocks.is_empty() {
            self.pop();
        }
    }
}
