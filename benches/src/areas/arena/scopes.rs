//! Scopes: sixteen values, then back to where it began.

use std::hint::black_box;

use super::{Bump, BumpScope, BumpScope8, Bumpalo, Ours, Ours8, ROOM, contender};
use crate::{Case, Contender};

/// Values in a scope.
const VALUES: usize = 16;

/// An arena with scopes.
trait Scopes: Bump {
    /// A scope with sixteen values.
    fn sixteen(&mut self, value: &[u64; 8]);
}

impl Scopes for Bumpalo {
    /// It has no scopes: what they are taken for where they don't nest.
    #[inline(always)]
    fn sixteen(&mut self, value: &[u64; 8]) {
        for _ in 0..VALUES {
            black_box(self.value(*value));
        }
        self.reset();
    }
}

/// `$scope` is the method that runs a closure with a scope.
macro_rules! scopes {
    ($arena:ty, $scope:ident) => {
        impl Scopes for $arena {
            #[inline(always)]
            fn sixteen(&mut self, value: &[u64; 8]) {
                self.$scope(|scope| {
                    for _ in 0..VALUES {
                        black_box(scope.alloc(*value));
                    }
                });
            }
        }
    };
}

scopes!(Ours, scope);
scopes!(Ours8, scope);
scopes!(BumpScope, scoped);
scopes!(BumpScope8, scoped);

/// An iteration is one value.
fn values<A: Scopes>(name: &'static str) -> Contender {
    contender::<A, _>(
        name,
        ROOM / 64,
        || vec![[7; 8]],
        |arena, values, now| {
            for _ in 0..now.div_ceil(VALUES) {
                arena.sixteen(&values[0]);
            }
        },
    )
}

/// The cases.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("64 B value, 16 in a scope", values::<Ours>("ours"))
            .peer(values::<BumpScope>("bump-scope"))
            .peer(values::<Bumpalo>("bumpalo")),
        Case::new("64 B value, 16 in a scope, min align 8", values::<Ours8>("ours"))
            .peer(values::<BumpScope8>("bump-scope")),
    ]
}
