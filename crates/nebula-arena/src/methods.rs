//! The methods with which values, slices and strings are made, said once for all arenas.

/// Defines them for a type. `lifetime 'x of self 'x` makes what they return borrow `self`;
/// `lifetime 's of self` gives it a lifetime of the type's own. The allocator is the type whose
/// shared reference vectors hold. The closure finds the `Source`.
macro_rules! allocation_methods {
    (
        impl [$($generics:tt)*] $type:ty;
        lifetime $a:lifetime of self $($of_self:lifetime)?;
        allocator $allocator:ty;
        |$this:ident| $source:expr
    ) => {
        /// Values, slices and strings. Each method has a `try_` twin that reports a refused chunk
        /// as an error.
        impl<$($generics)*> $type {
            /// Moves `value` into the arena.
            ///
            /// # Panics
            /// If the arena is refused a chunk.
            #[inline(always)]
            #[track_caller]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn alloc<$($of_self,)? T>(&$($of_self)? self, value: T) -> &$a mut T {
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
            pub fn try_alloc<$($of_self,)? T>(
                &$($of_self)? self,
                value: T,
            ) -> Result<&$a mut T, ::nebula_memory_core::Refused<T>> {
                const { $crate::making::NoDrop::<T>::REQUIRED };
                let $this = self;
                $crate::making::value($source, value)
            }

            /// Moves `value` into the arena; its `Drop` never runs, so that what it owns elsewhere
            /// leaks.
            ///
            /// # Panics
            /// If the arena is refused a chunk.
            #[inline]
            #[track_caller]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn alloc_without_drop<$($of_self,)? T>(&$($of_self)? self, value: T) -> &$a mut T {
                match self.try_alloc_without_drop(value) {
                    Ok(place) => place,
                    Err(refusal) => $crate::making::refused(refusal.into_error()),
                }
            }

            /// As [`alloc_without_drop`](Self::alloc_without_drop).
            ///
            /// # Errors
            /// `value` is handed back if the arena is refused a chunk.
            #[inline]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn try_alloc_without_drop<$($of_self,)? T>(
                &$($of_self)? self,
                value: T,
            ) -> Result<&$a mut T, ::nebula_memory_core::Refused<T>> {
                let $this = self;
                $crate::making::value($source, value)
            }

            /// Moves `value` into the arena and returns a box that will drop it.
            ///
            /// # Panics
            /// If the arena is refused a chunk.
            #[inline(always)]
            #[track_caller]
            pub fn alloc_boxed<$($of_self,)? T>(
                &$($of_self)? self,
                value: T,
            ) -> $crate::ArenaBox<$a, T> {
                match self.try_alloc_boxed(value) {
                    Ok(boxed) => boxed,
                    Err(refusal) => $crate::making::refused(refusal.into_error()),
                }
            }

            /// As [`alloc_boxed`](Self::alloc_boxed).
            ///
            /// # Errors
            /// `value` is handed back if the arena is refused a chunk.
            #[inline(always)]
            pub fn try_alloc_boxed<$($of_self,)? T>(
                &$($of_self)? self,
                value: T,
            ) -> Result<$crate::ArenaBox<$a, T>, ::nebula_memory_core::Refused<T>> {
                let $this = self;
                $crate::making::boxed($source, value)
            }

            /// Makes a value in the arena with `make`, which runs after room was found for it: a
            /// large one is made in its place. If `make` panics, the room stays unused.
            ///
            /// # Panics
            /// If the arena is refused a chunk, or `make` panics.
            #[inline(always)]
            #[track_caller]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn alloc_with<$($of_self,)? T>(
                &$($of_self)? self,
                make: impl FnOnce() -> T,
            ) -> &$a mut T {
                match self.try_alloc_with(make) {
                    Ok(place) => place,
                    Err(error) => $crate::making::refused(error),
                }
            }

            /// As [`alloc_with`](Self::alloc_with).
            ///
            /// # Errors
            /// If the arena is refused a chunk; `make` is not called then.
            #[inline(always)]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn try_alloc_with<$($of_self,)? T>(
                &$($of_self)? self,
                make: impl FnOnce() -> T,
            ) -> Result<&$a mut T, ::nebula_memory_core::MemoryError> {
                const { $crate::making::NoDrop::<T>::REQUIRED };
                let $this = self;
                $crate::making::value_with($source, make)
            }

            /// Makes a value in the arena with `make`, which may fail; the room is given back then,
            /// unless `make` itself used the arena.
            ///
            /// # Errors
            /// What `make` returns.
            ///
            /// # Panics
            /// If the arena is refused a chunk, or `make` panics.
            #[inline]
            #[track_caller]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn alloc_try_with<$($of_self,)? T, E>(
                &$($of_self)? self,
                make: impl FnOnce() -> Result<T, E>,
            ) -> Result<&$a mut T, E> {
                match self.try_alloc_try_with(make) {
                    Ok(made) => made,
                    Err(error) => $crate::making::refused(error),
                }
            }

            /// As [`alloc_try_with`](Self::alloc_try_with).
            ///
            /// # Errors
            /// The outer one if the arena is refused a chunk; `make` is not called then. The inner
            /// one is what `make` returns.
            #[inline]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn try_alloc_try_with<$($of_self,)? T, E>(
                &$($of_self)? self,
                make: impl FnOnce() -> Result<T, E>,
            ) -> Result<Result<&$a mut T, E>, ::nebula_memory_core::MemoryError> {
                const { $crate::making::NoDrop::<T>::REQUIRED };
                let $this = self;
                $crate::making::value_try_with($source, make)
            }

            /// Room for a `T`, not initialised.
            ///
            /// # Panics
            /// If the arena is refused a chunk.
            #[inline(always)]
            #[track_caller]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn alloc_uninit<$($of_self,)? T>(
                &$($of_self)? self,
            ) -> &$a mut ::std::mem::MaybeUninit<T> {
                match self.try_alloc_uninit() {
                    Ok(place) => place,
                    Err(error) => $crate::making::refused(error),
                }
            }

            /// As [`alloc_uninit`](Self::alloc_uninit).
            ///
            /// # Errors
            /// If the arena is refused a chunk.
            #[inline(always)]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn try_alloc_uninit<$($of_self,)? T>(
                &$($of_self)? self,
            ) -> Result<&$a mut ::std::mem::MaybeUninit<T>, ::nebula_memory_core::MemoryError> {
                let $this = self;
                $crate::making::uninit($source)
            }

            /// Room for `len` values, not initialised.
            ///
            /// # Panics
            /// If the arena is refused a chunk.
            #[inline]
            #[track_caller]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn alloc_uninit_slice<$($of_self,)? T>(
                &$($of_self)? self,
                len: usize,
            ) -> &$a mut [::std::mem::MaybeUninit<T>] {
                match self.try_alloc_uninit_slice(len) {
                    Ok(slice) => slice,
                    Err(error) => $crate::making::refused(error),
                }
            }

            /// As [`alloc_uninit_slice`](Self::alloc_uninit_slice).
            ///
            /// # Errors
            /// If the arena is refused a chunk, or no slice can be that long.
            #[inline]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn try_alloc_uninit_slice<$($of_self,)? T>(
                &$($of_self)? self,
                len: usize,
            ) -> Result<&$a mut [::std::mem::MaybeUninit<T>], ::nebula_memory_core::MemoryError> {
                let $this = self;
                $crate::making::uninit_slice($source, len)
            }

            /// Copies `values` into the arena.
            ///
            /// # Panics
            /// If the arena is refused a chunk.
            #[inline]
            #[track_caller]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn alloc_slice_copy<$($of_self,)? T: Copy>(
                &$($of_self)? self,
                values: &[T],
            ) -> &$a mut [T] {
                match self.try_alloc_slice_copy(values) {
                    Ok(slice) => slice,
                    Err(error) => $crate::making::refused(error),
                }
            }

            /// As [`alloc_slice_copy`](Self::alloc_slice_copy).
            ///
            /// # Errors
            /// If the arena is refused a chunk.
            #[inline]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn try_alloc_slice_copy<$($of_self,)? T: Copy>(
                &$($of_self)? self,
                values: &[T],
            ) -> Result<&$a mut [T], ::nebula_memory_core::MemoryError> {
                let $this = self;
                $crate::making::slice_copy($source, values)
            }

            /// Clones `values` into the arena.
            ///
            /// # Panics
            /// If the arena is refused a chunk, or a `clone` panics.
            #[inline]
            #[track_caller]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn alloc_slice_clone<$($of_self,)? T: Clone>(
                &$($of_self)? self,
                values: &[T],
            ) -> &$a mut [T] {
                self.alloc_slice_with(values.len(), |i| values[i].clone())
            }

            /// As [`alloc_slice_clone`](Self::alloc_slice_clone).
            ///
            /// # Errors
            /// If the arena is refused a chunk.
            #[inline]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn try_alloc_slice_clone<$($of_self,)? T: Clone>(
                &$($of_self)? self,
                values: &[T],
            ) -> Result<&$a mut [T], ::nebula_memory_core::MemoryError> {
                self.try_alloc_slice_with(values.len(), |i| values[i].clone())
            }

            /// A slice of `len` clones of `value`.
            ///
            /// # Panics
            /// If the arena is refused a chunk, or a `clone` panics.
            #[inline]
            #[track_caller]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            #[allow(clippy::needless_pass_by_value, reason = "as vec! does")]
            pub fn alloc_slice_fill<$($of_self,)? T: Clone>(
                &$($of_self)? self,
                len: usize,
                value: T,
            ) -> &$a mut [T] {
                self.alloc_slice_with(len, |_| value.clone())
            }

            /// As [`alloc_slice_fill`](Self::alloc_slice_fill).
            ///
            /// # Errors
            /// If the arena is refused a chunk, or no slice can be that long.
            #[inline]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            #[allow(clippy::needless_pass_by_value, reason = "as vec! does")]
            pub fn try_alloc_slice_fill<$($of_self,)? T: Clone>(
                &$($of_self)? self,
                len: usize,
                value: T,
            ) -> Result<&$a mut [T], ::nebula_memory_core::MemoryError> {
                self.try_alloc_slice_with(len, |_| value.clone())
            }

            /// A slice of `len` values, made one after the other by `make`, which is told the
            /// index.
            ///
            /// # Panics
            /// If the arena is refused a chunk, or `make` panics.
            #[inline]
            #[track_caller]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn alloc_slice_with<$($of_self,)? T>(
                &$($of_self)? self,
                len: usize,
                make: impl FnMut(usize) -> T,
            ) -> &$a mut [T] {
                match self.try_alloc_slice_with(len, make) {
                    Ok(slice) => slice,
                    Err(error) => $crate::making::refused(error),
                }
            }

            /// As [`alloc_slice_with`](Self::alloc_slice_with).
            ///
            /// # Errors
            /// If the arena is refused a chunk, or no slice can be that long; `make` is not called
            /// then.
            #[inline]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn try_alloc_slice_with<$($of_self,)? T>(
                &$($of_self)? self,
                len: usize,
                make: impl FnMut(usize) -> T,
            ) -> Result<&$a mut [T], ::nebula_memory_core::MemoryError> {
                const { $crate::making::NoDrop::<T>::REQUIRED };
                let $this = self;
                $crate::making::slice_with($source, len, make)
            }

            /// As [`alloc_slice_with`](Self::alloc_slice_with), in a box that will drop the
            /// values. If `make` panics, those that were made are dropped.
            ///
            /// # Panics
            /// If the arena is refused a chunk, or `make` panics.
            #[inline]
            #[track_caller]
            pub fn alloc_boxed_slice_with<$($of_self,)? T>(
                &$($of_self)? self,
                len: usize,
                make: impl FnMut(usize) -> T,
            ) -> $crate::ArenaBox<$a, [T]> {
                match self.try_alloc_boxed_slice_with(len, make) {
                    Ok(slice) => slice,
                    Err(error) => $crate::making::refused(error),
                }
            }

            /// As [`alloc_boxed_slice_with`](Self::alloc_boxed_slice_with).
            ///
            /// # Errors
            /// If the arena is refused a chunk, or no slice can be that long; `make` is not called
            /// then.
            #[inline]
            pub fn try_alloc_boxed_slice_with<$($of_self,)? T>(
                &$($of_self)? self,
                len: usize,
                make: impl FnMut(usize) -> T,
            ) -> Result<$crate::ArenaBox<$a, [T]>, ::nebula_memory_core::MemoryError> {
                let $this = self;
                $crate::making::boxed_slice_with($source, len, make)
            }

            /// Collects `values` in a slice. They are written to the end of the arena as they
            /// come; where the iterator cannot tell how many there will be, the slice grows there.
            ///
            /// # Panics
            /// If the arena is refused a chunk, or the iterator panics.
            #[inline]
            #[track_caller]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn alloc_slice_from_iter<$($of_self,)? T>(
                &$($of_self)? self,
                values: impl IntoIterator<Item = T>,
            ) -> &$a mut [T] {
                match self.try_alloc_slice_from_iter(values) {
                    Ok(slice) => slice,
                    Err(error) => $crate::making::refused(error),
                }
            }

            /// As [`alloc_slice_from_iter`](Self::alloc_slice_from_iter).
            ///
            /// # Errors
            /// If the arena is refused a chunk; the values taken from the iterator so far are lost.
            #[inline]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn try_alloc_slice_from_iter<$($of_self,)? T>(
                &$($of_self)? self,
                values: impl IntoIterator<Item = T>,
            ) -> Result<&$a mut [T], ::nebula_memory_core::MemoryError> {
                let $this = self;
                let source = $source;
                let mut slice = $crate::ArenaVec::new_in(source);
                let values = values.into_iter();
                slice.try_reserve(values.size_hint().0)?;
                for value in values {
                    slice.try_push(value).map_err(::nebula_memory_core::Refused::into_error)?;
                }
                Ok(slice.into_slice())
            }

            /// Copies `text` into the arena.
            ///
            /// # Panics
            /// If the arena is refused a chunk.
            #[inline]
            #[track_caller]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn alloc_str<$($of_self)?>(&$($of_self)? self, text: &str) -> &$a mut str {
                match self.try_alloc_str(text) {
                    Ok(copy) => copy,
                    Err(error) => $crate::making::refused(error),
                }
            }

            /// As [`alloc_str`](Self::alloc_str).
            ///
            /// # Errors
            /// If the arena is refused a chunk.
            #[inline]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn try_alloc_str<$($of_self)?>(
                &$($of_self)? self,
                text: &str,
            ) -> Result<&$a mut str, ::nebula_memory_core::MemoryError> {
                let $this = self;
                $crate::making::str_copy($source, text)
            }

            /// Formats into the arena: `alloc_fmt(format_args!("{x:?}"))`. Text without arguments
            /// is copied.
            ///
            /// # Panics
            /// If the arena is refused a chunk, or a formatter fails or panics.
            #[track_caller]
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn alloc_fmt<$($of_self)?>(
                &$($of_self)? self,
                arguments: ::std::fmt::Arguments<'_>,
            ) -> &$a mut str {
                match self.try_alloc_fmt(arguments) {
                    Ok(text) => text,
                    Err(error) => $crate::making::refused(error),
                }
            }

            /// As [`alloc_fmt`](Self::alloc_fmt).
            ///
            /// # Errors
            /// If the arena is refused a chunk.
            ///
            /// # Panics
            /// If a formatter fails although it was not refused a byte, or panics.
            #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
            pub fn try_alloc_fmt<$($of_self)?>(
                &$($of_self)? self,
                arguments: ::std::fmt::Arguments<'_>,
            ) -> Result<&$a mut str, ::nebula_memory_core::MemoryError> {
                let $this = self;
                let source = $source;
                match arguments.as_str() {
                    Some(text) => $crate::making::str_copy(source, text),
                    None => $crate::string::format($crate::ArenaString::new_in(source), arguments),
                }
            }

            /// An empty vector in the arena, whose values need no `Drop`. Takes no room yet.
            #[inline]
            pub const fn vec<T>(&self) -> $crate::ArenaVec<'_, T, $allocator> {
                $crate::ArenaVec::new_in(self)
            }

            /// An empty string in the arena. Takes no room yet.
            #[inline]
            pub const fn string(&self) -> $crate::ArenaString<'_, $allocator> {
                $crate::ArenaString::new_in(self)
            }
        }
    };
}

pub(crate) use allocation_methods;
