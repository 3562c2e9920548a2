//! Ours and the peers on the same work, in one run.
//!
//! An *area* is a file in `src/areas` with one function, `cases() -> Vec<Case>`. A [`Case`] is one
//! piece of work; a [`Contender`] is one way to do it, ours or a peer's. Where memory matters, the
//! area has [`Footprint`]s as well: what is to be weighed. Three programs run them:
//! - `benches/areas.rs` measures time with criterion;
//! - `src/bin/instructions.rs` runs one contender so that callgrind can count its instructions;
//! - `src/bin/footprint.rs` counts the bytes that footprints take.
//!
//! `cargo xtask bench AREA` runs them all and prints the table. How to read it, and what in it is
//! noise, is in `docs/BENCHMARKS.md`.
//!
//! # Adding an area
//! Write `src/areas/NAME.rs`, name it in `src/areas/mod.rs` and put the peers' crates under
//! `[dependencies]`; a peer that is heavy to build or builds C goes behind a feature of its own.
//!
//! ```
//! use nebula_benches::{Case, Contender};
//!
//! pub fn cases() -> Vec<Case> {
//!     vec![
//!         Case::new("sum of 100", Contender::each("ours", || vec![1_u64; 100], |v| v.iter().sum::<u64>()))
//!             .peer(Contender::each("loop", || vec![1_u64; 100], |v| {
//!                 let mut sum = 0;
//!                 for n in &*v {
//!                     sum += n;
//!                 }
//!                 sum
//!             })),
//!     ]
//! }
//! # for case in cases() {
//! #     assert!((case.ours.run)(10).as_nanos() > 0);
//! # }
//! ```
//!
//! # Rules
//! - Contenders of a case do the same work: the same sizes, the same values, the same checks on
//!   the result. What a peer cannot do is a case without that peer.
//! - `cases()` is cheap and runs nothing; all of a contender's preparation happens in its own
//!   closures, so that listing areas costs nothing and one contender can run alone.
//! - The crate's tests run every contender a few times, without optimisation: where preparation
//!   takes long, make less under `cfg!(debug_assertions)`, and see [`kept`].
//! - What is prepared is not timed. Instructions are counted as the difference between 2N and N
//!   iterations, so that preparation drops out there too if it costs the same for both.

#![allow(clippy::missing_panics_doc, reason = "a case that cannot run has nothing to report")]

pub mod areas;
mod clock;
mod contender;
mod footprint;
pub mod hit_ratio;

use std::fmt;

pub use {
    clock::Stopwatch,
    contender::{Contender, Thread, kept, repeat},
    footprint::{CountingSystem, Footprint, Live, Maker},
};

/// A file of `src/areas`: benchmarks of one crate or one question.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// What `cargo xtask bench` calls it.
    pub name: &'static str,
    /// One line on what it compares.
    pub about: &'static str,
    /// Makes the cases.
    pub cases: fn() -> Vec<Case>,
    /// Makes what is to be weighed.
    pub footprints: fn() -> Vec<Footprint>,
}

impl Area {
    /// The area `name`, whose cases `cases` makes.
    #[must_use]
    pub const fn new(name: &'static str, about: &'static str, cases: fn() -> Vec<Case>) -> Self {
        Self { name, about, cases, footprints: Vec::new }
    }

    /// The same area, with things that are weighed.
    #[must_use]
    pub const fn footprints(self, footprints: fn() -> Vec<Footprint>) -> Self {
        Self { footprints, ..self }
    }
}

/// One piece of work and those who do it.
pub struct Case {
    /// What is done, in a few words; unique within the area.
    pub name: &'static str,
    /// What is reported: nanoseconds per operation unless told otherwise.
    pub unit: &'static str,
    /// Our way.
    pub ours: Contender,
    /// The others' ways.
    pub peers: Vec<Contender>,
}

impl Case {
    /// A case measured in nanoseconds per operation.
    #[must_use]
    pub const fn new(name: &'static str, ours: Contender) -> Self {
        Self { name, unit: "ns/op", ours, peers: Vec::new() }
    }

    /// Adds a peer.
    #[must_use]
    pub fn peer(mut self, peer: Contender) -> Self {
        self.peers.push(peer);
        self
    }

    /// Names the unit where one iteration is not one operation, such as `ns/pass`. The time is
    /// always nanoseconds per iteration.
    #[must_use]
    pub const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    /// Ours, then the peers.
    pub fn contenders(&self) -> impl Iterator<Item = &Contender> {
        std::iter::once(&self.ours).chain(&self.peers)
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("name", &self.name)
            .field("unit", &self.unit)
            .field("ours", &self.ours)
            .field("peers", &self.peers)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use crate::areas::AREAS;

    #[test]
    fn names_are_unique_and_fit_on_one_line() {
        let mut areas = HashSet::new();
        for area in AREAS {
            assert!(areas.insert(area.name), "two areas are called {}", area.name);
            let mut names = HashSet::new();
            for case in (area.cases)() {
                assert!(names.insert(case.name), "{}: two cases {}", area.name, case.name);
                let mut contenders = HashSet::new();
                for contender in case.contenders() {
                    assert!(contenders.insert(contender.name), "{}: {}", case.name, contender.name);
                }
                // They are fields of tab-separated lines, and names are parts of criterion's ids.
                assert!(!case.unit.is_empty() && !case.unit.contains(['\t', '\n']));
                for name in [area.name, case.name].into_iter().chain(contenders) {
                    assert!(!name.is_empty() && !name.contains(['\t', '\n', '/']), "{name:?}");
                }
            }
            for footprint in (area.footprints)() {
                assert!(names.insert(footprint.name), "{}: two {}", area.name, footprint.name);
                let mut makers = HashSet::new();
                for maker in footprint.makers() {
                    assert!(makers.insert(maker.name), "{}: {}", footprint.name, maker.name);
                }
                for text in [footprint.name, footprint.unit].into_iter().chain(makers) {
                    assert!(!text.is_empty() && !text.contains(['\t', '\n']), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn everything_can_be_weighed() {
        for area in AREAS {
            for footprint in (area.footprints)() {
                for maker in footprint.makers() {
                    // Nothing is counted here, so that only what is no heap is seen.
                    let bytes = (maker.weigh)(&|| 0);
                    assert!(bytes > 0.0, "{}: {bytes}", footprint.name);
                }
            }
        }
    }

    #[test]
    fn every_contender_runs() {
        for area in AREAS {
            for case in (area.cases)() {
                for contender in case.contenders() {
                    for iterations in [1, 7] {
                        let _ = (contender.run)(iterations);
                    }
                }
            }
        }
    }
}
