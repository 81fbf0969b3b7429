//! Whole runs on a tiny model: what a run gives does not depend on how it was cut, stopped or continued.

use std::path::{Path, PathBuf};

use danlu_model::{AttentionBias, Config, Family, Model, Precision, Rest, RopeLayout, open, save_folder};
use danlu_train::recipe::ResumeFrom;
use danlu_train::{Load, Observer, Outcome, Plan, Progress, Recipe, prepare, train};

/// A text that a tiny model learns quickly.
fn corpus(folder: &Path) -> PathBuf {
    let path = folder.join("corpus.jsonl");
    let lines: Vec<String> = (0..60)
        .map(|row| format!("{{\"text\": \"第{row}道工序：车床加工轴，公差{}微米。\"}}", row % 7 + 1))
        .collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

fn recipe(folder: &Path, output: &str, extra: &str) -> Recipe {
    let text = format!(
        "stage: pt\npacking: false\nfinetuning_type: full\nhidden_size: 32\nintermediate_size: 64\nnum_hidden_layers: 2\n\
         num_attention_heads: 4\nnum_key_value_heads: 2\nmax_position_embeddings: 64\nvocab_size: 320\n\
         dataset: {}\ncutoff_len: 32\nval_size: 6\nlearning_rate: 0.01\nnum_train_epochs: 2\n\
         per_device_train_batch_size: 4\nprecision: f32\nlogging_steps: 5\neval_strategy: epoch\n\
         save_steps: 4\noutput_dir: {}\n{extra}",
        corpus(folder).display(),
        folder.join(output).display(),
    );
    Recipe::parse("test.yaml", &text, &[] as &[&str]).unwrap().recipe
}

#[derive(Default)]
struct Watch {
    losses: Vec<f64>,
    stop_at: Option<u64>,
    stops: bool,
}

impl Observer for Watch {
    fn step(&mut self, progress: &Progress) {
        self.losses.push(progress.loss);
        self.stops = Some(progress.step) == self.stop_at;
    }
    fn stops(&mut self) -> bool {
        self.stops
    }
}

fn run(recipe: Recipe, stop_at: Option<u64>) -> (Outcome, Vec<f64>) {
    let mut watch = Watch { stop_at, ..Watch::default() };
    let outcome = train(prepare(recipe, Load::Weights).unwrap(), &mut watch).unwrap();
    (outcome, watch.losses)
}

fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("model.safetensors")).unwrap()
}

#[test]
fn a_run_learns_and_leaves_a_model_that_opens() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path(), "run", "");
    let plan = Plan::of(&prepare(recipe.clone(), Load::Shapes).unwrap());
    let (outcome, losses) = run(recipe, None);
    assert_eq!(losses.len() as u64, plan.total_steps);
    assert!(losses[losses.len() - 1] < 0.6 * losses[0], "{losses:?}");
    assert!(outcome.eval_loss.unwrap() < losses[0]);
    let output = outcome.output_dir;
    let opened = open(&output, Precision::F32, Rest::Frozen).unwrap();
    assert_eq!(opened.model.parameter_count(), plan.parameters);
    assert!(opened.tokenizer.is_some());
    for file in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "recipe.yaml",
        "train.log",
        "trainer_log.jsonl",
        "trainer_state.json",
        "all_results.json",
        "training_loss.svg",
        "training_loss.png",
        "checkpoint-4/optimizer.safetensors",
        "checkpoint-4/trainer_state.json",
    ] {
        assert!(output.join(file).is_file(), "{file}");
    }
}

#[test]
fn transformers_34191_accumulation_gives_the_result_of_the_batch() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, losses) = run(recipe(folder.path(), "whole", ""), None);
    let split = "per_device_train_batch_size: 1\ngradient_accumulation_steps: 4\n";
    let text = recipe(folder.path(), "split", "").to_yaml().unwrap();
    let overrides: Vec<String> = split.lines().map(|line| line.replace(": ", "=")).collect();
    let split = Recipe::parse("test.yaml", &text, &overrides).unwrap().recipe;
    let (split, split_losses) = run(split, None);
    assert_eq!(losses, split_losses);
    assert_eq!(weights(&whole.output_dir), weights(&split.output_dir));
}

#[test]
fn transformers_33336_a_resumed_run_gives_the_bits_of_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, _) = run(recipe(folder.path(), "whole", ""), None);
    let mean = whole.train_loss;
    for stop_at in [1, 4, 6] {
        let output = format!("stopped-{stop_at}");
        let (stopped, _) = run(recipe(folder.path(), &output, ""), Some(stop_at));
        let checkpoint = stopped.interrupted.unwrap();
        assert!(checkpoint.ends_with(format!("checkpoint-{stop_at}")));
        let (resumed, _) = run(recipe(folder.path(), &output, "resume_from_checkpoint: true\n"), None);
        let same = weights(&whole.output_dir) == weights(&resumed.output_dir);
        assert!(same, "stopped at {stop_at}");
        assert!((resumed.train_loss - mean).abs() < 1e-9, "the mean is over all steps");
    }
}

#[test]
fn lora_trains_only_its_adapter_and_resumes_with_its_own_rank() {
    let folder = tempfile::tempdir().unwrap();
    let (base, _) = run(recipe(folder.path(), "base", ""), None);
    let before = weights(&base.output_dir);
    let other = folder.path().join("other.txt");
    std::fs::write(&other, "挤出机把塑料颗粒熔化，从模头挤出管材。".repeat(30)).unwrap();
    let lora = |output: &str, extra: &str| {
        let text = format!(
            "model_name_or_path: {}\nstage: pt\npacking: false\nfinetuning_type: lora\nlora_rank: 4\ndataset: {}\ncutoff_len: 32\n\
             learning_rate: 0.01\nmax_steps: 12\nper_device_train_batch_size: 8\nprecision: f32\nsave_steps: 5\n\
             output_dir: {}\n{extra}",
            base.output_dir.display(),
            other.display(),
            folder.path().join(output).display()
        );
        Recipe::parse("lora.yaml", &text, &[] as &[&str]).unwrap().recipe
    };
    let (whole, losses) = run(lora("whole", ""), None);
    assert!(losses[11] < 0.9 * losses[0], "{losses:?}");
    assert_eq!(weights(&base.output_dir), before);
    let adapter =
        |outcome: &Outcome| std::fs::read(outcome.output_dir.join("adapter_model.safetensors")).unwrap();
    run(lora("cut", ""), Some(7));
    let mut full = lora("cut", "resume_from_checkpoint: true\n");
    full.output.resume_from_checkpoint = Some(ResumeFrom::Folder(folder.path().join("base/checkpoint-4")));
    let Err(error) = prepare(full, Load::Weights) else { panic!("a whole model was taken for an adapter") };
    assert!(
        error.to_string().contains("it holds a whole model; expected `finetuning_type: full`"),
        "{error}"
    );
    let mut again = lora("cut", "resume_from_checkpoint: true\n");
    again.adapter.lora_rank = 2;
    let prepared = prepare(again, Load::Weights).unwrap();
    assert!(prepared.notices.iter().any(|notice| notice.contains("keeps its own rank 4, alpha 8")));
    let resumed = train(prepared, &mut Watch::default()).unwrap();
    assert_eq!(adapter(&whole), adapter(&resumed));
}

#[test]
fn an_earlier_run_is_not_overwritten_unless_asked() {
    let folder = tempfile::tempdir().unwrap();
    run(recipe(folder.path(), "run", "max_steps: 4\n"), None);
    let Err(error) = prepare(recipe(folder.path(), "run", "max_steps: 4\n"), Load::Weights) else {
        panic!("the second run was prepared");
    };
    assert!(error.to_string().contains("already holds a run (`checkpoint-4`)"), "{error}");
    run(recipe(folder.path(), "run", "max_steps: 3\noverwrite_output_dir: true\n"), None);
    assert!(!folder.path().join("run/checkpoint-4").exists());
}

#[test]
fn a_checkpoint_continued_in_another_folder_spares_the_run_there() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, _) = run(recipe(folder.path(), "whole", ""), None);
    let (stopped, _) = run(recipe(folder.path(), "stopped", ""), Some(4));
    let resume = format!("resume_from_checkpoint: {}\n", stopped.interrupted.unwrap().display());
    let log = folder.path().join("whole/trainer_log.jsonl");
    let before = std::fs::read(&log).unwrap();
    let Err(error) = prepare(recipe(folder.path(), "whole", &resume), Load::Weights) else {
        panic!("the other run's folder was taken");
    };
    assert!(error.to_string().contains("already holds a run"), "{error}");
    assert_eq!(std::fs::read(&log).unwrap(), before);
    // Another order of samples is found out before the run there is removed.
    let other =
        recipe(folder.path(), "whole", &format!("{resume}overwrite_output_dir: true\ndata_seed: 9\n"));
    train(prepare(other, Load::Weights).unwrap(), &mut Watch::default()).unwrap_err();
    assert_eq!(std::fs::read(&log).unwrap(), before);
    let itself = resume.trim_start_matches("resume_from_checkpoint: ").trim();
    let Err(error) = prepare(recipe(folder.path(), itself, &resume), Load::Weights) else {
        panic!("a checkpoint was taken for the output folder");
    };
    assert!(error.to_string().contains("which it starts from"), "{error}");
    let (elsewhere, _) = run(recipe(folder.path(), "elsewhere", &resume), None);
    assert_eq!(weights(&whole.output_dir), weights(&elsewhere.output_dir));
}

#[test]
fn a_checkpoint_of_other_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    run(recipe(folder.path(), "run", ""), Some(4));
    let other = recipe(folder.path(), "run", "resume_from_checkpoint: true\n");
    std::fs::write(
        folder.path().join("corpus.jsonl"),
        "{\"text\": \"另一份语料，另一份语料。\"}\n".repeat(20),
    )
    .unwrap();
    let prepared = prepare(other, Load::Weights).unwrap();
    let error = train(prepared, &mut Watch::default()).unwrap_err();
    assert!(error.to_string().contains("the training samples are not the same"), "{error}");
}

#[test]
fn save_total_limit_keeps_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let (outcome, losses) = run(recipe(folder.path(), "run", "save_total_limit: 2\n"), None);
    let mut kept: Vec<u64> = danlu_train::checkpoint::list(&outcome.output_dir)
        .unwrap()
        .into_iter()
        .map(|(step, _)| step)
        .collect();
    kept.sort_unstable();
    let last = losses.len() as u64 / 4 * 4;
    assert_eq!(kept, [last - 4, last]);
}

/// Biases, norms of heads and a head used with rows of unit length, over steps of several slices.
#[test]
fn every_option_of_the_block_trains_and_continues_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = prepare(recipe(folder.path(), "none", ""), Load::Shapes).unwrap().tokenizer;
    let shape = Config {
        vocab_size: tokenizer.vocabulary_size(),
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        head_dim: 8,
        max_position_embeddings: 64,
        initializer_range: 0.1,
        ..Config::default()
    };
    let families = [
        Config { family: Family::Baichuan, normalized_head: true, ..shape.clone() },
        Config { family: Family::Qwen2, attention_bias: AttentionBias::QueryKeyValue, ..shape.clone() },
        Config { family: Family::Qwen3, query_key_norm: true, tie_word_embeddings: true, ..shape.clone() },
        Config {
            family: Family::BabyLlama2,
            rope_layout: RopeLayout::Interleaved,
            tie_word_embeddings: true,
            ..shape
        },
    ];
    for config in families {
        let base = tempfile::tempdir().unwrap();
        let model = Model::zeros(config.clone(), Precision::F32).initialize(3);
        save_folder(&model, Some(&tokenizer), base.path(), 5_000_000_000).unwrap();
        let recipe = |output: &str, extra: &str| {
            let text = format!(
                "stage: pt\npacking: false\nfinetuning_type: full\nmodel_name_or_path: {}\ndataset: {}\ncutoff_len: 32\n\
                 learning_rate: 0.01\nmax_steps: 6\nper_device_train_batch_size: 54\nprecision: f32\nsave_steps: 3\n\
                 output_dir: {}\n{extra}",
                base.path().display(),
                corpus(folder.path()).display(),
                folder.path().join(output).display(),
            );
            Recipe::parse("test.yaml", &text, &[] as &[&str]).unwrap().recipe
        };
        let name = format!("{:?}", config.family);
        let (whole, losses) = run(recipe(&name, ""), None);
        assert!(losses[5] < 0.9 * losses[0], "{name}: {losses:?}");
        let stopped = format!("{name}-stopped");
        run(recipe(&stopped, ""), Some(4));
        let (again, rest) = run(recipe(&stopped, "resume_from_checkpoint: true\n"), None);
        assert_eq!(rest, losses[4..], "{name}");
        assert_eq!(weights(&again.output_dir), weights(&whole.output_dir), "{name}");
        let trained = open(&whole.output_dir, Precision::F32, Rest::Frozen).unwrap().model;
        let read = trained.config();
        assert_eq!((read.family, read.normalized_head), (config.family, config.normalized_head), "{name}");
    }
}

#[test]
fn a_preset_gives_the_shape_of_a_new_model() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "stage: pt\npacking: false\nfinetuning_type: full\nmodel_preset: minimind-64m\nvocab_size: 320\ndataset: {}\ncutoff_len: 32\n\
         max_steps: 1\noutput_dir: {}\n",
        corpus(folder.path()).display(),
        folder.path().join("run").display(),
    );
    let recipe = Recipe::parse("test.yaml", &text, &[] as &[&str]).unwrap().recipe;
    let prepared = prepare(recipe, Load::Shapes).unwrap();
    let preset = Config::preset("minimind-64m").unwrap();
    let other_rows = preset.vocab_size - prepared.tokenizer.vocabulary_size();
    assert_eq!(prepared.model.parameter_count(), preset.parameter_count() - other_rows * preset.hidden_size);
    assert_eq!(prepared.model.config().family, Family::Qwen3);
}

#[test]
fn a_packed_run_resumes_to_the_same_bits_and_knows_its_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let packed = |output: &str, extra: &str| {
        let text = recipe(folder.path(), output, extra).to_yaml().unwrap();
        Recipe::parse("test.yaml", &text, &["packing=true", "cutoff_len=64"]).unwrap().recipe
    };
    let prepared = prepare(packed("plan", ""), Load::Shapes).unwrap();
    let report = prepared.report.packing.unwrap();
    assert_eq!(report.tokens, prepared.training.tokens());
    assert!(report.efficiency > 0.8 && report.blocks < prepared.training.len() as u64, "{report:?}");
    assert_eq!(prepared.order.steps_per_epoch(), report.blocks.div_ceil(4));
    let (whole, losses) = run(packed("whole", ""), None);
    assert_eq!(losses.len() as u64, prepared.total_steps);
    let stop_at = prepared.order.steps_per_epoch() + 1;
    run(packed("stopped", ""), Some(stop_at));
    let resume = "resume_from_checkpoint: true\n";
    let unpacked = Recipe::parse(
        "test.yaml",
        &packed("stopped", resume).to_yaml().unwrap(),
        &["packing=false", "cutoff_len=64"],
    );
    let mut watch = Watch::default();
    let error = train(prepare(unpacked.unwrap().recipe, Load::Weights).unwrap(), &mut watch).unwrap_err();
    assert!(error.to_string().contains("restore it, or start a new run"), "{error}");
    let (resumed, _) = run(packed("stopped", resume), None);
    assert_eq!(weights(&whole.output_dir), weights(&resumed.output_dir));
}
