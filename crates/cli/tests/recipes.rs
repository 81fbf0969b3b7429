//! Every embedded recipe is parsed, planned and run for two steps on a small stand-in for its model.

use crate::common;

use std::path::Path;

use common::{run, vocabulary, write_model_of};
use danlu_model::{Config, Family};
use danlu_train::Recipe;
use danlu_train::recipe::embedded;
use serde_json::Value;

/// A model of this family with a vocabulary and its chat template.
fn stand_in(folder: &Path, family: Family) {
    let shape = Config {
        family,
        hidden_size: 64,
        intermediate_size: 128,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        head_dim: 16,
        max_position_embeddings: 4096,
        ..Config::default()
    };
    write_model_of(folder, Some(&vocabulary(false)), shape);
}

#[test]
fn every_recipe_plans_and_runs_two_steps_on_a_stand_in() {
    let project = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    stand_in(&folder.join("llama"), Family::Llama);
    stand_in(&folder.join("baichuan"), Family::Baichuan);
    vocabulary(false).save(folder.join("vocabulary").as_path()).unwrap();
    std::os::unix::fs::symlink(project.join("examples"), folder.join("examples")).unwrap();
    for recipe in embedded() {
        let name = recipe.name;
        let parsed = Recipe::load::<&str>(name, &[]).unwrap().recipe;
        let family =
            if parsed.model.model_name_or_path.as_deref().is_some_and(|name| name.contains("aichuan")) {
                "baichuan"
            } else {
                "llama"
            };
        let model = format!("model_name_or_path={family}");
        // The small vocabulary makes many tokens of a row.
        let mut overrides = vec!["max_steps=2", "cutoff_len=1024", "per_device_train_batch_size=2"];
        overrides.extend(["gradient_accumulation_steps=1", "warmup_steps=1", "num_train_epochs=9"]);
        if parsed.model.model_name_or_path.is_some() {
            overrides.extend([model.as_str(), "tokenizer_name_or_path="]);
        } else {
            overrides.extend([
                "model_preset=",
                "hidden_size=64",
                "intermediate_size=128",
                "num_hidden_layers=2",
            ]);
            overrides.extend(["num_attention_heads=4", "max_position_embeddings=1024"]);
        }
        if parsed.model.model_name_or_path.is_none() && parsed.model.tokenizer_name_or_path.is_some() {
            overrides.push("tokenizer_name_or_path=vocabulary");
        }
        if parsed.distillation.teacher_model_name_or_path.is_some() {
            overrides.push("teacher_model_name_or_path=llama");
        }
        let plan = run(folder, &[&["plan", name, "--json"], overrides.as_slice()].concat());
        let plan: Value = if plan.code == 0 { plan.json() } else { panic!("{name}: {}", plan.stderr) };
        assert_eq!((&plan["total_steps"], &plan["ended_by"]), (&2.into(), &"max_steps".into()), "{name}");
        let ran = run(folder, &[&["train", name, "--json"], overrides.as_slice()].concat());
        assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
        assert_eq!(ran.json()["steps"], 2, "{name}");
    }
}

#[test]
fn every_recipe_says_what_it_costs() {
    let comments = |text: &str| -> String { text.lines().filter(|line| line.starts_with('#')).collect() };
    for recipe in embedded() {
        let comments = comments(recipe.text);
        // A recipe may point to another with its figures.
        let has_figures = comments.contains(" GB") || comments.contains("Costs as ");
        assert!(has_figures && comments.contains("osts") && comments.contains("代价"), "{}", recipe.name);
    }
}
