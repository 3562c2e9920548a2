//! Streams of batches, from many threads at once.

use std::{
    collections::VecDeque,
    future::Future,
    pin::pin,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use nebula_arena::{ArenaConfig, Family, Keep, SealedBatch, StreamingArena};
use nebula_memory_core::{ByteSize, MemoryUsage, PressureLevel, Reclaim};
use nebula_testing::{CountingAllocator, Rng, watchdog};

struct Words;
impl Family for Words {
    type Of<'a> = &'a [&'a str];
}

fn stream(buffers: usize, base: &CountingAllocator) -> StreamingArena<CountingAllocator> {
    let config = ArenaConfig::builder().chunk_size(ByteSize::new(256)).keep(Keep::All);
    StreamingArena::with_config_in(buffers, &config.build().unwrap(), base).unwrap()
}

#[test]
fn giving_back_makes_no_false_exhaustion() {
    watchdog(Duration::from_secs(120), || {
        let base = CountingAllocator::new();
        let stream = stream(2, &base);
        let (start, stop) = (Barrier::new(2), AtomicBool::new(false));
        thread::scope(|s| {
            s.spawn(|| {
                start.wait();
                while !stop.load(SeqCst) {
                    // Little at a time: what is missing is asked of the buffers in use.
                    stream.reclaim(1, PressureLevel::High);
                    if cfg!(miri) {
                        thread::yield_now();
                    }
                }
            });
            start.wait();
            // One batch at a time, of two buffers: never exhausted.
            for _ in 0..if cfg!(miri) { 20 } else { 2000 } {
                let batch = stream.try_batch().expect("one is idle");
                for _ in 0..20 {
                    batch.alloc([7_u8; 100]);
                }
            }
            stop.store(true, SeqCst);
        });
        assert_eq!(stream.used(), base.live_bytes());
        drop(stream);
        base.assert_clean();
    });
}

/// Producers fill and seal, consumers check and drop, a third party wants memory back, some waits
/// time out, some are cancelled.
#[test]
fn producers_consumers_and_pressure() {
    watchdog(Duration::from_secs(240), || {
        let base = CountingAllocator::new();
        let rounds = if cfg!(miri) { 20 } else { 1500 };
        let (buffers, producers) = (3, 3);
        let stream = stream(buffers, &base);
        let (sender, receiver) = mpsc::channel::<(usize, SealedBatch<Words, CountingAllocator>)>();
        let receiver = Mutex::new(receiver);
        let (start, stop) = (Barrier::new(producers), AtomicBool::new(false));
        let received = AtomicUsize::new(0);
        thread::scope(|s| {
            for id in 0..producers as u64 {
                let (sender, stream, start) = (sender.clone(), stream.clone(), &start);
                s.spawn(move || {
                    let mut rng = Rng::new(id);
                    start.wait();
                    for _ in 0..rounds {
                        let batch = match rng.below(4) {
                            0 => stream.batch(),
                            1 => stream
                                .batch_timeout(Duration::from_micros(1))
                                .or_else(|_| stream.batch()),
                            2 => block_on(stream.batch_async()),
                            _ => {
                                let waker = Waker::noop();
                                let mut cancelled = Box::pin(stream.batch_async());
                                match cancelled.as_mut().poll(&mut Context::from_waker(waker)) {
                                    Poll::Ready(batch) => batch,
                                    Poll::Pending => {
                                        drop(cancelled);
                                        stream.batch()
                                    }
                                }
                            }
                        };
                        let n = rng.below(200);
                        let sealed = batch.unwrap().build::<Words>(|arena| {
                            arena
                                .alloc_slice_with(n, |i| &*arena.alloc_fmt(format_args!("{n}:{i}")))
                        });
                        sender.send((n, sealed.unwrap())).unwrap();
                    }
                });
            }
            drop(sender);
            for _ in 0..2 {
                s.spawn(|| {
                    let mut late = VecDeque::new();
                    loop {
                        let next = receiver.lock().unwrap().recv();
                        let Ok((n, sealed)) = next else { break };
                        sealed.with(|words| {
                            assert_eq!(words.len(), n);
                            for (i, word) in words.iter().enumerate() {
                                assert_eq!(*word, format!("{n}:{i}"));
                            }
                        });
                        late.push_back(sealed);
                        if received.fetch_add(1, SeqCst) + 1 == producers * rounds {
                            stop.store(true, SeqCst);
                        }
                        // One is held back, so that they retire out of order.
                        if late.len() == 2 || n % 3 == 0 {
                            late.clear();
                        }
                    }
                });
            }
            s.spawn(|| {
                while !stop.load(SeqCst) {
                    stream.reclaim(1000, PressureLevel::High);
                    thread::yield_now();
                }
            });
        });
        let stats = stream.stats();
        assert_eq!((stats.in_flight, stats.waiting), (0, 0), "{stats}");
        assert_eq!(stats.batches, (producers * rounds) as u64, "{stats}");
        assert_eq!(stream.used(), base.live_bytes());
        drop(stream);
        base.assert_clean();
    });
}

fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}
