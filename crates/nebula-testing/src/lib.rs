#![doc = include_str!("../README.md")]

mod account;
mod alloc;
pub mod conformance;
mod owned;
mod probe;
mod rng;
mod watchdog;

pub use {
    account::{CountingAccount, RefusingAccount},
    alloc::{CountingAllocator, FailingAllocator, OverReturning},
    owned::OwnedAllocator,
    probe::{ClonePanics, DropCounter, DropPanics, DropProbe, InjectedPanic, PanicOn, catch},
    rng::Rng,
    watchdog::watchdog,
};
