//! CUDA and Vulkan as two drivers of one card, in one program: the test double of CUDA's driver with the identifier of the software Vulkan device, and with memory
//! that this one takes in. What one has written the other uses where it is. Nothing here ran on an NVIDIA device.

#[allow(dead_code, reason = "the example's own `main` is not called here")]
#[path = "../../../examples/14_cuda_and_vulkan.rs"]
mod example;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hmmap::{
    Hint, MemoryModel, Options, SharedVec,
    core::{
        Detour, DeviceCopies, DeviceId, Route, Runtime,
        backend::{Handle, OpenContext, Provider},
        host::Arena,
        p2p::HandleKinds,
    },
    kernels::{Fill, Saxpy},
};
use hmmap_cuda_fixture::{Code, Fixture, header_of};
use hmmap_vulkan::VulkanProvider;

const N: usize = 3 << 20;

/// The one driver of the process, for one test at a time.
struct Stage {
    fixture: Fixture,
    _alone: MutexGuard<'static, ()>,
}

/// Two devices, CUDA first, and what looks after them.
struct Pair {
    mem: Runtime,
    cuda: DeviceId,
    vulkan: DeviceId,
}

fn stage() -> Stage {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let fixture = Fixture::load().unwrap();
    fixture.reset();
    fixture.set_uuid(*b"hmmap fixture 00");
    fixture.imitate(&[]);
    Stage { fixture, _alone: alone }
}

fn software_vulkan() -> Option<Arc<VulkanProvider>> {
    let named = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];
    if named.iter().all(|name| std::env::var_os(name).is_none()) {
        println!("HMMAP-SKIP: no Vulkan driver is named by VK_DRIVER_FILES");
        return None;
    }
    let layer = std::env::var_os("HMMAP_TEST_LAYER_PATH").is_some();
    let validation =
        if layer { hmmap_vulkan::Validation::On } else { hmmap_vulkan::Validation::Off };
    let options = hmmap_vulkan::Options { validation, ..hmmap_vulkan::Options::default() };
    let found = hmmap_vulkan::discover(&options).unwrap();
    found.providers.first().cloned()
}

/// What the Vulkan driver writes before memory that it gives out; `None` where it gives out none.
fn header(vulkan: &VulkanProvider) -> Option<Vec<u8>> {
    let arena = Arena::new().unwrap();
    let device = DeviceId::new(0).unwrap();
    let open = vulkan.open(OpenContext { device, host: Arc::clone(arena.view()) }).unwrap();
    if !open.facts().capabilities.export.is_proved() {
        println!("HMMAP-SKIP: memory that is given out: {}", open.facts().capabilities.export);
        return None;
    }
    let given = open.reserve_whole(1 << 16).unwrap();
    open.back(given.memory, &[std::ops::Range { start: 0, end: 1 << 16 }]).unwrap();
    let exported = open.export(given.memory, HandleKinds::OPAQUE_FD).unwrap();
    let Handle::Fd(fd) = &exported.handle else { panic!("{exported:?}") };
    let header = header_of(fd).unwrap();
    open.release(given.memory);
    Some(header)
}

impl Stage {
    /// Both devices in one runtime, on one card as far as `is_one` says.
    fn pair(&self, is_one: IsOne, options: Options) -> Option<Pair> {
        let vulkan = software_vulkan()?;
        let header = header(&vulkan)?;
        if is_one != IsOne::No {
            self.fixture.set_uuid(vulkan.summary().uuid.unwrap());
        }
        if is_one == IsOne::Yes {
            self.fixture.imitate(&header);
        }
        let cuda = hmmap_cuda::discover(&hmmap_cuda::Options::default());
        let cuda = cuda.providers.first().cloned().unwrap();
        let options = Options { memory_model: MemoryModel::Migrate, ..options };
        let mem = Runtime::new(vec![cuda, vulkan], options).unwrap();
        let [cuda, vulkan] = [0, 1].map(|nth| DeviceId::new(nth).unwrap());
        Some(Pair { mem, cuda, vulkan })
    }

    /// What the double has to say at the end, when all is given back.
    fn end(&self, pair: Pair) {
        drop(pair);
        assert_eq!(self.fixture.violations(), [""; 0]);
        assert_eq!(self.fixture.left(), [0; 8], "something was not given back");
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum IsOne {
    Yes,
    No,
    /// It says so, and memory is not understood.
    InNameOnly,
}

impl Pair {
    fn moved_bytes(&self) -> u64 {
        let total = self.mem.stats().total();
        total.to_device_bytes + total.to_host_bytes + total.between_bytes
    }

    /// A kernel of one updates, one of the other reads and writes, and the first reads that: bytes that moved in between.
    fn to_and_fro(&self, shareable: bool) -> u64 {
        let Self { mem, cuda, vulkan } = self;
        let n = if shareable { N } else { 5000 };
        let make = |mem: &Runtime| {
            if shareable { SharedVec::<f32>::shareable(mem, n) } else { SharedVec::new(mem, n) }
        };
        let (mut x, mut y) = (make(mem).unwrap(), make(mem).unwrap());
        mem.launch_on(*cuda, n, Fill { out: x.write(), value: 3.0 }).unwrap();
        mem.launch_on(*cuda, n, Fill { out: y.write(), value: 1.0 }).unwrap();
        let before = self.moved_bytes();
        mem.launch_on(*vulkan, n, Saxpy { a: 2.0, x: x.read(), y: y.update() }).unwrap();
        mem.launch_on(*cuda, n, Saxpy { a: 10.0, x: x.read(), y: y.update() }).unwrap();
        mem.launch_on(*vulkan, n, Saxpy { a: 100.0, x: y.read(), y: x.update() }).unwrap();
        let moved = self.moved_bytes() - before;
        let wanted_y = 1.0 + 6.0 + 30.0;
        assert!(y.host(..).unwrap().iter().all(|y| *y == wanted_y));
        assert!(x.host(..).unwrap().iter().all(|x| *x == 3.0 + 100.0 * wanted_y));
        moved
    }
}

#[test]
fn what_one_driver_of_a_card_wrote_the_other_uses_without_moving_a_byte() {
    let stage = stage();
    let Some(pair) = stage.pair(IsOne::Yes, Options::default()) else { return };
    let Pair { mem, cuda, vulkan } = &pair;
    for (from, to) in [(*cuda, *vulkan), (*vulkan, *cuda)] {
        let route = mem.route(from, to).unwrap();
        assert!(route.is_direct(), "from {from} to {to}: {route}");
    }
    assert_eq!(pair.to_and_fro(true), 0, "large and shareable");
    assert_eq!(pair.to_and_fro(false), 0, "small");
    println!("HMMAP-COUNT: 0 bytes moved between the two drivers of one card");
    stage.end(pair);
}

#[test]
fn the_example_runs_and_moves_nothing() {
    let stage = stage();
    let Some(pair) = stage.pair(IsOne::Yes, Options::default()) else { return };
    // A runtime of its own finds the same two.
    stage.end(pair);
    assert_eq!(example::run().unwrap(), Some(0));
    assert_eq!(stage.fixture.violations(), [""; 0]);
    assert_eq!(stage.fixture.left(), [0; 8], "something was not given back");
}

#[test]
fn memory_of_vulkan_is_used_by_cuda_where_it_is() {
    let stage = stage();
    let Some(pair) = stage.pair(IsOne::Yes, Options::default()) else { return };
    let Pair { mem, cuda, vulkan } = &pair;
    for n in [5000, N] {
        let mut y = SharedVec::<f32>::shareable(mem, n).unwrap();
        let ones = SharedVec::from_fn(mem, n, |_| 1.0_f32).unwrap();
        mem.launch_on(*vulkan, n, Fill { out: y.write(), value: 7.0 }).unwrap();
        mem.launch_on(*cuda, n, Saxpy { a: 2.0, x: ones.read(), y: y.update() }).unwrap();
        let held: Vec<_> = y.residency(..).unwrap().iter().map(|run| format!("{run}")).collect();
        assert!(held.iter().all(|run| run.contains("device 1")), "{held:?}");
        let moved = mem.stats().total();
        assert_eq!(moved.between_bytes, 0);
        mem.launch_on(*vulkan, n, Saxpy { a: 1.0, x: ones.read(), y: y.update() }).unwrap();
        assert!(y.host(..).unwrap().iter().all(|y| *y == 10.0));
    }
    stage.end(pair);
}

#[test]
fn who_prefers_a_memory_of_its_own_gets_copies_there() {
    let stage = stage();
    let Some(pair) = stage.pair(IsOne::Yes, Options::default()) else { return };
    let Pair { mem, cuda, vulkan } = &pair;
    let mut x = SharedVec::<f32>::shareable(mem, N).unwrap();
    let mut y = SharedVec::<f32>::shareable(mem, N).unwrap();
    for vec in [&mut x, &mut y] {
        mem.launch_on(*cuda, N, Fill { out: vec.write(), value: 2.0 }).unwrap();
    }
    let preferred = mem.node(*vulkan).unwrap();
    x.hint(.., Hint::PreferredLocation(preferred)).unwrap();
    mem.launch_on(*vulkan, N, Saxpy { a: 1.0, x: x.read(), y: y.update() }).unwrap();
    let bytes = 4 * N as u64;
    assert_eq!(pair.moved_bytes(), bytes, "x has moved, y has not");
    assert!(y.host(..).unwrap().iter().all(|y| *y == 4.0));
    drop((x, y));
    stage.end(pair);
}

#[test]
fn two_cards_and_cards_in_name_only_pass_bytes_through_the_host() {
    for is_one in [IsOne::No, IsOne::InNameOnly] {
        let stage = stage();
        let Some(pair) = stage.pair(is_one, Options::default()) else { return };
        let Pair { mem, cuda, vulkan } = &pair;
        let because = |from, to| match mem.route(from, to).unwrap() {
            Route::ThroughHost { because } => because,
            route => panic!("{is_one:?}: {route}"),
        };
        let there = because(*cuda, *vulkan);
        match is_one {
            IsOne::No => assert!(matches!(there, Detour::Drivers(_)), "{there}"),
            _ => assert!(matches!(there, Detour::Trial(_) | Detour::OtherBytes), "{there}"),
        }
        println!("{is_one:?}: {there}");
        assert!(pair.to_and_fro(true) > 0, "{is_one:?}");
        assert!(pair.to_and_fro(false) > 0, "{is_one:?}");
        stage.end(pair);
    }
}

#[test]
fn who_wants_no_copies_between_devices_gets_no_memory_in_common() {
    let stage = stage();
    let options = Options { device_copies: DeviceCopies::ThroughHost, ..Options::default() };
    let Some(pair) = stage.pair(IsOne::Yes, options) else { return };
    assert!(pair.to_and_fro(true) > 0);
    let stats = pair.mem.stats().total();
    assert_eq!(stats.between_bytes, 0);
    stage.end(pair);
}

/// Each call of the CUDA driver fails once, in the trial and in the launches: right results through copies, or an error, and nothing is left behind.
#[test]
fn whichever_call_fails_the_results_are_right_or_an_error_says_so() {
    let stage = stage();
    let (mut fired, mut refused) = (0, 0);
    let names = [
        "cuImportExternalMemory",
        "cuExternalMemoryGetMappedBuffer",
        "cuMemExportToShareableHandle",
    ];
    for name in names {
        for nth in 1..=6 {
            let Some(pair) = stage.pair(IsOne::Yes, Options::default()) else { return };
            let before = stage.fixture.fired();
            stage.fixture.fail(name, nth, Code::OUT_OF_MEMORY);
            let Pair { mem, cuda, vulkan } = &pair;
            let run = || -> Result<f32, hmmap::Error> {
                let mut x = SharedVec::<f32>::shareable(mem, N)?;
                let ones = SharedVec::from_fn(mem, N, |_| 1.0_f32)?;
                for device in [*vulkan, *cuda, *vulkan] {
                    mem.launch_on(device, N, Saxpy { a: 1.0, x: ones.read(), y: x.update() })?;
                }
                let first = x.host(..1)?[0];
                let all = x.host(..)?.iter().all(|x| *x == first);
                assert!(all, "{name}, call {nth}: some differ");
                Ok(first)
            };
            match run() {
                Ok(value) => assert_eq!(value, 3.0, "{name}, call {nth}"),
                Err(_) => refused += 1,
            }
            stage.fixture.fail("", 0, Code::OUT_OF_MEMORY);
            fired += stage.fixture.fired() - before;
            stage.end(pair);
        }
    }
    assert!(fired >= 4, "{fired} calls were made to fail");
    println!("HMMAP-COUNT: {fired} calls made to fail between the drivers, {refused} errors told");
}
