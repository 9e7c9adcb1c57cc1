//! A window as a node of the directory, on a file in the place of a device's memory.

#[path = "lab/flat.rs"]
mod flat;

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering::SeqCst},
};

use hmmap_core::{
    DeviceId, Error, Kernel, NodeId, Options, Runtime, SharedVec,
    backend::{DeviceError, DeviceKind, Provider},
    embedded::{EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    p2p::HandleKinds,
    peer::{AddressKind, Peer, PeerAddress, PeerError, PeerMemory, Place, Reach, Revoked},
};
use hmmap_vfio::{BarMemory, VfioError, WindowFault};

const PAGE: usize = 65_536 / 4;
/// Ten blocks and a bit, of which a runtime uses nine tenths.
const WINDOW_BYTES: u64 = (20 << 20) + 3 * 65_536 + 100;

fn with(window: Arc<dyn Provider>) -> (Runtime, DeviceId, NodeId) {
    let runtime = Runtime::new(vec![window], Options::default()).unwrap();
    let device = runtime.default_device().unwrap();
    let node = runtime.node(device).unwrap();
    (runtime, device, node)
}

fn double() -> Arc<BarMemory> {
    BarMemory::double(WINDOW_BYTES).unwrap()
}

fn is_on(node: NodeId, vec: &SharedVec<u32>) -> bool {
    vec.residency(..).unwrap().iter().all(|run| run.nodes.contains(&node))
}

#[test]
fn a_vector_is_a_flat_array_wherever_its_pages_are() {
    let cases = if std::env::var_os("HMMAP_DEEP").is_some() { 400 } else { 24 };
    flat::play(cases, || with(double()));
}

#[test]
fn pages_go_to_the_window_and_a_touch_brings_them_back() {
    let (mem, device, node) = with(double());
    let mut x = SharedVec::from_fn(&mem, 40 * PAGE, |i| i as u32).unwrap();
    x.prefetch(.., device).unwrap().wait().unwrap();
    assert!(is_on(node, &x));
    let before = mem.stats().total();
    assert_eq!(x[7], 7, "the host's copy is good as well");
    assert_eq!(mem.stats().total(), before);
    x[PAGE + 1] = 99;
    let runs = x.residency(PAGE..PAGE + 1).unwrap();
    assert_eq!(runs[0].nodes[..], [NodeId::HOST], "whoever writes has it alone");
    let x = x.lend_on(device).unwrap().take_back().unwrap();
    assert_eq!(mem.device_memory(device).unwrap().used_bytes, 40 * 65_536);
    let before = mem.stats().total().to_host_bytes;
    assert_eq!((x[PAGE + 1], x[PAGE + 2]), (99, PAGE as u32 + 2));
    assert!(mem.stats().total().to_host_bytes > before, "a touch brought it");
    // What comes ahead of the next touch is in no copy's way any more.
    x.to_vec().unwrap();
    drop(x);
    assert_eq!(mem.device_memory(device).unwrap().used_bytes, 0);
}

struct Nothing;

// SAFETY: it has no code, and touches nothing.
#[allow(unsafe_code, reason = "a kernel that is refused")]
unsafe impl Kernel for Nothing {
    fn source() -> &'static hmmap_core::Source {
        static SOURCE: hmmap_core::Source = hmmap_core::Source {
            name: "nothing",
            spirv: &[],
            ptx: "",
            workgroup: [1, 1, 1],
            twin: Some(|_| ()),
        };
        &SOURCE
    }

    fn bind<'a>(&'a self, arguments: &mut hmmap_core::kernel::Arguments<'a>) {
        arguments.grid();
    }
}

#[test]
fn it_says_what_it_cannot() {
    let (mem, device, _) = with(double());
    let facts = mem.facts(device).unwrap();
    assert_eq!((facts.summary.kind, facts.summary.api), (DeviceKind::Memory, "window"));
    assert_eq!(facts.summary.memory_bytes, WINDOW_BYTES - 65_536);
    let proved: Vec<_> =
        facts.capabilities.table().into_iter().filter(|row| row.2.is_proved()).collect();
    assert_eq!(
        proved.iter().map(|row| row.0).collect::<Vec<_>>(),
        ["direct copy", "sparse backing"]
    );
    let refused = mem.launch(1, Nothing).unwrap_err();
    let unsupported =
        matches!(refused, Error::Device { source: DeviceError::Unsupported { .. }, .. });
    assert!(unsupported, "{refused}");
    let too_long = SharedVec::<u32>::from_fn(&mem, WINDOW_BYTES as usize / 4 + 1, |_| 1).unwrap();
    let refused = too_long.prefetch(.., device).map(drop).unwrap_err();
    assert!(matches!(refused, Error::OutOfDeviceMemory { .. }), "{refused}");
}

#[test]
fn a_window_is_used_by_one_runtime_at_a_time() {
    let window = double();
    let (mem, device, node) = with(window.clone());
    let x = SharedVec::from_fn(&mem, 3 * PAGE, |i| i as u32).unwrap();
    x.prefetch(.., device).unwrap().wait().unwrap();
    let other = Runtime::new(vec![window.clone()], Options::default()).unwrap();
    let refused = other.node(other.default_device().unwrap()).unwrap_err();
    assert!(
        matches!(refused, Error::Device { source: DeviceError::Unsupported { .. }, .. }),
        "{refused}"
    );
    assert!(is_on(node, &x));
    drop((x, mem));
    let (_mem, ..) = with(window);
}

#[test]
fn a_window_without_room_for_a_page_is_refused() {
    let refused = BarMemory::double(100_000).unwrap_err();
    let VfioError::NoWindow { why, .. } = &refused else { panic!("{refused}") };
    assert_eq!(*why, WindowFault::TooShort { len_bytes: 100_000, least_bytes: 196_608 });
    // One page, under the tenth that is left alone and the guard.
    let (mem, device, node) = with(BarMemory::double(196_608).unwrap());
    let x = SharedVec::from_fn(&mem, PAGE, |i| i as u32).unwrap();
    x.prefetch(.., device).unwrap().wait().unwrap();
    assert!(is_on(node, &x));
}

/// A peer that takes what the window's node gives out, if it can.
struct Stranger {
    mapped: AtomicI64,
}

impl Peer for Stranger {
    fn name(&self) -> &str {
        "stranger"
    }

    fn reach(&self, place: &Place<'_>) -> Reach {
        assert!(place.exports.is_empty(), "{:?}", place.exports);
        Reach::Hops(1)
    }

    fn map(&self, memory: PeerMemory<'_>) -> Result<PeerAddress, String> {
        assert!(memory.is_for(self) && matches!(memory.kind(), AddressKind::Device(_)));
        assert!(memory.export(HandleKinds::DMA_BUF).is_err());
        self.mapped.fetch_add(1, SeqCst);
        memory.export(HandleKinds::OPAQUE_FD).map(|_| panic!()).map_err(|error| error.to_string())
    }

    fn revoke(&self, revoked: Revoked) {
        revoked.confirm();
    }
}

#[test]
fn no_handle_goes_to_strangers() {
    let embedded = EmbeddedOptions { memory: EmbeddedMemory::Own, ..EmbeddedOptions::default() };
    let devices: Vec<Arc<dyn Provider>> = vec![double(), Arc::new(EmbeddedProvider::new(embedded))];
    let mem = Runtime::new(devices, Options::default()).unwrap();
    let [device, other] = [0, 1].map(|index| DeviceId::new(index).unwrap());
    let x = SharedVec::from_fn(&mem, 3 * PAGE, |i| i as u32).unwrap();
    let x = x.lend_on(device).unwrap().take_back().unwrap();
    let stranger = Arc::new(Stranger { mapped: AtomicI64::new(0) });
    let refused = x.map_peer(stranger.clone(), ..).unwrap_err();
    let Error::Peer { source: PeerError::NotMapped { reason, .. }, .. } = refused else {
        panic!("{refused}")
    };
    assert!(reason.contains("handles of a window"), "{reason}");
    assert_eq!(stranger.mapped.load(SeqCst), 1);
    // Another device gets the pages by way of the host.
    assert!(!mem.route(device, other).unwrap().is_direct());
    x.prefetch(.., other).unwrap().wait().unwrap();
    assert!(is_on(mem.node(other).unwrap(), &x));
    assert_eq!(x[PAGE], PAGE as u32);
}
