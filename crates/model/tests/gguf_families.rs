//! GGUF files of the families: the same tensors under GGUF's names and keys are the same model.

use crate::common;

use std::path::Path;

use common::*;
use danlu_formats::SafetensorsFolder;
use danlu_model::{Config, Family, Model, Precision, Rest, RopeScaling, open};

/// A value of a key.
#[derive(Clone)]
enum Entry {
    Whole(u32),
    Number(f32),
    Text(&'static str),
}
use Entry::{Number, Text, Whole};

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A version 3 file with f32 tensors.
fn write(path: &Path, entries: &[(String, Entry)], tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    for (key, value) in entries {
        text(&mut bytes, key);
        match value {
            Whole(value) => bytes.extend([4u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Number(value) => bytes.extend([6u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Text(value) => {
                bytes.extend(8u32.to_le_bytes());
                text(&mut bytes, value);
            }
        }
    }
    let mut offset = 0u64;
    for (name, shape, values) in tensors {
        text(&mut bytes, name);
        bytes.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|size| bytes.extend((*size as u64).to_le_bytes()));
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += (values.len() as u64 * 4).next_multiple_of(32);
    }
    for (_, _, values) in tensors {
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    }
    std::fs::write(path, bytes).unwrap();
}

/// The recorded model `name` as llama.cpp's converter writes it for `architecture`.
fn converted(path: &Path, name: &str, architecture: &str, more: &[(&str, Entry)], factors: Option<Vec<f32>>) {
    let folder = golden("families").join(name);
    let file = SafetensorsFolder::open(&folder).unwrap();
    let interleaved = architecture == "llama";
    let head = if matches!(name, "qwen3" | "llama-rope") { 16 } else { 8 };
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers.", "blk."),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ];
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = file
        .tensors()
        .map(|info| {
            let name = names.iter().fold(info.name.clone(), |name, (from, to)| name.replace(from, to));
            let bytes = file.tensor(&info.name).unwrap().bytes;
            // bfloat16 is the upper half of float32.
            let mut values: Vec<f32> = bytes
                .as_chunks()
                .0
                .iter()
                .map(|bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16))
                .collect();
            if interleaved && (info.name.contains("q_proj") || info.name.contains("k_proj")) {
                let width = values.len() / info.shape[0];
                let halves = values.clone();
                for (row, values) in values.chunks_mut(width).enumerate() {
                    let (start, place) = (row / head * head, row % head);
                    let source = start + place % 2 * head / 2 + place / 2;
                    values.copy_from_slice(&halves[source * width..][..width]);
                }
            }
            (name, info.shape.clone(), values)
        })
        .collect();
    if let Some(factors) = factors {
        tensors.push(("rope_freqs.weight".into(), vec![factors.len()], factors));
    }
    let mut entries = vec![(
        "general.architecture".to_owned(),
        Text(match architecture {
            "qwen2" => "qwen2",
            "qwen3" => "qwen3",
            _ => "llama",
        }),
    )];
    let keys = [
        ("context_length", Whole(64)),
        ("embedding_length", Whole(32)),
        ("block_count", Whole(2)),
        ("feed_forward_length", Whole(40)),
        ("attention.head_count", Whole(4)),
        ("attention.head_count_kv", Whole(2)),
        ("attention.layer_norm_rms_epsilon", Number(1e-6)),
        ("attention.key_length", Whole(head as u32)),
    ];
    for (key, value) in keys.iter().chain(more) {
        entries.push((format!("{architecture}.{key}"), value.clone()));
    }
    write(path, &entries, &tensors);
}

fn assert_same(model: &Model, other: &Model, what: &str) {
    let ids = [3, 17, 5, 22, 9, 9, 28, 1, 14, 2, 30, 11];
    let (found, expected) =
        (log_probabilities(model, &ids).concat(), log_probabilities(other, &ids).concat());
    assert_close(&found, &expected, 1e-5, what);
}

#[test]
fn the_same_weights_in_gguf_are_the_same_model() {
    for (name, architecture, family) in [
        ("llama-bias", "llama", Family::Llama),
        ("qwen2", "qwen2", Family::Qwen2),
        ("qwen3", "qwen3", Family::Qwen3),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        converted(&path, name, architecture, &[], None);
        for rest in [Rest::Frozen, Rest::Trained] {
            let model = open(&path, Precision::F32, rest).unwrap().model;
            assert_eq!(model.config().family, family);
            let other = open(&golden("families").join(name), Precision::F32, rest).unwrap().model;
            assert_same(&model, &other, name);
        }
    }
}

fn scaled(more: &[(&str, Entry)], factors: Option<Vec<f32>>) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    converted(&path, "llama-rope", "llama", more, factors);
    let opened = open(&path, Precision::F32, Rest::Frozen).map_err(|error| error.to_string())?;
    Ok(opened.model.config().clone())
}

#[test]
fn rope_scaling_is_read_from_its_keys_and_from_llama_3s_factors() {
    let linear = [("rope.scaling.type", Text("linear")), ("rope.scaling.factor", Number(4.0))];
    assert_eq!(scaled(&linear, None).unwrap().rope_scaling, RopeScaling::Linear { factor: 4.0 });
    let yarn = [
        ("rope.scaling.type", Text("yarn")),
        ("rope.scaling.factor", Number(4.0)),
        ("rope.scaling.original_context_length", Whole(16)),
    ];
    let RopeScaling::Yarn(yarn) = scaled(&yarn, None).unwrap().rope_scaling else { panic!("no yarn") };
    assert_eq!((yarn.factor, yarn.original_max_position_embeddings, yarn.attention_factor), (4.0, 16, None));

    // As llama.cpp's converter computes them for Llama 3.1 and a base of 500000.
    let factors: Vec<f32> = (0..8)
        .map(|pair| {
            let frequency = 500_000f64.powf(-2.0 * f64::from(pair) / 16.0);
            let wavelength = std::f64::consts::TAU / frequency;
            let (low, high) = (8192.0, 8192.0 / 4.0);
            if wavelength < high {
                1.0
            } else if wavelength > low {
                8.0
            } else {
                let smooth = (8192.0 / wavelength - 1.0) / 3.0;
                (1.0 / ((1.0 - smooth) / 8.0 + smooth)) as f32
            }
        })
        .collect();
    let base = [("rope.freq_base", Number(500_000.0))];
    let RopeScaling::Llama3 { factor, .. } = scaled(&base, Some(factors.clone())).unwrap().rope_scaling
    else {
        panic!("no llama3")
    };
    assert_eq!(factor, 8.0);
    let other = factors.iter().map(|factor| factor * 1.1).collect();
    let error = scaled(&base, Some(other)).unwrap_err();
    assert!(
        error.contains("tensor `rope_freqs.weight`: expected the frequency factors of Llama 3.1"),
        "{error}"
    );
}

#[test]
fn a_sliding_window_makes_it_a_mistral() {
    let config = scaled(&[("attention.sliding_window", Whole(16))], None).unwrap();
    assert_eq!((config.family, config.sliding_window), (Family::Mistral, Some(16)));
}

#[test]
fn what_gguf_asks_for_and_cannot_be_computed_is_refused_by_key() {
    for (key, value, expected) in [
        ("expert_count", Whole(8), "`llama.expert_count`: expected a dense model, found 8 experts"),
        (
            "rope.scaling.type",
            Text("longrope"),
            "`llama.rope.scaling.type`: expected `none`, `linear` or `yarn`",
        ),
    ] {
        let error = scaled(&[(key, value)], None).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
