//! How long works would take: a virtual clock that is counted, never slept.
//!
//! Each queue does one work at a time; a work begins when it was submitted, its queue is free and its waits have ended.
//! The host's time moves on when it sees a fence that ended later. So a copy that overlaps with a kernel costs nothing, and one that
//! the host waited for costs its whole length.

use super::record::Request;
use crate::backend::Direction;

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
    /// How long a request takes once it has begun.
    pub(super) fn duration_ns(&self, request: &Request) -> u64 {
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
                let bytes = arrays.iter().map(|array| array.len_bytes).sum();
                time_ns(bytes, self.memory_bytes_per_s)
            }
        };
        self.submit_latency_ns + work_ns
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

fn time_ns(bytes: u64, bytes_per_s: u64) -> u64 {
    let ns = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}
