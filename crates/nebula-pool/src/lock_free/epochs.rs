//! When storage that was retired may be freed: when all who were looking through the pool then have
//! gone.
//!
//! Every pool has epochs (crossbeam-epoch) of its own. So nobody else's code runs when storage is
//! freed, and nobody who is pinned elsewhere holds it up. Whoever is pinned takes part for that time
//! only, which is not done on the way of gets and returns that find things as usual. The epochs only
//! say when; it is the pool that frees.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crossbeam_epoch::{Collector, Guard};

/// The epochs of one pool. (They are no part of what the model checker looks at.)
pub(super) struct Epochs {
    collector: Collector,
    /// For each part, whether its retired storage can be freed.
    over: Arc<[AtomicBool]>,
}

/// How many things one round of collecting gets done at least.
const AT_ONCE: usize = 8;

/// Rounds in passing: an epoch ends after two steps, and one more for what was under way.
pub(super) const A_FEW: usize = 3;

/// Rounds for who wants to see storage freed: whoever took part has left something behind, all of which
/// comes first.
pub(super) const MANY: usize = 2048;

impl Epochs {
    pub(super) fn new(parts: usize) -> Self {
        let over = (0..parts).map(|_| AtomicBool::new(false)).collect();
        Self { collector: Collector::new(), over }
    }

    /// While this lives, storage that is retired is not freed.
    pub(super) fn pin(&self) -> Guard {
        self.collector.register().pin()
    }

    /// Lets a part know when all who are pinned now have gone.
    pub(super) fn when_over(&self, part: usize, pinned: &Guard) {
        let over = Arc::clone(&self.over);
        pinned.defer(move || over[part].store(true, Ordering::Release));
    }

    /// Whether they have; asked once.
    pub(super) fn is_over(&self, part: usize) -> bool {
        self.over[part].load(Ordering::Relaxed) && self.over[part].swap(false, Ordering::Acquire)
    }

    /// Goes on to later epochs, as far as that is possible in so many rounds, so that `parts` parts get
    /// to know.
    pub(super) fn advance(&self, parts: usize, rounds: usize) {
        let handle = self.collector.register();
        for _ in 0..rounds + parts / AT_ONCE {
            if self.over.iter().filter(|over| over.load(Ordering::Relaxed)).count() >= parts {
                break;
            }
            handle.pin().flush();
        }
    }
}
