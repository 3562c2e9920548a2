//! The two directions that an arena's cursor can move in.

use crate::bumping::{Place, Request, place_down, place_up};

mod sealed {
    use super::{Place, Request};

    pub trait Sealed: 'static {
        const UPWARDS: bool;

        /// Where a block goes in what is free between `cursor` and `limit`.
        fn place(cursor: usize, limit: usize, request: Request, min_align: usize) -> Option<Place>;
    }
}

pub(crate) use sealed::Sealed;

/// The direction in which an arena's cursor moves: [`Up`] or [`Down`].
pub trait Direction: Sealed {}

/// From low addresses to high ones. The latest block grows and shrinks where it lies, so that
/// vectors and strings do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Up;

/// From high addresses to low ones. The latest block is moved to grow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Down;

impl Sealed for Up {
    const UPWARDS: bool = true;

    #[inline(always)]
    fn place(cursor: usize, limit: usize, request: Request, min_align: usize) -> Option<Place> {
        place_up(cursor, limit, request, min_align)
    }
}

impl Sealed for Down {
    const UPWARDS: bool = false;

    #[inline(always)]
    fn place(cursor: usize, limit: usize, request: Request, min_align: usize) -> Option<Place> {
        place_down(cursor, limit, request, min_align)
    }
}

impl Direction for Up {}
impl Direction for Down {}
