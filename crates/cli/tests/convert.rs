//! `danlu info` and `danlu convert` as a user types them; what a conversion takes and leaves is in `convert_limits.rs`.

use crate::common;

use std::path::Path;

use common::{TEXT, copy_folder, golden, run, shared, with_model};
use danlu_formats::{Gguf, ImportanceMatrix, PytorchFolder};
use danlu_model::{Config, Model, Precision, save_folder};
use serde_json::json;

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
fn every_leg_of_a_round_trip_keeps_every_value() {
    let folder = with_model();
    let folder = folder.path();
    std::fs::write(folder.join("text.txt"), TEXT).unwrap();
    let perplexity = |model: &str| {
        let ran = run(
            folder,
            &["eval", "ppl", "--model", model, "--text", "text.txt", "--precision", "f32", "--json"],
        );
        ran.json()["perplexity"].as_f64().unwrap()
    };
    let read = |path: &str| std::fs::read(folder.join(path).join("model.safetensors")).unwrap();
    for dtype in ["f32", "f16"] {
        let there =
            |from: &str, to: &str| run(folder, &["convert", from, to, "--dtype", dtype, "--json"]).json();
        let [first, back, again, last] = ["1.gguf", "2", "3.gguf", "4"].map(|name| format!("{dtype}-{name}"));
        there("model", &first);
        there(&first, &back);
        there(&back, &again);
        there(&again, &last);
        assert_eq!(read(&back), read(&last));
        let files = [&first, &again].map(|path| Gguf::open(folder.join(path)).unwrap());
        assert_eq!(files[0].tensors().len(), files[1].tensors().len());
        for known in files[0].tensors() {
            let bytes = files.each_ref().map(|file| file.tensor(&known.name).unwrap().bytes);
            assert_eq!(bytes[0], bytes[1], "{}", known.name);
        }
        if dtype == "f32" {
            let legs = ["model", &first, &back, &again, &last].map(perplexity);
            assert!(legs.iter().all(|leg| leg == &legs[0]), "{legs:?}");
        }
    }
}

#[test]
fn mistakes_are_named_and_nothing_is_overwritten() {
    let folder = with_model();
    let folder = folder.path();
    copy_folder(&golden("gqa-untied-lora"), &folder.join("adapter"));
    std::fs::write(folder.join("there.gguf"), "mine").unwrap();
    run(folder, &["convert", "model", "there.gguf"]).is_refused("`there.gguf` is there already");
    assert_eq!(std::fs::read_to_string(folder.join("there.gguf")).unwrap(), "mine");
    run(folder, &["convert", "model", "model"]).is_refused("`model` is there already");
    run(folder, &["convert", "absent", "out"]).is_refused("`absent` does not exist");
    run(folder, &["convert", "model", "x.bin"]).is_refused("`.bin` says too little");
    run(folder, &["convert", "model", "x.safetensors"]).is_refused("is a folder");
    run(folder, &["convert", "model", "out", "--quant", "q4_k_m"]).is_refused("`q4_k_m` is for GGUF files");
    run(folder, &["convert", "adapter", "out"]).is_refused("danlu merge");
    run(folder, &["convert", "adapter", "a.gguf", "--quant", "q8_0"])
        .is_refused("an adapter is written in f32");
    run(folder, &["convert", "adapter", "a.gguf"]).is_refused("is an adapter");
    run(folder, &["convert", "model", "m.gguf", "--base", "model"]).is_refused("IN is a model itself");
    let quant = ["convert", "model", "m.gguf", "--quant", "q4_0"];
    run(folder, &[&quant[..], &["--imatrix", "there.gguf"]].concat())
        .is_refused("`there.gguf` is not a valid importance");
    run(folder, &[&quant[..], &["--calibration", "absent.txt"]].concat()).is_refused("absent.txt");
    run(folder, &["convert", "model", "m.gguf", "--imatrix", "there.gguf"]).is_refused("--quant");
    // Before IN, which could be a download.
    run(folder, &["convert", "absent", "m", "--quant", "q4_0", "--imatrix", "i"])
        .is_refused("is for GGUF files");
    for (imatrix, sentence) in [
        ("there.gguf", "`there.gguf` is there already"),
        ("./m.gguf", "`./m.gguf` would be written twice"),
        ("adapter/../m.Modelfile", "would be written twice"),
    ] {
        let more = ["--calibration", "absent.txt", "--write-imatrix", imatrix];
        run(folder, &[&quant[..], &more].concat()).is_refused(sentence);
    }
    for arguments in [["m.pth", "pth"], ["m", "safetensors"]] {
        let [output, to] = arguments;
        run(folder, &["convert", "model", output, "--to", to, "--parts", "2"])
            .is_refused("is for Meta's folder");
    }
    run(folder, &["convert", "model", "out", "--to", "pth", "--parts", "8"])
        .is_refused("the model's 4 heads do not divide into 8 parts");
    run(folder, &["convert", "model", "x.Modelfile", "--to", "gguf"]).is_refused("would be written twice");
    assert_eq!(std::fs::read_to_string(folder.join("there.gguf")).unwrap(), "mine");
    assert!(!folder.join("m.gguf").exists() && !folder.join("a.gguf").exists());
    run(folder, &["info", "absent"]).is_refused("`absent` does not exist");
    run(folder, &["info", "there.gguf"]).is_refused("is no model");
    assert!(!folder.join("out").exists());
    let adapter = run(folder, &["info", "adapter", "--json"]).json();
    assert_eq!(adapter["kind"], "adapter");
}

#[test]
fn a_modelfile_that_is_there_is_kept() {
    let folder = with_model();
    let folder = folder.path();
    std::fs::write(folder.join("m.Modelfile"), "FROM ./m.gguf\nSYSTEM mine\n").unwrap();
    let written = run(folder, &["convert", "model", "m.gguf", "--json"]).json();
    assert!(
        written["notes"].to_string().contains("`m.Modelfile` was there already and is kept"),
        "{written}"
    );
    let kept = std::fs::read_to_string(folder.join("m.Modelfile")).unwrap();
    assert_eq!(kept, "FROM ./m.gguf\nSYSTEM mine\n");
}

/// The bytes of a tensor.
fn tensor(path: &Path, name: &str) -> Vec<u8> {
    Gguf::open(path).unwrap().tensor(name).unwrap().bytes.to_vec()
}

#[test]
fn an_importance_matrix_is_measured_written_and_read_in_both_forms() {
    let folder = with_model();
    let folder = folder.path();
    std::fs::write(folder.join("text.txt"), TEXT.repeat(8)).unwrap();
    let quant = |out: &str, more: &[&str]| {
        let fixed = ["convert", "model", out, "--quant", "q4_0", "--json"];
        run(folder, &[&fixed[..], more].concat()).json()
    };
    quant("plain.gguf", &[]);
    let measured = quant("measured.gguf", &["--calibration", "text.txt", "--write-imatrix", "i.gguf"]);
    let note = "the importance matrix weighs the columns of 14 of 14 matrices";
    assert!(measured["notes"].as_array().unwrap().contains(&note.into()), "{measured}");
    quant("read.gguf", &["--imatrix", "i.gguf"]);
    // The older form, as `llama-imatrix` wrote it: sums over two calls.
    let matrix = ImportanceMatrix::open(folder.join("i.gguf")).unwrap();
    assert_eq!((matrix.datasets.as_slice(), matrix.tensors.len()), (&["text.txt".to_owned()][..], 14));
    let mut old = (matrix.tensors.len() as i32).to_le_bytes().to_vec();
    for (name, own) in &matrix.tensors {
        old.extend((name.len() as i32).to_le_bytes());
        old.extend(name.as_bytes());
        old.extend([2, own.sums.len() as i32].map(i32::to_le_bytes).concat());
        old.extend(own.means().iter().flat_map(|mean| (mean * 2.0).to_le_bytes()));
    }
    std::fs::write(
        folder.join("i.dat"),
        [&old[..], &7i32.to_le_bytes(), &8i32.to_le_bytes(), b"text.txt"].concat(),
    )
    .unwrap();
    quant("old.gguf", &["--imatrix", "i.dat"]);
    for name in ["blk.0.attn_q.weight", "blk.1.ffn_down.weight", "blk.1.ffn_up.weight"] {
        let [plain, measured, read, old] = ["plain", "measured", "read", "old"]
            .map(|file| tensor(&folder.join(format!("{file}.gguf")), name));
        assert!(measured == read && read == old && plain != read, "{name}");
    }
    assert_eq!(
        tensor(&folder.join("plain.gguf"), "token_embd.weight"),
        tensor(&folder.join("read.gguf"), "token_embd.weight")
    );
    let gguf = Gguf::open(folder.join("old.gguf")).unwrap();
    assert_eq!(gguf.get_str("quantize.imatrix.dataset").unwrap(), Some("text.txt"));
    assert_eq!(gguf.get_usize("quantize.imatrix.chunks_count").unwrap(), Some(7));
    // One of another model, and a damaged one.
    std::fs::write(folder.join("cut.dat"), &old[..old.len() - 5]).unwrap();
    let refused = |file: &str, sentence: &str| {
        run(folder, &["convert", "model", "x.gguf", "--quant", "q4_0", "--imatrix", file])
            .is_refused(sentence);
    };
    refused("cut.dat", "it ends too early");
    let mut other = matrix.clone();
    other.tensors.get_mut("blk.0.attn_q.weight").unwrap().sums.pop();
    other.write(folder.join("other.gguf")).unwrap();
    refused("other.gguf", "it is of another model");
    assert!(!folder.join("x.gguf").exists());
}

#[test]
fn calibration_makes_a_real_model_better() {
    let Some(shared) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = shared.join("checkpoints/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    let model = model.to_str().unwrap();
    let text = std::fs::read_to_string(shared.join("datasets/llama-factory/wiki_demo.txt")).unwrap();
    let part = |from: usize, to: usize| text.chars().skip(from).take(to - from).collect::<String>();
    std::fs::write(folder.join("measured.txt"), part(0, 2000)).unwrap();
    std::fs::write(folder.join("calibration.txt"), part(10_000, 12_500)).unwrap();
    let perplexity = |more: &[&str]| {
        let fixed = ["convert", model, "m.gguf", "--quant", "q3_k_m", "--json"];
        run(folder, &[&fixed[..], more].concat()).json();
        let found =
            run(folder, &["eval", "ppl", "--model", "m.gguf", "--text", "measured.txt", "--json"]).json();
        std::fs::remove_file(folder.join("m.gguf")).unwrap();
        found["perplexity"].as_f64().unwrap()
    };
    let (plain, calibrated) = (perplexity(&[]), perplexity(&["--calibration", "calibration.txt"]));
    println!("Q3_K_M: perplexity {plain:.3}, calibrated {calibrated:.3}");
    assert!(calibrated < 0.99 * plain, "{plain} {calibrated}");
}

#[test]
fn metas_folder_is_cut_for_the_processes_that_run_in_parallel() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // Llama 2's code cuts the embedding by columns, and the last part of the head takes the rest of its rows; Llama 3's,
    // known by the base of its rotations, cuts both by rows.
    for (rope_theta, vocab_size, embedding, head) in
        [(10_000.0, 97, [97, 8], [13, 64]), (500_000.0, 96, [12, 64], [12, 64])]
    {
        let config = Config {
            vocab_size,
            hidden_size: 64,
            intermediate_size: 96,
            num_hidden_layers: 1,
            num_attention_heads: 16,
            num_key_value_heads: 8,
            head_dim: 4,
            max_position_embeddings: 64,
            rope_theta,
            ..Config::default()
        };
        std::fs::create_dir_all(folder.join("model")).unwrap();
        let model = Model::zeros(config, Precision::F32).initialize(7);
        save_folder(&model, None, &folder.join("model"), usize::MAX).unwrap();
        let original = std::fs::read(folder.join("model/model.safetensors")).unwrap();
        for parts in ["1", "2", "8"] {
            run(folder, &["convert", "model", "meta", "--to", "pth", "--parts", parts, "--json"]).json();
            run(folder, &["convert", "meta", "back", "--json"]).json();
            assert!(std::fs::read(folder.join("back/model.safetensors")).unwrap() == original, "{parts}");
            std::fs::remove_dir_all(folder.join("back")).unwrap();
            if parts == "8" {
                let last = PytorchFolder::open(folder.join("meta/consolidated.07.pth")).unwrap();
                let shape = |name: &str| last.tensor(name).unwrap().info.shape.clone();
                assert_eq!(shape("tok_embeddings.weight"), embedding);
                assert_eq!(shape("output.weight"), head);
                assert_eq!(shape("layers.0.attention.wk.weight"), [4, 64]);
                assert_eq!(shape("layers.0.feed_forward.w2.weight"), [64, 12]);
                assert_eq!(shape("norm.weight"), [64]);
            }
            std::fs::remove_dir_all(folder.join("meta")).unwrap();
        }
    }
}

#[test]
fn an_adapter_becomes_a_gguf_file_for_llama_cpp_and_ollama() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    copy_folder(&golden("peft").join("patterns"), &folder.join("adapter"));
    copy_folder(&golden("gqa-untied"), &folder.join("base"));
    let path = folder.join("adapter/adapter_config.json");
    let mut config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config["base_model_name_or_path"] = json!("../base");
    std::fs::write(&path, config.to_string()).unwrap();
    let written = run(folder, &["convert", "adapter", "a.gguf", "--json"]).json();
    assert_eq!(written["modelfile"], "a.Modelfile");
    let modelfile = std::fs::read_to_string(folder.join("a.Modelfile")).unwrap();
    // Ollama takes a relative path from the folder of this file.
    let base = folder.join("base").canonicalize().unwrap();
    assert_eq!(modelfile, format!("FROM {}\nADAPTER ./a.gguf\n", base.display()));
    std::fs::create_dir(folder.join("out")).unwrap();
    run(folder, &["convert", "adapter", "out/a.gguf", "--base", "base", "--json"]).json();
    assert_eq!(std::fs::read_to_string(folder.join("out/a.Modelfile")).unwrap(), modelfile);
    let gguf = Gguf::open(folder.join("a.gguf")).unwrap();
    assert_eq!(gguf.get_str("general.type").unwrap(), Some("adapter"));
    assert!(gguf.tensor("blk.0.attn_q.weight.lora_a").is_some());
    run(folder, &["convert", "adapter", "b.gguf", "--base", "base"]);
    assert_eq!(std::fs::read(folder.join("a.gguf")).unwrap(), std::fs::read(folder.join("b.gguf")).unwrap());
    // What llama.cpp cannot use is merged instead.
    copy_folder(&golden("peft").join("dora"), &folder.join("dora"));
    run(folder, &["convert", "dora", "d.gguf", "--base", "base"]).is_refused("`danlu merge`");
    assert!(!folder.join("d.gguf").exists() && !folder.join("d.Modelfile").exists());
}

#[test]
fn a_sliding_window_goes_through_a_gguf_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    copy_folder(&golden("families/mistral-window"), &folder.join("window"));
    run(folder, &["convert", "window", "w.gguf", "--json"]).json();
    run(folder, &["convert", "w.gguf", "back", "--json"]).json();
    let config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("back/config.json")).unwrap()).unwrap();
    assert_eq!((&config["model_type"], &config["sliding_window"]), (&json!("mistral"), &json!(6)));
    let answer = |model: &str| {
        let ids = "3,17,5,22,9,9,28,1,14,2,30,11";
        let fixed =
            ["generate", "--json", "--temperature", "0", "--prompt-ids", ids, "--max-new-tokens", "8"];
        run(folder, &[&fixed[..], &["--model", model]].concat()).json()["ids"].clone()
    };
    assert_eq!(answer("w.gguf"), answer("window"));
    assert_eq!(answer("back"), answer("window"));
}
