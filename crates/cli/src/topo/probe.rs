//! Copies between the devices of this machine, measured beside what was predicted of them.
//!
//! **Where a prediction comes from.** For two functions of a PCI tree, from their links ([`hmmap::core::p2p::Worth`]). For devices that are software, memory is host
//! memory and no link is there: what is predicted is a copy by one thread of the processor, measured here just before, and half of that for two copies. One card that
//! is opened twice says nothing of its own memory's rate, so nothing is predicted. A machine with one device only has no pair: that device is opened twice.
//!
//! What differs from its prediction by more than [`TOLERANCE`] is marked.

use std::{hint::black_box, time::Instant};

use hmmap::{
    DeviceId, MemoryModel, Options, SharedVec,
    core::{
        DeviceCopies, MeasuredRates, Runtime,
        backend::{DeviceFacts, Provider},
        p2p::{Drivers, P2p, PciAddress},
    },
    kernels::Fill,
    vulkan::{Backing, Options as VulkanOptions, VulkanProvider, discover},
};
use serde::Serialize;
use std::sync::Arc;

use crate::table;

/// How far a measurement may be from its prediction.
const TOLERANCE: f64 = 0.3;

/// Bytes of each copy: more than caches hold.
const COPY_BYTES: usize = 64 << 20;

/// Copies of each kind, after one that is not counted. The median counts.
const COPIES: usize = 7;

/// What was found of each ordered pair.
#[derive(Debug, Serialize)]
pub(super) struct Probe {
    copy_bytes: usize,
    copies: usize,
    /// What one thread of the processor copies, for devices whose memory is host memory.
    processor_copy_bytes_per_s: u64,
    pairs: Vec<Probed>,
    /// Why nothing was measured, or not everything.
    not_measured: Vec<String>,
}

/// One pair.
#[derive(Debug, Serialize)]
struct Probed {
    from: String,
    to: String,
    basis: &'static str,
    /// `None` where pages may not go directly, with the reason in `route`.
    direct: Option<Rate>,
    staged: Rate,
    /// What the library does by its prediction, and by this measurement.
    route: String,
    route_by_measure: String,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Rate {
    predicted_bytes_per_s: Option<u64>,
    measured_bytes_per_s: u64,
    /// `None` without a prediction.
    is_within_tolerance: Option<bool>,
}

impl Rate {
    fn new(predicted_bytes_per_s: Option<u64>, measured_bytes_per_s: u64) -> Self {
        let is_within_tolerance = predicted_bytes_per_s.map(|predicted| {
            let off = measured_bytes_per_s.abs_diff(predicted) as f64;
            off <= TOLERANCE * predicted as f64
        });
        Self { predicted_bytes_per_s, measured_bytes_per_s, is_within_tolerance }
    }

    fn cells(rate: Option<Self>) -> [String; 2] {
        let Some(rate) = rate else { return ["-".to_owned(), "-".to_owned()] };
        let gb = |rate: u64| format!("{:.1}", rate as f64 / 1e9);
        let mark = if rate.is_within_tolerance == Some(false) { " !" } else { "" };
        let predicted = rate.predicted_bytes_per_s.map_or_else(|| "-".to_owned(), gb);
        [predicted, format!("{}{mark}", gb(rate.measured_bytes_per_s))]
    }
}

impl Probe {
    /// Measures every ordered pair of the Vulkan devices.
    pub(super) fn measure() -> anyhow::Result<Self> {
        let processor_copy_bytes_per_s = processor_copy();
        let mut probe = Self {
            copy_bytes: COPY_BYTES,
            copies: COPIES,
            processor_copy_bytes_per_s,
            pairs: Vec::new(),
            not_measured: Vec::new(),
        };
        // Memory that is given out is committed.
        let vulkan = VulkanOptions { backing: Backing::Committed, ..VulkanOptions::default() };
        let found = match discover(&vulkan) {
            Ok(found) => found.providers,
            Err(error) => {
                probe.not_measured.push(format!("no Vulkan: {error}"));
                return Ok(probe);
            }
        };
        let pairs: Vec<_> = match &found[..] {
            [] => {
                probe.not_measured.push("no Vulkan device".to_owned());
                Vec::new()
            }
            [one] => vec![[one.clone(), one.clone()]],
            many => many
                .iter()
                .flat_map(|from| many.iter().map(move |to| [from.clone(), to.clone()]))
                .filter(|[from, to]| !Arc::ptr_eq(from, to))
                .collect(),
        };
        let p2p = P2p::live();
        for pair in pairs {
            let names = pair.each_ref().map(|provider| provider.summary().name.clone());
            match Probed::measure(&pair, &p2p, processor_copy_bytes_per_s) {
                Ok(probed) => probe.pairs.push(probed),
                Err(error) => {
                    probe.not_measured.push(format!("{} to {}: {error:#}", names[0], names[1]));
                }
            }
        }
        Ok(probe)
    }

    pub(super) fn text(&self) -> String {
        let mut table = table::plain([
            "from",
            "to",
            "direct: predicted",
            "measured",
            "through host: predicted",
            "measured",
            "by",
        ]);
        for pair in &self.pairs {
            let [direct, measured] = Rate::cells(pair.direct);
            let [staged, staged_measured] = Rate::cells(Some(pair.staged));
            let (from, to, basis) = (pair.from.clone(), pair.to.clone(), pair.basis.to_owned());
            table.add_row([from, to, direct, measured, staged, staged_measured, basis]);
        }
        let mut text = format!(
            "\n{table}\n\nGB/s, the median of {} copies of {} MiB. !: further than {:.0} % from its prediction. -: none, or no such way.\n\
             One thread of the processor copies {:.1} GB/s; that stands in for a link where memory is host memory.\n",
            self.copies,
            self.copy_bytes >> 20,
            TOLERANCE * 100.0,
            self.processor_copy_bytes_per_s as f64 / 1e9
        );
        for Probed { from, to, route, route_by_measure, .. } in &self.pairs {
            text.push_str(&format!("{from} to {to}: the library goes {route}; by what was measured, {route_by_measure}\n"));
        }
        for line in &self.not_measured {
            text.push_str(&format!("not measured: {line}\n"));
        }
        text
    }
}

impl Probed {
    fn measure(
        pair: &[Arc<VulkanProvider>; 2],
        p2p: &P2p,
        processor_copy_bytes_per_s: u64,
    ) -> anyhow::Result<Self> {
        let staged = Pair::new(pair, DeviceCopies::ThroughHost)?;
        let staged_bytes_per_s = staged.rate()?;
        drop(staged);
        let direct = Pair::new(pair, DeviceCopies::Auto)?;
        let [from, to] = direct.devices;
        let route = direct.mem.route(from, to)?;
        let direct_bytes_per_s = route.is_direct().then(|| direct.rate()).transpose()?;
        let facts = [direct.mem.facts(from)?, direct.mem.facts(to)?];
        let predicted = Predicted::of(facts, p2p, processor_copy_bytes_per_s);
        let by_measure = match direct_bytes_per_s {
            Some(direct_bytes_per_s) => {
                let rates = MeasuredRates { direct_bytes_per_s, staged_bytes_per_s };
                direct.mem.measured_route(from, to, rates)?
            }
            None => route.clone(),
        };
        let name = |at: usize| format!("{} {}", direct.devices[at], facts[at].summary.name);
        Ok(Self {
            from: name(0),
            to: name(1),
            basis: predicted.basis,
            direct: direct_bytes_per_s.map(|measured| Rate::new(predicted.direct, measured)),
            staged: Rate::new(predicted.staged, staged_bytes_per_s),
            route: route.to_string(),
            route_by_measure: by_measure.to_string(),
        })
    }
}

/// What is expected of a pair before anything was copied between the two.
struct Predicted {
    direct: Option<u64>,
    staged: Option<u64>,
    basis: &'static str,
}

impl Predicted {
    fn of(facts: [&DeviceFacts; 2], p2p: &P2p, processor_copy_bytes_per_s: u64) -> Self {
        if facts.iter().all(|facts| facts.shares_host_memory) {
            let direct = Some(processor_copy_bytes_per_s);
            let staged = Some(processor_copy_bytes_per_s / 2);
            return Self { direct, staged, basis: "a copy by the processor" };
        }
        let pci = facts.map(|facts| {
            let at = facts.summary.pci?;
            PciAddress::new(at.domain, at.bus, at.device, at.function)
        });
        let none = |basis| Self { direct: None, staged: None, basis };
        match pci {
            [Some(from), Some(to)] if from == to => none("nothing: it is one card"),
            [Some(from), Some(to)] => match p2p.query(from, to, &Drivers::NotAsked).worth {
                Some(worth) => Self {
                    direct: worth.direct_bytes_per_s,
                    staged: worth.staged_bytes_per_s,
                    basis: "the links",
                },
                None => none("nothing: not in the tree"),
            },
            _ => none("nothing: not both on PCI"),
        }
    }
}

/// Two devices with a vector to pass.
struct Pair {
    mem: Runtime,
    devices: [DeviceId; 2],
}

impl Pair {
    fn new(pair: &[Arc<VulkanProvider>; 2], device_copies: DeviceCopies) -> anyhow::Result<Self> {
        let memory_model = MemoryModel::Migrate;
        let options = Options { memory_model, device_copies, ..Options::default() };
        let providers = pair.iter().map(|provider| provider.clone() as Arc<dyn Provider>);
        let mem = Runtime::new(providers.collect(), options)?;
        let mut devices = mem.devices().map(|(device, _)| device);
        let both = devices.next().zip(devices.next());
        drop(devices);
        let (from, to) = both.ok_or_else(|| anyhow::anyhow!("two devices became fewer"))?;
        Ok(Self { mem, devices: [from, to] })
    }

    /// Bytes per second of pages that the first device wrote on their way to the second.
    fn rate(&self) -> anyhow::Result<u64> {
        let n = COPY_BYTES / size_of::<f32>();
        let mut vec = SharedVec::<f32>::new(&self.mem, n)?;
        let mut seconds = Vec::with_capacity(COPIES);
        for copy in 0..=COPIES {
            let fill = Fill { out: vec.write(), value: copy as f32 };
            self.mem.launch_on(self.devices[0], n, fill)?.wait()?;
            let started = Instant::now();
            vec.prefetch(.., self.devices[1])?.wait()?;
            if copy > 0 {
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
        Ok(rate(&mut seconds))
    }
}

/// What one thread of the processor copies, in bytes/s.
fn processor_copy() -> u64 {
    let from = vec![1u8; COPY_BYTES];
    let mut to = vec![0u8; COPY_BYTES];
    let mut seconds = Vec::with_capacity(COPIES);
    for copy in 0..=COPIES {
        let started = Instant::now();
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
        if copy > 0 {
            seconds.push(started.elapsed().as_secs_f64());
        }
    }
    rate(&mut seconds)
}

fn rate(seconds: &mut [f64]) -> u64 {
    seconds.sort_by(f64::total_cmp);
    (COPY_BYTES as f64 / seconds[seconds.len() / 2].max(1e-9)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q6_what_is_far_from_its_prediction_is_marked() {
        let mark = |predicted, measured| Rate::new(predicted, measured).is_within_tolerance;
        assert_eq!(mark(Some(1000), 1300), Some(true));
        assert_eq!(mark(Some(1000), 1301), Some(false));
        assert_eq!(mark(Some(1000), 699), Some(false));
        assert_eq!(mark(None, 5), None);
        assert_eq!(Rate::cells(Some(Rate::new(Some(1000), 5_000_000_000)))[1], "5.0 !");
        assert_eq!(Rate::cells(None), ["-", "-"]);
    }
}
