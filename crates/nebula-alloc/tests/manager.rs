//! The registry: who is listed, and what it says.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};

use nebula_alloc::{AllocatorManager, BumpAllocator, SystemAllocator, Tracked};
use nebula_memory_core::{
    AllocatorKind, Global, MemoryUsage, StatisticsProvider, TypedAllocator, UsageCell,
};

fn cell(name: &str) -> Arc<UsageCell> {
    Arc::new(UsageCell::new(name, AllocatorKind::Other, true))
}

fn names(manager: &AllocatorManager) -> Vec<String> {
    manager.list().into_iter().map(|report| report.name).collect()
}

#[test]
fn allocators_are_listed_in_order_and_vanish_when_dropped() {
    let manager = AllocatorManager::new();
    assert!(manager.list().is_empty());
    let (a, b, c) = (cell("a"), cell("b"), cell("c"));
    for cell in [&a, &b, &c] {
        manager.register(cell);
    }
    assert_eq!(names(&manager), ["a", "b", "c"]);
    drop(b);
    assert_eq!(names(&manager), ["a", "c"]);
    let d = cell("d");
    manager.register(&d);
    assert_eq!(names(&manager), ["a", "c", "d"]);
    drop((a, c));
    assert_eq!(names(&manager), ["d"]);
}

#[test]
fn the_list_does_not_keep_allocators_alive() {
    let manager = AllocatorManager::new();
    let cell = cell("a");
    manager.register(&cell);
    assert_eq!(Arc::strong_count(&cell), 1);
    let reports = manager.list();
    assert_eq!(Arc::strong_count(&cell), 1);
    drop(cell);
    assert_eq!(reports[0].name, "a");
}

#[test]
fn registering_twice_lists_once() {
    let manager = AllocatorManager::new();
    let (a, same_name) = (cell("a"), cell("a"));
    manager.register(&a);
    manager.register(&a);
    assert_eq!(names(&manager), ["a"]);
    manager.register(&same_name);
    assert_eq!(names(&manager), ["a", "a"]);
}

#[test]
fn many_come_and_go() {
    let manager = AllocatorManager::new();
    let mut live = Vec::new();
    for i in 0..1000_usize {
        let cell = cell(&i.to_string());
        manager.register(&cell);
        live.push(cell);
        if i % 3 != 0 {
            live.swap_remove(i % live.len());
        }
        if i % 50 == 0 {
            let mut expected: Vec<_> = live.iter().map(|cell| cell.name().to_owned()).collect();
            expected.sort_by_key(|name| name.parse::<usize>().unwrap());
            assert_eq!(names(&manager), expected);
        }
    }
}

#[test]
fn managers_are_apart() {
    let (here, there) = (AllocatorManager::new(), AllocatorManager::new());
    let (a, b) = (cell("a"), cell("b"));
    here.register(&a);
    there.register(&b);
    there.register(&a);
    assert_eq!(names(&here), ["a"]);
    assert_eq!(names(&there), ["b", "a"]);
}

#[test]
fn the_global_one_is_one() {
    let global = AllocatorManager::global();
    assert!(std::ptr::eq(global, AllocatorManager::global()));
    // Other tests of this process may list theirs there, too.
    let listed = || names(global).iter().filter(|name| *name == "listed globally").count();
    let cell = cell("listed globally");
    global.register(&cell);
    assert_eq!(thread::scope(|scope| scope.spawn(listed).join().unwrap()), 1);
    drop(cell);
    assert_eq!(listed(), 0);
}

#[test]
fn reports_say_what_the_cells_say() {
    let manager = AllocatorManager::new();
    let published = cell("published");
    published.set_used(70);
    published.set_capacity(Some(100));
    manager.register(&published);
    let bump = BumpAllocator::try_new(1000).unwrap();
    let counted = Tracked::exclusive(bump, "counted", AllocatorKind::Bump)
        .publish_capacity()
        .registered_in(&manager);
    let number = counted.try_new(1_u64).unwrap();

    let reports = manager.list();
    let [one, two] = reports.as_slice() else { panic!("{reports:?}") };
    assert_eq!((one.kind, one.thread_safe), (AllocatorKind::Other, true));
    assert_eq!((one.used, one.capacity, one.statistics), (70, Some(100), None));
    assert_eq!((two.kind, two.thread_safe), (AllocatorKind::Bump, false));
    assert_eq!((two.used, two.capacity), (8, Some(1000)));
    assert_eq!(two.statistics, counted.statistics());

    let total = manager.total();
    assert_eq!((total.allocators, total.used, total.capacity), (2, 78, Some(1100)));
    assert_eq!(total.statistics, counted.statistics());
    drop(number);
    assert_eq!(manager.total().used, 70);
}

#[test]
fn a_total_adds_up() {
    let manager = AllocatorManager::new();
    let total = manager.total();
    assert_eq!((total.allocators, total.used, total.capacity), (0, 0, Some(0)));
    assert_eq!(total.statistics, None);

    let a = Tracked::new(Global, "a", AllocatorKind::System).registered_in(&manager);
    let b = Tracked::new(Global, "b", AllocatorKind::System).registered_in(&manager);
    let (_x, _y) = (a.try_new([0_u8; 30]).unwrap(), b.try_new([0_u8; 50]).unwrap());
    let total = manager.total();
    assert_eq!((total.used, total.capacity), (80, None));
    let sum = a.statistics().unwrap().plus(&b.statistics().unwrap());
    assert_eq!(total.statistics, Some(sum));

    // Sums of what nobody can have saturate.
    let (c, d) = (cell("c"), cell("d"));
    for cell in [&c, &d] {
        cell.set_used(usize::MAX);
        manager.register(cell);
    }
    assert_eq!(manager.total().used, usize::MAX);
}

#[test]
fn the_table_is_aligned() {
    let manager = AllocatorManager::new();
    let heap =
        Tracked::new(SystemAllocator::new(), "heap", AllocatorKind::System).registered_in(&manager);
    let bump = BumpAllocator::try_new(64 << 10).unwrap();
    let scratch = Tracked::exclusive(bump, "größerer Puffer", AllocatorKind::Bump)
        .publish_capacity()
        .registered_in(&manager);
    let silent = cell("silent");
    silent.set_used(5);
    manager.register(&silent);
    let (_a, _b) = (heap.try_new([0_u8; 3000]).unwrap(), scratch.try_new(1_u8).unwrap());
    drop(scratch.try_new([0_u8; 2048]));
    let expected = "\
allocator        kind    threads     used  capacity     peak  blocks
heap             system  many     2.9 KiB         -  2.9 KiB       1
größerer Puffer  bump    one          1 B  64.0 KiB  2.0 KiB       1
silent           other   many         5 B         -        -       -
total of 3                        2.9 KiB         -  4.9 KiB       2";
    assert_eq!(manager.to_string(), expected);
}

#[test]
fn an_empty_table_has_its_lines() {
    let expected = "\
allocator   kind  threads  used  capacity  peak  blocks
total of 0                  0 B       0 B     -       -";
    assert_eq!(AllocatorManager::new().to_string(), expected);
}

#[test]
fn listing_goes_on_while_allocators_come_and_go() {
    const THREADS: usize = 3;
    let manager = AllocatorManager::new();
    let keep = cell("kept");
    manager.register(&keep);
    let over = AtomicBool::new(false);
    let barrier = Barrier::new(THREADS + 1);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..200 {
                        let heap = Tracked::new(Global, "passing", AllocatorKind::System)
                            .registered_in(&manager);
                        let number = heap.try_new(1_u64).unwrap();
                        drop(number);
                    }
                })
            })
            .collect();
        let lister = scope.spawn(|| {
            barrier.wait();
            while !over.load(SeqCst) {
                let reports = manager.list();
                assert_eq!(reports[0].name, "kept");
                assert!(reports.len() <= 1 + THREADS);
                assert!(reports.iter().all(|report| report.used <= 8));
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        over.store(true, SeqCst);
        lister.join().unwrap();
    });
    assert_eq!(names(&manager), ["kept"]);
    assert_eq!(keep.used(), 0);
}

#[cfg(feature = "serde")]
#[test]
fn reports_survive_a_round_trip() {
    let manager = AllocatorManager::new();
    let heap = Tracked::new(Global, "heap", AllocatorKind::System).registered_in(&manager);
    let _number = heap.try_new(1_u64).unwrap();
    let reports = manager.list();
    let text = serde_json::to_string(&reports).unwrap();
    assert!(text.contains(r#""kind":"system""#), "{text}");
    let back: Vec<nebula_alloc::AllocatorReport> = serde_json::from_str(&text).unwrap();
    assert_eq!(back, reports);
    let total = manager.total();
    let text = serde_json::to_string(&total).unwrap();
    assert_eq!(serde_json::from_str::<nebula_alloc::AllocatorTotal>(&text).unwrap(), total);
}
