//! How those who must not be touched by other threads are asked to give memory back.

use std::fmt;

use crate::{
    PressureLevel, Reclaim,
    sync::atomic::{AtomicU8, AtomicUsize, Ordering},
};

/// What somebody asked for through a [`TrimRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrimOrder {
    /// The most bytes that anybody asked for.
    pub bytes: usize,
    /// The highest level at which anybody asked.
    pub urgency: PressureLevel,
}

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
/// assert_eq!(request.take().map(|order| order.bytes), Some(1000));
/// assert_eq!(request.take(), None);
/// ```
pub struct TrimRequest {
    spare: AtomicUsize,
    wanted: AtomicUsize,
    urgency: AtomicU8,
}

impl TrimRequest {
    /// Nothing to give, nothing asked for.
    #[must_use]
    pub fn new() -> Self {
        Self {
            spare: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
            urgency: AtomicU8::new(PressureLevel::Normal as u8),
        }
    }

    /// The owner says how many bytes it could give back. A plain store.
    #[inline]
    pub fn publish(&self, spare: usize) {
        self.spare.store(spare, Ordering::Relaxed);
    }

    /// Whether somebody asks. A plain load.
    #[inline]
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) != 0
    }

    /// The owner takes what was asked for since the last time. A plain load where nothing was.
    #[inline]
    #[must_use]
    pub fn take(&self) -> Option<TrimOrder> {
        if self.is_waiting() { self.take_waiting() } else { None }
    }

    #[cold]
    fn take_waiting(&self) -> Option<TrimOrder> {
        let bytes = self.wanted.swap(0, Ordering::Acquire);
        let urgency = self.urgency.swap(PressureLevel::Normal as u8, Ordering::Relaxed);
        let urgency = [PressureLevel::Elevated, PressureLevel::High, PressureLevel::Critical]
            .into_iter()
            .find(|level| *level as u8 == urgency)
            .unwrap_or(PressureLevel::Normal);
        (bytes != 0).then_some(TrimOrder { bytes, urgency })
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
    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        self.urgency.fetch_max(urgency as u8, Ordering::Relaxed);
        self.wanted.fetch_max(wanted, Ordering::Release);
        0
    }
}

impl fmt::Debug for TrimRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrimRequest")
            .field("spare", &self.spare.load(Ordering::Relaxed))
            .field("wanted", &self.wanted.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}
