//! The figures that people act on.

use super::*;

/// Three rounds in which the subject costs 0.6, 0.5 and 0.7 of the baseline, in disorder and on
/// a machine whose speed changes; the baseline's last round is lost.
fn outcome() -> Outcome {
    let mut outcome = Outcome::new(8);
    outcome.runs = vec![
        Run::example("subject", 1, Some(6.0)),
        Run::example("baseline", 1, Some(10.0)),
        Run::example("baseline", 2, Some(40.0)),
        Run::example("subject", 2, Some(20.0)),
        Run::example("subject", 3, Some(7.0)),
        Run::example("baseline", 3, Some(10.0)),
        Run::example("subject", 4, Some(99.0)),
        Run::example("direct", 1, None),
    ];
    outcome
}

fn summaries() -> Vec<Summary> {
    let peers = ["subject", "baseline", "direct"].map(str::to_owned);
    let workload = Workload::find("get").expect("a row of the table").clone();
    summarise(&outcome(), &[workload], &peers, "baseline")
}

#[test]
fn ratios_are_of_one_round() {
    let summaries = summaries();
    let ratio = &summaries[0].ratios[0];
    assert_eq!(ratio.name, "subject/baseline");
    assert_eq!(
        ratio.figures[PROXY_CPU.name],
        Spread {
            median: 0.6,
            min: 0.5,
            max: 0.7
        }
    );
    let direct = &summaries[0].ratios[1];
    assert!(
        !direct.figures.contains_key(PROXY_CPU.name),
        "no proxy, no ratio of its CPU"
    );
    assert!(direct.figures.contains_key("throughput"));
}

#[test]
fn limit_names_what_exceeds_it() {
    assert_eq!(exceeding(&summaries(), 0.6), Vec::<String>::new());
    let found = exceeding(&summaries(), 0.55);
    assert_eq!(
        found,
        ["get: CPU time per request subject/baseline is 0.600, above 0.55"]
    );
}

#[test]
fn table_has_a_line_for_each_peer_and_ratio() {
    let text = render(&summaries());
    let starts_with = |name: &str| text.lines().any(|line| line.trim_start().starts_with(name));
    for name in [
        "get: ",
        "subject ",
        "baseline ",
        "direct ",
        "subject/baseline ",
    ] {
        assert!(starts_with(name), "no line for {name} in\n{text}");
    }
    assert!(text.contains("(0.50–0.70)"), "{text}");
}

#[test]
fn faults_are_never_figures() {
    let good = Run::example("subject", 1, None);
    assert_eq!(good.fault(), None);
    assert!(
        Run {
            misses: 1,
            ..good.clone()
        }
        .fault()
        .is_some()
    );
    assert!(
        Run {
            requests: 0,
            ..good.clone()
        }
        .fault()
        .is_some()
    );
    let failed = Run {
        errors: 2,
        first_error: Some("SERVER_ERROR x".into()),
        ..good
    };
    assert!(
        failed
            .fault()
            .is_some_and(|fault| fault.contains("SERVER_ERROR x"))
    );
}

#[test]
fn files_hold_every_run() {
    let dir = tempfile::tempdir().unwrap();
    let (json, csv) = (dir.path().join("x.json"), dir.path().join("x.csv"));
    write_json(&json, &outcome(), &summaries()).unwrap();
    write_csv(&csv, &outcome().runs).unwrap();
    let document: serde_json::Value = serde_json::from_reader(File::open(&json).unwrap()).unwrap();
    assert_eq!(document["runs"].as_array().unwrap().len(), 8);
    assert_eq!(
        document["summaries"][0]["ratios"][0]["figures"][PROXY_CPU.name]["median"],
        0.6
    );
    let lines = std::fs::read_to_string(&csv).unwrap();
    assert_eq!(lines.lines().count(), 9, "{lines}");
    assert!(
        lines.starts_with("workload,peer,round,requests,"),
        "{lines}"
    );
}
