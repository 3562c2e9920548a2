//! Where new objects come from.

use std::alloc::Layout;

use nebula_memory_core::MemoryError;

/// A factory without its type: what a pool holds.
pub(crate) type BoxedFactory<T> = Box<dyn Create<T> + Send + Sync>;

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

/// Moves `factory` to the heap, where it takes `size_of::<F>()` bytes.
///
/// # Errors
/// If the system has no memory for it.
pub(crate) fn boxed<T, F>(factory: F) -> Result<BoxedFactory<T>, MemoryError>
where
    F: Fn() -> Result<T, MemoryError> + Send + Sync + 'static,
{
    let mut one = Vec::new();
    let refused = |_| MemoryError::out_of_memory(Layout::new::<F>());
    one.try_reserve_exact(1).map_err(refused)?;
    one.push(factory);
    match Box::<[F; 1]>::try_from(one) {
        Ok(boxed) => Ok(boxed),
        Err(_) => unreachable!("a vector of one is an array of one"),
    }
}
