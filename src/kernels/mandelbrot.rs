//! The Mandelbrot set by escape time: much arithmetic per byte. Source: `shaders/mandelbrot.slang`.

use hmmap_core::{
    kernel::{Arguments, Kernel, Source, Twin},
    vec::Write,
};

use super::{PLANE, plane::fill_rows, source};

/// `out` = how many steps `z -> z*z + c`, from `z = 0`, are taken while `|z|^2 <= 4` and fewer than `max_iter`, for
/// `c = (x0 + px*dx, y0 + py*dy)`, pixel by pixel, row by row; the grid is the picture. `out` past it is zero.
///
/// In `f32`, each operation rounded: with `x2 = x*x` and `y2 = y*y`, a step is taken while `x2 + y2 <= 4` and is
/// `(x, y) = ((x2 - y2) + cx, ((x + x) * y) + cy)`.
#[derive(Debug)]
pub struct Mandelbrot<'a> {
    /// The picture.
    pub out: Write<'a, u32>,
    /// The real part at the left border.
    pub x0: f32,
    /// The imaginary part at the first row.
    pub y0: f32,
    /// The step from column to column.
    pub dx: f32,
    /// The step from row to row.
    pub dy: f32,
    /// The most steps that are taken.
    pub max_iter: u32,
}

static MANDELBROT: Source = source!("mandelbrot_u32" in "mandelbrot", PLANE, mandelbrot);

// SAFETY: (1) i < out_len is tested before `out[i]`, and nothing else touches memory; (2) it never reads out: the plane's
// elements are stored by their own invocations, those past it by `zero_rest_2d`, and a launch refuses a plane whose sides
// `zero_rest_2d` would cut; (3) any bits are a u32, and each element has one invocation; (4) MandelbrotArgs is out, grid, x0, y0,
// dx, dy, max_iter.
unsafe impl Kernel for Mandelbrot<'_> {
    fn source() -> &'static Source {
        &MANDELBROT
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.write(&self.out).grid();
        arguments.f32(self.x0).f32(self.y0).f32(self.dx).f32(self.dy).u32(self.max_iter);
    }
}

fn mandelbrot(launch: &Twin<'_>) {
    let [x0, y0, dx, dy] = [0, 1, 2, 3].map(|scalar| launch.f32(scalar));
    let max_iter = launch.u32(4);
    fill_rows(launch, launch.write::<u32>(0), |y, out| {
        let cy = y0 + y as f32 * dy;
        for (x, out) in out.iter_mut().enumerate() {
            *out = escape_time(x0 + x as f32 * dx, cy, max_iter);
        }
    });
}

fn escape_time(cx: f32, cy: f32, max_iter: u32) -> u32 {
    let (mut x, mut y, mut steps) = (0.0f32, 0.0f32, 0);
    while steps < max_iter && x * x + y * y <= 4.0 {
        (x, y) = (x * x - y * y + cx, (x + x) * y + cy);
        steps += 1;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::harness::Call;

    fn picture(len: usize, (nx, ny): (usize, usize), max_iter: u32) -> Vec<u32> {
        let mut out = vec![0u32; len];
        let call = Call::new().write(&mut out).plane(nx, ny);
        call.f32(-2.0).f32(-1.0).f32(0.5).f32(0.5).u32(max_iter).run(&MANDELBROT);
        out
    }

    #[test]
    fn known_points_take_known_steps() {
        // From (-2, -1) to (1, 1) in steps of a half. By hand, on the real axis: -2, -1 and 0 never escape, and 1 is
        // 0, 1, 2, 5: three steps. At (-2, -1): 0, (-2, -1) with |z|^2 = 5: one step.
        let out = picture(7 * 5, (7, 5), 50);
        assert_eq!(out[2 * 7..3 * 7], [50, 50, 50, 50, 50, 5, 3]);
        assert_eq!(out[0], 1);
        let mirrored: Vec<u32> = out.chunks(7).rev().flatten().copied().collect();
        assert_eq!(out, mirrored, "the set is its own mirror image");
    }

    #[test]
    fn the_rest_is_zero_and_the_shape_may_be_wrong() {
        assert_eq!(picture(40, (7, 5), 9)[35..], [0; 5]);
        assert_eq!(picture(10, (7, 5), 9), picture(35, (7, 5), 9)[..10]);
        assert_eq!(picture(3, (0, 5), 9), [0; 3]);
        assert_eq!(picture(3, (1_048_560, 1_048_560), 0), [0; 3]);
    }
}
