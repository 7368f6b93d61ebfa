//! Several small drawings of the same kind: a figure as something grows.

use svg::node::element::{Circle, Polyline};

use super::{Anchor, Canvas, MARGIN, WIDTH, marks, round, scale};
use crate::stats::Spread;

/// One small drawing. Its axis starts at 0, so that what is flat looks flat.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub(crate) heading: String,
    /// What the figures are, above the axis.
    pub(crate) figure: String,
    /// What is beneath each point, at equal distances.
    pub(crate) points: Vec<String>,
    pub(crate) curves: Vec<Curve>,
}

/// A figure of one peer at each point, where it was measured.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) values: Vec<Option<Spread>>,
}

/// Draws `panels` two beside each other.
pub(crate) fn panels(title: &str, subtitle: &str, panels: &[Panel], notes: &[String]) -> String {
    let mut canvas = Canvas::new(title, subtitle);
    legend(&mut canvas, panels);
    canvas.y += 20.0;
    let top = canvas.y;
    for (number, panel) in panels.iter().enumerate() {
        let (row, column) = (number / COLUMNS, number % COLUMNS);
        let x = MARGIN + column as f64 * (PANEL_WIDTH + GAP);
        draw_panel(&mut canvas, panel, [x, top + row as f64 * PANEL_HEIGHT]);
    }
    canvas.y = top + panels.len().div_ceil(COLUMNS) as f64 * PANEL_HEIGHT;
    canvas.finish(notes)
}

/// The names of all curves, in the order in which they are coloured.
fn names(panels: &[Panel]) -> Vec<&str> {
    let mut names = Vec::new();
    for curve in panels.iter().flat_map(|panel| &panel.curves) {
        if !names.contains(&curve.name.as_str()) {
            names.push(curve.name.as_str());
        }
    }
    names
}

fn legend(canvas: &mut Canvas, panels: &[Panel]) {
    canvas.y += 26.0;
    let mut x = MARGIN;
    for (name, class) in names(panels).into_iter().zip(CLASSES.iter().cycle()) {
        canvas.line(
            &format!("{class} curve"),
            [x, canvas.y - 4.0],
            [x + 24.0, canvas.y - 4.0],
        );
        canvas.add(dot(class, [x + 12.0, canvas.y - 4.0]));
        canvas.text(x + 32.0, canvas.y, "label", Anchor::Start, name);
        x += 60.0 + 8.0 * name.chars().count() as f64;
    }
}

fn draw_panel(canvas: &mut Canvas, panel: &Panel, [left, top]: [f64; 2]) {
    canvas.text(left, top + 16.0, "heading", Anchor::Start, &panel.heading);
    canvas.text(left, top + 32.0, "small", Anchor::Start, &panel.figure);
    let values = panel.curves.iter().flat_map(|curve| &curve.values);
    let most = values
        .flatten()
        .fold(0.0, |most: f64, spread| most.max(spread.max));
    let most = if most > 0.0 { most } else { 1.0 };
    let marks = marks(most, 4.0);
    let max = marks.last().copied().unwrap_or(most);
    let (plot_left, plot_top) = (left + AXIS_WIDTH, top + 46.0);
    let width = PANEL_WIDTH - AXIS_WIDTH;
    let bottom = plot_top + PLOT_HEIGHT;
    let y = |value: f64| bottom - scale(value, max, PLOT_HEIGHT);
    let digits = usize::from(max < 10.0) + usize::from(max < 1.0);
    for mark in marks {
        canvas.line("grid", [plot_left, y(mark)], [plot_left + width, y(mark)]);
        let text = format!("{mark:.digits$}");
        canvas.text(plot_left - 8.0, y(mark) + 4.0, "small", Anchor::End, &text);
    }
    let distance = width / panel.points.len().max(1) as f64;
    let x = |point: usize| plot_left + distance * (point as f64 + 0.5);
    for (number, point) in panel.points.iter().enumerate() {
        canvas.text(x(number), bottom + 16.0, "small", Anchor::Middle, point);
    }
    for (number, (curve, class)) in panel.curves.iter().zip(CLASSES.iter().cycle()).enumerate() {
        // Beside each other, so that ranges do not hide each other.
        let aside = (number as f64 - (panel.curves.len() as f64 - 1.0) / 2.0) * 4.0;
        draw_curve(canvas, curve, class, |point| x(point) + aside, y);
    }
}

fn draw_curve(
    canvas: &mut Canvas,
    curve: &Curve,
    class: &str,
    x: impl Fn(usize) -> f64,
    y: impl Fn(f64) -> f64,
) {
    let measured = curve.values.iter().enumerate();
    let measured = measured.filter_map(|(point, spread)| Some((x(point), (*spread)?)));
    let measured: Vec<(f64, Spread)> = measured.collect();
    let corners = measured
        .iter()
        .map(|(x, spread)| format!("{},{}", round(*x), round(y(spread.median))));
    let corners = corners.collect::<Vec<_>>().join(" ");
    let line = Polyline::new().set("class", format!("{class} curve"));
    canvas.add(line.set("points", corners));
    for (x, spread) in measured {
        canvas.line(class, [x, y(spread.min)], [x, y(spread.max)]);
        canvas.add(dot(class, [x, y(spread.median)]));
    }
}

fn dot(class: &str, [x, y]: [f64; 2]) -> Circle {
    let dot = Circle::new().set("class", class).set("r", 3.5);
    dot.set("cx", round(x)).set("cy", round(y))
}

const COLUMNS: usize = 2;
const GAP: f64 = 36.0;
const PANEL_WIDTH: f64 = (WIDTH - 2.0 * MARGIN - GAP) / 2.0;
const PANEL_HEIGHT: f64 = 240.0;
const PLOT_HEIGHT: f64 = 150.0;

/// Room for the figures left of an axis.
const AXIS_WIDTH: f64 = 44.0;

/// Colours of curves.
const CLASSES: &[&str] = &["first", "second", "third"];
