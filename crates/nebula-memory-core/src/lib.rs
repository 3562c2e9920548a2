#![doc = include_str!("../README.md")]

mod account;
mod accounted;
mod alloc;
mod bytes;
mod charge;
mod clock;
mod error;
#[cfg(feature = "fence")]
#[doc(hidden)]
pub mod fence;
pub mod layout;
#[doc(hidden)]
pub mod panics;
mod pressure;
mod reclaim;
mod refusal;
mod refused;
mod stats;
#[doc(hidden)]
pub mod sync;
mod trim_request;
mod usage;
mod wait;
mod wait_slot;

#[cfg(feature = "serde")]
pub use bytes::human_duration;
pub use {
    account::{Account, Unlimited},
    accounted::Accounted,
    alloc::{Allocator, Foreign, TypedAllocator},
    allocator_api2::{self, alloc::Global},
    bytes::ByteSize,
    charge::Charge,
    clock::{Clock, ManualClock, MonotonicClock},
    error::{
        Align, ConfigFault, ConfigFaults, Consumer, MemoryError, Refusal, RefusalDetails,
        SourceFault,
    },
    pressure::{PressureLevel, PressureReading, PressureSource, Throttle},
    reclaim::{Reclaim, ReclaimRegistry, ReclaimReport, Registration, is_reclaiming},
    refusal::last_refusal,
    refused::Refused,
    stats::{AllocatorStats, StatisticsProvider, StatsSnapshot, StripedCounter},
    trim_request::{TrimOrder, TrimRequest},
    usage::{AllocatorKind, MemoryUsage, Resettable, UsageCell},
    wait::{WaitQueue, Waiter},
    wait_slot::WaitSlot,
};
