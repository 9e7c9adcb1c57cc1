//! What a peer is given to map.

use std::fmt;

use super::AddressKind;
use crate::{
    access::Access,
    backend::{Device, DeviceError, Exported, MemoryId},
    host::HostSpan,
    node::NodeId,
    p2p::HandleKinds,
};

/// Neighbouring bytes of a vector that a peer is to map.
#[derive(Clone, Copy)]
pub struct PeerMemory<'a> {
    /// The node that holds them.
    pub node: NodeId,
    /// The address of the first, of this kind.
    pub address: u64,
    /// What the address is.
    pub kind: AddressKind,
    /// How many bytes.
    pub len_bytes: u64,
    /// What the peer may do with them: [`Access::Read`], or [`Access::Update`] of a vector that is lent.
    pub access: Access,
    pub(crate) source: Source<'a>,
}

/// Whose memory it is.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// The arena's: whole pages, and where in them the bytes begin.
    Host { pages: HostSpan, offset_bytes: u64 },
    /// A device's.
    Device { device: &'a dyn Device, memory: MemoryId, offset_bytes: u64 },
}

impl PeerMemory<'_> {
    /// A handle of the memory, for a driver that takes it in: where these bytes are in it is said by [`Exported::offset_bytes`]. The handle shows the
    /// driver's whole allocation, where other vectors may be; keep it in this process. Good until [`super::Peer::unmap`], as the address is.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] when it cannot be given out in any of these ways: [`super::Place::exports`] says in which it can.
    pub fn export(&self, kinds: HandleKinds) -> Result<Exported, DeviceError> {
        match self.source {
            Source::Host { .. } => {
                Err(DeviceError::Unsupported { what: "a handle of host memory" })
            }
            Source::Device { device, memory, offset_bytes } => {
                let mut exported = device.export(memory, kinds)?;
                exported.offset_bytes += offset_bytes;
                exported.len_bytes = self.len_bytes;
                Ok(exported)
            }
        }
    }
}

impl fmt::Debug for PeerMemory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerMemory")
            .field("node", &self.node)
            .field("address", &self.address)
            .field("kind", &self.kind)
            .field("len_bytes", &self.len_bytes)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}
