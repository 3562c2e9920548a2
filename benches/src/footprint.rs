//! What things weigh: bytes of memory instead of time.
//!
//! Memory is not measured by running something many times, so that it has a type of its own beside
//! [`Case`](crate::Case), and `src/bin/footprint.rs`, which counts what the global allocator hands
//! out, a program of its own beside those that measure time.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fmt,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// What is weighed, and those who make it.
pub struct Footprint {
    /// What it is, in a few words; unique within the area, cases included.
    pub name: &'static str,
    /// Bytes of what, such as `B/node`.
    pub unit: &'static str,
    /// Our way.
    pub ours: Maker,
    /// The others' ways.
    pub peers: Vec<Maker>,
}

/// Tells how many bytes of heap are live.
pub type Live<'a> = &'a dyn Fn() -> usize;

/// One way to make what is weighed.
pub struct Maker {
    /// `ours` or the peer's name; unique within the footprint.
    pub name: &'static str,
    /// Makes the things and returns the bytes that each of them takes.
    pub weigh: Box<dyn Fn(Live<'_>) -> f64>,
}

impl Footprint {
    /// Something to be weighed.
    #[must_use]
    pub const fn new(name: &'static str, unit: &'static str, ours: Maker) -> Self {
        Self { name, unit, ours, peers: Vec::new() }
    }

    /// Adds a peer.
    #[must_use]
    pub fn peer(mut self, peer: Maker) -> Self {
        self.peers.push(peer);
        self
    }

    /// Ours, then the peers.
    pub fn makers(&self) -> impl Iterator<Item = &Maker> {
        std::iter::once(&self.ours).chain(&self.peers)
    }
}

impl Maker {
    /// Weighs `count` things that `make` makes, all of them live, in what `setup` made (which does
    /// not count). The weight is that of the thing itself and of all heap that came with it, as it
    /// was asked for: what the allocator adds to a block is not seen.
    pub fn new<S, T>(
        name: &'static str,
        count: usize,
        setup: impl Fn() -> S + 'static,
        make: impl Fn(&S, usize) -> T + 'static,
    ) -> Self {
        let weigh = move |live: Live<'_>| {
            // What a process or thread makes once is not the things' weight.
            drop(make(&setup(), 0));
            let state = setup();
            let mut things = Vec::with_capacity(count);
            let before = live();
            things.extend((0..count).map(|index| make(&state, index)));
            let bytes = live().saturating_sub(before);
            drop(things);
            bytes as f64 / count as f64 + size_of::<T>() as f64
        };
        Self { name, weigh: Box::new(weigh) }
    }

    /// Weighs one thing that `make` makes, and tells what each of its `parts` takes.
    pub fn of_parts<T>(name: &'static str, parts: usize, make: impl Fn() -> T + 'static) -> Self {
        let whole = Self::new(name, 1, || (), move |(), _| make());
        let weigh = move |live: Live<'_>| (whole.weigh)(live) / parts as f64;
        Self { name, weigh: Box::new(weigh) }
    }
}

impl fmt::Debug for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Footprint")
            .field("name", &self.name)
            .field("unit", &self.unit)
            .field("ours", &self.ours)
            .field("peers", &self.peers)
            .finish()
    }
}

impl fmt::Debug for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maker").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The system's allocator, with the live bytes counted.
#[derive(Debug, Default)]
pub struct CountingSystem(AtomicUsize);

impl CountingSystem {
    /// Nothing allocated so far.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Bytes in live blocks.
    #[must_use]
    pub fn live(&self) -> usize {
        self.0.load(Relaxed)
    }
}

// SAFETY: every call goes on to `System` as it came, with what the caller promises; counting
// neither allocates nor panics.
unsafe impl GlobalAlloc for CountingSystem {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise that the layout has a size is the same.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            self.0.fetch_add(layout.size(), Relaxed);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from `System`, with this layout, by the caller's promise.
        unsafe { System.dealloc(block, layout) };
        self.0.fetch_sub(layout.size(), Relaxed);
    }

    // `alloc_zeroed` and `realloc` are the trait's: they call these two.
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_thing_weighs_itself_and_its_heap() {
        // As if every thing came with 100 bytes, and the first one of a setup with 50 more.
        let live = std::rc::Rc::new(Cell::new(7_usize));
        let (counted, taken) = (std::rc::Rc::clone(&live), std::rc::Rc::clone(&live));
        let maker = Maker::new(
            "x",
            10,
            || Cell::new(50),
            move |first, index| {
                taken.set(taken.get() + 100 + first.take());
                index as u64
            },
        );
        let weight = (maker.weigh)(&move || counted.get());
        assert!((weight - (100.0 + 5.0 + 8.0)).abs() < 1e-9, "{weight}");
    }

    #[test]
    fn parts_share_what_the_whole_weighs() {
        let maker = Maker::of_parts("x", 4, || [0_u64; 4]);
        let weight = (maker.weigh)(&|| 0);
        assert!((weight - 8.0).abs() < 1e-9, "{weight}");
    }

    #[test]
    fn blocks_count_while_they_live() {
        let counting = CountingSystem::new();
        let layout = Layout::new::<[u64; 8]>();
        // SAFETY: the layout has a size.
        let block = unsafe { counting.alloc(layout) };
        assert!(!block.is_null());
        assert_eq!(counting.live(), 64);
        // SAFETY: the block was allocated above, with this layout.
        let block = unsafe { counting.realloc(block, layout, 128) };
        assert!(!block.is_null());
        assert_eq!(counting.live(), 128);
        // SAFETY: the block has had this layout since it was reallocated.
        unsafe { counting.dealloc(block, Layout::new::<[u64; 16]>()) };
        assert_eq!(counting.live(), 0);
    }
}
