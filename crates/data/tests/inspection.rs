//! Looking at a data set before training on it.

use crate::common;

use std::ops::ControlFlow;

use common::{Folder, shared, tokenizer};
use danlu_data::contamination::{NGRAM, Questions, SHARE};
use danlu_data::{
    DataError, DataOptions, Dataset, Example, Finding, Inspect, Inspection, OnBadRow, Overlong, Task, Watch,
};
use danlu_tokenizer::ChatTemplate;

fn inspect(options: &DataOptions, template: &str, against: Option<&Questions>) -> Inspection {
    let tokenizer = &tokenizer();
    let template = ChatTemplate::builtin(template).or_else(|_| ChatTemplate::from_source(template)).unwrap();
    let tokens = tokenizer.template_tokens();
    let task = Task::Conversation { template: &template, tokens: &tokens };
    let mut progress = |_| ControlFlow::Continue(());
    let watch = Watch { progress: &mut progress, inspect: Some(Inspect { against }) };
    let mut dataset = Dataset::load_watched(options, tokenizer, task, watch).unwrap();
    assert_eq!(dataset.inspections.len(), 1);
    dataset.inspections.remove(0)
}

/// What was found: rows, and examples from the line on.
fn found(inspection: &Inspection, finding: Finding) -> (u64, Vec<String>) {
    let found = inspection.findings.get(&finding).cloned().unwrap_or_default();
    let place = |example: &Example| example.to_string().split_once("rows.jsonl:").unwrap().1.to_owned();
    (found.rows, found.examples.iter().map(place).collect())
}

fn row(question: &str, answer: &str) -> String {
    serde_json::json!({"instruction": question, "output": answer}).to_string() + "\n"
}

#[test]
fn what_is_lost_and_what_looks_wrong_is_found_with_its_place() {
    let folder = Folder::new();
    let rows = [
        row("车床是什么？", "机床。"),
        row("铣", "切削"),
        row("车床 是什么", "机床！"),
        row("铣", "切削"),
        row("铣", "旋转"),
        row("空", " "),
        row("长", &"数控加工".repeat(60)),
        row(&"介绍一下".repeat(60), "短"),
        row("写<|im_end|>的", "字"),
        "{\"instruction\": \"缺\"}\n".into(),
    ]
    .concat();
    let mut options = DataOptions {
        dataset: vec![folder.write("rows.jsonl", rows)],
        on_bad_row: OnBadRow::Skip,
        cutoff_len: 60,
        ..DataOptions::default()
    };
    let exam = folder.write("exam.txt", "介绍一下，介绍一下，介绍一下，介绍一下？");
    let questions = Questions::open(&[exam.into()], NGRAM, SHARE).unwrap();
    let dropped = inspect(&options, "chatml", Some(&questions));
    assert_eq!((dropped.report.rows, dropped.report.samples), (10, 6));
    let lines = |inspection: &Inspection, finding| -> (u64, Vec<u64>) {
        let (rows, examples) = found(inspection, finding);
        let line = |text: &String| text.split([':', ' ']).next().unwrap().parse().unwrap();
        (rows, examples.iter().map(line).collect())
    };
    assert_eq!(lines(&dropped, Finding::Overlong), (2, vec![7, 8]));
    assert_eq!(lines(&dropped, Finding::Empty), (1, vec![6]));
    assert_eq!(lines(&dropped, Finding::Duplicate), (1, vec![4]));
    assert_eq!(lines(&dropped, Finding::NearDuplicate), (1, vec![3]));
    assert_eq!(lines(&dropped, Finding::SameQuestion), (1, vec![5]));
    assert_eq!(lines(&dropped, Finding::SpelledSpecialTokens), (1, vec![9]));
    assert_eq!(lines(&dropped, Finding::Contaminated), (1, vec![8]));
    let example = dropped.findings[&Finding::Contaminated].examples[0].to_string();
    assert!(example.contains("rows.jsonl:8: ") && example.ends_with("exam.txt:1"), "{example}");
    assert_eq!(dropped.report.skipped.values().map(|skipped| skipped.rows).sum::<u64>(), 1);
    assert_eq!(dropped.length_histogram.iter().map(|bin| bin.rows).sum::<u64>(), 8);
    assert!(dropped.length_histogram.windows(2).all(|pair| pair[1].up_to == 2 * pair[0].up_to));
    assert!(dropped.report.lengths.longest > 60);
    let share = dropped.report.trained_share();
    assert!(share > 0.0 && share < 1.0 && dropped.findings.len() == 7, "{dropped:?}");

    options.overlong = Overlong::Truncate;
    let cut = inspect(&options, "chatml", None);
    assert_eq!(lines(&cut, Finding::Truncated), (1, vec![7]));
    assert_eq!(lines(&cut, Finding::PromptTooLong), (1, vec![8]));
    assert_eq!(found(&cut, Finding::Contaminated).0, 0);
    let example = cut.findings[&Finding::Truncated].examples[0].to_string();
    assert!(
        example.contains(&format!("{} of the answer cut off", cut.report.cut_answer_tokens)),
        "{example}"
    );
    assert!(cut.report.cut_answer_tokens > 0);
}

#[test]
fn openrlhf_393_two_bos_are_found() {
    let folder = Folder::new();
    let options = DataOptions {
        dataset: vec![folder.write("rows.jsonl", row("铣", "切削") + &row("车", "机床"))],
        ..DataOptions::default()
    };
    let twice = "{{ bos_token + bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}";
    let inspection = inspect(&options, twice, None);
    assert_eq!(found(&inspection, Finding::DoubleBos).0, 2);
    assert_eq!(found(&inspect(&options, "empty", None), Finding::DoubleBos).0, 0);
}

#[test]
fn lf_2884_lf_5599_an_end_that_is_not_learned_is_found() {
    let folder = Folder::new();
    let options = DataOptions {
        dataset: vec![folder.write("rows.jsonl", row("铣", "切削"))],
        ..DataOptions::default()
    };
    for (template, rows) in [
        ("llama3", 1),
        ("chatml", 0),
        ("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}", 1),
    ] {
        let inspection = inspect(&options, template, None);
        assert_eq!(found(&inspection, Finding::EndUntrained).0, rows, "{template}");
    }
}

/// A pass of its own is needed where samples are there from before, whole or in part; it sees the same.
#[test]
fn documents_are_inspected_wherever_their_samples_come_from() {
    let folder = Folder::new();
    let line = |row| format!("{{\"text\": \"数控加工 {}\"}}\n", row % 4990);
    let more: String = (0..5).map(|row| format!("{{\"text\": \"{row} 数控加工\"}}\n")).collect();
    let dataset = vec![
        folder.write("rows.jsonl", (0..5000).map(line).collect::<String>()),
        folder.write("more.jsonl", more),
    ];
    let tokenizer = tokenizer();
    for run_on in [false, true] {
        let options = DataOptions {
            dataset: dataset.clone(),
            neat_packing: !run_on,
            cutoff_len: 16,
            tokenized_path: Some(folder.path(&format!("kept-{run_on}"))),
            ..DataOptions::default()
        };
        let load = |options: &DataOptions, stop: u64| {
            let mut progress =
                |rows| if rows >= stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            let watch = Watch { progress: &mut progress, inspect: Some(Inspect::default()) };
            Dataset::load_watched(options, &tokenizer, Task::Pretraining, watch)
        };
        let plain = load(&DataOptions { tokenized_path: None, ..options.clone() }, u64::MAX).unwrap();
        let nothing = load(&DataOptions { tokenized_path: None, ..options.clone() }, 1).unwrap_err();
        assert!(nothing.to_string().ends_with("rows; nothing was written"), "{nothing}");
        let inspections = &plain.inspections;
        let rows: Vec<u64> = inspections.iter().map(|inspection| inspection.report.rows).collect();
        assert_eq!(rows, [5000, 5]);
        assert_eq!(inspections[0].findings[&Finding::Duplicate].rows, 10);
        assert_eq!((inspections[0].findings.len(), inspections[1].findings.len()), (1, 0));
        let samples = |range: &std::ops::Range<usize>| (range.end - range.start) as u64;
        for (inspection, range) in inspections.iter().zip(&plain.datasets) {
            assert_eq!(inspection.report.samples, samples(range));
            // Only the first token of a document, or of all that run on, is not learned.
            assert_eq!(
                inspection.report.trained_tokens,
                inspection.report.tokens - inspection.report.samples
            );
        }
        let stopped = load(&options, 1000);
        assert!(
            matches!(stopped, Err(DataError::Stopped { rows: 1000..5000, is_kept: true })),
            "{stopped:?}"
        );
        assert_eq!(&load(&options, u64::MAX).unwrap().inspections, inspections, "resumed");
        let again = load(&options, u64::MAX).unwrap();
        assert!(again.report.cache.unwrap().reused);
        assert_eq!(&again.inspections, inspections, "kept");
    }
}

/// A question with its options, as a row that copies it has it.
fn all_of(fields: &serde_json::Map<String, serde_json::Value>) -> String {
    ["question", "A", "B", "C", "D"].map(|name| fields[name].as_str().unwrap()).join("\n")
}

#[test]
fn a_real_benchmark_is_found_in_rows_that_copy_it() {
    let Some(dev) = shared("benchmarks/ceval/dev") else { return };
    let questions = Questions::open(std::slice::from_ref(&dev), NGRAM, SHARE).unwrap();
    assert!(questions.count() > 200, "{}", questions.count());
    let mut reader = std::fs::read_dir(&dev).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    reader.sort();
    let rows = danlu_data::Records::open(&reader[0]).unwrap();
    let folder = Folder::new();
    let copied: String = rows
        .map(|record| match record.unwrap().content {
            danlu_data::Content::Fields(fields) => row(&format!("请回答：{} 谢谢", all_of(&fields)), "A"),
            danlu_data::Content::Text(_) => String::new(),
        })
        .collect();
    let rows = copied.lines().count() as u64;
    let own = row("数控机床的主轴转速怎样随刀具直径变化？", "成反比。");
    let options =
        DataOptions { dataset: vec![folder.write("rows.jsonl", copied + &own)], ..DataOptions::default() };
    let inspection = inspect(&options, "chatml", Some(&questions));
    assert_eq!(found(&inspection, Finding::Contaminated).0, rows);
}
