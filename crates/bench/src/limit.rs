//! The machine's own limits: the same bytes moved, the same work handed over, with nothing in between.

use std::{
    hint::black_box,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use hmmap::core::backend::DeviceSummary;

use crate::{BenchError, host_memory::Mapping};

/// What a machine can do at best. Memory is taken at the first use of a size and kept.
pub(crate) trait Limit {
    /// What this is, in words.
    fn name(&self) -> &'static str;

    /// Copies so many bytes from host memory to the device's.
    fn to_device(&mut self, bytes: u64) -> Result<Duration, BenchError>;

    /// Copies so many bytes from the device's memory to the host's.
    fn to_host(&mut self, bytes: u64) -> Result<Duration, BenchError>;

    /// Submits the kernel that touches one element of each of four arrays of so many bytes, and waits for it.
    fn touch(&mut self, array_bytes: u64) -> Result<Duration, BenchError>;
}

/// The limit to compare a device with.
pub(crate) fn of_device(device: &DeviceSummary) -> Result<Box<dyn Limit>, BenchError> {
    #[cfg(feature = "vulkan")]
    if device.api == "vulkan" {
        return Ok(Box::new(crate::raw::RawLimit::new(device)?));
    }
    let _ = device;
    Ok(Box::new(HostLimit::new()))
}

/// For devices without a driver: memcpy, and a hand-over to a waiting thread and back.
struct HostLimit {
    pair: Option<(Mapping, Mapping)>,
    work: Sender<()>,
    done: Receiver<()>,
}

impl HostLimit {
    fn new() -> Self {
        let (work, to_do) = mpsc::channel();
        let (ended, done) = mpsc::channel();
        // Ends with the limit, when the channel closes.
        thread::spawn(move || while to_do.recv().is_ok() && ended.send(()).is_ok() {});
        Self { pair: None, work, done }
    }

    fn pair(&mut self, bytes: u64) -> Result<&mut (Mapping, Mapping), BenchError> {
        let pair = match self.pair.take() {
            Some(pair) if pair.0.bytes().len() as u64 >= bytes => pair,
            _ => (Mapping::shared(bytes)?, Mapping::private(bytes)?),
        };
        Ok(self.pair.insert(pair))
    }
}

impl Limit for HostLimit {
    fn name(&self) -> &'static str {
        "memcpy, and a hand-over to a waiting thread"
    }

    fn to_device(&mut self, bytes: u64) -> Result<Duration, BenchError> {
        let (host, device) = self.pair(bytes)?;
        Ok(copy(host, device, bytes))
    }

    fn to_host(&mut self, bytes: u64) -> Result<Duration, BenchError> {
        let (host, device) = self.pair(bytes)?;
        Ok(copy(device, host, bytes))
    }

    fn touch(&mut self, _array_bytes: u64) -> Result<Duration, BenchError> {
        let started = Instant::now();
        self.work.send(()).map_err(|_| BenchError::LimitEnded)?;
        self.done.recv().map_err(|_| BenchError::LimitEnded)?;
        Ok(started.elapsed())
    }
}

fn copy(from: &Mapping, to: &mut Mapping, bytes: u64) -> Duration {
    let len = bytes as usize;
    let started = Instant::now();
    to.bytes_mut()[..len].copy_from_slice(&from.bytes()[..len]);
    black_box(to.bytes());
    started.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memcpy_moves_what_it_is_asked_to() {
        let mut limit = HostLimit::new();
        limit.pair(4096).unwrap().0.bytes_mut().fill(7);
        limit.to_device(4096).unwrap();
        assert!(limit.pair(4096).unwrap().1.bytes().iter().all(|byte| *byte == 7));
        limit.pair(4096).unwrap().0.bytes_mut().fill(0);
        limit.to_host(4000).unwrap();
        let (host, _) = limit.pair(4096).unwrap();
        assert_eq!((host.bytes()[3999], host.bytes()[4000]), (7, 0));
        limit.to_device(1 << 20).unwrap();
        limit.touch(0).unwrap();
    }
}
