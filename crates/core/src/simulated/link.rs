//! How long works would take: a virtual clock that is counted, never slept.
//!
//! Each queue does one work at a time; a work begins when it was submitted, its queue is free and its waits have ended.
//! The host's time moves on when it sees a fence that ended later. So a copy that overlaps with a kernel costs nothing, and one that
//! the host waited for costs its whole length.
//!
//! What a kernel does costs the bytes that it touches: of the device's own memory at that memory's rate, of host memory by the access, so many of which are
//! under way at once. It touches all of each array, unless the kernel says how many elements it reads of one ([`Arguments::read_scattered`]); each of
//! those costs a whole access. The twin is not looked over the shoulder: what a kernel says wrongly is charged wrongly.

use super::{order::Touched, record::Request};
#[cfg(doc)]
use crate::kernel::Arguments;
use crate::{
    backend::{ArrayArgument, Direction, Rates, RemoteAccess, time_ns},
    embedded::MemorySpace,
};

/// Rates and latencies of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkModel {
    /// Host to device.
    pub upload_bytes_per_s: u64,
    /// Device to host.
    pub download_bytes_per_s: u64,
    /// Within the device: fills, and the arrays of a launch.
    pub memory_bytes_per_s: u64,
    /// For each copy, before its first byte moves.
    pub copy_latency_ns: u64,
    /// For each submission, before anything of it begins.
    pub submit_latency_ns: u64,
    /// A kernel's accesses to host memory.
    pub remote: RemoteAccess,
}

impl Default for LinkModel {
    /// A card behind sixteen lanes of PCI Express 4.0, in round numbers.
    fn default() -> Self {
        Self {
            upload_bytes_per_s: 25_000_000_000,
            download_bytes_per_s: 25_000_000_000,
            memory_bytes_per_s: 500_000_000_000,
            copy_latency_ns: 1_000,
            submit_latency_ns: 10_000,
            remote: RemoteAccess::ASSUMED,
        }
    }
}

/// What went over the link so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkCounters {
    /// Bytes copied from the host to the device.
    pub uploaded_bytes: u64,
    /// Bytes copied from the device to the host.
    pub downloaded_bytes: u64,
    /// Bytes filled with zeros.
    pub zeroed_bytes: u64,
    /// Copies.
    pub copies: u64,
    /// Transfer submissions.
    pub transfers: u64,
    /// Launch submissions.
    pub launches: u64,
}

impl LinkModel {
    /// What the engine may know of it.
    pub(super) fn rates(&self) -> Rates {
        Rates {
            to_device_bytes_per_s: self.upload_bytes_per_s,
            to_host_bytes_per_s: self.download_bytes_per_s,
            copy_latency_ns: self.submit_latency_ns.saturating_add(self.copy_latency_ns),
            remote: self.remote,
        }
    }

    /// How long a request takes once it has begun.
    pub(super) fn duration_ns(&self, request: &Request, touched: &[Touched]) -> u64 {
        let work_ns = match request {
            Request::Transfer { copies, zeros } => {
                let copied = copies.iter().map(|copy| {
                    let rate = match copy.direction {
                        Direction::HostToDevice => self.upload_bytes_per_s,
                        Direction::DeviceToHost => self.download_bytes_per_s,
                    };
                    self.copy_latency_ns + time_ns(copy.host.len_bytes, rate)
                });
                let zeroed = zeros.iter().map(|zero| zero.len_bytes).sum();
                copied.sum::<u64>() + time_ns(zeroed, self.memory_bytes_per_s)
            }
            Request::Launch { arrays, .. } => {
                let arrays = arrays.iter().filter(|array| array.len_bytes > 0);
                arrays.zip(touched).map(|(array, touched)| self.kernel_ns(array, touched)).sum()
            }
        };
        self.submit_latency_ns.saturating_add(work_ns)
    }

    /// How long a kernel takes for one array.
    fn kernel_ns(&self, array: &ArrayArgument, touched: &Touched) -> u64 {
        let ArrayArgument { len_bytes, scattered, .. } = *array;
        match touched.space {
            MemorySpace::Host => self.remote.time_ns(scattered.unwrap_or(u64::MAX), len_bytes),
            MemorySpace::Device(_) => {
                let read = |elements: u64| elements.saturating_mul(self.remote.bytes);
                let bytes = scattered.map_or(len_bytes, |elements| read(elements).min(len_bytes));
                time_ns(bytes, self.memory_bytes_per_s)
            }
        }
    }
}

impl LinkCounters {
    pub(super) fn count(&mut self, request: &Request) {
        match request {
            Request::Transfer { copies, zeros } => {
                self.transfers += 1;
                self.copies += copies.len() as u64;
                for copy in copies {
                    match copy.direction {
                        Direction::HostToDevice => self.uploaded_bytes += copy.host.len_bytes,
                        Direction::DeviceToHost => self.downloaded_bytes += copy.host.len_bytes,
                    }
                }
                self.zeroed_bytes += zeros.iter().map(|zero| zero.len_bytes).sum::<u64>();
            }
            Request::Launch { .. } => self.launches += 1,
        }
    }
}
