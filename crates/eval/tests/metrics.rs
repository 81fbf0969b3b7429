//! Metrics against what `tools/golden/metrics.py` recorded of Python's packages, and LongBench's own vectors.

use std::sync::LazyLock;

use danlu_eval::longbench::{TASKS, Task, scores};
use danlu_eval::metrics::{bleu, chrf, exact_match, python, rouge, similarity, words};
use serde_json::Value;

static GOLDEN: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("golden/metrics.json")).unwrap());

fn texts(case: &Value) -> (&str, &str, Vec<String>) {
    let text = |name: &str| case[name].as_str().unwrap();
    let classes = case["classes"].as_array().unwrap().iter().map(|class| class.as_str().unwrap().to_owned());
    (text("reference"), text("prediction"), classes.collect())
}

fn scores_of(case: &Value) -> Vec<(&'static str, f64)> {
    let (reference, prediction, classes) = texts(case);
    let of_words = rouge::of_words(&words::cut(reference), &words::cut(prediction));
    let characters = [reference, prediction].map(|text| text.chars().collect::<Vec<_>>());
    let corpus_bleu = |tokenization| {
        let mut corpus = bleu::Corpus::default();
        corpus.add(reference, prediction, tokenization);
        corpus.score()
    };
    vec![
        ("bleu_4", bleu::sentence(&characters[0], &characters[1])),
        ("rouge_1", of_words.one),
        ("rouge_2", of_words.two),
        ("rouge_l", of_words.l),
        ("chrf", chrf::sentence(reference, prediction)),
        ("bleu_13a", corpus_bleu(bleu::Tokenization::Mteval13a)),
        ("bleu_zh", corpus_bleu(bleu::Tokenization::Chinese)),
        ("fuzzy_ratio", similarity::fuzzy_ratio(prediction, reference)),
        ("qa_f1", scores::qa_f1(prediction, reference)),
        ("qa_f1_zh", scores::qa_f1_zh(prediction, reference)),
        ("rouge", scores::rouge_l(prediction, reference)),
        ("rouge_zh", scores::rouge_zh(prediction, reference)),
        ("retrieval", scores::retrieval(prediction, reference, "Paragraph ")),
        ("retrieval_zh", scores::retrieval(prediction, reference, "段落")),
        ("count", scores::share_of_numbers(prediction, reference)),
        ("code_sim", scores::code_similarity(prediction, reference)),
        ("classification", scores::classification(prediction, reference, &classes)),
    ]
}

fn close(found: f64, expected: &Value) -> bool {
    (found - expected.as_f64().unwrap()).abs() < 1e-9
}

#[test]
fn every_score_equals_that_of_the_packages() {
    let cases = GOLDEN["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 200);
    let mut wrong = Vec::new();
    for case in cases {
        let found = scores_of(case);
        assert_eq!(found.len(), case["scores"].as_object().unwrap().len());
        for (name, found) in found {
            let expected = &case["scores"][name];
            if !close(found, expected) {
                let (reference, prediction, _) = texts(case);
                wrong.push(format!(
                    "{name}: {found} against {expected} of {prediction:.80?} and {reference:.80?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn corpora_are_scored_from_their_counts() {
    let tokenizations = [("13a", bleu::Tokenization::Mteval13a), ("zh", bleu::Tokenization::Chinese)];
    for (name, tokenization) in tokenizations {
        let (mut bleu, mut chrf) = (bleu::Corpus::default(), chrf::Chrf::default());
        for case in GOLDEN["cases"].as_array().unwrap() {
            let (reference, prediction, _) = texts(case);
            bleu.add(reference, prediction, tokenization);
            chrf.add(reference, prediction);
        }
        let expected = &GOLDEN["corpora"][name];
        assert!(close(bleu.score(), &expected["bleu"]), "{name}: {} against {expected}", bleu.score());
        assert!(close(chrf.score(), &expected["chrf"]), "{name}: {} against {expected}", chrf.score());
    }
}

#[test]
fn texts_are_cut_as_sacrebleu_and_jieba_cut_them() {
    for row in GOLDEN["tokenized"].as_array().unwrap() {
        let text = row[0].as_str().unwrap();
        let joined = |tokenization: bleu::Tokenization| {
            python::split(&tokenization.line(text)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(row[1], joined(bleu::Tokenization::Mteval13a), "{text:?}");
        assert_eq!(row[2], joined(bleu::Tokenization::Chinese), "{text:?}");
    }
    let mut wrong = Vec::new();
    for row in GOLDEN["words"].as_array().unwrap() {
        let found = words::cut(row[0].as_str().unwrap());
        if row[1] != Value::from(found.clone()) {
            wrong.push(format!("{found:?} against {}", row[1]));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn task(name: &str) -> Task {
    TASKS.into_iter().find(|task| task.name == name).unwrap()
}

/// Each line: data set, prediction, right answer, classes, score.
#[test]
fn seed_003_longbench_score_vectors() {
    let vectors: [(&str, &str, &str, &[&str], f64); 10] = [
        ("hotpotqa", "The answer is Paris, France.", "Paris", &[], 0.4),
        ("multifieldqa_zh", "答案是北京大学。", "北京大学", &[], 0.5),
        ("vcsum", "会议讨论了预算问题", "会议讨论了年度预算问题", &[], 0.799_999_995_000_000_2),
        ("qmsum", "the cat sat on the mat", "the cat is on the mat", &[], 0.799_999_995_000_000_2),
        ("lsht", "娱乐新闻 体育", "体育", &["体育", "娱乐", "财经"], 0.5),
        ("passage_retrieval_en", "Paragraph 3 or 12", "Paragraph 12", &[], 0.5),
        ("passage_count", "There are 5 of 10", "5", &[], 0.5),
        ("lcc", "# c\n```\nreturn x+1", "return x + 1", &[], 0.91),
        // Only the first line of what follows examples.
        ("trec", "\n\nNumber\nType: Date", "Number", &["Number", "Date"], 1.0),
        ("samsum", "\nthe cat.\nDialogue: no", "the cat", &[], 0.999_999_995),
    ];
    for (name, prediction, answer, classes, expected) in vectors {
        let classes: Vec<String> = classes.iter().map(|class| (*class).to_owned()).collect();
        let found = scores::score(&task(name), prediction, &[answer.to_owned()], &classes);
        assert!((found - expected).abs() < 1e-12, "{name}: {found} against {expected}");
    }
    let best = scores::score(&task("hotpotqa"), "Paris", &["Rome".to_owned(), "Paris".to_owned()], &[]);
    assert_eq!(best, 1.0);
}

#[test]
fn whitespace_around_a_text_is_no_difference() {
    assert!(exact_match("车床", " 车床\n"));
    assert!(!exact_match("车床", "车 床"));
    assert!(exact_match("", ""));
}
