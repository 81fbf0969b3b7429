//! Families whose files hold several matrices in one tensor, or a head that is divided: against a Llama of the same
//! weights.

use crate::common;

use std::ops::ControlFlow;

use common::families::*;
use common::*;
use danlu_formats::{AdapterConfig, ModuleSelection, SafetensorsFolder};
use danlu_model::{
    Activations, Config, Family, Generator, Gradients, Keep, Model, PackedTokens, Precision, Resident, Rest,
    Target, open, read_adapter, save_adapter, save_folder,
};
use serde_json::{Value, json};

#[test]
fn seed_004_w_pack_model_is_a_llama_whose_queries_keys_and_values_are_one_tensor() {
    let (llama, config, mut tensors) = baichuan();
    // A buffer that its files have and that is computed.
    tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), (vec![5], vec![0.0; 5]));
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &config, &tensors);
    for rest in [Rest::Frozen, Rest::Trained] {
        let model = open_f32(folder.path(), rest);
        assert_eq!(model.config().family, Family::Baichuan);
        assert_same(&model, &llama);
        let again = tempfile::tempdir().unwrap();
        save_folder(&model, None, again.path(), 5_000_000_000).unwrap();
        tensors.remove("model.layers.0.self_attn.rotary_emb.inv_freq");
        assert_eq!(read_tensors(again.path()), tensors);
        let written = config_of(again.path());
        for (field, value) in config.as_object().unwrap() {
            assert_eq!(&written[field], value, "{field}");
        }
        assert!(written.get("num_key_value_heads").is_none());
    }
}

/// A Baichuan 2 of small weights, and the folder that it is in.
fn baichuan2() -> (Model, tempfile::TempDir, Value, Tensors) {
    let (_, mut config, tensors) = baichuan();
    config["architectures"] = json!(["BaichuanForCausalLM"]);
    config["z_loss_weight"] = json!(0);
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &config, &tensors);
    (open_f32(folder.path(), Rest::Trained), folder, config, tensors)
}

fn unit_rows(weights: &[f32], width: usize) -> Vec<f32> {
    let unit = |row: &[f32]| {
        let norm = row.iter().map(|w| f64::from(*w) * f64::from(*w)).sum::<f64>().sqrt();
        row.iter().map(|w| (f64::from(*w) / norm) as f32).collect::<Vec<_>>()
    };
    weights.chunks(width).flat_map(unit).collect()
}

/// The same with its head already of unit length, as a Baichuan that does not change it.
fn folded(config: &Value, tensors: &Tensors) -> Model {
    let (mut config, mut tensors) = (config.clone(), tensors.clone());
    config["architectures"] = json!(["BaiChuanForCausalLM"]);
    let (shape, head) = &tensors["lm_head.weight"];
    let folded = (shape.clone(), unit_rows(head, shape[1]));
    tensors.insert("lm_head.weight".into(), folded);
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &config, &tensors);
    open_f32(folder.path(), Rest::Trained)
}

#[test]
fn baichuan_2_divides_the_rows_of_its_head_by_their_length() {
    let (trained, folder, config, tensors) = baichuan2();
    assert!(trained.config().normalized_head);
    let folded = folded(&config, &tensors);
    assert_same(&trained, &folded);
    assert_same(&open_f32(folder.path(), Rest::Frozen), &folded);
    let rounded = open(folder.path(), Precision::Bf16, Rest::Trained).unwrap().model;
    assert!(distance(&rounded, &folded) < 0.05);
    let options = greedy(8, Vec::new());
    let mut continued = [&trained, &folded].map(|model| {
        let mut generator = Generator::new(model, 64);
        generator.generate(&SOME_IDS, &options, |_| ControlFlow::Continue(())).unwrap().ids
    });
    assert_eq!(std::mem::take(&mut continued[0]), continued[1]);
    // Weights are saved as they are, not divided.
    let again = tempfile::tempdir().unwrap();
    save_folder(&trained, None, again.path(), 5_000_000_000).unwrap();
    assert_eq!(read_tensors(again.path()), tensors);
    assert_eq!(config_of(again.path())["z_loss_weight"], 0);
}

#[test]
fn the_gradient_of_a_normalised_head_is_projected() {
    let (mut model, _folder, config, tensors) = baichuan2();
    let name = "lm_head.weight";
    let (shape, head) = &tensors[name];
    let width = shape[1];
    let (loss, found) = gradient_of(&mut model, name);
    let (folded_loss, of_unit) = gradient_of(&mut folded(&config, &tensors), name);
    assert!((loss - folded_loss).abs() < 1e-5 * loss);
    let expected: Vec<f32> = head
        .chunks(width)
        .zip(unit_rows(head, width).chunks(width))
        .zip(of_unit.chunks(width))
        .flat_map(|((w, unit), g)| {
            let norm = w.iter().map(|w| w * w).sum::<f32>().sqrt();
            let along: f32 = unit.iter().zip(g).map(|(unit, g)| unit * g).sum();
            g.iter().zip(unit).map(|(g, unit)| (g - unit * along) / norm).collect::<Vec<_>>()
        })
        .collect();
    assert_close(&found, &expected, 1e-4, name);

    // And against differences of the loss itself.
    let scale = expected.iter().fold(0.0f32, |scale, value| scale.max(value.abs()));
    let range =
        model.parameters().list().iter().find(|parameter| parameter.name == name).unwrap().range.clone();
    for index in [0, 17, 5 * width + 3, 22 * width + 1] {
        let step = 1e-2;
        let mut at = |change: f32| {
            model.parameters_mut().values_mut().host_mut()[range.start + index] += change;
            gradient_of(&mut model, name).0
        };
        let (above, below) = (at(step), at(-2.0 * step));
        at(step);
        let difference = (above - below) / (2.0 * step);
        assert!(
            (found[index] - difference).abs() < 0.02 * scale,
            "{index}: {} against {difference}",
            found[index]
        );
    }
}

#[test]
fn the_gradient_of_a_normalised_head_is_projected_once_after_all_slices() {
    let (mut model, _folder, ..) = baichuan2();
    let targets = |from: u32| -> Vec<Target> {
        (0..5).map(|position| Target { position: from + position, id: position + 20 }).collect()
    };
    let whole = PackedTokens::new([&SOME_IDS[..6], &SOME_IDS[6..]]);
    let slices = [PackedTokens::new([&SOME_IDS[..6]]), PackedTokens::new([&SOME_IDS[6..]])];
    let mut run = |parts: &[(&PackedTokens, Vec<Target>)]| {
        let mut gradients = Gradients::whole(&model);
        let mut seen = Seen::new(&model);
        for (index, (tokens, targets)) in parts.iter().enumerate() {
            let mut activations = Activations::new(&model, tokens.len(), Keep::ForBackward);
            model.forward(tokens, &mut activations, &mut Resident).unwrap();
            seen.is_last = index + 1 == parts.len();
            let (weights, resident) = (vec![-0.1; targets.len()], &mut Resident);
            model.backward(
                tokens,
                targets,
                &weights,
                None,
                &mut activations,
                &mut gradients,
                &mut seen,
                resident,
            );
        }
        seen.gradients.host().to_vec()
    };
    let together = run(&[(&whole, [targets(0), targets(6)].concat())]);
    let one_by_one = run(&[(&slices[0], targets(0)), (&slices[1], targets(0))]);
    assert_close(&one_by_one, &together, 1e-5, "gradients");
}

#[test]
fn internlm2_is_a_llama_whose_heads_are_grouped_in_one_tensor() {
    // Biases, and heads in two groups; its own fields are those of a Llama without biases of the feed-forward.
    let mut config = config_of(&family("llama-bias"));
    config["mlp_bias"] = false.into();
    config["tie_word_embeddings"] = false.into();
    let read = Config { other_fields: Default::default(), ..config_from(&config) };
    let mut llama = Model::zeros(read, Precision::F32).initialize(3);
    let mut parameters = llama.parameters_mut();
    let values = parameters.values_mut().host_mut();
    values.iter_mut().enumerate().for_each(|(index, value)| *value += 0.1 * (index as f32).sin());
    drop(parameters);
    let folder = tempfile::tempdir().unwrap();
    save_folder(&llama, None, folder.path(), 5_000_000_000).unwrap();

    let head = 8;
    let grouped = |parts: [&[f32]; 3]| -> Vec<f32> {
        let row = parts[1].len() / (2 * head);
        let part = |which: usize, heads: std::ops::Range<usize>| {
            parts[which][heads.start * head * row..heads.end * head * row].to_vec()
        };
        [part(0, 0..2), part(1, 0..1), part(2, 0..1), part(0, 2..4), part(1, 1..2), part(2, 1..2)].concat()
    };
    let tensors = packed(&read_tensors(folder.path()), "weight", "attention.wqkv", grouped);
    let tensors = packed(&tensors, "bias", "attention.wqkv", grouped);
    let renamed = |name: &String| {
        let names = [
            ("lm_head", "output"),
            ("embed_tokens", "tok_embeddings"),
            ("self_attn.o_proj", "attention.wo"),
            ("input_layernorm", "attention_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("mlp.gate_proj", "feed_forward.w1"),
            ("mlp.up_proj", "feed_forward.w3"),
            ("mlp.down_proj", "feed_forward.w2"),
        ];
        names.iter().fold(name.clone(), |name, (from, to)| name.replace(from, to))
    };
    let tensors: Tensors = tensors.iter().map(|(name, tensor)| (renamed(name), tensor.clone())).collect();
    let mut fields = config.clone();
    fields["model_type"] = "internlm2".into();
    fields["architectures"] = json!(["InternLM2ForCausalLM"]);
    fields["bias"] = true.into();
    let internlm2 = tempfile::tempdir().unwrap();
    write_model(internlm2.path(), &fields, &tensors);
    for rest in [Rest::Frozen, Rest::Trained] {
        let model = open_f32(internlm2.path(), rest);
        assert_eq!(model.config().family, Family::InternLm2);
        assert_same(&model, &llama);
        let again = tempfile::tempdir().unwrap();
        save_folder(&model, None, again.path(), 5_000_000_000).unwrap();
        assert_eq!(read_tensors(again.path()), tensors);
        assert_eq!(config_of(again.path())["bias"], true);
    }
}

fn lora(family: Family, targets: &[&str]) -> AdapterConfig {
    let names: Vec<String> = targets.iter().map(|name| (*name).into()).collect();
    let target_modules = Some(family.target_modules(&names).unwrap());
    AdapterConfig { r: 3, lora_alpha: 6.0, target_modules, ..AdapterConfig::default() }
}

/// Adapters of rank 3 with values in B too, for which [`SOME_IDS`] have other probabilities.
fn adapt(model: &mut Model, targets: &[&str], use_dora: bool) -> AdapterConfig {
    let options = AdapterConfig { use_dora, ..lora(model.config().family, targets) };
    model.add_adapter(&options, Some(5)).unwrap();
    let mut parameters = model.parameters_mut();
    let values = parameters.values_mut().host_mut();
    values.iter_mut().enumerate().for_each(|(index, value)| *value += 0.1 * (index as f32).cos());
    drop(parameters);
    options
}

#[test]
fn an_adapter_of_w_pack_spans_queries_keys_and_values() {
    let (mut llama, config, tensors) = baichuan();
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &config, &tensors);
    let mut model = open_f32(folder.path(), Rest::Frozen);
    let options = adapt(&mut model, &["W_pack"], false);
    let saved = tempfile::tempdir().unwrap();
    save_adapter(&model, &options, "base", saved.path()).unwrap();
    assert_eq!(read_json(&saved.path().join("adapter_config.json"))["target_modules"], json!(["W_pack"]));
    let file = SafetensorsFolder::open_named(saved.path(), "adapter_model").unwrap();
    let shape = |which: &str| {
        let name = format!("base_model.model.model.layers.1.self_attn.W_pack.lora_{which}.weight");
        file.tensor(&name).unwrap().info.shape.clone()
    };
    assert_eq!((file.names().count(), shape("A"), shape("B")), (4, vec![3, 40], vec![120, 3]));
    let mut again = open_f32(folder.path(), Rest::Frozen);
    read_adapter(&mut again, saved.path()).unwrap();
    assert_eq!(log_probabilities(&again, &SOME_IDS), log_probabilities(&model, &SOME_IDS));

    // Three adapters with the same A and the rows of B are the same model, and their gradients of A sum up.
    llama.add_adapter(&lora(Family::Llama, &["q_proj", "k_proj", "v_proj"]), Some(0)).unwrap();
    let spanning = model.parameters().values().host().to_vec();
    let (a, b) = (3 * 40, 40 * 3);
    let mut parameters = llama.parameters_mut();
    let values = parameters.values_mut().host_mut();
    for (layer, values) in values.chunks_mut(3 * (a + b)).enumerate() {
        let source = &spanning[layer * (a + 3 * b)..][..a + 3 * b];
        for (index, values) in values.chunks_mut(a + b).enumerate() {
            values[..a].copy_from_slice(&source[..a]);
            values[a..].copy_from_slice(&source[a + index * b..][..b]);
        }
    }
    drop(parameters);
    assert_same(&model, &llama);
    let tokens = PackedTokens::new([&SOME_IDS[..]]);
    let targets = [Target { position: 4, id: 9 }, Target { position: 10, id: 2 }];
    let (_, together) = gradients(&mut model, &tokens, &targets, &[1.0, 1.0]);
    let (_, apart) = gradients(&mut llama, &tokens, &targets, &[1.0, 1.0]);
    let expected: Vec<f32> = apart
        .host()
        .chunks(3 * (a + b))
        .flat_map(|layer| {
            let members: Vec<&[f32]> = layer.chunks(a + b).collect();
            let of_a = (0..a).map(|index| members.iter().map(|member| member[index]).sum());
            let of_b = members.iter().flat_map(|member| member[a..].iter().copied());
            of_a.chain(of_b).collect::<Vec<f32>>()
        })
        .collect();
    assert_close(together.host(), &expected, 1e-5, "gradients");
}

#[test]
fn a_part_of_what_is_one_layer_cannot_be_adapted() {
    let family = Family::Baichuan;
    let error = family.target_modules(&["q_proj".into()]).unwrap_err();
    assert!(error.ends_with("adapt it as a whole by its name, `W_pack`"), "{error}");
    let unknown = family.target_modules(&["c_attn".into()]).unwrap_err();
    assert!(unknown.contains("expected one of W_pack, o_proj, gate_proj"), "{unknown}");
    let names = |name: &str| Family::BabyLlama2.target_modules(&[name.into()]).unwrap();
    assert!(names("wq") == names("q_proj") && names("wq") == ModuleSelection::Names(vec!["wq".into()]));
}

/// For rows in another order than here, and layers under other names.
#[test]
fn an_adapter_of_grouped_heads_survives_being_saved() {
    let mut config = config_of(&golden("gqa-tied"));
    config["model_type"] = "internlm2".into();
    config["bias"] = false.into();
    let config = config_from(&config);
    let base = || {
        let trained = Model::zeros(config.clone(), Precision::F32).initialize(3);
        let folder = tempfile::tempdir().unwrap();
        save_folder(&trained, None, folder.path(), 5_000_000_000).unwrap();
        open_f32(folder.path(), Rest::Frozen)
    };
    let mut model = base();
    // With lengths of the rows, which lie in the order of the rows of B.
    let options = adapt(&mut model, &["wqkv", "wo", "w2"], true);
    let saved = tempfile::tempdir().unwrap();
    save_adapter(&model, &options, "base", saved.path()).unwrap();
    let file = SafetensorsFolder::open_named(saved.path(), "adapter_model").unwrap();
    let name = "base_model.model.model.layers.0.attention.wqkv.lora_B.weight";
    let stored = file.tensor(name).unwrap();
    // The second head of keys lies behind two heads of queries, keys and values of the first group and its own queries.
    let (rank, head) = (3, 8);
    let key_row = &model.parameters().values().host()[rank * 32 + (4 + 1) * head * rank..][..rank];
    let bytes: Vec<u8> = key_row.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(stored.bytes[6 * head * rank * 4..][..rank * 4], bytes);
    let mut again = base();
    read_adapter(&mut again, saved.path()).unwrap();
    assert_eq!(again.parameters().values().host(), model.parameters().values().host());
    assert_eq!(log_probabilities(&again, &SOME_IDS), log_probabilities(&model, &SOME_IDS));
}
