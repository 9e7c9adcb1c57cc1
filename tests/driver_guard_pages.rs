//! Every shipped kernel between guard pages, with bad index vectors and sizes beyond its arrays: none reaches over an end of an array.
//!
//! A kernel that did would end the process, so each round is a process of its own. The controls show that it would: told that an array
//! is longer, or begins earlier, than it does, the same kernels die of SIGSEGV.
#![cfg(feature = "vulkan")]
#![allow(unsafe_code, reason = "places arrays between guard pages")]

#[path = "guards/guarded.rs"]
mod guarded;
#[path = "kernels/rounds.rs"]
mod rounds;

use std::{
    env,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Output, Stdio},
    sync::Arc,
};

use guarded::{GuardedProvider, Lie, Side};
use hmmap::{
    DeviceId, Error, Grid, Hmmap, MemoryModel, SharedVec,
    core::backend::{DeviceError, Provider},
    kernels::{
        Blur3, Fill, Gather, Histogram, Matmul, RadixScatter, ScatterAdd, SpmvCsr, Stencil5,
    },
};
use hmmap_vulkan::{Options, discover};
use rounds::{CASES, Indices, Round};

/// What a child process is asked to do.
const ROLE: &str = "HMMAP_TEST_GUARDED";
const SIGSEGV: i32 = 11;
const ROUNDS: u64 = 12;

#[test]
fn kernels_stay_between_the_guard_before_and_their_arrays() {
    rounds_between_guards("kernels_stay_between_the_guard_before_and_their_arrays", Side::Before);
}

#[test]
fn kernels_stay_between_their_arrays_and_the_guard_behind() {
    rounds_between_guards("kernels_stay_between_their_arrays_and_the_guard_behind", Side::Behind);
}

#[test]
fn a_kernel_that_trusts_a_wrong_length_dies() {
    const NAME: &str = "a_kernel_that_trusts_a_wrong_length_dies";
    if let Ok(role) = env::var(ROLE) {
        let (number, lies) = role.split_once(' ').unwrap();
        let control = &CONTROLS[number.parse::<usize>().unwrap()];
        let lie = (lies == "lie").then_some(control.lie);
        let side = if control.lie.earlier_bytes > 0 { Side::Before } else { Side::Behind };
        if let Some((mem, device)) = guarded(side, lie) {
            (control.launch)(&mem, device).unwrap();
        }
        return;
    }
    for (number, control) in CONTROLS.iter().enumerate() {
        let honest = child(NAME, &format!("{number} truth"));
        if !has_survived(&honest) {
            return;
        }
        let lied_to = child(NAME, &format!("{number} lie"));
        let (what, signal) = (control.name, lied_to.status.signal());
        assert_eq!(signal, Some(SIGSEGV), "{what} met no guard: {lied_to:?}");
    }
}

/// A launch that is sound, and what makes it reach over an end.
struct Control {
    name: &'static str,
    lie: Lie,
    launch: fn(&Hmmap, DeviceId) -> Result<(), Error>,
}

/// One element more than there is.
const fn one_more(array: usize) -> Lie {
    Lie { array, longer: 1, earlier_bytes: 0 }
}

/// So long that any index of 32 bits is in it.
const fn endless(array: usize) -> Lie {
    Lie { array, longer: 1 << 32, earlier_bytes: 0 }
}

const CONTROLS: [Control; 10] = [
    Control { name: "a write one behind", lie: one_more(0), launch: fill },
    Control {
        name: "a write one before",
        lie: Lie { array: 0, longer: 0, earlier_bytes: 4 },
        launch: fill,
    },
    Control {
        name: "gather",
        lie: endless(0),
        launch: |mem, device| {
            let (src, index) = (zeros(mem)?, hostile(mem)?);
            let mut out = zeros(mem)?;
            let (src, index, out) = (src.read(), index.read(), out.write());
            mem.launch_on(device, LEN, Gather { src, index, out }).map(drop)
        },
    },
    Control {
        name: "scatter-add",
        lie: endless(2),
        launch: |mem, device| {
            let (index, value, mut dst) = (hostile(mem)?, zeros(mem)?, zeros(mem)?);
            let (index, value, dst) = (index.read(), value.read(), dst.update());
            mem.launch_on(device, LEN, ScatterAdd { index, value, dst }).map(drop)
        },
    },
    Control {
        name: "histogram",
        lie: endless(1),
        launch: |mem, device| {
            let (data, mut bins) = (hostile(mem)?, zeros(mem)?);
            let (data, bins) = (data.read(), bins.update());
            mem.launch_on(device, LEN, Histogram { data, bins }).map(drop)
        },
    },
    Control {
        name: "radix scatter",
        lie: endless(2),
        launch: |mem, device| {
            let (keys, ends, mut out) = (hostile(mem)?, hostile(mem)?, zeros(mem)?);
            let (keys, ends, out) = (keys.read(), ends.read(), out.update());
            mem.launch_on(device, LEN, RadixScatter { keys, ends, out, shift: 0 }).map(drop)
        },
    },
    Control {
        name: "sparse matrix times vector",
        lie: endless(3),
        launch: |mem, device| {
            let rows = SharedVec::from_fn(mem, LEN, |i| i as u32)?;
            let columns = hostile(mem)?;
            let (values, x) = (floats(mem)?, floats(mem)?);
            let mut y = floats(mem)?;
            let (row_ptr, col_idx, values) = (rows.read(), columns.read(), values.read());
            let kernel = SpmvCsr { row_ptr, col_idx, values, x: x.read(), y: y.write() };
            mem.launch_on(device, LEN, kernel).map(drop)
        },
    },
    Control {
        name: "stencil",
        lie: one_more(0),
        launch: |mem, device| {
            let (src, mut dst) = (floats(mem)?, floats(mem)?);
            let (src, dst) = (src.read(), dst.write());
            let kernel = Stencil5 { src, dst, centre: 1.0, side: 1.0 };
            mem.launch_on(device, (50, 50), kernel).map(drop)
        },
    },
    Control {
        name: "blur",
        lie: one_more(1),
        launch: |mem, device| {
            let (src, mut dst) = (floats(mem)?, floats(mem)?);
            mem.launch_on(device, (50, 50), Blur3 { src: src.read(), dst: dst.write() }).map(drop)
        },
    },
    Control {
        name: "matrix product",
        lie: one_more(1),
        launch: |mem, device| {
            let (a, b, mut c) = (floats(mem)?, floats(mem)?, floats(mem)?);
            let kernel = Matmul { a: a.read(), b: b.read(), c: c.write(), k: 60 };
            mem.launch_on(device, (50, 50), kernel).map(drop)
        },
    },
];

/// An odd length, in elements.
const LEN: usize = 1001;

fn fill(mem: &Hmmap, device: DeviceId) -> Result<(), Error> {
    let mut out = zeros(mem)?;
    mem.launch_on(device, Grid::Linear(u64::MAX), Fill { out: out.write(), value: 1u32 }).map(drop)
}

fn zeros(mem: &Hmmap) -> Result<SharedVec<u32>, Error> {
    SharedVec::from_fn(mem, LEN, |_| 0)
}

fn floats(mem: &Hmmap) -> Result<SharedVec<f32>, Error> {
    SharedVec::from_fn(mem, LEN, |_| 1.0)
}

/// The largest index there is, beside good ones.
fn hostile(mem: &Hmmap) -> Result<SharedVec<u32>, Error> {
    SharedVec::from_fn(mem, LEN, |i| if i % 3 == 0 { u32::MAX } else { i as u32 })
}

fn rounds_between_guards(name: &str, side: Side) {
    if env::var_os(ROLE).is_none() {
        has_survived(&child(name, "rounds"));
        return;
    }
    let Some((mem, device)) = guarded(side, None) else { return };
    let embedded = mem.devices().map(|(id, _)| id).last().unwrap();
    for (kernel, run) in CASES {
        for (seed, indices) in (0..ROUNDS).flat_map(|seed| Indices::ALL.map(|kind| (seed, kind))) {
            let on = |device| -> Result<_, Error> {
                run(&mut Round::new(&mem, device, seed).indices(indices))
            };
            let (there, twin) = (on(device).unwrap(), on(embedded).unwrap());
            let wrong = (0..twin.len()).find(|i| there[*i] != twin[*i]);
            let differ = wrong.map(|i| (i, there[i], twin[i]));
            assert_eq!(differ, None, "{kernel}, round {seed}, {indices:?}");
        }
    }
    println!("{} kernels, {ROUNDS} rounds of each kind", CASES.len());
}

/// The same test again, as a process that may die.
fn child(test: &str, role: &str) -> Output {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(ROLE, role)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// True when the child did what it was asked, false when it could not and said so.
fn has_survived(child: &Output) -> bool {
    let said = String::from_utf8_lossy(&child.stdout);
    // Not the lines of the child's own harness, which would look like this one's.
    said.lines().filter(|line| line.starts_with("HMMAP-")).for_each(|line| println!("{line}"));
    assert!(child.status.success(), "{}: {}", child.status, String::from_utf8_lossy(&child.stderr));
    assert!(said.contains("1 passed"), "the child ran no test");
    !said.contains("HMMAP-SKIP")
}

/// A runtime whose first device is the guarded one; `None` when there is no driver to guard.
fn guarded(side: Side, lie: Option<Lie>) -> Option<(Hmmap, DeviceId)> {
    let skip = |reason: String| println!("HMMAP-SKIP: {reason}");
    if env::var_os("VK_DRIVER_FILES").is_none() && env::var_os("VK_ICD_FILENAMES").is_none() {
        skip("no Vulkan driver is named by VK_DRIVER_FILES".to_owned());
        return None;
    }
    // Unwatched: what the layer says of the same launches is looked at elsewhere, and it touches nothing that is guarded here.
    let discovery = discover(&Options::default()).unwrap();
    let vulkan = Arc::clone(discovery.providers.first()?);
    let provider: Arc<dyn Provider> = Arc::new(GuardedProvider::new(vulkan, side, lie));
    let options =
        hmmap::Options { memory_model: MemoryModel::Unified, ..hmmap::Options::default() };
    let mem = Hmmap::builder().options(options).device(provider).build().unwrap();
    let device = mem.default_device().unwrap();
    match mem.facts(device) {
        Ok(_) => Some((mem, device)),
        Err(Error::Device { source: DeviceError::Unsupported { what }, .. }) => {
            skip(format!("nothing to guard on this driver: no {what}"));
            None
        }
        Err(error) => panic!("{error}"),
    }
}
