//! Kernel arguments: a vector, a range of it, and what the kernel does with it.

use std::{
    fmt,
    marker::PhantomData,
    num::NonZeroUsize,
    ops::{Bound, Range, RangeBounds},
    sync::Arc,
};

use bytemuck::Pod;

use super::{Buffer, Hinge};
use crate::kernel::ArgumentFault;

macro_rules! argument {
    ($(#[$doc:meta])* $name:ident, $borrow:ty) => {
        $(#[$doc])*
        pub struct $name<'a, T> {
            buffer: &'a Arc<Buffer>,
            hinge: Hinge<'a>,
            elements: Result<Range<usize>, ArgumentFault>,
            vec_len: usize,
            per_item: Option<NonZeroUsize>,
            borrow: PhantomData<$borrow>,
        }

        impl<'a, T: Pod> $name<'a, T> {
            pub(super) fn new(buffer: &'a Arc<Buffer>, hinge: Hinge<'a>, len: usize) -> Self {
                let (elements, borrow) = (Ok(0..len), PhantomData);
                Self { buffer, hinge, elements, vec_len: len, per_item: None, borrow }
            }

            /// Only these elements, counted within what the argument covers so far. A range that does not lie there is
            /// reported by the launch.
            #[must_use]
            pub fn range(mut self, range: impl RangeBounds<usize>) -> Self {
                self.elements = self.elements.and_then(|covered| {
                    let part = resolve(&range, covered.len())?;
                    Ok(covered.start + part.start..covered.start + part.end)
                });
                self
            }

            /// Item `i` of the grid (row `i` of a plane) uses only the elements `i * per_item..(i + 1) * per_item` of what the argument
            /// covers, and what it computes does not depend on its number.
            ///
            /// A launch that does not fit its device is then run in tiles, one after another, each with its part of the arguments
            /// that say this, and the whole of the others. An argument that is overwritten whole ([`super::SharedVec::write`]) has to
            /// say it, if any does. Zero says nothing.
            #[must_use]
            pub fn split(mut self, per_item: usize) -> Self {
                self.per_item = NonZeroUsize::new(per_item);
                self
            }

            pub(crate) fn per_item(&self) -> Option<NonZeroUsize> {
                self.per_item
            }

            pub(crate) fn buffer(&self) -> &'a Arc<Buffer> {
                self.buffer
            }

            pub(crate) fn hinge(&self) -> Hinge<'a> {
                self.hinge
            }

            pub(crate) fn vec_len(&self) -> usize {
                self.vec_len
            }

            pub(crate) fn elements(&self) -> Result<Range<usize>, ArgumentFault> {
                self.elements.clone()
            }
        }

        impl<T> fmt::Debug for $name<'_, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("elements", &self.elements)
                    .finish_non_exhaustive()
            }
        }
    };
}

argument!(
    /// A kernel argument that is only read: [`super::SharedVec::read`].
    Read,
    &'a [T]
);
argument!(
    /// A kernel argument that is read and written: [`super::SharedVec::update`].
    Update,
    &'a mut [T]
);
argument!(
    /// A kernel argument that is overwritten whole: [`super::SharedVec::write`].
    Write,
    &'a mut [T]
);

/// The elements that `range` means in a vector of `len`.
pub(super) fn resolve(
    range: &impl RangeBounds<usize>,
    len: usize,
) -> Result<Range<usize>, ArgumentFault> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => len,
    };
    if start <= end && end <= len {
        Ok(start..end)
    } else {
        Err(ArgumentFault::OutOfRange { start, end, len })
    }
}
