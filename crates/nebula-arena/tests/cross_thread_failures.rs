//! An arena and its root as one value, where something goes wrong: refusals and panics.

use nebula_arena::{ArenaBox, ArenaConfig, CrossThreadArena, Family};
use nebula_memory_core::{ByteSize, Global, MemoryError};
use nebula_testing::{
    CountingAllocator, DropCounter, DropPanics, DropProbe, FailingAllocator, PanicOn, catch,
};

/// Needs dropping, in the arena and beside it.
struct Boxes;
impl Family for Boxes {
    type Of<'a> = (ArenaBox<'a, DropProbe>, DropProbe);
}

struct Slices;
impl Family for Slices {
    type Of<'a> = &'a mut [u64];
}

struct Probed;
impl Family for Probed {
    type Of<'a> = (&'a [DropProbe], DropProbe);
}

struct Large;
impl Family for Large {
    type Of<'a> = [u64; 1000];
}

struct Bombs;
impl Family for Bombs {
    type Of<'a> = (ArenaBox<'a, DropPanics<DropProbe>>, DropProbe);
}

fn config(chunk: usize) -> ArenaConfig {
    ArenaConfig::builder().chunk_size(ByteSize::new(chunk)).build().unwrap()
}

#[test]
fn refusal_at_every_chunk_loses_nothing() {
    for n in 0.. {
        let base = CountingAllocator::new();
        let failing = FailingAllocator::new(base.clone());
        failing.fail_at(n);
        let drops = DropCounter::new();
        let result = CrossThreadArena::<Probed, _>::try_build_in(
            config(256),
            failing.clone(),
            |arena| -> Result<_, MemoryError> {
                for _ in 0..20 {
                    arena.try_alloc([0_u8; 100])?;
                }
                Ok((&[], drops.probe(0)))
            },
        );
        let tripped = failing.tripped();
        // Smaller chunks may have done where a larger one was refused.
        assert!(result.is_ok() || tripped);
        drop(result);
        drops.assert_all_dropped();
        base.assert_clean();
        if !tripped {
            assert!(n > 3);
            break;
        }
    }
}

#[test]
fn a_refused_map_hands_the_value_back() {
    let failing = FailingAllocator::new(Global);
    let built = CrossThreadArena::<Slices, _>::build_in(config(256), failing.clone(), |arena| {
        arena.alloc_slice_fill(3, 5)
    })
    .unwrap();
    failing.fail_from(0);
    let refused = built.map::<Large>(|_, _| panic!("not called")).unwrap_err();
    assert!(matches!(refused.error, MemoryError::OutOfMemory { .. }));
    let built = refused.into_value();
    failing.fail_never();
    let large = built.map::<Large>(|_, root| [root[2]; 1000]).unwrap();
    assert_eq!(large.with(|root| root[999]), 5);
}

#[test]
fn panics_of_the_user_leak_nothing() {
    let (base, drops) = (CountingAllocator::new(), DropCounter::new());
    let build = || {
        CrossThreadArena::<Boxes, _>::build_in(config(256), base.clone(), |arena| {
            (arena.alloc_boxed(drops.probe(1)), drops.probe(2))
        })
        .unwrap()
    };
    // While building.
    let panicked = catch(|| {
        CrossThreadArena::<Boxes, _>::build_in(config(256), base.clone(), |arena| {
            let _made = arena.alloc_boxed(drops.probe(1));
            panic!("in build")
        })
        .map(drop)
    });
    assert_eq!(panicked.unwrap_err(), "in build");
    drops.assert_all_dropped();
    base.assert_clean();
    // While looking and changing: the value stays as it is.
    let mut built = build();
    assert!(catch(|| built.with(|_| panic!("in with"))).is_err());
    assert!(
        catch(|| built.with_mut(|arena, root| {
            root.0 = arena.alloc_boxed(drops.probe(3));
            panic!("in with_mut");
        }))
        .is_err()
    );
    assert_eq!(built.with(|root| root.0.tag()), 3);
    // While mapping.
    assert!(catch(|| built.map::<Slices>(|_, _| panic!("in map")).map(drop).is_ok()).is_err());
    drops.assert_all_dropped();
    base.assert_clean();
}

#[test]
fn a_root_whose_drop_panics_takes_the_arena_along() {
    for how in 0..4 {
        let (base, drops, on) = (CountingAllocator::new(), DropCounter::new(), PanicOn::nth(0));
        let built = CrossThreadArena::<Bombs, _>::build_in(config(256), base.clone(), |arena| {
            let bomb = DropPanics { value: drops.probe(1), on: on.clone() };
            (arena.alloc_boxed(bomb), drops.probe(2))
        })
        .unwrap();
        let panicked = match how {
            0 => catch(move || drop(built)),
            1 => catch(move || drop(built.freeze())),
            2 => catch(move || drop(built.into_arena())),
            _ => catch(move || {
                let frozen = built.freeze();
                let other = frozen.clone();
                drop(frozen);
                drop(other);
            }),
        };
        assert_eq!(panicked.unwrap_err(), "injected");
        drops.assert_all_dropped();
        base.assert_clean();
    }
}

#[test]
fn a_root_that_fails_to_be_made_leaves_nothing() {
    let base = CountingAllocator::new();
    let failed = CrossThreadArena::<Slices, _>::try_build_in(config(256), base.clone(), |arena| {
        arena.try_alloc_slice_fill(1000, 1)?;
        Err(MemoryError::Closed { what: "test" })
    });
    assert_eq!(failed.unwrap_err().code(), "closed");
    base.assert_clean();
}

#[test]
fn an_invalid_configuration_is_refused_before_anything_is_taken() {
    let base = CountingAllocator::new();
    let config = ArenaConfig { chunk_size: ByteSize::new(1), ..ArenaConfig::default() };
    let result = CrossThreadArena::<Slices, _>::build_in(config, base.clone(), |_| unreachable!());
    assert!(matches!(result, Err(MemoryError::InvalidConfig(_))));
    assert_eq!(base.allocations(), 0);
}
