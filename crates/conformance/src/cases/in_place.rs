//! Devices as peers: a device works on a vector where it is, in host memory or in another device's.

use std::sync::Arc;

use hmmap::kernels::StreamCopy;
use hmmap_core::{
    Access, Cause, DeviceId, Kernel as _, Options,
    backend::{ArrayArgument, Device, LaunchWork},
    fence::FencePoint,
    kernel::{Argument, Field, FieldKind, ParamLayout},
    peer::{DevicePeer, PeerMapping, Segments},
};

use super::Verdict;
use crate::{
    case::{Case, CaseFailure, Context, Need, ensure},
    mirror::Mirror,
    rig::{PAGE, Rig, Watch},
};

const GROUP: &str = crate::setup::PEERS;
const GROUP_SIZE: u64 = 256;

pub(super) const CASES: &[Case] = &[
    Case::new(
        GROUP,
        "a_device_reads_host_memory_in_place",
        "a device that is a peer gets addresses of the host's pages, and nothing moves",
        &[Need::Window, Need::Sharing],
        of_host,
    ),
    Case::new(
        GROUP,
        "a_device_reads_another_in_place",
        "a device that is a peer gets addresses of another device's pages, and nothing moves",
        &[Need::TwoDevices, Need::Migrate, Need::Exports],
        of_device,
    ),
];

/// One device that reads by address, and where it puts what it has read.
struct Reader<'r, 'c> {
    rig: &'r Rig<'c>,
    id: DeviceId,
    device: Arc<dyn Device>,
    peer: Arc<DevicePeer>,
}

impl<'r, 'c> Reader<'r, 'c> {
    fn new(rig: &'r Rig<'c>, id: DeviceId) -> Result<Self, CaseFailure> {
        let peer = rig.runtime.device_peer(id)?;
        let device = rig.gate(id).device();
        let device = device.ok_or_else(|| CaseFailure::broken("the device is not open".into()))?;
        Ok(Self { rig, id, device, peer })
    }

    /// Reads what a mapping of its shows, by a kernel on the device.
    fn read(&self, mapping: &PeerMapping) -> Result<Vec<f32>, CaseFailure> {
        let len = ((mapping.bytes().end - mapping.bytes().start) / 4) as usize;
        let mut out = self.rig.zeros(len)?;
        let acquired = self.rig.runtime.acquire(self.id, [Argument::from(out.vec.write())])?;
        let [array] = acquired.arrays() else {
            return Err(CaseFailure::broken(format!("arrays: {:?}", acquired.arrays())));
        };
        let (to, waits) = (array.address, acquired.waits().to_vec());
        let point = self.peer.work(mapping, |segments| self.copy(segments, to, &waits))?;
        acquired.release(point)?;
        Ok(out.vec.host(..)?.to_vec())
    }

    /// Copies what segments show to an address, one launch after the other.
    fn copy(
        &self,
        segments: &Segments,
        to: u64,
        waits: &[FencePoint],
    ) -> Result<FencePoint, CaseFailure> {
        use FieldKind::{Address, U64};
        let field = |(at, kind): (usize, FieldKind)| Field { offset_bytes: 8 * at as u32, kind };
        let fields = [Address, U64, Address, U64, U64, U64];
        let layout = ParamLayout::new(fields.into_iter().enumerate().map(field));
        let source = StreamCopy::source();
        let refused = |error| CaseFailure::broken(format!("by hand: {error}"));
        let kernel = self.device.prepare(source, &layout).map_err(refused)?;
        let (mut waits, mut to) = (waits.to_vec(), to);
        let mut last = None;
        for segment in segments.list() {
            let (n, len_bytes) = (segment.len_bytes / 4, segment.len_bytes);
            let groups = n.div_ceil(GROUP_SIZE).clamp(1, 1024);
            let words = [segment.addr, n, to, n, n, groups * GROUP_SIZE];
            let params: Vec<u8> = words.into_iter().flat_map(u64::to_ne_bytes).collect();
            let array =
                |address, access| ArrayArgument { address, len_bytes, access, scattered: None };
            let work = LaunchWork {
                kernel,
                source,
                groups: [groups as u32, 1, 1],
                params: &params,
                layout: &layout,
                arrays: &[array(segment.addr, Access::Read), array(to, Access::Write)],
                waits: &waits,
            };
            let point = self.device.submit_launch(&work).map_err(refused)?;
            waits.push(point);
            last = Some(point);
            to += len_bytes;
        }
        last.ok_or_else(|| CaseFailure::broken("a mapping without addresses".into()))
    }
}

fn of_host(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig()?;
    rig.watch(Watch::Data);
    let mut y = rig.filled(3 * PAGE, |i| i as f32)?;
    let reader = Reader::new(&rig, rig.device())?;
    let mapping = y.vec.map_peer(reader.peer.clone(), 7..2 * PAGE + 5)?;
    let before = rig.runtime.stats();
    same(&reader.read(&mapping)?, &y, 7)?;
    let moved = rig.runtime.stats() - before;
    ensure!(moved.total().to_device_bytes == 0, "bytes moved: {moved}");
    let stamp = mapping.segments()?.stamp();
    rig.host_write(&mut y, .., |i| -(i as f32))?;
    if rig.runtime.host_faults().is_some() {
        ensure!(mapping.retry(stamp), "the host wrote, and the addresses are still good");
    }
    same(&reader.read(&mapping)?, &y, 7)
}

fn of_device(cx: &Context<'_>) -> Verdict {
    let rig = cx.rig_of_two_with(Options { ..cx.options() })?;
    rig.watch(Watch::Data);
    let mut y = rig.filled(3 * PAGE, |i| i as f32)?;
    let x = rig.filled(3 * PAGE, |i| i as f32)?;
    rig.saxpy(rig.device(), 2.0, (&x, ..), (&mut y, ..))?;
    let reader = Reader::new(&rig, rig.other())?;
    let before = rig.runtime.stats();
    let mapping = y.vec.map_peer(reader.peer.clone(), 7..2 * PAGE + 5)?;
    same(&reader.read(&mapping)?, &y, 7)?;
    let moved = rig.runtime.stats() - before;
    let homeward = moved[Cause::Peer].bytes() + moved[Cause::Launch].bytes();
    ensure!(homeward == 0, "bytes moved: {moved}");
    // The owner writes again: that waits for the reader's work, and the reader gets the new bytes.
    let stamp = mapping.segments()?.stamp();
    for round in 0..3 {
        rig.saxpy(rig.device(), round as f32, (&x, ..), (&mut y, ..))?;
        ensure!(mapping.retry(stamp), "the device wrote, and the addresses are still good");
        same(&reader.read(&mapping)?, &y, 7)?;
    }
    rig.host_write(&mut y, .., |i| i as f32 + 0.5)?;
    same(&reader.read(&mapping)?, &y, 7)?;
    drop(mapping);
    rig.fill(rig.other(), &mut y, .., 4.0)?;
    rig.host_read(&y, ..)
}

fn same(read: &[f32], mirror: &Mirror, first: usize) -> Verdict {
    let wanted = &mirror.oracle[first..first + read.len()];
    let differs = read.iter().zip(wanted).position(|(read, wanted)| read != wanted);
    match differs {
        None => Ok(()),
        Some(at) => Err(CaseFailure::broken(format!(
            "element {at} was read as {}, and is {}",
            read[at], wanted[at]
        ))),
    }
}
