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
          `preprocessing_num_workers`, `save_only_model`, `ddp_timeout`, `per_device_eval_batch_size`"]
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
fn warmup_steps_below_one_are_a_share_of_the_run_as_in_newer_trainers() {
    let warmup = |text: &str| recipe(text, &[]).schedule(100).warmup_steps;
    assert_eq!(warmup("warmup_steps: 0.1\n"), 10);
    assert_eq!(
        (warmup("warmup_steps: 7\n"), warmup("warmup_steps: 0\n"), warmup("warmup_steps: 0.0\n")),
        (7, 0, 0)
    );
    let overruled = recipe("warmup_steps: 30\n", &["warmup_steps=0.1"]);
    assert_eq!(overruled.schedule(100).warmup_steps, 10);
    assert!(error("warmup_steps: 1.5\n", &[]).contains("`warmup_steps` must be a whole number"));
}

#[test]
fn a_key_that_chooses_a_device_gets_a_note() {
    let values = [
        ("device", "cuda"),
        ("device", "cuda:1"),
        ("n_gpu", "2"),
        ("gpus", "0,1"),
        ("CUDA_VISIBLE_DEVICES", "0"),
    ];
    for (key, value) in values {
        let loaded = Recipe::parse("r.yaml", &format!("{MINIMAL}{key}: {value}\n"), &NONE).unwrap();
        let start = format!("`r.yaml` line 4: `{key}` is not needed: danlu computes on the processor, ");
        assert!(loaded.notices.len() == 1 && loaded.notices[0].starts_with(&start), "{:?}", loaded.notices);
    }
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
        "`r.yaml` line 5: `lr_scheduler_type` must be one of `linear`, `cosine`, `cosine_with_min_lr`, \
         `cosine_with_restarts`, `polynomial`, `inverse_sqrt`, `warmup_stable_decay`, `constant`, `constant_with_warmup`, \
         `WarmupLR`, `WarmupDecayLR`, `WarmupCosineLR`, found `cosin`; did you mean `cosine`?"
    );
    assert_eq!(
        error("stage: dpoo\n", &[]),
        "`r.yaml` line 4: `stage` must be one of `pt`, `sft`, `dpo`, `kto`, `orpo`, `simpo`, found `dpoo`; did you mean `dpo`?"
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
        error("label_smoothing_factor: 0.1\n", &[]),
        "`r.yaml` line 4: `label_smoothing_factor: 0.1` is not supported: the loss is plain cross-entropy; remove the line"
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

#[test]
fn schedules_take_their_own_numbers_and_no_others() {
    let recipe = recipe(
        "lr_scheduler_type: cosine_with_restarts\nlr_scheduler_kwargs: {num_cycles: 2}\n",
        &["lr_scheduler_kwargs.num_cycles=3"],
    );
    assert_eq!(recipe.training.lr_scheduler_kwargs.num_cycles, Some(3.0));
    let again = Recipe::parse("r.yaml", &recipe.to_yaml().unwrap(), &NONE).unwrap().recipe;
    assert_eq!(again, recipe);
    for (lines, expected) in [
        (
            "lr_scheduler_kwargs: {power: 2}\n",
            "`lr_scheduler_type: linear` takes `total_num_steps`, found `power`",
        ),
        (
            "lr_scheduler_type: constant\nlr_scheduler_kwargs: {power: 2}\n",
            "`lr_scheduler_type: constant` takes none of them, found `power`",
        ),
        (
            "lr_scheduler_type: polynomial\nlr_scheduler_kwargs: {num_cycles: 2}\n",
            "`lr_scheduler_type: polynomial` takes `lr_end`, `power`, `total_num_steps`, found `num_cycles`",
        ),
        (
            "lr_scheduler_type: polynomial\nlr_scheduler_kwargs: {lr_end: 1}\n",
            "`lr_end` must be 0 or more and below `learning_rate`, found `1.0`",
        ),
        (
            "lr_scheduler_type: WarmupLR\nlr_scheduler_kwargs: {warmup_type: cosine}\n",
            "`warmup_type` must be one of `log`, `linear`, found `cosine`",
        ),
        ("lr_scheduler_kwargs: {cycles: 2}\n", "must be a mapping with `num_cycles`, `power`"),
        (
            "min_lr: 1e-6\n",
            "`min_lr` is the end of `cosine_with_min_lr`, and `lr_scheduler_type: linear` has none",
        ),
        ("learning_rate: 0\n", "`learning_rate` must be above 0, found `0`"),
        ("learning_rate: .nan\n", "non-finite float `.nan`"),
    ] {
        let error = error(lines, &[]);
        assert!(error.starts_with("`r.yaml` line ") && error.contains(expected), "{lines}: {error}");
    }
}

const DEEPSPEED: &str = r#"{
    "fp16": {"enabled": "auto"}, "min_lr": 5e-7, "gradient_clipping": "auto", "train_batch_size": "auto",
    "gradient_accumulation_steps": 4, "steps_per_print": 2000,
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": [0.9, 0.95], "eps": "auto", "weight_decay": 0.1}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_min_lr": "auto", "warmup_max_lr": 1e-4,
        "warmup_num_steps": 30, "total_num_steps": "auto"}},
    "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}, "overlap_comm": true}
}"#;

#[test]
fn seed_001_deepspeed_json_gives_schedule_optimizer_and_clipping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ds.json");
    fs_err::write(&path, DEEPSPEED).unwrap();
    let key = format!("deepspeed: {}\n", path.display());
    let lines = format!("{MINIMAL}{key}lr_scheduler_type: cosine\nwarmup_steps: 30\n");
    let Loaded { recipe: read, notices } = Recipe::parse("r.yaml", &lines, &NONE).unwrap();
    let training = &read.training;
    assert_eq!(training.lr_scheduler_type, LrSchedulerType::WarmupDecayLr);
    assert_eq!((training.learning_rate, training.warmup_steps), (1e-4, 30));
    assert_eq!((training.adam_beta1, training.adam_beta2()), (0.9, 0.95));
    assert_eq!((training.weight_decay, training.gradient_accumulation_steps), (0.1, 4));
    assert_eq!((training.max_grad_norm, training.adam_epsilon), (1.0, 1e-8));
    let name = path.display();
    assert_eq!(
        notices,
        [
            format!(
                "`r.yaml` line 5: `lr_scheduler_type: cosine` is replaced by `WarmupDecayLR` of `{name}`"
            ),
            format!(
                "these keys of `{name}` have no effect here: `fp16`, `min_lr` (not a key of DeepSpeed), \
                 `steps_per_print`, `zero_optimization` (stage 2, offload_optimizer)"
            )
        ]
    );
    assert_eq!(
        error(&format!("{key}learning_rate: 2e-4\n"), &[]),
        format!(
            "`r.yaml` line 5: `learning_rate: 0.0002` contradicts `scheduler.params.warmup_max_lr: 0.0001` of `{name}`; \
             make them equal, or write `\"auto\"` there"
        )
    );
    assert_eq!(recipe(&key, &["deepspeed="]).training.lr_scheduler_type, LrSchedulerType::Linear);
}

#[test]
fn the_deepspeed_files_of_llama_factory_say_nothing_but_devices() {
    let file = r#"{_comment: "models", train_batch_size: auto, train_micro_batch_size_per_gpu: auto, gradient_accumulation_steps: auto,
        gradient_clipping: auto, zero_allow_untested_optimizer: true, bf16: {enabled: auto}, fp16: {enabled: auto, loss_scale: 0},
        fp8: {enabled: true}, zero_optimization: {stage: 2}, comms_config: {verbose: false}, monitor_config: {enabled: true},
        tensor_parallel: {autotp_size: 2}}"#;
    let lines = format!("{MINIMAL}deepspeed: {}\n", file.replace('\n', " "));
    let loaded = Recipe::parse("r.yaml", &lines, &NONE).unwrap();
    assert_eq!(loaded.recipe, recipe("", &[]));
    assert!(loaded.notices.len() == 1 && !loaded.notices[0].contains("not a key"), "{:?}", loaded.notices);
}

#[test]
fn what_deepspeed_has_and_danlu_has_not_is_refused() {
    for (configuration, expected) in [
        ("{optimizer: {type: OneBitAdam}}", "`optimizer.type` must be one of `Adam`, `AdamW`,"),
        (
            "{optimizer: {type: Adam, params: {adam_w_mode: false}}}",
            "`optimizer.params.adam_w_mode: false` is not supported",
        ),
        ("{scheduler: {type: OneCycle}}", "`scheduler.type` must be one of `WarmupLR`"),
        ("{scheduler: {type: WarmupLR, params: {cycle: 1}}}", "is not a setting of `WarmupLR`"),
        ("{train_batch_size: 64}", "`train_batch_size: 64` is not `per_device_train_batch_size` (8) times"),
        ("3", "must be the path of a JSON file"),
        ("absent.json", "absent.json"),
    ] {
        let error = error(&format!("deepspeed: {configuration}\n"), &[]);
        assert!(error.contains(expected), "{configuration}: {error}");
    }
}

#[test]
fn what_is_not_done_is_refused_with_its_sentence() {
    for NotDone { topic, reason, keys } in NOT_DONE {
        assert!(!reason.ends_with('.') && reason.len() > 30, "{reason}");
        for (key, asks) in *keys {
            let key = key.replace('*', "something");
            let values: &[&str] = match asks {
                Asks::IfSet => &["true", "4", "text"],
                Asks::By(values) => values,
            };
            for value in values {
                let told = error(&format!("{key}: {value}\n"), &[]);
                let expected =
                    format!("`{key}: {value}` asks for {topic}, which danlu does not do: {reason}");
                assert!(told.ends_with(&expected), "{told}");
            }
            // What does not ask for it may stand there.
            if *asks == Asks::IfSet {
                recipe(&format!("{key}: false\n"), &[]);
            }
        }
    }
}

/// The options of LLaMA-Factory: model, data, method, training, generation, evaluation.
#[rustfmt::skip]
const LLAMA_FACTORY: &str = "
    model_name_or_path adapter_name_or_path adapter_folder cache_dir use_fast_tokenizer resize_vocab split_special_tokens add_tokens
    add_special_tokens new_special_tokens new_special_tokens_config init_special_tokens freeze_original_embeddings model_revision
    low_cpu_mem_usage rope_scaling flash_attn shift_attn mixture_of_depths use_unsloth use_unsloth_gc enable_liger_kernel moe_aux_loss_coef
    disable_gradient_checkpointing use_reentrant_gc upcast_layernorm upcast_lmhead_output train_from_scratch infer_backend offload_folder
    use_cache use_kv_cache use_v1_kernels infer_dtype hf_hub_token ms_hub_token om_hub_token print_param_status trust_remote_code
    quantization_method quantization_bit quantization_type double_quantization quantization_device_map image_max_pixels image_min_pixels
    image_do_pan_and_scan crop_to_patches video_max_pixels video_min_pixels video_fps video_maxlen use_audio_in_video audio_sampling_rate
    image_resolution video_resolution export_dir export_size export_device export_quantization_bit export_quantization_dataset
    export_quantization_nsamples export_quantization_maxlen export_legacy_format export_hub_model_id vllm_maxlen vllm_gpu_util
    vllm_enforce_eager vllm_max_lora_rank vllm_config sglang_maxlen sglang_mem_fraction sglang_tp_size sglang_config use_kt kt_optimize_rule
    kt_maxlen kt_use_cuda_graph kt_mode kt_force_think cpu_infer chunk_size mode context_parallel_size template dataset eval_dataset dataset_dir media_dir cutoff_len train_on_prompt mask_history streaming buffer_size mix_strategy
    interleave_probs overwrite_cache preprocessing_batch_size preprocessing_num_workers max_samples eval_num_beams
    ignore_pad_token_for_loss val_size eval_on_each_dataset packing neat_packing tool_format default_system enable_thinking tokenized_path
    data_shared_file_system freeze_trainable_layers freeze_trainable_modules freeze_extra_modules additional_target lora_alpha lora_dropout
    lora_rank lora_target loraplus_lr_ratio loraplus_lr_embedding use_rslora use_dora pissa_init pissa_iter pissa_convert create_new_adapter
    oft_block_size oft_rank oft_target pref_beta pref_ftx pref_loss dpo_label_smoothing kto_chosen_weight kto_rejected_weight simpo_gamma ld_alpha
    ppo_buffer_size ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards ref_model ref_model_adapters ref_model_quantization_bit
    reward_model reward_model_adapters reward_model_quantization_bit reward_model_type use_galore galore_target galore_rank
    galore_update_interval galore_scale galore_proj_type galore_layerwise use_apollo apollo_target apollo_rank apollo_update_interval
    apollo_scale apollo_proj apollo_proj_type apollo_scale_type apollo_layerwise apollo_scale_front use_badam badam_mode badam_start_block
    badam_switch_mode badam_switch_interval badam_update_ratio badam_mask_mode badam_verbose use_swanlab swanlab_project swanlab_workspace
    swanlab_run_name swanlab_mode swanlab_api_key swanlab_logdir swanlab_lark_webhook_url swanlab_lark_secret pure_bf16 stage finetuning_type use_llama_pro use_adam_mini use_mca
    use_megatron_bridge use_hyper_parallel hyper_parallel_args hyper_parallel_cp_size use_muon use_dft_loss use_asft_loss asft_alpha
    use_eaft_loss eaft_alpha freeze_vision_tower freeze_multi_modal_projector freeze_language_model train_mm_proj_only num_mtp_layers
    mtp_loss_weight compute_accuracy disable_shuffling early_stopping_steps plot_loss include_effective_tokens_per_second ray_run_name
    ray_storage_path ray_storage_filesystem ray_num_workers resources_per_worker placement_strategy ray_init_kwargs overwrite_output_dir fp8
    fp8_backend fp8_enable_fsdp_float8_all_gather do_sample temperature top_p top_k num_beams max_length max_new_tokens repetition_penalty
    length_penalty skip_special_tokens task task_dir batch_size lang n_shot download_mode";

/// Those of the Hugging Face Trainer.
#[rustfmt::skip]
const TRAINER: &str = "
    output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps
    warmup_ratio optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon optim_target_modules gradient_accumulation_steps
    average_tokens_across_devices max_grad_norm label_smoothing_factor bf16 fp16 bf16_full_eval fp16_full_eval tf32 activation_checkpointing
    gradient_checkpointing gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode use_liger_kernel
    liger_kernel_config use_cache neftune_noise_alpha torch_empty_cache_steps auto_find_batch_size logging_strategy logging_steps
    logging_first_step log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level log_level_replica disable_tqdm report_to
    run_name project trackio_space_id eval_strategy eval_steps eval_delay per_device_eval_batch_size prediction_loss_only eval_on_start
    eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics save_only_model
    save_strategy save_steps save_on_each_node save_total_limit enable_jit_checkpoint push_to_hub hub_token hub_private_repo hub_model_id
    hub_strategy hub_always_push hub_revision load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip
    restore_callback_states_from_checkpoint full_determinism seed data_seed use_cpu accelerator_config parallelism_config
    dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
    dataloader_multiprocessing_context dataloader_in_order remove_unused_columns label_names train_sampling_strategy group_by_length
    length_column_name ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp
    fsdp_config deepspeed debug skip_memory_metrics do_train do_eval do_predict resume_from_checkpoint local_rank sortish_sampler
    predict_with_generate generation_max_length generation_num_beams generation_config logging_dir tpu_num_cores save_safetensors";

#[test]
fn every_key_of_llama_factory_and_the_trainer_is_known() {
    let schema = schema::recipe_schema();
    let is_option = |key: &str| schema["properties"].get(key).is_some();
    for key in LLAMA_FACTORY.split_whitespace().chain(TRAINER.split_whitespace()) {
        let is_elsewhere = ["load_in_4bit", "deepspeed", "batch_size"].contains(&key);
        let is_known =
            is_option(key) || !matches!(foreign_keys::judge(key, &Value::Bool(true)), Foreign::Unknown);
        assert!(is_known || is_elsewhere, "{key}");
    }
}

#[test]
fn keys_of_other_programs_lead_to_those_here() {
    let schema = schema::recipe_schema();
    for (other, here) in OTHER_NAMES {
        assert!(schema["properties"].get(here).is_some(), "{here}");
        let told = error(&format!("{other}: 1\n"), &[]);
        assert!(told.ends_with(&format!("there is no option `{other}`; did you mean `{here}`?")), "{told}");
    }
}
