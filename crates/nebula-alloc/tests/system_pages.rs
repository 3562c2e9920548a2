//! Mapped pages: which blocks get them, what is in them, and what becomes of them.

use std::{alloc::Layout, hint::black_box, mem::MaybeUninit, ptr::NonNull};

use nebula_alloc::{SystemAllocator, SystemOptions};
use nebula_memory_core::{
    Allocator, MemoryUsage, TypedAllocator,
    allocator_api2::{alloc::Allocator as _, vec::Vec},
};
use nebula_testing::Rng;

/// Larger than a page on every system.
const LARGE: usize = 256 << 10;

fn system() -> SystemAllocator {
    SystemAllocator::with_options(SystemOptions::new().map_from(LARGE))
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).unwrap()
}

fn block(system: &SystemAllocator, size: usize) -> NonNull<u8> {
    system.try_allocate(layout(size)).unwrap().cast()
}

fn free(system: &SystemAllocator, block: NonNull<u8>, size: usize) {
    // SAFETY: every test frees a live block with the size that it has, once.
    unsafe { system.deallocate(block, layout(size)) }
}

fn bytes<'a>(block: NonNull<u8>, size: usize) -> &'a mut [u8] {
    // SAFETY: every test looks at a live block of its own, zeroed or written before.
    unsafe { std::slice::from_raw_parts_mut(block.as_ptr(), size) }
}

/// What is mapped for a block of `size` bytes.
fn pages(size: usize) -> usize {
    if !SystemAllocator::maps_pages() {
        return 0;
    }
    let system = system();
    let large = block(&system, LARGE + 1);
    let page = system.mapped() - LARGE;
    free(&system, large, LARGE + 1);
    assert!(page.is_power_of_two() && page > 1);
    size.next_multiple_of(page)
}

#[test]
fn large_blocks_get_whole_pages_of_their_own() {
    let system = system();
    let small = block(&system, LARGE - 1);
    assert_eq!((system.used(), system.mapped()), (LARGE - 1, 0));
    let large = block(&system, LARGE + 1);
    assert_eq!((system.used(), system.mapped()), (2 * LARGE, pages(LARGE + 1)));
    bytes(large, LARGE + 1).fill(7);
    free(&system, small, LARGE - 1);
    assert!(bytes(large, LARGE + 1).iter().all(|byte| *byte == 7));
    free(&system, large, LARGE + 1);
    assert_eq!((system.used(), system.mapped()), (0, 0));
}

#[test]
fn by_default_pages_are_for_blocks_of_four_mebibytes() {
    let system = SystemAllocator::new();
    let (below, from) = (block(&system, (4 << 20) - 1), block(&system, 4 << 20));
    assert_eq!(system.mapped(), pages(4 << 20));
    free(&system, below, (4 << 20) - 1);
    free(&system, from, 4 << 20);
    assert_eq!(SystemOptions::new(), SystemOptions::default());
}

#[test]
fn the_heap_can_have_everything() {
    let system = SystemAllocator::with_options(SystemOptions::new().map_from(usize::MAX));
    let large = block(&system, 64 << 20);
    assert_eq!((system.used(), system.mapped()), (64 << 20, 0));
    free(&system, large, 64 << 20);
}

#[test]
fn alignments_beyond_a_page_are_the_heaps() {
    let system = system();
    for shift in 0..=21 {
        let layout = Layout::from_size_align(LARGE, 1 << shift).unwrap();
        let block = system.try_allocate(layout).unwrap().cast::<u8>();
        assert_eq!(block.addr().get() % layout.align(), 0);
        if SystemAllocator::maps_pages() {
            assert!(shift > 12 || system.mapped() == LARGE, "shift {shift}");
            assert!(shift < 20 || system.mapped() == 0, "shift {shift}");
        }
        // SAFETY: the block is live and of this layout.
        unsafe { system.deallocate(block, layout) };
        assert_eq!((system.used(), system.mapped()), (0, 0));
    }
}

#[test]
fn clones_share_what_is_mapped_and_free_for_each_other() {
    let system = system();
    let large = block(&system, LARGE);
    let clone = system.clone();
    drop(system);
    assert_eq!(clone.mapped(), pages(LARGE));
    free(&clone, large, LARGE);
    assert_eq!(clone.mapped(), 0);
}

#[test]
fn resizing_keeps_contents_between_heap_and_pages_and_zeroes_what_is_new() {
    let system = system();
    let mut rng = Rng::new(3);
    let sizes = [1, 5000, LARGE - 1, LARGE, LARGE + 1, LARGE + 5000, 3 * LARGE, 20 * LARGE];
    for _ in 0..if cfg!(miri) { 1 } else { 20 } {
        let mut size = sizes[rng.below(sizes.len())];
        let mut ptr = block(&system, size);
        bytes(ptr, size).fill(1);
        for round in 2..12_u8 {
            let wanted = sizes[rng.below(sizes.len())];
            let (old, new) = (layout(size), layout(wanted));
            let grown = if wanted >= size {
                // SAFETY: the block is live, of this layout, and the new size is not smaller.
                unsafe { system.grow_zeroed(ptr, old, new) }
            } else {
                // SAFETY: the block is live, of this layout, and the new size is smaller.
                unsafe { system.shrink(ptr, old, new) }
            };
            let grown = grown.unwrap();
            assert_eq!(grown.len(), wanted);
            ptr = grown.cast();
            let kept = size.min(wanted);
            let all = bytes(ptr, wanted);
            assert!(all[..kept].iter().all(|byte| *byte == round - 1), "{size} to {wanted}");
            assert!(all[kept..].iter().all(|byte| *byte == 0), "{size} to {wanted}");
            all.fill(round);
            size = wanted;
            let mapped = if size >= LARGE { pages(size) } else { 0 };
            assert_eq!((system.used(), system.mapped()), (size, mapped));
        }
        free(&system, ptr, size);
        assert_eq!((system.used(), system.mapped()), (0, 0));
    }
}

#[test]
fn a_growth_to_nothing_the_system_has_changes_nothing() {
    let system = system();
    let large = block(&system, LARGE);
    bytes(large, LARGE).fill(5);
    let huge = layout(isize::MAX as usize - 15);
    // SAFETY: the block is live, of this layout, and the new size is larger.
    let grown = unsafe { system.grow(large, layout(LARGE), huge) };
    assert!(black_box(grown).is_err());
    assert!(black_box(system.try_allocate(huge)).is_err());
    assert_eq!((system.used(), system.mapped()), (LARGE, pages(LARGE)));
    assert!(bytes(large, LARGE).iter().all(|byte| *byte == 5));
    free(&system, large, LARGE);
}

#[test]
fn vectors_grow_from_the_heap_into_pages() {
    let system = system();
    let mut numbers = Vec::new_in(&system);
    numbers.extend(0..LARGE as u64);
    assert!(numbers.iter().copied().eq(0..LARGE as u64));
    assert_eq!(system.used(), numbers.capacity() * 8);
    assert_eq!(system.mapped(), pages(numbers.capacity() * 8));
    numbers.truncate(10);
    numbers.shrink_to_fit();
    assert!(numbers.iter().copied().eq(0..10));
    assert_eq!((system.used(), system.mapped()), (80, 0));
}

#[test]
fn what_is_discarded_can_be_used_again() {
    let system = system();
    let mut large = system.try_new_slice(4 * LARGE + 100, |_| MaybeUninit::new(9_u8)).unwrap();
    let discarded = system.discard(&mut large[50..]);
    assert!(discarded <= 4 * LARGE + 50);
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        assert!(discarded >= 3 * LARGE);
        // SAFETY: the system gives zeroed pages for those that were discarded, here.
        assert_eq!(unsafe { large[2 * LARGE].assume_init() }, 0);
    }
    // Not a whole page.
    assert_eq!(system.discard(&mut large[..100]), 0);
    assert_eq!(system.discard(&mut []), 0);
    // SAFETY: written above, and not in a page that was discarded as a whole.
    assert_eq!(unsafe { large[49].assume_init() }, 9);
    large[2 * LARGE].write(3);
    // SAFETY: written just now.
    assert_eq!(unsafe { large[2 * LARGE].assume_init() }, 3);
}

/// Bytes of the block that are in memory, in whole pages.
#[cfg(all(target_os = "linux", not(miri)))]
fn resident(start: NonNull<u8>, size: usize) -> usize {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (from, to) = (start.addr().get(), start.addr().get() + size);
    let mut inside = false;
    let mut kib = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((begin, end)) = first.split_once('-') {
            let address = |text| usize::from_str_radix(text, 16);
            if let (Ok(begin), Ok(end)) = (address(begin), address(end)) {
                // Neighbouring mappings of the same kind are one to the system.
                inside = begin < to && from < end;
            }
        } else if inside && first == "Rss:" {
            kib += words.next().and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
        }
    }
    kib << 10
}

#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn pages_are_touched_beforehand_only_if_asked_for() {
    // So large that what else is in the neighbourhood is little beside it.
    const SIZE: usize = 64 << 20;
    let touched = |prefault| {
        let options = SystemOptions::new().map_from(LARGE).prefault(prefault);
        let system = SystemAllocator::with_options(options);
        let large = block(&system, SIZE);
        let touched = resident(large, SIZE);
        free(&system, large, SIZE);
        touched
    };
    assert!(touched(true) >= SIZE);
    assert!(touched(false) < SIZE / 2);
}

#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn huge_pages_are_asked_for_where_there_are_some() {
    /// Whether the mapping around `start` is marked for huge pages.
    fn marked(start: NonNull<u8>) -> bool {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let address = start.addr().get();
        let mut inside = false;
        for line in smaps.lines() {
            if let Some((begin, end)) = line.split_whitespace().next().unwrap_or("").split_once('-')
            {
                let parse = |text| usize::from_str_radix(text, 16);
                if let (Ok(begin), Ok(end)) = (parse(begin), parse(end)) {
                    inside = (begin..end).contains(&address);
                }
            } else if inside && line.starts_with("VmFlags:") {
                return line.split_whitespace().any(|flag| flag == "hg");
            }
        }
        false
    }
    if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        println!("skipped: this kernel has no huge pages to ask for");
        return;
    }
    for ask in [false, true] {
        let options = SystemOptions::new().map_from(LARGE).huge_pages(ask);
        let system = SystemAllocator::with_options(options);
        let large = block(&system, 8 << 20);
        assert_eq!(marked(large), ask);
        free(&system, large, 8 << 20);
    }
}
