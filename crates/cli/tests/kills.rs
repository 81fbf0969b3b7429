//! Kills without warning at many points of many runs: each goes on to what one uninterrupted run leaves, to the bit.

use crate::common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{run, vocabulary, write_model_of};
use danlu_model::Config;
use serde_json::{Value, json};

/// Kills of each kind of run.
const KILLS: u64 = 20;

/// Logs, validations and checkpoints fall on different steps, so that every sum is cut somewhere.
const RECIPE: &str = "model_name_or_path: model\nstage: sft\nfinetuning_type: lora\nlora_rank: 4\ndataset: rows.json\n\
    template: chatml\ncutoff_len: 96\nlearning_rate: 0.004\nmax_steps: 24\nper_device_train_batch_size: 6\n\
    val_size: 4\neval_strategy: steps\neval_steps: 4\nlogging_steps: 5\nsave_steps: 3\nsave_total_limit: 2\n\
    report_to: tensorboard\nprecision: f32\nthreads: 1\nplot_loss: false\n";

const KINDS: [(&str, &[&str]); 7] = [
    (
        "lora",
        &[
            "lora_dropout=0.2",
            "load_best_model_at_end=true",
            "sample_prompts=[车床]",
            "sample_max_new_tokens=4",
        ],
    ),
    ("qlora", &["quantization_bit=4", "optim=adamw_8bit", "loss_spike_factor=1.05", "max_skipped_steps=99"]),
    ("dpo", &["stage=dpo", "dataset=pairs.json", "pref_ftx=0.1"]),
    ("full", &["finetuning_type=full", "neftune_noise_alpha=5"]),
    ("kto", &["stage=kto", "dataset=judged.json"]),
    ("distillation", &["finetuning_type=full", "teacher_model_name_or_path=teacher", "distillation_top_k=8"]),
    // A high rate and a strict guard, so that the run goes back.
    (
        "rollback",
        &[
            "finetuning_type=full",
            "learning_rate=0.6",
            "lr_scheduler_type=linear",
            "warmup_steps=12",
            "loss_spike_factor=1.05",
            "max_skipped_steps=1",
            "rollback=true",
            "save_steps=8",
        ],
    ),
];

/// A model whose layers can be quantized, rows and pairs, and the recipe.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let shape = Config {
        hidden_size: 64,
        intermediate_size: 128,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        max_position_embeddings: 128,
        tie_word_embeddings: true,
        initializer_range: 0.2,
        ..Config::default()
    };
    let wider = Config { hidden_size: 96, head_dim: 24, intermediate_size: 160, ..shape.clone() };
    write_model_of(&folder.path().join("teacher"), Some(&vocabulary(false)), wider);
    write_model_of(&folder.path().join("model"), Some(&vocabulary(false)), shape);
    let row = |row: u64| json!({"instruction": format!("第{row}道工序？"), "output": format!("车削{}，公差{}。", row % 5, row * 7 % 11)});
    let pair = |row: u64| json!({"prompt": format!("第{row}问？"), "chosen": format!("车削{}。", row % 3), "rejected": format!("铣刀{}", row % 4)});
    let judged = |row: u64| json!({"prompt": format!("第{row}问？"), "completion": format!("车削{}。", row % 5), "label": !row.is_multiple_of(3)});
    let write = |name: &str, rows: Vec<Value>| {
        std::fs::write(folder.path().join(name), Value::from(rows).to_string()).unwrap();
    };
    write("rows.json", (0..60).map(row).collect());
    write("pairs.json", (0..40).map(pair).collect());
    write("judged.json", (0..60).map(judged).collect());
    std::fs::write(folder.path().join("recipe.yaml"), RECIPE).unwrap();
    folder
}

/// Numbers of chance, the same in every run of the test.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn arguments(output: &str, extra: &[&str]) -> Vec<String> {
    let own = ["train", "recipe.yaml", "resume_from_checkpoint=true", "overwrite_output_dir=true"];
    let own = own.iter().chain(extra).map(ToString::to_string);
    own.chain([format!("output_dir={output}")]).collect()
}

fn start(folder: &Path, output: &str, extra: &[&str]) -> Child {
    let program = common::danlu(folder).get_program().to_owned();
    let mut command = Command::new(program);
    command.current_dir(folder).env("HF_HUB_OFFLINE", "1").args(arguments(output, extra));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Whether a checkpoint is being written, or was when the run was killed.
fn is_saving(output: &Path) -> bool {
    names(output).iter().any(|name| name.starts_with(".checkpoint-") && name.contains(".tmp-"))
}

/// Waits until `is_reached`, or the end of the program.
fn wait(child: &mut Child, is_reached: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_reached() && child.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// The newest checkpoint that is whole.
fn newest(output: &Path) -> Option<(u64, PathBuf)> {
    danlu_train::checkpoint::list(output).unwrap().pop()
}

/// Kills a run: at a point of chance between its first lines and its end, or while it writes a checkpoint of chance. Says
/// whether it was writing one; nothing if it had ended before.
fn kill(
    folder: &Path,
    output: &str,
    extra: &[&str],
    duration: Duration,
    chance: &mut Chance,
) -> Option<bool> {
    let path = folder.join(output);
    let mut child = start(folder, output, extra);
    if chance.below(3) == 0 {
        let least = chance.below(22);
        wait(&mut child, || {
            let is_there = |step: u64| names(&path).contains(&format!("checkpoint-{step}"));
            is_saving(&path) && (least < 3 || (least - 2..=least).any(is_there))
        });
        std::thread::sleep(Duration::from_micros(chance.below(4000)));
    } else {
        wait(&mut child, || path.join("train.log").exists());
        let part = chance.below(1000) as u32;
        std::thread::sleep(duration * part / 1000);
    }
    let is_running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    is_running.then(|| is_saving(&path))
}

/// What is left of a JSON value without times and places, which differ between runs.
fn timeless(mut value: Value) -> Value {
    if let Value::Object(entries) = &mut value {
        let differs = ["runtime", "per_second", "_time", "throughput", "best_model_checkpoint", "seconds"];
        entries.retain(|key, _| !differs.iter().any(|part| key.contains(part)));
        entries.values_mut().for_each(|entry| *entry = timeless(entry.take()));
    } else if let Value::Array(entries) = &mut value {
        entries.iter_mut().for_each(|entry| *entry = timeless(entry.take()));
    }
    value
}

/// Everything that two runs of the same recipe have in common, by name.
fn result(output: &Path) -> Vec<(String, Vec<u8>)> {
    let (_, checkpoint) = newest(output).unwrap();
    let mut files: Vec<PathBuf> = [output, &checkpoint]
        .into_iter()
        .flat_map(|folder| names(folder).into_iter().map(|name| folder.join(name)))
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let mut found = Vec::new();
    for path in files {
        let name = path.strip_prefix(output).unwrap().display().to_string();
        let bytes = std::fs::read(&path).unwrap();
        let lines = |text: &[u8]| -> Vec<Value> {
            let text = std::str::from_utf8(text).unwrap();
            text.lines().map(|line| timeless(serde_json::from_str(line).unwrap())).collect()
        };
        let kept = match path.extension().and_then(|end| end.to_str()) {
            Some("json") if name == "run.json" => continue,
            Some("json") => timeless(serde_json::from_slice(&bytes).unwrap()).to_string().into_bytes(),
            Some("jsonl") => Value::from(lines(&bytes)).to_string().into_bytes(),
            Some("log") => {
                let is_timed = |line: &&str| line.contains("runtime");
                // A run that goes back names its checkpoint.
                let folder = output.file_name().unwrap().to_str().unwrap();
                let text = String::from_utf8(bytes).unwrap().replace(folder, "run");
                text.lines().filter(|line| !is_timed(line)).collect::<Vec<_>>().join("\n").into_bytes()
            }
            Some("yaml") => continue,
            _ => bytes,
        };
        found.push((name, kept));
    }
    found
}

/// Kills runs of one kind, and returns how many kills met a checkpoint that was being written.
fn kill_all(folder: &Path, kind: &str, extra: &[&str], seed: u64) -> u32 {
    let (mut chance, mut while_saving) = (Chance(seed), 0);
    let begin = Instant::now();
    let whole = format!("{kind}-whole");
    let ran = run(folder, &arguments(&whole, extra));
    assert_eq!(ran.code, 0, "{kind}: {}", ran.stderr);
    let duration = begin.elapsed();
    let expected = result(&folder.join(&whole));
    let goes_back = ran.stderr.contains("going on from");
    assert_eq!(goes_back, kind == "rollback", "{kind}: {}", ran.stderr);
    for point in 0..KILLS {
        let output = format!("{kind}-{point}");
        let path = folder.join(&output);
        let is_saving = loop {
            if let Some(is_saving) = kill(folder, &output, extra, duration, &mut chance) {
                break is_saving;
            }
            std::fs::remove_dir_all(&path).unwrap();
        };
        while_saving += u32::from(is_saving);
        let from = newest(&path).map_or(0, |(step, _)| step);
        let ran = run(folder, &arguments(&output, extra));
        assert_eq!(ran.code, 0, "{kind}: {}", ran.stderr);
        let found = result(&path);
        let list =
            |result: &[(String, Vec<u8>)]| result.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(list(&found), list(&expected), "{kind}, killed {point}, resumed at step {from}");
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(5000)]).into_owned();
            assert!(
                found == expected,
                "{kind}, killed {point}, resumed at step {from}: {name} differs:\n{}\n{}",
                text(found),
                text(expected)
            );
        }
        std::fs::remove_dir_all(&path).unwrap();
    }
    while_saving
}

#[test]
#[ignore = "20 runs of seven kinds, each killed and continued"]
fn killed_runs_of_every_kind_end_bit_identical() {
    let folder = folder();
    let folder = folder.path();
    let saving = std::thread::scope(|scope| {
        let kinds = KINDS
            .iter()
            .zip(1..)
            .map(|((kind, extra), seed)| scope.spawn(move || kill_all(folder, kind, extra, seed)));
        let threads: Vec<_> = kinds.collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    println!("kills while a checkpoint was being written: {saving:?} of {KILLS} each");
    assert!(saving.iter().sum::<u32>() >= 10, "{saving:?}");
}
