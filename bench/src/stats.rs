//! Medians, and ratios that survive a noisy machine.

use serde::Serialize;

/// Median and range of several figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` without figures, or if one is not a number (0 / 0).
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        if sorted.is_empty() || sorted.iter().any(|figure| !figure.is_finite()) {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self {
            median,
            min: sorted[0],
            max: sorted[sorted.len() - 1],
        })
    }

    /// The same in a larger unit.
    pub(crate) fn divided_by(self, unit: f64) -> Self {
        let Self { median, min, max } = self;
        let [median, min, max] = [median, min, max].map(|figure| figure / unit);
        Self { median, min, max }
    }

    /// The ratios of figures measured in the same round. A disturbance that lasts longer than a
    /// round hits both sides of a pair and cancels out; a ratio of medians would keep it.
    pub(crate) fn of_ratios(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        Self::of(
            pairs
                .into_iter()
                .map(|(subject, baseline)| subject / baseline),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(figures: &[f64], median: f64, min: f64, max: f64) {
        assert_eq!(
            Spread::of(figures.iter().copied()),
            Some(Spread { median, min, max })
        );
    }

    #[test]
    fn medians() {
        check(&[3.0], 3.0, 3.0, 3.0);
        check(&[9.0, 1.0, 2.0], 2.0, 1.0, 9.0);
        check(&[4.0, 1.0, 2.0, 100.0], 3.0, 1.0, 100.0);
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([1.0, f64::NAN]), None);
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        // The machine got twice as slow after the second round; the ratio has not changed.
        let pairs = [
            (5.0, 10.0),
            (5.0, 10.0),
            (10.0, 20.0),
            (10.0, 20.0),
            (12.0, 20.0),
        ];
        let spread = Spread::of_ratios(pairs).unwrap();
        assert_eq!(
            spread,
            Spread {
                median: 0.5,
                min: 0.5,
                max: 0.6
            }
        );
        assert_eq!(Spread::of_ratios([(1.0, 0.0)]), None, "division by nothing");
    }
}
