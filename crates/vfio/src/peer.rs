//! The devices of a domain as a peer.
#![allow(unsafe_code, reason = "maps the library's memory for a device")]

use std::{fmt, sync::Arc};

use hmmap_core::{
    Access,
    peer::{AddressKind, AddressLimits, Peer, PeerAddress, PeerMemory, Place, Reach, Revoked},
    revocation::Enforcement,
};

use crate::{VfioDomain, call::Rights};

/// What the application does when a range is needed.
type OnRevoke = Box<dyn Fn(Revoked) + Send + Sync>;

/// Devices of one domain as a peer for [`hmmap_core::SharedVec::map_peer`] and [`hmmap_core::Lent::map_peer`]. It reaches host memory; addresses of its segments are I/O
/// addresses. It is mapped from the first page to the last that the range touches, so a device sees the rest of those pages of the same vector too.
///
/// Who is late is cut off: the IOMMU blocks what the device still does, and nothing tells the device.
pub struct VfioPeer {
    name: String,
    domain: Arc<VfioDomain>,
    address_bits: u32,
    on_revoke: OnRevoke,
}

impl VfioPeer {
    /// `address_bits` (1 to 64) is how many bits of an address the device has. `on_revoke` is called when a range is needed, as
    /// [`Peer::revoke`]: hand out no more work on it and confirm, then or later.
    pub fn new(
        name: impl Into<String>,
        domain: Arc<VfioDomain>,
        address_bits: u32,
        on_revoke: impl Fn(Revoked) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let address_bits = address_bits.clamp(1, 64);
        Arc::new(Self { name: name.into(), domain, address_bits, on_revoke: Box::new(on_revoke) })
    }

    fn take(&self, address: PeerAddress) {
        if let Err(error) = self.domain.unmap(address.token) {
            let error: &dyn std::error::Error = &error;
            tracing::error!(peer = self.name, iova = address.token, error, "not unmapped");
        }
    }
}

impl Peer for VfioPeer {
    fn name(&self) -> &str {
        &self.name
    }

    fn limits(&self) -> AddressLimits {
        AddressLimits { address_bits: self.address_bits, ..AddressLimits::default() }
    }

    fn reach(&self, place: &Place<'_>) -> Reach {
        match place.device {
            None => Reach::Hops(2),
            Some((device, _)) => Reach::No {
                reason: format!("the memory of {device} is no window of a VFIO device"),
            },
        }
    }

    fn map(&self, memory: PeerMemory<'_>) -> Result<PeerAddress, String> {
        if memory.kind != AddressKind::Process {
            return Err(format!("{} addresses cannot be put behind an IOMMU", memory.kind));
        }
        let mask = self.domain.page_bytes() - 1;
        let start = memory.address & !mask;
        let end = memory.address + memory.len_bytes;
        let len_bytes = (end - start + mask) & !mask;
        let rights = if memory.access == Access::Read { Rights::Read } else { Rights::ReadWrite };
        let highest = u64::MAX >> (64 - self.address_bits);
        // SAFETY: the library gives out addresses of its own view of host memory, which stays mapped as long as the runtime, and keeps those pages for this mapping
        // until `unmap` or `cut_off`, which unmap. The vector begins on a page of the library's, which is a multiple of the IOMMU's, so rounding stays in it.
        // Only lent vectors are given for writing, and nobody has references to the elements of those.
        let iova = unsafe { self.domain.map(start, len_bytes, rights, highest) };
        let iova = iova.map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })?;
        let address = iova + (memory.address - start);
        Ok(PeerAddress { address, kind: AddressKind::Bus, token: iova })
    }

    fn unmap(&self, address: PeerAddress) {
        self.take(address);
    }

    fn enforcement(&self) -> Enforcement {
        Enforcement::CutOff
    }

    fn cut_off(&self, address: PeerAddress) {
        self.take(address);
    }

    fn revoke(&self, revoked: Revoked) {
        (self.on_revoke)(revoked);
    }
}

impl fmt::Debug for VfioPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioPeer")
            .field("name", &self.name)
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}
