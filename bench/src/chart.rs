//! Drawings of figures as SVG, to be looked at on a web page in light and in dark.
//!
//! A drawing brings its own background: where it is shown as an image, the page's colours are
//! unknown, and the viewer's preference need not be the page's.
//!
//! Not here: what is drawn (`table`, `growth`).

mod bars;
mod panels;

pub(crate) use bars::{Bar, Section, bars};
pub(crate) use panels::{Curve, Panel, panels};

use svg::Document;
use svg::node::element::{Group, Line, Rectangle, Style, Text, Title};

/// Something drawn from the top downwards on a card of fixed width.
struct Canvas {
    title: String,
    group: Group,
    /// Where the next thing goes.
    y: f64,
}

/// Which end of a text is at its place.
#[derive(Clone, Copy, Debug)]
enum Anchor {
    Start,
    Middle,
    End,
}

impl Canvas {
    fn new(title: &str, subtitle: &str) -> Self {
        let mut canvas = Self {
            title: title.to_owned(),
            group: Group::new(),
            y: MARGIN + 18.0,
        };
        canvas.text(MARGIN, canvas.y, "title", Anchor::Start, title);
        canvas.y += 8.0;
        canvas.paragraph(subtitle);
        canvas
    }

    fn add(&mut self, node: impl Into<Box<dyn svg::Node>>) {
        self.group = std::mem::take(&mut self.group).add(node);
    }

    fn text(&mut self, x: f64, y: f64, class: &str, anchor: Anchor, content: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = Text::new(content).set("class", class);
        self.add(place(text, x, y).set("text-anchor", anchor));
    }

    fn line(&mut self, class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
        let line = Line::new().set("class", class);
        let line = line.set("x1", round(x1)).set("y1", round(y1));
        self.add(line.set("x2", round(x2)).set("y2", round(y2)));
    }

    fn rectangle(&mut self, class: &str, [x, y]: [f64; 2], [width, height]: [f64; 2]) {
        self.add(rectangle(class, [x, y], [width, height]));
    }

    /// Small lines of text, broken where they would leave the card.
    fn paragraph(&mut self, text: &str) {
        for line in wrap(text, LINE_CHARS_MAX) {
            self.y += 17.0;
            self.text(MARGIN, self.y, "note", Anchor::Start, &line);
        }
    }

    fn finish(mut self, notes: &[String]) -> String {
        self.y += 14.0;
        for note in notes {
            self.paragraph(note);
        }
        let height = round(self.y + MARGIN);
        let card = rectangle("card", [0.5, 0.5], [WIDTH - 1.0, height - 1.0]).set("rx", 6);
        Document::new()
            .set("viewBox", (0, 0, WIDTH, height))
            .set("width", WIDTH)
            .set("height", height)
            .set("role", "img")
            .add(Title::new(self.title))
            .add(Style::new(STYLE))
            .add(card)
            .add(self.group)
            .to_string()
    }
}

fn rectangle(class: &str, [x, y]: [f64; 2], [width, height]: [f64; 2]) -> Rectangle {
    Rectangle::new()
        .set("class", class)
        .set("x", round(x))
        .set("y", round(y))
        .set("width", round(width))
        .set("height", round(height))
}

fn place(text: Text, x: f64, y: f64) -> Text {
    text.set("x", round(x)).set("y", round(y))
}

/// A tenth of a pixel is fine enough, and a small change of a figure stays a small change of the
/// file.
fn round(pixels: f64) -> f64 {
    (pixels * 10.0).round() / 10.0
}

/// A length in an axis from 0 to `max`, drawn `len` long; never beyond its end.
fn scale(value: f64, max: f64, len: f64) -> f64 {
    (value / max).clamp(0.0, 1.0) * len
}

/// The distance of marks on an axis from 0 to `max` that has about `count` of them: 1, 2 or 5
/// times a power of ten.
fn step(max: f64, count: f64) -> f64 {
    let rough = max / count;
    let power = 10_f64.powf(rough.log10().floor());
    let factors = [1.0, 2.0, 5.0];
    let fine = factors.iter().find(|&factor| factor * power >= rough);
    fine.unwrap_or(&10.0) * power
}

/// The marks of such an axis, 0 first, the last at or above `max`.
fn marks(max: f64, count: f64) -> Vec<f64> {
    let step = step(max, count);
    let mut marks = vec![0.0];
    while marks.last().is_some_and(|&last| last < max) {
        marks.push(step * marks.len() as f64);
    }
    marks
}

fn wrap(text: &str, chars_max: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= chars_max => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

const WIDTH: f64 = 900.0;
const MARGIN: f64 = 24.0;

/// Characters of a note that fit between the margins in any usual font.
const LINE_CHARS_MAX: usize = 130;

const STYLE: &str = "
text { font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; }
.card { fill: #ffffff; stroke: #d1d9e0; }
.title { font-size: 18px; font-weight: 600; fill: #1f2328; }
.heading { font-size: 13px; font-weight: 600; fill: #1f2328; }
.label { font-size: 13px; fill: #1f2328; }
.strong { font-size: 13px; font-weight: 600; fill: #1f2328; }
.note, .small { fill: #59636e; }
.note { font-size: 12px; }
.small { font-size: 11px; }
.grid { stroke: #e4e8ec; }
.one { stroke: #59636e; stroke-dasharray: 4 3; }
.first { fill: #0969da; stroke: #0969da; }
.second { fill: #9a6700; stroke: #9a6700; }
.third { fill: #8250df; stroke: #8250df; }
.bar { fill: #54aeff; }
.whisker { stroke: #0a3069; stroke-width: 1.5; }
.goal { stroke: #bc4c00; stroke-width: 3; }
.curve { fill: none; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
.card { fill: #0d1117; stroke: #3d444d; }
.title, .heading, .label, .strong { fill: #f0f6fc; }
.note, .small { fill: #9198a1; }
.grid { stroke: #262c36; }
.one { stroke: #9198a1; }
.first { fill: #4493f8; stroke: #4493f8; }
.second { fill: #d29922; stroke: #d29922; }
.third { fill: #ab7df8; stroke: #ab7df8; }
.bar { fill: #1f6feb; }
.whisker { stroke: #cae8ff; }
.goal { stroke: #f0883e; }
.curve { fill: none; }
}
";

#[cfg(test)]
mod tests;
