//! Blurs a picture and equalises its levels.

use hmmap::{
    Grid,
    kernels::{Blur3, Gather, Histogram, SCAN_BLOCK, ScanBlocks},
};

use crate::raw::{Batch, Buffer, Device, Kernel, RawError, Side};

const LEVELS: u64 = 256;
const COLOURS: usize = 3;
const ARRAY_BYTES: u32 = 16;
const GRID_BYTES: u32 = 16;

/// The kernels, ready.
pub(crate) struct Image {
    device: Device,
    blur: Kernel,
    histogram: Kernel,
    scan: Kernel,
    gather: Kernel,
}

impl Image {
    pub(crate) fn new(device: &Device) -> Result<Self, RawError> {
        const { assert!(LEVELS <= SCAN_BLOCK as u64, "one block of a scan is enough") };
        Ok(Self {
            device: device.clone(),
            blur: Kernel::new::<Blur3<'_>>(device, 2 * ARRAY_BYTES + GRID_BYTES)?,
            histogram: Kernel::new::<Histogram<'_>>(device, 2 * ARRAY_BYTES + GRID_BYTES)?,
            scan: Kernel::new::<ScanBlocks<'_>>(device, 3 * ARRAY_BYTES + GRID_BYTES)?,
            gather: Kernel::new::<Gather<'_, u32>>(device, 3 * ARRAY_BYTES + GRID_BYTES)?,
        })
    }

    /// Three colours a pixel, in place.
    pub(crate) fn run(&self, bytes: &mut [u8], width: usize) -> Result<(), RawError> {
        let n = bytes.len() / COLOURS;
        let mut levels = self.blurred(bytes, n, width)?;
        let table = self.table(&levels, n)?;
        self.equalised(bytes, &mut levels, &table, n)
    }

    fn buffer(&self, side: Side, len: u64) -> Result<Buffer, RawError> {
        Buffer::new(&self.device, side, len * size_of::<u32>() as u64)
    }

    /// Blurs each colour; the rounded levels end in buffers of the host.
    fn blurred(&self, bytes: &[u8], n: usize, width: usize) -> Result<Vec<Buffer>, RawError> {
        let len = n as u64;
        let grid = Grid::from((width, n / width));
        let (plane, other) = (self.buffer(Side::Device, len)?, self.buffer(Side::Device, len)?);
        let mut levels = Vec::new();
        for colour in 0..COLOURS {
            let mut host = self.buffer(Side::Host, len)?;
            host.with(|plane: &mut [f32]| {
                for (pixel, level) in plane.iter_mut().enumerate() {
                    *level = f32::from(bytes[pixel * COLOURS + colour]);
                }
            })?;
            let mut batch = Batch::new();
            batch.copy(&host, &plane, host.len_bytes());
            for _ in 0..2 {
                // SAFETY: Blur3 lists src, then dst, then the grid.
                unsafe {
                    let (plane, other) = (plane.array(len), other.array(len));
                    batch.then().kernel(&self.blur, grid, &[plane, other], &[]);
                    batch.then().kernel(&self.blur, grid, &[other, plane], &[]);
                }
            }
            batch.then().copy(&plane, &host, host.len_bytes());
            batch.run(&self.device)?;
            drop(batch);
            host.with(|words: &mut [u32]| {
                words.iter_mut().for_each(|word| *word = f32::from_bits(*word).round() as u32);
            })?;
            levels.push(host);
        }
        Ok(levels)
    }

    /// For each level the share of pixels that are no brighter.
    fn table(&self, levels: &[Buffer], n: usize) -> Result<Buffer, RawError> {
        let len = n as u64;
        let device = || self.buffer(Side::Device, len);
        let on_device = [device()?, device()?, device()?];
        let (bins, below) =
            (self.buffer(Side::Device, LEVELS)?, self.buffer(Side::Device, LEVELS)?);
        let sum = self.buffer(Side::Device, 1)?;
        let mut table = self.buffer(Side::Host, LEVELS)?;
        let mut batch = Batch::new();
        batch.zero(&bins);
        for (level, on_device) in levels.iter().zip(&on_device) {
            batch.copy(level, on_device, level.len_bytes());
        }
        batch.then();
        for level in &on_device {
            let arrays = [level.array(len), bins.array(LEVELS)];
            // SAFETY: Histogram lists data, then bins, then the grid. Its additions are atomic, so the three need no barrier.
            unsafe { batch.kernel(&self.histogram, Grid::Linear(len), &arrays, &[]) };
        }
        let arrays = [bins.array(LEVELS), below.array(LEVELS), sum.array(1)];
        let grid = Grid::Groups { n: LEVELS, groups: 1 };
        // SAFETY: ScanBlocks lists x, out, block_sums, then the grid.
        unsafe { batch.then().kernel(&self.scan, grid, &arrays, &[]) };
        batch.then().copy(&below, &table, below.len_bytes());
        batch.run(&self.device)?;
        drop(batch);
        let all = len * COLOURS as u64;
        table.with(|below: &mut [u32]| {
            below.iter_mut().for_each(|level| *level = (u64::from(*level) * 255 / all) as u32);
        })?;
        Ok(table)
    }

    /// Replaces each level by its share.
    fn equalised(
        &self,
        bytes: &mut [u8],
        levels: &mut [Buffer],
        table: &Buffer,
        n: usize,
    ) -> Result<(), RawError> {
        let len = n as u64;
        let shares = self.buffer(Side::Device, LEVELS)?;
        let device = || self.buffer(Side::Device, len);
        let pairs = [(device()?, device()?), (device()?, device()?), (device()?, device()?)];
        let mut batch = Batch::new();
        batch.copy(table, &shares, table.len_bytes());
        for (level, (index, _)) in levels.iter().zip(&pairs) {
            batch.copy(level, index, level.len_bytes());
        }
        batch.then();
        for (index, out) in &pairs {
            let arrays = [shares.array(LEVELS), index.array(len), out.array(len)];
            // SAFETY: Gather lists src, index, out, then the grid.
            unsafe { batch.kernel(&self.gather, Grid::Linear(len), &arrays, &[]) };
        }
        batch.then();
        for (level, (_, out)) in levels.iter().zip(&pairs) {
            batch.copy(out, level, level.len_bytes());
        }
        batch.run(&self.device)?;
        drop(batch);
        for (colour, level) in levels.iter_mut().enumerate() {
            level.with(|equal: &mut [u32]| {
                for (pixel, level) in equal.iter().enumerate() {
                    bytes[pixel * COLOURS + colour] = *level as u8;
                }
            })?;
        }
        Ok(())
    }
}
