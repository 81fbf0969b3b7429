//! `danlu eval ner` on predictions and on a model.

use crate::common;

use std::path::Path;

use common::run;

const ROWS: &str = r#"{"instruct": "提取实体。", "query": "文本：立式铣床加工铝合金。", "answer": "立式铣床_设备\n铝合金_材料"}
{"instruct": "提取实体。", "query": "文本：今天盘点。", "answer": "没有"}
{"instruct": "提取实体。", "query": "文本：托盘有缩痕。", "answer": "缩痕_缺陷"}
"#;

fn folder(predictions: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    // What the file is, its content tells, as the projects name such files.
    std::fs::write(folder.path().join("eval.txt"), ROWS).unwrap();
    std::fs::write(folder.path().join("predictions.jsonl"), predictions).unwrap();
    folder
}

fn ner(folder: &Path, extra: &[&str]) -> common::Ran {
    run(folder, &[&["eval", "ner", "--data", "eval.txt"], extra].concat())
}

#[test]
fn seed_004_predictions_are_scored_by_type_and_with_and_without_entities_apart() {
    let predictions = "{\"predict\": \"立式铣床_设备\\n铝合金_设备\", \"label\": \"\"}\n{\"predict\": \"没有\"}\n{\"predict\": \"缩痕_缺陷\"}\n";
    let folder = folder(predictions);
    let from_file = ["--predictions", "predictions.jsonl"];
    let told = ner(folder.path(), &from_file);
    assert!(
        told.stdout.contains("all (micro)") && told.stdout.contains("3 rows: 2 with entities, 1 without"),
        "{}",
        told.stdout
    );
    let score = ner(folder.path(), &[&from_file[..], &["--json"]].concat()).json();
    let micro = &score["micro"];
    assert_eq!((&micro["right"], &micro["predicted"], &micro["expected"]), (&2.into(), &3.into(), &3.into()));
    assert_eq!(
        (score["types"]["设备"]["precision"].as_f64(), score["types"]["材料"]["recall"].as_f64()),
        (Some(0.5), Some(0.0))
    );
    assert_eq!(
        (score["rightly_none"].as_f64(), score["types"]["缺陷"]["f1"].as_f64()),
        (Some(1.0), Some(1.0))
    );
    let every = ner(folder.path(), &[&from_file[..], &["--every", "2", "--json"]].concat()).json();
    assert_eq!((&every["rows"], &every["rows_without_entities"]), (&2.into(), &0.into()));
}

#[test]
fn predictions_that_do_not_fit_are_refused() {
    let folder = folder("{\"predict\": \"没有\"}\n");
    ner(folder.path(), &["--predictions", "predictions.jsonl"])
        .is_refused("`predictions.jsonl` has 1 predictions for 3 rows");
    std::fs::write(folder.path().join("predictions.jsonl"), "{\"guess\": 1}\n").unwrap();
    ner(folder.path(), &["--predictions", "predictions.jsonl"])
        .is_refused("has no prediction: expected one of");
    std::fs::write(folder.path().join("eval.txt"), "{\"instruct\": \"a\"}\n").unwrap();
    ner(folder.path(), &["--predictions", "predictions.jsonl"]).is_refused("has no answer: expected one of");
    std::fs::write(folder.path().join("eval.txt"), "一段文字\n").unwrap();
    ner(folder.path(), &[]).is_refused("expected JSON lines or an array");
}

#[test]
fn a_model_that_learnt_the_rows_names_their_entities() {
    let folder = common::with_model();
    std::fs::write(folder.path().join("eval.txt"), ROWS).unwrap();
    std::fs::copy(folder.path().join("eval.txt"), folder.path().join("rows.jsonl")).unwrap();
    let untrained = ner(folder.path(), &["--model", "model", "--max-new-tokens", "8", "--json"]).json();
    assert_eq!(untrained["micro"]["right"], 0);
    let recipe = "model_name_or_path: model\nstage: sft\nfinetuning_type: full\ndataset: rows.jsonl\ncutoff_len: 200\n\
                  learning_rate: 0.01\nmax_steps: 60\nper_device_train_batch_size: 3\nplot_loss: false\nsave_strategy: no\n\
                  output_dir: run\nwarmup_steps: 5\n";
    std::fs::write(folder.path().join("recipe.yaml"), recipe).unwrap();
    let trained = run(folder.path(), &["train", "recipe.yaml"]);
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    let out = ["--model", "run", "--max-new-tokens", "64", "--out", "answers.jsonl", "--json"];
    let score = ner(folder.path(), &out).json();
    assert_eq!(
        (score["micro"]["f1"].as_f64(), score["rightly_none"].as_f64()),
        (Some(1.0), Some(1.0)),
        "{score}"
    );
    let again = ner(folder.path(), &["--predictions", "answers.jsonl", "--json"]).json();
    assert_eq!(again, score);
}
