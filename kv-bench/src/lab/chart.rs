//! Charts as SVG. Colours are stand-ins, which the page's style sheet replaces for dark and light.

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::Chart;
use super::rivals::OURS;
use crate::figures::number;

/// Narrow, so that its words can be read on a phone.
const WIDTH: u32 = 460;
const LINES_HEIGHT: u32 = 340;
const BAR_HEIGHT: u32 = 30;
/// Below the bars, for the axis and its unit.
const BARS_AXIS_HEIGHT: u32 = 56;
/// Above a group of bars.
const TITLE_HEIGHT: u32 = 28;
/// Left of the bars, for their names.
const NAMES_WIDTH: i32 = 152;
/// In the drawing crate's measure, which is a quarter above that of a page.
const FONT_SIZE: u32 = 16;
const INK: RGBColor = RGBColor(0x11, 0x11, 0x11);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const OURS_COLOUR: RGBColor = RGBColor(0xe4, 0x57, 0x2e);
const THEIRS_COLOUR: RGBColor = RGBColor(0x7a, 0x8a, 0x99);
/// Colours of lines that can be told apart on white and on black.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0x7a, 0x8a, 0x99),
    RGBColor(0x3d, 0x8b, 0xd4),
    RGBColor(0x2a, 0xa1, 0x77),
    RGBColor(0xa5, 0x6c, 0xc1),
    RGBColor(0xc7, 0x9a, 0x1b),
    RGBColor(0x4a, 0xb3, 0xc4),
    RGBColor(0xc2, 0x5a, 0x8c),
    RGBColor(0x6f, 0x9a, 0x2d),
];

/// The colour of a series, as CSS writes it.
#[must_use]
pub(crate) fn colour_of(series: &str, index: usize) -> String {
    let RGBColor(r, g, b) = colour(series, index);
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn colour(series: &str, index: usize) -> RGBColor {
    if series == OURS { OURS_COLOUR } else { COLOURS[index % COLOURS.len()] }
}

/// Draws a chart.
///
/// # Errors
/// What the drawing crate says.
pub(crate) fn svg(chart: &Chart) -> Result<String> {
    let mut text = String::new();
    match chart {
        Chart::Bars { unit, bars, .. } => draw_bars(&mut text, OURS, unit, bars)?,
        Chart::Lines { x, y, log, series, .. } => draw_lines(&mut text, (x, y), *log, series)?,
    }
    Ok(text)
}

/// Draws bars under one another, each group of them under its title; those of names that begin with `ours` stand out.
/// On white: nothing around it gives it a colour.
///
/// # Errors
/// What the drawing crate says.
pub(crate) fn groups(ours: &str, unit: &str, groups: &[(String, Vec<Bar>)]) -> Result<String> {
    let (mut inner, mut y) = (String::new(), 0);
    for (title, bars) in groups {
        let mut chart = String::new();
        draw_bars(&mut chart, ours, unit, bars)?;
        let title = title.replace('&', "&amp;").replace('<', "&lt;");
        let baseline = y + TITLE_HEIGHT * 3 / 4;
        inner += &format!(
            "<text x=\"8\" y=\"{baseline}\" font-family=\"sans-serif\" font-size=\"15\" font-weight=\"bold\">"
        );
        inner +=
            &format!("{title}</text>\n{}\n", chart.replacen("<svg", &format!("<svg y=\"{}\"", y + TITLE_HEIGHT), 1));
        y += TITLE_HEIGHT + bars_height(bars);
    }
    Ok(format!(
        "<svg width=\"{WIDTH}\" height=\"{y}\" viewBox=\"0 0 {WIDTH} {y}\" xmlns=\"http://www.w3.org/2000/svg\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{inner}</svg>\n"
    ))
}

fn failed<E: std::fmt::Display>(error: E) -> anyhow::Error {
    anyhow!("drawing a chart: {error}")
}

/// Name, median, lowest, highest.
pub(crate) type Bar = (String, f64, f64, f64);

fn bars_height(bars: &[Bar]) -> u32 {
    u32::try_from(bars.len()).unwrap_or(1) * BAR_HEIGHT + BARS_AXIS_HEIGHT
}

fn draw_bars(text: &mut String, ours: &str, unit: &str, bars: &[Bar]) -> Result<()> {
    let rows = bars.len() as f64;
    let area = SVGBackend::with_string(text, (WIDTH, bars_height(bars))).into_drawing_area();
    let most = bars.iter().map(|bar| bar.3.max(bar.1)).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let mut chart = ChartBuilder::on(&area)
        .margin_right(16)
        .margin_left(NAMES_WIDTH)
        .margin_top(4)
        .x_label_area_size(46)
        .build_cartesian_2d(0.0..most * 1.25, 0.0..rows)
        .map_err(failed)?;
    let words = ("sans-serif", FONT_SIZE).into_font().color(&INK);
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(4)
        .x_desc(unit)
        .x_label_formatter(&|value| short(*value))
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(words.clone())
        .draw()
        .map_err(failed)?;
    let name_style = words.clone().pos(Pos::new(HPos::Right, VPos::Center));
    let value_style = words.pos(Pos::new(HPos::Left, VPos::Center));
    for (index, (name, median, lowest, highest)) in bars.iter().enumerate() {
        // The first at the top.
        let at = rows - index as f64 - 0.5;
        let filled = if name.starts_with(ours) { OURS_COLOUR } else { THEIRS_COLOUR }.filled();
        let bar = Rectangle::new([(0.0, at - 0.33), (*median, at + 0.33)], filled);
        let whisker = PathElement::new([(*lowest, at), (*highest, at)], INK);
        chart.draw_series([bar]).map_err(failed)?;
        chart.draw_series([whisker]).map_err(failed)?;
        let (_, y) = chart.backend_coord(&(0.0, at));
        let (end, _) = chart.backend_coord(&(highest.max(*median), at));
        area.draw_text(name, &name_style, (NAMES_WIDTH - 6, y)).map_err(failed)?;
        area.draw_text(&short(*median), &value_style, (end + 5, y)).map_err(failed)?;
    }
    drop(chart);
    area.present().map_err(failed)
}

type Series = [(String, Vec<(f64, f64)>)];

fn draw_lines(text: &mut String, axes: (&str, &str), log: bool, series: &Series) -> Result<()> {
    let area = SVGBackend::with_string(text, (WIDTH, LINES_HEIGHT)).into_drawing_area();
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        let values = || series.iter().flat_map(|(_, points)| points.iter().map(of));
        let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
        if log { least * 0.8..most * 1.3 } else { 0.0..most * 1.08 }
    };
    let (x, y) = (bounds(|point| point.0), bounds(|point| point.1));
    let mut builder = ChartBuilder::on(&area);
    builder.margin(8).margin_right(18).x_label_area_size(46).y_label_area_size(68);
    if log {
        let chart = builder.build_cartesian_2d(x.log_scale(), y.log_scale()).map_err(failed)?;
        draw_on(chart, axes, series)?;
    } else {
        let chart = builder.build_cartesian_2d(x, y).map_err(failed)?;
        draw_on(chart, axes, series)?;
    }
    area.present().map_err(failed)
}

fn draw_on<X, Y>(
    mut chart: ChartContext<'_, SVGBackend<'_>, Cartesian2d<X, Y>>,
    (x, y): (&str, &str),
    series: &Series,
) -> Result<()>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .x_desc(x)
        .y_desc(y)
        .x_labels(5)
        .y_labels(6)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(("sans-serif", FONT_SIZE).into_font().color(&INK))
        .draw()
        .map_err(failed)?;
    for (index, (name, points)) in series.iter().enumerate() {
        let width = if name == OURS { 4 } else { 2 };
        let style = colour(name, index).stroke_width(width);
        chart.draw_series(LineSeries::new(points.iter().copied(), style)).map_err(failed)?;
        let dots = points.iter().map(|point| Circle::new(*point, width, colour(name, index).filled()));
        chart.draw_series(dots).map_err(failed)?;
    }
    Ok(())
}

/// A number in few characters: `1.5 M`.
fn short(value: f64) -> String {
    let scaled = [(1e9, "G"), (1e6, "M"), (1e4, "k")].into_iter().find(|(least, _)| value.abs() >= *least);
    match scaled {
        Some((_, "k")) => format!("{}k", trimmed(value / 1e3)),
        Some((least, unit)) => format!("{}{unit}", trimmed(value / least)),
        None if value.fract() == 0.0 => format!("{value}"),
        None => number(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_labels_are_short() {
        let text = [0.0, 1.0, 0.25, 500.0, 9_999.0, 10_000.0, 25_500.0, 1e6, 2.5e9].map(short);
        assert_eq!(text, ["0", "1", "0.25", "500", "9999", "10k", "25.5k", "1M", "2.5G"]);
    }

    #[test]
    fn groups_stand_under_one_another() {
        let bars = || vec![("kv 1".to_owned(), 9.0, 8.0, 10.0), ("a<b".to_owned(), 5.0, 4.0, 6.0)];
        let drawn = groups("kv", "operations/s", &[("one & all".into(), bars()), ("two".into(), bars())]);
        let drawn = drawn.expect("bars can be drawn");
        for part in ["one &amp; all</text>", "<svg y=\"28\"", "<svg y=\"172\"", "height=\"288\"", "a&lt;b"] {
            assert!(drawn.contains(part), "{part} is not in\n{drawn}");
        }
        let ours = format!("fill=\"{}\"", colour_of(OURS, 0).to_uppercase());
        assert_eq!((drawn.matches(&ours).count(), drawn.matches("</svg>").count()), (2, 3), "{drawn}");
    }

    #[test]
    fn both_kinds_are_drawn() {
        let bars = Chart::Bars {
            title: "speed".into(),
            unit: "operations/s".into(),
            bars: vec![("rocksdb".into(), 10.0, 8.0, 12.0), (OURS.into(), 30.0, 29.0, 33.0)],
        };
        let drawn = svg(&bars).expect("two bars can be drawn");
        assert!(drawn.starts_with("<svg") && drawn.contains("rocksdb") && drawn.contains("operations/s"), "{drawn}");
        for log in [false, true] {
            let points = vec![(1.0, 10.0), (10.0, 100.0)];
            let (x, y) = ("keys".to_owned(), "ns".to_owned());
            let lines = Chart::Lines { title: "t".into(), x, y, log, series: vec![(OURS.into(), points)] };
            let drawn = svg(&lines).expect("a line can be drawn");
            assert!(drawn.contains("polyline") && drawn.to_lowercase().contains(&colour_of(OURS, 0)), "{drawn}");
        }
    }
}
