//! `danlu eval longbench` on files of our own: one of 20 rows for each kind of score.

use crate::common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{run, vocabulary, write_model};
use serde_json::{Value, json};

const ROWS: usize = 20;
/// A data set for each kind of score.
const SETS: [&str; 9] = [
    "hotpotqa",
    "samsum",
    "trec",
    "passage_count",
    "passage_retrieval_en",
    "dureader",
    "multifieldqa_zh",
    "passage_retrieval_zh",
    "lcc",
];

fn answer(name: &str, row: usize) -> String {
    match name {
        "hotpotqa" => format!("The lathe {row}"),
        "samsum" => format!("Ann turns shaft {row}. Bob mills it."),
        "trec" => ["Number", "Date"][row % 2].to_owned(),
        "passage_count" => row.to_string(),
        "passage_retrieval_en" => format!("Paragraph {row}"),
        "passage_retrieval_zh" => format!("段落{row}"),
        "dureader" => format!("第{row}道工序是车削外圆，然后铣键槽。"),
        "multifieldqa_zh" => format!("{row}号车床"),
        _ => format!("    feed = speed * {row}"),
    }
}

fn row(name: &str, row: usize) -> Value {
    let context = format!("第{row}段：车削是在车床上加工回转表面的方法。\n").repeat(4);
    let classes = if name == "trec" { json!(["Number", "Date"]) } else { Value::Null };
    let length = 1000 + 500 * row;
    json!({"input": format!("第{row}问？"), "context": context, "answers": [answer(name, row)], "length": length,
           "dataset": name, "language": "zh", "all_classes": classes, "_id": format!("{row:x}")})
}

fn lines(rows: impl Iterator<Item = Value>) -> String {
    rows.map(|row| format!("{row}\n")).collect()
}

/// The model `model` and all data sets in `data`, those of LongBench-E too.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_model(&folder.path().join("model"), Some(&vocabulary(false)), 1024);
    std::fs::create_dir(folder.path().join("data")).unwrap();
    for name in SETS {
        for file in [name.to_owned(), format!("{name}_e")] {
            let text = lines((0..ROWS).map(|index| row(name, index)));
            std::fs::write(folder.path().join(format!("data/{file}.jsonl")), text).unwrap();
        }
    }
    folder
}

fn longbench(folder: &Path, more: &[&str]) -> common::Ran {
    run(folder, &[&["eval", "longbench", "--output-dir", "out"], more].concat())
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

const ALL: [&str; 10] = [
    "--model",
    "model",
    "--data",
    "data",
    "--predict-on",
    "en,zh,code",
    "--max-length",
    "48",
    "--threads",
    "1",
];

#[test]
fn seed_003_longbench_predicts_line_by_line_and_goes_on_where_it_was() {
    let folder = folder();
    let told = longbench(folder.path(), &ALL);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(told.stderr.contains("not in `data`, left out: 2wikimqa, musique,"), "{}", told.stderr);
    assert!(
        told.stderr.contains("180 of 180 prompts lost their middle to `--max-length 48`"),
        "{}",
        told.stderr
    );
    let result = read(folder.path(), "out/pred/result.json");
    let scores: Value = serde_json::from_str(&result).unwrap();
    let names: Vec<&String> = scores.as_object().unwrap().keys().collect();
    assert_eq!(
        names,
        [
            "hotpotqa",
            "trec",
            "samsum",
            "passage_count",
            "passage_retrieval_en",
            "dureader",
            "multifieldqa_zh",
            "passage_retrieval_zh",
            "lcc"
        ]
    );
    assert!(result.starts_with("{\n    \"hotpotqa\": "), "{result}");
    assert!(told.stdout.contains("data set") && told.stdout.contains("qa_f1_zh"), "{}", told.stdout);
    let dureader = read(folder.path(), "out/pred/dureader.jsonl");
    for (index, line) in dureader.lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            line.as_object().unwrap().keys().collect::<Vec<_>>(),
            ["pred", "answers", "all_classes", "length"]
        );
        assert_eq!(
            (&line["answers"][0], &line["length"]),
            (&json!(answer("dureader", index)), &json!(1000 + 500 * index))
        );
        assert_ne!(line["pred"], "");
    }
    assert_eq!(dureader.lines().count(), ROWS);
    // samsum ends with its first line.
    let samsum = read(folder.path(), "out/pred/samsum.jsonl");
    let preds = samsum
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["pred"].as_str().unwrap().to_owned());
    assert!(preds.into_iter().all(|pred| !pred.trim_end_matches('\n').contains('\n')), "{samsum}");

    // Killed within a line: the same run goes on, to the bit.
    let seventh: usize = dureader.split_inclusive('\n').take(7).map(str::len).sum();
    std::fs::write(folder.path().join("out/pred/dureader.jsonl"), &dureader.as_bytes()[..seventh + 11])
        .unwrap();
    std::fs::remove_file(folder.path().join("out/pred/lcc.jsonl")).unwrap();
    let again = longbench(folder.path(), &[&ALL[..], &["--json"]].concat()).json();
    assert_eq!((again, read(folder.path(), "out/pred/dureader.jsonl")), (scores, dureader));

    let other = longbench(folder.path(), &[&ALL[..], &["--temperature", "0"]].concat());
    other.is_refused("the answers in `out/pred` were given with another `sampling`");
    let mut rows: Vec<Value> = (0..ROWS).map(|index| row("lcc", index)).collect();
    rows[3]["answers"] = json!(["x"]);
    std::fs::write(folder.path().join("data/lcc.jsonl"), lines(rows.into_iter())).unwrap();
    longbench(folder.path(), &ALL).is_refused("lcc.jsonl:4: is not of the row with this number");
}

#[test]
fn seed_003_longbench_scores_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let write = |is_e: bool| {
        let pred = folder.path().join(if is_e { "out/pred_e" } else { "out/pred" });
        std::fs::create_dir_all(&pred).unwrap();
        for name in SETS {
            let line = |index: usize| {
                let row = row(name, index);
                // Every fourth answer is wrong.
                let pred = if index % 4 == 3 { "？".to_owned() } else { answer(name, index) };
                json!({"pred": pred, "answers": row["answers"], "all_classes": row["all_classes"], "length": row["length"]})
            };
            std::fs::write(pred.join(format!("{name}.jsonl")), lines((0..ROWS).map(line))).unwrap();
        }
    };
    write(false);
    let scores = longbench(folder.path(), &["--score-only", "--json"]).json();
    for name in SETS {
        let found = scores[name].as_f64().unwrap();
        assert_eq!(found, 75.0, "{name}");
    }
    assert_eq!(read(folder.path(), "out/pred/result.json").matches("75.0").count(), SETS.len());
    write(true);
    let scores = longbench(folder.path(), &["--score-only", "--e", "--json"]).json();
    // Texts of 1,000 to 10,500: 6, 8 and 6 of them, of which 1, 2 and 2 are wrong.
    let expected = json!({"0-4k": 83.33, "4-8k": 75.0, "8k+": 66.67});
    assert_eq!((&scores["trec"], &scores["lcc"]), (&expected, &expected));
    let of_two = lines([row("trec", 0), row("trec", 1)].into_iter().map(|row| {
        json!({"pred": "Number", "answers": row["answers"], "all_classes": row["all_classes"], "length": row["length"]})
    }));
    std::fs::write(folder.path().join("out/pred_e/trec.jsonl"), of_two).unwrap();
    let scores = longbench(folder.path(), &["--score-only", "--e", "--json"]).json();
    assert_eq!(scores["trec"], json!({"0-4k": 50.0, "4-8k": null, "8k+": null}));
}

#[test]
fn rows_that_the_context_has_no_room_for_are_counted_and_the_others_are_asked() {
    let folder = folder();
    write_model(&folder.path().join("model"), Some(&vocabulary(false)), 100);
    for name in SETS {
        if !["hotpotqa", "samsum"].contains(&name) {
            std::fs::remove_file(folder.path().join(format!("data/{name}.jsonl"))).unwrap();
        }
    }
    // An answer of hotpotqa has 32 tokens, one of samsum 128.
    let ask =
        ["--model", "model", "--data", "data", "--predict-on", "en", "--max-length", "48", "--limit", "2"];
    let told = longbench(folder.path(), &ask);
    assert_eq!(told.code, 0, "{}", told.stderr);
    let warning = "which count as answered with nothing: 2 of 2 of samsum";
    assert!(told.stderr.contains(warning), "{}", told.stderr);
    let samsum = read(folder.path(), "out/pred/samsum.jsonl");
    assert!(samsum.lines().all(|line| line.contains("\"pred\":\"\"") && line.contains("\"unasked\":true")));
    assert!(!read(folder.path(), "out/pred/hotpotqa.jsonl").contains("unasked"));
    let again = longbench(folder.path(), &["--score-only"]);
    assert!(again.stderr.contains(warning), "{}", again.stderr);
    // Fewer rows than were answered.
    let fewer = longbench(folder.path(), &[&ask[..9], &["1"]].concat());
    fewer.is_refused(
        "hotpotqa.jsonl`: has answers to 2 rows, more than the 1 asked now: give `--limit` 2 or more",
    );
}

#[test]
fn a_kill_loses_at_most_one_prediction() {
    let folder = folder();
    for name in ["multifieldqa_zh", "passage_retrieval_zh"] {
        std::fs::remove_file(folder.path().join(format!("data/{name}.jsonl"))).unwrap();
    }
    let arguments = ["--model", "model", "--data", "data", "--max-length", "48", "--threads", "1"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_danlu"));
    command.current_dir(folder.path()).args(["eval", "longbench", "--output-dir", "out"]).args(arguments);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let predictions = folder.path().join("out/pred/dureader.jsonl");
    let kept = || std::fs::read_to_string(&predictions).unwrap_or_default();
    while kept().lines().count() < 3 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = kept();
    assert!(before.lines().count() >= 3, "{before}");
    let result = longbench(folder.path(), &[&arguments[..], &["--json"]].concat()).json();
    assert!(kept().starts_with(before.rsplit_once('\n').map_or("", |(whole, _)| whole)));
    let whole = run(
        folder.path(),
        &[&["eval", "longbench", "--output-dir", "whole", "--json"], &arguments[..]].concat(),
    );
    assert_eq!((whole.json(), read(folder.path(), "whole/pred/dureader.jsonl")), (result, kept()));
}

#[test]
fn longbench_files_and_options_that_cannot_be_used_are_refused() {
    let folder = folder();
    let path = folder.path();
    let ask = |more: &[&str]| longbench(path, &[&["--model", "model"], more].concat());
    longbench(path, &["--score-only"]).is_refused("out/pred");
    longbench(path, &["--model", "model"]).is_refused("--data");
    ask(&["--data", "model"])
        .is_refused("`model` has no file of LongBench: expected one such as `dureader.jsonl`");
    ask(&["--data", "data", "--e"]).is_refused("LongBench-E has no Chinese data sets");
    ask(&["--data", "data", "--template", "chatml"]).is_refused("add `--with-inst true` or `auto`");
    ask(&["--data", "data", "--max-length", "1"]).is_refused("--max-length");
    ask(&["--data", "data", "--predict-on", "fr"]).is_refused("[possible values: zh, en, code]");
    std::fs::write(path.join("data/dureader.jsonl"), "{\"input\": \"\", \"answers\": []}\n").unwrap();
    ask(&["--data", "data"]).is_refused("data/dureader.jsonl:1: expected a row of LongBench");
    std::fs::write(path.join("data/dureader.jsonl"), "{\"context\": \"\", \"answers\": []}\n").unwrap();
    ask(&["--data", "data"]).is_refused("data/dureader.jsonl:1: `answers`: expected at least one");
    let mut wrong = row("trec", 0);
    wrong["all_classes"] = Value::Null;
    std::fs::write(path.join("data/trec.jsonl"), lines([wrong].into_iter())).unwrap();
    ask(&["--data", "data", "--predict-on", "en"]).is_refused("`all_classes`: expected the classes");
}
