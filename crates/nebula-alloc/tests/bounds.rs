//! What may go to another thread, and what may be used by several.

use std::cell::Cell;

use nebula_alloc::{
    AllocatorConfig, AllocatorManager, AllocatorReport, AllocatorTotal, BumpAllocator,
    BumpCheckpoint, BumpScope, ConfiguredAllocator, Exclusive, Shared, StackAllocator, StackFrame,
    StackMarker, SystemAllocator, Tracked,
};
use nebula_memory_core::{Accounted, Allocator, Global, Unlimited};
use static_assertions::{assert_impl_all, assert_not_impl_any};

/// An allocator that must stay on its thread.
type Local<'a> = Accounted<Global, &'a LocalAccount>;

#[derive(Debug)]
struct LocalAccount(#[allow(dead_code, reason = "it is here to be `!Sync`")] Cell<usize>);

impl nebula_memory_core::Account for LocalAccount {
    fn try_charge(&self, _bytes: usize) -> Result<(), nebula_memory_core::MemoryError> {
        Ok(())
    }

    fn credit(&self, _bytes: usize) {}
}

assert_impl_all!(SystemAllocator: Allocator, Clone, Send, Sync);

assert_impl_all!(BumpAllocator: Allocator, Send);
assert_not_impl_any!(BumpAllocator: Sync, Clone);
assert_impl_all!(&BumpAllocator: Allocator);
assert_not_impl_any!(&BumpAllocator: Send, Sync);
assert_not_impl_any!(BumpAllocator<Local<'static>>: Send, Sync);

assert_impl_all!(BumpAllocator<Global, Shared>: Allocator, Send, Sync);
assert_not_impl_any!(BumpAllocator<Global, Shared>: Clone);
assert_not_impl_any!(BumpAllocator<Local<'static>, Shared>: Send, Sync);
assert_impl_all!(BumpScope<'static>: Allocator);
assert_not_impl_any!(BumpScope<'static>: Send, Sync, Clone);
assert_impl_all!(BumpScope<'static, Shared>: Allocator, Send, Sync);
assert_impl_all!(BumpCheckpoint: Send, Sync, Copy);

assert_impl_all!(StackAllocator: Allocator, Send);
assert_not_impl_any!(StackAllocator: Sync, Clone);
assert_not_impl_any!(&StackAllocator: Send, Sync);
assert_not_impl_any!(StackAllocator<Local<'static>>: Send, Sync);
assert_impl_all!(StackFrame<'static>: Allocator);
assert_not_impl_any!(StackFrame<'static>: Send, Sync, Clone);
assert_impl_all!(StackMarker: Send, Sync, Copy);

assert_impl_all!(Tracked<Global>: Allocator, Clone, Send, Sync);
assert_impl_all!(Tracked<Global, Shared>: Send, Sync);
assert_impl_all!(Tracked<Global, Exclusive>: Allocator, Send);
assert_not_impl_any!(Tracked<Global, Exclusive>: Sync, Clone);
assert_not_impl_any!(Tracked<Local<'static>, Exclusive>: Send, Sync);
assert_not_impl_any!(Tracked<BumpAllocator, Exclusive>: Sync);

assert_impl_all!(ConfiguredAllocator: Allocator, Send);
assert_not_impl_any!(ConfiguredAllocator: Sync, Clone);
assert_not_impl_any!(ConfiguredAllocator<Local<'static>>: Send);
assert_impl_all!(ConfiguredAllocator<Accounted<Global, Unlimited>>: Send);

assert_impl_all!(AllocatorManager: Send, Sync);
assert_impl_all!(AllocatorConfig: Send, Sync, Clone);
assert_impl_all!(AllocatorReport: Send, Sync, Clone);
assert_impl_all!(AllocatorTotal: Send, Sync, Copy);
