//! LongBench's scores of a prediction, as its `metrics.py` computes them, with what looks like mistakes: numbers that are compared
//! with others would be others without them.

use std::collections::HashMap;
use std::hash::Hash;

use crate::metrics::{python, rouge, similarity, words};

use super::tasks::{Metric, Task};

/// `string.punctuation`.
const ASCII_PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
const CHINESE_PUNCTUATION: &str = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏.";

/// How often `rouge` may call itself when LongBench's `eval.py` calls it: what the script leaves of CPython's 1,000. Longer
/// sentences score 0 there. `rouge_zh` is one call further down.
const DEEPEST: usize = 991;
const DEEPEST_ZH: usize = DEEPEST - 1;

/// What a prediction scores: the best over the right answers, 0 to 1.
#[must_use]
pub fn score(task: &Task, prediction: &str, answers: &[String], classes: &[String]) -> f64 {
    let prediction = match task.takes_first_line() {
        true => prediction.trim_start_matches('\n').split('\n').next().unwrap_or_default(),
        false => prediction,
    };
    let of_answer = |answer: &String| match task.metric {
        Metric::QaF1 => qa_f1(prediction, answer),
        Metric::QaF1Zh => qa_f1_zh(prediction, answer),
        Metric::Rouge => rouge_l(prediction, answer),
        Metric::RougeZh => rouge_zh(prediction, answer),
        Metric::Classification => classification(prediction, answer, classes),
        Metric::Retrieval => retrieval(prediction, answer, "Paragraph "),
        Metric::RetrievalZh => retrieval(prediction, answer, "段落"),
        Metric::Count => share_of_numbers(prediction, answer),
        Metric::CodeSimilarity => code_similarity(prediction, answer),
    };
    answers.iter().map(of_answer).fold(0.0, f64::max)
}

/// F1 of the words, lower-cased, without ASCII's punctuation and without `a`, `an`, `the`.
#[must_use]
pub fn qa_f1(prediction: &str, answer: &str) -> f64 {
    let [prediction, answer] = [prediction, answer].map(|text| {
        let lower = text.to_lowercase();
        let kept: String = lower.chars().filter(|c| !ASCII_PUNCTUATION.contains(*c)).collect();
        without_articles(&kept)
    });
    f1(&python::split(&prediction).collect::<Vec<_>>(), &python::split(&answer).collect::<Vec<_>>())
}

/// F1 of jieba's words, lower-cased, without punctuation and blanks.
#[must_use]
pub fn qa_f1_zh(prediction: &str, answer: &str) -> f64 {
    let is_left_out =
        |c: char| ASCII_PUNCTUATION.contains(c) || CHINESE_PUNCTUATION.contains(c) || python::is_space(c);
    let [prediction, answer] = [prediction, answer].map(|text| {
        let words = words::cut(text).into_iter();
        let kept = words.map(|word| word.to_lowercase().replace(is_left_out, ""));
        kept.filter(|word| !word.is_empty()).collect::<Vec<_>>()
    });
    f1(&prediction, &answer)
}

/// ROUGE-L of texts with spaces between their words.
#[must_use]
pub fn rouge_l(prediction: &str, answer: &str) -> f64 {
    rouge::summary_level(answer, prediction, DEEPEST)
}

/// ROUGE-L of jieba's words.
#[must_use]
pub fn rouge_zh(prediction: &str, answer: &str) -> f64 {
    let [prediction, answer] = [prediction, answer].map(|text| words::cut(text).join(" "));
    rouge::summary_level(&answer, &prediction, DEEPEST_ZH)
}

/// One over the number of classes that the prediction names, if the right one is among them. Classes whose name is part of the
/// right one do not count, but one behind such a class is passed over.
#[must_use]
pub fn classification(prediction: &str, answer: &str, classes: &[String]) -> f64 {
    let mut named: Vec<&str> =
        classes.iter().map(String::as_str).filter(|class| prediction.contains(class)).collect();
    let mut index = 0;
    while index < named.len() {
        let class = named[index];
        if answer.contains(class) && class != answer {
            // The first that is equal, as `list.remove`, while the list is gone through.
            let first = named.iter().position(|other| *other == class).unwrap_or(index);
            named.remove(first);
        }
        index += 1;
    }
    if named.contains(&answer) { 1.0 / named.len() as f64 } else { 0.0 }
}

/// The share of the prediction's numbers that are the one behind `word` in the answer.
#[must_use]
pub fn retrieval(prediction: &str, answer: &str, word: &str) -> f64 {
    number_behind(answer, word).map_or(0.0, |number| share_of_numbers(prediction, number))
}

/// The first number that stands right behind a word.
#[must_use]
pub fn number_behind<'t>(answer: &'t str, word: &str) -> Option<&'t str> {
    answer.match_indices(word).find_map(|(place, _)| {
        let rest = &answer[place + word.len()..];
        python::numbers(rest).into_iter().next().filter(|number| rest.starts_with(number))
    })
}

/// The share of the prediction's numbers that are the right one.
#[must_use]
pub fn share_of_numbers(prediction: &str, answer: &str) -> f64 {
    let numbers = python::numbers(prediction);
    let right = numbers.iter().filter(|number| **number == answer).count();
    right as f64 / numbers.len().max(1) as f64
}

/// How similar the first line is that has no backtick, `#` or `//`.
#[must_use]
pub fn code_similarity(prediction: &str, answer: &str) -> f64 {
    let mut lines = prediction.trim_start_matches('\n').split('\n');
    let line = lines.find(|line| !(line.contains(['`', '#']) || line.contains("//")));
    similarity::fuzzy_ratio(line.unwrap_or_default(), answer) / 100.0
}

/// `re.sub(r"\b(a|an|the)\b", " ", text)`.
fn without_articles(text: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut kept = String::with_capacity(text.len());
    for part in text.split_inclusive(|c| !is_word(c)) {
        let word = part.trim_end_matches(|c| !is_word(c));
        let is_article = ["a", "an", "the"].contains(&word);
        kept.push_str(if is_article { " " } else { word });
        kept.push_str(&part[word.len()..]);
    }
    kept
}

/// F1 of two bags of words.
fn f1<T: Eq + Hash>(prediction: &[T], answer: &[T]) -> f64 {
    let mut left: HashMap<&T, usize> = HashMap::new();
    for word in answer {
        *left.entry(word).or_default() += 1;
    }
    let mut common = 0;
    for word in prediction {
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    let precision = f64::from(common) / prediction.len() as f64;
    let recall = f64::from(common) / answer.len() as f64;
    2.0 * precision * recall / (precision + recall)
}
