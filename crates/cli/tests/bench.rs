//! `danlu bench` as scripts use it: what it measures is said in fixed words.

use crate::common;

use std::path::Path;

use common::{danlu, run, vocabulary};

const TINY: [&str; 16] = [
    "bench",
    "train",
    "--hidden",
    "24",
    "--layers",
    "2",
    "--heads",
    "4",
    "--kv-heads",
    "2",
    "--vocab",
    "33",
    "--seq",
    "9",
    "--steps",
    "3",
];

#[test]
fn training_steps_are_measured_for_all_weights_and_for_adapters() {
    for (mode, precision) in [("full", "f32"), ("full", "bf16"), ("lora", "f32"), ("lora", "bf16")] {
        let more =
            ["--intermediate", "40", "--rank", "3", "--mode", mode, "--precision", precision, "--json"];
        let result = run(Path::new("."), &[&TINY[..], &more].concat()).json();
        for key in ["tokens_per_s", "step_s", "peak_rss_mb", "train_peak_mb", "loss", "share_of_ceiling"] {
            assert!(result[key].as_f64().unwrap() > 0.0, "{mode} {precision}: {key} of {result}");
        }
        // Random tokens: the loss is near ln 33.
        assert!((result["loss"].as_f64().unwrap() - 33f64.ln()).abs() < 0.5, "{result}");
        let parts = result["step_s_by_operation"].as_object().unwrap();
        for name in ["linear forward", "attention backward", "norms", "head and loss", "optimizer"] {
            assert!(parts[name].as_f64().unwrap() > 0.0, "{name} of {result}");
        }
        let has = |name: &str| parts.contains_key(name);
        let lora = mode == "lora";
        assert_eq!(
            (has("gradients of adapters"), has("linear gradient of weight")),
            (lora, !lora),
            "{result}"
        );
    }
}

#[test]
fn four_bit_weights_take_less_memory_than_bf16_and_train_alike() {
    let shape = "bench train --hidden 256 --layers 8 --heads 4 --kv-heads 2 --intermediate 1024 --vocab 1024 --batch 1 \
                 --seq 16 --steps 2 --rank 2 --json --mode";
    let [lora, qlora, eight_bits] = ["lora", "qlora", "qlora --base q8_0"].map(|mode| {
        let arguments: Vec<&str> = shape.split_whitespace().chain(mode.split_whitespace()).collect();
        run(Path::new("."), &arguments).json()
    });
    let number = |result: &serde_json::Value, key: &str| result[key].as_f64().unwrap();
    assert!((number(&lora, "loss") - number(&qlora, "loss")).abs() < 0.05, "{lora} {qlora}");
    let peaks = [&qlora, &eight_bits, &lora].map(|result| number(result, "train_peak_mb"));
    assert!(peaks[0] + 2.0 < peaks[1] && peaks[1] + 4.0 < peaks[2], "{peaks:?}");
    let unknown: Vec<&str> = shape.split_whitespace().chain(["qlora", "--base", "nf3"]).collect();
    run(Path::new("."), &unknown).is_refused("nf4");
}

#[test]
fn odd_shapes_and_the_shortest_sequences_train_at_every_cpu_level() {
    let odd = "bench train --hidden 100 --layers 2 --heads 3 --kv-heads 3 --intermediate 70 --vocab 33 --batch 3 --seq 2 \
               --steps 2 --rank 3 --json --mode";
    for level in ["portable", "avx2", "avx512", "avx512bf16"] {
        for (mode, precision) in [("full", "f32"), ("full", "bf16"), ("lora", "bf16")] {
            let arguments: Vec<&str> =
                odd.split_whitespace().chain([mode, "--precision", precision]).collect();
            let output = danlu(Path::new(".")).env("DANLU_ISA", level).args(&arguments).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            if errors.contains("more than this processor has") {
                println!("skipped: no {level} here");
                continue;
            }
            assert!(output.status.success(), "{level} {mode} {precision}: {errors}");
            let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!((result["loss"].as_f64().unwrap() - 33f64.ln()).abs() < 1.0, "{level} {mode}: {result}");
        }
    }
}

#[test]
fn the_parts_of_a_step_are_a_whole_step() {
    let result = run(Path::new("."), &[&TINY[..], &["--json", "--intermediate", "40"]].concat()).json();
    let parts = result["step_s_by_operation"].as_object().unwrap();
    let sum: f64 = parts.values().map(|seconds| seconds.as_f64().unwrap()).sum();
    // The parts are a mean, the step is a median of two.
    let step = result["step_s"].as_f64().unwrap();
    assert!(sum > 0.3 * step && sum < 3.0 * step, "{sum} of {step}: {result}");
    assert!(parts["other"].as_f64().unwrap() < 0.5 * sum, "{result}");
}

#[test]
fn rows_of_a_file_are_trained_at_their_real_lengths() {
    let folder = tempfile::tempdir().unwrap();
    vocabulary(false).save(&folder.path().join("vocabulary")).unwrap();
    std::fs::write(
        folder.path().join("rows.json"),
        r#"[{"instruction": "车削", "input": "", "output": "工件旋转"},
            {"instruction": "铣削", "input": "平面", "output": "铣刀旋转"},
            {"instruction": "never", "input": "", "output": "read"}]"#,
    )
    .unwrap();
    let model =
        ["--hidden", "16", "--layers", "1", "--heads", "2", "--kv-heads", "1", "--intermediate", "24"];
    for (mode, precision) in [("full", "f32"), ("lora", "bf16")] {
        let args = ["bench", "sft", "--data", "rows.json", "--tokenizer", "vocabulary", "--rows", "2"];
        let more = ["--batch", "1", "--mode", mode, "--precision", precision, "--rank", "2", "--json"];
        let result = run(folder.path(), &[&args[..], &model, &more].concat()).json();
        for key in ["rows_per_s", "tokens_per_s", "peak_rss_mb", "seconds", "loss"] {
            assert!(result[key].as_f64().unwrap() > 0.0, "{key} of {result}");
        }
        let encoded = |text: &str| {
            let args = ["tokenizer", "encode", "--tokenizer", "vocabulary", "--json", "--text", text];
            run(folder.path(), &args).json()["ids"].as_array().unwrap().len() as u64
        };
        // Each part is cut on its own, and the end of the text is one token more.
        let tokens: u64 = ["车削\n", "工件旋转", "铣削\n平面\n", "铣刀旋转"].into_iter().map(encoded).sum();
        assert_eq!((result["rows"].as_u64(), result["tokens"].as_u64()), (Some(2), Some(tokens + 2)));
    }
    let args = ["bench", "sft", "--data", "absent.json", "--tokenizer", "vocabulary"];
    run(folder.path(), &args).is_refused("absent.json");
}

#[test]
fn attention_is_measured_by_packing() {
    let args = ["bench", "attention", "--packings", "1x70,3x9", "--heads", "4", "--kv-heads", "2"];
    for precision in ["f32", "bf16"] {
        let more = ["--head-dim", "6", "--seconds", "0.01", "--precision", precision, "--json"];
        let result = run(Path::new("."), &[&args[..], &more].concat()).json();
        let measured = result["attention"].as_array().unwrap();
        assert_eq!(measured.len(), 2);
        for (packing, name) in measured.iter().zip(["1x70", "3x9"]) {
            assert_eq!(packing["packing"], name);
            let keys = ["forward_ms", "forward_gflops", "forward_share", "backward_ms", "backward_gflops"];
            for key in [&keys[..], &["backward_share", "token_us"]].concat() {
                assert!(packing[key].as_f64().unwrap() > 0.0, "{key} of {packing}");
            }
        }
    }
}

#[test]
fn reading_is_measured_for_one_thread_and_for_all() {
    let args = ["bench", "bandwidth", "--megabytes", "8", "--seconds", "0.01", "--threads", "2", "--json"];
    let result = run(Path::new("."), &args).json();
    assert_eq!(result["threads"], 2);
    for key in ["one_thread_gb_per_s", "all_threads_gb_per_s"] {
        assert!(result[key].as_f64().unwrap() > 0.0, "{result}");
    }
}

#[test]
fn products_are_measured_by_shape() {
    let args = ["bench", "matmul", "--shapes", "64x32x48,5x7x3", "--seconds", "0.01", "--json"];
    let result = run(Path::new("."), &args).json();
    assert!(result["ceiling_gflops"].as_f64().unwrap() > 0.0);
    for (product, shape) in result["gflops"].as_array().unwrap().iter().zip(["64x32x48", "5x7x3"]) {
        assert_eq!(product["shape"], shape);
        for key in ["gflops", "backward_input_gflops", "backward_weight_gflops"] {
            assert!(product[key].as_f64().unwrap() > 0.0, "{product}");
        }
    }
}

#[test]
fn impossible_shapes_are_refused() {
    run(Path::new("."), &["bench", "matmul", "--shapes", "64x32"]).is_refused("found `64x32`");
    run(Path::new("."), &["bench", "train", "--kv-heads", "3"]).is_refused("expected a divisor");
    run(Path::new("."), &["bench", "train", "--heads", "0"]).is_refused("num_attention_heads");
    run(Path::new("."), &["bench", "train", "--steps", "1"]).is_refused("2 or more steps");
    let lora = ["bench", "train", "--hidden", "16", "--vocab", "9", "--mode", "lora", "--rank", "0"];
    run(Path::new("."), &lora).is_refused("`--rank`");
    run(Path::new("."), &["bench", "attention", "--packings", "8x"]).is_refused("found `8x`");
    run(Path::new("."), &["bench", "attention", "--kv-heads", "3"]).is_refused("divides");
    run(Path::new("."), &["bench", "bandwidth", "--megabytes", "0"]).is_refused("`--megabytes`");
}
