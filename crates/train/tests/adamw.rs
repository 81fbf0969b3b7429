//! Whole optimizer runs against recordings of PyTorch (`tools/golden/tiny_adamw.py`, `tiny_lora.py`).

use std::path::{Path, PathBuf};

use danlu_data::{Sample, Source, step_slices};
use danlu_formats::SafetensorsFolder;
use danlu_model::{Activations, Keep, Model, Precision, Rest, open, read_adapter};
use danlu_train::objective::Objective;
use danlu_train::objective::step::Step;
use danlu_train::optimizer::Optimizer;
use danlu_train::recipe::{LrSchedulerType, TrainingOptions};
use danlu_train::schedule::Schedule;
use danlu_train::trainer::{StepResult, take_step};
use serde_json::Value;

fn model_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/golden").join(name)
}

fn samples(batch: &Value) -> Vec<Sample> {
    let numbers =
        |value: &Value| value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect::<Vec<_>>();
    let sample = |sequence: &Value| Sample {
        ids: numbers(&sequence["ids"]).into_iter().map(|id| id as u32).collect(),
        loss_weights: numbers(&sequence["loss_weights"]).into_iter().map(|weight| weight as f32).collect(),
        source: Source { path: Path::new("golden").into(), line: 1 },
    };
    batch.as_array().unwrap().iter().map(sample).collect()
}

fn follow(name: &str, mut model: Model) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/adamw");
    let golden: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap()).unwrap();
    let settings = &golden["settings"];
    let number = |key: &str| settings[key].as_f64().unwrap();
    let options = TrainingOptions {
        learning_rate: number("learning_rate"),
        adam_beta1: settings["betas"][0].as_f64().unwrap(),
        adam_beta2: settings["betas"][1].as_f64(),
        adam_epsilon: number("eps"),
        weight_decay: number("weight_decay"),
        max_grad_norm: number("max_grad_norm"),
        ..TrainingOptions::default()
    };
    let schedule = Schedule {
        kind: LrSchedulerType::Cosine,
        peak: options.learning_rate,
        warmup_steps: settings["warmup_steps"].as_u64().unwrap(),
        total_steps: settings["max_steps"].as_u64().unwrap(),
        min_lr_rate: 0.0,
    };
    let batches: Vec<Vec<Sample>> = golden["batches"].as_array().unwrap().iter().map(samples).collect();
    let steps = golden["steps"].as_array().unwrap();
    assert!(steps.len() >= 10);
    let mut optimizer = Optimizer::new(&model, &options);
    let mut gradients = optimizer.gradients(&model);
    let mut activations = Activations::new(&model, 64, Keep::ForBackward);
    for (step, expected) in steps.iter().enumerate() {
        let (objective, step_of) =
            (Objective::default(), Step::of(step_slices(&batches[step % batches.len()])));
        let learning_rate = schedule.learning_rate(step as u64);
        optimizer.begin(learning_rate, step as u64 + 1);
        let StepResult { loss, grad_norm, .. } =
            take_step(&mut model, &objective, &step_of, &mut activations, &mut gradients, &mut optimizer)
                .unwrap();
        for (what, found, expected) in [
            ("loss", loss, &expected["loss"]),
            ("gradient norm", grad_norm, &expected["grad_norm"]),
            ("learning rate", learning_rate, &expected["learning_rate"]),
        ] {
            let expected = expected.as_f64().unwrap();
            let bound = 1e-4 * expected.abs();
            assert!(
                (found - expected).abs() <= bound,
                "{name} step {step} {what}: {found} against {expected}"
            );
        }
    }
    let file = SafetensorsFolder::open(folder.join(format!("{name}.safetensors"))).unwrap();
    for parameter in model.parameters().list() {
        let bytes = file.tensor(&parameter.name).unwrap().bytes;
        let found = &model.parameters().values().host()[parameter.range.clone()];
        for (found, bytes) in found.iter().zip(bytes.as_chunks().0) {
            let expected = f32::from_le_bytes(*bytes);
            assert!((found - expected).abs() < 1e-4, "{name} {}: {found} against {expected}", parameter.name);
        }
    }
}

#[test]
fn twenty_steps_of_full_training_follow_pytorch() {
    for name in ["gqa-untied", "mha-tied"] {
        follow(name, open(&model_folder(name), Precision::F32, Rest::Trained).unwrap().model);
    }
}

#[test]
fn ten_steps_of_lora_follow_peft() {
    let mut model = open(&model_folder("gqa-untied"), Precision::F32, Rest::Frozen).unwrap().model;
    read_adapter(&mut model, &model_folder("gqa-untied-lora")).unwrap();
    follow("gqa-untied-lora", model);
}
