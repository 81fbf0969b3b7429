//! Generation with quantized weights and activations rounded to integers, through the program.

use crate::common;

use std::path::Path;

use common::{ids, run, shared, vocabulary, with_model, write_model_of};
use danlu_model::Config;
use serde_json::Value;

/// Greedy ids, and the ten most probable tokens of each step with the logarithms of their probabilities.
type Answer = (Vec<u32>, Vec<Vec<(u64, f64)>>);

fn generated(at: &Path, model: &str, activations: &str, more: &[&str]) -> Answer {
    let fixed = ["generate", "--model", model, "--max-new-tokens", "16", "--temperature", "0", "--json"];
    let shown = ["--top-logprobs", "10", "--activations", activations];
    let result = run(at, &[&fixed[..], &shown, more].concat()).json();
    let number = |token: &Value| (token["id"].as_u64().unwrap(), token["logprob"].as_f64().unwrap());
    let steps = result["top_logprobs"].as_array().unwrap().iter();
    let top = steps.map(|step| step.as_array().unwrap().iter().map(number).collect()).collect();
    (ids(&result["ids"]), top)
}

/// Checks that the most probable tokens have these probabilities, as long as the ids are the same.
fn assert_close(found: &Answer, exact: &Answer, most: f64) {
    for (step, (found, exact)) in found.1.iter().zip(&exact.1).enumerate() {
        for (id, expected) in exact {
            let Some((_, log_probability)) = found.iter().find(|(other, _)| other == id) else { continue };
            assert!(
                (log_probability - expected).abs() < most,
                "step {step}, token {id}: {log_probability} {expected}"
            );
        }
        if found[0].0 != exact[0].0 {
            let gap = exact[0].1 - exact[1].1;
            assert!(gap < most, "step {step}: another token, {gap} before the next");
            return;
        }
    }
    assert_eq!(found.0, exact.0);
}

#[test]
fn every_evenly_spaced_type_answers_as_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let shape = Config {
        hidden_size: 256,
        intermediate_size: 512,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 64,
        max_position_embeddings: 128,
        initializer_range: 0.1,
        ..Config::default()
    };
    write_model_of(&folder.join("model"), Some(&vocabulary(false)), shape);
    let kinds = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k"];
    for kind in kinds {
        let gguf = format!("{kind}.gguf");
        run(folder, &["convert", "model", &gguf, "--quant", kind, "--json"]).json();
        let prompt = ["--prompt-ids", "5,17,40,9,23,8,61,30,12,44,7,19,33,50"];
        let (int8, f32) =
            (generated(folder, &gguf, "int8", &prompt), generated(folder, &gguf, "f32", &prompt));
        assert_close(&int8, &f32, 5e-2);
        assert_ne!(int8.1, f32.1, "{kind}: the same to the last digit, so nothing was rounded");
    }
}

#[test]
fn a_real_model_has_the_probabilities_of_f32_within_a_twentieth() {
    let Some(shared) = shared() else { return };
    let model = shared.join("checkpoints/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    let model = model.to_str().unwrap();
    let prompt = ["--prompt", "What is the capital of France, and what is it known for?"];
    let [int8, f32] =
        ["int8", "f32"].map(|activations| generated(Path::new("."), model, activations, &prompt));
    assert_close(&int8, &f32, 5e-2);
}

#[test]
fn integers_are_the_choice_for_quantized_weights_and_only_for_them() {
    let folder = with_model();
    let folder = folder.path();
    let ask = |model: &str, more: &[&str]| {
        let fixed = ["generate", "--model", model, "--prompt-ids", "5,17,40", "--max-new-tokens", "4"];
        run(folder, &[&fixed[..], more].concat())
    };
    run(folder, &["convert", "model", "q8.gguf", "--quant", "q8_0", "--json"]).json();
    assert!(ask("q8.gguf", &[]).stderr.contains(" · int8 · "));
    assert!(ask("model", &["--quantization-bit", "8"]).stderr.contains(" · int8, weights in 8 bits"));
    assert!(ask("q8.gguf", &["--activations", "bf16"]).stderr.contains(" · bf16 · "));
    assert!(ask("q8.gguf", &["--precision", "f32"]).stderr.contains(" · f32 · "));
    assert!(!ask("model", &[]).stderr.contains("int8"));
    ask("model", &["--activations", "int8"]).is_refused("`--activations int8` needs quantized weights");
    ask("q8.gguf", &["--activations", "int8", "--precision", "f32"]).is_refused("cannot be used with");
}

#[test]
fn ids_are_the_same_alone_and_with_others_in_the_batch() {
    let folder = with_model();
    let folder = folder.path();
    run(folder, &["convert", "model", "q8.gguf", "--quant", "q8_0", "--json"]).json();
    let questions: Vec<String> = (0..8).map(|index| format!("第 {index} 个问题：什么是铣削？")).collect();
    std::fs::write(folder.join("questions.txt"), questions.join("\n")).unwrap();
    let answers = |at_once: &str| {
        let out = format!("{at_once}.json");
        let fixed = ["generate", "--model", "q8.gguf", "--input", "questions.txt", "--max-new-tokens", "12"];
        let more = ["--temperature", "0", "--at-once", at_once, "--out", &out, "--json"];
        run(folder, &[&fixed[..], &more].concat()).json();
        std::fs::read_to_string(folder.join(out)).unwrap()
    };
    assert_eq!(answers("1"), answers("8"));
}

#[test]
fn reading_and_generating_are_measured() {
    let folder = with_model();
    let folder = folder.path();
    run(folder, &["convert", "model", "q8.gguf", "--quant", "q8_0", "--json"]).json();
    let fixed = ["bench", "decode", "--model", "q8.gguf", "--prompt-tokens", "16", "--new-tokens", "4"];
    for activations in ["int8", "bf16"] {
        let more = ["--runs", "2", "--activations", activations, "--threads", "2", "--json"];
        let result = run(folder, &[&fixed[..], &more].concat()).json();
        for key in ["prompt_tokens_per_s", "generation_tokens_per_s"] {
            assert!(result[key].as_f64().unwrap() > 0.0, "{key} of {result}");
        }
    }
    let longer = ["bench", "decode", "--model", "q8.gguf", "--prompt-tokens", "5000"];
    run(folder, &longer).is_refused("shorten");
}
