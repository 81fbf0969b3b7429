//! `danlu info` and `danlu convert` as a user types them.
#![allow(clippy::unwrap_used)]

mod common;

use common::{golden, run, with_model};

#[test]
fn a_model_becomes_a_gguf_file_and_talks_the_same() {
    let folder = with_model();
    let folder = folder.path();
    let written = run(folder, &["convert", "model", "m.gguf", "--dtype", "f32", "--json"]).json();
    assert_eq!(written["types"][0]["type"], "F32");
    let modelfile = std::fs::read_to_string(folder.join("m.Modelfile")).unwrap();
    assert!(modelfile.starts_with("FROM ./m.gguf\nTEMPLATE") && modelfile.contains("stop \"<|im_end|>\""));
    let answer = |model: &str| {
        let fixed = ["generate", "--json", "--temperature", "0", "--prompt", "车床", "--max-new-tokens", "8"];
        run(folder, &[&fixed[..], &["--model", model]].concat()).json()
    };
    assert_eq!(answer("m.gguf"), answer("model"));
    let info = run(folder, &["info", "m.gguf", "--json"]).json();
    assert_eq!((&info["container"], &info["config"]["family"]), (&"GGUF version 3".into(), &"Llama".into()));
    assert!(info["use"].as_array().unwrap().contains(&"chat".into()));
    assert!(run(folder, &["info", "m.gguf"]).stdout.contains("danlu chat"));
}

#[test]
fn mistakes_are_named_and_nothing_is_overwritten() {
    let folder = with_model();
    let folder = folder.path();
    common::copy_folder(&golden("gqa-untied-lora"), &folder.join("adapter"));
    std::fs::write(folder.join("there.gguf"), "mine").unwrap();
    run(folder, &["convert", "model", "there.gguf"]).is_refused("`there.gguf` is there already");
    assert_eq!(std::fs::read_to_string(folder.join("there.gguf")).unwrap(), "mine");
    run(folder, &["convert", "model", "model"]).is_refused("`model` is there already");
    run(folder, &["convert", "absent", "out"]).is_refused("`absent` does not exist");
    run(folder, &["convert", "model", "x.bin"]).is_refused("`.bin` says too little");
    run(folder, &["convert", "model", "x.safetensors"]).is_refused("is a folder");
    run(folder, &["convert", "model", "out", "--quant", "q4_k_m"]).is_refused("`q4_k_m` is for GGUF files");
    run(folder, &["convert", "adapter", "out"]).is_refused("danlu merge");
    run(folder, &["info", "absent"]).is_refused("`absent` does not exist");
    run(folder, &["info", "there.gguf"]).is_refused("is no model");
    assert!(!folder.join("out").exists());
    let adapter = run(folder, &["info", "adapter", "--json"]).json();
    assert_eq!(adapter["kind"], "adapter");
}
