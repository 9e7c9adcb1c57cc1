//! A compute pipeline whose parameters are push constants.

use std::{ffi::CString, io::Cursor, time::Duration};

use ash::vk;

use super::{Device, RawError, Work, failed};

/// A kernel made ready on one device.
#[derive(Debug)]
pub struct Kernel {
    device: Device,
    layout: vk::PipelineLayout,
    pipeline: vk::Pipeline,
    params_bytes: u32,
    workgroup: [u32; 3],
}

impl Kernel {
    /// Makes the SPIR-V of one of hmmap's kernels ready. Its parameter block has so many bytes.
    ///
    /// # Errors
    /// [`RawError::Shader`]; what a call answered.
    pub fn new<K: hmmap::Kernel>(device: &Device, params_bytes: u32) -> Result<Self, RawError> {
        let source = K::source();
        let bad = || RawError::Shader { kernel: source.name };
        let words = ash::util::read_spv(&mut Cursor::new(source.spirv)).map_err(|_| bad())?;
        let entry = CString::new(source.name).map_err(|_| bad())?;
        let open = device.open_handles();
        let range = [vk::PushConstantRange::default()
            .stage_flags(vk::ShaderStageFlags::COMPUTE)
            .size(params_bytes)];
        let layout = vk::PipelineLayoutCreateInfo::default().push_constant_ranges(&range);
        let module = vk::ShaderModuleCreateInfo::default().code(&words);
        // SAFETY: the structs are complete; the code is SPIR-V of the library's own, checked by its tests, with an entry point of this
        // name; the module is destroyed once the pipeline, which does not need it any more, is made.
        unsafe {
            let layout = open
                .device
                .create_pipeline_layout(&layout, None)
                .map_err(failed("vkCreatePipelineLayout"))?;
            let mut made = Self {
                device: device.clone(),
                layout,
                pipeline: vk::Pipeline::null(),
                params_bytes,
                workgroup: source.workgroup,
            };
            let module = open
                .device
                .create_shader_module(&module, None)
                .map_err(failed("vkCreateShaderModule"))?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(&entry);
            let info = vk::ComputePipelineCreateInfo::default().layout(layout).stage(stage);
            let cache = vk::PipelineCache::null();
            let pipelines = open.device.create_compute_pipelines(cache, &[info], None);
            open.device.destroy_shader_module(module, None);
            let pipelines =
                pipelines.map_err(|(_, code)| failed("vkCreateComputePipelines")(code))?;
            made.pipeline = pipelines[0];
            Ok(made)
        }
    }

    pub(super) fn params_bytes(&self) -> u32 {
        self.params_bytes
    }

    pub(super) fn workgroup(&self) -> [u32; 3] {
        self.workgroup
    }

    /// Runs the kernel and waits; says how long recording, submitting and waiting took.
    ///
    /// # Errors
    /// What a call answered.
    ///
    /// # Safety
    /// `params` is the kernel's parameter block: its addresses are those of live buffers of this device, as long as the block
    /// says.
    pub unsafe fn run(&self, groups: [u32; 3], params: &[u8]) -> Result<Duration, RawError> {
        // SAFETY: a dispatch is valid on the queue of kernels; the caller vouches for the addresses.
        unsafe {
            self.device.run(Work::Kernels, |device, commands| {
                self.record(device, commands, groups, params);
            })
        }
    }

    /// Records a launch.
    ///
    /// # Safety
    /// As [`Kernel::run`], and `commands` is being recorded, for a queue of the kernel's device that runs kernels.
    pub(super) unsafe fn record(
        &self,
        device: &ash::Device,
        commands: vk::CommandBuffer,
        groups: [u32; 3],
        params: &[u8],
    ) {
        debug_assert_eq!(params.len(), self.params_bytes as usize);
        let (compute, stage) = (vk::PipelineBindPoint::COMPUTE, vk::ShaderStageFlags::COMPUTE);
        // SAFETY: pipeline and layout are this device's and live; the block is as long as the layout's range; the rest is the
        // caller's promise.
        unsafe {
            device.cmd_bind_pipeline(commands, compute, self.pipeline);
            device.cmd_push_constants(commands, self.layout, stage, 0, params);
            device.cmd_dispatch(commands, groups[0], groups[1], groups[2]);
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let open = self.device.open_handles();
        // SAFETY: ours alone, and nothing runs between calls. Destroying no pipeline is allowed.
        unsafe {
            open.device.destroy_pipeline(self.pipeline, None);
            open.device.destroy_pipeline_layout(self.layout, None);
        }
    }
}
