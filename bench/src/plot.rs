//! Plots as SVG files.

use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::error::{Context, Result};

const SIZE_PX: (u32, u32) = (960, 480);
/// The y axis goes on to this multiple of the highest point, so that the legend covers no line.
const LEGEND_ROOM: f64 = 6.0;
/// The same of a linear axis.
const LINEAR_LEGEND_ROOM: f64 = 1.6;
/// The names of marks stand at this multiple, below the legend and above the lines.
const MARK_NAME_AT: f64 = 1.08;

/// Width of the thinnest line, in pixels, and of the widest.
const LINE_WIDTH: usize = 2;
const LINE_WIDTH_MAX: usize = 7;

/// A line of a plot.
#[derive(Clone, Debug)]
pub struct Series {
    /// For the legend.
    pub name: String,
    /// (x, y). On the logarithmic y axis points at or below zero are left out.
    pub points: Vec<(f64, f64)>,
}

/// A plot with a linear x axis and a logarithmic y axis, since latencies span decades.
#[derive(Clone, Copy, Debug)]
pub struct Plot<'a> {
    /// The headline.
    pub title: &'a str,
    /// What x is, with its unit.
    pub x_label: &'a str,
    /// What y is, with its unit.
    pub y_label: &'a str,
}

/// A moment at which something changes.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Where on the x axis.
    pub x: f64,
    /// What changes, in a word.
    pub name: String,
}

/// Draws `series` to `path` over a linear y axis from zero, with a vertical line at each mark.
pub fn draw_linear(path: &Path, plot: Plot, marks: &[Mark], series: &[Series]) -> Result<()> {
    render_linear(path, plot, marks, series).context(|| format!("draw {}", path.display()))
}

/// Draws `series` to `path`.
pub fn draw(path: &Path, plot: Plot, series: &[Series]) -> Result<()> {
    render(path, plot, series).context(|| format!("draw {}", path.display()))
}

fn render(path: &Path, plot: Plot, series: &[Series]) -> Result<()> {
    let shown: Vec<Vec<(f64, f64)>> = series
        .iter()
        .map(|line| {
            line.points
                .iter()
                .copied()
                .filter(|&(_, y)| y > 0.0)
                .collect()
        })
        .collect();
    let all = || shown.iter().flatten();
    let x_min = all().map(|&(x, _)| x).fold(f64::INFINITY, f64::min);
    let x_max = all().map(|&(x, _)| x).fold(f64::NEG_INFINITY, f64::max);
    let y_min = all().map(|&(_, y)| y).fold(f64::INFINITY, f64::min);
    let y_max = all().map(|&(_, y)| y).fold(f64::NEG_INFINITY, f64::max);
    // Without points the axes still need some range.
    let (xs, ys) = if x_min <= x_max {
        (
            x_min..x_max.max(x_min + 1.0),
            y_min / 1.5..y_max * LEGEND_ROOM,
        )
    } else {
        (0.0..1.0, 0.1..1.0)
    };
    let root = SVGBackend::new(path, SIZE_PX).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = frame(&root, plot).build_cartesian_2d(xs, ys.log_scale())?;
    let names = series.iter().map(|line| line.name.as_str());
    draw_lines(&mut chart, plot, names.zip(shown).collect())?;
    root.present()?;
    Ok(())
}

fn render_linear(path: &Path, plot: Plot, marks: &[Mark], series: &[Series]) -> Result<()> {
    let all = || series.iter().flat_map(|line| &line.points);
    let x_max = all().map(|&(x, _)| x).fold(1.0, f64::max);
    let y_max = all().map(|&(_, y)| y).fold(1.0, f64::max);
    let y_end = y_max * LINEAR_LEGEND_ROOM;
    let root = SVGBackend::new(path, SIZE_PX).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = frame(&root, plot).build_cartesian_2d(0.0..x_max, 0.0..y_end)?;
    for mark in marks {
        let line = [(mark.x, 0.0), (mark.x, y_end)];
        chart.draw_series(LineSeries::new(line, BLACK.mix(0.2)))?;
        let text = Text::new(
            mark.name.clone(),
            (mark.x, y_max * MARK_NAME_AT),
            ("sans-serif", 12),
        );
        chart.draw_series([text])?;
    }
    let lines = series
        .iter()
        .map(|line| (line.name.as_str(), line.points.clone()));
    draw_lines(&mut chart, plot, lines.collect())?;
    root.present()?;
    Ok(())
}

fn frame<'a, 'b>(
    root: &'a DrawingArea<SVGBackend<'b>, Shift>,
    plot: Plot,
) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut frame = ChartBuilder::on(root);
    frame
        .caption(plot.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70);
    frame
}

fn draw_lines<'a, 'b: 'a, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, Y>>,
    plot: Plot,
    lines: Vec<(&str, Vec<(f64, f64)>)>,
) -> Result<()>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .x_desc(plot.x_label)
        .y_desc(plot.y_label)
        .light_line_style(WHITE)
        .x_label_formatter(&|x| significant(*x))
        .y_label_formatter(&|y| significant(*y))
        .draw()
        .context(|| "axes".into())?;
    let count = lines.len();
    for (index, (name, points)) in lines.into_iter().enumerate() {
        // Those drawn first are wider: where lines coincide, each shows its rim.
        let wider = (count - 1 - index).min(LINE_WIDTH_MAX - LINE_WIDTH) as u32;
        let style = Palette99::pick(index).stroke_width(LINE_WIDTH as u32 + wider);
        chart
            .draw_series(LineSeries::new(points, style))
            .context(|| name.into())?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()
        .context(|| "legend".into())
}

/// A label for either axis.
fn significant(value: f64) -> String {
    if value >= 10.0 && value.fract().abs() < 1e-9 {
        format!("{value:.0}")
    } else {
        format!("{}", (value * 1e4).round() / 1e4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLOT: Plot = Plot {
        title: "a < b & c",
        x_label: "time, s",
        y_label: "latency, µs",
    };

    fn drawn(series: &[Series]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.svg");
        draw(&path, PLOT, series).unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    /// Every tag that is opened is closed, in order.
    fn is_balanced(svg: &str) -> bool {
        let mut open = Vec::new();
        for tag in svg
            .split('<')
            .skip(1)
            .map(|rest| rest.split('>').next().unwrap())
        {
            if let Some(name) = tag.strip_prefix('/') {
                if open.pop() != Some(name) {
                    return false;
                }
            } else if !tag.ends_with('/') && !tag.starts_with(['?', '!']) {
                open.push(tag.split_whitespace().next().unwrap());
            }
        }
        open.is_empty()
    }

    #[test]
    fn lines_become_polylines_with_a_legend() {
        let svg = drawn(&[
            Series {
                name: "on, p95".into(),
                points: vec![(0.0, 0.1), (1.0, 0.2), (2.0, 5.0)],
            },
            Series {
                name: "off, p95".into(),
                points: vec![(0.0, 1.0), (1.0, 0.0), (2.0, 2.0)],
            },
        ]);
        assert!(svg.starts_with("<svg") && is_balanced(&svg), "{svg}");
        assert!(svg.matches("<polyline").count() >= 2);
        assert!(svg.contains("on, p95") && svg.contains("a &lt; b &amp; c"));
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn a_linear_axis_shows_zeros_and_marks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.svg");
        let line = Series {
            name: "served".into(),
            points: vec![(0.0, 0.0), (1.0, 100.0), (2.0, 0.0)],
        };
        let mark = Mark {
            x: 1.0,
            name: "outage".into(),
        };
        draw_linear(&path, PLOT, &[mark], &[line]).unwrap();
        let svg = std::fs::read_to_string(path).unwrap();
        assert!(is_balanced(&svg) && !svg.contains("NaN"));
        assert!(svg.contains("served") && svg.contains("outage"));
    }

    #[test]
    fn nothing_to_draw_still_gives_a_picture() {
        let svg = drawn(&[Series {
            name: "none".into(),
            points: vec![],
        }]);
        assert!(is_balanced(&svg) && !svg.contains("NaN"));
    }
}
