//! Whole models against recordings of transformers and PEFT (`tools/golden/`).
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use danlu_formats::SafetensorsFolder;
use danlu_kernels::elementwise::copy;
use danlu_kernels::{Buffer, View};
use danlu_model::{
    Activations, GenerationOptions, Generator, GradientSink, Gradients, Keep, Model, PackedTokens,
    ParameterId, Parameters, Precision, Resident, Rest, Sampling, Target, open, open_shape, read_adapter,
    save_adapter, save_folder,
};
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

fn load(name: &str, rest: Rest) -> Model {
    open(&golden(name), Precision::F32, rest).unwrap().model
}

/// Log-probabilities of all tokens after each token: from the log-probability of every token as a target.
fn log_probabilities(model: &Model, ids: &[u32]) -> Vec<Vec<f32>> {
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

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    logits.iter().map(|logit| logit - largest - sum.ln() as f32).collect()
}

fn assert_close(found: &[f32], expected: &[f32], bound: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-12f32, |scale, value| scale.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= bound * scale,
            "{what}, element {index}: {found} against {expected}"
        );
    }
}

fn check_logits(model: &Model, golden: &Value) {
    for sequence in golden["sequences"].as_array().unwrap() {
        let ids = ids(&sequence["ids"]);
        let found = log_probabilities(model, &ids);
        for (position, logits) in sequence["logits"].as_array().unwrap().iter().enumerate() {
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

const MODELS: [&str; 4] = ["mha-tied", "mha-untied", "gqa-tied", "gqa-untied"];

#[test]
fn logits_equal_those_of_transformers() {
    for name in MODELS {
        for rest in [Rest::Frozen, Rest::Trained] {
            check_logits(&load(name, rest), &json(&golden(name).join("golden.json")));
        }
    }
}

#[test]
fn a_saved_folder_reads_back_the_same_also_in_shards() {
    for (name, shard) in [("gqa-untied", 20_000), ("mha-tied", 5_000_000_000)] {
        let model = load(name, Rest::Frozen);
        let folder = tempfile::tempdir().unwrap();
        save_folder(&model, None, folder.path(), shard).unwrap();
        assert_eq!(folder.path().join("model.safetensors.index.json").exists(), shard == 20_000);
        let again = open(folder.path(), Precision::F32, Rest::Trained).unwrap().model;
        assert_eq!(again.config(), model.config());
        check_logits(&again, &json(&golden(name).join("golden.json")));
    }
}

fn greedy(max_new_tokens: usize, stop_ids: Vec<u32>) -> GenerationOptions {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    GenerationOptions { sampling, max_new_tokens, stop_ids, top_log_probabilities: 0 }
}

#[test]
fn greedy_ids_equal_those_of_transformers() {
    for name in MODELS {
        let model = load(name, Rest::Frozen);
        let recorded = &json(&golden(name).join("golden.json"))["greedy"];
        let (prompt, expected) = (ids(&recorded["prompt_ids"]), ids(&recorded["ids"]));
        let mut generator = Generator::new(&model, 64);
        let options = greedy(expected.len(), Vec::new());
        let found = generator.generate(&prompt, &options, |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(found.ids, expected, "{name}");
        // Again from the cache, and with a token fed one by one.
        let again = generator.generate(&prompt, &options, |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(again.ids, expected, "{name}");
        let longer = [&prompt[..], &expected[..3]].concat();
        let rest =
            generator.generate(&longer, &greedy(4, Vec::new()), |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(rest.ids, expected[3..7], "{name}");
        if let Some(stop) = expected.iter().position(|id| [2, 5].contains(id)) {
            let stopped =
                generator.generate(&prompt, &greedy(16, vec![2, 5]), |_| ControlFlow::Continue(())).unwrap();
            assert_eq!(stopped.ids, expected[..=stop], "{name}: a stop token is kept and ends");
        }
    }
}

/// A slice of a recorded batch: tokens, targets with weight above zero, their weights.
fn batch(sequences: &Value) -> (PackedTokens, Vec<Target>, Vec<f32>) {
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
fn gradients(
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

fn gradients_in(
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
    let mut seen = Seen {
        times: vec![0; model.parameters().list().len()],
        gradients: Buffer::zeros(model.parameters().len()),
    };
    let scores = model.backward(
        tokens,
        targets,
        &coefficients,
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
struct Seen {
    times: Vec<u32>,
    gradients: Buffer<f32>,
}

impl GradientSink for Seen {
    fn ready(&mut self, id: ParameterId, parameters: &mut Parameters, gradient: View<f32>) {
        self.times[id.0] += 1;
        copy(gradient, self.gradients.view_mut(parameters.list()[id.0].range.clone()));
    }
}

fn check_gradients(model: &mut Model, name: &str) {
    let recorded = json(&golden("gradients").join(format!("{name}.json")));
    let (tokens, targets, weights) = batch(&recorded["sequences"]);
    let (loss, gradients) = gradients(model, &tokens, &targets, &weights);
    let expected = recorded["loss"].as_f64().unwrap() as f32;
    assert!((loss - expected).abs() < 1e-5 * expected, "{name}: loss {loss} against {expected}");
    let file = SafetensorsFolder::open(golden("gradients").join(format!("{name}.safetensors"))).unwrap();
    assert_eq!(file.names().count(), model.parameters().list().len());
    for parameter in model.parameters().list() {
        let bytes = file.tensor(&parameter.name).unwrap().bytes;
        let expected: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let found = &gradients.host()[parameter.range.clone()];
        assert_close(found, &expected, 1e-4, &format!("{name}: {}", parameter.name));
    }
}

#[test]
fn every_gradient_equals_that_of_pytorch() {
    for name in ["gqa-untied", "mha-tied"] {
        check_gradients(&mut load(name, Rest::Trained), name);
    }
}

#[test]
fn an_adapter_of_peft_gives_its_logits_and_gradients() {
    let mut model = load("gqa-untied", Rest::Frozen);
    read_adapter(&mut model, &golden("gqa-untied-lora")).unwrap();
    check_logits(&model, &json(&golden("gqa-untied-lora").join("golden.json")));
    check_gradients(&mut model, "gqa-untied-lora");
}

/// What an adapter says of itself changes its arithmetic, so it must survive being saved again.
#[test]
fn an_adapter_keeps_its_scale_when_it_is_saved_again() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = golden("gqa-untied-lora");
    std::fs::copy(source.join("adapter_model.safetensors"), first.path().join("adapter_model.safetensors"))
        .unwrap();
    let mut config = json(&source.join("adapter_config.json"));
    config["use_rslora"] = true.into();
    config["alpha_pattern"] = serde_json::json!({ "q_proj": 40, "layers.1.mlp.up_proj": 3 });
    std::fs::write(first.path().join("adapter_config.json"), config.to_string()).unwrap();

    let mut model = load("gqa-untied", Rest::Frozen);
    let adapter = read_adapter(&mut model, first.path()).unwrap();
    save_adapter(&model, &adapter, "base", second.path()).unwrap();
    let mut again = load("gqa-untied", Rest::Frozen);
    let adapter = read_adapter(&mut again, second.path()).unwrap();
    assert!(adapter.use_rslora && adapter.alpha_pattern["q_proj"] == 40.0);
    let mut plain = load("gqa-untied", Rest::Frozen);
    read_adapter(&mut plain, &source).unwrap();
    let rows = |model: &Model| log_probabilities(model, &[1, 5, 9]);
    assert_eq!(rows(&model), rows(&again));
    assert_ne!(rows(&model), rows(&plain));
}

#[test]
fn a_configuration_that_asks_for_more_than_the_file_holds_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let source = golden("gqa-untied");
    std::fs::copy(source.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let refusal = |field: &str, value: u64| {
        let mut config = json(&source.join("config.json"));
        config[field] = value.into();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let shapes = open_shape(folder.path(), Precision::F32, Rest::Trained).err().unwrap().to_string();
        let weights = open(folder.path(), Precision::F32, Rest::Trained).err().unwrap().to_string();
        assert_eq!(shapes, weights);
        shapes
    };
    let blocks = refusal("num_hidden_layers", 1 << 20);
    assert!(blocks.contains("`num_hidden_layers`: 1048576 blocks, but the file holds"), "{blocks}");
    let shape = refusal("intermediate_size", 1 << 22);
    assert!(shape.contains("expected shape [4194304, "), "{shape}");
}

#[test]
fn logits_that_are_not_finite_are_an_error() {
    let mut model = load("gqa-untied", Rest::Trained);
    model.parameters_mut().values_mut().host_mut().fill(f32::NAN);
    let options = GenerationOptions {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_new_tokens: 3,
        stop_ids: Vec::new(),
        top_log_probabilities: 0,
    };
    let generated = Generator::new(&model, 8).generate(&[1, 2], &options, |_| ControlFlow::Continue(()));
    let error = generated.unwrap_err().to_string();
    assert!(error.starts_with("the model's logits are not finite numbers"), "{error}");
}

#[test]
fn lf_7318_packing_gives_each_sample_the_loss_and_gradients_it_has_alone() {
    let mut model = load("gqa-untied", Rest::Trained);
    let recorded = json(&golden("gradients/gqa-untied.json"));
    let sequences = recorded["sequences"].as_array().unwrap();
    let mut sum = vec![0.0; model.parameters().len()];
    let mut loss = 0.0;
    let mut run = |sequences: &Value| {
        let (tokens, targets, weights) = batch(sequences);
        let share = weights.iter().sum::<f32>();
        let (loss, gradients) = gradients(&mut model, &tokens, &targets, &weights);
        (loss * share, gradients.host().iter().map(|gradient| gradient * share).collect::<Vec<_>>())
    };
    for sequence in sequences {
        let (alone, gradients) = run(&Value::Array(vec![sequence.clone()]));
        loss += alone;
        sum.iter_mut().zip(gradients).for_each(|(sum, gradient)| *sum += gradient);
    }
    let (packed, gradients) = run(&recorded["sequences"]);
    assert!((packed - loss).abs() < 1e-5 * loss.abs(), "{packed} against {loss}");
    assert_close(&gradients, &sum, 1e-5, "gradients");
}

#[test]
fn bf16_stays_near_f32() {
    for name in MODELS {
        let (exact, rounded) =
            (load(name, Rest::Frozen), open(&golden(name), Precision::Bf16, Rest::Frozen).unwrap().model);
        let ids: Vec<u32> = (0..20).map(|token| token * 4 + 1).collect();
        let (exact, rounded) = (log_probabilities(&exact, &ids), log_probabilities(&rounded, &ids));
        for (exact, rounded) in exact.iter().zip(&rounded) {
            assert_close(rounded, exact, 0.05, name);
        }
    }
}

#[test]
fn a_slice_without_targets_reports_its_gradients_too() {
    let mut model = load("mha-tied", Rest::Trained);
    let (loss, gradients) = gradients(&mut model, &PackedTokens::new([&[1, 2, 3][..]]), &[], &[]);
    assert_eq!(loss, 0.0);
    assert!(gradients.host().iter().all(|&gradient| gradient == 0.0));
}
