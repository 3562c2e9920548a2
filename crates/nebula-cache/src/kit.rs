//! What a cache is made of beside its keys and values, as one type parameter.

use std::{fmt, marker::PhantomData};

use nebula_memory_core::{Account, Unlimited};

use crate::{
    AnyPolicy, Counted, DefaultHashBuilder, Untagged, Untimed, policy::Policy, tags::Tags,
    times::Times, weight::Weight,
};

/// What a cache is made of beside its keys and values: [`With`] is the only one.
///
/// Each choice is made by a call of the [builder](crate::CacheBuilder); the type has to be written
/// only where a cache is named, in a `struct` for example:
///
/// ```
/// use nebula_cache::{CacheConfig, ConcurrentComputeCache, Lru, Timed, Weighed, With};
///
/// struct App {
///     pages: ConcurrentComputeCache<String, String, With<Lru, Weighed, Timed>>,
/// }
///
/// let pages = ConcurrentComputeCache::builder(CacheConfig::default())
///     .with_policy::<Lru>()
///     .with_weigher(|url: &String, page: &String| url.capacity() + page.capacity())
///     .with_expiry()
///     .build()?;
/// let app = App { pages };
/// assert!(app.pages.is_empty());
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub trait Kit: sealed::Kit {}

impl<T: sealed::Kit> Kit for T {}

/// A type that is named and never there.
type Never<T> = PhantomData<fn() -> T>;

/// The policy `P`, what entries keep of their weight (`W`), of time (`T`) and of tags (`G`), the
/// account `A` and the hash function `S` of a cache; see [`Kit`].
///
/// What entries do not keep takes no bytes in them.
pub struct With<
    P = AnyPolicy,
    W = Counted,
    T = Untimed,
    G = Untagged,
    A = Unlimited,
    S = DefaultHashBuilder,
>(Never<(P, W, T, G, A, S)>);

impl<P, W, T, G, A, S> fmt::Debug for With<P, W, T, G, A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("With")
    }
}

pub(crate) mod sealed {
    use super::{Account, Policy, Tags, Times, Weight, With};

    pub trait Kit {
        type Policy: Policy;
        type Weight: Weight;
        type Times: Times;
        type Tags: Tags;
        type Account: Account;
        type Hasher;
    }

    impl<P, W, T, G, A, S> Kit for With<P, W, T, G, A, S>
    where
        P: Policy,
        W: Weight,
        T: Times,
        G: Tags,
        A: Account,
    {
        type Policy = P;
        type Weight = W;
        type Times = T;
        type Tags = G;
        type Account = A;
        type Hasher = S;
    }
}
