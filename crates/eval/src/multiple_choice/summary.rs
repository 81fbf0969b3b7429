//! Answers counted: accuracy by subject, by group and in all, with what chance alone gives and how far chance may carry.
//!
//! It knows no files; `summary.json` is [`Summary::to_json`] with what was asked of which model beside it.

use danlu_report::Table;
use serde_json::{Map, Value, json};

use super::questions::{OPTIONS, Questions};
use super::{Answer, Benchmark, Options, Scoring};

/// The result of an evaluation. Numbers over several subjects count each question alike, so that a subject weighs by its
/// size. Questions whose answer is withheld count nowhere; without any other, shares are not a number.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Whose questions were asked.
    pub benchmark: Benchmark,
    /// Share of right answers, 0 to 1; with [`Scoring::Text`] by log-likelihood per character.
    pub accuracy: f64,
    /// Share of right answers by the log-likelihood as it is; only with [`Scoring::Text`].
    pub accuracy_unnormalized: Option<f64>,
    /// Questions asked whose answer is known.
    pub questions: usize,
    /// Right answers.
    pub correct: usize,
    /// Questions asked whose answer is withheld.
    pub withheld: usize,
    /// Questions that alone do not fit the model's context; they count as wrong.
    pub unasked: usize,
    /// Whether the model wrote its reasons first; then its answer decided.
    pub reasoned: bool,
    /// Questions whose answer states no letter; they count as wrong.
    pub unstated: usize,
    /// What guessing gives.
    pub chance: f64,
    /// Standard error of the accuracy: √(p (1 − p) / n).
    pub standard_error: f64,
    /// Mean log-likelihood of the right option, natural logarithm; not with [`Scoring::Seed`], which has none.
    pub mean_log_probability: f64,
    /// Whose log-likelihood decided, but for [`reasoned`](Self::reasoned).
    pub scoring: Scoring,
    /// Whether the questions were asked in a chat template.
    pub chat: bool,
    /// Examples before each question.
    pub shots: usize,
    /// Questions whose prompt was shortened to fit the model's context.
    pub shortened: usize,
    /// By subject.
    pub subjects: Vec<SubjectSummary>,
    /// By the groups that the benchmark's results are published by; none for questions of one's own.
    pub groups: Vec<GroupSummary>,
    /// By the parts of those groups, which MMLU alone has.
    pub subcategories: Vec<GroupSummary>,
}

/// The result of one subject; fields as in [`Summary`].
#[derive(Debug, Clone, PartialEq)]
pub struct SubjectSummary {
    /// The file's name without ending and split.
    pub subject: String,
    /// What prompts call it.
    pub name: String,
    /// The group that it counts to.
    pub group: Option<&'static str>,
    /// Share of right answers.
    pub accuracy: f64,
    /// Questions asked whose answer is known.
    pub questions: usize,
    /// Right answers.
    pub correct: usize,
    /// Standard error of the accuracy.
    pub standard_error: f64,
    /// Mean log-likelihood of the right option.
    pub mean_log_probability: f64,
}

/// The result of several subjects; fields as in [`Summary`].
#[derive(Debug, Clone, PartialEq)]
pub struct GroupSummary {
    /// What it is called.
    pub name: &'static str,
    /// Subjects asked.
    pub subjects: usize,
    /// Share of right answers.
    pub accuracy: f64,
    /// Questions asked whose answer is known.
    pub questions: usize,
    /// Right answers.
    pub correct: usize,
    /// Standard error of the accuracy.
    pub standard_error: f64,
}

impl Summary {
    /// Counts answers, which are in the order of the questions.
    #[must_use]
    pub fn new(questions: &Questions, options: &Options, answers: &[Answer]) -> Self {
        let benchmark = questions.benchmark;
        let mut all = Count::default();
        let mut subjects = Vec::with_capacity(questions.subjects.len());
        let (mut groups, mut subcategories) = (Groups::default(), Groups::default());
        let mean_log_probability = |count: &Count| match options.scoring {
            Scoring::Seed => f64::NAN,
            Scoring::LmEval | Scoring::Text => count.log_probability / count.scored as f64,
        };
        let mut rest = answers.iter();
        for subject in &questions.subjects {
            let mut count = Count::default();
            for (question, answer) in subject.questions.iter().zip(&mut rest) {
                count.add(question.right, answer);
            }
            all.join(&count);
            let group = benchmark.group(&subject.key);
            groups.add(group, &count);
            subcategories.add(benchmark.subcategory(&subject.key), &count);
            subjects.push(SubjectSummary {
                subject: subject.key.clone(),
                name: subject.name.clone(),
                group,
                accuracy: count.share(count.correct),
                questions: count.questions,
                correct: count.correct,
                standard_error: count.standard_error(),
                mean_log_probability: mean_log_probability(&count),
            });
        }
        Self {
            benchmark,
            accuracy: all.share(all.correct),
            accuracy_unnormalized: (options.scoring == Scoring::Text && options.reasoning.is_none())
                .then(|| all.share(all.correct_unnormalized)),
            questions: all.questions,
            correct: all.correct,
            withheld: all.withheld,
            unasked: all.unasked,
            reasoned: options.reasoning.is_some(),
            unstated: all.unstated,
            chance: 1.0 / OPTIONS as f64,
            standard_error: all.standard_error(),
            mean_log_probability: mean_log_probability(&all),
            scoring: options.scoring,
            chat: options.is_chat(),
            shots: questions.shots,
            shortened: all.shortened,
            subjects,
            groups: groups.in_order(benchmark.groups()),
            subcategories: subcategories.in_order(&[]),
        }
    }

    /// Everything as JSON. Shares are fractions; `subjects`, `grouped` and `All` have `score`, `num` and `correct` by the
    /// names that the older projects have for them.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        let score = |accuracy: f64, questions: usize, correct: usize, error: f64| json!({"score": accuracy, "num": questions, "correct": correct, "standard_error": error});
        let grouped = |groups: &[GroupSummary]| -> Map<String, Value> {
            let entry = |group: &GroupSummary| {
                let GroupSummary { accuracy, questions, correct, standard_error, .. } = *group;
                (group.name.to_owned(), score(accuracy, questions, correct, standard_error))
            };
            groups.iter().map(entry).collect()
        };
        let subject = |subject: &SubjectSummary| {
            let entry = json!({
                "name": subject.name,
                "group": subject.group,
                "score": subject.accuracy,
                "num": subject.questions,
                "correct": subject.correct,
                "standard_error": subject.standard_error,
                "mean_log_probability": subject.mean_log_probability,
            });
            (subject.subject.clone(), entry)
        };
        let mut json =
            Map::from_iter([("unit".into(), "fraction".into()), ("accuracy".into(), json!(self.accuracy))]);
        if let Some(accuracy) = self.accuracy_unnormalized {
            json.insert("accuracy_unnormalized".into(), json!(accuracy));
        }
        json.extend([
            ("questions".into(), self.questions.into()),
            ("correct".into(), self.correct.into()),
            ("withheld".into(), self.withheld.into()),
            ("unasked".into(), self.unasked.into()),
            ("reasoned".into(), self.reasoned.into()),
            ("unstated".into(), self.unstated.into()),
            ("chance".into(), json!(self.chance)),
            ("standard_error".into(), json!(self.standard_error)),
            ("mean_log_probability".into(), json!(self.mean_log_probability)),
            ("scoring".into(), if self.reasoned { "reasons".into() } else { json!(self.scoring) }),
            ("chat".into(), self.chat.into()),
            ("shots".into(), self.shots.into()),
            ("shortened".into(), self.shortened.into()),
            ("subjects".into(), Value::Object(self.subjects.iter().map(subject).collect())),
            ("grouped".into(), grouped(&self.groups).into()),
        ]);
        if !self.subcategories.is_empty() {
            json.insert("subcategories".into(), grouped(&self.subcategories).into());
        }
        json.insert("All".into(), score(self.accuracy, self.questions, self.correct, self.standard_error));
        json
    }

    /// A row for each group, or, where there are none, for each subject, and one for all.
    #[must_use]
    pub fn table(&self) -> Table {
        if self.groups.is_empty() {
            return self.subject_table();
        }
        let mut table =
            Table::new(["group", "subjects", "questions", "correct", "accuracy", "± standard error"]);
        let mut row = |name: &str, subjects: usize, cells: [String; 4]| {
            table.row([name.to_owned(), subjects.to_string()].into_iter().chain(cells));
        };
        for group in &self.groups {
            let GroupSummary { accuracy, questions, correct, standard_error, .. } = *group;
            row(group.name, group.subjects, cells(questions, correct, accuracy, standard_error));
        }
        row("All", self.subjects.len(), self.cells());
        table
    }

    /// A row for each subject and one for all.
    #[must_use]
    pub fn subject_table(&self) -> Table {
        let mut table = Table::new(["subject", "questions", "correct", "accuracy", "± standard error"]);
        for subject in &self.subjects {
            let SubjectSummary { accuracy, questions, correct, standard_error, .. } = *subject;
            let cells = cells(questions, correct, accuracy, standard_error);
            table.row([subject.name.clone()].into_iter().chain(cells));
        }
        table.row(["All".to_owned()].into_iter().chain(self.cells()));
        table
    }

    fn cells(&self) -> [String; 4] {
        cells(self.questions, self.correct, self.accuracy, self.standard_error)
    }
}

fn cells(questions: usize, correct: usize, accuracy: f64, standard_error: f64) -> [String; 4] {
    [questions.to_string(), correct.to_string(), percent(accuracy), percent(standard_error)]
}

/// 0.254 → `25.4 %`; nothing for no number.
#[must_use]
pub fn percent(share: f64) -> String {
    if share.is_nan() { String::new() } else { format!("{:.1} %", 100.0 * share) }
}

#[derive(Default)]
struct Count {
    questions: usize,
    correct: usize,
    correct_unnormalized: usize,
    withheld: usize,
    unasked: usize,
    unstated: usize,
    shortened: usize,
    /// Questions with a known answer that have scores.
    scored: usize,
    log_probability: f64,
}

impl Count {
    fn add(&mut self, right: Option<usize>, answer: &Answer) {
        self.shortened += usize::from(answer.shortened && answer.was_asked());
        self.unasked += usize::from(!answer.was_asked());
        self.unstated += usize::from(answer.response.is_some() && answer.chosen.is_none());
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
        self.withheld += other.withheld;
        self.unasked += other.unasked;
        self.unstated += other.unstated;
        self.scored += other.scored;
        self.shortened += other.shortened;
        self.log_probability += other.log_probability;
    }

    fn share(&self, part: usize) -> f64 {
        part as f64 / self.questions as f64
    }

    fn standard_error(&self) -> f64 {
        let accuracy = self.share(self.correct);
        (accuracy * (1.0 - accuracy) / self.questions as f64).sqrt()
    }
}

/// Counts of groups, in the order that they were met.
#[derive(Default)]
struct Groups(Vec<(&'static str, usize, Count)>);

impl Groups {
    fn add(&mut self, group: Option<&'static str>, count: &Count) {
        let Some(group) = group else { return };
        if !self.0.iter().any(|(name, ..)| *name == group) {
            self.0.push((group, 0, Count::default()));
        }
        for (_, subjects, sum) in self.0.iter_mut().filter(|(name, ..)| *name == group) {
            *subjects += 1;
            sum.join(count);
        }
    }

    /// In this order, those that are not in it behind.
    fn in_order(mut self, order: &[&str]) -> Vec<GroupSummary> {
        self.0.sort_by_key(|(name, ..)| order.iter().position(|known| known == name).unwrap_or(order.len()));
        let summary = |(name, subjects, count): (&'static str, usize, Count)| GroupSummary {
            name,
            subjects,
            accuracy: count.share(count.correct),
            questions: count.questions,
            correct: count.correct,
            standard_error: count.standard_error(),
        };
        self.0.into_iter().map(summary).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use danlu_data::Source;

    use super::super::questions::{Question, Subject};
    use super::*;

    /// A question of each subject whose right option is B.
    fn questions(benchmark: Benchmark, keys: &[&str], right: Option<usize>) -> Questions {
        let source = Source { path: Path::new("q.csv").into(), line: 2 };
        let options = ["1", "2", "3", "4"].map(str::to_owned);
        let question = Question { id: None, question: "q".into(), options, right, explanation: None, source };
        let subject = |key: &&str| Subject {
            key: (*key).to_owned(),
            name: (*key).to_owned(),
            examples: Vec::new(),
            questions: vec![question.clone(), question.clone()],
        };
        let subjects = keys.iter().map(subject).collect();
        Questions { benchmark, split: "test".into(), subjects, shots: 0, missing: Vec::new() }
    }

    fn answer(chosen: usize) -> Answer {
        Answer {
            scores: Some([-1.0; OPTIONS]),
            most_likely: Some(chosen),
            chosen: Some(chosen),
            shortened: false,
            response: None,
        }
    }

    #[test]
    fn groups_weigh_by_questions_and_stand_in_the_published_order() {
        let keys = ["management", "abstract_algebra", "astronomy", "formal_logic"];
        let questions = questions(Benchmark::Mmlu, &keys, Some(1));
        let answers = [0, 0, 1, 1, 1, 0, 2, 1].map(answer);
        let json = Summary::new(&questions, &Options::default(), &answers).to_json();
        let scores = |value: &Value| -> Vec<(String, f64)> {
            let groups = value.as_object().unwrap().iter();
            groups.map(|(name, group)| (name.clone(), group["score"].as_f64().unwrap())).collect()
        };
        let other = "other (business, health, misc.)";
        let expected = [("STEM", 0.75), ("humanities", 0.5), (other, 0.0)];
        assert_eq!(scores(&json["grouped"]), expected.map(|(name, score)| (name.to_owned(), score)));
        let parts = [("business", 0.0), ("math", 1.0), ("physics", 0.5), ("philosophy", 0.5)];
        assert_eq!(scores(&json["subcategories"]), parts.map(|(name, score)| (name.to_owned(), score)));
        assert_eq!((&json["All"]["correct"], &json["All"]["num"]), (&json!(4), &json!(8)));
        assert_eq!(json["subjects"]["astronomy"]["group"], "STEM");
    }

    #[test]
    fn withheld_answers_leave_no_score() {
        let questions = questions(Benchmark::Ceval, &["law"], None);
        let summary = Summary::new(&questions, &Options::default(), &[answer(0), answer(1)]);
        let json = summary.to_json();
        assert_eq!(
            (&json["accuracy"], &json["withheld"], &json["questions"]),
            (&Value::Null, &json!(2), &json!(0))
        );
        assert!(!summary.table().to_markdown().contains("NaN"));
    }
}
