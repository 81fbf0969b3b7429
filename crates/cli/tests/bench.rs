//! `danlu bench` as scripts use it: what it measures is said in fixed words.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::run;

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
}
