//! Makes the data that the examples ship with, so that nothing here is somebody else's:
//!
//! - `hills.png`, a drawn picture of hills in haze, of low contrast on purpose;
//! - `plate.mtx`, the finite-element matrix of a steel plate with a hole that conducts heat.
//!
//! `cargo run --example generate-data` writes both again. Only sums, products, quotients and comparisons are used, so
//! every machine makes the same files; a test compares.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::Result;

fn main() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data");
    let mut png = png::Encoder::new(fs::File::create(folder.join("hills.png"))?, WIDTH, HEIGHT);
    png.set_color(png::ColorType::Rgb);
    png.set_compression(png::Compression::High);
    png.write_header()?.write_image_data(&picture())?;
    fs::write(folder.join("plate.mtx"), matrix()?)?;
    println!("wrote hills.png and plate.mtx to {}", folder.display());
    Ok(())
}

const WIDTH: u32 = 240;
const HEIGHT: u32 = 160;

/// The pixels of `hills.png`, red, green and blue, row by row: a sky, a low sun, and five ridges, the nearer the darker.
pub(crate) fn picture() -> Vec<u8> {
    let pixel = |i: u32| {
        let (x, y) = (f64::from(i % WIDTH), f64::from(i / WIDTH));
        let sun = (x - 170.0) * (x - 170.0) + (y - 38.0) * (y - 38.0);
        let glow = 26.0 / (1.0 + sun / 300.0);
        let mut colour =
            [122.0 + glow + y * 0.16, 132.0 + glow * 0.8 + y * 0.08, 150.0 + glow * 0.3];
        for ridge in 0..5 {
            let depth = f64::from(ridge);
            let top = 52.0 + 20.0 * depth - (30.0 - 3.0 * depth) * height(x + 900.0 * depth, ridge);
            if y > top {
                let grain = 3.0 * lattice(i, 77 + ridge) * (0.3 + 0.2 * depth);
                let shade = 138.0 - 9.0 * depth + grain - (y - top) * 0.05;
                colour =
                    [shade - 8.0 + depth, shade + 1.0 + 1.5 * depth, shade + 4.0 - 3.0 * depth];
            }
        }
        colour.map(|level| level as u8)
    };
    (0..WIDTH * HEIGHT).flat_map(pixel).collect()
}

/// The outline of a ridge, 0 to 1: value noise in four octaves.
fn height(x: f64, seed: u32) -> f64 {
    let octave = |octave: u32| {
        let at = x * f64::from(1 << octave) / 64.0;
        let (left, t) = (at as u32, at - f64::from(at as u32));
        let smooth = t * t * (3.0 - 2.0 * t);
        let (from, to) = (lattice(left, seed + 9 * octave), lattice(left + 1, seed + 9 * octave));
        (from + (to - from) * smooth) / f64::from(2 << octave)
    };
    (0..4).map(octave).sum()
}

/// A number from 0 to 1 for each point and seed, without any pattern.
fn lattice(point: u32, seed: u32) -> f64 {
    let mut bits = point.wrapping_mul(0x9E37_79B1) ^ seed.wrapping_mul(0x85EB_CA77);
    for factor in [0x2C1B_3C6D, 0x297A_2D39] {
        bits = (bits ^ (bits >> 15)).wrapping_mul(factor);
    }
    f64::from(bits >> 8) / f64::from(1u32 << 24)
}

/// Nodes along the plate and across it, 2 mm apart.
const NODES: (u32, u32) = (41, 21);
/// Steel, in W/(mm K), and the plate's thickness, in mm.
const CONDUCTIVITY: f64 = 0.050;
const THICKNESS: f64 = 2.0;

/// The text of `plate.mtx`.
///
/// A plate of 80 by 40 by 2 mm with a round hole of 16 mm off its middle, its left edge held at one temperature. Linear
/// triangles on nodes 2 mm apart, moved a little off the lattice. Entry (i, j) says how much heat, in W/K, flows into node i
/// for a kelvin more at node j.
pub(crate) fn matrix() -> Result<String> {
    let mut sums: BTreeMap<(u32, u32), f64> = BTreeMap::new();
    for triangle in triangles() {
        let [a, b, c] = triangle.map(place);
        let double_area = (b.0 - a.0) * (c.1 - a.1) - (c.0 - a.0) * (b.1 - a.1);
        // The edge opposite to each corner: the gradient of its shape function, turned, times the double area.
        let edges = [(c.0 - b.0, c.1 - b.1), (a.0 - c.0, a.1 - c.1), (b.0 - a.0, b.1 - a.1)];
        for (i, row) in triangle.iter().enumerate() {
            for (j, column) in triangle.iter().enumerate().filter(|(_, column)| *column <= row) {
                let product = edges[i].0 * edges[j].0 + edges[i].1 * edges[j].1;
                let flow = CONDUCTIVITY * THICKNESS * product / (2.0 * double_area);
                *sums.entry((*column, *row)).or_default() += flow;
            }
        }
    }
    // The left edge is held: its nodes are no unknowns. The others are numbered from 1 as they come.
    sums.retain(|(column, row), _| column % NODES.0 > 0 && row % NODES.0 > 0);
    let nodes: Vec<u32> =
        sums.keys().filter(|(column, row)| column == row).map(|key| key.0).collect();
    let number = |node: &u32| nodes.binary_search(node).map(|place| place + 1).unwrap_or(0);
    let mut text = String::from("%%MatrixMarket matrix coordinate real symmetric\n");
    text.push_str("% Heat conduction in a steel plate of 80 x 40 x 2 mm with a hole, linear triangles, left edge held.\n");
    text.push_str("% Entries in W/K, lower triangle. Made by examples/data/generate.rs of hmmap, which says how.\n");
    writeln!(text, "{} {} {}", nodes.len(), nodes.len(), sums.len())?;
    for ((column, row), flow) in &sums {
        writeln!(text, "{} {} {flow:.8e}", number(row), number(column))?;
    }
    Ok(text)
}

/// The corners of each triangle, anticlockwise: two for each square of nodes that has its middle outside the hole.
fn triangles() -> impl Iterator<Item = [u32; 3]> {
    let squares = (0..NODES.1 - 1).flat_map(|y| (0..NODES.0 - 1).map(move |x| (x, y)));
    let solid = squares.filter(|(x, y)| {
        let (dx, dy) = (f64::from(*x) * 2.0 + 1.0 - 48.0, f64::from(*y) * 2.0 + 1.0 - 22.0);
        dx * dx + dy * dy > 64.0
    });
    solid.flat_map(|(x, y)| {
        let corner = y * NODES.0 + x;
        let (right, up) = (corner + 1, corner + NODES.0);
        [[corner, right, up], [up + 1, up, right]]
    })
}

/// Where a node is, in mm.
fn place(node: u32) -> (f64, f64) {
    let off = |seed| 0.8 * (lattice(node, seed) - 0.5);
    (f64::from(node % NODES.0) * 2.0 + off(1), f64::from(node / NODES.0) * 2.0 + off(2))
}
