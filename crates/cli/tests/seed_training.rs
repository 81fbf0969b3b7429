//! What the four projects train, on models small enough for a test: one test for each row of their acceptance table.

use crate::common;

use std::path::Path;

use common::{run, vocabulary, write_model_of};
use danlu_formats::SafetensorsFolder;
use danlu_model::{Config, Family, Model, Precision, RopeLayout, save_pth};
use serde_json::{Value, json};

/// Two blocks whose rows are whole blocks of four bits.
fn shape() -> Config {
    Config {
        hidden_size: 64,
        intermediate_size: 128,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        head_dim: 16,
        max_position_embeddings: 256,
        // Wide, so that attention has something to choose from.
        initializer_range: 0.1,
        ..Config::default()
    }
}

/// 32 questions with their answers, in the files and columns of the projects.
fn write_rows(folder: &Path) {
    let write = |name: &str, rows: String| std::fs::write(folder.join(name), rows).unwrap();
    let question = |row: usize| format!("第{row}道工序？");
    let answer = |row: usize| format!("车削{}。", row % 4);
    let csv = |row: usize| format!("{},{}\n", question(row), answer(row));
    write("rows.csv", "prompt,answer\n".to_owned() + &(0..32).map(csv).collect::<String>());
    let extraction = |row: usize| {
        json!({"instruct": "抽取工艺", "query": question(row), "answer": answer(row)}).to_string() + "\n"
    };
    write("rows.jsonl", (0..32).map(extraction).collect());
    let pair = |row: usize| {
        json!({"question": question(row), "answer_zh": answer(row), "answer_en": "turning"}).to_string()
            + "\n"
    };
    write("pairs.jsonl", (0..32).map(pair).collect());
}

/// A folder with rows, a vocabulary, a model of each family, and a recipe for 20 steps.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (path, tokenizer) = (folder.path(), vocabulary(false));
    write_rows(path);
    tokenizer.save(&path.join("vocabulary")).unwrap();
    for (name, family) in [("llama", Family::Llama), ("baichuan", Family::Baichuan)] {
        write_model_of(&path.join(name), Some(&tokenizer), Config { family, ..shape() });
    }
    let recipe = "dataset: rows.csv\nstage: sft\ntemplate: chatml\ncutoff_len: 128\nlearning_rate: 0.01\nmax_steps: 20\n\
                  per_device_train_batch_size: 8\nlogging_steps: 1\nsave_strategy: no\nprecision: f32\nplot_loss: false\n";
    std::fs::write(path.join("recipe.yaml"), recipe).unwrap();
    folder
}

/// Trains into `output`, which is not there before, and gives the losses of the log.
fn train(folder: &Path, output: &str, extra: &[&str]) -> Vec<f64> {
    let output_dir = format!("output_dir={output}");
    run(folder, &[&["train", "recipe.yaml", "--json", &output_dir], extra].concat()).json();
    let log = std::fs::read_to_string(folder.join(output).join("trainer_log.jsonl")).unwrap();
    let rows = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.filter_map(|row| row["loss"].as_f64()).collect()
}

/// Names of the tensors of an adapter, without PEFT's prefix.
fn tensors(folder: &Path) -> Vec<String> {
    let file = SafetensorsFolder::open_named(folder, "adapter_model").unwrap();
    let mut names: Vec<String> =
        file.names().map(|name| name.strip_prefix("base_model.model.").unwrap().to_owned()).collect();
    names.sort();
    names
}

fn generated(folder: &Path, model: &[&str]) -> Value {
    let fixed = [
        "generate",
        "--prompt",
        "第3道工序？",
        "--temperature",
        "0",
        "--max-new-tokens",
        "8",
        "--precision",
        "f32",
    ];
    run(folder, &[&fixed[..], &["--top-logprobs", "3", "--json"], model].concat()).json()
}

#[test]
fn seed_000_full_fine_tune() {
    let folder = folder();
    let folder = folder.path();
    let tokenizer = vocabulary(false);
    let config = Config {
        family: Family::BabyLlama2,
        rope_layout: RopeLayout::Interleaved,
        vocab_size: tokenizer.vocabulary_size(),
        tie_word_embeddings: true,
        ..shape()
    };
    let model = Model::zeros(config, Precision::F32).initialize(1337);
    save_pth(&model, None, &folder.join("Luban.pth")).unwrap();
    let keys = ["model_name_or_path=Luban.pth", "tokenizer_name_or_path=vocabulary", "finetuning_type=full"];
    let losses =
        train(folder, "out/finetune", &[&keys[..], &["template=baby_llama2", "num_train_epochs=5"]].concat());
    assert!(losses.len() == 20 && losses[19] < 0.8 * losses[0], "{losses:?}");
    for epoch in 0..5 {
        assert!(folder.join(format!("out/finetune/epoch_{epoch}.pth")).is_file(), "{epoch}");
    }
    let log = std::fs::read_to_string(folder.join("out/finetune/train.log")).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("{'loss': ")).count(), 20);
}

#[test]
fn seed_003_lora_and_embeddings_train() {
    let folder = folder();
    let folder = folder.path();
    let keys = ["model_name_or_path=llama", "lora_rank=4", "additional_target=embed_tokens,lm_head"];
    let losses = train(folder, "out", &[&keys[..], &["lora_target=q_proj,v_proj"]].concat());
    assert!(losses[19] < 0.8 * losses[0], "{losses:?}");
    let mut expected = vec!["lm_head.weight".to_owned(), "model.embed_tokens.weight".to_owned()];
    for (layer, module) in [(0, "q"), (0, "v"), (1, "q"), (1, "v")] {
        let name = |part: &str| format!("model.layers.{layer}.self_attn.{module}_proj.lora_{part}.weight");
        expected.extend(["A", "B"].map(name));
    }
    assert_eq!(tensors(&folder.join("out")), expected);
    // Read again and merged, it has the same logits.
    let merge = ["merge", "--base", "llama", "--adapter", "out", "--out", "merged", "--json"];
    run(folder, &merge).json();
    let (adapted, merged) =
        (generated(folder, &["--model", "out"]), generated(folder, &["--model", "merged"]));
    assert_eq!(adapted["ids"], merged["ids"]);
    let best = |result: &Value| result["top_logprobs"][0][0]["logprob"].as_f64().unwrap();
    assert!((best(&adapted) - best(&merged)).abs() < 1e-4, "{} {}", best(&adapted), best(&merged));
}

#[test]
fn seed_003_dpo_of_a_question_with_a_chinese_and_an_english_answer() {
    let folder = folder();
    let columns = "columns={prompt: question, chosen: answer_zh, rejected: answer_en}";
    let keys = ["model_name_or_path=llama", "stage=dpo", "dataset=pairs.jsonl", columns, "lora_rank=4"];
    let losses = train(folder.path(), "out", &keys);
    assert!((losses[0] - 2_f64.ln()).abs() < 1e-6 && losses[19] < 0.5 * losses[0], "{losses:?}");
    let text = std::fs::read_to_string(folder.path().join("out/trainer_state.json")).unwrap();
    let state: Value = serde_json::from_str(&text).unwrap();
    let chosen = |step: usize| state["log_history"][step]["rewards/chosen"].as_f64().unwrap();
    assert!(chosen(0) == 0.0 && chosen(19) > 0.0, "the wanted answer becomes more probable");
}

#[test]
fn seed_004_qlora_and_its_adapter_files() {
    let folder = folder();
    let folder = folder.path();
    let before = std::fs::read(folder.join("baichuan/model.safetensors")).unwrap();
    let keys = [
        "model_name_or_path=baichuan",
        "dataset=rows.jsonl",
        "template=baichuan_qlora",
        "quantization_bit=4",
        "lora_target=W_pack",
        "lora_alpha=16",
        "lora_dropout=0.05",
        "learning_rate=0.03",
    ];
    let losses = train(folder, "out", &keys);
    assert!(losses[19] < 0.9 * losses[0], "{losses:?}");
    assert!(
        std::fs::read(folder.join("baichuan/model.safetensors")).unwrap() == before,
        "the base is as it was"
    );
    let name = |layer: usize, part: &str| format!("model.layers.{layer}.self_attn.W_pack.lora_{part}.weight");
    assert_eq!(tensors(&folder.join("out")), [name(0, "A"), name(0, "B"), name(1, "A"), name(1, "B")]);

    let text = std::fs::read_to_string(folder.join("out/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in [
        ("bias", json!("none")),
        ("fan_in_fan_out", json!(false)),
        ("inference_mode", json!(true)),
        ("init_lora_weights", json!(true)),
        ("lora_alpha", json!(16)),
        ("lora_dropout", json!(0.05)),
        ("modules_to_save", Value::Null),
        ("peft_type", json!("LORA")),
        ("r", json!(8)),
        ("target_modules", json!(["W_pack"])),
        ("task_type", json!("CAUSAL_LM")),
    ] {
        assert!(
            config[key] == value || config[key].as_f64() == value.as_f64() && value.is_number(),
            "{key}: {config}"
        );
    }
    assert!(config["base_model_name_or_path"].as_str().unwrap().ends_with("baichuan"));
    let keys: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("  \""))
        .map(|line| line.split('"').nth(1).unwrap())
        .collect();
    assert!(keys.len() > 10 && keys.is_sorted(), "{keys:?}");
}
