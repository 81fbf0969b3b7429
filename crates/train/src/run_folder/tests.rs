//! The files of a run folder, written and resumed.

use super::*;

fn facts() -> RunFacts {
    RunFacts {
        total_steps: 40,
        num_train_epochs: 1.5,
        train_batch_size: 8,
        logging_steps: 1,
        eval_steps: 10,
        save_steps: 10,
        plot_loss: true,
        event_folder: None,
    }
}

fn step_log(step: u64, seconds: u64) -> StepLog {
    StepLog {
        step,
        loss: 2.822_712 / step as f64,
        learning_rate: 3e-4,
        grad_norm: 1.25,
        epoch: step as f64 / 27.0,
        tokens_seen: step * 512,
        tokens_per_second: 1234.567,
        elapsed: Duration::from_secs(seconds),
        rewards: None,
        parts: None,
    }
}

fn eval_log(step: u64) -> EvalLog {
    let runtime = Duration::from_secs(2);
    EvalLog {
        step,
        epoch: 1.0,
        eval_loss: 2.0,
        accuracy: Some(0.25),
        rewards: None,
        samples: 10,
        runtime,
        elapsed: runtime,
    }
}

fn lines(folder: &Path, name: &str) -> Vec<String> {
    fs::read_to_string(folder.join(name)).unwrap().lines().map(String::from).collect()
}

#[test]
fn files_have_the_layouts_of_trainer_and_llama_factory() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = RunFolder::create(folder.path(), facts()).unwrap();
    run.log_step(&step_log(1, 90)).unwrap();
    run.log_eval(&eval_log(1)).unwrap();
    let finish = FinishLog {
        step: 40,
        epoch: 1.5,
        train_loss: 1.5,
        samples: 320,
        steps: 40,
        tokens_seen: 20_480,
        elapsed: Duration::from_secs(100),
    };
    run.log_eval(&eval_log(40)).unwrap();
    run.note_best(Some((40, 2.0)));
    run.finish(&finish, run.last_evaluation(None)).unwrap();

    let log = lines(folder.path(), "train.log");
    assert_eq!(log[0], "{'loss': 2.8227, 'grad_norm': 1.25, 'learning_rate': 0.0003, 'epoch': 0.04}");
    assert_eq!(
        log[1],
        "{'eval_loss': 2.0, 'eval_perplexity': 7.3891, 'eval_accuracy': 0.25, 'eval_runtime': 2.0, \
         'eval_samples_per_second': 5.0, 'epoch': 1.0}"
    );
    let json: Value = serde_json::from_str(&lines(folder.path(), "trainer_log.jsonl")[0]).unwrap();
    let expected = json!({"current_steps": 1, "total_steps": 40, "loss": 2.822_712, "lr": 3e-4, "epoch": 0.04,
        "percentage": 2.5, "elapsed_time": "0:01:30", "remaining_time": "0:58:30", "throughput": 1234.57,
        "total_tokens": 512});
    assert_eq!(json, expected);

    let state: Value =
        serde_json::from_slice(&fs::read(folder.path().join("trainer_state.json")).unwrap()).unwrap();
    assert_eq!((&state["global_step"], &state["max_steps"]), (&json!(40), &json!(40)));
    assert_eq!((&state["num_train_epochs"], &state["num_input_tokens_seen"]), (&json!(2), &json!(20_480)));
    assert_eq!(state["log_history"][0]["loss"], json!(2.822_712));
    let all = fs::read_to_string(folder.path().join("all_results.json")).unwrap();
    assert_eq!((&state["best_metric"], &state["best_model_checkpoint"]), (&json!(2.0), &Value::Null));
    assert!(
        all.starts_with("{\n    \"epoch\": 1.0,\n    \"eval_accuracy\": 0.25,\n    \"eval_loss\": 2.0,"),
        "{all}"
    );
    assert!(all.contains("\"train_steps_per_second\": 0.4") && all.contains("\"perplexity\": 7.38"), "{all}");
    for name in ["train_results.json", "eval_results.json", "training_loss.svg", "training_loss.png"] {
        assert!(folder.path().join(name).is_file(), "{name}");
    }
}

#[test]
fn the_state_has_exactly_the_fields_that_transformers_loads() {
    let folder = tempfile::tempdir().unwrap();
    RunFolder::create(folder.path(), facts()).unwrap().save_state(folder.path(), 3, 0.5, 1536).unwrap();
    let state: Value =
        serde_json::from_slice(&fs::read(folder.path().join("trainer_state.json")).unwrap()).unwrap();
    let fields: Vec<&str> = state.as_object().unwrap().keys().map(String::as_str).collect();
    let known = "best_metric best_model_checkpoint epoch eval_steps global_step is_hyper_param_search \
                 is_local_process_zero is_world_process_zero log_history logging_steps max_steps \
                 num_input_tokens_seen num_train_epochs save_steps stateful_callbacks total_flos train_batch_size \
                 trial_name trial_params";
    assert_eq!(fields.join(" "), known);
}

#[test]
fn a_resumed_run_has_one_continuous_history() {
    let whole = tempfile::tempdir().unwrap();
    let mut run = RunFolder::create(whole.path(), facts()).unwrap();
    (1..=6).for_each(|step| run.log_step(&step_log(step, step)).unwrap());

    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("checkpoint-3");
    fs::create_dir_all(&checkpoint).unwrap();
    let mut run = RunFolder::create(folder.path(), facts()).unwrap();
    for step in 1..=5 {
        run.log_step(&step_log(step, step)).unwrap();
        if step == 3 {
            run.save_state(&checkpoint, step, 0.1, step * 512).unwrap();
        }
    }
    drop(run);
    for name in ["train.log", "trainer_log.jsonl"] {
        let mut file = fs::OpenOptions::new().append(true).open(folder.path().join(name)).unwrap();
        file.write_all(b"{\"current_steps\": 6, \"lo\xe6\x8d").unwrap();
    }
    let mut run = RunFolder::resume(folder.path(), &checkpoint, facts(), 3..3).unwrap();
    (4..=6).for_each(|step| run.log_step(&step_log(step, step)).unwrap());

    assert_eq!(run.history.len(), 6);
    for name in ["train.log", "trainer_log.jsonl"] {
        assert_eq!(lines(folder.path(), name), lines(whole.path(), name));
    }
}

#[test]
fn a_line_torn_before_the_checkpoint_is_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = RunFolder::create(folder.path(), facts()).unwrap();
    run.log_step(&step_log(1, 1)).unwrap();
    run.save_state(folder.path(), 1, 0.1, 512).unwrap();
    fs::write(folder.path().join("trainer_log.jsonl"), "{\"current_steps\": 1, \"tot").unwrap();
    let mut run = RunFolder::resume(folder.path(), folder.path(), facts(), 1..1).unwrap();
    run.log_step(&step_log(2, 1)).unwrap();
    assert_eq!(lines(folder.path(), "trainer_log.jsonl").len(), 1);
    assert_eq!(lines(folder.path(), "train.log").len(), 2, "what is whole stays");
}

#[test]
fn a_damaged_state_names_its_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("trainer_state.json"), "{\"log_history\": [{\"lo").unwrap();
    let error = RunFolder::resume(folder.path(), folder.path(), facts(), 1..1).unwrap_err().to_string();
    assert!(error.contains("trainer_state.json`: not a trainer state"), "{error}");
    let error = RunFolder::resume(folder.path(), &folder.path().join("absent"), facts(), 1..1)
        .unwrap_err()
        .to_string();
    assert!(error.contains("absent"), "{error}");
}

#[test]
fn a_loss_that_is_not_a_number_is_logged_and_does_not_break_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = RunFolder::create(folder.path(), facts()).unwrap();
    run.log_step(&StepLog { loss: f64::NAN, grad_norm: f64::INFINITY, ..step_log(1, 1) }).unwrap();
    run.save_state(folder.path(), 1, 0.1, 512).unwrap();
    assert!(lines(folder.path(), "train.log")[0].starts_with("{'loss': nan, 'grad_norm': inf, "));
    assert_eq!(RunFolder::resume(folder.path(), folder.path(), facts(), 1..1).unwrap().history.len(), 1);
}

#[test]
fn what_was_noted_of_a_step_goes_and_stays_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = RunFolder::create(folder.path(), facts()).unwrap();
    run.note(None, "trainable params: 3, step 9").unwrap();
    for step in 1..=5 {
        run.log_step(&step_log(step, step)).unwrap();
        run.note(Some(step), "changed nothing: the loss jumped").unwrap();
        if step == 2 {
            run.save_state(folder.path(), step, 0.1, 1024).unwrap();
        }
    }
    drop(run);
    let kept = |until| {
        RunFolder::resume(folder.path(), folder.path(), facts(), 2..until).unwrap();
        let lines = lines(folder.path(), "train.log");
        lines.iter().map(|line| line.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let skipped = |step| format!("step {step}");
    let first = ["trainable params", "{'loss'", &skipped(1), "{'loss'", &skipped(2)].map(str::to_owned);
    // A run that goes back says what was wrong with the steps that it passes over.
    assert_eq!(kept(4), [&first[..], &[skipped(3), skipped(4)]].concat());
    assert_eq!(kept(2), first);
}

#[test]
fn values_are_read_back_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = RunFolder::create(folder.path(), facts()).unwrap();
    let loss = |step: u64| (step as f64 * 0.37).sin() / 3.0;
    for step in 1..=200 {
        run.log_step(&StepLog { loss: loss(step), ..step_log(step, 1) }).unwrap();
    }
    run.save_state(folder.path(), 200, 0.1, 102_400).unwrap();
    let state = TrainerState::read(&folder.path().join("trainer_state.json")).unwrap();
    for (entry, step) in state.log_history.iter().zip(1..) {
        assert_eq!(entry["loss"].as_f64().unwrap().to_bits(), loss(step).to_bits());
    }
}

#[test]
fn a_run_that_goes_on_elsewhere_and_then_there_again_logs_each_step_once() {
    let [first, second] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let at = |folder: &tempfile::TempDir, step: u64| {
        let checkpoint = folder.path().join(format!("checkpoint-{step}"));
        fs::create_dir_all(&checkpoint).unwrap();
        checkpoint
    };
    let log = |run: &mut RunFolder, steps: std::ops::RangeInclusive<u64>| {
        steps.for_each(|step| run.log_step(&step_log(step, step)).unwrap());
    };
    let mut run = RunFolder::create(first.path(), facts()).unwrap();
    log(&mut run, 1..=4);
    run.save_state(&at(&first, 4), 4, 0.1, 2048).unwrap();
    let mut run = RunFolder::resume(second.path(), &at(&first, 4), facts(), 4..4).unwrap();
    log(&mut run, 5..=6);
    run.save_state(&at(&second, 6), 6, 0.2, 3072).unwrap();
    log(&mut run, 7..=8);
    let finish = FinishLog {
        step: 8,
        epoch: 0.3,
        train_loss: 1.0,
        samples: 64,
        steps: 8,
        tokens_seen: 4096,
        elapsed: Duration::from_secs(8),
    };
    run.finish(&finish, None).unwrap();
    let mut run = RunFolder::resume(second.path(), &at(&second, 6), facts(), 6..6).unwrap();
    log(&mut run, 7..=9);
    assert_eq!(run.history().len(), 9);
    for name in ["train.log", "trainer_log.jsonl"] {
        assert_eq!(lines(second.path(), name).len(), 5, "{name}");
    }
}
