#![doc = include_str!("../README.md")]

mod allocator;
mod arena;
mod asan;
mod bumping;
mod chunk;
mod config;
mod values;

pub use {
    arena::{Arena, Keep},
    config::{ArenaConfig, ArenaConfigBuilder, Growth},
};
