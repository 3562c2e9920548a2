//! Streams of batches: who gets a buffer, what it keeps, what is reported and given back.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use nebula_arena::{
    Arena, ArenaBox, ArenaConfig, Batch, Family, Keep, SealedBatch, StreamingArena,
};
use nebula_memory_core::{
    Accounted, ByteSize, Global, MemoryError, MemoryUsage, PressureLevel, Reclaim, ReclaimRegistry,
};
use nebula_testing::{
    CountingAccount, CountingAllocator, DropCounter, DropProbe, FailingAllocator, Rng, catch,
    watchdog,
};
use static_assertions::{assert_impl_all, assert_not_impl_any};

type Local = Accounted<Global, std::rc::Rc<CountingAccount>>;

assert_impl_all!(StreamingArena: Send, Sync, Clone);
assert_impl_all!(Batch: Send);
assert_not_impl_any!(Batch: Sync);
assert_impl_all!(SealedBatch<Words>: Send, Sync);
assert_not_impl_any!(StreamingArena<Local>: Send, Sync);
assert_not_impl_any!(Batch<Local>: Send, Sync);
assert_not_impl_any!(SealedBatch<Words, Local>: Send);

struct Words;
impl Family for Words {
    type Of<'a> = &'a [&'a str];
}

fn config(chunk: usize) -> ArenaConfig {
    let builder = ArenaConfig::builder().chunk_size(ByteSize::new(chunk)).keep(Keep::All);
    builder.build().unwrap()
}

fn stream(buffers: usize, base: &CountingAllocator) -> StreamingArena<CountingAllocator> {
    StreamingArena::with_config_in(buffers, &config(256), base).unwrap()
}

/// Makes the batch take some chunks.
fn fill<A: nebula_memory_core::Allocator>(arena: &Arena<A>, blocks: usize) {
    for _ in 0..blocks {
        arena.alloc([7_u8; 100]);
    }
}

fn assert_send<T: Send>(value: T) -> T {
    value
}

struct Flag(AtomicBool);
impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn batches_retire_in_any_order_and_are_used_again() {
    let base = CountingAllocator::new();
    let stream = stream(3, &base);
    let mut rng = Rng::new(7);
    let mut flying: Vec<(Batch<_>, u8)> = vec![];
    for _ in 0..if cfg!(miri) { 50 } else { 1000 } {
        if flying.len() == 3 {
            assert!(matches!(
                stream.try_batch(),
                Err(MemoryError::PoolExhausted { in_use: 3, capacity: 3 })
            ));
            let at = rng.below(3);
            let (batch, tag) = flying.swap_remove(at);
            let filled = (batch.used(), batch.alloc_slice_fill(1, tag)[0]);
            assert_eq!(filled, (500, tag));
        } else {
            let batch = stream.try_batch().unwrap();
            assert_eq!(batch.used(), 0);
            let tag = rng.next_u64().to_le_bytes()[0];
            let bytes = batch.alloc_slice_fill(500, tag);
            assert!(bytes.iter().all(|&byte| byte == tag));
            flying.push((batch, tag));
        }
    }
    drop(flying);
    let stats = stream.stats();
    assert_eq!((stats.in_flight, stats.idle_bytes + stats.overhead), (0, base.live_bytes()));
    drop(stream);
    base.assert_clean();
}

#[test]
fn steady_batches_call_the_allocator_no_more() {
    let base = CountingAllocator::new();
    let stream = stream(2, &base);
    let work = || {
        let (one, two) = (stream.try_batch().unwrap(), stream.try_batch().unwrap());
        fill(&one, 100);
        two.alloc_slice_fill(5000, 1_u8);
        let sealed = one.build::<Words>(|arena| arena.alloc_slice_fill(3, "abc")).unwrap();
        drop(two);
        assert_eq!(sealed.with(|words| words.len()), 3);
    };
    // Buffers change places, so that both have to grow.
    for _ in 0..4 {
        work();
    }
    let before = (base.allocations(), base.deallocations());
    for _ in 0..100 {
        work();
    }
    assert_eq!((base.allocations(), base.deallocations()), before);
    assert_eq!(stream.stats().batches, 208);
    assert_eq!(stream.used(), base.live_bytes());
}

#[test]
fn what_is_kept_follows_the_configuration_and_the_cap() {
    let base = CountingAllocator::new();
    let kept = |config: &ArenaConfig, cap: Option<usize>| {
        let stream = StreamingArena::with_config_in(1, config, &base).unwrap();
        if let Some(cap) = cap {
            stream.set_keep(ByteSize::new(cap));
        }
        fill(&stream.try_batch().unwrap(), 100);
        stream.stats().idle_bytes
    };
    let with = |keep| ArenaConfig { keep, ..config(256) };
    let (all, last) = (kept(&with(Keep::All), None), kept(&with(Keep::Last), None));
    assert!(all > 10_000 && last < all && last > 2000, "{all} {last}");
    assert_eq!(kept(&with(Keep::Nothing), None), 0);
    let capped = kept(&with(Keep::All), Some(1000));
    assert!(capped > 0 && capped <= 1000, "{capped}");
    // By default, four of the largest chunks.
    let small = ArenaConfig { max_chunk_size: ByteSize::new(512), ..with(Keep::All) };
    let capped = kept(&small, None);
    assert!(capped > 1500 && capped <= 2048, "{capped}");
    base.assert_clean();
}

#[test]
fn invalid_numbers_and_refused_tables_are_errors() {
    assert_eq!(StreamingArena::new(0).unwrap_err().code(), "invalid_config");
    let bad = ArenaConfig { chunk_size: ByteSize::new(1), ..ArenaConfig::default() };
    assert_eq!(StreamingArena::with_config(1, &bad).unwrap_err().code(), "invalid_config");
    for n in 0..2 {
        let base = CountingAllocator::new();
        let failing = FailingAllocator::new(base.clone());
        failing.fail_at(n);
        let result = StreamingArena::with_config_in(3, &config(256), &failing);
        assert!(result.is_err());
        base.assert_clean();
    }
    let account = CountingAccount::with_limit(10);
    let charged = Accounted::new(Global, account.clone());
    assert!(StreamingArena::with_config_in(3, &config(256), &charged).is_err());
    account.assert_settled();
}

#[test]
fn refusal_at_every_chunk_leaves_the_stream_whole() {
    for n in 0.. {
        let base = CountingAllocator::new();
        let failing = FailingAllocator::new(base.clone());
        let stream = StreamingArena::with_config_in(1, &config(256), &failing).unwrap();
        failing.fail_at(n);
        let batch = stream.try_batch().unwrap();
        let made = (0..20).filter(|_| batch.try_alloc([0_u8; 100]).is_ok()).count();
        assert!(made >= 19);
        let sealed = match batch.build::<Words>(|arena| arena.alloc_slice_fill(1, "x")) {
            Ok(sealed) => Some(sealed),
            Err(refused) => {
                drop(refused.into_value());
                None
            }
        };
        drop(sealed);
        let tripped = failing.tripped();
        assert_eq!(stream.stats().in_flight, 0);
        assert_eq!(stream.used(), base.live_bytes());
        drop(stream);
        base.assert_clean();
        if !tripped {
            break;
        }
    }
}

#[test]
fn budgets_are_charged_for_all_of_it() {
    let account = CountingAccount::new();
    let charged = Accounted::new(Global, account.clone());
    let stream = StreamingArena::with_config_in(4, &config(256), &charged).unwrap();
    assert_eq!(account.balance(), stream.stats().overhead);
    let batch = stream.try_batch().unwrap();
    fill(&batch, 50);
    assert_eq!(account.balance(), stream.stats().overhead + batch.allocated_bytes());
    drop(batch);
    assert_eq!(account.balance(), stream.used());
    drop(stream);
    account.assert_settled();
}

#[test]
fn a_batch_is_handed_to_who_waits_longest() {
    watchdog(Duration::from_secs(60), || {
        let stream = StreamingArena::new(1).unwrap();
        let first = stream.batch().unwrap();
        let order = Mutex::new(vec![]);
        thread::scope(|s| {
            for i in 0..4 {
                let (handle, order) = (stream.clone(), &order);
                s.spawn(move || {
                    let batch = handle.batch().unwrap();
                    order.lock().unwrap().push(i);
                    drop(batch);
                });
                while stream.stats().waiting <= i {
                    thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
        let stats = stream.stats();
        assert_eq!((stats.batches, stats.waits, stats.refused), (5, 4, 0));
    });
}

#[test]
fn awaited_batches_are_cancellation_safe() {
    let stream = StreamingArena::new(1).unwrap();
    let first = stream.try_batch().unwrap();
    let flag = Arc::new(Flag(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&flag));
    let mut cx = Context::from_waker(&waker);
    let mut second = Box::pin(assert_send(stream.batch_async()));
    let mut third = pin!(stream.batch_async());
    assert!(second.as_mut().poll(&mut cx).is_pending());
    assert!(third.as_mut().poll(&mut cx).is_pending());
    drop(first);
    assert!(flag.0.load(SeqCst));
    // Served, and gone before it looked: the next one gets it.
    assert_eq!(stream.stats().in_flight, 1);
    drop(second);
    let Poll::Ready(Ok(batch)) = third.as_mut().poll(&mut cx) else { panic!("not handed on") };
    batch.alloc(1);
    // One that gives up before it is served leaves the line.
    let mut fourth = Box::pin(stream.batch_async());
    assert!(fourth.as_mut().poll(&mut cx).is_pending());
    drop(fourth);
    assert_eq!(stream.stats().waiting, 0);
    drop(batch);
    assert_eq!(stream.stats().in_flight, 0);
    assert!(stream.try_batch().is_ok());
}

#[test]
fn a_time_out_leaves_the_line() {
    let stream = StreamingArena::new(1).unwrap();
    let batch = stream.batch_timeout(Duration::ZERO).unwrap();
    let late = stream.batch_timeout(Duration::from_millis(5)).unwrap_err();
    assert!(matches!(late, MemoryError::Timeout { .. }));
    assert_eq!(stream.stats().waiting, 0);
    drop(batch);
    assert!(stream.batch_timeout(Duration::ZERO).is_ok());
}

#[test]
fn closing_ends_the_waiting_and_gives_memory_back() {
    watchdog(Duration::from_secs(60), || {
        let base = CountingAllocator::new();
        let stream = stream(3, &base);
        let batches: Vec<_> = (0..3).map(|_| stream.batch().unwrap()).collect();
        for batch in &batches {
            fill(batch, 30);
        }
        let mut batches = batches.into_iter();
        thread::scope(|s| {
            let waiter = s.spawn(|| stream.batch());
            while stream.stats().waiting == 0 {
                thread::yield_now();
            }
            stream.close();
            assert_eq!(waiter.join().unwrap().unwrap_err().code(), "closed");
        });
        drop(batches.next());
        assert_eq!(stream.stats().idle_bytes, 0);
        assert!(stream.is_closed());
        for outcome in [stream.try_batch(), stream.batch(), stream.batch_timeout(Duration::ZERO)] {
            assert_eq!(outcome.unwrap_err().code(), "closed");
        }
        let batch = batches.next().unwrap();
        fill(&batch, 30); // one in flight goes on
        drop((batch, batches));
        assert_eq!(base.live_bytes(), stream.stats().overhead);
        assert_eq!(stream.used(), base.live_bytes());
        stream.close();
        // Idle buffers, too.
        let other = self::stream(2, &base);
        let batches = [other.batch().unwrap(), other.batch().unwrap()];
        for batch in &batches {
            fill(batch, 9);
        }
        drop(batches);
        assert!(other.reclaimable() > 2000);
        other.close();
        assert_eq!(other.stats().idle_bytes, 0);
        drop((stream, other));
        base.assert_clean();
    });
}

#[test]
fn idle_chunks_are_given_back_on_request_and_nothing_else() {
    let base = CountingAllocator::new();
    let stream = stream(3, &base);
    let batches: Vec<_> = (0..3).map(|_| stream.batch().unwrap()).collect();
    for batch in &batches {
        fill(batch, 30);
    }
    let mut batches = batches.into_iter();
    let busy = batches.next().unwrap();
    drop(batches);
    let (held, idle) = (base.live_bytes(), stream.reclaimable());
    assert_eq!(idle, held - busy.allocated_bytes() - stream.stats().overhead);
    // A part: what is given is what the allocator gets back.
    let given = stream.reclaim(1, PressureLevel::High);
    assert!(given >= 1 && given < idle / 2);
    assert_eq!(base.live_bytes(), held - given);
    assert_eq!(stream.reclaimable(), idle - given);
    // The rest, through a registry.
    let registry = ReclaimRegistry::new();
    let _registration = registry.register("stream", 0, Arc::downgrade(&stream.reclaimer()));
    let report = registry.reclaim(usize::MAX, PressureLevel::Critical);
    assert_eq!((report.given, report.asked), (idle - given, 1));
    assert_eq!(stream.reclaimable(), 0);
    assert_eq!(base.live_bytes(), busy.allocated_bytes() + stream.stats().overhead);
    // What was missing is given by the next that comes back; then buffers are kept again.
    drop(busy);
    assert_eq!(base.live_bytes(), stream.stats().overhead);
    fill(&stream.batch().unwrap(), 30);
    assert!(stream.reclaimable() > 0);
    drop(stream);
    assert_eq!(registry.len(), 0);
    base.assert_clean();
}

struct Owned;
impl Family for Owned {
    type Of<'a> = ArenaBox<'a, DropProbe>;
}

#[test]
fn a_sealed_batch_drops_its_root_and_retires() {
    let (base, drops) = (CountingAllocator::new(), DropCounter::new());
    let stream = stream(1, &base);
    let seal = |tag| {
        let batch = stream.try_batch().unwrap();
        batch.build::<Owned>(|arena| arena.alloc_boxed(drops.probe(tag))).unwrap()
    };
    // Dropped elsewhere.
    thread::spawn({
        let sealed = seal(1);
        move || drop(sealed)
    })
    .join()
    .unwrap();
    assert_eq!((drops.dropped(), stream.stats().in_flight), (vec![1], 0));
    // Frozen, and dropped by the last.
    let sealed = stream.try_batch().unwrap();
    let sealed = sealed.build::<Words>(|arena| arena.alloc_slice_fill(2, "ab")).unwrap().freeze();
    thread::scope(|s| {
        for _ in 0..3 {
            let sealed = sealed.clone();
            s.spawn(move || assert_eq!(sealed.with(|words| words.concat()), "abab"));
        }
    });
    assert_eq!(stream.stats().in_flight, 1);
    drop(sealed);
    assert_eq!(stream.stats().in_flight, 0);
    // Taken apart.
    let mut batch = seal(2).into_batch();
    drops.assert_all_dropped();
    batch.reset();
    assert_eq!(batch.used(), 0);
    drop(batch);
    // Failed and panicked building.
    let failed = stream.try_batch().unwrap().try_build::<Owned, MemoryError>(|arena| {
        drop(arena.alloc_boxed(drops.probe(3)));
        Err(MemoryError::Closed { what: "test" })
    });
    assert_eq!(failed.unwrap_err().code(), "closed");
    assert!(catch(|| stream.try_batch().unwrap().build::<Owned>(|_| panic!("here"))).is_err());
    assert_eq!(stream.stats().in_flight, 0);
    drops.assert_all_dropped();
    drop(stream);
    base.assert_clean();
}

#[test]
fn batches_outlive_the_handle() {
    let base = CountingAllocator::new();
    let batch = {
        let stream = stream(2, &base);
        stream.batch().unwrap()
    };
    fill(&batch, 10);
    let again = batch.stream();
    drop(batch);
    assert_eq!(again.stats().batches, 1);
    drop(again);
    base.assert_clean();
}

#[test]
fn scopes_and_resets_inside_of_a_batch() {
    let stream = StreamingArena::new(1).unwrap();
    let mut batch = stream.batch().unwrap();
    batch.scope(|scope| {
        scope.alloc([1_u8; 100]);
    });
    assert_eq!(batch.used(), 0);
    let mut scope = batch.as_scope();
    let kept = scope.alloc(1);
    scope.scope(|inner| *kept += *inner.alloc(2));
    assert_eq!(*kept, 3);
    batch.reset();
    assert_eq!(batch.used(), 0);
}

#[test]
fn the_configured_capacity_is_that_of_a_buffer() {
    let config = ArenaConfig { capacity: Some(ByteSize::new(1024)), ..config(256) };
    let stream = StreamingArena::with_config(3, &config).unwrap();
    assert_eq!(stream.capacity(), Some(3072));
    let batch = stream.batch().unwrap();
    assert!(batch.try_alloc([0_u8; 2000]).is_err());
}
