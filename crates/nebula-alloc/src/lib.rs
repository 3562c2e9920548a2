#![doc = include_str!("../README.md")]

mod bump;
mod bumping;
mod config;
mod configured;
mod manager;
mod mode;
mod poison;
mod report;
mod system;
mod tracked;

pub use {
    bump::BumpAllocator,
    config::{AllocatorChoice, AllocatorConfig, AllocatorConfigBuilder},
    configured::ConfiguredAllocator,
    manager::AllocatorManager,
    mode::{Exclusive, Mode, Shared},
    report::{AllocatorReport, AllocatorTotal},
    system::SystemAllocator,
    tracked::Tracked,
};
