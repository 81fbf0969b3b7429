//! Looking at data before training on it.

use crate::common;

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
    assert_eq!(inspect(folder.path(), &["rows.json", "--json", "--model", "m"]).json(), with_model);
    inspect(folder.path(), &["rows.json", "--model", "m", "--tokenizer", &path])
        .is_refused("cannot be used with");
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

#[test]
fn rows_of_preference_learning_are_not_imitated() {
    let folder = with_model();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let inspect = |dataset: &str, more: &[&str]| {
        let fixed = [
            "data",
            "inspect",
            "sft-lora",
            "--json",
            "model_name_or_path=model",
            "dataset_dir=.",
            "cutoff_len=256",
        ];
        let dataset = format!("dataset={dataset}");
        run(folder.path(), &[&fixed[..], &["val_size=0", &dataset], more].concat())
    };
    let judged = "says whether the answer is wanted: expected wanted answers only";
    let ask = r#"{"role": "user", "content": "铣？"}"#;
    let answer = r#"{"role": "assistant", "content": "切削"}"#;
    write("kto.jsonl", &format!("{{\"messages\": [{ask}, {answer}], \"label\": false}}\n"));
    inspect("kto.jsonl", &[]).is_refused(&format!("kto.jsonl:1: field `label` {judged}"));
    inspect("kto.jsonl", &["on_bad_row=skip"]).is_refused(judged);
    write("kto.csv", "prompt,completion,label\n铣,切削,True\n");
    inspect("kto.csv", &[]).is_refused(&format!("kto.csv:2: field `label` {judged}"));
    write(
        "dataset_info.json",
        r#"{"kto": {"file_name": "kto.jsonl", "columns": {"messages": "messages", "kto_tag": "label"}}}"#,
    );
    inspect("kto", &[]).is_refused(&format!("kto.jsonl:1: field `label` {judged}"));

    let pair = r#""chosen": {"from": "gpt", "value": "切削"}, "rejected": {"from": "gpt", "value": "车"}"#;
    write("turns.json", &format!(r#"[{{"conversations": [{{"from": "human", "value": "铣"}}], {pair}}}]"#));
    write("earlier.json", &format!("[{{\"messages\": [{ask}, {answer}, {ask}], {pair}}}]"));
    write("text.json", r#"[{"prompt": "铣", "chosen": "切削", "rejected": "车"}]"#);
    for name in ["turns.json", "earlier.json", "text.json"] {
        inspect(name, &[]).is_refused("`chosen` and `rejected` mark a preference pair");
        // To look at, without a recipe that would imitate both, they may be read.
        let looked = run(folder.path(), &["data", "stats", name, "--tokenizer", "model", "--json"]).json();
        assert_eq!(looked["report"]["samples"], 2);
    }

    // What `columns` names is an answer, and a label that is no verdict is nothing to this program.
    let chosen = inspect("text.json", &["columns.response=chosen", "columns.prompt=prompt"]).json();
    assert!(chosen["samples"][0]["text"].as_str().unwrap().contains("⟦切削"), "{chosen}");
    write(
        "class.json",
        r#"[{"prompt": "铣", "answer": "切削", "label": "good"}, {"prompt": "铣", "answer": "a"}]"#,
    );
    assert_eq!(inspect("class.json", &[]).json()["report"]["samples"], 2);
    write("true.json", r#"[{"prompt": "铣是切削？", "label": true}]"#);
    let named = inspect("true.json", &["columns.response=label", "columns.prompt=prompt"]).json();
    assert_eq!(named["report"]["samples"], 1);
}
