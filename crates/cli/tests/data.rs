//! Looking at data before training on it.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{run, shared, with_model};

/// The folder of the project, which the recipes' paths start from.
fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[test]
fn the_identity_recipe_has_rows_of_its_own() {
    let folder = with_model();
    let model = format!("model_name_or_path={}", folder.path().join("model").display());
    // The vocabulary of the test knows few characters, so that rows are long.
    let fixed = ["data", "inspect", "identity-lora", &model, "cutoff_len=256", "--json", "--samples", "100"];
    let inspect = |more: &[&str]| run(project(), &[&fixed[..], more].concat()).json();
    let given = inspect(&["dataset_placeholders.name=小炉", "dataset_placeholders.author=一车间"]);
    let report = &given["report"];
    let rows = report["rows"].as_u64().unwrap();
    assert!((20..=50).contains(&rows) && report["samples"] == rows, "{report}");
    assert_eq!(report["unfilled_placeholders"].as_object().unwrap().len(), 0, "{report}");
    let texts: Vec<&str> =
        given["samples"].as_array().unwrap().iter().map(|sample| sample["text"].as_str().unwrap()).collect();
    assert!(texts.iter().all(|text| text.contains("小炉") || text.contains("一车间")));
    assert!(texts.iter().any(|text| text.contains("Who are you?")));
    // The same rows by their name.
    let named = inspect(&["dataset_dir=examples/data", "dataset=identity"]);
    assert_eq!(named["report"]["rows"], rows);
}

#[test]
fn data_is_inspected_with_a_vocabulary_alone() {
    let folder = with_model();
    std::fs::rename(folder.path().join("model"), folder.path().join("m")).unwrap();
    let rows = "[{\"instruction\": \"车床？\", \"output\": \"机床。\"}, {\"instruction\": \"铣\", \"output\": \"切削\"}]";
    std::fs::write(folder.path().join("rows.json"), rows).unwrap();
    let vocabulary = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(folder.path().join("m").join(name), vocabulary.path().join(name)).unwrap();
    }
    let path = vocabulary.path().display().to_string();
    let inspect = |folder: &Path, more: &[&str]| run(folder, &[&["data", "inspect"], more].concat());
    let with_model = inspect(folder.path(), &["rows.json", "--json", "model_name_or_path=m"]).json();
    let alone = inspect(folder.path(), &["rows.json", "--json", "--tokenizer", &path]).json();
    assert_eq!(with_model, alone);
    let split = inspect(folder.path(), &["rows.json", "--json", "--tokenizer", &path, "val_size=1"]).json();
    assert_eq!((&split["training_samples"], &split["validation_samples"]), (&1.into(), &1.into()));
    // Neither is the model of a recipe needed.
    let recipe = ["sft-lora", "--json", "--tokenizer", &path, "dataset=rows.json", "val_size=0"];
    assert_eq!(inspect(folder.path(), &recipe).json()["samples"], alone["samples"]);
    inspect(folder.path(), &["rows.json", "--tokenizer", "absent.gguf"])
        .is_refused("`absent.gguf` does not exist");
    std::fs::remove_file(vocabulary.path().join("tokenizer_config.json")).unwrap();
    inspect(folder.path(), &["rows.json", "--tokenizer", &path]).is_refused(
        "`template`: missing: the vocabulary has no chat template of its own; set it to one of chatml",
    );

    let Some(data) = shared() else { return };
    let gguf = data.join("tokenizers/llama.cpp-vocabs/ggml-vocab-llama-spm.gguf").display().to_string();
    let inspected =
        inspect(folder.path(), &["rows.json", "--tokenizer", &gguf, "template=llama2", "--samples", "1"]);
    assert!(inspected.stdout.contains("机床。 </s>⟧"), "{}{}", inspected.stdout, inspected.stderr);
}
