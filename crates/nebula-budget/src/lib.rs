#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod account;
mod arbitration;
mod budget;
mod config;
mod events;
mod explain;
mod funds;
mod limits;
mod line;
mod local;
mod node;
mod reclaiming;
mod reservation;
mod slack;
mod snapshot;
mod state;
mod transfer;
mod tree;
mod waiting;

pub use {
    account::{BudgetAccount, BudgetAllocator},
    budget::MemoryBudget,
    config::{BudgetConfig, BudgetConfigBuilder},
    events::{BudgetEvent, BudgetNotice, Watch},
    local::LocalBudget,
    nebula_memory_core::Account,
    reservation::Reservation,
    snapshot::{BudgetSnapshot, LeakReport},
    state::{BudgetState, Enforcement},
    waiting::{Grow, Reserve},
};
