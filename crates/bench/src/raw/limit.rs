//! The limit of a Vulkan device.

use std::time::Duration;

use hmmap::{Kernel as _, core::backend::DeviceSummary, kernels::Touch};

use super::{Buffer, Device, Kernel, RawError, Side};
use crate::{BenchError, limit::Limit};

/// Bare copies between buffers that are there already, and bare submits of a kernel that is ready.
///
/// Buffers are kept and grow with the largest use: some drivers never give memory back to the system.
pub(crate) struct RawLimit {
    device: Device,
    pair: Option<(Buffer, Buffer)>,
    touch: Kernel,
    touched: Option<[Buffer; 4]>,
}

/// Four arrays with their lengths, the two words of the grid, the index.
const TOUCH_WORDS: usize = 11;

impl RawLimit {
    pub(crate) fn new(summary: &DeviceSummary) -> Result<Self, RawError> {
        let device = Device::open(summary)?;
        let params_bytes = (TOUCH_WORDS * size_of::<u64>()) as u32;
        let touch = Kernel::new::<Touch<'_>>(&device, params_bytes)?;
        Ok(Self { device, pair: None, touch, touched: None })
    }

    /// A host and a device buffer of at least so many bytes, both written before.
    fn pair(&mut self, bytes: u64) -> Result<&mut (Buffer, Buffer), RawError> {
        let pair = match self.pair.take() {
            Some(pair) if pair.0.len_bytes() >= bytes => pair,
            _ => {
                let mut host = Buffer::new(&self.device, Side::Host, bytes)?;
                let mut device = Buffer::new(&self.device, Side::Device, bytes)?;
                host.with(|bytes: &mut [u8]| bytes.fill(1))?;
                host.copy_to(&mut device, bytes)?;
                (host, device)
            }
        };
        Ok(self.pair.insert(pair))
    }

    fn touched(&mut self, bytes: u64) -> Result<&[Buffer; 4], RawError> {
        let touched = match self.touched.take() {
            Some(touched) if touched[0].len_bytes() >= bytes => touched,
            _ => {
                let new = || Buffer::new(&self.device, Side::Device, bytes);
                [new()?, new()?, new()?, new()?]
            }
        };
        Ok(self.touched.insert(touched))
    }
}

impl Limit for RawLimit {
    fn name(&self) -> &'static str {
        "Vulkan by hand: vkCmdCopyBuffer between preallocated buffers, a bare submit of the same SPIR-V"
    }

    fn to_device(&mut self, bytes: u64) -> Result<Duration, BenchError> {
        let (host, device) = self.pair(bytes)?;
        Ok(host.copy_to(device, bytes)?)
    }

    fn to_host(&mut self, bytes: u64) -> Result<Duration, BenchError> {
        let (host, device) = self.pair(bytes)?;
        Ok(device.copy_to(host, bytes)?)
    }

    fn touch(&mut self, array_bytes: u64) -> Result<Duration, BenchError> {
        let mut words = [0u64; TOUCH_WORDS];
        for (array, words) in self.touched(array_bytes)?.iter().zip(words.chunks_exact_mut(2)) {
            words.copy_from_slice(&[array.address(), array_bytes / size_of::<u32>() as u64]);
        }
        let (items, threads, index) = (1, u64::from(Touch::source().workgroup[0]), 0);
        words[8..].copy_from_slice(&[items, threads, index]);
        // SAFETY: the block is Touch's, and its four arrays are live buffers of the device, at least as long as it says.
        Ok(unsafe { self.touch.run([1, 1, 1], bytemuck::cast_slice(&words)) }?)
    }
}
