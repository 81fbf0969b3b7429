//! `docs/*/migrate.md` and what the program says are one: names of other programs, and what danlu does not do.

use crate::common;

use std::path::Path;

use common::run;
use danlu_model::FOREIGN_MODELS;
use danlu_train::recipe::schema::recipe_reference;
use danlu_train::recipe::{Asks, NOT_DONE, OTHER_NAMES};

const LANGUAGES: [&str; 2] = ["en", "zh"];

fn document(language: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../docs/{language}/migrate.md"));
    std::fs::read_to_string(path).unwrap()
}

/// The cells of the rows of all tables.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let rows = text.lines().filter(|line| line.starts_with('|') && !line.starts_with("| ---"));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// What stands in backticks.
fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_other_name_is_in_the_document() {
    for language in LANGUAGES {
        let text = document(language);
        let rows = rows(&text);
        for (other, here) in OTHER_NAMES {
            let is_told = rows.iter().filter(|row| row.len() > 1).any(|row| {
                let theirs = names(row[0]).iter().any(|name| name.trim_start_matches("--") == *other);
                theirs && names(row[1]).contains(here)
            });
            assert!(is_told, "{language}: `{other}` is `{here}`");
        }
    }
}

#[test]
fn what_the_document_maps_to_is_there() {
    let keys: Vec<String> = recipe_reference().into_iter().map(|row| row.key).collect();
    let text = document("en");
    let tables = text.split("## What danlu does not do").next().unwrap();
    for row in rows(tables).iter().filter(|row| row.len() > 1 && row[0] != "there") {
        for name in names(row[1]) {
            let Some(command) = name.strip_prefix("danlu ") else {
                assert!(keys.iter().any(|key| key == name) || name == "total_num_steps", "{name}");
                continue;
            };
            is_there(command);
        }
    }
    for command in NOT_DONE.iter().flat_map(|entry| names(entry.reason)) {
        command.strip_prefix("danlu ").into_iter().for_each(is_there);
    }
}

/// Expects that the program's help knows the verbs, flags and types of a command.
fn is_there(command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    let verbs: Vec<&str> = words.iter().copied().take_while(|word| !word.starts_with('-')).collect();
    let help = run(Path::new("."), &[verbs.as_slice(), &["--help"]].concat());
    assert_eq!(help.code, 0, "{command}: {}", help.stderr);
    for flag in words.iter().filter(|word| word.starts_with("--") || word.contains("bit")) {
        assert!(help.stdout.contains(flag), "{command}: {flag}");
    }
}

#[test]
fn what_is_not_done_is_told_with_the_sentence_of_the_program() {
    let texts = LANGUAGES.map(document);
    for entry in NOT_DONE {
        assert!(texts[0].contains(&format!("| {} | ", entry.topic)), "{}", entry.topic);
        assert!(texts[0].contains(&format!(" | {} |", entry.reason)), "{}", entry.reason);
        for (key, asks) in entry.keys {
            let written = match asks {
                Asks::IfSet => vec![format!("`{key}`")],
                Asks::By(values) => values.iter().map(|value| format!("`{key}: {value}`")).collect(),
            };
            assert!(written.iter().all(|key| texts.iter().all(|text| text.contains(key))), "{key}");
        }
    }
    for models in FOREIGN_MODELS {
        assert!(texts[0].contains(&format!(" | {} |", models.reason)), "{}", models.topic);
        for name in models.model_types {
            assert!(texts.iter().all(|text| text.contains(&format!("`{name}`"))), "{name}");
        }
    }
}

#[test]
fn keys_and_models_of_other_kinds_are_refused_by_name() {
    let folder = common::with_model();
    let folder = folder.path();
    std::fs::write(folder.join("rows.jsonl"), "{\"instruction\": \"a\", \"output\": \"b\"}\n").unwrap();
    let recipe = "model_name_or_path: model\ndataset: rows.jsonl\noutput_dir: run\n";
    std::fs::write(folder.join("recipe.yaml"), recipe).unwrap();
    let train = |key: &str| run(folder, &["train", "recipe.yaml", key]);
    train("push_to_hub=true")
        .is_refused("asks for uploading to a hub, which danlu does not do: nothing leaves");
    train("stage=ppo")
        .is_refused("`stage: ppo` asks for reward models, PPO and other reinforcement learning");
    let planned = run(folder, &["plan", "recipe.yaml", "device=cuda:1", "cutoff_len=128"]);
    assert!(
        planned.code == 0 && planned.stderr.contains("danlu computes on the processor"),
        "{}",
        planned.stderr
    );
    train("base_model=model")
        .is_refused("there is no option `base_model`; did you mean `model_name_or_path`?");

    common::copy_folder(&folder.join("model"), &folder.join("other"));
    for models in FOREIGN_MODELS {
        let model_type = models.model_types[0].replace('*', "2");
        let config = format!("{{\"model_type\": \"{model_type}\", \"hidden_size\": 64}}");
        std::fs::write(folder.join("other/config.json"), config).unwrap();
        let refused = run(folder, &["generate", "--model", "other", "--prompt", "a"]);
        refused.is_refused(&format!("`{model_type}` is not read ({}): {}", models.topic, models.reason));
    }
}

/// Keys and values as the examples of LLaMA-Factory have them.
const LLAMA_FACTORY: &str = "### model
model_name_or_path: model
trust_remote_code: true
### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
deepspeed: ds_z2.json
### dataset
dataset: identity,demo
dataset_dir: data
template: qwen3_nothink
cutoff_len: 256
max_samples: 1000
preprocessing_num_workers: 16
dataloader_num_workers: 4
### output
output_dir: saves/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none  # choices: [none, wandb, tensorboard, swanlab, mlflow]
### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
";

#[test]
fn a_recipe_of_llama_factory_with_its_data_and_deepspeed_file_runs_unchanged() {
    let folder = common::with_model();
    let folder = folder.path();
    std::fs::create_dir(folder.join("data")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write(
        "data/dataset_info.json",
        r#"{"identity": {"file_name": "one.json"}, "demo": {"file_name": "two.json"}}"#,
    );
    for (name, answer) in [("data/one.json", "车削"), ("data/two.json", "铣削")] {
        let row = format!(r#"{{"instruction": "问", "input": "", "output": "{answer}"}}"#);
        write(name, &format!("[{}]", [row.as_str(); 8].join(",")));
    }
    write(
        "ds_z2.json",
        r#"{"train_batch_size": "auto", "bf16": {"enabled": "auto"}, "zero_optimization": {"stage": 2}}"#,
    );
    write("sft.yaml", LLAMA_FACTORY);
    let ran = run(folder, &["train", "sft.yaml", "--json"]);
    assert_eq!(ran.json()["steps"], 6, "{}", ran.stderr);
    assert!(folder.join("saves/lora/sft/adapter_model.safetensors").is_file());
    for told in
        ["`trust_remote_code`", "keys of `ds_z2.json` have no effect here: `zero_optimization` (stage 2)"]
    {
        assert!(ran.stderr.contains(told), "{told}: {}", ran.stderr);
    }
}
