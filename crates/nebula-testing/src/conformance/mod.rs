//! Suites that every implementation of a trait has to pass.
//!
//! Each case runs on a fresh object, made by a closure; a failing case panics with what it
//! expected. That the suites can fail is tested with deliberately broken implementations.

mod account;
mod allocator;
mod containers;
mod model;
mod options;

pub use {
    account::{account_conformance, shared_account_conformance},
    allocator::{allocator_conformance, allocator_conformance_with, shared_allocator_conformance},
    options::{AllocatorOptions, Reuse},
};
