#![doc = include_str!("../README.md")]

mod allocator;
mod arena;
mod asan;
mod boxed;
mod bump;
mod bumping;
mod chunk;
mod config;
mod direction;
mod making;
mod methods;
mod scope;
mod string;
mod usage;
mod vec;

pub use {
    arena::Arena,
    boxed::ArenaBox,
    config::{ArenaConfig, ArenaConfigBuilder, Growth, Keep},
    direction::{Direction, Down, Up},
    scope::{Checkpoint, Scope, ScopeGuard},
    string::ArenaString,
    usage::ArenaUsage,
    vec::ArenaVec,
};
