//! The trace as one picture: what each device was given, on rows, over time.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    path::Path,
};

use hmmap_core::{Cause, NodeId, events::What};
use plotters::prelude::*;

use crate::{
    Log, WatchError,
    trace::{Slice, Work, slices},
};

const WIDTH_PIXELS: u32 = 900;
const ROW_PIXELS: u32 = 14;
const NAME_PIXELS: i32 = 190;
const TOP_PIXELS: u32 = 34;

/// A row: of which node, of what kind, and which of those that run beside each other.
type Row = (NodeId, Option<Work>, usize);

impl Log {
    /// Draws what every device was given over time as an SVG: the slices of [`Log::write_trace`], and marks where blocks left.
    ///
    /// # Errors
    /// [`WatchError::NotDrawn`], also when no device did anything.
    pub fn draw_timeline(&self, path: &Path) -> Result<(), WatchError> {
        let not_drawn = |reason: String| WatchError::NotDrawn { path: path.to_owned(), reason };
        let slices = slices(self);
        if slices.is_empty() {
            return Err(not_drawn("no device did anything".to_owned()));
        }
        self.draw_slices(path, &slices).map_err(|error| not_drawn(error.to_string()))
    }

    fn draw_slices(&self, path: &Path, slices: &[Slice]) -> Result<(), Box<dyn Error>> {
        let left: Vec<(NodeId, u64)> = self
            .events
            .iter()
            .filter_map(|event| match event.what {
                What::Evicted { from, .. } => Some((from, event.at_ns)),
                _ => None,
            })
            .collect();
        let of_slices = slices.iter().map(|slice| (slice.node, Some(slice.work), slice.lane));
        let rows: BTreeSet<Row> =
            of_slices.chain(left.iter().map(|(node, _)| (*node, None, 0))).collect();
        let rows: BTreeMap<Row, usize> =
            rows.into_iter().enumerate().map(|(number, row)| (row, number)).collect();
        let height = TOP_PIXELS + rows.len() as u32 * ROW_PIXELS + 60;
        let area = SVGBackend::new(path, (WIDTH_PIXELS, height)).into_drawing_area();
        area.fill(&WHITE)?;
        let (first_ns, last_ns) = self.span_ns();
        let ms = |at_ns: u64| at_ns.saturating_sub(first_ns) as f64 / 1e6;
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_top(TOP_PIXELS)
            .x_label_area_size(34)
            .y_label_area_size(NAME_PIXELS)
            .build_cartesian_2d(0.0..ms(last_ns).max(1e-6), rows.len() as f64..0.0)?;
        chart.configure_mesh().disable_y_mesh().disable_y_axis().x_desc("ms").draw()?;
        let of = |row: &Row| rows.get(row).copied().unwrap_or(0) as f64;
        chart.draw_series(slices.iter().map(|slice| {
            let row = of(&(slice.node, Some(slice.work), slice.lane));
            let ends = [(ms(slice.begin_ns), row + 0.12), (ms(slice.end_ns), row + 0.88)];
            Rectangle::new(ends, color(slice).filled())
        }))?;
        chart.draw_series(left.iter().map(|(node, at_ns)| {
            let row = of(&(*node, None, 0));
            PathElement::new([(ms(*at_ns), row + 0.12), (ms(*at_ns), row + 0.88)], BLACK)
        }))?;
        for ((node, work, lane), row) in &rows {
            if *lane == 0 {
                let what = work.map_or("blocks leave", Work::title);
                let at = (8, (TOP_PIXELS + *row as u32 * ROW_PIXELS) as i32);
                area.draw(&Text::new(format!("{node}: {what}"), at, ("sans-serif", 12)))?;
            }
        }
        legend(&area, slices)?;
        area.present()?;
        Ok(())
    }
}

fn legend(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    slices: &[Slice],
) -> Result<(), Box<dyn Error>> {
    let mut known = BTreeMap::new();
    for slice in slices {
        let word = match slice.work {
            Work::Kernel => "kernel".to_owned(),
            _ => format!("moved for {}", slice.cause),
        };
        known.insert(word, color(slice));
    }
    let mut left = NAME_PIXELS;
    for (word, color) in known {
        area.draw(&Rectangle::new([(left, 10), (left + 12, 22)], color.filled()))?;
        let long = 28 + 7 * word.len() as i32;
        area.draw(&Text::new(word, (left + 16, 10), ("sans-serif", 12)))?;
        left += long;
    }
    Ok(())
}

fn color(slice: &Slice) -> RGBColor {
    match (slice.work, slice.cause) {
        (Work::Kernel, _) => RGBColor(90, 90, 90),
        (_, Cause::Launch) => RGBColor(0, 114, 178),
        (_, Cause::Guard) => RGBColor(0, 158, 115),
        (_, Cause::Fault) => RGBColor(213, 94, 0),
        (_, Cause::Prefetch) => RGBColor(86, 180, 233),
        (_, Cause::Eviction) => RGBColor(230, 159, 0),
        (_, Cause::Peer) => RGBColor(204, 121, 167),
    }
}
