//! Whole optimizer runs against recordings of PyTorch (`tools/golden/tiny_adamw.py`, `tiny_lora.py`).

use std::path::{Path, PathBuf};

use danlu_data::{Sample, Source, step_slices};
use danlu_formats::{AdapterConfig, InitLoraWeights, ModuleSelection, SafetensorsFolder};
use danlu_model::{
    Activations, Keep, Model, Precision, Rest, apply_adapters, open, pissa_method, read_adapter, save_adapter,
};
use danlu_train::objective::Objective;
use danlu_train::objective::step::Step;
use danlu_train::optimizer::Optimizer;
use danlu_train::optimizer_step::{StepResult, take_step};
use danlu_train::recipe::{LrSchedulerType, TrainingOptions};
use danlu_train::schedule::Schedule;
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

/// Twenty or ten steps have the losses and norms that were recorded, and end at the recorded values.
fn follow(name: &str, model: Model) {
    let model = follow_losses(name, model);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/adamw");
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

fn follow_losses(name: &str, mut model: Model) -> Model {
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
        ..Schedule::default()
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
        let judge = &|_| None;
        let StepResult { loss, grad_norm, .. } = take_step(
            &mut model,
            &objective,
            &step_of,
            &mut activations,
            &mut gradients,
            &mut optimizer,
            judge,
        )
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
    model
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

#[test]
fn twenty_steps_of_every_kind_of_adapter_follow_peft() {
    for name in ["dora", "patterns", "saved-modules", "tokens", "tokens-untied"] {
        let folder = model_folder("peft").join(name);
        let golden = std::fs::read_to_string(folder.join("golden.json")).unwrap();
        let base = serde_json::from_str::<Value>(&golden).unwrap()["base"].as_str().unwrap().to_owned();
        let mut model = open(&model_folder(&base), Precision::F32, Rest::Frozen).unwrap().model;
        read_adapter(&mut model, &folder).unwrap();
        follow(&format!("peft-{name}"), model);
    }
}

/// The singular values are found up to the signs of their vectors, which change no loss.
#[test]
fn twenty_steps_of_pissa_follow_peft() {
    let mut model = open(&model_folder("gqa-untied"), Precision::F32, Rest::Frozen).unwrap().model;
    let names = ["q_proj", "v_proj", "down_proj"].map(String::from).to_vec();
    let config = AdapterConfig {
        r: 3,
        lora_alpha: 6.0,
        target_modules: Some(ModuleSelection::Names(names)),
        init_lora_weights: InitLoraWeights::Method(pissa_method(-1)),
        ..AdapterConfig::default()
    };
    model.add_adapter(&config, Some(1)).unwrap();
    let model = follow_losses("pissa", model);
    // What is saved is a plain adapter of the model as it was.
    let folder = tempfile::tempdir().unwrap();
    save_adapter(&model, &config, "base", folder.path()).unwrap();
    let saved = AdapterConfig::read(folder.path()).unwrap();
    assert_eq!((saved.r, saved.lora_alpha), (6, 12.0));
    assert_eq!(saved.init_lora_weights, InitLoraWeights::Flag(true));
    let mut applied = open(&model_folder("gqa-untied"), Precision::F32, Rest::Frozen).unwrap().model;
    apply_adapters(&mut applied, &[folder.path()]).unwrap();
    let [trained, applied] = [&model, &applied].map(|model| model.logits(&[1, 5, 9, 30]).unwrap());
    for (trained, applied) in trained.host().iter().zip(applied.host()) {
        assert!((trained - applied).abs() < 1e-4, "{trained} {applied}");
    }
}
