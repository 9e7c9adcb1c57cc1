//! Several commands in one submission: what the programs written by hand are made of.

use std::{marker::PhantomData, time::Duration};

use ash::vk;
use hmmap::Grid;

use super::{Buffer, Device, Kernel, RawError, Work};

/// Commands in order. Nothing keeps two of them apart but [`Batch::then`].
#[derive(Debug, Default)]
pub struct Batch<'a> {
    steps: Vec<Step<'a>>,
}

/// An array as a kernel sees it.
#[derive(Clone, Copy, Debug)]
pub struct Array<'a> {
    address: u64,
    len: u64,
    buffer: PhantomData<&'a Buffer>,
}

#[derive(Debug)]
enum Step<'a> {
    Kernel { kernel: &'a Kernel, groups: [u32; 3], params: Vec<u8> },
    Copy { from: &'a Buffer, to: &'a Buffer, bytes: u64 },
    Zero(&'a Buffer),
    Then,
}

impl Buffer {
    /// The first `len` elements of four bytes, as far as there are.
    pub fn array(&self, len: u64) -> Array<'_> {
        let len = len.min(self.len_bytes() / size_of::<u32>() as u64);
        Array { address: self.address(), len, buffer: PhantomData }
    }
}

impl<'a> Batch<'a> {
    /// No commands yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a launch.
    ///
    /// # Safety
    /// `arrays` and `scalars` are those that the kernel's `bind` lists, in its order and of its types.
    pub unsafe fn kernel(
        &mut self,
        kernel: &'a Kernel,
        grid: Grid,
        arrays: &[Array<'a>],
        scalars: &[u8],
    ) -> &mut Self {
        let workgroup = kernel.workgroup();
        let groups = grid.groups(workgroup).unwrap_or([1; 3]);
        let mut params = Vec::with_capacity(kernel.params_bytes() as usize);
        for array in arrays {
            params.extend_from_slice(&array.address.to_ne_bytes());
            params.extend_from_slice(&array.len.to_ne_bytes());
        }
        let words = match grid {
            Grid::Linear(n) | Grid::Groups { n, .. } => {
                [n, u64::from(groups[0]) * u64::from(workgroup[0])]
            }
            Grid::Plane { nx, ny } => [nx, ny],
        };
        params.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        params.extend_from_slice(scalars);
        self.steps.push(Step::Kernel { kernel, groups, params });
        self
    }

    /// Appends a copy of the first `bytes`, as many as both have.
    pub fn copy(&mut self, from: &'a Buffer, to: &'a Buffer, bytes: u64) -> &mut Self {
        let bytes = bytes.min(from.len_bytes()).min(to.len_bytes());
        self.steps.push(Step::Copy { from, to, bytes });
        self
    }

    /// Appends a fill with zeros.
    pub fn zero(&mut self, buffer: &'a Buffer) -> &mut Self {
        self.steps.push(Step::Zero(buffer));
        self
    }

    /// What comes next sees what came before.
    pub fn then(&mut self) -> &mut Self {
        self.steps.push(Step::Then);
        self
    }

    /// Submits everything on the queue of kernels and waits; the host sees what was written then.
    ///
    /// # Errors
    /// What a call answered.
    pub fn run(&self, device: &Device) -> Result<Duration, RawError> {
        let record = |device: &ash::Device, commands| {
            for step in &self.steps {
                // SAFETY: recording, on the queue's command buffer; everything a step names is borrowed by the batch, so it lives.
                unsafe { step.record(device, commands) };
            }
            let all = vk::PipelineStageFlags::TRANSFER | vk::PipelineStageFlags::COMPUTE_SHADER;
            let (from, to) = (vk::AccessFlags::MEMORY_WRITE, vk::AccessFlags::HOST_READ);
            // SAFETY: as above.
            unsafe {
                barrier(device, commands, [all, vk::PipelineStageFlags::HOST], [from, to]);
            }
        };
        // SAFETY: copies, fills, dispatches and barriers are valid on a queue that runs kernels; they touch live buffers within
        // their lengths: of copies and fills by construction, of kernels by the contract of `kernel`.
        unsafe { device.run(Work::Kernels, record) }
    }
}

impl Step<'_> {
    /// # Safety
    /// `commands` is being recorded, for a queue of the step's device that runs kernels.
    unsafe fn record(&self, device: &ash::Device, commands: vk::CommandBuffer) {
        // SAFETY: the caller's promise; handles live as long as what the step borrows.
        unsafe {
            match self {
                Self::Kernel { kernel, groups, params } => {
                    kernel.record(device, commands, *groups, params);
                }
                Self::Copy { from, to, bytes } => {
                    let region = [vk::BufferCopy { src_offset: 0, dst_offset: 0, size: *bytes }];
                    device.cmd_copy_buffer(commands, from.raw(), to.raw(), &region);
                }
                Self::Zero(buffer) => {
                    device.cmd_fill_buffer(commands, buffer.raw(), 0, vk::WHOLE_SIZE, 0);
                }
                Self::Then => {
                    let all =
                        vk::PipelineStageFlags::TRANSFER | vk::PipelineStageFlags::COMPUTE_SHADER;
                    let write = vk::AccessFlags::MEMORY_WRITE;
                    barrier(
                        device,
                        commands,
                        [all, all],
                        [write, write | vk::AccessFlags::MEMORY_READ],
                    );
                }
            }
        }
    }
}

/// # Safety
/// `commands` is being recorded, for a queue that has the stages.
unsafe fn barrier(
    device: &ash::Device,
    commands: vk::CommandBuffer,
    stages: [vk::PipelineStageFlags; 2],
    access: [vk::AccessFlags; 2],
) {
    let memory =
        [vk::MemoryBarrier::default().src_access_mask(access[0]).dst_access_mask(access[1])];
    let flags = vk::DependencyFlags::empty();
    // SAFETY: the caller's promise.
    unsafe {
        device.cmd_pipeline_barrier(commands, stages[0], stages[1], flags, &memory, &[], &[]);
    }
}
