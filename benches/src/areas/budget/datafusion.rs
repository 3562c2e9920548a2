//! DataFusion's memory pools: one pool, a consumer with a reservation for each leaf.

use std::{marker::PhantomData, num::NonZeroUsize, sync::Arc};

use datafusion_execution::memory_pool::{
    FairSpillPool, GreedyMemoryPool, MemoryConsumer, MemoryPool, MemoryReservation,
    TrackConsumersPool,
};

use super::{BYTES, Books, CAPACITY, Parent, Shape, State, Work, contender, create, maker};
use crate::{Contender, Maker};

/// A kind of pool.
trait Kind: Send + Sync + 'static {
    const NAME: &'static str;
    fn pool() -> Arc<dyn MemoryPool>;
}

/// First come, first served.
struct Greedy;

impl Kind for Greedy {
    const NAME: &'static str = "DataFusion Greedy";

    fn pool() -> Arc<dyn MemoryPool> {
        Arc::new(GreedyMemoryPool::new(CAPACITY))
    }
}

/// An equal share for everyone who can spill.
struct Fair;

impl Kind for Fair {
    const NAME: &'static str = "DataFusion FairSpill";

    fn pool() -> Arc<dyn MemoryPool> {
        Arc::new(FairSpillPool::new(CAPACITY))
    }
}

/// Knows its largest consumers, as ours does.
struct Tracked;

impl Kind for Tracked {
    const NAME: &'static str = "DataFusion TrackConsumers";

    fn pool() -> Arc<dyn MemoryPool> {
        let top = NonZeroUsize::new(5).expect("five is not zero");
        Arc::new(TrackConsumersPool::new(GreedyMemoryPool::new(CAPACITY), top))
    }
}

/// A reservation of a pool of kind `K`. Its methods take `&self`, so that threads may share it.
struct Reserved<K> {
    reservation: Arc<MemoryReservation>,
    kind: PhantomData<K>,
}

impl<K: Kind> Books for Reserved<K> {
    const NAME: &'static str = K::NAME;

    fn open(shape: Shape) -> Vec<Self> {
        let pool = K::pool();
        let reservation = |i| Arc::new(Pool::<K>::in_use(&pool, &format!("leaf {i}")));
        let leaves: Vec<_> = (0..shape.leaves).map(reservation).collect();
        let books = |leaf| Self { reservation: Arc::clone(leaf), kind: PhantomData };
        leaves.iter().cycle().take(shape.threads).map(books).collect()
    }

    #[inline(always)]
    fn charge(&mut self, bytes: usize) {
        self.reservation.try_grow(bytes).expect("far from the limit");
    }

    #[inline(always)]
    fn credit(&mut self, bytes: usize) {
        self.reservation.shrink(bytes);
    }
}

/// A pool of kind `K` and its consumers, each with an empty reservation.
struct Pool<K>(PhantomData<K>);

impl<K: Kind> Parent for Pool<K> {
    const NAME: &'static str = K::NAME;
    type Root = Arc<dyn MemoryPool>;
    type Child = MemoryReservation;
    type InUse = MemoryReservation;

    fn root() -> Self::Root {
        K::pool()
    }

    fn child(root: &Self::Root, name: &str) -> MemoryReservation {
        // The fair pool shares among those that can spill; the others don't ask.
        MemoryConsumer::new(name).with_can_spill(true).register(root)
    }

    fn in_use(root: &Self::Root, name: &str) -> MemoryReservation {
        let reservation = Self::child(root, name);
        reservation.try_grow(BYTES).expect("far from the limit");
        reservation
    }
}

pub(super) fn contenders<W: Work>(shape: Shape) -> [Contender; 3] {
    [
        contender::<W, Reserved<Greedy>>(shape),
        contender::<W, Reserved<Fair>>(shape),
        contender::<W, Reserved<Tracked>>(shape),
    ]
}

pub(super) fn creators() -> [Contender; 3] {
    [create::<Pool<Greedy>>(), create::<Pool<Fair>>(), create::<Pool<Tracked>>()]
}

pub(super) fn makers(state: State, count: usize) -> [Maker; 3] {
    [
        maker::<Pool<Greedy>>(state, count),
        maker::<Pool<Fair>>(state, count),
        maker::<Pool<Tracked>>(state, count),
    ]
}
