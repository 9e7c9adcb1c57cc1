//! A lent vector's host pages as a dma-buf, for drivers that take memory in as one.

use std::{
    fmt,
    mem::ManuallyDrop,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use bytemuck::Pod;

use super::Lent;
use crate::{
    access::Access,
    error::Error,
    host::{HostError, Sharing, create_udmabuf, udmabuf},
    peer::{AddressLimits, Participation, Peer, PeerMapping, Place, Reach, Revoked},
};

/// A vector's memory as a dma-buf. The vector is pinned by it, for good.
///
/// The kernel tells no holder of such a descriptor to let go, and descriptors can be copied: nobody can know when the last writer has gone. So neither dropping
/// this nor anything else that is safe unpins the vector; [`HostDmaBuf::take_back`] does, for who knows.
pub struct HostDmaBuf {
    fd: OwnedFd,
    len_bytes: u64,
    /// Never dropped by itself: the pin stays.
    mapping: ManuallyDrop<PeerMapping>,
}

/// Whoever holds the descriptor: somebody who cannot be asked.
struct Holders;

impl Peer for Holders {
    fn name(&self) -> &str {
        "dma-buf"
    }

    fn limits(&self) -> AddressLimits {
        AddressLimits::default()
    }

    fn participation(&self) -> Participation {
        Participation::Static
    }

    fn reach(&self, place: &Place<'_>) -> Reach {
        let reason = || "a dma-buf of host pages holds no device's memory".to_owned();
        if place.node.is_host() { Reach::Hops(1) } else { Reach::No { reason: reason() } }
    }

    /// Nobody asks a static peer.
    fn revoke(&self, _revoked: Revoked) {}
}

impl<T: Pod> Lent<T> {
    /// The pages of a shareable vector as a dma-buf, through the kernel's udmabuf: for reading and writing, the whole file (blocks of 2 MiB), elements from its
    /// first byte on. The vector is pinned, so [`Lent::take_back`] and [`Punch::punch`](super::Punch::punch) are refused with [`Error::Pinned`] from then on.
    ///
    /// # Errors
    /// [`HostError::NotShared`] with [`ShareFault::NoUdmabuf`](crate::host::ShareFault::NoUdmabuf) where the kernel has none, or none for us;
    /// [`ShareFault::NotShareable`](crate::host::ShareFault::NotShareable);
    /// [`ShareFault::SharedBefore`](crate::host::ShareFault::SharedBefore) when it was shared for reading, which the kernel takes no dma-buf of.
    /// [`Error::Peer`] when the quota for pins is used up. Nothing is pinned then.
    pub fn dma_buf(&self) -> Result<HostDmaBuf, Error> {
        // Before a seal is made final for nothing.
        udmabuf().map_err(HostError::NotShared)?;
        let memory = self.share_memory(Sharing::Write)?;
        // First the pin: from the moment on at which there is a descriptor, nothing may move.
        let mapping = self.map_peer(Arc::new(Holders), .., Access::Update)?;
        let made = create_udmabuf(memory.fd, memory.len_bytes);
        let fd = made.map_err(HostError::NotShared)?;
        Ok(HostDmaBuf { fd, len_bytes: memory.len_bytes, mapping: ManuallyDrop::new(mapping) })
    }
}

impl HostDmaBuf {
    /// Its size: whole blocks of 2 MiB.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Closes this descriptor and unpins the vector.
    ///
    /// # Safety
    /// No copy of the descriptor is left anywhere, nor a mapping or an import made of it, in this process or in another.
    #[allow(unsafe_code, reason = "what the kernel does not tell has to be vouched for")]
    pub unsafe fn take_back(self) {
        let Self { fd, mapping, .. } = self;
        drop(fd);
        drop(ManuallyDrop::into_inner(mapping));
    }
}

impl AsFd for HostDmaBuf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for HostDmaBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostDmaBuf").field("len_bytes", &self.len_bytes).finish_non_exhaustive()
    }
}
