//! That a stream that has settled leaves the heap alone: all calls of the global allocator counted.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    thread,
};

use nebula_arena::{Batch, Family, StreamingArena};

struct Counting;

thread_local! {
    /// Of this thread: those of the test harness are none of ours.
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    CALLS.with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: passes everything on to `System`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

struct Words;
impl Family for Words {
    type Of<'a> = &'a [&'a str];
}

#[test]
fn a_settled_stream_calls_no_allocator() {
    let stream = StreamingArena::new(3).unwrap();
    let work = |batch: Batch| {
        let sealed = batch
            .build::<Words>(|arena| {
                arena.alloc_slice_with(300, |i| &*arena.alloc_fmt(format_args!("word {i}")))
            })
            .unwrap();
        let sum: usize = sealed.with(|words| words.iter().map(|word| word.len()).sum());
        assert_eq!(sum, 300 * 5 + 10 + 90 * 2 + 200 * 3);
        // Shared, and taken back.
        let frozen = sealed.freeze();
        let other = frozen.clone();
        drop(frozen);
        other.try_unfreeze().unwrap().into_batch()
    };
    let round = || {
        let one = work(stream.try_batch().unwrap());
        let two = work(stream.batch().unwrap());
        let three = stream.batch_timeout(std::time::Duration::from_secs(1)).unwrap();
        assert!(stream.try_batch().is_err());
        drop(one);
        drop(work(three));
        drop(two);
    };
    // Also from a thread that is not the one that made it grow.
    thread::scope(|s| {
        s.spawn(|| (0..5).for_each(|_| round()));
    });
    round();
    let before = CALLS.get();
    for _ in 0..100 {
        round();
    }
    assert_eq!(CALLS.get() - before, 0);
}
