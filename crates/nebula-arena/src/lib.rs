#![doc = include_str!("../README.md")]

mod allocator;
mod arena;
mod asan;
mod batch;
mod bins;
mod boxed;
mod bump;
mod bumping;
mod chunk;
mod config;
mod counted;
mod cross_build;
mod cross_thread;
#[cfg(feature = "serde")]
mod de;
mod direction;
mod family;
mod frozen;
mod lent;
mod local;
mod local_chunks;
mod making;
mod methods;
mod movable;
mod owner;
mod pieces;
mod ring;
mod scope;
mod seat;
mod spares;
mod store;
mod stream_stats;
mod streaming;
mod string;
mod thread_handle;
mod thread_index;
mod thread_safe;
mod thread_typed;
mod typed;
mod typed_into_iter;
mod typed_methods;
mod typed_store;
mod typed_values;
mod typed_view;
mod usage;
#[cfg(feature = "serde")]
mod value;
mod vec;

pub use {
    arena::Arena,
    batch::{Batch, SealedBatch},
    bins::StoreStats,
    boxed::ArenaBox,
    config::{ArenaConfig, ArenaConfigBuilder, Growth, Keep},
    cross_thread::CrossThreadArena,
    direction::{Direction, Down, Up},
    family::{CovariantFamily, Family},
    frozen::FrozenArena,
    local::LocalArena,
    local_chunks::LocalChunks,
    movable::MovableAccount,
    owner::{ArenaOwner, BoxedArena},
    scope::{Checkpoint, Scope, ScopeGuard},
    store::ChunkStore,
    stream_stats::StreamStats,
    streaming::StreamingArena,
    string::ArenaString,
    thread_handle::ArenaHandle,
    thread_safe::ThreadSafeArena,
    thread_typed::ThreadSafeTypedArena,
    typed::TypedArena,
    typed_into_iter::TypedIntoIter,
    typed_view::{TypedIter, TypedIterMut, TypedView},
    usage::ArenaUsage,
    vec::ArenaVec,
};
#[cfg(feature = "serde")]
pub use {
    de::{ArenaSeed, DeserializeIn, Entries},
    value::ArenaValue,
};

#[cfg(doctest)]
#[doc = include_str!("must_not_compile.md")]
struct MustNotCompile;
