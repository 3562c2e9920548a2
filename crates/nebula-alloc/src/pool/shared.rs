//! Free blocks and pages for any number of threads.
//!
//! A page's free blocks are a list of indices: the head, with a tag and a count, is one atomic word
//! in the page's header ([`Head`]), the links are a table behind it. The links are not in the
//! blocks, because a thread that is about to take a block reads its link while another may have
//! taken it already and writes to it. Taking the first block and freeing one are a compare-and-swap
//! on the word (Treiber, "Systems Programming: Coping with Parallelism", 1986); the tag keeps one
//! that was changed and changed back from looking unchanged.
//!
//! Pages are on one list that only grows while the pool is shared, so that whoever looks at a page
//! may do so as long as it likes. Threads take blocks from the current page of their *stripe*, as
//! far as possible a different one for each thread.
//!
//! A refusal is exact: it says that there was a moment (in an order of events that fits what every
//! thread has seen) at which all blocks were out. Each page is looked at twice; had a block been
//! freed and another taken between the looks, a tag would have moved. For that to hold with several
//! pages, every change both acquires and releases.

use std::{alloc::Layout, cell::Cell, ptr, ptr::NonNull};

use nebula_memory_core::{
    Allocator, MemoryError,
    sync::{
        atomic::{
            AtomicPtr, AtomicU16, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
        thread,
    },
};

use super::{
    geometry::Geometry,
    store::{CHECKED, Source, Store, exhausted, exposed, misuse},
    tagged::{END, Head},
};
use crate::poison::poison;

/// Current pages that there are at a time. (Models have few threads.)
const STRIPES: usize = if cfg!(nebula_loom) { 2 } else { 8 };

/// Pages that are looked at before another one is added.
const LOOKS: usize = 8;

/// The link of a block that is out, where frees are checked.
const OUT: u16 = END - 1;

/// The header of a page; the links follow, one for each block.
struct Page {
    head: AtomicU64,
    /// The page that was added before this one.
    next: AtomicPtr<Page>,
    blocks: u16,
}

impl Page {
    #[inline]
    fn head(&self) -> Head {
        Head::from_bits(self.head.load(Acquire))
    }

    #[inline]
    fn replace(&self, old: Head, new: Head) -> Result<(), Head> {
        self.head
            .compare_exchange_weak(old.bits(), new.bits(), AcqRel, Acquire)
            .map(drop)
            .map_err(Head::from_bits)
    }

    /// The link of the block with this index.
    ///
    /// # Safety
    /// This is the header of a live page that has such a block, and was found from its address or
    /// from the list.
    #[inline]
    unsafe fn link(&self, index: u16) -> &AtomicU16 {
        let table = ptr::from_ref(self).addr() + size_of::<Self>();
        let link = exposed::<AtomicU16>(table + usize::from(index) * size_of::<AtomicU16>());
        // SAFETY: there is a link for each block, made with the page, and only ever shared.
        unsafe { link.as_ref() }
    }

    /// Takes the first free block; the empty list if there is none.
    ///
    /// # Safety
    /// As for `link`, with the geometry of the pool.
    #[inline]
    unsafe fn pop(&self, geometry: &Geometry) -> Result<NonNull<u8>, Head> {
        let mut head = self.head();
        loop {
            let first = head.first();
            if first == END {
                return Err(head);
            }
            // SAFETY: what is on the list of a page is one of its blocks.
            let link = unsafe { self.link(first) };
            // If another thread has taken the block by now, this is anything, and the tag is
            // another.
            match self.replace(head, head.popped(link.load(Relaxed))) {
                Ok(()) => {
                    if CHECKED {
                        link.store(OUT, Relaxed);
                    }
                    let page = ptr::from_ref(self).addr();
                    return Ok(exposed(page + geometry.offset(usize::from(first))));
                }
                Err(now) => head = now,
            }
        }
    }

    /// Puts a block before the first free one.
    ///
    /// # Safety
    /// As for `link`; the block is out, and the caller gives it up.
    #[inline]
    unsafe fn push(&self, index: u16) {
        // SAFETY: the caller's promises are the callee's.
        let link = unsafe { self.link(index) };
        let mut head = Head::from_bits(self.head.load(Relaxed));
        loop {
            link.store(head.first(), Relaxed);
            match self.replace(head, head.pushed(index)) {
                Ok(()) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Makes every block a free one, in the order of their addresses.
    ///
    /// # Safety
    /// As for `link`; nobody uses the page's blocks, and no other thread looks at it.
    unsafe fn clear(&self) {
        for index in 0..self.blocks {
            let next = if index + 1 < self.blocks { index + 1 } else { END };
            // SAFETY: the page has such a block.
            unsafe { self.link(index) }.store(next, Relaxed);
        }
        self.head.store(Head::new(0, self.blocks).bits(), Release);
    }
}

/// A current page in cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Stripe(AtomicPtr<Page>);

/// The free blocks and pages of a pool for many threads.
#[derive(Debug)]
pub struct Pages {
    /// The pages that threads take blocks from; null at first.
    current: [Stripe; STRIPES],
    /// The page that was added last. Pages are taken off by `&mut self` alone.
    last: AtomicPtr<Page>,
    /// Where the next search for a page with free blocks begins; null for the last page.
    cursor: AtomicPtr<Page>,
    /// Blocks of all pages, and of those that are being allocated. Never more than the maximum.
    reserved: AtomicUsize,
    /// Blocks of the pages that are on the list.
    listed: AtomicUsize,
}

/// The page behind a pointer of this store, unless that is null.
///
/// # Safety
/// The page is live for as long as the reference.
#[inline]
unsafe fn page<'a>(pointer: *const Page) -> Option<&'a Page> {
    // SAFETY: null or live, and headers are only ever shared.
    unsafe { pointer.as_ref() }
}

impl Pages {
    /// Gives empty pages back; how many bytes that were.
    pub(super) fn trim<A: Allocator>(&mut self, source: &Source<A>) -> usize {
        self.remove(source, |page| page.head().count() == page.blocks)
            * source.geometry.page().size()
    }

    /// Gives back the pages that `which` says; how many that were. Nobody uses their blocks.
    fn remove<A: Allocator>(&mut self, source: &Source<A>, which: fn(&Page) -> bool) -> usize {
        // Nobody else is here, but nobody must find them by these either.
        for stripe in &self.current {
            stripe.0.store(ptr::null_mut(), Relaxed);
        }
        self.cursor.store(ptr::null_mut(), Relaxed);
        let mut removed = 0;
        let mut next = self.last.swap(ptr::null_mut(), Acquire);
        let mut kept: Option<NonNull<Page>> = None;
        while let Some(this) = NonNull::new(next) {
            // SAFETY: pages on the list are live.
            let header = unsafe { this.as_ref() };
            next = header.next.load(Relaxed);
            if which(header) {
                let blocks = usize::from(header.blocks);
                self.reserved.fetch_sub(blocks, Relaxed);
                self.listed.fetch_sub(blocks, Relaxed);
                // SAFETY: the page is off the list, and nobody uses its blocks.
                unsafe { discard(source, this) };
                removed += 1;
            } else {
                header.next.store(ptr::null_mut(), Relaxed);
                match kept {
                    // SAFETY: pages on the list are live.
                    Some(kept) => unsafe { kept.as_ref() }.next.store(this.as_ptr(), Relaxed),
                    None => self.last.store(this.as_ptr(), Relaxed),
                }
                kept = Some(this);
            }
        }
        removed
    }

    #[inline]
    fn stripe(&self) -> &AtomicPtr<Page> {
        &self.current[stripe()].0
    }

    /// The pages, last added first.
    fn list(&self) -> impl Iterator<Item = &Page> {
        // SAFETY: pages on the list are live for as long as `self` is borrowed.
        let last = unsafe { page(self.last.load(Acquire)) };
        // SAFETY: as above.
        std::iter::successors(last, |this| unsafe { page(this.next.load(Relaxed)) })
    }

    /// Looks at some pages that are no thread's current one, and makes the first of them that has
    /// a free block this thread's.
    fn look_around(&self, geometry: &Geometry) -> Option<NonNull<u8>> {
        let mut next = self.cursor.load(Acquire);
        for _ in 0..LOOKS {
            if next.is_null() {
                next = self.last.load(Acquire);
            }
            // SAFETY: the cursor, too, points to pages on the list.
            let this = unsafe { page(next) }?;
            let here = next;
            next = this.next.load(Relaxed);
            let taken = |stripe: &Stripe| ptr::eq(stripe.0.load(Relaxed), here);
            if this.head().count() == 0 || self.current.iter().any(taken) {
                continue;
            }
            // SAFETY: the page is live, and one of this pool.
            if let Ok(block) = unsafe { this.pop(geometry) } {
                self.cursor.store(next, Release);
                self.stripe().store(here, Release);
                return Some(block);
            }
        }
        self.cursor.store(next, Release);
        None
    }

    /// Adds a page, makes it this thread's, and takes its first block. `Ok(None)`: there may be no
    /// more.
    fn add_page<A: Allocator>(
        &self,
        source: &Source<A>,
    ) -> Result<Option<NonNull<u8>>, MemoryError> {
        let geometry = &source.geometry;
        let mut before = self.reserved.load(Acquire);
        let blocks = loop {
            let blocks = geometry.blocks.min(source.most - before);
            if blocks == 0 {
                return Ok(None);
            }
            let after = before + blocks;
            match self.reserved.compare_exchange_weak(before, after, AcqRel, Acquire) {
                Ok(_) => break blocks,
                Err(now) => before = now,
            }
        };
        let adding = Adding::new(&self.reserved, blocks);
        let memory = source.allocate()?;
        adding.done();
        // SAFETY: the page is new, none of its blocks is out.
        unsafe { source.poison_blocks(memory, blocks) };
        // SAFETY: the memory is a page's with so many blocks, and nobody else knows it.
        let this = unsafe { furnish(memory, blocks) };
        // SAFETY: the page is live and one of this pool.
        let block = unsafe { this.pop(geometry) };
        let pointer = ptr::from_ref(this).cast_mut();
        let mut last = self.last.load(Relaxed);
        loop {
            this.next.store(last, Relaxed);
            match self.last.compare_exchange_weak(last, pointer, AcqRel, Relaxed) {
                Ok(_) => break,
                Err(now) => last = now,
            }
        }
        self.listed.fetch_add(blocks, AcqRel);
        self.stripe().store(pointer, Release);
        Ok(block.ok())
    }

    /// Takes a block from whichever page has one; `None` if there was a moment at which none of
    /// the pages on the list had.
    fn look_everywhere(&self, geometry: &Geometry) -> Option<NonNull<u8>> {
        loop {
            let last = self.last.load(Acquire);
            let mut tags = 0_u64;
            for this in self.list() {
                // SAFETY: the page is live and one of this pool.
                match unsafe { this.pop(geometry) } {
                    Ok(block) => {
                        self.stripe().store(ptr::from_ref(this).cast_mut(), Release);
                        return Some(block);
                    }
                    Err(head) => tags = tags.wrapping_add(head.tag()),
                }
            }
            // Tags only ever grow: the sum is the same if each of them is.
            let again = |sum: u64, this: &Page| sum.wrapping_add(this.head().tag());
            if self.list().fold(0, again) == tags && self.last.load(Acquire) == last {
                return None;
            }
        }
    }

    /// Panics unless the block is one of this store and out; notes that it is no longer.
    fn check(&self, block: NonNull<u8>, geometry: &Geometry) {
        let (address, offset) = geometry.split(block.addr().get());
        let Some(this) = self.list().find(|this| ptr::from_ref(*this).addr() == address) else {
            misuse(block, "which is not one of its blocks");
        };
        if !geometry.is_block(offset, usize::from(this.blocks)) {
            misuse(block, "which is not where one of its blocks begins");
        }
        // SAFETY: the page is live and has such a block.
        let link = unsafe { this.link(narrow(geometry.index(offset))) };
        // (Of two threads that free the same block, one is told.)
        if link.compare_exchange(OUT, END, Relaxed, Relaxed).is_err() {
            misuse(block, "which is free already");
        }
    }
}

/// The index of a block, of which a page has fewer than `OUT`.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "pages are made with few enough blocks")]
const fn narrow(index: usize) -> u16 {
    debug_assert!(index < OUT as usize);
    index as u16
}

/// Writes the header and the links of a page.
///
/// # Safety
/// The memory is that of a page with so many blocks, exposed, and nobody else knows it.
unsafe fn furnish<'a>(memory: NonNull<u8>, blocks: usize) -> &'a Page {
    let header = memory.cast::<Page>();
    let fresh = Page {
        head: AtomicU64::new(Head::new(END, 0).bits()),
        next: AtomicPtr::new(ptr::null_mut()),
        blocks: narrow(blocks),
    };
    // SAFETY: a page begins with its header, for which it is large and aligned enough.
    unsafe { header.write(fresh) };
    // SAFETY: the links follow the header.
    let links = unsafe { header.add(1) }.cast::<AtomicU16>();
    for index in 0..blocks {
        // SAFETY: there is room for a link for each block.
        let link = unsafe { links.add(index) };
        // SAFETY: as above; the header's size is a multiple of a link's alignment.
        unsafe { link.write(AtomicU16::new(END)) };
    }
    // SAFETY: the header was written above and lives as long as the page; it is only ever shared.
    let this = unsafe { header.as_ref() };
    // SAFETY: the page is live, and nobody else knows it.
    unsafe { this.clear() };
    this
}

nebula_memory_core::nebula_thread_local! {
    /// How many pages this thread is adding: more than one, where the allocator underneath comes
    /// back to pools.
    static ADDING: Cell<usize> = Cell::new(0)
}

/// A page is being added for so many blocks; they are given up if there will be none, also by a
/// panic.
struct Adding<'p> {
    reserved: &'p AtomicUsize,
    blocks: usize,
}

impl<'p> Adding<'p> {
    fn new(reserved: &'p AtomicUsize, blocks: usize) -> Self {
        ADDING.with(|adding| adding.set(adding.get() + 1));
        Self { reserved, blocks }
    }

    /// Whether this thread is adding a page.
    fn is_on() -> bool {
        ADDING.with(Cell::get) > 0
    }

    fn done(mut self) {
        self.blocks = 0;
    }
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        ADDING.with(|adding| adding.set(adding.get() - 1));
        if self.blocks > 0 {
            self.reserved.fetch_sub(self.blocks, AcqRel);
        }
    }
}

/// Gives a page back.
///
/// # Safety
/// It is a page of a pool with this source, on no list, and nobody uses its blocks.
unsafe fn discard<A: Allocator>(source: &Source<A>, this: NonNull<Page>) {
    // Pages are listed by pointers that reach no further than their headers.
    let this = exposed::<Page>(this.addr().get());
    // The model checker's atomics want to be dropped.
    if std::mem::needs_drop::<AtomicU16>() {
        // SAFETY: the header is live until it is dropped below.
        let blocks = unsafe { this.as_ref() }.blocks;
        // SAFETY: the links follow the header.
        let links = unsafe { this.add(1) }.cast::<AtomicU16>();
        let links = NonNull::slice_from_raw_parts(links, usize::from(blocks));
        // SAFETY: one was made for each block, and nobody looks at them any more.
        unsafe { links.drop_in_place() };
    }
    // SAFETY: the header was made with the page, and nobody looks at it any more.
    unsafe { this.drop_in_place() };
    // SAFETY: the caller's promises are the callee's.
    unsafe { source.release(this.cast()) };
}

/// The number of this thread's stripe, less than `STRIPES`: threads take them in turn.
#[inline]
fn stripe() -> usize {
    use std::cell::Cell;

    nebula_memory_core::nebula_thread_local! {
        static MINE: Cell<usize> = Cell::new(usize::MAX)
    }

    #[cold]
    fn assign(mine: &Cell<usize>) -> usize {
        mine.set(next_thread());
        mine.get()
    }

    let mine = MINE.with(|mine| if mine.get() == usize::MAX { assign(mine) } else { mine.get() });
    mine % STRIPES
}

/// How many threads have asked before.
#[cfg(not(nebula_loom))]
fn next_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Relaxed)
}

/// As above, from the beginning in every execution of a model.
#[cfg(nebula_loom)]
fn next_thread() -> usize {
    loom::lazy_static! {
        static ref NEXT: AtomicUsize = AtomicUsize::new(0);
    }
    NEXT.fetch_add(1, Relaxed)
}

impl Store for Pages {
    fn new() -> Self {
        Self {
            current: std::array::from_fn(|_| Stripe(AtomicPtr::new(ptr::null_mut()))),
            last: AtomicPtr::new(ptr::null_mut()),
            cursor: AtomicPtr::new(ptr::null_mut()),
            reserved: AtomicUsize::new(0),
            listed: AtomicUsize::new(0),
        }
    }

    fn header() -> Layout {
        Layout::new::<Page>()
    }

    fn side() -> usize {
        size_of::<AtomicU16>()
    }

    #[inline]
    fn take(&self, geometry: &Geometry) -> Option<NonNull<u8>> {
        // SAFETY: a current page is on the list.
        let this = unsafe { page(self.stripe().load(Acquire)) }?;
        // SAFETY: the page is live, and one of this pool.
        unsafe { this.pop(geometry) }.ok()
    }

    fn find<A: Allocator>(
        &self,
        source: &Source<A>,
        layout: Layout,
    ) -> Result<NonNull<u8>, MemoryError> {
        loop {
            if let Some(block) = self.look_around(&source.geometry) {
                return Ok(block);
            }
            let error = match self.add_page(source) {
                Ok(Some(block)) => return Ok(block),
                Ok(None) => exhausted(layout),
                Err(error) => {
                    return self.look_everywhere(&source.geometry).ok_or(error);
                }
            };
            if self.listed.load(Acquire) < source.most && !Adding::is_on() {
                // Somebody is adding the last page, or has just failed to. (Not this thread, which
                // would wait for itself.)
                thread::yield_now();
                continue;
            }
            return self.look_everywhere(&source.geometry).ok_or(error);
        }
    }

    #[inline]
    unsafe fn give<A: Allocator>(&self, source: &Source<A>, block: NonNull<u8>) {
        let geometry = &source.geometry;
        if CHECKED {
            self.check(block, geometry);
        }
        poison(block, geometry.size);
        let (address, offset) = geometry.split(block.addr().get());
        let this = exposed::<Page>(address);
        // SAFETY: the block is one of this store's, so that its page is live.
        let this = unsafe { this.as_ref() };
        // SAFETY: the page has this block, and the caller gives it up.
        unsafe { this.push(narrow(geometry.index(offset))) };
    }

    fn in_use(&self) -> usize {
        self.list().map(|this| usize::from(this.blocks - this.head().count())).sum()
    }

    fn pages(&self) -> usize {
        self.list().count()
    }

    fn blocks_of(&self, page: usize) -> Option<usize> {
        let found = self.list().find(|this| ptr::from_ref(*this).addr() == page);
        found.map(|this| usize::from(this.blocks))
    }

    fn reset<A: Allocator>(&mut self, source: &Source<A>) {
        for this in self.list() {
            // SAFETY: the page is live; `&mut self` proves that nobody uses blocks of this store.
            unsafe { this.clear() };
            let memory = NonNull::from(this).cast();
            // SAFETY: as above.
            unsafe { source.poison_blocks(memory, usize::from(this.blocks)) };
        }
    }

    fn release_all<A: Allocator>(&mut self, source: &Source<A>) {
        self.remove(source, |_| true);
    }
}
