//! Kernels made ready: pipelines, one per source.
#![allow(unsafe_code, reason = "makes pipelines")]

use std::{collections::HashMap, ffi::CString, sync::Arc};

use ash::vk;
use hmmap_core::{
    backend::DeviceError,
    kernel::{KernelId, MAX_PARAM_BYTES, ParamLayout, Source},
};
use parking_lot::{Mutex, RwLock};

use crate::{
    gpu::Gpu,
    play::Playable,
    shader::{self, Target},
};

/// Every prepared kernel of one device. Pipelines live as long as the device: a source is a `static`, so there are few.
#[derive(Debug)]
pub(crate) struct Kernels {
    gpu: Arc<Gpu>,
    target: Target,
    cache: vk::PipelineCache,
    /// One layout for all: no descriptors, the largest push constant block.
    layout: vk::PipelineLayout,
    ready: RwLock<Vec<vk::Pipeline>>,
    /// By the source's address, which identifies a kernel, with the layout that it was checked against.
    known: Mutex<HashMap<usize, (KernelId, ParamLayout)>>,
}

impl Kernels {
    pub(crate) fn new(gpu: &Arc<Gpu>) -> Result<Self, DeviceError> {
        let block = vk::PushConstantRange::default()
            .stage_flags(vk::ShaderStageFlags::COMPUTE)
            .size(MAX_PARAM_BYTES as u32);
        let blocks = [block];
        let info = vk::PipelineLayoutCreateInfo::default().push_constant_ranges(&blocks);
        // SAFETY: the device is live and every device takes 128 bytes of push constants.
        let layout = unsafe { gpu.raw().create_pipeline_layout(&info, None) };
        let layout = gpu.done("vkCreatePipelineLayout", layout)?;
        let info = vk::PipelineCacheCreateInfo::default();
        // SAFETY: the device is live. Without a cache pipelines are only slower to make.
        let cache = unsafe { gpu.raw().create_pipeline_cache(&info, None) }.unwrap_or_default();
        let physical = gpu.physical();
        let newer = physical.api_version >= vk::API_VERSION_1_3;
        let spirv_version = if newer { 0x0001_0600 } else { 0x0001_0500 };
        let target = Target { features: physical.features, spirv_version, limits: physical.limits };
        let (ready, known) = (RwLock::default(), Mutex::default());
        Ok(Self { gpu: Arc::clone(gpu), target, cache, layout, ready, known })
    }

    /// Makes a kernel ready; the second time it is known.
    pub(crate) fn prepare(
        &self,
        source: &'static Source,
        layout: &ParamLayout,
    ) -> Result<KernelId, DeviceError> {
        let key = std::ptr::from_ref(source).addr();
        let mut known = self.known.lock();
        if let Some((id, checked)) = known.get(&key)
            && checked == layout
        {
            return Ok(*id);
        }
        shader::check(source, layout, &self.target)?;
        self.gpu.alive()?;
        let pipeline = self.build(source)?;
        let mut ready = self.ready.write();
        let id = KernelId(ready.len() as u32);
        ready.push(pipeline);
        known.insert(key, (id, layout.clone()));
        Ok(id)
    }

    fn build(&self, source: &'static Source) -> Result<vk::Pipeline, DeviceError> {
        let bad = |reason| DeviceError::BadShader { kernel: source.name, reason };
        let entry = CString::new(source.name).map_err(|_| bad("its name holds a zero byte"))?;
        let words: Vec<u32> = source
            .spirv
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        let info = vk::ShaderModuleCreateInfo::default().code(&words);
        // SAFETY: the code is SPIR-V for this device as far as `shader::check` can tell; that the rest of it is valid is
        // promised by whoever wrote the `unsafe impl Kernel`.
        let module = unsafe { self.gpu.raw().create_shader_module(&info, None) };
        let module = self.gpu.done_for("vkCreateShaderModule", words.len() as u64 * 4, module)?;
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(module)
            .name(&entry);
        let info = vk::ComputePipelineCreateInfo::default().stage(stage).layout(self.layout);
        // SAFETY: every handle is live, and the entry point is in the module.
        let made = unsafe { self.gpu.raw().create_compute_pipelines(self.cache, &[info], None) };
        // SAFETY: pipelines do not need their module any more.
        unsafe { self.gpu.raw().destroy_shader_module(module, None) };
        let made = self.gpu.done("vkCreateComputePipelines", made.map_err(|(_, result)| result))?;
        made.first().copied().ok_or_else(|| bad("the driver made no pipeline of it"))
    }

    /// A prepared kernel.
    pub(crate) fn get(&self, id: KernelId) -> Option<Playable> {
        let pipeline = self.ready.read().get(id.0 as usize).copied()?;
        Some(Playable { pipeline, layout: self.layout })
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        let device = self.gpu.raw();
        // SAFETY: made here, destroyed once; queues have ended their work before the kernels go (field order of the device).
        unsafe {
            for pipeline in self.ready.get_mut().drain(..) {
                device.destroy_pipeline(pipeline, None);
            }
            device.destroy_pipeline_layout(self.layout, None);
            device.destroy_pipeline_cache(self.cache, None);
        }
    }
}
