//! Whole models against recordings of transformers and PEFT (`tools/golden/`).

use crate::common;

use std::ops::ControlFlow;

use common::*;
use danlu_model::{
    BatchGenerator, Config, GenerationOptions, Generator, Model, PackedTokens, Precision, Rest, Sampling,
    Target, open, open_shape, read_adapter, save_adapter, save_folder,
};
use serde_json::Value;

const MODELS: [&str; 4] = ["mha-tied", "mha-untied", "gqa-tied", "gqa-untied"];

#[test]
fn logits_equal_those_of_transformers() {
    for name in MODELS {
        for rest in [Rest::Frozen, Rest::Trained] {
            check_logits(&load(name, rest), &read_json(&golden(name).join("golden.json")));
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
        check_logits(&again, &read_json(&golden(name).join("golden.json")));
    }
}

#[test]
fn greedy_ids_equal_those_of_transformers() {
    for name in MODELS {
        let model = load(name, Rest::Frozen);
        let recorded = &read_json(&golden(name).join("golden.json"))["greedy"];
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
    check_logits(&model, &read_json(&golden("gqa-untied-lora").join("golden.json")));
    check_gradients(&mut model, "gqa-untied-lora");
}

#[test]
fn adapters_of_every_kind_that_is_trained_have_the_gradients_of_peft() {
    for name in ["dora", "patterns", "saved-modules", "tokens", "tokens-untied"] {
        let folder = golden("peft").join(name);
        let base = read_json(&folder.join("golden.json"))["base"].as_str().unwrap().to_owned();
        let mut model = load(&base, Rest::Frozen);
        read_adapter(&mut model, &folder).unwrap();
        check_gradients(&mut model, &format!("peft-{name}"));
    }
}

/// What an adapter says of itself changes its arithmetic, so it must survive being saved again.
#[test]
fn an_adapter_keeps_its_scale_when_it_is_saved_again() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = golden("gqa-untied-lora");
    std::fs::copy(source.join("adapter_model.safetensors"), first.path().join("adapter_model.safetensors"))
        .unwrap();
    let mut config = read_json(&source.join("adapter_config.json"));
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
        let mut config = read_json(&source.join("config.json"));
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
        ..GenerationOptions::default()
    };
    let generated = Generator::new(&model, 8).generate(&[1, 2], &options, |_| ControlFlow::Continue(()));
    let error = generated.unwrap_err().to_string();
    assert!(error.starts_with("the model's logits are not finite numbers"), "{error}");
    // No sequence stays where none can go on.
    let mut batch = BatchGenerator::new(&model, 2, 8);
    batch.add(&[1, 2], &options).unwrap();
    batch.add(&[3], &options).unwrap();
    assert!(batch.step().is_err() && batch.is_idle() && batch.add(&[1], &options).is_ok());
}

#[test]
fn lf_7318_packing_gives_each_sample_the_loss_and_gradients_it_has_alone() {
    let mut model = load("gqa-untied", Rest::Trained);
    let recorded = read_json(&golden("gradients/gqa-untied.json"));
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

#[test]
fn one_token_sequences_sequences_without_targets_and_empty_slices_add_nothing() {
    let config = Config {
        vocab_size: 33,
        hidden_size: 100,
        intermediate_size: 70,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        num_key_value_heads: 3,
        head_dim: 32,
        ..Config::default()
    };
    for (precision, bound) in [(Precision::F32, 1e-5), (Precision::Bf16, 2e-2)] {
        let mut model = Model::zeros(config.clone(), precision).initialize(1);
        let target = |position, id| Target { position, id };
        let alone = PackedTokens::new([&[7, 8, 9][..]]);
        let (loss, expected) = gradients(&mut model, &alone, &[target(0, 8), target(1, 9)], &[1.0, 1.0]);
        let among = PackedTokens::new([&[5][..], &[7, 8, 9], &[1, 2]]);
        let (among_loss, found) = gradients(&mut model, &among, &[target(1, 8), target(2, 9)], &[1.0, 1.0]);
        assert!((loss - among_loss).abs() <= bound * loss, "{loss} against {among_loss}");
        assert_close(found.host(), expected.host(), bound, "gradients");
        let (_, none) = gradients(&mut model, &PackedTokens::new([]), &[], &[]);
        assert!(none.host().iter().all(|gradient| *gradient == 0.0));
    }
}
