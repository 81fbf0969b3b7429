//! Twenty steps of every optimizer with given gradients, against recordings of PyTorch and transformers
//! (`tools/golden/optimizers.py`).

use std::path::Path;

use danlu_formats::SafetensorsFolder;
use danlu_kernels::Buffer;
use danlu_model::{GradientSink, ParameterId, Precision, Rest, open};
use danlu_train::optimizer::Optimizer;
use danlu_train::recipe::{Optim, TrainingOptions};
use serde_json::Value;

/// The gradient that the script gives element `index` of the recording's tensor `tensor` in step `step`.
fn gradient(step: u32, tensor: u32, index: u32) -> f32 {
    let bits = index.wrapping_add(step * 65_537 + tensor * 1_000_003).wrapping_mul(2_654_435_761);
    let bits = (bits ^ (bits >> 15)).wrapping_mul(2_246_822_519);
    let bits = bits ^ (bits >> 13);
    if bits & 15 == 0 { 0.0 } else { ((bits >> 16) as f32 / 32768.0 - 1.0) / (1 << (index % 5)) as f32 }
}

fn follow(optim: Optim, recording: &str) {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let text = std::fs::read_to_string(tests.join("golden/optimizers.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let settings = &golden["settings"];
    let number = |key: &str| settings[key].as_f64().unwrap();
    let options = TrainingOptions {
        optim,
        adam_beta1: settings["betas"][0].as_f64().unwrap(),
        adam_beta2: settings["betas"][1].as_f64().filter(|_| optim != Optim::Lion),
        adam_epsilon: number("eps"),
        weight_decay: number("weight_decay"),
        max_grad_norm: 0.0,
        // Each parameter is updated as its gradient comes.
        fused_backward: true,
        ..TrainingOptions::default()
    };
    let source = tests.join("../../model/tests/golden/gqa-untied");
    let mut model = open(&source, Precision::F32, Rest::Trained).unwrap().model;
    let mut optimizer = Optimizer::new(&model, &options);
    let names: Vec<&str> =
        golden["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let list = model.parameters().list().to_vec();
    let ids: Vec<usize> =
        names.iter().map(|name| list.iter().position(|parameter| parameter.name == *name).unwrap()).collect();
    for step in 0..number("steps") as u32 {
        optimizer.begin(number("learning_rate"), u64::from(step) + 1);
        for (tensor, &id) in (0..).zip(&ids) {
            let elements = list[id].range.len();
            let values: Vec<f32> = (0..elements as u32).map(|index| gradient(step, tensor, index)).collect();
            let values = Buffer::from_host(&values);
            optimizer.ready(ParameterId(id), &mut model.parameters_mut(), values.first(elements));
        }
    }
    let file = SafetensorsFolder::open(tests.join("golden/optimizers.safetensors")).unwrap();
    for (name, id) in names.iter().zip(ids) {
        let bytes = file.tensor(&format!("{recording}/{name}")).unwrap().bytes;
        let found = &model.parameters().values().host()[list[id].range.clone()];
        assert_eq!(bytes.len(), 4 * found.len());
        for (index, (found, bytes)) in found.iter().zip(bytes.as_chunks().0).enumerate() {
            let expected = f32::from_le_bytes(*bytes);
            assert!(
                (found - expected).abs() < 1e-5,
                "{recording} {name} element {index}: {found} against {expected}"
            );
        }
    }
}

#[test]
fn adamw_follows_pytorch() {
    follow(Optim::Adamw, "adamw");
}

#[test]
fn adamw_8bit_keeps_exact_moments_of_small_parameters() {
    follow(Optim::Adamw8bit, "adamw");
}

#[test]
fn adafactor_follows_transformers() {
    follow(Optim::Adafactor, "adafactor");
}

#[test]
fn lion_follows_its_formula() {
    follow(Optim::Lion, "lion");
}

#[test]
fn muon_follows_pytorch() {
    follow(Optim::Muon, "muon");
}

#[test]
fn sgd_follows_pytorch() {
    follow(Optim::Sgd, "sgd");
}
