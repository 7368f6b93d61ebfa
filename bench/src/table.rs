//! `bench table`: measures every goal and shows the table on the terminal, as markdown and drawn.
//!
//! Not here: the goals (`goals`), how the drawing looks (`chart`).

use std::fmt::Write as _;

use anyhow::{Context, Result};

use crate::arena::{self, Arena, Beside, Entry, Ground, Outcome};
use crate::chart::{Bar, Section, bars};
use crate::cli::{BACKUPS, Setup, TableArgs};
use crate::environment::Environment;
use crate::goals::{self, Bound, DIRECT, GOALS, Goal, Row, Verdict};
use crate::grid::{Grid, thousands};
use crate::peer::{Peer, WITH_BACKUPS};
use crate::report::{self, PROXY_CPU, THROUGHPUT};
use crate::stats::Spread;
use crate::workload::{IDLE, Workload};

/// Carries out `bench table`.
pub(crate) fn table(args: &TableArgs) -> Result<()> {
    let wanted = |name: &&str| args.workloads.is_empty() || args.workloads.contains(name);
    let names: Vec<&str> = goals::workloads().into_iter().filter(wanted).collect();
    let idle = arena::connections_allowed(args.idle)?;
    let notes = notes(&args.setup);
    let outcome = run(&args.setup, &names, idle)?;
    let goals = GOALS.iter().filter(|goal| names.contains(&goal.workload));
    let rows: Vec<(&Goal, Row)> = goals.map(|goal| (goal, goal.judge(&outcome))).collect();
    let table = Table {
        rows,
        outcome: &outcome,
        notes,
        idle: names
            .contains(&IDLE.name)
            .then(|| idle_note(idle, args.idle)),
    };
    print!("{}", table.text());
    if let Some(path) = &args.markdown {
        report::write_text(path, &table.markdown(&report::command_line()))?;
    }
    if let Some(path) = &args.svg {
        report::write_text(path, &table.svg())?;
    }
    if let Some(path) = &args.json {
        let rows: Vec<&Row> = table.rows.iter().map(|(_, row)| row).collect();
        report::write_json(path, &outcome, &rows)?;
    }
    let mut failures = outcome.failures.clone();
    if args.check {
        failures.extend(table.missed());
    }
    report::none_failed(&failures)
}

/// All rounds of all workloads called `names`.
fn run(setup: &Setup, names: &[&str], idle: u32) -> Result<Outcome> {
    let mut heats = Vec::new();
    for name in names {
        let workload = goals::find_workload(name).context("a goal without a workload")?;
        let mut workload = workload.clone();
        if name == &IDLE.name {
            workload.connections = idle;
        }
        heats.push((workload, goals::peers(name)));
    }
    let connections = heats.iter().map(|(workload, _)| workload.connections);
    let ground = Ground {
        backends: BACKENDS,
        backups: BACKUPS,
        connections: connections.max().unwrap_or(0),
        memcached: "-m 1024",
        pinned: true,
        beside: Beside::Generator,
    };
    let peers: Vec<Peer> = heats.iter().flat_map(|(_, peers)| peers.clone()).collect();
    let arena = Arena::new(setup, &ground, &peers)?;
    let mut outcome = Outcome::new(peers.len() * usize::try_from(setup.runs())?);
    for (workload, peers) in heats {
        let entries = peers.into_iter().map(|peer| Entry {
            name: peer.name.clone(),
            peer,
            workload: workload.clone(),
            backends: BACKENDS,
            workers: 1,
        });
        arena.heat(entries.collect(), Some("nutcracker"), &mut outcome)?;
    }
    Ok(outcome)
}

/// How it was measured, a sentence each.
fn notes(setup: &Setup) -> Vec<String> {
    let mut notes = vec![format!(
        "{}, in each all take turns. One worker thread each, in front of the same {BACKENDS} \
         memcacheds ({BACKUPS} backups beside them in {WITH_BACKUPS}).",
        report::rounds(setup),
    )];
    notes.extend(Environment::look(setup).lines());
    notes
}

/// What the rows of idle connections are about.
fn idle_note(held: u32, wanted: u32) -> String {
    let fewer = if held < wanted {
        ", as many as the limit on open files allows"
    } else {
        ""
    };
    format!(
        "{}: {} connections held{fewer}; memory for each before its first request and after all \
         have asked at the same time.",
        IDLE.name,
        thousands(held)
    )
}

/// The rows with all that is needed to show them.
struct Table<'a> {
    rows: Vec<(&'a Goal, Row)>,
    outcome: &'a Outcome,
    notes: Vec<String>,
    idle: Option<String>,
}

impl Table<'_> {
    /// The rows in runs with the same pair of peers.
    fn sections(&self) -> impl Iterator<Item = &[(&Goal, Row)]> {
        let pair = |(goal, _): &(&Goal, Row)| (goal.subject, goal.baseline);
        self.rows.chunk_by(move |a, b| pair(a) == pair(b))
    }

    fn grid(&self, section: &[(&Goal, Row)], what: fn(&Goal) -> String) -> Grid {
        let (first, _) = section[0];
        let (subject, baseline) = (first.subject, first.baseline);
        let speed = |name| format!("{name} /s");
        let headings = [subject, baseline, DIRECT].map(speed);
        let mut grid = Grid::new(
            2,
            &[
                "workload",
                "figure",
                subject,
                baseline,
                DIRECT,
                "ratio (min–max)",
                "goal",
                "",
                &headings[0],
                &headings[1],
                &headings[2],
            ],
        );
        let mut last = "";
        for (goal, row) in section {
            let figure = goal.figure;
            let mut cells = vec![what(goal), figure.heading.to_owned()];
            cells.extend([row.subject, row.baseline, row.direct].map(|spread| figure.text(spread)));
            cells.extend([ratio(row.ratio), bound(goal), row.verdict.text().to_owned()]);
            // Once for each workload; idle connections have no speed.
            let named = goal.workload != last && goal.workload != IDLE.name;
            last = goal.workload;
            cells.extend([subject, baseline, DIRECT].map(|name| {
                let runs = self.outcome.runs_of(goal.workload, name);
                let speed = THROUGHPUT.spread(&runs).filter(|_| named);
                speed.map_or_else(String::new, |speed| THROUGHPUT.text(Some(speed)))
            }));
            grid.push(cells);
        }
        grid
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for section in self.sections() {
            out.push_str(&self.grid(section, |goal| goal.workload.to_owned()).text());
            out.push('\n');
        }
        for note in self.notes.iter().chain(&self.idle) {
            out.push_str(note);
            out.push('\n');
        }
        let count = |verdict| {
            let rows = self.rows.iter();
            rows.filter(|(_, row)| row.verdict == verdict).count()
        };
        writeln!(
            out,
            "{LEGEND}\n{} goals met, {} missed, {} not measured.",
            count(Verdict::Met),
            count(Verdict::Missed),
            count(Verdict::NotMeasured)
        )
        .expect("a String takes all");
        out
    }

    fn markdown(&self, command: &str) -> String {
        let mut out = format!("# The table of goals\n\nMeasured with\n\n```sh\n{command}\n```\n\n");
        for section in self.sections() {
            out.push_str(&self.grid(section, |goal| about(goal).to_owned()).markdown());
            out.push('\n');
        }
        let notes = self.notes.iter().chain(&self.idle).map(String::as_str);
        let notes = notes.chain([LEGEND]);
        out.push_str(&notes.collect::<Vec<_>>().join("\n"));
        out.push('\n');
        out
    }

    fn svg(&self) -> String {
        let sections = self.sections().filter_map(|section| {
            let drawn = section.iter().filter_map(|(goal, row)| {
                let (figure, _) = goal.figure.heading.split_once(' ')?;
                let name = if goal.figure.name == PROXY_CPU.name {
                    goal.workload.to_owned()
                } else {
                    format!("{}, {figure}", goal.workload)
                };
                let goal_at = match goal.bound {
                    Bound::Ratio(limit) => Some(limit),
                    Bound::Open if goal.figure.name == PROXY_CPU.name => None,
                    Bound::Open | Bound::Value(_) => return None,
                };
                Some(Bar {
                    name,
                    about: brief(goal),
                    ratio: row.ratio?,
                    goal: goal_at,
                })
            });
            let bars: Vec<Bar> = drawn.collect();
            let (first, _) = section.first()?;
            (!bars.is_empty()).then(|| Section {
                heading: pair(first),
                bars,
            })
        });
        bars(
            "What a request costs the proxy",
            "CPU time per request (latency where it says so) as a ratio, median and range of the \
             rounds. Shorter is better.",
            &sections.collect::<Vec<_>>(),
            &self.notes,
        )
    }

    /// The goals that were not reached, as sentences.
    fn missed(&self) -> Vec<String> {
        let missed = |(goal, row): &(&Goal, Row)| {
            let said = match row.verdict {
                Verdict::Missed => "missed",
                Verdict::NotMeasured => "not measured",
                Verdict::Met | Verdict::NoGoal => return None,
            };
            Some(format!(
                "{}, {} of {}: goal {} {said}",
                goal.workload,
                goal.figure.heading,
                goal.subject,
                bound(goal)
            ))
        };
        self.rows.iter().filter_map(missed).collect()
    }
}

/// Whose ratios these are, as people say it.
fn pair(goal: &Goal) -> String {
    if goal.subject == WITH_BACKUPS {
        return format!("{} with {BACKUPS} backups / without", goal.baseline);
    }
    format!("{} / {}", goal.subject, goal.baseline)
}

/// What is measured, without remarks.
fn brief(goal: &Goal) -> String {
    let words = about(goal).split(" (").next().unwrap_or_default();
    words.to_owned()
}

fn about(goal: &Goal) -> &'static str {
    goal.workload()
        .map_or(goal.workload, |row: &Workload| row.about)
}

fn ratio(ratio: Option<Spread>) -> String {
    ratio.map_or_else(
        || "–".to_owned(),
        |Spread { median, min, max }| format!("{median:.2} ({min:.2}–{max:.2})"),
    )
}

fn bound(goal: &Goal) -> String {
    match goal.bound {
        Bound::Ratio(limit) => format!("≤ {limit:.2}"),
        Bound::Value(limit) => format!("{} ≤ {limit}", goal.subject),
        Bound::Open => String::new(),
    }
}

/// Primaries behind every proxy.
const BACKENDS: u32 = 3;

const LEGEND: &str = "Medians. Ratios are taken round by round. A goal is met if the median is \
                      within it. CPU µs: of the proxy per request.";

#[cfg(test)]
mod tests;
