//! Gravity between all pairs of bodies, softened (Aarseth 1963; on GPUs: Nyland, Harris and Prins 2007). Source: `shaders/nbody.slang`.
//!
//! A body is four floats: x, y, z, and its mass times the constant of gravity, in any units that fit each other. Velocities and
//! accelerations are three floats, one body after another.
//!
//! Sources are added in order to what is there, so a sum over parts of the sources, one launch after another, has the very bits
//! of one launch over all of them.

use rayon::prelude::*;

use super::{LINE, source};
use hmmap_core::{
    kernel::{Arguments, Kernel, Source, Twin},
    vec::{Read, Update},
};

/// `acceleration[i] +=` the pull of each source on body `i`: with `r` from the body to the source,
/// `r * mass / (|r|^2 + softening)^1.5`, right to a few units in the last place. One item of the grid is one body.
#[derive(Debug)]
pub struct NbodyAccelerate<'a> {
    /// What is pulled.
    pub bodies: Read<'a, f32>,
    /// What pulls; may be the same, since a body at its own place pulls nowhere.
    pub sources: Read<'a, f32>,
    /// What is added to. Start from zeros.
    pub acceleration: Update<'a, f32>,
    /// The square of the softening length, in the units of a place squared. Where it is 0, two bodies at one place do not pull at each other.
    pub softening: f32,
}

static ACCELERATE: Source = source!("nbody_accelerate_f32" in "nbody", LINE, accelerate);

// SAFETY: (1) i < bodies_len / 4 is tested for a body, of the sources too, and i < acceleration_len / 3 for what is added to; the
// shared tile is indexed below its 256 entries; (2) it stores to acceleration alone, which is an Update; (3) any bits are an f32,
// and item i is one invocation's; (4) AccelerateArgs is bodies, sources, acceleration, grid, softening.
unsafe impl Kernel for NbodyAccelerate<'_> {
    fn source() -> &'static Source {
        &ACCELERATE
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.bodies).read(&self.sources).update(&self.acceleration);
        arguments.grid().f32(self.softening);
    }
}

fn accelerate(launch: &Twin<'_>) {
    let (bodies, sources) = (launch.read::<f32>(0), launch.read::<f32>(1));
    let (acceleration, softening) = (launch.write::<f32>(2), launch.f32(0));
    let pairs = acceleration.par_chunks_exact_mut(3).zip(bodies.par_chunks_exact(4));
    pairs.take(launch.n()).for_each(|(sum, body)| {
        for source in sources.chunks_exact(4) {
            let [x, y, z] = [0, 1, 2].map(|axis| source[axis] - body[axis]);
            let square = softening + ((x * x + y * y) + z * z);
            if square > 0.0 {
                let q = inverse_root(square);
                let pull = source[3] * ((q * q) * q);
                sum.iter_mut().zip([x, y, z]).for_each(|(sum, r)| *sum += r * pull);
            }
        }
    });
}

/// As in the shader, step by step: 1/sqrt(x) in products and differences alone.
fn inverse_root(x: f32) -> f32 {
    let guess = f32::from_bits(0x5f37_59df_u32.wrapping_sub(x.to_bits() >> 1));
    (0..4).fold(guess, |guess, _| guess * (1.5 - 0.5 * x * guess * guess))
}

/// One step of the symplectic Euler method: the velocity by the acceleration, then the place by the new velocity.
/// One item of the grid is one body.
#[derive(Debug)]
pub struct NbodyMove<'a> {
    /// The pull on each body.
    pub acceleration: Read<'a, f32>,
    /// Their velocities.
    pub velocity: Update<'a, f32>,
    /// Where they are; masses stay.
    pub bodies: Update<'a, f32>,
    /// The step of time, in units that fit the others.
    pub dt: f32,
}

static MOVE: Source = source!("nbody_move_f32" in "nbody", LINE, step);

// SAFETY: (1) i < min(bodies_len / 4, velocity_len / 3, acceleration_len / 3) holds for all three; (2) it stores to velocity and bodies
// alone, which are Updates; (3) any bits are an f32, and item i is one invocation's; (4) MoveArgs is acceleration, velocity, bodies,
// grid, dt.
unsafe impl Kernel for NbodyMove<'_> {
    fn source() -> &'static Source {
        &MOVE
    }

    fn bind<'a>(&'a self, arguments: &mut Arguments<'a>) {
        arguments.read(&self.acceleration).update(&self.velocity).update(&self.bodies);
        arguments.grid().f32(self.dt);
    }
}

fn step(launch: &Twin<'_>) {
    let acceleration = launch.read::<f32>(0).par_chunks_exact(3);
    let velocity = launch.write::<f32>(1).par_chunks_exact_mut(3);
    let bodies = launch.write::<f32>(2).par_chunks_exact_mut(4);
    let dt = launch.f32(0);
    bodies.zip(velocity).zip(acceleration).take(launch.n()).for_each(|((body, v), a)| {
        for axis in 0..3 {
            v[axis] += dt * a[axis];
            body[axis] += dt * v[axis];
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::harness::Call;

    fn bodies(len: usize) -> Vec<f32> {
        (0..len).map(|i| (i * 7919 % 1000) as f32 * 0.01 + 0.1).collect()
    }

    #[test]
    fn the_pull_is_newton_s_and_parts_of_the_sources_add_up() {
        for (n, len, sources_len, out_len) in
            [(0, 40, 40, 30), (300, 1200, 1203, 901), (u64::MAX, 40, 2000, 7), (9, 40, 0, 30)]
        {
            let (bodies, sources) = (bodies(len), bodies(sources_len));
            let (mut whole, mut parts) = (vec![0.5f32; out_len], vec![0.5f32; out_len]);
            let launch = |sources: &[f32], out: &mut [f32]| {
                let call = Call::new().read(&bodies).read(sources).update(out);
                call.line(n).f32(0.01).run(&ACCELERATE);
            };
            launch(&sources, &mut whole);
            let cut = sources_len / 8 * 4;
            launch(&sources[..cut], &mut parts);
            launch(&sources[cut..], &mut parts);
            assert_eq!(whole, parts, "n = {n}");
            let end = (n as usize).min(len / 4).min(out_len / 3);
            for (i, got) in whole.iter().enumerate() {
                let mut want = 0.5;
                for source in sources.chunks_exact(4).filter(|_| i / 3 < end) {
                    let r =
                        |axis: usize| f64::from(source[axis]) - f64::from(bodies[i / 3 * 4 + axis]);
                    let square = 0.01 + r(0) * r(0) + r(1) * r(1) + r(2) * r(2);
                    want += r(i % 3) * f64::from(source[3]) / square.powf(1.5);
                }
                assert!((f64::from(*got) - want).abs() < 1e-2, "{i} of n = {n}: {got}, not {want}");
            }
        }
    }

    #[test]
    fn an_inverse_root_is_right_to_its_last_places() {
        for x in (1..200_000).map(|x| x as f32 * 0.37) {
            let apart = (f64::from(inverse_root(x)) * f64::from(x).sqrt() - 1.0).abs();
            assert!(apart < 3e-7, "1/sqrt({x}) is off by {apart}");
        }
    }

    #[test]
    fn velocities_move_first_and_masses_stay() {
        for n in [0, 2, u64::MAX] {
            let (mut places, mut velocity) = (vec![1.0f32; 13], vec![2.0f32; 10]);
            let call = Call::new().read(&[3.0f32; 9]).update(&mut velocity).update(&mut places);
            call.line(n).f32(0.5).run(&MOVE);
            for (i, place) in places.iter().enumerate() {
                let moves = i / 4 < 3.min(n as usize) && i % 4 < 3;
                assert_eq!(*place, if moves { 2.75 } else { 1.0 }, "{i} of n = {n}");
            }
            assert_eq!(velocity.iter().filter(|v| **v == 3.5).count(), 3 * 3.min(n as usize));
        }
    }
}
