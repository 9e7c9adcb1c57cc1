#[path = "../../../core/tests/cases/mod.rs"]
mod cases;

use cases::cases;
use hmmap_core::{
    Access,
    backend::{ArrayArgument, Direction, LaunchWork, Zero},
    fence::TimelineId,
    host::HostSpan,
    kernel::{KernelId, ParamLayout, Source},
    node::DeviceId,
};
use proptest::prelude::*;

use super::*;
use crate::{
    dependencies::{After, HostSees, Visible},
    record::{self, Piece},
    ring::{Found, pack},
    stream::Region,
};

const ARENA: u32 = 100;
const RING: u32 = 101;
const BUFFER_BYTES: u64 = 1 << 20;

static SOURCE: Source =
    Source { name: "none", spirv: &[], ptx: "", workgroup: [1, 1, 1], twin: None };

/// Buffer `b` is at address `b << 32`; buffer 9 is a window of the arena.
struct Flat;

impl Places<u32> for Flat {
    fn locate(&self, address: u64) -> Option<(u32, u64)> {
        Some(match (address >> 32) as u32 {
            9 => (ARENA, address & 0xffff_ffff),
            buffer => (buffer, address & 0xffff_ffff),
        })
    }

    fn seen(&self, buffer: u32) -> Seen {
        match buffer {
            ARENA => Seen::ByHost,
            RING => Seen::ByHostAfterFlush,
            _ => Seen::ByDevice,
        }
    }
}

fn point(queue: u8, value: u64) -> FencePoint {
    FencePoint { timeline: TimelineId::new(DeviceId::new(0).unwrap(), queue), value }
}

/// What the device would have recorded, submission by submission.
#[derive(Default)]
struct Script {
    submissions: Vec<Recorded<u32>>,
    values: [u64; 4],
    /// What the host has seen end.
    seen: [u64; 4],
    visible: [Visible; 4],
}

impl Script {
    fn record(
        &mut self,
        queue: QueueShape,
        waits: &[FencePoint],
        record: impl FnOnce(&mut Stream<u32>, &After<'_>, &mut Visible) -> record::Semaphores,
    ) -> FencePoint {
        let mut stream = Stream::default();
        let number = usize::from(queue.timeline);
        self.values[number] += 1;
        let value = self.values[number];
        let ended: Vec<Point> = (0..).zip(self.seen).collect();
        let after = After { queue, value, waits, ended: &ended };
        let semaphores = record(&mut stream, &after, &mut self.visible[number]).to_vec();
        let waits = waits.to_vec();
        self.submissions.push(Recorded { queue, value, waits, ended, semaphores, stream });
        point(queue.timeline, value)
    }

    /// The host sees a fence end.
    fn see(&mut self, point: FencePoint) {
        let seen = &mut self.seen[usize::from(point.timeline.queue())];
        *seen = point.value.max(*seen);
    }

    fn launch(&mut self, arrays: &[(u32, Access)], waits: &[FencePoint]) -> FencePoint {
        let arrays: Vec<_> = arrays
            .iter()
            .map(|(buffer, access)| ArrayArgument {
                address: u64::from(*buffer) << 32,
                len_bytes: BUFFER_BYTES,
                access: *access,
                scattered: None,
            })
            .collect();
        let queue = QueueShape::compute(0);
        let work = LaunchWork {
            kernel: KernelId(0),
            source: &SOURCE,
            groups: [1, 1, 1],
            params: &[],
            layout: &ParamLayout::default(),
            arrays: &arrays,
            waits,
        };
        self.record(queue, waits, |stream, after, visible| {
            record::launch(stream, after, visible, &work, HostSees::Yes)
        })
    }

    fn copy(
        &mut self,
        queue: QueueShape,
        direction: Direction,
        buffer: u32,
        waits: &[FencePoint],
    ) -> FencePoint {
        let host_at = u64::from(buffer) * BUFFER_BYTES;
        let (host, device) = (ARENA, buffer);
        let len_bytes = BUFFER_BYTES;
        let piece = match direction {
            Direction::HostToDevice => Piece {
                from: host,
                to: device,
                region: Region { from_bytes: host_at, to_bytes: 0, len_bytes },
            },
            Direction::DeviceToHost => Piece {
                from: device,
                to: host,
                region: Region { from_bytes: 0, to_bytes: host_at, len_bytes },
            },
        };
        let sees = match direction {
            Direction::HostToDevice => HostSees::No,
            Direction::DeviceToHost => HostSees::Yes,
        };
        self.record(queue, waits, |stream, after, visible| {
            record::transfer(stream, after, visible, sees, [piece], [])
        })
    }

    fn zero(&mut self, queue: QueueShape, buffer: u32, waits: &[FencePoint]) -> FencePoint {
        let memory = hmmap_core::backend::MemoryId(0);
        let zero = Zero { memory, offset_bytes: 0, len_bytes: BUFFER_BYTES };
        self.record(queue, waits, |stream, after, visible| {
            record::transfer(stream, after, visible, HostSees::No, [], [(buffer, zero)])
        })
    }

    /// A copy by hand, whose loads go on timeline 3.
    fn staged(&mut self, direction: Direction, buffer: u32, waits: &[FencePoint]) -> FencePoint {
        let queue = QueueShape::transfer(3);
        let host = HostSpan { offset_bytes: 0, len_bytes: BUFFER_BYTES };
        let found = Found { direction, host, buffer, offset_bytes: 0 };
        let mut last = point(3, 0);
        for (number, load) in pack(&[found], BUFFER_BYTES / 2).iter().enumerate() {
            let waits = if number == 0 { waits } else { &[] };
            let ring = (RING, number as u64 * BUFFER_BYTES / 2);
            last = self.record(queue, waits, |stream, after, visible| {
                record::staged(stream, after, visible, ring, Some(load), [])
            });
        }
        last
    }

    fn prove(&self) -> Result<usize, Hazard<u32>> {
        prove(&self.submissions, &Flat)
    }

    /// Takes a command out of a stream.
    fn omit(&self, submission: usize, command: usize) -> Self {
        let mut submissions = self.submissions.clone();
        submissions[submission].stream.remove(command);
        Self { submissions, ..Self::default() }
    }

    fn barriers(&self) -> Vec<(usize, usize)> {
        let streams = self.submissions.iter().enumerate();
        streams
            .flat_map(|(number, recorded)| {
                let commands = recorded.stream.commands().iter().enumerate();
                commands
                    .filter(|(_, command)| matches!(command, Command::Barrier(_)))
                    .map(move |(command, _)| (number, command))
            })
            .collect()
    }
}

const UP: Direction = Direction::HostToDevice;
const DOWN: Direction = Direction::DeviceToHost;

/// Up, two launches, down: on one queue and on two.
fn chain(copies: QueueShape) -> Script {
    let mut script = Script::default();
    let sent = script.copy(copies, UP, 1, &[]);
    let zeroed = script.zero(copies, 2, &[]);
    let first = script.launch(&[(1, Access::Read), (2, Access::Update)], &[sent, zeroed]);
    let second = script.launch(&[(2, Access::Read), (1, Access::Write)], &[first]);
    script.copy(copies, DOWN, 1, &[second]);
    script
}

#[test]
fn a_chain_is_proved_on_one_queue_and_on_two() {
    for copies in [QueueShape::compute(0), QueueShape::transfer(1)] {
        let proved = chain(copies).prove().unwrap();
        assert!(proved >= 6, "{proved} pairs");
    }
}

#[test]
fn each_barrier_of_a_chain_is_needed() {
    let script = chain(QueueShape::compute(0));
    let barriers = script.barriers();
    assert_eq!(barriers.len(), 3 + 2 + 1, "an acquire each but for the first two, releases");
    for (submission, command) in barriers {
        let hazard = script.omit(submission, command).prove();
        let releases_only_device_memory = matches!(submission, 2 | 3) && command > 0;
        if releases_only_device_memory {
            continue; // a launch that no window is open for would not have had it
        }
        assert!(hazard.is_err(), "without command {command} of submission {submission}");
    }
}

#[test]
fn each_semaphore_wait_is_needed() {
    let script = chain(QueueShape::transfer(1));
    for submission in 0..script.submissions.len() {
        for number in 0..script.submissions[submission].semaphores.len() {
            let mut without = chain(QueueShape::transfer(1));
            without.submissions[submission].semaphores.remove(number);
            let hazard = without.prove();
            assert!(matches!(hazard, Err(Hazard::Unordered(..))), "{submission}: {hazard:?}");
        }
    }
}

#[test]
fn what_the_host_has_seen_end_needs_no_name_and_is_visible_all_the_same() {
    for copies in [QueueShape::compute(0), QueueShape::transfer(1)] {
        let mut script = Script::default();
        let sent = script.copy(copies, UP, 1, &[]);
        script.see(sent);
        let run = script.launch(&[(1, Access::Update)], &[]);
        // The second launch relies on the same copy, which costs nothing any more.
        script.launch(&[(1, Access::Read)], &[run]);
        script.see(run);
        script.copy(copies, DOWN, 1, &[]);
        assert!(script.prove().unwrap() >= 4);
        let semaphores: usize = script.submissions.iter().map(|s| s.semaphores.len()).sum();
        assert_eq!(semaphores, if copies.timeline == 0 { 0 } else { 2 });
        for submission in [1, 3] {
            let mut without = script.omit(submission, 0);
            without.submissions[submission].semaphores.clear();
            assert!(matches!(without.prove(), Err(Hazard::Unordered(..))));
        }
    }
}

#[test]
fn a_barrier_of_too_narrow_a_scope_is_found() {
    for narrow in [
        |barrier: &mut crate::stream::Barrier| barrier.from = Uses::TRANSFER,
        |barrier: &mut crate::stream::Barrier| barrier.to = Uses::SHADER_READ,
    ] {
        let mut script = Script::default();
        let first = script.launch(&[(1, Access::Update)], &[]);
        script.zero(QueueShape::compute(0), 1, &[first]);
        script.submissions[1].stream.edit_barriers(narrow);
        assert!(matches!(script.prove(), Err(Hazard::Unordered(..))));
    }
}

#[test]
fn what_the_cpu_reads_is_released_to_it() {
    let mut script = Script::default();
    script.copy(QueueShape::transfer(1), DOWN, 1, &[]);
    script.prove().unwrap();
    assert!(matches!(script.omit(0, 1).prove(), Err(Hazard::HostCannotSee(_))));
    let mut window = Script::default();
    window.launch(&[(9, Access::Update)], &[]);
    window.prove().unwrap();
    assert!(matches!(window.omit(0, 1).prove(), Err(Hazard::HostCannotSee(_))));
}

#[test]
fn staging_flushes_before_and_invalidates_after() {
    let mut script = Script::default();
    let sent = script.staged(UP, 1, &[]);
    let run = script.launch(&[(1, Access::Update)], &[sent]);
    script.staged(DOWN, 1, &[run]);
    assert!(script.prove().unwrap() > 0);
    for submission in [0, 1] {
        assert!(matches!(script.omit(submission, 0).prove(), Err(Hazard::NotFlushed(_))));
    }
    for submission in [3, 4] {
        let last = script.submissions[submission].stream.commands().len() - 1;
        let hazard = script.omit(submission, last).prove();
        assert!(matches!(hazard, Err(Hazard::NotInvalidated(_))), "{hazard:?}");
        assert!(matches!(script.omit(submission, last - 1).prove(), Err(Hazard::HostCannotSee(_))));
    }
}

/// One step of a random program: what, on which buffer, and which earlier submissions it waits for.
#[derive(Clone, Debug)]
enum Step {
    Launch(u32, u32, usize),
    Up(u32),
    Down(u32),
    Zero(u32),
    StagedUp(u32),
    StagedDown(u32),
    See(prop::sample::Index),
}

fn step() -> impl Strategy<Value = (Step, Vec<prop::sample::Index>)> {
    let buffer = 0..4u32;
    let step = prop_oneof![
        (buffer.clone(), buffer.clone(), 0..3usize).prop_map(|(a, b, c)| Step::Launch(a, b, c)),
        buffer.clone().prop_map(Step::Up),
        buffer.clone().prop_map(Step::Down),
        buffer.clone().prop_map(Step::Zero),
        buffer.clone().prop_map(Step::StagedUp),
        buffer.prop_map(Step::StagedDown),
        any::<prop::sample::Index>().prop_map(Step::See),
    ];
    (step, prop::collection::vec(any::<prop::sample::Index>(), 0..3))
}

fn play(steps: &[(Step, Vec<prop::sample::Index>)], copies: QueueShape) -> Script {
    let mut script = Script::default();
    let mut points: Vec<FencePoint> = Vec::new();
    for (step, waits) in steps {
        let waits: Vec<_> =
            waits.iter().filter(|_| !points.is_empty()).map(|index| *index.get(&points)).collect();
        let access = [Access::Read, Access::Update, Access::Write];
        points.push(match step {
            Step::See(index) => {
                if !points.is_empty() {
                    script.see(*index.get(&points));
                }
                continue;
            }
            Step::Launch(a, b, c) => script.launch(&[(*a, Access::Read), (*b, access[*c])], &waits),
            Step::Up(buffer) => script.copy(copies, UP, *buffer, &waits),
            Step::Down(buffer) => script.copy(copies, DOWN, *buffer, &waits),
            Step::Zero(buffer) => script.zero(copies, *buffer, &waits),
            Step::StagedUp(buffer) => script.staged(UP, *buffer, &waits),
            Step::StagedDown(buffer) => script.staged(DOWN, *buffer, &waits),
        });
    }
    script
}

proptest! {
    #![proptest_config(cases(400))]

    /// Whatever the engine submits and waits for, every pair that its waits order is a dependency.
    #[test]
    fn every_declared_order_is_a_dependency(
        steps in prop::collection::vec(step(), 1..18),
        apart in any::<bool>(),
    ) {
        let copies = if apart { QueueShape::transfer(1) } else { QueueShape::compute(0) };
        let script = play(&steps, copies);
        if let Err(hazard) = script.prove() {
            return Err(TestCaseError::fail(format!("{hazard:?}")));
        }
    }
}
