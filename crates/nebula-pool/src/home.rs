//! What guards ask of the pool that an object goes back to.

use std::{ops::Deref, ptr::NonNull};

use crate::{Poolable, slot::Slot};

/// The slot type of a pool.
pub(crate) type SlotOf<P> = Slot<<P as Home>::Object, <P as Home>::Head>;

/// The pool's side of a guard. Not to be implemented outside of this crate, where it has no name.
///
/// # Safety
/// What the guards rely on: a slot given out to a guard is the guard's alone, has an object, and
/// stays where it is for as long as the pool lives, until it is given back by one of these methods.
pub unsafe trait Home: Sized {
    /// What is lent.
    type Object: Poolable;
    /// What this pool keeps in each slot.
    type Head;
    /// What keeps the pool alive: an `Arc` or an `Rc` of it.
    type Handle: Deref<Target = Self>;

    /// Takes an object back.
    ///
    /// # Safety
    /// `slot` was given out by this pool, and is given back by this.
    unsafe fn take_back(&self, slot: NonNull<Slot<Self::Object, Self::Head>>);

    /// Lets an object go for good.
    ///
    /// # Safety
    /// `slot` was given out by this pool, and is given back by this.
    unsafe fn detach(&self, slot: NonNull<Slot<Self::Object, Self::Head>>) -> Self::Object;
}
