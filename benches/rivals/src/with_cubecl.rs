//! The moves through cubecl, on its wgpu runtime.

use std::ops::Range;

use anyhow::Context as _;
use cubecl::{
    bytes::Bytes,
    prelude::*,
    server::Handle,
    wgpu::{RuntimeOptions, Vulkan, WgpuDevice, WgpuRuntime, init_setup},
};
use hmmap::core::backend::DeviceKind;

use crate::library::{self, Device, Element, Library, See};

type Client = ComputeClient<WgpuRuntime>;

const GROUP: u32 = 256;
/// Groups in a row of the grid.
const ROW: u32 = 256;

#[cube(launch_unchecked)]
fn fill(out: &mut Array<f32>, value: f32) {
    if ABSOLUTE_POS < out.len() {
        out[ABSOLUTE_POS] = value;
    }
}

/// cubecl with one device.
pub(crate) struct WithCubecl {
    client: Client,
    named: Device,
}

impl WithCubecl {
    /// Opens a device of that kind; cubecl has no other choice.
    pub(crate) fn open(kind: DeviceKind) -> anyhow::Result<Self> {
        let device = match kind {
            DeviceKind::Cpu => WgpuDevice::Cpu,
            DeviceKind::IntegratedGpu => WgpuDevice::IntegratedGpu(0),
            DeviceKind::DiscreteGpu => WgpuDevice::DiscreteGpu(0),
            DeviceKind::VirtualGpu => WgpuDevice::VirtualGpu(0),
            _ => WgpuDevice::DefaultDevice,
        };
        let setup = init_setup::<Vulkan>(&device, RuntimeOptions::default());
        let named = crate::with_wgpu::named(&setup.adapter.get_info());
        Ok(Self { client: WgpuRuntime::client(&device), named })
    }
}

impl Library for WithCubecl {
    fn name(&self) -> &'static str {
        "cubecl"
    }

    fn device(&self) -> &Device {
        &self.named
    }

    fn array(&self, len: usize) -> anyhow::Result<Box<dyn library::Array>> {
        let array = self.client.empty(len * size_of::<Element>());
        let (client, value, made) = (self.client.clone(), 0.0, None);
        Ok(Box::new(CubeclArray { client, array, made, value, len }))
    }
}

struct CubeclArray {
    client: Client,
    array: Handle,
    /// What an application made in memory that it hands over.
    made: Option<Bytes>,
    value: Element,
    len: usize,
}

impl CubeclArray {
    fn wait(&self) -> anyhow::Result<()> {
        cubecl::future::block_on(self.client.sync()).map_err(|error| anyhow::anyhow!("{error:?}"))
    }
}

impl library::Array for CubeclArray {
    fn up(&mut self, data: &[Element]) -> anyhow::Result<()> {
        self.array = self.client.create_from_slice(Element::as_bytes(data));
        self.wait()
    }

    fn make_in_place(&mut self, data: &[Element]) -> anyhow::Result<bool> {
        self.made = Some(Bytes::from_elems(data.to_vec()));
        Ok(true)
    }

    fn up_in_place(&mut self) -> anyhow::Result<()> {
        self.array = self.client.create(self.made.take().context("nothing was made")?);
        self.wait()
    }

    fn set_value(&mut self, value: Element) -> anyhow::Result<()> {
        self.value = value;
        Ok(())
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let groups = u32::try_from(self.len)?.div_ceil(GROUP);
        let count = CubeCount::Static(groups.min(ROW), groups.div_ceil(ROW), 1);
        // SAFETY: the array has so many elements, and the kernel compares its index with that.
        unsafe {
            let out = ArrayArg::from_raw_parts(self.array.clone(), self.len);
            fill::launch_unchecked::<WgpuRuntime>(
                &self.client,
                count,
                CubeDim::new_1d(GROUP),
                out,
                self.value,
            );
        }
        self.wait()
    }

    fn down(&mut self, see: See<'_>) -> anyhow::Result<()> {
        let bytes = self.client.read_one(self.array.clone());
        let bytes = bytes.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        see(Element::from_bytes(&bytes));
        Ok(())
    }

    fn parts_by_hand(&mut self, parts: &[Range<usize>], see: See<'_>) -> anyhow::Result<bool> {
        let bytes = |elements: usize| (elements * size_of::<Element>()) as u64;
        let part = |part: &Range<usize>| {
            let whole = self.array.clone();
            whole.offset_start(bytes(part.start)).offset_end(bytes(self.len - part.end))
        };
        for bytes in self.client.read(parts.iter().map(part).collect()) {
            see(Element::from_bytes(&bytes));
        }
        Ok(true)
    }
}
