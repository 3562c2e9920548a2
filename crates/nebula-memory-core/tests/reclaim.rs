//! Who is asked to give memory back, in what order, and what cannot go wrong.

use std::{
    sync::{
        Arc, Barrier, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use nebula_memory_core::{
    Account, Align, MemoryError, PressureLevel, Reclaim, ReclaimRegistry, ReclaimReport,
    Registration, TrimRequest, is_reclaiming,
};
use nebula_testing::{InjectedPanic, watchdog};

const HIGH: PressureLevel = PressureLevel::High;

type Body = Box<dyn Fn(usize, PressureLevel) -> usize + Send + Sync>;

/// Gives what its closure says.
struct Giver(Body);

impl Giver {
    fn new(body: impl Fn(usize, PressureLevel) -> usize + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self(Box::new(body)))
    }
}

impl Reclaim for Giver {
    fn reclaimable(&self) -> usize {
        7
    }
    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        (self.0)(wanted, urgency)
    }
}

fn weak<R: Reclaim + 'static>(target: &Arc<R>) -> Weak<dyn Reclaim> {
    Arc::downgrade(target) as _
}

/// Registers a giver that writes its name down and gives `gives`.
fn named(
    registry: &ReclaimRegistry,
    log: &Arc<Mutex<Vec<String>>>,
    name: &str,
    priority: u8,
    gives: usize,
) -> (Arc<Giver>, Registration) {
    let (log, label) = (Arc::clone(log), name.to_owned());
    let giver = Giver::new(move |wanted, _| {
        log.lock().unwrap().push(format!("{label}:{wanted}"));
        gives
    });
    let registration = registry.register(name, priority, weak(&giver));
    (giver, registration)
}

fn take(log: &Mutex<Vec<String>>) -> Vec<String> {
    std::mem::take(&mut *log.lock().unwrap())
}

#[test]
fn a_range_of_priorities_can_be_asked_alone() {
    let (registry, log) = (ReclaimRegistry::new(), Arc::default());
    let mut kept: Vec<_> = [("a", 0), ("b", 5), ("c", 5), ("d", 9)]
        .into_iter()
        .map(|(name, priority)| named(&registry, &log, name, priority, 1))
        .collect();
    assert_eq!(registry.reclaim_among(1..=8, 10, HIGH).given, 2);
    assert_eq!(take(&log), ["b:10", "c:9"]);
    let priorities = [0, 1, 5, 6, 9, 10].map(|from| registry.next_priority(from));
    assert_eq!(priorities, [Some(0), Some(5), Some(5), Some(9), Some(9), None]);
    // The dead are passed over.
    kept[3].1 = registry.register("e", 255, Weak::<Giver>::new());
    assert_eq!(registry.next_priority(6), None);
}

#[test]
fn lower_priorities_are_asked_first_and_equals_in_order_of_registration() {
    let (registry, log) = (ReclaimRegistry::new(), Arc::default());
    let _kept: Vec<_> = [("c", 9), ("a", 0), ("b", 5), ("b2", 5), ("z", 255), ("a2", 0)]
        .into_iter()
        .map(|(name, priority)| named(&registry, &log, name, priority, 0))
        .collect();
    let report = registry.reclaim(10, HIGH);
    assert_eq!(take(&log), ["a:10", "a2:10", "b:10", "b2:10", "c:10", "z:10"]);
    assert_eq!(report, ReclaimReport { given: 0, asked: 6, skipped: 0, panicked: 0 });
    let names: Vec<_> = registry.list().into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["a", "a2", "b", "b2", "c", "z"]);
    assert_eq!(format!("{registry:?}"), r#"["a", "a2", "b", "b2", "c", "z"]"#);
}

#[test]
fn asking_stops_when_enough_was_given() {
    let (registry, log) = (ReclaimRegistry::new(), Arc::default());
    let _kept: Vec<_> = [("a", 30), ("b", 100), ("c", 100)]
        .into_iter()
        .map(|(name, gives)| named(&registry, &log, name, 0, gives))
        .collect();
    let report = registry.reclaim(50, HIGH);
    assert_eq!(take(&log), ["a:50", "b:20"]);
    assert_eq!((report.given, report.asked), (130, 2));
    assert_eq!(registry.reclaim(0, HIGH), ReclaimReport::default());
    assert!(take(&log).is_empty());
    // More than anybody has: everybody is asked, and what was given saturates.
    let _huge = named(&registry, &log, "huge", 1, usize::MAX);
    assert_eq!(registry.reclaim(usize::MAX, HIGH).given, usize::MAX);
}

/// Says that it could give the one figure, and has the other.
struct Shelf {
    says: AtomicUsize,
    has: AtomicUsize,
    asked: Mutex<Vec<usize>>,
}

impl Shelf {
    fn new(says: usize, has: usize) -> Arc<Self> {
        Arc::new(Self { says: says.into(), has: has.into(), asked: Mutex::default() })
    }

    fn asked(&self) -> Vec<usize> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl Reclaim for Shelf {
    fn reclaimable(&self) -> usize {
        match self.says.load(SeqCst) {
            usize::MAX => std::panic::panic_any(InjectedPanic),
            says => says,
        }
    }
    fn reclaim(&self, wanted: usize, _urgency: PressureLevel) -> usize {
        self.asked.lock().unwrap().push(wanted);
        let given = wanted.min(self.has.load(SeqCst));
        self.has.fetch_sub(given, SeqCst);
        given
    }
}

/// Registers shelves as `(priority, says, has)`, each in a registry of its own if `apart`.
fn shelves(of: &[(u8, usize, usize)], apart: bool) -> (Vec<ReclaimRegistry>, Vec<Arc<Shelf>>) {
    let mut registries = vec![ReclaimRegistry::new()];
    let mut all = Vec::new();
    for (i, &(priority, says, has)) in of.iter().enumerate() {
        if apart && i > 0 {
            registries.push(ReclaimRegistry::new());
        }
        let shelf = Shelf::new(says, has);
        registries.last().unwrap().register("shelf", priority, weak(&shelf)).detach();
        all.push(shelf);
    }
    (registries, all)
}

#[test]
fn a_spread_asks_each_in_proportion_and_the_lowest_priority_first() {
    for apart in [false, true] {
        let of = [(9, 300, 300), (1, 40, 40), (9, 100, 100), (9, 0, 0)];
        let (registries, all) = shelves(&of, apart);
        let report = ReclaimRegistry::reclaim_spread(&registries, 200, HIGH);
        let asked: Vec<_> = all.iter().map(|shelf| shelf.asked()).collect();
        assert_eq!(asked, [vec![120], vec![200], vec![40], vec![]], "apart: {apart}");
        assert_eq!((report.given, report.asked, report.panicked), (200, 3, 0));
        let none = ReclaimRegistry::reclaim_spread(&registries, 0, HIGH);
        assert_eq!(none, ReclaimReport::default());
    }
}

#[test]
fn what_some_had_less_than_they_said_a_spread_takes_from_the_others_once() {
    // The first has nothing, the second gives its share and the rest, the third said too little.
    let (registries, all) = shelves(&[(0, 100, 0), (0, 100, 120), (0, 0, 50)], false);
    let report = ReclaimRegistry::reclaim_spread(&registries, 160, HIGH);
    let asked: Vec<_> = all.iter().map(|shelf| shelf.asked()).collect();
    assert_eq!(asked, [vec![80], vec![80, 80], vec![40]]);
    assert_eq!((report.given, report.asked), (160, 4));
    // Whoever said that it has nothing is still asked before nobody is.
    let report = ReclaimRegistry::reclaim_spread(&registries, usize::MAX, HIGH);
    assert_eq!(report.given, 10);
}

#[test]
fn estimates_that_panic_or_overflow_do_not_end_a_spread() {
    let (registries, all) = shelves(&[(0, usize::MAX, 5), (0, usize::MAX - 1, 7)], true);
    let report = ReclaimRegistry::reclaim_spread(&registries, 12, HIGH);
    assert_eq!((report.given, report.panicked), (12, 0));
    assert_eq!((all[0].asked(), all[1].asked()), (vec![5], vec![12]));
    // Inside a reclaim it does nothing, like any other.
    let inner = registries.clone();
    let nested = Giver::new(move |_, _| ReclaimRegistry::reclaim_spread(&inner, 9, HIGH).given);
    let outer = ReclaimRegistry::new();
    outer.register("nested", 0, weak(&nested)).detach();
    assert_eq!(outer.reclaim(9, HIGH).given, 0);
}

#[test]
fn the_urgency_is_passed_on() {
    let (registry, seen) = (ReclaimRegistry::new(), Arc::new(Mutex::new(Vec::new())));
    let log = Arc::clone(&seen);
    let giver = Giver::new(move |_, urgency| {
        log.lock().unwrap().push(urgency);
        0
    });
    let _registration = registry.register("giver", 0, weak(&giver));
    for level in PressureLevel::ALL {
        registry.reclaim(1, level);
    }
    assert_eq!(*seen.lock().unwrap(), PressureLevel::ALL);
}

#[test]
fn a_registration_ends_with_its_guard_or_its_target() {
    let (registry, log) = (ReclaimRegistry::new(), Arc::default());
    let (_first, registration) = named(&registry, &log, "first", 0, 1);
    let (second, detached) = named(&registry, &log, "second", 0, 1);
    assert_eq!((registration.name(), registry.len()), ("first", 2));
    assert_eq!(registry.list(), [("first".to_owned(), 0, 7), ("second".to_owned(), 0, 7)]);
    assert_eq!(registry.reclaimable(), 14);
    detached.detach();
    drop(registration);
    assert_eq!(registry.reclaim(10, HIGH).asked, 1);
    assert_eq!(take(&log), ["second:10"]);
    drop(second);
    assert!(registry.is_empty() && registry.list().is_empty());
    assert_eq!(registry.reclaim(10, HIGH), ReclaimReport::default());
    assert_eq!(registry.reclaimable(), 0);
}

/// Panics when it is asked what it has.
struct Unsure;

impl Reclaim for Unsure {
    fn reclaimable(&self) -> usize {
        std::panic::resume_unwind(Box::new(InjectedPanic))
    }
    fn reclaim(&self, wanted: usize, _urgency: PressureLevel) -> usize {
        wanted
    }
}

#[test]
fn whoever_panics_when_asked_what_it_has_is_listed_with_nothing() {
    let registry = ReclaimRegistry::new();
    let unsure = Arc::new(Unsure);
    registry.register("unsure", 3, weak(&unsure)).detach();
    assert_eq!(registry.list(), [("unsure".to_owned(), 3, 0)]);
    assert_eq!(registry.reclaimable(), 0);
    let report = ReclaimRegistry::reclaim_spread(&[registry], 9, HIGH);
    assert_eq!((report.given, report.asked), (9, 1), "and asked all the same");
}

#[test]
fn a_target_that_is_gone_may_be_unregistered_late() {
    let (registry, log) = (ReclaimRegistry::new(), Arc::default());
    let (first, late) = named(&registry, &log, "first", 3, 1);
    drop(first);
    // The next registration sweeps up what is gone.
    let (_second, _kept) = named(&registry, &log, "second", 3, 1);
    drop(late);
    assert_eq!(registry.reclaim(1, HIGH).given, 1);
    assert_eq!(take(&log), ["second:1"]);
}

#[test]
fn handles_share_one_registry() {
    let (registry, log) = (ReclaimRegistry::default(), Arc::default());
    let other = registry.clone();
    let (_giver, registration) = named(&registry, &log, "giver", 0, 5);
    drop(registry);
    assert_eq!(other.reclaim(5, HIGH).given, 5);
    drop(registration);
    assert!(other.is_empty());
}

#[test]
fn a_thread_knows_that_it_is_reclaiming() {
    let registry = ReclaimRegistry::new();
    let inside = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&inside);
    let giver = Giver::new(move |_, _| {
        seen.store(is_reclaiming(), SeqCst);
        assert!(!thread::spawn(is_reclaiming).join().unwrap(), "another thread is, too");
        1
    });
    let _registration = registry.register("giver", 0, weak(&giver));
    assert!(!is_reclaiming());
    assert_eq!(registry.reclaim(1, HIGH).given, 1);
    assert!(inside.load(SeqCst) && !is_reclaiming());
}

/// Budgets refuse what is charged inside a reclaim; this is how they know.
#[test]
fn a_charge_inside_a_reclaim_can_be_refused() {
    struct Budget;
    impl Account for Budget {
        fn try_charge(&self, requested: usize) -> Result<(), MemoryError> {
            if is_reclaiming() {
                return Err(MemoryError::CapacityExceeded {
                    requested,
                    available: 0,
                    align: Align::ONE,
                });
            }
            Ok(())
        }
        fn credit(&self, _bytes: usize) {}
    }
    let registry = ReclaimRegistry::new();
    let giver = Giver::new(|_, _| usize::from(Budget.try_charge(1).is_err()));
    let _registration = registry.register("giver", 0, weak(&giver));
    assert_eq!(registry.reclaim(1, HIGH).given, 1);
    assert!(Budget.try_charge(1).is_ok());
}

#[test]
fn a_reclaim_inside_a_reclaim_does_nothing() {
    static OTHER: OnceLock<ReclaimRegistry> = OnceLock::new();
    let registry = ReclaimRegistry::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let innocent = Giver::new(move |_, _| count.fetch_add(1, SeqCst));
    let other = OTHER.get_or_init(ReclaimRegistry::new);
    let _innocent = other.register("innocent", 0, weak(&innocent));
    let own = registry.clone();
    let giver = Giver::new(move |_, _| {
        assert_eq!(own.reclaim(10, HIGH), ReclaimReport::default());
        // Nor through another registry.
        assert_eq!(OTHER.get().unwrap().reclaim(10, HIGH), ReclaimReport::default());
        5
    });
    let _registration = registry.register("giver", 0, weak(&giver));
    assert_eq!(registry.reclaim(5, HIGH).given, 5);
    assert_eq!(asked.load(SeqCst), 0);
    other.reclaim(1, HIGH);
    assert_eq!(asked.load(SeqCst), 1);
}

#[test]
fn a_reclaimer_that_runs_already_is_skipped() {
    watchdog(Duration::from_secs(60), || {
        let registry = ReclaimRegistry::new();
        let (started, has_started) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let gate = Mutex::new((started, released));
        let slow = Giver::new(move |_, _| {
            let gate = gate.lock().unwrap();
            gate.0.send(()).unwrap();
            gate.1.recv().unwrap();
            100
        });
        let log = Arc::default();
        let _slow = registry.register("slow", 0, weak(&slow));
        let _quick = named(&registry, &log, "quick", 1, 10);
        thread::scope(|scope| {
            let first = scope.spawn(|| registry.reclaim(100, HIGH));
            has_started.recv().unwrap();
            let second = registry.reclaim(100, HIGH);
            assert_eq!(second, ReclaimReport { given: 10, asked: 1, skipped: 1, panicked: 0 });
            release.send(()).unwrap();
            assert_eq!(first.join().unwrap().given, 100);
        });
        // It can be asked again.
        release.send(()).unwrap();
        assert_eq!(registry.reclaim(100, HIGH).given, 100);
    });
}

#[test]
fn a_panicking_reclaimer_is_counted_and_passed_over() {
    let (registry, log) = (ReclaimRegistry::new(), Arc::default());
    let broken = Giver::new(|_, _| std::panic::resume_unwind(Box::new(InjectedPanic)));
    let _broken = registry.register("broken", 0, weak(&broken));
    let _good = named(&registry, &log, "good", 1, 10);
    for _ in 0..3 {
        let report = registry.reclaim(10, HIGH);
        assert_eq!(report, ReclaimReport { given: 10, asked: 2, skipped: 0, panicked: 1 });
        assert!(!is_reclaiming());
    }
    let (_late, _registration) = named(&registry, &log, "late", 0, 3);
    assert_eq!(registry.reclaim(13, HIGH).given, 13);
}

/// What is dropped inside a round may drop a registration of the same registry.
#[test]
fn targets_may_come_and_go_during_a_round() {
    watchdog(Duration::from_secs(60), || {
        let (registry, log) = (ReclaimRegistry::new(), Arc::default());
        let victim = Arc::new(Mutex::new(Some(named(&registry, &log, "victim", 5, 1))));
        let added = Arc::new(Mutex::new(Vec::new()));
        let giver = {
            let (registry, log) = (registry.clone(), Arc::clone(&log));
            let (victim, added) = (Arc::clone(&victim), Arc::clone(&added));
            Giver::new(move |_, _| {
                drop(victim.lock().unwrap().take());
                // Asked the next time: otherwise a round might never end.
                added.lock().unwrap().push(named(&registry, &log, "new", 9, 1));
                1
            })
        };
        let _first = registry.register("first", 0, weak(&giver));
        let _last = named(&registry, &log, "last", 9, 1);
        assert_eq!(registry.reclaim(100, HIGH).asked, 2);
        assert_eq!(take(&log), ["last:99"]);
        assert_eq!(registry.reclaim(100, HIGH).asked, 3);
        assert_eq!(take(&log), ["last:99", "new:98"]);
        drop(added.lock().unwrap().drain(..).collect::<Vec<_>>());
    });
}

/// The round holds the last handle of a target whose drop unregisters it.
#[test]
fn a_target_may_own_its_registration_and_die_in_its_own_reclaim() {
    struct Owner {
        registration: Mutex<Option<Registration>>,
        handle: Mutex<Option<Arc<Self>>>,
        dropped: Arc<AtomicUsize>,
    }
    impl Reclaim for Owner {
        fn reclaimable(&self) -> usize {
            1
        }
        fn reclaim(&self, _wanted: usize, _urgency: PressureLevel) -> usize {
            drop(self.handle.lock().unwrap().take());
            1
        }
    }
    impl Drop for Owner {
        fn drop(&mut self) {
            self.dropped.fetch_add(1, SeqCst);
            // A panic here is the target's, not the asker's.
            drop(self.registration.lock().unwrap().take());
            std::panic::resume_unwind(Box::new(InjectedPanic));
        }
    }
    watchdog(Duration::from_secs(60), || {
        let registry = ReclaimRegistry::new();
        let dropped = Arc::new(AtomicUsize::new(0));
        let owner = Arc::new(Owner {
            registration: Mutex::default(),
            handle: Mutex::default(),
            dropped: Arc::clone(&dropped),
        });
        *owner.registration.lock().unwrap() = Some(registry.register("owner", 0, weak(&owner)));
        let inner = Arc::clone(&owner);
        *inner.handle.lock().unwrap() = Some(owner);
        drop(inner);
        let report = registry.reclaim(1, HIGH);
        assert_eq!((report.asked, report.panicked), (1, 1));
        assert_eq!((dropped.load(SeqCst), registry.len()), (1, 0));
    });
}

#[test]
fn threads_register_unregister_and_reclaim_at_once() {
    const ROUNDS: usize = if cfg!(miri) { 10 } else { 300 };
    watchdog(Duration::from_secs(120), || {
        let registry = ReclaimRegistry::new();
        let (running, overlaps) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let steady = {
            let (running, overlaps) = (Arc::clone(&running), Arc::clone(&overlaps));
            Giver::new(move |_, _| {
                overlaps.fetch_add(running.fetch_add(1, SeqCst), SeqCst);
                thread::yield_now();
                running.fetch_sub(1, SeqCst);
                0
            })
        };
        let _steady = registry.register("steady", 100, weak(&steady));
        let barrier = Barrier::new(4);
        let given = AtomicUsize::new(0);
        thread::scope(|scope| {
            for id in 0..2_u8 {
                let (registry, barrier) = (&registry, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    for round in 0..ROUNDS {
                        let giver = Giver::new(|_, _| 1);
                        let name = format!("{id}/{round}");
                        let registration = registry.register(name, id, weak(&giver));
                        assert!(!registry.is_empty());
                        if round % 3 == 0 {
                            registration.detach();
                        }
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..ROUNDS {
                        let report = registry.reclaim(usize::MAX, HIGH);
                        assert_eq!(report.panicked, 0);
                        given.fetch_add(report.given, SeqCst);
                        let _ = (registry.list(), registry.reclaimable());
                    }
                });
            }
        });
        assert_eq!(overlaps.load(SeqCst), 0, "one reclaimer ran on two threads at once");
        // All others are gone, with their guards or with their targets.
        assert_eq!(registry.list(), [("steady".to_owned(), 100, 7)]);
        assert_eq!(registry.reclaim(1, HIGH).asked, 1);
    });
}

#[test]
fn reports_add_up() {
    let one = ReclaimReport { given: usize::MAX, asked: 1, skipped: 2, panicked: 3 };
    let sum = one.plus(ReclaimReport { given: 1, asked: 10, skipped: 20, panicked: 30 });
    assert_eq!(sum, ReclaimReport { given: usize::MAX, asked: 11, skipped: 22, panicked: 33 });
}

#[test]
fn a_request_is_left_for_the_owner_and_taken_once() {
    let registry = ReclaimRegistry::new();
    let request = Arc::new(TrimRequest::default());
    let weak: Weak<dyn Reclaim> = Arc::downgrade(&request) as _;
    let _registration = registry.register("arena", 0, weak);
    assert_eq!((registry.reclaimable(), request.take()), (0, None));
    request.publish(500);
    assert_eq!(registry.reclaimable(), 500);
    // Nothing is given back yet; the largest request counts, and the most urgent one.
    let asked = [(100, HIGH), (300, PressureLevel::Elevated), (200, PressureLevel::Normal)];
    let given = asked.map(|(wanted, urgency)| registry.reclaim(wanted, urgency).given);
    assert!(given == [0; 3] && request.is_waiting());
    let order = request.take().unwrap();
    assert_eq!((order.bytes, order.urgency, request.take()), (300, HIGH, None));
    assert_eq!(format!("{request:?}"), "TrimRequest { spare: 500, wanted: 0, .. }");
    registry.reclaim(1, PressureLevel::Critical);
    assert_eq!(request.take().map(|order| order.urgency), Some(PressureLevel::Critical));
}
