//! Answers counted: accuracy by subject and in all, with what chance alone gives and how far chance may carry.

use danlu_report::Table;
use serde::Serialize;

use super::questions::{OPTIONS, Questions};
use super::{Answer, Options, Scoring};

/// The result of an evaluation. Numbers over all questions count each question alike, so that a subject weighs by its
/// size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Share of right answers, 0 to 1; with [`Scoring::Text`] by log-likelihood per character.
    pub accuracy: f64,
    /// Share of right answers by the log-likelihood as it is; only with [`Scoring::Text`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_unnormalized: Option<f64>,
    /// Questions whose answer is known.
    pub questions: usize,
    /// Right answers.
    pub correct: usize,
    /// Questions whose answer is withheld; they count nowhere else.
    pub withheld: usize,
    /// Questions that alone do not fit the model's context; they count as wrong.
    pub unasked: usize,
    /// What guessing gives.
    pub chance: f64,
    /// Standard error of the accuracy: √(p (1 − p) / n).
    pub standard_error: f64,
    /// Mean log-likelihood of the right option, natural logarithm.
    pub mean_log_probability: f64,
    /// Whose log-likelihood decided.
    pub scoring: Scoring,
    /// Whether the questions were asked in a chat template.
    pub chat: bool,
    /// Examples before each question.
    pub shots: usize,
    /// Questions whose prompt was shortened to fit the model's context.
    pub shortened: usize,
    /// The same by subject.
    pub subjects: Vec<SubjectSummary>,
}

/// The result of one subject; fields as in [`Summary`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SubjectSummary {
    /// The file's name without ending and split.
    pub subject: String,
    /// What prompts call it.
    pub name: String,
    /// Share of right answers.
    pub accuracy: f64,
    /// Questions asked.
    pub questions: usize,
    /// Right answers.
    pub correct: usize,
    /// Standard error of the accuracy.
    pub standard_error: f64,
    /// Mean log-likelihood of the right option.
    pub mean_log_probability: f64,
}

impl Summary {
    /// Counts answers, which are in the order of the questions.
    pub(super) fn new(questions: &Questions, options: &Options, answers: &[Answer]) -> Self {
        let mut all = Count::default();
        let mut subjects = Vec::with_capacity(questions.subjects.len());
        let mut rest = answers.iter();
        for subject in &questions.subjects {
            let mut count = Count::default();
            for (question, answer) in subject.questions.iter().zip(&mut rest) {
                count.add(question.right, answer);
            }
            all.join(&count);
            subjects.push(SubjectSummary {
                subject: subject.key.clone(),
                name: subject.name.clone(),
                accuracy: count.share(count.correct),
                questions: count.questions,
                correct: count.correct,
                standard_error: count.standard_error(),
                mean_log_probability: count.mean_log_probability(),
            });
        }
        Self {
            accuracy: all.share(all.correct),
            accuracy_unnormalized: (options.scoring == Scoring::Text)
                .then(|| all.share(all.correct_unnormalized)),
            questions: all.questions,
            correct: all.correct,
            withheld: all.withheld,
            unasked: all.unasked,
            chance: 1.0 / OPTIONS as f64,
            standard_error: all.standard_error(),
            mean_log_probability: all.mean_log_probability(),
            scoring: options.scoring,
            chat: options.template.is_some(),
            shots: questions.shots,
            shortened: all.shortened,
            subjects,
        }
    }

    /// A row for each subject and one for all, for reports.
    #[must_use]
    pub fn table(&self) -> Table {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let mut table = Table::new(["subject", "questions", "correct", "accuracy", "± standard error"]);
        for subject in &self.subjects {
            table.row([
                subject.name.clone(),
                subject.questions.to_string(),
                subject.correct.to_string(),
                percent(subject.accuracy),
                percent(subject.standard_error),
            ]);
        }
        table.row([
            "all".to_owned(),
            self.questions.to_string(),
            self.correct.to_string(),
            percent(self.accuracy),
            percent(self.standard_error),
        ]);
        table
    }
}

#[derive(Default)]
struct Count {
    questions: usize,
    correct: usize,
    correct_unnormalized: usize,
    shortened: usize,
    withheld: usize,
    unasked: usize,
    /// Questions with a known answer that have scores.
    scored: usize,
    log_probability: f64,
}

impl Count {
    /// A question whose answer is withheld counts nowhere; one that the model could not be asked is not right.
    fn add(&mut self, right: Option<usize>, answer: &Answer) {
        self.shortened += usize::from(answer.shortened);
        self.unasked += usize::from(answer.scores.is_none());
        let Some(right) = right else {
            self.withheld += 1;
            return;
        };
        self.questions += 1;
        self.correct += usize::from(answer.chosen == Some(right));
        self.correct_unnormalized += usize::from(answer.most_likely == Some(right));
        if let Some(scores) = answer.scores {
            self.scored += 1;
            self.log_probability += scores[right];
        }
    }

    fn join(&mut self, other: &Self) {
        self.questions += other.questions;
        self.correct += other.correct;
        self.correct_unnormalized += other.correct_unnormalized;
        self.shortened += other.shortened;
        self.withheld += other.withheld;
        self.unasked += other.unasked;
        self.scored += other.scored;
        self.log_probability += other.log_probability;
    }

    fn share(&self, part: usize) -> f64 {
        part as f64 / self.questions.max(1) as f64
    }

    fn standard_error(&self) -> f64 {
        let accuracy = self.share(self.correct);
        (accuracy * (1.0 - accuracy) / self.questions.max(1) as f64).sqrt()
    }

    fn mean_log_probability(&self) -> f64 {
        self.log_probability / self.scored.max(1) as f64
    }
}
