//! Tables of figures: medians, and ratios taken round by round.
//!
//! Not here: the tables of `compare`, whose rows are workloads (`report`).

use std::fmt::Write as _;

use crate::stats::Spread;

/// One figure of a run: a column of the table.
pub(crate) struct Figure<R> {
    pub(crate) heading: &'static str,
    pub(crate) digits: usize,
    pub(crate) of: fn(&R) -> Option<f64>,
    /// Whether a ratio of two peers says anything.
    pub(crate) compared: bool,
}

/// What a table is made of.
pub(crate) trait Run {
    fn peer(&self) -> &str;
    /// Runs of one round make a pair.
    fn round(&self) -> u32;
}

/// A line per peer with the medians of `runs`, and the ratios of each to `baseline`.
pub(crate) fn render<R: Run>(
    figures: &[Figure<R>],
    runs: &[&R],
    peers: &[String],
    baseline: &str,
) -> String {
    let mut out = format!("{:<22}", "");
    for figure in figures {
        write!(out, " {:>11}", figure.heading).expect("a String takes all");
    }
    out.push('\n');
    let of_peer = |name: &str| -> Vec<&R> {
        let mine = runs.iter().copied().filter(|run| run.peer() == name);
        mine.collect()
    };
    for peer in peers {
        let mine = of_peer(peer);
        row(&mut out, peer, figures, |figure| {
            let values: Option<Vec<f64>> = mine.iter().map(|run| (figure.of)(run)).collect();
            let spread = Spread::of(values?)?;
            Some(format!("{:.*}", figure.digits, spread.median))
        });
    }
    let theirs = of_peer(baseline);
    for peer in peers.iter().filter(|peer| *peer != baseline) {
        let mine = of_peer(peer);
        let spread = |figure: &Figure<R>| {
            let pairs = mine.iter().filter_map(|run| {
                let other = theirs.iter().find(|other| other.round() == run.round())?;
                Some(((figure.of)(run)?, (figure.of)(other)?))
            });
            Spread::of_ratios(pairs).filter(|_| figure.compared)
        };
        if figures.iter().all(|figure| spread(figure).is_none()) {
            continue;
        }
        row(&mut out, &format!("{peer}/{baseline}"), figures, |figure| {
            Some(format!("{:.2}", spread(figure)?.median))
        });
        row(&mut out, "", figures, |figure| {
            let spread = spread(figure)?;
            Some(format!("({:.2}–{:.2})", spread.min, spread.max))
        });
    }
    out
}

fn row<R>(
    out: &mut String,
    name: &str,
    figures: &[Figure<R>],
    cell: impl Fn(&Figure<R>) -> Option<String>,
) {
    write!(out, "  {name:<20}").expect("a String takes all");
    for figure in figures {
        let text = cell(figure).unwrap_or_else(|| "–".to_owned());
        write!(out, " {text:>11}").expect("a String takes all");
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sample(&'static str, u32, f64);

    impl Run for Sample {
        fn peer(&self) -> &str {
            self.0
        }

        fn round(&self) -> u32 {
            self.1
        }
    }

    #[test]
    fn ratios_are_those_of_the_same_round() {
        let figures = [Figure {
            heading: "p99 µs",
            digits: 1,
            of: |run: &Sample| Some(run.2),
            compared: true,
        }];
        // The second round was ten times as slow for both.
        let runs = [
            Sample("new", 1, 10.0),
            Sample("old", 1, 20.0),
            Sample("old", 2, 200.0),
            Sample("new", 2, 100.0),
        ];
        let runs: Vec<&Sample> = runs.iter().collect();
        let peers = ["new", "old"].map(str::to_owned);
        let table = render(&figures, &runs, &peers, "old");
        let words: Vec<&str> = table.split_whitespace().collect();
        let expected = "p99 µs new 55.0 old 110.0 new/old 0.50 (0.50–0.50)";
        assert_eq!(words.join(" "), expected);
    }
}
