//! The families beside plain Llama: against recordings of transformers where it has them (`tools/golden/`), and against
//! a Llama of the same weights where a file only holds them in another way.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::*;
use danlu_formats::{Dtype, SafetensorsFolder, TensorInfo, WriteOptions, write_safetensors};
use danlu_model::{
    Activations, AttentionBias, Config, Family, Generator, Gradients, Keep, LoraOptions, Model, PackedTokens,
    Precision, Resident, Rest, RopeLayout, Target, open, read_adapter, save_adapter, save_folder,
};
use serde_json::{Value, json};

fn family(name: &str) -> PathBuf {
    golden("families").join(name)
}

/// Shape and values by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn read_tensors(folder: &Path) -> Tensors {
    let file = SafetensorsFolder::open(folder).unwrap();
    let read = |info: &TensorInfo| {
        assert_eq!(info.dtype, Dtype::F32);
        let bytes = file.tensor(&info.name).unwrap().bytes;
        let values = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (info.name.clone(), (info.shape.clone(), values))
    };
    file.tensors().map(read).collect()
}

fn write_model(folder: &Path, config: &Value, tensors: &Tensors) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let info = |(name, (shape, _)): (&String, &(Vec<usize>, Vec<f32>))| TensorInfo {
        name: name.clone(),
        dtype: Dtype::F32,
        shape: shape.clone(),
    };
    let infos: Vec<TensorInfo> = tensors.iter().map(info).collect();
    write_safetensors(folder, &WriteOptions::default(), &infos, |index, sink| {
        let values = &tensors[&infos[index].name].1;
        sink.write(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    })
    .unwrap();
}

fn open_f32(folder: &Path, rest: Rest) -> Model {
    open(folder, Precision::F32, rest).unwrap().model
}

const SOME_IDS: [u32; 12] = [3, 17, 5, 22, 9, 9, 28, 1, 14, 2, 30, 11];

/// How far log-probabilities lie apart, relative to the largest.
fn distance(model: &Model, other: &Model) -> f32 {
    let (found, expected) = (log_probabilities(model, &SOME_IDS), log_probabilities(other, &SOME_IDS));
    let (found, expected) = (found.concat(), expected.concat());
    let scale = expected.iter().fold(0.0f32, |scale, value| scale.max(value.abs()));
    found.iter().zip(&expected).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f32::max)
}

fn assert_same(model: &Model, other: &Model) {
    let distance = distance(model, other);
    assert!(distance <= 1e-5, "{distance}");
}

/// The gradient of the named parameter and the loss, of every second target.
fn gradient_of(model: &mut Model, name: &str) -> (f32, Vec<f32>) {
    let tokens = PackedTokens::new([&SOME_IDS[..]]);
    let targets: Vec<Target> = (0..SOME_IDS.len() - 1)
        .step_by(2)
        .map(|position| Target { position: position as u32, id: SOME_IDS[position + 1] })
        .collect();
    let (loss, all) = gradients(model, &tokens, &targets, &vec![1.0; targets.len()]);
    let parameter = model.parameters().list().iter().find(|parameter| parameter.name == name).unwrap();
    (loss, all.host()[parameter.range.clone()].to_vec())
}

const RECORDED: [&str; 6] = ["llama-bias", "mistral", "mistral-window", "qwen2", "qwen3", "baichuan-alibi"];

#[test]
fn logits_of_every_family_equal_those_of_transformers() {
    for name in RECORDED {
        for rest in [Rest::Frozen, Rest::Trained] {
            check_logits(&open_f32(&family(name), rest), &read_json(&family(name).join("golden.json")));
        }
    }
}

#[test]
fn gradients_of_biases_and_of_norms_of_heads_equal_those_of_pytorch() {
    // Vectors: 5 norms, of 2 blocks 7 biases or 3 or 2 norms of heads; and q and k of the first block.
    for (name, count) in
        [("llama-bias", 5 + 14 + 2), ("qwen2", 5 + 6 + 2), ("qwen3", 5 + 4 + 2), ("mistral-window", 5 + 2)]
    {
        let mut model = open_f32(&family(name), Rest::Trained);
        check_gradients_at(&mut model, &family(name).join("gradients"), count);
    }
}

#[test]
fn a_generator_continues_as_the_forward_says() {
    let prompt = &SOME_IDS[..5];
    for name in RECORDED {
        let model = open_f32(&family(name), Rest::Frozen);
        let mut ids = prompt.to_vec();
        for _ in 0..8 {
            let last = log_probabilities(&model, &ids).pop().unwrap();
            let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
            ids.push(best as u32);
        }
        let mut generator = Generator::new(&model, 64);
        let options = greedy(8, Vec::new());
        let found = generator.generate(prompt, &options, |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(found.ids, ids[prompt.len()..], "{name}");
    }
}

#[test]
fn bf16_stays_near_f32_in_every_family() {
    for name in RECORDED {
        let exact = open_f32(&family(name), Rest::Frozen);
        for rest in [Rest::Frozen, Rest::Trained] {
            let rounded = open(&family(name), Precision::Bf16, rest).unwrap().model;
            let distance = distance(&rounded, &exact);
            assert!(distance < 0.05, "{name}: {distance}");
        }
    }
}

#[test]
fn what_is_computed_again_has_the_same_bits_in_every_family_and_bf16_stays_near() {
    let mut exact = Vec::new();
    for (name, precision) in
        RECORDED.iter().flat_map(|name| [Precision::F32, Precision::Bf16].map(|p| (name, p)))
    {
        let mut model = open(&family(name), precision, Rest::Trained).unwrap().model;
        let tokens = PackedTokens::new([&SOME_IDS[..7], &SOME_IDS[3..]]);
        let targets: Vec<Target> = (0..6).map(|position| Target { position, id: position + 4 }).collect();
        let mut run = |keep| {
            let mut activations = Activations::new(&model, tokens.len(), keep);
            model.forward(&tokens, &mut activations, &mut Resident).unwrap();
            let mut gradients = Gradients::whole(&model);
            let mut seen = Seen::new(&model);
            let (weights, resident) = ([-0.5; 6], &mut Resident);
            model.backward(
                &tokens,
                &targets,
                &weights,
                &mut activations,
                &mut gradients,
                &mut seen,
                resident,
            );
            seen.gradients.host().to_vec()
        };
        let kept = run(Keep::ForBackward);
        assert!(kept.iter().any(|gradient| *gradient != 0.0));
        assert_eq!(kept, run(Keep::WithoutFeedForward), "{name}");
        assert_eq!(kept, run(Keep::ResidualOnly), "{name}");
        match precision {
            Precision::F32 => exact = kept,
            Precision::Bf16 => assert_close(&kept, &exact, 0.05, name),
        }
    }
}

fn with_rope(variant: &str) -> (tempfile::TempDir, Value) {
    let folder = tempfile::tempdir().unwrap();
    let source = family("llama-rope");
    std::fs::copy(source.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let config = source.join(format!("config-{variant}.json"));
    std::fs::copy(config, folder.path().join("config.json")).unwrap();
    (folder, read_json(&source.join("golden.json"))[variant].clone())
}

const ROPES: [&str; 6] = ["linear", "dynamic", "llama3", "yarn", "yarn-mscale", "yarn-factor"];

#[test]
fn every_rope_scaling_gives_the_logits_of_transformers() {
    for variant in ROPES {
        let (folder, golden) = with_rope(variant);
        let model = open_f32(folder.path(), Rest::Frozen);
        check_logits(&model, &golden);
        // It survives being saved.
        let again = tempfile::tempdir().unwrap();
        save_folder(&model, None, again.path(), 5_000_000_000).unwrap();
        let saved = open_f32(again.path(), Rest::Frozen);
        assert_eq!(saved.config(), model.config(), "{variant}");
        check_logits(&saved, &golden);
    }
}

#[test]
fn dynamic_scaling_takes_the_frequencies_of_each_packed_sequence() {
    let (folder, golden) = with_rope("dynamic");
    let mut model = open_f32(folder.path(), Rest::Trained);
    assert_eq!((model.config().max_position_embeddings, model.config().context_length()), (16, 64));
    let sequences = golden["sequences"].as_array().unwrap();
    let all: Vec<Vec<u32>> = [3, 0, 2].map(|index: usize| ids(&sequences[index]["ids"])).to_vec();
    let targets: Vec<Target> = (0..66).step_by(5).map(|position| Target { position, id: 7 }).collect();
    let weights = vec![1.0; targets.len()];
    let packed = PackedTokens::new(all.iter().map(Vec::as_slice));
    let (loss, together) = gradients(&mut model, &packed, &targets, &weights);
    let (mut sum, mut alone_loss) = (vec![0.0; together.len()], 0.0);
    let mut start = 0;
    for ids in &all {
        let own: Vec<Target> = targets
            .iter()
            .filter(|target| (start..start + ids.len() as u32).contains(&target.position))
            .map(|target| Target { position: target.position - start, id: target.id })
            .collect();
        let share = own.len() as f32 / targets.len() as f32;
        let tokens = PackedTokens::new([ids.as_slice()]);
        let (loss, alone) = gradients(&mut model, &tokens, &own, &vec![1.0; own.len()]);
        alone_loss += loss * share;
        sum.iter_mut().zip(alone.host()).for_each(|(sum, gradient)| *sum += gradient * share);
        start += ids.len() as u32;
    }
    assert!((loss - alone_loss).abs() < 1e-5 * loss, "{loss} against {alone_loss}");
    assert_close(together.host(), &sum, 1e-5, "gradients");
}

#[test]
fn a_generator_takes_the_frequencies_of_a_long_prompt() {
    let (folder, golden) = with_rope("dynamic");
    let model = open_f32(folder.path(), Rest::Frozen);
    let mut generator = Generator::new(&model, 64);
    // From long to short and back: what is cached for one length is not used for another.
    for index in [3, 0, 2, 3, 2] {
        let sequence = &golden["sequences"][index];
        let mut options = greedy(1, Vec::new());
        options.top_log_probabilities = 31;
        let found =
            generator.generate(&ids(&sequence["ids"]), &options, |_| ControlFlow::Continue(())).unwrap();
        let mut log_probabilities = vec![0.0; 31];
        for token in &found.top_log_probabilities[0] {
            log_probabilities[token.id as usize] = token.log_probability;
        }
        let last = sequence["logits"].as_array().unwrap().last().unwrap();
        assert_close(&log_probabilities, &log_softmax(&numbers(last)), 1e-4, "after the prompt");
    }
    // What is cached of a long prompt is no beginning of a shorter one.
    let long = ids(&golden["sequences"][3]["ids"]);
    for length in [40, 17, 9, 20] {
        let options = greedy(5, Vec::new());
        let generate = |generator: &mut Generator| {
            generator.generate(&long[..length], &options, |_| ControlFlow::Continue(())).unwrap().ids
        };
        assert_eq!(generate(&mut generator), generate(&mut Generator::new(&model, 64)), "{length} tokens");
    }
}

#[test]
fn a_saved_folder_is_of_the_family_that_was_read() {
    for (name, architecture) in
        [("llama-bias", "Llama"), ("mistral", "Mistral"), ("qwen2", "Qwen2"), ("qwen3", "Qwen3")]
    {
        let model = open_f32(&family(name), Rest::Frozen);
        let folder = tempfile::tempdir().unwrap();
        save_folder(&model, None, folder.path(), 5_000_000_000).unwrap();
        let (read, written) =
            (read_json(&family(name).join("config.json")), read_json(&folder.path().join("config.json")));
        for field in
            ["auto_map", "a_field_of_somebody", "model_type", "architectures", "transformers_version"]
        {
            assert_eq!(written[field], read[field], "{name}: {field}");
        }
        assert_eq!(written["architectures"], json!([format!("{architecture}ForCausalLM")]));
        assert!(written.get("dtype").is_none() && written["torch_dtype"] == "float32");
        let saved = open_f32(folder.path(), Rest::Trained);
        assert_eq!(saved.config(), model.config());
        check_logits(&saved, &read_json(&family(name).join("golden.json")));
    }
}

fn config_of(folder: &Path) -> Value {
    read_json(&folder.join("config.json"))
}

/// q, k and v of every block as one tensor `name`, put together by `pack`.
fn packed(tensors: &Tensors, end: &str, name: &str, pack: impl Fn([&[f32]; 3]) -> Vec<f32>) -> Tensors {
    let mut packed = tensors.clone();
    for layer in 0..2 {
        let paths = ["q", "k", "v"].map(|which| format!("model.layers.{layer}.self_attn.{which}_proj.{end}"));
        let parts = paths.each_ref().map(|path| packed.remove(path).unwrap());
        let rows = parts.iter().map(|(shape, _)| shape[0]).sum();
        let shape = [&[rows], &parts[0].0[1..]].concat();
        let values = pack(parts.each_ref().map(|(_, values)| values.as_slice()));
        packed.insert(format!("model.layers.{layer}.{name}.{end}"), (shape, values));
    }
    packed
}

/// A Llama of the recorded ones, and a Baichuan-7B of the same weights.
fn baichuan() -> (Model, Value, Tensors) {
    let llama = load("mha-untied", Rest::Frozen);
    let source = config_of(&golden("mha-untied"));
    let mut config = json!({ "architectures": ["BaiChuanForCausalLM"], "model_type": "baichuan" });
    for field in [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "bos_token_id",
        "eos_token_id",
    ] {
        config[field] = source[field].clone();
    }
    config["auto_map"] = json!({ "AutoConfig": "configuration_baichuan.BaiChuanConfig" });
    let tensors = read_tensors(&golden("mha-untied"));
    (llama, config, packed(&tensors, "weight", "self_attn.W_pack", |parts| parts.concat()))
}

#[test]
fn baichuan_is_a_llama_whose_queries_keys_and_values_are_one_tensor() {
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
            model.backward(tokens, targets, &weights, &mut activations, &mut gradients, &mut seen, resident);
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
    let values = llama.parameters_mut().values_mut().host_mut();
    values.iter_mut().enumerate().for_each(|(index, value)| *value += 0.1 * (index as f32).sin());
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

fn config_from(fields: &Value) -> Config {
    read_config(fields).unwrap()
}

fn read_config(fields: &Value) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, fields.to_string()).unwrap();
    Config::read(&path).map_err(|error| error.to_string())
}

/// The tensors of a Llama under Meta's names; `permute` puts rotated pairs side by side.
fn metas(tensors: &Tensors, head: usize, permute: bool) -> Tensors {
    let renamed = |name: &String| {
        let names = [
            ("model.", ""),
            ("lm_head", "output"),
            ("embed_tokens", "tok_embeddings"),
            ("self_attn.q_proj", "attention.wq"),
            ("self_attn.k_proj", "attention.wk"),
            ("self_attn.v_proj", "attention.wv"),
            ("self_attn.o_proj", "attention.wo"),
            ("input_layernorm", "attention_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("mlp.gate_proj", "feed_forward.w1"),
            ("mlp.up_proj", "feed_forward.w3"),
            ("mlp.down_proj", "feed_forward.w2"),
        ];
        names.iter().fold(name.clone(), |name, (from, to)| name.replace(from, to))
    };
    let moved = |name: &str, (shape, values): &(Vec<usize>, Vec<f32>)| {
        if !permute || !(name.contains("q_proj") || name.contains("k_proj")) {
            return (shape.clone(), values.clone());
        }
        let row = |index: usize| &values[index * shape[1]..][..shape[1]];
        let rows = (0..shape[0]).flat_map(|index| {
            let (head_start, place) = (index / head * head, index % head);
            row(head_start + place % 2 * head / 2 + place / 2).to_vec()
        });
        (shape.clone(), rows.collect())
    };
    tensors.iter().map(|(name, tensor)| (renamed(name), moved(name, tensor))).collect()
}

/// The fields of `ModelArgs` for the recorded model `gqa-tied`.
fn model_args() -> Value {
    json!({
        "dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 97, "hidden_dim": 88, "max_seq_len": 64,
        "norm_eps": 1e-6, "rope_theta": 100000.0, "dropout": 0.0
    })
}

#[test]
fn metas_names_with_neighbouring_pairs_are_a_llama_with_permuted_rows() {
    let llama = load("gqa-tied", Rest::Frozen);
    let mut tensors = metas(&read_tensors(&golden("gqa-tied")), 8, true);
    // Their files have the tied head as well.
    tensors.insert("output.weight".into(), tensors["tok_embeddings.weight"].clone());
    for (model_type, family) in [(None, Family::BabyLlama2), (Some("minimind"), Family::MiniMindV1)] {
        for prefix in ["", "_orig_mod."] {
            let mut config = model_args();
            if let Some(model_type) = model_type {
                config["model_type"] = model_type.into();
            }
            let prefixed = tensors.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone()));
            let folder = tempfile::tempdir().unwrap();
            write_model(folder.path(), &config, &prefixed.collect());
            for rest in [Rest::Frozen, Rest::Trained] {
                let model = open_f32(folder.path(), rest);
                assert_eq!(model.config().family, family);
                assert_same(&model, &llama);
                let again = tempfile::tempdir().unwrap();
                save_folder(&model, None, again.path(), 5_000_000_000).unwrap();
                let mut written = read_tensors(again.path());
                written.insert("output.weight".into(), written["tok_embeddings.weight"].clone());
                assert_eq!(written, tensors);
                assert_eq!(open_f32(again.path(), rest).config(), model.config());
            }
        }
    }
}

#[test]
fn the_two_rope_layouts_are_not_the_same() {
    let llama = load("gqa-tied", Rest::Frozen);
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &model_args(), &metas(&read_tensors(&golden("gqa-tied")), 8, false));
    let swapped = distance(&open_f32(folder.path(), Rest::Frozen), &llama);
    assert!(swapped > 1e-2, "{swapped}");
}

#[test]
fn minimind_is_a_llama_or_shaped_as_qwen3_by_its_tensors() {
    let tied = |folder: &Path, name: &Path| {
        let mut config = config_of(name);
        for field in ["model_type", "architectures", "rope_parameters"] {
            config.as_object_mut().unwrap().remove(field);
        }
        config["model_type"] = "minimind".into();
        config["inference_rope_scaling"] = false.into();
        config["rope_scaling"] = json!({ "type": "yarn", "factor": 16.0 });
        config["num_experts"] = 4.into();
        config["use_moe"] = false.into();
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        std::fs::copy(name.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    };
    for (source, normed) in [(golden("gqa-tied"), false), (family("qwen3"), true)] {
        let folder = tempfile::tempdir().unwrap();
        tied(folder.path(), &source);
        let model = open_f32(folder.path(), Rest::Frozen);
        assert_eq!((model.config().family, model.config().query_key_norm), (Family::MiniMind, normed));
        assert_same(&model, &open_f32(&source, Rest::Frozen));
        let again = tempfile::tempdir().unwrap();
        save_folder(&model, None, again.path(), 5_000_000_000).unwrap();
        assert_same(&open_f32(again.path(), Rest::Frozen), &model);
        assert_eq!(config_of(again.path())["num_experts"], 4);
    }
}

#[test]
fn missing_and_left_over_tensors_are_named_as_the_family_calls_them() {
    let (_, config, mut tensors) = baichuan();
    let folder = tempfile::tempdir().unwrap();
    let taken = tensors.remove("model.layers.1.self_attn.W_pack.weight").unwrap();
    tensors.insert("model.layers.1.self_attn.q_proj.weight".into(), taken);
    write_model(folder.path(), &config, &tensors);
    let error = |folder: &Path| open(folder, Precision::F32, Rest::Frozen).err().unwrap().to_string();
    let missing = error(folder.path());
    assert!(
        missing.contains("lacks a tensor") && missing.contains("`model.layers.1.self_attn.W_pack.weight`")
    );
    // A Qwen3 without its norms of heads, and a Llama with them.
    let mut config = config_of(&family("qwen3"));
    let again = tempfile::tempdir().unwrap();
    std::fs::copy(family("qwen3").join("model.safetensors"), again.path().join("model.safetensors")).unwrap();
    config["model_type"] = "llama".into();
    std::fs::write(again.path().join("config.json"), config.to_string()).unwrap();
    let leftover = error(again.path());
    assert!(
        leftover.contains("holds 4 tensors") && leftover.contains("self_attn.q_norm.weight`"),
        "{leftover}"
    );
}

#[test]
fn what_cannot_be_computed_is_refused_by_field_and_value() {
    let refusal = |name: &str, changes: Value| {
        let mut config = config_of(&family(name));
        for (field, value) in changes.as_object().unwrap() {
            config[field] = value.clone();
        }
        read_config(&config).unwrap_err()
    };
    for (name, changes, expected) in [
        ("qwen2", json!({ "num_experts": 60 }), "`num_experts`: expected a dense model, found 60 experts"),
        ("llama-bias", json!({ "hidden_act": "gelu" }), "`hidden_act`: expected `silu`, found \"gelu\""),
        (
            "llama-bias",
            json!({ "partial_rotary_factor": 0.5 }),
            "`partial_rotary_factor`: expected 1, found 0.5: only whole heads are rotated",
        ),
        (
            "llama-bias",
            json!({ "rope_scaling": { "rope_type": "longrope", "factor": 4.0 } }),
            "`rope_scaling.rope_type`: expected `default`, `linear`, `dynamic`, `llama3` or `yarn`, found \"longrope\"",
        ),
        (
            "llama-bias",
            json!({ "rope_scaling": { "rope_type": "linear" } }),
            "`rope_scaling.factor`: missing; expected a number",
        ),
        (
            "llama-bias",
            json!({ "rope_scaling": { "rope_type": "linear", "factor": 0.5 } }),
            "`rope_scaling.factor`: expected a number of 1 or more, found 0.5",
        ),
        (
            "qwen2",
            json!({ "use_sliding_window": true, "sliding_window": 32 }),
            "`sliding_window`: expected null, or at least `max_position_embeddings` (64), found 32",
        ),
        (
            "qwen3",
            json!({ "layer_types": ["full_attention", "sliding_attention"] }),
            "`layer_types`: expected `full_attention` for every layer, found \"sliding_attention\"",
        ),
        ("qwen3", json!({ "model_type": "gemma" }), "`model_type`: expected `llama`, `mistral`, `qwen2`"),
        ("qwen3", json!({ "model_type": "minimind", "use_moe": true }), "`use_moe`: expected false"),
    ] {
        let found = refusal(name, changes);
        assert!(found.contains(expected), "{found}");
    }
    // A window that no sequence is longer than changes nothing.
    let mut config = config_of(&family("mistral"));
    config["sliding_window"] = 64.into();
    assert_eq!(config_from(&config).family, Family::Mistral);
}

/// Adapters of rank 3 with values in B too, for which [`SOME_IDS`] have other probabilities.
fn adapt(model: &mut Model, targets: &[&str]) -> LoraOptions {
    let family = model.config().family;
    let modules = targets.iter().flat_map(|name| family.target_modules(name).unwrap()).collect();
    let options = LoraOptions { rank: 3, alpha: 6.0, modules };
    model.add_adapters(&options, 5).unwrap();
    let values = model.parameters_mut().values_mut().host_mut();
    values.iter_mut().enumerate().for_each(|(index, value)| *value += 0.1 * (index as f32).cos());
    options
}

#[test]
fn an_adapter_of_w_pack_spans_queries_keys_and_values() {
    let (mut llama, config, tensors) = baichuan();
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &config, &tensors);
    let mut model = open_f32(folder.path(), Rest::Frozen);
    let options = adapt(&mut model, &["W_pack"]);
    let saved = tempfile::tempdir().unwrap();
    save_adapter(&model, &options.adapter_config(Family::Baichuan), "base", saved.path()).unwrap();
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
    let options = LoraOptions { modules: options.modules, ..options };
    llama.add_adapters(&options, 0).unwrap();
    let spanning = model.parameters().values().host().to_vec();
    let (a, b) = (3 * 40, 40 * 3);
    let values = llama.parameters_mut().values_mut().host_mut();
    for (layer, values) in values.chunks_mut(3 * (a + b)).enumerate() {
        let source = &spanning[layer * (a + 3 * b)..][..a + 3 * b];
        for (index, values) in values.chunks_mut(a + b).enumerate() {
            values[..a].copy_from_slice(&source[..a]);
            values[a..].copy_from_slice(&source[a + index * b..][..b]);
        }
    }
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
    let (_, config, tensors) = baichuan();
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &config, &tensors);
    let mut model = open_f32(folder.path(), Rest::Frozen);
    let family = Family::Baichuan;
    let options = LoraOptions { rank: 2, alpha: 4.0, modules: family.target_modules("q_proj").unwrap() };
    let error = model.add_adapters(&options, 1).unwrap_err().to_string();
    assert!(error.ends_with("adapt it as a whole by its name, `W_pack`"), "{error}");
    let unknown = family.target_modules("c_attn").unwrap_err();
    assert!(unknown.contains("expected one of W_pack, o_proj, gate_proj"), "{unknown}");
    assert_eq!(Family::BabyLlama2.target_modules("wq"), Family::Llama.target_modules("q_proj"));
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
    let options = adapt(&mut model, &["wqkv", "wo", "w2"]);
    let saved = tempfile::tempdir().unwrap();
    save_adapter(&model, &options.adapter_config(Family::InternLm2), "base", saved.path()).unwrap();
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

#[test]
fn metas_names_without_a_configuration_need_the_shapes_of_a_known_model() {
    // A vocabulary of its own and the shapes of Llama2-Chinese-92M, all weights zero.
    let preset = Config { vocab_size: 12, ..Config::preset("llama2-chinese-92m").unwrap() };
    let folder = tempfile::tempdir().unwrap();
    save_folder(&Model::zeros(preset.clone(), Precision::F32), None, folder.path(), 5_000_000_000).unwrap();
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    assert_eq!(open_f32(folder.path(), Rest::Frozen).config(), &preset);

    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &Value::Null, &metas(&read_tensors(&golden("gqa-tied")), 8, true));
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    let error = open(folder.path(), Precision::F32, Rest::Frozen).err().unwrap().to_string();
    assert!(
        error.contains("possible are 2, 4; write `config.json` beside it: {\"dim\": 32, \"n_layers\": 2,"),
        "{error}"
    );
}

#[test]
fn options_that_a_family_has_no_fields_for_are_refused_before_they_are_lost() {
    let shape = Config::preset("smollm2-135m").unwrap();
    for (config, fits) in [
        (shape.clone(), true),
        (Config { query_key_norm: true, ..shape.clone() }, false),
        (Config { rope_layout: RopeLayout::Interleaved, ..shape.clone() }, false),
        (Config { attention_bias: AttentionBias::QueryKeyValue, ..shape.clone() }, false),
        (
            Config { attention_bias: AttentionBias::QueryKeyValue, family: Family::Qwen2, ..shape.clone() },
            true,
        ),
        (Config { attention_bias: AttentionBias::All, ..shape }, true),
    ] {
        let checked = config.check(Path::new("here"));
        assert_eq!(checked.is_ok(), fits, "{config:?}");
    }
}

#[test]
fn metas_arguments_give_the_width_of_the_feed_forward() {
    let width = |arguments: Value| config_from(&arguments).intermediate_size;
    let mut arguments = model_args();
    arguments.as_object_mut().unwrap().remove("hidden_dim");
    arguments["dim"] = 2048.into();
    arguments["multiple_of"] = 32.into();
    assert_eq!(width(arguments.clone()), 5472, "Luban-1B");
    // Llama-2 70B.
    arguments["dim"] = 8192.into();
    arguments["multiple_of"] = 4096.into();
    arguments["ffn_dim_multiplier"] = 1.3.into();
    assert_eq!(width(arguments), 28_672);
}
