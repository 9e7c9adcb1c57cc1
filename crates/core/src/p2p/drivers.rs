//! What the drivers of two devices say of each other, as input. PCI says whether packets arrive; only the drivers know whether one
//! of them gives out its memory in a way that the other takes in. Backends ask (Vulkan: the handle types of external memory and the
//! driver's UUID; CUDA: `cuDeviceCanAccessPeer`) and fill this in; nothing here knows either.

use std::fmt;

use super::Reason;

/// Ways to hand memory of a device to another.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct HandleKinds(u8);

impl HandleKinds {
    /// None.
    pub const NONE: Self = Self(0);
    /// A file descriptor that only the same driver understands.
    pub const OPAQUE_FD: Self = Self(1);
    /// A dma-buf.
    pub const DMA_BUF: Self = Self(2);
    /// The driver maps the other device's memory by itself.
    pub const IN_DRIVER: Self = Self(4);
    /// The memory is mapped into this process, of pages that an IOMMU can be given by that mapping.
    pub const MAPPED: Self = Self(8);

    const NAMES: [(Self, &str); 4] = [
        (Self::OPAQUE_FD, "opaque fd"),
        (Self::DMA_BUF, "dma-buf"),
        (Self::IN_DRIVER, "inside the driver"),
        (Self::MAPPED, "mapped"),
    ];

    /// Kinds in `self` or in `other`.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Kinds in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// True when every kind of `other` is among them.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// True for no kind.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for HandleKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = Self::NAMES.iter().filter(|(kind, _)| !self.and(*kind).is_empty());
        let Some((_, first)) = names.next() else { return f.write_str("none") };
        f.write_str(first)?;
        names.try_for_each(|(_, name)| write!(f, ", {name}"))
    }
}

impl fmt::Debug for HandleKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandleKinds({self})")
    }
}

/// Whose opaque descriptors a driver understands, and who understands its own. Always of one physical device: who asks leaves them out of
/// [`DriverView::exports`] and [`DriverView::imports`] where the devices' identifiers differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Opaque {
    /// The same driver's.
    #[default]
    SameDriver,
    /// Those of every driver of the physical device: what CUDA says of Vulkan.
    SameDevice,
}

/// One device's driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DriverView {
    /// Who the driver is (Vulkan's `driverUUID`): two with the same understand each other's opaque descriptors.
    pub driver: [u8; 16],
    /// Whose else it understands.
    pub opaque: Opaque,
    /// In which ways it gives memory out.
    pub exports: HandleKinds,
    /// In which ways it takes memory in.
    pub imports: HandleKinds,
}

impl DriverView {
    /// True when the two understand each other's opaque descriptors of one physical device.
    pub fn understands(&self, other: &Self) -> bool {
        let any = Opaque::SameDevice;
        self.driver == other.driver || self.opaque == any || other.opaque == any
    }
}

/// What is known of the drivers of a pair.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Drivers {
    /// They were not asked: the answer is about PCI alone.
    NotAsked,
    /// A driver was asked about this very pair, and said no.
    Refuse {
        /// The call that said so.
        query: &'static str,
    },
    /// What each can do.
    Asked {
        /// Of the device whose memory it is.
        provider: DriverView,
        /// Of the device that wants it.
        peer: DriverView,
    },
}

/// Why the drivers of a pair cannot do it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DriverObstacle {
    Refuses { query: &'static str },
    Different { common: HandleKinds },
    NoHandle { exports: HandleKinds, imports: HandleKinds },
}

impl Drivers {
    /// Why they cannot do it, if they cannot.
    pub fn reason(&self) -> Option<Reason> {
        self.obstacle().map(Reason::from)
    }

    pub(super) fn obstacle(&self) -> Option<DriverObstacle> {
        match self {
            Self::NotAsked => None,
            Self::Refuse { query } => Some(DriverObstacle::Refuses { query }),
            Self::Asked { provider, peer } => {
                let common = provider.exports.and(peer.imports);
                if common.is_empty() {
                    let (exports, imports) = (provider.exports, peer.imports);
                    return Some(DriverObstacle::NoHandle { exports, imports });
                }
                // Only a dma-buf means the same to everybody.
                let stuck = common.and(HandleKinds::DMA_BUF).is_empty();
                (stuck && !provider.understands(peer))
                    .then_some(DriverObstacle::Different { common })
            }
        }
    }
}
