//! The subjects of the published benchmarks: what their files are called, what prompts call them, and which group each
//! counts to. It reads no files.

mod ceval;
mod cmmlu;
mod mmlu;

use serde::Serialize;

/// Whose questions are asked, which decides the wording of prompts and the groups of results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Benchmark {
    /// C-Eval: 52 subjects.
    Ceval,
    /// CMMLU: 67 subjects.
    Cmmlu,
    /// MMLU: 57 subjects, in English.
    Mmlu,
    /// Questions of one's own: worded as C-Eval's, without groups.
    #[default]
    Own,
}

/// A subject of a benchmark.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    key: &'static str,
    name: &'static str,
    group: &'static str,
    subcategory: Option<&'static str>,
}

impl Known {
    const fn new(key: &'static str, name: &'static str, group: &'static str) -> Self {
        Self { key, name, group, subcategory: None }
    }

    const fn within(
        key: &'static str,
        name: &'static str,
        group: &'static str,
        subcategory: &'static str,
    ) -> Self {
        Self { key, name, group, subcategory: Some(subcategory) }
    }
}

impl Benchmark {
    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ceval => "C-Eval",
            Self::Cmmlu => "CMMLU",
            Self::Mmlu => "MMLU",
            Self::Own => "multiple choice",
        }
    }

    /// The split that scores are published of and whose answers are known.
    #[must_use]
    pub fn split(self) -> &'static str {
        match self {
            Self::Ceval | Self::Own => "val",
            Self::Cmmlu | Self::Mmlu => "test",
        }
    }

    /// The groups that its results are published by, in their order.
    #[must_use]
    pub fn groups(self) -> &'static [&'static str] {
        match self {
            Self::Ceval => &ceval::GROUPS,
            Self::Cmmlu => &cmmlu::GROUPS,
            Self::Mmlu => &mmlu::GROUPS,
            Self::Own => &[],
        }
    }

    /// The subjects that it has, by the names of their files; none for questions of one's own.
    pub fn subjects(self) -> impl Iterator<Item = &'static str> {
        self.known().iter().map(|known| known.key)
    }

    /// The group that a subject counts to.
    #[must_use]
    pub fn group(self, key: &str) -> Option<&'static str> {
        self.find(key).map(|known| known.group)
    }

    /// The part of the group that a subject counts to; MMLU alone has them.
    #[must_use]
    pub fn subcategory(self, key: &str) -> Option<&'static str> {
        self.find(key)?.subcategory
    }

    /// What prompts call a subject; questions of one's own have C-Eval's names where their files are called so.
    #[must_use]
    pub fn subject_name(self, key: &str) -> Option<&'static str> {
        match self {
            Self::Own => Self::Ceval.subject_name(key),
            _ => self.find(key).map(|known| known.name),
        }
    }

    /// What the prompts of the older projects call it.
    pub(super) fn older_name(self, key: &str) -> Option<&'static str> {
        let older = ceval::OLDER_NAMES.iter().find(|(known, _)| self != Self::Cmmlu && *known == key);
        older.map(|(_, name)| *name).or_else(|| self.subject_name(key))
    }

    fn find(self, key: &str) -> Option<&'static Known> {
        self.known().iter().find(|known| known.key == key)
    }

    fn known(self) -> &'static [Known] {
        match self {
            Self::Ceval => &ceval::SUBJECTS,
            Self::Cmmlu => &cmmlu::SUBJECTS,
            Self::Mmlu => &mmlu::SUBJECTS,
            Self::Own => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn seed_003_groups_have_the_published_sizes() {
        let sizes = |benchmark: Benchmark| -> Vec<usize> {
            let size = |group: &&str| {
                benchmark.subjects().filter(|key| benchmark.group(key) == Some(*group)).count()
            };
            benchmark.groups().iter().map(size).collect()
        };
        assert_eq!(sizes(Benchmark::Ceval), [20, 10, 11, 11]);
        assert_eq!(sizes(Benchmark::Cmmlu), [17, 11, 13, 11, 15]);
        assert_eq!(sizes(Benchmark::Mmlu), [18, 13, 12, 14]);
        let subcategories: BTreeSet<_> =
            Benchmark::Mmlu.subjects().map(|key| Benchmark::Mmlu.subcategory(key)).collect();
        assert_eq!(subcategories.len(), 17);
    }

    #[test]
    fn the_older_projects_call_one_subject_otherwise() {
        let key = "mao_zedong_thought";
        assert_ne!(Benchmark::Ceval.subject_name(key), Benchmark::Ceval.older_name(key));
        assert_eq!(Benchmark::Ceval.subject_name("law"), Benchmark::Ceval.older_name("law"));
        assert_eq!(Benchmark::Mmlu.subject_name("us_foreign_policy"), Some("us foreign policy"));
    }
}
