//! The table of goals: what magent is held against, beside what, and whether it got there.
//!
//! Adding one is a row here; the runs, the tables and the drawing follow from the rows.
//!
//! Not here: how runs are made (`arena`), how the table looks (`table`).

use serde::Serialize;

use crate::arena::Outcome;
use crate::peer::{Peer, WITH_BACKUPS};
use crate::report::{Figure, NEW_CONNECTION, P50, P99, PEAK_MEMORY, PROXY_CPU, USED_CONNECTION};
use crate::stats::Spread;
use crate::workload::{IDLE, Workload};

/// A figure of one peer beside that of another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    pub(crate) workload: &'static str,
    pub(crate) subject: &'static str,
    pub(crate) baseline: &'static str,
    pub(crate) figure: Figure,
    pub(crate) bound: Bound,
}

/// What counts as reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// The median ratio is at most this.
    Ratio(f64),
    /// The median itself is at most this.
    Value(f64),
    /// Nothing was set; the row is there to be looked at.
    Open,
}

/// Every goal. Rows of a workload and of a pair of peers stand together.
pub(crate) const GOALS: &[Goal] = &[
    cpu("get", Bound::Ratio(0.65)),
    beside_nutcracker("get", P50, Bound::Open),
    cpu("get-pipelined", Bound::Ratio(0.25)),
    cpu("mixed", Bound::Ratio(0.75)),
    cpu("multiget", Bound::Ratio(0.6)),
    cpu("get-large", Bound::Ratio(0.9)),
    cpu("get-many", Bound::Ratio(0.5)),
    beside_nutcracker("get-many", PEAK_MEMORY, Bound::Value(16.0)),
    cpu("meta-get", Bound::Ratio(0.65)),
    cpu("binary-get", Bound::Open),
    cpu("set-large", Bound::Ratio(0.75)),
    beside_nutcracker("rate", P50, Bound::Ratio(1.0)),
    beside_nutcracker("rate", P99, Bound::Ratio(1.0)),
    beside_nutcracker(IDLE.name, NEW_CONNECTION, Bound::Value(2.0)),
    beside_nutcracker(IDLE.name, USED_CONNECTION, Bound::Value(2.0)),
    backups_beside_none("get", Bound::Ratio(1.0)),
    backups_beside_none("set", Bound::Ratio(1.9)),
];

const fn cpu(workload: &'static str, bound: Bound) -> Goal {
    beside_nutcracker(workload, PROXY_CPU, bound)
}

const fn beside_nutcracker(workload: &'static str, figure: Figure, bound: Bound) -> Goal {
    Goal {
        workload,
        subject: "magent",
        baseline: "nutcracker",
        figure,
        bound,
    }
}

const fn backups_beside_none(workload: &'static str, bound: Bound) -> Goal {
    Goal {
        workload,
        subject: WITH_BACKUPS,
        baseline: "magent",
        figure: PROXY_CPU,
        bound,
    }
}

impl Goal {
    pub(crate) fn workload(&self) -> Option<&'static Workload> {
        find_workload(self.workload)
    }

    /// What the outcome says about it.
    pub(crate) fn judge(&self, outcome: &Outcome) -> Row {
        let runs = |name: &str| outcome.runs_of(self.workload, name);
        let (subject_runs, baseline_runs) = (runs(self.subject), runs(self.baseline));
        let subject = self.figure.spread(&subject_runs);
        let ratio = self.figure.ratios(&subject_runs, &baseline_runs);
        let (measured, limit) = match self.bound {
            Bound::Ratio(limit) => (ratio, Some(limit)),
            Bound::Value(limit) => (subject, Some(limit)),
            Bound::Open => (ratio, None),
        };
        let verdict = match (measured, limit) {
            (None, _) => Verdict::NotMeasured,
            (Some(_), None) => Verdict::NoGoal,
            (Some(spread), Some(limit)) if spread.median <= limit => Verdict::Met,
            (Some(_), Some(_)) => Verdict::Missed,
        };
        Row {
            workload: self.workload,
            figure: self.figure.name,
            subject_name: self.subject,
            baseline_name: self.baseline,
            subject,
            baseline: self.figure.spread(&baseline_runs),
            direct: self.figure.spread(&runs(DIRECT)),
            ratio,
            goal: limit,
            verdict,
        }
    }
}

/// A goal with what was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) workload: &'static str,
    pub(crate) figure: &'static str,
    pub(crate) subject_name: &'static str,
    pub(crate) baseline_name: &'static str,
    pub(crate) subject: Option<Spread>,
    pub(crate) baseline: Option<Spread>,
    /// The same without a proxy, where that has it.
    pub(crate) direct: Option<Spread>,
    pub(crate) ratio: Option<Spread>,
    pub(crate) goal: Option<f64>,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Met,
    Missed,
    NoGoal,
    NotMeasured,
}

impl Verdict {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::NoGoal => "",
            Self::NotMeasured => "not measured",
        }
    }
}

/// The workloads of the goals, each once.
pub(crate) fn workloads() -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for goal in GOALS {
        if !names.contains(&goal.workload) {
            names.push(goal.workload);
        }
    }
    names
}

pub(crate) fn find_workload(name: &str) -> Option<&'static Workload> {
    if name == IDLE.name {
        return Some(&IDLE);
    }
    Workload::find(name)
}

/// Who has to run `workload` for all goals that name it. What memcached does alone is of interest
/// wherever there are requests.
pub(crate) fn peers(workload: &str) -> Vec<Peer> {
    let goals = GOALS.iter().filter(|goal| goal.workload == workload);
    let mut names: Vec<&str> = goals
        .flat_map(|goal| [goal.subject, goal.baseline])
        .collect();
    if workload != IDLE.name {
        names.push(DIRECT);
    }
    let all = Peer::names().into_iter();
    all.filter(|name| names.contains(name))
        .filter_map(Peer::built_in)
        .collect()
}

/// Reads the name of a workload that has a goal.
pub(crate) fn parse_workload(name: &str) -> Result<&'static str, String> {
    let known = || format!("no goal for that (there are: {})", workloads().join(", "));
    let mut names = workloads().into_iter();
    names.find(|&have| have == name).ok_or_else(known)
}

/// The peer that is no proxy.
pub(crate) const DIRECT: &str = "direct";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Run;

    fn goal(bound: Bound) -> Goal {
        beside_nutcracker("get", PROXY_CPU, bound)
    }

    /// magent at 6, 8 and 9 µs where nutcracker takes 10.
    fn outcome() -> Outcome {
        let mut outcome = Outcome::new(6);
        for (round, cpu) in (1..).zip([6.0, 8.0, 9.0]) {
            outcome.runs.push(Run::example("magent", round, Some(cpu)));
            outcome
                .runs
                .push(Run::example("nutcracker", round, Some(10.0)));
        }
        outcome
    }

    #[track_caller]
    fn check(bound: Bound, verdict: Verdict) {
        assert_eq!(goal(bound).judge(&outcome()).verdict, verdict, "{bound:?}");
    }

    #[test]
    fn the_median_is_judged() {
        check(Bound::Ratio(0.8), Verdict::Met);
        check(Bound::Ratio(0.79), Verdict::Missed);
        check(Bound::Value(8.0), Verdict::Met);
        check(Bound::Value(7.9), Verdict::Missed);
        check(Bound::Open, Verdict::NoGoal);
    }

    #[test]
    fn nothing_measured_is_not_met() {
        let row = goal(Bound::Ratio(9.0)).judge(&Outcome::new(0));
        assert_eq!(row.verdict, Verdict::NotMeasured);
        let mut alone = outcome();
        alone.runs.retain(|run| run.peer == "magent");
        let row = goal(Bound::Ratio(9.0)).judge(&alone);
        assert_eq!(row.verdict, Verdict::NotMeasured, "no baseline");
        assert!(row.subject.is_some());
    }

    #[test]
    fn every_goal_can_be_measured() {
        for goal in GOALS {
            let name = goal.workload;
            assert!(goal.workload().is_some(), "{name}");
            let peers: Vec<String> = peers(name).into_iter().map(|peer| peer.name).collect();
            for needed in [goal.subject, goal.baseline] {
                assert!(peers.iter().any(|peer| peer == needed), "{needed}: {name}");
            }
        }
        assert!(parse_workload("rate").is_ok() && parse_workload("tls-get").is_err());
    }

    #[test]
    fn no_memcached_alone_is_asked_to_idle() {
        let names = |workload| -> Vec<String> {
            peers(workload).into_iter().map(|peer| peer.name).collect()
        };
        assert_eq!(names(IDLE.name), ["magent", "nutcracker"]);
        assert_eq!(names("set"), ["magent", WITH_BACKUPS, DIRECT]);
    }
}
