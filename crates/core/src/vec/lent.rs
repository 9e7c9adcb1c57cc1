//! [`Lent`]: a vector that peers may write.

use std::{fmt, ops::RangeBounds, sync::Arc};

use bytemuck::Pod;

use super::{Mappable, Punch, SharedVec};
use crate::{
    access::Access,
    directory::Residency,
    error::Error,
    host::{HostError, MemoryFile, SharedMemory, Sharing},
    peer::{Peer, PeerMapping},
    runtime::Runtime,
};

/// A vector that peers may write while its owner uses it: on the host, by copying elements in and out. Slices and launches come back with
/// [`Lent::take_back`].
///
/// Nobody is told of single writes: who orders owner and peers is their own protocol. Forgetting it ([`std::mem::forget`]) leaves everything as it is, for the rest of
/// the process. Dropping it tells the peers, and its memory stays until they have given it back.
pub struct Lent<T: Pod> {
    pub(super) vec: SharedVec<T>,
}

/// What could not be done, with what it was to be done to.
pub struct Refused<V> {
    /// As it was.
    pub value: V,
    /// Why.
    pub source: Error,
}

impl<T: Pod> SharedVec<T> {
    /// Gives up slices and launches, so that peers may write. All pages come to the host, and stay there.
    ///
    /// # Errors
    /// The vector, with what kept it: a peer that is late or pins it on a device, what happened to its pages before, as [`SharedVec::host`].
    pub fn lend(self) -> Result<Lent<T>, Refused<Self>> {
        match self.runtime.inner().lend(&self.buffer) {
            Ok(()) => Ok(Lent { vec: self }),
            Err(source) => Err(Refused { value: self, source }),
        }
    }
}

impl<T: Pod> Lent<T> {
    /// Takes write access back from everybody: the mappings of dynamic peers are taken back as for a move. When this returns, nobody writes.
    ///
    /// No process can be made to forget a descriptor. So a vector whose file was given out to be written ([`Sharing::Write`]) moves to a new file of its own, with one
    /// copy; who kept the old one, late or hostile, writes what is nobody's any more. Peers' mappings end with it.
    ///
    /// # Errors
    /// The lent vector, with [`Error::Pinned`] by a static peer that may write, or [`Error::PeerLate`]; [`Error::Host`] when there is no memory to move to. It can be
    /// tried again.
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
        let out = buffer.file.as_ref().map_or(Ok(false), MemoryFile::is_out_to_be_written);
        let moves = out.map_err(HostError::NotShared)?;
        // In case there is none, before anything is taken from anybody.
        let moved = moves.then(|| SharedVec::shareable(runtime, self.len())).transpose()?;
        runtime.inner().end_lending(buffer)?;
        let Some(mut moved) = moved else { return Ok(None) };
        self.vec.copy_out(0, moved.host_mut(..)?)?;
        Ok(Some(moved))
    }

    /// Gives a peer addresses of a range, for reading or for both ([`Access::Update`]; [`Access::Write`] is the same here). They are the host's. A dynamic peer keeps them
    /// until the vector is taken back; a static one pins them.
    ///
    /// # Errors
    /// As [`SharedVec::map_peer`].
    pub fn map_peer(
        &self,
        peer: Arc<dyn Peer>,
        range: impl RangeBounds<usize>,
        access: Access,
    ) -> Result<PeerMapping, Error> {
        let access = if access.writes() { Access::Update } else { Access::Read };
        self.vec.map_for(peer, range, access)
    }

    /// The way to map it for peers that are not there yet, for writing: [`SharedVec::mappable`].
    pub fn mappable(&self) -> Mappable {
        self.vec.mappable_for(Access::Update)
    }

    /// The file of a shareable vector: [`SharedVec::share_memory`]. Once it was given out to be written, the vector moves when it is taken back.
    ///
    /// # Errors
    /// As there.
    pub fn share_memory(&self, sharing: Sharing) -> Result<SharedMemory<'_>, Error> {
        self.vec.share_file(sharing)
    }

    /// The way to take pages out of other processes' mappings.
    pub fn punch(&self) -> Punch {
        Punch::new(self.vec.runtime.inner(), &self.vec.buffer)
    }

    /// One element. It may be torn when somebody writes it meanwhile, unless it is an aligned word.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn load(&self, at: usize) -> Result<T, Error> {
        let mut element = [T::zeroed()];
        self.vec.copy_out(at, &mut element)?;
        Ok(element[0])
    }

    /// Overwrites one element.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn store(&self, at: usize, element: T) -> Result<(), Error> {
        self.vec.copy_in(at, &[element])
    }

    /// Copies the elements from `start` on into a slice.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn copy_to(&self, start: usize, elements: &mut [T]) -> Result<(), Error> {
        self.vec.copy_out(start, elements)
    }

    /// Overwrites the elements from `start` on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn copy_from(&self, start: usize, elements: &[T]) -> Result<(), Error> {
        self.vec.copy_in(start, elements)
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

    /// Who has the pages of a range: the host, with how many peers.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn residency(&self, range: impl RangeBounds<usize>) -> Result<Vec<Residency>, Error> {
        self.vec.residency(range)
    }
}

impl<V> From<Refused<V>> for Error {
    fn from(refused: Refused<V>) -> Self {
        refused.source
    }
}

impl<V> fmt::Debug for Refused<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("source", &self.source).finish_non_exhaustive()
    }
}

impl<V> fmt::Display for Refused<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl<V> std::error::Error for Refused<V> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.source()
    }
}

impl<T: Pod> fmt::Debug for Lent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lent").field("vec", &self.vec).finish()
    }
}
