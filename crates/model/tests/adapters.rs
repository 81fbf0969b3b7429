//! PEFT adapters of every kind against recordings of PEFT, and adapters that must be refused.

use crate::common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::*;
use danlu_formats::{AdapterConfig, InitLoraWeights, ModuleSelection, SafetensorsFolder};
use danlu_kernels::blocks::BlockType;
use danlu_model::{
    Config, Generator, Model, Precision, Rest, apply_adapters, open, read_adapter, save_adapter, save_folder,
};
use serde_json::{Value, json};

const KINDS: [&str; 14] = [
    "all-linear",
    "biases",
    "dora",
    "embedding",
    "grown",
    "grown-tied",
    "head",
    "layers",
    "patterns",
    "saved-head",
    "saved-modules",
    "tied-modules",
    "tokens",
    "tokens-untied",
];
/// Those whose training goes on here.
const TRAINABLE: [&str; 11] = [
    "all-linear",
    "dora",
    "grown",
    "grown-tied",
    "layers",
    "patterns",
    "saved-head",
    "saved-modules",
    "tied-modules",
    "tokens",
    "tokens-untied",
];

fn kind(name: &str) -> PathBuf {
    golden("peft").join(name)
}

fn recording(name: &str) -> Value {
    read_json(&kind(name).join("golden.json"))
}

fn base(name: &str) -> Model {
    load(recording(name)["base"].as_str().unwrap(), Rest::Frozen)
}

/// A copy of the adapter whose configuration has these fields.
fn with_fields(name: &str, fields: Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(kind(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join("adapter_config.json");
    let mut config = read_json(&path);
    for (field, value) in fields.as_object().unwrap() {
        config[field] = value.clone();
    }
    std::fs::write(path, config.to_string()).unwrap();
    folder
}

fn refusal(model: &mut Model, folder: &Path) -> String {
    apply_adapters(model, &[folder]).unwrap_err().to_string()
}

#[test]
fn every_kind_of_adapter_gives_the_logits_of_peft() {
    for name in KINDS {
        let mut model = base(name);
        println!("{name}");
        apply_adapters(&mut model, &[&kind(name)]).unwrap();
        check_logits(&model, &recording(name));
    }
}

#[test]
fn the_sum_of_two_adapters_gives_the_logits_of_peft() {
    let recording = read_json(&kind("sum.json"));
    let names: Vec<&str> =
        recording["adapters"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let folders = names.iter().map(|name| kind(name)).collect::<Vec<_>>();
    let folders = folders.iter().map(PathBuf::as_path).collect::<Vec<_>>();
    let mut model = load(recording["base"].as_str().unwrap(), Rest::Frozen);
    apply_adapters(&mut model, &folders).unwrap();
    check_logits(&model, &recording);
}

#[test]
fn the_sum_of_plain_adapters_is_that_of_their_changes() {
    let ids = [1, 5, 9];
    let rows = |folders: &[&Path]| {
        let mut model = load("gqa-untied", Rest::Frozen);
        apply_adapters(&mut model, folders).unwrap();
        log_probabilities(&model, &ids)
    };
    let (plain, patterns) = (golden("gqa-untied-lora"), kind("patterns"));
    let doubled = with_fields(
        "patterns",
        json!({
            "lora_alpha": 10, "alpha_pattern": { "down_proj": 14, r"0\.self_attn\..*": 4 }
        }),
    );
    let (twice, at_once) = (rows(&[&patterns, &patterns]), rows(&[doubled.path()]));
    for (twice, at_once) in twice.iter().zip(&at_once) {
        assert_close(twice, at_once, 1e-5, "an adapter twice, and with twice its alpha");
    }
    let (one, other) = (rows(&[&plain, &patterns]), rows(&[&patterns, &plain]));
    for (one, other) in one.iter().zip(&other) {
        assert_close(one, other, 1e-5, "in either order");
    }
    assert_ne!(one, rows(&[&plain]));
}

#[test]
fn an_adapter_that_can_be_trained_is_saved_as_it_was_read() {
    for name in KINDS {
        let mut model = base(name);
        let read = read_adapter(&mut model, &kind(name));
        if !TRAINABLE.contains(&name) {
            let error = read.unwrap_err().to_string();
            assert!(error.contains("but not be trained further here"), "{name}: {error}");
            continue;
        }
        check_logits(&model, &recording(name));
        // As a run shows what it learned so far.
        let recorded = recording(name);
        let sequence = &recorded["sequences"][1];
        let logits = numbers(&sequence["logits"][0]);
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        let generated = Generator::new(&model, 64)
            .generate(&ids(&sequence["ids"]), &greedy(1, Vec::new()), |_| ControlFlow::Continue(()))
            .unwrap();
        assert_eq!(generated.ids, [best as u32], "{name}");
        let folder = tempfile::tempdir().unwrap();
        save_adapter(&model, &read.unwrap(), "../base", folder.path()).unwrap();
        let mut config = AdapterConfig::read(kind(name)).unwrap();
        config.base_model_name_or_path = Some("../base".into());
        assert_eq!(AdapterConfig::read(folder.path()).unwrap(), config, "{name}");
        assert_eq!(config.other_fields["peft_version"], "0.21.2");
        let again = SafetensorsFolder::open_named(folder.path(), "adapter_model").unwrap();
        if name != "all-linear" {
            let first = SafetensorsFolder::open_named(kind(name), "adapter_model").unwrap();
            assert_eq!(again.names().collect::<Vec<_>>(), first.names().collect::<Vec<_>>(), "{name}");
            for tensor in first.names() {
                let [one, other] = [&first, &again].map(|file| file.tensor(tensor).unwrap().bytes);
                assert!(one == other, "{name}: {tensor}");
            }
        }
        let mut model = base(name);
        apply_adapters(&mut model, &[folder.path()]).unwrap();
        check_logits(&model, &recording(name));
    }
}

#[test]
fn a_model_on_the_hub_stays_the_base_of_an_adapter_that_is_saved_again() {
    let source = with_fields("layers", json!({ "base_model_name_or_path": "org/model-7B", "own": [1] }));
    let mut model = base("layers");
    let config = read_adapter(&mut model, source.path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    save_adapter(&model, &config, "/somewhere", folder.path()).unwrap();
    let config = AdapterConfig::read(folder.path()).unwrap();
    assert_eq!(config.base_model_name_or_path.as_deref(), Some("org/model-7B"));
    assert_eq!(config.other_fields["own"], json!([1]));
}

#[test]
fn equal_copies_of_embedding_and_head_are_used_as_one_and_trained_apart() {
    let fields = json!({ "modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": false });
    let folder = with_fields("tied-modules", fields);
    let mut used = base("tied-modules");
    apply_adapters(&mut used, &[folder.path()]).unwrap();
    let mut trained = base("tied-modules");
    read_adapter(&mut trained, folder.path()).unwrap();
    assert!(used.config().tie_word_embeddings && !trained.config().tie_word_embeddings);
    let names = trained.parameters().list().iter().map(|parameter| parameter.name.as_str());
    let whole: Vec<&str> = names.filter(|name| !name.contains("lora_")).collect();
    assert_eq!(whole, ["base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"]);
    [&used, &trained].into_iter().for_each(|model| check_logits(model, &recording("tied-modules")));
}

/// Whole copies get gradients, the embedding and a head that was tied to it each its own.
#[test]
fn whole_copies_are_trained() {
    for (name, whole) in [("saved-modules", 4), ("saved-head", 1), ("tied-modules", 1), ("grown", 0)] {
        let mut model = base(name);
        read_adapter(&mut model, &kind(name)).unwrap();
        let parameters = model.parameters().list().to_vec();
        let is_whole = |name: &str| !name.contains(".lora_");
        assert_eq!(parameters.iter().filter(|parameter| is_whole(&parameter.name)).count(), whole, "{name}");
        let sequence = json!([{ "ids": [3, 9, 4, 7, 20, 11], "loss_weights": [0, 1, 1, 0, 1, 1] }]);
        let (tokens, targets, weights) = batch(&sequence);
        let (loss, found) = gradients(&mut model, &tokens, &targets, &weights);
        assert!(loss.is_finite());
        for parameter in parameters {
            let gradient = &found.host()[parameter.range.clone()];
            assert!(gradient.iter().any(|value| *value != 0.0), "{name}: {}", parameter.name);
            // The loss follows the gradient of the largest element.
            let (index, slope) =
                gradient.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap();
            let place = parameter.range.start + index;
            let mut loss_at = |step: f32| {
                let before = model.parameters().values().host()[place];
                model.parameters_mut().values_mut().host_mut()[place] = before + step;
                let loss = gradients(&mut model, &tokens, &targets, &weights).0;
                model.parameters_mut().values_mut().host_mut()[place] = before;
                loss
            };
            let difference = (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2;
            let bound = 0.05 * slope.abs() + 2e-4;
            assert!((difference - slope).abs() < bound, "{name}: {}: {difference} {slope}", parameter.name);
        }
    }
}

#[test]
fn adapters_rest_with_a_rounded_or_quantized_model_too() {
    for name in KINDS {
        let (path, recording) = (golden(recording(name)["base"].as_str().unwrap()), recording(name));
        let mut exact = base(name);
        apply_adapters(&mut exact, &[&kind(name)]).unwrap();
        let mut rounded = open(&path, Precision::Bf16, Rest::Stored).unwrap().model;
        apply_adapters(&mut rounded, &[&kind(name)]).unwrap();
        let sequence = ids(&recording["sequences"][1]["ids"]);
        let rows = [&exact, &rounded].map(|model| log_probabilities(model, &sequence));
        for (exact, rounded) in rows[0].iter().zip(&rows[1]) {
            assert_close(rounded, exact, 0.06, name);
        }
    }
}

/// Beside a quantized weight an adapter is trained as beside the values that it is dequantized to, whatever its blocks.
#[test]
fn lengths_are_trained_beside_weights_of_every_type_as_beside_their_values() {
    let config = Config {
        vocab_size: 40,
        hidden_size: 256,
        intermediate_size: 256,
        num_hidden_layers: 1,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 64,
        initializer_range: 0.1,
        ..Config::default()
    };
    let adapter = AdapterConfig {
        r: 4,
        lora_alpha: 6.0,
        use_dora: true,
        target_modules: Some(ModuleSelection::Pattern("all-linear".into())),
        init_lora_weights: InitLoraWeights::Flag(false),
        ..AdapterConfig::default()
    };
    let sequence = json!([{ "ids": [3, 9, 4, 7, 20, 11], "loss_weights": [0, 1, 1, 0, 1, 1] }]);
    let (tokens, targets, weights) = batch(&sequence);
    let results = |model: &mut Model| {
        model.add_adapter(&adapter, Some(3)).unwrap();
        let (loss, found) = gradients(model, &tokens, &targets, &weights);
        (loss, found.host().to_vec())
    };
    for kind in [BlockType::Nf4, BlockType::Q4_1, BlockType::Q8_0, BlockType::Q4K] {
        let mut quantized = Model::random(config.clone(), Precision::F32, Some(kind), 5);
        let folder = tempfile::tempdir().unwrap();
        save_folder(&quantized, None, folder.path(), 5_000_000_000).unwrap();
        let mut values = open(folder.path(), Precision::F32, Rest::Frozen).unwrap().model;
        let mut rounded = open(folder.path(), Precision::Bf16, Rest::Frozen).unwrap().model;
        let [(loss, found), (other, expected), (near, about)] =
            [&mut quantized, &mut values, &mut rounded].map(results);
        assert_close(&[loss], &[other], 1e-6, &format!("{kind:?}"));
        assert_close(&found, &expected, 1e-5, &format!("{kind:?}"));
        assert_close(&[near], &[other], 0.02, &format!("{kind:?} in bf16"));
        assert_close(&about, &expected, 0.05, &format!("{kind:?} in bf16"));
    }
}

/// Pruned layers have rows of zeros, which have no direction.
#[test]
fn a_row_of_zeros_under_dora_stays_a_number_when_it_is_merged() {
    let config = Config {
        vocab_size: 9,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 8,
        ..Config::default()
    };
    let base = tempfile::tempdir().unwrap();
    save_folder(&Model::zeros(config, Precision::F32), None, base.path(), 5_000_000_000).unwrap();
    let read = || open(base.path(), Precision::F32, Rest::Frozen).unwrap().model;
    let adapter = AdapterConfig {
        use_dora: true,
        target_modules: Some(ModuleSelection::Pattern("all-linear".into())),
        ..AdapterConfig::default()
    };
    let mut trained = read();
    trained.add_adapter(&adapter, Some(1)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    save_adapter(&trained, &adapter, "base", folder.path()).unwrap();
    let mut model = read();
    apply_adapters(&mut model, &[folder.path()]).unwrap();
    assert!(model.logits(&[1, 2, 3]).unwrap().host().iter().all(|logit| logit.is_finite()));
}

#[test]
fn settings_that_cannot_be_followed_are_refused_by_name() {
    for (name, fields, part) in [
        ("layers", json!({ "lora_bias": true }), "`lora_bias`: this setting is not supported"),
        ("layers", json!({ "use_qalora": true }), "`use_qalora`: this setting is not supported"),
        (
            "layers",
            json!({ "init_lora_weights": "pissa_niter_4" }),
            "`init_lora_weights`: this adapter changes",
        ),
        ("layers", json!({ "layer_replication": [[0, 1]] }), "`layer_replication`: "),
        ("layers", json!({ "target_parameters": ["x"] }), "`target_parameters`: "),
        ("layers", json!({ "peft_type": "IA3" }), "`peft_type` is `IA3`; danlu reads `LORA` adapters"),
        ("layers", json!({ "r": 4 }), "expected rank 4 from the configuration, found 2"),
        ("layers", json!({ "target_modules": ["v_proj"] }), "`target_modules` does not name this module"),
        (
            "layers",
            json!({ "target_modules": ["v_proj", "o_proj", "q_proj"] }),
            "lacks a tensor that its configuration",
        ),
        ("layers", json!({ "modules_to_save": ["lm_head"] }), "`base_model.model.lm_head.weight`"),
        ("dora", json!({ "use_dora": false }), "`use_dora` is false"),
        ("layers", json!({ "use_dora": true }), "its lora_magnitude_vector is missing"),
        ("embedding", json!({ "use_dora": true }), "`use_dora` on an embedding is not supported"),
        ("tokens", json!({ "trainable_token_indices": [3, 97] }), "names row 97, but there are 97"),
        (
            "tokens",
            json!({ "trainable_token_indices": [3] }),
            "expected shape [1, 32] for this model, found [2, 32]",
        ),
        ("tokens", json!({ "trainable_token_indices": null }), "does not say which rows these are"),
        ("grown", json!({ "target_modules": "[" }), "`target_modules`: "),
    ] {
        let folder = with_fields(name, fields.clone());
        let error = refusal(&mut base(name), folder.path());
        assert!(error.contains(part) && !error.contains('\n'), "{fields}: {error}");
    }
}

#[test]
fn wrong_models_and_wrong_folders_are_refused_in_a_sentence() {
    let error = refusal(&mut load("gqa-untied", Rest::Frozen), &kind("layers"));
    assert!(
        error.contains("for this model, found ") && error.ends_with("was trained on `../../mha-untied`"),
        "{error}"
    );
    let error = refusal(&mut load("mha-tied", Rest::Frozen), &kind("biases"));
    assert!(
        error.contains("does not fit this model, which has no place for its tensor `base_model"),
        "{error}"
    );
    let error = refusal(&mut base("layers"), &golden("mha-untied"));
    assert!(error.ends_with("holds no `adapter_config.json`: it is not an adapter folder"), "{error}");
    let error = refusal(&mut base("layers"), &golden("peft"));
    assert!(
        error.contains("it is not an adapter folder; `") && error.ends_with("all-linear` is one"),
        "{error}"
    );
    let error = refusal(&mut base("layers"), Path::new("absent"));
    assert!(error.contains("absent"), "{error}");
    let error = apply_adapters(&mut base("grown"), &[&kind("grown"), &kind("tokens-untied")]);
    assert!(error.is_ok(), "rows beside a whole copy");
    let folder = with_fields("grown", json!({}));
    let weights = folder.path().join("adapter_model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    // The first tensor behind the header is the head.
    let header = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    bytes[8 + header] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let error = apply_adapters(&mut base("grown"), &[&kind("grown"), folder.path()]).unwrap_err().to_string();
    assert!(error.contains("both hold a whole `"), "{error}");
    let folder = kind("tokens-untied");
    let error = apply_adapters(&mut base("tokens-untied"), &[&folder, &folder]).unwrap_err().to_string();
    assert!(error.contains("both hold row 3 of `model.embed_tokens.weight`"), "{error}");
}

#[test]
fn damaged_adapters_are_refused_and_nothing_panics() {
    for (name, file) in [("dora", "adapter_model.safetensors"), ("all-linear", "adapter_model.bin")] {
        let folder = with_fields(name, json!({}));
        let path = folder.path().join(file);
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(refusal(&mut base(name), folder.path()).contains(file), "{name} {length}");
        }
        for place in (0..whole.len().min(4000)).step_by(7) {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x15;
            std::fs::write(&path, bytes).unwrap();
            _ = apply_adapters(&mut base(name), &[folder.path()]);
        }
        let config = folder.path().join("adapter_config.json");
        std::fs::write(&path, &whole).unwrap();
        std::fs::write(&config, "{\"r\": ").unwrap();
        assert!(refusal(&mut base(name), folder.path()).contains("adapter_config.json` is not as expected"));
    }
}
