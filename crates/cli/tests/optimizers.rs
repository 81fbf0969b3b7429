//! Every optimizer through `danlu train` and `danlu plan`: learning, threads, kills, updates inside the backward, refusals.

use crate::common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Ran, run, vocabulary, write_model};
use serde_json::Value;

/// Writes a corpus and a recipe for a tiny new model, whose matrices are large enough for 8-bit state.
fn write_recipe(folder: &Path) {
    let line = |row: usize| format!("{{\"text\": \"第{row}道工序：车床加工轴，公差{}微米。\"}}", row % 7 + 1);
    let corpus: Vec<String> = (0..60).map(line).collect();
    std::fs::write(folder.join("corpus.jsonl"), corpus.join("\n")).unwrap();
    let recipe = "stage: pt\npacking: false\nfinetuning_type: full\nhidden_size: 64\nintermediate_size: 128\nnum_hidden_layers: 2\n\
                  num_attention_heads: 4\nnum_key_value_heads: 2\nmax_position_embeddings: 64\nvocab_size: 320\n\
                  dataset: corpus.jsonl\ncutoff_len: 32\nlearning_rate: 0.01\nweight_decay: 0.1\nmax_steps: 12\n\
                  per_device_train_batch_size: 4\nlogging_steps: 1\nsave_strategy: \"no\"\n";
    std::fs::write(folder.join("recipe.yaml"), recipe).unwrap();
}

fn train(folder: &Path, output: &str, extra: &[&str]) -> Ran {
    let output_dir = format!("output_dir={output}");
    run(folder, &[&["train", "recipe.yaml", &output_dir], extra].concat())
}

/// Trains, expects success, and returns the weights.
fn weights(folder: &Path, output: &str, extra: &[&str]) -> Vec<u8> {
    let ran = train(folder, output, extra);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let files = ["model.safetensors", "adapter_model.safetensors"].map(|name| folder.join(output).join(name));
    std::fs::read(files.iter().find(|file| file.is_file()).unwrap()).unwrap()
}

fn losses(folder: &Path, output: &str) -> Vec<f64> {
    let log = std::fs::read_to_string(folder.join(output).join("trainer_log.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line["loss"].as_f64()).collect()
}

#[test]
fn every_optimizer_learns_and_gives_the_same_bits_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_recipe(folder);
    for (optim, learning_rate) in [
        ("adamw", "0.01"),
        ("adamw_8bit", "0.01"),
        ("adafactor", "0.01"),
        ("lion", "0.002"),
        ("muon", "0.01"),
        ("sgd", "1"),
    ] {
        let settings = [format!("optim={optim}"), format!("learning_rate={learning_rate}")];
        let [one, two] = ["1", "2"].map(|threads| {
            let output = format!("{optim}-{threads}");
            weights(folder, &output, &[&settings[0], &settings[1], "--threads", threads])
        });
        assert!(one == two, "{optim}: two threads differ from one");
        let losses = losses(folder, &format!("{optim}-1"));
        let (first, last) = (losses[0], losses[losses.len() - 1]);
        assert!(last < 0.75 * first, "{optim}: {losses:?}");
    }
}

#[test]
fn a_kill_and_a_resume_keep_every_bit_of_the_state() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_recipe(folder);
    for optim in ["adamw_8bit", "muon", "adafactor"] {
        let optim_is = format!("optim={optim}");
        let settings = [&optim_is, "save_strategy=steps", "save_steps=2", "precision=f32"];
        let whole = weights(folder, &format!("{optim}-whole"), &settings);
        let output = format!("{optim}-killed");
        let mut child = Command::new(env!("CARGO_BIN_EXE_danlu"))
            .current_dir(folder)
            .args(["train", "recipe.yaml", &format!("output_dir={output}")])
            .args(settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !folder.join(&output).join("checkpoint-4").exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let resumed = weights(folder, &output, &[&settings[..], &["resume_from_checkpoint=true"]].concat());
        assert!(resumed == whole, "{optim}");
    }
}

#[test]
fn fused_backward_gives_the_weights_of_the_ordinary_way() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_recipe(folder);
    let tokenizer = vocabulary(false);
    write_model(&folder.join("base"), Some(&tokenizer), 64);
    for (name, settings) in [
        ("adamw", &["optim=adamw", "max_grad_norm=0", "tie_word_embeddings=false"][..]),
        ("adamw_8bit", &["optim=adamw_8bit", "clip=per_tensor", "max_grad_norm=0.1"]),
        ("muon", &["optim=muon", "clip=per_tensor"]),
        ("adafactor", &["optim=adafactor", "max_grad_norm=0"]),
        ("lora", &["finetuning_type=lora", "model_name_or_path=base", "lora_rank=4", "clip=per_tensor"]),
        // Lengths of rows are those of A and B as they are, whichever was changed when.
        (
            "dora",
            &[
                "finetuning_type=lora",
                "model_name_or_path=base",
                "lora_rank=4",
                "use_dora=true",
                "clip=per_tensor",
            ],
        ),
    ] {
        let ordinary = weights(folder, name, settings);
        let fused = weights(folder, &format!("{name}-fused"), &[settings, &["fused_backward=true"]].concat());
        assert!(fused == ordinary, "{name}");
        let [ordinary, fused] =
            [name.to_owned(), format!("{name}-fused")].map(|output| losses(folder, &output));
        assert_eq!(ordinary, fused, "{name}");
    }
}

#[test]
fn what_fused_backward_cannot_do_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_recipe(folder);
    train(folder, "run", &["fused_backward=true"])
        .is_refused("updates parameters before the norm of the whole gradient is known");
    let long =
        "{\"text\": \"精车时背吃刀量小，转速高，进给慢；粗车时正好相反，先求效率，再求表面。\"}\n".repeat(60);
    std::fs::write(folder.join("long.jsonl"), long).unwrap();
    let several =
        ["dataset=long.jsonl", "fused_backward=true", "clip=per_tensor", "per_device_train_batch_size=30"];
    let many = [&several[..], &["gradient_accumulation_steps=2"]].concat();
    train(folder, "run", &many).is_refused("step 1 has 2 slices");
    let plan = run(folder, &[&["plan", "recipe.yaml", "output_dir=run"], &many[..]].concat());
    assert!(
        plan.stdout.contains("a run would stop: `fused_backward`: step 1 has 2 slices"),
        "{}",
        plan.stdout
    );
    assert!(!folder.join("run").exists(), "nothing was written");
}

#[test]
fn the_state_of_another_optimizer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_recipe(folder);
    let short = ["max_steps=4", "save_strategy=steps", "save_steps=2"];
    weights(folder, "run", &short);
    let other = [&short[..], &["optim=lion", "resume_from_checkpoint=true"]].concat();
    train(folder, "run", &other)
        .is_refused("it holds the state of `optim: adamw`, and the recipe says `optim: lion`");
}

#[test]
fn plan_says_what_each_optimizer_costs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_recipe(folder);
    let plan = |extra: &[&str]| {
        run(folder, &[&["plan", "recipe.yaml", "output_dir=run", "--json"], extra].concat()).json()
    };
    let adamw = plan(&[]);
    let elements = adamw["trainable_parameters"].as_u64().unwrap();
    let bytes = |optim: &str| {
        let list = adamw["choices"]["optimizers"].as_array().unwrap();
        list.iter().find(|choice| choice["optim"] == optim).unwrap()["bytes"].as_u64().unwrap()
    };
    assert_eq!(bytes("adamw"), 8 * elements);
    assert_eq!(bytes("lion"), 4 * elements);
    assert_eq!(bytes("sgd"), 0);
    assert!(bytes("adafactor") < elements / 2);
    assert!(bytes("adamw_8bit") < 3 * elements);
    assert!(bytes("muon") < bytes("adamw") + 8 * 2 * 128 * 64);
    for optim in ["adamw", "adamw_8bit", "adafactor", "lion", "muon", "sgd"] {
        assert_eq!(plan(&[&format!("optim={optim}")])["memory"]["optimizer"], bytes(optim), "{optim}");
    }
    // A tied table waits for all blocks, of which gate and up with their norm are the largest part.
    let fused = ["fused_backward=true", "clip=per_tensor"];
    let tied = plan(&fused);
    let blocks = 2 * (2 * 64 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64);
    let table = elements - blocks - 64;
    assert_eq!(tied["memory"]["gradients"], 4 * (table + 2 * 128 * 64 + 64));
    assert_eq!(tied["memory"]["gradients"], tied["choices"]["gradients_fused_backward"]);
    let untied = plan(&[&fused[..], &["tie_word_embeddings=false"]].concat());
    assert_eq!(untied["memory"]["gradients"], 4 * (table + 64));
    assert_eq!(adamw["memory"]["gradients"], 4 * elements);
    let text = run(folder, &["plan", "recipe.yaml", "output_dir=run"]).stdout;
    assert!(text.contains("adamw_8bit") && text.contains("fused_backward"), "{text}");
}
