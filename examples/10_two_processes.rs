//! A producer and a consumer in two processes share a ring of frames. No frame is copied: both see the same memory, and a frame is written again only when
//! the consumer has given it back.
//!
//! `cargo run --release --example 10_two_processes`
//!
//! New here: `SharedVec::shareable` and `Exporter` give a vector to another process, `Importer` takes it in. The program starts itself a second time.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use hmmap::{
    Hmmap, SharedVec,
    kernels::{Fill, Saxpy},
    share::{Exporter, ExporterOptions, Importer, ImporterOptions},
};

/// Elements in a frame: 2 MiB, the size in which pages are given and taken back.
const FRAME: usize = (2 << 20) / 4;
const SLOTS: usize = 4;
const FRAMES: usize = 12;

fn main() -> Result<()> {
    match env::args().nth(1) {
        Some(socket) => consume(&socket),
        None => run(),
    }
}

/// The producer: a kernel writes each frame into its slot, and the consumer is told.
pub(crate) fn run() -> Result<()> {
    let mem = Hmmap::new()?;
    let mut ring = SharedVec::<f32>::shareable(&mem, SLOTS * FRAME)?;
    let socket = env::temp_dir().join(format!("hmmap-frames-{}", std::process::id()));
    let exporter = Exporter::bind(&socket, ExporterOptions::default())?;
    exporter.export("frames", &ring)?;

    let mut consumer = Command::new(env::current_exe()?)
        .arg(&socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut to = consumer.stdin.take().context("no way to the consumer")?;
    let mut said = BufReader::new(consumer.stdout.take().context("no way back")?).lines();
    for frame in 0..FRAMES {
        let slot = frame % SLOTS;
        let range = slot * FRAME..(slot + 1) * FRAME;
        // Where the consumer still has the slot's last frame, it is asked for it first.
        let out = ring.write().range(range);
        mem.launch(FRAME, Fill { out, value: frame as f32 })?;
        writeln!(to, "{slot}")?;
        let line = said.next().context("the consumer has ended")??;
        println!("frame {frame:2} in slot {slot}: the consumer's sum is {line}");
        let sum = frame * (frame + 1) / 2;
        ensure!(line.starts_with(&format!("{sum} to {sum};")), "it saw something else");
    }
    drop(to);
    ensure!(consumer.wait()?.success(), "the consumer failed");
    println!("\nwhat moved in the producer: {}", mem.stats());
    drop(exporter);
    Ok(std::fs::remove_file(socket)?)
}

/// The consumer: a kernel of its own adds the slot that it is told to a sum, from where the producer wrote it.
fn consume(socket: &str) -> Result<()> {
    let mem = Hmmap::new()?;
    let importer = Importer::connect(socket, ImporterOptions::default())?;
    let ring = importer.open::<f32>(&mem, "frames")?;
    let mut sum = SharedVec::<f32>::new(&mem, FRAME)?;
    for line in std::io::stdin().lines() {
        let slot = line?.parse::<usize>()? * FRAME;
        let x = ring.read().range(slot..slot + FRAME);
        mem.launch(FRAME, Saxpy { a: 1.0, x, y: sum.update() })?;
        println!("{} to {}; {}", sum[0], sum[FRAME - 1], mem.stats());
    }
    Ok(())
}
