//! Scopes and checkpoints of bump allocators, in both forms.

use std::{alloc::Layout, ptr::NonNull};

use nebula_alloc::{BumpAllocator, Mode};
use nebula_memory_core::{
    Allocator, Global, MemoryError, MemoryUsage, Resettable, TypedAllocator,
    allocator_api2::vec::Vec,
};
use nebula_testing::{DropCounter, PanicOn, catch};

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

fn block(bump: &impl Allocator, size: usize) -> NonNull<u8> {
    bump.try_allocate(layout(size)).unwrap().cast()
}

/// Runs the body with both forms.
macro_rules! both {
    ($body:expr) => {
        $body(&mut BumpAllocator::try_new(1024).unwrap());
        $body(&mut BumpAllocator::try_shared(1024).unwrap());
    };
}

#[test]
fn scopes_take_everything_back() {
    fn body<M: Mode>(bump: &mut BumpAllocator<Global, M>) {
        block(bump, 64);
        for _ in 0..3 {
            let outer = bump.scope();
            assert_eq!((outer.used(), outer.capacity(), bump.used()), (0, Some(960), 1024));
            let first = block(&outer, 100);
            {
                let inner = outer.scope();
                assert_eq!(outer.available(), Some(0));
                block(&inner, 10);
                assert!(block(&inner, 10) > first);
            }
            assert_eq!(outer.used(), 100);
            drop(outer);
            assert_eq!(bump.used(), 64);
        }
    }
    both!(body);
}

#[test]
fn around_an_open_scope_blocks_live_on_and_none_are_made() {
    fn body<M: Mode>(bump: &mut BumpAllocator<Global, M>) {
        let mut numbers = Vec::with_capacity_in(2, &*bump);
        let scope = bump.scope();
        numbers.extend([1_u64, 2]);
        assert!(numbers.try_reserve(1).is_err());
        assert_eq!(bump.try_allocate(layout(1)).unwrap_err().code(), "capacity_exceeded");
        let scratch = scope.try_new([9_u8; 100]).unwrap();
        assert_eq!(*scratch, [9; 100]);
        drop(scratch);
        drop(scope);
        numbers.push(3);
        assert_eq!(&*numbers, [1, 2, 3]);
        assert_eq!(bump.used(), numbers.capacity() * 8);
    }
    both!(body);
}

#[test]
fn scopes_may_end_in_any_order() {
    fn body<M: Mode>(bump: &mut BumpAllocator<Global, M>) {
        let (first, second) = (bump.scope(), bump.scope());
        assert_eq!(second.capacity(), Some(0));
        assert!(second.try_allocate(layout(1)).is_err());
        drop(first);
        assert_eq!(bump.used(), 0);
        block(bump, 1024);
        drop(second);
        assert_eq!(bump.used(), 1024);
    }
    both!(body);
}

#[test]
fn a_leaked_scope_keeps_its_bytes_until_the_reset() {
    fn body<M: Mode>(bump: &mut BumpAllocator<Global, M>) {
        std::mem::forget(bump.scope());
        assert_eq!(bump.available(), Some(0));
        bump.reset();
        assert_eq!(bump.available(), Some(1024));
    }
    both!(body);
}

#[test]
fn a_panic_in_a_scope_ends_it() {
    fn body<M: Mode>(bump: &mut BumpAllocator<Global, M>) {
        let counter = DropCounter::new();
        let panic = catch(|| {
            let scope = bump.scope();
            let _probe = scope.try_new(counter.probe(1)).unwrap();
            PanicOn::nth(0).tick();
        });
        assert_eq!((panic, bump.used()), (Err("injected".to_owned()), 0));
        counter.assert_all_dropped();
    }
    both!(body);
}

#[test]
fn restoring_a_checkpoint_takes_back_what_came_after() {
    fn body<M: Mode>(bump: &mut BumpAllocator<Global, M>) {
        block(bump, 100);
        let checkpoint = bump.checkpoint();
        for _ in 0..3 {
            block(bump, 300);
            block(bump, 500);
            bump.restore(checkpoint).unwrap();
            assert_eq!((bump.used(), bump.checkpoint()), (100, checkpoint));
        }
        bump.reset();
        match bump.restore(checkpoint) {
            Err(MemoryError::NotTopOfStack { distance: 100 }) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(bump.used(), 0);
        let mut scope = bump.scope();
        let checkpoint = scope.checkpoint();
        block(&scope, 10);
        scope.restore(checkpoint).unwrap();
        assert_eq!(scope.used(), 0);
        block(&scope, 10);
        scope.reset();
        assert_eq!(scope.used(), 0);
    }
    both!(body);
}

#[test]
fn a_checkpoint_of_another_region_is_refused() {
    let (mut one, other) =
        (BumpAllocator::try_new(64).unwrap(), BumpAllocator::try_new(64).unwrap());
    block(&one, 8);
    block(&other, 8);
    assert_eq!(one.restore(other.checkpoint()).unwrap_err().code(), "not_top_of_stack");
    assert_eq!(one.used(), 8);
}

#[test]
fn they_say_what_they_are() {
    fn body<M: Mode>(bump: &mut BumpAllocator<Global, M>) {
        block(bump, 24);
        let debug = format!("{:?}", bump.scope());
        assert!(debug.contains("BumpScope { used: 0, capacity: 1000"), "{debug}");
    }
    both!(body);
}
