//! `danlu eval generate` on predictions and on a model.

use crate::common;

use std::path::Path;

use common::{run, with_model};
use serde_json::{Value, json};

const ROWS: &str = r#"{"instruct": "翻译", "query": "车床", "answer": "lathe"}
{"instruct": "铣刀是什么？", "query": "", "answer": "铣刀是多刃刀具"}
{"instruct": "说一句话"}
"#;

/// What nltk, rouge_chinese and sacrebleu say of `铣刀是单刃刀具` and `铣刀是多刃刀具`: computed as by `tools/golden/metrics.py`.
const EXPECTED: [f64; 6] = [41.113_362, 75.0, 33.333_333, 75.0, 32.063_492, 41.113_362];

fn generate(folder: &Path, more: &[&str]) -> common::Ran {
    run(folder, &[&["eval", "generate", "--json", "--output-dir"], more].concat())
}

fn lines(folder: &Path, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn predictions_are_scored_as_llama_factory_and_sacrebleu_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let messages = json!([{"messages": [{"role": "system", "content": "简短"}, {"role": "user", "content": "铣刀？"},
        {"role": "assistant", "content": "铣刀是多刃刀具"}]}]);
    let alpaca = json!([{"instruction": "铣刀？", "input": "", "output": "铣刀是多刃刀具"}]);
    std::fs::write(path.join("messages.json"), messages.to_string()).unwrap();
    std::fs::write(path.join("alpaca.json"), alpaca.to_string()).unwrap();
    std::fs::write(path.join("predictions.jsonl"), "{\"predict\": \"铣刀是单刃刀具\"}\n").unwrap();
    for (name, prompt) in [("messages", "简短\n铣刀？"), ("alpaca", "铣刀？")] {
        let data = format!("{name}.json");
        let summary = generate(path, &[name, "--data", &data, "--predictions", "predictions.jsonl"]).json();
        assert_eq!(
            (&summary["rows"], &summary["scored"], &summary["unit"]),
            (&1.into(), &1.into(), &"of 100".into())
        );
        let near = |place: &str, expected: f64| {
            let found = summary.pointer(place).unwrap().as_f64().unwrap();
            assert!((found - expected).abs() < 1e-4, "{place}: {found} against {expected}");
        };
        near("/scores/bleu_4", EXPECTED[0]);
        near("/scores/rouge_1", EXPECTED[1]);
        near("/scores/rouge_2", EXPECTED[2]);
        near("/scores/rouge_l", EXPECTED[3]);
        near("/scores/chrf", EXPECTED[4]);
        near("/corpus/bleu", EXPECTED[5]);
        assert_eq!(
            (&summary["corpus"]["tokenize"], &summary["scores"]["exact_match"]),
            (&"zh".into(), &json!(0.0))
        );
        let line = &lines(path, &format!("{name}/generated.jsonl"))[0];
        assert_eq!((&line["prompt"], &line["reference"]), (&prompt.into(), &"铣刀是多刃刀具".into()));
        assert_eq!(line["scores"], summary["scores"]);
        // One of seven characters is another.
        near("/scores/edit_similarity", 86.0);
        let file: Value =
            serde_json::from_str(&std::fs::read_to_string(path.join(name).join("summary.json")).unwrap())
                .unwrap();
        assert_eq!(file, summary);
    }
}

#[test]
fn a_model_answers_questions_with_and_without_references() {
    let folder = with_model();
    let path = folder.path();
    std::fs::write(path.join("rows.jsonl"), ROWS).unwrap();
    let ask = ["--data", "rows.jsonl", "--model", "model", "--max-new-tokens", "8"];
    let summary = generate(path, &[&["a"], &ask[..]].concat()).json();
    assert_eq!((&summary["rows"], &summary["scored"]), (&3.into(), &2.into()));
    let made = lines(path, "a/generated.jsonl");
    assert_eq!(made[0]["prompt"], "翻译\n车床");
    // Killed within its second line, the run goes on.
    let file = path.join("a/generated.jsonl");
    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &whole.as_bytes()[..whole.find('\n').unwrap() + 9]).unwrap();
    assert_eq!(generate(path, &[&["a"], &ask[..]].concat()).json(), summary);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), whole);
    generate(path, &[&["a", "--limit", "1"], &ask[..]].concat()).is_refused(
        "`a/generated.jsonl`: has answers to 3 rows, more than the 1 asked now: give `--limit` 3 or more",
    );
    let other = generate(path, &[&["a", "--temperature", "1"], &ask[..]].concat());
    other.is_refused("the answers in `a` were given with another `sampling`");
    // Greedy: the same again, and as `danlu generate` answers.
    generate(path, &[&["b", "--seed", "7"], &ask[..]].concat()).json();
    assert_eq!(lines(path, "b/generated.jsonl"), made);
    let one = run(
        path,
        &[
            "generate",
            "--model",
            "model",
            "--prompt",
            "铣刀是什么？",
            "--temperature",
            "0",
            "--max-new-tokens",
            "8",
            "--json",
        ],
    )
    .json();
    assert_eq!(one["text"], made[1]["prediction"]);
    // What was made scores the same as predictions.
    let again = generate(path, &["c", "--data", "rows.jsonl", "--predictions", "a/generated.jsonl"]).json();
    assert_eq!(again, summary);

    let own = generate(path, &["d", "--data", "danlu", "--model", "model", "--max-new-tokens", "2"]).json();
    assert_eq!((&own["rows"], &own["scored"]), (&48.into(), &42.into()));
    let categories = own["categories"].as_object().unwrap();
    let scored: u64 = categories.values().map(|category| category["scored"].as_u64().unwrap()).sum();
    assert_eq!((categories.len(), scored), (7, 42));
    assert!(own["standard_errors"]["chrf"].as_f64().unwrap() > 0.0, "{own}");
    let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
    let markdown = read("d/report.md");
    assert!(
        markdown.contains("# Generated answers: model") && markdown.contains("| code | 6 |"),
        "{markdown}"
    );
    assert!(markdown.contains("| 合计 | 42 |") && read("d/report.html").contains("编辑相似度"), "{markdown}");
    assert!(read("d/report.tex").contains("\\hline\nall & 42 &"), "{}", read("d/report.tex"));
    let seed =
        generate(path, &["e", "--data", "seed", "--model", "model", "--max-new-tokens", "2", "--no-report"])
            .json();
    assert!(!path.join("e/report.md").exists() && path.join("e/summary.json").exists());
    assert_eq!((&seed["rows"], &seed["scored"]), (&8.into(), &0.into()));
    let seed = lines(path, "e/generated.jsonl");
    assert_eq!(
        (&seed[6]["prompt"], &seed[6]["scores"]),
        (&"用挤出机挤塑生产塑料制品是".into(), &Value::Null)
    );
}

#[test]
fn questions_and_predictions_that_cannot_be_used_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::write(path.join("rows.jsonl"), ROWS.lines().take(2).collect::<Vec<_>>().join("\n")).unwrap();
    std::fs::write(path.join("predictions.jsonl"), "\"a\"\n").unwrap();
    let ask = |data: &str| generate(path, &["out", "--data", data, "--predictions", "predictions.jsonl"]);
    ask("rows.jsonl").is_refused("`predictions.jsonl` has 1 predictions for 2 questions");
    ask("absent.jsonl").is_refused("`absent.jsonl` does not exist");
    assert!(!path.join("out").exists());
    generate(path, &["out", "--data", "rows.jsonl", "--limit", "1", "--predictions", "predictions.jsonl"])
        .json();
    std::fs::copy(path.join("predictions.jsonl"), path.join("other.jsonl")).unwrap();
    generate(path, &["out", "--data", "rows.jsonl", "--limit", "1", "--predictions", "other.jsonl"])
        .is_refused("the answers in `out` were given with another `predictions`");
    generate(path, &["out", "--data", "danlu", "--limit", "1", "--predictions", "predictions.jsonl"])
        .is_refused("the answers in `out` were given with another `data`");
    // Predictions that were made anew are scored anew; answers that nobody vouches for are not taken over.
    let again = ["out", "--data", "rows.jsonl", "--limit", "1", "--predictions", "predictions.jsonl"];
    std::fs::write(path.join("predictions.jsonl"), "\"b\"\n").unwrap();
    generate(path, &again).json();
    let scored = std::fs::read_to_string(path.join("out/generated.jsonl")).unwrap();
    assert!(scored.contains("\"prediction\":\"b\""), "{scored}");
    std::fs::remove_file(path.join("out/settings.json")).unwrap();
    generate(path, &again).is_refused("is there without a `settings.json`");
}
