//! What devices were given, as slices on tracks.

use std::collections::BTreeMap;

use hmmap_core::{
    Cause, DeviceId, NodeId,
    events::{Event, VectorId, What},
    fence::{FencePoint, FenceState, TimelineId},
    kernel::KernelId,
    units::PAGE_BYTES,
};
use serde_json::{Value, json};

use crate::Log;

/// Tracks of one kind at most; what finds none free waits for one.
const MOST_TRACKS: usize = 8;
/// A slice's arguments name so many vectors at most.
const MOST_NAMES: usize = 8;

/// What kind of work.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Work {
    Kernel,
    ToDevice,
    ToHost,
    Between,
    Zero,
}

impl Work {
    const ALL: [Self; 5] = [Self::Kernel, Self::ToDevice, Self::ToHost, Self::Between, Self::Zero];

    pub(super) fn of_track(track: u32) -> Self {
        Self::ALL[(track as usize / 100).clamp(1, Self::ALL.len()) - 1]
    }

    /// What its tracks are called.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Kernel => "kernels",
            Self::ToDevice => "copies to it",
            Self::ToHost => "copies home",
            Self::Between => "copies from other devices",
            Self::Zero => "zeros",
        }
    }

    pub(super) fn category(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::ToDevice => "to_device",
            Self::ToHost => "to_host",
            Self::Between => "between",
            Self::Zero => "zero",
        }
    }
}

/// What one submission did of one kind for one cause.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub(crate) work: Work,
    /// Of the device that does it.
    pub(crate) node: NodeId,
    pub(super) thread: u32,
    pub(super) queued_ns: u64,
    pub(crate) begin_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) cause: Cause,
    pub(crate) lane: usize,
    fence: FencePoint,
    /// `None`: nobody saw its end.
    state: Option<FenceState>,
    kernel: Option<(DeviceId, KernelId)>,
    bytes: u64,
    regions: u64,
    vectors: Vec<(VectorId, String)>,
    reads_bytes: u64,
    writes_bytes: u64,
}

impl Slice {
    pub(super) fn track(&self) -> u32 {
        let kind = Work::ALL.iter().position(|work| *work == self.work).unwrap_or(0);
        (kind as u32 + 1) * 100 + self.lane as u32
    }

    pub(super) fn name(&self, log: &Log) -> String {
        match self.kernel {
            Some((device, kernel)) => {
                log.names.kernel(device, kernel).unwrap_or("kernel").to_owned()
            }
            None => format!("{} for {}", self.work.title(), self.cause),
        }
    }

    pub(super) fn args(&self, log: &Log) -> Value {
        let shown = self.vectors.iter().take(MOST_NAMES);
        let vectors: Vec<String> =
            shown.map(|(vector, pages)| format!("{} {pages}", log.name(*vector))).collect();
        let ended = match self.state {
            None => "not seen".to_owned(),
            Some(state) => format!("{state:?}"),
        };
        json!({
            "cause": self.cause.to_string(),
            "bytes": self.bytes,
            "regions": self.regions,
            "reads_bytes": self.reads_bytes,
            "writes_bytes": self.writes_bytes,
            "pages": vectors,
            "more": self.vectors.len().saturating_sub(MOST_NAMES),
            "queued_us": self.queued_ns as f64 / 1e3,
            "fence": self.fence.to_string(),
            "ended": ended,
        })
    }
}

/// The slices, by the time at which they were queued.
pub(crate) fn slices(log: &Log) -> Vec<Slice> {
    let ends = Ends::of(&log.events);
    let (_, last_ns) = log.span_ns();
    let mut slices: Vec<Slice> = Vec::new();
    let mut known: BTreeMap<(FencePoint, Work, Cause), usize> = BTreeMap::new();
    let mut used: BTreeMap<FencePoint, (u64, u64)> = BTreeMap::new();
    for event in &log.events {
        if let What::Read { pages, fence, .. } | What::Written { pages, fence: Some(fence), .. } =
            event.what
        {
            let (reads, writes) = used.entry(fence).or_default();
            let is_read = matches!(event.what, What::Read { .. });
            *if is_read { reads } else { writes } += pages.count() * PAGE_BYTES;
        }
        let Some((work, cause, fence)) = kind(&event.what) else { continue };
        let at = *known.entry((fence, work, cause)).or_insert_with(|| {
            slices.push(begun(event, work, cause, fence));
            slices.len() - 1
        });
        let slice = &mut slices[at];
        slice.bytes += event.what.bytes();
        match event.what {
            What::Copied { vector, pages, .. } | What::Zeroed { vector, pages, .. } => {
                slice.regions += 1;
                slice.vectors.push((vector, format!("{}..{}", pages.first, pages.end)));
            }
            What::Launched { .. } => {
                (slice.reads_bytes, slice.writes_bytes) = used.remove(&fence).unwrap_or_default();
            }
            _ => {}
        }
    }
    slices.sort_by_key(|slice| slice.queued_ns);
    let mut lanes: BTreeMap<(NodeId, Work), Vec<u64>> = BTreeMap::new();
    for slice in &mut slices {
        let (end_ns, state) = ends.of_fence(slice.fence).unzip();
        slice.state = state;
        slice.end_ns = end_ns.unwrap_or(last_ns).max(slice.queued_ns);
        let lanes = lanes.entry((slice.node, slice.work)).or_default();
        (slice.lane, slice.begin_ns) = take(lanes, slice.queued_ns, slice.end_ns);
    }
    slices
}

/// A free track, and from when on.
fn take(lanes: &mut Vec<u64>, from_ns: u64, end_ns: u64) -> (usize, u64) {
    let free = lanes.iter().position(|free_ns| *free_ns <= from_ns);
    let lane = free.unwrap_or_else(|| {
        if lanes.len() < MOST_TRACKS {
            lanes.push(0);
            return lanes.len() - 1;
        }
        let soonest = lanes.iter().enumerate().min_by_key(|(_, free_ns)| **free_ns);
        soonest.map_or(0, |(lane, _)| lane)
    });
    let begin_ns = from_ns.max(lanes[lane]).min(end_ns);
    lanes[lane] = lanes[lane].max(end_ns);
    (lane, begin_ns)
}

fn begun(event: &Event, work: Work, cause: Cause, fence: FencePoint) -> Slice {
    let kernel = match event.what {
        What::Launched { device, kernel, .. } => Some((device, kernel)),
        _ => None,
    };
    Slice {
        work,
        node: NodeId::of_device(fence.timeline.device()),
        thread: event.thread,
        queued_ns: event.at_ns,
        begin_ns: event.at_ns,
        end_ns: event.at_ns,
        cause,
        lane: 0,
        fence,
        state: None,
        kernel,
        bytes: 0,
        regions: 0,
        vectors: Vec::new(),
        reads_bytes: 0,
        writes_bytes: 0,
    }
}

/// What a device does for an event.
fn kind(what: &What) -> Option<(Work, Cause, FencePoint)> {
    match *what {
        What::Launched { fence, .. } => Some((Work::Kernel, Cause::Launch, fence)),
        What::Copied { from, to, cause, fence, .. } => {
            let work = match (from.is_host(), to.is_host()) {
                (_, true) => Work::ToHost,
                (true, false) => Work::ToDevice,
                (false, false) => Work::Between,
            };
            Some((work, cause, fence))
        }
        What::Zeroed { cause: Some(cause), fence: Some(fence), .. } => {
            Some((Work::Zero, cause, fence))
        }
        _ => None,
    }
}

/// When work was seen to be over: by timeline, values in increasing order.
struct Ends(BTreeMap<TimelineId, Vec<(u64, u64, FenceState)>>);

impl Ends {
    fn of(events: &[Event]) -> Self {
        let mut ends: BTreeMap<TimelineId, Vec<(u64, u64, FenceState)>> = BTreeMap::new();
        for event in events {
            if let What::Ended { fence, state } = event.what {
                ends.entry(fence.timeline).or_default().push((fence.value, event.at_ns, state));
            }
        }
        ends.values_mut().for_each(|ends| ends.sort_by_key(|(value, at_ns, _)| (*value, *at_ns)));
        Self(ends)
    }

    /// Values end in order: the first one that is as large tells of all below it.
    fn of_fence(&self, fence: FencePoint) -> Option<(u64, FenceState)> {
        let ends = self.0.get(&fence.timeline)?;
        let at = ends.partition_point(|(value, ..)| *value < fence.value);
        let (value, at_ns, state) = *ends.get(at)?;
        // A failure is that of its own value alone.
        Some((at_ns, if value == fence.value { state } else { FenceState::Ok }))
    }
}
