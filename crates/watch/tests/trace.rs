//! The trace that is written is one that can be opened, and adds up: to the counters, and within itself.
#![allow(unsafe_code, reason = "defines a kernel")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hmmap_core::{
    Cause, Kernel, NodeId, Options, Read, Runtime, SharedVec, Source, Stats, Update,
    backend::Provider,
    embedded::{Backing, EmbeddedMemory, EmbeddedOptions, EmbeddedProvider},
    kernel::{Arguments, Twin},
    units::BLOCK_BYTES,
};
use hmmap_watch::{HeatMap, Log, Watch, WatchError, WatchOptions};
use serde_json::Value;

/// `y += x`.
struct Add<'a> {
    x: Read<'a, u32>,
    y: Update<'a, u32>,
}

static ADD: Source = Source {
    name: "add",
    spirv: &[],
    ptx: "",
    workgroup: [64, 1, 1],
    twin: Some(|twin: &Twin<'_>| {
        let (x, y) = (twin.read::<u32>(0), twin.write::<u32>(1));
        y.iter_mut().zip(x).take(twin.n()).for_each(|(y, x)| *y = y.wrapping_add(*x));
    }),
};

// SAFETY: the twin, the only code, goes through safe slices and writes the Update argument alone.
unsafe impl Kernel for Add<'_> {
    fn source() -> &'static Source {
        &ADD
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.x).update(&self.y).grid();
    }
}

const BLOCK: usize = BLOCK_BYTES as usize / 4;
const BLOCKS: usize = 6;

/// A program on a device with a third of the memory that it needs; what it did, and what was counted.
fn watched() -> (Runtime, Log, Stats) {
    let (memory, backing) = (EmbeddedMemory::Own, Backing::Blocks);
    let options = EmbeddedOptions { memory, backing, ..EmbeddedOptions::default() };
    let provider: Arc<dyn Provider> = Arc::new(EmbeddedProvider::new(options));
    let device_memory_limit_bytes = Some(4 * BLOCK_BYTES);
    let options = Options { device_memory_limit_bytes, ..Options::default() };
    let mem = Runtime::new(vec![provider], options).unwrap();
    let x = SharedVec::<u32>::from_fn(&mem, BLOCKS * BLOCK, |i| i as u32).unwrap();
    x.set_name("x");
    let before = mem.stats();
    let watch = Watch::start(&mem, WatchOptions::default()).unwrap();
    assert!(matches!(Watch::start(&mem, WatchOptions::default()), Err(WatchError::Recorded)));
    let mut y = SharedVec::<u32>::new(&mem, BLOCKS * BLOCK).unwrap();
    y.set_name("y \"quoted\"");
    for round in 0..3 {
        for block in 0..BLOCKS {
            let range = block * BLOCK..(block + 1) * BLOCK;
            let (x, y) = (x.read().range(range.clone()), y.update().range(range));
            mem.launch(BLOCK, Add { x, y }).unwrap();
        }
        assert_eq!(y[round * BLOCK + 5], (round * BLOCK + 5) as u32 * (round as u32 + 1));
    }
    y.prefetch(..BLOCK, NodeId::HOST).unwrap().wait().unwrap();
    y.discard(BLOCK..2 * BLOCK).unwrap();
    // All of it is over.
    y.host(..).unwrap();
    let stats = mem.stats() - before;
    let log = watch.finish();
    assert_eq!(log.dropped_events, 0);
    (mem, log, stats)
}

fn entries(log: &Log) -> Vec<Value> {
    let mut json = Vec::new();
    log.write_trace(&mut json).unwrap();
    let mut trace: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(trace["otherData"]["dropped_events"], 0);
    match trace["traceEvents"].take() {
        Value::Array(entries) => entries,
        other => panic!("{other}"),
    }
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn track(entry: &Value) -> (u64, u64) {
    (entry["pid"].as_u64().unwrap(), entry["tid"].as_u64().unwrap())
}

fn of<'e>(entries: &'e [Value], ph: &'static str) -> impl Iterator<Item = &'e Value> {
    entries.iter().filter(move |entry| entry["ph"] == ph)
}

#[test]
fn slices_and_counters_add_up_to_what_was_counted() {
    let (_mem, log, stats) = watched();
    let entries = entries(&log);
    assert!(stats.evicted_blocks > 0 && stats[Cause::Eviction].to_host_bytes > 0, "{stats}");
    let mut sums = BTreeMap::<(String, String), u64>::new();
    for slice in of(&entries, "X").filter(|slice| slice["cat"] != "asked") {
        let args = &slice["args"];
        let key = (text(slice, "cat").to_owned(), text(args, "cause").to_owned());
        *sums.entry(key).or_default() += args["bytes"].as_u64().unwrap();
        assert_ne!(args["ended"], "not seen", "the program waited for all: {slice}");
    }
    let last = |name: &str| {
        let counters = of(&entries, "C").filter(|entry| entry["name"] == name);
        counters.last().map(|entry| entry["args"].clone()).unwrap_or_default()
    };
    for cause in Cause::ALL {
        let moved = stats[cause];
        let sum = |kind: &str| {
            sums.get(&(kind.to_owned(), cause.to_string())).copied().unwrap_or_default()
        };
        assert_eq!(sum("to_device"), moved.to_device_bytes, "{cause}");
        assert_eq!(sum("to_host"), moved.to_host_bytes, "{cause}");
        assert_eq!(sum("zero"), moved.zeroed_bytes, "{cause}");
        let counter = last(&format!("bytes moved: {cause}"));
        let total = |key: &str| counter[key].as_u64().unwrap_or_default();
        assert_eq!(total("to devices"), moved.to_device_bytes, "{cause}");
        assert_eq!(total("to the host"), moved.to_host_bytes, "{cause}");
    }
    let is_kernel = |slice: &&Value| slice["cat"] == "kernel";
    let kernels: Vec<_> = of(&entries, "X").filter(is_kernel).collect();
    assert_eq!(kernels.len() as u64, stats.launches);
    assert!(kernels.iter().all(|kernel| kernel["name"] == "add"));
    assert!(kernels.iter().all(|kernel| kernel["args"]["reads_bytes"] == BLOCK_BYTES));
    let left = of(&entries, "i").filter(|mark| text(mark, "name").starts_with("leaves"));
    let freed: u64 = left.map(|mark| mark["args"]["freed_bytes"].as_u64().unwrap()).sum();
    assert_eq!(freed, stats.evicted_blocks * BLOCK_BYTES);
}

#[test]
fn what_nodes_hold_in_the_end_is_what_they_hold() {
    let (mem, log, _) = watched();
    // Its vectors are gone by now, and the last counter says so.
    let entries = entries(&log);
    assert!(mem.vectors().is_empty());
    let held: Vec<_> = of(&entries, "C")
        .filter(|entry| text(entry, "name").starts_with("bytes held"))
        .map(|entry| (text(entry, "name").to_owned(), entry["args"]["bytes"].as_u64().unwrap()))
        .collect();
    let of_device: Vec<u64> = held
        .iter()
        .filter(|(name, _)| name.contains("device 0"))
        .map(|(_, bytes)| *bytes)
        .collect();
    let most = of_device.iter().max().unwrap();
    assert!((BLOCK_BYTES..=4 * BLOCK_BYTES).contains(most), "never more than there is: {held:?}");
    let of_host = held.iter().rev().find(|(name, _)| name.contains("host"));
    assert!(of_host.is_some());
}

#[test]
fn every_flow_goes_from_a_mark_to_a_slice_and_no_track_has_two_at_once() {
    let (_mem, log, _) = watched();
    let entries = entries(&log);
    let mut named = BTreeSet::new();
    for name in of(&entries, "M").filter(|entry| entry["name"] == "thread_name") {
        named.insert(track(name));
    }
    let mut tracks = BTreeMap::<(u64, u64), Vec<(f64, f64)>>::new();
    for slice in of(&entries, "X") {
        assert!(named.contains(&track(slice)), "{slice}");
        let (begin, long) = (number(slice, "ts"), number(slice, "dur"));
        assert!(long >= 0.0);
        tracks.entry(track(slice)).or_default().push((begin, long));
    }
    for (track, slices) in &mut tracks {
        slices.sort_by(|a, b| a.partial_cmp(b).unwrap());
        for pair in slices.windows(2) {
            // Three digits behind the point are written exactly; their sum may be off by the last bit.
            assert!(pair[0].0 + pair[0].1 <= pair[1].0 + 1e-6, "{track:?}: {pair:?}");
        }
    }
    let ends = |ph| -> BTreeMap<u64, ((u64, u64), f64)> {
        let flows = of(&entries, ph);
        flows
            .map(|flow| (flow["id"].as_u64().unwrap(), (track(flow), number(flow, "ts"))))
            .collect()
    };
    let (from, to) = (ends("s"), ends("f"));
    let slices = of(&entries, "X").filter(|slice| slice["cat"] != "asked").count();
    assert_eq!((from.len(), to.len()), (slices, slices));
    assert_eq!(of(&entries, "s").count(), slices, "each id once");
    for (id, (at, ts)) in &to {
        let (begun, asked) = from[id];
        assert!(asked <= *ts, "flow {id}");
        assert!(tracks[at].iter().any(|(begin, _)| begin == ts), "a slice begins there");
        assert!(tracks[&begun].iter().any(|(begin, _)| *begin == asked), "somebody asked there");
    }
}

#[test]
fn a_heat_map_has_every_vector_and_every_kind_of_place() {
    let (_mem, log, _) = watched();
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join("heat.svg");
    log.draw_heat_map(&file, HeatMap::default()).unwrap();
    let svg = std::fs::read_to_string(&file).unwrap();
    for color in ["#E69F00", "#0072B2", "#009E73", "#E4E4E4"] {
        let cells = svg.matches(color).count();
        assert!(cells >= 2, "one in the legend, and some: {color}: {cells}");
    }
    assert!(svg.contains("quoted") && svg.contains("never written"), "{svg}");
    let file = folder.join("timeline.svg");
    log.draw_timeline(&file).unwrap();
    let svg = std::fs::read_to_string(&file).unwrap();
    for words in ["kernels", "copies to it", "copies home", "blocks leave", "moved for eviction"] {
        assert!(svg.contains(words), "no {words} in {svg}");
    }
    // A slice is a rectangle, and so are the background and each word of the legend.
    let slices = of(&entries(&log), "X").filter(|slice| slice["cat"] != "asked").count();
    assert!(svg.matches("<rect").count() > slices, "{slices}");
    let nowhere = folder.join("no such folder").join("heat.svg");
    assert!(log.draw_heat_map(&nowhere, HeatMap::default()).is_err());
    assert!(matches!(log.save_trace(&nowhere), Err(WatchError::NotWritten { .. })));
}

#[test]
fn what_comes_after_the_most_that_is_kept_is_counted() {
    let mem = Runtime::new(Vec::new(), Options::default()).unwrap();
    let options = WatchOptions { max_events: 3, ..WatchOptions::default() };
    let watch = Watch::start(&mem, options).unwrap();
    for _ in 0..5 {
        drop(SharedVec::<u32>::new(&mem, BLOCK).unwrap());
    }
    let log = watch.finish();
    assert_eq!((log.events.len(), log.dropped_events), (3, 7));
}
