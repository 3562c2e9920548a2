#![doc = include_str!("../README.md")]

mod bump;
mod bumping;
mod config;
mod configured;
mod cursor;
mod lifo;
mod manager;
mod mode;
mod placing;
mod poison;
mod pool;
mod region;
mod report;
mod stack;
mod stacking;
mod system;
mod tracked;

pub use {
    bump::{BumpAllocator, BumpCheckpoint, BumpScope},
    config::{AllocatorChoice, AllocatorConfig, AllocatorConfigBuilder},
    configured::ConfiguredAllocator,
    manager::AllocatorManager,
    mode::{Exclusive, Mode, Shared},
    pool::PoolAllocator,
    report::{AllocatorReport, AllocatorTotal},
    stack::{StackAllocator, StackFrame, StackMarker},
    system::{SystemAllocator, SystemOptions},
    tracked::Tracked,
};
