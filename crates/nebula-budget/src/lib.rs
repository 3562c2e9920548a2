#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod account;
mod arbitration;
mod budget;
mod config;
mod node;
mod snapshot;
mod state;

pub use {
    account::{BudgetAccount, BudgetAllocator, Reservation},
    budget::MemoryBudget,
    config::{BudgetConfig, BudgetConfigBuilder},
    nebula_memory_core::Account,
    snapshot::BudgetSnapshot,
    state::BudgetState,
};
