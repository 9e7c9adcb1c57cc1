//! Where are the pages? A map of one vector after each step.
//!
//! `cargo run --release --example 04_residency`
//!
//! New here: `residency` asks, and neither moves nor waits for anything; `prefetch` sends a range to a node, and `hint` says what the library cannot see.

use anyhow::{Result, ensure};
use hmmap::{
    Choice, Hint, Hmmap, MemoryModel, NodeId, Options, SharedVec,
    core::units::PAGE_BYTES,
    kernels::{Fill, PartialSums},
};

fn main() -> Result<()> {
    run(Choice::Best)
}

pub(crate) fn run(choice: Choice) -> Result<()> {
    // Pages move to the device even where it could work in host memory: there would be nothing to see.
    let options = Options { memory_model: MemoryModel::Migrate, ..Options::default() };
    let mem = Hmmap::builder().devices(choice).options(options).build()?;
    let device = mem.default_device()?;
    println!(
        "on {}; a letter is a page of {} KiB:",
        mem.facts(device)?.summary.name,
        PAGE_BYTES >> 10
    );
    println!("  . never written   h host   d device   b both, for reading\n");

    let quarter = 8 * PAGE_BYTES as usize / size_of::<f32>();
    let mut v = SharedVec::<f32>::new(&mem, 4 * quarter)?;
    show(&v, "a new vector costs nothing", "................................")?;

    v.host_mut(..2 * quarter)?.fill(1.0);
    show(&v, "the host writes the first half", "hhhhhhhhhhhhhhhh................")?;

    let mut partials = SharedVec::<f32>::new(&mem, 1)?;
    let (x, partials) = (v.read().range(quarter..2 * quarter), partials.write());
    mem.launch(quarter, PartialSums { x, partials })?;
    show(&v, "a kernel reads the second quarter", "hhhhhhhhbbbbbbbb................")?;

    let out = v.write().range(2 * quarter..3 * quarter);
    mem.launch(quarter, Fill { out, value: 3.0 })?;
    show(&v, "a kernel overwrites the third", "hhhhhhhhbbbbbbbbdddddddd........")?;

    let read = v.host(2 * quarter..2 * quarter + 1)?[0];
    ensure!(read == 3.0, "the kernel wrote {read}");
    show(&v, "the host reads one element of it", "hhhhhhhhbbbbbbbbbddddddd........")?;

    v.host_mut(quarter..quarter + 1)?[0] = 5.0;
    show(&v, "the host writes one of the second", "hhhhhhhhhbbbbbbbbddddddd........")?;

    v.prefetch(2 * quarter..3 * quarter, NodeId::HOST)?.wait()?;
    show(&v, "the third is sent home", "hhhhhhhhhbbbbbbbbbbbbbbb........")?;

    // A kernel comes to what is at home here, where the device reaches host memory.
    v.hint(..quarter, Hint::PreferredLocation(NodeId::HOST))?;
    mem.launch(quarter, Fill { out: v.write().range(..quarter), value: 4.0 })?;
    let in_place = mem.facts(device)?.capabilities.host_window.is_proved();
    let first = if in_place { "hhhhhhhh" } else { "dddddddd" };
    let map = format!("{first}hbbbbbbbbbbbbbbb........");
    show(&v, "a kernel overwrites the first", &map)?;
    ensure!(v.host(0..1)?[0] == 4.0, "the kernel wrote {}", v[0]);

    println!("{}", mem.stats());
    println!(
        "to the device went what the kernel read, to the host what was read here and what was sent"
    );
    Ok(())
}

/// Prints the map, and compares it with what is expected.
fn show(v: &SharedVec<f32>, step: &str, expected: &str) -> Result<()> {
    let mut map = String::new();
    for run in v.residency(..)? {
        let letter = match run.nodes.as_slice() {
            [] => '.',
            [node] if node.is_host() => 'h',
            [_] => 'd',
            _ => 'b',
        };
        map.extend(run.pages.map(|_| letter));
    }
    println!("{step:>34}  {map}");
    ensure!(map == expected, "expected {expected}");
    Ok(())
}
