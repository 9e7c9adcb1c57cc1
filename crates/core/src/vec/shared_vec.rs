//! [`SharedVec`]: allocation, the host's borrows, and the verbs for kernel arguments.
#![allow(unsafe_code, reason = "the only place that turns arena bytes into references")]

use std::{
    fmt,
    ops::{Deref, DerefMut, Range, RangeBounds},
    ptr::NonNull,
    slice,
    sync::Arc,
};

use bytemuck::Pod;

use super::{
    Buffer, Gate, Hinge,
    arguments::{Read, Update, Write, resolve},
};
use crate::{
    access::Access,
    directory::{Directory, InFlight, PageSpan, Residency},
    engine::{Fence, Request},
    error::Error,
    host::{HostSpan, MemoryFile, Taken},
    kernel::ArgumentFault,
    node::NodeId,
    runtime::{Inner, Runtime},
    stats::Cause,
    sync::about_to_run_user_code,
};

/// A vector whose pages live where they were last needed: in host memory, in a device's, or in both while nobody writes.
///
/// To the host it is a slice: `y[42]`, `y.iter()`, `&y[..]`; a touch of what is elsewhere brings it home. [`SharedVec::host`] and
/// [`SharedVec::host_mut`] borrow a range in bulk and return errors. Kernels get the vector through
/// [`SharedVec::read`], [`SharedVec::update`] and [`SharedVec::write`]. The borrows are ordinary Rust borrows: while a
/// slice is out, no launch that writes the vector can be made, and nothing else moves the bytes under it.
///
/// `T` is [`Pod`] (any bits are a value, no padding) and not zero-sized. A vector that was never written reads as zeros and costs no
/// memory.
pub struct SharedVec<T: Pod> {
    /// The first element, as the program touches it; dangling but aligned when there is none.
    pub(super) data: NonNull<T>,
    pub(super) len: usize,
    pub(super) gate: Gate,
    pub(super) runtime: Runtime,
    pub(super) buffer: Arc<Buffer>,
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
        Self::over(runtime, len, taken, None)
    }

    /// A vector whose memory is there.
    pub(super) fn over(
        runtime: &Runtime,
        len: usize,
        taken: Taken,
        file: Option<MemoryFile>,
    ) -> Result<Self, Error> {
        let (inner, span) = (runtime.inner(), taken.span);
        // What cannot be written cannot be told of either.
        let view = inner.user_view().filter(|_| file.as_ref().is_none_or(MemoryFile::is_writable));
        let buffer = Arc::new(Buffer::new(runtime, taken, file));
        let data = match view {
            _ if span.len_bytes == 0 => std::ptr::dangling_mut(),
            Some(view) => view.pointer(span).cast::<T>(),
            None => inner.arena.view().pointer(span).cast::<T>(),
        };
        let data = NonNull::new(data).unwrap_or(NonNull::dangling());
        inner.enter(&buffer)?;
        // Without faults the directory has to be told before the first write, and what an earlier vector left has to be zeroed before the
        // first read.
        let gate = Gate::new(view.is_none() && taken.is_used, view.is_none());
        Ok(Self { data, len, gate, runtime: runtime.clone(), buffer })
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
        let elements = vec.host_mut(..)?;
        about_to_run_user_code();
        for (i, slot) in elements.iter_mut().enumerate() {
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

    /// A range for the host to overwrite, in bulk: waits for what uses the host's copy, brings home only pages that the range covers
    /// in part, and makes the host's copy the only one. What the elements hold at first is either zeros or older elements of this
    /// vector, never another's. The way to use a range again that went with a device: it needs nothing of what was there.
    ///
    /// # Errors
    /// As [`SharedVec::host`]; [`Error::DataLost`] only for a page that the range covers in part.
    pub fn overwrite(&mut self, range: impl RangeBounds<usize>) -> Result<&mut [T], Error> {
        let elements = self.resolve(range)?;
        self.host_access(&elements, Access::Write)?;
        let start = self.start(&elements).cast_mut();
        // SAFETY: as in `host_mut`. What was not brought home is old bytes of the arena, which are initialised, and any bits are a `T`.
        Ok(unsafe { std::slice::from_raw_parts_mut(start, elements.len()) })
    }

    /// Gives up what a range holds: it reads as zeros from now on, wherever it is read, and nothing is copied for it. Waits for what uses
    /// the host's copy, not for kernels that work on a copy of their own. A page that the range covers in part is brought
    /// home and zeroed there in part. Devices keep the memory under the range until they need it for something else, and
    /// the host keeps its own. What was lost is whole again, as zeros.
    ///
    /// # Errors
    /// As [`SharedVec::overwrite`]. The pages that the range covers whole hold what they held then.
    pub fn discard(&mut self, range: impl RangeBounds<usize>) -> Result<(), Error> {
        let elements = self.resolve(range)?;
        let (bytes, inside) = (Self::bytes(&elements), self.inside(&elements));
        let inner = self.runtime.inner();
        let discarded = inner.discard(&self.buffer, &bytes, inside);
        inner.tell_losses();
        discarded?;
        if inner.user_view().is_none() {
            // No touch tells the engine that zeros are needed now.
            Hinge::exclusive(&mut self.gate).close();
        }
        Ok(())
    }

    /// Gives up what several ranges hold, in order: [`SharedVec::discard`].
    ///
    /// # Errors
    /// As there; [`Error::OutOfRange`] of any of the ranges before anything is given up.
    pub fn discard_all(
        &mut self,
        ranges: impl IntoIterator<Item = Range<usize>>,
    ) -> Result<(), Error> {
        let ranges: Result<Vec<_>, Error> =
            ranges.into_iter().map(|range| self.resolve(range)).collect();
        ranges?.into_iter().try_for_each(|range| self.discard(range))
    }

    /// The vector as a kernel argument that is only read.
    pub fn read(&self) -> Read<'_, T> {
        Read::new(&self.buffer, Hinge::shared(&self.gate), self.len)
    }

    /// The vector as a kernel argument that is read and written.
    pub fn update(&mut self) -> Update<'_, T> {
        Update::new(&self.buffer, Hinge::exclusive(&mut self.gate), self.len)
    }

    /// The vector as a kernel argument that is overwritten whole: nothing is copied to the device for it.
    pub fn write(&mut self) -> Write<'_, T> {
        Write::new(&self.buffer, Hinge::exclusive(&mut self.gate), self.len)
    }

    /// Brings a range to a node (a device, or [`NodeId::HOST`]) ahead of whoever needs it there. The copies that there are stay good, so slices may be out.
    /// Asynchronous: the fence ends with the copies; launches, guards and touches wait for them by themselves. Nothing happens where nothing has to
    /// move. [`Runtime::prefetch`] does it for several vectors at once.
    ///
    /// # Errors
    /// As [`Runtime::launch_on`], with [`Error::OutOfRange`] for the range.
    pub fn prefetch(
        &self,
        range: impl RangeBounds<usize>,
        node: impl Into<NodeId>,
    ) -> Result<Fence, Error> {
        let elements = self.resolve(range)?;
        self.runtime.prefetch(node, [self.read().range(elements).into()])
    }

    /// Memory that the library keeps to know where the vector's pages are and what was said about them, in bytes.
    pub fn footprint_bytes(&self) -> usize {
        let state = self.buffer.state.lock();
        let grown_bytes = state.directory.footprint_bytes() + state.hints.heap_bytes();
        size_of::<Buffer>() - size_of::<Directory>() + grown_bytes
    }

    /// Who holds the pages of a range, without moving or waiting for anything.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn residency(&self, range: impl RangeBounds<usize>) -> Result<Vec<Residency>, Error> {
        let span = self.pages(&self.resolve(range)?);
        let mut state = self.buffer.state.lock();
        self.runtime.inner().settle(&mut state, span);
        let residency = state.directory.residency(span);
        let peers = state.peers.as_deref();
        Ok(match peers {
            Some(peers) => super::peers::add_peers(residency, peers.entries()),
            None => residency,
        })
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

    pub(super) fn resolve(&self, range: impl RangeBounds<usize>) -> Result<Range<usize>, Error> {
        resolve(&range, self.len).map_err(|fault| match fault {
            ArgumentFault::OutOfRange { start, end, len } => Error::OutOfRange { start, end, len },
            ArgumentFault::TooLarge { .. } | ArgumentFault::Order | ArgumentFault::WholeWrite => {
                Error::OutOfRange { start: 0, end: 0, len: self.len }
            }
        })
    }

    pub(super) fn host_access(&self, elements: &Range<usize>, access: Access) -> Result<(), Error> {
        let inside = self.inside(elements);
        let request = Request { inside, ..Request::by_host(access, self.pages(elements)) };
        let inner = self.runtime.inner();
        let brought = inner.host_access(&self.buffer, request, Cause::Guard);
        inner.tell_losses();
        brought
    }

    pub(super) fn bytes(elements: &Range<usize>) -> Range<u64> {
        let size = Self::ELEMENT_BYTES as u64;
        elements.start as u64 * size..elements.end as u64 * size
    }

    pub(super) fn pages(&self, elements: &Range<usize>) -> PageSpan {
        PageSpan::touching(&Self::bytes(elements))
    }

    /// The pages that the elements cover whole; the last one ends with the vector.
    fn inside(&self, elements: &Range<usize>) -> PageSpan {
        PageSpan::inside(&Self::bytes(elements), Self::bytes(&(0..self.len)).end)
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

// SAFETY: `data` points to elements that the vector owns, as a `Vec` owns its own; who may touch them when is decided by borrows of the
// vector, and `T` may be sent.
unsafe impl<T: Pod + Send> Send for SharedVec<T> {}
// SAFETY: as for Send; a shared borrow gives out shared borrows of elements only.
unsafe impl<T: Pod + Sync> Sync for SharedVec<T> {}

/// Waits for what may touch a vector's memory on the host, and brings the elements there where no touch would.
///
/// It is given what a vector points to and not the vector: of one whose address went to a call that may be made in a loop, the compiler has to load every field
/// anew after each store to an element (measured: 12 times slower).
///
/// # Panics
/// When they cannot be had: the one panic of the library, since an index has nobody to return an error to.
#[cold]
#[inline(never)]
#[track_caller]
fn ask(inner: &Inner, buffer: &Buffer, access: Access) {
    let brought = match inner.buffer_of(buffer) {
        Some(buffer) => {
            let request = Request::by_host(access, buffer.all());
            inner.host_access(&buffer, request, Cause::Fault)
        }
        None => Ok(()),
    };
    inner.tell_losses();
    if let Err(error) = brought {
        let causes: Vec<_> = causes(&error).map(ToString::to_string).collect();
        let causes = causes.join(": ");
        panic!("the elements cannot be had: {causes} (`SharedVec::host` returns this as an error)");
    }
}

/// An error and what led to it.
fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source())
}

impl<T: Pod> Deref for SharedVec<T> {
    type Target = [T];

    /// The elements. A touch of one that is elsewhere brings it home.
    ///
    /// # Panics
    /// When elements that a device works on in place cannot be had, or, without page faults, any: with the cause.
    /// [`SharedVec::host`] returns it as an error. With page faults, a touch of an element that was lost with a device
    /// ends with a signal (SIGBUS).
    #[inline]
    #[track_caller]
    fn deref(&self) -> &[T] {
        if self.gate.asks_to_read() && !self.gate.is_answered() {
            ask(self.runtime.inner(), &self.buffer, Access::Read);
            self.gate.answer();
        }
        // SAFETY: (1) `data` is aligned (arena pages are) and valid for `len` elements while the vector lives; any bits are a `T`. (2)
        // Nobody writes the elements while the borrow lasts: launches and guards that do borrow the vector exclusively, and
        // what was launched before is kept out by the gate, or by the pages not being mapped until it has ended.
        unsafe { slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl<T: Pod> DerefMut for SharedVec<T> {
    /// The elements, to be changed. As [`SharedVec::deref`]; the pages that are written leave the devices.
    #[inline]
    #[track_caller]
    fn deref_mut(&mut self) -> &mut [T] {
        if self.gate.asks_to_write() {
            ask(self.runtime.inner(), &self.buffer, Access::Update);
            self.gate.open();
        }
        // SAFETY: as in `deref`, and nobody reads them: every reader on the host borrows the vector, and devices that read were waited
        // for, by the gate or by the fault that a protected page's first write is.
        unsafe { slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl<'a, T: Pod> IntoIterator for &'a SharedVec<T> {
    type Item = &'a T;
    type IntoIter = slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, T: Pod> IntoIterator for &'a mut SharedVec<T> {
    type Item = &'a mut T;
    type IntoIter = slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
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
