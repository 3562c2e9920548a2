//! One tenant's workflow: read, summarise, merge; and what a rogue one does.

use std::{fs::File, io::Read, path::Path, sync::Arc, time::Duration};

use hashbrown::{DefaultHashBuilder, HashMap};
use nebula_memory::{
    Tenant,
    arena::{Arena, ArenaConfig},
    cache::{
        AnyPolicy, ComputeError, ConcurrentComputeCache, TimedAndIdle, Untagged, Weighed, With,
    },
    core::{
        Account, Accounted, Global, MemoryError,
        allocator_api2::{boxed::Box as ABox, vec::Vec as AVec},
        last_refusal,
    },
    pool::ThreadSafePool,
};

use crate::text::{Checksum, ContentKey, Summary};

/// The heap, charged to an account: a tenant's budget, or, without budgets, nothing.
pub(crate) type Heap<A> = Accounted<Global, A>;

/// Summaries of texts by what they say; the weigher tells what a summary holds on the heap.
pub(crate) type Summaries<A> = ConcurrentComputeCache<
    ContentKey,
    Arc<Summary>,
    With<AnyPolicy, Weighed, TimedAndIdle, Untagged, A>,
>;

/// What all tenants share.
pub(crate) struct Shared<A: Account> {
    pub(crate) buffers: Arc<ThreadSafePool<Vec<u8>, A>>,
    pub(crate) summaries: Arc<Summaries<A>>,
    /// Keeps the shared budget until the last tenant is gone.
    pub(crate) _budget: Option<Tenant>,
}

/// The heap memory behind a cached summary.
pub(crate) fn weigh(_key: &ContentKey, summary: &Arc<Summary>) -> usize {
    // The counts that an `Arc` keeps beside its value are two words.
    2 * size_of::<usize>() + summary.size()
}

/// Why a step of a workflow failed.
pub(crate) enum StepError {
    /// This file cannot be worked on; others can.
    File(String),
    /// The tenant is out of memory.
    Memory(MemoryError),
}

impl From<MemoryError> for StepError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

/// How often a word occurs, and in how many files.
#[derive(Clone, Copy, Default, Hash)]
struct Posting {
    count: u64,
    files: u32,
}

/// Bytes charged to a tenant.
type Bytes<A> = AVec<u8, Heap<A>>;

/// From words to their postings, charged to a tenant.
type Postings<A> = HashMap<ABox<[u8], Heap<A>>, Posting, DefaultHashBuilder, Heap<A>>;

/// A search index; its table and its words are charged to the tenant.
struct Index<A: Account + Clone> {
    words: Postings<A>,
    heap: Heap<A>,
}

impl<A: Account + Clone> Index<A> {
    fn new(heap: Heap<A>) -> Self {
        let words = HashMap::with_hasher_in(DefaultHashBuilder::default(), heap.clone());
        Self { words, heap }
    }

    fn merge(&mut self, summary: &Summary) -> Result<(), MemoryError> {
        for (word, count) in summary.words() {
            if let Some(posting) = self.words.get_mut(word.as_bytes()) {
                posting.count += u64::from(count);
                posting.files += 1;
                continue;
            }
            let key = copy(word.as_bytes(), &self.heap)?;
            let grown = self.words.try_reserve(1);
            grown.map_err(|_| refusal(self.heap.account()))?;
            self.words.insert(key.into_boxed_slice(), Posting { count: count.into(), files: 1 });
        }
        Ok(())
    }

    fn checksum(&self) -> Checksum {
        let mut checksum = Checksum::default();
        for (word, posting) in &self.words {
            checksum.add((&**word, posting));
        }
        checksum
    }
}

fn copy<A: Account + Clone>(bytes: &[u8], heap: &Heap<A>) -> Result<Bytes<A>, MemoryError> {
    let mut copy = AVec::new_in(heap.clone());
    copy.try_reserve_exact(bytes.len()).map_err(|_| refusal(heap.account()))?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

/// Why a collection that is charged to `account` could not grow.
pub(crate) fn refusal(account: &impl Account) -> MemoryError {
    let error = last_refusal().unwrap_or(MemoryError::Closed { what: "the allocator" });
    account.explain(error)
}

/// A tenant's workflow between two steps.
pub(crate) struct Workflow<A: Account + Clone> {
    arena: Arena<Heap<A>>,
    index: Index<A>,
    heap: Heap<A>,
    shared: Arc<Shared<A>>,
    pub(crate) tokens: u64,
    /// What a rogue workflow has kept: every output, and the arena in which it was worked on.
    kept: Vec<(Bytes<A>, Arena<Heap<A>>)>,
    pub(crate) kept_bytes: usize,
}

impl<A: Account + Clone> Workflow<A> {
    pub(crate) fn new(
        account: A,
        arena: &ArenaConfig,
        shared: Arc<Shared<A>>,
    ) -> Result<Self, MemoryError> {
        let heap = Accounted::new(Global, account);
        Ok(Self {
            arena: Arena::with_config_in(arena.clone(), heap.clone())?,
            index: Index::new(heap.clone()),
            heap,
            shared,
            tokens: 0,
            kept: vec![],
            kept_bytes: 0,
        })
    }

    /// Reads a file, has it summarised if nobody did before, and merges the summary.
    pub(crate) fn index_file(&mut self, path: &Path) -> Result<(), StepError> {
        let mut buffer = self.shared.buffers.get_timeout(Duration::from_secs(60))?;
        File::open(path)
            .and_then(|mut file| file.read_to_end(&mut buffer))
            .map_err(|e| StepError::File(format!("cannot read {}: {e}", path.display())))?;
        let text = std::str::from_utf8(&buffer)
            .map_err(|e| StepError::File(format!("{} is not UTF-8 text: {e}", path.display())))?;
        let arena = &self.arena;
        let summary = self
            .shared
            .summaries
            .try_get_or_compute(&ContentKey::of(text), || Summary::of(text, arena).map(Arc::new));
        drop(buffer);
        let summary = summary.map_err(|e| match e {
            ComputeError::Compute(error) | ComputeError::Memory(error) => error,
            other => MemoryError::source_unavailable("the cache", other),
        })?;
        self.arena.reset();
        self.tokens += summary.tokens;
        self.index.merge(&summary)?;
        Ok(())
    }

    /// Takes the latest output as input again, and keeps it all.
    pub(crate) fn feed_back(&mut self) -> Result<(), StepError> {
        let input = match self.kept.last() {
            Some((output, _)) => &output[..],
            None => b"the workflow feeds its own output back into itself",
        };
        let arena = Arena::new_in(self.heap.clone());
        let text = std::str::from_utf8(input)
            .map_err(|e| StepError::File(format!("the output is not text: {e}")))?;
        let summary = Summary::of(text, &arena)?;
        self.tokens += summary.tokens;
        self.index.merge(&summary)?;
        let mut output = copy(input, &self.heap)?;
        for (i, (word, _)) in summary.words().enumerate() {
            let line = format!("\n{word}_{i}_{}", self.kept.len());
            output.try_reserve(line.len()).map_err(|_| refusal(self.heap.account()))?;
            output.extend_from_slice(line.as_bytes());
        }
        self.kept_bytes += output.capacity() + arena.allocated_bytes();
        self.kept.push((output, arena));
        Ok(())
    }

    pub(crate) fn checksum(&self) -> Checksum {
        let mut checksum = self.index.checksum();
        checksum.add(self.tokens);
        checksum
    }

    pub(crate) fn words(&self) -> usize {
        self.index.words.len()
    }
}
