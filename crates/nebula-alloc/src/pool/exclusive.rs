//! Free blocks and pages for one thread.
//!
//! A page's free blocks are a list through the blocks themselves. Blocks are taken from the
//! *current* page until it has none, a freed block goes back to its own page. Other pages are
//! *open* (some blocks are free), *full* (none is) or *spare* (all are).
//!
//! That a free has to look at more than one list is a matter of two moments: when a full page gets
//! its first free block, and when an open page gets its last block back. Each page counts down the
//! frees to that moment; the current page counts one more than there are blocks out, so that it
//! never gets there. So a free is: find the page, link the block, count down, and one branch.
//!
//! Before all that, the block that was freed last stays at hand and is the first to be taken: who
//! takes and frees in turn touches nothing else. For its page it counts as one that is out.

use std::{alloc::Layout, cell::Cell, fmt, mem, ptr::NonNull};

use nebula_memory_core::{Allocator, MemoryError};

use super::{
    geometry::Geometry,
    page::{Link, List, Page, link, nowhere},
    store::{CHECKED, Source, Store, exhausted, exposed, misuse},
};
use crate::poison::{poison, unpoison};

/// Bytes of fresh blocks that are linked at a time: few enough to be in the cache when they are
/// taken.
const BATCH: usize = 4096;

/// The free blocks and pages of a pool for one thread.
pub struct Pages {
    /// The block that was freed last, unless it was taken since.
    at_hand: Cell<Option<NonNull<u8>>>,
    /// The page that blocks are taken from, or `NOWHERE`; on no list.
    current: Cell<NonNull<Page>>,
    open: List,
    full: List,
    spare: List,
    /// Blocks of all pages, and of those that are being allocated.
    blocks: Cell<usize>,
    /// How many pages there are.
    held: Cell<usize>,
    /// How many spare pages are kept.
    keep: Cell<usize>,
}

/// Blocks that a page is being allocated for; given up if there will be none, also by a panic.
struct Reserved<'p> {
    pages: &'p Pages,
    blocks: usize,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.pages.blocks.set(self.pages.blocks.get() - self.blocks);
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("blocks", &self.blocks.get()).finish_non_exhaustive()
    }
}

impl Pages {
    /// How many spare pages are kept from now on.
    pub(super) fn keep(&self, pages: usize) {
        self.keep.set(pages);
    }

    /// Gives empty pages back; how many bytes that were.
    pub(super) fn trim<A: Allocator>(&self, source: &Source<A>) -> usize {
        let before = self.held.get();
        if let Some(block) = self.at_hand.take() {
            // SAFETY: the block was freed, and has been taken by nobody.
            unsafe { self.put(source, block) };
        }
        let current = self.current.get();
        // SAFETY: the current page is live.
        if current != nowhere() && unsafe { current.as_ref() }.countdown.get() == 1 {
            self.current.set(nowhere());
            // SAFETY: no block of it is out, and it is no longer current.
            unsafe { self.release(source, current) };
        }
        while let Some(page) = self.spare.pop() {
            // SAFETY: no block of a spare page is out, and it is on no list any more.
            unsafe { self.release(source, page) };
        }
        before.saturating_sub(self.held.get()) * source.geometry.page().size()
    }

    /// The current page, if there is one.
    fn current(&self) -> Option<&Page> {
        let page = self.current.get();
        if page == nowhere() {
            return None;
        }
        // SAFETY: the current page is live, and headers are only ever shared.
        Some(unsafe { page.as_ref() })
    }

    fn all(&self) -> impl Iterator<Item = &Page> {
        let lists = [&self.open, &self.full, &self.spare].into_iter();
        self.current().into_iter().chain(lists.flat_map(List::pages))
    }

    /// Links more fresh blocks of a page that has no free ones; whether there were any.
    ///
    /// # Safety
    /// The page is a live one of a pool with this geometry.
    unsafe fn freshen(page: NonNull<Page>, geometry: &Geometry) -> bool {
        // SAFETY: the page is live, and headers are only ever shared.
        let header = unsafe { page.as_ref() };
        debug_assert!(header.free.get().is_none());
        let from = header.fresh.get();
        let to = header.blocks.min(from + (BATCH / geometry.size).max(1));
        header.fresh.set(to);
        let mut next = None;
        for index in (from..to).rev() {
            // SAFETY: the block lies in the page.
            let block = unsafe { page.byte_add(geometry.offset(index)) }.cast::<Link>();
            // SAFETY: the block is free, which makes it this store's to write to.
            unsafe { link(block, next, 0) };
            next = Some(block);
        }
        header.free.set(next);
        next.is_some()
    }

    /// Allocates a page and puts it on the open list.
    ///
    /// While the allocator underneath runs, which may come back to this very pool, the pool is as
    /// it should be.
    fn add_page<A: Allocator>(
        &self,
        source: &Source<A>,
        layout: Layout,
    ) -> Result<(), MemoryError> {
        let before = self.blocks.get();
        let blocks = source.geometry.blocks.min(source.most - before);
        if blocks == 0 {
            return Err(exhausted(layout));
        }
        self.blocks.set(before + blocks);
        let reserved = Reserved { pages: self, blocks };
        let page = source.allocate()?;
        mem::forget(reserved);
        let header = page.cast::<Page>();
        // SAFETY: a page begins with its header, for which it is large and aligned enough, and
        // nobody else knows it.
        unsafe { header.write(Page::new(blocks)) };
        if CHECKED {
            // SAFETY: the marks follow the header, in the page.
            let marks = unsafe { header.add(1) }.cast::<u8>();
            // SAFETY: as above, one byte for each block.
            unsafe { marks.write_bytes(0, blocks) };
        }
        // SAFETY: the page is new, none of its blocks is out.
        unsafe { source.poison_blocks(page, blocks) };
        // SAFETY: the page is live and on no list.
        unsafe { self.open.push(header) };
        self.held.set(self.held.get() + 1);
        Ok(())
    }

    /// A free made a page's countdown end: a full page is open now, an open page empty.
    ///
    /// # Safety
    /// It is a live page of this store, not the current one, whose countdown is zero.
    #[cold]
    #[inline(never)]
    unsafe fn attend<A: Allocator>(&self, source: &Source<A>, page: NonNull<Page>) {
        // SAFETY: the page is live, and headers are only ever shared.
        let header = unsafe { page.as_ref() };
        if header.full.replace(false) {
            header.countdown.set(header.blocks - 1);
            // SAFETY: a full page is on the list of full ones.
            unsafe { self.full.remove(page) };
        } else {
            // SAFETY: a page that is neither current nor full, and has blocks out, is open.
            unsafe { self.open.remove(page) };
        }
        if header.countdown.get() > 0 {
            // SAFETY: the page was just taken off its list.
            unsafe { self.open.push(page) };
        } else {
            // SAFETY: no block of it is out, and it is on no list.
            unsafe { self.retire(source, page) };
        }
    }

    /// Keeps an empty page as a spare one, or gives it back.
    ///
    /// # Safety
    /// It is a page of this store, not current and on no list, and none of its blocks is out.
    unsafe fn retire<A: Allocator>(&self, source: &Source<A>, page: NonNull<Page>) {
        if self.spare.len.get() >= self.keep.get() {
            // SAFETY: the caller's promises are the callee's.
            return unsafe { self.release(source, page) };
        }
        // SAFETY: none of its blocks is out.
        unsafe { Self::clear(source, page) };
        // SAFETY: the page is live and on no list.
        unsafe { self.spare.push(page) };
    }

    /// Makes a page as if it were new: blocks are taken in the order of their addresses again.
    ///
    /// # Safety
    /// It is a live page, and nobody uses its blocks any more.
    unsafe fn clear<A: Allocator>(source: &Source<A>, page: NonNull<Page>) {
        // SAFETY: the page is live, and headers are only ever shared.
        let header = unsafe { page.as_ref() };
        header.free.set(None);
        header.fresh.set(0);
        header.countdown.set(0);
        header.full.set(false);
        if CHECKED {
            // SAFETY: the marks follow the header, in the page.
            let marks = unsafe { page.add(1) }.cast::<u8>();
            // SAFETY: as above, one byte for each block.
            unsafe { marks.write_bytes(0, header.blocks) };
        }
        // SAFETY: nobody uses the blocks.
        unsafe { source.poison_blocks(page.cast(), header.blocks) };
    }

    /// Gives a page back.
    ///
    /// # Safety
    /// It is a page of this store, not current and on no list, and nobody uses its blocks.
    unsafe fn release<A: Allocator>(&self, source: &Source<A>, page: NonNull<Page>) {
        // SAFETY: the page is live until the next call.
        let blocks = unsafe { page.as_ref() }.blocks;
        self.blocks.set(self.blocks.get() - blocks);
        self.held.set(self.held.get() - 1);
        // SAFETY: it was allocated by this source; the caller gives it up.
        unsafe { source.release(page.cast()) };
    }

    /// Takes the first free block of the current page.
    #[inline(always)]
    fn pick(&self, geometry: &Geometry) -> Option<NonNull<u8>> {
        let page = self.current.get();
        // SAFETY: the current page is live, or `NOWHERE`, and headers are only ever shared.
        let header = unsafe { page.as_ref() };
        let block = header.free.get()?;
        unpoison(block.cast(), size_of::<Link>());
        // SAFETY: a block on the list of its page is free and holds a link.
        let next = unsafe { block.as_ref() }.0;
        header.free.set(next);
        header.countdown.set(header.countdown.get() + 1);
        poison(block.cast(), geometry.size);
        Some(block.cast())
    }

    /// Puts a block on the list of its page.
    ///
    /// # Safety
    /// The block is one of this store's, on no list, and nobody uses it.
    #[inline(always)]
    unsafe fn put<A: Allocator>(&self, source: &Source<A>, block: NonNull<u8>) {
        let address = block.addr().get();
        let page = exposed::<Page>(source.geometry.split(address).0);
        let block = block.cast::<Link>();
        // SAFETY: the block is one of this store's, so that its page is live.
        let header = unsafe { page.as_ref() };
        // SAFETY: nobody uses the block, and every block has room for a link.
        unsafe { link(block, header.free.get(), source.geometry.size) };
        header.free.set(Some(block));
        let countdown = header.countdown.get() - 1;
        header.countdown.set(countdown);
        if countdown == 0 {
            // SAFETY: the page is one of this store's; the countdown of the current one does not
            // end.
            unsafe { self.attend(source, page) };
        }
    }

    /// Notes that a block is out, or free; whether it was out.
    ///
    /// # Safety
    /// The block is one of a live page of a pool with this geometry, and frees are checked.
    unsafe fn mark(block: NonNull<u8>, geometry: &Geometry, out: bool) -> bool {
        let (page, offset) = geometry.split(block.addr().get());
        let mark = size_of::<Page>() + geometry.index(offset);
        let mark = exposed::<bool>(page + mark);
        // SAFETY: there is a mark for each block; it is a byte of zero or one, and this thread's.
        unsafe { mark.replace(out) }
    }

    /// Panics unless the block is one of this store and out.
    fn check(&self, block: NonNull<u8>, geometry: &Geometry) {
        let (page, offset) = geometry.split(block.addr().get());
        let Some(blocks) = self.blocks_of(page) else {
            misuse(block, "which is not one of its blocks");
        };
        if !geometry.is_block(offset, blocks) {
            misuse(block, "which is not where one of its blocks begins");
        }
        // SAFETY: the block is one of this store's, and this is called where frees are checked.
        if !unsafe { Self::mark(block, geometry, false) } {
            misuse(block, "which is free already");
        }
    }
}

impl Store for Pages {
    fn new() -> Self {
        Self {
            at_hand: Cell::new(None),
            current: Cell::new(nowhere()),
            open: List::default(),
            full: List::default(),
            spare: List::default(),
            blocks: Cell::new(0),
            held: Cell::new(0),
            keep: Cell::new(1),
        }
    }

    fn header() -> Layout {
        Layout::new::<Page>()
    }

    fn side() -> usize {
        usize::from(CHECKED)
    }

    #[inline(always)]
    fn take(&self, geometry: &Geometry) -> Option<NonNull<u8>> {
        let block = match self.at_hand.take() {
            Some(block) => block,
            None => self.pick(geometry)?,
        };
        if CHECKED {
            // SAFETY: the block is one of a live page of this store, and frees are checked.
            unsafe { Self::mark(block, geometry, true) };
        }
        Some(block)
    }

    fn find<A: Allocator>(
        &self,
        source: &Source<A>,
        layout: Layout,
    ) -> Result<NonNull<u8>, MemoryError> {
        loop {
            if let Some(block) = self.take(&source.geometry) {
                return Ok(block);
            }
            let current = self.current.get();
            if current != nowhere() {
                // SAFETY: the current page is live, and one of this pool.
                if unsafe { Self::freshen(current, &source.geometry) } {
                    continue;
                }
                // SAFETY: as above.
                let header = unsafe { current.as_ref() };
                debug_assert_eq!(header.countdown.get(), header.blocks + 1);
                header.full.set(true);
                header.countdown.set(1);
                self.current.set(nowhere());
                // SAFETY: the page is live, and was on no list.
                unsafe { self.full.push(current) };
            }
            match self.open.pop().or_else(|| self.spare.pop()) {
                Some(page) => {
                    // SAFETY: pages on a list are live.
                    let countdown = unsafe { &page.as_ref().countdown };
                    countdown.set(countdown.get() + 1);
                    self.current.set(page);
                }
                None => self.add_page(source, layout)?,
            }
        }
    }

    #[inline(always)]
    unsafe fn give<A: Allocator>(&self, source: &Source<A>, block: NonNull<u8>) {
        if CHECKED {
            self.check(block, &source.geometry);
        }
        poison(block, source.geometry.size);
        // The pointer that was freed may reach no further than its block's size; this one does.
        let block = exposed(block.addr().get());
        if let Some(older) = self.at_hand.replace(Some(block)) {
            // SAFETY: the older block was freed, and has been taken by nobody.
            unsafe { self.put(source, older) };
        }
    }

    fn in_use(&self) -> usize {
        let full: usize = self.full.pages().map(|page| page.blocks).sum();
        let open: usize = self.open.pages().map(|page| page.countdown.get()).sum();
        let current = self.current().map_or(0, |page| page.countdown.get() - 1);
        full + open + current - usize::from(self.at_hand.get().is_some())
    }

    fn pages(&self) -> usize {
        self.held.get()
    }

    fn blocks_of(&self, page: usize) -> Option<usize> {
        let found = self.all().find(|known| std::ptr::from_ref(*known).addr() == page);
        found.map(|page| page.blocks)
    }

    fn reset<A: Allocator>(&mut self, source: &Source<A>) {
        self.at_hand.set(None);
        if self.current().is_some() {
            let current = self.current.get();
            // SAFETY: the page is live; `&mut self` proves that nobody uses blocks of this store.
            unsafe { Self::clear(source, current) };
            // SAFETY: the page is live.
            unsafe { current.as_ref() }.countdown.set(1);
        }
        while let Some(page) = self.open.pop().or_else(|| self.full.pop()) {
            // SAFETY: as above; the page is on no list any more, and not current.
            unsafe { self.retire(source, page) };
        }
    }

    fn release_all<A: Allocator>(&mut self, source: &Source<A>) {
        self.at_hand.set(None);
        let current = self.current.replace(nowhere());
        if current != nowhere() {
            // SAFETY: nobody uses blocks of this store, and the page is no longer current.
            unsafe { self.release(source, current) };
        }
        let pop = || self.open.pop().or_else(|| self.full.pop()).or_else(|| self.spare.pop());
        while let Some(page) = pop() {
            // SAFETY: as above; the page is on no list any more.
            unsafe { self.release(source, page) };
        }
    }
}
