//! Pieces of a shared arena that are lent to whoever asks, one borrower at a time.

use std::{
    alloc::Layout,
    cell::Cell,
    ptr::{NonNull, null},
};

use nebula_memory_core::{
    Allocator, MemoryError,
    sync::{Mutex, UnsafeCell},
};

use crate::{
    allocator::allocator_by_reference, bumping::Request, making::Source, pieces::Pieces,
    typed_values::Line,
};

/// A piece that one borrower has at a time. As a source, it is used through its [`Lent`] only.
#[repr(align(128))]
pub(crate) struct LentPiece<A: Allocator> {
    line: UnsafeCell<Line>,
    /// The pieces that it belongs to, which cannot move while it is lent.
    pieces: Cell<*const Pieces<A>>,
    /// The next of all that there are. Written before others know the piece.
    next: Cell<Option<NonNull<LentPiece<A>>>>,
    /// The next one that nobody has. Read and written under the lock.
    next_free: Cell<Option<NonNull<LentPiece<A>>>>,
}

impl<A: Allocator> LentPiece<A> {
    /// The bump.
    #[inline(always)]
    pub(crate) fn line(&self) -> &Line {
        // SAFETY: the cell is valid. A piece is used by its borrower, which is one thread (neither
        // it nor the piece is `Sync`), after the one before gave it back; or while nobody else is
        // there. This thread's borrows are shared. (The model checker sees a write, so that it
        // finds two threads that use a piece at once.)
        self.line.with_mut(|line| unsafe { &*line })
    }

    /// Changes the bump.
    ///
    /// # Safety
    /// Nobody else uses the piece, nor does `change` in another way.
    pub(crate) unsafe fn change(&self, change: impl FnOnce(&mut Line)) {
        // SAFETY: the cell is valid, and nobody borrows it, as the caller promises.
        self.line.with_mut(|line| change(unsafe { &mut *line }));
    }

    /// The pieces that this one belongs to.
    #[inline]
    pub(crate) fn pieces(&self) -> &Pieces<A> {
        // SAFETY: written when the piece was lent, and borrowed for as long as it is.
        unsafe { &*self.pieces.get() }
    }
}

impl<A: Allocator> Source for LentPiece<A> {
    #[inline(always)]
    fn place(&self, request: Request) -> Option<NonNull<u8>> {
        self.line().place(request)
    }

    #[cold]
    #[inline(never)]
    fn place_elsewhere(&self, layout: Layout) -> Result<NonNull<u8>, MemoryError> {
        self.pieces().fill(self.line(), layout)
    }

    #[inline(always)]
    unsafe fn free(&self, block: NonNull<u8>, size: usize) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.line().free(block, size) };
    }

    #[inline(always)]
    unsafe fn resize(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.line().resize(block, old, new) }
    }
}

allocator_by_reference! {
    [A: Allocator] LentPiece<A>
}

/// A piece on loan, given back when this is dropped.
pub(crate) struct Lent<'a, A: Allocator> {
    piece: &'a LentPiece<A>,
}

impl<'a, A: Allocator> Lent<'a, A> {
    #[inline(always)]
    pub(crate) const fn piece(&self) -> &'a LentPiece<A> {
        self.piece
    }
}

impl<A: Allocator> Drop for Lent<'_, A> {
    fn drop(&mut self) {
        let mut list = self.piece.pieces().loans().0.lock();
        self.piece.next_free.set(list.free.replace(NonNull::from(self.piece)));
    }
}

/// The pieces there are to lend. They stay until the arena is dropped, or reset to nothing.
pub(crate) struct Loans<A: Allocator>(Mutex<List<A>>);

struct List<A: Allocator> {
    all: Option<NonNull<LentPiece<A>>>,
    free: Option<NonNull<LentPiece<A>>>,
}

// SAFETY: of the pieces in the list, only the links are used through it, under the lock that it is
// in; the rest by who has borrowed a piece, or has all to itself.
unsafe impl<A: Allocator> Send for List<A> {}

impl<A: Allocator> Loans<A> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(List { all: None, free: None }))
    }

    /// A piece that is the caller's alone until it is dropped.
    pub(crate) fn lend<'a>(&'a self, pieces: &'a Pieces<A>) -> Result<Lent<'a, A>, MemoryError> {
        let piece = match self.pop() {
            Some(free) => free,
            None => self.add(pieces)?,
        };
        piece.pieces.set(pieces);
        Ok(Lent { piece })
    }

    /// A piece that nobody has.
    fn pop(&self) -> Option<&LentPiece<A>> {
        let mut list = self.0.lock();
        // SAFETY: the pieces stay as long as `self` is borrowed. What the last borrower did
        // happened before it gave this one back, under this lock.
        let piece = unsafe { list.free?.as_ref() };
        list.free = piece.next_free.take();
        Some(piece)
    }

    /// A new piece, which is the caller's.
    #[cold]
    fn add(&self, pieces: &Pieces<A>) -> Result<&LentPiece<A>, MemoryError> {
        // Without the lock: the allocator may call back.
        let block = pieces.table(Layout::new::<LentPiece<A>>())?.cast::<LentPiece<A>>();
        let piece = LentPiece {
            line: UnsafeCell::new(Line::new()),
            pieces: Cell::new(null()),
            next: Cell::new(None),
            next_free: Cell::new(None),
        };
        // SAFETY: the block is aligned and large enough for a piece, and nobody else knows it.
        unsafe { block.write(piece) };
        // SAFETY: it is initialised, and stays as long as `self` is borrowed.
        let piece = unsafe { block.as_ref() };
        let mut list = self.0.lock();
        piece.next.set(list.all.replace(block));
        Ok(piece)
    }

    /// All pieces.
    ///
    /// # Safety
    /// None is lent to anybody who still uses it, and none is lent while the result is used.
    pub(crate) unsafe fn all(&self) -> impl Iterator<Item = &LentPiece<A>> {
        // SAFETY: pieces stay as long as `self` is borrowed.
        let piece = |piece: NonNull<LentPiece<A>>| unsafe { piece.as_ref() };
        let first = self.0.lock().all.map(piece);
        std::iter::successors(first, move |last| last.next.get().map(piece))
    }

    /// Makes all pieces free: those whose borrowers were forgotten, too.
    pub(crate) fn recall(&mut self) {
        let mut free = None;
        // SAFETY: as `&mut self` shows, nobody borrows any piece.
        for piece in unsafe { self.all() } {
            piece.next_free.set(free.replace(NonNull::from(piece)));
        }
        self.0.get_mut().free = free;
    }

    /// Gives all pieces back, which have no chunks any more.
    ///
    /// # Safety
    /// The allocator is the one that they came from.
    pub(crate) unsafe fn give_back(&mut self, allocator: &impl Allocator) {
        let list = self.0.get_mut();
        list.free = None;
        while let Some(piece) = list.all {
            // SAFETY: as `&mut self` shows, nobody borrows any piece.
            list.all = unsafe { piece.as_ref() }.next.get();
            // SAFETY: the block came from this allocator with this layout; the list has left it.
            unsafe { allocator.deallocate(piece.cast(), Layout::new::<LentPiece<A>>()) };
        }
    }
}
