//! Peers: giving them addresses, and taking them back. Those in other processes are in `processes`.

use std::{
    hint::black_box,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hmmap::{
    SharedVec,
    core::peer::{Peer, PeerMapping, Place, Reach, Revoked},
};

use super::{GIB, MIB, PAGE_BYTES, processes, touched::Touched};
use crate::{
    BenchError, Case, Suite, Trial,
    bare_faults::{BareFaults, Rights},
    case::{Measure, Wants},
    session::{Session, SharedLimit},
};

pub(super) const fn case(name: &'static str, bytes: u64, goal: f64, measure: Measure) -> Case {
    Case {
        suite: Suite::Peer,
        name,
        bytes,
        goal: Some(goal),
        wants: Wants::Migrate,
        memory_bytes: 2 * bytes + GIB / 2,
        measure,
    }
}

pub(crate) const CASES: &[Case] = &[
    case(
        "map/1GiB",
        GIB,
        200e-6,
        Measure::Seconds(|session, case| Ok(Box::new(Map::new(session, case)?))),
    ),
    case(
        "begin-and-retry",
        2 * MIB,
        10e-9,
        Measure::Seconds(|session, case| Ok(Box::new(Begin::new(session, case)?))),
    ),
    // Three bare submits at most.
    case(
        "revoke-and-refault/2MiB",
        2 * MIB,
        1.0 / 3.0,
        Measure::Time(|session, case| Ok(Box::new(Revoke::new(session, case)?))),
    ),
    // At most 1.3 times the parts.
    case(
        "revoke-copy-and-refault/2MiB",
        2 * MIB,
        1.0 / 1.3,
        Measure::Time(|session, case| Ok(Box::new(RevokeAndCopy::new(session, case)?))),
    ),
    case("device-to-device/64MiB", 64 * MIB, 0.95, Measure::Time(across::new)),
    case(
        "start/64-peers",
        2 * MIB,
        1e-6,
        Measure::Seconds(|session, case| Ok(Box::new(Start::new(session, case)?))),
    ),
    processes::READ_WARM,
    processes::READ_COLD,
    processes::REVOKE,
    processes::START,
];

/// Reaches everything, confirms at once, and remembers when it was told last.
#[derive(Debug, Default)]
struct IdlePeer(Mutex<Option<Instant>>);

impl Peer for IdlePeer {
    fn name(&self) -> &'static str {
        "idle peer"
    }

    fn reach(&self, _: &Place<'_>) -> Reach {
        Reach::Hops(1)
    }

    fn revoke(&self, revoked: Revoked) {
        if let Ok(mut told) = self.0.lock() {
            *told = Some(Instant::now());
        }
        revoked.confirm();
    }
}

fn idle_peer() -> Arc<dyn Peer> {
    Arc::new(IdlePeer::default())
}

/// Addresses of what a device holds, and giving them back. The device's memory is there, so nothing moves.
struct Map {
    touched: Touched,
    peer: Arc<dyn Peer>,
}

impl Map {
    fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, device) = session.runtime(case)?;
        let mut touched = Touched::new(mem, device, case.bytes, PAGE_BYTES)?;
        touched.written_on_the_device()?;
        Ok(Self { touched, peer: idle_peer() })
    }
}

impl Trial for Map {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let started = Instant::now();
        let mapping = self.touched.first().map_peer(self.peer.clone(), ..)?;
        let taken = started.elapsed();
        drop(black_box(mapping));
        Ok(taken)
    }
}

/// So many are timed together, since a clock reading takes tens of nanoseconds itself.
const TOGETHER: u32 = 1000;

struct Begin {
    mapping: PeerMapping,
    _vec: SharedVec<u32>,
}

impl Begin {
    fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, _) = session.runtime(case)?;
        let vec = SharedVec::new(&mem, case.bytes as usize / size_of::<u32>())?;
        Ok(Self { mapping: vec.map_peer(idle_peer(), ..)?, _vec: vec })
    }
}

impl Trial for Begin {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let started = Instant::now();
        for _ in 0..TOGETHER {
            let stamp = black_box(&self.mapping).begin()?;
            black_box(self.mapping.retry(stamp));
        }
        Ok(started.elapsed() / TOGETHER)
    }
}

/// The host takes a block back from an idle peer, which maps it again. The limit is a bare submit of a kernel with one item, and its wait.
struct Revoke {
    vec: SharedVec<u32>,
    mapping: PeerMapping,
    limit: SharedLimit,
}

impl Revoke {
    fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, _) = session.runtime(case)?;
        let vec = SharedVec::from_fn(&mem, case.bytes as usize / size_of::<u32>(), |i| i as u32)?;
        let mapping = vec.map_peer(idle_peer(), ..)?;
        Ok(Self { vec, mapping, limit: session.limit() })
    }
}

impl Trial for Revoke {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let started = Instant::now();
        black_box(self.vec.host_mut(..)?);
        black_box(self.mapping.segments()?);
        Ok(started.elapsed())
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        self.limit.borrow_mut().touch(PAGE_BYTES).map(Some)
    }
}

/// A device takes a block that the host has mapped and a peer has addresses of; then the peer maps it again, where it is now. The limit is the sum of
/// the parts, each bare: the block leaves the user's view, is copied to the device, a kernel with one item runs.
struct RevokeAndCopy {
    touched: Touched,
    mapping: PeerMapping,
    bytes: u64,
    view: BareFaults,
    limit: SharedLimit,
}

impl RevokeAndCopy {
    fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, device) = session.runtime(case)?;
        let mut touched = Touched::new(mem, device, case.bytes, PAGE_BYTES)?;
        touched.written_on_the_device()?;
        let mapping = touched.first().map_peer(idle_peer(), ..)?;
        let (bytes, view) = (case.bytes, BareFaults::new(case.bytes)?);
        Ok(Self { touched, mapping, bytes, view, limit: session.limit() })
    }
}

impl Trial for RevokeAndCopy {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let first = &mut self.touched.vecs()[0];
        for element in (0..first.len()).step_by(PAGE_BYTES as usize / size_of::<u32>()) {
            first[element] = element as u32;
        }
        self.mapping.segments()?;
        let before = self.touched.mem().stats();
        let started = Instant::now();
        self.touched.launch()?.wait()?;
        black_box(self.mapping.segments()?);
        let taken = started.elapsed();
        let stats = self.touched.mem().stats() - before;
        let found = stats.total().to_device_bytes;
        if found != self.bytes || stats.revocations != 1 {
            let (what, expected) = ("bytes copied to the device", self.bytes);
            return Err(BenchError::Unexpected { what, expected, found });
        }
        Ok(taken)
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        self.view.show(Rights::Write)?;
        let left = self.view.revoke()?;
        let mut limit = self.limit.borrow_mut();
        let copied = limit.to_device(self.bytes)?;
        Ok(Some(left + copied + limit.touch(PAGE_BYTES)?))
    }
}

/// Pages that one device wrote and another needs, in one copy. The limit is a copy between two buffers over another device's memory, by hand.
#[cfg(feature = "vulkan")]
mod across {
    use hmmap::{
        DeviceId, MemoryModel, Options,
        core::Runtime,
        kernels::Fill,
        vulkan::{Backing, Options as VulkanOptions, discover},
    };

    use super::*;
    use crate::raw::SharedPair;

    struct Across {
        mem: Runtime,
        devices: [DeviceId; 2],
        vec: SharedVec<f32>,
        limit: SharedPair,
    }

    pub(super) fn new(session: &mut Session, case: &Case) -> Result<Box<dyn Trial>, BenchError> {
        let summary = session.summary();
        let limit = SharedPair::new(summary, case.bytes)
            .map_err(|error| BenchError::DoesNotApply(format!("no memory is shared: {error}")))?;
        // Memory that is given out is committed.
        let vulkan = VulkanOptions { backing: Backing::Committed, ..VulkanOptions::default() };
        let found =
            discover(&vulkan).map_err(|error| BenchError::DoesNotApply(error.to_string()))?;
        let same = found.providers.into_iter().find(|provider| {
            use hmmap::core::backend::Provider as _;
            provider.summary().uuid == summary.uuid
        });
        let provider =
            same.ok_or_else(|| BenchError::DoesNotApply("Vulkan has no such device".into()))?;
        let options = Options { memory_model: MemoryModel::Migrate, ..Options::default() };
        let mem = Runtime::new(vec![provider.clone(), provider], options)?;
        let devices: Vec<DeviceId> = mem.devices().map(|(device, _)| device).collect();
        let [first, second] = devices[..] else {
            return Err(BenchError::DoesNotApply(format!("{} devices", devices.len())));
        };
        let route = mem.route(first, second)?;
        if !route.is_direct() {
            return Err(BenchError::DoesNotApply(format!("copies go {route}")));
        }
        let vec = SharedVec::new(&mem, case.bytes as usize / size_of::<f32>())?;
        Ok(Box::new(Across { mem, devices: [first, second], vec, limit }))
    }

    impl Across {
        /// The same work before both copies, so that caches and threads are as warm for the one as for the other.
        fn write_on_the_first(&mut self) -> Result<(), BenchError> {
            let n = self.vec.len();
            let fill = Fill { out: self.vec.write(), value: 1.0 };
            Ok(self.mem.launch_on(self.devices[0], n, fill)?.wait()?)
        }
    }

    impl Trial for Across {
        fn ours(&mut self) -> Result<Duration, BenchError> {
            self.write_on_the_first()?;
            let (second, n) = (self.devices[1], self.vec.len());
            let before = self.mem.stats();
            let started = Instant::now();
            self.vec.prefetch(.., second)?.wait()?;
            let taken = started.elapsed();
            let moved = (self.mem.stats() - before).total();
            let expected = n as u64 * size_of::<f32>() as u64;
            if moved.between_bytes != expected {
                let (what, found) = ("bytes between devices", moved.between_bytes);
                return Err(BenchError::Unexpected { what, expected, found });
            }
            Ok(taken)
        }

        fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
            self.write_on_the_first()?;
            Ok(Some(self.limit.copy()?))
        }
    }
}

#[cfg(not(feature = "vulkan"))]
mod across {
    use super::*;

    pub(super) fn new(_: &mut Session, _: &Case) -> Result<Box<dyn Trial>, BenchError> {
        Err(BenchError::DoesNotApply("built without Vulkan".to_owned()))
    }
}

/// How long it takes until the last of 64 peers of one vector was told, for each.
struct Start {
    vec: SharedVec<u32>,
    peers: Vec<(Arc<IdlePeer>, PeerMapping)>,
}

impl Start {
    const PEERS: u32 = 64;

    fn new(session: &mut Session, case: &Case) -> Result<Self, BenchError> {
        let (mem, _) = session.runtime(case)?;
        let vec = SharedVec::from_fn(&mem, case.bytes as usize / size_of::<u32>(), |i| i as u32)?;
        let peer = |_| {
            let peer = Arc::new(IdlePeer::default());
            Ok((peer.clone(), vec.map_peer(peer, ..)?))
        };
        let peers = (0..Self::PEERS).map(peer).collect::<Result<_, BenchError>>()?;
        Ok(Self { vec, peers })
    }
}

impl Trial for Start {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        for (_, mapping) in &self.peers {
            mapping.segments()?;
        }
        let started = Instant::now();
        black_box(self.vec.host_mut(..)?);
        let told = self.peers.iter().filter_map(|(peer, _)| *peer.0.lock().ok()?);
        let last = told.max().unwrap_or(started);
        Ok(last.saturating_duration_since(started) / Self::PEERS)
    }
}
