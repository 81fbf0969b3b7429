//! Recordings, and what is computed to compare with them.

pub mod families;

use std::path::{Path, PathBuf};

use danlu_formats::SafetensorsFolder;
use danlu_kernels::elementwise::copy;
use danlu_kernels::{Buffer, View};
use danlu_model::{
    Activations, GenerationOptions, GradientSink, Gradients, Keep, Model, PackedTokens, ParameterId,
    Parameters, Precision, Resident, Rest, Sampling, Target, open,
};
use serde_json::Value;

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

pub fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

pub fn load(name: &str, rest: Rest) -> Model {
    open(&golden(name), Precision::F32, rest).unwrap().model
}

/// Log-probabilities of all tokens after each token: from the log-probability of every token as a target.
pub fn log_probabilities(model: &Model, ids: &[u32]) -> Vec<Vec<f32>> {
    let tokens = PackedTokens::new([ids]);
    let mut activations = Activations::new(model, tokens.len(), Keep::Nothing);
    model.forward(&tokens, &mut activations, &mut Resident).unwrap();
    let mut rows = vec![Vec::new(); ids.len()];
    for id in 0..model.config().vocab_size as u32 {
        let targets: Vec<Target> = (0..ids.len() as u32).map(|position| Target { position, id }).collect();
        for (row, score) in rows.iter_mut().zip(model.score(&tokens, &targets, &mut activations)) {
            row.push(score.log_probability);
        }
    }
    rows
}

pub fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    logits.iter().map(|logit| logit - largest - sum.ln() as f32).collect()
}

pub fn assert_close(found: &[f32], expected: &[f32], bound: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-12f32, |scale, value| scale.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= bound * scale,
            "{what}, element {index}: {found} against {expected}"
        );
    }
}

pub fn check_logits(model: &Model, golden: &Value) {
    for sequence in golden["sequences"].as_array().unwrap() {
        let ids = ids(&sequence["ids"]);
        let found = log_probabilities(model, &ids);
        for (index, logits) in sequence["logits"].as_array().unwrap().iter().enumerate() {
            // Where only some rows are recorded, their positions stand beside them.
            let position = sequence["positions"][index].as_u64().map_or(index, |position| position as usize);
            let expected = log_softmax(&numbers(logits));
            assert_close(&found[position], &expected, 1e-4, &format!("position {position} of {}", ids.len()));
        }
        if let Some(expected) = sequence["mean_nll"].as_f64() {
            let sum: f32 = (1..ids.len()).map(|next| found[next - 1][ids[next] as usize]).sum();
            let nll = -f64::from(sum) / (ids.len() - 1) as f64;
            assert!((nll - expected).abs() < 1e-4 * expected.abs(), "{nll} against {expected}");
        }
    }
}

/// A slice of a recorded batch: tokens, targets with weight above zero, their weights.
pub fn batch(sequences: &Value) -> (PackedTokens, Vec<Target>, Vec<f32>) {
    let sequences = sequences.as_array().unwrap();
    let all: Vec<Vec<u32>> = sequences.iter().map(|sequence| ids(&sequence["ids"])).collect();
    let mut targets = Vec::new();
    let mut weights = Vec::new();
    let mut start = 0;
    for (sequence, ids) in sequences.iter().zip(&all) {
        for (index, weight) in numbers(&sequence["loss_weights"]).into_iter().enumerate() {
            if weight > 0.0 {
                targets.push(Target { position: (start + index - 1) as u32, id: ids[index] });
                weights.push(weight);
            }
        }
        start += ids.len();
    }
    (PackedTokens::new(all.iter().map(Vec::as_slice)), targets, weights)
}

/// Loss and gradients of the mean negative log-likelihood.
pub fn gradients(
    model: &mut Model,
    tokens: &PackedTokens,
    targets: &[Target],
    weights: &[f32],
) -> (f32, Buffer<f32>) {
    let whole = Gradients::whole(model);
    let (loss, gradients) = gradients_in(whole, model, tokens, targets, weights);
    let passing = Gradients::passing(model);
    let (same_loss, same) = gradients_in(passing, model, tokens, targets, weights);
    assert!(
        loss == same_loss && gradients.host() == same.host(),
        "places that are used again change nothing"
    );
    (loss, gradients)
}

pub fn gradients_in(
    mut gradients: Gradients,
    model: &mut Model,
    tokens: &PackedTokens,
    targets: &[Target],
    weights: &[f32],
) -> (f32, Buffer<f32>) {
    let mut activations = Activations::new(model, tokens.len(), Keep::ForBackward);
    model.forward(tokens, &mut activations, &mut Resident).unwrap();
    let total: f32 = weights.iter().sum();
    let coefficients: Vec<f32> = weights.iter().map(|weight| -weight / total).collect();
    let mut seen = Seen::new(model);
    let scores = model.backward(
        tokens,
        targets,
        &coefficients,
        None,
        &mut activations,
        &mut gradients,
        &mut seen,
        &mut Resident,
    );
    assert!(seen.times.iter().all(|&times| times == 1), "every gradient is reported once: {:?}", seen.times);
    let loss = scores.iter().zip(&coefficients).map(|(score, c)| score.log_probability * c).sum();
    (loss, seen.gradients)
}

/// Keeps every gradient as it is reported.
pub struct Seen {
    pub times: Vec<u32>,
    pub gradients: Buffer<f32>,
    pub is_last: bool,
}

impl Seen {
    pub fn new(model: &Model) -> Self {
        let times = vec![0; model.parameters().list().len()];
        Self { times, gradients: Buffer::zeros(model.parameters().len()), is_last: true }
    }
}

impl GradientSink for Seen {
    fn ready(&mut self, id: ParameterId, parameters: &mut Parameters, gradient: View<f32>) {
        self.times[id.0] += 1;
        copy(gradient, self.gradients.view_mut(parameters.list()[id.0].range.clone()));
    }

    fn is_last_backward(&self) -> bool {
        self.is_last
    }
}

pub fn check_gradients(model: &mut Model, name: &str) {
    let count = model.parameters().list().len();
    check_gradients_at(model, &golden("gradients").join(name), count);
}

/// Compares the `count` gradients that are recorded in the two files of this name.
pub fn check_gradients_at(model: &mut Model, name: &Path, count: usize) {
    let recorded = read_json(&name.with_extension("json"));
    let (tokens, targets, weights) = batch(&recorded["sequences"]);
    let (loss, gradients) = gradients(model, &tokens, &targets, &weights);
    let expected = recorded["loss"].as_f64().unwrap() as f32;
    assert!((loss - expected).abs() < 1e-5 * expected, "{name:?}: loss {loss} against {expected}");
    let file = SafetensorsFolder::open(name.with_extension("safetensors")).unwrap();
    assert_eq!(file.names().count(), count);
    for name in file.names() {
        let parameter = model.parameters().list().iter().find(|parameter| parameter.name == name).unwrap();
        let bytes = file.tensor(name).unwrap().bytes;
        let expected: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let found = &gradients.host()[parameter.range.clone()];
        assert_close(found, &expected, 1e-4, name);
    }
}

pub fn greedy(max_new_tokens: usize, stop_ids: Vec<u32>) -> GenerationOptions {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    GenerationOptions { sampling, max_new_tokens, stop_ids, ..GenerationOptions::default() }
}
