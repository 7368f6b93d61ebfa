//! Ratios as bars, one below the other, beside the line where nothing is gained.

use super::{Anchor, Canvas, MARGIN, WIDTH, marks, scale};
use crate::stats::Spread;

/// One ratio.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    /// A line below the name.
    pub(crate) about: String,
    pub(crate) ratio: Spread,
    pub(crate) goal: Option<f64>,
}

/// Ratios of the same two peers.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) heading: String,
    pub(crate) bars: Vec<Bar>,
}

/// Draws `sections` on one scale.
pub(crate) fn bars(title: &str, subtitle: &str, sections: &[Section], notes: &[String]) -> String {
    let mut canvas = Canvas::new(title, subtitle);
    let all = sections.iter().flat_map(|section| &section.bars);
    let ends = all.map(|bar| bar.ratio.max.max(bar.goal.unwrap_or_default()));
    let longest = ends.fold(AXIS_MIN, f64::max).min(AXIS_MAX);
    let marks = marks(longest, 5.0);
    let max = marks.last().copied().unwrap_or(longest);
    legend(&mut canvas);
    for section in sections {
        draw_section(&mut canvas, section, &marks, max);
    }
    canvas.finish(notes)
}

fn legend(canvas: &mut Canvas) {
    canvas.y += 26.0;
    let middle = canvas.y - 4.0;
    let mut x = MARGIN;
    canvas.rectangle("bar", [x, middle - 6.0], [24.0, 12.0]);
    canvas.line("whisker", [x + 18.0, middle], [x + 32.0, middle]);
    canvas.text(
        x + 40.0,
        canvas.y,
        "note",
        Anchor::Start,
        "median, smallest to largest",
    );
    x += 230.0;
    canvas.line("goal", [x, middle - 8.0], [x, middle + 8.0]);
    canvas.text(x + 8.0, canvas.y, "note", Anchor::Start, "goal");
    x += 70.0;
    canvas.line("one", [x, middle - 8.0], [x, middle + 8.0]);
    canvas.text(x + 8.0, canvas.y, "note", Anchor::Start, "no difference");
}

fn draw_section(canvas: &mut Canvas, section: &Section, marks: &[f64], max: f64) {
    canvas.y += 34.0;
    canvas.text(MARGIN, canvas.y, "heading", Anchor::Start, &section.heading);
    canvas.text(RANGE_END, canvas.y, "note", Anchor::End, "median (range)");
    canvas.text(WIDTH - MARGIN, canvas.y, "note", Anchor::End, "goal");
    canvas.y += 8.0;
    let (top, bottom) = (canvas.y, canvas.y + ROW * section.bars.len() as f64);
    for &mark in marks {
        let x = PLOT_START + scale(mark, max, PLOT_LEN);
        canvas.line("grid", [x, top], [x, bottom]);
        canvas.text(
            x,
            bottom + 14.0,
            "small",
            Anchor::Middle,
            &format!("{mark:.1}"),
        );
    }
    for bar in &section.bars {
        draw_bar(canvas, bar, max);
        canvas.y += ROW;
    }
    let one = PLOT_START + scale(1.0, max, PLOT_LEN);
    canvas.line("one", [one, top], [one, bottom]);
    canvas.y = bottom + 14.0;
}

fn draw_bar(canvas: &mut Canvas, bar: &Bar, max: f64) {
    let middle = canvas.y + ROW / 2.0;
    canvas.text(MARGIN, middle - 2.0, "strong", Anchor::Start, &bar.name);
    let about = shorten(&bar.about);
    canvas.text(MARGIN, middle + 12.0, "small", Anchor::Start, &about);
    let x = |value| PLOT_START + scale(value, max, PLOT_LEN);
    let Spread {
        median,
        min,
        max: largest,
    } = bar.ratio;
    canvas.rectangle(
        "bar",
        [PLOT_START, middle - 8.0],
        [x(median) - PLOT_START, 16.0],
    );
    canvas.line("whisker", [x(min), middle], [x(largest), middle]);
    for end in [min, largest] {
        canvas.line("whisker", [x(end), middle - 4.0], [x(end), middle + 4.0]);
    }
    if let Some(goal) = bar.goal {
        canvas.line("goal", [x(goal), middle - 12.0], [x(goal), middle + 12.0]);
        let text = format!("≤ {goal:.2}");
        canvas.text(WIDTH - MARGIN, middle + 4.0, "label", Anchor::End, &text);
    }
    let text = format!("{median:.2}");
    canvas.text(MEDIAN_END, middle + 4.0, "strong", Anchor::End, &text);
    let text = format!("({min:.2}–{largest:.2})");
    canvas.text(RANGE_END, middle + 4.0, "label", Anchor::End, &text);
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= ABOUT_CHARS_MAX {
        return text.to_owned();
    }
    text.chars()
        .take(ABOUT_CHARS_MAX - 1)
        .chain(['…'])
        .collect()
}

/// Characters of `about` that fit left of the bars in any usual font.
const ABOUT_CHARS_MAX: usize = 60;

/// Height of a row.
const ROW: f64 = 36.0;

/// The columns: names, bars, medians, ranges, goals.
const PLOT_START: f64 = 356.0;
const PLOT_LEN: f64 = 304.0;
const MEDIAN_END: f64 = 718.0;
const RANGE_END: f64 = 808.0;

/// The axis ends here at least, so that the line at 1 is always seen, and here at most: an
/// outlier must not squeeze the rest. Its figure is beside it.
const AXIS_MIN: f64 = 1.2;
const AXIS_MAX: f64 = 3.0;
