#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod action;
mod builder;
mod config;
mod event;
mod handle;
mod limits;
mod machine;
mod monitor;
mod parse;
mod source;
mod status;

pub use {
    action::PressureAction,
    builder::MonitorBuilder,
    config::{MonitoringConfig, MonitoringConfigBuilder},
    event::{ActionEffect, ActionReport, PressureEvent},
    handle::MonitorHandle,
    limits::{LimitReport, Limits, limits},
    machine::{MonitorState, PressureMachine, Step, reclaim_target},
    monitor::MemoryMonitor,
    nebula_memory_core::{PressureLevel, PressureReading, PressureSource, Throttle},
    source::{CgroupV1, CgroupV2, SourceReport, SourceStatus, SystemMemory},
    status::{MonitorStats, MonitorStatus},
};

#[cfg(feature = "sysinfo")]
pub use source::SysinfoMemory;
