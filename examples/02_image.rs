//! Real input: a PNG, blurred and then equalised, so that its levels fill the range from black to white.
//!
//! `cargo run --release --example 02_image -- [INPUT.png [OUTPUT.png]]`; without an input, the hills of `examples/data`.
//!
//! New here: the host's slices and the kernels take turns on the same vectors, and nobody says what to copy.

use std::{env, fs, io::Cursor};

use anyhow::{Context, Result, ensure};
use hmmap::{
    Hmmap, SharedVec,
    kernels::{Blur3, Gather, Histogram, inclusive_scan},
};

fn main() -> Result<()> {
    let input = env::args().nth(1);
    let output = env::args().nth(2).unwrap_or_else(|| "equalised.png".into());
    let png = match &input {
        Some(path) => fs::read(path).with_context(|| format!("cannot read {path}"))?,
        None => include_bytes!("data/hills.png").to_vec(),
    };
    let result = run(&Hmmap::new()?, &png)?;
    fs::write(&output, result).with_context(|| format!("cannot write {output}"))?;
    println!("wrote {output}");
    Ok(())
}

/// Takes a PNG and gives one of the same size, blurred and equalised.
pub(crate) fn run(mem: &Hmmap, png: &[u8]) -> Result<Vec<u8>> {
    let mut decoder = png::Decoder::new(Cursor::new(png));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().context("this is no PNG")?;
    let mut bytes = vec![0; reader.output_buffer_size().context("the picture is too large")?];
    let info = reader.next_frame(&mut bytes)?;
    let (width, height) = (info.width as usize, info.height as usize);
    let channels = info.color_type.samples();
    let colours = if channels > 2 { 3 } else { 1 }; // what is left is opacity, and stays

    // Blur each colour, and count the levels of all of them together.
    let (n, grid) = (width * height, (width, height));
    let mut bins = SharedVec::<u32>::new(mem, 256)?;
    let mut levels = Vec::new();
    for colour in 0..colours {
        let mut plane = SharedVec::from_fn(mem, n, |i| f32::from(bytes[i * channels + colour]))?;
        let mut blurred = SharedVec::<f32>::new(mem, n)?;
        for _ in 0..2 {
            mem.launch(grid, Blur3 { src: plane.read(), dst: blurred.write() })?;
            mem.launch(grid, Blur3 { src: blurred.read(), dst: plane.write() })?;
        }
        let plane = plane.host(..)?; // waits for the kernels, and brings the pages home
        let level = SharedVec::from_fn(mem, n, |i| plane[i].round() as u32)?;
        mem.launch(n, Histogram { data: level.read(), bins: bins.update() })?;
        levels.push(level);
    }

    // A level becomes the share of pixels that are no brighter.
    let mut below = SharedVec::<u32>::new(mem, 256)?;
    inclusive_scan(mem, &bins, &mut below)?;
    let (below, all) = (below.host(..)?, (n * colours) as u64);
    ensure!(u64::from(below[255]) == all, "{} of {all} pixels were counted", below[255]);
    let share = |level| (u64::from(below[level]) * 255 / all) as u32;
    let table = SharedVec::from_fn(mem, 256, share)?;
    for (colour, level) in levels.iter().enumerate() {
        let mut equal = SharedVec::<u32>::new(mem, n)?;
        mem.launch(n, Gather { src: table.read(), index: level.read(), out: equal.write() })?;
        let equal = equal.host(..)?;
        (0..n).for_each(|i| bytes[i * channels + colour] = equal[i] as u8);
    }
    println!("{width} x {height}, {colours} colours; {}", mem.stats());

    let mut result = Vec::new();
    let mut encoder = png::Encoder::new(&mut result, info.width, info.height);
    encoder.set_color(info.color_type);
    encoder.write_header()?.write_image_data(&bytes)?;
    Ok(result)
}
