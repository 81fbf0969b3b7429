//! Models of the other families, made from recorded Llamas, and how far two models lie apart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use danlu_formats::{Dtype, SafetensorsFolder, TensorInfo, WriteOptions, write_safetensors};
use danlu_model::{Config, Model, PackedTokens, Precision, Rest, Target, open};
use serde_json::{Value, json};

use super::{golden, gradients, load, log_probabilities, read_json};

pub fn family(name: &str) -> PathBuf {
    golden("families").join(name)
}

/// Shape and values by name.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

pub fn read_tensors(folder: &Path) -> Tensors {
    let file = SafetensorsFolder::open(folder).unwrap();
    let read = |info: &TensorInfo| {
        assert_eq!(info.dtype, Dtype::F32);
        let bytes = file.tensor(&info.name).unwrap().bytes;
        let values = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (info.name.clone(), (info.shape.clone(), values))
    };
    file.tensors().map(read).collect()
}

pub fn write_model(folder: &Path, config: &Value, tensors: &Tensors) {
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

pub fn open_f32(folder: &Path, rest: Rest) -> Model {
    open(folder, Precision::F32, rest).unwrap().model
}

pub const SOME_IDS: [u32; 12] = [3, 17, 5, 22, 9, 9, 28, 1, 14, 2, 30, 11];

/// How far log-probabilities lie apart, relative to the largest.
pub fn distance(model: &Model, other: &Model) -> f32 {
    let (found, expected) = (log_probabilities(model, &SOME_IDS), log_probabilities(other, &SOME_IDS));
    let (found, expected) = (found.concat(), expected.concat());
    let scale = expected.iter().fold(0.0f32, |scale, value| scale.max(value.abs()));
    found.iter().zip(&expected).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f32::max)
}

pub fn assert_same(model: &Model, other: &Model) {
    let distance = distance(model, other);
    assert!(distance <= 1e-5, "{distance}");
}

/// The gradient of the named parameter and the loss, of every second target.
pub fn gradient_of(model: &mut Model, name: &str) -> (f32, Vec<f32>) {
    let tokens = PackedTokens::new([&SOME_IDS[..]]);
    let targets: Vec<Target> = (0..SOME_IDS.len() - 1)
        .step_by(2)
        .map(|position| Target { position: position as u32, id: SOME_IDS[position + 1] })
        .collect();
    let (loss, all) = gradients(model, &tokens, &targets, &vec![1.0; targets.len()]);
    let parameter = model.parameters().list().iter().find(|parameter| parameter.name == name).unwrap();
    (loss, all.host()[parameter.range.clone()].to_vec())
}

pub fn config_of(folder: &Path) -> Value {
    read_json(&folder.join("config.json"))
}

pub fn config_from(fields: &Value) -> Config {
    read_config(fields).unwrap()
}

pub fn read_config(fields: &Value) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, fields.to_string()).unwrap();
    Config::read(&path).map_err(|error| error.to_string())
}

/// q, k and v of every block as one tensor `name`, put together by `pack`.
pub fn packed(tensors: &Tensors, end: &str, name: &str, pack: impl Fn([&[f32]; 3]) -> Vec<f32>) -> Tensors {
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
pub fn baichuan() -> (Model, Value, Tensors) {
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

/// The tensors of a Llama under Meta's names; `permute` puts rotated pairs side by side.
pub fn metas(tensors: &Tensors, head: usize, permute: bool) -> Tensors {
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
pub fn model_args() -> Value {
    json!({
        "dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 97, "hidden_dim": 88, "max_seq_len": 64,
        "norm_eps": 1e-6, "rope_theta": 100000.0, "dropout": 0.0
    })
}
