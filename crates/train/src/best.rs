//! Which validation was the best, and whether the run still improves.
//!
//! It is worked out from the log alone, so that a resumed run knows it without having kept anything.

use serde_json::Value;

use crate::recipe::EvaluationOptions;
use crate::run_folder::LogEntry;

/// The best validation so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Best {
    /// Name of the metric, such as `eval_loss`.
    pub metric: String,
    greater: bool,
    threshold: f64,
    patience: Option<u64>,
    /// Step and value of the best validation.
    pub found: Option<(u64, f64)>,
    /// Validations since one that was clearly better than those before it.
    without_improvement: u64,
}

impl Best {
    /// What a log of a run says.
    pub fn of_history(options: &EvaluationOptions, history: &[LogEntry]) -> Self {
        let metric = options.metric();
        let mut best = Self {
            greater: options.greater_is_better(),
            threshold: options.early_stopping_threshold,
            patience: options.early_stopping_steps,
            found: None,
            without_improvement: 0,
            metric,
        };
        for entry in history {
            let step = entry.get("step").and_then(Value::as_u64);
            if let (Some(step), Some(value)) = (step, entry.get(&best.metric).and_then(Value::as_f64)) {
                best.add(step, value);
            }
        }
        best
    }

    /// Takes in a validation, and says whether it is the best so far. One that is not a number never is.
    pub fn add(&mut self, step: u64, value: f64) -> bool {
        let gain = match self.found {
            None if value.is_finite() => f64::INFINITY,
            Some((_, best)) if self.greater => value - best,
            Some((_, best)) => best - value,
            None => f64::NEG_INFINITY,
        };
        let is_clear = gain > self.threshold;
        self.without_improvement = if is_clear { 0 } else { self.without_improvement + 1 };
        let is_best = gain > 0.0;
        if is_best {
            self.found = Some((step, value));
        }
        is_best
    }

    /// Why the run should end, if the metric has not improved for long enough.
    pub fn ends(&self) -> Option<String> {
        let patience = self.patience.filter(|patience| self.without_improvement >= *patience)?;
        let best = self
            .found
            .map_or_else(String::new, |(step, value)| format!(" (the best, {value:.4}, was at step {step})"));
        Some(format!("`{}` has not improved for {patience} validations{best}", self.metric))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(options: &EvaluationOptions, values: &[f64]) -> Best {
        let entry = |(index, value): (usize, &f64)| {
            let metric = options.metric();
            LogEntry::from([("step".into(), (index as u64 + 1).into()), (metric, Value::from(*value))])
        };
        Best::of_history(options, &values.iter().enumerate().map(entry).collect::<Vec<_>>())
    }

    #[test]
    fn the_smallest_loss_and_the_greatest_accuracy_are_the_best() {
        let losses = EvaluationOptions::default();
        assert_eq!(best(&losses, &[3.0, 2.0, 2.5, 2.0]).found, Some((2, 2.0)));
        let accuracies =
            EvaluationOptions { metric_for_best_model: Some("accuracy".into()), ..losses.clone() };
        assert_eq!(best(&accuracies, &[0.1, 0.3, 0.2]).found, Some((2, 0.3)));
        let reversed = EvaluationOptions { greater_is_better: Some(true), ..losses };
        assert_eq!(best(&reversed, &[3.0, 2.0]).found, Some((1, 3.0)));
    }

    #[test]
    fn patience_counts_validations_without_a_clear_gain() {
        let options = EvaluationOptions {
            early_stopping_steps: Some(2),
            early_stopping_threshold: 0.1,
            ..EvaluationOptions::default()
        };
        assert_eq!(best(&options, &[3.0, 3.1, 2.8]).ends(), None);
        let tired = best(&options, &[3.0, 2.95, 2.92]);
        assert_eq!(tired.found, Some((3, 2.92)), "a small gain is one all the same");
        assert_eq!(
            tired.ends().unwrap(),
            "`eval_loss` has not improved for 2 validations (the best, 2.9200, was at step 3)"
        );
        assert_eq!(best(&EvaluationOptions::default(), &[1.0, 2.0, 3.0, 4.0]).ends(), None);
    }
}
