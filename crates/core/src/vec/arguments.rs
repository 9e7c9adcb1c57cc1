//! Kernel arguments: a vector, a range of it, and what the kernel does with it.

use std::{
    fmt,
    marker::PhantomData,
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
            borrow: PhantomData<$borrow>,
        }

        impl<'a, T: Pod> $name<'a, T> {
            pub(super) fn new(buffer: &'a Arc<Buffer>, hinge: Hinge<'a>, len: usize) -> Self {
                Self { buffer, hinge, elements: Ok(0..len), vec_len: len, borrow: PhantomData }
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
