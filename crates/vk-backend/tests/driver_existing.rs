//! A device that the program made, and the program's own command buffers.
#![allow(unsafe_code, reason = "plays the program that brings a Vulkan device")]

mod lab;
mod program;

use std::sync::Arc;

use ash::vk;
use hmmap_core::{
    Cause, MemoryModel, Runtime, SharedVec,
    backend::{OpenContext, Provider as _},
    fence::{FencePoint, FenceState},
    host::Arena,
    node::DeviceId,
    units::{BLOCK_BYTES, PAGE_BYTES},
};
use hmmap_vulkan::{
    ExistingQueue, Features, HostCopies, LeftOutReason, Options, QueueRole, VulkanDevice,
    VulkanProvider,
};
use lab::{Lab, PATIENCE, floats, pattern};
use program::Program;

impl Program {
    fn lab(&self, options: Options) -> Lab {
        // SAFETY: the handles belong together and outlive the lab, which each test closes before the program ends; the features are those
        // that the device was made with; the queue is used under its lock alone.
        let provider = unsafe { VulkanProvider::from_existing(self.existing(), options) }.unwrap();
        let provider = Arc::new(provider);
        let arena = Arena::new().unwrap();
        let host = Arc::clone(arena.view());
        let device =
            provider.open(OpenContext { device: DeviceId::new(1).unwrap(), host }).unwrap();
        let vulkan = provider.device().unwrap();
        let messages = vulkan.messages();
        Lab { device, vulkan, provider, arena, messages }
    }

    /// Copies a page between two device addresses on a command buffer of the program's own; returns the value that it signals.
    fn copy_page(&self, vulkan: &VulkanDevice, from: u64, to: u64, waits: &[FencePoint]) -> u64 {
        let (from, from_at) = vulkan.buffer_at(from).unwrap();
        let (to, to_at) = vulkan.buffer_at(to).unwrap();
        let semaphores: Vec<_> =
            waits.iter().map(|wait| vulkan.semaphore(wait.timeline).unwrap()).collect();
        let values: Vec<_> = waits.iter().map(|wait| wait.value).collect();
        let stages = vec![vk::PipelineStageFlags::ALL_COMMANDS; waits.len()];
        assert_eq!(vulkan.settle(waits, PATIENCE), FenceState::Ok);
        // SAFETY: the handles live; the queue is used under its lock; the command buffer is new.
        unsafe {
            let info = vk::CommandBufferAllocateInfo::default()
                .command_pool(self.pool)
                .command_buffer_count(1);
            let commands = self.device.allocate_command_buffers(&info).unwrap();
            let begin = vk::CommandBufferBeginInfo::default();
            self.device.begin_command_buffer(commands[0], &begin).unwrap();
            let region =
                vk::BufferCopy { src_offset: from_at, dst_offset: to_at, size: PAGE_BYTES };
            self.device.cmd_copy_buffer(commands[0], from, to, &[region]);
            self.device.end_command_buffer(commands[0]).unwrap();
            let value = self.device.get_semaphore_counter_value(self.timeline).unwrap() + 1;
            let (signals, signal_values) = ([self.timeline], [value]);
            let mut timelines = vk::TimelineSemaphoreSubmitInfo::default()
                .wait_semaphore_values(&values)
                .signal_semaphore_values(&signal_values);
            let info = vk::SubmitInfo::default()
                .wait_semaphores(&semaphores)
                .wait_dst_stage_mask(&stages)
                .command_buffers(&commands)
                .signal_semaphores(&signals)
                .push_next(&mut timelines);
            let queue = vulkan.lock_queue(QueueRole::Compute).unwrap();
            self.device.queue_submit(queue.queue(), &[info], vk::Fence::null()).unwrap();
            value
        }
    }
}

#[test]
fn a_lent_device_copies_and_computes() {
    let Some(program) = Program::new() else { return };
    for host_copies in [HostCopies::Auto, HostCopies::Staging] {
        let lab = program.lab(Options { host_copies, ..Options::default() });
        assert!(!lab.device.facts().capabilities.sparse.is_proved(), "it was not lent");
        let len_bytes = 2 * BLOCK_BYTES;
        let host = lab.span(len_bytes);
        lab.write(host, |at| ((at / 4) as f32).to_ne_bytes()[(at % 4) as usize]);
        let (x, y) = (lab.reserve_backed(len_bytes), lab.reserve_backed(len_bytes));
        let up = [lab.up(host, x.memory, 0), lab.up(host, y.memory, 0)];
        let sent = lab.submit(&[], &up, &[]).unwrap();
        let run = lab.saxpy(2.0, x.address, y.address, len_bytes / 4, &[sent]).unwrap();
        lab.finish(lab.submit(&[run], &[lab.down(host, y.memory, 0)], &[]).unwrap());
        let got = floats(&lab.read(host));
        assert!(got.iter().enumerate().all(|(i, value)| *value == 3.0 * i as f32));
        lab.close();
    }
}

#[test]
fn the_programs_commands_wait_for_ours_and_ours_for_them() {
    let Some(program) = Program::new() else { return };
    for host_copies in [HostCopies::Auto, HostCopies::Staging] {
        let lab = program.lab(Options { host_copies, ..Options::default() });
        // SAFETY: the semaphore is the program's, of the same device, and outlives the lab.
        let own = unsafe { lab.vulkan.adopt_timeline(program.timeline) }.unwrap();
        let (x, y) = (lab.reserve_backed(PAGE_BYTES), lab.reserve_backed(PAGE_BYTES));
        let (host, back) = (lab.span(PAGE_BYTES), lab.span(PAGE_BYTES));
        lab.write(host, pattern(8));
        let sent = lab.submit(&[], &[lab.up(host, x.memory, 0)], &[]).unwrap();
        let value = program.copy_page(&lab.vulkan, x.address, y.address, &[sent]);
        let signal = FencePoint { timeline: own, value };
        // Ours wait for theirs on the device, and the host waits for theirs like for any fence.
        let down = lab.submit(&[signal], &[lab.down(back, y.memory, 0)], &[]).unwrap();
        lab.finish(down);
        assert_eq!(lab.device.wait(signal, PATIENCE), FenceState::Ok);
        assert_eq!(lab.read(back), lab.read(host));
        assert_eq!(lab.vulkan.buffer_at(1), None);
        lab.close();
    }
}

#[test]
fn what_a_lent_device_lacks_is_said() {
    let Some(program) = Program::new() else { return };
    let mut existing = program.existing();
    existing.enabled = Features::ADDRESS.with(Features::TIMELINE);
    // SAFETY: as in `Program::lab`.
    let refused = unsafe { VulkanProvider::from_existing(existing, Options::default()) };
    assert_eq!(refused.unwrap_err(), LeftOutReason::NoFeature { name: "shaderInt64" });
    let mut existing = program.existing();
    existing.sparse_binding = Some(ExistingQueue { family: 77, ..program.queue });
    // SAFETY: as in `Program::lab`.
    let refused = unsafe { VulkanProvider::from_existing(existing, Options::default()) };
    let role = QueueRole::SparseBinding;
    assert_eq!(refused.unwrap_err(), LeftOutReason::WrongQueue { role });
}

#[test]
fn vectors_go_through_the_programs_own_commands_and_come_back() {
    let Some(program) = Program::new() else { return };
    // SAFETY: as in `Program::lab`; the runtime is dropped before the program.
    let provider = unsafe { VulkanProvider::from_existing(program.existing(), Options::default()) };
    let provider = Arc::new(provider.unwrap());
    let options = hmmap_core::Options { memory_model: MemoryModel::Migrate, ..Default::default() };
    let mem = Runtime::new(vec![provider.clone()], options).unwrap();
    let device = mem.default_device().unwrap();
    let n = PAGE_BYTES as usize / size_of::<u32>();
    let x = SharedVec::from_fn(&mem, n, |i| i as u32 ^ 0x5555).unwrap();
    let mut y = SharedVec::<u32>::new(&mem, n).unwrap();
    mem.facts(device).unwrap();
    let vulkan = provider.device().unwrap();
    // SAFETY: the semaphore is the program's, of the same device, and outlives the runtime.
    let own = unsafe { vulkan.adopt_timeline(program.timeline) }.unwrap();

    let acquired = mem.acquire(device, [x.read().into(), y.write().into()]).unwrap();
    let [from, to] = [acquired.arrays()[0].address, acquired.arrays()[1].address];
    let value = program.copy_page(&vulkan, from, to, acquired.waits());
    let done = acquired.release(FencePoint { timeline: own, value }).unwrap();
    assert_eq!(y.host(..).unwrap(), x.host(..).unwrap(), "the host waits for the program's signal");
    done.wait().unwrap();
    assert_eq!(mem.stats()[Cause::Launch].to_device_bytes, PAGE_BYTES, "a `write` brings nothing");
    assert_eq!(mem.stats()[Cause::Guard].to_host_bytes, PAGE_BYTES);
    drop((x, y, vulkan, mem, provider));
}
