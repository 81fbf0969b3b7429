//! The 21 data sets of LongBench: their prompts, the longest answers, and how answers are scored.

use std::collections::HashMap;
use std::sync::LazyLock;

/// `dataset2prompt.json`, byte for byte, with the `asconcisely` that published scores were made with.
const PROMPTS: &str = include_str!("prompts.json");

static PROMPT_OF: LazyLock<HashMap<String, String>> =
    LazyLock::new(|| serde_json::from_str(PROMPTS).unwrap_or_default());

/// What is asked for together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// English texts.
    English,
    /// Chinese texts.
    Chinese,
    /// Program code.
    Code,
}

/// How answers are scored; [`scores`](super::scores) says what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// F1 of words.
    QaF1,
    /// F1 of the words that jieba cuts.
    QaF1Zh,
    /// ROUGE-L.
    Rouge,
    /// ROUGE-L of the words that jieba cuts.
    RougeZh,
    /// The class that the answer names.
    Classification,
    /// The number of a paragraph.
    Retrieval,
    /// The number of a paragraph, in Chinese.
    RetrievalZh,
    /// A number.
    Count,
    /// Similarity of a line of code.
    CodeSimilarity,
}

impl Metric {
    /// Its name in tables, after that of LongBench's function.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::QaF1 => "qa_f1",
            Self::QaF1Zh => "qa_f1_zh",
            Self::Rouge => "rouge",
            Self::RougeZh => "rouge_zh",
            Self::Classification => "classification",
            Self::Retrieval => "retrieval",
            Self::RetrievalZh => "retrieval_zh",
            Self::Count => "count",
            Self::CodeSimilarity => "code_sim",
        }
    }
}

/// A data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// Its name, and that of its file.
    pub name: &'static str,
    /// What it belongs to.
    pub group: Group,
    /// How its answers are scored.
    pub metric: Metric,
    /// The longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Whether it is also in LongBench-E, whose lengths are spread evenly.
    pub is_in_e: bool,
}

/// All of them, in the order in which the scripts of Chinese-LLaMA-Alpaca ask them.
pub const TASKS: [Task; 21] = {
    use Group::{Chinese, Code, English};
    use Metric::{
        Classification, CodeSimilarity, Count, QaF1, QaF1Zh, Retrieval, RetrievalZh, Rouge, RougeZh,
    };
    const fn task(
        name: &'static str,
        group: Group,
        metric: Metric,
        max_new_tokens: usize,
        is_in_e: bool,
    ) -> Task {
        Task { name, group, metric, max_new_tokens, is_in_e }
    }
    [
        task("hotpotqa", English, QaF1, 32, true),
        task("2wikimqa", English, QaF1, 32, true),
        task("musique", English, QaF1, 32, false),
        task("narrativeqa", English, QaF1, 128, false),
        task("qasper", English, QaF1, 128, true),
        task("multifieldqa_en", English, QaF1, 64, true),
        task("gov_report", English, Rouge, 512, true),
        task("qmsum", English, Rouge, 512, false),
        task("trec", English, Classification, 64, true),
        task("samsum", English, Rouge, 128, true),
        task("triviaqa", English, QaF1, 32, true),
        task("passage_count", English, Count, 32, true),
        task("passage_retrieval_en", English, Retrieval, 32, true),
        task("multi_news", English, Rouge, 512, true),
        task("dureader", Chinese, RougeZh, 128, false),
        task("multifieldqa_zh", Chinese, QaF1Zh, 64, false),
        task("vcsum", Chinese, RougeZh, 512, false),
        task("lsht", Chinese, Classification, 64, false),
        task("passage_retrieval_zh", Chinese, RetrievalZh, 32, false),
        task("lcc", Code, CodeSimilarity, 64, true),
        task("repobench-p", Code, CodeSimilarity, 64, true),
    ]
};

impl Task {
    /// What is asked, with `{context}` and `{input}` where those of a row go.
    #[must_use]
    pub fn prompt(&self) -> &'static str {
        PROMPT_OF.get(self.name).map_or("", String::as_str)
    }

    /// Whether only the first line of an answer is scored: the prompt shows examples, and models go on with more of them.
    #[must_use]
    pub fn takes_first_line(&self) -> bool {
        ["trec", "triviaqa", "samsum", "lsht"].contains(&self.name)
    }

    /// Whether the prompt stands by itself, so that a chat template does it no good.
    #[must_use]
    pub fn is_continuation(&self) -> bool {
        self.takes_first_line() || self.group == Group::Code
    }

    /// Whether an answer ends with its first line.
    #[must_use]
    pub fn stops_at_line_break(&self) -> bool {
        self.name == "samsum"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_has_its_prompt() {
        assert_eq!(PROMPT_OF.len(), TASKS.len());
        for task in TASKS {
            assert!(task.prompt().contains("{context}"), "{}", task.name);
            let has_no_input =
                ["gov_report", "multi_news", "vcsum", "passage_count", "lcc"].contains(&task.name);
            assert_eq!(task.prompt().contains("{input}"), !has_no_input, "{}", task.name);
        }
        assert_eq!(PROMPTS.matches("asconcisely").count(), 2);
        assert_eq!(TASKS.iter().filter(|task| task.is_in_e).count(), 13);
    }
}
