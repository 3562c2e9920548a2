//! The policy that is chosen at run time: one of all, by an enum.

use std::collections::TryReserveError;

use super::{
    Arc, Fifo, Lfu, Lru, Newcomer, Node, Nodes, S3Fifo, Sieve, Steady, WTinyLfu, drive,
    ghosts::Ring, history::Cell, sketch::Line,
};
use crate::PolicyKind;

/// Whichever policy the cache's configuration names, by
/// [`CacheConfig::policy`](crate::CacheConfig::policy).
///
/// Each call finds its policy by one `match`. Where the policy is known when the program is written,
/// name it as the cache's type parameter instead.
#[derive(Debug)]
pub struct AnyPolicy(Any);

#[derive(Debug)]
enum Any {
    Fifo(Fifo),
    Lru(Lru),
    Lfu(Lfu),
    Arc(Arc),
    S3Fifo(S3Fifo),
    Sieve(Sieve),
    Steady(Steady),
    WTinyLfu(WTinyLfu),
}

/// Memory of one of the policies.
#[derive(Debug)]
pub struct AnyMemory(Memory);

#[derive(Debug)]
enum Memory {
    None,
    Classes(Vec<u32>),
    History(Vec<Cell>),
    Ghosts(Vec<Ring>),
    Sketch(Vec<Line>),
}

/// The same expression for every policy.
macro_rules! each {
    ($any:expr, $policy:ident => $call:expr) => {
        match $any {
            Any::Fifo($policy) => $call,
            Any::Lru($policy) => $call,
            Any::Lfu($policy) => $call,
            Any::Arc($policy) => $call,
            Any::S3Fifo($policy) => $call,
            Any::Sieve($policy) => $call,
            Any::Steady($policy) => $call,
            Any::WTinyLfu($policy) => $call,
        }
    };
}

impl drive::Policy for AnyPolicy {
    type Memory = AnyMemory;

    fn new(kind: PolicyKind) -> Self {
        Self(match kind {
            PolicyKind::Fifo => Any::Fifo(Fifo::new(kind)),
            PolicyKind::Lru => Any::Lru(Lru::new(kind)),
            PolicyKind::Lfu => Any::Lfu(Lfu::new(kind)),
            PolicyKind::Arc => Any::Arc(Arc::new(kind)),
            PolicyKind::S3Fifo => Any::S3Fifo(S3Fifo::new(kind)),
            PolicyKind::Sieve => Any::Sieve(Sieve::new(kind)),
            PolicyKind::Steady => Any::Steady(Steady::new(kind)),
            PolicyKind::WTinyLfu => Any::WTinyLfu(WTinyLfu::new(kind)),
        })
    }

    fn fork(&self, leads: bool) -> Self {
        Self(match &self.0 {
            Any::Steady(policy) => Any::Steady(policy.fork(leads)),
            _ => return Self::new(self.kind()),
        })
    }

    fn leads(&self) -> bool {
        each!(&self.0, policy => policy.leads())
    }

    fn shared_bytes(&self) -> usize {
        each!(&self.0, policy => policy.shared_bytes())
    }

    fn kind(&self) -> PolicyKind {
        each!(&self.0, policy => policy.kind())
    }

    #[inline]
    fn shares_hits(&self) -> bool {
        each!(&self.0, policy => policy.shares_hits())
    }

    #[inline]
    fn touch<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        each!(&mut self.0, policy => policy.touch(nodes, token));
    }

    fn note(&self, node: &Node, hash: u32) {
        each!(&self.0, policy => policy.note(node, hash));
    }

    #[inline]
    fn admit(&mut self, hash: u32) -> Newcomer {
        each!(&mut self.0, policy => policy.admit(hash))
    }

    #[inline]
    fn evict<N: Nodes>(&mut self, nodes: &mut N, newcomer: Option<&Newcomer>) -> Option<u32> {
        each!(&mut self.0, policy => policy.evict(nodes, newcomer))
    }

    #[inline]
    fn exchange<N: Nodes>(
        &mut self,
        nodes: &mut N,
        newcomer: Newcomer,
    ) -> Option<(u32, Option<Node>)> {
        each!(&mut self.0, policy => policy.exchange(nodes, newcomer))
    }

    #[inline]
    fn insert<N: Nodes>(&mut self, nodes: &mut N, token: u32, newcomer: Newcomer) {
        each!(&mut self.0, policy => policy.insert(nodes, token, newcomer));
    }

    #[inline]
    fn remove<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        each!(&mut self.0, policy => policy.remove(nodes, token));
    }

    #[inline]
    fn restore<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
        each!(&mut self.0, policy => policy.restore(nodes, token));
    }

    #[inline]
    fn reweigh<N: Nodes>(&mut self, nodes: &N, token: u32, old: usize) {
        each!(&mut self.0, policy => policy.reweigh(nodes, token, old));
    }

    #[inline]
    fn relocate<N: Nodes>(&mut self, nodes: &mut N, from: u32, to: u32) {
        each!(&mut self.0, policy => policy.relocate(nodes, from, to));
    }

    fn wanted(&self, slots: usize) -> usize {
        each!(&self.0, policy => policy.wanted(slots))
    }

    fn allocate(&self, bytes: usize) -> Result<AnyMemory, TryReserveError> {
        Ok(AnyMemory(match &self.0 {
            Any::Fifo(_) | Any::Lru(_) | Any::Sieve(_) => Memory::None,
            Any::Lfu(policy) => Memory::Classes(policy.allocate(bytes)?),
            Any::Arc(policy) => Memory::History(policy.allocate(bytes)?),
            Any::S3Fifo(policy) => Memory::Ghosts(policy.allocate(bytes)?),
            Any::Steady(policy) => Memory::Ghosts(policy.allocate(bytes)?),
            Any::WTinyLfu(policy) => Memory::Sketch(policy.allocate(bytes)?),
        }))
    }

    fn adopt(&mut self, memory: AnyMemory) -> AnyMemory {
        AnyMemory(match (&mut self.0, memory.0) {
            (Any::Lfu(policy), Memory::Classes(memory)) => Memory::Classes(policy.adopt(memory)),
            (Any::Arc(policy), Memory::History(memory)) => Memory::History(policy.adopt(memory)),
            (Any::S3Fifo(policy), Memory::Ghosts(memory)) => Memory::Ghosts(policy.adopt(memory)),
            (Any::Steady(policy), Memory::Ghosts(memory)) => Memory::Ghosts(policy.adopt(memory)),
            (Any::WTinyLfu(policy), Memory::Sketch(memory)) => Memory::Sketch(policy.adopt(memory)),
            // Another policy's, or nobody's: of no use.
            (_, memory) => memory,
        })
    }

    fn bytes_of(AnyMemory(memory): &AnyMemory) -> usize {
        match memory {
            Memory::None => 0,
            Memory::Classes(memory) => Lfu::bytes_of(memory),
            Memory::History(memory) => Arc::bytes_of(memory),
            Memory::Ghosts(memory) => Steady::bytes_of(memory),
            Memory::Sketch(memory) => WTinyLfu::bytes_of(memory),
        }
    }

    fn bytes(&self) -> usize {
        each!(&self.0, policy => policy.bytes())
    }

    fn coldest_first<N: Nodes>(&self, nodes: &N, mut each: impl FnMut(u32)) {
        each!(&self.0, policy => policy.coldest_first(nodes, &mut each));
    }

    fn validate<N: Nodes>(&self, nodes: &N, len: usize, weight: usize) -> Result<(), String> {
        each!(&self.0, policy => policy.validate(nodes, len, weight))
    }
}
