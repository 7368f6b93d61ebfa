//! Drawings as a reader's program takes them: well-formed, complete, within the card.

use svg::parser::Event;

use super::*;
use crate::stats::Spread;

fn spread(median: f64) -> Spread {
    Spread {
        median,
        min: median * 0.9,
        max: median * 1.2,
    }
}

fn bar(name: &str, ratio: f64, goal: Option<f64>) -> Bar {
    Bar {
        name: name.into(),
        about: "get of 100 B < 1 KiB & more".into(),
        ratio: spread(ratio),
        goal,
    }
}

/// The names and attributes of all elements. Fails on what is not SVG or not on the card.
#[track_caller]
fn elements(drawing: &str) -> Vec<(String, svg::node::Attributes)> {
    assert!(
        !drawing.contains("NaN") && !drawing.contains("inf"),
        "{drawing}"
    );
    let mut found = Vec::new();
    for event in svg::read(drawing).expect("a string can be read") {
        match event {
            Event::Error(err) => panic!("{err}: {drawing}"),
            Event::Tag(name, _, attributes) if !attributes.is_empty() => {
                for key in ["x", "x1", "x2", "cx"] {
                    let at = attributes.get(key).map_or(1.0, |at| at.parse().unwrap());
                    assert!((0.0..=WIDTH).contains(&at), "{name} at {at}");
                }
                found.push((name.to_owned(), attributes));
            }
            Event::Tag(..)
            | Event::Text(_)
            | Event::Comment(_)
            | Event::Declaration(_)
            | Event::Instruction(_) => {}
        }
    }
    found
}

fn count(drawing: &str, name: &str, class: &str) -> usize {
    let matching = |(have, attributes): &&(String, svg::node::Attributes)| {
        have == name && attributes.get("class").is_some_and(|have| **have == *class)
    };
    elements(drawing).iter().filter(matching).count()
}

#[test]
fn every_ratio_has_its_bar_figures_and_goal() {
    let sections = [
        Section {
            heading: "one / two".into(),
            bars: vec![bar("get", 0.5, Some(0.65)), bar("set", 1.3, None)],
        },
        Section {
            heading: "three / one".into(),
            bars: vec![bar("mixed", 1.0, Some(1.9))],
        },
    ];
    let drawing = bars("Title", "Subtitle", &sections, &["a note".into()]);
    // One of each is the legend's.
    assert_eq!(count(&drawing, "rect", "bar"), 3 + 1);
    assert_eq!(count(&drawing, "line", "whisker"), 3 * 3 + 1);
    assert_eq!(count(&drawing, "line", "goal"), 2 + 1);
    assert_eq!(count(&drawing, "line", "one"), 2 + 1);
    for text in [
        "Title",
        "Subtitle",
        "one / two",
        "mixed",
        "0.50",
        "(0.45–0.60)",
        "≤ 1.90",
        "a note",
        "100 B &lt; 1 KiB &amp; more",
        "prefers-color-scheme: dark",
    ] {
        assert!(drawing.contains(text), "no {text} in {drawing}");
    }
}

#[test]
fn outliers_and_nothing_stay_on_the_card() {
    let bars_of = |bars| {
        let heading = String::new();
        super::bars("", "", &[Section { heading, bars }], &[])
    };
    let drawing = bars_of(vec![bar("far", 70.0, Some(50.0)), bar("none", 0.0, None)]);
    assert_eq!(count(&drawing, "rect", "bar"), 2 + 1);
    assert!(drawing.contains("70.00"), "the figure is beside the bar");
    elements(&bars_of(vec![]));
}

#[test]
fn what_was_not_measured_has_no_point() {
    let panel = |values: Vec<Option<Spread>>| Panel {
        heading: "heading".into(),
        figure: "µs".into(),
        points: vec!["1".into(), "10".into()],
        curves: vec![
            Curve {
                name: "first".into(),
                values,
            },
            Curve {
                name: "second".into(),
                values: vec![Some(spread(3.0)), Some(spread(30.0))],
            },
        ],
    };
    let mut nothing = panel(vec![Some(spread(0.0)), Some(spread(0.0))]);
    nothing.curves.truncate(1);
    let drawn = [
        panel(vec![Some(spread(2.0)), None]),
        panel(vec![None, None]),
        nothing,
    ];
    let drawing = panels("Title", "", &drawn, &[]);
    assert_eq!(count(&drawing, "polyline", "first curve"), 3);
    assert_eq!(count(&drawing, "circle", "first"), 1 + 2 + 1);
    assert_eq!(count(&drawing, "circle", "second"), 2 * 2 + 1);
}

#[test]
fn axes_have_round_marks() {
    #[track_caller]
    fn check(max: f64, expected: &[f64]) {
        let found = marks(max, 4.0);
        let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-9;
        assert!(
            found.len() == expected.len() && found.iter().zip(expected).all(near),
            "{found:?}"
        );
    }
    check(38.0, &[0.0, 10.0, 20.0, 30.0, 40.0]);
    check(0.51, &[0.0, 0.2, 0.4, 0.6]);
    check(2.0, &[0.0, 0.5, 1.0, 1.5, 2.0]);
}

#[test]
fn notes_are_broken_between_words() {
    assert_eq!(wrap("one two three", 7), ["one two", "three"]);
    assert_eq!(wrap("unbreakable", 3), ["unbreakable"]);
}
