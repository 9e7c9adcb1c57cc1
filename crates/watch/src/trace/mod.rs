//! A log as a trace that Perfetto opens: Chrome's JSON.
//!
//! ```text
//! process PID, the program       a track for each thread: who asked, and when
//!       | flow
//! process "device 0: its name"   tracks of what it was given: kernels, copies to it, copies home, zeros; and of evictions
//! counters                       bytes held by each node; bytes moved so far, by cause and way
//! ```
//!
//! A slice of a device begins when the work was queued, or when its track was free again (`queued_us` says when it was queued), and ends when the reader of the
//! recording saw its fence pass: the device's own times are not known to the library. A slice is all that one submission copied
//! for one cause in one way; `bytes` of all slices add up to the counters of the runtime.

mod slices;
mod writer;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use hmmap_core::{
    Cause, NodeId,
    events::{Gave, What},
    stats::Moved,
    units::PAGE_BYTES,
};
use serde_json::{Value, json};

pub(crate) use self::slices::{Slice, Work, slices};
use self::writer::{Entry, Writer};
use crate::{Log, Replay, WatchError};

/// Devices stand in the trace as processes whose numbers no process of Linux has.
const FIRST_DEVICE: u32 = 1 << 22;
/// The counters of what nodes hold have so many steps at most.
const STEPS: u64 = 1000;
/// A mark on a thread's track, in nanoseconds; shorter where the next one comes sooner.
const MARK_NS: u64 = 1000;

impl Log {
    /// Writes the log as a trace into a file: <https://ui.perfetto.dev> opens it.
    ///
    /// # Errors
    /// [`WatchError::NotWritten`].
    pub fn save_trace(&self, path: &Path) -> Result<(), WatchError> {
        let not_written = |source| WatchError::NotWritten { path: path.to_owned(), source };
        let file = File::create(path).map_err(not_written)?;
        self.write_trace(&mut BufWriter::new(file)).map_err(not_written)
    }

    /// Writes the log as a trace.
    ///
    /// # Errors
    /// What the writer answers.
    pub fn write_trace(&self, to: &mut impl Write) -> std::io::Result<()> {
        let facts = json!({
            "program": "hmmap",
            "dropped_events": self.dropped_events,
            "clock": "nanoseconds since the runtime was made, CLOCK_MONOTONIC",
            "ends": "seen by the reader of the recording",
        });
        let mut writer = Writer::new(to, &facts)?;
        let slices = slices(self);
        self.write_names(&mut writer, &slices)?;
        self.write_slices(&mut writer, &slices)?;
        self.write_marks(&mut writer)?;
        self.write_moved(&mut writer)?;
        self.write_held(&mut writer)?;
        writer.finish()
    }

    fn write_names<W: Write>(
        &self,
        to: &mut Writer<'_, W>,
        slices: &[Slice],
    ) -> std::io::Result<()> {
        let program = std::process::id();
        to.name_process(program, "the program")?;
        let mut threads = BTreeMap::new();
        for event in &self.events {
            let faults = matches!(event.what, What::Copied { cause: Cause::Fault, .. });
            *threads.entry(event.thread).or_insert(false) |= faults;
        }
        for (thread, faults) in threads {
            let what = if faults { "answers page faults" } else { "thread" };
            to.name_thread(program, thread, &format!("{what} {thread}"))?;
        }
        for (node, name) in self.nodes.iter().filter(|(node, _)| !node.is_host()) {
            to.name_process(process_of(*node), &format!("{node}: {name}"))?;
            to.name_thread(process_of(*node), EVICTIONS, "evictions")?;
        }
        let mut tracks: Vec<_> = slices.iter().map(|slice| (slice.node, slice.track())).collect();
        tracks.sort_unstable();
        tracks.dedup();
        for (node, track) in tracks {
            to.name_thread(process_of(node), track, Work::of_track(track).title())?;
        }
        Ok(())
    }

    /// Each slice, the mark of whoever asked for it, and the flow between the two.
    fn write_slices<W: Write>(
        &self,
        to: &mut Writer<'_, W>,
        slices: &[Slice],
    ) -> std::io::Result<()> {
        let program = std::process::id();
        let mut free: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for slice in slices {
            free.entry(slice.thread).or_default().push(slice.queued_ns);
        }
        free.values_mut().for_each(|times| times.sort_unstable());
        for (number, slice) in slices.iter().enumerate() {
            let name = slice.name(self);
            let times = &free[&slice.thread];
            let next = times.get(times.partition_point(|at| *at <= slice.queued_ns));
            let mark_ns = next.map_or(MARK_NS, |next| MARK_NS.min(next - slice.queued_ns));
            let asked = Entry::slice(program, slice.thread, &name, slice.queued_ns, mark_ns);
            to.write(&asked.of("asked"))?;
            to.write(&Entry::flow('s', number, program, slice.thread, slice.queued_ns))?;
            let (process, track) = (process_of(slice.node), slice.track());
            let long_ns = slice.end_ns - slice.begin_ns;
            let mut done = Entry::slice(process, track, &name, slice.begin_ns, long_ns);
            done.args = Some(slice.args(self));
            to.write(&done.of(slice.work.category()))?;
            to.write(&Entry::flow('f', number, process, track, slice.begin_ns))?;
        }
        Ok(())
    }

    /// What has no length.
    fn write_marks<W: Write>(&self, to: &mut Writer<'_, W>) -> std::io::Result<()> {
        let program = std::process::id();
        for event in &self.events {
            let (node, name, args): (Option<NodeId>, &str, Value) = match event.what {
                What::Evicted { vector, pages, from, gave } => {
                    let name = match gave {
                        Gave::Nothing => "leaves with nothing",
                        Gave::Clean => "leaves clean",
                    };
                    let bytes = pages.count() * PAGE_BYTES;
                    let vector = self.name(vector);
                    let pages = format!("{}..{}", pages.first, pages.end);
                    (
                        Some(from),
                        name,
                        json!({"vector": vector, "pages": pages, "freed_bytes": bytes}),
                    )
                }
                What::Ignored { device, answers } => {
                    (Some(NodeId::of_device(device)), "policy ignored", json!({"answers": answers}))
                }
                What::Windowed { device, vectors } => {
                    let args = json!({"device": device.index(), "vectors": vectors});
                    (None, "through the window for want of room", args)
                }
                What::KeptHome { vector, device } => {
                    let vector = self.name(vector);
                    let args = json!({"device": device.index(), "vector": vector});
                    (None, "used at home for going back and forth", args)
                }
                What::LeftHome { vector, device } => {
                    let vector = self.name(vector);
                    let args = json!({"device": device.index(), "vector": vector});
                    (None, "used at home for being read little", args)
                }
                What::Mapped { vector, pages } => {
                    let pages = format!("{}..{}", pages.first, pages.end);
                    (None, "mapped by a peer", json!({"vector": self.name(vector), "pages": pages}))
                }
                What::TakenBack { vector, pages, cause, late, .. } => {
                    let pages = format!("{}..{}", pages.first, pages.end);
                    let vector = self.name(vector);
                    let cause = cause.to_string();
                    let args =
                        json!({"vector": vector, "pages": pages, "cause": cause, "late": late});
                    (None, "taken back from a peer", args)
                }
                _ => continue,
            };
            let (process, thread) =
                node.map_or((program, event.thread), |node| (process_of(node), EVICTIONS));
            to.write(&Entry::mark(process, thread, name, event.at_ns, args))?;
        }
        Ok(())
    }

    /// Counters of what has moved so far.
    fn write_moved<W: Write>(&self, to: &mut Writer<'_, W>) -> std::io::Result<()> {
        let program = std::process::id();
        let mut sums = BTreeMap::<Cause, Moved>::new();
        for event in &self.events {
            let bytes = event.what.bytes();
            let cause = match event.what {
                What::Copied { cause, from, to: on, .. } => {
                    let sum = sums.entry(cause).or_default();
                    match (from.is_host(), on.is_host()) {
                        (_, true) => sum.to_host_bytes += bytes,
                        (true, false) => sum.to_device_bytes += bytes,
                        (false, false) => sum.between_bytes += bytes,
                    }
                    cause
                }
                What::Zeroed { cause: Some(cause), .. } => {
                    sums.entry(cause).or_default().zeroed_bytes += bytes;
                    cause
                }
                _ => continue,
            };
            let sum = sums[&cause];
            let args = json!({
                "to devices": sum.to_device_bytes,
                "to the host": sum.to_host_bytes,
                "between devices": sum.between_bytes,
                "zeroed": sum.zeroed_bytes,
            });
            let name = format!("bytes moved: {cause}");
            to.write(&Entry::counter(program, &name, event.at_ns, args))?;
        }
        Ok(())
    }

    /// Counters of what each node holds.
    fn write_held<W: Write>(&self, to: &mut Writer<'_, W>) -> std::io::Result<()> {
        let program = std::process::id();
        let (first, last) = self.span_ns();
        let step = ((last - first) / STEPS).max(1);
        let (mut replay, mut next) = (Replay::default(), first);
        let mut told: Vec<Option<u64>> = vec![None; self.nodes.len()];
        for (number, event) in self.events.iter().enumerate() {
            replay.apply(event);
            let is_last = number + 1 == self.events.len();
            if event.at_ns < next && !is_last {
                continue;
            }
            next = event.at_ns + step;
            for ((node, name), told) in self.nodes.iter().zip(&mut told) {
                let bytes = replay.held_pages(*node) * PAGE_BYTES;
                if told.replace(bytes) != Some(bytes) {
                    let name = format!("bytes held: {node}: {name}");
                    to.write(&Entry::counter(
                        program,
                        &name,
                        event.at_ns,
                        json!({"bytes": bytes}),
                    ))?;
                }
            }
        }
        Ok(())
    }
}

/// A device's track for what leaves it.
const EVICTIONS: u32 = 1;

fn process_of(node: NodeId) -> u32 {
    node.device().map_or_else(std::process::id, |device| FIRST_DEVICE + device.index() as u32)
}
