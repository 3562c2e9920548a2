//! Where new objects come from.

use std::alloc::Layout;

use nebula_memory_core::MemoryError;

/// A factory without its type: what a pool holds.
pub(crate) type SharedFactory<T> = Box<dyn Create<T> + Send + Sync>;

/// A factory that stays on its thread.
pub(crate) type LocalFactory<T> = Box<dyn Create<T>>;

/// Makes objects. The way in is a closure; see [`boxed`].
pub(crate) trait Create<T> {
    fn create(&self) -> Result<T, MemoryError>;
}

/// An array of one, because that is what a vector, the only fallible way to a box, turns into.
impl<T, F: Fn() -> Result<T, MemoryError>> Create<T> for [F; 1] {
    fn create(&self) -> Result<T, MemoryError> {
        let [factory] = self;
        factory()
    }
}

impl<T, C: Create<T> + ?Sized> Create<T> for Box<C> {
    fn create(&self) -> Result<T, MemoryError> {
        (**self).create()
    }
}

/// Moves `factory` to the heap, where it takes `size_of::<F>()` bytes.
///
/// # Errors
/// If the system has no memory for it.
pub(crate) fn boxed<F>(factory: F) -> Result<Box<[F; 1]>, MemoryError> {
    let mut one = Vec::new();
    let refused = |_| MemoryError::out_of_memory(Layout::new::<F>());
    one.try_reserve_exact(1).map_err(refused)?;
    one.push(factory);
    match Box::<[F; 1]>::try_from(one) {
        Ok(boxed) => Ok(boxed),
        Err(_) => unreachable!("a vector of one is an array of one"),
    }
}
