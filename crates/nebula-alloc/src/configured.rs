//! The allocator that a configuration asks for.

use std::{alloc::Layout, ptr::NonNull};

use nebula_memory_core::{
    Allocator, AllocatorKind, MemoryError, MemoryUsage, Resettable, StatisticsProvider,
    StatsSnapshot, UsageCell,
    allocator_api2::alloc::{AllocError, Allocator as Api2},
    sync::Arc,
};

use crate::{
    AllocatorChoice, AllocatorConfig, AllocatorManager, BumpAllocator, Exclusive, PoolAllocator,
    StackAllocator, SystemAllocator, Tracked,
};

/// One of the allocators of this crate, chosen by an [`AllocatorConfig`], over the base `A`.
///
/// It serves one thread at a time. Each call branches on the choice; where the choice is known when
/// the program is compiled, take the allocator itself.
///
/// ```
/// use nebula_alloc::{AllocatorChoice, AllocatorConfig, AllocatorManager};
/// use nebula_memory_core::{ByteSize, Global, allocator_api2::vec::Vec};
///
/// let config = AllocatorConfig::builder()
///     .kind(AllocatorChoice::Bump)
///     .capacity(ByteSize::kib(4))
///     .track_stats(true)
///     .build()?;
/// let manager = AllocatorManager::new();
/// let mut allocator = config.build_named_in("scratch", Global)?.registered_in(&manager);
///
/// let mut bytes = Vec::new_in(&allocator);
/// bytes.resize(100, 0_u8);
/// assert_eq!(manager.list()[0].used, 100);
/// drop(bytes);
///
/// assert!(allocator.try_reset());
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct ConfiguredAllocator<A: Allocator = SystemAllocator>(Chosen<A>);

#[derive(Debug)]
enum Chosen<A: Allocator> {
    System(A),
    TrackedSystem(Tracked<A, Exclusive>),
    Bump(BumpAllocator<A>),
    TrackedBump(Tracked<BumpAllocator<A>, Exclusive>),
    Stack(StackAllocator<A>),
    TrackedStack(Tracked<StackAllocator<A>, Exclusive>),
    Pool(PoolAllocator<A>),
    TrackedPool(Tracked<PoolAllocator<A>, Exclusive>),
}

/// `allocator` with statistics that say its capacity.
fn tracked<A: Allocator + MemoryUsage>(
    allocator: A,
    name: &str,
    kind: AllocatorKind,
) -> Tracked<A, Exclusive> {
    Tracked::exclusive(allocator, name, kind).publish_capacity()
}

/// Evaluates `$call` with `$allocator` bound to the chosen one.
macro_rules! with_chosen {
    ($self:ident, $allocator:ident => $call:expr) => {
        match &$self.0 {
            Chosen::System($allocator) => $call,
            Chosen::TrackedSystem($allocator) => $call,
            Chosen::Bump($allocator) => $call,
            Chosen::TrackedBump($allocator) => $call,
            Chosen::Stack($allocator) => $call,
            Chosen::TrackedStack($allocator) => $call,
            Chosen::Pool($allocator) => $call,
            Chosen::TrackedPool($allocator) => $call,
        }
    };
}

impl<A: Allocator> ConfiguredAllocator<A> {
    /// Builds what the validated `config` asks for.
    pub(crate) fn new(config: &AllocatorConfig, name: &str, base: A) -> Result<Self, MemoryError> {
        let (capacity, track) = (config.capacity.get(), config.track_stats);
        Ok(Self(match config.kind {
            AllocatorChoice::System if track => {
                Chosen::TrackedSystem(Tracked::exclusive(base, name, AllocatorKind::System))
            }
            AllocatorChoice::System => Chosen::System(base),
            AllocatorChoice::Bump => {
                let bump = BumpAllocator::try_new_in(capacity, base)?;
                if track {
                    Chosen::TrackedBump(tracked(bump, name, AllocatorKind::Bump))
                } else {
                    Chosen::Bump(bump)
                }
            }
            AllocatorChoice::Stack => {
                let stack = StackAllocator::try_new_in(capacity, base)?;
                if track {
                    Chosen::TrackedStack(tracked(stack, name, AllocatorKind::Stack))
                } else {
                    Chosen::Stack(stack)
                }
            }
            AllocatorChoice::Pool => {
                let block = config.block()?;
                let blocks = (capacity > 0).then(|| capacity / block.size());
                let pool = PoolAllocator::try_new_in(block, blocks, base)?;
                if track {
                    Chosen::TrackedPool(tracked(pool, name, AllocatorKind::Pool))
                } else {
                    Chosen::Pool(pool)
                }
            }
        }))
    }

    /// What was chosen.
    pub const fn kind(&self) -> AllocatorChoice {
        match self.0 {
            Chosen::System(_) | Chosen::TrackedSystem(_) => AllocatorChoice::System,
            Chosen::Bump(_) | Chosen::TrackedBump(_) => AllocatorChoice::Bump,
            Chosen::Stack(_) | Chosen::TrackedStack(_) => AllocatorChoice::Stack,
            Chosen::Pool(_) | Chosen::TrackedPool(_) => AllocatorChoice::Pool,
        }
    }

    /// The allocator underneath, where blocks or the region come from.
    pub const fn base(&self) -> &A {
        match &self.0 {
            Chosen::System(base) => base,
            Chosen::TrackedSystem(tracked) => tracked.allocator(),
            Chosen::Bump(bump) => bump.base(),
            Chosen::TrackedBump(tracked) => tracked.allocator().base(),
            Chosen::Stack(stack) => stack.base(),
            Chosen::TrackedStack(tracked) => tracked.allocator().base(),
            Chosen::Pool(pool) => pool.base(),
            Chosen::TrackedPool(tracked) => tracked.allocator().base(),
        }
    }

    /// Where the figures are, for a registry; `None` if statistics are not tracked.
    pub const fn cell(&self) -> Option<&Arc<UsageCell>> {
        match &self.0 {
            Chosen::System(_) | Chosen::Bump(_) | Chosen::Stack(_) | Chosen::Pool(_) => None,
            Chosen::TrackedSystem(tracked) => Some(tracked.cell()),
            Chosen::TrackedBump(tracked) => Some(tracked.cell()),
            Chosen::TrackedStack(tracked) => Some(tracked.cell()),
            Chosen::TrackedPool(tracked) => Some(tracked.cell()),
        }
    }

    /// Lists it in `manager` for as long as it lives, if it tracks statistics; otherwise there is
    /// nothing to list.
    #[must_use]
    pub fn registered_in(self, manager: &AllocatorManager) -> Self {
        if let Some(cell) = self.cell() {
            manager.register(cell);
        }
        self
    }

    /// Takes all memory back at once, if what was chosen can: all but the system's heap. Returns
    /// whether it did.
    pub fn try_reset(&mut self) -> bool {
        match &mut self.0 {
            Chosen::System(_) | Chosen::TrackedSystem(_) => return false,
            Chosen::Bump(bump) => bump.reset(),
            Chosen::TrackedBump(tracked) => tracked.reset(),
            Chosen::Stack(stack) => stack.reset(),
            Chosen::TrackedStack(tracked) => tracked.reset(),
            Chosen::Pool(pool) => pool.reset(),
            Chosen::TrackedPool(tracked) => tracked.reset(),
        }
        true
    }
}

// SAFETY: every call goes to the one allocator chosen at construction, which fulfils the
// conditions; the choice never changes.
unsafe impl<A: Allocator> Api2 for ConfiguredAllocator<A> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        with_chosen!(self, allocator => allocator.allocate(layout))
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        with_chosen!(self, allocator => allocator.allocate_zeroed(layout))
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        with_chosen!(self, allocator => {
            // SAFETY: the caller's promises are the callee's.
            unsafe { allocator.deallocate(ptr, layout) }
        });
    }

    #[inline]
    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        with_chosen!(self, allocator => {
            // SAFETY: the caller's promises are the callee's.
            unsafe { allocator.grow(ptr, old, new) }
        })
    }

    #[inline]
    unsafe fn grow_zeroed(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        with_chosen!(self, allocator => {
            // SAFETY: the caller's promises are the callee's.
            unsafe { allocator.grow_zeroed(ptr, old, new) }
        })
    }

    #[inline]
    unsafe fn shrink(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        with_chosen!(self, allocator => {
            // SAFETY: the caller's promises are the callee's.
            unsafe { allocator.shrink(ptr, old, new) }
        })
    }
}

// SAFETY: the chosen allocator returns slices of exactly `layout.size()` bytes.
unsafe impl<A: Allocator> Allocator for ConfiguredAllocator<A> {
    #[inline]
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        with_chosen!(self, allocator => allocator.try_allocate(layout))
    }
}

/// `None` unless the configuration asked for statistics.
impl<A: Allocator> StatisticsProvider for ConfiguredAllocator<A> {
    fn statistics(&self) -> Option<StatsSnapshot> {
        self.cell().and_then(|cell| cell.statistics())
    }
}

/// What the chosen allocator itself holds: the bytes before a bump's cursor or below a stack's top,
/// a pool's blocks; for the system, all that the base holds.
impl<A: Allocator + MemoryUsage> MemoryUsage for ConfiguredAllocator<A> {
    fn used(&self) -> usize {
        match &self.0 {
            Chosen::System(base) => base.used(),
            Chosen::TrackedSystem(tracked) => tracked.allocator().used(),
            Chosen::Bump(bump) => bump.used(),
            Chosen::TrackedBump(tracked) => tracked.allocator().used(),
            Chosen::Stack(stack) => stack.used(),
            Chosen::TrackedStack(tracked) => tracked.allocator().used(),
            Chosen::Pool(pool) => pool.used(),
            Chosen::TrackedPool(tracked) => tracked.allocator().used(),
        }
    }

    fn capacity(&self) -> Option<usize> {
        match &self.0 {
            Chosen::System(base) => base.capacity(),
            Chosen::TrackedSystem(tracked) => tracked.allocator().capacity(),
            Chosen::Bump(bump) => bump.capacity(),
            Chosen::TrackedBump(tracked) => tracked.allocator().capacity(),
            Chosen::Stack(stack) => stack.capacity(),
            Chosen::TrackedStack(tracked) => tracked.allocator().capacity(),
            Chosen::Pool(pool) => pool.capacity(),
            Chosen::TrackedPool(tracked) => tracked.allocator().capacity(),
        }
    }
}
