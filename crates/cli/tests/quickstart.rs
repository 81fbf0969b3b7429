//! `danlu quickstart` as a whole: what it leaves in its folder, what it refuses, what Ctrl-C leaves.

use crate::common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use common::run;
use serde_json::Value;

fn json_file(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_tiny_run_leaves_everything_and_its_score_is_that_of_eval_mcq() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("q, \"1\" #");
    // An earlier run, interrupted, and something of the user's.
    fs::create_dir_all(made.join("model/checkpoint-9")).unwrap();
    for file in ["quickstart.json", "report.html", "my-notes.txt"] {
        fs::write(made.join(file), "{}").unwrap();
    }
    let name = made.file_name().unwrap().to_str().unwrap();
    let ran = run(folder.path(), &["quickstart", "--json", "--dir", name, "--minutes", "0.04"]);
    let result = ran.json();
    let keys: Vec<&String> = result.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["score_before", "score_after", "seconds", "model"]);
    assert_eq!(ran.stdout.lines().count(), 1);
    for step in 1..=8 {
        assert!(ran.stderr.contains(&format!("[{step}/8] ")), "{}", ran.stderr);
    }
    let warning = "`--minutes 0.04` may be too short to learn to answer; the default is 4 minutes";
    assert_eq!(ran.stderr.matches(warning).count(), 1, "{}", ran.stderr);
    assert!(result["score_before"].as_f64().unwrap() <= 0.4, "{result}");

    assert!(made.join("my-notes.txt").is_file() && !made.join("model/checkpoint-9").exists());
    for file in [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        assert!(made.join("model").join(file).is_file(), "{file}");
        assert!(made.join("pretrained").join(file).is_file(), "{file}");
    }
    let figures = json_file(&made.join("quickstart.json"));
    assert_eq!(figures["score_after"], result["score_after"]);

    let report = fs::read_to_string(made.join("report.html")).unwrap();
    for part in [
        "用挤出机挤塑生产塑料制品是",
        "介绍一下数控加工：",
        "<svg",
        "损失曲线",
        "Loss curves",
        "danlu chat --model",
        "可能太短，来不及学会回答；默认为 4 分钟",
        "which may be too short to learn to answer; the default is 4 minutes",
    ] {
        assert!(report.contains(part), "the report lacks `{part}`");
    }
    for part in ["href=", "src=", "url(", "https:", "NaN"] {
        assert!(!report.contains(part), "the report has `{part}`");
    }

    let model = result["model"].as_str().unwrap();
    let questions = made.join("data/mcq");
    let questions = questions.to_str().unwrap();
    // A run this short is scored on a few questions, and its report says so.
    assert!(report.contains("--limit 20"));
    let arguments = ["eval", "mcq", "--json", "--model", model, "--data", questions, "--limit", "20"];
    assert_eq!(run(folder.path(), &arguments).json()["accuracy"], result["score_after"]);

    let recipe = made.join("sft.yaml");
    let plan = run(folder.path(), &["plan", "--json", recipe.to_str().unwrap()]).json();
    assert!(plan["parameters"].as_u64().unwrap() > 5_000_000, "{plan}");
}

#[test]
fn a_folder_of_something_else_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("mine/data")).unwrap();
    run(folder.path(), &["quickstart", "--dir", "mine"]).is_refused("was not made by `danlu quickstart`");
    assert_eq!(fs::read_dir(folder.path().join("mine")).unwrap().count(), 1);
    fs::write(folder.path().join("file"), "").unwrap();
    let ran = run(folder.path(), &["quickstart", "--dir", "file"]);
    assert!(ran.code != 0 && ran.stderr.contains("file"), "{}", ran.stderr);
}

#[test]
fn minutes_are_a_number_above_zero() {
    let folder = tempfile::tempdir().unwrap();
    for minutes in ["0", "-1", "nan", "inf", "four"] {
        let ran = run(folder.path(), &["quickstart", &format!("--minutes={minutes}")]);
        assert!(ran.code == 2 && ran.stderr.contains("expected a number above 0"), "{}", ran.stderr);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_checkpoint_that_training_goes_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_danlu"))
        .args(["quickstart", "--dir", "q", "--minutes", "0.2"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut messages = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("[3/8]") {
        line.clear();
        assert!(messages.read_line(&mut line).unwrap() > 0, "ended before the third step");
    }
    let log = folder.path().join("q/pretrained/train.log");
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains("'loss'")) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let mut rest = String::new();
    messages.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(
        rest.contains("`danlu train q/pretrain.yaml resume_from_checkpoint=true` goes on from there"),
        "{rest}"
    );
    let plan =
        run(folder.path(), &["plan", "--json", "q/pretrain.yaml", "resume_from_checkpoint=true"]).json();
    assert!(plan["resume_from"].as_str().unwrap().contains("checkpoint-"), "{plan}");
}

#[test]
#[ignore = "takes four minutes on 2 cores; run with `cargo test --release --test all -- --ignored quickstart::`"]
fn the_full_run_reaches_its_goals() {
    let folder = tempfile::tempdir().unwrap();
    let result = run(folder.path(), &["quickstart", "--json"]).json();
    assert!(result["score_before"].as_f64().unwrap() <= 0.40, "{result}");
    assert!(result["score_after"].as_f64().unwrap() >= 0.85, "{result}");
    let figures = json_file(&folder.path().join("runs/quickstart/quickstart.json"));
    let difference =
        figures["score_after"].as_f64().unwrap() - figures["score_drawn_again"].as_f64().unwrap();
    assert!(difference.abs() <= 0.05, "another seed of the questions moves the score: {figures}");
}
