//! The pictures of a report: SVG that stands in the page and takes its colours from it.
//!
//! plotters draws with colours that stand for roles; the SVG's text is then given the page's CSS
//! variables in their place, so that one picture fits a light and a dark page.

use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::document::{Contender, JobResult, Round};
use super::figures::Figure;
use super::terminal::{number, ratio};
use crate::stats::Spread;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const INK: RGBColor = RGBColor(1, 0, 1);
const GRID: RGBColor = RGBColor(1, 0, 2);
/// A colour for each server; more than two take turns.
const SERIES: [RGBColor; 4] = [
    RGBColor(1, 1, 1),
    RGBColor(1, 1, 2),
    RGBColor(1, 1, 3),
    RGBColor(1, 1, 4),
];

const CHART_SIZE: (u32, u32) = (620, 360);
const BARS_SIZE: (u32, u32) = (620, 360);
const TEXT_SIZE: u32 = 16;
const LABEL_SIZE: u32 = 16;
/// A round's own line beside the one over all rounds.
const ROUND_OPACITY: f64 = 0.4;
/// The figures that have bars: name, head.
const BARS: [(&str, &str); 3] = [
    ("operations_per_second", "throughput, ops/s"),
    ("server_cpu_seconds_per_100k", "server CPU, s per 100k ops"),
    ("p99_us", "p99 latency"),
];

/// The CSS variable of a server's colour.
pub fn series_variable(index: usize) -> String {
    format!("--series-{}", index % SERIES.len())
}

/// Latency over the share of requests that took no longer, both logarithmic: equal steps to the
/// right leave a tenth of the requests each. None if nothing was timed.
pub fn percentiles(job: &JobResult) -> Result<Option<String>> {
    let lines: Vec<Vec<Curve>> = job.servers.iter().map(curves).collect();
    let points = || lines.iter().flatten().flatten();
    let Some(top) = Spread::over(points().map(|&(_, us)| us)) else {
        return Ok(None);
    };
    let right = points().fold(1.0_f64, |most, &(nines, _)| most.max(nines));
    let bottom = (top.min.max(1.0).log10() * 10.0).floor() / 10.0;
    let top = (top.max.log10() * 10.0).ceil() / 10.0;
    let (heavy, light) = decades(bottom, top);
    let svg = draw(CHART_SIZE, |area| {
        let x = Axis {
            range: 0.0..right,
            heavy: (0..=right as u32).map(f64::from).collect(),
            light: Vec::new(),
            label: percent_label,
        };
        let y = Axis {
            range: bottom..top,
            heavy,
            light,
            label: |log| time_label(10.0_f64.powf(log)),
        };
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(46)
            .y_label_area_size(72)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .axis_style(INK.mix(0.5))
            .bold_line_style(GRID)
            .light_line_style(GRID.mix(0.4))
            .label_style(("sans-serif", TEXT_SIZE, &INK))
            .axis_desc_style(("sans-serif", LABEL_SIZE, &INK))
            .x_desc("percent of requests, each step leaves a tenth")
            .draw()?;
        for (index, curves) in lines.iter().enumerate() {
            for (at, curve) in curves.iter().enumerate() {
                let points = curve
                    .iter()
                    .map(|&(nines, us)| (nines, us.max(1.0).log10()));
                chart.draw_series(LineSeries::new(points, line_style(index, at)))?;
            }
        }
        Ok(())
    })?;
    Ok(Some(svg))
}

/// Answers in each second of the measured time. None if it had no two whole seconds.
pub fn course(job: &JobResult) -> Result<Option<String>> {
    let lines: Vec<Vec<Curve>> = job.servers.iter().map(courses).collect();
    let points = || lines.iter().flatten().flatten();
    let seconds = points().fold(0.0_f64, |most, &(second, _)| most.max(second));
    let most = points().fold(0.0_f64, |most, &(_, count)| most.max(count));
    if seconds < 2.0 || most == 0.0 {
        return Ok(None);
    }
    let svg = draw(CHART_SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(46)
            .y_label_area_size(72)
            .build_cartesian_2d(1.0..seconds, 0.0..most * 1.1)?;
        chart
            .configure_mesh()
            .axis_style(INK.mix(0.5))
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(("sans-serif", TEXT_SIZE, &INK))
            .axis_desc_style(("sans-serif", LABEL_SIZE, &INK))
            .x_labels((seconds as usize).min(10))
            .y_labels(6)
            .x_label_formatter(&|second| format!("{second:.0}"))
            .y_label_formatter(&|count| short_number(*count))
            .x_desc("second of the measured time")
            .draw()?;
        for (index, curves) in lines.iter().enumerate() {
            for (at, curve) in curves.iter().enumerate() {
                let points = curve.iter().copied();
                chart.draw_series(LineSeries::new(points, line_style(index, at)))?;
            }
        }
        Ok(())
    })?;
    Ok(Some(svg))
}

/// Throughput, CPU and p99 of the servers side by side, each figure on a scale of its own.
pub fn bars(job: &JobResult) -> Result<String> {
    draw(BARS_SIZE, |area| {
        for (panel, (name, head)) in area.split_evenly((1, BARS.len())).iter().zip(BARS) {
            let figure = Figure::named(name).ok_or_else(|| anyhow!("no figure {name}"))?;
            panel_of_bars(panel, job, figure, head)?;
        }
        Ok(())
    })
}

fn panel_of_bars(panel: &Area<'_>, job: &JobResult, figure: &Figure, head: &str) -> Result<()> {
    let values: Vec<Option<f64>> = job
        .servers
        .iter()
        .map(|server| server.figures.get(figure.name).map(|spread| spread.median))
        .collect();
    let most = values
        .iter()
        .flatten()
        .fold(0.0_f64, |most, &value| most.max(value));
    let (width, height) = panel.dim_in_pixel();
    let (width, height) = (f64::from(width), f64::from(height));
    let text = |size: u32| {
        ("sans-serif", size, &INK)
            .into_text_style(panel)
            .pos(Pos::new(HPos::Center, VPos::Center))
    };
    let middle = (width / 2.0) as i32;
    panel.draw(&Text::new(head.to_owned(), (middle, 18), text(TEXT_SIZE)))?;
    if let Some(known) = job.ratios.get(figure.ratio) {
        let told = format!("ratio {}", ratio(*known));
        panel.draw(&Text::new(told, (middle, 42), text(TEXT_SIZE)))?;
    }
    // The bars' ground and the height of the tallest.
    let (ground, room) = (height - 30.0, height - 30.0 - 84.0);
    let step = width * 0.8 / values.len().max(1) as f64;
    for (index, (value, server)) in values.iter().zip(&job.servers).enumerate() {
        let left = width * 0.1 + step * index as f64;
        let centre = (left + step / 2.0) as i32;
        let below = (centre, (ground + 16.0) as i32);
        panel.draw(&Text::new(server.name.clone(), below, text(TEXT_SIZE)))?;
        let Some(value) = value else { continue };
        let tall = if most > 0.0 {
            (room * value / most).max(1.0)
        } else {
            1.0
        };
        let corners = [
            ((left + step * 0.18) as i32, (ground - tall) as i32),
            ((left + step * 0.82) as i32, ground as i32),
        ];
        panel.draw(&Rectangle::new(
            corners,
            SERIES[index % SERIES.len()].filled(),
        ))?;
        let label = match figure.name {
            "p99_us" => time_label(*value),
            "operations_per_second" => short_number(*value),
            _ => number(*value),
        };
        let above = (centre, (ground - tall - 11.0) as i32);
        panel.draw(&Text::new(label, above, text(TEXT_SIZE)))?;
    }
    let line = vec![
        ((width * 0.06) as i32, ground as i32),
        ((width * 0.94) as i32, ground as i32),
    ];
    panel.draw(&PathElement::new(line, INK.mix(0.5)))?;
    Ok(())
}

/// A straight scale that says where its lines are and what they are called.
struct Axis {
    range: Range<f64>,
    heavy: Vec<f64>,
    light: Vec<f64>,
    label: fn(f64) -> String,
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        first + (share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            self.light.clone()
        } else {
            self.heavy.clone()
        }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        (self.label)(*value)
    }
}

/// A line: x and y of its points.
type Curve = Vec<(f64, f64)>;

/// The latency curve over all rounds, then each round's own if there are several. x is the number
/// of nines, y is in microseconds.
fn curves(server: &Contender) -> Vec<Curve> {
    let rounds: Vec<&Round> = server
        .rounds
        .iter()
        .filter(|round| round.latency_us.count > 0)
        .collect();
    let curve = |round: &Round| -> Curve {
        // The slowest request is one of so many.
        let most_nines = (round.latency_us.count as f64).log10();
        let nines = |percent: f64| (-(1.0 - percent / 100.0).log10()).min(most_nines);
        round
            .latency_us
            .percentiles
            .iter()
            .map(|&(percent, us)| (nines(percent), us))
            .collect()
    };
    with_median(rounds.into_iter().map(curve).collect())
}

/// Answers per second over the rounds, then each round's own if there are several.
fn courses(server: &Contender) -> Vec<Curve> {
    let course = |round: &Round| -> Curve {
        let counts = round.per_second.iter().enumerate();
        counts
            .map(|(at, &count)| (at as f64 + 1.0, count as f64))
            .collect()
    };
    with_median(server.rounds.iter().map(course).collect())
}

/// Puts the median of the curves, point by point, before them. One curve is its own median.
fn with_median(mut curves: Vec<Curve>) -> Vec<Curve> {
    if curves.len() < 2 {
        return curves;
    }
    let length = curves.iter().map(Vec::len).min().unwrap_or(0);
    let at = |index: usize, of: fn(&(f64, f64)) -> f64| {
        Spread::over(curves.iter().map(|curve| of(&curve[index]))).map(|spread| spread.median)
    };
    let median = (0..length)
        .filter_map(|index| Some((at(index, |point| point.0)?, at(index, |point| point.1)?)));
    let median = median.collect();
    curves.insert(0, median);
    curves
}

fn line_style(server: usize, curve: usize) -> ShapeStyle {
    let colour = SERIES[server % SERIES.len()];
    match curve {
        0 => colour.stroke_width(3),
        _ => colour.mix(ROUND_OPACITY).stroke_width(1),
    }
}

/// Powers of ten for labels, and their multiples for faint lines; few powers bring 2 and 5 in.
fn decades(bottom: f64, top: f64) -> (Vec<f64>, Vec<f64>) {
    let powers = (bottom.floor() as i32)..=(top.ceil() as i32);
    let within = |value: &f64| (bottom..=top).contains(value);
    let multiples = |digits: &'static [u32]| -> Vec<f64> {
        let all = powers.clone().flat_map(|power| {
            digits
                .iter()
                .map(move |&digit| f64::from(power) + f64::from(digit).log10())
        });
        all.filter(within).collect()
    };
    let heavy = if top - bottom > 2.5 {
        multiples(&[1])
    } else {
        multiples(&[1, 2, 5])
    };
    (heavy, multiples(&[1, 2, 3, 4, 5, 6, 7, 8, 9]))
}

/// 1 nine is 90 %, 2 are 99 %.
fn percent_label(nines: f64) -> String {
    match nines.round() as usize {
        0 => "0".to_owned(),
        1 => "90".to_owned(),
        2 => "99".to_owned(),
        more => format!("99.{}", "9".repeat(more - 2)),
    }
}

fn time_label(us: f64) -> String {
    let (value, unit) = match us {
        us if us < 999.5 => (us, "us"),
        us if us < 999_500.0 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    match value {
        value if value < 9.95 => format!("{} {unit}", one_decimal(value)),
        value => format!("{value:.0} {unit}"),
    }
}

fn short_number(value: f64) -> String {
    let (value, unit) = match value {
        value if value < 9_999.5 => (value, ""),
        value if value < 999_500.0 => (value / 1e3, "k"),
        value => (value / 1e6, "M"),
    };
    match unit {
        "" => format!("{value:.0}"),
        unit if value < 99.5 => format!("{}{unit}", one_decimal(value)),
        unit => format!("{value:.0}{unit}"),
    }
}

/// With a decimal if that tells something.
fn one_decimal(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Draws an SVG and gives it the page's colours.
fn draw(size: (u32, u32), picture: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        picture(&area)?;
        area.present()
            .map_err(|error| anyhow!("cannot draw: {error}"))?;
    }
    let mut roles = vec![(INK, "--ink".to_owned()), (GRID, "--grid".to_owned())];
    roles.extend(
        SERIES
            .iter()
            .enumerate()
            .map(|(index, colour)| (*colour, series_variable(index))),
    );
    for (RGBColor(red, green, blue), variable) in roles {
        svg = svg.replace(
            &format!("#{red:02X}{green:02X}{blue:02X}"),
            &format!("var({variable})"),
        );
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short() {
        let times = [
            (250.0, "250 us"),
            (1_500.0, "1.5 ms"),
            (4_999.999, "5 ms"),
            (20_000.0, "20 ms"),
            (2e6, "2 s"),
        ];
        for (us, label) in times {
            assert_eq!(time_label(us), label);
        }
        let numbers = [
            (950.0, "950"),
            (7_500.0, "7500"),
            (45_200.0, "45.2k"),
            (1.5e6, "1.5M"),
        ];
        for (value, label) in numbers {
            assert_eq!(short_number(value), label);
        }
        assert_eq!(
            [0.0, 1.0, 2.0, 4.0].map(percent_label),
            ["0", "90", "99", "99.99"]
        );
    }

    #[test]
    fn the_median_curve_stands_before_the_rounds() {
        let rounds = vec![
            vec![(0.0, 1.0), (1.0, 5.0)],
            vec![(0.0, 3.0)],
            vec![(0.0, 2.0), (1.0, 9.0)],
        ];
        let curves = with_median(rounds.clone());
        assert_eq!(curves[0], [(0.0, 2.0)]);
        assert_eq!(curves[1..], rounds);
        assert_eq!(with_median(vec![vec![(0.0, 1.0)]]).len(), 1);
    }
}
