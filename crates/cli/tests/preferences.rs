//! Preference tuning as users run it: every loss, its numbers in the logs, kills, other batches and threads, mistakes.

use crate::common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Ran, run, with_model};
use serde_json::{Value, json};

const ROWS: usize = 12;

/// Pairs in the form of LLaMA-Factory's `dpo_zh_demo`, judged answers, and a recipe, beside the model.
fn folder() -> tempfile::TempDir {
    let folder = with_model();
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    let pair = |row: usize| {
        let question = format!("第{row}问：车床加工什么？");
        let (good, bad) = (format!("车削回转表面{}。", row % 3), format!("铣刀{}", "切削".repeat(row % 4)));
        let turn = |from: &str, value: &str| json!({"from": from, "value": value});
        json!({
            "conversations": [turn("human", &question)], "chosen": turn("gpt", &good), "rejected": turn("gpt", &bad),
        })
    };
    write("pairs.json", Value::from((0..ROWS).map(pair).collect::<Vec<_>>()).to_string());
    let judged = |row: usize| {
        let turn = |role: &str, content: &str| json!({"role": role, "content": content});
        let answer = if row.is_multiple_of(2) { "车削回转表面。" } else { "铣刀切削" };
        let messages = [turn("user", &format!("第{row}问：车床？")), turn("assistant", answer)];
        json!({"messages": messages, "label": row.is_multiple_of(2)}).to_string() + "\n"
    };
    write("judged.jsonl", (0..ROWS).map(judged).collect());
    write(
        "recipe.yaml",
        "model_name_or_path: model\nstage: dpo\nfinetuning_type: lora\nlora_rank: 4\ndataset: pairs.json\n\
         cutoff_len: 128\nlearning_rate: 0.01\nnum_train_epochs: 4\nper_device_train_batch_size: 4\n\
         logging_steps: 1\nsave_steps: 2\nprecision: f32\nthreads: 1\nplot_loss: false\n"
            .to_owned(),
    );
    folder
}

fn train(folder: &Path, output: &str, extra: &[&str]) -> Ran {
    let output_dir = format!("output_dir={output}");
    run(folder, &[&["train", "recipe.yaml", &output_dir, "--json"], extra].concat())
}

/// The entries of `trainer_state.json` that have `key`.
fn history(folder: &Path, output: &str, key: &str) -> Vec<Value> {
    let text = std::fs::read(folder.join(output).join("trainer_state.json")).unwrap();
    let state: Value = serde_json::from_slice(&text).unwrap();
    let entries = state["log_history"].as_array().unwrap().iter();
    entries.filter(|entry| !entry[key].is_null()).cloned().collect()
}

fn adapter(folder: &Path, output: &str) -> Vec<u8> {
    std::fs::read(folder.join(output).join("adapter_model.safetensors")).unwrap()
}

#[test]
fn every_loss_learns_to_prefer_the_wanted_answers() {
    let folder = folder();
    let folder = folder.path();
    for (name, extra) in [
        ("sigmoid", &["pref_loss=sigmoid"][..]),
        ("ipo", &["pref_loss=ipo"]),
        ("hinge", &["pref_loss=hinge"]),
        ("orpo", &["stage=orpo"]),
        ("simpo", &["stage=simpo", "pref_beta=2"]),
        ("cpo", &["pref_loss=cpo"]),
        ("kto", &["stage=kto", "dataset=judged.jsonl"]),
        ("kto-of-pairs", &["stage=kto", "per_device_train_batch_size=24"]),
    ] {
        train(folder, name, &[&["num_train_epochs=5"], extra].concat()).json();
        let logs = history(folder, name, "loss");
        let (first, last) = (&logs[0], &logs[logs.len() - 1]);
        let number =
            |log: &Value, key: &str| log[key].as_f64().unwrap_or_else(|| panic!("{name}: {key} in {log}"));
        let margin = |log: &Value| number(log, "rewards/margins");
        assert!(margin(last) > margin(first), "{name}: {first} {last}");
        assert!(number(last, "loss") < number(first, "loss"), "{name}: {first} {last}");
        for key in ["rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected"] {
            assert!(number(last, key).is_finite(), "{name}");
        }
        let has = |key: &str| last[key].is_number();
        assert_eq!(has("rewards/accuracies"), !name.starts_with("kto"), "{name}");
        assert_eq!(
            (has("sft_loss"), has("odds_ratio_loss")),
            (["orpo", "cpo"].contains(&name), name == "orpo")
        );
        assert_eq!(has("kl"), name.starts_with("kto"), "{name}");
        match name {
            "sigmoid" => {
                assert!((number(first, "loss") - 2.0_f64.ln()).abs() < 1e-6, "{first}");
                assert_eq!(margin(first), 0.0);
                assert_eq!(number(last, "rewards/accuracies"), 1.0);
            }
            "hinge" => assert!((number(first, "loss") - 1.0).abs() < 1e-6, "{first}"),
            "ipo" => assert!((number(first, "loss") - 25.0).abs() < 1e-4, "{first}"),
            "kto" | "kto-of-pairs" => assert!((number(first, "loss") - 0.5).abs() < 1e-6, "{first}"),
            _ => {}
        }
    }
}

#[test]
fn full_training_compares_with_the_model_as_it_began_and_validates() {
    let folder = folder();
    let folder = folder.path();
    let settings = ["finetuning_type=full", "learning_rate=0.001", "val_size=3", "eval_strategy=epoch"];
    let result = train(folder, "full", &settings).json();
    let validations = history(folder, "full", "eval_loss");
    let first = history(folder, "full", "loss").remove(0);
    assert!((first["loss"].as_f64().unwrap() - 2.0_f64.ln()).abs() < 1e-6, "{first}");
    let last = &validations[validations.len() - 1];
    assert!(last["eval_rewards/margins"].as_f64().unwrap() > 0.0, "{last}");
    assert_eq!(result["eval_rewards"]["rewards/margins"], last["eval_rewards/margins"]);
    assert!(last["eval_rewards/accuracies"].as_f64().unwrap() > 0.5, "{last}");
    let text = std::fs::read_to_string(folder.join("full/eval_results.json")).unwrap();
    assert!(!text.contains("perplexity"), "{text}");
}

#[test]
fn a_killed_run_goes_on_to_the_same_bits_without_computing_its_reference_again() {
    let folder = folder();
    let folder = folder.path();
    for (name, extra) in [
        ("lora", &[][..]),
        ("full", &["finetuning_type=full", "learning_rate=0.001"]),
        ("kto", &["stage=kto", "dataset=judged.jsonl"]),
    ] {
        let settings = [extra, &["num_train_epochs=4", "save_steps=1"]].concat();
        let (whole, killed) = (format!("{name}-whole"), format!("{name}-killed"));
        train(folder, &whole, &settings).json();
        let mut child = Command::new(env!("CARGO_BIN_EXE_danlu"))
            .current_dir(folder)
            .args(["train", "recipe.yaml", &format!("output_dir={killed}")])
            .args(&settings)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !folder.join(&killed).join("checkpoint-3").is_dir() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let done = danlu_train::checkpoint::list(&folder.join(&killed)).unwrap();
        let checkpoint = &done.last().unwrap().1;
        assert!(checkpoint.join("reference.safetensors").is_file());
        train(folder, &killed, &[&settings[..], &["resume_from_checkpoint=true"]].concat()).json();
        let weights = |output: &str| match name {
            "full" => std::fs::read(folder.join(output).join("model.safetensors")).unwrap(),
            _ => adapter(folder, output),
        };
        assert!(weights(&whole) == weights(&killed), "{name}");
    }
}

#[test]
fn threads_and_accumulation_change_no_bit() {
    let folder = folder();
    let folder = folder.path();
    for (name, extra) in [("dpo", &[][..]), ("kto", &["stage=kto", "dataset=judged.jsonl"])] {
        let bits = ["threads=1", "threads=2", "per_device_train_batch_size=1"].map(|setting| {
            let accumulation = if setting.starts_with("per") { 4 } else { 1 };
            let accumulation = format!("gradient_accumulation_steps={accumulation}");
            let output = format!("{name}-{setting}");
            train(folder, &output, &[extra, &[setting, &accumulation, "max_steps=4"]].concat()).json();
            adapter(folder, &output)
        });
        assert!(bits[0] == bits[1] && bits[0] == bits[2], "{name}");
    }
}

#[test]
fn mistakes_with_preferences_are_named_before_anything_runs() {
    let folder = folder();
    let folder = folder.path();
    train(folder, "run", &["stage=sft"]).is_refused("set `stage: dpo` to learn from both");
    train(folder, "run", &["stage=sft", "dataset=judged.jsonl"])
        .is_refused("set `stage: kto` to learn from it");
    train(folder, "run", &["dataset=judged.jsonl"])
        .is_refused("`chosen` and `rejected`, the two answers of a preference pair");
    std::fs::write(folder.join("rows.jsonl"), json!({"prompt": "问", "answer": "答"}).to_string()).unwrap();
    train(folder, "run", &["dataset=rows.jsonl"]).is_refused("`chosen` and `rejected`");
    train(folder, "run", &["stage=kto", "dataset=rows.jsonl"]).is_refused("`label` or `kto_tag`");
    train(folder, "run", &["pref_beta=0"]).is_refused("`pref_beta` must be above 0");
    train(folder, "run", &["stage=orpo", "pref_loss=ipo"]).is_refused("are two losses");
    let same = json!({"prompt": "问", "chosen": "答", "rejected": "答"}).to_string();
    std::fs::write(folder.join("same.jsonl"), &same).unwrap();
    train(folder, "run", &["dataset=same.jsonl"]).is_refused("1 whose two answers are the same");
    let other = json!({"prompt": "问", "chosen": "是", "rejected": "否"});
    std::fs::write(folder.join("same.jsonl"), format!("{same}\n{other}\n")).unwrap();
    let told = train(folder, "told", &["dataset=same.jsonl", "max_steps=1"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(told.stderr.contains("dropped 1 pairs whose answers are the same"), "{}", told.stderr);
    assert!(!folder.join("run").exists(), "nothing was written");
}

#[test]
fn a_checkpoint_without_its_reference_or_of_other_answers_is_refused() {
    let folder = folder();
    let folder = folder.path();
    train(folder, "run", &["max_steps=2"]).json();
    let reference = folder.join("run/checkpoint-2/reference.safetensors");
    let resume = ["max_steps=3", "resume_from_checkpoint=true"];
    let kto = [&resume[..], &["stage=kto"]].concat();
    train(folder, "run", &kto).is_refused("or the `stage` is another one");
    std::fs::remove_file(&reference).unwrap();
    train(folder, "run", &resume).is_refused("it has no `reference.safetensors`");
    std::fs::write(&reference, b"damaged").unwrap();
    train(folder, "run", &resume).is_refused("reference.safetensors");
}

#[test]
fn a_resumed_run_says_what_changed_and_shows_rewards() {
    let folder = folder();
    let folder = folder.path();
    let text = std::fs::read_to_string(folder.join("pairs.json")).unwrap();
    std::fs::write(folder.join("check.json"), &text).unwrap();
    let settings = ["max_steps=4", "eval_dataset=check.json"];
    train(folder, "run", &settings).json();
    let resume = |output: &str, extra: &[&str]| {
        train(folder, output, &[&settings[..], &["resume_from_checkpoint=run/checkpoint-2"], extra].concat())
    };
    let changed = resume("changed", &["pref_beta=0.3", "pref_loss=ipo", "pref_ftx=0.5"]);
    assert_eq!(changed.code, 0, "{}", changed.stderr);
    for told in [
        "`pref_loss` was not set and is `ipo`",
        "`pref_beta` was `0.1` and is `0.3`",
        "`pref_ftx` was not set and is `0.5`",
    ] {
        assert!(changed.stderr.contains(told), "{}", changed.stderr);
    }
    // With no step left too.
    let again = [&settings[..], &["resume_from_checkpoint=true"]].concat();
    let done = run(folder, &[&["train", "recipe.yaml", "output_dir=run"], &again[..]].concat());
    assert!(
        done.stdout.contains(", reward margin ") && !done.stdout.contains("perplexity"),
        "{}",
        done.stdout
    );
    assert!(train(folder, "run", &again).json()["eval_rewards"]["rewards/margins"].is_number());
    // The checkpoint holds what the model as it began says of these answers, and not of others, of which there are as many.
    std::fs::write(folder.join("check.json"), text.replace("铣刀", "钻头")).unwrap();
    resume("third", &[]).is_refused("the validation samples are not those whose log-probabilities");
}

#[test]
fn the_plan_counts_pairs_and_the_pass_for_the_reference() {
    let folder = folder();
    let plan = |extra: &[&str]| {
        run(folder.path(), &[&["plan", "recipe.yaml", "output_dir=run", "--json"], extra].concat()).json()
    };
    let dpo = plan(&["val_size=2"]);
    assert_eq!((&dpo["training_samples"], &dpo["validation_samples"]), (&10.into(), &2.into()));
    assert_eq!((&dpo["steps_per_epoch"], &dpo["total_steps"]), (&3.into(), &12.into()));
    let tokens = dpo["reference_tokens"].as_u64().unwrap();
    assert!(tokens > 20 * ROWS as u64, "{tokens}");
    assert_eq!(plan(&["stage=orpo"])["reference_tokens"], 0);
    let notices = |extra: &[&str]| plan(&[&["stage=kto"], extra].concat())["notices"].to_string();
    assert!(!notices(&[]).contains("out of balance"));
    assert!(notices(&["kto_rejected_weight=3"]).contains("out of balance; set `kto_rejected_weight: 1.00`"));
    // Every prompt has an answer of another row beside its own.
    let judged = plan(&["stage=kto", "dataset=judged.jsonl"]);
    assert!(
        judged["reference_tokens"].as_u64().unwrap() > judged["tokens_per_epoch"].as_u64().unwrap() * 3 / 2
    );
}

#[test]
fn a_pair_of_weight_two_counts_as_two_pairs() {
    let folder = folder();
    let folder = folder.path();
    let pair = |question: &str, weight: f64| {
        json!({"prompt": question, "chosen": "车削", "rejected": "铣刀切削", "loss_weight": weight})
            .to_string()
            + "\n"
    };
    std::fs::write(folder.join("weighed.jsonl"), pair("一", 2.0) + &pair("二", 1.0)).unwrap();
    std::fs::write(folder.join("repeated.jsonl"), pair("一", 1.0).repeat(2) + &pair("二", 1.0)).unwrap();
    // All learn from both pairs at once, whose losses differ from the second step on.
    let losses = ["weighed", "repeated"].map(|name| {
        train(folder, name, &[&format!("dataset={name}.jsonl"), "num_train_epochs=4"]).json();
        history(folder, name, "loss").iter().map(|log| log["loss"].as_f64().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(losses[0].len(), 4);
    for (weighed, repeated) in losses[0].iter().zip(&losses[1]) {
        assert!((weighed - repeated).abs() < 1e-4 * repeated.abs(), "{losses:?}");
    }
    std::fs::write(folder.join("wrong.jsonl"), pair("一", -1.0)).unwrap();
    train(folder, "run", &["dataset=wrong.jsonl"]).is_refused("`loss_weight`");
}
