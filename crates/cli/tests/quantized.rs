//! Quantization while loading, NF4 folders and QLoRA through the program.

use crate::common;

use std::path::Path;

use common::{golden, ids, run, shared, vocabulary, write_model_of};
use danlu_model::Config;
use serde_json::Value;

fn folder(name: &str) -> String {
    golden("bitsandbytes").join(name).display().to_string()
}

fn generated(at: &Path, model: &str, extra: &[&str]) -> Vec<u32> {
    let fixed = ["generate", "--model", model, "--prompt-ids", "3,1,4,1,5", "--max-new-tokens", "12"];
    let ran = run(at, &[&fixed[..], &["--temperature", "0", "--precision", "f32", "--json"], extra].concat());
    ids(&ran.json()["ids"])
}

#[test]
fn four_bits_while_loading_answer_as_the_folder_that_bitsandbytes_wrote() {
    let at = tempfile::tempdir().unwrap();
    let expected = generated(at.path(), &folder("nf4"), &[]);
    assert_eq!(generated(at.path(), &folder("base"), &["--quantization-bit", "4"]), expected);
    assert_ne!(generated(at.path(), &folder("base"), &[]), expected);
    assert_eq!(generated(at.path(), &folder("base"), &["--quantization-bit", "8"]).len(), expected.len());
    for name in ["nf4", "fp4", "int8"] {
        let model = folder(name);
        let ran =
            run(at.path(), &["generate", "--model", &model, "--prompt-ids", "1", "--quantization-bit", "8"]);
        ran.is_refused("is quantized already (bitsandbytes ");
    }
    let ran = run(at.path(), &["generate", "--model", &folder("base"), "--quantization-bit", "5"]);
    ran.is_refused("possible values: 4, 8");
}

#[test]
fn a_folder_is_converted_to_nf4_and_back_and_not_to_gguf() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let (base, theirs) = (folder("base"), folder("nf4"));
    let converted = run(at, &["convert", &base, "nf4", "--quant", "nf4", "--json"]).json();
    let types = converted["types"].as_array().unwrap();
    let nf4 = types.iter().find(|share| share["type"] == "NF4").unwrap();
    assert_eq!(nf4["tensors"], 7);
    let expected = generated(at, &theirs, &[]);
    assert_eq!(generated(at, "nf4", &[]), expected);

    let info = run(at, &["info", "nf4", "--json"]).json();
    assert!(info["container"].as_str().unwrap().ends_with("bitsandbytes NF4, double quantization"), "{info}");
    let back = run(at, &["convert", &theirs, "f32", "--json"]).json();
    assert_eq!(back["types"].as_array().unwrap()[0]["type"], "F32", "{back}");
    assert_eq!(generated(at, "f32", &[]), expected);
    run(at, &["convert", &theirs, "int8.gguf", "--quant", "q8_0", "--json"]).json();

    let refused = run(at, &["convert", &base, "x.gguf", "--quant", "nf4"]);
    refused.is_refused("GGUF has no block type for it");
    run(at, &["convert", &base, "x.pth", "--quant", "nf4"]).is_refused("only Hugging Face folders hold it");
    assert!(!at.join("x.gguf").exists() && !at.join("x.pth").exists());
}

#[test]
fn a_damaged_nf4_folder_is_an_error_that_names_the_tensor() {
    let at = tempfile::tempdir().unwrap();
    let copy = at.path().join("nf4");
    common::copy_folder(&golden("bitsandbytes").join("nf4"), &copy);
    let path = copy.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let renamed = b"gate_proj.weight.absmax";
    let place = bytes.windows(renamed.len()).position(|part| part == renamed).unwrap();
    let mut damaged = bytes.clone();
    damaged[place + renamed.len() - 1] = b'y';
    std::fs::write(&path, damaged).unwrap();
    let ran = run(at.path(), &["generate", "--model", "nf4", "--prompt-ids", "1"]);
    ran.is_refused("gate_proj.weight.absmax`: missing");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(run(at.path(), &["generate", "--model", "nf4", "--prompt-ids", "1"]).code, 2);
}

/// A model whose rows are whole blocks, and questions to learn.
fn write_training(at: &Path, hidden_size: usize, layers: usize) {
    let tokenizer = vocabulary(false);
    let config = Config {
        hidden_size,
        intermediate_size: 2 * hidden_size,
        num_hidden_layers: layers,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: hidden_size / 4,
        max_position_embeddings: 512,
        initializer_range: 0.05,
        ..Config::default()
    };
    write_model_of(&at.join("base"), Some(&tokenizer), config);
    let row = |i: usize| format!("{{\"text\": \"第{i}道工序：车床加工轴，公差{}微米。\"}}", i % 7);
    let rows: Vec<String> = (0..60).map(row).collect();
    std::fs::write(at.join("corpus.jsonl"), rows.join("\n")).unwrap();
    let recipe = "stage: pt\npacking: false\nfinetuning_type: lora\nmodel_name_or_path: base\ndataset: corpus.jsonl\ncutoff_len: 64\n\
                  learning_rate: 0.01\nmax_steps: 30\nper_device_train_batch_size: 4\nlogging_steps: 10\n\
                  save_strategy: 'no'\n";
    std::fs::write(at.join("recipe.yaml"), recipe).unwrap();
}

fn recipe(at: &Path, verb: &str, extra: &[&str]) -> Value {
    run(at, &[&[verb, "recipe.yaml", "--json"], extra].concat()).json()
}

/// Losses of the log, first to last.
fn losses(run: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("trainer_log.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line["loss"].as_f64()).collect()
}

#[test]
fn the_plan_of_qlora_is_within_a_tenth_of_the_measured_peak() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    write_training(at, 512, 8);
    let row = |i: usize| {
        format!("{{\"text\": \"{}\"}}", format!("第{i}道工序：车床加工轴，公差{i}微米。").repeat(24))
    };
    std::fs::write(at.join("long.jsonl"), (0..20).map(row).collect::<Vec<_>>().join("\n")).unwrap();
    let mut weights = Vec::new();
    let dora = &["use_dora=true", "lora_dropout=0.1"][..];
    for (bits, more) in
        [("quantization_bit=4", &[][..]), ("load_in_8bit=true", dora), ("load_in_kbits=16", &[])]
    {
        let output = format!("output_dir={}", bits.replace('=', "-"));
        let fixed = ["dataset=long.jsonl", "cutoff_len=512", "max_steps=2", "precision=f32"];
        let extra = [&fixed[..], &[bits, output.as_str()], more].concat();
        let memory = recipe(at, "plan", &extra)["memory"].clone();
        weights.push(memory["weights"].as_u64().unwrap());
        let planned = memory["peak"].as_f64().unwrap() / 1_048_576.0;
        let measured = recipe(at, "train", &extra)["peak_rss_mb"].as_f64().unwrap();
        println!("{bits}: planned {planned:.1} MB, measured {measured:.1} MB");
        assert!((planned / measured - 1.0).abs() <= 0.1, "{bits}: {planned:.1} against {measured:.1} MB");
    }
    assert!(weights[0] < weights[1] && weights[1] < weights[2], "{weights:?}");
}

#[test]
fn qlora_on_nf4_learns_and_its_adapter_is_used_and_merged() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    write_training(at, 256, 2);
    let before = std::fs::read(at.join("base/model.safetensors")).unwrap();
    recipe(at, "train", &["quantization_bit=4", "output_dir=four"]);
    let losses = losses(&at.join("four"));
    assert!(losses.last().unwrap() < &(0.5 * losses[0]), "{losses:?}");
    assert!(std::fs::read(at.join("base/model.safetensors")).unwrap() == before);
    // The adapter is used on the model that it was trained on, quantized or not.
    for bits in [&[][..], &["--quantization-bit", "4"]] {
        let fixed =
            ["generate", "--model", "four", "--prompt", "第", "--raw", "--max-new-tokens", "4", "--json"];
        assert_eq!(run(at, &[&fixed[..], bits].concat()).code, 0);
    }
    // Merged into the original; into a quantized folder only when asked for another type.
    run(at, &["convert", "base", "base4", "--quant", "nf4", "--json"]).json();
    let merge = |base: &str, extra: &[&str]| {
        let fixed = ["merge", "--base", base, "--adapter", "four", "--out", "merged"];
        run(at, &[&fixed[..], extra].concat())
    };
    merge("base4", &[]).is_refused("merging would round it again: give `--dtype bf16`");
    assert_eq!(merge("base4", &["--dtype", "bf16"]).code, 0);
}

#[test]
fn quantizing_while_loading_is_refused_where_it_cannot_be() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    write_training(at, 64, 1);
    let train = |extra: &[&str]| run(at, &[&["train", "recipe.yaml", "output_dir=out"], extra].concat());
    train(&["finetuning_type=full", "quantization_bit=4"])
        .is_refused("`quantization_bit` goes with `finetuning_type: lora`");
    train(&["quantization_bit=3"]).is_refused("`quantization_bit` must be 4 or 8, found `3`");
    train(&["quantization_bit=4", "quantization_type=fp4"]).is_refused("four bits are NF4");
    run(at, &["convert", "base", "base4", "--quant", "nf4", "--json"]).json();
    let again = train(&["model_name_or_path=base4", "load_in_kbits=8"]);
    again.is_refused("is quantized already (bitsandbytes NF4, double quantization)");
    train(&["model_name_or_path=base4", "finetuning_type=full"])
        .is_refused("`base4` is quantized (bitsandbytes NF4");
    run(at, &["convert", "base", "base.gguf", "--quant", "q8_0", "--json"]).json();
    train(&["model_name_or_path=base.gguf", "finetuning_type=full"])
        .is_refused("`base.gguf` is quantized (Q8_0)");
    // As it is, it is trained on.
    assert_eq!(train(&["model_name_or_path=base4", "max_steps=2", "load_in_kbits=16"]).code, 0);
}

/// The perplexity of SmolLM2 in 8 bits is within 1 % of that in f16.
#[test]
fn seeds_001_eight_bit_load_of_a_real_model_keeps_its_perplexity() {
    let Some(shared) = shared() else { return };
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let gguf = std::fs::read_dir(shared.join("checkpoints/smollm2-135m-instruct")).unwrap();
    let gguf = gguf
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "gguf"));
    let gguf = gguf.unwrap().display().to_string();
    run(at, &["convert", &gguf, "f16", "--dtype", "f16", "--json"]).json();
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    std::fs::write(at.join("text.txt"), text.chars().take(1000).collect::<String>()).unwrap();
    let perplexity = |extra: &[&str]| {
        let fixed = ["eval", "ppl", "--model", "f16", "--text", "text.txt", "--precision", "f32", "--json"];
        run(at, &[&fixed[..], extra].concat()).json()["perplexity"].as_f64().unwrap()
    };
    let plain = perplexity(&[]);
    let [eight, four] = ["8", "4"].map(|bits| perplexity(&["--quantization-bit", bits]));
    println!("f16 {plain:.4}, 8 bits {eight:.4}, 4 bits {four:.4}");
    assert!((eight / plain - 1.0).abs() < 0.01, "{plain} {eight}");
    assert!((four / plain - 1.0).abs() < 0.4, "{plain} {four}");
}
