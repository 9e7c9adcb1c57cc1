//! One picture of a report: each timed case as a share of the machine's limit.

use std::path::Path;

use plotters::prelude::*;

use crate::{
    BenchError, Report, Suite,
    record::{Record, Value},
    suites::oversub::{BYTES_OVER_BOUND, Named, TIME_OVER_BOUND},
};

const ROW_PIXELS: u32 = 26;
const WIDTH_PIXELS: u32 = 900;
const NAME_PIXELS: u32 = 260;
/// Ratios from here on all look alike.
const LARGEST_RATIO: f64 = 100.0;
const SMALLEST_RATIO: f64 = 0.1;

/// Draws the timed cases of a report as an SVG: one row each, a bar as long as `ratio` (1 is the machine's limit; the
/// scale is logarithmic), a tick at the goal. A report of suite `oversub` alone becomes a chart for each program: bytes moved, or
/// time taken, over the least that any policy could, by how much larger than the device the data is.
///
/// # Errors
/// [`BenchError::Plot`] when the file cannot be written, or there is nothing to draw.
pub fn plot(report: &Report, file: &Path) -> Result<(), BenchError> {
    let rows: Vec<Row> = report.records.iter().filter_map(Row::of).collect();
    let oversubscribed = Oversubscribed::of(report);
    let is_all = report.records.iter().all(|record| record.suite == Suite::Oversub);
    if is_all && !oversubscribed.is_empty() {
        return draw_oversubscribed(&oversubscribed, file)
            .map_err(|error| BenchError::Plot(error.to_string()));
    }
    if rows.is_empty() {
        return Err(BenchError::Plot("no case of this run has a time beside a limit".to_owned()));
    }
    draw(report, &rows, file).map_err(|error| BenchError::Plot(error.to_string()))
}

/// One bar.
struct Row {
    name: String,
    ratio: f64,
    goal: Option<f64>,
}

impl Row {
    fn of(record: &Record) -> Option<Self> {
        let Value::Time { ratio, goal, .. } = record.value else { return None };
        Some(Self { name: format!("{} {}", record.suite, record.case), ratio, goal })
    }
}

fn draw(report: &Report, rows: &[Row], file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let height = 110 + rows.len() as u32 * ROW_PIXELS;
    let area = SVGBackend::new(file, (WIDTH_PIXELS, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let names: Vec<&str> = report.machine.devices.iter().map(|device| &*device.name).collect();
    let title = format!("hmmap {} on {}: share of the limit", report.version, names.join(", "));
    let count = rows.len();
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(NAME_PIXELS)
        .build_cartesian_2d(
            (SMALLEST_RATIO..LARGEST_RATIO).log_scale(),
            (0..count).into_segmented(),
        )?;
    let name = |at: &SegmentValue<usize>| match at {
        SegmentValue::CenterOf(row) => rows
            .get(count - 1 - row.min(&(count - 1)))
            .map_or(String::new(), |row| row.name.clone()),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc("limit / ours")
        .x_label_formatter(&|ratio| format!("{ratio}"))
        .y_labels(count)
        .y_label_formatter(&name)
        .draw()?;
    chart.draw_series(rows.iter().enumerate().map(|(at, row)| {
        let at = count - 1 - at;
        let met = row.goal.is_none_or(|goal| row.ratio >= goal);
        let color = if met { RGBColor(70, 130, 90) } else { RGBColor(190, 80, 60) };
        let ratio = row.ratio.clamp(SMALLEST_RATIO, LARGEST_RATIO);
        let (from, to) = (SegmentValue::Exact(at), SegmentValue::Exact(at + 1));
        let mut bar = Rectangle::new([(SMALLEST_RATIO, from), (ratio, to)], color.filled());
        bar.set_margin(4, 4, 0, 0);
        bar
    }))?;
    let goals = rows.iter().enumerate().filter_map(|(at, row)| Some((count - 1 - at, row.goal?)));
    chart.draw_series(goals.map(|(at, goal)| {
        let ends = [(goal, SegmentValue::Exact(at)), (goal, SegmentValue::Exact(at + 1))];
        PathElement::new(ends, BLACK.stroke_width(2))
    }))?;
    area.present()?;
    Ok(())
}

/// One policy on one program: its ratios by factor.
struct Oversubscribed<'a> {
    program: &'a str,
    policy: &'a str,
    /// What the ratios are of.
    axis: &'static str,
    ratios: Vec<(f64, f64)>,
}

impl<'a> Oversubscribed<'a> {
    /// Neighbouring factors of the same program and policy become one line.
    fn of(report: &'a Report) -> Vec<Self> {
        let mut lines: Vec<Self> = Vec::new();
        for record in report.records.iter().filter(|record| record.suite == Suite::Oversub) {
            let Value::Metric { metric, value, .. } = record.value else { continue };
            let axis = match metric {
                BYTES_OVER_BOUND => "bytes / least",
                TIME_OVER_BOUND => "time / least",
                _ => continue,
            };
            let Some(Named { program, factor, policy }) = Named::of(record.case) else { continue };
            let point = (factor, value);
            let known = lines.iter_mut().find(|one| (one.program, one.policy) == (program, policy));
            match known {
                Some(line) => line.ratios.push(point),
                None => lines.push(Self { program, policy, axis, ratios: vec![point] }),
            }
        }
        lines
    }
}

/// What the data is at most, in devices; and the largest ratio that is drawn, all above look alike.
const FACTORS: std::ops::Range<f64> = 0.5..3.0;
const RATIOS: std::ops::Range<f64> = 0.9..16.0;
const CHART_PIXELS: (u32, u32) = (450, 260);
/// Of the policies, in the order in which they are in the report.
const COLORS: [RGBColor; 4] =
    [RGBColor(200, 40, 70), RGBColor(60, 160, 70), RGBColor(20, 90, 200), RGBColor(240, 140, 20)];

fn draw_oversubscribed(
    lines: &[Oversubscribed<'_>],
    file: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut programs: Vec<&str> = lines.iter().map(|line| line.program).collect();
    programs.dedup();
    let rows = programs.len().div_ceil(2);
    let size = (2 * CHART_PIXELS.0, rows as u32 * CHART_PIXELS.1);
    let area = SVGBackend::new(file, size).into_drawing_area();
    area.fill(&WHITE)?;
    for (program, part) in programs.iter().zip(area.split_evenly((rows, 2))) {
        let of_program = || lines.iter().filter(|line| line.program == *program);
        let axis = of_program().next().map_or("", |line| line.axis);
        let mut chart = ChartBuilder::on(&part)
            .caption(program, ("sans-serif", 15))
            .margin(8)
            .x_label_area_size(30)
            .y_label_area_size(40)
            .build_cartesian_2d(FACTORS, RATIOS.log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("data / device")
            .y_desc(axis)
            .y_label_formatter(&|ratio| format!("{ratio}"))
            .draw()?;
        let least = [FACTORS.start, FACTORS.end].map(|factor| (factor, 1.0));
        chart
            .draw_series(LineSeries::new(least, BLACK))?
            .label("least")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 12, y)], BLACK));
        for (number, line) in of_program().enumerate() {
            let color = COLORS[number % COLORS.len()];
            let most = RATIOS.end;
            let points = line.ratios.iter().map(|(factor, ratio)| (*factor, ratio.min(most)));
            // Points, too: a line of one is none.
            let line_and_points = LineSeries::new(points, color.stroke_width(2)).point_size(2);
            chart
                .draw_series(line_and_points)?
                .label(line.policy)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], color));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .border_style(BLACK)
            .background_style(WHITE)
            .draw()?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Model, machine::Machine};

    #[test]
    fn a_picture_names_every_timed_case_and_nothing_else() {
        let mut report = Report::new(Machine::look(), "nothing");
        let file = std::env::temp_dir().join(format!("hmmap-plot-{}.svg", std::process::id()));
        assert!(plot(&report, &file).is_err(), "nothing to draw");
        let record = |case, value: Value| Record {
            suite: Suite::Migrate,
            case,
            device: String::new(),
            model: Model::Migrate,
            bytes: 1,
            runs: 1,
            met: value.met(),
            value,
        };
        let time = |ratio| Value::Time {
            median_s: 1.0,
            p10_s: 1.0,
            limit_s: ratio,
            ratio,
            goal: Some(0.95),
        };
        report.records = vec![
            record("first", time(0.97)),
            record("second", time(1e6)),
            record("number", Value::Metric { metric: "m", value: 1.0, goal: None }),
        ];
        plot(&report, &file).unwrap();
        let svg = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(svg.contains("migrate first") && svg.contains("migrate second"));
        assert!(!svg.contains("migrate number"));
    }

    #[test]
    fn programs_alone_become_a_chart_each_with_a_line_for_each_policy() {
        let mut report = Report::new(Machine::look(), "nothing");
        let record = |case, value| Record {
            suite: Suite::Oversub,
            case,
            device: String::new(),
            model: Model::Migrate,
            bytes: 1,
            runs: 1,
            met: None,
            value: Value::Metric { metric: BYTES_OVER_BOUND, value, goal: None },
        };
        report.records = vec![
            record("triad/100%/lru", 1.0),
            record("triad/200%/lru", 2.0),
            record("cg/200%/reuse", 1e9),
        ];
        let file = std::env::temp_dir().join(format!("hmmap-traced-{}.svg", std::process::id()));
        plot(&report, &file).unwrap();
        let svg = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(["triad", "cg", "lru", "reuse", "least"].iter().all(|one| svg.contains(one)));
        let lines = Oversubscribed::of(&report);
        assert_eq!((lines.len(), lines[0].ratios.len()), (2, 2));
    }
}
