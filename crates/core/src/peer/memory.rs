//! What a peer is given to map.
//!
//! A peer that maps memory for hardware rests on what it is told: that the bytes are mapped, that they may be written, and that it will be told to unmap them.
//! So only the engine makes these values, nobody can change one, and each says for which peer it was made: a peer that passes its own on to another
//! one, which nobody would tell to unmap, is found out.

use std::fmt;

use super::{AddressKind, Peer};
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
    pub(crate) node: NodeId,
    pub(crate) address: u64,
    pub(crate) kind: AddressKind,
    pub(crate) len_bytes: u64,
    pub(crate) access: Access,
    pub(crate) source: Source<'a>,
    /// Where the peer is that it was made for.
    pub(crate) made_for: usize,
}

/// Whose memory it is.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// The arena's: whole pages, and where in them the bytes begin.
    Host { pages: HostSpan, offset_bytes: u64 },
    /// A device's.
    Device { device: &'a dyn Device, memory: MemoryId, offset_bytes: u64 },
}

/// Where a peer is: no two that live at once are at one place, but for those without a size.
pub(crate) fn place_of(peer: &dyn Peer) -> usize {
    std::ptr::from_ref(peer).cast::<()>().addr()
}

impl PeerMemory<'_> {
    /// The node that holds them.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The address of the first, of this kind.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// What the address is.
    pub fn kind(&self) -> AddressKind {
        self.kind
    }

    /// How many bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// What the peer may do with them: [`Access::Read`], or [`Access::Update`] of a vector that is lent.
    pub fn access(&self) -> Access {
        self.access
    }

    /// True when the engine made it for this very peer, and so will call this peer's [`Peer::unmap`] or [`Peer::cut_off`]. A peer whose mappings outlive their
    /// `PeerMemory` refuses what was made for another. It goes by the place where the peer is, so a peer that another type may contain by value cannot
    /// rest on it.
    pub fn is_for(&self, peer: &dyn Peer) -> bool {
        self.made_for == place_of(peer)
    }

    /// A handle of the memory, for a driver that takes it in: where these bytes are in it is said by [`Exported::offset_bytes`]. The handle shows the
    /// driver's whole allocation, where other vectors may be; keep it in this process. Good until [`Peer::unmap`], as the address is.
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
