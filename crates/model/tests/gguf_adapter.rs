//! Adapters as GGUF files, read back and compared with what PEFT's file says.

use crate::common;

use std::path::PathBuf;

use common::*;
use danlu_formats::{Gguf, SafetensorsFolder};
use danlu_model::{Config, write_gguf_adapter};

fn config(name: &str) -> Config {
    Config::read(&golden(name).join("config.json")).unwrap()
}

fn kind(name: &str) -> PathBuf {
    golden("peft").join(name)
}

fn values(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The product that llama.cpp adds to a weight: B·A · alpha / rank.
fn product(a: &[f32], b: &[f32], rank: usize, scale: f32) -> Vec<Vec<f32>> {
    let inputs = a.len() / rank;
    let row = |b: &[f32]| {
        let sum = |input: usize| (0..rank).map(|k| b[k] * a[k * inputs + input]).sum::<f32>() * scale;
        (0..inputs).map(sum).collect()
    };
    b.chunks_exact(rank).map(row).collect()
}

#[test]
fn products_are_those_of_the_adapter_with_rotated_rows_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("adapter.gguf");
    write_gguf_adapter(&config("gqa-untied"), &kind("patterns"), &out).unwrap();
    let gguf = Gguf::open(&out).unwrap();
    for (key, expected) in [
        ("general.architecture", "llama"),
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("general.name", "patterns"),
    ] {
        assert_eq!(gguf.get_str(key).unwrap(), Some(expected));
    }
    let alpha = gguf.get_f32("adapter.lora.alpha").unwrap().unwrap();
    assert_eq!(alpha, 5.0);
    let source = SafetensorsFolder::open_named(kind("patterns"), "adapter_model").unwrap();
    assert_eq!(gguf.tensors().count(), source.names().count());
    // Rank and alpha of each by its patterns; the scale is alpha / √rank.
    for (module, name, rank, own_alpha, head) in [
        ("model.layers.0.self_attn.q_proj", "blk.0.attn_q", 3, 2.0, Some(16)),
        ("model.layers.1.self_attn.k_proj", "blk.1.attn_k", 1, 5.0, Some(16)),
        ("model.layers.1.mlp.up_proj", "blk.1.ffn_up", 2, 5.0, None),
        ("model.layers.0.mlp.down_proj", "blk.0.ffn_down", 3, 7.0f32, None),
    ] {
        let [a, b] = ["lora_A", "lora_B"].map(|matrix| {
            values(source.tensor(&format!("base_model.model.{module}.{matrix}.weight")).unwrap().bytes)
        });
        let expected = product(&a, &b, rank, own_alpha / (rank as f32).sqrt());
        let [a, b] = ["lora_a", "lora_b"].map(|matrix| {
            let tensor = gguf.tensor(&format!("{name}.weight.{matrix}")).unwrap();
            assert_eq!(tensor.info.shape[usize::from(matrix == "lora_b")], rank);
            values(tensor.bytes)
        });
        let found = product(&a, &b, rank, alpha / rank as f32);
        for (row, expected) in expected.iter().enumerate() {
            let place = head.map_or(row, |head| {
                let (start, row) = (row / head * head, row % head);
                start + if row < head / 2 { 2 * row } else { 2 * (row - head / 2) + 1 }
            });
            assert_close(&found[place], expected, 1e-5, name);
        }
    }
}

#[test]
fn other_architectures_keep_the_order_of_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapter");
    std::fs::create_dir(&adapter).unwrap();
    let source = SafetensorsFolder::open_named(kind("biases"), "adapter_model").unwrap();
    let infos: Vec<_> = source.tensors().filter(|info| info.name.contains("lora_")).cloned().collect();
    let options = danlu_formats::WriteOptions { base_name: "adapter_model".into(), ..Default::default() };
    danlu_formats::write_safetensors(&adapter, &options, &infos, |index, sink| {
        sink.write(source.tensor(&infos[index].name).unwrap().bytes)
    })
    .unwrap();
    std::fs::copy(kind("biases").join("adapter_config.json"), adapter.join("adapter_config.json")).unwrap();
    let out = folder.path().join("adapter.gguf");
    write_gguf_adapter(&config("families/qwen2"), &adapter, &out).unwrap();
    let gguf = Gguf::open(&out).unwrap();
    assert_eq!(gguf.get_str("general.architecture").unwrap(), Some("qwen2"));
    let stored = source.tensor("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight").unwrap();
    assert_eq!(gguf.tensor("blk.0.attn_q.weight.lora_b").unwrap().bytes, stored.bytes);
}

#[test]
fn what_gguf_adapters_do_not_have_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("adapter.gguf");
    for (base, name) in [
        ("gqa-untied", "dora"),
        ("gqa-tied", "embedding"),
        ("gqa-tied", "head"),
        ("gqa-tied", "tokens"),
        ("gqa-tied", "saved-modules"),
        ("families/qwen2", "biases"),
    ] {
        let error = write_gguf_adapter(&config(base), &kind(name), &out).unwrap_err().to_string();
        assert!(error.contains("in a way that GGUF adapters do not have"), "{name}: {error}");
    }
    assert!(!out.exists());
}
