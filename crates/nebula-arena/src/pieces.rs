//! What the arenas for many threads are made of: a piece for every thread, found by the thread's
//! number, pieces to lend, and one allocator behind them all.
//!
//! A piece is a [`Bump`](crate::bump::Bump) that one thread uses at a time. Nothing on the way to a
//! block in it is shared but a pointer that is written once: the bucket of the table that the
//! thread's piece lies in.

use std::{
    alloc::Layout,
    ptr::{NonNull, null_mut},
};

use nebula_memory_core::{
    Align, Allocator, MemoryError,
    allocator_api2::alloc::Allocator as _,
    layout::{align_down, array_layout},
    sync::{
        UnsafeCell,
        atomic::{AtomicPtr, Ordering},
    },
};

use crate::{
    ArenaConfig, ArenaUsage, Keep,
    bump::nowhere_aligned,
    bumping::{Request, smallest_chunk},
    chunk::{CHUNK_ALIGN, HEADER},
    counted::Counted,
    lent::{Lent, LentPiece, Loans},
    spares::Spares,
    thread_index::{self, BUCKETS, FIRST, Place},
    typed_values::Line,
};

/// A bump for one thread at a time, far enough from others that no two share a line of the
/// processor's caches (which are loaded in pairs of 64 bytes on some).
#[repr(align(128))]
struct Piece(UnsafeCell<Line>);

impl Piece {
    /// The bump.
    ///
    /// # Safety
    /// As long as the reference is used, no other thread uses the piece; what others did with it
    /// happened before.
    #[inline(always)]
    unsafe fn line(&self) -> &Line {
        // SAFETY: the cell is valid, and not borrowed by other threads, as the caller promises;
        // this one's borrows are shared. (The model checker sees this as a write, so that it finds
        // two threads that use a piece at once.)
        self.0.with_mut(|line| unsafe { &*line })
    }
}

/// Pieces of memory for many threads.
pub(crate) struct Pieces<A: Allocator> {
    /// Each bucket is allocated when the first of its threads comes by. The last one stays null:
    /// threads without a number find it.
    buckets: [AtomicPtr<Piece>; BUCKETS + 1],
    /// Where chunks and tables come from.
    counted: Counted<A>,
    config: ArenaConfig,
    /// The same without the capacity, which is for all pieces together.
    chunks: ArenaConfig,
    /// Whether a large block has a chunk of its own.
    aside: bool,
    loans: Loans<A>,
    spares: Spares,
    /// The most bytes in use, as of the last reset.
    high_water: usize,
}

// SAFETY: the pointers lead to tables and chunks that the pieces own; the blocks in them borrow it,
// so that it cannot move while one is alive. The allocator moves along, which its `Send` allows.
unsafe impl<A: Allocator + Send> Send for Pieces<A> {}
// SAFETY: a thread uses the piece of its number, or one that was lent to it; both are nobody else's
// meanwhile, and handed on with a synchronisation (see `own` and `Loans`).
// Spare chunks and lists are behind locks. The allocator is used by all threads through shared
// references, which its `Sync` allows; it never moves.
unsafe impl<A: Allocator + Sync> Sync for Pieces<A> {}

impl<A: Allocator> Pieces<A> {
    /// With a `config` that is valid.
    pub(crate) fn new(config: ArenaConfig, allocator: A, aside: bool) -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicPtr::new(null_mut())),
            counted: Counted::new(allocator, config.capacity.map(usize::from)),
            chunks: ArenaConfig { capacity: None, ..config.clone() },
            config,
            aside,
            loans: Loans::new(),
            spares: Spares::new(),
            high_water: 0,
        }
    }

    pub(crate) const fn allocator(&self) -> &A {
        self.counted.allocator()
    }

    pub(crate) const fn allocator_mut(&mut self) -> &mut A {
        self.counted.allocator_mut()
    }

    pub(crate) const fn config(&self) -> &ArenaConfig {
        &self.config
    }

    /// Bytes taken from the allocator.
    pub(crate) fn bytes(&self) -> usize {
        self.counted.bytes()
    }

    /// Bytes of chunks that no piece has.
    pub(crate) fn spare_bytes(&self) -> usize {
        self.spares.bytes()
    }

    /// This thread's bump, if the arena has one yet.
    #[inline(always)]
    pub(crate) fn own(&self) -> Option<&Line> {
        let place = thread_index::place();
        // SAFETY: a place's bucket is at most `BUCKETS`, and there is one more than that.
        let bucket = unsafe { self.buckets.get_unchecked(place.bucket) };
        // Acquire: the pieces' initialisation happens before.
        let first = bucket.load(Ordering::Acquire);
        if first.is_null() {
            return None;
        }
        // SAFETY: the bucket has `FIRST << place.bucket` pieces, and a place in it is below that.
        let piece = unsafe { first.add(place.position) };
        // SAFETY: they are initialised, and stay as long as `self` is borrowed.
        let piece = unsafe { &*piece };
        // SAFETY: the place is this thread's as long as it runs this: it gives its number back when
        // it ends. Whoever had it before, in this arena, did so before it gave the number back,
        // which happens before the number was assigned to this thread.
        Some(unsafe { piece.line() })
    }

    /// Runs `body` with this thread's bump, which is made if need be; or with one that is borrowed
    /// for this once, if the thread is about to end, has no number because there are too many, or
    /// is refused a bucket.
    fn with_line<R>(
        &self,
        body: impl FnOnce(&Line) -> Result<R, MemoryError>,
    ) -> Result<R, MemoryError> {
        if let Some(place) = thread_index::assign() {
            if self.buckets[place.bucket].load(Ordering::Acquire).is_null() {
                self.add_bucket(place);
            }
            if let Some(line) = self.own() {
                return body(line);
            }
        }
        body(self.lend()?.piece().line())
    }

    /// Allocates the bucket of `place`, if it is not refused and no other thread is faster.
    #[cold]
    fn add_bucket(&self, place: Place) {
        let len = FIRST << place.bucket;
        let bucket = &self.buckets[place.bucket];
        let Ok(layout) = array_layout::<Piece>(len) else { return };
        let Ok(block) = self.counted.try_allocate(layout) else { return };
        let first = block.cast::<Piece>();
        for i in 0..len {
            // SAFETY: the block has room for `len` pieces.
            let piece = unsafe { first.add(i) };
            // SAFETY: it is aligned, and nobody else knows it.
            unsafe { piece.write(Piece(UnsafeCell::new(Line::new()))) };
        }
        // Release: others find initialised pieces. Acquire: so does this thread, if it was slower.
        let publish = bucket.compare_exchange(
            null_mut(),
            first.as_ptr(),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if publish.is_err() {
            // SAFETY: the block came from this allocator with this layout, and nobody knows it.
            unsafe { self.counted.deallocate(first.cast(), layout) };
        }
    }

    /// A block for a piece to lend. Spare chunks go before it is refused.
    pub(crate) fn table(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        loop {
            match self.counted.try_allocate(layout) {
                Err(_) if self.trim(usize::MAX) != 0 => {}
                result => return result,
            }
        }
    }

    /// A piece that is the caller's alone, until it is dropped.
    pub(crate) fn lend(&self) -> Result<Lent<'_, A>, MemoryError> {
        self.loans.lend(self)
    }

    pub(crate) const fn loans(&self) -> &Loans<A> {
        &self.loans
    }

    /// Room in this thread's piece, which has no place for it yet.
    pub(crate) fn block_slowly(&self, layout: Layout) -> Result<NonNull<u8>, MemoryError> {
        if layout.size() == 0 {
            return Ok(nowhere_aligned(layout));
        }
        self.with_line(|line| match line.place(Request::any(layout)) {
            Some(block) => Ok(block),
            None => self.fill(line, layout),
        })
        .map_err(|error| of_piece(error, layout))
    }

    /// Room for a block that does not fit in the line's current chunk.
    pub(crate) fn fill(&self, line: &Line, layout: Layout) -> Result<NonNull<u8>, MemoryError> {
        loop {
            if layout.size() != 0 {
                if let Some(smallest) = smallest_chunk(HEADER, layout) {
                    if let Some(spare) = self.spares.take(smallest) {
                        line.adopt(spare);
                    }
                }
            }
            match line.place_elsewhere(&self.counted, &self.chunks, layout, self.aside) {
                Ok(block) => return Ok(block),
                // What others do not use goes first.
                Err(_) if self.trim(usize::MAX) != 0 => {}
                Err(error) => return Err(of_block(error, layout)),
            }
        }
    }

    /// Makes sure that `layout` fits in the line's current chunk.
    pub(crate) fn reserve(&self, line: &Line, layout: Layout) -> Result<(), MemoryError> {
        let block = match line.place(Request::any(layout)) {
            Some(block) => block,
            None => self.fill(line, layout)?,
        };
        // SAFETY: the block was given out just now with this size, and nobody uses it.
        unsafe { line.free(block, layout.size()) };
        Ok(())
    }

    /// Makes sure that `layout` fits in this thread's piece.
    pub(crate) fn reserve_own(&self, layout: Layout) -> Result<(), MemoryError> {
        self.with_line(|line| self.reserve(line, layout))
    }

    /// Gives spare chunks back to the allocator until those are at least `wanted` bytes, or none is
    /// left.
    pub(crate) fn trim(&self, wanted: usize) -> usize {
        // SAFETY: the allocator is the one of all chunks.
        unsafe { self.spares.give_back(&self.counted, wanted, true) }
    }

    /// As [`trim`](Self::trim), but does not wait for a lock.
    pub(crate) fn try_trim(&self, wanted: usize) -> usize {
        // SAFETY: the allocator is the one of all chunks.
        unsafe { self.spares.give_back(&self.counted, wanted, false) }
    }

    /// The pieces of the table.
    fn table_pieces(&self) -> impl Iterator<Item = &Piece> {
        self.buckets[..BUCKETS].iter().enumerate().flat_map(|(i, bucket)| {
            let first = bucket.load(Ordering::Acquire);
            let len = if first.is_null() { 0 } else { FIRST << i };
            (0..len).map(move |i| {
                // SAFETY: the bucket has that many pieces.
                let piece = unsafe { first.add(i) };
                // SAFETY: they are initialised, and stay as long as `self` is borrowed.
                unsafe { &*piece }
            })
        })
    }

    /// All bumps, in the order of their threads' numbers; those that were lent come last.
    ///
    /// # Safety
    /// Nobody else uses any of them as long as the references are used, as `&mut self` would show.
    pub(crate) unsafe fn lines(&self) -> impl Iterator<Item = &Line> {
        // SAFETY: the caller's promise is the callee's.
        let table = self.table_pieces().map(|piece| unsafe { piece.line() });
        // SAFETY: as above.
        let lent = unsafe { self.loans.all() };
        table.chain(lent.map(LentPiece::line))
    }

    /// How the bytes are spent.
    pub(crate) fn usage(&mut self) -> ArenaUsage {
        let spare_chunks = self.spares.count();
        let spare = ArenaUsage {
            spare: self.spares.bytes(),
            chunks: spare_chunks,
            allocated: self.spares.bytes(),
            ..ArenaUsage::default()
        };
        // SAFETY: `&mut self` shows that nobody else is here.
        let mut usage = unsafe { self.lines() }.map(ArenaUsage::of).fold(spare, ArenaUsage::plus);
        usage.high_water = usage.high_water.max(self.high_water);
        // What is not a chunk is a table.
        usage.overhead += self.bytes() - usage.allocated;
        usage.allocated = self.bytes();
        usage
    }

    /// Frees all blocks at once; `keep` says which chunks become spare ones, for any thread.
    ///
    /// # Safety
    /// No block is used any more.
    pub(crate) unsafe fn reset(&mut self, keep: Keep) {
        // SAFETY: `&mut self` shows that nobody else is here.
        let high_water = unsafe { self.lines() }.map(Line::high_water).sum();
        self.high_water = self.high_water.max(high_water);
        // First the blocks, of all pieces: the allocator's calls below may panic.
        for piece in self.table_pieces() {
            // SAFETY: as above; the reference ends in `clear`.
            piece.0.with_mut(|line| unsafe { &mut *line }.clear(keep));
        }
        // SAFETY: as above.
        for piece in unsafe { self.loans.all() } {
            // SAFETY: as above.
            unsafe { piece.change(|line| line.clear(keep)) };
        }
        if keep != Keep::All {
            self.trim(usize::MAX);
        }
        let (counted, spares) = (&self.counted, &self.spares);
        let reset = |line: &mut Line| {
            // SAFETY: the allocator is the one of all chunks.
            unsafe { line.settle(counted, keep) };
            while let Some(chunk) = line.disown() {
                spares.push(chunk);
            }
        };
        for piece in self.table_pieces() {
            // SAFETY: `&mut self` shows that nobody else is here; the reference ends in `reset`.
            piece.0.with_mut(|line| reset(unsafe { &mut *line }));
        }
        // SAFETY: `&mut self` shows that nobody else is here.
        for piece in unsafe { self.loans.all() } {
            // SAFETY: as above.
            unsafe { piece.change(reset) };
        }
        if keep == Keep::Nothing {
            self.drop_tables();
        } else {
            self.loans.recall();
        }
    }

    /// Gives all pieces back to the allocator. They have no chunks any more.
    fn drop_tables(&mut self) {
        for (i, bucket) in self.buckets[..BUCKETS].iter().enumerate() {
            // (Relaxed would do: nobody else is here.)
            let first = bucket.swap(null_mut(), Ordering::AcqRel);
            if let (Some(first), Ok(layout)) =
                (NonNull::new(first), array_layout::<Piece>(FIRST << i))
            {
                // SAFETY: the block came from this allocator with this layout; nobody knows it.
                unsafe { self.counted.deallocate(first.cast(), layout) };
            }
        }
        // SAFETY: they came from this allocator.
        unsafe { self.loans.give_back(&self.counted) };
    }
}

impl<A: Allocator> Drop for Pieces<A> {
    fn drop(&mut self) {
        // SAFETY: nobody borrows anything any more.
        unsafe { self.reset(Keep::Nothing) };
    }
}

/// A refused chunk's error, with the figures of the block that it was for.
#[cold]
fn of_block(error: MemoryError, layout: Layout) -> MemoryError {
    match error {
        MemoryError::CapacityExceeded { available, .. } => MemoryError::CapacityExceeded {
            requested: layout.size(),
            available: align_down(available, CHUNK_ALIGN).saturating_sub(HEADER.size()),
            align: Align::new(layout.align()),
        },
        other => other,
    }
}

/// A refused block's error; where it was a piece that was refused, with the block's figures.
#[cold]
fn of_piece(error: MemoryError, layout: Layout) -> MemoryError {
    match error {
        MemoryError::CapacityExceeded { requested, .. } if requested != layout.size() => {
            let align = Align::new(layout.align());
            MemoryError::CapacityExceeded { requested: layout.size(), available: 0, align }
        }
        other => other,
    }
}
