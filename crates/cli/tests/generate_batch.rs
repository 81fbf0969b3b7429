//! `danlu generate --input` and `--interactive`: many questions at once give the texts that they give alone, in every precision
//! and with adapters; stopping, memory, tools, rows without answers.

use crate::common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{run, run_with_input, vocabulary, with_model, write_model, write_model_of};
use danlu_formats::{Dtype, Error, TensorInfo, WriteOptions, write_safetensors};
use danlu_model::Config;
use serde_json::{Value, json};

/// An adapter of the queries, with numbers that change what the model says.
fn write_adapter(folder: &Path) {
    let info = |name: &str, shape: [usize; 2]| TensorInfo {
        name: format!("base_model.model.model.layers.0.self_attn.q_proj.{name}.weight"),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    };
    let tensors = [info("lora_A", [2, 32]), info("lora_B", [32, 2])];
    std::fs::create_dir(folder).unwrap();
    let options = WriteOptions { base_name: "adapter_model".into(), ..WriteOptions::default() };
    write_safetensors::<Error>(folder, &options, &tensors, |_, sink| {
        let value = |place: u32| (place as f32 * 0.7).sin().to_le_bytes();
        sink.write(&(0..64).flat_map(value).collect::<Vec<_>>())
    })
    .unwrap();
    let config = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "layers_to_transform": [0] });
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
}

fn predictions(folder: &Path, name: &str) -> Vec<Value> {
    serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

#[test]
fn long_prompts_at_once_give_the_texts_that_they_give_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_model(&path.join("model"), Some(&vocabulary(false)), 1024);
    write_adapter(&path.join("adapter"));
    // More tokens than a step reads of prompts, and fewer.
    let question = |number: usize| format!("第{number}问{}\n", "车床".repeat(1 + number * 37 % 100));
    std::fs::write(path.join("questions.txt"), (1..8).map(question).collect::<String>()).unwrap();
    let answers = |at_once: &str, more: &[&str]| {
        let fixed =
            ["generate", "--model", "model", "--raw", "--input", "questions.txt", "--out", "out.json"];
        let ran = run(path, &[&fixed[..], &["--max-new-tokens", "12", "--at-once", at_once], more].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let told =
            ran.stderr.lines().find(|line| line.contains(" at once · keys and values of up to ")).unwrap();
        let tokens = told.split(' ').skip_while(|word| *word != "to").nth(1).unwrap();
        // Of each token 2 blocks of 2 heads of 8 numbers, twice.
        assert!(told.starts_with(at_once) && tokens.parse::<usize>().unwrap() > 256 + 12, "{told}");
        assert!(told.ends_with(" take up to 1 MB"), "{told}");
        std::fs::read_to_string(path.join("out.json")).unwrap()
    };
    let greedy = ["--temperature", "0", "--precision", "f32"];
    let sampled = ["--temperature", "1.3", "--top-p", "1", "--precision", "f32", "--seed"];
    let adapted = [&greedy[..], &["--adapter", "adapter"]].concat();
    let alone = [&greedy[..], &adapted, &[&sampled[..], &["3"]].concat()].map(|more| {
        let alone = answers("1", more);
        assert_eq!(answers("4", more), alone, "{more:?}");
        alone
    });
    assert!(alone[0] != alone[1] && alone[0] != alone[2], "neither adapter nor sampling changes anything");
    assert_ne!(answers("4", &[&sampled[..], &["4"]].concat()), alone[2]);
    // Rounded products may choose otherwise in another company, but not in the same.
    let rounded = ["--temperature", "0", "--precision", "bf16"];
    assert_eq!(answers("4", &rounded), answers("4", &rounded));
}

#[test]
fn ctrl_c_ends_a_batch_between_two_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_model(&path.join("model"), Some(&vocabulary(false)), 200_000);
    // No token ends an answer.
    let change = |name: &str, from: &str, to: &str| {
        let path = path.join("model").join(name);
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace(from, to)).unwrap();
    };
    std::fs::remove_file(path.join("model/tokenizer_config.json")).unwrap();
    change("tokenizer.json", "<|", "<:");
    change("config.json", "\"eos_token_id\"", "\"unused\"");
    change("generation_config.json", "\"eos_token_id\"", "\"unused\"");
    std::fs::write(path.join("questions.txt"), "车削\n铣削\n").unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_danlu"))
        .current_dir(path)
        .args(["generate", "--model", "model", "--raw", "--temperature", "0", "--max-new-tokens", "199000"])
        .args(["--input", "questions.txt", "--out", "out.json"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !path.join("out.json.partial").exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_secs(1));
    assert!(child.try_wait().unwrap().is_none(), "it goes on for long");
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let asked = Instant::now();
    let mut ended = None;
    while ended.is_none() && asked.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
        ended = child.try_wait().unwrap();
    }
    child.kill().unwrap();
    let stderr = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert_eq!(ended.and_then(|status| status.code()), Some(130), "{stderr}");
    assert!(stderr.contains("0 of 2 answers are kept; the same command goes on"), "{stderr}");
    assert!(path.join("out.json.partial").exists() && !path.join("out.json").exists());
}

#[test]
fn answers_are_kept_by_one_run_at_a_time_and_in_no_file_of_others() {
    let folder = with_model();
    let path = folder.path();
    std::fs::write(path.join("questions.txt"), "车削\n").unwrap();
    let asked = ["generate", "--model", "model", "--raw", "--input", "questions.txt", "--out", "out.json"];
    let partial = path.join("out.json.partial");
    let refused = |part: &str| {
        let ran = run(path, &[&asked[..], &["--max-new-tokens", "2"]].concat());
        assert!(ran.code == 2 && ran.stderr.contains(part), "{}", ran.stderr);
    };
    for text in ["my notes", "{\"mine\": 1}", "{\"mine\": 1}\n{\"cut"] {
        std::fs::write(&partial, text).unwrap();
        refused("out.json.partial");
        assert_eq!(std::fs::read_to_string(&partial).unwrap(), text);
    }
    std::fs::write(&partial, "").unwrap();
    let other = std::fs::File::open(&partial).unwrap();
    other.lock().unwrap();
    refused("`out.json.partial`: is being written by another run");
}

#[test]
fn answers_that_memory_has_no_room_for_are_refused_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let shape = Config {
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        head_dim: 4096,
        max_position_embeddings: 1 << 24,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        ..Config::default()
    };
    write_model_of(&path.join("model"), Some(&vocabulary(false)), shape);
    std::fs::write(path.join("questions.txt"), "车削\n").unwrap();
    let asked = ["generate", "--model", "model", "--raw", "--input", "questions.txt", "--out", "out.json"];
    let ran = run(path, &[&asked[..], &["--max-new-tokens", "1000000000000"]].concat());
    assert!(
        ran.code == 2 && ran.stderr.contains("of memory are free: lower `--max-new-tokens`"),
        "{}",
        ran.stderr
    );
    assert!(!path.join("out.json.partial").exists());
    assert_eq!(run(path, &[&asked[..], &["--max-new-tokens", "2"]].concat()).code, 0);
}

#[test]
fn tools_of_a_row_are_in_its_prompt_and_rows_may_lack_an_answer() {
    let folder = with_model();
    let path = folder.path();
    let function = json!({ "name": "cutting_speed", "description": "d", "parameters": {} });
    let tools = json!([{ "type": "function", "function": function }]);
    let row = |tools: &Value| json!({ "messages": [{ "role": "user", "content": "车削" }], "tools": tools });
    std::fs::write(path.join("tools.jsonl"), format!("{}\n{}\n", row(&tools), row(&json!([])))).unwrap();
    let ask = |data: &str, more: &[&str]| {
        let fixed =
            ["generate", "--model", "model", "--out", "out.json", "--max-new-tokens", "2", "--input", data];
        run(path, &[&fixed[..], more].concat())
    };
    write_model(&path.join("model"), Some(&vocabulary(false)), 2048);
    assert_eq!(ask("tools.jsonl", &["--template", "qwen"]).code, 0);
    let has_tool = |row: &Value| row["Input"].as_str().unwrap().contains("cutting_speed");
    assert_eq!(predictions(path, "out.json").iter().map(has_tool).collect::<Vec<_>>(), [true, false]);
    let without = ask("tools.jsonl", &["--template", "chatml"]);
    assert!(without.code == 2 && without.stderr.contains("tools.jsonl:1: "), "{}", without.stderr);

    let rows = ["{\"instruction\": \"一\"}", "{\"instruction\": \"二\", \"output\": \"乙\"}"];
    for order in [[0, 1], [1, 0]] {
        std::fs::write(path.join("mixed.jsonl"), order.map(|row| rows[row]).join("\n")).unwrap();
        assert_eq!(ask("mixed.jsonl", &[]).code, 0);
        let found = predictions(path, "out.json");
        assert_eq!(order.map(|row| row == 1), [0, 1].map(|row| found[row].get("Reference").is_some()));
    }
}

#[test]
fn a_line_that_is_too_long_does_not_end_the_session() {
    let folder = with_model();
    // Without a template, which is said once.
    std::fs::remove_file(folder.path().join("model/tokenizer_config.json")).unwrap();
    let asked =
        ["generate", "--model", "model", "--interactive", "--temperature", "0", "--max-new-tokens", "4"];
    let lines = format!("车削\n{}\n铣削\n\n", "车床".repeat(300));
    let ran = run_with_input(folder.path(), &asked, &lines);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(ran.stdout.matches("Response:  ").count(), 2, "{}", ran.stdout);
    assert!(
        ran.stderr.contains("tokens do not fit the model's context of 256 tokens: shorten"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.stderr.matches("the model has no chat template").count(), 1, "{}", ran.stderr);
}
