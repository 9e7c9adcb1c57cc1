//! Four vectors that a kernel touches, each in one element: how a benchmark makes a device write memory of any size at once.

use hmmap::{DeviceId, Fence, Hmmap, SharedVec, kernels::Touch};

use crate::BenchError;

/// Four vectors on one device.
pub(super) struct Touched {
    mem: Hmmap,
    device: DeviceId,
    vecs: [SharedVec<u32>; 4],
}

impl Touched {
    /// The first vector has so many bytes; the others too, or a page if they only have to be there.
    pub(super) fn new(
        mem: Hmmap,
        device: DeviceId,
        first_bytes: u64,
        other_bytes: u64,
    ) -> Result<Self, BenchError> {
        let first = SharedVec::new(&mem, first_bytes as usize / size_of::<u32>())?;
        Self::around(mem, device, first, other_bytes)
    }

    /// The first vector is this one; the others have so many bytes.
    pub(super) fn around(
        mem: Hmmap,
        device: DeviceId,
        first: SharedVec<u32>,
        other_bytes: u64,
    ) -> Result<Self, BenchError> {
        let vec = || SharedVec::new(&mem, other_bytes as usize / size_of::<u32>());
        let vecs = [first, vec()?, vec()?, vec()?];
        Ok(Self { mem, device, vecs })
    }

    pub(super) fn mem(&self) -> &Hmmap {
        &self.mem
    }

    pub(super) fn device(&self) -> DeviceId {
        self.device
    }

    pub(super) fn vecs(&mut self) -> &mut [SharedVec<u32>; 4] {
        &mut self.vecs
    }

    pub(super) fn first(&self) -> &SharedVec<u32> {
        &self.vecs[0]
    }

    /// Launches the kernel that adds one to element 0 of each.
    pub(super) fn launch(&mut self) -> Result<Fence, BenchError> {
        let [a, b, c, d] = &mut self.vecs;
        let kernel = Touch { a: a.update(), b: b.update(), c: c.update(), d: d.update(), index: 0 };
        Ok(self.mem.launch_on(self.device, 1, kernel)?)
    }

    /// Has the device write all four, and waits for it.
    pub(super) fn written_on_the_device(&mut self) -> Result<(), BenchError> {
        Ok(self.launch()?.wait()?)
    }
}
