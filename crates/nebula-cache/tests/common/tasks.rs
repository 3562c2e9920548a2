//! Futures driven by hand, or by the smallest of executors.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

/// Counts how often it is woken.
#[derive(Debug, Default)]
pub(crate) struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Bell {
    pub(crate) fn rings(&self) -> usize {
        self.0.load(SeqCst)
    }
}

/// A future with a bell of its own.
pub(crate) struct Task<'f, T> {
    future: Pin<Box<dyn Future<Output = T> + 'f>>,
    pub(crate) bell: Arc<Bell>,
}

impl<'f, T> Task<'f, T> {
    pub(crate) fn new(future: impl Future<Output = T> + 'f) -> Self {
        Self { future: Box::pin(future), bell: Arc::default() }
    }

    pub(crate) fn poll(&mut self) -> Poll<T> {
        let waker = Waker::from(Arc::clone(&self.bell));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    /// Polls a future that is not ready.
    #[track_caller]
    pub(crate) fn poll_pending(&mut self) {
        assert!(self.poll().is_pending(), "it is ready");
    }

    /// Polls a future that is ready.
    #[track_caller]
    pub(crate) fn poll_ready(&mut self) -> T {
        match self.poll() {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("it is not ready"),
        }
    }

    /// Polls whenever the bell has rung until the future is ready: what woke it may have gone to
    /// another by the time it looks, and then it waits again.
    pub(crate) fn poll_until_ready(&mut self) -> T {
        loop {
            let rings = self.rings();
            if let Poll::Ready(output) = self.poll() {
                return output;
            }
            while self.rings() == rings {
                thread::yield_now();
            }
        }
    }

    pub(crate) fn rings(&self) -> usize {
        self.bell.rings()
    }
}

/// Pending so many times, waking at once.
pub(crate) struct Yields(pub(crate) usize);

impl Future for Yields {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.0.checked_sub(1) {
            None => Poll::Ready(()),
            Some(left) => {
                self.0 = left;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

/// Polls until ready, parking in between.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
