//! A picture, blurred and equalised: what `examples/02_image.rs` does between reading and writing a file.

use std::time::{Duration, Instant};

use fastrand::Rng;
use hmmap::{
    DeviceId, Grid, Hmmap, SharedVec,
    kernels::{Blur3, Gather, Histogram, ScanBlocks},
};

use crate::{BenchError, Trial, by_hand, raw};

const COLOURS: usize = 3;
const LEVELS: usize = 256;

struct Image {
    mem: Hmmap,
    device: DeviceId,
    picture: Vec<u8>,
    width: usize,
    by_hand: by_hand::Image,
}

pub(super) fn trial(
    mem: Hmmap,
    device: DeviceId,
    raw: &raw::Device,
    [width, height]: [usize; 2],
) -> Result<Box<dyn Trial>, BenchError> {
    let mut rng = Rng::with_seed(1);
    let picture = (0..width * height * COLOURS).map(|i| (i / 64 % 200) as u8 + rng.u8(..56));
    let (picture, by_hand) = (picture.collect(), by_hand::Image::new(raw)?);
    let image = Image { mem, device, picture, width, by_hand };
    let (mut ours, mut by_hand) = (image.picture.clone(), image.picture.clone());
    image.run(&mut ours)?;
    image.by_hand.run(&mut by_hand, width)?;
    let differ = ours.iter().zip(&by_hand).filter(|(ours, by_hand)| ours != by_hand).count();
    if differ > 0 || ours == image.picture {
        let what = "bytes that differ from those by hand";
        return Err(BenchError::Unexpected { what, expected: 0, found: differ as u64 });
    }
    Ok(Box::new(image))
}

impl Image {
    /// Three colours a pixel, in place.
    fn run(&self, bytes: &mut [u8]) -> Result<(), BenchError> {
        let (mem, device) = (&self.mem, self.device);
        let n = bytes.len() / COLOURS;
        let grid = (self.width, n / self.width);
        let mut bins = SharedVec::<u32>::new(mem, LEVELS)?;
        let mut levels = Vec::new();
        for colour in 0..COLOURS {
            let mut plane = SharedVec::from_fn(mem, n, |i| f32::from(bytes[i * COLOURS + colour]))?;
            let mut other = SharedVec::<f32>::new(mem, n)?;
            for _ in 0..2 {
                mem.launch_on(device, grid, Blur3 { src: plane.read(), dst: other.write() })?;
                mem.launch_on(device, grid, Blur3 { src: other.read(), dst: plane.write() })?;
            }
            let plane = plane.host(..)?;
            let level = SharedVec::from_fn(mem, n, |i| plane[i].round() as u32)?;
            mem.launch_on(device, n, Histogram { data: level.read(), bins: bins.update() })?;
            levels.push(level);
        }
        let mut below = SharedVec::<u32>::new(mem, LEVELS)?;
        let mut sum = SharedVec::<u32>::new(mem, 1)?;
        let scan = ScanBlocks { x: bins.read(), out: below.write(), block_sums: sum.write() };
        mem.launch_on(device, Grid::Groups { n: LEVELS as u64, groups: 1 }, scan)?;
        let (below, all) = (below.host(..)?, (n * COLOURS) as u64);
        let table =
            SharedVec::from_fn(mem, LEVELS, |level| (u64::from(below[level]) * 255 / all) as u32)?;
        for (colour, level) in levels.iter().enumerate() {
            let mut equal = SharedVec::<u32>::new(mem, n)?;
            let gather = Gather { src: table.read(), index: level.read(), out: equal.write() };
            mem.launch_on(device, n, gather)?;
            let equal = equal.host(..)?;
            (0..n).for_each(|i| bytes[i * COLOURS + colour] = equal[i] as u8);
        }
        Ok(())
    }
}

impl Trial for Image {
    fn ours(&mut self) -> Result<Duration, BenchError> {
        let mut picture = self.picture.clone();
        let started = Instant::now();
        self.run(&mut picture)?;
        Ok(started.elapsed())
    }

    fn limit(&mut self) -> Result<Option<Duration>, BenchError> {
        let mut picture = self.picture.clone();
        let started = Instant::now();
        self.by_hand.run(&mut picture, self.width)?;
        Ok(Some(started.elapsed()))
    }
}
