//! What users rely on: files of LLaMA-Factory run unchanged, and every mistake is named with its place.

use super::*;

const NONE: [&str; 0] = [];
const MINIMAL: &str = "model_name_or_path: m\ndataset: d.json\noutput_dir: o\n";

fn error(lines: &str, overrides: &[&str]) -> String {
    Recipe::parse("r.yaml", &format!("{MINIMAL}{lines}"), overrides).unwrap_err().to_string()
}

fn recipe(lines: &str, overrides: &[&str]) -> Recipe {
    Recipe::parse("r.yaml", &format!("{MINIMAL}{lines}"), overrides).unwrap().recipe
}

#[test]
fn llama_factory_yaml_runs_unchanged() {
    let text = "\
### model
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: q_proj,v_proj

### dataset
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16

### output
output_dir: saves/llama3-8b/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none  # choices: [none, wandb]

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

### eval
val_size: 0.1
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 500
";
    let loaded = Recipe::parse("llama3_lora_sft.yaml", text, &NONE).unwrap();
    let recipe = &loaded.recipe;
    assert_eq!(recipe.data.dataset, ["identity", "alpaca_en_demo"]);
    assert_eq!(recipe.adapter.lora_target.0, ["q_proj", "v_proj"]);
    assert_eq!(recipe.adapter.lora_alpha(), 16.0);
    assert_eq!(recipe.method.template.as_deref(), Some("llama3"));
    assert_eq!(recipe.training.precision(), Precision::Bf16);
    assert_eq!(recipe.training.learning_rate, 1e-4);
    assert_eq!(recipe.output.eval_strategy, IntervalStrategy::Steps);
    assert_eq!(recipe.output.resume_from_checkpoint, None);
    assert_eq!(
        loaded.notices,
        ["these keys of the recipe have no effect here: `trust_remote_code`, `do_train`, \
          `preprocessing_num_workers`, `save_only_model`, `report_to`, `ddp_timeout`, `per_device_eval_batch_size`"]
    );
}

#[test]
fn lf_2902_axolotl_889_no_watchdog_waits_for_tokenization() {
    // What was raised against it is accepted, and there is nothing that it could raise.
    let loaded = Recipe::parse("r.yaml", &format!("{MINIMAL}ddp_timeout: 180000000\n"), &NONE).unwrap();
    assert_eq!(loaded.notices, ["these keys of the recipe have no effect here: `ddp_timeout`"]);
}

#[test]
fn hugging_face_spellings() {
    let recipe = recipe(
        "learning_rate: 5e-5\nevaluation_strategy: no\nsave_strategy: \"no\"\nresume_from_checkpoint: true\n\
         lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 5.0e-6}\nlora_dropout: 0\n",
        &[],
    );
    assert_eq!(recipe.training.learning_rate, 5e-5);
    assert_eq!(recipe.output.eval_strategy, IntervalStrategy::No);
    assert_eq!(recipe.output.save_strategy, IntervalStrategy::No);
    assert_eq!(recipe.output.resume_from_checkpoint, Some(ResumeFrom::Newest(true)));
    assert!((recipe.schedule(10).min_lr_rate - 0.1).abs() < 1e-15);
}

#[test]
fn optimizers_have_the_names_of_the_trainer_too() {
    let optim = |text: &str| recipe(text, &[]).training.optim;
    assert_eq!(optim(""), Optim::Adamw);
    for (name, expected) in [
        ("adamw_torch", Optim::Adamw),
        ("adamw_torch_fused", Optim::Adamw),
        ("paged_adamw", Optim::Adamw),
        ("adamw_bnb_8bit", Optim::Adamw8bit),
        ("paged_adamw_8bit", Optim::Adamw8bit),
        ("lion_32bit", Optim::Lion),
    ] {
        assert_eq!(optim(&format!("optim: {name}\n")), expected, "{name}");
    }
    for optim_here in Optim::ALL {
        assert_eq!(optim(&format!("optim: {}\n", optim_here.name())), optim_here);
    }
    assert_eq!(recipe("", &["optim=paged_lion_8bit"]).training.optim, Optim::Lion);
    assert_eq!(optim("use_muon: true\n"), Optim::Muon);
    assert_eq!(optim("use_muon: false\n"), Optim::Adamw);
    let unknown = error("optim: adam_w\n", &[]);
    assert!(
        unknown.contains("one of `adamw`, `adamw_8bit`, `adafactor`, `lion`, `muon`, `sgd`"),
        "{unknown}"
    );
    assert!(unknown.ends_with("did you mean `adamw`?"), "{unknown}");
    assert_eq!(recipe("optim: lion\n", &[]).training.adam_beta2(), 0.99);
    assert_eq!(recipe("optim: lion\nadam_beta2: 0.999\n", &[]).training.adam_beta2(), 0.999);
}

#[test]
fn fused_backward_cannot_know_the_norm_of_the_whole_gradient() {
    assert_eq!(
        error("fused_backward: true\n", &[]),
        "`r.yaml` line 4: `fused_backward` updates parameters before the norm of the whole gradient is known: set \
         `clip: per_tensor` or `max_grad_norm: 0`"
    );
    assert!(recipe("fused_backward: true\nclip: per_tensor\n", &[]).training.fused_backward);
    assert!(recipe("fused_backward: true\nmax_grad_norm: 0\n", &[]).training.fused_backward);
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_one() {
    assert_eq!(
        error("learning_rat: 1e-4\n", &[]),
        "`r.yaml` line 4: there is no option `learning_rat`; did you mean `learning_rate`?"
    );
    assert_eq!(
        error("", &["lora_rnk=4"]),
        "override `lora_rnk=4`: there is no option `lora_rnk`; did you mean `lora_rank`?"
    );
    assert_eq!(error("xyzzy: 1\n", &[]), "`r.yaml` line 4: there is no option `xyzzy`");
}

#[test]
fn a_wrong_type_names_line_key_and_what_was_expected() {
    assert_eq!(
        error("learning_rate: fast\n", &[]),
        "`r.yaml` line 4: `learning_rate` must be a number, found `fast`"
    );
    assert_eq!(
        error("\nlr_scheduler_type: cosin\n", &[]),
        "`r.yaml` line 5: `lr_scheduler_type` must be one of `linear`, `cosine`, `cosine_with_min_lr`, `constant`, \
         `constant_with_warmup`, found `cosin`; did you mean `cosine`?"
    );
    assert_eq!(
        error("stage: ppo\n", &[]),
        "`r.yaml` line 4: `stage` must be one of `pt`, `sft`, `dpo`, `kto`, `orpo`, `simpo`, found `ppo`; did you mean `dpo`?"
    );
    assert_eq!(
        error("", &["lora_rank=-3"]),
        "override `lora_rank=-3`: `lora_rank` must be a whole number, 0 or more, found `-3`"
    );
    assert!(error("save_steps: 0.1\n", &[]).contains("a whole number"));
}

#[test]
fn a_key_that_would_change_the_result_is_refused() {
    assert_eq!(
        error("shift_attn: true\n", &[]),
        "`r.yaml` line 4: `shift_attn: true` is not supported: attention is the model's own; remove the line"
    );
    assert!(error("quantization_type: fp4\n", &[]).contains("not supported: four bits are NF4"));
}

#[test]
fn preferences_have_llama_factorys_keys_and_defaults() {
    let preference = |text: &str| recipe(text, &[]).preference();
    assert_eq!(preference("stage: sft\npref_beta: 0.1\n"), None);
    assert_eq!(preference("stage: dpo\n"), Some(Preference::Pairs(PrefLoss::Sigmoid)));
    assert_eq!(preference("stage: dpo\ndpo_loss: hinge\n"), Some(Preference::Pairs(PrefLoss::Hinge)));
    assert_eq!(preference("stage: orpo\n"), Some(Preference::Pairs(PrefLoss::Orpo)));
    assert_eq!(preference("stage: simpo\npref_loss: simpo\n"), Some(Preference::Pairs(PrefLoss::Simpo)));
    assert_eq!(preference("stage: kto\n"), Some(Preference::Judged));
    let options = recipe("stage: dpo\nkto_beta: 0.2\n", &[]).preference;
    assert_eq!((options.pref_beta, options.pref_ftx(), options.simpo_gamma), (0.2, 0.0, 0.5));
    assert_eq!(recipe("stage: dpo\npref_loss: cpo\n", &[]).preference.pref_ftx(), 1.0);
    assert_eq!(
        error("stage: orpo\npref_loss: sigmoid\n", &[]),
        "`r.yaml` line 5: `stage: orpo` and `pref_loss: sigmoid` are two losses: leave one of them out"
    );
    assert_eq!(
        error("stage: dpo\npref_beta: 0\n", &[]),
        "`r.yaml` line 5: `pref_beta` must be above 0, for with 0 nothing would be learned, found `0`"
    );
    let smoothing = error("stage: dpo\npref_loss: ipo\ndpo_label_smoothing: 0.1\n", &[]);
    assert!(smoothing.contains("goes with `pref_loss: sigmoid`, `simpo` or `cpo` alone"), "{smoothing}");
    let model = error("stage: dpo\nref_model: other\n", &[]);
    assert!(model.contains("not supported: the reference is the model as the run begins"), "{model}");
    assert!(error("stage: dpo\npacking: true\n", &[]).contains("line 5: `stage: dpo` compares answers"));
    assert!(error("stage: kto\ntrain_on_prompt: true\n", &[]).contains("leave `train_on_prompt` out"));
}

#[test]
fn every_way_to_ask_for_quantization_while_loading_is_the_same_key() {
    let bits = |text: &str| recipe(text, &[]).model.quantization_bit;
    assert_eq!(bits(""), None);
    assert_eq!(bits("quantization_bit: 4\nquantization_type: nf4\ndouble_quantization: true\n"), Some(4));
    assert_eq!(bits("load_in_4bit: true\nload_in_8bit: false\nbnb_4bit_quant_type: nf4\n"), Some(4));
    assert_eq!(bits("load_in_4bit: false\nload_in_8bit: true\n"), Some(8));
    assert_eq!(bits("load_in_kbits: 8\n"), Some(8));
    assert_eq!(bits("load_in_kbits: 16\n"), None);
    assert!(error("quantization_bit: 5\n", &[]).contains("must be 4 or 8, found `5`"));
    let full = error("finetuning_type: full\nquantization_bit: 8\n", &[]);
    assert!(full.contains("goes with `finetuning_type: lora`"), "{full}");
}

#[test]
fn values_out_of_range_say_so() {
    assert_eq!(
        error("learning_rate: -1\n", &[]),
        "`r.yaml` line 4: `learning_rate` must be above 0, found `-1`"
    );
    assert_eq!(error("", &["cutoff_len=1"]).split(": ").next(), Some("override `cutoff_len=1`"));
    assert_eq!(
        error("warmup_ratio: 2\n", &[]),
        "`r.yaml` line 4: `warmup_ratio` must be from 0 to 1, found `2`"
    );
    assert_eq!(
        error("", &["save_steps=0"]),
        "override `save_steps=0`: `save_steps` must be at least 1, found `0`"
    );
    assert!(error("learning_rate: .nan\n", &[]).contains("`r.yaml` line 4"));
    assert!(error("", &["dataset="]).contains("`dataset` is missing"));
    assert!(
        error("", &["model_name_or_path="]).contains("set `model_name_or_path` to the model to start from")
    );
    let shape = "model_name_or_path: null\nvocab_size: 100\nhidden_size: 64\nintermediate_size: 128\n\
                 num_hidden_layers: 2\nnum_attention_heads: 8\nnum_key_value_heads: 3\n";
    let text = format!("dataset: d\noutput_dir: o\n{shape}");
    let error = Recipe::parse("r.yaml", &text, &NONE).unwrap_err().to_string();
    assert!(error.contains("line 9") && error.contains("found `8` and `3`"), "{error}");
}

#[test]
fn a_preset_is_a_shape_of_its_own() {
    let parse = |preset: &str| {
        let text = format!(
            "dataset: d\noutput_dir: o\nfinetuning_type: full\nvocab_size: 300\nmodel_preset: {preset}\n"
        );
        Recipe::parse("r.yaml", &text, &NONE)
    };
    assert_eq!(parse("luban-1b").unwrap().recipe.model.model_preset.as_deref(), Some("luban-1b"));
    let unknown = parse("luban").unwrap_err().to_string();
    assert!(unknown.contains("line 5: `model_preset` must be one of luban-1b, luban-10b, "), "{unknown}");
    let both = parse("luban-1b\nhidden_size: 64").unwrap_err().to_string();
    assert!(both.contains("line 6: `hidden_size` is part of `model_preset: luban-1b`"), "{both}");
}

#[test]
fn text_that_is_no_recipe_names_the_line() {
    for text in ["a: [1\nb: 2\n", "- a\n- b\n", "a: 1\na: 2\n", "\t{", "just text", "a: b: c\n", "\u{0}"] {
        let error = Recipe::parse("r.yaml", text, &NONE).unwrap_err().to_string();
        assert!(error.starts_with("`r.yaml`") && !error.contains('\n'), "{text:?}: {error}");
    }
    assert_eq!(
        Recipe::parse("r.yaml", "stage: pt\nstage: sft\n", &NONE).unwrap_err().to_string(),
        "`r.yaml` line 2: not valid YAML: duplicate mapping key: stage"
    );
    assert!(Recipe::parse("r.yaml", "", &NONE).unwrap_err().to_string().contains("`model_name_or_path`"));
}

#[test]
fn overrides_are_typed_and_the_last_one_wins() {
    let recipe = recipe(
        "columns: {prompt: question}\nlearning_rate: 1\n",
        &[
            "learning_rate=1e-3",
            "learning_rate=2e-4",
            "bf16=false",
            "output_dir=2024",
            "dataset=[a.json, b.json]",
            "columns.response=reply",
            "dataset_placeholders.name=小丹",
            "num_train_epochs=",
            "default_system=you are: danlu",
        ],
    );
    assert_eq!(recipe.training.learning_rate, 2e-4);
    assert_eq!(recipe.training.precision(), Precision::F32);
    assert_eq!(recipe.output.output_dir, Path::new("2024"));
    assert_eq!(recipe.data.dataset, ["a.json", "b.json"]);
    assert_eq!(recipe.data.columns.prompt.as_deref(), Some("question"));
    assert_eq!(recipe.data.columns.response.as_deref(), Some("reply"));
    assert_eq!(recipe.data.dataset_placeholders["name"], "小丹");
    assert_eq!(recipe.data.default_system.as_deref(), Some("you are: danlu"));
    assert!(error("", &["learning_rate"]).contains("expected `key=value`"));
    let columns = error("", &["columns.prompts=a"]);
    assert!(columns.contains("`columns` must be a mapping with `text`, `prompt`,"), "{columns}");
}

#[test]
fn a_written_recipe_reads_back_the_same() {
    let recipe = recipe("dataset_placeholders: {name: \"1\"}\nmax_steps: 7\nlora_target: [q_proj]\n", &[]);
    let again = Recipe::parse("recipe.yaml", &recipe.to_yaml().unwrap(), &NONE).unwrap();
    assert_eq!(again.recipe, recipe);
    assert!(again.notices.is_empty());
}

#[test]
fn embedded_recipes_are_valid_and_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files: Vec<String> = fs_err::read_dir(root.join("recipes"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().trim_end_matches(".yaml").to_owned())
        .collect();
    files.sort();
    let mut names: Vec<&str> = embedded().iter().map(|recipe| recipe.name).collect();
    names.sort_unstable();
    assert_eq!(names, files, "every file of recipes/ is embedded");
    for embedded in embedded() {
        let loaded = Recipe::load(embedded.name, &NONE).unwrap();
        assert!(loaded.notices.is_empty(), "{}: {:?}", embedded.name, loaded.notices);
        assert!(embedded.description().is_ascii() && embedded.description().len() > 20, "{}", embedded.name);
        assert!(!embedded.description_zh().is_ascii(), "{}", embedded.name);
        assert!(loaded.recipe.data.dataset[0].starts_with("examples/data/"), "{}", embedded.name);
        assert_eq!(loaded.recipe.output.output_dir, Path::new("runs").join(embedded.name));
    }
}

#[test]
fn a_recipe_that_does_not_exist_names_the_nearest() {
    assert_eq!(
        Recipe::load("sft-lroa", &NONE).unwrap_err().to_string(),
        "there is no file `sft-lroa` and no recipe of this name; did you mean `sft-lora`?; `danlu recipes list` shows all"
    );
}
