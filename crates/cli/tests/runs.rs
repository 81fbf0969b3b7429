//! What a run leaves and decides: validation, the best state, early ends, guards, samples, logs, resuming otherwise.

use crate::common;

use std::path::{Path, PathBuf};

use common::{Ran, run};
use danlu_train::Recipe;
use serde_json::Value;

const RECIPE: &str = "stage: pt\npacking: false\nfinetuning_type: full\nhidden_size: 32\nintermediate_size: 64\n\
    num_hidden_layers: 2\nnum_attention_heads: 4\nnum_key_value_heads: 2\nmax_position_embeddings: 64\nvocab_size: 320\n\
    dataset: corpus.jsonl\ncutoff_len: 32\nval_size: 6\nlearning_rate: 0.01\nmax_steps: 12\nprecision: f32\n\
    per_device_train_batch_size: 4\nlogging_steps: 2\neval_strategy: steps\neval_steps: 3\nsave_steps: 6\nplot_loss: false\n";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let line = |row: usize| format!("{{\"text\": \"第{row}道工序：车床加工轴，公差{}微米。\"}}", row % 7 + 1);
    let corpus: Vec<String> = (0..60).map(line).collect();
    std::fs::write(folder.path().join("corpus.jsonl"), corpus.join("\n")).unwrap();
    std::fs::write(folder.path().join("recipe.yaml"), RECIPE).unwrap();
    folder
}

fn train(folder: &Path, output: &str, extra: &[&str]) -> Ran {
    let output_dir = format!("output_dir={output}");
    run(folder, &[&["train", "recipe.yaml", "--json", &output_dir], extra].concat())
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))).unwrap()
}

fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("model.safetensors")).unwrap()
}

/// The values of a name in the log, with their steps.
fn logged(run: &Path, name: &str) -> Vec<(u64, f64)> {
    let state = json(run.join("trainer_state.json"));
    let entries = state["log_history"].as_array().unwrap();
    entries.iter().filter_map(|entry| Some((entry["step"].as_u64()?, entry[name].as_f64()?))).collect()
}

fn steps_of(run: &Path) -> Vec<u64> {
    danlu_train::checkpoint::list(run).unwrap().into_iter().map(|(step, _)| step).collect()
}

#[test]
fn validation_reports_loss_perplexity_and_the_accuracy_of_trained_tokens() {
    let folder = folder();
    let ran = train(folder.path(), "run", &[]);
    let run = folder.path().join("run");
    let losses = logged(&run, "eval_loss");
    assert_eq!(losses.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [3, 6, 9, 12]);
    let accuracies = logged(&run, "eval_accuracy");
    assert!(accuracies[3].1 > accuracies[0].1 && accuracies[3].1 < 1.0, "{accuracies:?}");
    for ((_, loss), (_, perplexity)) in losses.iter().zip(logged(&run, "eval_perplexity")) {
        assert!((loss.exp() / perplexity - 1.0).abs() < 1e-9);
    }
    let results = json(run.join("eval_results.json"));
    assert_eq!(results["eval_loss"], losses[3].1);
    assert_eq!(results["perplexity"], results["eval_perplexity"]);
    assert_eq!(ran.json()["eval_loss"], losses[3].1);
    // The console speaks as the Hugging Face Trainer does.
    assert!(ran.stderr.contains("\n{'loss': ") && ran.stderr.contains("\n{'eval_loss': "), "{}", ran.stderr);
    assert!(ran.stderr.contains("trainable params: ") && ran.stderr.contains(" || trainable%: 100"));
    let record = json(run.join("run.json"));
    assert_eq!((&record["seed"], &record["total_steps"]), (&42.into(), &12.into()));
    assert_eq!(record["data"]["fingerprint"].as_str().unwrap().len(), 16);
    assert_eq!(record["tokenizer"].as_str().unwrap().len(), 64);
    let file = &record["data"]["files"][0];
    assert_eq!((&file["path"], file["sha256"].as_str().unwrap().len()), (&"corpus.jsonl".into(), 64));
    assert_eq!(file["bytes"], std::fs::metadata(folder.path().join("corpus.jsonl")).unwrap().len());
    let log = std::fs::read_to_string(run.join("train.log")).unwrap();
    assert!(log.starts_with("trainable params: ") && log.contains(" || trainable%: 100"), "{log}");
    // A run from a model names its files.
    let text = "model_name_or_path: run\nstage: pt\ndataset: corpus.jsonl\nmax_steps: 1\ncutoff_len: 32\n";
    std::fs::write(folder.path().join("recipe.yaml"), text).unwrap();
    train(folder.path(), "next", &[]).json();
    let record = json(folder.path().join("next/run.json"));
    let files = record["model"]["files"].as_array().unwrap();
    let weights = files.iter().find(|file| file["path"] == "run/model.safetensors").unwrap();
    assert!(weights["bytes"].as_u64() > Some(10_000) && weights["modified"].as_u64() > Some(1_600_000_000));
}

/// Values without times, which differ between runs.
fn timeless_history(run: &Path) -> Vec<Value> {
    let mut history = json(run.join("trainer_state.json"))["log_history"].as_array().unwrap().clone();
    for entry in &mut history {
        entry
            .as_object_mut()
            .unwrap()
            .retain(|key, _| !key.contains("runtime") && !key.contains("per_second"));
    }
    history
}

#[test]
fn a_run_that_was_done_writes_all_its_results_again() {
    let folder = folder();
    let whole = train(folder.path(), "run", &["load_best_model_at_end=true", "learning_rate=0.08"]).json();
    let run = folder.path().join("run");
    let (history, before) = (timeless_history(&run), weights(&run));
    let results = ["train_results.json", "eval_results.json", "all_results.json", "trainer_state.json"];
    let values = |name: &str| {
        let mut values = json(run.join(name)).as_object().unwrap().clone();
        values
            .retain(|key, _| !key.contains("runtime") && !key.contains("per_second") && key != "log_history");
        values
    };
    let written = results.map(values);
    for name in results.iter().chain(&["model.safetensors", "config.json"]) {
        std::fs::remove_file(run.join(name)).unwrap();
    }
    let resume = ["load_best_model_at_end=true", "learning_rate=0.08", "resume_from_checkpoint=true"];
    let again = train(folder.path(), "run", &resume).json();
    assert_eq!(results.map(values), written);
    assert!(
        timeless_history(&run) == history && weights(&run) == before && run.join("config.json").is_file()
    );
    for key in ["steps", "train_loss", "eval_loss", "best_step"] {
        assert_eq!(again[key], whole[key], "{key}");
    }
}

#[test]
fn a_resumed_run_logs_what_an_uninterrupted_one_does() {
    let folder = folder();
    // The checkpoint lies between two lines of the log.
    let settings = ["logging_steps=4", "save_steps=5", "eval_steps=3"];
    train(folder.path(), "run", &settings).json();
    let resume = [&settings[..], &["resume_from_checkpoint=run/checkpoint-5"]].concat();
    train(folder.path(), "resumed", &resume).json();
    let [whole, resumed] = ["run", "resumed"].map(|run| timeless_history(&folder.path().join(run)));
    assert_eq!(resumed, whole);
}

#[test]
fn validation_samples_that_changed_are_noted_and_two_sources_of_them_refused() {
    let folder = folder();
    let write = |text: &str| std::fs::write(folder.path().join("check.jsonl"), text).unwrap();
    write("{\"text\": \"车床加工轴。\"}\n{\"text\": \"铣刀。\"}\n");
    let own = ["val_size=0", "eval_dataset=check.jsonl"];
    train(folder.path(), "run", &own).json();
    let resume = [&own[..], &["resume_from_checkpoint=run/checkpoint-6"]].concat();
    let told = "the validation samples are not those of the checkpoint";
    let same = train(folder.path(), "same", &resume);
    assert!(same.code == 0 && !same.stderr.contains(told), "{}", same.stderr);
    write("{\"text\": \"车床加工轴。\"}\n{\"text\": \"磨削。\"}\n");
    let other = train(folder.path(), "other", &resume);
    assert!(other.code == 0 && other.stderr.contains(told), "{}", other.stderr);
    assert!(std::fs::read_to_string(folder.path().join("other/train.log")).unwrap().contains(told));
    train(folder.path(), "both", &["eval_dataset=check.jsonl"])
        .is_refused("`eval_dataset` names samples of its own: set `val_size=0`");
}

#[test]
fn no_validation_comes_before_eval_delay_but_the_last_step_has_one() {
    let folder = folder();
    let steps = |output: &str, extra: &[&str]| -> Vec<u64> {
        train(folder.path(), output, extra).json();
        logged(&folder.path().join(output), "eval_loss").into_iter().map(|(step, _)| step).collect()
    };
    assert_eq!(steps("six", &["eval_delay=6"]), [6, 9, 12]);
    assert_eq!(steps("ever", &["eval_delay=99"]), [12]);
    // 54 samples make 14 steps of an epoch.
    let epochs = ["eval_strategy=epoch", "max_steps=28", "num_train_epochs=9"];
    assert_eq!(steps("epochs", &epochs), [14, 28]);
    assert_eq!(steps("second", &[&epochs[..], &["max_steps=42", "eval_delay=2"]].concat()), [28, 42]);
    train(folder.path(), "below", &["eval_delay=-1"])
        .is_refused("`eval_delay` must be 0 or more, found `-1`");
}

#[test]
fn seed_001_accuracy_ignores_what_has_no_loss() {
    // One word is the answer to everything, behind questions that nothing can predict: only the answers count.
    let folder = common::with_model();
    let row = |row: u64| {
        let noise = row.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        format!("{{\"instruction\": \"{noise}\", \"output\": \"车\"}}")
    };
    let rows: Vec<String> = (0..40).map(row).collect();
    std::fs::write(folder.path().join("rows.jsonl"), rows.join("\n")).unwrap();
    let recipe = "model_name_or_path: model\nstage: sft\nfinetuning_type: full\ndataset: rows.jsonl\ncutoff_len: 64\n\
                  val_size: 8\nlearning_rate: 0.02\nmax_steps: 30\nplot_loss: false\nsave_strategy: no\n";
    std::fs::write(folder.path().join("recipe.yaml"), recipe).unwrap();
    let ran = train(folder.path(), "run", &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(logged(&folder.path().join("run"), "eval_accuracy").last().unwrap().1, 1.0);
}

#[test]
fn the_best_state_is_the_result_and_its_checkpoint_is_spared() {
    let folder = folder();
    // A rate that soon does harm: the best validation is not the last.
    let options = [
        "load_best_model_at_end=true",
        "lr_scheduler_type=constant",
        "learning_rate=0.08",
        "eval_steps=2",
        "save_steps=2",
        "save_total_limit=1",
        "max_steps=30",
        "num_train_epochs=9",
    ];
    let ran = train(folder.path(), "run", &options);
    let run = folder.path().join("run");
    let losses = logged(&run, "eval_loss");
    let best = losses.iter().copied().reduce(|best, new| if new.1 < best.1 { new } else { best }).unwrap();
    assert!(best.0 < 30, "{losses:?}");
    let result = ran.json();
    assert_eq!((&result["best_step"], &result["eval_loss"]), (&best.0.into(), &best.1.into()));
    assert_eq!(steps_of(&run), [best.0, 30], "the best, and the newest to go on from");
    let state = json(run.join("trainer_state.json"));
    assert_eq!(state["best_metric"], best.1);
    let kept = run.join(format!("checkpoint-{}", best.0));
    assert!(state["best_model_checkpoint"].as_str().unwrap().ends_with(&format!("checkpoint-{}", best.0)));
    assert!(weights(&run) == weights(&kept) && weights(&run) != weights(&run.join("checkpoint-30")));
    assert_eq!(json(run.join("eval_results.json"))["eval_loss"], best.1);
    assert!(!run.join("training_state.json").exists() && !run.join("optimizer.safetensors").exists());
}

#[test]
fn a_run_that_no_longer_improves_ends_early_also_behind_a_resume() {
    let folder = folder();
    let options = [
        "early_stopping_steps=2",
        "metric_for_best_model=accuracy",
        // Nothing is learned at this rate.
        "learning_rate=1e-12",
        "eval_steps=2",
        "max_steps=40",
    ];
    let ran = train(folder.path(), "run", &options);
    let run = folder.path().join("run");
    assert!(
        ran.stderr.contains("step 6: the run ends: `eval_accuracy` has not improved for 2"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.json()["steps"], 6);
    assert_eq!(steps_of(&run), [6]);
    let stopped = train(folder.path(), "stopped", &[&options[..], &["save_steps=4", "max_steps=5"]].concat());
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    let again = [&options[..], &["resume_from_checkpoint=stopped/checkpoint-4"]].concat();
    let resumed = train(folder.path(), "stopped", &again);
    assert!(resumed.stderr.contains("step 6: the run ends: "), "{}", resumed.stderr);
    // A run that has ended so is over.
    let over = train(folder.path(), "run", &[&options[..], &["resume_from_checkpoint=true"]].concat());
    let again =
        [&["train", "recipe.yaml", "output_dir=run", "resume_from_checkpoint=true"], &options[..]].concat();
    let shown = common::run(folder.path(), &again).stdout;
    assert!(shown.contains("nothing was left to do behind step 6, mean loss "), "{shown}");
    assert_eq!((&over.json()["steps"], &over.json()["train_loss"]), (&6.into(), &ran.json()["train_loss"]));
}

#[test]
fn what_goes_by_validations_needs_them() {
    let folder = folder();
    let train = |extra: &[&str]| train(folder.path(), "run", extra);
    train(&["load_best_model_at_end=true", "eval_strategy=no"])
        .is_refused("`load_best_model_at_end` goes by validations: set `eval_strategy`");
    train(&["early_stopping_patience=2", "val_size=0"])
        .is_refused("`early_stopping_steps` goes by validations");
    train(&["load_best_model_at_end=true", "metric_for_best_model=bleu"]).is_refused("found `eval_bleu`");
    train(&["early_stopping_steps=0"]).is_refused("`early_stopping_steps` must be at least 1");
}

#[test]
fn a_loss_that_jumps_changes_nothing_and_a_row_of_them_ends_the_run() {
    let folder = folder();
    // A rate that destroys the model, so that its loss soon jumps.
    let wild = ["learning_rate=3", "lr_scheduler_type=linear", "warmup_steps=12", "max_steps=30"];
    let guarded = [&wild[..], &["loss_spike_factor=1.2", "save_steps=8", "max_skipped_steps=100"]].concat();
    let ran = train(folder.path(), "run", &guarded);
    let skipped = ran.json()["skipped_steps"].as_u64().unwrap();
    assert!(skipped > 0 && ran.stderr.contains("changed nothing: the loss jumped to"), "{}", ran.stderr);
    let log = std::fs::read_to_string(folder.path().join("run/train.log")).unwrap();
    assert_eq!(log.matches("changed nothing").count() as u64, skipped);
    let resume = [&guarded[..], &["resume_from_checkpoint=run/checkpoint-16"]].concat();
    let resumed = train(folder.path(), "resumed", &resume);
    assert_eq!(resumed.json()["skipped_steps"], skipped, "a resumed run judges alike");
    let again = [&guarded[..], &["resume_from_checkpoint=true"]].concat();
    train(folder.path(), "run", &again).json();
    let log = std::fs::read_to_string(folder.path().join("run/train.log")).unwrap();
    assert_eq!(log.matches("changed nothing").count() as u64, skipped, "nothing noted is lost: {log}");
    assert!(weights(&folder.path().join("run")) == weights(&folder.path().join("resumed")));

    let strict = [&guarded[..], &["max_skipped_steps=2", "save_steps=1"]].concat();
    let ran = train(folder.path(), "strict", &strict);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let end = ran.stderr.lines().find(|line| line.contains("(3 steps in a row); lower `learning_rate`"));
    let end = end.unwrap_or_else(|| panic!("{}", ran.stderr));
    // A resume in the middle of the row counts on.
    let resumed = train(folder.path(), "strict", &[&strict[..], &["resume_from_checkpoint=true"]].concat());
    assert!(resumed.stderr.contains("continues from") && resumed.stderr.contains(end), "{}", resumed.stderr);

    // Behind the samples that did the harm it goes on from the last checkpoint.
    let back = [&strict[..], &["rollback=true", "save_steps=7"]].concat();
    let ran = train(folder.path(), "back", &back);
    assert!(
        ran.stderr.contains("(3 steps in a row)")
            && ran.stderr.contains("going on from `back/checkpoint-7` behind step "),
        "{}",
        ran.stderr
    );
    let run = folder.path().join("back");
    let [log, lines] =
        ["train.log", "trainer_log.jsonl"].map(|name| std::fs::read_to_string(run.join(name)).unwrap());
    assert!(log.contains("going on from `back/checkpoint-7` behind step "), "{log}");
    assert!(lines.contains("\"rolled_back_to_step\":7"), "{lines}");
    let (passed, to) = logged(&run, "rolled_back_to_step")[0];
    assert!(
        to == 7.0 && passed > 7 && log.contains(&format!("step {}: changed nothing", passed - 1)),
        "{log}"
    );
    // Where no step succeeds any more, it ends.
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let rolled = ran.stderr.matches("going on from").count();
    assert_eq!(lines.matches("rolled_back_to_step").count(), rolled, "{lines}");
    train(folder.path(), "zero", &["learning_rate=0"]).is_refused("`learning_rate` must be above 0");
}

#[test]
fn trl_878_a_loss_that_is_not_a_number_is_left_out_and_then_ends_the_run() {
    let folder = folder();
    let run = folder.path().join("run");
    train(folder.path(), "run", &["max_steps=1"]).json();
    let mut bytes = weights(&run);
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(run.join("model.safetensors"), bytes).unwrap();
    let model: Vec<&str> =
        RECIPE.lines().filter(|line| !line.contains("_size:") || line.contains("val_size")).collect();
    let model: Vec<&str> =
        model.into_iter().filter(|line| !line.starts_with("num_") && !line.starts_with("max_pos")).collect();
    std::fs::write(folder.path().join("recipe.yaml"), model.join("\n") + "\nmodel_name_or_path: run\n")
        .unwrap();
    let ran = train(folder.path(), "damaged", &["max_skipped_steps=3", "eval_strategy=no"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert_eq!(
        ran.stderr.matches("changed nothing: the loss is not a finite number").count(),
        3,
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("at step 4 (4 steps in a row)"), "{}", ran.stderr);
}

#[test]
fn prompts_are_answered_at_each_validation() {
    let folder = folder();
    let prompts = ["sample_prompts=[第, 车床]", "sample_max_new_tokens=4", "save_steps=3"];
    let ran = train(folder.path(), "run", &prompts);
    assert!(ran.stderr.contains("step 12: 车床 → "), "{}", ran.stderr);
    let samples = || std::fs::read_to_string(folder.path().join("run/samples.jsonl")).unwrap();
    let whole = samples();
    let rows: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> =
        rows.iter().map(|row| (row["step"].as_u64().unwrap(), row["prompt"].as_str().unwrap())).collect();
    assert_eq!(told[..2], [(3, "第"), (3, "车床")]);
    assert_eq!(told.len(), 8);
    assert!(rows.iter().all(|row| row["text"].is_string() && row["finish_reason"].is_string()));
    // Answers change nothing, and a resumed run does not repeat them.
    let resume = [&prompts[..], &["resume_from_checkpoint=run/checkpoint-6"]].concat();
    train(folder.path(), "run", &resume).json();
    assert_eq!(samples(), whole);
    train(folder.path(), "silent", &[]).json();
    assert!(weights(&folder.path().join("run")) == weights(&folder.path().join("silent")));

    // What cannot be answered is said before anything is trained.
    let long = format!("sample_prompts=[{}]", "车床".repeat(4000));
    train(folder.path(), "long", &[&long]).is_refused("tokens; expected from 1 to ");
}

#[test]
fn tensorboard_files_hold_what_is_logged() {
    let folder = folder();
    let ran = train(folder.path(), "run", &["report_to=[tensorboard, wandb]"]);
    assert!(ran.stderr.contains("nothing is sent to `wandb`"), "{}", ran.stderr);
    let mut files = std::fs::read_dir(folder.path().join("run/runs")).unwrap();
    let file = files.next().unwrap().unwrap();
    assert!(file.file_name().to_string_lossy().starts_with("events.out.tfevents."));
    let bytes = std::fs::read(file.path()).unwrap();
    let (mut rest, mut records) = (bytes.as_slice(), 0);
    while let Some((length, after)) = rest.split_first_chunk::<8>() {
        rest = &after[u64::from_le_bytes(*length) as usize + 8..];
        records += 1;
    }
    let entries = json(folder.path().join("run/trainer_state.json"))["log_history"].as_array().unwrap().len();
    assert_eq!(records, entries + 1, "a head and one event for each log entry");
    for tag in ["train/loss", "train/learning_rate", "train/grad_norm", "eval/loss", "eval/accuracy"] {
        assert!(bytes.windows(tag.len()).any(|window| window == tag.as_bytes()), "{tag}");
    }
    // One that goes on says from which step on its file is the one to show.
    let resume = ["report_to=tensorboard", "resume_from_checkpoint=run/checkpoint-6"];
    train(folder.path(), "run", &resume).json();
    let files: Vec<_> = std::fs::read_dir(folder.path().join("run/runs")).unwrap().collect();
    let starts =
        |path: PathBuf| std::fs::read(path).unwrap().windows(6).any(|at| at == b"\x10\x07\x3a\x02\x08\x01");
    assert_eq!(
        files.into_iter().map(|file| starts(file.unwrap().path())).filter(|starts| *starts).count(),
        1
    );
    train(folder.path(), "other", &["report_to=tensorboard", "logging_dir=boards/one"]).json();
    assert_eq!(std::fs::read_dir(folder.path().join("boards/one")).unwrap().count(), 1);
    train(folder.path(), "none", &["report_to=none"]).json();
    assert!(!folder.path().join("none/runs").exists());
}

#[test]
fn a_resume_says_what_of_the_recipe_is_not_as_it_was() {
    let folder = folder();
    train(folder.path(), "run", &[]).json();
    let same = train(folder.path(), "again", &["resume_from_checkpoint=run/checkpoint-6", "save_steps=3"]);
    assert!(!same.stderr.contains("is not that of the checkpoint"), "{}", same.stderr);
    let changed =
        ["resume_from_checkpoint=run/checkpoint-6", "learning_rate=0.02", "min_lr_rate=", "weight_decay=0.1"];
    let other = train(folder.path(), "other", &changed);
    assert_eq!(other.code, 0, "{}", other.stderr);
    let told = "the recipe is not that of the checkpoint: `learning_rate` was `0.01` and is `0.02`, `weight_decay` was `0.0` \
                and is `0.1`";
    assert!(other.stderr.contains(told), "{}", other.stderr);
    let refused = ["resume_from_checkpoint=run/checkpoint-6", "cutoff_len=8"];
    let refused = train(folder.path(), "third", &refused);
    assert!(refused.stderr.contains("`cutoff_len` was `32` and is `8`"), "{}", refused.stderr);
    refused.is_refused("the training samples are not the same");
    let other = train(
        folder.path(),
        "fourth",
        &["resume_from_checkpoint=run/checkpoint-6", "finetuning_type=freeze"],
    );
    other.is_refused(
        "cannot resume from `run/checkpoint-6`: `finetuning_type` was `full` and is `freeze`; restore it",
    );
}

#[test]
fn every_schedule_trains_with_its_rates() {
    let folder = folder();
    for (name, more) in [
        ("constant", "seed=1"),
        ("constant_with_warmup", "warmup_steps=2"),
        ("linear", "warmup_ratio=0.3"),
        ("cosine", "warmup_steps=0.3"),
        ("cosine_with_min_lr", "min_lr_rate=0.1"),
        ("cosine_with_restarts", "lr_scheduler_kwargs={num_cycles: 2}"),
        ("polynomial", "lr_scheduler_kwargs={power: 2}"),
        ("inverse_sqrt", "warmup_steps=2"),
        ("warmup_stable_decay", "lr_scheduler_kwargs={num_decay_steps: 2}"),
        ("WarmupLR", "warmup_steps=3"),
        ("WarmupDecayLR", "warmup_steps=3"),
        ("WarmupCosineLR", "warmup_steps=3"),
    ] {
        let kind = format!("lr_scheduler_type={name}");
        let fixed = ["max_steps=6", "logging_steps=1", "val_size=0", "eval_strategy=no", "save_strategy=no"];
        let extra = [&fixed[..], &[kind.as_str(), more]].concat();
        train(folder.path(), name, &extra).json();
        let recipe = folder.path().join("recipe.yaml");
        let schedule =
            Recipe::load(recipe, &[&extra[..], &["output_dir=o"]].concat()).unwrap().recipe.schedule(6);
        let rates = logged(&folder.path().join(name), "learning_rate");
        assert_eq!(rates.len(), 6, "{name}");
        for (step, rate) in rates {
            let expected = schedule.learning_rate(step - 1);
            assert!(
                (rate - expected).abs() <= 1e-12 * expected,
                "{name}, step {step}: {rate} for {expected}"
            );
        }
    }
}

#[test]
fn seed_001_the_plan_says_what_ends_the_run() {
    let folder = folder();
    let plan =
        |extra: &[&str]| run(folder.path(), &[&["plan", "recipe.yaml", "output_dir=o"], extra].concat());
    let steps = plan(&[]);
    assert!(
        steps
            .stdout
            .contains("12 steps (14 a pass), 0 of them warmup; `max_steps` ends the run, after 0.86 passes"),
        "{}",
        steps.stdout
    );
    assert!(steps.stdout.contains("weight decay 0 on 15 tensors (27,872), none on 5 tensors (160)"));
    assert!(steps.stdout.contains("time: about 0 seconds for 455 tokens, "), "{}", steps.stdout);
    let short = plan(&["warmup_steps=1000"]);
    assert!(
        short.stdout.contains("12 steps (14 a pass), all within the warmup of 1,000; "),
        "{}",
        short.stdout
    );
    let passes = plan(&["max_steps=", "num_train_epochs=2"]);
    assert!(
        passes.stdout.contains("28 steps (14 a pass), 0 of them warmup; `num_train_epochs` ends"),
        "{}",
        passes.stdout
    );
}

#[test]
fn seed_000_optimizer_groups_of_luban_1b() {
    let folder = folder();
    let vocabulary = common::vocabulary(false);
    vocabulary.save(folder.path()).unwrap();
    let recipe = "stage: pt\nfinetuning_type: full\nmodel_preset: luban-1b\ntokenizer_name_or_path: .\ndataset: corpus.jsonl\n\
                  output_dir: run\nweight_decay: 0.0001\noptim: sgd\n";
    std::fs::write(folder.path().join("recipe.yaml"), recipe).unwrap();
    let plan = run(folder.path(), &["plan", "recipe.yaml", "--json"]).json();
    let groups = &plan["decay_groups"];
    let size = vocabulary.vocabulary_size() as u64;
    assert_eq!(groups["decay"]["tensors"], 127);
    assert_eq!(groups["decay"]["parameters"], 1_039_845_376 - (64_793 - size) * 2048);
    assert_eq!(
        (&groups["no_decay"]["tensors"], &groups["no_decay"]["parameters"]),
        (&37.into(), &75_776.into())
    );
    assert_eq!(groups["weight_decay"], 1e-4);
}
