//! The races of a stream's hand-off, closing and giving back, under the model checker:
//! `RUSTFLAGS="--cfg nebula_loom" cargo test --release -p nebula-arena --test loom_streaming`
#![cfg(nebula_loom)]

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use loom::{future::block_on, model::Builder, thread};
use nebula_arena::{Batch, StreamingArena};
use nebula_memory_core::{PressureLevel, Reclaim};

fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// The checker sees the buffer's cell whenever it is lent, cleaned or emptied.
fn touch(batch: &Batch) {
    let one = batch.alloc(1_u64);
    *one += 1;
    assert_eq!(*one, 2);
}

/// Nothing is lent, nothing is lost, and all buffers can be lent.
fn assert_whole(stream: &StreamingArena) {
    let stats = stream.stats();
    assert_eq!((stats.in_flight, stats.waiting), (0, 0), "{stats}");
    let batches: Vec<_> = (0..stats.buffers).map(|_| stream.try_batch().unwrap()).collect();
    batches.iter().for_each(touch);
    assert!(stream.try_batch().is_err());
}

#[test]
fn who_waits_gets_the_buffer() {
    model(3, || {
        let stream = StreamingArena::new(1).unwrap();
        let other = {
            let stream = stream.clone();
            thread::spawn(move || touch(&stream.batch().unwrap()))
        };
        touch(&stream.batch().unwrap());
        other.join().unwrap();
        assert_eq!(stream.stats().batches, 2);
        assert_whole(&stream);
    });
}

#[test]
fn an_awaited_buffer_comes() {
    model(3, || {
        let stream = StreamingArena::new(1).unwrap();
        let other = {
            let stream = stream.clone();
            thread::spawn(move || {
                block_on(async { touch(&stream.batch_async().await.unwrap()) });
            })
        };
        touch(&stream.batch().unwrap());
        other.join().unwrap();
        assert_whole(&stream);
    });
}

#[test]
fn a_cancelled_wait_loses_no_buffer() {
    model(3, || {
        let stream = StreamingArena::new(1).unwrap();
        let first = stream.batch().unwrap();
        let other = {
            let stream = stream.clone();
            thread::spawn(move || {
                let mut waiting = pin!(stream.batch_async());
                match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(batch) => touch(&batch.unwrap()),
                    // Dropped, whether it was handed something by now or not.
                    Poll::Pending => {}
                }
            })
        };
        drop(first);
        other.join().unwrap();
        assert_whole(&stream);
    });
}

#[test]
fn a_cancelled_wait_hands_on() {
    model(2, || {
        let stream = StreamingArena::new(1).unwrap();
        let first = stream.batch().unwrap();
        let mut cancelled = Box::pin({
            let stream = stream.clone();
            async move { stream.batch_async().await.map(drop) }
        });
        let waiting = cancelled.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(waiting.is_pending());
        let other = {
            let stream = stream.clone();
            thread::spawn(move || touch(&stream.batch().unwrap()))
        };
        let canceller = thread::spawn(move || drop(cancelled));
        drop(first);
        other.join().unwrap();
        canceller.join().unwrap();
        assert_whole(&stream);
    });
}

#[test]
fn an_idle_buffer_that_is_emptied_can_be_lent() {
    model(3, || {
        let stream = StreamingArena::new(2).unwrap();
        touch(&stream.batch().unwrap());
        let other = {
            let stream = stream.clone();
            thread::spawn(move || stream.reclaim(usize::MAX, PressureLevel::High))
        };
        {
            let one = stream.try_batch().expect("two are idle");
            let two = stream.try_batch().expect("one is idle");
            touch(&one);
            touch(&two);
        }
        other.join().unwrap();
        assert_whole(&stream);
    });
}

#[test]
fn closing_lets_nobody_wait_and_keeps_nothing() {
    model(3, || {
        let stream = StreamingArena::new(1).unwrap();
        let first = stream.batch().unwrap();
        touch(&first);
        let waiter = {
            let stream = stream.clone();
            thread::spawn(move || stream.batch().map(|batch| touch(&batch)).is_ok())
        };
        let closer = {
            let stream = stream.clone();
            thread::spawn(move || stream.close())
        };
        drop(first);
        waiter.join().unwrap();
        closer.join().unwrap();
        let stats = stream.stats();
        assert_eq!((stats.in_flight, stats.idle_bytes, stats.lent_bytes), (0, 0, 0), "{stats}");
        assert!(stream.try_batch().is_err());
    });
}
