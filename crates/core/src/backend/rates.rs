//! How fast a device is reached, and reaches.

/// What it costs to bring memory to a device, and to reach for it from there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rates {
    /// Copies from the host to the device, in bytes/s.
    pub to_device_bytes_per_s: u64,
    /// Copies from the device to the host, in bytes/s.
    pub to_host_bytes_per_s: u64,
    /// What a copy takes before its first byte moves, its submission included.
    pub copy_latency_ns: u64,
    /// A kernel's accesses to host memory through a window.
    pub remote: RemoteAccess,
}

/// Accesses of a kernel to memory on the other side of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemoteAccess {
    /// What one access brings, in bytes; one for fewer costs the same.
    pub bytes: u64,
    /// How long one takes.
    pub latency_ns: u64,
    /// How many are under way at once.
    pub outstanding: u64,
}

impl Rates {
    /// What is assumed of a device that does not say: a card behind sixteen lanes of PCI Express 4.0, in round numbers.
    pub const ASSUMED: Self = Self {
        to_device_bytes_per_s: 25_000_000_000,
        to_host_bytes_per_s: 25_000_000_000,
        copy_latency_ns: 11_000,
        remote: RemoteAccess::ASSUMED,
    };

    /// How long a copy to the device takes; nothing for no bytes.
    pub(crate) fn to_device_ns(self, bytes: u64) -> u64 {
        self.copy_ns(bytes, self.to_device_bytes_per_s)
    }

    /// How long a copy to the host takes; nothing for no bytes.
    pub(crate) fn to_host_ns(self, bytes: u64) -> u64 {
        self.copy_ns(bytes, self.to_host_bytes_per_s)
    }

    fn copy_ns(self, bytes: u64, bytes_per_s: u64) -> u64 {
        match bytes {
            0 => 0,
            _ => self.copy_latency_ns.saturating_add(time_ns(bytes, bytes_per_s)),
        }
    }
}

impl RemoteAccess {
    /// 128 bytes at 1 us, 64 at once: 8.2 GB/s for a kernel that reads everything in order, 0.26 GB/s of 4-byte elements at random.
    pub const ASSUMED: Self = Self { bytes: 128, latency_ns: 1_000, outstanding: 64 };

    /// How long so many accesses take within an array of so many bytes, of which none is brought twice where it is read in whole.
    pub(crate) fn time_ns(&self, accesses: u64, array_bytes: u64) -> u64 {
        let accesses = accesses.min(array_bytes.div_ceil(self.bytes.max(1)));
        let turns = accesses.div_ceil(self.outstanding.max(1));
        turns.saturating_mul(self.latency_ns)
    }
}

/// How long so many bytes take at a rate.
pub(crate) fn time_ns(bytes: u64, bytes_per_s: u64) -> u64 {
    let ns = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}
