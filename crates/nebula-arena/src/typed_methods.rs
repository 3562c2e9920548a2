//! How values are put into the arenas of one type, said once: `store` finds the room.

/// Defines `alloc` and its kin for a typed arena with a field `store` that has `room_for_one` and
/// `room_for`, and a method `allocator`.
macro_rules! typed_methods {
    (impl [$($generics:tt)*] $type:ty) => {
        impl<$($generics)*> $type {
            /// Moves `value` into the arena.
            ///
            /// # Panics
            /// If the arena is refused a chunk.
            #[inline(always)]
            #[track_caller]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn alloc(&self, value: T) -> &mut T {
                match self.try_alloc(value) {
                    Ok(place) => place,
                    Err(refusal) => $crate::making::refused(refusal.into_error()),
                }
            }

            /// Moves `value` into the arena.
            ///
            /// # Errors
            /// `value` is handed back if the arena is refused a chunk.
            #[inline(always)]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn try_alloc(&self, value: T) -> Result<&mut T, ::nebula_memory_core::Refused<T>> {
                let mut place = match self.store.room_for_one::<T>() {
                    Ok(place) => place,
                    Err(error) => return Err(::nebula_memory_core::Refused::new(value, error)),
                };
                // SAFETY: the place is aligned, has room for a `T`, and is nobody else's.
                unsafe { place.write(value) };
                // SAFETY: it is initialised now, and stays valid while the arena is borrowed.
                Ok(unsafe { place.as_mut() })
            }

            /// Moves what `make` makes into the arena. `make` runs first, so that it may use the arena, and
            /// may panic: the arena is as it left it then.
            ///
            /// # Panics
            /// If the arena is refused a chunk, or `make` panics.
            #[inline]
            #[track_caller]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn alloc_with(&self, make: impl FnOnce() -> T) -> &mut T {
                self.alloc(make())
            }

            /// As [`alloc_with`](Self::alloc_with).
            ///
            /// # Errors
            /// What `make` made is handed back if the arena is refused a chunk.
            #[inline]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn try_alloc_with(&self, make: impl FnOnce() -> T) -> Result<&mut T, ::nebula_memory_core::Refused<T>> {
                self.try_alloc(make())
            }

            /// Moves all of `values` into the arena, one behind the other in memory.
            ///
            /// They are collected in a buffer from the arena's allocator first: the iterator may use the
            /// arena, and may panic, which leaves the arena as it was.
            ///
            /// # Panics
            /// If the arena is refused a chunk or the buffer, or the iterator panics.
            #[track_caller]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn alloc_extend(&self, values: impl IntoIterator<Item = T>) -> &mut [T] {
                match self.try_alloc_extend(values) {
                    Ok(slice) => slice,
                    Err(error) => $crate::making::refused(error),
                }
            }

            /// As [`alloc_extend`](Self::alloc_extend).
            ///
            /// # Errors
            /// If the arena is refused a chunk or the buffer; the values taken from the iterator so far are
            /// dropped, and the arena is as it was.
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn try_alloc_extend(
                &self,
                values: impl IntoIterator<Item = T>,
            ) -> Result<&mut [T], ::nebula_memory_core::MemoryError> {
                let mut values = $crate::typed_store::collect(self.allocator(), values)?;
                let len = values.len();
                let first = self.store.room_for::<T>(len)?;
                // SAFETY: the room is aligned, fresh, and large enough for them all.
                unsafe { first.as_ptr().copy_from_nonoverlapping(values.as_ptr(), len) };
                // SAFETY: no value is left in the buffer: they have moved.
                unsafe { values.set_len(0) };
                // SAFETY: the values are initialised, stay valid while the arena is borrowed, and nobody
                // else knows them.
                Ok(unsafe { ::std::ptr::NonNull::slice_from_raw_parts(first, len).as_mut() })
            }
        }
    };
}

pub(crate) use typed_methods;
