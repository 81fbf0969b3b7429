//! Forms of rows, as users bring them to `danlu data inspect` and `danlu data convert`.

use crate::common;

use std::path::Path;

use common::{Ran, run, shared, with_model};
use serde_json::{Value, json};

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

fn convert(folder: &Path, arguments: &[&str]) -> Ran {
    run(folder, &[&["data", "convert"], arguments].concat())
}

fn inspect(folder: &Path, arguments: &[&str]) -> Ran {
    run(folder, &[&["data", "inspect"], arguments, &["--json", "--tokenizer", "model"]].concat())
}

fn lines(folder: &Path, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn rows_are_converted_from_form_to_form_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let row = json!({"instruction": "铣？", "input": "", "output": "切削", "system": "你是助手", "history": [["车？", "旋转"]]});
    write(folder.path(), "in.json", &json!([row]).to_string());
    let mut from = "in.json".to_owned();
    for form in ["sharegpt", "openai", "minimind", "text", "trl", "alpaca"] {
        let to = format!("{form}.jsonl");
        let ran = convert(folder.path(), &[&from, "--to", form, "--out", &to, "--json"]);
        assert_eq!(ran.json()["written"], 1, "{form}");
        from = to;
    }
    assert_eq!(lines(folder.path(), "alpaca.jsonl"), [row]);
    assert_eq!(
        lines(folder.path(), "text.jsonl")[0]["text"],
        "<s>System: 你是助手\n</s><s>Human: 车？\n</s><s>Assistant: 旋转\n</s><s>Human: 铣？\n</s><s>Assistant: 切削\n</s>"
    );
    let ran = convert(folder.path(), &["in.json", "--to", "sharegpt", "--out", "again.jsonl"]);
    assert_eq!(ran.stdout, "1 rows read, 1 written to `again.jsonl`\n", "{}", ran.stderr);
}

#[test]
fn what_cannot_be_converted_is_told_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "rows.jsonl", "{\"prompt\": \"铣？\", \"answer\": \"切削\"}\n{\"text\": \"文\"}\n");
    let out = ["--out", "out.jsonl", "--json"];
    let run = |arguments: &[&str]| convert(folder.path(), &[arguments, &out].concat());
    run(&["rows.jsonl", "--to", "dpo"]).is_refused("rows.jsonl:1: the form `dpo` has no place for");
    run(&["rows.jsonl", "--to", "openai"])
        .is_refused("rows.jsonl:2: missing column `prompt`: the row has `text`");
    run(&["rows.jsonl", "--to", "parquet"]).is_refused("invalid value 'parquet'");
    run(&["absent.jsonl", "--to", "openai"]).is_refused("dataset `absent.jsonl` was not found");
    run(&["rows.jsonl", "--to", "openai", "learning_rate=1"])
        .is_refused("`learning_rate=1` has nothing to do with data");
    run(&["rows.jsonl", "--to", "openai", "on_bad_rwo=skip"]).is_refused("did you mean `on_bad_row`?");
    run(&["on_bad_row=skip", "--to", "openai"])
        .is_refused("give data files, folders or names before the keys");
    assert!(!folder.path().join("out.jsonl").exists());
    convert(folder.path(), &["rows.jsonl", "--to", "openai", "--out", "rows.jsonl"])
        .is_refused("`rows.jsonl` would be written into the input `rows.jsonl`");
    convert(folder.path(), &[".", "--to", "openai", "--out", "new.jsonl"])
        .is_refused("`new.jsonl` would be written into the input `.`");
    let skipped = run(&["rows.jsonl", "--to", "openai", "on_bad_row=skip"]).json();
    assert_eq!(
        (&skipped["written"], &skipped["skipped"]["missing column `prompt`"]["rows"]),
        (&json!(1), &json!(1))
    );

    write(
        folder.path(),
        "weights.json",
        r#"[{"messages": [{"role": "user", "content": "铣？"}, {"role": "assistant", "content": "切削", "loss_weight": 0.5}]}]"#,
    );
    let lost = convert(folder.path(), &["weights.json", "--to", "alpaca", "--out", "out.json"]);
    assert!(
        lost.stderr.contains("`alpaca` has no place for, and lost: loss weights (1 rows)"),
        "{}",
        lost.stderr
    );
}

#[test]
fn the_older_converters_files_are_reproduced() {
    let folder = tempfile::tempdir().unwrap();
    let rows = json!([{"instruction": "请介绍一下数控加工", "input": "，谢谢", "output": "用程序控制机床"},
                      {"instruction": "短", "input": "", "output": "用程序控制机床"}]);
    write(folder.path(), "alpaca.json", &rows.to_string());
    let to_csv = ["--to", "prompt-answer-csv", "--out", "sft.csv", "--compat", "baby-llama2", "--json"];
    let ran = convert(folder.path(), &[&["alpaca.json"], &to_csv[..]].concat()).json();
    assert_eq!((&ran["written"], &ran["dropped_chars"]), (&json!(1), &json!(1)));
    let csv = std::fs::read_to_string(folder.path().join("sft.csv")).unwrap();
    assert_eq!(csv, "prompt,answer\n请介绍一下数控加工，谢谢,用程序控制机床\n");
    write(
        folder.path(),
        "math.json",
        "{\n  \"original_text\": \"一加一\",\n  \"equation\": \"x=1+1\",\n  \"ans\": \"2\"\n}\n",
    );
    let compat = ["--compat", "literary-alpaca2"];
    convert(folder.path(), &[&["math.json", "--to", "text", "--out", "math.csv"], &compat[..]].concat());
    let csv = std::fs::read_to_string(folder.path().join("math.csv")).unwrap();
    assert_eq!(csv, "text\n\"<s>Human: 一加一</s><s>Assistant: 根据方程式x=1+1解得:\n2</s>\"\n");
    convert(folder.path(), &[&["alpaca.json", "--to", "text", "--out", "x.csv"], &compat[..]].concat())
        .is_refused("alpaca.json:1: the row has the columns `instruction`, `input`, `output`: expected `original_text`");
}

#[test]
fn a_dataset_info_of_llama_factory_is_read_whole() {
    let Some(data) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let dir = format!("dataset_dir={}", data.join("datasets/llama-factory").display());
    for (name, form, rows) in [
        ("dpo_zh_demo", "dpo", 300),
        ("kto_en_demo", "kto", 300),
        ("glaive_toolcall_zh_demo", "openai", 300),
        ("identity", "alpaca", 91),
    ] {
        let ran = convert(folder.path(), &[name, &dir, "--to", form, "--out", "out.jsonl", "--json"]).json();
        assert_eq!((&ran["written"], &ran["rows"]), (&json!(rows), &json!(rows)), "{name}");
    }
    let ran = convert(folder.path(), &["mllm_demo", &dir, "--to", "openai", "--out", "out.jsonl"]);
    ran.is_refused("dataset `mllm_demo`: its rows have `images`: expected text only");
}

#[test]
fn token_files_are_inspected_and_trained_on_as_their_texts_are() {
    let folder = with_model();
    write(
        folder.path(),
        "corpus.jsonl",
        "{\"text\": \"车削是在车床上加工\"}\n{\"text\": \"铣刀是多刃刀具\"}\n",
    );
    for (out, headerless) in [("tokens", false), ("flat.bin", true)] {
        let encode = ["tokenizer", "encode", "--tokenizer", "model", "--input", "corpus.jsonl", "--out", out];
        let headerless: &[&str] = if headerless { &["--headerless"] } else { &[] };
        assert_eq!(run(folder.path(), &[&encode[..], headerless].concat()).code, 0);
    }
    let ids = |name: &str| -> Vec<Value> {
        let inspected = inspect(folder.path(), &[name, "--samples", "9"]).json();
        inspected["samples"].as_array().unwrap().iter().map(|sample| sample["ids"].clone()).collect()
    };
    let of_texts = ids("corpus.jsonl");
    assert_eq!(of_texts.len(), 2);
    assert_eq!(ids("tokens"), of_texts);
    assert_eq!(ids("flat.bin"), of_texts);
    let rows = inspect(folder.path(), &["flat.bin", "token_files=rows", "cutoff_len=8"]).json();
    assert!(
        rows["samples"].as_array().unwrap().iter().all(|sample| sample["ids"].as_array().unwrap().len() == 8)
    );
    assert!(rows["report"]["notices"][0].as_str().unwrap().contains("fill no row of `cutoff_len`"), "{rows}");
    inspect(folder.path(), &["flat.bin", "stage=sft"])
        .is_refused("`flat.bin`: it holds token ids: expected rows with columns");
    let recipe =
        ["train", "stage=pt", "dataset=flat.bin", "model_name_or_path=model", "finetuning_type=full"];
    let rest = ["output_dir=run", "max_steps=1", "cutoff_len=32", "--json"];
    let recipe_file = "stage: pt\n";
    write(folder.path(), "r.yaml", recipe_file);
    let trained = run(folder.path(), &[&["train", "r.yaml"], &recipe[2..], &rest[..]].concat());
    assert_eq!(trained.code, 0, "{}", trained.stderr);
}

#[test]
fn seed_000_length_filters_are_keys_of_the_recipe() {
    let folder = with_model();
    write(
        folder.path(),
        "sft.csv",
        "prompt,answer\n车削是什么方法？,车削是在车床上加工\n短,车削是在车床上加工\n车削是什么方法？,短\n",
    );
    let report =
        |keys: &[&str]| inspect(folder.path(), &[&["sft.csv"], keys].concat()).json()["report"].clone();
    assert_eq!(report(&[])["samples"], 3);
    let filtered = report(&["min_prompt_chars=5", "min_answer_chars=5"]);
    assert_eq!(filtered["samples"], 1);
    assert_eq!(filtered["filtered"], json!({"min_prompt_chars": 1, "min_answer_chars": 1}));
    let none = inspect(folder.path(), &["sft.csv", "max_prompt_chars=0"]);
    none.is_refused("no sample is left of 3 rows: 3 outside `max_prompt_chars`");
}

#[test]
fn transcripts_and_dialogues_are_fine_tuned_on() {
    let folder = with_model();
    write(folder.path(), "text.csv", "text\n\"<s>Human: 铣？\n</s><s>Assistant: 切削\n</s>\"\n");
    write(folder.path(), "lccc.json", r#"[["铣？", "切削", "车？"]]"#);
    for name in ["text.csv", "lccc.json"] {
        let shown = inspect(folder.path(), &[name, "template=human_assistant"]).json();
        let text = shown["samples"][0]["text"].as_str().unwrap();
        assert!(text.contains("Human: 铣？\n") && text.contains("⟦切削\n"), "{name}: {text}");
    }
}

#[test]
fn of_a_folder_for_mlx_only_the_training_part_is_read() {
    let folder = with_model();
    let row = "{\"prompt\": \"铣？\", \"completion\": \"切削\"}\n";
    std::fs::create_dir(folder.path().join("mlx")).unwrap();
    for (name, rows) in [("train", 3), ("valid", 1), ("test", 1)] {
        write(folder.path(), &format!("mlx/{name}.jsonl"), &row.repeat(rows));
    }
    let report = &inspect(folder.path(), &["mlx", "eval_dataset=mlx/valid.jsonl"]).json()["report"];
    assert_eq!(report["rows"], 3);
    assert_eq!(report["notices"].as_array().unwrap().len(), 2, "{report}");
}
