//! The memory of a run: what `danlu plan` says beforehand, what a run takes, and how it is made to fit.

use crate::common;

use std::path::Path;

use common::run;
use serde_json::Value;

/// Writes a corpus and a recipe for a new model of this shape.
fn write_recipe(folder: &Path, hidden_size: usize, layers: usize) {
    let line = |row: usize| {
        format!("{{\"text\": \"{}\"}}", format!("第{row}道工序：车床加工轴，公差{row}微米。").repeat(24))
    };
    let corpus: Vec<String> = (0..40).map(line).collect();
    std::fs::write(folder.join("corpus.jsonl"), corpus.join("\n")).unwrap();
    let recipe = format!(
        "stage: pt\npacking: false\nfinetuning_type: full\nhidden_size: {hidden_size}\nintermediate_size: {}\n\
         num_hidden_layers: {layers}\nnum_attention_heads: 4\nnum_key_value_heads: 2\n\
         max_position_embeddings: 512\nvocab_size: 500\ndataset: corpus.jsonl\ncutoff_len: 512\n\
         learning_rate: 0.001\nmax_steps: 2\nper_device_train_batch_size: 4\nsave_strategy: 'no'\n",
        hidden_size * 8 / 3
    );
    std::fs::write(folder.join("recipe.yaml"), recipe).unwrap();
}

fn json(folder: &Path, verb: &str, output: &str, extra: &[&str]) -> Value {
    let output_dir = format!("output_dir={output}");
    run(folder, &[&[verb, "recipe.yaml", "--json", &output_dir], extra].concat()).json()
}

#[test]
fn the_planned_peak_is_within_a_tenth_of_the_measured_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (hidden_size, layers) in [(64, 2), (256, 4), (384, 8)] {
        write_recipe(folder, hidden_size, layers);
        let full = format!("full-{hidden_size}");
        let base = format!("model_name_or_path={full}");
        let lora = [base.as_str(), "finetuning_type=lora", "lora_rank=8"];
        let methods = [(full.clone(), &[][..], "bf16"), (format!("lora-{hidden_size}"), &lora, "f32")];
        for (output, extra, precision) in methods {
            let precision = format!("precision={precision}");
            let extra = [extra, &[precision.as_str()]].concat();
            let planned =
                json(folder, "plan", &output, &extra)["memory"]["peak"].as_f64().unwrap() / 1048576.0;
            let measured = json(folder, "train", &output, &extra)["peak_rss_mb"].as_f64().unwrap();
            println!("{output} {precision}: planned {planned:.0} MB, measured {measured:.0} MB");
            assert!(
                (planned / measured - 1.0).abs() <= 0.1,
                "{output}: {planned:.0} against {measured:.0} MB"
            );
        }
    }
}

/// What many rows take beyond few is their samples, and little else: neither texts nor rows are all held at once.
#[test]
fn lf_7510_loading_many_rows_takes_what_the_plan_says() {
    let folder = common::with_model();
    let folder = folder.path();
    let planned = |rows: usize| {
        let text = "挤塑加工".repeat(30);
        let row = |row: usize| format!("{{\"text\": \"第{row}道工序：{text}\"}}\n");
        std::fs::write(folder.join("rows.jsonl"), (0..rows).map(row).collect::<String>()).unwrap();
        let recipe = "stage: pt\nfinetuning_type: full\nmodel_name_or_path: model\ncutoff_len: 256\noutput_dir: out\n\
                      dataset: rows.jsonl\n";
        std::fs::write(folder.join("rows.yaml"), recipe).unwrap();
        let plan = run(folder, &["plan", "rows.yaml", "--json"]).json();
        ["samples", "preparation", "peak"]
            .map(|part| plan["memory"][part].as_f64().unwrap() / f64::from(1 << 20))
    };
    let ([few_samples, few, _], [many_samples, many, peak]) = (planned(2_000), planned(40_000));
    println!("samples {few_samples:.0} and {many_samples:.0} MB, while loading {few:.0} and {many:.0} MB");
    assert!(many_samples > 40.0 && peak >= many, "{many_samples:.0} MB, peak {peak:.0} MB");
    assert!(many - few <= 1.25 * (many_samples - few_samples) + 8.0, "{few:.0} to {many:.0} MB");
}

#[test]
fn what_is_computed_again_changes_no_bit_and_takes_less_memory() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_recipe(folder, 64, 3);
    let weights = |output: &str, file: &str| std::fs::read(folder.join(output).join(file)).unwrap();
    let lora = ["model_name_or_path=cheap", "finetuning_type=lora", "lora_rank=4"];
    for (extra, file) in [(&[][..], "model.safetensors"), (&lora[..], "adapter_model.safetensors")] {
        let mut bytes = Vec::new();
        let name = |recompute: &str| format!("{recompute}{}", if extra.is_empty() { "" } else { "-lora" });
        for recompute in ["cheap", "mlp", "block"] {
            let key = format!("recompute={recompute}");
            let extra = [extra, &[key.as_str()]].concat();
            let plan = json(folder, "plan", &name(recompute), &extra);
            assert_eq!(plan["recompute"], recompute);
            bytes.push(plan["memory"]["activations"].as_u64().unwrap());
            json(folder, "train", &name(recompute), &extra);
            assert!(weights(&name(recompute), file) == weights(&name("cheap"), file), "{recompute}");
        }
        assert!(bytes[0] > bytes[1] && bytes[1] > bytes[2], "{bytes:?}");
    }
}

#[test]
fn lf_10163_a_run_is_fitted_into_max_memory_or_refused_before_it_starts() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_recipe(folder, 256, 4);
    let roomy = json(folder, "plan", "out", &[]);
    assert_eq!(roomy["recompute"], "cheap");
    let saved = |recompute: usize| {
        let bytes = |index: usize| roomy["choices"]["activations"][index]["bytes"].as_u64().unwrap();
        bytes(0) - bytes(recompute)
    };
    let peak = roomy["memory"]["peak"].as_u64().unwrap();
    for (recompute, name) in [(1, "mlp"), (2, "block")] {
        let limit = format!("max_memory={}", peak - saved(recompute));
        assert_eq!(json(folder, "plan", "out", &[&limit])["recompute"], name);
    }
    let train = |key: &str| run(folder, &["train", "recipe.yaml", "output_dir=out", key]);
    train("max_memory=30MB").is_refused("more than `max_memory` allows (30 MB)");
    train("max_memory=lots").is_refused("`max_memory` must be a size such as `6GB`");
    assert!(!folder.join("out").exists());
}
