//! A device on the driver that the environment names, an arena, and a watchful eye on the validation layer.
//!
//! `VK_DRIVER_FILES` (or `VK_ICD_FILENAMES`) names the driver and `HMMAP_TEST_LAYER_PATH` says where the validation layer is;
//! `cargo xtask test` sets both. Without a driver a test skips; without the layer it runs unwatched.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unreachable_pub, reason = "a module of tests, which export nothing")]
#![allow(missing_debug_implementations, missing_docs, reason = "read by whoever reads the tests")]
#![allow(unsafe_code, reason = "reads and writes the arena")]

use std::{sync::Arc, time::Duration};

use hmmap_core::{
    Access,
    backend::{
        ArrayArgument, Copy, Device, DeviceError, Direction, LaunchWork, MemoryId, OpenContext,
        Provider as _, Reservation, TransferWork, Zero,
    },
    fence::{FencePoint, FenceState},
    host::{Arena, HostSpan},
    kernel::{Field, FieldKind, ParamLayout, Source},
    node::DeviceId,
    units::BLOCK_BYTES,
};
use hmmap_vulkan::{
    Backing, HostCopies, Messages, Options, Validation, VulkanDevice, VulkanProvider, discover,
};

pub const PATIENCE: Duration = Duration::from_secs(60);

pub static SAXPY: Source = Source {
    name: "saxpy",
    spirv: include_bytes!("../../../../shaders/out/saxpy.spv"),
    ptx: "",
    workgroup: [256, 1, 1],
    twin: None,
};

pub struct Lab {
    pub device: Arc<dyn Device>,
    pub vulkan: Arc<VulkanDevice>,
    pub provider: Arc<VulkanProvider>,
    pub arena: Arena,
    pub messages: Arc<Messages>,
}

/// Prints why a test cannot run.
pub fn skip(reason: &str) {
    println!("HMMAP-SKIP: {reason}");
}

/// The options under which tests run: watched where the layer is.
pub fn watched() -> Options {
    let layer = std::env::var_os("HMMAP_TEST_LAYER_PATH").is_some();
    let validation = if layer { Validation::On } else { Validation::Off };
    Options { validation, ..Options::default() }
}

/// Every way of backing with every way of copying.
pub fn modes() -> Vec<(&'static str, Options)> {
    let mode = |backing, host_copies| Options { backing, host_copies, ..watched() };
    vec![
        ("committed, import", mode(Backing::Committed, HostCopies::Import)),
        ("committed, staging", mode(Backing::Committed, HostCopies::Staging)),
        ("sparse, import", mode(Backing::Sparse, HostCopies::Import)),
        ("sparse, staging", mode(Backing::Sparse, HostCopies::Staging)),
        ("automatic", watched()),
    ]
}

/// Runs a test in every mode that the driver can do, and names the others.
pub fn in_every_mode(test: impl Fn(&Lab)) {
    for (name, options) in modes() {
        let Some(lab) = lab(options.clone()) else { return };
        let can = lab.device.facts().capabilities.clone();
        let lacking = match (options.backing, options.host_copies) {
            (Backing::Sparse, _) if !can.sparse.is_proved() => Some(can.sparse),
            (_, HostCopies::Import) if !can.direct_copy.is_proved() => Some(can.direct_copy),
            _ => None,
        };
        match lacking {
            Some(why) => println!("HMMAP-SKIP-CASE: {name}: {why}"),
            None => {
                println!("mode: {name}");
                test(&lab);
            }
        }
        lab.close();
    }
}

/// Opens the driver's device; `None` when there is none, which was printed.
pub fn lab(options: Options) -> Option<Lab> {
    let named = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];
    if named.iter().all(|name| std::env::var_os(name).is_none()) {
        skip("no Vulkan driver is named by VK_DRIVER_FILES");
        return None;
    }
    // A driver that is named must be there, and so must the layer: a test that silently skips proves nothing.
    let discovery = discover(&options).unwrap();
    let found = discovery.providers.first().cloned();
    let provider = found.unwrap_or_else(|| panic!("no usable device: {:?}", discovery.left_out));
    let arena = Arena::new().unwrap();
    let context = OpenContext { device: DeviceId::new(3).unwrap(), host: Arc::clone(arena.view()) };
    let device = provider.open(context).unwrap();
    let vulkan = provider.device().unwrap();
    Some(Lab { device, vulkan, provider, arena, messages: discovery.messages })
}

/// As [`lab`], where sparse binding works.
pub fn sparse_lab(options: Options) -> Option<Lab> {
    let lab = lab(Options { backing: Backing::Auto, ..options })?;
    let capability = lab.device.facts().capabilities.sparse.clone();
    if capability.is_proved() {
        return Some(lab);
    }
    skip(&format!("no sparse binding: {capability}"));
    lab.close();
    None
}

impl Lab {
    pub fn span(&self, len_bytes: u64) -> HostSpan {
        self.arena.allocate(len_bytes).unwrap()
    }

    /// Writes host bytes that nobody else uses at the moment.
    pub fn write(&self, span: HostSpan, bytes: impl Fn(u64) -> u8) {
        let start = self.arena.view().pointer(span);
        for at in 0..span.len_bytes {
            // SAFETY: inside of the span, which the test owns and no submission uses now.
            unsafe { start.add(at as usize).write(bytes(at)) };
        }
    }

    /// Host bytes that nobody writes at the moment.
    pub fn read(&self, span: HostSpan) -> Vec<u8> {
        let start = self.arena.view().pointer(span);
        // SAFETY: inside of the span, which the test owns and no submission writes now; shared memory is always initialised.
        unsafe { std::slice::from_raw_parts(start, span.len_bytes as usize) }.to_vec()
    }

    pub fn reserve_backed(&self, len_bytes: u64) -> Reservation {
        let reservation = self.device.reserve(len_bytes).unwrap();
        self.device
            .back(reservation.memory, &[std::ops::Range { start: 0, end: len_bytes }])
            .unwrap();
        reservation
    }

    pub fn submit(
        &self,
        waits: &[FencePoint],
        copies: &[Copy],
        zeros: &[Zero],
    ) -> Result<FencePoint, DeviceError> {
        self.device.submit_transfer(&TransferWork { waits, copies, zeros })
    }

    pub fn up(&self, host: HostSpan, memory: MemoryId, offset_bytes: u64) -> Copy {
        Copy { direction: Direction::HostToDevice, host, memory, offset_bytes }
    }

    pub fn down(&self, host: HostSpan, memory: MemoryId, offset_bytes: u64) -> Copy {
        Copy { direction: Direction::DeviceToHost, host, memory, offset_bytes }
    }

    pub fn finish(&self, point: FencePoint) {
        assert_eq!(self.device.wait(point, PATIENCE), FenceState::Ok);
        assert_eq!(self.device.poll(point), FenceState::Ok);
    }

    /// Copies and waits.
    pub fn move_now(&self, copies: &[Copy]) {
        let point = self.submit(&[], copies, &[]).unwrap();
        self.finish(point);
    }

    /// Launches `y = a * x + y` over `n` floats at two addresses.
    pub fn saxpy(
        &self,
        a: f32,
        x: u64,
        y: u64,
        n: u64,
        waits: &[FencePoint],
    ) -> Result<FencePoint, DeviceError> {
        let kernel = self.device.prepare(&SAXPY, &saxpy_layout())?;
        let groups = u32::try_from(n.div_ceil(256).clamp(1, 1024)).unwrap();
        let mut params = Vec::new();
        for word in [x, n, y, n, n, u64::from(groups) * 256] {
            params.extend_from_slice(&word.to_ne_bytes());
        }
        params.extend_from_slice(&a.to_ne_bytes());
        let array =
            |address, access| ArrayArgument { address, len_bytes: n * 4, access, scattered: None };
        self.device.submit_launch(&LaunchWork {
            kernel,
            source: &SAXPY,
            groups: [groups, 1, 1],
            params: &params,
            layout: &saxpy_layout(),
            arrays: &[array(x, Access::Read), array(y, Access::Update)],
            waits,
        })
    }

    /// Ends the device and looks at what the validation layer said.
    pub fn close(self) {
        let Self { device, vulkan, provider, arena, messages } = self;
        drop((device, vulkan));
        drop((provider, arena));
        assert_eq!(messages.first(), Vec::<String>::new());
    }
}

pub fn saxpy_layout() -> ParamLayout {
    use FieldKind::{Address, F32, U64};
    let kinds = [Address, U64, Address, U64, U64, U64, F32];
    let field =
        |(at, kind): (usize, &FieldKind)| Field { offset_bytes: 8 * at as u32, kind: *kind };
    ParamLayout::new(kinds.iter().enumerate().map(field))
}

/// The ranges of single blocks.
pub fn block(number: u64) -> std::ops::Range<u64> {
    number * BLOCK_BYTES..(number + 1) * BLOCK_BYTES
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(seed: u8) -> impl Fn(u64) -> u8 {
    move |at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8 ^ seed
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_ne_bytes(four.try_into().unwrap())).collect()
}
