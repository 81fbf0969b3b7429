//! What users of the projects before this one rely on: their checkpoints load, merge and convert as they know it.
//!
//! `seed_004_w_pack_model…` is in `families_packed.rs`, the number of parameters of every preset in `presets.rs`.

use crate::common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::families::{Tensors, open_f32, read_tensors, write_model};
use common::*;
use danlu_formats::{
    Dtype, Gguf, PytorchFolder, SafetensorsFolder, TensorFolder, TensorInfo, WriteOptions, write_pytorch,
    write_safetensors,
};
use danlu_model::{
    Config, ConvertOptions, Converted, Family, Form, Generator, MergeOptions, Mixture, Model, Precision,
    Rest, convert, merge, open, save_folder, save_pth,
};
use serde_json::{Value, json};

const KEEP: MergeOptions = MergeOptions { dtype: None, max_shard_bytes: 5_000_000_000 };

/// A file that PyTorch wrote in Luban's layout.
fn luban(name: &str) -> PathBuf {
    golden("luban").join(name)
}

fn converted(input: &Path, output: &Path, form: Form, mixture: Option<Mixture>) -> Converted {
    let options = ConvertOptions { form, mixture, tokenizer: None, importance: None };
    convert(input, output, options, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn merged(base: &Path, adapters: &[&Path], options: &MergeOptions) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    merge(base, adapters, folder.path(), options, &mut |_, _| true).unwrap();
    folder
}

/// Whether the logits of the last position and the greedy ids are those that PyTorch recorded.
fn check_luban(model: &Model) {
    for recorded in read_json(&luban("logits.json")).as_array().unwrap() {
        let prompt = ids(&recorded["ids"]);
        let found = log_probabilities(model, &prompt).pop().unwrap();
        assert_close(&found, &log_softmax(&numbers(&recorded["logits"])), 1e-4, "logits");
        let expected = ids(&recorded["greedy"]);
        let options = greedy(expected.len(), Vec::new());
        let mut generator = Generator::new(model, 64);
        let found = generator.generate(&prompt, &options, |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(found.ids, expected);
    }
}

#[test]
fn seed_000_model_shapes() {
    let config = Config::preset("luban-1b").unwrap();
    assert_eq!((config.parameter_count(), config.intermediate_size), (1_039_921_152, 5472));
    // Nine of each block, and the embedding, the last norm and the head, which is the embedding again.
    let model = Model::zeros(Config { vocab_size: 1, ..config }, Precision::F32);
    assert_eq!(model.parameters().list().len() + 1, 165);
}

#[test]
fn seed_000_pth_load() {
    for name in ["plain.pth", "compiled.pth"] {
        for rest in [Rest::Frozen, Rest::Trained] {
            let model = open_f32(&luban(name), rest);
            assert_eq!(model.config().family, Family::BabyLlama2);
            check_luban(&model);
        }
    }
    // And as it is written here: both names of the tied matrix in one place.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("epoch_0.pth");
    save_pth(&open_f32(&luban("plain.pth"), Rest::Trained), None, &path).unwrap();
    check_luban(&open_f32(&path, Rest::Frozen));
    let [written, original] = [path, luban("plain.pth")].map(|path| PytorchFolder::open(path).unwrap());
    let names = |file: &PytorchFolder| {
        let mut names: Vec<String> = file.names().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(names(&written), names(&original));
    for name in original.names() {
        assert_eq!(written.tensor(name).unwrap().bytes, original.tensor(name).unwrap().bytes, "{name}");
    }
    assert_eq!(written.alias_of("output.weight"), Some("tok_embeddings.weight"));
}

/// The tensors of the recorded file under Llama's names, their rows as they are.
fn renamed() -> Tensors {
    let file = PytorchFolder::open(luban("plain.pth")).unwrap();
    let names = [
        ("layers.", "model.layers."),
        ("attention.wq", "self_attn.q_proj"),
        ("attention.wk", "self_attn.k_proj"),
        ("attention.wv", "self_attn.v_proj"),
        ("attention.wo", "self_attn.o_proj"),
        ("attention_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("feed_forward.w1", "mlp.gate_proj"),
        ("feed_forward.w2", "mlp.down_proj"),
        ("feed_forward.w3", "mlp.up_proj"),
        ("tok_embeddings", "model.embed_tokens"),
    ];
    let own = file.tensors().filter(|info| info.name != "output.weight");
    own.map(|info| {
        let name = names.iter().fold(info.name.clone(), |name, (from, to)| name.replace(from, to));
        let name = if name == "norm.weight" { "model.norm.weight".into() } else { name };
        let values = floats(file.tensor(&info.name).unwrap().bytes);
        (name, (info.shape.clone(), values))
    })
    .collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn seed_000_forward_correctness() {
    let model = open_f32(&luban("plain.pth"), Rest::Frozen);
    check_luban(&model);
    // The same rows turned as two halves are another model.
    let config = model.config();
    let fields = json!({
        "model_type": "llama", "vocab_size": config.vocab_size, "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size, "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads, "num_key_value_heads": config.num_key_value_heads,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &fields, &renamed());
    let swapped = open_f32(folder.path(), Rest::Frozen);
    let prompt = [5, 96, 0, 33, 33, 7];
    let [one, other] = [&model, &swapped].map(|model| log_probabilities(model, &prompt).concat());
    let furthest = one.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(furthest > 0.1, "{furthest}");
}

#[test]
fn seed_000_llama2c_export() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    converted(&luban("plain.pth"), &path, Form::Llama2c, None);
    let file = PytorchFolder::open(luban("plain.pth")).unwrap();
    let (layers, head, context) = (2, 8, 64);
    let mut expected: Vec<u8> =
        [32, 96, layers, 4, 2, 97, context].iter().flat_map(|value: &i32| value.to_le_bytes()).collect();
    let mut add = |name: &str| expected.extend_from_slice(file.tensor(name).unwrap().bytes);
    add("tok_embeddings.weight");
    for part in [
        "attention_norm",
        "attention.wq",
        "attention.wk",
        "attention.wv",
        "attention.wo",
        "ffn_norm",
        "feed_forward.w1",
        "feed_forward.w2",
        "feed_forward.w3",
    ] {
        (0..layers).for_each(|layer| add(&format!("layers.{layer}.{part}.weight")));
    }
    add("norm.weight");
    let written = std::fs::read(&path).unwrap();
    assert!(written[..expected.len()] == expected[..]);
    let tables = floats(&written[expected.len()..]);
    assert_eq!(tables.len(), 2 * (context * head / 2) as usize, "28 bytes and 4 for every value");
    let angle = |index: usize| (index / 4) as f64 / 10_000f64.powf((index % 4) as f64 / 4.0);
    let (cosines, sines) = tables.split_at(tables.len() / 2);
    for index in 0..cosines.len() {
        assert!((f64::from(cosines[index]) - angle(index).cos()).abs() < 1e-5, "{index}");
        assert!((f64::from(sines[index]) - angle(index).sin()).abs() < 1e-5, "{index}");
    }
    check_luban(&open_f32(&path, Rest::Frozen));
}

/// The base of an adapter in `.bin` shards.
fn sharded_bin(base: &Path, max_shard_bytes: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = SafetensorsFolder::open(base).unwrap();
    let infos: Vec<TensorInfo> = source.tensors().cloned().collect();
    let options = WriteOptions { base_name: "pytorch_model".into(), max_shard_bytes };
    write_pytorch(folder.path(), &options, &infos, &[], |index, sink| {
        sink.write(source.tensor(&infos[index].name).unwrap().bytes)
    })
    .unwrap();
    std::fs::copy(base.join("config.json"), folder.path().join("config.json")).unwrap();
    folder
}

#[test]
fn seed_001_merge_lora_bin() {
    let (base, adapter) = (golden("mha-untied"), golden("peft/layers"));
    let source = sharded_bin(&base, 30_000);
    let out = merged(source.path(), &[&adapter], &MergeOptions { max_shard_bytes: 30_000, ..KEEP });
    let index = read_json(&out.path().join("pytorch_model.bin.index.json"));
    let found = TensorFolder::open_model(out.path()).unwrap();
    let shards = found.files().len();
    assert!(shards > 2, "{shards}");
    let total: usize = found.tensors().map(|info| info.byte_length().unwrap()).sum();
    assert_eq!(index["metadata"]["total_size"], total);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), found.names().len());
    let (before, lora) =
        (read_tensors(&base), SafetensorsFolder::open_named(&adapter, "adapter_model").unwrap());
    let config = read_json(&adapter.join("adapter_config.json"));
    let (rank, scale) = (2, config["lora_alpha"].as_f64().unwrap() as f32 / 2.0);
    let mut changed = 0;
    for (name, (shape, weight)) in &before {
        let now = floats(found.tensor(name).unwrap().bytes);
        let module = name.trim_end_matches(".weight");
        let half = |which: &str| lora.tensor(&format!("base_model.model.{module}.lora_{which}.weight"));
        let (Some(a), Some(b)) = (half("A"), half("B")) else {
            assert!(now == *weight, "{name}");
            continue;
        };
        let (a, b) = (floats(a.bytes), floats(b.bytes));
        let width = shape[1];
        let sum = |index: usize| -> f32 {
            (0..rank).map(|r| b[index / width * rank + r] * a[r * width + index % width]).sum()
        };
        let expected: Vec<f32> = weight.iter().enumerate().map(|(index, w)| w + scale * sum(index)).collect();
        assert_close(&now, &expected, 1e-6, name);
        changed += 1;
    }
    assert_eq!(changed, 2);
    // An adapter that brings rows of its own: the configuration counts them.
    let out = merged(sharded_bin(&golden("gqa-untied"), 30_000).path(), &[&golden("peft/grown")], &KEEP);
    assert_eq!(read_json(&out.path().join("config.json"))["vocab_size"], 101);
}

#[test]
fn seed_001_merge_to_pth() {
    for name in ["mha-untied", "gqa-tied"] {
        let original = read_tensors(&golden(name));
        for max_shard_bytes in [usize::MAX, 40_000] {
            let source = sharded_bin(&golden(name), max_shard_bytes);
            assert_eq!(
                TensorFolder::open_model(source.path()).unwrap().files().len() > 1,
                max_shard_bytes < usize::MAX
            );
            let folder = tempfile::tempdir().unwrap();
            let (meta, back) = (folder.path().join("meta"), folder.path().join("hf"));
            converted(source.path(), &meta, Form::Pth, None);
            assert!(meta.join("consolidated.00.pth").is_file());
            let parameters = read_json(&meta.join("params.json"));
            assert_eq!(
                (&parameters["dim"], &parameters["n_layers"]),
                (&json!(original["model.norm.weight"].0[0]), &json!(2))
            );
            converted(&meta, &back, Form::Safetensors, None);
            assert!(read_tensors(&back) == original, "{name}");
            // As many files as the key and value heads allow.
            let counts = if name == "mha-untied" { &[2, 4][..] } else { &[2] };
            for &count in counts {
                let (meta, back) = (folder.path().join("parts"), folder.path().join("joined"));
                converted(source.path(), &meta, Form::PthParts(count), None);
                converted(&meta, &back, Form::Safetensors, None);
                assert!(read_tensors(&back) == original, "{name} in {count}");
                [meta, back].iter().for_each(|folder| std::fs::remove_dir_all(folder).unwrap());
            }
        }
    }
}

#[test]
fn seed_001_multi_adapter_merge() {
    let base = golden("gqa-untied");
    let (first, second) = (golden("peft/dora"), golden("peft/patterns"));
    let together = merged(&base, &[&first, &second], &KEEP);
    // Each changes the weights as they were before; what both change is the sum.
    let [base, one, other, sum] = [
        read_tensors(&base),
        read_tensors(merged(&base, &[&first], &KEEP).path()),
        read_tensors(merged(&base, &[&second], &KEEP).path()),
        read_tensors(together.path()),
    ];
    for (name, (_, base)) in &base {
        let expected: Vec<f32> = base
            .iter()
            .zip(&one[name].1)
            .zip(&other[name].1)
            .map(|((base, one), other)| one + other - base)
            .collect();
        assert_close(&sum[name].1, &expected, 1e-6, name);
    }
}

#[test]
fn seed_001_meta_to_hf_convert() {
    let folder = tempfile::tempdir().unwrap();
    let (meta, hf) = (folder.path().join("meta"), folder.path().join("hf"));
    converted(&luban("plain.pth"), &meta, Form::Pth, None);
    for source in [luban("plain.pth"), meta] {
        converted(&source, &hf, Form::Safetensors, None);
        let model = open_f32(&hf, Rest::Frozen);
        assert_eq!(model.config().family, Family::Llama, "pairs lie in halves now");
        check_luban(&model);
        std::fs::remove_dir_all(&hf).unwrap();
    }
}

/// The recorded model in bf16, in one file or in shards.
fn in_bf16(base: &Path, max_shard_bytes: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tensors = read_tensors(base);
    let info = |(name, (shape, _)): (&String, &(Vec<usize>, Vec<f32>))| TensorInfo {
        name: name.clone(),
        dtype: Dtype::Bf16,
        shape: shape.clone(),
    };
    let infos: Vec<TensorInfo> = tensors.iter().map(info).collect();
    let options = WriteOptions { max_shard_bytes, ..WriteOptions::default() };
    write_safetensors(folder.path(), &options, &infos, |index, sink| {
        let values = &tensors[&infos[index].name].1;
        sink.write(&values.iter().flat_map(|value| value.to_le_bytes()[2..].to_vec()).collect::<Vec<u8>>())
    })
    .unwrap();
    let mut config: Value = read_json(&base.join("config.json"));
    config["dtype"] = "bfloat16".into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn seed_003_merge_llama3() {
    let adapter = golden("gqa-untied-lora");
    let mut outputs = Vec::new();
    for max_shard_bytes in [usize::MAX, 20_000] {
        let base = in_bf16(&golden("gqa-untied"), max_shard_bytes);
        assert_eq!(base.path().join("model.safetensors.index.json").is_file(), max_shard_bytes < usize::MAX);
        let out = merged(base.path(), &[&adapter], &MergeOptions { max_shard_bytes, ..KEEP });
        let file = SafetensorsFolder::open(out.path()).unwrap();
        assert!(file.tensors().all(|info| info.dtype == Dtype::Bf16), "the base's type stays");
        assert_eq!(read_json(&out.path().join("config.json"))["dtype"], "bfloat16");
        let exact = merged(base.path(), &[&adapter], &MergeOptions { dtype: Some(Dtype::F32), ..KEEP });
        for (name, (_, exact)) in read_tensors(exact.path()) {
            let rounded = file.tensor(&name).unwrap().bytes.as_chunks::<2>().0;
            for (rounded, exact) in rounded.iter().zip(&exact) {
                let rounded = f32::from_bits(u32::from(u16::from_le_bytes(*rounded)) << 16);
                assert!((rounded - exact).abs() <= exact.abs() / 256.0, "{name}: {rounded} {exact}");
            }
        }
        let bytes = |name: &str| file.tensor(name).unwrap().bytes.to_vec();
        outputs.push(
            file.names()
                .map(|name| (name.to_owned(), bytes(name)))
                .collect::<std::collections::BTreeMap<_, _>>(),
        );
    }
    assert!(outputs[0] == outputs[1], "the same in one file and in shards");
}

#[test]
fn seed_003_gguf_export() {
    let config = Config {
        vocab_size: 64,
        hidden_size: 64,
        intermediate_size: 128,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        max_position_embeddings: 64,
        initializer_range: 0.2,
        ..Config::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let hf = folder.path().join("hf");
    std::fs::create_dir(&hf).unwrap();
    save_folder(&Model::zeros(config, Precision::F32).initialize(5), None, &hf, usize::MAX).unwrap();
    let prompt = [3, 17, 5, 22, 9, 9, 28, 1];
    let expected = log_probabilities(&open_f32(&hf, Rest::Frozen), &prompt).concat();
    for (mixture, dtype, bound) in [
        (Mixture::F16, Dtype::F16, 2e-3),
        (Mixture::Q8_0, Dtype::Q8_0, 0.02),
        (Mixture::Q4_0, Dtype::Q4_0, 0.4),
    ] {
        let path = folder.path().join(format!("{}.gguf", mixture.name()));
        converted(&hf, &path, Form::Gguf, Some(mixture));
        assert_eq!(std::fs::read(&path).unwrap()[..4], *b"GGUF");
        let file = Gguf::open(&path).unwrap();
        assert_eq!(file.get_str("general.architecture").unwrap(), Some("llama"));
        assert_eq!(file.get_usize("llama.block_count").unwrap(), Some(2));
        assert_eq!(file.get_usize("llama.attention.head_count_kv").unwrap(), Some(2));
        let query = file.tensor("blk.1.attn_q.weight").unwrap().info;
        assert_eq!((query.dtype, &query.shape[..]), (dtype, &[64, 64][..]));
        let norm = file.tensor("output_norm.weight").unwrap().info;
        assert_eq!((norm.dtype, &norm.shape[..]), (Dtype::F32, &[64][..]));
        let model = open(&path, Precision::F32, Rest::Frozen).unwrap().model;
        let found = log_probabilities(&model, &prompt).concat();
        let furthest = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        assert!(furthest < bound * largest, "{}: {furthest} of {largest}", mixture.name());
    }
}
