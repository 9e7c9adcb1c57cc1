//! A device on a test bench: an arena, short names for what the tests of the device contract do, and a few kernels.

use std::{ops::Range, sync::Arc, time::Duration};

use crate::{
    access::Access,
    backend::{
        ArrayArgument, Copy, Device, DeviceError, LaunchWork, MemoryId, OpenContext, Provider,
        Reservation, TransferWork, Zero,
    },
    fence::{FencePoint, FenceState},
    host::{Arena, HostSpan},
    kernel::{Field, FieldKind, ParamLayout, Source, Twin},
    node::DeviceId,
    units::BLOCK_BYTES,
};

/// Longer than anything here takes; a wait that long has hung.
const SECONDS: Duration = Duration::from_secs(60);

/// One device over an arena of its own, with short names for what the tests do.
pub(crate) struct Bench {
    pub(crate) arena: Arena,
    pub(crate) device: Arc<dyn Device>,
}

impl Bench {
    pub(crate) fn new(provider: &dyn Provider) -> Self {
        let arena = Arena::new().unwrap();
        let context =
            OpenContext { device: DeviceId::new(0).unwrap(), host: Arc::clone(arena.view()) };
        let device = provider.open(context).unwrap();
        Self { arena, device }
    }

    /// A reservation of whole blocks, backed.
    pub(crate) fn backed(&self, blocks: u64) -> Reservation {
        let reservation = self.device.reserve(blocks * BLOCK_BYTES).unwrap();
        let whole = 0..blocks * BLOCK_BYTES;
        self.device.back(reservation.memory, &[whole]).unwrap();
        reservation
    }

    /// Writes a word over a whole span.
    #[allow(unsafe_code, reason = "the test is the only user of its arena")]
    pub(crate) fn put(&self, span: HostSpan, word: u32) {
        let start = self.arena.view().pointer(span).cast::<u32>();
        for i in 0..span.len_bytes as usize / 4 {
            // SAFETY: the span lies in the mapped view, is aligned to a page, and no work on it is pending.
            unsafe { start.add(i).write(word) };
        }
    }

    /// The words of a span.
    #[allow(unsafe_code, reason = "the test is the only user of its arena")]
    pub(crate) fn get(&self, span: HostSpan) -> Vec<u32> {
        let start = self.arena.view().pointer(span).cast::<u32>();
        let len = span.len_bytes as usize / 4;
        // SAFETY: the span lies in the mapped view, is aligned to a page, and no work on it is pending.
        unsafe { std::slice::from_raw_parts(start, len) }.to_vec()
    }

    pub(crate) fn copy(&self, copy: Copy, waits: &[FencePoint]) -> Result<FencePoint, DeviceError> {
        self.device.submit_transfer(&TransferWork { waits, copies: &[copy], zeros: &[] })
    }

    pub(crate) fn zero(
        &self,
        memory: MemoryId,
        bytes: Range<u64>,
        waits: &[FencePoint],
    ) -> Result<FencePoint, DeviceError> {
        let zero = Zero { memory, offset_bytes: bytes.start, len_bytes: bytes.end - bytes.start };
        self.device.submit_transfer(&TransferWork { waits, copies: &[], zeros: &[zero] })
    }

    pub(crate) fn launch(
        &self,
        source: &'static Source,
        arrays: &[ArrayArgument],
        waits: &[FencePoint],
    ) -> Result<FencePoint, DeviceError> {
        let (params, layout) = params(arrays);
        let kernel = self.device.prepare(source, &layout)?;
        self.device.submit_launch(&LaunchWork {
            kernel,
            source,
            groups: [1, 1, 1],
            params: &params,
            layout: &layout,
            arrays,
            waits,
        })
    }

    pub(crate) fn end(&self, point: FencePoint) -> FenceState {
        self.device.wait(point, SECONDS)
    }
}

/// The bytes of a block.
pub(crate) fn block(number: u64) -> Range<u64> {
    number * BLOCK_BYTES..(number + 1) * BLOCK_BYTES
}

/// The parameter block of a kernel without scalars.
pub(crate) fn params(arrays: &[ArrayArgument]) -> (Vec<u8>, ParamLayout) {
    let words: Vec<u64> = arrays
        .iter()
        .flat_map(|array| [array.address, array.len_bytes / 4])
        .chain([arrays.first().map_or(0, |array| array.len_bytes / 4), 256])
        .collect();
    let kind =
        |i| if i < arrays.len() * 2 && i % 2 == 0 { FieldKind::Address } else { FieldKind::U64 };
    let field = |i: usize| Field { offset_bytes: 8 * i as u32, kind: kind(i) };
    (bytemuck::cast_slice(&words).to_vec(), ParamLayout::new((0..words.len()).map(field)))
}

/// An argument of 4-byte words.
pub(crate) fn words(address: u64, count: u64, access: Access) -> ArrayArgument {
    ArrayArgument { address, len_bytes: 4 * count, access, scattered: None }
}

/// A kernel that is only a twin.
pub(crate) const fn kernel(name: &'static str, twin: fn(&Twin<'_>)) -> Source {
    Source { name, spirv: &[], ptx: "", workgroup: [256, 1, 1], twin: Some(twin) }
}

/// Doubles the words of its one array.
pub(crate) static DOUBLE: Source = kernel("double", |twin| {
    use rayon::prelude::*;
    twin.write::<u32>(0).par_iter_mut().for_each(|x| *x *= 2);
});

/// Panics.
pub(crate) static PANIC: Source = kernel("panic", |_| panic!("this panic belongs to the test"));
