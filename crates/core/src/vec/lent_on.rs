//! [`LentOn`]: a vector that peers may write in a device's memory.

use std::{
    fmt,
    ops::RangeBounds,
    sync::{Arc, OnceLock},
};

use bytemuck::Pod;

use super::{DeviceDmaBuf, Refused, SharedVec, dma_buf::GivenOut};
use crate::{
    access::Access,
    directory::Residency,
    error::Error,
    kernel::{Argument, BoundArray},
    node::DeviceId,
    peer::{Peer, PeerMapping},
    runtime::Runtime,
};

/// A vector whose pages are in one device's memory and stay there, for peers to read and write while its owner has nothing of it. [`super::Lent`] is the same on the
/// host, where the owner works on the elements beside the peers.
///
/// A peer that does not reach that device's memory gets no addresses: nothing moves for it. Forgetting it leaves everything as it is, for the rest of the process. Dropping
/// it tells the peers, and its memory stays until they have given it back.
pub struct LentOn<T: Pod> {
    vec: SharedVec<T>,
    device: DeviceId,
    /// As a dma-buf, once it was asked for.
    given_out: OnceLock<Box<GivenOut>>,
}

impl<T: Pod> SharedVec<T> {
    /// Gives the vector up, so that peers may write it in a device's memory. All pages go there.
    ///
    /// # Errors
    /// The vector, with what kept it: a peer that is late or pins it elsewhere, no room on the device ([`Error::OutOfDeviceMemory`]), what happened to its pages before.
    pub fn lend_on(mut self, device: DeviceId) -> Result<LentOn<T>, Refused<Self>> {
        let lent = self.lend_whole(device);
        match lent {
            Ok(()) => Ok(LentOn { vec: self, device, given_out: OnceLock::new() }),
            Err(source) => Err(Refused { value: self, source }),
        }
    }

    fn lend_whole(&mut self, device: DeviceId) -> Result<(), Error> {
        let inner = Arc::clone(self.runtime.inner());
        let open = inner.open(device)?;
        let array: BoundArray<'_> = Argument::from(self.update())
            .bind()
            .map_err(|source| Error::Arguments { kernel: "lend_on", source })?;
        inner.lend_on(open, &array)
    }
}

impl<T: Pod> LentOn<T> {
    /// Takes write access back from everybody: the mappings of dynamic peers are taken back as for a move. When this returns, nobody writes. The pages stay where they
    /// are, and come home as they are touched.
    ///
    /// What was given out as a dma-buf moves to other memory, with one copy; peers' mappings end with it.
    ///
    /// # Errors
    /// The lent vector, with [`Error::Pinned`] by a static peer that may write, or [`Error::PeerLate`]; [`Error::Host`] when there is no memory to move to. It can be
    /// tried again.
    #[allow(
        clippy::result_large_err,
        reason = "a few words more than a vector, which comes back as well"
    )]
    pub fn take_back(self) -> Result<SharedVec<T>, Refused<Self>> {
        match self.end() {
            Ok(None) => Ok(self.vec),
            Ok(Some(moved)) => Ok(moved),
            Err(source) => Err(Refused { value: self, source }),
        }
    }

    /// Ends the lending; where the vector is from then on, if elsewhere.
    fn end(&self) -> Result<Option<SharedVec<T>>, Error> {
        let SharedVec { runtime, buffer, .. } = &self.vec;
        let Some(given_out) = self.given_out.get() else {
            return runtime.inner().end_lending(buffer).map(|()| None);
        };
        // In case there is no memory for it, before anything is taken from anybody.
        let mut moved = match &buffer.file {
            Some(_) => SharedVec::shareable(runtime, self.len())?,
            None => SharedVec::new(runtime, self.len())?,
        };
        given_out.ends();
        runtime.inner().end_lending(buffer)?;
        moved.host_mut(..)?.copy_from_slice(self.vec.host(..)?);
        Ok(Some(moved))
    }

    /// The one dma-buf that there is of it.
    pub(super) fn give_out(
        &self,
        make: impl FnOnce() -> Result<GivenOut, Error>,
    ) -> Result<DeviceDmaBuf, Error> {
        if let Some(given_out) = self.given_out.get() {
            return Ok(given_out.buffer().clone());
        }
        let made = Box::new(make()?);
        Ok(self.given_out.get_or_init(|| made).buffer().clone())
    }

    /// Gives a peer addresses of a range, for reading or for both ([`Access::Update`]; [`Access::Write`] is the same here). They lead to the device's memory. A dynamic peer
    /// keeps them until the vector is taken back; a static one pins them.
    ///
    /// # Errors
    /// As [`SharedVec::map_peer`]; [`crate::peer::PeerError::Unreachable`] when the peer does not reach the device's memory.
    pub fn map_peer(
        &self,
        peer: Arc<dyn Peer>,
        range: impl RangeBounds<usize>,
        access: Access,
    ) -> Result<PeerMapping, Error> {
        let access = if access.writes() { Access::Update } else { Access::Read };
        self.vec.map_for(peer, range, access)
    }

    /// The device whose memory it is in.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        self.vec.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.vec.is_empty()
    }

    /// The runtime that it belongs to.
    pub fn runtime(&self) -> &Runtime {
        self.vec.runtime()
    }

    /// Who has the pages of a range: the device, with how many peers.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn residency(&self, range: impl RangeBounds<usize>) -> Result<Vec<Residency>, Error> {
        self.vec.residency(range)
    }
}

impl<T: Pod> fmt::Debug for LentOn<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LentOn").field("vec", &self.vec).field("device", &self.device).finish()
    }
}
