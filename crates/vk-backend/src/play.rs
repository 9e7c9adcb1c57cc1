//! Plays a recorded stream into a command buffer. No decisions here: what a submission does was decided when it was recorded.
#![allow(unsafe_code, reason = "records Vulkan commands")]

use ash::vk;
use hmmap_core::kernel::KernelId;

use crate::{
    gpu::Gpu,
    stream::{Barrier, Command, Stream},
    uses::Uses,
};

/// A kernel as a command buffer needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Playable {
    pub(crate) pipeline: vk::Pipeline,
    pub(crate) layout: vk::PipelineLayout,
}

/// Records every command of `stream`.
///
/// # Safety
/// (1) `to` is in the recording state and nobody else uses it or its pool. (2) Every buffer of the stream is live and backed over the
/// ranges that the stream names, until the submission has ended, and so are the kernels. (3) The queue that `to` is for can do what the stream does.
pub(crate) unsafe fn play(
    gpu: &Gpu,
    to: vk::CommandBuffer,
    stream: &Stream<vk::Buffer>,
    kernel: impl Fn(KernelId) -> Option<Playable>,
) {
    let device = gpu.raw();
    for command in stream.commands() {
        match command {
            // SAFETY: recording, by (1); the stages are those of the queue by (3).
            Command::Barrier(barrier) => unsafe { play_barrier(device, to, *barrier) },
            Command::Copy { from, to: target, regions } => {
                let regions: smallvec::SmallVec<[vk::BufferCopy; 32]> = stream
                    .regions(regions)
                    .iter()
                    .map(|region| vk::BufferCopy {
                        src_offset: region.from_bytes,
                        dst_offset: region.to_bytes,
                        size: region.len_bytes,
                    })
                    .collect();
                // SAFETY: recording, by (1); both buffers are live and the regions inside of them by (2).
                unsafe { device.cmd_copy_buffer(to, *from, *target, &regions) };
            }
            Command::Fill { buffer, offset_bytes, len_bytes } => {
                // SAFETY: as for copies; offsets and lengths are multiples of pages, so of 4.
                unsafe { device.cmd_fill_buffer(to, *buffer, *offset_bytes, *len_bytes, 0) };
            }
            Command::Dispatch(number) => {
                let Some(dispatch) = stream.dispatched(*number) else { continue };
                let Some(Playable { pipeline, layout }) = kernel(dispatch.kernel) else { continue };
                let [x, y, z] = dispatch.groups;
                // SAFETY: recording, by (1); the pipeline is live by (2), and its layout takes a push constant block of
                // this length, which was compared when the kernel was prepared.
                unsafe {
                    device.cmd_bind_pipeline(to, vk::PipelineBindPoint::COMPUTE, pipeline);
                    if !dispatch.params.is_empty() {
                        let stage = vk::ShaderStageFlags::COMPUTE;
                        device.cmd_push_constants(to, layout, stage, 0, &dispatch.params);
                    }
                    device.cmd_dispatch(to, x, y, z);
                }
            }
            // The CPU's part: before the submission and after the fence.
            Command::HostFlush(_) | Command::HostInvalidate(_) => {}
        }
    }
}

/// # Safety
/// `to` is recording, and its queue has the stages of the barrier.
unsafe fn play_barrier(device: &ash::Device, to: vk::CommandBuffer, barrier: Barrier) {
    let memory = vk::MemoryBarrier::default()
        .src_access_mask(access(barrier.from.writes()))
        .dst_access_mask(access(barrier.to));
    // SAFETY: by the contract of this function.
    unsafe {
        device.cmd_pipeline_barrier(
            to,
            stages(barrier.from),
            stages(barrier.to),
            vk::DependencyFlags::empty(),
            &[memory],
            &[],
            &[],
        );
    }
}

fn stages(uses: Uses) -> vk::PipelineStageFlags {
    let table = [
        (Uses::SHADER, vk::PipelineStageFlags::COMPUTE_SHADER),
        (Uses::TRANSFER, vk::PipelineStageFlags::TRANSFER),
        (Uses::HOST, vk::PipelineStageFlags::HOST),
    ];
    let used = table.iter().filter(|(kind, _)| !uses.and(*kind).is_empty());
    used.fold(vk::PipelineStageFlags::empty(), |all, (_, stage)| all | *stage)
}

fn access(uses: Uses) -> vk::AccessFlags {
    let table = [
        (Uses::SHADER_READ, vk::AccessFlags::SHADER_READ),
        (Uses::SHADER_WRITE, vk::AccessFlags::SHADER_WRITE),
        (Uses::TRANSFER_READ, vk::AccessFlags::TRANSFER_READ),
        (Uses::TRANSFER_WRITE, vk::AccessFlags::TRANSFER_WRITE),
        (Uses::HOST_READ, vk::AccessFlags::HOST_READ),
        (Uses::HOST_WRITE, vk::AccessFlags::HOST_WRITE),
    ];
    let used = table.iter().filter(|(kind, _)| uses.contains(*kind));
    used.fold(vk::AccessFlags::empty(), |all, (_, access)| all | *access)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_use_has_its_stage_and_its_access() {
        let uses = Uses::SHADER_READ.or(Uses::TRANSFER_WRITE);
        assert_eq!(
            stages(uses),
            vk::PipelineStageFlags::COMPUTE_SHADER | vk::PipelineStageFlags::TRANSFER
        );
        assert_eq!(access(uses), vk::AccessFlags::SHADER_READ | vk::AccessFlags::TRANSFER_WRITE);
        assert_eq!(stages(Uses::HOST_READ), vk::PipelineStageFlags::HOST);
    }
}
