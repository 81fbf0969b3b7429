//! Distillation as users run it: what the student learns, what is kept of the teacher, and mistakes.

use crate::common;

use std::path::Path;

use common::{Ran, TEXT, run, vocabulary, with_model, write_model_of};
use danlu_model::Config;
use danlu_tokenizer::{Tokenizer, VocabularyTraining};
use serde_json::{Value, json};

const ROWS: usize = 12;

fn teacher_shape() -> Config {
    Config {
        hidden_size: 48,
        intermediate_size: 96,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        head_dim: 12,
        max_position_embeddings: 256,
        initializer_range: 0.3,
        ..Config::default()
    }
}

/// A student, a larger teacher of the same vocabulary, questions and a recipe.
fn folder() -> tempfile::TempDir {
    let folder = with_model();
    write_model_of(&folder.path().join("teacher"), Some(&vocabulary(false)), teacher_shape());
    write_rows(folder.path(), "车床");
    std::fs::write(
        folder.path().join("recipe.yaml"),
        "model_name_or_path: model\nteacher_model_name_or_path: teacher\nstage: sft\nfinetuning_type: full\n\
         dataset: rows.jsonl\ncutoff_len: 128\nlearning_rate: 0.005\nlr_scheduler_type: constant\n\
         num_train_epochs: 4\nper_device_train_batch_size: 4\ndistillation_top_k: 16\nlogging_steps: 1\n\
         save_steps: 6\nprecision: f32\nthreads: 1\nplot_loss: false\n",
    )
    .unwrap();
    folder
}

fn write_rows(folder: &Path, machine: &str) {
    let row = |row: usize| {
        let answer = format!("车削回转表面{}。", "一二三四".chars().nth(row % 4).unwrap());
        json!({"instruction": format!("第{row}问：{machine}加工什么？"), "output": answer}).to_string() + "\n"
    };
    std::fs::write(folder.join("rows.jsonl"), (0..ROWS).map(row).collect::<String>()).unwrap();
}

fn train(folder: &Path, output: &str, extra: &[&str]) -> Ran {
    let output_dir = format!("output_dir={output}");
    run(folder, &[&["train", "recipe.yaml", &output_dir, "--json"], extra].concat())
}

/// The entries of `trainer_state.json` that have `key`, as numbers.
fn history(folder: &Path, output: &str, key: &str) -> Vec<Value> {
    let text = std::fs::read(folder.join(output).join("trainer_state.json")).unwrap();
    let state: Value = serde_json::from_slice(&text).unwrap();
    let entries = state["log_history"].as_array().unwrap().iter();
    entries.filter(|entry| !entry[key].is_null()).cloned().collect()
}

fn number(log: &Value, key: &str) -> f64 {
    log[key].as_f64().unwrap_or_else(|| panic!("{key} in {log}"))
}

fn weights(folder: &Path, output: &str) -> Vec<u8> {
    std::fs::read(folder.join(output).join("model.safetensors")).unwrap()
}

const KEPT: &str = "are there from before: the teacher is not asked again";
const READS: &str = "before the first step: the teacher's 16 most probable tokens at";

#[test]
fn a_student_comes_nearer_to_its_teacher() {
    let folder = folder();
    let folder = folder.path();
    let options = ["distillation_alpha=0.75", "distillation_temperature=2", "val_size=2"];
    train(folder, "run", &options).json();
    let logs = history(folder, "run", "kl");
    let (first, last) = (&logs[0], &logs[logs.len() - 1]);
    assert!(number(last, "kl") < 0.8 * number(first, "kl"), "{first} {last}");
    for log in &logs {
        let loss = 0.75 * 4.0 * number(log, "kl") + 0.25 * number(log, "ce");
        assert!((number(log, "loss") - loss).abs() < 1e-5 * loss, "{log}");
    }
    // Validations are plain cross-entropy.
    let validation = &history(folder, "run", "eval_loss")[0];
    assert!(number(validation, "eval_loss") < number(first, "loss") && validation["kl"].is_null());
    let plain = train(folder, "plain", &["teacher_model_name_or_path=", "distillation_top_k=32"]);
    assert_eq!(plain.code, 0, "{}", plain.stderr);
    assert!(history(folder, "plain", "kl").is_empty() && !folder.join("plain/distillation").exists());
    // With the teacher alone the student goes its way, whatever the answers are.
    train(folder, "alone", &["distillation_alpha=1", "num_train_epochs=12"]).json();
    let logs = history(folder, "alone", "kl");
    let (first, last) = (&logs[0], &logs[logs.len() - 1]);
    assert!(number(last, "kl") < 0.5 * number(first, "kl"), "{first} {last}");
    assert!((number(last, "kl") - number(last, "loss")).abs() < 1e-6);
}

#[test]
fn what_the_teacher_said_is_used_again_until_teacher_or_data_change() {
    let folder = folder();
    let folder = folder.path();
    let first = train(folder, "run", &[]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert!(first.stderr.contains(READS), "{}", first.stderr);
    let result = weights(folder, "run");
    let top_k = folder.join("run/distillation/top_k.bin");
    let before = std::fs::metadata(&top_k).unwrap().modified().unwrap();

    // Another run in the same folder, with other batches and threads: the same bits without the teacher.
    let again = [
        "overwrite_output_dir=true",
        "per_device_train_batch_size=2",
        "gradient_accumulation_steps=2",
        "threads=2",
    ];
    let second = train(folder, "run", &again);
    assert!(second.stderr.contains(KEPT) && second.code == 0, "{}", second.stderr);
    assert!(weights(folder, "run") == result);
    // A resume too, also where the first steps were taken by another run.
    train(folder, "cut", &["max_steps=6"]).json();
    let resumed = train(folder, "cut", &["resume_from_checkpoint=true"]);
    assert!(resumed.stderr.contains(KEPT) && resumed.code == 0, "{}", resumed.stderr);
    assert!(weights(folder, "cut") == result);
    let of_cut = folder.join("cut/distillation/top_k.bin");
    let cut_kept = std::fs::metadata(&of_cut).unwrap().modified().unwrap();
    assert_eq!(std::fs::metadata(&top_k).unwrap().modified().unwrap(), before);
    // What was copied into the folder of a new run counts.
    common::copy_folder(&folder.join("run/distillation"), &folder.join("copied/distillation"));
    let copied = train(folder, "copied", &[]);
    assert!(copied.stderr.contains(KEPT) && copied.code == 0, "{}", copied.stderr);
    assert!(weights(folder, "copied") == result);

    // A note beside the weights makes no other teacher, nor does a look by a plan.
    std::fs::write(folder.join("teacher/README.md"), "a teacher").unwrap();
    let anew = |why: &str, extra: &[&str]| {
        let ran = train(folder, "run", &[&["overwrite_output_dir=true", "max_steps=1"], extra].concat());
        assert_eq!(ran.code, 0, "{why}: {}", ran.stderr);
        assert!(
            ran.stderr.contains(
                &READS.replace("16", if extra.contains(&"distillation_top_k=8") { "8" } else { "16" })
            ),
            "{why}: {}",
            ran.stderr
        );
        let told = format!("what `run/distillation` holds is not used, and the teacher reads anew: {why}");
        assert!(ran.stderr.contains(&told), "{why}: {}", ran.stderr);
    };
    anew("`distillation_top_k` is another", &["distillation_top_k=8"]);
    anew("the precision is another", &["precision=bf16", "distillation_top_k=8"]);
    anew("`distillation_top_k` is another", &["precision=bf16"]);
    write_rows(folder, "铣床");
    anew("the training samples are others", &["precision=bf16"]);
    let other = Config { rope_theta: 5_000.0, ..teacher_shape() };
    write_model_of(&folder.join("teacher"), Some(&vocabulary(false)), other);
    anew("the files of the teacher have changed", &["precision=bf16"]);
    std::fs::write(folder.join("run/distillation/teacher.json"), "{").unwrap();
    anew("`teacher.json` is damaged", &["precision=bf16"]);
    // Other data do not go with the checkpoint: that is said before the teacher reads for hours.
    write_rows(folder, "磨床");
    train(folder, "cut", &["resume_from_checkpoint=true"])
        .is_refused("the training samples are not the same");
    let after = std::fs::metadata(&of_cut).unwrap().modified().unwrap();
    assert_eq!(after, cut_kept, "the teacher has read before the checkpoint was compared");
}

#[test]
fn a_teacher_may_be_a_gguf_file_and_the_student_an_adapter() {
    let folder = folder();
    let folder = folder.path();
    let convert = ["convert", "teacher", "teacher.gguf", "--dtype", "f32"];
    let converted = run(folder, &convert);
    assert_eq!(converted.code, 0, "{}", converted.stderr);
    let lora = ["finetuning_type=lora", "lora_rank=4", "max_steps=3"];
    train(folder, "folder", &lora).json();
    train(folder, "gguf", &[&lora[..], &["teacher_model_name_or_path=teacher.gguf"]].concat()).json();
    let losses = ["folder", "gguf"].map(|output| number(&history(folder, output, "kl")[2], "kl"));
    assert!((losses[0] - losses[1]).abs() < 0.02 * losses[0], "{losses:?}");
    // A file is what its content says, whatever its name; under another name it is another teacher.
    std::fs::rename(folder.join("teacher.gguf"), folder.join("teacher.weights")).unwrap();
    let renamed = ["teacher_model_name_or_path=teacher.weights", "overwrite_output_dir=true"];
    let renamed = train(folder, "gguf", &[&lora[..], &renamed].concat());
    assert!(
        renamed.code == 0 && renamed.stderr.contains("the files of the teacher have changed"),
        "{}",
        renamed.stderr
    );
    // A new model learns from a teacher too.
    std::fs::write(folder.join("corpus.txt"), TEXT.repeat(3)).unwrap();
    let new = [
        "stage=pt",
        "dataset=corpus.txt",
        "model_name_or_path=",
        "hidden_size=32",
        "intermediate_size=64",
        "num_hidden_layers=1",
        "num_attention_heads=4",
        "max_steps=4",
    ];
    train(folder, "new", &new).json();
    let logs = history(folder, "new", "kl");
    assert!(number(&logs[3], "loss") < number(&logs[0], "loss"), "{logs:?}");
}

#[test]
fn mistakes_with_a_teacher_are_named_before_anything_runs() {
    let folder = folder();
    let folder = folder.path();
    let options = VocabularyTraining { vocabulary_size: 280, ..VocabularyTraining::default() };
    let other = Tokenizer::train(["abcabcabdabeabf".to_owned()].into_iter(), &options).unwrap();
    write_model_of(&folder.join("other"), Some(&other), teacher_shape());
    write_model_of(&folder.join("nameless"), None, teacher_shape());
    let short = Config { max_position_embeddings: 16, ..teacher_shape() };
    write_model_of(&folder.join("short"), Some(&vocabulary(false)), short);
    let teacher = |name: &str| format!("teacher_model_name_or_path={name}");
    train(folder, "run", &[&teacher("other")])
        .is_refused("`other` has another vocabulary than the student: token");
    train(folder, "run", &[&teacher("nameless")]).is_refused("`nameless` has no tokenizer to compare with");
    train(folder, "run", &[&teacher("short")]).is_refused("`short` has a context of 16 tokens");
    train(folder, "run", &[&teacher("nowhere")]).is_refused("nowhere");
    train(folder, "run", &["stage=orpo"]).is_refused("goes with `stage: pt` and `sft`");
    train(folder, "run", &["distillation_top_k=400"]).is_refused("400 is more than the vocabulary has");
    train(folder, "run", &["distillation_top_k=0"]).is_refused("`distillation_top_k` must be from 1 to 1024");
    train(folder, "run", &["distillation_alpha=0"])
        .is_refused("`distillation_alpha` must be above 0 and at most 1");
    train(folder, "run", &["distillation_temperature=0"]).is_refused("must be above 0, found `0`");
    train(folder, "run", &[&teacher("")])
        .is_refused("`distillation_top_k` needs `teacher_model_name_or_path`");
    train(folder, "run", &["max_memory=1MB"]).is_refused("more than the 1 MB that it may take");
    train(folder, "run", &["kd_alpha=0.3"]).is_refused("`distillation_alpha`");
    train(folder, "teacher", &["overwrite_output_dir=true"]).is_refused("would write over `teacher`");
    assert!(!folder.join("run").exists(), "nothing was written");
}

#[test]
fn the_plan_shows_the_teacher_beside_the_run() {
    let folder = folder();
    let folder = folder.path();
    let plan = |extra: &[&str]| run(folder, &[&["plan", "recipe.yaml", "output_dir=run"], extra].concat());
    let found = plan(&["--json"]).json();
    let (teacher, memory) = (&found["teacher"], &found["memory"]);
    let positions = teacher["positions"].as_u64().unwrap();
    assert_eq!(&teacher["positions"], &found["trained_tokens_per_epoch"]);
    assert_eq!((&teacher["kept"], teacher["bytes"].as_u64()), (&0.into(), Some(positions * 16 * 8)));
    assert!(teacher["tokens"].as_u64() > Some(positions) && memory["teacher"].as_u64() > Some(1 << 20));
    assert!(memory["peak"].as_u64() >= memory["teacher"].as_u64());
    assert!(found["time"]["teacher_seconds"].as_f64() > Some(0.0));
    let before = plan(&[]);
    assert!(before.stdout.contains(READS) && before.stdout.contains("for the teacher"), "{}", before.stdout);
    train(folder, "run", &["max_steps=1"]).json();
    let resume = "resume_from_checkpoint=true";
    let found = plan(&[resume, "--json"]).json();
    assert_eq!((&found["teacher"]["tokens"], &found["memory"]["teacher"]), (&0.into(), &0.into()));
    let after = plan(&[resume]);
    assert!(after.stdout.contains(KEPT), "{}", after.stdout);
}
