//! How those who must not be touched by other threads are asked to give memory back.

use std::fmt;

use crate::{
    PressureLevel, Reclaim,
    sync::atomic::{AtomicUsize, Ordering},
};

/// A letter box between whoever wants memory back and an owner that only its own thread may touch:
/// a single-threaded arena, pool or cache.
///
/// The owner shares it by an `Arc`, registers it with a
/// [`ReclaimRegistry`](crate::ReclaimRegistry) like any other reclaimer, [publishes](Self::publish)
/// what it could give back, and looks inside ([`take`](Self::take)) where that costs little: on a
/// miss, on growth, at the end of a scope. So a request is answered late: [`Reclaim::reclaim`]
/// itself returns zero.
///
/// ```
/// use nebula_memory_core::{PressureLevel, Reclaim, TrimRequest};
///
/// let request = TrimRequest::new();
/// request.publish(4096);
/// // On another thread, when memory runs short:
/// assert_eq!((request.reclaimable(), request.reclaim(1000, PressureLevel::High)), (4096, 0));
/// // The owner, when it comes by:
/// assert_eq!(request.take(), 1000);
/// assert_eq!(request.take(), 0);
/// ```
pub struct TrimRequest {
    spare: AtomicUsize,
    wanted: AtomicUsize,
}

impl TrimRequest {
    /// Nothing to give, nothing asked for.
    #[must_use]
    pub fn new() -> Self {
        Self { spare: AtomicUsize::new(0), wanted: AtomicUsize::new(0) }
    }

    /// The owner says how many bytes it could give back. A plain store.
    #[inline]
    pub fn publish(&self, spare: usize) {
        self.spare.store(spare, Ordering::Relaxed);
    }

    /// The owner takes the request: the most bytes that anybody asked for since the last time, or
    /// zero. A plain load where nobody did.
    #[inline]
    #[must_use]
    pub fn take(&self) -> usize {
        match self.wanted.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.wanted.swap(0, Ordering::Relaxed),
        }
    }
}

impl Default for TrimRequest {
    fn default() -> Self {
        Self::new()
    }
}

impl Reclaim for TrimRequest {
    fn reclaimable(&self) -> usize {
        self.spare.load(Ordering::Relaxed)
    }

    /// Leaves the request in the box; nothing is given back yet.
    fn reclaim(&self, wanted: usize, _urgency: PressureLevel) -> usize {
        self.wanted.fetch_max(wanted, Ordering::Relaxed);
        0
    }
}

impl fmt::Debug for TrimRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrimRequest")
            .field("spare", &self.spare.load(Ordering::Relaxed))
            .field("wanted", &self.wanted.load(Ordering::Relaxed))
            .finish()
    }
}
