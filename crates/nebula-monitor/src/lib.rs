#![doc = include_str!("../README.md")]
#![cfg_attr(not(windows), forbid(unsafe_code))]

mod action;
mod alarm;
mod builder;
mod config;
mod event;
mod handle;
mod history;
mod limits;
mod machine;
mod monitor;
mod parse;
mod reconcile;
mod recording;
mod source;
mod status;
mod stream;
mod suspects;
mod trend;

pub use {
    action::PressureAction,
    builder::MonitorBuilder,
    config::{MonitoringConfig, MonitoringConfigBuilder},
    event::{ActionEffect, ActionReport, PressureEvent},
    handle::MonitorHandle,
    history::{History, Sample},
    limits::{LimitReport, Limits, limits},
    machine::{Cause, MonitorState, Observation, PressureMachine, Step, reclaim_target},
    monitor::MemoryMonitor,
    nebula_memory_core::{PressureLevel, PressureReading, PressureSource, Throttle},
    reconcile::Reconciliation,
    recording::Recording,
    source::{
        CgroupV1, CgroupV2, GroupEvents, ResidentMemory, SourceReport, SourceStatus, SystemMemory,
    },
    status::{MonitorStats, MonitorStatus},
    stream::PressureEvents,
    suspects::{Blame, Suspects},
};

#[cfg(feature = "sysinfo")]
pub use source::SysinfoMemory;
