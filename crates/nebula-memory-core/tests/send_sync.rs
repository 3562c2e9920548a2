//! What crosses threads and what must not, checked by the compiler.

use std::{cell::Cell, rc::Rc, sync::Arc};

use nebula_memory_core::{
    Accounted, Align, Allocator, AllocatorKind, AllocatorStats, ByteSize, Charge, Clock,
    ConfigFaults, Foreign, Global, ManualClock, MemoryError, MonotonicClock, PressureLevel,
    PressureReading, PressureSource, Reclaim, ReclaimRegistry, ReclaimReport, Refusal, Refused,
    Registration, StatisticsProvider, StatsSnapshot, StripedCounter, Throttle, Unlimited,
    UsageCell, WaitQueue, Waiter,
};
use static_assertions::{assert_impl_all, assert_not_impl_any, assert_obj_safe};

assert_impl_all!(Global: Send, Sync, Copy);
assert_impl_all!(Unlimited: Send, Sync, Copy);
assert_impl_all!(Foreign<Global>: Send, Sync, Copy);
assert_impl_all!(Accounted<Global, Unlimited>: Send, Sync, Copy, Allocator);
assert_impl_all!(Charge<Arc<Unlimited>>: Send, Sync);
assert_not_impl_any!(Charge<Unlimited>: Clone, Copy);
assert_impl_all!(Align: Send, Sync, Copy);
assert_impl_all!(AllocatorKind: Send, Sync, Copy);
assert_impl_all!(ByteSize: Send, Sync, Copy, Ord, std::hash::Hash);
assert_impl_all!(PressureLevel: Send, Sync, Copy, Ord);
assert_impl_all!(PressureReading: Send, Sync, Copy);
assert_impl_all!(ReclaimReport: Send, Sync, Copy);
assert_impl_all!(StatsSnapshot: Send, Sync, Copy);
assert_impl_all!(AllocatorStats: Send, Sync);
assert_impl_all!(StripedCounter: Send, Sync);
assert_impl_all!(UsageCell: Send, Sync);
assert_impl_all!(ManualClock: Send, Sync);
assert_impl_all!(MonotonicClock: Send, Sync, Copy);
assert_impl_all!(MemoryError: Send, Sync, Clone);
assert_impl_all!(ConfigFaults: Send, Sync);
assert_impl_all!(Refusal: Send, Sync);
assert_impl_all!(ReclaimRegistry: Send, Sync, Clone);
assert_impl_all!(Registration: Send, Sync);
assert_not_impl_any!(Registration: Clone);

// Containers are as mobile as what they hold, and no more.
assert_impl_all!(Refused<String>: Send, Sync);
assert_not_impl_any!(Refused<Rc<()>>: Send, Sync);
assert_impl_all!(WaitQueue<Cell<u32>>: Send, Sync);
assert_not_impl_any!(WaitQueue<Rc<()>>: Send, Sync);
assert_impl_all!(Waiter<'static, Cell<u32>>: Send, Unpin);
assert_not_impl_any!(Waiter<'static, Rc<()>>: Send, Sync);
assert_not_impl_any!(Waiter<'static, u32>: Clone);

// The traits that are used behind pointers.
assert_obj_safe!(Allocator, Clock, PressureSource, Reclaim, StatisticsProvider, Throttle);
assert_impl_all!(dyn Reclaim: Send, Sync);
assert_impl_all!(dyn Clock: Send, Sync);
assert_impl_all!(dyn PressureSource: Send, Sync);
assert_impl_all!(dyn Throttle: Send, Sync);

#[test]
fn clocks_work_behind_pointers() {
    let clock = Arc::new(ManualClock::new());
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
    clock.advance(std::time::Duration::from_secs(3));
    assert_eq!(Clock::now(&&*shared), shared.now());
    clock.advance(std::time::Duration::MAX);
    clock.advance(std::time::Duration::MAX);
    assert_eq!(shared.now(), std::time::Duration::from_nanos(u64::MAX));
    let real = MonotonicClock::new();
    assert!(real.now() <= real.now());
}

#[test]
fn a_reading_without_a_limit_is_no_pressure() {
    let ratio = |used, limit| PressureReading { used, limit }.ratio();
    let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
    assert!(close(ratio(100, None), 0.0));
    assert!(close(ratio(50, Some(100)), 0.5));
    assert!(close(ratio(150, Some(100)), 1.5));
    assert!(close(ratio(0, Some(0)), 1.0));
}
