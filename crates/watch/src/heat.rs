//! Where each page was, over time, as a picture.
//!
//! A row is some neighbouring pages of a vector, a column a stretch of time; the colour says who held most of them at its end. A copy counts from when it was
//! queued, as in the directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    path::Path,
};

use hmmap_core::{
    NodeId,
    directory::NodeSet,
    events::{VectorId, What},
};
use plotters::prelude::*;

use crate::{Log, Replay, WatchError};

/// How a heat map is drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeatMap {
    /// The picture's width.
    pub width_pixels: u32,
    /// Rows of all vectors together, at most, but for one of each.
    pub most_rows: usize,
    /// Stretches of time.
    pub columns: usize,
    /// Vectors at most, the largest first.
    pub most_vectors: usize,
}

impl Default for HeatMap {
    fn default() -> Self {
        Self { width_pixels: 900, most_rows: 96, columns: 300, most_vectors: 24 }
    }
}

const ROW_PIXELS: u32 = 4;
const NAME_PIXELS: i32 = 130;

/// Who held a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Held {
    /// The vector was not there.
    Gone,
    /// Never written.
    Nobody,
    Host,
    Device(u8),
    Several,
}

impl Held {
    fn of(nodes: NodeSet, devices: &[NodeId]) -> Self {
        let mut there = devices.iter().enumerate().filter(|(_, node)| nodes.contains(**node));
        match (nodes.contains(NodeId::HOST), there.next(), there.next()) {
            (false, None, _) => Self::Nobody,
            (true, None, _) => Self::Host,
            (false, Some((number, _)), None) => Self::Device(number as u8),
            _ => Self::Several,
        }
    }

    fn color(self) -> RGBColor {
        match self {
            Self::Gone => WHITE,
            Self::Nobody => RGBColor(228, 228, 228),
            Self::Host => RGBColor(230, 159, 0),
            Self::Several => RGBColor(0, 158, 115),
            Self::Device(0) => RGBColor(0, 114, 178),
            Self::Device(1) => RGBColor(204, 121, 167),
            Self::Device(_) => RGBColor(90, 60, 130),
        }
    }
}

/// Rows of one vector.
#[derive(Debug)]
struct Band {
    vector: VectorId,
    pages: usize,
    /// Of each row what it was from which column on.
    rows: Vec<Vec<(usize, Held)>>,
}

impl Log {
    /// Draws the residency of every vector over time as an SVG.
    ///
    /// # Errors
    /// [`WatchError::NotDrawn`], also when nothing was recorded.
    pub fn draw_heat_map(&self, path: &Path, how: HeatMap) -> Result<(), WatchError> {
        let not_drawn = |reason: String| WatchError::NotDrawn { path: path.to_owned(), reason };
        let (bands, left_out) = self.bands(how);
        if bands.is_empty() {
            return Err(not_drawn("no vector was recorded".to_owned()));
        }
        self.draw(path, how, &bands, left_out).map_err(|error| not_drawn(error.to_string()))
    }

    /// The rows, and how many vectors have none.
    fn bands(&self, how: HeatMap) -> (Vec<Band>, usize) {
        let mut sizes: BTreeMap<VectorId, usize> = BTreeMap::new();
        for event in &self.events {
            if let What::Made { vector, pages } = event.what {
                sizes.insert(vector, pages as usize);
            }
        }
        let mut sizes: Vec<_> = sizes.into_iter().filter(|(_, pages)| *pages > 0).collect();
        sizes.sort_by_key(|(vector, pages)| (std::cmp::Reverse(*pages), *vector));
        let left_out = sizes.len().saturating_sub(how.most_vectors);
        sizes.truncate(how.most_vectors);
        sizes.sort_unstable();
        let all: usize = sizes.iter().map(|(_, pages)| pages).sum();
        let band = |(vector, pages): (VectorId, usize)| {
            let rows = (how.most_rows * pages / all.max(1)).clamp(1, pages);
            Band { vector, pages, rows: vec![Vec::new(); rows] }
        };
        let mut bands: Vec<Band> = sizes.into_iter().map(band).collect();
        let devices: Vec<NodeId> =
            self.nodes.iter().map(|(node, _)| *node).filter(|node| !node.is_host()).collect();
        let (first_ns, last_ns) = self.span_ns();
        let long_ns = (last_ns - first_ns).max(1);
        let mut events = self.events.iter().peekable();
        let mut replay = Replay::default();
        for column in 0..how.columns {
            let end_ns = first_ns + long_ns * (column as u64 + 1) / how.columns as u64;
            // In the order in which they were read: that of times is not quite the order of each vector.
            while let Some(event) = events.next_if(|event| event.at_ns <= end_ns) {
                replay.apply(event);
            }
            bands.iter_mut().for_each(|band| band.look(&replay, &devices, column));
        }
        (bands, left_out)
    }

    fn draw(
        &self,
        path: &Path,
        how: HeatMap,
        bands: &[Band],
        left_out: usize,
    ) -> Result<(), Box<dyn Error>> {
        let rows: usize = bands.iter().map(|band| band.rows.len() + 1).sum();
        let height = rows as u32 * ROW_PIXELS + 90;
        let area = SVGBackend::new(path, (how.width_pixels, height)).into_drawing_area();
        area.fill(&WHITE)?;
        let (first_ns, last_ns) = self.span_ns();
        let long_ms = ((last_ns - first_ns).max(1)) as f64 / 1e6;
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_top(34)
            .x_label_area_size(34)
            .y_label_area_size(NAME_PIXELS)
            .build_cartesian_2d(0.0..long_ms, rows as f64..0.0)?;
        chart.configure_mesh().disable_mesh().disable_y_axis().x_desc("ms").draw()?;
        let column_ms = long_ms / how.columns as f64;
        let mut top = 0;
        for band in bands {
            let mut above = top;
            let alike = band.rows.chunk_by(|a, b| a == b).map(|rows| {
                let from = above;
                above += rows.len();
                (from, above, &rows[0])
            });
            let alike: Vec<_> = alike.collect();
            let cells = alike.iter().flat_map(|(above, below, runs)| {
                let ends = runs.iter().skip(1).map(|(column, _)| *column).chain([how.columns]);
                runs.iter().zip(ends).map(move |((column, held), end)| {
                    let (left, right) = (*column as f64 * column_ms, end as f64 * column_ms);
                    let (above, below) = (*above as f64, *below as f64);
                    Rectangle::new([(left, above), (right, below)], held.color().filled())
                })
            });
            chart.draw_series(cells)?;
            let middle = 34 + 8 + ((top * 2 + band.rows.len()) as u32 * ROW_PIXELS / 2) as i32;
            let name = self.name(band.vector);
            area.draw(&Text::new(name, (8, middle - 12), ("sans-serif", 13)))?;
            top += band.rows.len() + 1;
        }
        let shown = bands.iter().flat_map(|band| band.rows.iter().flatten());
        self.draw_legend(&area, &shown.map(|(_, held)| *held).collect(), left_out)?;
        area.present()?;
        Ok(())
    }

    fn draw_legend(
        &self,
        area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
        shown: &BTreeSet<Held>,
        left_out: usize,
    ) -> Result<(), Box<dyn Error>> {
        let mut words =
            vec![(Held::Nobody, "never written".to_owned()), (Held::Host, "host".to_owned())];
        let devices = self.nodes.iter().filter(|(node, _)| !node.is_host()).enumerate();
        words.extend(
            devices.map(|(number, (node, _))| (Held::Device(number as u8), node.to_string())),
        );
        words.push((Held::Several, "several, clean".to_owned()));
        let mut left = NAME_PIXELS;
        for (held, word) in words.into_iter().filter(|(held, _)| shown.contains(held)) {
            let corner = [(left, 10), (left + 14, 24)];
            area.draw(&Rectangle::new(corner, held.color().filled()))?;
            let long = 30 + 7 * word.len() as i32;
            area.draw(&Text::new(word, (left + 19, 10), ("sans-serif", 13)))?;
            left += long;
        }
        let mut notes = Vec::new();
        if left_out > 0 {
            notes.push(format!("{left_out} smaller vectors not drawn"));
        }
        if self.dropped_events > 0 {
            notes.push(format!(
                "{} events were dropped: not all of this is so",
                self.dropped_events
            ));
        }
        area.draw(&Text::new(notes.join("; "), (left + 10, 10), ("sans-serif", 13)))?;
        Ok(())
    }
}

impl Band {
    /// Takes down who holds most of each row.
    fn look(&mut self, replay: &Replay, devices: &[NodeId], column: usize) {
        let (pages, count) = (self.pages, self.rows.len());
        let held = replay.pages(self.vector);
        for (row, runs) in self.rows.iter_mut().enumerate() {
            let part = row * pages / count..(row + 1) * pages / count;
            let now = held.and_then(|held| held.get(part)).map_or(Held::Gone, |held| {
                let mut counts: BTreeMap<Held, usize> = BTreeMap::new();
                for nodes in held {
                    *counts.entry(Held::of(*nodes, devices)).or_default() += 1;
                }
                let most = counts.into_iter().max_by_key(|(_, count)| *count);
                most.map_or(Held::Gone, |(held, _)| held)
            });
            if runs.last().is_none_or(|(_, before)| *before != now) {
                runs.push((column, now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hmmap_core::{
        Cause, DeviceId,
        directory::PageSpan,
        events::Event,
        fence::{FencePoint, TimelineId},
    };

    use super::*;

    #[test]
    fn a_cell_is_who_held_most_of_the_row_at_the_end_of_the_column() {
        let vector = VectorId(7);
        let device = DeviceId::new(0).unwrap();
        let (on, fence) = (NodeId::of_device(device), None);
        let all = PageSpan { first: 0, end: 6 };
        // Two of the second row, and one of the first.
        let half = PageSpan { first: 2, end: 5 };
        let copy_fence = FencePoint { timeline: TimelineId::new(device, 0), value: 1 };
        let cause = Cause::Launch;
        let whats = [
            (0, What::Made { vector, pages: 6 }),
            (10, What::Written { vector, pages: all, on: NodeId::HOST, cause, fence }),
            (
                20,
                What::Copied {
                    vector,
                    pages: half,
                    from: NodeId::HOST,
                    to: on,
                    cause,
                    fence: copy_fence,
                },
            ),
            (30, What::Written { vector, pages: half, on, cause, fence }),
            (40, What::Dropped { vector }),
        ];
        let event = |(at_ns, what)| Event { at_ns, thread: 1, what };
        let nodes = vec![(NodeId::HOST, "host".to_owned()), (on, "a card".to_owned())];
        let log = Log { events: whats.into_iter().map(event).collect(), nodes, ..Log::default() };
        let how = HeatMap { columns: 8, most_rows: 2, ..HeatMap::default() };
        let (bands, left_out) = log.bands(how);
        assert_eq!((bands.len(), left_out), (1, 0));
        let device = Held::Device(0);
        let ends = |runs: &[(usize, Held)]| runs.to_vec();
        assert_eq!(
            bands[0].rows,
            [
                ends(&[(0, Held::Nobody), (1, Held::Host), (7, Held::Gone)]),
                ends(&[
                    (0, Held::Nobody),
                    (1, Held::Host),
                    (3, Held::Several),
                    (5, device),
                    (7, Held::Gone)
                ]),
            ]
        );
        let (bands, left_out) = log.bands(HeatMap { most_vectors: 0, ..how });
        assert_eq!((bands.len(), left_out), (0, 1));
    }
}
