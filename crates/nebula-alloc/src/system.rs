//! The system's memory: its heap for small blocks, mapped pages for large ones, and figures of what
//! is out.
//!
//! What the system offers is in one file for each kind of system; which way a block goes is decided
//! here, by its layout alone, so that a block is freed the way it came.

#[cfg(any(miri, not(any(unix, windows))))]
#[path = "system/pages_none.rs"]
mod pages;
#[cfg(all(unix, not(miri)))]
#[path = "system/pages_unix.rs"]
mod pages;
#[cfg(all(windows, not(miri)))]
#[path = "system/pages_windows.rs"]
mod pages;

use std::{
    alloc::{Layout, System},
    mem::MaybeUninit,
    ptr::NonNull,
};

use nebula_memory_core::{
    Allocator, MemoryError, MemoryUsage,
    allocator_api2::alloc::{AllocError, Allocator as Api2},
    layout::{align_down, align_up, padding_for},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::placing::empty;

/// Where blocks come from, for [`SystemAllocator::with_options`].
///
/// ```
/// use nebula_alloc::{SystemAllocator, SystemOptions};
/// use nebula_memory_core::{MemoryUsage, TypedAllocator};
///
/// let options = SystemOptions::new().map_from(1 << 20).huge_pages(true).prefault(true);
/// let system = SystemAllocator::with_options(options);
/// let table = system.try_new_slice(2 << 20, |_| 0_u8)?;
/// // In pages of its own (on a system that maps pages), not in the heap.
/// assert!(system.mapped() == 2 << 20 || !SystemAllocator::maps_pages());
/// # drop(table);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "give them to `SystemAllocator::with_options`"]
pub struct SystemOptions {
    map_from: usize,
    huge_pages: bool,
    prefault: bool,
}

impl SystemOptions {
    /// Pages are mapped for blocks of 4 MiB and more; no hints.
    pub const fn new() -> Self {
        Self { map_from: 4 << 20, huge_pages: false, prefault: false }
    }

    /// From which size on, in bytes, a block gets pages of its own, which go back to the system
    /// when it is freed. A page at least; `usize::MAX` leaves all to the heap. Blocks aligned to
    /// more than a page are the heap's in any case.
    pub const fn map_from(mut self, bytes: usize) -> Self {
        self.map_from = bytes;
        self
    }

    /// Whether to ask for huge pages for mapped blocks. A hint: ignored where there are none.
    pub const fn huge_pages(mut self, ask: bool) -> Self {
        self.huge_pages = ask;
        self
    }

    /// Whether every page of a mapped block is touched when it is mapped, so that no later access
    /// has to wait for the system.
    pub const fn prefault(mut self, prefault: bool) -> Self {
        self.prefault = prefault;
        self
    }
}

impl Default for SystemOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// What all clones of a handle share.
#[derive(Debug)]
struct Held {
    /// The bytes of the blocks that are out.
    used: AtomicUsize,
    /// The bytes of the pages that are mapped.
    mapped: AtomicUsize,
}

/// The system's heap, whatever the global allocator of the program is, or mapped pages for large
/// blocks, and a count of the bytes that are out.
///
/// It is a cheap handle: clones share the count, so that all parts of a program (or of a tenant)
/// that allocate through one handle are seen together. Any thread may use it.
///
/// Blocks from 4 MiB on (or what [`SystemOptions`] say) get whole pages of their own: they go back
/// to the system when the block is freed, cannot be fragmented by others, come zeroed without being
/// written, and grow without being copied where the system can move pages (Linux).
///
/// ```
/// use nebula_alloc::SystemAllocator;
/// use nebula_memory_core::{MemoryUsage, allocator_api2::vec::Vec};
///
/// let system = SystemAllocator::new();
/// let mut bytes = Vec::new_in(system.clone());
/// bytes.resize(1000, 0_u8);
/// assert_eq!(system.used(), bytes.capacity());
/// drop(bytes);
/// assert_eq!(system.used(), 0);
/// ```
#[derive(Clone, Debug)]
pub struct SystemAllocator {
    held: Arc<Held>,
    /// Never differs between clones: a block may be freed through any.
    options: SystemOptions,
    /// The size of a page; the largest power of two where pages cannot be mapped.
    page: usize,
}

/// Stands for a page where pages cannot be mapped: no block is that large.
const NO_PAGES: usize = 1 << (usize::BITS - 1);

impl SystemAllocator {
    /// A handle that holds nothing so far, with the default [`SystemOptions`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_options(SystemOptions::new())
    }

    /// A handle that holds nothing so far.
    #[must_use]
    pub fn with_options(options: SystemOptions) -> Self {
        let page = pages::page_size().filter(|page| page.is_power_of_two()).unwrap_or(NO_PAGES);
        let options = options.map_from(options.map_from.max(page));
        let held = Held { used: AtomicUsize::new(0), mapped: AtomicUsize::new(0) };
        Self { held: Arc::new(held), options, page }
    }

    /// Whether pages can be mapped on this system. Otherwise the heap serves all blocks.
    #[must_use]
    pub fn maps_pages() -> bool {
        pages::page_size().is_some()
    }

    /// Bytes of the pages that are mapped for blocks that are out, over all clones. They are whole
    /// pages; [`used`](MemoryUsage::used) counts of them what was asked for.
    #[must_use]
    pub fn mapped(&self) -> usize {
        self.held.mapped.load(Relaxed)
    }

    /// Tells the system that the contents of `bytes` are no longer needed, so that it can have the
    /// memory behind them until they are written again. They are any bytes afterwards; nothing is
    /// freed. Returns how many bytes that was: whole pages, none where the system has no such call.
    ///
    /// ```
    /// use std::mem::MaybeUninit;
    /// use nebula_alloc::{SystemAllocator, SystemOptions};
    /// use nebula_memory_core::TypedAllocator;
    ///
    /// let system = SystemAllocator::new();
    /// let mut scratch = system.try_new_slice(8 << 20, |_| MaybeUninit::new(1_u8))?;
    /// let discarded = system.discard(&mut scratch);
    /// assert!(discarded <= 8 << 20);
    /// scratch[0].write(2);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    #[must_use = "it may have done nothing"]
    pub fn discard(&self, bytes: &mut [MaybeUninit<u8>]) -> usize {
        let padding = padding_for(bytes.as_ptr().addr(), self.page);
        let Some(pages) = bytes.get_mut(padding..) else { return 0 };
        let size = align_down(pages.len(), self.page);
        let Some(start) = NonNull::new(pages.as_mut_ptr().cast()) else { return 0 };
        // SAFETY: the bytes are borrowed mutably and may be uninitialised: nobody relies on what is
        // in them.
        if size > 0 && unsafe { pages::discard(start, size) } { size } else { 0 }
    }

    /// Whether a block of `layout` has pages of its own.
    #[inline]
    const fn is_mapped(&self, layout: Layout) -> bool {
        layout.size() >= self.options.map_from && layout.align() <= self.page
    }

    /// `size` in whole pages. A layout's size is far from an overflow.
    fn whole_pages(&self, size: usize) -> usize {
        align_up(size, self.page).unwrap_or(size)
    }

    /// Counts `bytes` if the block was had.
    #[inline]
    fn count(
        &self,
        block: Result<NonNull<[u8]>, AllocError>,
        bytes: usize,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if block.is_ok() {
            self.held.used.fetch_add(bytes, Relaxed);
        }
        block
    }

    /// Maps pages for a block of `layout`, which are zero, and counts them, but not the block.
    #[cold]
    #[inline(never)]
    fn map(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let bytes = self.whole_pages(layout.size());
        let start = pages::map(bytes).ok_or(AllocError)?;
        self.held.mapped.fetch_add(bytes, Relaxed);
        // SAFETY: the pages are fresh, and nobody else's.
        unsafe { self.prepare(start, 0, bytes) };
        Ok(NonNull::slice_from_raw_parts(start, layout.size()))
    }

    /// Gives the pages from `from` to `to` what the options ask for.
    ///
    /// # Safety
    /// They are zero, and the caller's alone.
    unsafe fn prepare(&self, start: NonNull<u8>, from: usize, to: usize) {
        if self.options.huge_pages {
            pages::ask_for_huge_pages(start, to);
        }
        if self.options.prefault {
            for offset in (from..to).step_by(self.page) {
                // SAFETY: the offset is below the end of the mapping.
                let byte = unsafe { start.add(offset) };
                // SAFETY: the byte is the caller's, and zero already.
                unsafe { byte.write_volatile(0) };
            }
        }
    }

    /// Unmaps the pages of a block of `layout`.
    ///
    /// # Safety
    /// They are those of a live block that has pages of its own, and it is not used again.
    #[cold]
    #[inline(never)]
    unsafe fn unmap(&self, ptr: NonNull<u8>, layout: Layout) {
        let bytes = self.whole_pages(layout.size());
        self.held.mapped.fetch_sub(bytes, Relaxed);
        // SAFETY: the caller's promises are the callee's; this is how many bytes were mapped.
        unsafe { pages::unmap(ptr, bytes) };
    }

    /// A block that is not counted; fresh bytes are zero if `zeroed`.
    #[inline]
    fn obtain(&self, layout: Layout, zeroed: bool) -> Result<NonNull<[u8]>, AllocError> {
        if self.is_mapped(layout) {
            self.map(layout)
        } else if zeroed {
            System.allocate_zeroed(layout)
        } else {
            System.allocate(layout)
        }
    }

    /// # Safety
    /// `ptr` is a live block of this allocator that `layout` fits, and it is not used again.
    #[inline]
    unsafe fn give_back(&self, ptr: NonNull<u8>, layout: Layout) {
        if self.is_mapped(layout) {
            // SAFETY: the layout says that it has pages of its own; the rest is the caller's
            // promise.
            unsafe { self.unmap(ptr, layout) };
        } else {
            // SAFETY: the layout says that it came from the heap; the rest is the caller's promise.
            unsafe { System.deallocate(ptr, layout) };
        }
    }

    /// Resizes a block that has pages of its own before or after, without counting it. Bytes that
    /// it gains are zero.
    ///
    /// # Safety
    /// `ptr` is a live block of this allocator that `old` fits; it is not used again if this
    /// succeeds.
    #[cold]
    #[inline(never)]
    unsafe fn resize(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let kept = old.size().min(new.size());
        if self.is_mapped(old) && self.is_mapped(new) {
            let (from, to) = (self.whole_pages(old.size()), self.whole_pages(new.size()));
            let same = if from == to {
                Some(ptr)
            } else {
                // SAFETY: these are the pages of the block, which the caller gives up.
                unsafe { pages::resize(ptr, from, to) }
            };
            if let Some(start) = same {
                self.held.mapped.fetch_add(to.wrapping_sub(from), Relaxed);
                let gained = from.min(new.size()).saturating_sub(kept);
                // SAFETY: what is kept is at most the block.
                let rest = unsafe { start.add(kept) };
                // SAFETY: the rest of the old pages, as far as the new block takes it, is ours.
                unsafe { rest.write_bytes(0, gained) };
                if to > from {
                    // SAFETY: pages that were added are fresh, and nobody else's.
                    unsafe { self.prepare(start, from, to) };
                }
                return Ok(NonNull::slice_from_raw_parts(start, new.size()));
            }
        }
        if new.size() == 0 {
            // SAFETY: the caller's promises are the callee's.
            unsafe { self.give_back(ptr, old) };
            return Ok(empty(new));
        }
        let block = self.obtain(new, true)?;
        // SAFETY: both blocks are live and at least this long; two live blocks do not overlap.
        unsafe { ptr.copy_to_nonoverlapping(block.cast(), kept) };
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.give_back(ptr, old) };
        Ok(block)
    }
}

impl Default for SystemAllocator {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: blocks come from `System` or are mapped, which of the two their layouts say, and go back
// the same way with the same pointers; they stay valid until they are freed, whatever happens to
// the handles, which all speak for the same system and have the same options.
unsafe impl Api2 for SystemAllocator {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.count(self.obtain(layout, false), layout.size())
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.count(self.obtain(layout, true), layout.size())
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        self.held.used.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.give_back(ptr, layout) };
    }

    #[inline]
    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let block = if self.is_mapped(old) || self.is_mapped(new) {
            // SAFETY: the caller's promises are the callee's.
            unsafe { self.resize(ptr, old, new) }
        } else {
            // SAFETY: the block came from the heap; the rest is the caller's promise.
            unsafe { System.grow(ptr, old, new) }
        };
        self.count(block, new.size() - old.size())
    }

    #[inline]
    unsafe fn grow_zeroed(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let block = if self.is_mapped(old) || self.is_mapped(new) {
            // SAFETY: the caller's promises are the callee's.
            unsafe { self.resize(ptr, old, new) }
        } else {
            // SAFETY: the block came from the heap; the rest is the caller's promise.
            unsafe { System.grow_zeroed(ptr, old, new) }
        };
        self.count(block, new.size() - old.size())
    }

    #[inline]
    unsafe fn shrink(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let block = if self.is_mapped(old) || self.is_mapped(new) {
            // SAFETY: the caller's promises are the callee's.
            unsafe { self.resize(ptr, old, new) }
        } else {
            // SAFETY: the block came from the heap; the rest is the caller's promise.
            unsafe { System.shrink(ptr, old, new) }
        }?;
        self.held.used.fetch_sub(old.size() - new.size(), Relaxed);
        Ok(block)
    }
}

// SAFETY: `System` returns slices of exactly `layout.size()` bytes, and so does what maps pages.
unsafe impl Allocator for SystemAllocator {
    #[inline]
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        self.allocate(layout).map_err(|AllocError| MemoryError::out_of_memory(layout))
    }
}

/// The bytes of the blocks that are out, over all clones, from the heap and in mapped pages; the
/// system alone limits them.
impl MemoryUsage for SystemAllocator {
    fn used(&self) -> usize {
        self.held.used.load(Relaxed)
    }

    fn capacity(&self) -> Option<usize> {
        None
    }
}
