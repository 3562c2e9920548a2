//! What an object has to say for itself in order to live in a pool.

/// An object that a pool can lend again and again.
///
/// The pool calls these while it holds no lock. A panic in any of them costs the object (it is
/// dropped and counted as quarantined), never the pool.
///
/// ```
/// use nebula_pool::Poolable;
///
/// /// A parser with a scratch buffer.
/// struct Parser { scratch: Vec<u8>, errors: usize }
///
/// impl Poolable for Parser {
///     fn reset(&mut self) {
///         self.scratch.clear();
///         self.errors = 0;
///     }
///     fn is_valid(&self) -> bool {
///         self.errors == 0
///     }
///     fn heap_size(&self) -> usize {
///         self.scratch.capacity()
///     }
/// }
/// ```
pub trait Poolable {
    /// Makes the object as good as new. Called when it comes back, before anybody else can have it.
    ///
    /// It may come back from a thread that is panicking, in whatever state that left it.
    fn reset(&mut self);

    /// What pools call in the place of [`reset`](Self::reset), for objects that cannot always be made
    /// as good as new: `false` if this one is no good any more. Then it is dropped, and counted as
    /// [spoiled](crate::PoolStats::spoiled).
    ///
    /// ```
    /// use nebula_pool::{Poolable, PoolConfig, ThreadSafePool};
    ///
    /// struct Session { in_transaction: bool, broken: bool }
    ///
    /// impl Poolable for Session {
    ///     fn reset(&mut self) {
    ///         self.in_transaction = false;
    ///     }
    ///     fn try_reset(&mut self) -> bool {
    ///         self.reset();
    ///         !self.broken
    ///     }
    ///     fn heap_size(&self) -> usize {
    ///         0
    ///     }
    /// }
    ///
    /// let make = || Session { in_transaction: false, broken: false };
    /// let pool = ThreadSafePool::new(&PoolConfig::default(), make)?;
    /// pool.try_get()?.broken = true;
    /// assert_eq!((pool.stats().idle, pool.stats().spoiled), (0, 1));
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    fn try_reset(&mut self) -> bool {
        self.reset();
        true
    }

    /// Whether the object may be lent once more. Asked when an idle object is about to be lent; if
    /// the answer is no, it is dropped and a new one is made in its place.
    fn is_valid(&self) -> bool {
        true
    }

    /// Bytes of memory that the object owns outside of itself: what is allocated, not what is
    /// filled, and without `size_of::<Self>()`, which the pool's table of slots contains.
    ///
    /// This is what the pool charges to its account. It is asked once when the object has been made
    /// and each time it has come back and been [`reset`](Self::reset); what an object grows by while
    /// it is lent is charged when it comes back.
    fn heap_size(&self) -> usize;

    /// How much the object is worth keeping. When some have to go, those of the least value go
    /// first. Asked when `heap_size` is.
    fn value(&self) -> u64 {
        0
    }

    /// Gives memory back, so that `heap_size` is `largest` or less. Asked of an object that comes
    /// back larger than the pool keeps, if the pool is to [trim](crate::Oversized::Trim) such
    /// objects; one that is still too large after that, as it is by default, is dropped.
    fn shrink_to(&mut self, largest: usize) {
        let _ = largest;
    }

    /// Ends the object: called with each object that the pool drops, for whatever reason, in place
    /// of its drop; not with those that leave the pool by `detach`. A connection says goodbye here.
    ///
    /// A panic stays inside the pool.
    fn destroy(self)
    where
        Self: Sized,
    {
        drop(self);
    }
}

/// Cleared on return, with its capacity kept. What the elements own themselves is not in
/// `heap_size`: after a return there are none.
impl<T> Poolable for Vec<T> {
    fn reset(&mut self) {
        self.clear();
    }

    fn heap_size(&self) -> usize {
        // A vector of zero-sized elements has any capacity for nothing; no other product overflows,
        // because it has been allocated.
        self.capacity().wrapping_mul(size_of::<T>())
    }

    fn shrink_to(&mut self, largest: usize) {
        if let Some(elements) = largest.checked_div(size_of::<T>()) {
            Vec::shrink_to(self, elements);
        }
    }
}

/// Cleared on return, with its capacity kept.
impl Poolable for String {
    fn reset(&mut self) {
        self.clear();
    }

    fn heap_size(&self) -> usize {
        self.capacity()
    }

    fn shrink_to(&mut self, largest: usize) {
        String::shrink_to(self, largest);
    }
}

/// The object in the box, and the box.
impl<T: Poolable> Poolable for Box<T> {
    fn reset(&mut self) {
        (**self).reset();
    }

    fn try_reset(&mut self) -> bool {
        (**self).try_reset()
    }

    fn is_valid(&self) -> bool {
        (**self).is_valid()
    }

    fn heap_size(&self) -> usize {
        (**self).heap_size().saturating_add(size_of::<T>())
    }

    fn value(&self) -> u64 {
        (**self).value()
    }

    fn shrink_to(&mut self, largest: usize) {
        (**self).shrink_to(largest.saturating_sub(size_of::<T>()));
    }

    fn destroy(self) {
        (*self).destroy();
    }
}

#[cfg(test)]
mod tests {
    use super::Poolable;

    #[test]
    fn buffers_are_cleared_and_sized_by_capacity() {
        let mut numbers = Vec::<u32>::with_capacity(10);
        numbers.push(1);
        numbers.reset();
        assert!(numbers.is_empty());
        assert_eq!(numbers.heap_size(), numbers.capacity() * 4);

        let mut text = String::from("nebula");
        text.reset();
        assert!(text.is_empty() && text.is_valid());
        assert_eq!(text.heap_size(), text.capacity());
        assert_eq!(vec![(); 5].heap_size(), 0);
    }

    #[test]
    fn buffers_shrink_as_far_as_they_are_asked_to() {
        let mut numbers = Vec::<u32>::with_capacity(100);
        Poolable::shrink_to(&mut numbers, 43);
        assert!(numbers.heap_size() <= 43 && numbers.capacity() >= 10);
        let mut text = String::with_capacity(100);
        Poolable::shrink_to(&mut text, 10);
        assert_eq!(text.capacity(), 10);
        let mut boxed = Box::new(Vec::<u8>::with_capacity(100));
        Poolable::shrink_to(&mut boxed, 40);
        assert!(boxed.heap_size() <= 40);
        Poolable::shrink_to(&mut vec![(); 5], 0);
    }

    #[test]
    fn a_box_passes_on_values_and_goodbyes() {
        struct Guest<'a>(&'a std::cell::Cell<u32>);
        impl Poolable for Guest<'_> {
            fn reset(&mut self) {}
            fn heap_size(&self) -> usize {
                0
            }
            fn value(&self) -> u64 {
                7
            }
            fn destroy(self) {
                self.0.set(self.0.get() + 1);
            }
        }
        let goodbyes = std::cell::Cell::new(0);
        let boxed = Box::new(Guest(&goodbyes));
        assert_eq!(boxed.value(), 7);
        boxed.destroy();
        assert_eq!(goodbyes.get(), 1);
    }

    #[test]
    fn a_box_adds_itself() {
        let mut boxed = Box::new(Vec::<u8>::with_capacity(100));
        boxed.push(1);
        boxed.reset();
        assert!(boxed.is_empty() && boxed.is_valid());
        assert_eq!(boxed.heap_size(), boxed.capacity() + size_of::<Vec<u8>>());
    }
}
