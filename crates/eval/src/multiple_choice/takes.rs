//! Several takes of the same questions, each with answers drawn anew: the mean of their scores, and how far they spread.
//!
//! That is the chance of drawing answers alone. How far other questions would carry is the standard error of each take.

use danlu_report::Table;
use serde_json::{Map, Value, json};

use super::summary::{Summary, percent};

/// Takes from which on an interval is told: of two, it is wider than anything that they could say.
const FEWEST: usize = 3;

/// What of a take's `summary.json` holds for all of them.
const OF_EVERY_TAKE: [&str; 10] = [
    "unit",
    "questions",
    "withheld",
    "unasked",
    "reasoned",
    "chance",
    "scoring",
    "chat",
    "shots",
    "shortened",
];

/// Student's t: what 97.5 % are below, for 1 degree of freedom and more.
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// The scores of all takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Takes {
    /// Of all questions.
    pub all: Part,
    /// By the groups that the benchmark's results are published by.
    pub groups: Vec<Part>,
    /// By subject.
    pub subjects: Vec<Part>,
    /// Answers of all takes that state no letter.
    pub unstated: usize,
}

/// The scores of some of the questions.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// What it is called in `summary.json`.
    pub key: String,
    /// What tables call it.
    pub name: String,
    /// Questions asked in each take whose answer is known.
    pub questions: usize,
    /// Share of right answers of each take, 0 to 1.
    pub accuracies: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation (n − 1).
    pub standard_deviation: f64,
    /// 95 % interval of the mean by Student's t, of three takes or more that are not all the same.
    pub interval: Option<(f64, f64)>,
}

impl Takes {
    /// Of takes of the same questions; none where there are fewer than two.
    #[must_use]
    pub fn of(takes: &[Summary]) -> Option<Self> {
        let [first, _, ..] = takes else { return None };
        let part = |key: &str, name: &str, questions, accuracy: &dyn Fn(&Summary) -> f64| {
            Part::of(key, name, questions, takes.iter().map(accuracy).collect())
        };
        let groups = first.groups.iter().enumerate().map(|(place, group)| {
            part(group.name, group.name, group.questions, &|take| take.groups[place].accuracy)
        });
        let subjects = first.subjects.iter().enumerate().map(|(place, subject)| {
            part(&subject.subject, &subject.name, subject.questions, &|take| take.subjects[place].accuracy)
        });
        Some(Self {
            all: part("All", "All", first.questions, &|take| take.accuracy),
            groups: groups.collect(),
            subjects: subjects.collect(),
            unstated: takes.iter().map(|take| take.unstated).sum(),
        })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.accuracies.len()
    }

    /// Everything as JSON, by the names that the `summary.json` of a take has; shares are fractions. How the questions were
    /// asked is that of the first take.
    #[must_use]
    pub fn to_json(&self, first: &Summary) -> Map<String, Value> {
        let all = |parts: &[Part]| -> Map<String, Value> {
            parts.iter().map(|part| (part.key.clone(), part.to_json())).collect()
        };
        let mut json = first.to_json();
        json.retain(|name, _| OF_EVERY_TAKE.contains(&name.as_str()));
        json.extend([
            ("takes".into(), self.count().into()),
            ("accuracy".into(), json!(self.all.mean)),
            ("standard_deviation".into(), json!(self.all.standard_deviation)),
            ("unstated".into(), self.unstated.into()),
            ("subjects".into(), all(&self.subjects).into()),
            ("grouped".into(), all(&self.groups).into()),
            ("All".into(), self.all.to_json()),
        ]);
        json
    }

    /// What [`table`](Self::table) calls its columns in English.
    pub const HEADER: [&str; 5] =
        ["group", "questions", "mean accuracy", "± standard deviation", "95 % interval of the mean"];

    /// A row for each of the parts, called as `name` calls it, and one for all.
    #[must_use]
    pub fn table(&self, header: [&str; 5], parts: &[Part], name: impl Fn(&str) -> String) -> Table {
        let mut table = Table::new(header);
        for part in parts.iter().chain([&self.all]) {
            let Part { questions, mean, standard_deviation, .. } = *part;
            let shares = [percent(mean), percent(standard_deviation), part.shown_interval()];
            table.row([name(&part.name), questions.to_string()].into_iter().chain(shares));
        }
        table
    }
}

impl Part {
    fn of(key: &str, name: &str, questions: usize, accuracies: Vec<f64>) -> Self {
        let count = accuracies.len() as f64;
        let mean = accuracies.iter().sum::<f64>() / count;
        let squares = accuracies.iter().map(|accuracy| (accuracy - mean).powi(2)).sum::<f64>();
        let standard_deviation = (squares / (count - 1.0)).sqrt();
        let half = student(accuracies.len() - 1) * standard_deviation / count.sqrt();
        let differ = accuracies.iter().any(|accuracy| *accuracy != accuracies[0]);
        let standard_deviation = if differ { standard_deviation } else { 0.0 };
        let is_told = differ && accuracies.len() >= FEWEST && mean.is_finite();
        Self {
            key: key.to_owned(),
            name: name.to_owned(),
            questions,
            mean,
            standard_deviation,
            interval: is_told.then_some(((mean - half).max(0.0), (mean + half).min(1.0))),
            accuracies,
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "num": self.questions,
            "score": self.mean,
            "standard_deviation": self.standard_deviation,
            "low": self.interval.map(|(low, _)| low),
            "high": self.interval.map(|(_, high)| high),
            "takes": self.accuracies,
        })
    }

    /// `22.1 % – 28.7 %`; nothing where there is none.
    #[must_use]
    pub fn shown_interval(&self) -> String {
        self.interval.map_or_else(String::new, |(low, high)| format!("{} – {}", percent(low), percent(high)))
    }
}

/// Beyond the table, near enough for three digits.
fn student(degrees: usize) -> f64 {
    let known = degrees.checked_sub(1).and_then(|place| STUDENT.get(place));
    known.copied().unwrap_or(1.96 + 2.4 / degrees as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_that_of_student() {
        // 0.5 ± 2.776445 · 0.079057 / √5, as tables have Student's t of 4 degrees of freedom.
        let part = Part::of("k", "n", 20, vec![0.4, 0.45, 0.5, 0.55, 0.6]);
        let (low, high) = part.interval.unwrap();
        assert!((part.mean - 0.5).abs() < 1e-12 && (part.standard_deviation - 0.079_057).abs() < 1e-6);
        assert!((low - 0.401_838).abs() < 1e-4 && (high - 0.598_162).abs() < 1e-4, "{low} {high}");
        // Of 40 and 100 degrees.
        assert!((student(40) - 2.021_075).abs() < 2e-3 && (student(100) - 1.983_972).abs() < 2e-3);
    }

    #[test]
    fn two_takes_have_no_interval_and_none_leaves_its_range() {
        assert_eq!(Part::of("k", "n", 20, vec![0.4, 0.6]).interval, None);
        assert_eq!(Part::of("k", "n", 2, vec![0.0, 1.0, 1.0]).interval, Some((0.0, 1.0)));
        assert_eq!(Part::of("k", "n", 2, vec![0.1; 3]).interval, None);
        assert_eq!(Part::of("k", "n", 2, vec![0.1; 3]).standard_deviation, 0.0);
        let withheld = Part::of("k", "n", 0, vec![f64::NAN; 3]);
        assert_eq!((withheld.interval, withheld.shown_interval()), (None, String::new()));
    }
}
