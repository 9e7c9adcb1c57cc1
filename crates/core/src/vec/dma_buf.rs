//! A lent vector's pages as a dma-buf, for drivers that take memory in as one: host pages, or a device's memory.

use std::{
    fmt,
    mem::ManuallyDrop,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use bytemuck::Pod;

use crate::sync::Mutex;

use super::{Lent, LentOn};
use crate::{
    access::Access,
    backend::{Exported, Handle},
    error::Error,
    host::{DmaBuf, HostError, Sharing, create_udmabuf, fences_of, udmabuf},
    node::DeviceId,
    p2p::HandleKinds,
    peer::{
        AddressLimits, Participation, Peer, PeerAddress, PeerMapping, PeerMemory, Place, Reach,
        Revoked, Stamp,
    },
    revocation::Enforcement,
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

/// A vector's memory on a device as a dma-buf: a descriptor of it, which others may keep. [`LentOn::dma_buf`].
#[derive(Clone)]
pub struct DeviceDmaBuf {
    fd: Arc<OwnedFd>,
    len_bytes: u64,
    offset_bytes: u64,
    used_bytes: u64,
}

/// What a [`LentOn`] has given out.
pub(super) struct GivenOut {
    buffer: DeviceDmaBuf,
    mapping: PeerMapping,
    stamp: Stamp,
}

/// Whoever holds a descriptor of device memory. Who is late is left with the old memory: the vector moves when it is taken back.
struct Takers {
    device: DeviceId,
    taken: Mutex<Option<Exported>>,
}

impl Peer for Takers {
    fn name(&self) -> &str {
        "dma-buf"
    }

    fn reach(&self, place: &Place<'_>) -> Reach {
        let no = |reason: &str| Reach::No { reason: reason.to_owned() };
        match place.device {
            Some((device, _)) if device != self.device => no("it is lent on another device"),
            Some(_) if place.exports.contains(HandleKinds::DMA_BUF) => Reach::Hops(1),
            Some(_) => no(
                "the vector's memory there is given out as no dma-buf (`Capabilities::dma_buf`, plain backing)",
            ),
            None => no("it is lent on a device"),
        }
    }

    fn map(&self, memory: PeerMemory<'_>) -> Result<PeerAddress, String> {
        let exported = memory.export(HandleKinds::DMA_BUF).map_err(|error| error.to_string())?;
        if !exported.is_alone {
            let (of, all) = (exported.len_bytes, exported.allocation_bytes);
            return Err(format!(
                "its {of} bytes are in an allocation of {all} that other vectors may be in; larger vectors have one of their own"
            ));
        }
        *self.taken.lock() = Some(exported);
        Ok(PeerAddress { address: memory.address(), kind: memory.kind(), token: 0 })
    }

    fn enforcement(&self) -> Enforcement {
        Enforcement::CutOff
    }

    /// What they may still be at is said by the kernel's fences, which were attached before this.
    fn revoke(&self, revoked: Revoked) {
        revoked.confirm();
    }
}

impl GivenOut {
    pub(super) fn buffer(&self) -> &DeviceDmaBuf {
        &self.buffer
    }

    /// The vector is about to be taken back: work of others that is in flight now is waited for, up to the deadline for peers.
    pub(super) fn ends(&self) {
        match fences_of(&self.buffer, Access::Update) {
            Ok(fences) => drop(self.mapping.attach(self.stamp, Arc::new(fences))),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "fences in a dma-buf are not known, and not waited for");
            }
        }
    }
}

impl<T: Pod> LentOn<T> {
    /// The vector's memory on the device as a dma-buf, for reading and writing: elements from [`DmaBuf::offset_bytes`] on. What is done with it is ordered by the kernel's fences
    /// in it ([`crate::host::add_fence`]).
    ///
    /// No descriptor can be called back. So [`LentOn::take_back`] waits for the fences in the dma-buf, up to [`crate::Options::peer_deadline`], and then moves the vector, with one
    /// copy: whoever is later, or keeps the descriptor, has memory that is nobody's any more.
    ///
    /// # Errors
    /// [`Error::Peer`] with the reason: the device gives out no dma-bufs, or not of memory like this, or the vector has no allocation of its own.
    pub fn dma_buf(&self) -> Result<DeviceDmaBuf, Error> {
        self.give_out(|| {
            let takers = Arc::new(Takers { device: self.device(), taken: Mutex::new(None) });
            let mapping = self.map_peer(takers.clone(), .., Access::Update)?;
            let stamp = mapping.segments()?.stamp();
            let used = mapping.bytes();
            let gone = || mapping.refused(crate::peer::PeerError::Released);
            let exported = takers.taken.lock().take().ok_or_else(gone)?;
            let Handle::Fd(fd) = exported.handle else { return Err(gone()) };
            let (len_bytes, offset_bytes) = (exported.allocation_bytes, exported.offset_bytes);
            let used_bytes = used.end - used.start;
            let buffer = DeviceDmaBuf { fd, len_bytes, offset_bytes, used_bytes };
            Ok(GivenOut { buffer, mapping, stamp })
        })
    }
}

impl DeviceDmaBuf {
    /// The size of the allocation, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
}

impl AsFd for DeviceDmaBuf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<'fd> From<&'fd DeviceDmaBuf> for DmaBuf<'fd> {
    fn from(buffer: &'fd DeviceDmaBuf) -> Self {
        let DeviceDmaBuf { offset_bytes, used_bytes, .. } = *buffer;
        Self { fd: buffer.as_fd(), offset_bytes, used_bytes }
    }
}

impl<'fd> From<&'fd HostDmaBuf> for DmaBuf<'fd> {
    fn from(buffer: &'fd HostDmaBuf) -> Self {
        let used = buffer.mapping.bytes();
        Self { fd: buffer.as_fd(), offset_bytes: used.start, used_bytes: used.end - used.start }
    }
}

impl fmt::Debug for DeviceDmaBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceDmaBuf")
            .field("len_bytes", &self.len_bytes)
            .field("offset_bytes", &self.offset_bytes)
            .finish_non_exhaustive()
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
