//! Every way to make a value, in every kind of arena; panics, refusals and drops in between.

use std::{cell::Cell, fmt, hash::BuildHasher, rc::Rc};

use nebula_arena::{Arena, ArenaBox, ArenaConfig, ArenaString, ArenaVec, Direction, Down, Up};
use nebula_memory_core::{ByteSize, Global, MemoryError, MemoryUsage, Refused};
use nebula_testing::{CountingAllocator, DropCounter, FailingAllocator, catch};
use static_assertions::{assert_impl_all, assert_not_impl_any};

assert_impl_all!(ArenaBox<'static, u8>: Send, Sync, Unpin);
assert_not_impl_any!(ArenaBox<'static, Rc<u8>>: Send, Sync);
assert_not_impl_any!(ArenaBox<'static, Cell<u8>>: Sync);
assert_not_impl_any!(ArenaVec<'static, u8>: Send, Sync);
const _: () = {
    assert!(size_of::<ArenaBox<'static, [u64; 9]>>() == size_of::<usize>());
    assert!(!std::mem::needs_drop::<ArenaVec<'static, u8>>());
    assert!(!std::mem::needs_drop::<ArenaString<'static>>());
};

#[repr(align(64))]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line([u8; 64]);

/// Uses every method once; all values stay what they were.
fn every_method<D: Direction, const M: usize>() {
    let config = ArenaConfig::builder().chunk_size(ByteSize::new(256)).build().unwrap();
    let mut arena = Arena::<Global, D, M>::with_parameters(config, Global).unwrap();
    for _ in 0..3 {
        let value = arena.alloc(1_u32);
        let made = arena.alloc_with(|| [2_u16; 5]);
        let line = arena.alloc(Line([3; 64]));
        let tried = arena.alloc_try_with(|| Ok::<_, ()>(4_u8)).unwrap();
        let failed = arena.alloc_try_with(|| Err::<u64, _>("no")).unwrap_err();
        let uninit = arena.alloc_uninit::<u64>().write(5);
        let slots = arena.alloc_uninit_slice::<u8>(10);
        for slot in &mut *slots {
            slot.write(6);
        }
        let copied = arena.alloc_slice_copy(&[7_i64, 8, 9]);
        let cloned = arena.alloc_slice_clone(&["a", "b"]);
        let filled = arena.alloc_slice_fill(3, 'x');
        let mapped = arena.alloc_slice_with(4, |i| i * i);
        let counted = arena.alloc_slice_from_iter(0..20);
        let uncounted = arena.alloc_slice_from_iter((0..20).filter(|i| i % 3 == 0));
        let text = arena.alloc_str("text");
        let formatted = arena.alloc_fmt(format_args!("{}-{:?}", 1, "two"));
        let literal = arena.alloc_fmt(format_args!("literal"));
        let boxed = arena.alloc_boxed(vec![1, 2, 3]);
        let boxes = arena.alloc_boxed_slice_with(3, |i| i.to_string());
        let nothing = arena.alloc(());
        let lines = arena.alloc_slice_fill(2, Line([9; 64]));
        assert_eq!((*value, *made, *tried, failed, *uninit), (1, [2; 5], 4, "no", 5));
        assert_eq!((line.0, *nothing), ([3; 64], ()));
        assert_eq!(
            (&*copied, &*cloned, &*filled),
            (&[7, 8, 9][..], &["a", "b"][..], &['x'; 3][..])
        );
        assert_eq!(&*mapped, [0, 1, 4, 9]);
        assert!(counted.iter().copied().eq(0..20));
        assert_eq!(&*uncounted, [0, 3, 6, 9, 12, 15, 18]);
        assert_eq!((&*text, &*formatted, &*literal), ("text", "1-\"two\"", "literal"));
        assert_eq!((&**boxed, &*boxes), (&[1, 2, 3][..], &["0", "1", "2"].map(String::from)[..]));
        assert_eq!(&*lines, [Line([9; 64]); 2]);
        for address in [&raw const *line, &raw const lines[0], &raw const lines[1]] {
            assert_eq!(address.addr() % 64, 0);
        }
        drop((boxed, boxes));
        arena.reset();
    }
}

#[test]
fn every_method_works_in_both_directions_and_at_all_alignments() {
    every_method::<Up, 1>();
    every_method::<Up, 2>();
    every_method::<Up, 8>();
    every_method::<Up, 16>();
    every_method::<Down, 1>();
    every_method::<Down, 4>();
    every_method::<Down, 8>();
    every_method::<Down, 16>();
}

#[test]
fn a_value_that_failed_to_be_made_takes_no_room() {
    let arena = Arena::new();
    arena.alloc(1_u8);
    let used = arena.used();
    let error = arena.alloc_try_with(|| Err::<[u8; 100], _>("failed")).unwrap_err();
    assert_eq!((error, arena.used()), ("failed", used));
    // Unless something else lies behind it.
    let error = arena.alloc_try_with(|| Err::<[u8; 100], _>(*arena.alloc(1_u8))).unwrap_err();
    assert_eq!((error, arena.used()), (1, used + 101));
}

#[test]
fn boxes_drop_their_values_once() {
    let counter = DropCounter::new();
    let arena = Arena::new();
    let one = arena.alloc_boxed(counter.probe(1));
    let two = arena.alloc_boxed(counter.probe(2));
    let many = arena.alloc_boxed_slice_with(3, |i| counter.probe(10 + i as u64));
    drop(one);
    assert_eq!(counter.dropped(), [1]);
    let two = ArenaBox::into_inner(two);
    assert_eq!(counter.drops(), 1);
    drop(many);
    assert_eq!(counter.dropped(), [1, 10, 11, 12]);
    let leaked = ArenaBox::leak(arena.alloc_boxed(counter.probe(3)));
    let _: &mut nebula_testing::DropProbe = leaked;
    drop(arena);
    assert_eq!(counter.drops(), 4);
    drop(two);
    assert_eq!(counter.live(), 1, "what was leaked on purpose");
}

#[test]
fn boxes_forward_what_their_values_can_do() {
    let arena = Arena::new();
    let (one, two) = (arena.alloc_boxed(1), arena.alloc_boxed(2));
    assert!(one < two && one != two && one == arena.alloc_boxed(1));
    assert_eq!((format!("{one}{one:?}"), *one.as_ref()), ("11".to_owned(), 1));
    let mut numbers = arena.alloc_boxed(0..3);
    assert_eq!(
        (numbers.size_hint(), numbers.next(), numbers.as_mut().len()),
        ((3, Some(3)), Some(0), 2)
    );
    let set = std::collections::HashSet::from([arena.alloc_boxed("a"), arena.alloc_boxed("a")]);
    assert_eq!(set.len(), 1);
    let mut ready = arena.alloc_boxed(std::future::ready(5));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let poll = std::future::Future::poll(std::pin::Pin::new(&mut ready), &mut context);
    assert_eq!(poll, std::task::Poll::Ready(5));
}

/// Panics in the call of `clone` whose number it has.
#[derive(Debug)]
struct Fragile<'a>(&'a Cell<usize>, usize);
impl Clone for Fragile<'_> {
    fn clone(&self) -> Self {
        self.0.set(self.0.get() + 1);
        assert_ne!(self.0.get(), self.1 + 1, "on purpose");
        Self(self.0, self.1)
    }
}
impl fmt::Display for Fragile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("some text, and then")?;
        let _ = self.clone();
        Ok(())
    }
}

#[test]
fn a_panic_at_any_value_drops_what_was_made_before() {
    for at in 0..5_usize {
        let counter = DropCounter::new();
        let arena = Arena::new();
        let caught = catch(|| {
            arena.alloc_boxed_slice_with(5, |i| {
                assert_ne!(i, at, "on purpose");
                counter.probe(i as u64)
            })
        });
        assert!(caught.is_err());
        assert_eq!((counter.drops(), counter.live()), (at, 0));

        // Values without drop: made by a closure, an iterator, `clone` or a formatter.
        let calls = Cell::new(0);
        let fragile = || {
            calls.set(0);
            Fragile(&calls, at)
        };
        let list = [(); 6].map(|()| fragile());
        assert!(catch(|| arena.alloc_slice_clone(&list).len()).is_err());
        assert!(catch(|| arena.alloc_slice_fill(6, fragile()).len()).is_err());
        let one = fragile();
        let formatted =
            catch(|| arena.alloc_fmt(format_args!("{one}{one}{one}{one}{one}{one}")).len());
        assert!(formatted.is_err());
        let numbers = (0..6).map(|i| if i == at { panic!("on purpose") } else { i });
        assert!(catch(|| arena.alloc_slice_from_iter(numbers).len()).is_err());
        assert!(catch(|| *arena.alloc_with(|| -> u8 { panic!("on purpose") })).is_err());
        assert_eq!(arena.alloc_str("still works"), "still works");
    }
}

#[test]
fn a_box_whose_value_panics_in_drop_leaves_the_arena_usable() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    let arena = Arena::new();
    assert!(catch(|| drop(arena.alloc_boxed(Bomb))).is_err());
    assert_eq!(*arena.alloc(1), 1);
}

/// Every `try_` method, until one is refused.
fn every_try<A: nebula_memory_core::Allocator>(arena: &Arena<A>) -> Result<(), MemoryError> {
    arena.try_alloc([1_u64; 40]).map_err(|refused| {
        assert_eq!(refused.value, [1; 40]);
        refused.into_error()
    })?;
    arena.try_alloc_without_drop(Line([1; 64])).map_err(Refused::into_error)?;
    drop(arena.try_alloc_boxed(vec![1; 10]).map_err(|refused| {
        assert_eq!(refused.value.len(), 10);
        refused.into_error()
    })?);
    arena.try_alloc_with(|| [1_u64; 40])?;
    arena.try_alloc_try_with(|| Ok::<_, ()>([1_u64; 40]))?.unwrap();
    arena.try_alloc_uninit::<[u64; 40]>()?;
    arena.try_alloc_uninit_slice::<u64>(40)?;
    arena.try_alloc_slice_copy(&[1_u64; 40])?;
    arena.try_alloc_slice_clone(&[1_u64; 40])?;
    arena.try_alloc_slice_fill(40, 1_u64)?;
    arena.try_alloc_slice_with(40, |i| i)?;
    drop(arena.try_alloc_boxed_slice_with(40, |i| i.to_string())?);
    arena.try_alloc_slice_from_iter(0..300)?;
    arena.try_alloc_slice_from_iter((0..600).filter(|i| i % 2 == 0))?;
    arena.try_alloc_str("a text of some length that has to go somewhere")?;
    arena.try_alloc_fmt(format_args!("{:>500}", 1))?;
    let mut numbers = arena.vec();
    for i in 0..500_u64 {
        numbers.try_push(i).map_err(Refused::into_error)?;
    }
    numbers.try_reserve(100)?;
    let mut text = arena.string();
    text.try_push_str("some")?;
    text.try_reserve(1000)?;
    arena.try_reserve(3000)?;
    assert!(numbers.iter().copied().eq(0..500));
    Ok(())
}

#[test]
fn a_refusal_at_any_chunk_reaches_the_caller_and_loses_nothing() {
    let mut finished = false;
    for n in 1..200 {
        let base = CountingAllocator::new();
        let failing = FailingAllocator::new(&base);
        let config = ArenaConfig::builder().chunk_size(ByteSize::new(256)).build().unwrap();
        let mut arena = Arena::with_config_in(config, &failing).unwrap();
        failing.fail_from(n);
        let result = every_try(&arena);
        assert_eq!(arena.allocated_bytes(), base.live_bytes());
        failing.fail_never();
        every_try(&arena).unwrap();
        arena.reset();
        drop(arena);
        base.assert_clean();
        if result.is_ok() {
            finished = true;
            break;
        }
    }
    assert!(finished);
}

#[test]
fn vectors_and_strings_do_what_those_of_std_do() {
    let arena = Arena::new();
    let mut numbers = arena.vec();
    numbers.extend([3, 1, 2]);
    numbers.sort_unstable();
    for number in &mut numbers {
        *number *= 10;
    }
    assert_eq!((&numbers).into_iter().sum::<i32>(), 60);
    assert_eq!(numbers, numbers.clone());
    assert_eq!(format!("{numbers:?}"), "[10, 20, 30]");
    assert!(numbers.clone().into_iter().eq([10, 20, 30]));
    assert_eq!(numbers.as_ref(), [10, 20, 30]);

    let mut text = arena.string();
    text.push('ä');
    text.extend(["b", "c"]);
    text.extend(['d']);
    assert_eq!((text.as_str(), text.to_string()), ("äbcd", "äbcd".to_owned()));
    assert_eq!(format!("{text:?}"), "\"äbcd\"");
    assert!(text == "äbcd" && text == *"äbcd" && text == text.clone());
    text.make_ascii_uppercase();
    assert!(text.capacity() >= 5);
    assert_eq!(text.clone().into_str(), "äBCD");
    text.clear();
    assert!(text.is_empty());
    let map = std::collections::BTreeMap::from([(arena.string().into_str(), 1)]);
    assert_eq!(map.into_values().sum::<i32>(), 1);
    let hasher = std::hash::RandomState::new();
    assert_eq!(hasher.hash_one(arena.string()), hasher.hash_one(""));
    assert_eq!(hasher.hash_one(arena.vec::<u8>()), hasher.hash_one([0_u8; 0].as_slice()));
}

#[test]
fn a_vector_at_the_end_grows_where_it_lies_and_gives_its_tail_back() {
    let arena = Arena::new();
    arena.alloc(0_u8);
    let mut numbers = arena.vec();
    numbers.extend(0..8_u64);
    let first = numbers.as_ptr();
    numbers.extend(8..100);
    assert_eq!(numbers.as_ptr(), first);
    let slice = numbers.into_slice();
    assert_eq!((slice.len(), arena.used()), (100, 800 + align_of::<u64>()));
}

#[test]
fn trees_of_vectors_nest_without_drop() {
    #[derive(Debug, PartialEq)]
    enum Tree<'a> {
        Leaf(ArenaString<'a>),
        Node(ArenaVec<'a, Tree<'a>>),
    }
    fn build(arena: &Arena, depth: usize) -> Tree<'_> {
        if depth == 0 {
            let mut text = arena.string();
            text.push_str("leaf");
            return Tree::Leaf(text);
        }
        let mut children = arena.vec();
        children.extend((0..3).map(|_| build(arena, depth - 1)));
        Tree::Node(children)
    }
    fn leaves(tree: &Tree<'_>) -> usize {
        match tree {
            Tree::Leaf(text) => usize::from(*text == "leaf"),
            Tree::Node(children) => children.iter().map(leaves).sum(),
        }
    }
    let base = CountingAllocator::new();
    let mut arena = Arena::new();
    for _ in 0..2 {
        let tree = &*arena.alloc(build(&arena, 6));
        assert_eq!(leaves(tree), 729);
        arena.reset();
    }
    base.assert_clean();
}

#[test]
fn what_says_that_it_panics_does_not_abort() {
    let config = ArenaConfig::builder()
        .chunk_size(ByteSize::new(256))
        .capacity(ByteSize::new(256))
        .build()
        .unwrap();
    let arena = Arena::with_config(config).unwrap();
    let mut text = arena.string();
    let mut numbers = arena.vec();
    let full = |message: Result<(), String>| {
        assert!(message.unwrap_err().starts_with("arena allocation failed: "));
    };
    full(catch(|| (0..1000).for_each(|_| text.push_str("0123456789"))));
    full(catch(|| (0..1000).for_each(|_| text.push('x'))));
    full(catch(|| text.extend(std::iter::repeat_n('x', 1000))));
    full(catch(|| (0..1000).for_each(|i| numbers.push(i))));
    full(catch(|| numbers.extend(0..1000)));
    full(catch(|| numbers.extend_from_slice(&[1; 1000])));
    full(catch(|| numbers.reserve(1000)));
    full(catch(|| {
        let clones: Vec<_> = (0..100).map(|_| numbers.clone()).collect();
        drop(clones);
    }));
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
}

#[test]
fn a_vector_that_no_memory_could_hold_is_an_invalid_layout() {
    let full = ArenaConfig::builder().chunk_size(ByteSize::new(256)).capacity(ByteSize::new(256));
    let full = Arena::with_config(full.build().unwrap()).unwrap();
    // Another arena's refusal is not this one's reason.
    let mut bytes = nebula_memory_core::allocator_api2::vec::Vec::<u8, _>::new_in(&full);
    assert!(bytes.try_reserve(1000).is_err());
    let arena = Arena::new();
    let error = arena.vec::<u64>().try_reserve(usize::MAX).unwrap_err();
    assert_eq!(error.code(), "invalid_layout");
    assert_eq!(full.vec::<u64>().try_reserve(1000).unwrap_err().code(), "capacity_exceeded");
}
