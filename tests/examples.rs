//! Every example runs: on the best device of this machine, and on the embedded device in host memory and in memory of its own.
#![allow(dead_code, reason = "the examples' own `main` is not called here")]

#[path = "../examples/03_conjugate_gradients.rs"]
mod conjugate_gradients;
#[cfg(all(feature = "vulkan", feature = "cuda"))]
#[path = "../examples/14_cuda_and_vulkan.rs"]
mod cuda_and_vulkan;
#[cfg(feature = "vulkan")]
#[path = "../examples/09_device_to_device.rs"]
mod device_to_device;
#[path = "../examples/06_errors.rs"]
mod errors;
#[path = "../examples/data/generate.rs"]
mod generate;
#[path = "../examples/02_image.rs"]
mod image;
#[path = "../examples/07_index.rs"]
mod index;
#[path = "../examples/11_lent_to_a_card.rs"]
mod lent_to_a_card;
#[path = "../examples/08_network_card.rs"]
mod network_card;
#[cfg(feature = "vfio")]
#[path = "../examples/12_peer_to_peer.rs"]
mod peer_to_peer;
#[path = "../examples/04_residency.rs"]
mod residency;
#[path = "../examples/01_saxpy.rs"]
mod saxpy;
#[path = "../examples/13_three_times_the_memory.rs"]
mod three_times_the_memory;
#[path = "../examples/05_two_devices.rs"]
mod two_devices;

use anyhow::{Context, Result, ensure};
use hmmap::{
    Choice, Hmmap,
    core::embedded::{EmbeddedMemory, EmbeddedOptions},
};

const HILLS: &[u8] = include_bytes!("../examples/data/hills.png");
const PLATE: &str = include_str!("../examples/data/plate.mtx");

/// The best device of this machine; the embedded one in host memory; the embedded one in memory of its own.
fn each_device() -> Result<[Hmmap; 3]> {
    let embedded = |memory| {
        let options = EmbeddedOptions { memory, ..EmbeddedOptions::default() };
        Hmmap::builder().devices(Choice::Embedded).embedded(options).build()
    };
    Ok([Hmmap::new()?, embedded(EmbeddedMemory::Host)?, embedded(EmbeddedMemory::Own)?])
}

#[test]
fn saxpy_runs() -> Result<()> {
    each_device()?.iter().try_for_each(saxpy::run)
}

#[test]
fn indexing_runs() -> Result<()> {
    each_device()?.iter().try_for_each(index::run)
}

#[test]
fn the_image_is_what_plain_loops_make_of_it() -> Result<()> {
    let (width, height, before) = pixels(HILLS)?;
    let wanted = blur_and_equalise(&before, width, height, 3, 3);
    assert_ne!(before, wanted);
    for mem in each_device()? {
        let (_, _, after) = pixels(&image::run(&mem, HILLS)?)?;
        assert!(after == wanted, "differs on {:?}", mem.default_device());
    }
    Ok(())
}

#[test]
fn images_of_other_kinds_keep_their_opacity() -> Result<()> {
    let mem = Hmmap::builder().devices(Choice::Embedded).build()?;
    for (colour, channels) in [
        (png::ColorType::Grayscale, 1),
        (png::ColorType::GrayscaleAlpha, 2),
        (png::ColorType::Rgba, 4),
    ] {
        let before: Vec<u8> = (0..9 * 7 * channels).map(|i| (i * 31 % 200) as u8).collect();
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, 9, 7);
        encoder.set_color(colour);
        encoder.write_header()?.write_image_data(&before)?;
        let (_, _, after) = pixels(&image::run(&mem, &png)?)?;
        let colours = if channels > 2 { 3 } else { 1 };
        assert_eq!(after, blur_and_equalise(&before, 9, 7, channels, colours), "{colour:?}");
    }
    assert!(image::run(&mem, b"no picture").is_err());
    Ok(())
}

#[test]
fn conjugate_gradients_solve_the_plate() -> Result<()> {
    each_device()?.iter().try_for_each(|mem| conjugate_gradients::run(mem, PLATE))
}

#[test]
fn bad_matrices_are_refused_with_a_reason() -> Result<()> {
    let mem = Hmmap::builder().devices(Choice::Embedded).build()?;
    let symmetric = "%%MatrixMarket matrix coordinate real symmetric\n";
    for (text, reason) in [
        (String::new(), "empty"),
        (format!("{}2 2 1\n1 1 1.0\n", symmetric.replace("symmetric", "general")), "wanted"),
        (symmetric.into(), "no line with the size"),
        (format!("{symmetric}2 2\n"), "3 whole numbers"),
        (format!("{symmetric}2 3 0\n"), "2 rows, but 3 columns"),
        (format!("{symmetric}2 2 1\n3 1 1.0\n"), "outside"),
        (format!("{symmetric}2 2 1\n0 1 1.0\n"), "outside"),
        (format!("{symmetric}2 2 2\n1 1 1.0\n"), "1 entries, where the file promises 2"),
        (format!("{symmetric}2 2 1\n1 1 one\n"), "no number"),
        (format!("{symmetric}2 2 2\n1 1 1.0\n2 2 -1.0\n"), "positive definite"),
    ] {
        let error = conjugate_gradients::run(&mem, &text).expect_err(&text);
        assert!(format!("{error:#}").contains(reason), "{error:#} for {text}");
    }
    Ok(())
}

#[test]
fn three_times_the_memory_is_passed_over() -> Result<()> {
    [Choice::Best, Choice::Embedded].into_iter().try_for_each(three_times_the_memory::run)
}

#[test]
fn the_residency_map_is_as_drawn() -> Result<()> {
    residency::run(Choice::Best)?;
    residency::run(Choice::Embedded)
}

#[test]
fn two_devices_share_a_vector() -> Result<()> {
    two_devices::run(Choice::Best)?;
    two_devices::run(Choice::Embedded)
}

#[test]
fn a_card_sends_what_a_device_writes() -> Result<()> {
    network_card::run(Choice::Best)?;
    network_card::run(Choice::Embedded)
}

#[test]
fn a_card_writes_what_a_device_adds_up() -> Result<()> {
    lent_to_a_card::run(Choice::Best)?;
    lent_to_a_card::run(Choice::Embedded)
}

#[cfg(feature = "vulkan")]
#[test]
fn pages_go_from_device_to_device() -> Result<()> {
    device_to_device::run()
}

/// Beside the double of CUDA's driver it runs in `hmmap-conformance`'s tests; here it says what this machine has.
#[cfg(all(feature = "vulkan", feature = "cuda"))]
#[test]
fn cuda_and_vulkan_share_a_card_or_it_says_what_there_is() -> Result<()> {
    cuda_and_vulkan::run().map(drop)
}

/// It runs in the lab (`cargo xtask lab`); here it says what it lacks.
#[cfg(feature = "vfio")]
#[test]
fn a_peer_to_peer_transfer_is_shown_or_said_to_be_elsewhere() -> Result<()> {
    peer_to_peer::run().map(drop)
}

/// It starts itself a second time, so it has to be a program of its own: the one that is built beside the tests.
#[cfg(feature = "share")]
#[test]
fn two_processes_share_a_ring_of_frames() -> Result<()> {
    let deps = std::env::current_exe()?;
    let built = deps.ancestors().nth(2).map(|folder| folder.join("examples/10_two_processes"));
    let built = built.filter(|example| example.exists());
    let example = built.context("build it first: cargo build --example 10_two_processes")?;
    let output = std::process::Command::new(example).output()?;
    let said = String::from_utf8(output.stdout)?;
    let last = said.lines().find(|line| line.starts_with("frame 11"));
    // The consumer's kernels read the frames where the producer's wrote them, or, on a device with memory of its own, copied each once.
    let sum = last.is_some_and(|line| line.contains("the consumer's sum is 66 to 66; 12 launches"));
    ensure!(output.status.success() && sum, "{said}");
    Ok(())
}

#[test]
fn errors_are_as_documented() -> Result<()> {
    errors::run(Choice::Best)?;
    errors::run(Choice::Embedded)
}

#[test]
fn the_shipped_data_is_what_the_generator_makes() -> Result<()> {
    assert!(pixels(HILLS)?.2 == generate::picture(), "cargo run --example generate-data");
    assert!(PLATE == generate::matrix()?, "cargo run --example generate-data");
    Ok(())
}

/// Width, height, and the bytes of a PNG with eight bits to a channel.
fn pixels(png: &[u8]) -> Result<(usize, usize, Vec<u8>)> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info()?;
    let mut bytes = vec![0; reader.output_buffer_size().expect("a small picture")];
    let info = reader.next_frame(&mut bytes)?;
    Ok((info.width as usize, info.height as usize, bytes))
}

/// What the example does, in plain loops.
fn blur_and_equalise(
    bytes: &[u8],
    width: usize,
    height: usize,
    channels: usize,
    colours: usize,
) -> Vec<u8> {
    let mut levels = vec![Vec::new(); colours];
    for (colour, levels) in levels.iter_mut().enumerate() {
        let mut plane: Vec<f32> =
            bytes.chunks(channels).map(|pixel| f32::from(pixel[colour])).collect();
        for _ in 0..4 {
            plane = (0..width * height).map(|i| mean_around(&plane, width, height, i)).collect();
        }
        *levels = plane.iter().map(|level| level.round() as usize).collect();
    }
    let all = width * height * colours;
    let below: Vec<usize> =
        (0..256).map(|level| levels.iter().flatten().filter(|l| **l <= level).count()).collect();
    let mut after = bytes.to_vec();
    for (colour, own) in levels.iter().enumerate() {
        for (i, level) in own.iter().enumerate() {
            after[i * channels + colour] = (below[*level] * 255 / all) as u8;
        }
    }
    after
}

fn mean_around(plane: &[f32], width: usize, height: usize, i: usize) -> f32 {
    let (x, y) = (i % width, i / width);
    let mut sum = 0.0;
    for row in [y.saturating_sub(1), y, (y + 1).min(height - 1)] {
        for column in [x.saturating_sub(1), x, (x + 1).min(width - 1)] {
            sum += plane[row * width + column];
        }
    }
    sum * (1.0 / 9.0)
}
