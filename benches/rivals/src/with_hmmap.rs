//! The moves through hmmap, under [`MemoryModel::Migrate`]: the pages do move, though this driver's memory is the host's.

use std::{hint::black_box, ops::Range, time::Instant};

use anyhow::{Context as _, ensure};
use hmmap::{
    Cause, DeviceId, Hmmap, MemoryModel, Options, SharedVec,
    core::backend::DeviceFacts,
    kernels::{Fill, StreamCopy},
};

use crate::library::{Array, Device, Element, Library, See};

/// hmmap with its default device.
pub(crate) struct WithHmmap {
    mem: Hmmap,
    id: DeviceId,
    device: Device,
}

impl WithHmmap {
    pub(crate) fn open() -> anyhow::Result<Self> {
        let options = Options { memory_model: MemoryModel::Migrate, ..Options::default() };
        let mem = Hmmap::builder().options(options).build()?;
        let id = mem.default_device()?;
        let summary = &mem.facts(id)?.summary;
        ensure!(
            summary.api.eq_ignore_ascii_case("vulkan"),
            "the rivals run on Vulkan, and the default device is {} ({})",
            summary.name,
            summary.api
        );
        let device = Device { name: summary.name.clone(), driver: summary.driver.clone() };
        Ok(Self { mem, id, device })
    }

    pub(crate) fn id(&self) -> DeviceId {
        self.id
    }

    pub(crate) fn facts(&self) -> anyhow::Result<&DeviceFacts> {
        Ok(self.mem.facts(self.id)?)
    }

    /// Seconds that a borrow of 1 MiB takes which is where it should be: the median of a thousand, `samples` times over.
    pub(crate) fn idle_guard_s(&self, samples: u32) -> anyhow::Result<Vec<f64>> {
        const TOGETHER: u32 = 1000;
        let vec = SharedVec::from_fn(&self.mem, 1 << 18, |i| i as Element)?;
        let sample = |_| {
            let started = Instant::now();
            for _ in 0..TOGETHER {
                black_box(black_box(&vec).host(..)?);
            }
            Ok(started.elapsed().as_secs_f64() / f64::from(TOGETHER))
        };
        (0..samples).map(sample).collect()
    }
}

impl Library for WithHmmap {
    fn name(&self) -> &'static str {
        "hmmap"
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn array(&self, len: usize) -> anyhow::Result<Box<dyn Array>> {
        let vec = SharedVec::new(&self.mem, len)?;
        Ok(Box::new(HmmapArray { mem: self.mem.clone(), id: self.id, vec, value: 0.0 }))
    }
}

struct HmmapArray {
    mem: Hmmap,
    id: DeviceId,
    vec: SharedVec<Element>,
    value: Element,
}

impl Array for HmmapArray {
    fn up(&mut self, data: &[Element]) -> anyhow::Result<()> {
        self.vec.host_mut(..)?.copy_from_slice(data);
        self.up_in_place()
    }

    fn make_in_place(&mut self, data: &[Element]) -> anyhow::Result<bool> {
        self.vec.host_mut(..)?.copy_from_slice(data);
        Ok(true)
    }

    fn up_in_place(&mut self) -> anyhow::Result<()> {
        Ok(self.vec.prefetch(.., self.id)?.wait()?)
    }

    fn set_value(&mut self, value: Element) -> anyhow::Result<()> {
        self.value = value;
        Ok(())
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let n = self.vec.len();
        let fill = Fill { out: self.vec.write(), value: self.value };
        Ok(self.mem.launch_on(self.id, n, fill)?.wait()?)
    }

    fn down(&mut self, see: See<'_>) -> anyhow::Result<()> {
        see(self.vec.host(..)?);
        Ok(())
    }

    fn parts(&mut self, parts: &[Range<usize>], see: See<'_>) -> anyhow::Result<()> {
        for part in parts {
            see(self.vec.host(part.clone())?);
        }
        Ok(())
    }

    fn on_the_device(&mut self) -> anyhow::Result<Vec<Element>> {
        // The host has a copy that is as good; a kernel reads the device's.
        let mut seen = SharedVec::new(&self.mem, self.vec.len())?;
        let before = self.mem.stats();
        let copy = StreamCopy { a: self.vec.read(), c: seen.write() };
        self.mem.launch_on(self.id, self.vec.len(), copy)?.wait()?;
        let late = (self.mem.stats() - before)[Cause::Launch].to_device_bytes;
        ensure!(late == 0, "{late} bytes were not there when the kernel wanted them");
        seen.to_vec().context("the device's copy")
    }
}
