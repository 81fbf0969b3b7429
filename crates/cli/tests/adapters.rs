//! Every kind of adapter, and `freeze`, as users train them.

use crate::common;

use std::path::Path;

use common::{Ran, run, vocabulary, with_model, write_model_of};
use danlu_formats::{AdapterConfig, SafetensorsFolder, TokenIndices};
use danlu_model::Config;
use serde_json::{Value, json};

/// Trainable elements of the model of [`with_model`] at rank 4: of one block, all seven linear layers.
const LORA: u64 = 4 * (6 * 32 + 32 + 16 + 16 + 32 + 3 * 64 + 32);
/// Rows of the lengths of DoRA of one block.
const LENGTHS: u64 = 32 + 16 + 16 + 32 + 64 + 64 + 32;
/// All weights of one block.
const BLOCK: u64 = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32;
const VOCABULARY: u64 = 286;

/// What is added to a recipe, and what of the model is trained then.
fn methods() -> Vec<(&'static str, Vec<&'static str>, u64)> {
    vec![
        ("dropout", vec!["lora_dropout=0.3", "neftune_noise_alpha=5"], 2 * LORA),
        ("rslora", vec!["use_rslora=true", "loraplus_lr_ratio=8", "init_lora_weights=gaussian"], 2 * LORA),
        ("orthogonal", vec!["init_lora_weights=orthogonal", "lora_target=q_proj"], 2 * 4 * 64),
        (
            "patterns",
            vec![r#"rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 1}"#],
            2 * LORA - 2 * 2 * 64 - 3 * 96,
        ),
        ("pissa", vec!["pissa_init=true", "pissa_iter=4", "additional_target=model.norm"], 2 * LORA + 32),
        ("dora", vec!["use_dora=true", "lora_dropout=0.1"], 2 * (LORA + LENGTHS)),
        ("dora-rows", vec!["use_dora=true", "quantization_bit=8"], 2 * (LORA + LENGTHS)),
        (
            "whole",
            vec!["additional_target=embed_tokens,lm_head,model.norm"],
            2 * LORA + 2 * VOCABULARY * 32 + 32,
        ),
        (
            "rows",
            vec!["trainable_token_indices=[5, 7, 285]", "lora_target=v_proj"],
            2 * 4 * (32 + 16) + 3 * 32,
        ),
        (
            "table-and-rows",
            vec!["additional_target=lm_head", r#"trainable_token_indices={"embed_tokens": [9, 3]}"#],
            2 * LORA + VOCABULARY * 32 + 2 * 32,
        ),
        ("last", vec!["finetuning_type=freeze", "freeze_trainable_layers=1"], BLOCK),
        (
            "first",
            vec![
                "finetuning_type=freeze",
                "freeze_trainable_layers=-1",
                "freeze_trainable_modules=input_layernorm,mlp.up_proj",
                "freeze_extra_modules=norm",
            ],
            32 + 64 * 32 + 32,
        ),
    ]
}

/// Writes rows and a recipe beside the model.
fn write_recipe(folder: &Path) {
    let row = |index: usize| json!({ "instruction": format!("第{index}道工序？"), "output": format!("车削{}。", index % 5) });
    let rows: Vec<Value> = (0..24).map(row).collect();
    std::fs::write(folder.join("rows.json"), serde_json::to_vec(&rows).unwrap()).unwrap();
    let recipe = "model_name_or_path: model\nstage: sft\nfinetuning_type: lora\nlora_rank: 4\ndataset: rows.json\n\
                  template: chatml\ncutoff_len: 64\nlearning_rate: 0.01\nmax_steps: 4\nper_device_train_batch_size: 6\n\
                  save_steps: 2\nprecision: f32\n";
    std::fs::write(folder.join("recipe.yaml"), recipe).unwrap();
}

fn danlu(folder: &Path, verb: &str, output: &str, extra: &[&str]) -> Ran {
    let output_dir = format!("output_dir={output}");
    run(folder, &[&[verb, "recipe.yaml", &output_dir, "--json"], extra].concat())
}

fn weights(folder: &Path, output: &str) -> Vec<u8> {
    let files = ["adapter_model.safetensors", "model.safetensors"].map(|file| folder.join(output).join(file));
    std::fs::read(files.into_iter().find(|file| file.exists()).unwrap()).unwrap()
}

fn losses(folder: &Path, output: &str) -> Vec<f64> {
    let log = std::fs::read_to_string(folder.join(output).join("trainer_log.jsonl")).unwrap();
    let rows = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.filter_map(|row| row["loss"].as_f64()).collect()
}

#[test]
fn every_method_trains_what_the_plan_says_and_resumes_and_splits_without_changing_a_bit() {
    let folder = with_model();
    let folder = folder.path();
    write_recipe(folder);
    let mut all = Vec::new();
    for (name, extra, trained) in methods() {
        let plan = danlu(folder, "plan", "unused", &extra).json();
        assert_eq!(plan["trainable_parameters"], trained, "{name}");
        let ran = danlu(folder, "train", name, &[&extra[..], &["threads=2"]].concat());
        assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains(" || all params: "), "{}", ran.stderr);
        let whole = weights(folder, name);
        assert_ne!(whole, std::fs::read(folder.join("model/model.safetensors")).unwrap(), "{name}");

        // Continued from the middle, on other threads and in other micro-batches, with everything computed again.
        let resumed = format!("{name}-resumed");
        let from = format!("resume_from_checkpoint={name}/checkpoint-2");
        let other = [
            "threads=1",
            "per_device_train_batch_size=2",
            "gradient_accumulation_steps=3",
            "recompute=block",
        ];
        danlu(folder, "train", &resumed, &[&extra[..], &other, &[from.as_str()]].concat()).json();
        assert!(weights(folder, &resumed) == whole, "{name}: resumed in other parts");
        all.push(losses(folder, name));
    }
    for (index, losses) in all.iter().enumerate() {
        assert!(losses.iter().all(|loss| loss.is_finite()) && !all[..index].contains(losses), "{losses:?}");
    }
}

#[test]
fn layers_that_are_trained_keep_their_precision_across_a_resume() {
    let folder = with_model();
    let folder = folder.path();
    write_recipe(folder);
    let freeze = ["finetuning_type=freeze", "freeze_trainable_layers=1", "precision=bf16"];
    danlu(folder, "train", "whole", &freeze).json();
    let from = "resume_from_checkpoint=whole/checkpoint-2";
    danlu(folder, "train", "resumed", &[&freeze[..], &[from]].concat()).json();
    assert!(weights(folder, "resumed") == weights(folder, "whole"));
}

#[test]
fn rows_of_two_tables_keep_their_moments_across_a_resume() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let shape = Config {
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 1,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        max_position_embeddings: 128,
        initializer_range: 0.3,
        ..Config::default()
    };
    write_model_of(&folder.join("model"), Some(&vocabulary(false)), shape);
    write_recipe(folder);
    // In the order of the names, the head comes first.
    let rows = r#"trainable_token_indices={"lm_head": [7, 5], "model.embed_tokens": [5, 9]}"#;
    danlu(folder, "train", "whole", &[rows]).json();
    danlu(folder, "train", "resumed", &[rows, "resume_from_checkpoint=whole/checkpoint-2"]).json();
    assert!(weights(folder, "resumed") == weights(folder, "whole"));
    let twice = r#"trainable_token_indices={"embed_tokens": [7, 5], "model.embed_tokens": [9]}"#;
    danlu(folder, "train", "twice", &[twice])
        .is_refused("two of `embed_tokens`, `model.embed_tokens` name the rows of `model.embed_tokens`");
}

#[test]
fn other_layers_of_the_same_size_are_not_taken_for_those_of_the_checkpoint() {
    let folder = with_model();
    let folder = folder.path();
    write_recipe(folder);
    let freeze = |layers| ["finetuning_type=freeze", "freeze_trainable_modules=input_layernorm", layers];
    danlu(folder, "train", "run", &freeze("freeze_trainable_layers=1")).json();
    let resume = [&freeze("freeze_trainable_layers=-1")[..], &["resume_from_checkpoint=run/checkpoint-2"]];
    danlu(folder, "train", "other", &resume.concat()).is_refused(
        "what is trained is not the same: `model.layers.1.input_layernorm.weight [32]` then alone, \
         `model.layers.0.input_layernorm.weight [32]` now alone; restore it, or start a new run",
    );
}

#[test]
fn nothing_is_dropped_or_disturbed_in_evaluation() {
    let folder = with_model();
    let folder = folder.path();
    write_recipe(folder);
    // Without a learning rate that moves anything, validation sees the model as it was.
    let still = ["learning_rate=1e-30", "val_size=4", "eval_strategy=steps", "eval_steps=1", "max_steps=1"];
    let loss = |output: &str, extra: &[&str]| {
        danlu(folder, "train", output, &[&still[..], extra].concat()).json();
        let log = std::fs::read_to_string(folder.join(output).join("trainer_log.jsonl")).unwrap();
        let rows = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let (mut train, mut eval) = (None, None);
        for row in rows {
            train = row["loss"].as_f64().or(train);
            eval = row["eval_loss"].as_f64().or(eval);
        }
        (train.unwrap(), eval.unwrap())
    };
    let plain = loss("plain", &["init_lora_weights=false"]);
    let dropped = loss("dropped", &["init_lora_weights=false", "lora_dropout=0.5"]);
    let disturbed = loss("disturbed", &["init_lora_weights=false", "neftune_noise_alpha=30"]);
    assert!(plain.0 != dropped.0 && plain.0 != disturbed.0, "{plain:?} {dropped:?} {disturbed:?}");
    assert!(plain.1 == dropped.1 && plain.1 == disturbed.1, "{plain:?} {dropped:?} {disturbed:?}");
    // A second step drops others.
    let other = ["init_lora_weights=false", "lora_dropout=0.5", "seed=43", "data_seed=42"];
    assert_ne!(loss("other", &other).0, dropped.0);
}

#[test]
fn an_adapter_says_what_it_is_in_the_words_of_peft() {
    let folder = with_model();
    let folder = folder.path();
    write_recipe(folder);
    let extra = [
        "max_steps=1",
        "use_dora=true",
        "use_rslora=true",
        "lora_dropout=0.25",
        "lora_target=.*layers\\.1.*(q|v)_proj",
        "additional_target=lm_head",
        r#"rank_pattern={"v_proj": 2}"#,
        r#"alpha_pattern={"q_proj": 3}"#,
        r#"trainable_token_indices={"embed_tokens": [9, 3]}"#,
    ];
    danlu(folder, "train", "adapter", &extra).json();
    let config = AdapterConfig::read(folder.join("adapter")).unwrap();
    assert!(config.use_dora && config.use_rslora && config.lora_dropout == 0.25);
    assert_eq!((config.rank_pattern["v_proj"], config.alpha_pattern["q_proj"]), (2, 3.0));
    assert_eq!(config.modules_to_save, Some(vec!["lm_head".into()]));
    assert_eq!(
        config.trainable_token_indices,
        Some(TokenIndices::Modules([("embed_tokens".to_owned(), vec![9, 3])].into()))
    );
    let file = SafetensorsFolder::open_named(folder.join("adapter"), "adapter_model").unwrap();
    let mut names: Vec<&str> = file.names().collect();
    names.sort_unstable();
    let layer = "base_model.model.model.layers.1.self_attn";
    let of = |module: &str| {
        ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"]
            .map(|part| format!("{layer}.{module}.{part}"))
    };
    let mut expected: Vec<String> = [of("q_proj"), of("v_proj")].concat();
    expected.push("base_model.model.lm_head.weight".into());
    expected.push("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta".into());
    expected.sort_unstable();
    assert_eq!(names, expected);
    // Merged, it is the same model.
    let merge = ["merge", "--base", "model", "--adapter", "adapter", "--out", "merged", "--verify", "--json"];
    run(folder, &merge).json();
}

/// A GGUF file has rotated rows side by side and PEFT's models have them in two halves; the adapter is PEFT's.
#[test]
fn an_adapter_of_a_gguf_file_is_that_of_the_folder_with_the_same_values() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let shape = Config {
        hidden_size: 256,
        intermediate_size: 256,
        num_hidden_layers: 1,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 64,
        max_position_embeddings: 128,
        initializer_range: 0.1,
        ..Config::default()
    };
    write_model_of(&folder.join("model"), Some(&vocabulary(false)), shape);
    write_recipe(folder);
    for (kind, more) in [("q8_0", &["use_dora=true"][..]), ("q4_1", &[]), ("q4_k_m", &["use_rslora=true"])] {
        let (gguf, values) = (format!("{kind}.gguf"), format!("{kind}-values"));
        run(folder, &["convert", "model", gguf.as_str(), "--quant", kind, "--json"]).json();
        run(folder, &["convert", gguf.as_str(), values.as_str(), "--dtype", "f32", "--json"]).json();
        let (model, output) = (format!("model_name_or_path={gguf}"), format!("{kind}-adapter"));
        let keys =
            ["max_steps=2", "lora_target=q_proj,k_proj,up_proj", "trainable_token_indices=[17, 40]", &model];
        danlu(folder, "train", &output, &[&keys[..], more].concat()).json();
        let top = |model: &str, extra: &[&str]| -> Vec<(u64, f64)> {
            let fixed = ["generate", "--model", model, "--prompt-ids", "5,17,40,9", "--max-new-tokens", "1"];
            let shown = ["--temperature", "0", "--precision", "f32", "--top-logprobs", "5", "--json"];
            let json = run(folder, &[&fixed[..], &shown, extra].concat()).json();
            let top = json["top_logprobs"][0].as_array().unwrap().clone();
            top.iter().map(|one| (one["id"].as_u64().unwrap(), one["logprob"].as_f64().unwrap())).collect()
        };
        let adapter = ["--adapter", output.as_str()];
        let (trained, elsewhere, plain) = (top(&gguf, &adapter), top(&values, &adapter), top(&gguf, &[]));
        for (one, other) in trained.iter().zip(&elsewhere) {
            assert!(one.0 == other.0 && (one.1 - other.1).abs() < 1e-4, "{kind}: {trained:?} {elsewhere:?}");
        }
        assert_ne!(trained, plain, "{kind}");
    }
}

#[test]
fn of_several_adapters_all_but_the_last_are_merged_first() {
    let folder = with_model();
    let folder = folder.path();
    write_recipe(folder);
    danlu(folder, "train", "one", &["max_steps=2", "use_dora=true"]).json();
    danlu(folder, "train", "two", &["max_steps=2", "adapter_name_or_path=one", "create_new_adapter=true"])
        .json();
    let ran = danlu(folder, "train", "three", &["max_steps=2", "adapter_name_or_path=one,two"]);
    assert!(ran.stderr.contains("merged into the model before training: `one`"), "{}", ran.stderr);
    ran.json();
    // The same on a model that was merged before.
    run(folder, &["merge", "--base", "model", "--adapter", "one", "--out", "merged", "--json"]).json();
    let merged = ["max_steps=2", "model_name_or_path=merged"];
    danlu(folder, "train", "two-merged", &merged).json();
    danlu(folder, "train", "three-merged", &[&merged[..], &["adapter_name_or_path=two-merged"]].concat())
        .json();
    for (chained, merged) in [("two", "two-merged"), ("three", "three-merged")] {
        for (one, other) in losses(folder, chained).iter().zip(losses(folder, merged)) {
            assert!((one - other).abs() < 1e-4, "{chained}: {one} against {other}");
        }
    }
    let quantized = ["quantization_bit=8", "adapter_name_or_path=one,two"];
    danlu(folder, "train", "four", &quantized).is_refused("cannot be merged into a quantized model");
}

#[test]
fn what_a_continued_adapter_decides_is_said_where_the_recipe_says_something_else() {
    let folder = with_model();
    let folder = folder.path();
    write_recipe(folder);
    danlu(folder, "train", "one", &["max_steps=1", "lora_target=q_proj,v_proj"]).json();
    let again = ["max_steps=1", "adapter_name_or_path=one"];
    let ran = danlu(folder, "train", "same", &[&again[..], &["lora_target=v_proj,q_proj"]].concat());
    assert!(ran.stderr.contains("keeps its own rank 4, alpha 8, dropout 0 and layers\n"), "{}", ran.stderr);
    let other =
        ["lora_rank=16", "lora_dropout=0.3", "use_dora=true", "lora_target=k_proj", "pissa_init=true"];
    let ran = danlu(folder, "train", "other", &[&again[..], &other, &["use_dora=true"]].concat());
    let unused = "and layers; its `adapter_config.json` decides, and not the recipe's `lora_rank`, `lora_dropout`, \
                  `lora_target`, `use_dora`, `pissa_init`\n";
    assert!(ran.stderr.contains(unused), "{}", ran.stderr);
    assert!(weights(folder, "same") == weights(folder, "other"));
    let config = AdapterConfig::read(folder.join("other")).unwrap();
    assert_eq!((config.r, config.lora_dropout, config.use_dora), (4, 0.0, false));
}

#[test]
fn what_names_nothing_says_what_there_is() {
    let folder = with_model();
    let folder = folder.path();
    write_recipe(folder);
    for (extra, part) in [
        (vec!["lora_target=c_attn"], "expected one of q_proj, k_proj, v_proj"),
        (
            vec!["lora_target=.*c_attn"],
            "`lora_target`: nothing in this model is called `.*c_attn`; there are q_proj,",
        ),
        (
            vec!["lora_target=q_proj,layers.9.mlp.up_proj"],
            "`lora_target`: nothing in this model is called `layers.9.mlp.up_proj`; there are q_proj,",
        ),
        (
            vec!["lora_target=q_proj", r#"rank_pattern={"q_proj": 2, "v_proj": 3}"#],
            "`rank_pattern`: no layer with an adapter is called `v_proj`; there are q_proj, in blocks 0 to 1",
        ),
        (vec![r#"alpha_pattern={"layers.2": 3}"#], "`alpha_pattern`: no layer with an adapter is called"),
        (vec!["lora_target=q(_proj"], "`lora_target`: `^(?:q(_proj)\\z` is no regular expression"),
        (vec!["lora_target=.*lm_head|.*embed_tokens"], "train it as a whole with `additional_target`"),
        (
            vec!["additional_target=embed"],
            "`additional_target`: nothing in this model is called `embed`; there are embed_tokens,",
        ),
        (
            vec!["trainable_token_indices=[286]"],
            "there is no row 286 in `model.embed_tokens.weight`, which has 286 rows",
        ),
        (
            vec!["trainable_token_indices=[4294967299]"],
            "there is no row 4294967299 in `model.embed_tokens.weight`",
        ),
        (vec!["trainable_token_indices=[3, 3]"], "and each once"),
        (vec![r#"trainable_token_indices={"lm_head": [3]}"#], "the head of this model is its embedding"),
        (
            vec!["additional_target=embed_tokens", "trainable_token_indices=[3]"],
            "all rows of `model.embed_tokens.weight` are trained already",
        ),
        (
            vec!["init_lora_weights=eva"],
            "`init_lora_weights`: expected true, false, `gaussian` or `orthogonal`",
        ),
        (vec!["init_lora_weights=orthogonal", "lora_rank=3"], "needs an even rank, found 3"),
        (vec!["pissa_init=true", "use_dora=true"], "`pissa_init`: goes without `use_dora`"),
        (vec!["pissa_init=true", "quantization_bit=4"], "is quantized, and what the adapter takes out of it"),
        (vec!["lora_dropout=1"], "`lora_dropout` must be from 0 to below 1"),
        (vec!["adapter_name_or_path=nowhere"], "`nowhere` does not exist; expected an adapter folder"),
        (vec!["create_new_adapter=true"], "`create_new_adapter` needs `adapter_name_or_path`"),
        (vec!["finetuning_type=freeze", "quantization_bit=4"], "goes with `finetuning_type: lora`"),
        (
            vec!["finetuning_type=freeze", "freeze_trainable_modules=attention"],
            "nothing there is called `attention`; expected one of input_layernorm, self_attn",
        ),
        (
            vec!["finetuning_type=freeze", "freeze_extra_modules=wte"],
            "nothing there is called `wte`; expected one of embed_tokens, norm",
        ),
        (vec!["finetuning_type=freeze", "freeze_trainable_layers=0"], "leave nothing to train"),
    ] {
        danlu(folder, "train", "unused", &extra).is_refused(part);
        danlu(folder, "plan", "unused", &extra).is_refused(part);
    }
    assert!(!folder.join("unused").exists());
}
