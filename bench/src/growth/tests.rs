//! Which points are measured, and what is made of them.

use super::*;
use crate::measure::Run;

fn args(words: &str) -> GrowthArgs {
    use clap::Parser;
    let words = ["bench", "growth"]
        .into_iter()
        .chain(words.split_whitespace());
    let cli = crate::cli::Cli::try_parse_from(words).unwrap();
    let crate::cli::Task::Growth(args) = cli.command else {
        panic!("{cli:?}")
    };
    args
}

fn plan(dimension: Dimension, words: &str) -> Plan {
    let mut all = SERIES.iter();
    let series = all.find(|series| series.dimension == dimension).unwrap();
    Plan::new(series, &args(words)).unwrap()
}

#[test]
fn points_beyond_the_limit_are_left_out() {
    assert_eq!(plan(Dimension::Backends, "").points, [1, 10, 100, 500]);
    assert_eq!(plan(Dimension::Backends, "--up-to 10").points, [1, 10]);
    assert_eq!(args("--dimension value,workers").dimensions.len(), 2);
}

#[test]
fn only_one_thing_grows() {
    for series in SERIES {
        let peers = args("").peers;
        let entries = Plan::new(series, &args("")).unwrap().entries(&peers);
        for pair in entries.windows(2) {
            let [a, b] = pair else { unreachable!() };
            let differs = [
                (Dimension::Backends, a.backends != b.backends),
                (
                    Dimension::Connections,
                    a.workload.connections != b.workload.connections,
                ),
                (
                    Dimension::Value,
                    a.workload.value_len != b.workload.value_len,
                ),
                (Dimension::Workers, a.workers != b.workers),
            ];
            for (dimension, differs) in differs {
                assert!(!differs || dimension == series.dimension, "{series:?}");
            }
        }
    }
}

#[test]
fn every_point_has_its_own_name_and_stored_keys() {
    let args = args("");
    let mut names = Vec::new();
    for series in SERIES {
        for entry in Plan::new(series, &args).unwrap().entries(&args.peers) {
            let stored = entry.workload.value_len * entry.workload.key_count as usize;
            assert!(
                (1..=64 << 20).contains(&stored),
                "{} stores {stored}",
                entry.name
            );
            names.push(format!("{} {}", entry.workload.name, entry.name));
        }
    }
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
    assert!(names.contains(&"get magent at workers 2".to_owned()));
    assert!(
        !names.contains(&"get nutcracker at workers 2".to_owned()),
        "it has one thread"
    );
}

/// A cost per KiB that doubles from 100 KiB to 1 MiB on a machine whose speed changes.
fn measured(plan: &Plan) -> Outcome {
    let mut outcome = Outcome::new(0);
    for (round, speed) in (1..).zip([1.0, 3.0]) {
        for (point, per_kib) in [("100 KiB", 1.0), ("1 MiB", 2.0)] {
            let at = if point == "1 MiB" { 1_024.0 } else { 100.0 };
            let name = format!("magent at value {point}");
            let cost = Some(per_kib * at * speed);
            outcome.runs.push(Run::example(&name, round, cost));
        }
    }
    assert_eq!(plan.points, [100 << 10, 1 << 20, 8 << 20]);
    outcome
}

#[test]
fn growth_is_of_the_unit_and_of_one_round() {
    let series = &SERIES[4];
    let args = args("");
    let plan = Plan::new(series, &args).unwrap();
    let points = plan.points(&args.peers, &measured(&plan));
    let cost = points[1].cost.unwrap();
    assert_eq!((cost.median, cost.min, cost.max), (4.0, 2.0, 6.0));
    let to_first = points[1].to_first.unwrap();
    assert!((to_first.min - 2.0).abs() < 1e-9 && (to_first.max - 2.0).abs() < 1e-9);
    assert!(points[2].cost.is_none(), "not measured");

    let shown = Shown {
        plans: &[plan],
        points: &[points],
        notes: &["a note".to_owned()],
    };
    for text in [shown.text(), shown.markdown("bench growth")] {
        for word in [
            "CPU µs per KiB",
            "1 MiB",
            "4.00",
            "2.00",
            "a note",
            series.why,
        ] {
            assert!(text.contains(word), "no {word} in\n{text}");
        }
    }
    let drawing = shown.svg(&args.peers);
    assert!(
        drawing.contains("8 MiB") && !drawing.contains("NaN"),
        "{drawing}"
    );
    assert_eq!(
        drawing.matches("<circle").count(),
        2 + 2,
        "legend and points"
    );
}
