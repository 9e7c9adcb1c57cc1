//! The moves through wgpu.

use std::{iter, ops::Range, sync::mpsc};

use anyhow::Context as _;
use wgpu::{
    BindGroup, Buffer, BufferAddress, BufferDescriptor, BufferUsages, ComputePipeline, MapMode,
    PollType, SubmissionIndex,
};

use crate::{
    fill,
    library::{Array, Device, Element, Library, See},
};

/// wgpu with one adapter.
pub(crate) struct WithWgpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    fill: ComputePipeline,
    named: Device,
}

impl WithWgpu {
    /// Opens the adapter of that name.
    pub(crate) fn open(name: &str) -> anyhow::Result<Self> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::VULKAN,
            flags: wgpu::InstanceFlags::empty(),
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::VULKAN));
        let adapter = adapters.into_iter().find(|adapter| adapter.get_info().name == name);
        let adapter = adapter.with_context(|| format!("wgpu has no adapter `{name}`"))?;
        let named = named(&adapter.get_info());
        let (device, queue) = pollster::block_on(adapter.request_device(&Default::default()))?;
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(fill::WGSL.into()),
        });
        let fill = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("fill"),
            compilation_options: Default::default(),
            cache: None,
        });
        Ok(Self { device, queue, fill, named })
    }
}

/// An adapter in the words of all libraries.
pub(crate) fn named(info: &wgpu::AdapterInfo) -> Device {
    Device { name: info.name.clone(), driver: format!("{} {}", info.driver, info.driver_info) }
}

impl Library for WithWgpu {
    fn name(&self) -> &'static str {
        "wgpu"
    }

    fn device(&self) -> &Device {
        &self.named
    }

    fn array(&self, len: usize) -> anyhow::Result<Box<dyn Array>> {
        let bytes = (len * size_of::<Element>()) as BufferAddress;
        let buffer = |size, usage| {
            let mapped_at_creation = false;
            self.device.create_buffer(&BufferDescriptor {
                label: None,
                size,
                usage,
                mapped_at_creation,
            })
        };
        let moved = BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        let array = buffer(bytes, BufferUsages::STORAGE | moved);
        let arguments = buffer(16, BufferUsages::UNIFORM | BufferUsages::COPY_DST);
        let bindings = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.fill.get_bind_group_layout(0),
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: array.as_entire_binding() },
                wgpu::BindGroupEntry { binding: 1, resource: arguments.as_entire_binding() },
            ],
        });
        Ok(Box::new(WgpuArray {
            device: self.device.clone(),
            queue: self.queue.clone(),
            fill: self.fill.clone(),
            bindings,
            arguments,
            make: buffer(bytes, BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC),
            read: buffer(bytes, BufferUsages::MAP_READ | BufferUsages::COPY_DST),
            array,
            len: u32::try_from(len)?,
        }))
    }
}

struct WgpuArray {
    device: wgpu::Device,
    queue: wgpu::Queue,
    fill: ComputePipeline,
    bindings: BindGroup,
    arguments: Buffer,
    array: Buffer,
    /// Mapped by an application that makes its data in place.
    make: Buffer,
    /// Mapped by an application that reads.
    read: Buffer,
    len: u32,
}

impl WgpuArray {
    fn wait(&self, for_this: SubmissionIndex) -> anyhow::Result<()> {
        self.device.poll(PollType::Wait { submission_index: Some(for_this), timeout: None })?;
        Ok(())
    }

    fn map(&self, buffer: &Buffer, mode: MapMode, bytes: BufferAddress) -> anyhow::Result<()> {
        let (done, mapped) = mpsc::channel();
        buffer.slice(..bytes).map_async(mode, move |result| {
            // Nobody is left to be told when the receiver is gone.
            let _ = done.send(result);
        });
        self.device.poll(PollType::wait_indefinitely())?;
        Ok(mapped.recv()??)
    }

    /// Copies parts of the array, one after the other, to where they can be read, and looks at them one by one.
    fn bring(&self, parts: &[Range<usize>], see: See<'_>) -> anyhow::Result<()> {
        let bytes = |elements: usize| (elements * size_of::<Element>()) as BufferAddress;
        let mut commands = self.device.create_command_encoder(&Default::default());
        let mut to = 0;
        for part in parts {
            let (from, len) = (bytes(part.start), bytes(part.len()));
            commands.copy_buffer_to_buffer(&self.array, from, &self.read, to, len);
            to += len;
        }
        self.queue.submit([commands.finish()]);
        self.map(&self.read, MapMode::Read, to)?;
        {
            let view = self.read.slice(..to).get_mapped_range();
            let mut rest: &[Element] = bytemuck::cast_slice(&view);
            for part in parts {
                let (this, after) = rest.split_at(part.len());
                see(this);
                rest = after;
            }
        }
        self.read.unmap();
        Ok(())
    }
}

impl Array for WgpuArray {
    fn up(&mut self, data: &[Element]) -> anyhow::Result<()> {
        self.queue.write_buffer(&self.array, 0, bytemuck::cast_slice(data));
        let written = self.queue.submit(iter::empty());
        self.wait(written)
    }

    fn make_in_place(&mut self, data: &[Element]) -> anyhow::Result<bool> {
        self.map(&self.make, MapMode::Write, self.make.size())?;
        self.make.slice(..).get_mapped_range_mut().copy_from_slice(bytemuck::cast_slice(data));
        Ok(true)
    }

    fn up_in_place(&mut self) -> anyhow::Result<()> {
        self.make.unmap();
        let mut commands = self.device.create_command_encoder(&Default::default());
        commands.copy_buffer_to_buffer(&self.make, 0, &self.array, 0, self.make.size());
        let copied = self.queue.submit([commands.finish()]);
        self.wait(copied)
    }

    fn set_value(&mut self, value: Element) -> anyhow::Result<()> {
        let arguments = fill::arguments(value, self.len);
        self.queue.write_buffer(&self.arguments, 0, bytemuck::cast_slice(&arguments));
        let written = self.queue.submit(iter::empty());
        self.wait(written)
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let mut commands = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = commands.begin_compute_pass(&Default::default());
            pass.set_pipeline(&self.fill);
            pass.set_bind_group(0, &self.bindings, &[]);
            pass.dispatch_workgroups(fill::groups(self.len), 1, 1);
        }
        let launched = self.queue.submit([commands.finish()]);
        self.wait(launched)
    }

    fn down(&mut self, see: See<'_>) -> anyhow::Result<()> {
        let all = 0..self.len as usize;
        self.bring(&[all], see)
    }

    fn parts_by_hand(&mut self, parts: &[Range<usize>], see: See<'_>) -> anyhow::Result<bool> {
        self.bring(parts, see)?;
        Ok(true)
    }
}
