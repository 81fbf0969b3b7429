//! `docs/*/migrate.md` and what the program says are one: names of other programs, and what danlu does not do.

use crate::common;

use std::path::Path;

use common::run;
use danlu_model::FOREIGN_MODELS;
use danlu_train::recipe::{Asks, NOT_DONE, OTHER_NAMES};
use danlu_train::reference::recipe_reference;

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
            let words: Vec<&str> = command.split(' ').collect();
            let verbs: Vec<&str> = words.iter().copied().take_while(|word| !word.starts_with('-')).collect();
            let verbs: Vec<&str> = verbs.into_iter().filter(|word| *word != "gptq4").collect();
            let help = run(Path::new("."), &[verbs.as_slice(), &["--help"]].concat());
            assert_eq!(help.code, 0, "{name}: {}", help.stderr);
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                assert!(help.stdout.contains(flag), "{name}: {flag}");
            }
        }
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
