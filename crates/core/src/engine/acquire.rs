//! Vectors for the caller's own command buffers: addresses and waits now, the signal when it is submitted.
//!
//! ```text
//! acquire(device, [x.read(), y.update()]) -> Acquired { arrays: address and length, waits }
//!     record and submit on the caller's queue: wait for `waits`, touch the arrays, signal a timeline
//! acquired.release(signal) -> Fence
//! ```
//!
//! Between the two the vectors stay borrowed and their pages stay where they are. The library is told of the work only by `release`, so work
//! that was never submitted is given up by dropping the [`Acquired`].

use std::sync::atomic::Ordering::Relaxed;

use smallvec::SmallVec;

use super::{
    ledger::Doing,
    locked::Locked,
    peers::Marks,
    wait::Fence,
    working_set::{Brought, Use, WorkingSet},
};
use crate::{
    backend::DeviceError,
    error::Error,
    fence::FencePoint,
    home::HomeError,
    kernel::{Argument, BoundArray},
    node::DeviceId,
    runtime::Runtime,
    stats::Cause,
};

/// An array as a device reaches it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceArray {
    /// The device address of the first element; 0 when there is none.
    pub address: u64,
    /// The length in bytes.
    pub len_bytes: u64,
}

/// Vectors that are where a device reaches them, and stay there until they are released.
///
/// Whoever submits work on the addresses promises what an `unsafe impl Kernel` promises (only these arrays, no write to one that
/// was acquired for reading, a `write` overwritten whole), that the work waits for [`Acquired::waits`], and
/// that [`Acquired::release`] is called with its signal before this value goes.
///
/// Forgetting it ([`std::mem::forget`]) gives up work that was never submitted, as dropping it does, and leaks: the vectors stay as usable as they
/// were, but the pages that they have on the device are never evicted while the vectors live, so a launch may find too little room and
/// say so, and the runtime stays open until the process ends; peers that had to give the pages back for it get no addresses of them any more
/// ([`crate::peer::PeerError::TimedOut`]). Dropping the vectors gives their memory back all the same.
#[derive(Debug)]
pub struct Acquired<'a> {
    runtime: Runtime,
    device: DeviceId,
    bound: SmallVec<[BoundArray<'a>; 6]>,
    uses: SmallVec<[Use; 6]>,
    arrays: Vec<DeviceArray>,
    waits: Vec<FencePoint>,
    /// Set by the release: the pages are not kept in place any more.
    released: bool,
    /// No peer maps what the caller's work may be writing.
    _marks: Marks,
}

impl Runtime {
    /// Brings vectors to a device for work that the caller submits. The arguments are made by `.into()` from what
    /// [`crate::SharedVec::read`], `update` and `write` return.
    ///
    /// # Errors
    /// As [`Runtime::launch_on`].
    pub fn acquire<'a>(
        &self,
        device: DeviceId,
        arguments: impl IntoIterator<Item = Argument<'a>>,
    ) -> Result<Acquired<'a>, Error> {
        const NAME: &str = "acquire";
        let inner = self.inner();
        let open = inner.open(device)?;
        // Some of these values are of hundreds of bytes: they are made where they stay.
        let mut bound = SmallVec::<[BoundArray<'a>; 6]>::new();
        for argument in arguments {
            let array = argument.bind();
            bound.push(array.map_err(|source| Error::Arguments { kernel: NAME, source })?);
        }
        let foreign = bound.iter().position(|array| array.buffer.runtime_id != inner.id);
        if let Some(argument) = foreign {
            return Err(Error::ForeignVector { kernel: NAME, argument });
        }
        // What a home grants lies in a file of its own.
        let mut of_files = bound.iter().filter(|array| array.buffer.file.is_some());
        if of_files.any(|array| array.buffer.state.lock().grants.is_some()) {
            return Err(Error::Home { pages: 0..0, source: HomeError::Acquired });
        }
        let set = WorkingSet {
            inner,
            open,
            arrays: &bound,
            cause: Cause::Launch,
            doing: Doing::Acquired,
            queue: &[],
        };
        let (mut kept, mut arrays, mut waits_for) = (SmallVec::new(), Vec::new(), Vec::new());
        let mut marked = Marks::default();
        let brought = set.bring(|locked, Brought { uses, waits, marks, .. }| {
            let all = bound.iter().map(|array| {
                let len_bytes = array.bytes.end - array.bytes.start;
                let address = if len_bytes == 0 { 0 } else { locked.address(array, uses, open) };
                DeviceArray { address, len_bytes }
            });
            arrays = all.collect();
            locked.hold();
            marked = std::mem::take(marks);
            waits_for = waits.as_slice().to_vec();
            kept.extend_from_slice(uses);
            Ok(())
        });
        inner.tell_losses();
        brought?;
        Ok(Acquired {
            runtime: self.clone(),
            device,
            bound,
            uses: kept,
            arrays,
            waits: waits_for,
            released: false,
            _marks: marked,
        })
    }
}

impl Acquired<'_> {
    /// The arrays in the order of the arguments.
    pub fn arrays(&self) -> &[DeviceArray] {
        &self.arrays
    }

    /// Fences of the device that the caller's work must wait for before it touches the arrays.
    pub fn waits(&self) -> &[FencePoint] {
        &self.waits
    }

    /// Says that the work was submitted and which value of which timeline it signals.
    ///
    /// # Errors
    /// [`Error::Device`] with [`DeviceError::Misuse`] when the timeline is not one of the device's; [`Error::Host`] when pages could not be taken
    /// away from the program.
    pub fn release(mut self, signal: FencePoint) -> Result<Fence, Error> {
        let inner = self.runtime.inner();
        if signal.timeline.device() != self.device {
            let what = "the signal's timeline belongs to another device";
            return Err(inner.refused(inner.open(self.device)?, DeviceError::Misuse { what }));
        }
        let last_use = inner.counters.launches.load(Relaxed);
        // A late answer to a fault may have mapped pages since they were acquired.
        let left: Option<Result<(), Error>> = self.with_locked(|set, locked| {
            let left = set.leave_user_view(locked, &self.uses);
            // The work was submitted, whatever comes of this.
            locked.record(&inner.recorder, signal, &self.uses, (Cause::Launch, last_use));
            locked.let_go();
            left
        });
        self.released = true;
        left.unwrap_or(Ok(()))?;
        Ok(Fence::new(self.runtime.clone(), Some(signal)))
    }

    fn with_locked<R>(
        &self,
        work: impl FnOnce(WorkingSet<'_, '_>, &mut Locked<'_>) -> R,
    ) -> Option<R> {
        let inner = self.runtime.inner();
        let open = inner.opened(self.device)?;
        let set = WorkingSet {
            inner,
            open,
            arrays: &self.bound,
            cause: Cause::Launch,
            doing: Doing::Acquired,
            queue: &[],
        };
        Some(work(set, &mut Locked::new(&set.buffers())))
    }
}

impl Drop for Acquired<'_> {
    fn drop(&mut self) {
        if !self.released {
            self.with_locked(|_, locked| locked.let_go());
        }
    }
}
