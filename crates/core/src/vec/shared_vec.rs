//! [`SharedVec`]: allocation, the host's borrows, and the verbs for kernel arguments.
#![allow(unsafe_code, reason = "the only place that turns arena bytes into references")]

use std::{
    fmt,
    marker::PhantomData,
    ops::{Range, RangeBounds},
    sync::Arc,
};

use bytemuck::Pod;

use super::{
    Buffer,
    arguments::{Read, Update, Write, resolve},
};
use crate::{
    access::Access,
    directory::{Directory, InFlight, PageSpan, Residency},
    engine::Fence,
    error::Error,
    host::{HostSpan, Taken},
    kernel::{Argument, ArgumentFault},
    node::DeviceId,
    runtime::Runtime,
    stats::Cause,
};

/// A vector whose pages live where they were last needed: in host memory, in a device's, or in both while nobody writes.
///
/// The host borrows ranges with [`SharedVec::host`] and [`SharedVec::host_mut`]; kernels get the vector through
/// [`SharedVec::read`], [`SharedVec::update`] and [`SharedVec::write`]. The borrows are ordinary Rust borrows: while a
/// slice is out, no launch that writes the vector can be made, and nothing else moves the bytes under it.
///
/// `T` is [`Pod`] (any bits are a value, no padding) and not zero-sized. A vector that was never written reads as zeros and costs no
/// memory.
pub struct SharedVec<T: Pod> {
    pub(super) runtime: Runtime,
    pub(super) buffer: Arc<Buffer>,
    pub(super) len: usize,
    element: PhantomData<T>,
}

impl<T: Pod> SharedVec<T> {
    pub(super) const ELEMENT_BYTES: usize = {
        assert!(size_of::<T>() > 0, "a SharedVec of zero-sized elements has nothing to share");
        size_of::<T>()
    };

    /// A vector of `len` zeros. Costs address space only, until it is written.
    ///
    /// # Errors
    /// [`Error::LengthOverflow`]; [`Error::Host`] when the address window is full.
    pub fn new(runtime: &Runtime, len: usize) -> Result<Self, Error> {
        let overflow = Error::LengthOverflow { len, element_bytes: Self::ELEMENT_BYTES };
        let bytes = len.checked_mul(Self::ELEMENT_BYTES).ok_or(overflow)?;
        let inner = runtime.inner();
        let taken = if bytes == 0 {
            Taken { span: HostSpan { offset_bytes: 0, len_bytes: 0 }, is_used: false }
        } else {
            inner.take_span(bytes as u64)?
        };
        let buffer = Arc::new(Buffer::new(inner.id, taken));
        Ok(Self { runtime: runtime.clone(), buffer, len, element: PhantomData })
    }

    /// A vector whose element `i` is `element(i)`.
    ///
    /// # Errors
    /// As [`SharedVec::new`].
    pub fn from_fn(
        runtime: &Runtime,
        len: usize,
        mut element: impl FnMut(usize) -> T,
    ) -> Result<Self, Error> {
        let mut vec = Self::new(runtime, len)?;
        for (i, slot) in vec.host_mut(..)?.iter_mut().enumerate() {
            *slot = element(i);
        }
        Ok(vec)
    }

    /// A vector with the elements of a slice, copied.
    ///
    /// # Errors
    /// As [`SharedVec::new`].
    pub fn from_slice(runtime: &Runtime, elements: &[T]) -> Result<Self, Error> {
        let mut vec = Self::new(runtime, elements.len())?;
        vec.host_mut(..)?.copy_from_slice(elements);
        Ok(vec)
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The runtime that it belongs to.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// A range for the host to read, in bulk: waits for kernels that write it and brings home what only devices hold.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; what happened to the range before ([`Error::WorkFailed`], [`Error::DeviceLost`],
    /// [`Error::DataLost`]); [`Error::Device`] when a copy was refused; [`Error::FenceTimedOut`].
    pub fn host(&self, range: impl RangeBounds<usize>) -> Result<&[T], Error> {
        let elements = self.resolve(range)?;
        self.host_access(&elements, Access::Read)?;
        // SAFETY: (1) the elements lie in the buffer's span of the arena, which is mapped while `self.runtime` lives, and pages are
        // aligned for any T, (2) any bytes are a T, which is Pod, (3) nobody writes them while `self` is borrowed: the call
        // above waited for every writer of the host's copy, kernels that write need `&mut self`, and the engine copies onto host
        // pages only where the host's copy is not valid, which these are now.
        Ok(unsafe { std::slice::from_raw_parts(self.start(&elements), elements.len()) })
    }

    /// A range for the host to read and write: waits for kernels that use it, brings home what only devices hold, and makes the host's
    /// copy the only one before it returns.
    ///
    /// # Errors
    /// As [`SharedVec::host`].
    pub fn host_mut(&mut self, range: impl RangeBounds<usize>) -> Result<&mut [T], Error> {
        let elements = self.resolve(range)?;
        self.host_access(&elements, Access::Update)?;
        let start = self.start(&elements).cast_mut();
        // SAFETY: as in `host`; exclusive because `self` is borrowed exclusively, the call above waited for everything in flight that
        // touches the host's copy, and the buffer's pages belong to this vector alone.
        Ok(unsafe { std::slice::from_raw_parts_mut(start, elements.len()) })
    }

    /// The vector as a kernel argument that is only read.
    pub fn read(&self) -> Read<'_, T> {
        Read::new(&self.buffer, self.len)
    }

    /// The vector as a kernel argument that is read and written.
    pub fn update(&mut self) -> Update<'_, T> {
        Update::new(&self.buffer, self.len)
    }

    /// The vector as a kernel argument that is overwritten whole: nothing is copied to the device for it.
    pub fn write(&mut self) -> Write<'_, T> {
        Write::new(&self.buffer, self.len)
    }

    /// Brings a range to a device ahead of the launch that needs it there. The host's copy stays good, so slices may be out. Asynchronous: the
    /// fence ends with the copies; a launch waits for them by itself. Nothing happens where nothing has to move.
    ///
    /// # Errors
    /// As [`Runtime::launch_on`], with [`Error::OutOfRange`] for the range.
    pub fn prefetch(
        &self,
        range: impl RangeBounds<usize>,
        device: DeviceId,
    ) -> Result<Fence, Error> {
        let elements = self.resolve(range)?;
        let argument = Argument::from(self.read().range(elements));
        let array = argument.bind();
        let array = array.map_err(|source| Error::Arguments { kernel: "prefetch", source })?;
        self.runtime.prefetch(device, &array)
    }

    /// Memory that the library keeps to know where the vector's pages are, in bytes.
    pub fn footprint_bytes(&self) -> usize {
        let directory_bytes = self.buffer.state.lock().directory.footprint_bytes();
        size_of::<Buffer>() - size_of::<Directory>() + directory_bytes
    }

    /// Who holds the pages of a range, without moving or waiting for anything.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn residency(&self, range: impl RangeBounds<usize>) -> Result<Vec<Residency>, Error> {
        let span = self.pages(&self.resolve(range)?);
        let mut state = self.buffer.state.lock();
        self.runtime.inner().settle(&mut state, span);
        Ok(state.directory.residency(span))
    }

    /// The work on a range that has not ended, without waiting for any of it and without taking note of what has.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn in_flight(&self, range: impl RangeBounds<usize>) -> Result<Vec<InFlight>, Error> {
        let span = self.pages(&self.resolve(range)?);
        let mut work = self.buffer.state.lock().directory.in_flight(span);
        work.retain(|work| !self.runtime.inner().poll(work.fence).has_ended());
        Ok(work)
    }

    /// The elements, copied out.
    ///
    /// # Errors
    /// As [`SharedVec::host`].
    pub fn to_vec(&self) -> Result<Vec<T>, Error> {
        Ok(self.host(..)?.to_vec())
    }

    /// A vector of its own with the same elements.
    ///
    /// # Errors
    /// As [`SharedVec::host`] and [`SharedVec::new`].
    pub fn try_clone(&self) -> Result<Self, Error> {
        Self::from_slice(&self.runtime, self.host(..)?)
    }

    fn resolve(&self, range: impl RangeBounds<usize>) -> Result<Range<usize>, Error> {
        resolve(&range, self.len).map_err(|fault| match fault {
            ArgumentFault::OutOfRange { start, end, len } => Error::OutOfRange { start, end, len },
            ArgumentFault::TooLarge { .. } | ArgumentFault::Order => {
                Error::OutOfRange { start: 0, end: 0, len: self.len }
            }
        })
    }

    fn host_access(&self, elements: &Range<usize>, access: Access) -> Result<(), Error> {
        let span = self.pages(elements);
        self.runtime.inner().host_access(&self.buffer, span, access, Cause::Guard)
    }

    fn pages(&self, elements: &Range<usize>) -> PageSpan {
        let size = Self::ELEMENT_BYTES as u64;
        PageSpan::touching(&(elements.start as u64 * size..elements.end as u64 * size))
    }

    /// Where an element range begins; dangling but aligned when there is none.
    fn start(&self, elements: &Range<usize>) -> *const T {
        if elements.is_empty() {
            return std::ptr::dangling();
        }
        let view = self.runtime.inner().arena.view();
        view.pointer(self.buffer.span).cast::<T>().wrapping_add(elements.start)
    }
}

impl<T: Pod> Drop for SharedVec<T> {
    fn drop(&mut self) {
        self.runtime.inner().retire(self.buffer.clone());
    }
}

impl<T: Pod> fmt::Debug for SharedVec<T> {
    /// Says what it is and where, never what is in it: printing moves nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedVec")
            .field("element", &std::any::type_name::<T>())
            .field("len", &self.len)
            .field("residency", &self.residency(..).unwrap_or_default())
            .finish()
    }
}
