//! Blocks of plain bytes, for pools of buffers of one size.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    fmt,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

use nebula_memory_core::MemoryError;

use crate::{PoolConfig, Poolable, config::BLOCK_ALIGN};

/// A block of bytes of a fixed size, at an address that is a multiple of 16: for buffers that never
/// grow, and are not cleared in between.
///
/// A block is zeroed when it is made, and comes back to its next user as the last one left it.
///
/// ```
/// use nebula_memory_core::ByteSize;
/// use nebula_pool::{Block, ObjectPool, PoolConfig};
///
/// let config = PoolConfig::builder().block_size(ByteSize::kib(16)).build()?;
/// let pool = ObjectPool::try_new(&config, Block::factory(&config)?)?;
/// let mut block = pool.try_get()?;
/// block[..5].copy_from_slice(b"hello");
/// assert_eq!((block.len(), block.as_ptr().addr() % 16), (16 << 10, 0));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a block owns its bytes, as a box does.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// A block of `size` bytes.
    ///
    /// # Errors
    /// If `size` is not above zero and a multiple of 16, or the system has no memory for it.
    pub fn try_new(size: usize) -> Result<Self, MemoryError> {
        let refused = MemoryError::InvalidLayout { size, align: BLOCK_ALIGN };
        if size == 0 || size % BLOCK_ALIGN != 0 {
            return Err(refused);
        }
        let layout = Layout::from_size_align(size, BLOCK_ALIGN).map_err(|_| refused)?;
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => Ok(Self { start, layout }),
            None => Err(MemoryError::out_of_memory(layout)),
        }
    }

    /// A factory of blocks of the configured [`block_size`](PoolConfig::block_size), for any pool.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if `config` is not valid.
    pub fn factory(
        config: &PoolConfig,
    ) -> Result<impl Fn() -> Result<Self, MemoryError> + Send + Sync + use<>, MemoryError> {
        config.validate()?;
        let size = config.block_size.get();
        Ok(move || Self::try_new(size))
    }
}

impl Deref for Block {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let bytes = NonNull::slice_from_raw_parts(self.start, self.layout.size());
        // SAFETY: the block owns these bytes, which were zeroed and are thus initialised; exclusive
        // references come from an exclusive borrow of the block.
        unsafe { bytes.as_ref() }
    }
}

impl DerefMut for Block {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let mut bytes = NonNull::slice_from_raw_parts(self.start, self.layout.size());
        // SAFETY: as in `deref`; the block is borrowed exclusively.
        unsafe { bytes.as_mut() }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and is not used after this.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

impl Poolable for Block {
    #[inline]
    fn reset(&mut self) {}

    #[inline]
    fn heap_size(&self) -> usize {
        self.layout.size()
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("size", &self.layout.size()).finish_non_exhaustive()
    }
}
