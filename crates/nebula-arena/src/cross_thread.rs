//! An arena and a root that borrows from it, as one value.

use std::{fmt, marker::PhantomData, mem::ManuallyDrop, ptr::NonNull};

use nebula_memory_core::{Allocator, Global, MemoryError, Refused};

use crate::{
    Arena, ArenaUsage, CovariantFamily, Family,
    frozen::FrozenArena,
    owner::{ArenaOwner, BoxedArena},
    seat::Seat,
};

/// An arena and a root that borrows from it, as one value: build a graph on one thread, and hand
/// the whole of it to another, memory, root and accounting. Or [`freeze`](Self::freeze) it, and
/// read it from many.
///
/// The root's type is named by a [`Family`], because it borrows from an arena that does not exist
/// before. It is made by a closure, and seen in closures: with no `unsafe`, nothing that borrows
/// from the arena can leave it. It is dropped before the arena.
///
/// ```
/// use nebula_arena::{CrossThreadArena, Family};
///
/// struct Node<'a> {
///     name: &'a str,
///     children: &'a [Node<'a>],
/// }
/// struct Tree;
/// impl Family for Tree {
///     type Of<'a> = &'a Node<'a>;
/// }
///
/// let tree = CrossThreadArena::<Tree>::build(|arena| {
///     let children = arena.alloc_slice_with(3, |i| Node { name: arena.alloc_fmt(format_args!("leaf {i}")), children: &[] });
///     arena.alloc(Node { name: "root", children })
/// });
/// let names = std::thread::spawn(move || tree.with(|root| root.children[2].name.to_owned()));
/// assert_eq!(names.join().unwrap(), "leaf 2");
/// ```
///
/// # What may cross
/// The value is [`Send`] if the root (with any lifetime) and the arena's owner are, and [`Sync`] if
/// the root is. An arena is not `Sync`, and so a root that holds a `&Arena` is neither: vectors,
/// strings and maps that are still growing. Finish them (`into_slice`, `into_str`) before they go
/// into the root, or keep the growing root and [`map`](Self::map) it to a finished one.
///
/// # The owner of the arena
/// `O` is who owns the arena: a box from its own allocator, or the [`Batch`](crate::Batch) of a
/// stream ([`SealedBatch`](crate::SealedBatch)). Root and bookkeeping lie in the arena; so all
/// memory comes from its allocator.
///
/// # What does not compile
/// What lives as long as the allocator's type says may be in the root, and that type keeps saying so:
/// ```compile_fail
/// # use std::marker::PhantomData;
/// # use nebula_arena::{ArenaConfig, CrossThreadArena, Family};
/// # use nebula_memory_core::{Account, Accounted, Global, MemoryError};
/// struct Contra<'x>(PhantomData<fn(&'x ())>);
/// # impl Account for Contra<'_> {
/// #     fn try_charge(&self, _: usize) -> Result<(), MemoryError> { Ok(()) }
/// #     fn credit(&self, _: usize) {}
/// # }
/// # struct Words;
/// # impl Family for Words { type Of<'a> = &'a str; }
/// type Charged<'x> = Accounted<Global, Contra<'x>>;
/// fn make(text: &str) -> CrossThreadArena<Words, Charged<'static>> {
///     fn build<'x>(text: &'x str) -> CrossThreadArena<Words, Charged<'x>> {
///         let allocator = Accounted::new(Global, Contra(PhantomData));
///         CrossThreadArena::build_in(ArenaConfig::default(), allocator, |_| text).unwrap()
///     }
///     build(text)
/// }
/// ```
/// The root does not leave:
/// ```compile_fail
/// # use nebula_arena::{CrossThreadArena, Family};
/// # struct Words;
/// # impl Family for Words { type Of<'a> = &'a str; }
/// let words = CrossThreadArena::<Words>::build(|arena| arena.alloc_str("abc"));
/// let escaped: &str = words.with(|root| *root);
/// ```
/// Nor does the arena:
/// ```compile_fail
/// # use nebula_arena::{CrossThreadArena, Family};
/// # struct Words;
/// # impl Family for Words { type Of<'a> = &'a str; }
/// let mut words = CrossThreadArena::<Words>::build(|arena| arena.alloc_str("abc"));
/// let mut escaped = None;
/// words.with_mut(|arena, _| escaped = Some(arena));
/// ```
/// It holds no reference that the family does not name, but to what is `'static`:
/// ```compile_fail
/// # use nebula_arena::{CrossThreadArena, Family};
/// # struct Words;
/// # impl Family for Words { type Of<'a> = &'a str; }
/// let text = String::from("abc");
/// let words = CrossThreadArena::<Words>::build(|_| text.as_str());
/// ```
/// A root cannot be made to refer to the place where it lies itself:
/// ```compile_fail
/// # use nebula_arena::{CrossThreadArena, Family};
/// # use std::cell::Cell;
/// struct Knot<'a>(Cell<Option<&'a Knot<'a>>>);
/// impl Family for Knot<'static> { type Of<'a> = Knot<'a>; }
/// let knot = CrossThreadArena::<Knot<'static>>::build(|_| Knot(Cell::new(None)));
/// knot.with(|root| root.0.set(Some(root)));
/// ```
/// Two roots cannot be exchanged, for their arenas would not be:
/// ```compile_fail
/// # use nebula_arena::{CrossThreadArena, Family};
/// # struct Words;
/// # impl Family for Words { type Of<'a> = &'a str; }
/// let mut one = CrossThreadArena::<Words>::build(|arena| arena.alloc_str("abc"));
/// let mut two = CrossThreadArena::<Words>::build(|arena| arena.alloc_str("def"));
/// one.with_mut(|_, one| two.with_mut(|_, two| std::mem::swap(one, two)));
/// ```
/// What is not `Send` stays on its thread:
/// ```compile_fail,E0277
/// # use nebula_arena::{CrossThreadArena, Family};
/// struct Shared;
/// impl Family for Shared { type Of<'a> = std::rc::Rc<&'a str>; }
/// let shared = CrossThreadArena::<Shared>::build(|arena| std::rc::Rc::new(&*arena.alloc_str("a")));
/// std::thread::spawn(move || drop(shared));
/// ```
/// A growing vector refers to the arena itself, and stays, too:
/// ```compile_fail,E0277
/// # use nebula_arena::{ArenaVec, CrossThreadArena, Family};
/// struct Growing;
/// impl Family for Growing { type Of<'a> = ArenaVec<'a, u32>; }
/// let growing = CrossThreadArena::<Growing>::build(|arena| arena.vec());
/// std::thread::spawn(move || drop(growing));
/// ```
pub struct CrossThreadArena<F, A = Global, O = BoxedArena<A>>
where
    F: Family,
    A: Allocator,
    O: ArenaOwner<A>,
{
    /// Taken, and ours alone.
    seat: NonNull<Seat<F, O>>,
    /// Invariant: `build` may put into the root whatever lives as long as `A` says.
    owns: PhantomData<*mut (O, A)>,
}

// SAFETY: what moves to the other thread is the root and the arena's owner, which own all that the
// seat leads to. Values in the arena that the root does not lead to are never seen again. The
// arena is not used by anybody else, which is what `ArenaOwner` promises.
unsafe impl<F, A, O> Send for CrossThreadArena<F, A, O>
where
    F: Family,
    for<'a> F::Of<'a>: Send,
    A: Allocator,
    O: ArenaOwner<A> + Send,
{
}

// SAFETY: through `&self`, there are shared references to the root, and nothing else: what asks the
// arena takes `&mut self`, because a root may refer to the arena, be `Sync` by checking its thread,
// and use the arena there.
unsafe impl<F, A, O> Sync for CrossThreadArena<F, A, O>
where
    F: Family,
    for<'a> F::Of<'a>: Sync,
    A: Allocator,
    O: ArenaOwner<A>,
{
}

impl<F, A, O> CrossThreadArena<F, A, O>
where
    F: Family,
    A: Allocator,
    O: ArenaOwner<A>,
{
    /// Makes a root in the arena of `owner`, which is handed back with an error.
    pub(crate) fn try_seat<E: From<MemoryError>>(
        owner: O,
        build: impl for<'a> FnOnce(&'a Arena<A>) -> Result<F::Of<'a>, E>,
    ) -> Result<Self, (O, E)> {
        let vacant = match Seat::<F, O>::vacant(&owner) {
            Ok(vacant) => vacant,
            Err(error) => return Err((owner, error.into())),
        };
        let arena = NonNull::from(owner.arena());
        // SAFETY: the arena stays there as long as the owner lives, also when that moves; it is
        // only borrowed shared. If `build` panics, the owner is dropped after all that it made.
        let root = match build(unsafe { arena.as_ref() }) {
            Ok(root) => root,
            Err(error) => return Err((owner, error)),
        };
        // SAFETY: the seat is in this owner's arena. `build` was made for every lifetime, so that
        // what it returns can borrow from the arena, and from what the family or the allocator
        // name, which the value that we return does, too.
        let seat = unsafe { vacant.take(owner, root) };
        Ok(Self { seat, owns: PhantomData })
    }

    /// A handle on a seat.
    ///
    /// # Safety
    /// The seat is taken, and has no other handle.
    pub(crate) unsafe fn on(seat: NonNull<Seat<F, O>>) -> Self {
        Self { seat, owns: PhantomData }
    }

    /// The seat, which is not ended by the drop of a handle any more.
    fn into_seat(self) -> NonNull<Seat<F, O>> {
        ManuallyDrop::new(self).seat
    }

    pub(crate) fn owner(&self) -> &O {
        // SAFETY: the seat is taken as long as `self` lives.
        unsafe { Seat::owner(self.seat) }
    }

    /// Drops the root, and returns who owns the arena.
    pub(crate) fn into_owner(self) -> O {
        // SAFETY: it is the only handle, and gone.
        unsafe { Seat::end(self.into_seat()) }
    }

    /// Looks at the root.
    pub fn with<R>(&self, look: impl for<'a> FnOnce(&F::Of<'a>) -> R) -> R {
        // SAFETY: the seat is taken as long as `self` lives.
        let root = unsafe { Seat::root(self.seat) };
        // SAFETY: it is initialised, and borrowed shared while `self` is. Its lifetime is one that
        // `look`, which is made for all of them, knows nothing of.
        look(unsafe { root.as_ref() })
    }

    /// Goes on building: changes the root, and allocates in the arena that it borrows from.
    ///
    /// If `change` panics, the root is left as it is then.
    ///
    /// ```
    /// use nebula_arena::{CrossThreadArena, Family};
    ///
    /// struct List<'a>(u32, Option<&'a List<'a>>);
    /// struct Lists;
    /// impl Family for Lists {
    ///     type Of<'a> = Option<&'a List<'a>>;
    /// }
    /// let mut lists = CrossThreadArena::<Lists>::build(|_| None);
    /// for i in 0..3 {
    ///     lists.with_mut(|arena, list| *list = Some(arena.alloc(List(i, *list))));
    /// }
    /// assert_eq!(lists.with(|list| list.unwrap().1.unwrap().0), 1);
    /// ```
    pub fn with_mut<R>(
        &mut self,
        change: impl for<'a> FnOnce(&'a Arena<A>, &mut F::Of<'a>) -> R,
    ) -> R {
        let arena = NonNull::from(self.owner().arena());
        // SAFETY: the seat is taken as long as `self` lives.
        let mut root = unsafe { Seat::root(self.seat) };
        // SAFETY: the root is initialised, and borrowed by nobody else while `self` is.
        let root = unsafe { root.as_mut() };
        // SAFETY: the arena lives as long as the root does, and is only borrowed shared. Both
        // have one lifetime, which `change` knows nothing of.
        change(unsafe { arena.as_ref() }, root)
    }

    /// Makes another root of this one, in the same arena: a finished graph of a growing one.
    ///
    /// # Errors
    /// The value is handed back if the arena has no room for the new root; `map` is not called
    /// then.
    ///
    /// # Panics
    /// If `map` does. Arena and old root are dropped then.
    ///
    /// ```
    /// use nebula_arena::{ArenaVec, CrossThreadArena, Family};
    ///
    /// struct Growing;
    /// impl Family for Growing {
    ///     type Of<'a> = ArenaVec<'a, u32>;
    /// }
    /// struct Finished;
    /// impl Family for Finished {
    ///     type Of<'a> = &'a [u32];
    /// }
    /// let mut growing = CrossThreadArena::<Growing>::build(|arena| arena.vec());
    /// growing.with_mut(|_, numbers| numbers.extend(0..100));
    /// let finished = growing.map::<Finished>(|_, numbers| numbers.into_slice()).unwrap().freeze();
    /// let reader = finished.clone();
    /// let sum = std::thread::spawn(move || reader.with(|numbers| numbers.iter().sum::<u32>()));
    /// assert_eq!(sum.join().unwrap(), 4950);
    /// ```
    pub fn map<G: Family>(
        self,
        map: impl for<'a> FnOnce(&'a Arena<A>, F::Of<'a>) -> G::Of<'a>,
    ) -> Result<CrossThreadArena<G, A, O>, Refused<Self>> {
        let vacant = match Seat::<G, O>::vacant(self.owner()) {
            Ok(vacant) => vacant,
            Err(error) => return Err(Refused::new(self, error)),
        };
        // SAFETY: it is the only handle, and gone. The owner, declared first, is dropped last.
        let (owner, root) = unsafe { Seat::vacate(self.into_seat()) };
        let arena = NonNull::from(owner.arena());
        // SAFETY: as in `try_seat`.
        let root = map(unsafe { arena.as_ref() }, root);
        // SAFETY: as in `try_seat`.
        let seat = unsafe { vacant.take(owner, root) };
        // SAFETY: the seat was just taken.
        Ok(unsafe { CrossThreadArena::on(seat) })
    }

    /// The root, without a closure.
    ///
    /// ```
    /// use nebula_arena::{CovariantFamily, CrossThreadArena, Family};
    ///
    /// struct Words;
    /// impl Family for Words {
    ///     type Of<'a> = &'a str;
    /// }
    /// impl CovariantFamily for Words {
    ///     fn shorten<'s, 'l: 's>(of: &'s Self::Of<'l>) -> &'s Self::Of<'s> {
    ///         of
    ///     }
    /// }
    /// let words = CrossThreadArena::<Words>::build(|arena| arena.alloc_str("to be"));
    /// let text: &str = words.root();
    /// assert_eq!(text, "to be");
    /// ```
    /// It does not outlive the value:
    /// ```compile_fail,E0505
    /// # use nebula_arena::{CovariantFamily, CrossThreadArena, Family};
    /// # struct Words;
    /// # impl Family for Words { type Of<'a> = &'a str; }
    /// # impl CovariantFamily for Words {
    /// #     fn shorten<'s, 'l: 's>(of: &'s Self::Of<'l>) -> &'s Self::Of<'s> { of }
    /// # }
    /// let words = CrossThreadArena::<Words>::build(|arena| arena.alloc_str("to be"));
    /// let text: &str = words.root();
    /// drop(words);
    /// println!("{text}");
    /// ```
    pub fn root(&self) -> &F::Of<'_>
    where
        F: CovariantFamily,
    {
        // SAFETY: the seat is taken as long as `self` lives.
        let root = unsafe { Seat::root(self.seat) };
        // SAFETY: initialised, and borrowed shared while `self` is. Its lifetime is one that
        // `shorten`, which is made for all of them, knows nothing of.
        F::shorten(unsafe { root.as_ref() })
    }

    /// Makes the value one that is read by many: cloned cheaply, read without locks.
    ///
    /// O(1), without an allocation.
    pub fn freeze(mut self) -> FrozenArena<F, A, O> {
        let allocated = self.allocated_bytes();
        // SAFETY: the seat is taken, and its one handle is passed on.
        unsafe { FrozenArena::on(self.into_seat(), allocated) }
    }

    /// Bytes taken from the allocator for the arena: all of its chunks. Its box takes
    /// [`BOX_BYTES`](CrossThreadArena::BOX_BYTES) more.
    pub fn allocated_bytes(&mut self) -> usize {
        self.owner().arena().allocated_bytes()
    }

    /// How the arena's bytes are spent. The root is among what is used.
    pub fn usage(&mut self) -> ArenaUsage {
        self.owner().arena().usage()
    }
}

impl<F, A, O> Drop for CrossThreadArena<F, A, O>
where
    F: Family,
    A: Allocator,
    O: ArenaOwner<A>,
{
    fn drop(&mut self) {
        // SAFETY: it is the only handle, and not used again.
        drop(unsafe { Seat::end(self.seat) });
    }
}

impl<F, A, O> fmt::Debug for CrossThreadArena<F, A, O>
where
    F: Family,
    A: Allocator,
    O: ArenaOwner<A>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the arena's figures: another thread may look at them through the root.
        f.debug_struct("CrossThreadArena").finish_non_exhaustive()
    }
}
