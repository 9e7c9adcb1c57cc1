//! The moves through vulkano.

use std::{ops::Range, slice, sync::Arc};

use anyhow::Context as _;
use vulkano::{
    VulkanLibrary,
    buffer::{Buffer, BufferContents, BufferCreateInfo, BufferUsage, Subbuffer},
    command_buffer::{
        AutoCommandBufferBuilder, BufferCopy, CommandBufferUsage, CopyBufferInfoTyped,
        PrimaryAutoCommandBuffer, allocator::StandardCommandBufferAllocator,
    },
    descriptor_set::{
        DescriptorSet, WriteDescriptorSet, allocator::StandardDescriptorSetAllocator,
    },
    device::{
        self, DeviceCreateInfo, Queue, QueueCreateInfo, QueueFlags, physical::PhysicalDevice,
    },
    instance::{Instance, InstanceCreateInfo},
    memory::allocator::{AllocationCreateInfo, MemoryTypeFilter, StandardMemoryAllocator},
    pipeline::{
        ComputePipeline, Pipeline, PipelineBindPoint, PipelineLayout,
        PipelineShaderStageCreateInfo, compute::ComputePipelineCreateInfo,
        layout::PipelineDescriptorSetLayoutCreateInfo,
    },
    shader::{ShaderModule, ShaderModuleCreateInfo},
    sync::{self, GpuFuture},
};

use crate::{
    fill,
    library::{Array, Device, Element, Library, See},
};

/// vulkano with one physical device.
pub(crate) struct WithVulkano {
    opened: Opened,
    memory: Arc<StandardMemoryAllocator>,
    sets: Arc<StandardDescriptorSetAllocator>,
    fill: Arc<ComputePipeline>,
    named: Device,
}

/// What commands need.
#[derive(Clone)]
struct Opened {
    device: Arc<device::Device>,
    queue: Arc<Queue>,
    commands: Arc<StandardCommandBufferAllocator>,
}

type Commands = AutoCommandBufferBuilder<PrimaryAutoCommandBuffer>;

impl WithVulkano {
    /// Opens the device of that name.
    pub(crate) fn open(name: &str) -> anyhow::Result<Self> {
        let instance = Instance::new(VulkanLibrary::new()?, InstanceCreateInfo::default())?;
        let mut devices = instance.enumerate_physical_devices()?;
        let physical = devices.find(|physical| physical.properties().device_name == name);
        let physical = physical.with_context(|| format!("vulkano has no device `{name}`"))?;
        let named = named(&physical);
        let families = physical.queue_family_properties().iter();
        let mut computing = families.map(|family| family.queue_flags.contains(QueueFlags::COMPUTE));
        let family = computing.position(|computes| computes).context("no queue that computes")?;
        let queue_family_index = u32::try_from(family)?;
        let asked = QueueCreateInfo { queue_family_index, ..QueueCreateInfo::default() };
        let asked =
            DeviceCreateInfo { queue_create_infos: vec![asked], ..DeviceCreateInfo::default() };
        let (device, mut queues) = device::Device::new(physical, asked)?;
        let queue = queues.next().context("no queue came")?;
        let commands =
            Arc::new(StandardCommandBufferAllocator::new(device.clone(), Default::default()));
        Ok(Self {
            memory: Arc::new(StandardMemoryAllocator::new_default(device.clone())),
            sets: Arc::new(StandardDescriptorSetAllocator::new(device.clone(), Default::default())),
            fill: pipeline(&device)?,
            opened: Opened { device, queue, commands },
            named,
        })
    }

    fn buffer<T: BufferContents>(
        &self,
        len: usize,
        usage: BufferUsage,
        memory_type_filter: MemoryTypeFilter,
    ) -> anyhow::Result<Subbuffer<[T]>> {
        let create = BufferCreateInfo { usage, ..BufferCreateInfo::default() };
        let allocation = AllocationCreateInfo { memory_type_filter, ..Default::default() };
        Ok(Buffer::new_slice(self.memory.clone(), create, allocation, len as u64)?)
    }
}

fn named(physical: &PhysicalDevice) -> Device {
    let properties = physical.properties();
    let driver = [properties.driver_name.as_deref(), properties.driver_info.as_deref()];
    let driver = driver.into_iter().flatten().collect::<Vec<_>>().join(" ");
    Device { name: properties.device_name.clone(), driver }
}

fn pipeline(device: &Arc<device::Device>) -> anyhow::Result<Arc<ComputePipeline>> {
    let words = fill::spirv()?;
    // SAFETY: naga validated the module, and made SPIR-V of it that it vouches for.
    let module = unsafe { ShaderModule::new(device.clone(), ShaderModuleCreateInfo::new(&words)) }?;
    let entry = module.entry_point("fill").context("the kernel has no entry point")?;
    let stage = PipelineShaderStageCreateInfo::new(entry);
    let layout = PipelineDescriptorSetLayoutCreateInfo::from_stages([&stage]);
    let layout = PipelineLayout::new(
        device.clone(),
        layout.into_pipeline_layout_create_info(device.clone())?,
    )?;
    let create = ComputePipelineCreateInfo::stage_layout(stage, layout);
    Ok(ComputePipeline::new(device.clone(), None, create)?)
}

impl Library for WithVulkano {
    fn name(&self) -> &'static str {
        "vulkano"
    }

    fn device(&self) -> &Device {
        &self.named
    }

    fn array(&self, len: usize) -> anyhow::Result<Box<dyn Array>> {
        let made = MemoryTypeFilter::PREFER_HOST | MemoryTypeFilter::HOST_SEQUENTIAL_WRITE;
        let read = MemoryTypeFilter::PREFER_HOST | MemoryTypeFilter::HOST_RANDOM_ACCESS;
        let (from, to) = (BufferUsage::TRANSFER_SRC, BufferUsage::TRANSFER_DST);
        let near = MemoryTypeFilter::PREFER_DEVICE;
        let array = self.buffer(len, BufferUsage::STORAGE_BUFFER | from | to, near)?;
        let arguments = self.buffer::<u32>(
            4,
            BufferUsage::UNIFORM_BUFFER,
            MemoryTypeFilter::PREFER_DEVICE | MemoryTypeFilter::HOST_SEQUENTIAL_WRITE,
        )?;
        let layout = self.fill.layout().set_layouts().first().context("a kernel without sets")?;
        let writes = [
            WriteDescriptorSet::buffer(0, array.clone()),
            WriteDescriptorSet::buffer(1, arguments.clone()),
        ];
        let set = DescriptorSet::new(self.sets.clone(), layout.clone(), writes, [])?;
        Ok(Box::new(VulkanoArray {
            opened: self.opened.clone(),
            fill: self.fill.clone(),
            set,
            arguments,
            make: self.buffer(len, from, made)?,
            read: self.buffer(len, to, read)?,
            array,
            len: u32::try_from(len)?,
        }))
    }
}

struct VulkanoArray {
    opened: Opened,
    fill: Arc<ComputePipeline>,
    set: Arc<DescriptorSet>,
    arguments: Subbuffer<[u32]>,
    array: Subbuffer<[Element]>,
    /// Written by the host, copied from.
    make: Subbuffer<[Element]>,
    /// Copied to, read by the host.
    read: Subbuffer<[Element]>,
    len: u32,
}

impl VulkanoArray {
    /// Records commands, submits them, and waits for them.
    fn run(&self, record: impl FnOnce(&mut Commands) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let Opened { device, queue, commands } = &self.opened;
        let once = CommandBufferUsage::OneTimeSubmit;
        let mut builder = Commands::primary(commands.clone(), queue.queue_family_index(), once)?;
        record(&mut builder)?;
        let submitted = sync::now(device.clone()).then_execute(queue.clone(), builder.build()?)?;
        Ok(submitted.then_signal_fence_and_flush()?.wait(None)?)
    }

    /// Copies parts of the array, one after the other, to where they can be read, and looks at them one by one.
    fn bring(&self, parts: &[Range<usize>], see: See<'_>) -> anyhow::Result<()> {
        let mut to = 0;
        let region = |part: &Range<usize>| {
            let (src_offset, dst_offset, size) = (part.start as u64, to, part.len() as u64);
            to += size;
            BufferCopy { src_offset, dst_offset, size, ..BufferCopy::default() }
        };
        let regions = parts.iter().map(region).collect();
        let mut copy = CopyBufferInfoTyped::buffers(self.array.clone(), self.read.clone());
        copy.regions = regions;
        self.run(|commands| {
            commands.copy_buffer(copy)?;
            Ok(())
        })?;
        let view = self.read.read()?;
        let mut rest: &[Element] = &view;
        for part in parts {
            let (this, after) = rest.split_at(part.len());
            see(this);
            rest = after;
        }
        Ok(())
    }
}

impl Array for VulkanoArray {
    fn up(&mut self, data: &[Element]) -> anyhow::Result<()> {
        self.make_in_place(data)?;
        self.up_in_place()
    }

    fn make_in_place(&mut self, data: &[Element]) -> anyhow::Result<bool> {
        self.make.write()?.copy_from_slice(data);
        Ok(true)
    }

    fn up_in_place(&mut self) -> anyhow::Result<()> {
        self.run(|commands| {
            let copy = CopyBufferInfoTyped::buffers(self.make.clone(), self.array.clone());
            commands.copy_buffer(copy)?;
            Ok(())
        })
    }

    fn set_value(&mut self, value: Element) -> anyhow::Result<()> {
        self.arguments.write()?.copy_from_slice(&fill::arguments(value, self.len));
        Ok(())
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        self.run(|commands| {
            commands.bind_pipeline_compute(self.fill.clone())?.bind_descriptor_sets(
                PipelineBindPoint::Compute,
                self.fill.layout().clone(),
                0,
                self.set.clone(),
            )?;
            // SAFETY: the kernel compares its index with the array's length, which is among its arguments, and the set holds
            // that array and those arguments.
            unsafe { commands.dispatch([fill::groups(self.len), 1, 1]) }?;
            Ok(())
        })
    }

    fn down(&mut self, see: See<'_>) -> anyhow::Result<()> {
        let all = 0..self.len as usize;
        self.bring(slice::from_ref(&all), see)
    }

    fn parts_by_hand(&mut self, parts: &[Range<usize>], see: See<'_>) -> anyhow::Result<bool> {
        self.bring(parts, see)?;
        Ok(true)
    }
}
