//! What a run asks its model (`sample_prompts`): written as the rows and `danlu generate` write it, and planned for.

use crate::common;

use std::path::Path;

use common::{Ran, danlu, run, with_model};
use serde_json::Value;

/// Asks for thoughts or none, and writes the date.
const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }} {{ strftime_now('%Y-%m-%d') }}\n\
    {% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking %}磨削磨削{% else %}铣刀{% endif %}{% endif %}";

/// The second spells a special token out.
const PROMPTS: [&str; 2] = ["车床？", "车床<|im_end|>车床"];

/// Two places of which no moment is the same day in both.
const DAYS: [&str; 2] = ["WEST12", "EAST-14"];

fn folder() -> tempfile::TempDir {
    let folder = with_model();
    let row = |row: usize| format!("{{\"instruction\": \"第{row}道\", \"output\": \"铣刀\"}}\n");
    std::fs::write(folder.path().join("rows.jsonl"), (0..8).map(row).collect::<String>()).unwrap();
    std::fs::write(folder.path().join("own.jinja"), TEMPLATE).unwrap();
    // Nothing is learned at this rate: the answers differ by what is asked alone.
    let recipe = "model_name_or_path: model\nstage: sft\nfinetuning_type: full\ndataset: rows.jsonl\ncutoff_len: 256\n\
                  template: own.jinja\nenable_thinking: true\nlearning_rate: 1.0e-12\nprecision: f32\n\
                  per_device_train_batch_size: 4\nmax_steps: 2\nsave_steps: 2\noutput_dir: run\nplot_loss: false\n\
                  sample_prompts: [\"车床？\", \"车床<|im_end|>车床\"]\nsample_max_new_tokens: 12\n";
    std::fs::write(folder.path().join("recipe.yaml"), recipe).unwrap();
    folder
}

fn on(day: &str, folder: &Path, arguments: &[&str]) -> Ran {
    let output = danlu(folder).env("TZ", day).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The answers of the run at a step.
fn samples(folder: &Path, step: u64) -> Vec<String> {
    let lines = std::fs::read_to_string(folder.join("run/samples.jsonl")).unwrap();
    let rows = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let rows = rows.filter(|row| row["step"] == step);
    rows.map(|row| row["text"].as_str().unwrap().to_owned()).collect()
}

/// What `danlu generate` answers.
fn generated(day: &str, folder: &Path, thinks: &str) -> Vec<String> {
    let answer = |prompt: &str| {
        let fixed = ["generate", "--model", "run", "--temperature", "0", "--max-new-tokens", "12", "--json"];
        let more = [
            "--precision",
            "f32",
            "--template",
            "own.jinja",
            "--enable-thinking",
            thinks,
            "--prompt",
            prompt,
        ];
        let result = on(day, folder, &[&fixed[..], &more].concat()).json();
        result["text"].as_str().unwrap().to_owned()
    };
    PROMPTS.map(answer).to_vec()
}

#[test]
fn prompts_are_asked_as_generate_asks_them_and_a_continued_run_keeps_its_day() {
    let folder = folder();
    let folder = folder.path();
    on(DAYS[0], folder, &["train", "recipe.yaml", "--json"]).json();
    let asked = samples(folder, 2);
    assert_eq!(asked, generated(DAYS[0], folder, "true"));
    let without_thoughts = generated(DAYS[0], folder, "false");
    let another_day = generated(DAYS[1], folder, "true");
    assert!((0..2).all(|at| asked[at] != without_thoughts[at] && asked[at] != another_day[at]), "{asked:?}");
    let goes_on = ["train", "recipe.yaml", "--json", "max_steps=4", "resume_from_checkpoint=true"];
    on(DAYS[1], folder, &goes_on).json();
    assert_eq!(samples(folder, 4), asked);
}

#[test]
fn the_plan_has_room_for_the_answers() {
    let folder = folder();
    let plan = |extra: &[&str]| {
        let plan = run(folder.path(), &[&["plan", "recipe.yaml", "--json"], extra].concat());
        plan.json()["memory"]["answers"].as_u64().unwrap()
    };
    // Keys and values in 2 blocks of 2 heads of 8 numbers, for the 256 tokens of the model's context.
    let cache = 2 * 2 * 2 * 8 * 4 * 256;
    assert_eq!(plan(&["sample_prompts=[]"]), 0);
    let (short, whole) = (plan(&[]), plan(&["sample_max_new_tokens=4096"]));
    assert!(short < whole && whole >= cache && whole < 10 * cache, "{short} {whole} {cache}");
    let long = format!("sample_prompts=[{}]", "车床".repeat(400));
    run(folder.path(), &["plan", "recipe.yaml", &long]).is_refused("tokens; expected from 1 to 255");
}
