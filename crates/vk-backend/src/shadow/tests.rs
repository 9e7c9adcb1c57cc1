#![allow(unsafe_code, reason = "the test is the only user of its arena")]

use hmmap_core::{
    Access,
    backend::{ArrayArgument, Copy},
    host::Arena,
    kernel::{Field, FieldKind, Twin},
    units::BLOCK_BYTES,
};

use super::*;

/// `y = 3 * y + x`.
static MIX: Source = Source {
    name: "mix",
    spirv: &[],
    ptx: "",
    workgroup: [64, 1, 1],
    twin: Some(|twin: &Twin<'_>| {
        let (x, y) = (twin.read::<u32>(0), twin.write::<u32>(1));
        for (y, x) in y.iter_mut().zip(x) {
            *y = y.wrapping_mul(3).wrapping_add(*x);
        }
    }),
};

/// Promises to overwrite and does not.
static LAZY: Source =
    Source { name: "lazy", spirv: &[], ptx: "", workgroup: [64, 1, 1], twin: Some(|_| {}) };

static PANIC: Source = Source {
    name: "panic",
    spirv: &[],
    ptx: "",
    workgroup: [64, 1, 1],
    twin: Some(|_| panic!("this panic belongs to the test")),
};

const LEN: u64 = 3 * PAGE_BYTES;

struct Bench {
    device: Arc<NonCoherent>,
    arena: Arena,
}

impl Bench {
    fn new(options: ShadowOptions) -> Self {
        let arena = Arena::new().unwrap();
        let host = Arc::clone(arena.view());
        let provider = ShadowProvider::new(options);
        let device = DeviceId::new(2).unwrap();
        let opened = provider.open(OpenContext { device, host }).unwrap();
        let device = provider.device().unwrap();
        drop(opened);
        Self { device, arena }
    }

    fn put(&self, span: HostSpan, word: impl Fn(u32) -> u32) {
        let start = self.arena.view().pointer(span).cast::<u32>();
        for at in 0..span.len_bytes as u32 / 4 {
            // SAFETY: inside of a span of this test, aligned to a page, with no work on it pending.
            unsafe { start.add(at as usize).write(word(at)) };
        }
    }

    fn get(&self, span: HostSpan) -> Vec<u32> {
        let start = self.arena.view().pointer(span).cast::<u32>();
        // SAFETY: as in `put`.
        unsafe { std::slice::from_raw_parts(start, span.len_bytes as usize / 4) }.to_vec()
    }

    fn backed(&self, len_bytes: u64) -> Reservation {
        let reservation = self.device.reserve(len_bytes).unwrap();
        let whole = 0..len_bytes;
        self.device.back(reservation.memory, std::slice::from_ref(&whole)).unwrap();
        reservation
    }

    fn copy(
        &self,
        direction: Direction,
        host: HostSpan,
        memory: Reservation,
        waits: &[FencePoint],
    ) -> FencePoint {
        let copy = Copy { direction, host, memory: memory.memory, offset_bytes: 0 };
        let work = TransferWork { waits, copies: &[copy], zeros: &[] };
        self.device.submit_transfer(&work).unwrap()
    }

    fn launch(
        &self,
        source: &'static Source,
        arrays: &[(u64, Access)],
        waits: &[FencePoint],
    ) -> FencePoint {
        let layout = ParamLayout::new([Field { offset_bytes: 0, kind: FieldKind::U64 }]);
        let kernel = self.device.prepare(source, &layout).unwrap();
        let array = |(address, access): &(u64, Access)| ArrayArgument {
            address: *address,
            len_bytes: LEN,
            access: *access,
            scattered: None,
        };
        let arrays: Vec<_> = arrays.iter().map(array).collect();
        let work = LaunchWork {
            kernel,
            source,
            groups: [1, 1, 1],
            params: &[0; 8],
            layout: &layout,
            arrays: &arrays,
            waits,
        };
        self.device.submit_launch(&work).unwrap()
    }

    fn end(&self, point: FencePoint) -> FenceState {
        self.device.wait(point, Duration::from_secs(20))
    }
}

const UP: Direction = Direction::HostToDevice;
const DOWN: Direction = Direction::DeviceToHost;

/// Up, zero, three launches that hand their arrays over, both arrays down, and all of it once more over the same device memory. The host
/// waits at the end alone. Returns whether it saw what it must see.
fn program(bench: &Bench) -> bool {
    let (x, y) = (bench.backed(LEN), bench.backed(LEN));
    let (read_x, update_x) = ((x.address, Access::Read), (x.address, Access::Update));
    let (read_y, update_y) = ((y.address, Access::Read), (y.address, Access::Update));
    let span = || bench.arena.allocate(LEN).unwrap();
    let mut last: Vec<FencePoint> = Vec::new();
    let mut rounds = Vec::new();
    for round in 1..3u32 {
        let (host, back_x, back_y) = (span(), span(), span());
        bench.put(host, |at| at.wrapping_mul(round));
        let up = Copy { direction: UP, host, memory: x.memory, offset_bytes: 0 };
        let zero = Zero { memory: y.memory, offset_bytes: 0, len_bytes: LEN };
        let work = TransferWork { waits: &last, copies: &[up], zeros: &[zero] };
        let sent = bench.device.submit_transfer(&work).unwrap();
        let first = bench.launch(&MIX, &[read_x, update_y], &[sent]);
        let second = bench.launch(&MIX, &[read_y, update_x], &[first]);
        let third = bench.launch(&MIX, &[read_x, update_y], &[second]);
        let down = |memory: Reservation, host| Copy {
            direction: DOWN,
            host,
            memory: memory.memory,
            offset_bytes: 0,
        };
        let copies = [down(x, back_x), down(y, back_y)];
        let work = TransferWork { waits: &[third], copies: &copies, zeros: &[] };
        last = vec![bench.device.submit_transfer(&work).unwrap()];
        rounds.push((round, back_x, back_y, last[0]));
    }
    let mut right = true;
    for (round, back_x, back_y, down) in rounds {
        right &= bench.end(down) == FenceState::Ok;
        let expected_x = |at: u32| at.wrapping_mul(round).wrapping_mul(4);
        let expected_y = |at: u32| at.wrapping_mul(round).wrapping_mul(7);
        right &= bench.get(back_x).iter().zip(0..).all(|(found, at)| *found == expected_x(at));
        right &= bench.get(back_y).iter().zip(0..).all(|(found, at)| *found == expected_y(at));
    }
    bench.device.release(x.memory);
    bench.device.release(y.memory);
    right
}

fn every_shape(seed: u64) -> impl Iterator<Item = ShadowOptions> {
    let shapes = [Queues::One, Queues::Two]
        .into_iter()
        .flat_map(|queues| [HostCopies::Auto, HostCopies::Staging].map(|copies| (queues, copies)));
    shapes.map(move |(queues, host_copies)| ShadowOptions {
        seed,
        queues,
        host_copies,
        ..ShadowOptions::default()
    })
}

#[test]
fn a_program_that_declares_its_waits_is_right_in_every_order() {
    for seed in 0..24 {
        for options in every_shape(seed) {
            assert!(program(&Bench::new(options)), "{options:?}");
            assert_eq!(*Bench::new(options).device.used_bytes.lock(), 0);
        }
    }
}

/// Every barrier that the program records is needed: without it some order goes wrong. (No two of its submissions wait for the same, or the
/// first one's barrier would stand for the second's.)
#[test]
fn each_barrier_that_is_left_out_shows() {
    for options in every_shape(0) {
        let mut barriers = 0;
        for n in 1.. {
            let mut seen = false;
            let mut there = false;
            for seed in 0..16 {
                if seen {
                    break;
                }
                let bench = Bench::new(ShadowOptions { seed, ..options });
                bench.device.omit_barrier(n);
                seen |= !program(&bench);
                there = bench.device.has_omitted();
            }
            if !there {
                break;
            }
            barriers = n;
            assert!(seen, "barrier {n} can be left out unseen: {options:?}");
        }
        assert!(barriers >= 4, "{barriers} barriers: {options:?}");
    }
}

#[test]
fn a_wait_that_is_not_declared_shows() {
    let mut wrong = 0;
    for seed in 0..24 {
        let bench = Bench::new(ShadowOptions { seed, ..ShadowOptions::default() });
        let host = bench.arena.allocate(LEN).unwrap();
        let (x, y) = (bench.backed(LEN), bench.backed(LEN));
        bench.put(host, |_| 1);
        let zero = Zero { memory: y.memory, offset_bytes: 0, len_bytes: LEN };
        let work = TransferWork { waits: &[], copies: &[], zeros: &[zero] };
        let zeroed = bench.device.submit_transfer(&work).unwrap();
        // After the other: a wait for it would cover what comes before it on its timeline.
        let sent = bench.copy(UP, host, x, &[]);
        let arrays = [(x.address, Access::Read), (y.address, Access::Update)];
        let run = bench.launch(&MIX, &arrays, &[zeroed]);
        bench.end(run);
        bench.end(sent);
        bench.end(bench.copy(DOWN, host, y, &[run]));
        wrong += u32::from(bench.get(host) != vec![1; LEN as usize / 4]);
    }
    assert!(wrong > 1, "{wrong} of 24 orders");
}

#[test]
fn a_kernel_reaches_host_memory_through_a_window() {
    for seed in 0..8 {
        let bench = Bench::new(ShadowOptions { seed, ..ShadowOptions::default() });
        let (x, y) = (bench.arena.allocate(LEN).unwrap(), bench.arena.allocate(LEN).unwrap());
        bench.put(x, |at| at);
        bench.put(y, |_| 10);
        let (wx, wy) = (bench.device.open_window(x).unwrap(), bench.device.open_window(y).unwrap());
        let arrays = [(wx.address, Access::Read), (wy.address, Access::Update)];
        let mut run = bench.launch(&MIX, &arrays, &[]);
        run = bench.launch(&MIX, &arrays, &[run]);
        assert_eq!(bench.end(run), FenceState::Ok);
        assert!(bench.get(y).iter().zip(0..).all(|(found, at)| *found == 90 + 4 * at));
        // What the CPU writes between launches is seen by the next.
        bench.put(x, |_| 0);
        assert_eq!(bench.end(bench.launch(&MIX, &arrays, &[run])), FenceState::Ok);
        assert!(bench.get(y).iter().zip(0..).all(|(found, at)| *found == 270 + 12 * at));
        bench.device.close_window(wx.window);
        bench.device.close_window(wy.window);
    }
}

#[test]
fn an_unkept_promise_to_overwrite_shows() {
    let bench = Bench::new(ShadowOptions::default());
    let (host, y) = (bench.arena.allocate(LEN).unwrap(), bench.backed(LEN));
    let run = bench.launch(&LAZY, &[(y.address, Access::Write)], &[]);
    bench.end(bench.copy(DOWN, host, y, &[run]));
    assert!(bench.get(host).iter().all(|word| *word == 0xc3c3_c3c3));
}

#[test]
fn a_panicking_twin_fails_its_fence_and_what_waits_for_it() {
    let bench = Bench::new(ShadowOptions::default());
    let (host, y) = (bench.arena.allocate(LEN).unwrap(), bench.backed(LEN));
    let run = bench.launch(&PANIC, &[(y.address, Access::Update)], &[]);
    let after = bench.copy(DOWN, host, y, &[run]);
    use hmmap_core::fence::Failure;
    assert_eq!(bench.end(run), FenceState::Failed(Failure::KernelPanicked));
    assert_eq!(bench.end(after), FenceState::Failed(Failure::Dependency));
}

#[test]
fn memory_is_limited_and_blocks_come_and_go() {
    let options = ShadowOptions { memory_bytes: 2 * BLOCK_BYTES, ..ShadowOptions::default() };
    let bench = Bench::new(options);
    let memory = bench.device.reserve(4 * BLOCK_BYTES).unwrap();
    let block = |number: u64| number * BLOCK_BYTES..(number + 1) * BLOCK_BYTES;
    bench.device.back(memory.memory, &[block(1), block(3)]).unwrap();
    let full = bench.device.back(memory.memory, &[block(0)]);
    assert_eq!(full, Err(DeviceError::OutOfMemory { asked_bytes: BLOCK_BYTES }));
    let twice = bench.device.back(memory.memory, &[block(1)]);
    assert!(twice.is_err());
    bench.device.unback(memory.memory, &[block(3)]);
    bench.device.back(memory.memory, &[block(0)]).unwrap();
    let host = bench.arena.allocate(BLOCK_BYTES).unwrap();
    let copy = Copy { direction: UP, host, memory: memory.memory, offset_bytes: 3 * BLOCK_BYTES };
    let work = TransferWork { waits: &[], copies: &[copy], zeros: &[] };
    let unbacked = bench.device.submit_transfer(&work);
    assert!(matches!(unbacked, Err(DeviceError::Misuse { .. })));
    bench.device.release(memory.memory);
    assert_eq!(*bench.device.used_bytes.lock(), 0);
}
