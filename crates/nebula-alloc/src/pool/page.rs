//! Pages of the pool for one thread: their headers, lists of them, and the links of free blocks.

use std::{cell::Cell, ptr::NonNull};

use crate::poison::{poison, unpoison};

/// A free block: the next one of its page.
pub(super) struct Link(pub(super) Option<NonNull<Link>>);

/// The header of a page.
pub(super) struct Page {
    pub(super) free: Cell<Option<NonNull<Link>>>,
    /// Frees until somebody has to look: in the current page, one more than the blocks that are
    /// out; in an open page, the blocks that are out; in a full page, one; in a spare page, zero.
    pub(super) countdown: Cell<usize>,
    /// The index of the first block that has not been linked since the page was empty.
    pub(super) fresh: Cell<usize>,
    pub(super) blocks: usize,
    pub(super) full: Cell<bool>,
    next: Cell<Option<NonNull<Page>>>,
    previous: Cell<Option<NonNull<Page>>>,
}

impl Page {
    pub(super) const fn new(blocks: usize) -> Self {
        Self {
            free: Cell::new(None),
            countdown: Cell::new(0),
            fresh: Cell::new(0),
            blocks,
            full: Cell::new(false),
            next: Cell::new(None),
            previous: Cell::new(None),
        }
    }
}

/// What is current where no page is: it has no free blocks.
struct Nowhere(Page);

// SAFETY: nobody writes to it: it has no block to take, no block is freed to it, and it is on no
// list. Reads need no order.
unsafe impl Sync for Nowhere {}

static NOWHERE: Nowhere = Nowhere(Page::new(0));

pub(super) fn nowhere() -> NonNull<Page> {
    NonNull::from(&NOWHERE.0)
}

/// Pages, linked through their headers.
#[derive(Default)]
pub(super) struct List {
    first: Cell<Option<NonNull<Page>>>,
    last: Cell<Option<NonNull<Page>>>,
    pub(super) len: Cell<usize>,
}

impl List {
    pub(super) fn pages(&self) -> impl Iterator<Item = &Page> {
        std::iter::successors(self.first.get(), |page| {
            // SAFETY: pages on a list are live, and headers are only ever shared.
            unsafe { page.as_ref() }.next.get()
        })
        // SAFETY: as above; no page is given back while the list is walked.
        .map(|page| unsafe { page.as_ref() })
    }

    /// Puts `page` at the end.
    ///
    /// # Safety
    /// The page is live and on no list.
    pub(super) unsafe fn push(&self, page: NonNull<Page>) {
        // SAFETY: the page is live, and headers are only ever shared.
        let header = unsafe { page.as_ref() };
        let last = self.last.replace(Some(page));
        header.previous.set(last);
        header.next.set(None);
        match last {
            // SAFETY: pages on a list are live.
            Some(last) => unsafe { last.as_ref() }.next.set(Some(page)),
            None => self.first.set(Some(page)),
        }
        self.len.set(self.len.get() + 1);
    }

    /// Takes `page` off.
    ///
    /// # Safety
    /// The page is on this list.
    pub(super) unsafe fn remove(&self, page: NonNull<Page>) {
        // SAFETY: pages on a list are live, and headers are only ever shared.
        let header = unsafe { page.as_ref() };
        let (previous, next) = (header.previous.get(), header.next.get());
        match previous {
            // SAFETY: as above.
            Some(previous) => unsafe { previous.as_ref() }.next.set(next),
            None => self.first.set(next),
        }
        match next {
            // SAFETY: as above.
            Some(next) => unsafe { next.as_ref() }.previous.set(previous),
            None => self.last.set(previous),
        }
        self.len.set(self.len.get() - 1);
    }

    /// Takes the first page off.
    pub(super) fn pop(&self) -> Option<NonNull<Page>> {
        let page = self.first.get()?;
        // SAFETY: the page is the first of this list.
        unsafe { self.remove(page) };
        Some(page)
    }
}

/// Makes a free block link to `next`, and poisons all `size` bytes of it again (none, for a block
/// that is poisoned as a whole already).
///
/// # Safety
/// The block is free, and large and aligned enough for a link.
#[inline(always)]
pub(super) unsafe fn link(block: NonNull<Link>, next: Option<NonNull<Link>>, size: usize) {
    unpoison(block.cast(), size_of::<Link>());
    // SAFETY: the block is this thread's to write to, as the caller promises.
    unsafe { block.write(Link(next)) };
    poison(block.cast(), size.max(size_of::<Link>()));
}
