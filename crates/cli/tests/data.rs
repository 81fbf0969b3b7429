//! Looking at data before training on it.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{run, with_model};

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
