//! The races of a frozen arena's handles, under the model checker:
//! `RUSTFLAGS="--cfg nebula_loom" cargo test --release -p nebula-arena --test loom_frozen`
#![cfg(nebula_loom)]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use loom::{cell::UnsafeCell, model::Builder, thread};
use nebula_arena::{CrossThreadArena, Family, FrozenArena};

/// Its reads and its drop are seen by the checker, which fails if they are not ordered.
struct Watched {
    uses: UnsafeCell<usize>,
    drops: Arc<AtomicUsize>,
}

// SAFETY: that uses are ordered is what loom checks.
unsafe impl Send for Watched {}
// SAFETY: as above.
unsafe impl Sync for Watched {}

impl Watched {
    fn look(&self) {
        // SAFETY: as above.
        self.uses.with(|uses| assert_eq!(unsafe { *uses }, 0));
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // SAFETY: as above.
        self.uses.with_mut(|uses| unsafe { *uses += 1 });
        self.drops.fetch_add(1, Relaxed);
    }
}

struct Root;
impl Family for Root {
    type Of<'a> = Watched;
}

fn frozen() -> (FrozenArena<Root>, Arc<AtomicUsize>) {
    let drops = Arc::new(AtomicUsize::new(0));
    let of_root = Arc::clone(&drops);
    let built =
        CrossThreadArena::<Root>::build(|_| Watched { uses: UnsafeCell::new(0), drops: of_root });
    (built.freeze(), drops)
}

fn model(body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(body);
}

#[test]
fn the_root_is_dropped_once_after_all_reads() {
    model(|| {
        let (frozen, drops) = frozen();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let handle = frozen.clone();
                thread::spawn(move || handle.with(Watched::look))
            })
            .collect();
        frozen.with(Watched::look);
        drop(frozen);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(drops.load(Relaxed), 1);
    });
}

#[test]
fn one_of_those_who_give_up_gets_the_value() {
    model(|| {
        let (frozen, drops) = frozen();
        let handle = frozen.clone();
        let other = thread::spawn(move || {
            handle.with(Watched::look);
            handle.into_inner().map(|mut whole| whole.with_mut(|_, root| root.look())).is_some()
        });
        frozen.with(Watched::look);
        let mine = frozen.into_inner().is_some();
        let theirs = other.join().unwrap();
        assert!(mine != theirs);
        assert_eq!(drops.load(Relaxed), 1);
    });
}

#[test]
fn unfreezing_waits_for_no_one_and_excludes_all() {
    model(|| {
        let (frozen, drops) = frozen();
        let handle = frozen.clone();
        let other = thread::spawn(move || handle.with(Watched::look));
        match frozen.try_unfreeze() {
            // The checker knows that this write comes after the other's read.
            Ok(mut whole) => whole.with_mut(|_, root| {
                // SAFETY: exclusive, which is what loom checks.
                root.uses.with_mut(|uses| unsafe { *uses = 0 });
            }),
            Err(frozen) => frozen.with(Watched::look),
        }
        other.join().unwrap();
        assert_eq!(drops.load(Relaxed), 1);
    });
}
