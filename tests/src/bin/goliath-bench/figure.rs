//! A measured value beside another that was measured in the same run.

use std::time::Duration;

use serde::Serialize;

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) baseline: f64,
    pub(crate) baseline_name: &'static str,
    /// Value by baseline; none where the baseline is zero.
    pub(crate) ratio: Option<f64>,
    /// The most that the ratio may be; none where there is only something to be shown.
    pub(crate) goal: Option<f64>,
    pub(crate) met: Option<bool>,
    /// What costs most, for when the goal is missed.
    #[serde(skip)]
    pub(crate) cost: &'static str,
}

/// A figure before it is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) baseline_name: &'static str,
    pub(crate) goal: Option<f64>,
    pub(crate) cost: &'static str,
}

impl Plan {
    /// With what was measured.
    pub(crate) fn measured(self, value: f64, baseline: f64) -> Figure {
        let Self { name, unit, baseline_name, goal, cost } = self;
        let ratio = (baseline > 0.0).then(|| value / baseline);
        let met = goal.zip(ratio).map(|(goal, ratio)| ratio <= goal);
        Figure { name, value, unit, baseline, baseline_name, ratio, goal, met, cost }
    }

    /// With the medians of what was measured, in milliseconds.
    pub(crate) fn timed(self, values: &[Duration], baselines: &[Duration]) -> Figure {
        self.measured(milliseconds(median(values)), milliseconds(median(baselines)))
    }
}

/// The middle one, or the mean of the two middle ones; zero of none.
pub(crate) fn median(values: &[Duration]) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort();
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    match sorted.len() {
        0 => Duration::ZERO,
        length if length % 2 == 1 => at(length / 2),
        length => (at(length / 2 - 1) + at(length / 2)) / 2,
    }
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { name: "a", unit: "ms", baseline_name: "b", goal: Some(1.25), cost: "" };

    #[test]
    fn a_median_is_not_moved_by_one_that_is_far_off() {
        let milliseconds = |values: &[u64]| values.iter().copied().map(Duration::from_millis).collect::<Vec<_>>();
        for (values, expected) in [(vec![], 0), (vec![7], 7), (vec![9, 1], 5), (vec![3, 90_000, 1], 3)] {
            assert_eq!(median(&milliseconds(&values)), Duration::from_millis(expected), "{values:?}");
        }
    }

    #[test]
    fn a_goal_is_met_up_to_its_own_value() {
        assert_eq!(PLAN.measured(125.0, 100.0).met, Some(true));
        assert_eq!(PLAN.measured(126.0, 100.0).met, Some(false));
        assert_eq!(Plan { goal: None, ..PLAN }.measured(1.0, 1.0).met, None);
        let without_baseline = PLAN.measured(1.0, 0.0);
        assert_eq!((without_baseline.ratio, without_baseline.met), (None, None));
    }
}
