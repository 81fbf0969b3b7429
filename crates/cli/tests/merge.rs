//! Merging adapters, and finding the model that an adapter belongs to.

use crate::common;

use std::path::Path;

use common::{copy_folder, golden, run, shared, vocabulary};
use serde_json::{Value, json};

/// A folder with the model `base` and the recorded adapters `names`, which name it by this path.
fn with_adapters(names: &[&str], path: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        copy_folder(&golden("peft").join(name), &folder.path().join(name));
        let recording = read(&folder.path().join(name).join("golden.json"));
        copy_folder(&golden(recording["base"].as_str().unwrap()), &folder.path().join("base"));
        set_base(folder.path(), name, path);
    }
    folder
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn set_base(folder: &Path, name: &str, base: &str) {
    let path = folder.join(name).join("adapter_config.json");
    let mut config = read(&path);
    config["base_model_name_or_path"] = base.into();
    std::fs::write(path, config.to_string()).unwrap();
}

fn generate(folder: &Path, more: &[&str]) -> common::Ran {
    let fixed = ["generate", "--json", "--temperature", "0", "--prompt-ids", "5,6", "--max-new-tokens", "8"];
    run(folder, &[&fixed[..], &["--top-logprobs", "2"], more].concat())
}

#[test]
fn a_merged_model_answers_as_its_base_and_adapters_do() {
    let folder = with_adapters(&["dora", "patterns"], "../base");
    let path = folder.path();
    let arguments =
        ["merge", "--base", "base", "--adapter", "dora,patterns", "--out", "merged", "--verify", "--json"];
    let result = run(path, &arguments).json();
    assert_eq!((&result["model"], &result["dtype"]), (&json!("merged"), &json!("F32")));
    assert_eq!((&result["untied"], &result["tokenizer_of"]), (&json!(false), &Value::Null));
    let verified = &result["verified"];
    assert_eq!(verified["same_best"], verified["tokens"]);
    assert!(verified["largest_difference"].as_f64().unwrap() < 1e-4, "{verified}");
    let merged = generate(path, &["--model", "merged"]).json();
    let separate = ["--adapter", "dora", "--adapter", "patterns"];
    for arguments in [
        &["--model", "base", "--adapter", "dora,patterns"][..],
        &separate,
        &["--model", "dora", "--adapter", "patterns"],
    ] {
        assert_eq!(generate(path, arguments).json()["ids"], merged["ids"], "{arguments:?}");
    }
    assert_ne!(generate(path, &["--adapter", "dora"]).json()["top_logprobs"], merged["top_logprobs"]);
    run(path, &arguments).is_refused("`merged` is there already: choose another `--out`");
    let again = [&arguments[..], &["--overwrite", "--dtype", "bf16"]].concat();
    assert_eq!(run(path, &again).json()["dtype"], "BF16");
    assert_eq!(read(&path.join("merged/config.json"))["dtype"], "bfloat16");
    run(path, &["merge", "--base", "base", "--adapter", "dora", "--out", "base", "--overwrite"])
        .is_refused("`base` holds `base`, which is read");
    let entries =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(entries.into_iter().all(|name| !name.starts_with('.')), "nothing is left beside");
}

#[test]
fn the_summary_says_what_changed() {
    let folder = with_adapters(&["saved-head"], "../base");
    let ran = run(folder.path(), &["merge", "--adapter", "saved-head", "--out", "merged"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("base + saved-head → merged\n3 of 21 tensors changed"), "{}", ran.stdout);
    assert!(ran.stdout.contains("`tie_word_embeddings` is false now"), "{}", ran.stdout);
    let folder = with_adapters(&["grown-tied"], "../base");
    let ran = run(folder.path(), &["merge", "--adapter", "grown-tied", "--out", "merged"]);
    assert!(ran.stdout.contains("vocabulary: 97 → 101 rows"), "{}", ran.stdout);
}

#[test]
fn a_tokenizer_that_does_not_fit_is_refused() {
    let folder = with_adapters(&["layers"], "../base");
    vocabulary(false).save(&folder.path().join("layers")).unwrap();
    let arguments = ["merge", "--adapter", "layers", "--out", "merged"];
    run(folder.path(), &arguments).is_refused("the tokenizer of `layers` gives text ids up to ");
    generate(folder.path(), &["--adapter", "layers"])
        .is_refused("the tokenizer of `layers` gives text ids up to ");
    assert!(!folder.path().join("merged").exists());
}

#[test]
fn a_missing_base_is_told_with_the_command_that_gets_it() {
    let folder = with_adapters(&["layers"], "base");
    let path = folder.path();
    let at_hand = generate(path, &["--adapter", "layers"]).json();
    set_base(path, "layers", "../base");
    assert_eq!(generate(path, &["--model", "layers"]).json(), at_hand);
    set_base(path, "layers", "Org/Model-7B");
    let hint = "(looked for `Org/Model-7B` and `layers/Org/Model-7B`): get it with `danlu download model \
                Org/Model-7B`, or give that model with `--model MODEL --adapter layers`";
    generate(path, &["--adapter", "layers"]).is_refused(hint);
    run(path, &["merge", "--adapter", "layers", "--out", "merged"]).is_refused(hint);
    // Where the command would put it.
    copy_folder(&path.join("base"), &path.join("Org/Model-7B"));
    assert_eq!(generate(path, &["--adapter", "layers"]).json(), at_hand);
    set_base(path, "layers", "/gone");
    generate(path, &["--adapter", "layers"])
        .is_refused("`layers` is an adapter of `/gone`, which is not here: give");
    set_base(path, "layers", "");
    generate(path, &["--adapter", "layers"]).is_refused("does not name its model");
    generate(path, &["--adapter", "base"]).is_refused("adapter_config.json");
}

#[test]
fn a_quantized_base_is_merged_only_when_asked() {
    let Some(shared) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = shared.join("checkpoints/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    let adapter = shared.join("checkpoints/smollm-135m-lora-medical");
    let (base, adapter) = (base.to_str().unwrap(), adapter.to_str().unwrap());
    let arguments = ["merge", "--base", base, "--adapter", adapter, "--out", "merged", "--json"];
    run(folder.path(), &arguments).is_refused("give `--dtype bf16` (or f16, f32)");
    let result = run(folder.path(), &[&arguments[..], &["--dtype", "bf16"]].concat()).json();
    assert_eq!((&result["changed"], &result["untied"]), (&json!(60), &json!(false)));
    let prompt =
        ["generate", "--model", "merged", "--prompt", "What is a fever?", "--max-new-tokens", "4", "--json"];
    assert!(!run(folder.path(), &prompt).json()["text"].as_str().unwrap().is_empty());
}
