//! The table as it is printed, written and drawn.

use super::*;
use crate::measure::Run;
use crate::report::PEAK_MEMORY;

/// magent at half of nutcracker's cost, or as `scale` changes it.
fn outcome(scale: f64) -> Outcome {
    let mut outcome = Outcome::new(9);
    for (round, speed) in (1..).zip([1.0, 2.0, 1.0]) {
        for (peer, cost) in [
            ("magent", Some(5.0 * scale)),
            ("nutcracker", Some(10.0)),
            ("direct", None),
        ] {
            let cost = cost.map(|cost| cost * speed);
            outcome.runs.push(Run::example(peer, round, cost));
        }
    }
    outcome
}

const CPU: Goal = Goal {
    workload: "get",
    subject: "magent",
    baseline: "nutcracker",
    figure: PROXY_CPU,
    bound: Bound::Ratio(0.65),
};

const GOALS_HERE: [Goal; 4] = [
    CPU,
    Goal {
        figure: PEAK_MEMORY,
        bound: Bound::Value(1.5),
        ..CPU
    },
    Goal {
        workload: "rate",
        ..CPU
    },
    Goal {
        subject: WITH_BACKUPS,
        baseline: "magent",
        ..CPU
    },
];

fn table(outcome: &Outcome) -> Table<'_> {
    Table {
        rows: GOALS_HERE
            .iter()
            .map(|goal| (goal, goal.judge(outcome)))
            .collect(),
        outcome,
        notes: vec!["who was measured".into()],
        idle: Some("how many idled".into()),
    }
}

/// The words of the first line of `text` that contains all of `words`.
#[track_caller]
fn line<'a>(text: &'a str, words: &[&str]) -> Vec<&'a str> {
    let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
    let line = text.lines().find(has_all);
    let line = line.unwrap_or_else(|| panic!("no line with {words:?} in\n{text}"));
    line.split_whitespace().collect()
}

#[test]
fn the_terminal_shows_who_met_what() {
    let outcome = outcome(1.0);
    let text = table(&outcome).text();
    assert_eq!(
        line(&text, &["get", "CPU"]),
        [
            "get",
            "CPU",
            "µs",
            "5.00",
            "10.00",
            "–",
            "0.50",
            "(0.50–0.50)",
            "≤",
            "0.65",
            "met",
            "10000",
            "10000",
            "10000"
        ]
    );
    let memory = line(&text, &["get", "peak MiB"]);
    assert!(
        memory.ends_with(&["magent", "≤", "1.5", "missed"]),
        "{memory:?}"
    );
    line(&text, &["rate", "not measured"]);
    line(&text, &["with-backups", "magent", "ratio"]);
    line(&text, &["who was measured"]);
    line(&text, &["how many idled"]);
    line(&text, &["1 goals met, 1 missed, 2 not measured."]);
}

#[test]
fn what_is_missed_is_named() {
    let outcome = outcome(2.0);
    let missed = table(&outcome).missed();
    assert_eq!(missed[0], "get, CPU µs of magent: goal ≤ 0.65 missed");
    assert_eq!(
        missed[2],
        "rate, CPU µs of magent: goal ≤ 0.65 not measured"
    );
    assert_eq!(missed.len(), 4);
}

#[test]
fn markdown_names_its_command() {
    let outcome = outcome(1.0);
    let markdown = table(&outcome).markdown("bench table");
    assert!(markdown.contains("```sh\nbench table\n```"), "{markdown}");
    let rows = markdown.lines().filter(|line| line.starts_with("| get of"));
    assert_eq!(rows.count(), 4, "{markdown}");
    line(&markdown, &["| 0.50 (0.50–0.50) | ≤ 0.65 | met |"]);
}

#[test]
fn only_ratios_are_drawn() {
    let outcome = outcome(1.0);
    let drawing = table(&outcome).svg();
    assert_eq!(drawing.matches("class=\"bar\"").count(), 1 + 1, "{drawing}");
    assert!(drawing.contains("magent / nutcracker"), "{drawing}");
    assert!(!drawing.contains("with 2 backups"), "nothing to draw there");
    assert!(!drawing.contains("idled"), "nor of memory");
}
