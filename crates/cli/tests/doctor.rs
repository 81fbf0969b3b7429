//! `danlu doctor` as users and scripts see it.

use crate::common;

use std::path::Path;

use common::{danlu, run};
use serde_json::Value;

fn trainings(result: &Value, method: &str) -> Vec<[f64; 3]> {
    let rows = result["trainings"].as_array().unwrap().iter().filter(|row| row["method"] == method);
    rows.map(|row| ["parameters", "peak_bytes", "tokens_per_s"].map(|key| row[key].as_f64().unwrap()))
        .collect()
}

#[test]
fn it_tells_what_the_machine_has_and_what_can_be_trained() {
    let result = run(Path::new("."), &["doctor", "--threads", "1", "--json"]).json();
    for key in ["threads", "logical_processors", "bf16_gflops", "f32_gflops", "share_of_ceiling"] {
        assert!(result[key].as_f64().unwrap() > 0.0, "{key} of {result}");
    }
    for key in ["one_thread", "all_threads"] {
        assert!(result["read_gb_per_s"][key].as_f64().unwrap() > 0.0, "{result}");
    }
    assert_eq!((&result["threads"], &result["forced_level"]), (&Value::from(1), &Value::Null));
    let (full, lora) = (trainings(&result, "full"), trainings(&result, "lora"));
    assert!(full.len() == lora.len() && full.len() >= 6);
    for ([parameters, memory, speed], [same, less, faster]) in full.iter().zip(&lora) {
        assert_eq!(parameters, same);
        // Weights, gradients and two moments, each of four bytes.
        assert!(*memory > 16.0 * parameters && less < memory && faster > speed && *speed > 0.0);
    }
    let available = result["available_bytes"].as_u64();
    for training in result["trainings"].as_array().unwrap() {
        let fits = available.is_some_and(|bytes| training["peak_bytes"].as_u64().unwrap() <= bytes);
        assert_eq!(training["fits"] == "yes", fits, "{training}");
    }
}

#[test]
fn a_forced_level_is_told_and_used() {
    let output = danlu(Path::new(".")).env("DANLU_ISA", "portable").args(["doctor"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("portable, as `DANLU_ISA` says"), "{text}");
    assert!(text.contains("Training in f32"), "{text}");
    let refused = danlu(Path::new(".")).env("DANLU_ISA", "quick").args(["doctor"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}
