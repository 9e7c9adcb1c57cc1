//! Who holds pages and who touches them.
//!
//! A **node** is a place that holds pages: host memory, or one device's memory. An **agent** touches them.
//! A device whose memory *is* host memory is an agent on the host's node: nothing is ever copied for it.

use std::fmt;

/// The most nodes one runtime can have, host memory included.
pub const MAX_NODES: usize = 16;

/// A place that holds pages. Node 0 is host memory; device `i` that has memory of its own is node `i + 1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u8);

impl NodeId {
    /// Host memory.
    pub const HOST: Self = Self(0);

    /// The node of a device's own memory.
    pub const fn of_device(device: DeviceId) -> Self {
        Self(device.0 + 1)
    }

    /// 0 for the host, `i + 1` for device `i`.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// True for host memory.
    pub const fn is_host(self) -> bool {
        self.0 == 0
    }

    /// The device whose memory this node is, `None` for the host.
    pub const fn device(self) -> Option<DeviceId> {
        match self.0 {
            0 => None,
            above => Some(DeviceId(above - 1)),
        }
    }
}

impl From<DeviceId> for NodeId {
    /// The node of the device's own memory.
    fn from(device: DeviceId) -> Self {
        Self::of_device(device)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.device() {
            None => f.write_str("host"),
            Some(device) => write!(f, "{device}"),
        }
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A device of one runtime, in the order in which the runtime was given them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(u8);

impl DeviceId {
    /// Device number `index`, `None` when a runtime cannot have so many.
    pub const fn new(index: usize) -> Option<Self> {
        if index + 1 < MAX_NODES { Some(Self(index as u8)) } else { None }
    }

    /// The device's number.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}", self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
