//! Trained models from `../shared/data/checkpoints` against their recorded results. Skipped, and said so, without them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use danlu_model::{
    Activations, GenerationOptions, Generator, Keep, PackedTokens, Precision, Resident, Rest, Sampling,
    Target, open,
};
use danlu_tokenizer::SpecialTokens;
use serde_json::Value;

fn checkpoints() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/checkpoints");
    if !path.is_dir() {
        println!("skipped: ../shared/data is not there");
        return None;
    }
    Some(path)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn mean_nll(model: &danlu_model::Model, ids: &[u32]) -> f64 {
    let tokens = PackedTokens::new([ids]);
    let targets: Vec<Target> =
        (1..ids.len()).map(|next| Target { position: next as u32 - 1, id: ids[next] }).collect();
    let mut activations = Activations::new(model, tokens.len(), Keep::Nothing);
    model.forward(&tokens, &mut activations, &mut Resident).unwrap();
    let scores = model.score(&tokens, &targets, &mut activations);
    -scores.iter().map(|score| f64::from(score.log_probability)).sum::<f64>() / targets.len() as f64
}

fn greedy(max_new_tokens: usize, top_log_probabilities: usize) -> GenerationOptions {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    GenerationOptions { sampling, max_new_tokens, top_log_probabilities, ..GenerationOptions::default() }
}

#[test]
fn stories260k_gives_its_recorded_ids_from_gguf_and_hugging_face() {
    let Some(checkpoints) = checkpoints() else { return };
    let folder = checkpoints.join("stories260K");
    let golden = json(&folder.join("golden_llama2c.json"));
    let expected = ids(&golden["greedy_ids_from_bos_200"]);
    let nll = golden["mean_nll_of_that_sequence"].as_f64().unwrap();
    for name in ["stories260K.gguf", "hf-derived-safetensors"] {
        let opened = open(&folder.join(name), Precision::F32, Rest::Frozen).unwrap();
        let mut generator = Generator::new(&opened.model, 512);
        let found =
            generator.generate(&[1], &greedy(expected.len() - 1, 0), |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(found.ids, expected[1..], "{name}");
        assert!((mean_nll(&opened.model, &expected) - nll).abs() < 1e-4, "{name}");
    }
}

#[test]
fn smollm2_gives_its_recorded_logits_and_nll() {
    let Some(checkpoints) = checkpoints() else { return };
    let folder = checkpoints.join("smollm2-135m-instruct");
    let cases = json(&folder.join("golden_transformers_fp32.json"))["cases"].clone();
    let opened = open(&folder.join("SmolLM2-135M-Instruct.Q4_1.gguf"), Precision::F32, Rest::Frozen).unwrap();
    let tokenizer = opened.tokenizer().unwrap();
    let texts = [("base/fr", "The capital of France is")];
    for (name, text) in texts {
        assert_eq!(tokenizer.encode(text, SpecialTokens::AsText).unwrap(), ids(&cases[name]["ids"]));
    }
    for name in ["base/fr", "base/zh", "base/poem"] {
        let case = &cases[name];
        let prompt = ids(&case["ids"]);
        let expected = case["mean_nll_next_token"].as_f64().unwrap();
        let nll = mean_nll(&opened.model, &prompt);
        assert!((nll - expected).abs() < 1e-3, "{name}: {nll} against {expected}");
        let mut generator = Generator::new(&opened.model, 64);
        let found = generator.generate(&prompt, &greedy(1, 10), |_| ControlFlow::Continue(())).unwrap();
        let top: Vec<u32> = found.top_log_probabilities[0].iter().map(|token| token.id).collect();
        assert_eq!(top, ids(&case["last_top10_ids"]), "{name}");
    }
}

#[test]
fn a_quantized_file_may_rest_as_it_is_and_computes_the_same() {
    let Some(checkpoints) = checkpoints() else { return };
    let path = checkpoints.join("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    let ids: Vec<u32> = (0..40).map(|index| index * 1001 % 49_152).collect();
    // In bf16 the embedding is rounded where it does not rest as it is.
    for (precision, bound, bytes_per_value) in [(Precision::F32, 0.0, 4), (Precision::Bf16, 1e-2, 2)] {
        let [frozen, stored] =
            [Rest::Frozen, Rest::Stored].map(|rest| open(&path, precision, rest).unwrap().model);
        for ids in [&ids, &ids[..3]] {
            let (frozen, stored) = (mean_nll(&frozen, ids), mean_nll(&stored, ids));
            assert!((frozen - stored).abs() <= bound * frozen, "{precision:?}: {frozen} against {stored}");
        }
        assert!(stored.weight_bytes() * bytes_per_value * 2 < frozen.weight_bytes() * 5 / 2);
    }
}
