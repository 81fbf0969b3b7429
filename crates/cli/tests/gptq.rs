//! GPTQ as a user meets it: folders of others are used and trained on, models become folders of it.

use crate::common;

use common::{TEXT, golden, ids, run, vocabulary, with_model, write_model};
use serde_json::Value;

fn recorded(name: &str) -> (std::path::PathBuf, Value) {
    let path = golden("gptq").join(name);
    let golden = std::fs::read_to_string(path.join("golden.json")).unwrap();
    (path, serde_json::from_str(&golden).unwrap())
}

#[test]
fn a_folder_of_others_is_described_generates_and_converts() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in ["4bit-64g-act-order", "8bit-128g-autogptq"] {
        let (model, golden) = recorded(name);
        let prompt =
            ids(&golden["greedy"]["prompt"]).iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let answer = |model: &std::path::Path| {
            let model = model.to_str().unwrap();
            let fixed =
                ["generate", "--json", "--temperature", "0", "--max-new-tokens", "32", "--model", model];
            ids(&run(folder, &[&fixed[..], &["--prompt-ids", &prompt]].concat()).json()["ids"])
        };
        // An end token ends here, but not in the recording.
        let expected = ids(&golden["greedy"]["ids"]);
        let found = answer(&model);
        assert!(!found.is_empty() && expected.starts_with(&found), "{found:?}");
        let out = folder.join(format!("{name}-f32"));
        run(folder, &["convert", model.to_str().unwrap(), out.to_str().unwrap(), "--dtype", "f32"]);
        assert_eq!(answer(&out), found);
        let refused =
            run(folder, &["merge", "--base", model.to_str().unwrap(), "--adapter", "x", "--out", "y"]);
        assert_ne!(refused.code, 0);
    }
    let (model, _) = recorded("4bit-64g-act-order");
    let info = run(folder, &["info", model.to_str().unwrap(), "--json"]).json();
    assert_eq!(info["quantization"]["bits"], 4);
    assert_eq!(
        (&info["quantization"]["group_size"], &info["quantization"]["desc_act"]),
        (&64.into(), &true.into())
    );
    let shown = run(folder, &["info", model.to_str().unwrap()]).stdout;
    assert!(shown.contains("GPTQ, 4 bits, groups of 64, asymmetric, act-order"), "{shown}");
}

#[test]
fn a_model_is_quantized_trained_on_and_its_mistakes_are_named() {
    let folder = with_model();
    let folder = folder.path();
    std::fs::write(folder.join("text.txt"), TEXT.repeat(8)).unwrap();
    let quantize = ["convert", "model", "q", "--quant", "gptq-4bit", "--json"];
    run(folder, &quantize).is_refused("give a text or data set with `--calibration FILE`");
    let with = |more: &[&str]| run(folder, &[&quantize[..], &["--calibration", "text.txt"], more].concat());
    with(&[]).is_refused("are not whole groups of 128");
    with(&["--group-size", "20"]).is_refused("-1 or a multiple of 8");
    with(&["--group-size", "32", "--damp-percent", "0"]).is_refused("a share above 0");
    with(&["--group-size", "32", "--to", "gguf"]).is_refused("GPTQ is a folder of safetensors");
    run(folder, &["convert", "model", "q", "--group-size", "32"]).is_refused("`--group-size` is for");
    run(folder, &["convert", "model", "q", "--quant", "gptq-3bit"]).is_refused("gptq-4bit, gptq-8bit");
    assert!(!folder.join("q").exists());

    let written =
        with(&["--group-size", "32", "--desc-act", "--sym", "false", "--calibration-length", "64"]).json();
    assert!(written["types"].as_array().unwrap().iter().any(|share| share["type"] == "I32"), "{written}");
    let info = run(folder, &["info", "q", "--json"]).json();
    let quantization = serde_json::json!({
        "method": "gptq", "bits": 4, "group_size": 32, "desc_act": true, "sym": false,
    });
    assert_eq!(info["quantization"], quantization);
    assert!(info["use"].as_array().unwrap().contains(&"chat".into()));
    let settings: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("q/quantize_config.json")).unwrap())
            .unwrap();
    assert_eq!(
        (&settings["quant_method"], &settings["checkpoint_format"]),
        (&"gptq".into(), &"gptq_v2".into())
    );
    let perplexity = |model: &str| {
        let ran = run(folder, &["eval", "ppl", "--model", model, "--text", "text.txt", "--json"]);
        ran.json()["perplexity"].as_f64().unwrap()
    };
    let (before, after) = (perplexity("model"), perplexity("q"));
    assert!((after / before).ln().abs() < 0.5, "{before} became {after}");

    let rows = r#"{"instruction":"车床","input":"","output":"车削是在车床上加工回转表面的方法。"}"#;
    std::fs::write(folder.join("rows.jsonl"), format!("{rows}\n").repeat(8)).unwrap();
    let train = [
        "train",
        "sft-lora",
        "cutoff_len=128",
        "model_name_or_path=q",
        "dataset=rows.jsonl",
        "output_dir=adapter",
        "max_steps=3",
        "--json",
    ];
    for kind in ["finetuning_type=full", "finetuning_type=freeze"] {
        let refused = run(folder, &[&train[..], &[kind]].concat());
        refused.is_refused("`finetuning_type`: `q` is quantized (GPTQ, 4 bits), and its weights have lost");
    }
    let trained = run(folder, &train).json();
    let log = std::fs::read_to_string(folder.join("adapter/trainer_log.jsonl")).unwrap_or_default();
    assert!(folder.join("adapter/adapter_config.json").is_file(), "{trained} {log}");
    let answer = run(
        folder,
        &["generate", "--adapter", "adapter", "--prompt", "车床", "--max-new-tokens", "8", "--json"],
    );
    assert!(!ids(&answer.json()["ids"]).is_empty());
    let merged = run(folder, &["merge", "--base", "q", "--adapter", "adapter", "--out", "merged"]);
    assert!(merged.code != 0 && merged.stderr.contains("is quantized (gptq)"), "{}", merged.stderr);
    run(folder, &["merge", "--base", "q", "--adapter", "adapter", "--out", "merged", "--dtype", "f32"]);
    assert!(folder.join("merged/config.json").is_file());
    assert!(run(folder, &["info", "merged", "--json"]).json()["quantization"].is_null());
}

#[test]
fn a_data_set_calibrates_too() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_model(&folder.join("model"), Some(&vocabulary(false)), 256);
    let row = r#"{"instruction":"车床","input":"","output":"车削是在车床上加工回转表面的方法。"}"#;
    std::fs::write(folder.join("rows.jsonl"), format!("{row}\n").repeat(3)).unwrap();
    let options = ["--quant", "gptq-8bit", "--group-size", "-1", "--calibration", "rows.jsonl"];
    run(folder, &[&["convert", "model", "q", "--json"][..], &options].concat()).json();
    let answer = |model: &str| {
        let fixed = ["generate", "--json", "--temperature", "0", "--prompt", "车床", "--max-new-tokens", "4"];
        run(folder, &[&fixed[..], &["--model", model]].concat()).json()["ids"].clone()
    };
    assert_eq!(answer("q"), answer("model"));
}
