//! Peers: whoever else holds addresses of a vector's pages.
//!
//! **Problem.** A network card, another device, an application's own accelerator wants to reach a range where it is. It must learn
//! whether it can, get addresses, and lose them safely when a page moves: because somebody writes it, because room is made, because the
//! vector goes.
//!
//! ```text
//! let mapping = x.map_peer(peer, ..)?;
//! let segments = mapping.segments()?;        // begin, bring what cannot be reached, map
//!     submit work on segments.list()
//! mapping.attach(segments.stamp(), fence);   // what revocation has to wait for
//! if mapping.retry(segments.stamp()) { ... } // taken back meanwhile: do it again
//!
//! peer.revoke(revoked)                       // called when the range is needed: stop, then
//! revoked.confirm()                          // from any thread, when nothing uses the addresses any more
//! ```
//!
//! **Rules.** Mappings of a vector are for reading. A write by anybody, the host included, takes the range back first, so whoever maps sees what was
//! written when it maps again. *Dynamic* peers take part in this ([`crate::revocation`] has the order and the deadline). A
//! *static* peer does not: its range is pinned, and what would move or overwrite it is refused.
//!
//! *Writing* takes a vector that is lent ([`crate::SharedVec::lend`]): its owner has given its slices up, its pages are on the host, and owner and
//! peers work on them at once. Taking the vector back ends every mapping that writes.
//!
//! Nobody knows when a slice of the host's ends: a peer that maps while one is being written through sees it half done. Kernels are waited for.
//!
//! No address is used after a revocation finished, whatever is forgotten ([`std::mem::forget`]) meanwhile: a mapping keeps its
//! runtime, and with it the memory, for as long as it lives.

mod confirm;
mod device;
mod mapping;
mod memory;
mod pins;
mod segments;
mod stamp;
mod table;

use std::{fmt, sync::Arc, time::Duration};

pub use confirm::{PeerEvent, Revoked};
pub use device::DevicePeer;
pub use mapping::{MappingState, PeerMapping, Segments};
pub use memory::PeerMemory;
pub use segments::{AddressFault, AddressKind, AddressLimits, BusSegment};
pub use stamp::Stamp;

pub(crate) use confirm::Confirmation;
pub(crate) use mapping::{Placed, given_out_as};
pub(crate) use memory::{Source, place_of};
pub(crate) use pins::{Pin, PinQuota};
pub(crate) use segments::split;
pub(crate) use stamp::StampCell;
pub(crate) use table::{Entry, PeerTable, Stage, Taking};

use crate::{
    backend::DeviceFacts,
    node::{DeviceId, NodeId},
    p2p::HandleKinds,
    revocation::Enforcement,
};

/// How long a peer has to give a range back unless [`crate::Options::peer_deadline`] says otherwise.
pub(crate) const PEER_DEADLINE: Duration = Duration::from_secs(1);

/// Whether a peer takes part in revocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Participation {
    /// It stops and confirms when it is told.
    #[default]
    Dynamic,
    /// It cannot be asked: what it maps is pinned for as long as the mapping lives.
    Static,
}

/// A node's memory, as a peer is asked about it.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The node.
    pub node: NodeId,
    /// Its device; `None` for host memory.
    pub device: Option<(DeviceId, &'a DeviceFacts)>,
    /// In which ways the vector's memory there can be given out ([`PeerMemory::export`]).
    pub exports: HandleKinds,
}

/// Whether a peer reaches a node's memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reach {
    /// It does; the fewer hops the better.
    Hops(u32),
    /// It does not.
    No {
        /// Why, and what would change it.
        reason: String,
    },
}

/// What a peer made of [`PeerMemory`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerAddress {
    /// The address that the peer's work uses.
    pub address: u64,
    /// What that address is.
    pub kind: AddressKind,
    /// Given back with [`Peer::unmap`]; the peer's own number.
    pub token: u64,
}

/// Work of a peer's that was submitted.
pub trait PeerFence: Send + Sync {
    /// Waits until the work has ended, however it ended, or the time is over. True when it has ended.
    fn wait(&self, timeout: Duration) -> bool;
}

/// Somebody outside of the directory who holds addresses. The application implements it for its own device.
///
/// No method is called while the library holds a lock. [`Peer::revoke`] may be called on any thread, one that answers a page fault included:
/// it must not touch a vector and not wait.
pub trait Peer: Send + Sync {
    /// Its name, for errors and reports.
    fn name(&self) -> &str;

    /// Which addresses it can use.
    fn limits(&self) -> AddressLimits {
        AddressLimits::default()
    }

    /// Whether it takes part in revocation.
    fn participation(&self) -> Participation {
        Participation::Dynamic
    }

    /// Whether it reaches a node's memory, and from how far.
    fn reach(&self, place: &Place<'_>) -> Reach;

    /// Makes memory reachable and says at which address. By default the provider's own address will do.
    ///
    /// # Errors
    /// Why it cannot be mapped.
    fn map(&self, memory: PeerMemory<'_>) -> Result<PeerAddress, String> {
        Ok(PeerAddress { address: memory.address, kind: memory.kind, token: 0 })
    }

    /// Undoes one [`Peer::map`]. Called once for each, after the range was confirmed and all attached fences have ended.
    fn unmap(&self, _address: PeerAddress) {}

    /// What can be done when it is late. [`Enforcement::Pin`] is said by [`Peer::participation`], and means [`Enforcement::Nothing`] here.
    fn enforcement(&self) -> Enforcement {
        Enforcement::Nothing
    }

    /// True when a mapping for reading cannot be written through, whatever the peer does: its IOMMU maps it without that right, or its file is sealed. An address
    /// by itself enforces nothing.
    fn enforces_reading(&self) -> bool {
        false
    }

    /// The deadline has passed: takes one mapping without the peer's help, in the place of [`Peer::unmap`]. When this returns, nothing reaches memory by
    /// that address. Called of peers alone whose [`Peer::enforcement`] is [`Enforcement::CutOff`]; it must not wait for the peer.
    fn cut_off(&self, _address: PeerAddress) {}

    /// The range is needed. Hand out no work on its addresses any more, and call [`Revoked::confirm`], now or later and from any
    /// thread, when nothing but what attached fences cover uses them.
    fn revoke(&self, revoked: Revoked);
}

/// Why a peer does not get addresses.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum PeerError {
    /// It reaches none of the nodes that hold the range, nor host memory.
    #[error("it does not reach {node}: {reason}")]
    Unreachable {
        /// The node.
        node: NodeId,
        /// What the peer said.
        reason: String,
    },
    /// The mapping is for writing, and the owner has the vector back.
    #[error("the vector was taken back; it can be mapped for reading, or lent again")]
    NotLent,
    /// The vector is gone.
    #[error("the vector was dropped")]
    Released,
    /// It takes no part in revocation, and here takes one who does.
    #[error("it pins what it maps, which takes a borrow of the vector: `SharedVec::map_peer`")]
    IsStatic,
    /// It was late giving the range back, and has not yet.
    #[error("it was told to give the range back {late_by:?} ago and has not confirmed yet")]
    StillLate {
        /// Since its deadline.
        late_by: Duration,
    },
    /// The range is being moved, and has been for this long.
    #[error("the range was on the move for {waited:?}")]
    TimedOut {
        /// How long was waited.
        waited: Duration,
    },
    /// It takes no part in revocation, and what such peers may pin is used up.
    #[error(
        "it would pin {asked_bytes} bytes; {pinned_bytes} of {limit_bytes} are pinned already (option max_pinned_bytes)"
    )]
    PinQuota {
        /// What it would pin, in whole pages.
        asked_bytes: u64,
        /// What is pinned in this runtime.
        pinned_bytes: u64,
        /// The most that may be.
        limit_bytes: u64,
    },
    /// The addresses are not what it can use.
    #[error("its addresses")]
    Addresses(#[from] AddressFault),
    /// It could not map the memory.
    #[error("it could not map {len_bytes} bytes: {reason}")]
    NotMapped {
        /// How many.
        len_bytes: u64,
        /// What it said.
        reason: String,
    },
}

impl fmt::Debug for dyn Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({})", self.name())
    }
}

impl fmt::Debug for dyn PeerFence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerFence")
    }
}

/// The same peer.
pub(crate) type SharedPeer = Arc<dyn Peer>;
