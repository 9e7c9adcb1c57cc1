//! Two stencils over an image. Source: `shaders/stencil.slang`.
//!
//! The grid is the image: nx pixels to a row, ny rows, stored row by row. A neighbour past a border is the border's own
//! pixel; a pixel that `src` is too short for counts as 0.0.

use hmmap_core::{
    kernel::{Arguments, Kernel, Source, Twin},
    vec::{Read, Write},
};

use super::{
    PLANE,
    plane::{fill_rows, row},
    source,
};

/// `dst = centre * pixel + side * (up + down + left + right)`, added from left to right. `dst` past the plane is zero.
#[derive(Debug)]
pub struct Stencil5<'a> {
    /// The image.
    pub src: Read<'a, f32>,
    /// The result.
    pub dst: Write<'a, f32>,
    /// The weight of the pixel itself.
    pub centre: f32,
    /// The weight of each of its four neighbours.
    pub side: f32,
}

static STENCIL5: Source = source!("stencil5_f32" in "stencil", PLANE, stencil5);

// SAFETY: (1) `load_or_zero` compares the pixel's index with src_len before `src[...]`, and i < dst_len is tested before
// `dst[i]`; (2) it stores to dst alone, which it never reads: the plane's elements by their own invocations, those past it by
// `zero_rest_2d`, and a launch refuses a plane whose sides `zero_rest_2d` would cut; (3) any bits are an f32, and each element
// has one invocation; (4) Stencil5Args is src, dst, grid, centre, side.
unsafe impl Kernel for Stencil5<'_> {
    fn source() -> &'static Source {
        &STENCIL5
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.src).write(&self.dst).grid().f32(self.centre).f32(self.side);
    }
}

fn stencil5(launch: &Twin<'_>) {
    let (centre, side) = (launch.f32(0), launch.f32(1));
    each_neighbourhood(launch, |[above, here, below]| {
        centre * here[1] + side * (above[1] + below[1] + here[0] + here[2])
    });
}

/// `dst` = the nine pixels around, summed from 0.0 row by row and from left to right, times the `f32` nearest to 1/9.
/// `dst` past the plane is zero.
#[derive(Debug)]
pub struct Blur3<'a> {
    /// The image.
    pub src: Read<'a, f32>,
    /// The result.
    pub dst: Write<'a, f32>,
}

static BLUR3: Source = source!("blur3_f32" in "stencil", PLANE, blur3);

// SAFETY: (1) `load_or_zero` compares the pixel's index with src_len before `src[...]`, and i < dst_len is tested before
// `dst[i]`; (2) it stores to dst alone, which it never reads: the plane's elements by their own invocations, those past it by
// `zero_rest_2d`, and a launch refuses a plane whose sides `zero_rest_2d` would cut; (3) any bits are an f32, and each element
// has one invocation; (4) Blur3Args is src, dst, grid.
unsafe impl Kernel for Blur3<'_> {
    fn source() -> &'static Source {
        &BLUR3
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.src).write(&self.dst).grid();
    }
}

fn blur3(launch: &Twin<'_>) {
    const NINTH: f32 = 1.0 / 9.0;
    each_neighbourhood(launch, |rows| {
        rows.iter().flatten().fold(0.0, |sum, pixel| sum + pixel) * NINTH
    });
}

/// Array 1 becomes `f` of the three by three pixels of array 0 around each place: `[above, here, below][left, here, right]`.
fn each_neighbourhood(launch: &Twin<'_>, f: impl Fn([[f32; 3]; 3]) -> f32 + Sync) {
    let (src, dst) = (launch.read::<f32>(0), launch.write::<f32>(1));
    let [nx, ny] = launch.grid().map(|side| side as usize);
    fill_rows(launch, dst, |y, out| {
        let rows = [y.saturating_sub(1), y, (y + 1).min(ny - 1)].map(|y| row(src, nx, y));
        for (x, out) in out.iter_mut().enumerate() {
            let columns = [x.saturating_sub(1), x, (x + 1).min(nx - 1)];
            *out = f(rows.map(|row| columns.map(|x| row.get(x).copied().unwrap_or(0.0))));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::harness::Call;

    /// Rows and columns of the plane, length of the source, of the result.
    const SHAPES: [(usize, usize, usize, usize); 9] = [
        (1, 1, 1, 1),
        (7, 5, 35, 35),
        (300, 200, 60_000, 60_100),
        (7, 5, 20, 35),
        (7, 5, 0, 20),
        (0, 5, 20, 20),
        (5, 0, 20, 20),
        (50, 2, 20, 30),
        (1_048_560, 1_048_560, 64, 64),
    ];

    fn source_pixels(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919) % 256) as f32 * 0.37).collect()
    }

    /// The pixel `down` - 1 rows below and `right` - 1 columns to the right of (x, y), as the module's page has it.
    fn pixel(
        src: &[f32],
        (nx, ny): (usize, usize),
        (x, y): (usize, usize),
        right: usize,
        down: usize,
    ) -> f32 {
        let (x, y) = ((x + right).max(1) - 1, (y + down).max(1) - 1);
        src.get(y.min(ny - 1) * nx + x.min(nx - 1)).copied().unwrap_or(0.0)
    }

    #[test]
    fn both_are_their_formulas_and_zero_past_the_plane() {
        assert_eq!((1.0f32 / 9.0).to_bits(), 0x3de3_8e39);
        for shape @ (nx, ny, src_len, dst_len) in SHAPES {
            let src = source_pixels(src_len);
            let (mut five, mut nine) = (vec![0.0f32; dst_len], vec![0.0f32; dst_len]);
            let call = Call::new().read(&src).write(&mut five).plane(nx, ny);
            call.f32(0.5).f32(0.125).run(&STENCIL5);
            Call::new().read(&src).write(&mut nine).plane(nx, ny).run(&BLUR3);
            for i in 0..dst_len {
                let (mut want_five, mut want_nine) = (0.0, 0.0);
                if i < nx * ny {
                    let at = |right, down| pixel(&src, (nx, ny), (i % nx, i / nx), right, down);
                    want_five =
                        0.5 * at(1, 1) + 0.125 * (at(1, 0) + at(1, 2) + at(0, 1) + at(2, 1));
                    let nine = (0..9).fold(0.0f32, |sum, k| sum + at(k % 3, k / 3));
                    want_nine = nine * f32::from_bits(0x3de3_8e39);
                }
                assert_eq!(five[i].to_bits(), want_five.to_bits(), "five at {i} of {shape:?}");
                assert_eq!(nine[i].to_bits(), want_nine.to_bits(), "nine at {i} of {shape:?}");
            }
        }
    }
}
