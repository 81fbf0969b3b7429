//! `danlu train` and `danlu plan` as users run them: kills, Ctrl-C, a full disk, other numbers of threads, mistakes.

use crate::common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Ran, run, with_own_mounts};

const STEPS: u64 = 24;

/// Writes a corpus and a recipe for a tiny new model.
fn write_recipe(folder: &Path) {
    let line = |row: usize| format!("{{\"text\": \"第{row}道工序：车床加工轴，公差{}微米。\"}}", row % 7 + 1);
    let corpus: Vec<String> = (0..60).map(line).collect();
    std::fs::write(folder.join("corpus.jsonl"), corpus.join("\n")).unwrap();
    let recipe = format!(
        "stage: pt\npacking: false\nfinetuning_type: full\nhidden_size: 32\nintermediate_size: 64\nnum_hidden_layers: 2\n\
         num_attention_heads: 4\nnum_key_value_heads: 2\nmax_position_embeddings: 64\nvocab_size: 320\n\
         dataset: corpus.jsonl\ncutoff_len: 32\nval_size: 6\nlearning_rate: 0.01\nmax_steps: {STEPS}\n\
         per_device_train_batch_size: 4\nlogging_steps: 5\nsave_steps: 3\nsave_total_limit: 2\n\
         overwrite_output_dir: false\n"
    );
    std::fs::write(folder.join("recipe.yaml"), recipe).unwrap();
}

fn train(folder: &Path, output: &str, extra: &[&str]) -> Ran {
    let output_dir = format!("output_dir={output}");
    run(folder, &[&["train", "recipe.yaml", &output_dir], extra].concat())
}

fn weights(folder: &Path, output: &str) -> Vec<u8> {
    std::fs::read(folder.join(output).join("model.safetensors")).unwrap()
}

fn start(folder: &Path, output: &str, extra: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_danlu"))
        .current_dir(folder)
        .args(["train", "recipe.yaml", &format!("output_dir={output}")])
        .args(extra)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn checkpoints(folder: &Path) -> Vec<PathBuf> {
    danlu_train::checkpoint::list(folder).unwrap().into_iter().map(|(_, path)| path).collect()
}

/// Kills the run once it has written so many checkpoints, a little later each time, and says whether it was running.
fn kill_after(child: &mut Child, output: &Path, count: u64, delay: Duration) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    let newest = |path: &Path| {
        let names = std::fs::read_dir(path).into_iter().flatten().flatten();
        let steps = names.filter_map(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .strip_prefix("checkpoint-")
                .and_then(|step| step.parse::<u64>().ok())
        });
        steps.max().unwrap_or(0)
    };
    while newest(output) < count && Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(delay);
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    running
}

#[test]
fn losses_in_bf16_and_in_f32_stay_within_a_percent_over_200_steps() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_recipe(folder);
    // Numbers that cannot be learnt keep the loss away from zero.
    let number = |row: u64| row.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
    let corpus: Vec<String> = (0..800)
        .map(|row| {
            format!("{{\"text\": \"工序{}：车床加工轴，公差{}微米。\"}}", number(row), number(row + 5000))
        })
        .collect();
    std::fs::write(folder.join("corpus.jsonl"), corpus.join("\n")).unwrap();
    let settings =
        ["hidden_size=64", "max_steps=200", "logging_steps=10", "save_steps=200", "learning_rate=0.003"];
    let curves = ["bf16=false", "bf16=true"].map(|precision| {
        train(folder, precision, &[&settings[..], &[precision]].concat()).succeeded();
        let log = std::fs::read_to_string(folder.join(precision).join("trainer_log.jsonl")).unwrap();
        let rows = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        rows.filter_map(|row| row["loss"].as_f64()).collect::<Vec<_>>()
    });
    let (first, last) = (curves[0][0], curves[0][curves[0].len() - 1]);
    assert!(curves[0].len() >= 20 && last < 0.8 * first && curves[0] != curves[1], "{curves:?}");
    for (f32, bf16) in curves[0].iter().zip(&curves[1]) {
        assert!((bf16 / f32 - 1.0).abs() < 0.01, "{f32} against {bf16}: {curves:?}");
    }
}

#[test]
fn transformers_33336_kill_9_and_resume_give_the_bits_of_an_uninterrupted_run() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_recipe(folder);
    train(folder, "whole", &[]).succeeded();
    let whole = weights(folder, "whole");
    let mut killed = 0;
    for (point, delay) in [(0, 150), (3, 0), (6, 3), (12, 7), (18, 1)] {
        let output = format!("killed-{point}");
        let mut child = start(folder, &output, &[]);
        killed +=
            u32::from(kill_after(&mut child, &folder.join(&output), point, Duration::from_millis(delay)));
        let nothing_saved = checkpoints(&folder.join(&output)).is_empty();
        let resumed = train(folder, &output, &["resume_from_checkpoint=true", "overwrite_output_dir=true"]);
        assert!(resumed.stderr.contains("no checkpoint in") == nothing_saved, "{}", resumed.stderr);
        resumed.succeeded();
        assert!(weights(folder, &output) == whole, "killed after checkpoint {point}");
        let log = std::fs::read_to_string(folder.join(&output).join("trainer_log.jsonl")).unwrap();
        let steps: Vec<u64> = log
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["current_steps"].as_u64().unwrap()
            })
            .collect();
        assert!(steps.is_sorted() && steps.last() == Some(&STEPS), "{steps:?}");
    }
    assert!(killed >= 3, "only {killed} of 5 kills met a running program");
}

#[test]
fn threads_and_accumulation_change_no_bit_at_any_cpu_level() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_recipe(folder);
    let ways = [("1", 8, 1), ("2", 4, 2), ("3", 1, 8)];
    for (level, precision) in
        [("portable", "f32"), ("avx2", "bf16"), ("avx512", "bf16"), ("avx512bf16", "bf16")]
    {
        let mut models = Vec::new();
        for (threads, batch, accumulation) in ways {
            let output = format!("{level}-{threads}");
            let ran = common::danlu(folder)
                .env("DANLU_ISA", level)
                .args(["train", "recipe.yaml", "max_steps=6", "--threads", threads])
                .args([format!("output_dir={output}"), format!("precision={precision}")])
                .arg(format!("per_device_train_batch_size={batch}"))
                .arg(format!("gradient_accumulation_steps={accumulation}"))
                .output()
                .unwrap();
            let stderr = String::from_utf8_lossy(&ran.stderr);
            if stderr.contains("asks for more than this processor has") {
                println!("skipped: this processor has no {level}");
                break;
            }
            assert!(ran.status.success(), "{stderr}");
            models.push(weights(folder, &output));
        }
        assert!(models.iter().all(|model| *model == models[0]), "{level}");
    }
}

#[test]
fn a_killed_run_goes_on_with_the_same_bits_at_a_lower_cpu_level() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_recipe(folder);
    let train = |output: &str, extra: &[&str]| {
        let ran = common::danlu(folder)
            .env("DANLU_ISA", "portable")
            .args(["train", "recipe.yaml", "max_steps=9", &format!("output_dir={output}")])
            .args(extra)
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    };
    train("whole", &[]);
    let checkpoint = folder.join("whole/checkpoint-6");
    assert!(checkpoint.is_dir());
    train("resumed", &[&format!("resume_from_checkpoint={}", checkpoint.display())]);
    assert!(weights(folder, "resumed") == weights(folder, "whole"));
}

#[test]
fn every_cpu_level_trains_to_nearly_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    write_recipe(folder.path());
    let mut losses = Vec::new();
    for level in ["portable", "avx2", "avx512", "avx512bf16"] {
        let output = common::danlu(folder.path())
            .env("DANLU_ISA", level)
            .args(["train", "recipe.yaml", "--json", "precision=bf16", &format!("output_dir={level}")])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        if stderr.contains("asks for more than this processor has") {
            println!("skipped: this processor has no {level}");
            continue;
        }
        let text = String::from_utf8(output.stdout).unwrap();
        let result: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        losses.push(result["eval_loss"].as_f64().unwrap());
    }
    let spread = losses.iter().map(|loss| (loss - losses[0]).abs()).fold(0.0, f64::max);
    assert!(spread < 0.02 * losses[0], "{losses:?}");
}

#[test]
fn ctrl_c_saves_a_checkpoint_that_goes_on_and_exits_with_130() {
    stops_and_goes_on("-INT");
}

#[test]
fn a_polite_end_is_as_ctrl_c() {
    stops_and_goes_on("-TERM");
}

fn stops_and_goes_on(signal: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_recipe(folder);
    let long = ["max_steps=100000", "save_steps=100000"];
    let child = start(folder, "stopped", &long);
    let log = folder.join("stopped/train.log");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !std::fs::read_to_string(&log).is_ok_and(|text| text.contains("'loss'"))
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(told.contains("stopping after this step"), "{told}");
    let saved = checkpoints(&folder.join("stopped"));
    assert_eq!(saved.len(), 1);
    let ran = train(folder, "stopped", &["max_steps=100000", "save_steps=100000"]);
    ran.is_refused("already holds a run");
    let mut child = start(folder, "stopped", &[&long[..], &["resume_from_checkpoint=true"]].concat());
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "the run goes on");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn axolotl_2548_a_full_disk_is_said_and_the_checkpoint_before_it_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_recipe(folder);
    std::fs::create_dir(folder.join("small")).unwrap();
    // The first checkpoint fits into 1 MB, two more do not.
    let script = format!(
        "mount -t tmpfs -o size=1m none small || exit 77\n\
         '{danlu}' train recipe.yaml output_dir=small/run save_total_limit=9; code=$?\n\
         ls -A small/run; cp -r small/run saved; exit $code",
        danlu = env!("CARGO_BIN_EXE_danlu")
    );
    let Some(output) = with_own_mounts(folder, &script) else { return };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the disk is full"), "{stderr}");
    let saved = checkpoints(&folder.join("saved"));
    assert!(!saved.is_empty());
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!listing.lines().any(|name| name.starts_with('.')), "half a folder is left: {listing}");
    train(folder, "saved", &["resume_from_checkpoint=true"]).succeeded();
    train(folder, "whole", &[]).succeeded();
    assert!(weights(folder, "saved") == weights(folder, "whole"));
}

#[test]
fn a_new_model_takes_the_vocabulary_of_a_gguf_file() {
    let folder = tempfile::tempdir().unwrap();
    write_recipe(folder.path());
    let Some(shared) = common::shared() else { return };
    let file = shared.join("checkpoints/stories260K/stories260K.gguf");
    let tokenizer = format!("tokenizer_name_or_path={}", file.display());
    train(folder.path(), "run", &[&tokenizer, "max_steps=2"]).succeeded();
    let config = std::fs::read_to_string(folder.path().join("run/config.json")).unwrap();
    assert!(config.contains("\"vocab_size\": 512"), "{config}");
}

#[test]
fn plan_says_what_a_run_does() {
    let folder = tempfile::tempdir().unwrap();
    write_recipe(folder.path());
    let plan = run(folder.path(), &["plan", "recipe.yaml", "output_dir=run", "--json"]).json();
    assert_eq!(plan["total_steps"], STEPS);
    assert_eq!(plan["training_samples"], 54);
    assert_eq!(plan["validation_samples"], 6);
    assert!(plan["memory"]["peak"].as_u64().unwrap() > 0);
    assert_eq!(plan["parameters"], plan["trainable_parameters"]);
    assert!(!folder.path().join("run").exists(), "a plan writes nothing");
}

#[test]
fn mistakes_are_named_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_recipe(folder);
    train(folder, "run", &["learning_rte=1"]).is_refused("did you mean `learning_rate`");
    train(folder, "run", &["dataset=corpus.json"]).is_refused("corpus.json");
    train(folder, "run", &["cutoff_len=4096"]).is_refused("more than the model's context of 64 tokens");
    train(folder, "run", &["num_key_value_heads=3"])
        .is_refused("must be a multiple of `num_key_value_heads`");
    train(folder, "run", &["finetuning_type=lora"]).is_refused("a new model has nothing to adapt");
    train(folder, "run", &["model_name_or_path=nowhere"]).is_refused("`nowhere` does not exist");
    train(folder, "run", &["model_name_or_path=a/Luban.pth"]).is_refused("`a/Luban.pth` does not exist");
    for (rate, told) in [
        ("0", "`learning_rate` must be above 0, found `0`"),
        ("nan", "`learning_rate` must be a number, found `nan`"),
        (".nan", "non-finite float `.nan`, where a finite number is expected"),
    ] {
        train(folder, "run", &[&format!("learning_rate={rate}")]).is_refused(told);
    }
    train(folder, ".", &[]).is_refused("`.` is not empty (`corpus.jsonl`)");
    train(folder, "corpus.jsonl/run", &[]).is_refused("`corpus.jsonl` is a file; expected a folder");
    std::fs::create_dir(folder.join("adapter")).unwrap();
    std::fs::write(folder.join("adapter/adapter_config.json"), "{}").unwrap();
    train(folder, "run", &["model_name_or_path=adapter"])
        .is_refused("it is an adapter, which goes beside its model");
    train(folder, "run", &["resume_from_checkpoint=nowhere"]).is_refused("there is no such folder");
    let vast = ["hidden_size=16384", "intermediate_size=65536", "num_hidden_layers=200"];
    train(folder, "run", &vast).is_refused("GB of memory, and this machine has");
    let plan = run(folder, &[&["plan", "recipe.yaml", "output_dir=run"], &vast[..]].concat());
    assert!(plan.stdout.contains("a run would stop: training this takes"), "{}", plan.stdout);
    run(folder, &["train", "no-such-recipe"]).is_refused("no-such-recipe");
    assert!(!folder.join("run").exists(), "nothing was written");
}

trait Succeeded {
    fn succeeded(self);
}

impl Succeeded for Ran {
    /// Expects success.
    fn succeeded(self) {
        assert_eq!(self.code, 0, "{}", self.stderr);
    }
}
